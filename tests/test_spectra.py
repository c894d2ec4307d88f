"""Hessians by products against written-out ones, laws against draws and closed forms, class means by hand; studies."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.cli import main
from benchmarks.phenomena import feature_spectra, hessian_mixture, spectra, spectra_run, weight_spectra
from benchmarks.phenomena.analysis import AnalysisError, Outcome
from benchmarks.phenomena.backprop import objects
from benchmarks.phenomena.cards import RESULTS
from benchmarks.phenomena.class_means import ClassMeans, class_means, overlap
from benchmarks.phenomena.finished import FinishedRun, load_run
from benchmarks.phenomena.hessian import Curvature, curvature, seconds_of
from benchmarks.phenomena.initial_weights import initial_network
from benchmarks.phenomena.lanczos import Density, density, top_eigenpairs, tridiagonalise
from benchmarks.phenomena.marchenko_pastur import MarchenkoPastur, largest_by_chance, spectrum_of, tail_exponent
from models.lenet import LeNet5
from models.mlp import MLP
from models.resnet import ResNet

Bench = Callable[..., tuple[int, str, str]]


# -- products with the Hessian ----------------------------------------------------------------------------------------


def written_out(network: nn.Module, images: Tensor, labels: Tensor, loss: Callable[..., Tensor]) -> Tensor:
    """H in double precision, by torch.func. [P, P]"""
    network = copy.deepcopy(network).double().eval()
    names, shapes = zip(*((name, p.shape) for name, p in network.named_parameters()), strict=True)
    start = torch.cat([p.detach().flatten() for p in network.parameters()])

    def of(theta: Tensor) -> Tensor:
        parts = theta.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, shape, part in zip(names, shapes, parts, strict=True)}
        found: Tensor = loss(functional_call(network, weights, (images.double(),)), labels)
        return found

    hessian: Tensor = torch.func.jacrev(torch.func.grad(of))(start)  # torch.func.hessian warns of its own rules
    return hessian


def gauss_newton_written_out(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """1/N sum J' (diag p - p p') J for the cross-entropy, image by image, in double precision. [P, P]"""
    network = copy.deepcopy(network).double().eval()
    weights = list(network.parameters())
    total: Tensor | float = 0.0
    for image in images.double():
        logits = network(image[None])[0]
        rows = [torch.autograd.grad(one, weights, retain_graph=True) for one in logits]
        jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        p = logits.detach().softmax(0)
        total = total + jacobian.T @ (p.diag() - p[:, None] * p) @ jacobian / len(images)
    assert isinstance(total, Tensor)
    return total


def as_matrix(product: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Every column by a product."""
    return torch.stack([product(v) for v in torch.eye(size, dtype=torch.float64)], 1)


def small(dtype: torch.dtype = torch.float64) -> tuple[MLP, Tensor, Tensor]:
    """4-6-5-3 with tanh, fitted a little, with 12 images."""
    torch.manual_seed(0)
    network = MLP((1, 2, 2), [6, 5], activation="tanh", num_classes=3).to(dtype)
    return network, 2 * torch.randn(12, 1, 2, 2, dtype=dtype), torch.arange(12) % 3


def test_products_are_those_of_written_out_matrices() -> None:
    network, images, labels = small()
    hessian = written_out(network, images, labels, F.cross_entropy)
    with curvature(network, images, labels, batch=12) as of:
        assert of.size == len(hessian) == 5 * 6 + 7 * 5 + 6 * 3
        torch.testing.assert_close(as_matrix(of.hessian, of.size), hessian, rtol=1e-9, atol=1e-12)
        part = as_matrix(of.gauss_newton, of.size)
        slope = of.gradient()
    torch.testing.assert_close(part, gauss_newton_written_out(network, images, labels), rtol=1e-9, atol=1e-12)
    assert float((hessian - part).norm() / hessian.norm()) > 0.1
    F.cross_entropy(network(images), labels).backward()
    torch.testing.assert_close(slope, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))


