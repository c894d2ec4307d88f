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
from datamodules.tiles import encode_tiled, is_tiled, segment_mcus, splice

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


# A part of it ---------------------------------------------------------------------------------------------------------


def part_of(jpeg: bytes, window: tuple[int, int, int, int]) -> tuple[bytes, list[int]] | None:
    """The JPEG of the segments that `window` touches, its size and the window's place in it; None if damaged."""
    part, place = np.full(len(jpeg) + 6, 77, np.uint8), np.zeros(4, np.int64)
    size = splice(np.frombuffer(jpeg, np.uint8), *window, part[:-2], place)
    assert (part[-2:] == 77).all()
    return (part[:size].tobytes(), place.tolist()) if size else None


def windows(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """The whole, the corners' pixels, and random ones."""
    rng = np.random.default_rng(0)
    found = [(0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1), (0, width - 1, height, 1)]
    for _ in range(40):
        top, left = (int(rng.integers(length)) for length in (height, width))
        found.append((top, left, 1 + int(rng.integers(height - top)), 1 + int(rng.integers(width - left))))
    return found


@pytest.mark.parametrize(("height", "width"), [*SIZES, (40, 66), (40, 67), (40, 68), (40, 69), (33, 132)])
def test_inside_the_window_a_part_is_the_whole_to_the_bit(height: int, width: int) -> None:
    jpeg = encode_tiled(picture(height, width), 90)
    whole = pixels(jpeg)
    for window in windows(height, width):
        spliced = part_of(jpeg, window)
        assert spliced is not None
        part, (part_height, part_width, top, left) = spliced
        decoded = pixels(part)
        assert decoded.shape == (part_height, part_width, 3)
        found = decoded[top : top + window[2], left : left + window[3]]
        assert np.array_equal(found, whole[window[0] : window[0] + window[2], window[1] : window[1] + window[3]])


def test_a_part_has_the_segments_around_the_window_only() -> None:
    jpeg = encode_tiled(picture(375, 500), 90)
    for window, expected in [
        ((0, 0, 375, 500), [375, 500, 0, 0]),
        ((17, 65, 10, 10), [16, 64, 1, 1]),
        ((16, 64, 16, 64), [48, 192, 16, 64]),  # one pixel further, above, below and on both sides
        ((370, 490, 5, 10), [7, 52, 2, 42]),
    ]:
        spliced = part_of(jpeg, window)
        assert spliced is not None
        assert spliced[1] == expected
        if window[2] < 375:
            assert len(spliced[0]) < 0.2 * len(jpeg)


def test_only_what_begins_with_an_index_is_tiled() -> None:
    jpeg = encode_tiled(picture(20, 30), 90)
    assert is_tiled(np.frombuffer(jpeg, np.uint8))
    for other in (untiled(picture(20, 30), 90), b"", jpeg[:17], jpeg[:6] + b"TILED\0" + jpeg[12:]):
        assert not is_tiled(np.frombuffer(other, np.uint8))


def test_damage_is_found_out_or_left_to_the_decoder_and_never_leads_outside() -> None:
    jpeg = encode_tiled(picture(100, 176), 90)
    window = (50, 60, 40, 100)
    whole = part_of(jpeg, window)
    assert whole is not None
    header = jpeg.index(b"\xff\xda")
    damaged = [jpeg[:length] for length in range(18, header + 14, 7)] + [jpeg[: len(jpeg) // 2]]
    damaged.append(jpeg[:12] + b"\0\0" + jpeg[14:])  # no MCU in a segment
    damaged.append(jpeg[:12] + b"\2\0" + jpeg[14:])  # another number than the row's
    damaged.append(jpeg[:16] + b"\1\0" + jpeg[18:])  # one row only
    damaged.append(jpeg[:18] + b"\xff\xff" + jpeg[20:])  # a first segment of 65,535 bytes
    size = jpeg.index(b"\xff\xc0") + 5
    damaged.append(jpeg[:size] + b"\0\x61" + jpeg[size + 2 :])  # a height of 97, and the window ends at 100
    window = (60, 60, 40, 100)
    assert [part_of(bytes_, window) for bytes_ in damaged] == [None] * len(damaged)
    rng = np.random.default_rng(0)
    for _ in range(500):
        broken = bytearray(jpeg)
        for at in rng.integers(12, header + 40, 3):
            broken[at] = rng.integers(256)
        part_of(bytes(broken), window)  # checks that nothing is written behind its end
