"""MNIST's variants: resized, distorted, and the small one that stands in for the zip codes of 1989."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.loaders import LoaderName, ffcv_fault
from datamodules.mnist import MNIST, MNIST1989, drawn_1989, resized
from datamodules.originals import DataError


@pytest.fixture
def mnist_root(data_root: Path) -> str:
    if not (data_root / "MNIST").is_dir():
        pytest.skip(f"no MNIST below {data_root}")
    return str(data_root)


def ready(data: Any) -> Any:
    data.prepare_data()
    data.setup()
    return data


def test_resizing_to_half_is_the_mean_of_the_two_nearest_pixels_each_way() -> None:
    """28 to 14: each new pixel lies in the middle of four. 28 to 28 changes nothing."""
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    means = images.reshape(3, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    assert np.abs(resized(images, 14) - means).max() <= 0.5
    assert np.array_equal(resized(images, 28), images)


def test_resizing_by_hand() -> None:
    """From 2 to 3 pixels: the first, the mean of both, the last; the window moves by 2/3 and stops at the border."""
    image = np.array([[0, 120], [60, 180]], np.uint8).reshape(1, 2, 2, 1)
    assert resized(image, 3)[0, :, :, 0].tolist() == [[0, 60, 120], [30, 90, 150], [60, 120, 180]]


def test_digits_of_1989_are_drawn_as_karpathys_script_does_training_first() -> None:
    """NumPy's old generator, seeded once, is a fixed sequence: one permutation after the other."""
    np.random.seed(1337)  # the script's way, against the module's own generator
    train = np.random.permutation(60_000)[:7_291]
    test = np.random.permutation(10_000)[:2_007]
    assert np.array_equal(drawn_1989("train", 60_000), train)
    assert np.array_equal(drawn_1989("test", 10_000), test)
    assert len(set(train)) == 7_291


def test_the_variant_of_1989_is_complete_and_runs_from_minus_one_to_one(mnist_root: str) -> None:
    data = ready(MNIST1989(batch_size=1, root=mnist_root, loader="torch"))
    assert (data.manifest("train").count, data.manifest("test").count) == (7_291, 2_007)
    images, labels = next(iter(data.test_dataloader()))
    inputs = data.normalise(images)
    assert inputs.shape == (500, 1, 16, 16)
    original = MNIST(batch_size=1, root=mnist_root).read_originals("test")
    chosen = drawn_1989("test", 10_000)[:500]
    assert labels.tolist() == original.labels[chosen].tolist()
    pixels = torch.from_numpy(original.images[chosen]).permute(0, 3, 1, 2) / 127.5 - 1
    expected = torch.nn.functional.interpolate(pixels, (16, 16), mode="bilinear")
    torch.testing.assert_close(inputs, expected, rtol=0, atol=0.5 / 127.5 + 1e-5)


def test_resized_digits_have_no_border_and_a_beton_of_their_own() -> None:
    plain, bordered, large = MNIST(batch_size=1), MNIST(batch_size=1, image_size=32), MNIST(1, 32, resize=True)
    assert plain.beton_path("train") == bordered.beton_path("train")
    assert large.beton_path("train") != plain.beton_path("train")
    assert MNIST1989(1).beton_path("train") not in (plain.beton_path("train"), large.beton_path("train"))
    assert MNIST(1, 28, resize=True).beton_path("train") == plain.beton_path("train")
    assert large.stored_size == 32
    assert large.normalise(torch.zeros(1, 32, 32, 1, dtype=torch.uint8)).shape == (1, 1, 32, 32)


def test_distortions_are_the_same_from_both_loaders_and_only_in_training(mnist_root: str) -> None:
    if fault := ffcv_fault():
        pytest.skip(fault)
    found: dict[str, list[Any]] = {}
    for loader in ("torch", "ffcv"):
        asked: LoaderName = loader  # type: ignore[assignment]
        data = ready(
            MNIST1989(500, root=mnist_root, loader=asked, workers=1, seed=2, translate=1.0, shear=0.2, elastic=10.0)
        )
        batches = data.train_dataloader()
        batches.sampler.set_epoch(3)
        found[loader] = list(batches)
        tested = torch.cat([images for images, _ in data.test_dataloader()])
        assert np.array_equal(tested.numpy(), data.read_originals("test").images)
    assert len(found["torch"]) == len(found["ffcv"]) == 14
    for (images, labels), (theirs, their_labels) in zip(*found.values(), strict=True):
        assert torch.equal(images, theirs)
        assert torch.equal(labels, their_labels)
    order = data.train_dataloader().reading.batches(3)[0][0]
    pixels = torch.from_numpy(data.read_originals("train").images[order])
    assert torch.equal(found["torch"][0][0], data.distortion(pixels, 2, 3, order))
    assert not torch.equal(found["torch"][0][0], pixels)


def test_a_distorted_digit_may_reach_into_its_border(mnist_root: str) -> None:
    data = ready(MNIST(1000, image_size=32, root=mnist_root, loader="torch", translate=6.0))
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (1000, 32, 32, 1)
    assert images[:, :2].any()
    assert data.normalise(images).shape == (1000, 1, 32, 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MNIST(1, 16), "image_size (=16) is smaller than the images of mnist (28 pixels)"),
        (lambda: MNIST(1, 0, resize=True), "image_size (=0) must be at least 1"),
        (lambda: MNIST(1, scale=2.0), "data.init_args.scale (=2.0) must lie in [0, 1)"),
        (lambda: MNIST(1, distorted=-1.0), "data.init_args.distorted (=-1.0) must lie in [0, 1]"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(DataError) as refusal:
        make()
    assert message in str(refusal.value)
