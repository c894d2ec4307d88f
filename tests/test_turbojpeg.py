"""JPEGs are decoded to PIL's pixels, and what cannot be decoded is found out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.loaders import ffcv_fault

if fault := ffcv_fault():
    pytest.skip(fault, allow_module_level=True)

from datamodules.turbojpeg import decode_rgb


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """Waves under noise."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.sin(y / 7 + 2), np.sin((x + y) / 11)], axis=-1)
    return np.clip(127.5 + 90 * waves + np.random.default_rng(0).normal(0, 20, waves.shape), 0, 255).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **settings)
    return buffer.getvalue()


def decoded(data: bytes, height: int, width: int) -> NDArray[np.uint8] | None:
    pixels = np.full((height * width + 1) * 3, 77, np.uint8)
    good = decode_rgb(np.frombuffer(data, np.uint8), len(data), height, width, pixels)
    assert (pixels[-3:] == 77).all()  # nothing behind the image
    return pixels[:-3].reshape(height, width, 3) if good else None


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 4), (17, 40), (75, 100)])
@pytest.mark.parametrize("settings", [{}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 30}, {"optimize": True}])
def test_pixels_are_pils(height: int, width: int, settings: dict[str, object]) -> None:
    data = jpeg(photo(height, width), **settings)
    assert np.array_equal(decoded(data, height, width), np.asarray(Image.open(io.BytesIO(data))))


def test_progressive_and_grey_images_too() -> None:
    data = jpeg(photo(50, 60), progressive=True)
    assert np.array_equal(decoded(data, 50, 60), np.asarray(Image.open(io.BytesIO(data))))
    grey = jpeg(photo(50, 60)[..., 0])
    assert np.array_equal(decoded(grey, 50, 60), np.asarray(Image.open(io.BytesIO(grey)).convert("RGB")))


def test_what_is_no_whole_jpeg_of_its_size_is_found_out() -> None:
    data = jpeg(photo(50, 60))
    assert decoded(data, 50, 60) is not None
    assert decoded(data, 60, 50) is None
    assert decoded(data, 49, 60) is None
    for length in (0, 1, 2, 100, len(data) // 2, len(data) - 40):
        assert decoded(data[:length], 50, 60) is None, length
    assert decoded(data[:200] + bytes(len(data) - 200), 50, 60) is None
    assert decoded(b"\x89PNG\r\n\x1a\n" + bytes(1000), 50, 60) is None
