"""Loaders: one interface, several ways to get pixels. All give the same samples in the same order with the same boxes.

`resident` keeps a dataset of small images on the device and cuts batches there (`datamodules/resident.py`).
`ffcv` reads a .beton through FFCV's memory map, thread and queue (`datamodules/ffcv_batches.py`). `torch`
indexes an array in numpy, or decodes image files with PIL in worker processes, and needs neither FFCV nor numba.

What holds for all:

- A batch is the caller's: it may be kept and is never written to again. `resident` uses a batch's memory again once
  nothing refers to it (`datamodules/buffers.py`).
- The last batch of an evaluation is smaller; ranks are filled up to the same number of images, and the filling is
  labelled `IGNORED_LABEL`. In training what does not make a whole batch over all ranks is left out, others every epoch.
- `workers` are threads (ffcv) or processes (torch, image files) of one rank: by default the cores this process may use,
  divided among the ranks of the node. Arrays are cut by one thread, which takes less time than waking others.
- Batches ahead: `resident` makes a batch when it is asked for; FFCV is up to three ahead, a DataLoader two a worker.
- Memory of each rank: `resident` holds the dataset (CIFAR-10: 184 MB), twice where the device is no CPU, and batches in
  use; `torch` the same array, or for image files the batches on their way; `ffcv` those ahead. A .beton is
  mapped: it lies in the system's page cache, once for all ranks, never in a cache of the process.
- Kernels are compiled once per machine (`datamodules/cut.py` in 2.6 CPU seconds, `datamodules/crops.py` in 20); later
  processes load them in 0.5.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augment import HEIGHT, LEFT, MIRROR, TOP, WIDTH, Growth, cut_same_size, fill_of, size_in
from datamodules.batches import Batches, Reading, View
from datamodules.originals import DataError, ImageArray, ImageFiles

LoaderName = Literal["auto", "ffcv", "torch", "resident"]


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
                images = cut_same_size(images, boxes, fill_of(reading.augmentation, images.shape[-1]))
            yield torch.from_numpy(images), torch.from_numpy(self.originals.labels[samples])


class FileBatches(Batches):
    """The `torch` loader of image files: PIL decodes, crops and resizes in `workers` processes of a DataLoader."""

    def __init__(self, reading: Reading, originals: ImageFiles, size: int | Growth, resize: int, workers: int) -> None:
        super().__init__(reading)
        self.cropped = CroppedFiles(originals, reading, size, resize)
        self.workers = workers

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Any, Tensor]]:
        keyed = [[(self.epoch, int(sample)) for sample in samples] for samples in batches]
        # A generator of its own: DataLoader draws a number, unused here, which would change a network's dropout.
        loader = DataLoader(
            self.cropped,
            batch_sampler=keyed,
            num_workers=self.workers,
            generator=torch.Generator(),
            worker_init_fn=outlive_signals,
        )
        for images, labels in loader:
            yield tuple(images) if isinstance(images, list) else images, labels


GRACE_SECONDS = 30  # that a worker serves on after SIGTERM


def outlive_signals(worker: int) -> None:
    """Let this worker serve on when a scheduler signals every process of a job, so that the run can save its state.

    After SIGTERM for `GRACE_SECONDS`, not for ever: a DataLoader that is given up ends its workers by SIGTERM too.
    """
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))


class CroppedFiles(Dataset[tuple[Any, int]]):
    """Image files, cut by the boxes of the augmentation to size x size, else by the reading's view.

    `resize` is the short side in pixels of a view that names none.
    """

    def __init__(self, originals: ImageFiles, reading: Reading, size: int | Growth, resize: int) -> None:
        self.originals = originals
        self.reading = reading
        self.size = size
        self.resize = resize

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, int]:
        epoch, sample = key
        pixels = self.originals.decode(sample)
        size = size_in(epoch, self.size)
        reading = self.reading
        label = int(self.originals.labels[sample])
        if reading.augmentation is None:
            cut = [torch.from_numpy(part) for part in viewed(pixels, reading.view, size, self.resize)]
            return cut[0] if reading.view.part == "centre" else tuple(cut), label
        height, width = (np.array([length]) for length in pixels.shape[:2])
        box = reading.augmentation.boxes(reading.seed, epoch, np.array([sample]), height, width)[0]
        return torch.from_numpy(resized_crop(pixels, box, size)), label


def resized_crop(pixels: NDArray[np.uint8], box: NDArray[np.int32], size: int) -> NDArray[np.uint8]:
    """`box` of `pixels` [H, W, 3] resized to size x size, antialiased bilinear as PIL, mirrored where asked."""
    from PIL import Image

    crop = pixels[box[TOP] : box[TOP] + box[HEIGHT], box[LEFT] : box[LEFT] + box[WIDTH]]
    resized = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(resized[:, ::-1]) if box[MIRROR] else resized.copy()


def viewed(pixels: NDArray[np.uint8], view: View, size: int, resize: int) -> list[NDArray[np.uint8]]:
    """What `view` cuts from `pixels` [H, W, 3], for one short side after the other, with PIL and torchvision.

    torchvision's Resize(short side) and CenterCrop on a PIL image are the reference of published weights. `size` is
    that of the central crop, `resize` the short side where the view names none.
    """
    from PIL import Image
    from torchvision.transforms.functional import center_crop
    from torchvision.transforms.functional import resize as resize_short_side

    image = Image.fromarray(pixels)
    cut = []
    for short_side in view.short_sides or (resize,):
        resized = resize_short_side(image, [short_side])
        if view.part == "centre":
            cut.append(center_crop(resized, [size]))
        elif view.part == "square":
            cut.append(center_crop(resized, [short_side]))
        elif view.part == "squares":
            ends = resized.width - short_side, resized.height - short_side  # of the way, one of which is 0
            cut.append(resized.crop((0, 0, short_side, short_side)))
            cut.append(center_crop(resized, [short_side]))
            cut.append(resized.crop((*ends, ends[0] + short_side, ends[1] + short_side)))
        else:
            cut.append(resized)
    return [np.array(image) for image in cut]


def choose_loader(asked: LoaderName, in_memory: bool) -> tuple[Literal["ffcv", "torch", "resident"], str]:
    """The loader to use and why, in a few words. `in_memory`: the images are an array, not image files.

    Raises:
        DataError: FFCV is asked for and cannot be imported, or `resident` for image files.
    """
    if asked == "resident" and not in_memory:
        raise DataError(
            "loader resident was asked for, but these are image files of unequal sizes, which are decoded as they are "
            "read: use --data.loader auto, ffcv or torch."
        )
    if asked == "auto" and in_memory:
        return "resident", "the images fit in memory"
    if asked in ("torch", "resident"):
        return asked, "asked for"
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