def test_products_of_other_losses() -> None:
    """Smoothed labels, and squared distances, whose Gauss-Newton part is 2 J'J / B."""
    network, images, labels = small()
    for loss in (
        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2),
        lambda z, y: (z - F.one_hot(y, 3)).square().sum(1).mean(),
    ):
        with curvature(network, images, labels, loss, batch=5) as of:
            found = as_matrix(of.hessian, of.size)
            part = as_matrix(of.gauss_newton, of.size)
        torch.testing.assert_close(found, written_out(network, images, labels, loss), rtol=1e-8, atol=1e-11)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(z, list(network.parameters()), retain_graph=True)])
        for z in network(images).flatten()
    ]
    torch.testing.assert_close(part, 2 * torch.stack(rows).T @ torch.stack(rows) / 12, rtol=1e-8, atol=1e-11)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "mlp": (lambda: MLP((1, 8, 8), [16], activation="sigmoid", norm="batch", dropout=0.5), (1, 8, 8)),
    "lenet": (lambda: LeNet5(c3="table", subsampling="trainable", activation="scaled_tanh"), (1, 32, 32)),
    "resnet": (lambda: ResNet([1, 1], [4, 8], stem="cifar", shortcut="A", num_classes=10), (3, 12, 12)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_batches_change_nothing_and_the_network_comes_back(name: str) -> None:
    """Products of 7 images in one pass, and in passes of 3; modes, gradients, hooks, weights, random numbers kept."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network, images, labels = make(), torch.randn(7, *shape), torch.arange(7)
    network(images)  # batch norms have statistics
    network.train()
    first = next(network.parameters())
    first.grad = torch.ones_like(first)
    second = list(network.parameters())[1]
    second.requires_grad_(False)
    network.register_forward_hook(lambda *_: None)
    before, hooks, numbers = copy.deepcopy(network.state_dict()), dict(network._forward_hooks), torch.get_rng_state()

    found = []
    for batch in (7, 3):
        with curvature(network, images, labels, batch=batch) as of:
            v = torch.randn(of.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            found.append(torch.stack([of.hessian(v), of.gauss_newton(v), of.gradient()]))
            means = class_means(of, 10)
            found[-1] = torch.cat([found[-1], means.sums])
    assert of.size == sum(p.numel() for p in network.parameters() if p.requires_grad)
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm()) <= 2e-5 * float(one.norm())
    assert float(found[0][0].norm()) > 0

    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert first.grad is not None
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in list(network.parameters())[1:])
    assert (first.requires_grad, second.requires_grad) == (True, False)
    assert dict(network._forward_hooks) == hooks
    assert torch.equal(torch.get_rng_state(), numbers)


def test_a_compiled_network_has_products_too() -> None:
    network, images, labels = small()
    with curvature(network, images, labels) as of:
        v = torch.ones(of.size, dtype=torch.float64)
        wanted = of.hessian(v)
    network.compile()
    with curvature(network, images, labels) as of:
        assert torch.equal(of.hessian(v), wanted)


def test_curvatures_that_are_refused() -> None:
    network, images, labels = small()
    for arguments, message in (
        ((images[:0], labels[:0]), "images (=0) must be some, and as many as labels (=0): give both."),
        ((images, labels[:5]), "images (=12) must be some, and as many as labels (=5): give both."),
        ((images, labels, F.cross_entropy, 0), "batch (=0) must be at least 1 image: use 250."),
    ):
        with pytest.raises(AnalysisError) as error, curvature(network, *arguments):  # type: ignore[arg-type]
            pass
        assert str(error.value) == message
    with curvature(network, images, labels) as of:
        assert seconds_of(of.hessian, of.size, of.device) > 0


# -- Lanczos ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted_digits() -> tuple[MLP, Tensor, Tensor, Tensor]:
    """64-12-10 after 20 steps on 300 digits, in double precision, and its Hessian [910, 910]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images[:300])[:, None] / 16
    labels = torch.from_numpy(bunch.target[:300]).long()
    torch.manual_seed(0)
    network = MLP((1, 8, 8), [12]).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    network.zero_grad()
    return network, images, labels, written_out(network, images, labels, F.cross_entropy)


