"""Loaders: one interface, several ways to get pixels. All give the same samples in the same order with the same boxes.

`ffcv` reads a .beton through FFCV's memory map, ring of buffers and thread (`datamodules/ffcv_batches.py`); `torch`
indexes an array in memory or decodes image files in worker processes, and needs no FFCV.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augment import HEIGHT, LEFT, MIRROR, TOP, WIDTH, cut_same_size
from datamodules.batches import Batches, Reading
from datamodules.originals import DataError, ImageArray, ImageFiles

LoaderName = Literal["auto", "ffcv", "torch"]


class ArrayBatches(Batches):
    """The `torch` loader of a dataset in memory: one indexing operation a batch, no worker."""

    def __init__(self, reading: Reading, originals: ImageArray) -> None:
        super().__init__(reading)
        self.originals = originals

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        reading = self.reading
        for samples in batches:
            images = self.originals.images[samples]
            if reading.augmentation is not None:
                height, width = (np.full(len(samples), size) for size in images.shape[1:3])
                boxes = reading.augmentation.boxes(reading.seed, self.epoch, samples, height, width)
                images = cut_same_size(images, boxes)
            yield torch.from_numpy(images), torch.from_numpy(self.originals.labels[samples])


class FileBatches(Batches):
    """The `torch` loader of image files: PIL decodes, crops and resizes in `workers` processes of a DataLoader."""

    def __init__(self, reading: Reading, originals: ImageFiles, size: int, resize: int, workers: int) -> None:
        super().__init__(reading)
        self.cropped = CroppedFiles(originals, reading, size, resize)
        self.workers = workers

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        keyed = [[(self.epoch, int(sample)) for sample in samples] for samples in batches]
        # A generator of its own: DataLoader draws a number, unused here, which would change a network's dropout.
        yield from DataLoader(self.cropped, batch_sampler=keyed, num_workers=self.workers, generator=torch.Generator())


class CroppedFiles(Dataset[tuple[Tensor, int]]):
    """Image files cut to size x size: boxes of the augmentation, else short side to `resize` and the centre."""

    def __init__(self, originals: ImageFiles, reading: Reading, size: int, resize: int) -> None:
        self.originals = originals
        self.reading = reading
        self.size = size
        self.resize = resize

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, sample = key
        pixels = self.originals.decode(sample)
        reading = self.reading
        if reading.augmentation is None:
            cropped = centre_crop(pixels, self.size, self.resize)
        else:
            height, width = (np.array([length]) for length in pixels.shape[:2])
            box = reading.augmentation.boxes(reading.seed, epoch, np.array([sample]), height, width)[0]
            cropped = resized_crop(pixels, box, self.size)
        return torch.from_numpy(cropped), int(self.originals.labels[sample])


def resized_crop(pixels: NDArray[np.uint8], box: NDArray[np.int32], size: int) -> NDArray[np.uint8]:
    """`box` of `pixels` [H, W, 3] resized to size x size, antialiased bilinear as PIL, mirrored where asked."""
    from PIL import Image

    crop = pixels[box[TOP] : box[TOP] + box[HEIGHT], box[LEFT] : box[LEFT] + box[WIDTH]]
    resized = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(resized[:, ::-1]) if box[MIRROR] else resized.copy()


def centre_crop(pixels: NDArray[np.uint8], size: int, resize: int) -> NDArray[np.uint8]:
    """torchvision's Resize(resize), CenterCrop(size) on a PIL image, the reference of published weights."""
    from PIL import Image
    from torchvision.transforms.functional import center_crop
    from torchvision.transforms.functional import resize as resize_short_side

    image = resize_short_side(Image.fromarray(pixels), [resize])
    return np.array(center_crop(image, [size]))


def choose_loader(asked: LoaderName) -> tuple[Literal["ffcv", "torch"], str]:
    """The loader to use and why, in a few words.

    Raises:
        DataError: FFCV is asked for and cannot be imported.
    """
    if asked == "torch":
        return "torch", "asked for"
    fault = ffcv_fault()
    if asked == "ffcv" and fault:
        raise DataError(
            f"loader ffcv was asked for, but {fault}: use --data.loader torch, or see `python -m benchmarks doctor`."
        )
    if asked == "ffcv":
        return "ffcv", "asked for"
    return ("torch", fault) if fault else ("ffcv", "FFCV is installed")


def ffcv_fault() -> str:
    """Why FFCV cannot be used; empty if it can. Finding a package is not enough: its libraries may be gone."""
    if importlib.util.find_spec("ffcv") is None:
        return "FFCV is not installed"
    try:
        from datamodules import ffcv_batches  # noqa: F401
    except Exception as error:  # whatever a broken binary package raises
        return f"FFCV does not import ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    return ""


def available_workers(local_world_size: int = 1) -> int:
    """Cores this process may use, shared evenly among the ranks of this node; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_world_size)


def checked_workers(workers: int | None, local_world_size: int) -> int:
    """`workers` threads or processes per rank, all available ones for None.

    Raises:
        DataError: fewer than 1, or more than there are cores.
    """
    if workers is None:
        return available_workers(local_world_size)
    if not 1 <= workers <= available_workers():
        raise DataError(
            f"workers (={workers}) must be between 1 and {available_workers()}, the cores this process may use: "
            "leave it out to use them all."
        )
    return workers
