"""Carrying boxes out, compiled by numba: shift with zeros, mirror and cutout's hole in one pass over the pixels.

`datamodules.augment.cut_same_size` does the same in numpy and is what the kernels are tested against. Compiled code is
kept on disk, once per machine and type of arguments: beside this file, or in numba's cache folder where that is
read-only. Numba compiles anew when this file changes, but code that was compiled elsewhere with `cut_one` inside it is
only renewed with its own file.
"""

from __future__ import annotations

import os

os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "tbb omp workqueue")  # read when numba is first imported

from typing import Any

import numpy as np
from numba import njit

from datamodules.augment import HOLE_LEFT, HOLE_SIZE, HOLE_TOP, LEFT, MIRROR, TOP

signed: Any = np.int64
unsigned: Any = np.uint64


@njit(cache=True, nogil=True, error_model="numpy")
def cut_one(source: Any, box: Any, fill: Any, image: Any) -> None:
    """Cut one box of an image's own size.

    Args:
        source: uint8 [H * W * C], the image's pixels row by row.
        box: int32 [8], its TOP, LEFT, MIRROR and HOLE columns are used; outside the image is 0.
        fill: uint8 [C], the pixel that fills the hole.
        image: uint8 [H, W, C], contiguous, is written; may not share memory with `source`.
    """
    height, width, channels = image.shape
    target = image.reshape(-1)
    stride = width * channels
    top, left = signed(box[TOP]), signed(box[LEFT])
    first_row, last_row = min(max(0, -top), height), max(min(height, height - top), 0)  # of the crop, in the image
    first, last = min(max(0, -left), width), max(min(width, width - left), 0)  # its columns likewise, not mirrored
    if first_row >= last_row or first >= last:
        _blank(target, 0, height * stride)
    else:
        _blank(target, 0, first_row * stride)
        _blank(target, last_row * stride, height * stride)
        if box[MIRROR]:
            begin, end = (width - last) * channels, (width - first) * channels
            for y in range(first_row, last_row):
                right = ((y + top) * width + left + last) * channels  # end of the source's row
                _copy_mirrored(source, right, target, y * stride + begin, last - first, channels)
        else:
            begin, end = first * channels, last * channels
            origin = ((first_row + top) * width + left + first) * channels
            length = (last_row - first_row - 1) * stride + end - begin
            _copy(source, origin, target, first_row * stride + begin, length)  # all rows and what lies between them
        if end - begin < stride:
            for y in range(first_row, last_row):
                _blank(target, y * stride, y * stride + begin)
                _blank(target, y * stride + end, (y + 1) * stride)
    if box[HOLE_SIZE] > 0:
        punch(target, height, width, channels, box, fill)


# Indices are unsigned below: numba then emits no code for negative ones, and LLVM makes plain copies of the loops.


@njit(cache=True, nogil=True, error_model="numpy")
def _blank(target: Any, begin: int, end: int) -> None:
    for i in range(unsigned(begin), unsigned(end)):
        target[i] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def _copy(source: Any, origin: int, target: Any, place: int, length: int) -> None:
    pixels, row = source[origin : origin + length], target[place : place + length]
    for i in range(unsigned(length)):
        row[i] = pixels[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _copy_mirrored(source: Any, end: int, target: Any, place: int, count: int, channels: int) -> None:
    """`count` pixels leftwards from `end` in the source. The usual numbers of channels have loops of their own."""
    if channels == 3:
        back, to = unsigned(end), unsigned(place)
        for _ in range(count):
            back -= unsigned(3)
            target[to] = source[back]
            target[to + unsigned(1)] = source[back + unsigned(1)]
            target[to + unsigned(2)] = source[back + unsigned(2)]
            to += unsigned(3)
    elif channels == 1:
        back, to = unsigned(end - 1), unsigned(place)
        for i in range(unsigned(count)):
            target[to + i] = source[back - i]
    else:
        for i in range(count):
            for c in range(channels):
                target[unsigned(place + i * channels + c)] = source[unsigned(end - (i + 1) * channels + c)]


@njit(cache=True, nogil=True, error_model="numpy")
def punch(target: Any, height: int, width: int, channels: int, box: Any, fill: Any) -> None:
    """Make the box's hole in `target` [height * width * channels]."""
    size = signed(box[HOLE_SIZE])
    top, left = signed(box[HOLE_TOP]), signed(box[HOLE_LEFT])
    first_row, last_row = max(0, top), min(height, top + size)
    first, last = max(0, left), min(width, left + size)
    if first_row >= last_row or first >= last:
        return
    place = (first_row * width + first) * channels
    length = (last - first) * channels
    for c in range(channels):
        for i in range(unsigned(place + c), unsigned(place + length), unsigned(channels)):
            target[i] = fill[c]
    for y in range(first_row + 1, last_row):
        _copy(target, place, target, (y * width + first) * channels, length)


@njit(cache=True, nogil=True, error_model="numpy")
def cut_batch(images: Any, samples: Any, boxes: Any, fill: Any, batch: Any) -> None:
    """Cut the boxes of a batch out of a dataset in memory.

    One thread: a whole batch takes a tenth of a millisecond, about what it costs to wake others.

    Args:
        images: uint8 [N, H, W, C], contiguous.
        samples: int64 [B], numbers below N.
        boxes: int32 [B, 8], see `cut_one`.
        fill: uint8 [C], the pixel that fills holes.
        batch: uint8 [B, H, W, C], contiguous, is written.
    """
    flat = images.reshape(images.shape[0], -1)
    for i in range(len(samples)):
        cut_one(flat[samples[i]], boxes[i], fill, batch[i])