def test_largest_eigenvalues_and_density_of_a_network(fitted_digits: tuple[MLP, Tensor, Tensor, Tensor]) -> None:
    """Against the written-out Hessian: the largest to 1e-6, its residuals true bounds, the density to 0.02."""
    network, images, labels, matrix = fitted_digits
    exact = torch.linalg.eigvalsh(matrix).flip(0).numpy()
    with curvature(copy.deepcopy(network).float(), images.float(), labels) as of:
        top = top_eigenpairs(of.hessian, of.size, 8, 120, torch.Generator().manual_seed(0))
        spread = density(of.hessian, of.size, 8, 64, torch.Generator().manual_seed(1))
    assert top.values[0] == pytest.approx(exact[0], rel=1e-6)
    np.testing.assert_allclose(top.values, exact[:8], rtol=1e-4)
    assert (np.abs(top.values - exact[:8]) <= top.residuals + 1e-6 * exact[0]).all()
    off = (matrix @ top.vectors - top.vectors * torch.from_numpy(top.values)).norm(dim=0).numpy()
    np.testing.assert_allclose(off, top.residuals, atol=1e-6 * exact[0])
    torch.testing.assert_close(top.vectors.T @ top.vectors, torch.eye(8, dtype=torch.float64))
    assert top.lowest >= exact[-1] - 1e-6 * exact[0]
    assert 8 < top.products < 120

    whole = Density(exact[None], np.full((1, len(exact)), 1 / len(exact)))
    x, width = np.linspace(-0.1, 1.1, 2001) * exact[0], 0.005 * exact[0]
    assert exact[-1] > -0.1 * exact[0]
    assert np.abs(spread.below(x, width) - whole.below(x, width)).max() <= 0.02
    assert spread.mean == pytest.approx(exact.mean(), rel=0.3)


def test_lanczos_finds_all_of_a_small_matrix() -> None:
    """After as many steps as rows T has the eigenvalues of A; the space of two of them is exhausted after two."""
    torch.manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    values = torch.tensor([5.0, 2.0, 1.0, 0.5, -1.0, -3.0], dtype=torch.float64)
    matrix = vectors * values @ vectors.T
    made = tridiagonalise(lambda v: matrix @ v, torch.randn(6, dtype=torch.float64), 99)
    np.testing.assert_allclose(made.eigenpairs()[0], values.sort().values.numpy(), atol=1e-9)
    two = tridiagonalise(lambda v: matrix @ v, vectors[:, 0] + 2 * vectors[:, 3], 99)
    np.testing.assert_allclose(two.eigenpairs()[0], [0.5, 5.0], atol=1e-9)
    found = density(lambda v: matrix @ v, 6, 300, 6, torch.Generator().manual_seed(0))
    assert found.mean == pytest.approx(4.5 / 6, abs=0.15)
    assert found.below(np.array([-3.5, 0.0, 5.1]), 0.01) == pytest.approx([0, 2 / 6, 1], abs=0.05)


def test_a_density_by_hand() -> None:
    """Two probes: nodes 0 and 2 with shares 1/4 and 3/4; node 1, and one that is none."""
    found = Density(np.array([[0.0, 2.0], [1.0, 0.0]]), np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert found.below(np.array([-1.0, 0.5, 1.0, 1.5, 3.0]), 1e-3).tolist() == [0, 0.125, 0.375, 0.625, 1]
    assert found.mean == pytest.approx((1.5 + 1) / 2)
    x = np.linspace(-2, 4, 2001)
    smooth = found.smoothed(x, 0.2)
    assert float(smooth.sum() * (x[1] - x[0])) == pytest.approx(1, abs=1e-6)
    assert smooth[np.abs(x - 2).argmin()] == pytest.approx(0.375 / (0.2 * math.sqrt(2 * math.pi)), rel=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: top_eigenpairs(lambda v: v, 5, 0, 9, g),
            "count (=0) must be 1 to 5, there are 9 products and 5 row",
        ),
        (
            lambda g: top_eigenpairs(lambda v: v, 50, 10, 9, g),
            "count (=10) must be 1 to 9, there are 9 products and 50",
        ),
        (lambda g: density(lambda v: v, 5, 0, 9, g), "probes (=0) must be at least 1: use 8."),
        (lambda g: density(lambda v: v, 5, 2, 0, g), "count (=0) must be at least 1: use 64."),
        (lambda g: tridiagonalise(lambda v: v, torch.zeros(3), 2), "start must not be a vector of length 0, it has no"),
        (lambda g: tridiagonalise(lambda v: v, torch.tensor([math.nan]), 2), "must not be a vector of length nan"),
    ],
)
def test_lanczos_that_is_refused(call: Callable[[torch.Generator], object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        call(torch.Generator())
    assert message in str(error.value)


# -- class means ------------------------------------------------------------------------------------------------------


def test_class_means_by_hand() -> None:
    """A linear network W x of zeros: p = 1/2 each; images 1 and 3 of class 0, image 2 of class 1.

    d f_c / dW is x in row c, so S_c = 1/3 sum p_c (x / 2 in both rows - x in row c): for class 0, x of 1 and 3 with
    1/3 1/2 (-1/2, 1/2) each; w_0 = 1/3 (1/2 + 1/2).
    """
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    nn.init.zeros_(network[1].weight)  # type: ignore[arg-type]
    with curvature(network, torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0]), batch=2) as of:
        found = class_means(of, 3)
        matrix = as_matrix(of.gauss_newton, 2)
    assert found.sums.flatten().tolist() == pytest.approx([-1 / 3, 1 / 3, 1 / 6, -1 / 6, 0, 0])
    assert found.weights.tolist() == pytest.approx([1 / 3, 1 / 6, 0])
    # G_class = (2/9 / (1/3) + 2/36 / (1/6)) (1, -1)(1, -1)' / 2: eigenvalue 1, of G's 1/3 (1 + 4 + 9) / 2 = 7 / 3
    assert found.eigenvalues().tolist() == pytest.approx([1, 0, 0])
    assert torch.linalg.eigvalsh(matrix).tolist() == pytest.approx([0, 7 / 3])
    span = found.span()
    assert span.flatten().abs().tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert overlap(span, torch.tensor([[1.0], [0.0]], dtype=torch.float64)) == pytest.approx(0.5)
    assert overlap(span, span) == pytest.approx(1)


