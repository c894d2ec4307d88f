"""Random decisions depend on their four arguments only, are spread as they should be, and are carried out exactly."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from torchvision import transforms

from datamodules import augment
from datamodules.augment import (
    HEIGHT,
    HOLE_LEFT,
    HOLE_SIZE,
    HOLE_TOP,
    LEFT,
    MIRROR,
    TOP,
    WIDTH,
    Growth,
    PaddedCropFlip,
    RandomResizedCrop,
    ScaleJitter,
    colour_offsets,
    cut_same_size,
    size_in,
)

# All seeds are fixed, so a p-value is the same in every run: below this one the draws are not what they claim.
SMALLEST_P = 1e-3
EXTREME_SHAPES = [(1, 1), (1, 2), (1, 17), (17, 1), (1, 1000), (1000, 1), (2000, 10), (10, 2000), (2, 3), (333, 500)]


def uniform(seed: int, epoch: int, draw: int, count: int = 20_000) -> NDArray[np.float64]:
    return augment.uniform(seed, epoch, np.arange(count), draw)


def sizes(height: int, width: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.full(count, height), np.full(count, width)


# Uniform numbers ------------------------------------------------------------------------------------------------------


def test_the_mixing_is_splitmix64() -> None:
    """The first numbers of splitmix64 started at 1234567, as published with its reference implementation in C."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * augment.GOLDEN
    assert augment._mix(states).tolist() == expected


def test_uniform_is_what_whole_numbers_without_overflow_give() -> None:
    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    golden = 0x9E3779B97F4A7C15

    def by_hand(seed: int, epoch: int, sample: int, draw: int) -> float:
        key = mix(mix((seed + golden) % 2**64) ^ (epoch * golden + 1) % 2**64)
        key = mix(key ^ mix((sample * golden + 1) % 2**64))
        return (mix((key + (draw + 1) * golden) % 2**64) >> 11) / 2**53

    for seed, epoch, sample, draw in [(0, 0, 0, 0), (1, 0, 0, 0), (42, 89, 1_281_166, 102), (2**32 - 1, 7, 5, 3)]:
        found = augment.uniform(seed, epoch, np.array([sample]), draw)
        assert found.tolist() == [by_hand(seed, epoch, sample, draw)]


def test_uniform_does_not_depend_on_the_batch() -> None:
    samples = np.arange(1000)
    whole = augment.uniform(3, 5, samples, 2)
    order = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(augment.uniform(3, 5, order, 2), whole[order])
    parts = [augment.uniform(3, 5, part, 2) for part in np.split(samples, [1, 8, 9, 500])]
    assert np.array_equal(np.concatenate(parts), whole)
    assert augment.uniform(3, 5, np.array([], np.int64), 2).shape == (0,)


def test_uniform_differs_for_every_seed_epoch_sample_and_draw() -> None:
    """64-bit keys: among 80 000 numbers not two are alike."""
    numbers = np.concatenate(
        [uniform(seed, epoch, draw, 2500) for seed in range(4) for epoch in range(4) for draw in (0, 1)]
    )
    assert len(np.unique(numbers)) == len(numbers) == 80_000


def test_epoch_of_one_seed_is_not_the_next_epoch_of_the_seed_before() -> None:
    """FFCV's own order comes from seed + epoch, so runs with neighbouring seeds share their permutations."""
    for seed, epoch in [(0, 0), (1, 2), (41, 7)]:
        assert not np.isin(uniform(seed, epoch + 1, 0), uniform(seed + 1, epoch, 0)).any()


