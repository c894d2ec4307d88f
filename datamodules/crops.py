"""One pass from stored bytes to the crop that a network sees: decode what is needed, cut, resize, mirror.

Boxes come from `datamodules.augment`; here they are carried out, one image after the other or several at once, with
scratch memory only while an image is at work. Stored images are JPEGs, tiled ones (`datamodules.tiles`) decoded only
around their box, or bare pixels.

Compiled code is kept on disk, beside this file or in numba's cache folder, so that it is paid for once per machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from datamodules import augment, cut, resample, tiles, turbojpeg
from datamodules.augment import HEIGHT, HOLE_SIZE, LEFT, MIRROR, TOP, WIDTH
from datamodules.cut import cut_one, punch
from datamodules.resample import resize_window
from datamodules.tiles import is_tiled, splice
from datamodules.turbojpeg import decode_rgb

CHUNK = 4  # images a thread takes at a time: they differ in cost, and none should wait long for the last
JPEG, RAW = 0, 1  # FFCV's numbers of how an image is stored
GOOD, NO_JPEG, NO_TILES, NO_PIXELS, NO_BOX = range(5)  # what came of an image
FAULTS = {
    NO_JPEG: "it is no JPEG of its size, or damaged",
    NO_TILES: "its index of tiles is damaged",
    NO_PIXELS: "it has not 3 bytes for each of its pixels",
    NO_BOX: "its box is empty or not inside it",
}


@njit(error_model="numpy")
def crop_one(source: Any, mode: int, height: int, width: int, box: Any, fill: Any, image: Any) -> int:
    """Write what `box` cuts from a stored image, resized, to `image`; return GOOD or what is wrong.

    Args:
        source: uint8 [bytes], contiguous: the stored image.
        mode: JPEG or RAW.
        height, width: of the stored image, in pixels.
        box: int32, see `datamodules.augment`; it must lie inside the image.
        fill: uint8 [3], the pixel that fills holes.
        image: uint8 [H, W, 3], contiguous, is written; unless GOOD is returned, its content means nothing.
    """
    top, left, tall, wide = int(box[TOP]), int(box[LEFT]), int(box[HEIGHT]), int(box[WIDTH])
    mirror = box[MIRROR] != 0
    if top < 0 or left < 0 or tall < 1 or wide < 1 or top + tall > height or left + wide > width:
        return NO_BOX
    if mode == RAW:
        if len(source) != 3 * height * width:
            return NO_PIXELS
        resize_window(source, 3 * width, top, left, tall, wide, mirror, image)
    elif is_tiled(source):
        part, place = np.empty(len(source) + 4, np.uint8), np.empty(4, np.int64)
        size = splice(source, top, left, tall, wide, part, place)
        if size == 0:
            return NO_TILES
        pixels = np.empty(3 * place[0] * place[1], np.uint8)
        if not decode_rgb(part, size, place[0], place[1], pixels):
            return NO_JPEG
        resize_window(pixels, 3 * place[1], place[2], place[3], tall, wide, mirror, image)
    else:
        pixels = np.empty(3 * height * width, np.uint8)
        if not decode_rgb(source, len(source), height, width, pixels):
            return NO_JPEG
        resize_window(pixels, 3 * width, top, left, tall, wide, mirror, image)
    if box[HOLE_SIZE] > 0:
        punch(image.reshape(-1), image.shape[0], image.shape[1], 3, box, fill)
    return GOOD


def source_stamp() -> str:
    """Differs where any of the files differ whose code is compiled into the kernels of this one.

    numba compiles anew when this file changes, not when others do. But what a function takes from the function around
    it is part of its key in the cache, so kernels take this.
    """
    digest = hashlib.sha256()
    for module in (augment, cut, resample, tiles, turbojpeg):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def _crop_kernel(count_off: Any) -> Callable[..., None]:
    """`crop_batch`, whose loop is counted off by numba's `prange`, for several threads, or by `range`, for one."""
    stamp = source_stamp()

    @njit(cache=True, nogil=True, error_model="numpy", parallel=count_off is prange)
    def kernel(
        memory: Any, starts: Any, lengths: Any, modes: Any, sizes: Any, boxes: Any, fill: Any, images: Any, faults: Any
    ) -> None:
        stamp  # noqa: B018
        for i in count_off(len(starts)):
            source = memory[starts[i] : starts[i] + lengths[i]]
            faults[i] = crop_one(source, modes[i], sizes[i, 0], sizes[i, 1], boxes[i], fill, images[i])

    return kernel


def _cut_kernel() -> Callable[..., None]:
    stamp = source_stamp()

    @njit(cache=True, nogil=True, error_model="numpy")
    def kernel(memory: Any, starts: Any, boxes: Any, fill: Any, images: Any) -> None:
        stamp  # noqa: B018
        length = images.shape[1] * images.shape[2] * images.shape[3]
        for i in range(len(starts)):
            cut_one(memory[starts[i] : starts[i] + length], boxes[i], fill, images[i])

    return kernel


cut_kernel = _cut_kernel()
crop_kernel, parallel_crop_kernel = _crop_kernel(range), _crop_kernel(prange)


def crop_batch(
    memory: NDArray[np.uint8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    modes: NDArray[np.uint8],
    sizes: NDArray[np.int64],
    boxes: NDArray[np.int32],
    fill: NDArray[np.uint8],
    images: NDArray[np.uint8],
    threads: int,
) -> NDArray[np.int64]:
    """Cut the boxes of a batch out of stored images of any size and resize them. B images.

    Args:
        memory: all stored images. [bytes]
        starts, lengths: where in it each image lies, in bytes. [B]
        modes: JPEG or RAW. [B]
        sizes: heights and widths of the stored images, in pixels. [B, 2]
        boxes: they must lie inside the images. [B, 8]
        fill: the pixel that fills holes. [3]
        images: is written; contiguous. [B, H, W, 3]
        threads: numba's threads, if there is more than 1.

    Returns:
        GOOD or a key of `FAULTS`; the images of these have no meaning. [B]
    """
    faults = np.empty(len(starts), np.int64)
    kernel = crop_kernel if threads == 1 else parallel_crop_kernel
    with numba.parallel_chunksize(CHUNK):
        kernel(memory, starts, lengths, modes, sizes, boxes, fill, images, faults)
    return faults


def cut_stored(
    memory: NDArray[np.uint8],
    starts: NDArray[np.int64],
    boxes: NDArray[np.int32],
    fill: NDArray[np.uint8],
    images: NDArray[np.uint8],
) -> None:
    """Cut the boxes of a batch out of stored arrays of one size, as `datamodules.cut.cut_one` does. B images.

    In one thread: a few kB an image take less time than others take to wake.

    Args:
        memory: all stored arrays. [bytes]
        starts: where in it each array begins, in bytes. [B]
        boxes: they may reach beyond the image. [B, 8]
        fill: the pixel that fills holes. [C]
        images: is written; contiguous. [B, H, W, C]
    """
    cut_kernel(memory, starts, boxes, fill, images)