def test_class_means_are_a_part_of_the_gauss_newton_part() -> None:
    """G less G_class is a sum of squares too; and the means by the definition, image by image and class by class."""
    network, images, labels = small()
    with curvature(network, images, labels, batch=5) as of:
        means = class_means(of, 3)
        part = as_matrix(of.gauss_newton, of.size)
    rows = means.sums / means.weights.sqrt()[:, None]
    left = torch.linalg.eigvalsh(part - rows.T @ rows)
    assert float(left[0]) > -1e-12
    assert 0 < float((rows.T @ rows).trace()) < float(part.trace())
    wanted = torch.zeros_like(means.sums)
    for image, label in zip(images, labels.tolist(), strict=True):
        logits = network(image[None])[0]
        each = [torch.autograd.grad(z, list(network.parameters()), retain_graph=True) for z in logits]
        slopes = torch.stack([torch.cat([part.flatten() for part in one]) for one in each])
        p = logits.detach().softmax(0)
        for other in range(3):
            if other != label:
                wanted[label] += p[other] * (slopes[other] - p @ slopes) / len(images)
    torch.testing.assert_close(means.sums, wanted)
    assert isinstance(means, ClassMeans)


def test_class_means_of_a_network_that_is_sure() -> None:
    """In single precision every probability is 1 here; what is left to the other classes counts all the same."""
    found = []
    for kind in (torch.float32, torch.float64):
        network, images, labels = small()
        network = network.to(kind)
        labels = network(images.to(kind)).argmax(1)
        with torch.no_grad():
            for p in list(network.parameters())[-2:]:
                p *= 1000
        with curvature(network, images.to(kind), labels, batch=5) as of:
            assert kind == torch.float64 or float(of.logits(images.to(kind)).detach().softmax(1).amax(1).min()) == 1
            found.append(class_means(of, 3).eigenvalues())
    assert 0 < found[1][0] < 1
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-2)


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_law_of_noise(ratio: float) -> None:
    """Its density integrates to 1, to its own cumulative share, and to the mean `variance`; a large matrix has it."""
    law = MarchenkoPastur(ratio, 2.0)
    low, high = law.edges
    t = np.linspace(0, np.pi, 40_001)[1:-1]
    x = (low + high) / 2 - (high - low) / 2 * np.cos(t)
    weight = law.density(x) * (high - low) / 2 * np.sin(t) * (t[1] - t[0])
    assert weight.sum() == pytest.approx(1, abs=2e-3 if ratio == 1 else 1e-6)
    assert (weight * x).sum() == pytest.approx(2, rel=1e-4)
    np.testing.assert_allclose(weight.cumsum(), law.below(x), atol=3e-3 if ratio == 1 else 1e-4)
    assert law.below(np.array([low - 1e-9, high + 1])).tolist() == pytest.approx([0, 1], abs=1e-4)
    assert law.below(np.array([0.0]))[0] <= 1e-9

    rows, columns = 1000, round(1000 * ratio)
    noise = math.sqrt(2) * np.random.default_rng(0).standard_normal((rows, columns))
    found = spectrum_of(noise)
    assert (found.rows, found.columns) == (rows, columns)
    assert found.distance < 0.02
    assert found.spikes == 0
    assert found.over_edge == pytest.approx(1, abs=0.06)
    across = spectrum_of(noise.T)
    np.testing.assert_allclose(across.values, found.values)