@pytest.mark.parametrize(("seed", "epoch", "draw"), [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (42, 89, 102)])
def test_uniform_is_uniform(seed: int, epoch: int, draw: int) -> None:
    numbers = uniform(seed, epoch, draw)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > SMALLEST_P
    counts = np.histogram(numbers, bins=256, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > SMALLEST_P
    assert abs(numbers.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / len(numbers))
    assert abs(numbers.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / len(numbers))  # 1/180: variance of (u - 1/2)^2


def test_uniform_of_neighbours_is_not_correlated() -> None:
    """Neighbouring samples, epochs, seeds and draws: correlations within four standard errors of 0."""
    here = uniform(5, 5, 5)
    others = [uniform(5, 5, 6), uniform(5, 6, 5), uniform(6, 5, 5), uniform(6, 4, 5), np.roll(here, 1), here[::-1]]
    correlations = np.array([np.corrcoef(here, other)[0, 1] for other in others])
    assert (np.abs(correlations) < 4 / np.sqrt(len(here))).all(), correlations


def test_uniform_of_one_sample_over_epochs_is_uniform() -> None:
    """What one image meets in the course of a long training."""
    numbers = np.concatenate([augment.uniform(0, epoch, np.array([17]), 0) for epoch in range(2000)])
    assert stats.kstest(numbers, "uniform").pvalue > SMALLEST_P


# Padded crop and flip -------------------------------------------------------------------------------------------------


def test_padded_crop_takes_every_place_and_side_equally_often() -> None:
    pad, count = 4, 40_000
    boxes = PaddedCropFlip(pad, 0.5).boxes(1, 2, np.arange(count), *sizes(32, 32, count))
    assert boxes.dtype == np.int32
    assert (boxes[:, HEIGHT] == 32).all()
    assert (boxes[:, WIDTH] == 32).all()
    for column in (TOP, LEFT):
        assert boxes[:, column].min() == -pad
        assert boxes[:, column].max() == pad
    cells = (boxes[:, TOP] + pad) * 18 + (boxes[:, LEFT] + pad) * 2 + boxes[:, MIRROR]
    counts = np.bincount(cells, minlength=9 * 9 * 2)
    assert len(counts) == 9 * 9 * 2
    assert counts.min() > 0
    assert stats.chisquare(counts).pvalue > SMALLEST_P  # so the three draws are independent, too


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.5, 1.0])
def test_images_are_mirrored_as_often_as_asked(flip: float) -> None:
    count = 20_000
    for augmentation in (PaddedCropFlip(0, flip), RandomResizedCrop(flip=flip), ScaleJitter(24, (24, 48), flip)):
        boxes = augmentation.boxes(0, 0, np.arange(count), *sizes(32, 32, count))
        mirrored = int(boxes[:, MIRROR].sum())
        if flip in (0.0, 1.0):
            assert mirrored == flip * count
        else:
            assert stats.binomtest(mirrored, count, flip).pvalue > SMALLEST_P


def test_without_padding_the_image_stays_where_it_is() -> None:
    boxes = PaddedCropFlip(0, 0.0).boxes(0, 0, np.arange(50), *sizes(5, 7, 50))
    assert boxes.tolist() == [[0, 0, 5, 7, 0, 0, 0, 0]] * 50


# Cutout ---------------------------------------------------------------------------------------------------------------


def test_holes_are_centred_on_every_pixel_equally_often() -> None:
    """Of an image that is higher than wide; the draws of the hole are independent of each other and of the crop's."""
    count, height, width = 40_000, 12, 9
    boxes = PaddedCropFlip(2, 0.5, hole=6).boxes(1, 2, np.arange(count), *sizes(height, width, count))
    assert (boxes[:, HOLE_SIZE] == 6).all()
    rows, columns = boxes[:, HOLE_TOP] + 3, boxes[:, HOLE_LEFT] + 3
    counts = np.bincount(rows * width + columns, minlength=height * width)
    assert len(counts) == height * width
    assert stats.chisquare(counts).pvalue > SMALLEST_P
    for ours in (rows, columns):
        correlations = [np.corrcoef(ours, boxes[:, column])[0, 1] for column in (TOP, LEFT, MIRROR)]
        assert (np.abs(correlations) < 4 / np.sqrt(count)).all()


def test_a_hole_changes_neither_crop_nor_mirror() -> None:
    """So that a network is trained on the same crops with cutout and without."""
    with_hole, without = (PaddedCropFlip(4, 0.5, hole).boxes(1, 2, np.arange(50), *sizes(8, 8, 50)) for hole in (5, 0))
    assert np.array_equal(with_hole[:, :5], without[:, :5])
    assert not without[:, 5:].any()


