"""Double descent: closed forms against integrals, exact finite-sample formulas and other solvers; the studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from sklearn.linear_model import Ridge
from torch import nn

from benchmarks.phenomena import double_descent, fourier_features, linear_risk, random_features, trained_net
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.batched import BatchedMLP, errors
from datamodules import labels
from datamodules.originals import DataError

# -- least squares ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.3, 0.8, 1.0, 1.7, 5.0])
def test_stieltjes_transform_is_the_integral_over_marchenko_pastur(gamma: float) -> None:
    low, high = (1 - math.sqrt(gamma)) ** 2, (1 + math.sqrt(gamma)) ** 2

    def density(angle: float) -> float:
        """Substituted s = low + (high - low) sin^2, whose ends are smooth."""
        s = low + (high - low) * math.sin(angle) ** 2
        jacobian = 2 * (high - low) * math.sin(angle) * math.cos(angle)
        return math.sqrt(max((high - s) * (s - low), 0)) / (2 * math.pi * gamma * s) * jacobian / (s + 0.3)

    mass_at_0 = max(0.0, 1 - 1 / gamma)
    expected = quad(density, 1e-9, math.pi / 2, limit=200)[0] + mass_at_0 / 0.3
    assert linear_risk.stieltjes(gamma, 0.3) == pytest.approx(expected, rel=1e-5)


def test_ridgeless_limit_is_that_of_the_exact_risk_of_finite_samples() -> None:
    """For Gaussian x: noise p / (n - p - 1), and signal (1 - n/p) + noise n / (p - n - 1): inverse Wishart."""
    n = 10**7
    for gamma in (0.2, 0.7, 1.5, 4.0):
        p = round(gamma * n)
        exact = 0.25 * p / (n - p - 1) if p < n else 2 * (1 - n / p) + 0.25 * n / (p - n - 1)
        assert linear_risk.ridgeless_risk(gamma, 2.0, 0.25) == pytest.approx(exact, rel=1e-5)
    assert linear_risk.ridgeless_risk(1.0, 2.0, 0.25) == math.inf


def test_best_penalty_is_the_best() -> None:
    """The risk of any penalty, bias and variance by HMRT's Theorem 5, is smallest at the one of Corollary 5."""

    def risk(penalty: float, gamma: float, signal: float, noise: float) -> float:
        step = 1e-6
        m = linear_risk.stieltjes(gamma, penalty)
        slope = (linear_risk.stieltjes(gamma, penalty - step) - linear_risk.stieltjes(gamma, penalty + step)) / (
            2 * step
        )
        return signal * penalty**2 * slope + noise * gamma * (m - penalty * slope)

    for gamma in (0.5, 1.0, 3.0):
        best = linear_risk.best_penalty(gamma, 2.0, 0.3)
        found = linear_risk.best_ridge_risk(gamma, 2.0, 0.3)
        assert risk(best, gamma, 2.0, 0.3) == pytest.approx(found, rel=1e-5)
        assert min(risk(best * factor, gamma, 2.0, 0.3) for factor in (0.5, 0.9, 1.1, 2)) > found


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_ridge_is_scikit_learns_and_ridgeless_the_pseudo_inverses(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal(shape), generator.standard_normal(shape[0])
    model = Ridge(alpha=0.2 * shape[0], fit_intercept=False, solver="svd").fit(x, y)
    np.testing.assert_allclose(linear_risk.ridge(x, y, 0.2), model.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(linear_risk.ridge(x, y, 0.0), np.linalg.pinv(x) @ y, rtol=1e-9, atol=1e-12)


# -- random features --------------------------------------------------------------------------------------------------


def test_moments_of_relu() -> None:
    def expectation(f: object) -> float:
        return float(quad(lambda g: f(g) * math.exp(-g * g / 2) / math.sqrt(2 * math.pi), 0, 12)[0])  # type: ignore[operator]

    mean, first, second = (expectation(f) for f in (lambda g: g, lambda g: g * g, lambda g: g * g))
    assert first == pytest.approx(random_features.MU_1)
    assert second - mean**2 - first**2 == pytest.approx(random_features.MU_STAR**2)


@pytest.mark.parametrize(("psi1", "psi2"), [(0.5, 3.0), (3.0, 3.0), (10.0, 3.0)])
def test_chi_solves_the_equations_of_the_paper(psi1: float, psi2: float) -> None:
    """By following the fixed point of Definition 1 along the imaginary axis, down from where it is a contraction."""
    penalty, zeta = 0.05, random_features.ZETA
    end = math.sqrt(psi1 * psi2 * penalty)
    nu1, nu2 = psi1 * 1j / 100, psi2 * 1j / 100
    for height in np.geomspace(100, end, 60):
        for _ in range(400):
            shared = 1 + zeta**2 / (1 - zeta**2 * nu1 * nu2)
            nu1 = (nu1 + psi1 / (-1j * height - nu2 * shared)) / 2
            shared = 1 + zeta**2 / (1 - zeta**2 * nu1 * nu2)
            nu2 = (nu2 + psi2 / (-1j * height - nu1 * shared)) / 2
    assert abs((nu1 * nu2).imag) < 1e-9
    assert random_features.chi(psi1, psi2, penalty) == pytest.approx((nu1 * nu2).real, rel=1e-6)


def test_chi_without_penalty_is_the_limit() -> None:
    for psi1, psi2 in ((0.5, 3.0), (6.0, 3.0)):
        limit = random_features.chi(psi1, psi2, 0.0)
        assert random_features.chi(psi1, psi2, 1e-10) == pytest.approx(limit, rel=1e-6)
    assert random_features.risk(3.0, 3.0, 1e-12, 1.0, 0.25) > 1e3  # the ridgeless peak


def test_features_without_any_use_predict_nothing() -> None:
    """With an enormous penalty the risk is that of predicting 0, the signal."""
    assert random_features.risk(2.0, 3.0, 1e9, 1.7, 0.25) == pytest.approx(1.7, rel=1e-3)


@pytest.mark.parametrize("count", [8, 40])
def test_features_are_fitted_as_scikit_learn_does(count: int) -> None:
    generator = np.random.default_rng(0)
    x, theta = random_features.sphere(20, 5, generator), random_features.sphere(count, 5, generator)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), math.sqrt(5))
    z, y = random_features.features(x, theta), generator.standard_normal(20)
    model = Ridge(alpha=20 * count * 0.01 / 5, fit_intercept=False, solver="svd").fit(z, y)
    np.testing.assert_allclose(random_features.fit(z, y, 0.01, 5), model.coef_, rtol=1e-7, atol=1e-10)


