"""Lazy training: risks by matrices against least squares on samples, limits against finite sizes; the study."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.phenomena import lazy
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.cards import RESULTS

Floats = np.ndarray


def fitted_risk(features: Floats, values: Floats, fresh: Floats, fresh_values: Floats) -> float:
    """Squared error of a least-squares fit with a constant, on fresh points, over the variance of the target."""
    design, fresh_design = (np.column_stack([one, np.ones(len(one))]) for one in (features, fresh))
    weights = np.linalg.lstsq(design, values, rcond=None)[0]
    return float(np.mean((fresh_design @ weights - fresh_values) ** 2) / np.var(fresh_values))


@pytest.mark.parametrize("method", ["features", "tangent"])
def test_risks_are_those_of_least_squares_on_samples(method: str) -> None:
    """40 000 Gaussian points in 6 dimensions, 3 units: the networks' own features, not their matrices."""
    generator = np.random.default_rng(0)
    b, w = lazy.target(6, generator), lazy.directions(3, 6, generator)
    x, fresh = generator.standard_normal((2, 40_000, 6))
    values, fresh_values = (np.einsum("nd,de,ne->n", one, b, one) for one in (x, fresh))

    def units(one: Floats) -> Floats:
        z = one @ w
        return z**2 if method == "features" else (z[:, :, None] * one[:, None, :]).reshape(len(one), -1)

    risk = {"features": lazy.features_risk, "tangent": lazy.tangent_risk}[method](b, w)
    assert 0.05 < risk < 0.95
    assert fitted_risk(units(x), values, units(fresh), fresh_values) == pytest.approx(risk, rel=0.05)


def test_all_directions_leave_nothing() -> None:
    generator = np.random.default_rng(0)
    b = lazy.target(5, generator)
    assert lazy.tangent_risk(b, lazy.directions(5, 5, generator)) == pytest.approx(0, abs=1e-12)
    assert lazy.best_rank(5, b) == 0
    assert lazy.features_risk(b, lazy.directions(15, 5, generator)) == pytest.approx(0, abs=1e-8)  # d (d + 1) / 2 units


def test_best_rank_by_hand() -> None:
    """Eigenvalues 3, 2, 1: the squares 9, 4, 1 of 14."""
    assert [lazy.best_rank(n, np.diag([1.0, 3.0, 2.0])) for n in range(4)] == pytest.approx([1, 5 / 14, 1 / 14, 0])


def test_a_trained_network_reaches_the_best_rank() -> None:
    generator = np.random.default_rng(0)
    b = lazy.target(30, generator)
    turn = np.linalg.qr(generator.standard_normal((30, 30)))[0]
    turned = turn @ b @ turn.T
    for n in (1, 10, 25):
        risk = lazy.network_risk(turned, lazy.directions(n, 30, generator))
        assert risk == pytest.approx(lazy.best_rank(n, b), abs=1e-5)


def test_exact_mean_of_the_tangent_model() -> None:
    """Over 4000 draws at d = 8; for B = 1 it is the share of directions that is left, for large d the limit."""
    generator = np.random.default_rng(0)
    b = lazy.target(8, generator)
    drawn = np.array([lazy.tangent_risk(b, lazy.directions(3, 8, generator)) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(lazy.tangent_mean(3, b), abs=4 * drawn.std() / 4000**0.5)
    assert lazy.tangent_mean(3, np.eye(8)) == pytest.approx(5 / 8)
    large = lazy.target(2000, generator)
    tau = lazy.trace_share(large)
    assert tau == pytest.approx(0.5, abs=0.05)  # (E lambda)^2 / E lambda^2 of an exponential variable
    assert lazy.tangent_mean(800, large) == pytest.approx(lazy.tangent_limit(0.4, tau), abs=1e-3)


def test_limits_at_their_ends() -> None:
    for tau in (0.0, 0.3, 1.0):
        assert lazy.tangent_limit(0, tau) == lazy.features_limit(0, tau) == 1
        assert lazy.tangent_limit(1, tau) == lazy.tangent_limit(2, tau) == 0
        assert lazy.features_limit(1, tau) == 1 - tau / 2


def test_checks_hold_at_smoke_size() -> None:
    outcome = lazy.analyze(preset="smoke")
    assert [f"{check.name} = {check.value}" for check in outcome.failed] == []
    found = {check.name: check.value for check in outcome.checks}
    assert found["NT: mean risk, distance from the limit in standard deviations"] <= 3
    assert found["NN: distance from the best rank N, largest"] <= 1e-4
    assert found["NN less NT, largest"] < 0
    assert found["NT less RF, largest"] < 0
    assert outcome.figures


def test_the_committed_result_is_of_the_papers_dimension_and_holds() -> None:
    record = json.loads((RESULTS / "lazy.json").read_text())
    assert (record["preset"], record["seed"], record["commit"]["clean"]) == ("cpu", 0, True)
    assert record["numbers"]["dimension d"] == 450
    assert record["checks"]
    assert all(check["held"] for check in record["checks"] if check["must_hold"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 5}, "--dimension (=5) must be at least 20, the theory is of large ones: use 60 or 450."),
        ({"repetitions": 2}, "--repetitions (=2) must be at least 3, to show a spread: use 5 or more."),
        ({"sizes": [0.5, 1.0]}, "--sizes (=[0.5, 1.0]) must ascend between 0 and 1, units per dimension: from 1 on NT"),
        ({"sizes": [0.5, 0.2]}, "must ascend between 0 and 1"),
        ({"sizes": []}, "--sizes (=[]) must ascend between 0 and 1"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        lazy.analyze(**options, preset="smoke")  # type: ignore[arg-type]
    assert message in str(error.value)
