"""Tiled JPEG: an ordinary JPEG of which a part can be decoded without what is beside and above it.

Three quarters of the time of decoding a JPEG go into its Huffman codes, which must be read from the first to the last,
whatever part of the image is wanted. Restart markers make their stream begin anew. A tiled JPEG is a baseline JPEG with
colours at half resolution (4:2:0), so that an MCU, the unit of coding, is 16 x 16 pixels; with optimised Huffman
tables, which save the bytes that the markers cost; with a restart marker every few MCUs, always so many that a row of
MCUs holds a whole number of these segments; and with an index of the segments. Any decoder reads it, with the pixels of
the same JPEG without markers: they change where codes stand, not what they say.

The index is an application segment, APP9, directly after the start of the image:

    bytes    0..1  FF D8, start of image
             2..3  FF E9, APP9
             4..5  length of the rest of this block and of these two bytes, big-endian as everywhere in JPEG
             6..11 "TILES" and a zero
            12..13 MCUs in a segment, little-endian as are all numbers that follow
            14..15 segments in a row of MCUs
            16..17 rows of MCUs
            18..   bytes of each segment, two each, in the order of the file, without the two bytes of its marker

Where an image has too many segments for such a block, 64 kB, or a segment has too many bytes, there is no index.

To decode a window of the image, the segments that it touches are put together to a smaller JPEG (`splice`), and that is
decoded whole. Inside the window its pixels are those of the whole image to the bit: colours are interpolated between
neighbouring pixels, so that a window reaches one pixel further than itself, and no more.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

MCU = 16  # pixels a side
IDENTIFIER = b"TILES\0"
LENGTHS = 18  # where the lengths of the segments begin
MOST_SEGMENTS = (0xFFFF - (LENGTHS - 4)) // 2
SEGMENT_MCUS = 4  # 64 pixels: narrower ones decode fewer pixels in vain, but a marker and its length take 4 bytes


def encode_tiled(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """A tiled JPEG of `rgb` [H, W, 3], as this file's first lines describe it.

    Raises:
        ValueError: a side is 0 or above 65,500 pixels, JPEG's limit in libjpeg.
    """
    height, width = rgb.shape[:2]
    if not (1 <= height <= 65500 and 1 <= width <= 65500):
        raise ValueError(f"an image of {height} x {width} pixels cannot be a JPEG: a side must be 1 to 65500 pixels.")
    rows, columns = -(-height // MCU), -(-width // MCU)
    mcus = segment_mcus(rows, columns)
    jpeg = _encode(rgb, quality, mcus)
    lengths = segment_lengths(jpeg)
    if len(lengths) > MOST_SEGMENTS or lengths.max() > 0xFFFF:
        return _encode(rgb, quality, 0)
    body = IDENTIFIER + struct.pack("<3H", mcus, columns // mcus, rows) + lengths.astype("<u2").tobytes()
    return jpeg[:2] + b"\xff\xe9" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def segment_mcus(rows: int, columns: int) -> int:
    """MCUs in a segment: the divisor of a row of `columns` MCUs nearest to `SEGMENT_MCUS`, wider if it must be."""
    divisors = [mcus for mcus in range(1, columns + 1) if columns % mcus == 0]
    fitting = [mcus for mcus in divisors if rows * (columns // mcus) <= MOST_SEGMENTS and mcus > 1] or [columns]
    return min(fitting, key=lambda mcus: abs(mcus - SEGMENT_MCUS))


def _encode(rgb: NDArray[np.uint8], quality: int, mcus: int) -> bytes:
    """Baseline 4:2:0 with optimised Huffman tables, and a restart marker after every `mcus` MCUs; 0: none."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(rgb)
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=True, restart_marker_blocks=mcus)
    return buffer.getvalue()


def segment_lengths(jpeg: bytes) -> NDArray[np.int64]:
    """Bytes between the restart markers of `jpeg`, found by looking for these. [S]

    In the coded data a byte FF is followed by a zero if it is data, by D0 to D7 if both are a marker.
    """
    start = 2
    while jpeg[start + 1] != 0xDA:
        start += 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    start += 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    end = len(jpeg) - 2  # of the data; the end of the image
    data = np.frombuffer(jpeg, np.uint8)
    marks = start + np.flatnonzero((data[start : end - 1] == 0xFF) & (data[start + 1 : end] & 0xF8 == 0xD0))
    return np.append(marks, end) - np.insert(marks + 2, 0, start)


