"""The compiled resize is PIL's antialiased bilinear one, to one grey level."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.resample import resize_window, triangle_weights


def resized(
    pixels: NDArray[np.uint8], window: tuple[int, int, int, int], size: tuple[int, int], mirror: bool = False
) -> NDArray[np.uint8]:
    image = np.empty((*size, 3), np.uint8)
    resize_window(pixels.reshape(-1), 3 * pixels.shape[1], *window, mirror, image)
    return image


def by_pil(
    pixels: NDArray[np.uint8], window: tuple[int, int, int, int], size: tuple[int, int], mirror: bool = False
) -> NDArray[np.uint8]:
    top, left, height, width = window
    crop = Image.fromarray(pixels).crop((left, top, left + width, top + height))
    image = np.asarray(crop.resize(size[::-1], Image.Resampling.BILINEAR))
    return image[:, ::-1] if mirror else image


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """Grey levels far apart side by side: the hardest case for agreement."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def test_random_windows_are_pils_within_one_grey_level() -> None:
    pixels = noise(97, 131)
    rng = np.random.default_rng(0)
    differences = []
    for number in range(300):
        top, left = rng.integers(0, (97, 131))
        height, width = 1 + rng.integers(0, (97 - top, 131 - left))
        size = (32, 32) if number % 2 else (int(rng.integers(1, 80)), int(rng.integers(1, 80)))
        case = (pixels, (int(top), int(left), int(height), int(width)), size, number % 3 == 0)
        difference = np.abs(resized(*case).astype(int) - by_pil(*case))
        assert difference.max() <= 1, case[1:]
        differences.append(difference.mean())
    assert np.mean(differences) < 0.2  # PIL rounds twice, this once


@pytest.mark.parametrize(
    "window",
    [
        (0, 0, 40, 50),
        (0, 0, 1, 1),
        (39, 49, 1, 1),
        (0, 49, 40, 1),
        (39, 0, 1, 50),
        (38, 48, 2, 2),
        (0, 0, 40, 3),
        (5, 7, 16, 16),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16), (100, 90)])
def test_windows_at_the_border_and_of_a_pixel(window: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    pixels = noise(40, 50)
    for mirror in (False, True):
        found, expected = resized(pixels, window, size, mirror), by_pil(pixels, window, size, mirror)
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_window_of_the_size_of_the_result_is_copied() -> None:
    pixels = noise(40, 50)
    assert np.array_equal(resized(pixels, (3, 5, 30, 20), (30, 20)), pixels[3:33, 5:25])
    assert np.array_equal(resized(pixels, (3, 5, 30, 20), (30, 20), mirror=True), pixels[3:33, 5:25][:, ::-1])


def test_what_is_around_the_window_does_not_count() -> None:
    pixels = noise(40, 50)
    framed = np.full_like(pixels, 255)
    framed[10:30, 12:41] = pixels[10:30, 12:41]
    for size in [(9, 9), (64, 64)]:
        assert np.array_equal(resized(pixels, (10, 12, 20, 29), size), resized(framed, (10, 12, 20, 29), size))


def test_black_and_white_stay_so() -> None:
    for level in (0, 255):
        pixels = np.full((37, 53, 3), level, np.uint8)
        assert (resized(pixels, (1, 2, 35, 50), (16, 24)) == level).all()
        assert (resized(pixels, (1, 2, 5, 7), (16, 24)) == level).all()


def test_nothing_is_written_beside_the_image() -> None:
    batch = np.full((3, 6, 5, 3), 77, np.uint8)
    pixels = noise(40, 50)
    for mirror in (False, True):
        resize_window(pixels.reshape(-1), 150, 2, 3, 30, 40, mirror, batch[1])
        assert (batch[[0, 2]] == 77).all()


def test_weights_are_those_of_a_triangle_worked_out_by_hand() -> None:
    """8 pixels to 4: s = 2, centres 1, 3, 5, 7, the triangle is 2 wide on either side; at the border it is cut."""
    starts, weights = triangle_weights(8, 4)
    assert starts.tolist() == [0, 1, 3, 5]
    expected = np.array([[3, 3, 1, 0], [1, 3, 3, 1], [1, 3, 3, 1], [1, 3, 3, 0]]) / [[7], [8], [8], [7]]
    assert np.allclose(weights, expected)
