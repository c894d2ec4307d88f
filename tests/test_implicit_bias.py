"""Implicit bias: each solution that theory names against another way to it, by hand where it is small; the studies."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmarks.phenomena import diagonal_net, implicit_bias, max_margin, shortest_solution, width_sweep
from benchmarks.phenomena.analysis import AnalysisError, Outcome
from benchmarks.phenomena.cards import RESULTS


def held(outcome: Outcome) -> dict[str, float]:
    assert outcome.checks
    assert [f"{check.name} = {check.value}" for check in outcome.failed] == []
    assert outcome.figures
    return {check.name: check.value for check in outcome.checks}


# -- the shortest solution --------------------------------------------------------------------------------------------


def test_one_equation_by_hand() -> None:
    """3 a + 4 b = 5: the shortest is (3, 4) / 5; from (4, -3), which solves 0, it is that plus (4, -3)."""
    x, y = np.array([[3.0, 4.0]]), np.array([5.0])
    assert shortest_solution.nearest_solution(x, y, np.zeros(2)) == pytest.approx([0.6, 0.8])
    assert shortest_solution.nearest_solution(x, y, np.array([4.0, -3.0])) == pytest.approx([4.6, -2.2])
    (found,) = shortest_solution.descend(x, y, np.array([4.0, -3.0]), [1])  # one step of the rate 1 / |x|^2 solves it
    assert found == pytest.approx([4.6, -2.2])
    once = shortest_solution.project(x, y, np.zeros(2), 1, np.random.default_rng(0))
    assert once == pytest.approx([0.6, 0.8])


def test_the_nearest_solution_is_the_nearest() -> None:
    """Against scipy's constrained minimum of the distance from w_0."""
    generator = np.random.default_rng(0)
    x, y, w0 = generator.standard_normal((3, 7)), generator.standard_normal(3), generator.standard_normal(7)
    constraint = {"type": "eq", "fun": lambda w: x @ w - y}
    wanted = minimize(lambda w: np.sum((w - w0) ** 2), w0, constraints=constraint, options={"ftol": 1e-14})
    np.testing.assert_allclose(shortest_solution.nearest_solution(x, y, w0), wanted.x, atol=1e-6)


# -- the largest margin -----------------------------------------------------------------------------------------------


def test_largest_margin_by_hand() -> None:
    """The hull of (1, 1) and (1, -2) is a vertical line, nearest to 0 in (1, 0): direction (1, 0), margin 1."""
    z = np.array([[1.0, 1.0], [1.0, -2.0]])
    for direction in (max_margin.dual_direction(z), max_margin.svc_direction(z)):
        assert direction / np.linalg.norm(direction) == pytest.approx([1, 0], abs=1e-6)
        assert max_margin.margin(z, direction) == pytest.approx(1)
    assert max_margin.angle(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(math.pi / 4)


def test_dual_is_scikit_learns() -> None:
    generator = np.random.default_rng(1)
    for n, d in ((20, 2), (30, 6)):
        z = max_margin.points_to_separate(n, d, 0.3, generator)
        ours, theirs = max_margin.dual_direction(z), max_margin.svc_direction(z)
        assert max_margin.margin(z, ours) >= 0.3
        assert max_margin.margin(z, ours) == pytest.approx(max_margin.margin(z, theirs), rel=1e-5)
        assert max_margin.angle(ours, theirs) < 1e-3


def test_normalised_steps_are_those_of_the_exponential_loss() -> None:
    """Its gradient by autograd, divided by the loss."""
    z = max_margin.points_to_separate(6, 3, 0.5, np.random.default_rng(0))
    rate = 1 / (z**2).sum(1).max()
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(4):
        loss = torch.exp(-(torch.from_numpy(z) @ w)).sum()
        (slope,) = torch.autograd.grad(loss, w)
        w = (w - rate * slope / loss).detach().requires_grad_(True)
    first, found = max_margin.normalised_descent(z, [0, 4])
    assert not first.any()
    np.testing.assert_allclose(found, w.detach().numpy(), rtol=1e-12)


def test_plain_steps_lower_the_logistic_loss() -> None:
    z = max_margin.points_to_separate(20, 3, 0.5, np.random.default_rng(0))
    losses = [np.logaddexp(0, -(z @ w)).mean() for w in max_margin.plain_descent(z, [0, 1, 10, 100])]
    assert losses[0] == pytest.approx(math.log(2))
    assert losses == sorted(losses, reverse=True)


# -- the diagonal network ---------------------------------------------------------------------------------------------


def test_sparse_solution_by_hand() -> None:
    """2 a + b + c = 2: the least l1 norm is that of (1, 0, 0), where the least l2 norm is that of (4, 2, 2) / 6."""
    x, y = np.array([[2.0, 1.0, 1.0]]), np.array([2.0])
    assert diagonal_net.l1_solution(x, y) == pytest.approx([1, 0, 0])
    assert diagonal_net.flow_limit(x, y, 1000.0) == pytest.approx([4 / 6, 2 / 6, 2 / 6], rel=1e-4)
    assert diagonal_net.flow_limit(x, y, 1e-12) == pytest.approx([1, 0, 0], abs=1e-4)


@pytest.mark.parametrize("alpha", [2.0, 0.3, 0.05])
def test_end_of_the_flow_is_the_least_in_its_norm(alpha: float) -> None:
    """Woodworth et al.: sum a^2 q(w_i / a^2), q(z) = 2 - sqrt(4 + z^2) + z arsinh(z / 2), among the solutions."""
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((3, 6)), generator.standard_normal(3)

    def norm(w: np.ndarray) -> float:
        z = w / alpha**2
        return float(np.sum(2 - np.sqrt(4 + z**2) + z * np.arcsinh(z / 2)))

    found = diagonal_net.flow_limit(x, y, alpha)
    np.testing.assert_allclose(x @ found, y, atol=1e-8)
    null = np.linalg.svd(x)[2][3:]
    for direction in (*null, *-null):
        assert norm(found + 1e-3 * direction) > norm(found)


def test_steps_are_those_of_autograd() -> None:
    generator = np.random.default_rng(0)
    x, y, alphas = generator.standard_normal((1, 4, 6)), generator.standard_normal((1, 4)), np.array([0.5, 0.01])
    w, residual = diagonal_net.descend(x, y, alphas, 3)
    matrix, target = torch.from_numpy(x[0]), torch.from_numpy(y[0])
    top = np.linalg.norm(x[0], 2) ** 2 / 4
    for place, alpha in enumerate(alphas):
        u = torch.full((6,), alpha, dtype=torch.float64, requires_grad=True)
        v = u.detach().clone().requires_grad_(True)
        rate = 1 / (4 * top * max(2 * alpha**2, 1))
        for _ in range(3):
            loss = (matrix @ (u**2 - v**2) - target).square().sum() / (2 * 4)
            slopes = torch.autograd.grad(loss, (u, v))
            u, v = ((p - rate * s).detach().requires_grad_(True) for p, s in zip((u, v), slopes, strict=True))
        ours = (u**2 - v**2).detach()
        np.testing.assert_allclose(w[0, place], ours.numpy(), rtol=1e-12)
        assert residual[0, place] == pytest.approx(float((matrix @ ours - target).norm() / target.norm()))


def test_equations_without_a_solution_are_refused() -> None:
    x, y = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]), np.array([1.0, 5.0])
    with pytest.raises((AnalysisError, np.linalg.LinAlgError)):
        diagonal_net.flow_limit(x, y, 0.1)


