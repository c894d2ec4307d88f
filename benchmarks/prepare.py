"""`python -m benchmarks prepare DATASET`: obtain the originals, convert what is read as .beton, verify every byte."""

from __future__ import annotations

import argparse
from typing import Any

from datamodules import beton
from datamodules.base import ImageDataModule, Split
from datamodules.cifar import CIFAR10, CIFAR100
from datamodules.digits import Digits
from datamodules.estimate import estimate
from datamodules.imagenet import ImageNet, ImageNet2010
from datamodules.loaders import checked_workers
from datamodules.mnist import MNIST, MNIST1989
from datamodules.originals import DataError, ImageFiles
from datamodules.usps import USPS

DATASETS: dict[str, type[ImageDataModule]] = {
    cls.name: cls for cls in (Digits, MNIST, CIFAR10, CIFAR100, ImageNet, ImageNet2010, MNIST1989, USPS)
}
OF_FILES = ("max_size", "quality", "mode", "raw_share", "corrupt")  # arguments of datasets of image files
SPLITS: tuple[Split, Split] = ("train", "test")


def prepare(options: argparse.Namespace) -> int:
    """Print, for each split, what it holds and where; convert only what is not converted yet.

    Image files that cannot be decoded are found in both splits before any is refused or left out.

    Raises:
        DataError: there is no such dataset, or something about it is missing, damaged or cannot be written, or it does
            not fit on the disk.
    """
    data = data_module(options)
    if options.dry_run:
        for split in SPLITS:
            dry_run(data, split)
        return 0
    refused = [message for split in SPLITS if (message := obtain(data, split))]
    if refused:
        raise DataError("\n".join(refused))
    data.setup()
    for split in SPLITS:
        report(data, split)
    loader, why = data.chosen_loader
    if loader == "resident" or options.loader == "torch":
        print(f"no .beton: the {loader} loader ({why}) does without; --loader ffcv writes one.")
    elif loader == "torch":
        print(f"no .beton: {why}. `python -m benchmarks doctor` says how to add FFCV.")
    return 0


def data_module(options: argparse.Namespace) -> ImageDataModule:
    """The dataset with the settings asked for.

    Raises:
        DataError: there is no such dataset, or a setting is none of it or out of its bounds.
    """
    if options.dataset not in DATASETS:
        raise DataError(f"dataset (={options.dataset}) must be one of {', '.join(DATASETS)}.")
    dataset = DATASETS[options.dataset]
    arguments: dict[str, Any] = {"batch_size": 1, "root": options.root, "cache": options.cache}
    arguments |= {"loader": options.loader, "num_classes": options.num_classes, "workers": options.workers}
    arguments |= {name: getattr(options, name) for name in OF_FILES}
    given = {name: value for name, value in arguments.items() if value is not None}
    if not issubclass(dataset, ImageNet) and (foreign := [name for name in OF_FILES if name in given]):
        asked = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        raise DataError(f"{asked}: the images of {dataset.name} are stored as they are; leave it out.")
    try:
        return dataset(**given)
    except ValueError as error:
        raise DataError(str(error)) from error


def obtain(data: ImageDataModule, split: Split) -> str:
    """Find and convert the originals of `split`, or decode each once where it is read from them.

    Returns what is wrong with images that cannot be decoded; empty if all can, or they are left out.
    """
    if data.reads_beton(split):
        try:
            data.convert(split)
        except beton.BrokenImages as error:
            return str(error)
        return ""
    originals = data.listed(split)
    broken = data.broken(split)
    if not broken or data.corrupt == "skip":
        return ""
    assert isinstance(originals, ImageFiles)
    names = {originals.name(number): reason for number, reason in broken.items()}
    return beton.refusal(beton.describe(data.name, split, originals), names, data.beton_path(split))


def report(data: ImageDataModule, split: Split) -> None:
    """Print what `split` holds, after every byte of its .beton is verified."""
    manifest = data.manifest(split)
    line = f"{data.name} {split}: {manifest.count} images, {len(manifest.classes)} classes"
    if manifest.per_class:
        fewest, most = min(manifest.per_class), max(manifest.per_class)
        line += f" of {fewest} to {most}" if fewest != most else f" of {most}"
    line += f", content {manifest.content[:12]}"
    if data.reads_beton(split):
        path = data.beton_path(split)
        beton.open_beton(path, full=True)
        print(f"{line}, {path.stat().st_size / 1e6:.0f} MB verified: {path}")
    else:
        print(f"{line}, read from the original files with PIL or numpy")
    if manifest.skipped:
        print(f"  without {len(manifest.skipped)} that cannot be decoded: {', '.join(manifest.skipped[:20])}", end="")
        print(", ..." if len(manifest.skipped) > 20 else "")
        print("  results tell these from results on all images; train and evaluate with --data.corrupt skip")


def dry_run(data: ImageDataModule, split: Split) -> None:
    """Print what preparing `split` would take.

    Raises:
        DataError: it would not fit on the disk or in memory, or there are no originals.
    """
    if not data.reads_beton(split):
        print(f"{data.name} {split}: {len(data.listed(split).labels)} images, read from the original files: no .beton")
        return
    path = data.beton_path(split)
    if path.exists() and beton.manifest_path(path).exists():
        print(f"{data.name} {split}: is there, {path.stat().st_size / 1e6:.0f} MB: {path}")
        return
    originals = data.listed(split)
    if not isinstance(originals, ImageFiles):
        size = originals.images.nbytes
        print(f"{data.name} {split}: {len(originals.labels)} images, about {size / 1e6:.0f} MB, in seconds: {path}")
        return
    expected = estimate(path, originals, data.settings, checked_workers(data.workers, 1))
    print(f"{data.name} {split}: {path}\n  {expected}")
    expected.check(path.parent)