# -- Fourier features, trained networks -------------------------------------------------------------------------------


def test_fourier_features_approximate_the_gaussian_kernel() -> None:
    """Rahimi, Recht 2007: 2 E cos(<v, x> + b) cos(<v, x'> + b) = exp(-|x - x'|^2 / (2 bandwidth^2))."""
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(6, 10))
    v, b = generator.standard_normal((200_000, 10)) / 1.5, generator.uniform(0, 2 * math.pi, 200_000)
    z = fourier_features.fourier_features(x, v, b)
    distance = ((x[:, None] - x) ** 2).sum(-1)
    np.testing.assert_allclose(2 * z @ z.T / 200_000, np.exp(-distance / (2 * 1.5**2)), atol=0.01)


def test_shortest_fit_is_the_pseudo_inverse() -> None:
    generator = np.random.default_rng(0)
    for shape in ((9, 5), (5, 9)):
        z, y = generator.standard_normal(shape), generator.standard_normal((shape[0], 3))
        np.testing.assert_allclose(fourier_features.shortest_fit(z, y), np.linalg.pinv(z) @ y, atol=1e-12)


def test_batched_networks_are_separate_networks() -> None:
    batched = BatchedMLP(3, (5, 7, 4), torch.Generator().manual_seed(0))
    x = torch.randn(3, 6, 5)
    for index in range(3):
        w1, w2 = (weight[index] for weight in batched.weights)
        b1, b2 = (bias[index] for bias in batched.biases)
        alone = torch.relu(x[index] @ w1 + b1) @ w2 + b2
        torch.testing.assert_close(batched(x)[index], alone)
    assert batched.weights_each == 5 * 7 + 7 + 7 * 4 + 4
    batched(x)[1].sum().backward()
    assert all((p.grad[0] == 0).all() for p in batched.parameters() if p.grad is not None)
    logits = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert errors(logits, torch.tensor([1, 1])).tolist() == [0.5, 1.0]


def test_widths_have_the_weights_they_are_to_have() -> None:
    for width in (1, 12, 67, 533):
        networks = BatchedMLP(2, (64, width, 10), torch.Generator())
        assert trained_net.weights_of(width) == networks.weights_each
        assert trained_net.width_of(networks.weights_each / 5000, 500) == width
    assert trained_net.width_of(1e-9, 500) == 1


