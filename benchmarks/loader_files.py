"""What loaders are measured on: the same images as a tree of photos, as FFCV's own .beton files and as the suite's.

Everything is made once per set of images, below the cache, and kept: a second measurement starts at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, get_start_method, set_start_method
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from benchmarks.runs import RunError
from datamodules import beton
from datamodules.files import write_whole
from datamodules.originals import (
    DataError,
    ImageArray,
    ImageFiles,
    cache_root,
    data_root,
    open_imagenet,
    read_cifar,
    read_mnist,
)
from datamodules.tiles import encode_tiled

Dataset = Literal["imagenet", "cifar10", "mnist"]

LAYOUT = 1  # raise it when the same images start to give other files
MAX_SIZE, QUALITY = 500, 90  # longest side in pixels and JPEG quality of every .beton
SHARDS = 8
WRITING_SECONDS, WRITING_SECONDS_PER_IMAGE = 600, 1  # a writer that takes longer is stuck
DEFAULT_PHOTOS = 2048


@dataclass(frozen=True)
class Files:
    """The images of a measurement, on disk.

    Args:
        dataset: imagenet, cifar10 or mnist.
        folder: holds the tree `train/<class>/*` of photos, or `images.npy` [N, H, W, C] and `labels.npy` [N]; and
            the .beton files.
        count: images of an epoch.
        distinct: different images among them.
        content: sha256 over the different images' bytes.
        source: where they come from, in words.
        sizes: bytes of each file or tree.
    """

    dataset: Dataset
    folder: str
    count: int
    distinct: int
    content: str
    source: str
    sizes: dict[str, int] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The file or folder `name` of these."""
        return Path(self.folder) / name

    def photos(self) -> ImageFiles:
        """The tree of photos, through the suite's reader."""
        return open_imagenet(Path(self.folder), "train", None)

    def array(self) -> ImageArray:
        """The images in memory, read from `images.npy`."""
        images, labels = np.load(self.path("images.npy")), np.load(self.path("labels.npy"))
        return ImageArray(images, labels, tuple(str(label) for label in range(labels.max() + 1)), {})


def prepare_photos(photos: str | None, root: str | None, count: int | None) -> Files:
    """A tree of `count` photos, copies where there are fewer different ones, and its .beton files.

    `photos` is a folder of class folders. Without it: ImageNet's training images below `root`, else the photos of
    original size in `root`/imagenet-originals.

    Raises:
        DataError: there are no photos, or one of them cannot be decoded.
    """
    originals, source = find_photos(photos, root)
    count = DEFAULT_PHOTOS if count is None else count
    chosen = np.sort(np.random.default_rng(0).permutation(len(originals))[:count])
    digest = hashlib.sha256()
    for number in tqdm(chosen, desc="checking photos", unit=" photos", leave=False):
        originals.decode(int(number))
        digest.update(originals.name(int(number)).encode() + originals.read(int(number)))
    content = digest.hexdigest()
    folder = measured_folder("imagenet", count, content)

    def make(folder: Path) -> None:
        for copy in tqdm(range(count), desc="copying photos", unit=" photos", leave=False):
            number = int(chosen[copy % len(chosen)])
            name = Path(originals.name(number))
            path = folder / "train" / name.parent / f"{name.stem}_{copy // len(chosen):04}{name.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(originals.read(number))
        tree = open_imagenet(folder, "train", None)
        write_shards(folder / "shards", tree)
        paths = {mode: folder / f"ffcv-{mode}.beton" for mode in ("jpg", "raw")}
        write_apart(tree, paths | {"tiled": folder / "tiled.beton"})

    make_once(folder, make)
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.beton")}
    for name in ("train", "shards"):
        sizes[name] = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
    return Files("imagenet", str(folder), count, len(chosen), content, source, sizes)