def mask_of_the_paper(height: int, width: int, length: int, y: int, x: int) -> NDArray[np.float32]:
    """uoguelph-mlrg/Cutout, util/cutout.py, for one hole centred on (y, x)."""
    mask = np.ones((height, width), np.float32)
    y1, y2 = np.clip(y - length // 2, 0, height), np.clip(y + length // 2, 0, height)
    x1, x2 = np.clip(x - length // 2, 0, width), np.clip(x + length // 2, 0, width)
    mask[y1:y2, x1:x2] = 0.0
    return mask


def test_a_hole_is_what_the_paper_masks_after_normalisation() -> None:
    """At every place: pixels that stay are the same, those in the hole are 0 to within half a grey level."""
    mean, std = np.array([0.4914, 0.4822, 0.4465]) * 255, np.array([0.2470, 0.2435, 0.2616]) * 255
    fill = np.rint(mean).astype(np.uint8)
    places = [(y, x) for y in range(10) for x in range(8)]
    images = np.random.default_rng(0).integers(0, 256, (80, 10, 8, 3), np.uint8)
    boxes = augment.whole_boxes(*sizes(10, 8, 80))
    boxes[:, HOLE_TOP], boxes[:, HOLE_LEFT] = np.array(places).T - 3
    boxes[:, HOLE_SIZE] = 6
    found = (cut_same_size(images, boxes, fill) - mean) / std
    masks = np.stack([mask_of_the_paper(10, 8, 6, y, x) for y, x in places])[..., None]
    assert np.abs(found - (images - mean) / std * masks).max() <= (0.5 / std).max()
    assert np.array_equal(found * masks, (images - mean) / std * masks)


def test_the_fill_has_one_level_for_each_channel() -> None:
    assert augment.fill_of(PaddedCropFlip(4, 0.5, 16, (125, 123, 114)), 3).tolist() == [125, 123, 114]
    assert augment.fill_of(PaddedCropFlip(4, 0.5, 16), 3).tolist() == [0, 0, 0]
    assert augment.fill_of(None, 1).tolist() == [0]
    with pytest.raises(ValueError, match="shape"):
        augment.fill_of(PaddedCropFlip(4, 0.5, 16, (1, 2, 3)), 4)


# Random resized crop --------------------------------------------------------------------------------------------------


def torchvision_boxes(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], count: int, seed: int
) -> NDArray[np.int64]:
    """Top, left, height, width of `count` crops as torchvision draws them. [count, 4]"""
    image = torch.empty(1, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        crops = [transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)]
    return np.array(crops)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, (0.08, 1.0), (3 / 4, 4 / 3)),
        (500, 333, (0.35, 1.0), (3 / 4, 4 / 3)),
        (100, 300, (0.3, 0.5), (3 / 4, 4 / 3)),  # most attempts do not fit
        (300, 100, (0.4, 0.6), (1 / 2, 2.0)),
    ],
)
def test_random_resized_crop_has_the_distribution_of_torchvision(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    count = 4000
    ours = RandomResizedCrop(scale, ratio, 0.5).boxes(7, 1, np.arange(count), *sizes(height, width, count))
    theirs = torchvision_boxes(height, width, scale, ratio, count, seed=0)

    def aspects(boxes: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        top, left, tall, wide = boxes[:, :4].T.astype(float)
        return {
            "area": tall * wide / (height * width),
            "ratio": wide / tall,
            "vertical centre": top + tall / 2,
            "horizontal centre": left + wide / 2,
        }

    found, expected = aspects(ours), aspects(theirs)
    p = {name: stats.ks_2samp(found[name], expected[name]).pvalue for name in expected}
    assert min(p.values()) > SMALLEST_P, p


@pytest.mark.parametrize(("height", "width"), EXTREME_SHAPES)
def test_crops_lie_inside_images_of_any_shape(height: int, width: int) -> None:
    count = 500
    boxes = RandomResizedCrop().boxes(0, 3, np.arange(count), *sizes(height, width, count))
    assert (boxes[:, [TOP, LEFT]] >= 0).all()
    assert (boxes[:, [HEIGHT, WIDTH]] >= 1).all()
    assert (boxes[:, TOP] + boxes[:, HEIGHT] <= height).all()
    assert (boxes[:, LEFT] + boxes[:, WIDTH] <= width).all()


@pytest.mark.parametrize(
    ("height", "width"), [(1, 4), (4, 1), (1, 1000), (1000, 1), (2000, 10), (10, 2000), (100, 151), (151, 100)]
)
def test_where_nothing_fits_the_crop_is_central_as_in_torchvision(height: int, width: int) -> None:
    """The whole area at a ratio of at least 3/4 never fits into these, so all ten attempts fail."""
    augmentation = RandomResizedCrop(scale=(1.0, 1.0), flip=0.0)
    boxes = augmentation.boxes(0, 0, np.arange(20), *sizes(height, width, 20))
    theirs = torchvision_boxes(height, width, (1.0, 1.0), augmentation.ratio, 1, seed=0)[0]
    assert boxes.tolist() == [[*theirs.tolist(), 0, 0, 0, 0]] * 20


def test_a_crop_is_tried_ten_times_before_the_central_one_is_taken() -> None:
    """One attempt fits with probability p, found from a million; so (1 - p)^10 of the crops are central."""
    height, width, scale, ratio, count = 60, 300, (0.2, 0.4), (3 / 4, 4 / 3), 40_000
    rng = np.random.default_rng(0)
    areas = height * width * rng.uniform(*scale, 1_000_000)
    ratios = np.exp(rng.uniform(*np.log(ratio), 1_000_000))
    p = ((np.rint(np.sqrt(areas * ratios)) <= width) & (np.rint(np.sqrt(areas / ratios)) <= height)).mean()
    assert 0.05 < p < 0.3
    boxes = RandomResizedCrop(scale, ratio, 0.0).boxes(0, 0, np.arange(count), *sizes(height, width, count))
    central = int((boxes[:, :4] == [0, 110, 60, 80]).all(axis=1).sum())  # by hand: 60 * 4/3 = 80 wide, in the middle
    assert stats.binomtest(central, count, (1 - p) ** 10).pvalue > SMALLEST_P


def test_a_batch_of_unequal_images_gets_the_boxes_of_each_alone() -> None:
    augmentation = RandomResizedCrop()
    heights, widths = (np.array(lengths) for lengths in zip(*EXTREME_SHAPES, strict=True))
    samples = np.arange(len(heights)) * 1000
    together = augmentation.boxes(3, 4, samples, heights, widths)
    for number in range(len(samples)):
        one = slice(number, number + 1)
        alone = augmentation.boxes(3, 4, samples[one], heights[one], widths[one])
        assert np.array_equal(alone[0], together[number])


def test_a_crop_of_the_whole_square_is_the_whole_square() -> None:
    boxes = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0).boxes(0, 0, np.arange(9), *sizes(24, 24, 9))
    assert boxes.tolist() == [[0, 0, 24, 24, 0, 0, 0, 0]] * 9


# Scale jitter and central square --------------------------------------------------------------------------------------


@pytest.mark.parametrize("central", [False, True])
def test_short_sides_are_whole_numbers_equally_often(central: bool) -> None:
    """On an image so large that the side of the box tells them apart: 224 / short side of it."""
    count, short = 40_000, 1_000_000
    boxes = ScaleJitter(224, (256, 480), 0.5, central).boxes(3, 4, np.arange(count), *sizes(short, 2 * short, count))
    assert (boxes[:, HEIGHT] == boxes[:, WIDTH]).all()
    short_sides = np.rint(224 * short / boxes[:, HEIGHT]).astype(int)
    assert (boxes[:, HEIGHT] == np.rint(224 * short / short_sides)).all()
    counts = np.bincount(short_sides - 256)
    assert len(counts) == 480 - 256 + 1
    assert stats.chisquare(counts).pvalue > SMALLEST_P


@pytest.mark.parametrize(("height", "width"), [(256, 256), (256, 384), (340, 256)])
def test_crops_of_an_image_already_resized_take_every_place_equally_often(height: int, width: int) -> None:
    """At a short side of 256 nothing is resized: the box is 224 pixels at each of 33 places of the short side."""
    count = 40_000
    boxes = ScaleJitter(224, (256, 256), 0.0).boxes(0, 1, np.arange(count), *sizes(height, width, count))
    assert (boxes[:, [HEIGHT, WIDTH]] == 224).all()
    for column, length in ((TOP, height), (LEFT, width)):
        counts = np.bincount(boxes[:, column])
        assert len(counts) == length - 224 + 1
        assert stats.chisquare(counts).pvalue > SMALLEST_P
    assert abs(np.corrcoef(boxes[:, TOP], boxes[:, LEFT])[0, 1]) < 4 / np.sqrt(count)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(256, 384, 0, 64), (500, 256, 122, 0), (256, 257, 0, 0)])
