"""Where the suite's loaders spend their time: what they do to an image, taken apart and timed on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.loader_contestants import our_reading, photo_augmentation
from benchmarks.loader_files import Files

PHOTOS = {"ours-tiled": "tiled.beton", "ours-jpg": "ffcv-jpg.beton", "ours-raw": "ffcv-raw.beton"}
ARRAYS = {"ours-ffcv", "ours-resident"}
REPEATS = 3  # of which the fastest counts
IMAGES = {"imagenet": 1024, "cifar10": 8192, "mnist": 8192}


def work_per_image(names: list[str], files: Files, batch_size: int) -> dict[str, dict[str, float]]:
    """Processor seconds per image of the parts of each named loader's work, on one thread and the same crops.

    Photos: `decode` is what their file takes longer than the file of pixels; `resize` is what the file of pixels takes
    longer than `copy`, which only writes an image of that size. Arrays: `cut` is the shift and mirror beyond the copy.
    """
    return photo_work(names, files, batch_size) if files.dataset == "imagenet" else array_work(names, files, batch_size)


def photo_work(names: list[str], files: Files, batch_size: int) -> dict[str, dict[str, float]]:
    """Decode, resize and copy of each named loader of photos."""
    from datamodules.augment import fill_of
    from datamodules.ffcv_batches import FFCVBatches

    augmentation = photo_augmentation()
    samples = np.random.default_rng(0).permutation(files.count)[: IMAGES["imagenet"]]
    images = np.zeros((batch_size, 224, 224, 3), np.uint8)

    def seconds(file: str) -> float:
        stored = FFCVBatches(our_reading(files, batch_size, augmentation), files.path(file), 224, 1).stored
        boxes = augmentation.boxes(0, 0, samples, *stored.sizes(samples))
        fill = fill_of(augmentation, 3)
        return fastest(
            lambda these: stored.cut(samples[these], boxes[these], fill, images[: len(samples[these])]),
            samples,
            batch_size,
        )

    copy = copying(images, samples, batch_size)
    pixels = seconds(PHOTOS["ours-raw"])
    return {
        name: {
            "decode": max(0.0, seconds(PHOTOS[name]) - pixels) if name != "ours-raw" else 0.0,
            "resize": pixels - copy,
            "copy": copy,
        }
        for name in names
        if name in PHOTOS
    }


def array_work(names: list[str], files: Files, batch_size: int) -> dict[str, dict[str, float]]:
    """Cut and copy of each named loader of arrays: the same kernel for both."""
    from benchmarks.peers.loaders import PADDING
    from datamodules.augment import PaddedCropFlip, fill_of
    from datamodules.cut import cut_batch

    source = files.array().images
    augmentation = PaddedCropFlip(PADDING[files.dataset], 0.5 if files.dataset == "cifar10" else 0.0)
    samples = np.random.default_rng(0).permutation(files.count)[: IMAGES[files.dataset]]
    sides = [np.full(len(samples), length) for length in source.shape[1:3]]
    boxes, fill = augmentation.boxes(0, 0, samples, *sides), fill_of(augmentation, source.shape[-1])
    images = np.zeros((batch_size, *source.shape[1:]), np.uint8)

    def cut(these: slice) -> None:
        cut_batch(source, samples[these], boxes[these], fill, images[: len(samples[these])])

    copy = copying(images, samples, batch_size)
    work = {"cut": max(0.0, fastest(cut, samples, batch_size) - copy), "copy": copy}
    return {name: work for name in names if name in ARRAYS}


def copying(images: np.ndarray, samples: np.ndarray, batch_size: int) -> float:
    """Processor seconds of writing one image of a batch that lies in memory."""
    other = np.ones_like(images)
    return fastest(lambda these: np.copyto(images, other), samples, batch_size)


def fastest(work: Callable[[slice], Any], samples: np.ndarray, batch_size: int) -> float:
    """Processor seconds per image of `work` on one batch after the other, the fastest of several passes."""
    starts = range(0, len(samples) - batch_size + 1, batch_size)
    found = []
    for _ in range(REPEATS + 1):  # the first compiles and fills the page cache
        begun = time.process_time()
        for start in starts:
            work(slice(start, start + batch_size))
        found.append((time.process_time() - begun) / (len(starts) * batch_size))
    return min(found[1:])


def shares(work: dict[str, float], rate: float) -> dict[str, float]:
    """Each part's share of an image's whole time at `rate` images per processor second, and the rest.

    The rest is order, boxes, threads, labels, and what the parts cost more among other work than alone.
    """
    found = {part: seconds * rate for part, seconds in work.items()}
    return {**found, "rest": 1 - sum(found.values())}