def write_shards(folder: Path, tree: ImageFiles) -> None:
    """The photos as tar files, in random order, each followed by its label: what webdataset reads."""
    folder.mkdir()
    order = np.random.default_rng(0).permutation(len(tree))
    for number, shard in enumerate(np.array_split(order, SHARDS)):
        with tarfile.open(folder / f"{number:04}.tar", "w") as tar:
            for sample in map(int, shard):
                label = str(tree.labels[sample]).encode()
                for suffix, content in (("jpeg", tree.read(sample)), ("cls", label)):
                    entry = tarfile.TarInfo(f"{sample:08}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


def find_photos(photos: str | None, root: str | None) -> tuple[ImageFiles, str]:
    """The photos to measure on, and where they are from."""
    if photos is not None:
        path = Path(photos).expanduser()
        if not path.is_dir():
            raise DataError(f"--photos (={photos}) must be a folder of class folders with photos: correct the path.")
        return opened(path), f"photos of {path.name}"
    base = data_root(root)
    places = (base, base / "imagenet")
    if any((place / "train").is_dir() or (place / "ILSVRC2012_img_train.tar").is_file() for place in places):
        return open_imagenet(base, "train", None), "ImageNet's training images"
    if (base / "imagenet-originals").is_dir():
        return opened(base / "imagenet-originals"), "ImageNet photos of original size"
    raise DataError(
        f"{base} must hold ImageNet (train/<class>/*, or its tar files) or imagenet-originals/<class>/*, and holds "
        "neither: name a folder of class folders with --photos."
    )


def opened(classes: Path) -> ImageFiles:
    """The photos in a folder of class folders, whatever its name is."""
    from datamodules.originals import StoredImage

    names = sorted(folder.name for folder in classes.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    images = [
        [
            StoredImage(f"{name}/{path.name}", path.stat().st_size, -1)
            for path in sorted((classes / name).iterdir())
            if path.suffix.lower() in (".jpeg", ".jpg", ".png") and not path.name.startswith(".")
        ]
        for name in names
    ]
    if not any(images):
        raise DataError(f"{classes} must hold photos in class folders, <class>/*.JPEG, and holds none: correct it.")
    return ImageFiles(classes, "train", names, images)


def prepare_array(dataset: Dataset, root: str | None, count: int | None) -> Files:
    """The first `count` training images of CIFAR-10 or MNIST (default: all), as arrays and as .beton files.

    Raises:
        DataError: the dataset is not found, or has fewer images.
    """
    downloads = cache_root(None) / "originals"
    base = data_root(root)
    if dataset == "cifar10":
        originals = read_cifar(base, 10, "train", downloads)
    else:
        originals = read_mnist(base, "train", downloads)
    count = len(originals.labels) if count is None else count
    if count > len(originals.labels):
        raise DataError(
            f"--images (={count}) must be at most the {len(originals.labels)} training images of {dataset}."
        )
    kept = ImageArray(originals.images[:count], originals.labels[:count], originals.classes, originals.sources)
    manifest = beton.describe(dataset, "train", kept)
    folder = measured_folder(dataset, count, manifest.content)

    def make(folder: Path) -> None:
        np.save(folder / "images.npy", kept.images)
        np.save(folder / "labels.npy", kept.labels)
        beton.convert(folder / "suite.beton", manifest, kept, beton.BetonSettings(), workers=1)
        paths = {"ndarray": folder / "ffcv-ndarray.beton", "raw": folder / "ffcv-rgb.beton"}
        write_apart(kept, paths if dataset == "cifar10" else {"ndarray": paths["ndarray"]})

    make_once(folder, make)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix in (".beton", ".npy")}
    source = (
        f"training images of {dataset}" if count == len(originals.labels) else f"first training images of {dataset}"
    )
    return Files(dataset, str(folder), count, count, manifest.content, source, sizes)


def measured_folder(dataset: str, count: int, content: str) -> Path:
    """Where the files of these images lie in the cache."""
    identity = json.dumps([LAYOUT, beton.FORMAT, MAX_SIZE, QUALITY, count, content])
    return cache_root(None) / "throughput" / f"{dataset}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill `folder`, unless a process has done so to the end before."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / "complete").exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        make(folder)
        write_whole(folder / "complete", "")


def write_apart(images: ImageArray | ImageFiles, paths: dict[str, Path]) -> None:
    """Write `images` with FFCV's writer, one file for each mode in `paths`; see `write_with_ffcv`.

    It runs in a process of its own, which is ended where it waits for ever, as it does after an error.

    Raises:
        RunError: it failed or did not end.
    """
    names = ", ".join(path.name for path in paths.values())
    print(f"writing {names} with FFCV's writer", flush=True)
    process = get_context("spawn").Process(target=write_with_ffcv, args=(get_start_method(), images, paths))
    process.start()
    seconds = WRITING_SECONDS + WRITING_SECONDS_PER_IMAGE * len(images.labels)
    process.join(seconds)
    if process.exitcode is None:
        process.terminate()
        process.join()
        raise RunError(
            f"FFCV's writer did not end {names} in {seconds:.0f} s: its output is above; it waits for ever after an "
            "error. Where there is none the machine is too busy to measure on: try again."
        )
    if process.exitcode:
        raise RunError(f"FFCV's writer of {names} ended with status {process.exitcode}; its message is above.")


def write_with_ffcv(method: str, images: ImageArray | ImageFiles, paths: dict[str, Path]) -> None:
    """Write `images` with FFCV's own writer: modes jpg and raw as RGBImageField, ndarray as NDArrayField.

    Mode tiled is jpg with the suite's encoder in place of FFCV's: the same pixels at the same quality.
    `method` is how it starts its worker; see `benchmarks.loader_contestants.serve`.
    """
    set_start_method(method, force=True)
    from ffcv.fields import IntField, NDArrayField, RGBImageField, rgb_image
    from ffcv.writer import DatasetWriter

    plain = rgb_image.encode_jpeg
    for mode, path in paths.items():
        rgb_image.encode_jpeg = tiled if mode == "tiled" else plain
        if mode == "ndarray":
            pictures: Any = NDArrayField(np.dtype("uint8"), images.images.shape[1:])  # type: ignore[union-attr]
        else:
            stored = "raw" if mode == "raw" else "jpg"
            pictures = RGBImageField(write_mode=stored, max_resolution=MAX_SIZE, jpeg_quality=QUALITY)
        writer = DatasetWriter(str(path), {"image": pictures, "label": IntField()}, num_workers=1)
        writer.from_indexed_dataset(Samples(images))


def tiled(pixels: np.ndarray, quality: int) -> np.ndarray:
    """In place of FFCV's function of the same arguments: a JPEG of [H, W, 3] that can be decoded in parts, as bytes."""
    return np.frombuffer(encode_tiled(pixels, quality), np.uint8)


class Samples:
    """Pairs of pixels and label, as FFCV's writer takes them."""

    def __init__(self, images: ImageArray | ImageFiles) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        if isinstance(self.images, ImageArray):
            pixels = np.ascontiguousarray(self.images.images[number])
        else:
            pixels = self.images.decode(int(number))
        return pixels, int(self.images.labels[number])


def described(files: Files) -> dict[str, Any]:
    """What a measurement's record says of its images."""
    return {key: value for key, value in asdict(files).items() if key != "folder"}
