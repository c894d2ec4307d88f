"""Image files, decoded and encoded anew in several processes, in order; broken ones are noted, not stumbled over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from datamodules.originals import BrokenImage, DataError, ImageFiles

if TYPE_CHECKING:
    from datamodules.beton import BetonSettings

JPEG, RAW = 0, 1  # FFCV's numbers of the two modes
CHUNK = 16  # images that a process takes at once: enough to forget the cost of handing them over
FEW = 48  # images for which no process is started, which takes longer than they do


class Encoded(NamedTuple):
    """An image as it stands in a .beton: `data` are the bytes of a JPEG, or pixels [H, W, 3] in this order."""

    height: int
    width: int
    mode: int
    data: NDArray[np.uint8]


class Broken(NamedTuple):
    """An image that cannot be read or decoded, and why."""

    reason: str


def encode_image(originals: ImageFiles, number: int, settings: BetonSettings) -> Encoded | Broken:
    """One image, shrunk (PIL, box filter) if its longest side is above `max_size`, as JPEG or raw as `settings` say."""
    from PIL import Image

    try:
        pixels = originals.decode(number)
    except BrokenImage as error:
        return Broken(error.reason)
    shrink = settings.max_size / max(pixels.shape)
    if shrink < 1:
        size = (max(1, int(pixels.shape[1] * shrink)), max(1, int(pixels.shape[0] * shrink)))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    height, width = pixels.shape[:2]
    if settings.stores_raw(number):
        return Encoded(height, width, RAW, np.ascontiguousarray(pixels).reshape(-1))
    from datamodules.tiles import encode_tiled  # and numba with it, which readers of arrays do not wait for

    return Encoded(height, width, JPEG, np.frombuffer(encode_tiled(pixels, settings.quality), np.uint8))


def fault_of(originals: ImageFiles, number: int) -> str:
    """Why this image cannot be read or decoded; empty if it can."""
    try:
        originals.decode(number)
    except BrokenImage as error:
        return error.reason
    return ""


Result = TypeVar("Result")


def in_order(
    work: Callable[[ImageFiles, int], Result], originals: ImageFiles, numbers: range, workers: int
) -> Generator[Result, None, None]:
    """`work` on each image of these numbers, in `workers` processes, a bounded number ahead, given back in order.

    Raises:
        DataError: a process was killed, most likely because memory ran out.
    """
    if len(numbers) <= FEW:
        yield from (work(originals, number) for number in numbers)
        return
    chunks = iter([numbers[first : first + CHUNK] for first in range(0, len(numbers), CHUNK)])
    # Spawned, not forked: a child forked after numba's OpenMP has run is killed.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work, originals))
    waiting: deque[Future[list[Any]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_work_on, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            f"one of {workers} processes that decode images was killed, probably by the system because memory ran "
            "out: use fewer (--workers; --data.workers in training) or ask for more memory. The same command goes on "
            "from here."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the images in work, which is seconds at most


_work: Callable[[ImageFiles, int], Any]
_originals: ImageFiles


def _begin(work: Callable[[ImageFiles, int], Any], originals: ImageFiles) -> None:
    """Runs once in each process: a million names are not sent with every image."""
    global _work, _originals
    _work, _originals = work, originals
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work_on(numbers: range) -> list[Any]:
    return [_work(_originals, number) for number in numbers]


def encoded_in_order(
    originals: ImageFiles, numbers: range, settings: BetonSettings, workers: int
) -> Generator[Encoded | Broken, None, None]:
    """`encode_image` on each image of these numbers, see `in_order`."""
    return in_order(partial(encode_image, settings=settings), originals, numbers, workers)
