"""Welch's interval by hand, and what it lets one say of a paper's number."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from benchmarks.contrast import Comparison, compare, verdict, welch_interval
from benchmarks.grid import Number
from benchmarks.leaderboard import proven_better


def test_interval_by_hand() -> None:
    """Variances 1 and 4, 3 runs each: standard error root of 5/3, degrees of freedom (5/3)^2 / ((1/9 + 16/9) / 2)."""
    half = stats.t.ppf(0.975, 50 / 17) * math.sqrt(5 / 3)
    assert welch_interval([1.0, 2.0, 3.0], [4.0, 6.0, 8.0]) == pytest.approx((-4 - half, -4 + half))


def test_interval_of_equal_variances_is_students() -> None:
    low, high = welch_interval([0.0, 2.0], [5.0, 7.0]) or (math.nan, math.nan)
    assert (low + high) / 2 == pytest.approx(-5)
    assert (high - low) / 2 == pytest.approx(4.302653 * math.sqrt(2), rel=1e-6)  # t of 2 degrees of freedom, tables


def test_one_value_on_a_side_has_no_interval() -> None:
    assert welch_interval([1.0], [2.0, 3.0]) is None
    assert compare([1.0], [2.0, 3.0]) == Comparison(-1.5, None, None)
    assert compare([], [2.0, 3.0]) is None


def test_sides_without_spread() -> None:
    assert welch_interval([1.0, 1.0], [3.0, 3.0]) == (-2.0, -2.0)
    half = stats.t.ppf(0.975, 1) * math.sqrt(0.5 / 2)  # one side has spread: its own degrees of freedom
    assert welch_interval([1.0, 1.0], [3.0, 4.0]) == pytest.approx((-2.5 - half, -2.5 + half))


def test_interval_excludes_zero_where_the_leaderboard_proves() -> None:
    generator = random.Random(0)
    proven = 0
    for _ in range(30):
        ours = [generator.gauss(0, 1) for _ in range(4)]
        theirs = [generator.gauss(1.5, 2) for _ in range(3)]
        low, high = welch_interval(ours, theirs) or (math.nan, math.nan)
        assert (high < 0) == proven_better(ours, theirs)
        assert (low > 0) == proven_better(theirs, ours)
        proven += high < 0 or low > 0
    assert 0 < proven < 30


def test_the_interval_holds_the_truth_19_times_in_20() -> None:
    generator = random.Random(0)
    held = 0
    for _ in range(400):
        left = [generator.gauss(5, 1) for _ in range(3)]
        right = [generator.gauss(3, 1.5) for _ in range(5)]
        low, high = welch_interval(left, right) or (math.nan, math.nan)
        held += low <= 2 <= high
    assert 364 <= held <= 396  # 380 expected, standard deviation 4.4


def test_ratio_is_of_geometric_means() -> None:
    found = compare([30.0, 30.0, 30.0], [5.0, 5.0, 5.0], "over")
    assert found is not None
    assert (found.estimate, found.low, found.high) == pytest.approx((6.0, 6.0, 6.0))
    found = compare([8.0, 18.0], [2.0, 8.0], "over")  # geometric means 12 and 4
    assert found is not None
    assert found.estimate == pytest.approx(3.0)
    assert found.low is not None
    assert found.high is not None
    assert math.sqrt(found.low * found.high) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("found", "published", "words"),
    [
        (None, Number(1.0), "not run"),
        (Comparison(1.0, None, None), Number(1.0), "not proven"),
        (Comparison(1.0, -0.1, 2.1), Number(1.0), "not proven"),
        (Comparison(1.0, 0.0, 2.0), Number(1.0), "not proven"),
        (Comparison(1.0, 0.5, 1.5), Number(1.2), "same sign, interval holds the paper's value"),
        (Comparison(1.0, 0.5, 1.5), Number(1.5), "same sign, interval holds the paper's value"),
        (Comparison(1.0, 0.5, 1.5), Number(1.6), "same sign"),
        (Comparison(-1.0, -1.5, -0.5), Number(-2.0), "same sign"),
        (Comparison(-1.0, -1.5, -0.5), Number(1.0), "opposite sign"),
        (Comparison(1.0, 0.5, 1.5), Number(0.0, ">"), "same sign"),
        (Comparison(-1.0, -1.5, -0.5), Number(0.0, ">"), "opposite sign"),
        (Comparison(-1.0, -1.5, -0.5), Number(0.0, "<"), "same sign"),
        (Comparison(60.0, 50.0, 70.0), Number(53.0, ">"), "same sign, interval holds the paper's value"),
        (Comparison(40.0, 30.0, 50.0), Number(53.0, ">"), "same sign"),
        (Comparison(1.0, 0.5, 1.5), None, "proven higher"),
        (Comparison(-1.0, -1.5, -0.5), None, "proven lower"),
        (Comparison(-1.0, -1.5, 0.5), None, "not proven"),
    ],
)
def test_verdict_of_a_difference(found: Comparison | None, published: Number | None, words: str) -> None:
    assert verdict(found, published) == words


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Comparison(5.0, 3.0, 8.0), "same sign, interval holds the paper's value"),
        (Comparison(3.0, 2.0, 4.5), "same sign"),
        (Comparison(1.2, 0.9, 1.5), "not proven"),
        (Comparison(0.5, 0.4, 0.7), "opposite sign"),
    ],
)
def test_verdict_of_a_ratio(found: Comparison, words: str) -> None:
    assert verdict(found, Number(6.0), "over") == words
