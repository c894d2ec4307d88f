"""Mean field: kernels and maps against integrals and draws, steps against autograd; the studies."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad

from benchmarks.phenomena import mean_field, radial_flow, signal_maps
from benchmarks.phenomena.analysis import AnalysisError, Outcome
from benchmarks.phenomena.cards import RESULTS


def held(outcome: Outcome) -> dict[str, float]:
    assert outcome.checks
    assert [f"{check.name} = {check.value}" for check in outcome.failed] == []
    assert outcome.figures
    return {check.name: check.value for check in outcome.checks}


# -- SGD and its equation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "z"), [(3, 0.4), (3, 2.0), (40, 1.0), (40, 8.0), (40, 60.0)])
def test_response_is_the_integral_over_the_sphere(d: int, z: float) -> None:
    """Against quadrature over the density of a coordinate, (1 - u^2)^((d - 3)/2), between sigma's bends."""

    def sigma(t: float) -> float:
        return -2.5 + 10 * min(max(t - 0.5, 0), 1)

    def mean(f: Callable[[float], float]) -> float:
        cuts = sorted({-1.0, 1.0, *(bend / z for bend in (0.5, 1.5) if bend < z)})
        return sum(quad(lambda u: f(u) * (1 - u * u) ** ((d - 3) / 2), a, b)[0] for a, b in itertools.pairwise(cuts))

    mass = mean(lambda u: 1.0)
    value, slope = radial_flow.response(np.array([z]), d)
    assert value[0] == pytest.approx(mean(lambda u: sigma(z * u)) / mass, rel=1e-6)
    inside = mean(lambda u: 10 * u * (0.5 < z * u < 1.5)) / mass
    assert slope[0] == pytest.approx(inside, rel=1e-6, abs=1e-12)