# -- widths -----------------------------------------------------------------------------------------------------------


def test_errors_are_counted_over_all_images() -> None:
    """In parts of 5000: three networks, of which the first is right everywhere, the others wrong by half and by all."""
    networks = width_sweep.BatchedMLP(3, (2, 2), torch.Generator().manual_seed(0))
    with torch.no_grad():
        networks.weights[0].copy_(torch.stack([torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), -torch.eye(2)]))
    y = torch.arange(7002) % 2
    x = torch.eye(2)[y]
    assert width_sweep.error_of(networks, x, y, 3).tolist() == [0.0, 0.5, 1.0]


# -- the studies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["min_norm", "max_margin", "diagonal", "width"])
def test_checks_hold_at_smoke_size(study: implicit_bias.Study) -> None:
    outcome = implicit_bias.analyze(study=study, preset="smoke")
    found = held(outcome)
    if study == "min_norm":
        assert found["from 0: |w - w+| / |w+|, largest"] < 1e-8
    if study == "max_margin":
        assert found["normalised: margin short of the largest, relative"] < 1e-3
    if study == "diagonal":
        assert found["alpha = 10: distance from the l2 solution"] < 0.01
        assert 0.99 < found["alpha = 0.001: l1 norm over the least"] < 1.01
        assert set(outcome.numbers["residual |X w - y| / |y|, mean over draws"]) == {"10", "1", "0.1", "0.001"}
    if study == "width":
        assert found["training error at H = 16"] <= 0.002
        assert found["test error at H = 16 less that at H = 256"] > 0.002


@pytest.mark.parametrize("study", ["min_norm", "max_margin", "diagonal", "width"])
def test_committed_results_are_of_the_full_check_and_hold(study: str) -> None:
    record = json.loads((RESULTS / f"implicit_bias-{study}.json").read_text())
    assert (record["preset"], record["seed"], record["commit"]["clean"]) == ("cpu", 0, True)
    assert record["checks"]
    assert [check["name"] for check in record["checks"] if check["must_hold"] and not check["held"]] == []
    if study == "width":
        assert record["numbers"]["dataset"] == "mnist"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetitions": 1}, "--repetitions (=1) must be at least 2, to show a spread: use 3 or more."),
        ({"samples": 3}, "--samples (=3) must be 5 to 50, so that there are many solutions: leave it out for the"),
        ({"study": "diagonal", "samples": 60}, "--samples (=60) must be 5 to 50, so that there are many solutions"),
        ({"study": "width", "samples": 60}, "--samples (=60) is for min_norm and max_margin and diagonal, not width"),
        ({"alphas": [10.0, 0.001]}, "--alphas (=[10.0, 0.001]) is for diagonal, not min_norm: leave it out."),
        ({"study": "diagonal", "alphas": [0.001, 10.0]}, "must be positive and descend from 3 or more, where the l2"),
        ({"study": "diagonal", "alphas": [1.0, 0.001]}, "must be positive and descend from 3 or more, where the l2"),
        ({"study": "diagonal", "alphas": []}, "--alphas (=[]) must be positive and descend"),
        ({"study": "width", "widths": [4, 8]}, "--widths (=[4, 8]) must ascend and hold 16, which fits all, and wider"),
        ({"study": "width", "epochs": 0}, "--epochs (=0) must be at least 1: leave it out for the preset's."),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        implicit_bias.analyze(**options, preset="smoke")  # type: ignore[arg-type]
    assert message in str(error.value)