def test_spikes_are_counted_and_a_convolution_is_a_matrix() -> None:
    """Two planted directions of eigenvalue about 9 stand out; [out, in, k, k] is [out, in k k]."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((400, 100))
    planted, other = (
        np.linalg.qr(generator.standard_normal((400, 2)))[0],
        np.linalg.qr(generator.standard_normal((100, 2)))[0],
    )
    found = spectrum_of(noise + 3 * math.sqrt(400) * planted @ other.T)
    assert found.spikes == 2
    assert found.over_edge > 3
    chance = [spectrum_of(generator.standard_normal((60, 20))).values[0] for _ in range(400)]
    assert np.mean(np.array(chance) > largest_by_chance(60, 20, 1.0)) < 0.01
    assert largest_by_chance(60, 20, 1.0) < 1.35 * np.mean(chance)
    kernels = generator.standard_normal((8, 4, 3, 3))
    np.testing.assert_allclose(spectrum_of(kernels).values, spectrum_of(kernels.reshape(8, 36)).values)
    layers = weight_spectra.spectra_of(LeNet5())
    assert layers
    assert all(one.columns <= one.rows for one in layers.values())
    assert math.isnan(spectrum_of(kernels).tail)


def test_exponent_of_a_tail() -> None:
    """Draws of density x^-2.5 above 1, mixed with smaller ones."""
    generator = np.random.default_rng(0)
    values = np.concatenate([(1 - generator.random(2000)) ** (-1 / 1.5), generator.random(500)])
    assert tail_exponent(np.sort(values)[::-1]) == pytest.approx(2.5, abs=0.15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MarchenkoPastur(1.5), "ratio (=1.5) must be above 0 and at most 1: divide by the longer side."),
        (lambda: MarchenkoPastur(0.5, 0.0), "variance (=0) must be above 0: a matrix of zeros has no spectrum."),
        (lambda: spectrum_of(np.ones(3)), "weights (=[3]) must have two sides or more: a bias has no spectrum."),
    ],
)
def test_laws_that_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        call()
    assert str(error.value) == message


# -- features ---------------------------------------------------------------------------------------------------------


def test_collapse_by_hand() -> None:
    """Means -1 and 1, +-0.5 about each: S_W = 1/4, S_B = 1, C = 2; nothing within gives 0; equal means infinity."""
    rows = torch.tensor([[-1.5], [-0.5], [0.5], [1.5]])
    labels = torch.tensor([3, 3, 7, 7])
    assert feature_spectra.collapse(rows, labels) == pytest.approx(0.25 / 2)
    assert feature_spectra.collapse(rows.sign(), labels) == pytest.approx(0)
    assert feature_spectra.collapse(torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]), labels) == math.inf
    wide = torch.randn(60, 5, dtype=torch.float64)
    classes = torch.arange(60) % 3
    means = torch.stack([wide[classes == c].mean(0) for c in range(3)])
    within = (wide - means[classes]).T @ (wide - means[classes]) / 60
    between = (means - means.mean(0)).T @ (means - means.mean(0)) / 3
    wanted = float((within @ torch.linalg.pinv(between, rtol=1e-9)).trace()) / 3
    assert feature_spectra.collapse(wide, classes) == pytest.approx(wanted)


def test_features_in_parts_are_those_of_all() -> None:
    network, images, labels = small(torch.float32)
    whole, parts = objects(network, images, labels), feature_spectra.in_parts(network, images, labels, 5)
    assert list(parts) == ["h0", "δ1", "D1", "h1", "δ2", "D2", "h2", "δ3"]
    for name, rows in whole.items():
        torch.testing.assert_close(parts[name], rows.flatten(1), rtol=1e-4, atol=1e-7)
    found = feature_spectra.measure(network, images, labels)
    assert found["δ3"]["numerical rank"] == 2
    assert "NC1" in found["h2"]
    assert "NC1" not in found["δ3"]


# -- studies ----------------------------------------------------------------------------------------------------------


def held(outcome: Outcome) -> dict[str, float]:
    assert outcome.checks
    assert [f"{check.name} = {check.value}" for check in outcome.failed] == []
    assert outcome.figures
    return {check.name: check.value for check in outcome.checks}


def test_gap_of_known_eigenvalues() -> None:
    values = np.array([9.0, 8, 7, 2, 1.9, 1.8, 1.7, 1.6, 1.5])
    one = hessian_mixture.Measured(values, np.zeros(3), 0, 0, 0, 0, 0, 100)
    assert one.gap(3) == (3, 3.5)
    assert hessian_mixture.share(torch.eye(4)[:, :2], torch.tensor([3.0, 0, 4, 0])) == pytest.approx(9 / 25)
    assert hessian_mixture.share(torch.eye(4)[:, :2], torch.zeros(4)) == 0
    x, y = hessian_mixture.mixture(3, 3000, 2.0, torch.Generator().manual_seed(0))
    assert y.bincount().tolist() == [1000] * 3
    assert float((x[y == 0] - x[y == 0].mean(0)).std()) == pytest.approx(1, abs=0.02)
    assert float(torch.stack([x[y == c].mean(0) for c in range(3)]).std()) == pytest.approx(2, rel=0.15)


QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a short run of a recipe for digits, trained once."""
    root, found = tmp_path_factory.mktemp("runs"), {}

    def folder(name: str) -> Path:
        if name not in found:
            words = ["fit", "--config", f"digits/{name}", "--seed_everything", "3", "--runs", str(root), *QUIET]
            assert main(words) == 0
            (found[name],) = (root / "digits" / name).glob("*/seed-3")
        return found[name]

    return folder


