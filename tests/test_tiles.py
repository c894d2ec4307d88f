"""A tiled JPEG is an ordinary JPEG, and its index says where its segments are."""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import decode_jpeg

from datamodules import tiles
from datamodules.tiles import encode_tiled, segment_mcus

SIZES = [(1, 1), (7, 300), (300, 7), (16, 64), (17, 65), (100, 176), (123, 208), (375, 500), (64, 1040)]


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Waves under noise: bytes FF, which data and markers share, do occur."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9), np.sin(y / 7 + 2), np.sin((x + y) / 11)]
    noise = np.random.default_rng(height * width).normal(0, 20, (height, width, 3))
    return np.clip(127.5 + 100 * np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def pixels(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def untiled(rgb: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()


def index_of(jpeg: bytes) -> tuple[int, int, int, list[int]]:
    """The fields of the index, read by hand: MCUs in a segment, segments in a row, rows, lengths."""
    assert jpeg[:4] == b"\xff\xd8\xff\xe9"
    (size,) = struct.unpack(">H", jpeg[4:6])
    assert jpeg[6:12] == b"TILES\0"
    mcus, columns, rows, *lengths = struct.unpack(f"<{(size - 8) // 2}H", jpeg[12 : 4 + size])
    return mcus, columns, rows, lengths


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # torchvision wants it done by others
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_decoder_reads_the_pixels_of_the_untiled_jpeg(height: int, width: int) -> None:
    rgb = picture(height, width)
    for quality in (50, 90):
        tiled, plain = encode_tiled(rgb, quality), untiled(rgb, quality)
        assert np.array_equal(pixels(tiled), pixels(plain))
        by_torchvision = [decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)) for jpeg in (tiled, plain)]
        assert torch.equal(*by_torchvision)
        assert pixels(tiled).shape == rgb.shape


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_index_names_the_segments_that_are_there(height: int, width: int) -> None:
    jpeg = encode_tiled(picture(height, width), 90)
    mcus, columns, rows, lengths = index_of(jpeg)
    assert (rows, columns * mcus) == (-(-height // 16), -(-width // 16))
    assert len(lengths) == rows * columns
    start_of_scan = jpeg.index(b"\xff\xda")
    data = jpeg[start_of_scan + 2 + int.from_bytes(jpeg[start_of_scan + 2 : start_of_scan + 4], "big") : -2]
    parts = re.split(rb"\xff([\xd0-\xd7])", data)  # data, marker, data, marker, ...
    assert [len(part) for part in parts[::2]] == lengths
    assert [marker[0] - 0xD0 for marker in parts[1::2]] == [number % 8 for number in range(len(lengths) - 1)]
    restart_interval = jpeg.index(b"\xff\xdd\x00\x04") + 4
    assert int.from_bytes(jpeg[restart_interval : restart_interval + 2], "big") == mcus


def test_segments_are_about_64_pixels_wide() -> None:
    assert [segment_mcus(20, columns) for columns in (32, 24, 25, 22, 21, 18)] == [4, 4, 5, 2, 3, 3]
    assert [segment_mcus(20, prime) for prime in (1, 2, 23, 31)] == [1, 2, 23, 31]  # one segment a row
    assert segment_mcus(1024, 1024) == 64  # of 32, there would be 32,768 in an index for 32,760


def test_an_image_of_too_many_bytes_for_an_index_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16 * 211, 3), np.uint8)  # a prime: one segment
    jpeg = encode_tiled(noise, 100)
    assert len(jpeg) > 1 << 16
    assert tiles.IDENTIFIER not in jpeg
    assert np.array_equal(pixels(jpeg), pixels(untiled(noise, 100)))
    monkeypatch.setattr(tiles, "MOST_SEGMENTS", 3)
    rgb = picture(64, 64)
    assert tiles.IDENTIFIER not in encode_tiled(rgb, 90)
    assert tiles.IDENTIFIER in encode_tiled(rgb[:48], 90)


def test_markers_cost_no_more_than_optimised_tables_save() -> None:
    rgb = picture(375, 500)
    assert len(encode_tiled(rgb, 90)) <= len(untiled(rgb, 90))


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (65501, 1, 3)])
def test_sizes_that_no_jpeg_has_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"an image of {shape[0]} x {shape[1]} pixels .* 1 to 65500 pixels\."):
        encode_tiled(np.zeros(shape, np.uint8), 90)