def test_central_crops_lie_in_the_central_square(height: int, width: int, top: int, left: int) -> None:
    count = 20_000
    boxes = ScaleJitter(224, (256, 256), 0.0, central=True).boxes(0, 1, np.arange(count), *sizes(height, width, count))
    for column, first in ((TOP, top), (LEFT, left)):
        counts = np.bincount(boxes[:, column] - first)
        assert len(counts) == 33
        assert stats.chisquare(counts).pvalue > SMALLEST_P


@pytest.mark.parametrize(("height", "width"), EXTREME_SHAPES)
@pytest.mark.parametrize("central", [False, True])
def test_squares_lie_inside_images_of_any_shape(height: int, width: int, central: bool) -> None:
    count = 500
    augmentation = ScaleJitter(224, (224, 600), 0.5, central)
    boxes = augmentation.boxes(0, 3, np.arange(count), *sizes(height, width, count))
    assert (boxes[:, [TOP, LEFT]] >= 0).all()
    assert (boxes[:, HEIGHT] >= 1).all()
    assert (boxes[:, HEIGHT] == boxes[:, WIDTH]).all()
    assert (boxes[:, TOP] + boxes[:, HEIGHT] <= height).all()
    assert (boxes[:, LEFT] + boxes[:, WIDTH] <= width).all()
    alone = augmentation.boxes(0, 3, np.array([17]), *sizes(height, width, 1))
    assert np.array_equal(alone[0], boxes[17])