def test_a_run_which_comes_back_as_it_was(bench: Bench, runs: Callable[[str], Path]) -> None:
    folder = runs("resnet")
    status, out, err = bench("analyze", "spectra", "--study", "run", "--run", folder, "--smoke", "--batch", "32")
    assert status == 0, out + err
    assert "two networks of 75002 weights, each at most 42 products with the Hessian on 50 images (" in err
    record = json.loads((folder / "phenomena/spectra-run/smoke/seed-0/spectra-run.json").read_text())
    assert all(check["held"] for check in record["checks"] if check["must_hold"])
    trained = record["numbers"]["trained"]
    run: FinishedRun = load_run(str(folder))
    images, labels = run.images("train", 50, 0)
    with torch.no_grad():
        assert trained["loss"] == pytest.approx(float(F.cross_entropy(run.network(images), labels)), rel=1e-4)
    assert trained["features"]["h0"]["NC1"] > 0
    weights = run.network.fc.weight.detach().double()  # type: ignore[union-attr,operator]
    edge = weights.square().mean() * (math.sqrt(10) + math.sqrt(weights.shape[1])) ** 2
    wanted = float(torch.linalg.svdvals(weights)[0].square() / edge)
    assert trained["weights"]["fc"]["largest eigenvalue / edge"] == pytest.approx(wanted)

    before, state = copy.deepcopy(run.network.state_dict()), torch.get_rng_state()
    run.network.train()
    spectra.analyze(study="run", run=run, preset="smoke", images=20, products=10, top=3, probes=1, device="cpu")
    assert run.network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in run.network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in run.network.parameters())


def test_numbers_of_a_run_against_its_written_out_hessian(runs: Callable[[str], Path]) -> None:
    """A linear network of 650 weights: eigenvalues, trace, and the Gauss-Newton part, which is all of it."""
    run = load_run(str(runs("linear")))
    outcome = spectra.analyze(study="run", run=run, preset="smoke", images=40, top=9, probes=20, seed=5, products=40)
    held(outcome)
    images, labels = run.images("train", 40, 5)
    for stage, network in (("initial", initial_network(run)), ("trained", run.network)):
        exact = torch.linalg.eigvalsh(written_out(network, images, labels, F.cross_entropy)).flip(0).numpy()
        for of in ("Hessian", "Gauss-Newton part"):
            np.testing.assert_allclose(outcome.table[f"{of}, {stage}"][:9], exact[:9], rtol=1e-4)
        numbers = outcome.numbers[stage]
        assert numbers["trace of the Hessian"] == pytest.approx(exact.sum(), rel=0.15)
        assert numbers["first C - 1 eigenvectors in those of the Gauss-Newton part"] == pytest.approx(1, abs=1e-2)
    fewer = spectra.analyze(study="run", run=run, preset="smoke", images=40, top=2, probes=1, seed=5, products=40)
    assert "trained: first 2 eigenvectors in the class means" in [check.name for check in fewer.checks]
    assert "mini-batch gradients in the first 2" in fewer.numbers["trained"]


