"""Learning by heart: labels drawn once, the explicit construction, the studies at smoke size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.phenomena import interpolate
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.batched import BatchedMLP
from benchmarks.phenomena.memorising import condition, memorise
from benchmarks.phenomena.memorising_runs import (
    CORRUPTIONS,
    Images,
    Training,
    batches,
    evaluated,
    mean_and_spread,
    memorise_all,
    spoil,
    with_label_noise,
)
from datamodules import labels
from datamodules.originals import DataError

# -- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_drawn_once_with_their_seed() -> None:
    true = np.arange(10_000) % 10
    np.testing.assert_array_equal(labels.random_labels(50, 10, 3), labels.random_labels(50, 10, 3))
    assert (labels.random_labels(50, 10, 3) != labels.random_labels(50, 10, 4)).any()
    for wrong, kept in ((False, 0.7 + 0.3 / 10), (True, 0.7)):
        found = labels.corrupted_labels(true, 0.3, 10, 0, wrong)
        np.testing.assert_array_equal(found, labels.corrupted_labels(true, 0.3, 10, 0, wrong))
        assert (found == true).mean() == pytest.approx(kept, abs=0.02)  # four standard deviations
        more = labels.corrupted_labels(true, 0.6, 10, 0, wrong)
        np.testing.assert_array_equal(more[found != true], found[found != true])
    np.testing.assert_array_equal(labels.corrupted_labels(true, 0.0, 10, 0), true)
    assert (labels.corrupted_labels(true, 1.0, 10, 0, wrong=True) != true).all()
    counts = np.bincount(labels.random_labels(10_000, 10, 0))
    assert (abs(counts - 1000) < 120).all()  # four standard deviations of a binomial
    assert sorted(labels.subset(7, 7, 0)) == list(range(7))


def test_labels_that_are_refused() -> None:
    with pytest.raises(DataError, match=r"corrupted labels \(=1\.2\) must lie in \[0, 1\]: 0 is none, 1 is all"):
        labels.corrupted_labels(np.zeros(3, int), 1.2, 10, 0)
    with pytest.raises(DataError, match=r"labels from 0 to 10 must lie in 0 to 9: give the number of classes"):
        labels.corrupted_labels(np.array([0, 10]), 0.2, 10, 0)
    with pytest.raises(DataError, match=r"num_classes \(=1\) must be at least 2: of one class no label can be wrong"):
        labels.random_labels(3, 1, 0)
    with pytest.raises(DataError, match=r"samples \(=9\) must be 1 to 7, of which the dataset consists: ask for fewer"):
        labels.subset(7, 9, 0)


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def images() -> Images:
    """Forty random images of twelve pixels."""
    generator = torch.Generator().manual_seed(0)
    x, test_x = torch.randn(40, 12, generator=generator), torch.randn(30, 12, generator=generator)
    return Images("noise", x, torch.arange(40) % 10, test_x, torch.arange(30) % 10)


def test_corruptions_do_what_they_say(images: Images) -> None:
    true = spoil(images, "true labels", 20, 0)
    for corruption in CORRUPTIONS:
        found, again = spoil(images, corruption, 20, 0), spoil(images, corruption, 20, 0)
        assert torch.equal(found.x, again.x)
        assert torch.equal(found.y, again.y)
        assert torch.equal(found.test_y, images.test_y)
        assert torch.equal(found.y, true.y) == (corruption != "random labels")
        assert torch.equal(found.x, true.x) == (corruption in ("true labels", "random labels"))
        same_pixels = torch.equal(found.x.sort(1).values, true.x.sort(1).values)
        assert same_pixels == (corruption != "Gaussian")
    shuffled, each = spoil(images, "shuffled pixels", 20, 0), spoil(images, "random pixels", 20, 0)
    order = [int((true.x[0] == pixel).nonzero()) for pixel in shuffled.x[0]]
    assert torch.equal(shuffled.x, true.x[:, order])
    assert torch.equal(shuffled.test_x, images.test_x[:, order])
    assert not torch.equal(each.x[1], true.x[1][[int((true.x[0] == pixel).nonzero()) for pixel in each.x[0]]])


def test_a_run_has_one_vector_of_labels_which_no_epoch_draws_again(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every label that the loss sees is the one of its image, in all epochs."""
    spoilt = [spoil(images, "random labels", 20, 0), with_label_noise(images, 0.5, 20, 1)]
    kept = [one.y.clone() for one in spoilt]
    seen: dict[tuple[float, ...], set[int]] = {}
    original = BatchedMLP.forward
    asked: list[torch.Tensor] = []

    def forward(self: BatchedMLP, x: torch.Tensor) -> torch.Tensor:
        asked.append(x)
        return original(self, x)

    cross_entropy = torch.nn.functional.cross_entropy

    def loss(logits: torch.Tensor, targets: torch.Tensor, **options: str) -> torch.Tensor:
        for image, label in zip(asked[-1].flatten(0, 1), targets, strict=True):
            seen.setdefault(tuple(image.tolist()), set()).add(int(label))
        return cross_entropy(logits, targets, **options)

    monkeypatch.setattr(BatchedMLP, "forward", forward)
    monkeypatch.setattr("benchmarks.phenomena.memorising_runs.F.cross_entropy", loss)
    fits = memorise_all(spoilt, Training(width=64, batch_size=7, epochs=60), 10, 0)
    assert all(torch.equal(one.y, labels) for one, labels in zip(spoilt, kept, strict=True))
    expected: dict[tuple[float, ...], set[int]] = {}
    for one in spoilt:
        for image, label in zip(one.x, one.y, strict=True):
            expected.setdefault(tuple(image.tolist()), set()).add(int(label))
    assert seen == expected
    assert all(fit.epochs == len(fit.curve) > 1 and fit.train_error == fit.curve[-1] == 0 for fit in fits)


