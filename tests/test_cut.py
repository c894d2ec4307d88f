"""The compiled kernels do to the bit what numpy does, at every place and for any number of channels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.augment import COLUMNS, HEIGHT, LEFT, MIRROR, TOP, WIDTH, PaddedCropFlip, cut_same_size
from datamodules.cut import cut_batch, cut_one

CHECKOUT = Path(__file__).resolve().parent.parent


def dirty(*shape: int) -> NDArray[np.uint8]:
    """Memory in which nothing is right by chance."""
    return np.random.default_rng(9).integers(1, 255, shape, np.uint8)


def boxes_of(rows: list[tuple[int, ...]], height: int, width: int) -> NDArray[np.int32]:
    """top, left, mirror, hole top, hole left, hole size."""
    boxes = np.zeros((len(rows), COLUMNS), np.int32)
    boxes[:, [TOP, LEFT, MIRROR, 5, 6, 7]] = rows
    boxes[:, HEIGHT], boxes[:, WIDTH] = height, width
    return boxes


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(6, 5), (1, 1), (1, 9), (9, 1), (28, 28), (32, 32)])
def test_every_shift_on_both_sides_is_that_of_numpy(height: int, width: int, channels: int) -> None:
    far = 3
    tops = [*range(-far, far + 1), -height, height, -height - 1, height + 1, -(2**20), 2**20]
    lefts = [*range(-far, far + 1), -width, width, 1 - width, width - 1, -(2**20), 2**20]
    rows = [(top, left, mirror, 0, 0, 0) for top in tops for left in lefts for mirror in (0, 1)]
    images = np.random.default_rng(0).integers(1, 256, (7, height, width, channels), np.uint8)
    samples = np.random.default_rng(1).integers(0, 7, len(rows))
    boxes = boxes_of(rows, height, width)
    batch = dirty(len(rows), height, width, channels)
    cut_batch(images, samples, boxes, np.zeros(channels, np.uint8), batch)
    assert np.array_equal(batch, cut_same_size(images[samples], boxes))


@pytest.mark.parametrize("channels", [1, 3])
def test_holes_are_those_of_numpy(channels: int) -> None:
    height, width, fill = 7, 5, np.array([11, 22, 33][:channels], np.uint8)
    rows = [
        (1, -1, mirror, top, left, size)
        for mirror in (0, 1)
        for size in (0, 1, 2, 5, 9, 2**20)
        for top in (-9, -2, -1, 0, 3, 6, 7)
        for left in (-9, -1, 0, 2, 4, 5, 6)
    ]
    images = np.random.default_rng(0).integers(40, 256, (len(rows), height, width, channels), np.uint8)
    boxes = boxes_of(rows, height, width)
    batch = dirty(*images.shape)
    cut_batch(images, np.arange(len(rows)), boxes, fill, batch)
    assert np.array_equal(batch, cut_same_size(images, boxes, fill))
    for image, (_, _, _, top, left, size) in zip(batch, rows, strict=True):
        inside = [(y, x) for y in range(height) for x in range(width) if top <= y < top + size]
        inside = [(y, x) for y, x in inside if left <= x < left + size]
        assert all((image[y, x] == fill).all() for y, x in inside)


def test_a_mirrored_shift_with_a_hole_by_hand() -> None:
    """Down by one, left by one, mirrored; the hole at the lower right lies half outside."""
    image = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
    box = boxes_of([(-1, 1, 1, 2, 1, 2)], 3, 3)[0]
    found = dirty(3, 3, 1)
    cut_one(image.reshape(-1), box, np.array([77], np.uint8), found)
    assert found[..., 0].tolist() == [[0, 0, 0], [0, 3, 2], [0, 77, 77]]


def test_memory_that_may_only_be_read_is_read() -> None:
    images = np.random.default_rng(0).integers(1, 256, (3, 8, 8, 3), np.uint8)
    expected = images[[2, 0]].copy()
    images.flags.writeable = False
    batch = dirty(2, 8, 8, 3)
    cut_batch(images, np.array([2, 0]), boxes_of([(0,) * 6] * 2, 8, 8), np.zeros(3, np.uint8), batch)
    assert np.array_equal(batch, expected)


def test_an_augmentation_is_carried_out_alike() -> None:
    images = np.random.default_rng(0).integers(0, 256, (500, 32, 32, 3), np.uint8)
    augmentation = PaddedCropFlip(4, 0.5, hole=16, fill=(125, 123, 114))
    samples = np.random.default_rng(1).permutation(500)
    boxes = augmentation.boxes(3, 4, samples, *(np.full(500, 32) for _ in range(2)))
    batch = dirty(500, 32, 32, 3)
    cut_batch(images, samples, boxes, np.array(augmentation.fill, np.uint8), batch)
    assert np.array_equal(batch, cut_same_size(images[samples], boxes, np.array(augmentation.fill, np.uint8)))


def test_kernels_are_compiled_once_per_machine(tmp_path: Path) -> None:
    """The second process finds on disk what the first compiled."""
    program = (
        "import numpy as np; from datamodules.cut import cut_batch\n"
        "cut_batch(np.ones((2, 4, 4, 3), np.uint8), np.arange(2), np.zeros((2, 8), np.int32), np.zeros(3, np.uint8), "
        "np.ones((2, 4, 4, 3), np.uint8))\n"
        "print(sum(cut_batch.stats.cache_hits.values()), sum(cut_batch.stats.cache_misses.values()))"
    )
    environment = {"PYTHONPATH": str(CHECKOUT), "NUMBA_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    found = [
        subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [each.stdout.split() for each in found] == [["0", "1"], ["1", "0"]]