def test_a_network_that_fits_to_the_last_digit_is_refused(runs: Callable[[str], Path]) -> None:
    run = load_run(str(runs("linear")))
    images, labels = run.images("train", 40, 5)
    with torch.no_grad():
        for p in run.network.parameters():
            p *= 1e4
    labels = run.network(images).argmax(1)
    settings = dataclasses.replace(spectra_run.PRESETS["smoke"], images=40)
    with pytest.raises(
        AnalysisError, match=r"largest eigenvalue \(=0\) of the Hessian must be above 0: the network fits"
    ):
        spectra_run.measure(run.network, images, labels, F.cross_entropy, settings, 0)


class WithoutLinear(MLP):
    """Ends in a product, as some networks end in pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_a_network_without_a_linear_end_has_no_features() -> None:
    network = WithoutLinear((1, 2, 2), [4], num_classes=3)
    assert spectra_run.features_or_none(network, torch.randn(6, 1, 2, 2), torch.arange(6) % 3, 4) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": "run"}, "--study (=run) needs a trained network: --run with the folder seed-N of a finished run."),
        ({"images": 50}, "--images (=50) is for features and run, not mixture: leave it out."),
        ({"products": 50}, "--products (=50) is for run, not mixture: leave it out."),
        ({"epochs": 5}, "--epochs (=5) is for weights and features, not mixture: leave it out."),
        ({"study": "weights", "networks": 5}, "--networks (=5) is for mixture, not weights: leave it out."),
        ({"study": "features", "images": 5}, "--images (=5) must be at least 20: leave it out for the preset's."),
        ({"study": "features", "images": 2000}, "--images (=2000) must be at most 1437, the training images of digits"),
        ({"networks": 1}, "--networks (=1) must be at least 2: leave it out for the preset's."),
        ({"loss": 0.0}, "--loss (=0) must be above 0, training never reaches 0: use 0.03."),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        spectra.analyze(**options, preset="smoke")  # type: ignore[arg-type]
    assert message in str(error.value)


def test_options_of_a_run_that_are_refused(runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(str(runs("linear")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, message in (
        ({}, "is for --study run, mixture trains networks of its own: add --study run."),
        ({"study": "run", "loss": 0.1}, "--loss (=0.1) is for mixture, not run: leave it out."),
        ({"study": "run", "batch": 0}, "--batch (=0) must be at least 1: leave it out for the preset's."),
        ({"study": "run", "memory_gb": -1.0}, "--memory_gb (=-1) must be above 0, it is a bound: use 2."),
        ({"study": "run", "device": "cuda"}, "--device (=cuda) must be there, torch sees no GPU: use --device cpu"),
        (
            {"study": "run", "memory_gb": 1e-5},
            "--memory_gb (=1e-05) must hold 111 vectors of 650 weights: allow 0.00058 or more, or ask for fewer "
            "--products (=30).",
        ),
    ):
        with pytest.raises(AnalysisError) as error:
            spectra.analyze(run=run, preset="smoke", **options)  # type: ignore[arg-type]
        assert message in str(error.value)
    run.network.loss_name = "mse"
    with pytest.raises(AnalysisError, match=r"the run's loss \(=mse\) must be cross_entropy, whose Gauss-Newton part"):
        spectra.analyze(run=run, study="run", preset="smoke")


@pytest.mark.gpu
def test_products_on_a_gpu_are_those_on_a_processor() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    network, images, labels = LeNet5(), torch.randn(20, 1, 32, 32), torch.arange(20) % 10
    found = []
    for device in ("cpu", "cuda"):
        with curvature(copy.deepcopy(network).to(device), images.to(device), labels.to(device)) as of:
            assert isinstance(of, Curvature)
            top = top_eigenpairs(of.hessian, of.size, 3, 60, torch.Generator().manual_seed(0), of.device)
            found.append(top.values)
    np.testing.assert_allclose(*found, rtol=1e-4)


# -- committed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["mixture", "weights", "features", "run"])
def test_committed_results_are_of_the_full_check_and_hold(study: str) -> None:
    record = json.loads((RESULTS / f"spectra-{study}.json").read_text())
    assert (record["preset"], record["seed"], record["commit"]["clean"]) == ("cpu", 0, True)
    assert record["checks"]
    assert all(check["held"] for check in record["checks"] if check["must_hold"])
    assert (record["run"] is not None) == (study == "run")
