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


def test_other_protocol() -> None:
    assert verdict(CLAIM, [], other_protocols=True) == "other protocol"