def test_a_box_shows_what_resizing_and_then_cropping_shows() -> None:
    """Smooth pictures, resized to the short side and then cut by torchvision, against the box cut and then resized."""
    y, x = np.mgrid[:300, :400]
    waves = [np.sin(x / 23), np.sin(y / 19), np.sin((x + y) / 31)]
    image = Image.fromarray(np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))
    for short_side in (96, 128, 350):
        boxes = ScaleJitter(96, (short_side, short_side), 0.0).boxes(0, 0, np.arange(5), *sizes(300, 400, 5))
        resized = transforms.Resize(short_side)(image)
        for top, left, height, width, *_ in boxes.tolist():
            box = (left, top, left + width, top + height)
            found = np.asarray(image.crop(box).resize((96, 96), Image.Resampling.BILINEAR)).astype(int)
            place = round(top * short_side / 300), round(left * short_side / 300)
            expected = np.asarray(transforms.functional.crop(resized, *place, 96, 96)).astype(int)
            assert np.abs(found - expected).mean() < 4  # half a pixel: a gradient of up to 5 levels a pixel
            assert np.abs(found - expected[::-1]).mean() > 20


# Colours --------------------------------------------------------------------------------------------------------------


def test_normal_numbers_are_normal() -> None:
    numbers = [augment.normal(0, 1, np.arange(20_000), draw) for draw in (200, 202, 204)]
    for each in numbers:
        assert stats.kstest(each, "norm").pvalue > SMALLEST_P
    correlations = np.corrcoef(numbers)[np.triu_indices(3, 1)]
    assert (np.abs(correlations) < 4 / np.sqrt(20_000)).all()