def test_batches_are_every_image_once_for_each_network() -> None:
    parts = list(batches(3, 10, 4, torch.Generator().manual_seed(0)))
    assert [part.shape for part in parts] == [(3, 4), (3, 4), (3, 2)]
    order = torch.cat(parts, 1)
    assert torch.equal(order.sort(1).values, torch.arange(10).expand(3, -1))
    assert not torch.equal(order[0], order[1])


def test_errors_on_the_test_set_are_those_of_the_right_network(images: Images) -> None:
    networks = BatchedMLP(2, (12, 8, 10), torch.Generator().manual_seed(1))
    spoilt = [spoil(images, "Gaussian", 20, seed) for seed in (0, 1)]
    logits = networks(torch.stack([one.test_x for one in spoilt]))
    expected = (logits.argmax(-1) != images.test_y).double().mean(-1)
    assert evaluated(networks, spoilt, [0, 1]) == pytest.approx(expected.tolist())
    assert mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_and_spread([1.0]) == (1.0, 0.0)


def test_a_network_that_is_not_done_says_so(images: Images) -> None:
    (fit,) = memorise_all([spoil(images, "random labels", 20, 0)], Training(width=4, epochs=1), 10, 0)
    assert fit.epochs is None
    assert fit.train_error == fit.curve[0] > 0


# -- the construction -------------------------------------------------------------------------------------------------


def test_the_construction_by_hand() -> None:
    """Two points on a line: thresholds below the first and half-way, weights that give 3 and then -1."""
    network = memorise(np.array([[0.0], [2.0]]), np.array([3.0, -1.0]), 0)
    np.testing.assert_allclose(network(np.array([[0.0], [2.0]])), [3.0, -1.0])
    if network.a[0] > 0:
        np.testing.assert_allclose(network.b, [-1, 1])
        np.testing.assert_allclose(network.w, [3, -10])  # 3 * 3 + 1 w = -1
    assert network.weights == 2 * 2 + 1


@pytest.mark.parametrize(("n", "d"), [(1, 3), (100, 1), (200, 64)])
def test_the_construction_fits_any_labels_with_2n_plus_d_weights(n: int, d: int) -> None:
    generator = np.random.default_rng(5)
    x, y = generator.standard_normal((n, d)), generator.standard_normal(n)
    network = memorise(x, y, 1)
    assert np.abs(network(x) - y).max() < 1e-6
    assert network.weights == 2 * n + d
    assert condition(network, x) >= 1


def test_equal_points_are_refused() -> None:
    with pytest.raises(AnalysisError, match=r"the points \(n=3\) must differ from one another, two are equal: remove"):
        memorise(np.array([[1.0, 2], [3, 4], [1, 2]]), np.zeros(3), 0)


# -- the studies ------------------------------------------------------------------------------------------------------


def test_inputs_of_cifar_are_those_of_the_paper(data_root: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zhang et al., table 1: 1 209 866 weights of MLP 1x512 on 28 x 28 pixels."""
    monkeypatch.setenv("ILSVRC_BENCH_DATA", str(data_root))
    images = interpolate.read("cifar10", 50)
    assert images.x.shape == (50, 28 * 28 * 3)
    assert interpolate.common(interpolate.PRESETS["corruptions"]["cpu"], images)["weights"] == 1_209_866
    assert float(images.x.mean()) == pytest.approx(0, abs=1e-3)
    assert len(images.test_x) == 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": "construct", "dataset": "digits"}, "construct takes no --dataset and no --width: it draws points"),
        ({"networks": 0}, "--networks (=0) must be at least 1: 3 show a spread."),
        ({"width": 0}, "--width (=0) must be at least 1: the paper has 512 hidden units."),
        ({"label_noise": [0.0, 0.5]}, "is for --study label_noise, not corruptions: leave it out."),
        (
            {"study": "label_noise", "label_noise": [0.0, 1.1]},
            "--label_noise (=[0.0, 1.1]) must lie in [0, 1], they are shares: use [0,0.5,1].",
        ),
        ({"study": "label_noise", "label_noise": [0.5]}, "must be two shares or more, ascending: use [0,0.5,1]."),
        ({"samples": 1438}, "--samples (=1438) must be 10 to 1437, which digits has: use a number between."),
        ({"study": "construct", "samples": 3000}, "must be 10 to 2000, which double precision carries: use a number"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        interpolate.analyze(**options, preset="smoke")  # type: ignore[arg-type]
    assert message in str(error.value)
