"""`python -m benchmarks prepare DATASET`: obtain the originals, convert what is read as .beton, verify every byte."""

from __future__ import annotations

import argparse
from typing import Any

from datamodules import beton
from datamodules.base import ImageDataModule, Split
from datamodules.cifar import CIFAR10, CIFAR100
from datamodules.digits import Digits
from datamodules.imagenet import ImageNet, ImageNet2010
from datamodules.mnist import MNIST, MNIST1989
from datamodules.originals import DataError
from datamodules.usps import USPS

DATASETS: dict[str, type[ImageDataModule]] = {
    cls.name: cls for cls in (Digits, MNIST, CIFAR10, CIFAR100, ImageNet, ImageNet2010, MNIST1989, USPS)
}


def prepare(options: argparse.Namespace) -> int:
    """Print, for each split, what it holds and where; convert only what is not converted yet.

    Raises:
        DataError: there is no such dataset, or something about it is missing, damaged or cannot be written.
    """
    if options.dataset not in DATASETS:
        raise DataError(f"dataset (={options.dataset}) must be one of {', '.join(DATASETS)}.")
    arguments: dict[str, Any] = {"batch_size": 1, "root": options.root, "cache": options.cache}
    arguments["loader"] = options.loader
    if options.num_classes:
        arguments["num_classes"] = options.num_classes
    data = DATASETS[options.dataset](**arguments)
    loader, why = data.chosen_loader
    data.prepare_data()
    data.setup()
    splits: tuple[Split, Split] = ("train", "test")
    for split in splits:
        manifest = data.manifest(split)
        line = f"{data.name} {split}: {manifest.count} images, {len(manifest.classes)} classes"
        line += f", content {manifest.content[:12]}"
        if data.reads_beton(split):
            path = data.beton_path(split)
            beton.open_beton(path, full=True)
            print(f"{line}, {path.stat().st_size / 1e6:.0f} MB verified: {path}")
        else:
            print(f"{line}, read from the original files with PIL or numpy")
    if loader == "resident" or options.loader == "torch":
        print(f"no .beton: the {loader} loader ({why}) does without; --loader ffcv writes one.")
    elif loader == "torch":
        print(f"no .beton: {why}. `python -m benchmarks doctor` says how to add FFCV.")
    return 0
