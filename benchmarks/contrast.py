"""Two samples of seeds compared: difference or ratio of means, its confidence interval, and what that says of a paper.

The seeds of two cells do not pair, although they are the same numbers: another network draws other initial weights from
the same seed. So the interval is Welch's, for independent samples of unequal spread.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.grid import Number


@dataclass(frozen=True)
class Comparison:
    """`estimate` and its 95 % confidence interval; `low` and `high` are None where a side has a single seed."""

    estimate: float
    low: float | None
    high: float | None


def compare(left: Sequence[float], right: Sequence[float], kind: str = "minus") -> Comparison | None:
    """Mean of `left` minus mean of `right`, or, `over`, the ratio of geometric means. None if a side is empty."""
    if not left or not right:
        return None
    if kind == "over":
        logarithms = compare([math.log(x) for x in left], [math.log(x) for x in right])
        assert logarithms is not None
        ends = (None if end is None else math.exp(end) for end in (logarithms.low, logarithms.high))
        return Comparison(math.exp(logarithms.estimate), *ends)
    interval = welch_interval(left, right)
    return Comparison(statistics.mean(left) - statistics.mean(right), *(interval or (None, None)))


def welch_interval(left: Sequence[float], right: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the difference of two means (Welch 1947); None if a side has a single value."""
    if len(left) < 2 or len(right) < 2:
        return None
    if statistics.stdev(left) == statistics.stdev(right) == 0:
        difference = statistics.mean(left) - statistics.mean(right)
        return difference, difference
    from scipy.stats import ttest_ind

    with warnings.catch_warnings():  # scipy warns of rounding where all seeds of one side agree; the interval holds
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = ttest_ind(left, right, equal_var=False).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def verdict(found: Comparison | None, published: Number | None, kind: str = "minus") -> str:
    """What a comparison says of the paper's number, in words.

    `not proven` if the interval includes no difference at all (0, or a ratio of 1), or if there is no interval.
    """
    if found is None:
        return "not run"
    none = 1.0 if kind == "over" else 0.0
    if found.low is None or found.high is None or found.low <= none <= found.high:
        return "not proven"
    higher = found.estimate > none
    if published is None:
        return "proven higher" if higher else "proven lower"
    expected = published.value > none or (published.value == none and published.bound == ">")
    if higher != expected:
        return "opposite sign"
    if published.value == none:  # the paper gives no more than the sign
        return "same sign"
    holds = published.allows(found.low, found.high)
    return "same sign, interval holds the paper's value" if holds else "same sign"
