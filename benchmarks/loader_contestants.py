"""The loaders that `throughput --loaders` sets side by side: the suite's own and its peers, and how one is timed."""

from __future__ import annotations

import os
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.loader_files import Dataset, Files

Epochs = Callable[[int], Iterator[tuple[Any, Any]]]  # the batches of an epoch: images and labels
Opener = Callable[[Files, int, int], Epochs]  # of some files, by batches of so many images, with so many workers


@dataclass(frozen=True)
class Contestant:
    """One way of reading.

    Args:
        name: as on the command line.
        what: in words, for the tables.
        opens: gets the batches.
        reads: the file or tree that is read.
        needs: packages without which it is skipped.
        ours: whether it is of this suite.
    """

    name: str
    what: str
    opens: Opener
    reads: str
    needs: tuple[str, ...] = ()
    ours: bool = False

    def missing(self) -> str:
        """The first package it needs and that is not installed, else empty."""
        return next((package for package in self.needs if not installed(package)), "")


def installed(package: str) -> bool:
    """Whether a package, or a part of one, could be imported."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the part of a package that is not there either
        return False


def contestants(dataset: Dataset) -> list[Contestant]:
    """All loaders of a dataset, ours first; the first peer is what the ratios refer to."""
    return photo_contestants() if dataset == "imagenet" else array_contestants(dataset)


def reference(dataset: Dataset) -> str:
    """The contestant to whose rate all ratios refer: FFCV with its own transforms."""
    return {"imagenet": "ffcv-jpg", "cifar10": "ffcv-rgb", "mnist": "ffcv-ndarray"}[dataset]


def photo_contestants() -> list[Contestant]:
    """Loaders of photos: a random resized crop to 224, mirrored half the time."""
    from benchmarks.peers import loaders as peers

    def peer(opens: Callable[[Path, int, int], Epochs], reads: str) -> Opener:
        return lambda files, batch_size, workers: opens(files.path(reads), batch_size, workers)

    return [
        Contestant("ours-tiled", "ours, tiled JPEG", our_beton("tiled.beton"), "tiled.beton", ("ffcv",), True),
        Contestant(
            "ours-jpg", "ours, FFCV's JPEG file", our_beton("ffcv-jpg.beton"), "ffcv-jpg.beton", ("ffcv",), True
        ),
        Contestant("ours-raw", "ours, raw", our_beton("ffcv-raw.beton"), "ffcv-raw.beton", ("ffcv",), True),
        Contestant("ours-torch", "ours, torch loader", our_photos, "train", (), True),
        Contestant("ffcv-jpg", "FFCV, JPEG", peer(peers.ffcv_photos, "ffcv-jpg.beton"), "ffcv-jpg.beton", ("ffcv",)),
        Contestant("ffcv-raw", "FFCV, raw", peer(peers.ffcv_photos, "ffcv-raw.beton"), "ffcv-raw.beton", ("ffcv",)),
        Contestant("torchvision-v1", "DataLoader, torchvision v1, PIL", peer(peers.torchvision_pil, "train"), "train"),
        Contestant(
            "torchvision-v2", "DataLoader, torchvision v2, tensors", peer(peers.torchvision_tensors, "train"), "train"
        ),
        Contestant("timm", "timm create_loader", peer(peers.timm_photos, "train"), "train", ("timm",)),
        Contestant("dali", "DALI on the CPU", peer(peers.dali_photos, "train"), "train", ("nvidia.dali",)),
        Contestant("spdl", "SPDL, torchvision v2", peer(peers.spdl_photos, "train"), "train", ("spdl.dataloader",)),
        Contestant(
            "webdataset",
            "webdataset, torchvision v2",
            lambda files, *how: peers.webdataset_photos(sorted(files.path("shards").glob("*.tar")), *how),
            "shards",
            ("webdataset",),
        ),
    ]


def array_contestants(dataset: Dataset) -> list[Contestant]:
    """Loaders of CIFAR-10, moved by up to 4 pixels and mirrored, and of MNIST, moved by up to 2."""
    from benchmarks.peers import loaders as peers

    padding, flip = peers.PADDING[dataset], dataset == "cifar10"

    def ffcv(name: str) -> Opener:
        rgb = name == "ffcv-rgb.beton"
        return lambda files, batch_size, workers: peers.ffcv_array(
            files.path(name), batch_size, workers, rgb, padding, flip
        )

    def torchvision(files: Files, batch_size: int, workers: int) -> Epochs:
        return peers.torchvision_array(Path(files.folder), batch_size, workers, padding, flip)

    suite = "suite.beton"
    found = [
        Contestant(
            "ours-resident", "ours, resident loader", our_array("resident", padding, flip), "images.npy", (), True
        ),
        Contestant("ours-ffcv", "ours, FFCV loader", our_array("ffcv", padding, flip), suite, ("ffcv",), True),
        Contestant("ours-torch", "ours, torch loader", our_array("torch", padding, flip), "images.npy", (), True),
        Contestant("ffcv-rgb", "FFCV, RGBImageField", ffcv("ffcv-rgb.beton"), "ffcv-rgb.beton", ("ffcv",)),
        Contestant("ffcv-ndarray", "FFCV, NDArrayField", ffcv("ffcv-ndarray.beton"), "ffcv-ndarray.beton", ("ffcv",)),
        Contestant("torchvision", "DataLoader, torchvision v1, PIL", torchvision, "images.npy"),
    ]
    return [contestant for contestant in found if dataset == "cifar10" or contestant.name != "ffcv-rgb"]


# Ours -----------------------------------------------------------------------------------------------------------------


def our_beton(name: str) -> Opener:
    """The suite's ffcv loader of photos in the .beton `name`."""

    def opens(files: Files, batch_size: int, workers: int) -> Epochs:
        from datamodules.ffcv_batches import FFCVBatches

        reading = our_reading(files, batch_size, photo_augmentation())
        return by_epoch(FFCVBatches(reading, files.path(name), 224, workers))

    return opens