def test_squared_loss_is_that_of_torch_times_the_classes() -> None:
    outputs, labels = torch.randn(3, 5, 10), torch.randint(10, (3, 5))
    expected = [10 * F.mse_loss(one, F.one_hot(y, 10).float()) for one, y in zip(outputs, labels, strict=True)]
    torch.testing.assert_close(trained_net.squared_loss(outputs, labels), torch.stack(expected))


def test_networks_trained_at_once_are_trained_as_each_alone() -> None:
    """By `nn.Sequential`, `MSELoss` and Adam, ten times the loss of which is what is minimised."""
    networks = BatchedMLP(2, (64, 6, 10), torch.Generator().manual_seed(0))
    x, y = torch.randn(2, 30, 64), torch.randint(10, (2, 30))
    alone = []
    for index in range(2):
        one = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
        for layer, weight, bias in zip((one[0], one[2]), networks.weights, networks.biases, strict=True):
            layer.weight.data, layer.bias.data = weight[index].detach().T.clone(), bias[index, 0].detach().clone()
        optimizer = torch.optim.Adam(one.parameters(), 1e-2)
        for step in range(20):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * step / 20)) / 2
            optimizer.zero_grad()
            (10 * F.mse_loss(one(x[index]), F.one_hot(y[index], 10).float())).backward()
            optimizer.step()
        alone.append(one)
    trained_net.train(networks, x, y, 20, 1e-2)
    for index, one in enumerate(alone):
        torch.testing.assert_close(networks(x)[index], one(x[index]), rtol=1e-4, atol=1e-5)


def test_turns_of_a_curve_by_hand() -> None:
    ratios = np.array([0.1, 0.3, 0.6, 1.0, 1.5, 4.0])
    assert trained_net.turns(ratios, np.array([0.9, 0.2, 0.3, 0.4, 0.35, 0.1])) == (1, 3)  # 0.9 is before, 0.1 is last
    assert trained_net.inside(ratios).tolist() == [False, False, False, True, True, False]
    assert trained_net.rise(np.array([0.9, 0.2, 0.3, 0.1, 0.15])) == pytest.approx(0.1)
    assert trained_net.rise(np.array([0.9, 0.7, 0.4])) == pytest.approx(-0.2)


def test_wrong_and_true_labels_are_learnt_from_equal_weights_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        trained_net, "train", lambda networks, x, y, *_: seen.append((networks.weights[0].clone(), x, y))
    )
    data = trained_net.read()
    assert data.x.mean(0).abs().max() < 1e-5
    assert (len(data.x), len(data.test_x)) == (1437, 360)
    settings = trained_net.TrainedNetSettings(200, (1.0,), 3)
    found = [trained_net.trained(settings, data, 5, share, seed=4) for share in (0.2, 0.0)]
    (wrong_weights, wrong_x, wrong_y), (weights, x, y) = seen
    assert torch.equal(wrong_weights, weights)
    assert torch.equal(wrong_x, x)
    assert (wrong_y != y).double().mean() == pytest.approx(0.2, abs=0.06)  # of 600: four standard deviations
    for place, seed in enumerate((4, 5, 6)):
        assert torch.equal(y[place], data.y[labels.subset(1437, 200, seed)])
    assert found[0].shape == (3, 4)


# -- the studies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 5}, "--samples (=5) must be at least 10: leave it out for the preset's."),
        ({"repetitions": 1}, "--repetitions (=1) must be at least 2, to show a spread: use 3 or more."),
        (
            {"study": "fourier", "label_noise": 1.5},
            "--label_noise (=1.5) must lie in [0, 1], it is a share: 0.2 is every",
        ),
        ({"label_noise": 0.2}, "--label_noise (=0.2) is for labels, linear has none: leave it out."),
        (
            {"study": "net", "label_noise": 0.0},
            "--label_noise (=0.0) must be above 0, true labels are trained on beside it: use 0.2.",
        ),
        ({"study": "net", "label_noise": -0.1}, "--label_noise (=-0.1) must lie in [0, 1], it is a share"),
        ({"sizes": [1, 0.5, 2]}, "--sizes (=[1, 0.5, 2]) must be positive and ascending: leave it out"),
        ({"sizes": [0.5, 0.9, 2]}, "must hold 1, the peak, and sizes on both sides of it: use [0.5,1,2]."),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        double_descent.analyze(**options, preset="smoke")  # type: ignore[arg-type]
    assert message in str(error.value)


def test_more_samples_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match=r"samples \(=2000\) must be 1 to 1437, of which the training set of digits"):
        double_descent.analyze(study="fourier", samples=2000, preset="smoke")
