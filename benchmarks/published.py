"""What a paper claims about a network on a dataset, and what measured errors say about the claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Metric = Literal["top1_error", "top5_error"]


@dataclass
class Claim:
    """One published number.

    Args:
        value: the published error in percent.
        protocol: how it was evaluated, a name in `benchmarks/protocols.py`.
        tolerance: how far, in points of error, a reproduction may differ, of however many seeds; see `allowed`.
        tolerance_reason: why that far.
        where: table, figure or section of the source.
        metric: `top1_error` or `top5_error`.
        spread: standard deviation of the error over single runs in the source, in points of error, where it gives one
            for this very number; None where it does not.
    """

    value: float
    protocol: str
    tolerance: float
    tolerance_reason: str
    where: str
    metric: Metric = "top1_error"
    spread: float | None = None

    def allowed(self, seeds: int) -> float:
        """How far the mean over `seeds` runs may differ: the tolerance, or three standard errors if that is more.

        max(tolerance, 3 spread / sqrt(seeds)), in points of error; without a spread or runs the tolerance alone.
        """
        if self.spread is None or seeds == 0:
            return self.tolerance
        return max(self.tolerance, 3 * self.spread / math.sqrt(seeds))


@dataclass
class Published:
    """The source of a recipe and what it claims.

    Args:
        paper: authors, year, title.
        url: where the paper can be read.
        parameters: trainable parameters of the network as built by the recipe.
        claims: the published numbers; none where the source gives no number for this dataset.
        departures: each way in which the recipe differs from the source, one plain sentence each.
    """

    paper: str
    url: str
    parameters: int
    claims: list[Claim] = field(default_factory=list)
    departures: list[str] = field(default_factory=list)


def verdict(claim: Claim, errors: Sequence[float], other_protocols: bool = False) -> str:
    """What the errors of finished runs (percent, one per seed, under the claim's protocol) say about the claim.

    `reproduced` if their mean is as near as `Claim.allowed` says for so many, `better than published` or `short by x`
    beyond it; without errors, `other protocol` if there are runs under other protocols, else `not run`.
    """
    if not errors:
        return "other protocol" if other_protocols else "not run"
    difference = sum(errors) / len(errors) - claim.value
    if abs(difference) <= claim.allowed(len(errors)) + 1e-9:  # a difference of exactly the tolerance is within it
        return "reproduced"
    return "better than published" if difference < 0 else f"short by {difference:.2f}"
