"""Verdicts, each on a case done by hand."""

from __future__ import annotations

import pytest

from benchmarks.published import Claim, verdict

CLAIM = Claim(value=0.95, protocol="1crop", tolerance=0.15, tolerance_reason="by hand", where="by hand")


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.95], "reproduced"),
        ([1.10], "reproduced"),  # exactly the tolerance, though 1.10 - 0.95 is 0.15000000000000013
        ([0.80, 0.80], "reproduced"),
        ([1.0, 1.3], "short by 0.20"),
        ([0.7, 0.8], "better than published"),
        ([], "not run"),
    ],
)
def test_verdict(errors: list[float], expected: str) -> None:
    assert verdict(CLAIM, errors) == expected


SPREAD = Claim(6.61, "1crop", tolerance=0.3, tolerance_reason="by hand", where="by hand", spread=0.16)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([7.09], "reproduced"),  # 3 * 0.16 = 0.48
        ([7.10], "short by 0.49"),
        ([6.13], "reproduced"),
        ([6.12], "better than published"),
        ([6.90, 6.98], "reproduced"),  # 0.48 / sqrt(2) = 0.339
        ([6.90, 7.00], "short by 0.34"),
        ([6.91] * 3, "reproduced"),  # 0.48 / sqrt(3) = 0.277 is less than the tolerance
        ([6.90, 6.93, 6.95], "short by 0.32"),
        ([6.91] * 5, "reproduced"),  # 0.48 / sqrt(5) = 0.215
        ([6.92] * 5, "short by 0.31"),
        ([], "not run"),
    ],
)
def test_verdict_by_the_spread_of_the_source(errors: list[float], expected: str) -> None:
    assert verdict(SPREAD, errors) == expected


def test_three_standard_errors_or_the_tolerance() -> None:
    wide = Claim(27.0, "1crop", tolerance=0.1, tolerance_reason="by hand", where="by hand", spread=0.5)
    assert [wide.allowed(seeds) for seeds in (1, 4, 9, 25, 225)] == pytest.approx([1.5, 0.75, 0.5, 0.3, 0.1])
    assert wide.allowed(0) == wide.allowed(10_000) == 0.1
    assert [CLAIM.allowed(seeds) for seeds in (0, 1, 3, 5)] == [0.15] * 4


def test_other_protocol() -> None:
    assert verdict(CLAIM, [], other_protocols=True) == "other protocol"