def test_colour_offsets_are_the_formula_of_the_paper() -> None:
    """[p1, p2, p3] [a1 l1, a2 l2, a3 l3]^T, one image and one channel at a time, as fb.resnet.torch adds it up."""
    eigenvalues = [0.2175, 0.0188, 0.0045]
    eigenvectors = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    samples = np.array([3, 1_281_166, 0])
    found = colour_offsets(7, 2, samples, 0.1)
    assert found.shape == (3, 3)
    assert found.dtype == np.float32
    for row, sample in zip(found, samples, strict=True):
        alphas = [0.1 * augment.normal(7, 2, np.array([sample]), draw)[0] for draw in (200, 202, 204)]
        for channel in range(3):
            shift = sum(eigenvectors[channel][i] * alphas[i] * eigenvalues[i] for i in range(3))
            assert row[channel] == pytest.approx(255 * shift, rel=1e-5)


def test_colour_offsets_are_spread_along_the_principal_components() -> None:
    """Their covariance is V L^2 V^T times (255 x 0.1)^2: the shift of brightness is about 3 grey levels."""
    offsets = colour_offsets(0, 0, np.arange(100_000), 0.1)
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    expected = 25.5**2 * vectors @ np.diag(np.array([0.2175, 0.0188, 0.0045]) ** 2) @ vectors.T
    np.testing.assert_allclose(np.cov(offsets.T), expected, rtol=0.02)
    assert np.abs(offsets.mean(axis=0)).max() < 4 * np.sqrt(expected.max() / 100_000)
    assert np.sqrt(expected.diagonal()) == pytest.approx([3.17, 3.22, 3.25], abs=0.01)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)  # they are a basis


def test_colours_change_with_seed_epoch_and_sample() -> None:
    keys = [(seed, epoch) for seed in range(3) for epoch in range(3)]
    offsets = np.concatenate([colour_offsets(seed, epoch, np.arange(50), 0.1) for seed, epoch in keys])
    assert len(np.unique(offsets[:, 0])) == 450
    assert np.array_equal(colour_offsets(1, 1, np.array([4]), 0.1)[0], offsets[4 * 50 + 4])


# Growth ---------------------------------------------------------------------------------------------------------------


def test_crops_grow_by_multiples_of_32() -> None:
    """By hand: 96 / 9 = 10.67 pixels an epoch, from 128; and ffcv-imagenet's own setting for ResNet-50."""
    growth = Growth(128, 224, first=0, last=9)
    assert [growth.size_in(epoch) for epoch in range(11)] == [128, 128, 160, 160, 160, 192, 192, 192, 224, 224, 224]
    growth = Growth(160, 192, first=65, last=76)
    sizes_of_ffcv = [160] * 71 + [192] * 17  # 174.5 in epoch 70 is nearer 160, 177.5 in epoch 71 nearer 192
    assert [growth.size_in(epoch) for epoch in range(88)] == sizes_of_ffcv


def test_growth_stays_between_its_ends() -> None:
    growth = Growth(100, 110, first=0, last=10)
    assert {growth.size_in(epoch) for epoch in range(12)} == {100, 110}
    assert size_in(5, Growth(96, 160, 0, 10)) == 128
    assert size_in(5, 224) == 224


# Carrying it out ------------------------------------------------------------------------------------------------------


def test_cut_is_pad_then_crop_then_flip() -> None:
    """Every place, on both sides, against the words of the paper carried out one after the other."""
    pad, height, width = 3, 6, 5
    places = [(top, left, mirror) for top in range(-pad, pad + 1) for left in range(-pad, pad + 1) for mirror in (0, 1)]
    images = np.random.default_rng(0).integers(1, 256, (len(places), height, width, 2), np.uint8)
    boxes = np.array([(top, left, height, width, mirror, 0, 0, 0) for top, left, mirror in places], np.int32)
    cut = cut_same_size(images, boxes)
    assert cut.dtype == np.uint8
    for image, (top, left, mirror), found in zip(images, places, cut, strict=True):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        expected = padded[top + pad : top + pad + height, left + pad : left + pad + width]
        assert np.array_equal(found, np.flip(expected, 1) if mirror else expected)


def test_cut_beyond_the_image_is_black() -> None:
    images = np.full((2, 4, 4, 1), 9, np.uint8)
    boxes = np.array([[4, 0, 4, 4, 0, 0, 0, 0], [0, -4, 4, 4, 1, 0, 0, 0]], np.int32)
    assert not cut_same_size(images, boxes).any()