@njit(cache=True, error_model="numpy")
def is_tiled(jpeg: Any) -> bool:
    """Whether the bytes begin as a tiled JPEG."""
    if len(jpeg) < LENGTHS or jpeg[2] != 0xFF or jpeg[3] != 0xE9:
        return False
    same = 0
    for i in range(len(IDENTIFIER)):
        same += jpeg[6 + i] == IDENTIFIER[i]
    return same == len(IDENTIFIER)


@njit(cache=True, error_model="numpy")
def splice(jpeg: Any, top: int, left: int, height: int, width: int, part: Any, place: Any) -> int:
    """Write to `part` a JPEG of those segments of a tiled one that a window touches; return its bytes, 0 if damaged.

    Args:
        jpeg: uint8 [bytes], contiguous, of which `is_tiled` is true.
        top, left, height, width: the window in pixels, inside the image.
        part: uint8 [at least as many bytes as `jpeg` + 4], is written.
        place: int64 [4], is written: height and width of the part, and the window's top and left in it.
    """
    mcus, columns, rows = little(jpeg, 12), little(jpeg, 14), little(jpeg, 16)
    at = 4 + big(jpeg, 4)  # behind the index
    if mcus < 1 or columns < 1 or rows < 1 or at != LENGTHS + 2 * rows * columns:
        return 0
    part[0], part[1] = 0xFF, 0xD8
    size, height_at, image_height, image_width = 2, 0, 0, 0
    marker = 0
    while marker != 0xDA:  # headers, up to that of the coded data
        if at + 4 > len(jpeg):
            return 0
        marker, end = jpeg[at + 1], at + 2 + big(jpeg, at + 2)
        if jpeg[at] != 0xFF or end > len(jpeg):
            return 0
        if marker == 0xC0:
            if end < at + 9:
                return 0
            height_at = size + 5
            image_height, image_width = big(jpeg, at + 5), big(jpeg, at + 7)
        if not 0xE0 <= marker <= 0xEF:  # the decoder has no use for what applications add
            size = append(jpeg, at, end, part, size)
        at = end
    segment = MCU * mcus
    if -(-image_height // MCU) != rows or -(-image_width // segment) != columns:
        return 0

    first_row, last_row = max(0, (top - 1) // MCU), min(rows, (top + height) // MCU + 1)
    first, last = max(0, (left - 1) // segment), min(columns, (left + width) // segment + 1)
    if first > 0 and image_width - first * segment < 5:
        first -= 1  # colours of images of up to 4 pixels are not interpolated
    place[0] = min(image_height, last_row * MCU) - first_row * MCU
    place[1] = min(image_width, last * segment) - first * segment
    place[2], place[3] = top - first_row * MCU, left - first * segment
    if place[2] + height > place[0] or place[3] + width > place[1]:
        return 0
    for i in range(2):
        part[height_at + 2 * i], part[height_at + 2 * i + 1] = place[i] >> 8, place[i] & 0xFF

    for number in range(first_row * columns):
        at += little(jpeg, LENGTHS + 2 * number) + 2
    count = 0
    for row in range(first_row, last_row):
        for column in range(columns):
            end = at + little(jpeg, LENGTHS + 2 * (row * columns + column))
            if first <= column < last:
                if end > len(jpeg) or size + end - at + 4 > len(part):
                    return 0
                if count > 0:
                    part[size], part[size + 1] = 0xFF, 0xD0 + (count - 1) % 8
                    size += 2
                size = append(jpeg, at, end, part, size)
                count += 1
            at = end + 2  # behind the marker
    part[size], part[size + 1] = 0xFF, 0xD9
    return size + 2


@njit(error_model="numpy")
def append(source: Any, begin: int, end: int, target: Any, size: int) -> int:
    """Copy source[begin:end] behind the first `size` bytes of `target`; return how many these are then."""
    taken, free = source[begin:end], target[size : size + end - begin]
    for i in range(np.uint64(end - begin)):
        free[i] = taken[i]
    return size + end - begin


@njit(error_model="numpy")
def little(data: Any, at: int) -> int:
    """The two bytes from `at` on as a number, the lower one first."""
    return int(data[at]) | int(data[at + 1]) << 8


@njit(error_model="numpy")
def big(data: Any, at: int) -> int:
    """The two bytes from `at` on as a number, the higher one first."""
    return int(data[at]) << 8 | int(data[at + 1])