def our_photos(files: Files, batch_size: int, workers: int) -> Epochs:
    """The suite's torch loader of the tree of photos."""
    from datamodules.loaders import FileBatches

    reading = our_reading(files, batch_size, photo_augmentation())
    return by_epoch(FileBatches(reading, files.photos(), 224, 256, workers))


def our_array(loader: str, padding: int, flip: bool) -> Opener:
    """One of the suite's loaders of images in memory."""

    def opens(files: Files, batch_size: int, workers: int) -> Epochs:
        from datamodules.augment import PaddedCropFlip

        reading = our_reading(files, batch_size, PaddedCropFlip(padding, 0.5 if flip else 0.0))
        if loader == "ffcv":
            from datamodules.ffcv_batches import FFCVBatches

            return by_epoch(FFCVBatches(reading, files.path("suite.beton"), None, workers))
        if loader == "resident":
            import torch

            from datamodules.resident import Resident, ResidentBatches

            return by_epoch(ResidentBatches(reading, Resident(files.array(), torch.device("cpu"))))
        from datamodules.loaders import ArrayBatches

        return by_epoch(ArrayBatches(reading, files.array()))

    return opens


def photo_augmentation() -> Any:
    """The random resized crop and flip of the suite's ImageNet recipes."""
    from datamodules.augment import RandomResizedCrop

    return RandomResizedCrop()


def our_reading(files: Files, batch_size: int, augmentation: Any) -> Any:
    """All images, shuffled."""
    import numpy as np

    from datamodules.batches import Reading

    return Reading(np.arange(files.count), batch_size, shuffle=True, augmentation=augmentation)


def by_epoch(batches: Any) -> Epochs:
    """The suite's loaders are told their epoch as Lightning tells it."""

    def epoch(number: int) -> Iterator[tuple[Any, Any]]:
        batches.sampler.set_epoch(number)
        return iter(batches)

    return epoch


# Timing ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """Whole epochs of one contestant, read and thrown away: images, and seconds by both clocks."""

    images: int
    cpu_seconds: float  # of its process, its threads and every process it started
    wall_seconds: float


@dataclass(frozen=True)
class Start:
    """What a contestant showed in its first epoch, which is not timed.

    Args:
        first_batch_cpu_seconds: from the start of its process, with its imports and what it compiled.
        images: in the epoch.
        shape: of a batch of images.
        dtype: of a batch of images.
        level: mean of the pixels, 0 to 255.
    """

    first_batch_cpu_seconds: float
    images: int
    shape: list[int]
    dtype: str
    level: float


def serve(
    method: str, dataset: Dataset, name: str, files: Files, batch_size: int, workers: int, connection: Connection
) -> None:
    """The life of a contestant's process: its first epoch, then a turn for every message (first epoch, seconds).

    Answers with a `Start`, a `Turn` for each message, or the text of what went wrong. Ends when the other side closes.
    `method` is how programs start worker processes here: a process that was spawned itself would spawn them too.
    """
    try:
        set_start_method(method, force=True)
        import torch

        torch.set_num_threads(workers)
        (contestant,) = (one for one in contestants(dataset) if one.name == name)
        epochs = contestant.opens(files, batch_size, workers)
        start = first_epoch(epochs)
        cpu = tree_cpu_seconds()
        connection.send(start)
        while True:
            number, seconds = connection.recv()
            images, wall_seconds = turn(epochs, number, seconds)
            before, cpu = cpu, tree_cpu_seconds()  # what was read ahead while others had their turn is paid for, too
            connection.send(Turn(images, cpu - before, wall_seconds))
    except EOFError:
        pass
    except BaseException:
        connection.send(traceback.format_exc())


def first_epoch(epochs: Epochs) -> Start:
    """Read an epoch with a look at its images."""
    images, levels, first, shape, dtype = 0, [], 0.0, [], ""
    for batch, labels in epochs(0):
        if not images:
            first, shape, dtype = tree_cpu_seconds(), list(batch.shape), str(batch.dtype).removeprefix("torch.")
        images += len(labels)
        levels.append(float(batch.float().mean()))
    return Start(first, images, shape, dtype, sum(levels) / len(levels))


def turn(epochs: Epochs, number: int, seconds: float) -> tuple[int, float]:
    """Read whole epochs, the first being `number`, until `seconds` have passed. Returns images and wall seconds."""
    images, started = 0, time.perf_counter()
    while True:
        for _, labels in epochs(number):
            images += len(labels)
        number += 1
        if time.perf_counter() - started >= seconds:
            return images, time.perf_counter() - started


def tree_cpu_seconds() -> float:
    """Processor seconds of this process and of all it has started, also of those that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(process_cpu_seconds, descendants(os.getpid())))
    )


def process_cpu_seconds(pid: int) -> float:
    """Processor seconds of another process so far, with those of its children that have ended; 0 if it has gone."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        reaped = (int(after_name[13]) + int(after_name[14])) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(~pid << 3 | 2) + reaped  # the clock of a process, as clock_getcpuclockid gives it
    except (OSError, IndexError):
        return 0.0


def descendants(pid: int) -> list[int]:
    """Processes that `pid` has started, and those they have, as Linux lists them."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has ended
            continue
        parents.setdefault(parent, []).append(int(entry.parent.name))
    found = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found
