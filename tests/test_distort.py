"""Distorted digits: by hand, against SciPy and torchvision, the same from both loaders and for any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from datamodules.augment import uniform
from datamodules.batches import Reading
from datamodules.distort import DistortedBatches, Distortion, gaussian, sampled
from datamodules.loaders import ArrayBatches
from datamodules.originals import DataError, ImageArray

EVERYTHING = {"translate": 2.0, "scale": 0.1, "squeeze": 0.1, "shear": 0.2}


def blobs(count: int, height: int = 28, width: int = 28) -> torch.Tensor:
    """Smooth images, uint8 [B, H, W, 1], so that half a pixel here or there is a small difference."""
    noise = np.random.default_rng(0).random((count, height, width))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return torch.from_numpy(np.rint(255 * smooth).astype(np.uint8))[..., None]


def numbers(count: int) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64)


def assert_levels(found: torch.Tensor, expected: NDArray[Any], levels: float = 0.51) -> None:
    """Equal but for rounding to whole grey levels."""
    assert found.shape[:-1] == expected.shape
    assert np.abs(found[..., 0].numpy() - expected).max() <= levels


def test_nothing_asked_for_is_nothing_done_but_a_border() -> None:
    images = blobs(3)
    assert torch.equal(Distortion(28)(images, 0, 0, numbers(3)), images)
    bordered = Distortion(32)(images, 0, 0, numbers(3))
    assert torch.equal(bordered, torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2)))
    assert not Distortion(28)
    assert not Distortion(28, translate=1.0, share=0.0)
    assert all(Distortion(28, **{kind: 0.1}) for kind in ("translate", "scale", "squeeze", "shear", "elastic"))


def test_points_are_moved_as_the_words_say() -> None:
    """Each kind alone, with its draw put back in by hand."""
    samples = numbers(50)

    def drawn(draw: int) -> NDArray[np.float64]:
        return 2 * uniform(3, 4, samples, draw) - 1

    corner = np.array([10.0, 5.0, 1.0])  # right of the middle, and below it
    moved = Distortion(28, translate=2.0).matrices(3, 4, samples) @ corner
    np.testing.assert_allclose(moved, np.stack([10 + 2 * drawn(301), 5 + 2 * drawn(302)], axis=1))
    moved = Distortion(28, scale=0.1).matrices(3, 4, samples) @ corner
    np.testing.assert_allclose(moved, np.outer(1 + 0.1 * drawn(303), [10, 5]))
    moved = Distortion(28, squeeze=0.1).matrices(3, 4, samples) @ corner
    np.testing.assert_allclose(moved.prod(axis=1), 50)  # wider is flatter
    np.testing.assert_allclose(moved[:, 0], 10 * (1 + 0.1 * drawn(304)))
    moved = Distortion(28, shear=0.2).matrices(3, 4, samples) @ corner
    np.testing.assert_allclose(moved, np.stack([10 + 0.2 * 5 * drawn(305), np.full(50, 5.0)], axis=1))


def test_a_whole_step_of_translation_moves_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three to the right and two down, with zeros behind."""
    matrices = np.array([[[1.0, 0.0, 3.0], [0.0, 1.0, 2.0]]])
    monkeypatch.setattr(Distortion, "matrices", lambda *_: matrices)
    image = blobs(1)
    found = Distortion(28, translate=1.0)(image, 0, 0, numbers(1))
    assert torch.equal(found[0, 2:, 3:], image[0, :-2, :-3])
    assert not found[0, :2].any()
    assert not found[0, :, :3].any()


@pytest.mark.parametrize("size", [28, 32])
def test_affine_distortions_are_those_of_scipy(size: int) -> None:
    """SciPy wants where each pixel (row, column) comes from: the inverse map, and the middle where it belongs."""
    images = blobs(20)
    distortion = Distortion(size, **EVERYTHING)
    found = distortion(images, 7, 2, numbers(20))
    flip = np.array([[0.0, 1.0], [1.0, 0.0]])  # (x, y) to (row, column)
    for image, result, matrix in zip(images, found, distortion.matrices(7, 2, numbers(20)), strict=True):
        inverse = np.linalg.inv(flip @ matrix[:, :2] @ flip)
        offset = (28 - 1) / 2 - inverse @ (flip @ matrix[:, 2] + (size - 1) / 2)
        expected = ndimage.affine_transform(
            image[..., 0].double().numpy(), inverse, offset, (size, size), order=1, mode="grid-constant"
        )
        assert_levels(result, expected)


def test_a_shear_is_that_of_torchvision() -> None:
    """A third, which knows of angles: the tangent of torchvision's x angle is our shear."""
    images = blobs(10)
    distortion = Distortion(28, shear=0.3)
    found = distortion(images, 1, 1, numbers(10))
    for image, result, matrix in zip(images, found, distortion.matrices(1, 1, numbers(10)), strict=True):
        expected = affine(
            image.permute(2, 0, 1).float(),
            angle=0.0,
            translate=[0, 0],
            scale=1.0,
            shear=[-float(np.rad2deg(np.arctan(matrix[0, 1]))), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        assert_levels(result, expected[0].numpy(), levels=1.0)


def test_the_share_that_is_not_distorted_is_left_alone() -> None:
    images = blobs(1).expand(2000, -1, -1, -1)
    found = Distortion(28, translate=3.0, elastic=34.0, share=0.7)(images, 0, 0, numbers(2000))
    same = (found == images).flatten(1).all(1).double().mean().item()
    assert same == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 2000))


