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
"""

from __future__ import annotations

import io
import struct

import numpy as np
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
