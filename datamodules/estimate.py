"""What a conversion of image files will take, known before it begins from a few of them spread over all."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.beton import BetonSettings, unfinished_path
from datamodules.encoding import CHUNK, Encoded, encode_image
from datamodules.originals import DataError, ImageFiles

SAMPLED = 50
PROCESS_BYTES = 105_000_000  # of memory of a process that encodes, without images: Python, numpy, PIL; measured
DECODED_COPIES = 5  # of the pixels of an image while it is decoded, converted, shrunk, encoded; 4.9 measured
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Estimate:
    """What converting `count` images takes; `free` and `free_memory` are what there is (-1: not known)."""

    count: int
    sampled: int
    broken: int  # of the sampled
    bytes: int  # of the .beton
    error: int  # twice the standard error of `bytes`
    seconds: float  # of encoding, with as many cores as processes
    memory: int  # bytes, of all processes
    workers: int
    written: int  # bytes that an earlier conversion, stopped on its way, has left and this one takes over
    free: int
    free_memory: int

    def __str__(self) -> str:
        sampled = f"{self.sampled} of {self.count} images encoded to see"
        sampled += f", {self.broken} of them broken" if self.broken else ""
        going_on = f", of which {gigabytes(self.written)} are written" if self.written else ""
        memory = gigabytes(self.free_memory) if self.free_memory >= 0 else "unknown"
        return (
            f"about {gigabytes(self.bytes)} (± {gigabytes(self.error)}){going_on}; free on disk: "
            f"{gigabytes(self.free)}\n"
            f"  about {duration(self.seconds)} with {self.workers} processes, if each has a core\n"
            f"  about {gigabytes(self.memory)} of memory; free: {memory}\n"
            f"  ({sampled})"
        )

    def check(self, folder: Path) -> None:
        """Refuse what cannot fit.

        Raises:
            DataError: the disk of `folder`, or the memory, is too small.
        """
        if self.bytes - self.written > self.free:
            raise DataError(
                f"{folder} has {gigabytes(self.free)} free, the .beton needs about "
                f"{gigabytes(self.bytes - self.written)}: free some space, set ILSVRC_BENCH_CACHE to a folder on a "
                "larger disk, or store less with --max-size, --quality or --mode jpg."
            )
        if 0 <= self.free_memory < self.memory:
            raise DataError(
                f"{self.workers} processes need about {gigabytes(self.memory)} of memory, and "
                f"{gigabytes(self.free_memory)} are free: use fewer (--workers; --data.workers in training) or "
                "ask for more memory."
            )


def estimate(path: Path, originals: ImageFiles, settings: BetonSettings, workers: int) -> Estimate:
    """Encode up to `SAMPLED` images, spread evenly, and reckon from them what the .beton at `path` takes."""
    numbers = np.unique(np.linspace(0, len(originals) - 1, SAMPLED).round().astype(int)).tolist()
    began = time.process_time()
    encoded = [encode_image(originals, number, settings) for number in numbers]
    seconds = (time.process_time() - began) / len(numbers)
    whole = [image for image in encoded if isinstance(image, Encoded)]
    sizes = np.array([image.data.nbytes for image in whole] or [0], dtype=float)
    spread = sizes.std(ddof=1) / np.sqrt(len(sizes)) if len(sizes) > 1 else 0.0
    if len(numbers) == len(originals):
        spread = 0.0
    largest = max((originals.size(number) for number in numbers), default=0)
    pixels = max((image.height * image.width for image in whole), default=0)
    decoded = max(3 * pixels, 12 * largest)  # before it is shrunk: photos seldom have less than 1/4 byte a pixel
    per_process = PROCESS_BYTES + originals.listing_bytes() + DECODED_COPIES * decoded
    ahead = 2 * workers * CHUNK * sizes.mean()
    folder = next(parent for parent in path.parents if parent.is_dir())
    left = unfinished_path(path)
    return Estimate(
        count=len(originals),
        sampled=len(numbers),
        broken=len(encoded) - len(whole),
        bytes=int(sizes.mean() * len(originals)) + settings.page_bytes,
        error=int(2 * spread * len(originals)),
        seconds=seconds * len(originals) / workers,
        memory=int(per_process * workers + PROCESS_BYTES + originals.listing_bytes() + ahead),
        workers=workers,
        written=512 * left.stat().st_blocks if left.exists() else 0,
        free=shutil.disk_usage(folder).free,
        free_memory=free_memory(),
    )


def free_memory() -> int:
    """Bytes of memory that this process may still use: of the machine and of its control group. -1: not known."""
    limits = []
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # no such file, or "max"
        limits.append(int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
    return max(0, min(limits)) if limits else -1


def gigabytes(count: int) -> str:
    """A number of bytes in GB, or in MB where that is more than is left of it."""
    return f"{count / 1e9:.1f} GB" if abs(count) >= 1e9 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