def test_draws_fill_their_range_evenly() -> None:
    matrices = Distortion(28, **EVERYTHING).matrices(0, 0, numbers(20_000))
    for found, bound in ((matrices[:, 0, 2], 2.0), (matrices[:, 1, 2], 2.0), (matrices[:, 0, 1], 0.2)):
        assert np.abs(found).max() <= bound
        assert found.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
        assert found.mean() == pytest.approx(0, abs=0.02 * bound)
    correlations = np.corrcoef(matrices[:, [0, 0, 1], [1, 2, 2]].T)
    assert np.abs(correlations - np.eye(3)).max() < 0.03


def test_distortions_depend_on_seed_epoch_and_sample_only() -> None:
    images = blobs(1).expand(6, -1, -1, -1)
    distortion = Distortion(28, **EVERYTHING, elastic=34.0)
    together = distortion(images, 5, 6, np.array([9, 4, 4, 0, 60_000, 9]))
    for place, sample in enumerate([9, 4, 4, 0, 60_000, 9]):
        alone = distortion(images[:1], 5, 6, np.array([sample]))
        assert torch.equal(alone[0], together[place])
    assert torch.equal(together[0], together[5])
    assert not torch.equal(together[0], together[1])
    for seed, epoch in ((5, 7), (6, 6)):
        assert not torch.equal(distortion(images[:1], seed, epoch, np.array([9]))[0], together[0])


# Elastic --------------------------------------------------------------------------------------------------------------


def test_elastic_fields_are_smoothed_uniform_noise() -> None:
    """One draw a point, as the definition has it; smoothed by SciPy."""
    samples = np.array([3, 8])
    found = Distortion(9, elastic=20.0, elastic_sigma=1.5).fields(1, 2, samples)
    assert found.shape == (2, 2, 9, 9)
    for direction in range(2):
        draws = [1000 + direction * 81 + point for point in range(81)]
        noise = np.stack([2 * uniform(1, 2, samples, draw) - 1 for draw in draws], axis=1).reshape(2, 9, 9)
        expected = 20 * ndimage.gaussian_filter(noise, (0, 1.5, 1.5), mode="constant", truncate=8)
        np.testing.assert_allclose(found[:, direction], expected, atol=1e-9)


def test_elastic_distortions_are_those_of_scipy() -> None:
    images = blobs(5)
    distortion = Distortion(28, elastic=34.0)
    fields = distortion.fields(0, 0, numbers(5))
    assert 0.5 < np.abs(fields).max() < 10  # pixels
    rows, columns = np.mgrid[:28, :28]
    for image, result, (right, down) in zip(images, distortion(images, 0, 0, numbers(5)), fields, strict=True):
        expected = ndimage.map_coordinates(
            image[..., 0].double().numpy(), [rows + down, columns + right], order=1, mode="grid-constant"
        )
        assert_levels(result, expected)


def test_a_gaussian_adds_up_to_one_far_from_the_ends() -> None:
    matrix = gaussian(101, 3.0)
    assert matrix[50].sum() == pytest.approx(1)
    assert matrix[0].sum() == pytest.approx(0.5 + 0.5 * matrix[50, 50])  # half of it, and its middle, lie inside
    assert np.allclose(matrix, matrix.T)


def test_sampling_between_two_pixels_is_their_mean() -> None:
    image = torch.tensor([[[[10], [30]], [[50], [70]]]], dtype=torch.uint8)  # [1, 2, 2, 1]
    points = np.array([[0.0, 0.5, -0.5], [0.0, -0.5, 0.0]]).reshape(1, 2, 1, 3)  # the middle; two others
    assert sampled(image, points).flatten().tolist() == [40, 30, 30]


# Batches --------------------------------------------------------------------------------------------------------------


def test_batches_of_any_number_of_ranks_are_distorted_alike() -> None:
    images = blobs(24)
    arrays = ImageArray(images.numpy(), np.arange(24), ("all",), {})

    def by_label(rank: int, world_size: int, epoch: int) -> dict[int, torch.Tensor]:
        reading = Reading(numbers(24), 12 // world_size, True, seed=3, rank=rank, world_size=world_size)
        batches = DistortedBatches(ArrayBatches(reading, arrays), Distortion(28, **EVERYTHING))
        batches.sampler.set_epoch(epoch)
        assert len(batches) == 2
        return {int(label): image for found, labels in batches for image, label in zip(found, labels, strict=True)}

    alone = by_label(0, 1, epoch=1)
    shared = by_label(0, 2, epoch=1) | by_label(1, 2, epoch=1)
    assert sorted(alone) == sorted(shared) == list(range(24))
    assert all(torch.equal(image, shared[label]) for label, image in alone.items())
    direct = Distortion(28, **EVERYTHING)(images, 3, 1, numbers(24))
    assert all(torch.equal(image, direct[label]) for label, image in alone.items())
    later = by_label(0, 1, epoch=2)
    assert not any(torch.equal(image, later[label]) for label, image in alone.items())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"translate": -1.0}, "translate (=-1.0) must not be negative; 0 is none."),
        ({"shear": -0.5}, "shear (=-0.5) must not be negative; 0 is none."),
        ({"elastic": -34.0}, "elastic (=-34.0) must not be negative; 0 is none."),
        ({"scale": 1.0}, "scale (=1.0) must lie in [0, 1); 0 is none."),
        ({"squeeze": -0.1}, "squeeze (=-0.1) must lie in [0, 1); 0 is none."),
        ({"elastic_sigma": 0.0}, "elastic_sigma (=0.0) must be positive: 4 pixels in the paper."),
        ({"share": 1.1}, "distorted (=1.1) must lie in [0, 1]: it is the share of distorted images."),
    ],
)
def test_distortions_that_cannot_be_are_refused(setting: Any, message: str) -> None:
    with pytest.raises(DataError) as refusal:
        Distortion(28, **setting)
    assert str(refusal.value) == f"data.init_args.{message}"