def test_table_of_the_response() -> None:
    table = radial_flow.Response.up_to(50.0, 40)
    z = np.array([0.3, 1.234, 17.7, 49.9])
    for found, wanted in zip(table(z), radial_flow.response(z, 40), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_cloud_moves_as_the_gradient_says() -> None:
    """The speed of one radius, against the mean over draws of x and of directions of the step of SGD on |w|."""
    task = radial_flow.TwoBalls(dimension=5, delta=0.5)
    generator = torch.Generator().manual_seed(0)
    x, y = radial_flow.samples(task, (200_000,), generator)
    short = 1e-3
    (cloud, later), _ = radial_flow.flow(task, (1e-9, short), particles=50, nodes=400)
    w = torch.randn(5, 400, generator=generator)
    w = w / w.norm(dim=0) * torch.from_numpy(cloud).float().repeat(8)
    z = x @ w
    off = y - radial_flow.activation(z).mean(1)
    step = 2 * 10 / len(x) * (off[:, None] * x).T @ ((z > 0.5) & (z < 1.5)).float()
    radial = (step * w / w.norm(dim=0)).sum(0).view(8, 50).mean(0).double().numpy()
    speed = (later - cloud) / short
    np.testing.assert_allclose(speed, radial, rtol=0.06)  # eight directions of each radius: chance
    assert speed.mean() == pytest.approx(radial.mean(), rel=0.01)


def test_a_step_of_sgd_is_that_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """N / 2 times the gradient of the squared loss, whose 1 / N the mean-field rate takes away, times 2 eps."""
    task, seed = radial_flow.TwoBalls(dimension=4), 3
    radii, _ = radial_flow.descend(task, 6, 0.1, 5, (0.1,), 2, seed)
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(2, 4, 6, generator=generator) * (0.64 / 4) ** 0.5
    radial_flow.samples(task, (10_000,), generator)
    x, y = radial_flow.samples(task, (2, 5), generator)
    w.requires_grad_(True)
    loss = (y - radial_flow.activation(x @ w).mean(2)).square().mean(1).sum()
    (slope,) = torch.autograd.grad(loss, w)
    torch.testing.assert_close(torch.from_numpy(radii[0]).float(), (w - 0.1 * 6 * slope).norm(dim=1))


def test_samples_are_of_two_balls() -> None:
    x, y = radial_flow.samples(radial_flow.TwoBalls(), (20_000,), torch.Generator().manual_seed(0))
    for sign, deviation in ((1, 1.8), (-1, 0.2)):
        assert float(x[y == sign].std()) == pytest.approx(deviation, rel=0.01)
    assert float(y.mean()) == pytest.approx(0, abs=0.03)


def test_distance_by_hand() -> None:
    assert radial_flow.distance(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == pytest.approx(1 / 3)


# -- maps -------------------------------------------------------------------------------------------------------------


def density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def test_maps_of_tanh_are_integrals() -> None:
    network, q, c = signal_maps.Network("", "tanh", 2.5, 0.1), 1.7, 0.6
    length = 2.5 * quad(lambda z: math.tanh(math.sqrt(q) * z) ** 2 * density(z), -10, 10)[0] + 0.1
    assert signal_maps.length_map(network, q) == pytest.approx(length, rel=1e-8)

    def product(b: float, a: float) -> float:
        mixed = c * a + math.sqrt(1 - c * c) * b
        return math.tanh(math.sqrt(q) * a) * math.tanh(math.sqrt(q) * mixed) * density(a) * density(b)

    inner = 2.5 * dblquad(product, -8, 8, -8, 8, epsabs=1e-9)[0] + 0.1
    assert signal_maps.correlation_map(network, q, c) == pytest.approx(inner / length, rel=1e-6)
    assert signal_maps.correlation_map(network, q, 1.0) == pytest.approx(1)


@pytest.mark.parametrize("kind", [signal_maps.ORDER, signal_maps.CHAOS, signal_maps.RELU])
def test_slope_is_that_of_the_correlation_map_at_1(kind: signal_maps.Network) -> None:
    q = signal_maps.fixed_length(kind)
    assert signal_maps.length_map(kind, q) == pytest.approx(q)
    step = 1e-6
    slope = (1 - signal_maps.correlation_map(kind, q, 1 - step)) / step
    assert slope == pytest.approx(signal_maps.slope(kind, q), rel=2e-3)


def test_map_of_relu_is_an_integral_that_gauss_and_hermite_miss() -> None:
    network, c = signal_maps.RELU, 0.3

    def product(b: float, a: float) -> float:
        return max(a, 0) * max(c * a + math.sqrt(1 - c * c) * b, 0) * density(a) * density(b)

    inner = 2 * dblquad(product, 0, 8, lambda a: -c * a / math.sqrt(1 - c * c), 8, epsabs=1e-9)[0]
    assert signal_maps.correlation_map(network, 1.0, c) == pytest.approx(inner, rel=1e-6)
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    assert 2 * float(weights @ (nodes > 0)) / weights.sum() < 0.98  # chi, which is 1


def test_lengths_of_relu_networks_spread_as_is_known() -> None:
    size = (400, 4, 30)
    signals = signal_maps.propagate(signal_maps.RELU, size, (2.0,), (0.5,), 1.0, seed=0, groups=1)
    found = signals.lengths[:, :, 0, 0]
    expected = signal_maps.relu_spread(30, 4)
    assert expected[0] == pytest.approx(math.sqrt(2 / 30))
    assert np.abs(found.mean(0) / 2 - 1).max() < 4 * expected[-1] / 20
    np.testing.assert_allclose(found.std(0, ddof=1) / 2, expected, rtol=0.25)


# -- the studies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["sgd", "maps"])
def test_checks_hold_at_smoke_size(study: mean_field.Study) -> None:
    found = held(mean_field.analyze(study=study, preset="smoke"))
    if study == "sgd":
        assert found["W1 of |w| over its mean, N = 400, largest"] <= 0.03
        assert found["W1 at N = 400 over W1 at N = 50"] < 0.5
        assert found["risk: largest difference, N = 400"] <= 0.025
    else:
        assert found["tanh, order: q / map, furthest from 1"] <= 1.05
        assert found["tanh, chaos: c, distance from the map"] <= 0.05
        assert found["ReLU, He et al.'s: c, distance from arc-cosine"] <= 0.01


@pytest.mark.parametrize("study", ["sgd", "maps"])
def test_committed_results_are_of_the_full_check_and_hold(study: str) -> None:
    record = json.loads((RESULTS / f"mean_field-{study}.json").read_text())
    assert (record["preset"], record["seed"], record["commit"]["clean"]) == ("cpu", 0, True)
    assert record["checks"]
    assert all(check["held"] for check in record["checks"] if check["must_hold"])
    values = {check["name"]: check["value"] for check in record["checks"]}
    if study == "sgd":
        assert values["W1 of |w| over its mean, N = 800, largest"] <= 0.02
    else:
        assert record["numbers"]["ReLU, He et al.'s"]["networks"] >= 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": [800]}, "--units (=[800]) must be two widths or more, to see the trend: use [100,800]."),
        (
            {"units": [800, 100]},
            "--units (=[800, 100]) must ascend from 10 or more: use [100,800], or [1000] for maps.",
        ),
        ({"units": [2, 100]}, "must ascend from 10 or more"),
        ({"study": "maps", "units": [100, 800]}, "--units (=[100, 800]) must be one width for maps: use [1000]."),
        ({"networks": 1}, "--networks (=1) must be at least 2, to show a spread: use 3 or more."),
        ({"layers": 5}, "--layers (=5) is for maps, sgd trains one hidden layer: leave it out."),
        ({"study": "maps", "layers": 1}, "--layers (=1) must be at least 2, there is a map from one to the next: use"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        mean_field.analyze(**options, preset="smoke")  # type: ignore[arg-type]
    assert message in str(error.value)
