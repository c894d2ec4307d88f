"""Learning-rate schedules of the era that torch does not have in one piece: steps, ramps and cosines with a warm-up.

Each is an `LRScheduler` to be named in a recipe. Lengths count whatever `lr_interval` says: epochs or optimizer steps.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class FactorSchedule(LRScheduler):
    """Every parameter group's own first learning rate times `factor(t)`, t steps or epochs after the start."""

    def factor(self, t: int) -> float:
        """The factor at time t >= 0."""
        raise NotImplementedError

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of each parameter group now."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class Warmup(FactorSchedule):
    """What schedules with a warm-up share: `warmup` steps or epochs of lower rates, `warmed` says which."""

    def __init__(self, optimizer: Optimizer, warmup: int, warmup_factor: float, warmup_form: str) -> None:
        if warmup < 0:
            raise ValueError(f"warmup (={warmup}) must not be negative; 0 is no warm-up.")
        if not 0 <= warmup_factor <= 1:
            raise ValueError(f"warmup_factor (={warmup_factor}) must lie in [0, 1]: it multiplies the learning rate.")
        if warmup_form not in ("constant", "linear"):
            raise ValueError(f"warmup_form (={warmup_form}) must be one of constant, linear.")
        self.warmup = warmup
        self.warmup_factor = warmup_factor
        self.warmup_form = warmup_form
        super().__init__(optimizer)

    def warmed(self, t: int) -> float:
        """The warm-up's own factor at time t: below 1 only before `warmup`."""
        if t >= self.warmup:
            return 1.0
        if self.warmup_form == "constant":
            return self.warmup_factor
        return self.warmup_factor + (1 - self.warmup_factor) * t / self.warmup


class StepDecay(Warmup):
    """Times `gamma` at each milestone, after an optional warm-up.

    He et al. 2015, section 4.2, ResNet-110: `milestones: [32000, 48000]`, `warmup: 400`, `warmup_factor: 0.1`,
    `warmup_form: constant` with `lr_interval: step`.

    Args:
        optimizer: given by the suite.
        milestones: when the rate falls, in increasing order, counted from the very start.
        gamma: factor at each milestone.
        warmup: length of the warm-up; 0 for none.
        warmup_factor: share of the full rate at which the warm-up starts, 0 to 1.
        warmup_form: `constant` stays at that share until it ends, `linear` climbs from it to the full rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: list[int],
        gamma: float = 0.1,
        warmup: int = 0,
        warmup_factor: float = 0.1,
        warmup_form: Literal["constant", "linear"] = "constant",
    ) -> None:
        if not milestones or milestones != sorted(set(milestones)) or milestones[0] < 1:
            raise ValueError(f"milestones (={milestones}) must be one or more times, at least 1, in increasing order.")
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma (={gamma}) must lie in (0, 1]: it multiplies the learning rate at each milestone.")
        self.milestones = milestones
        self.gamma = gamma
        super().__init__(optimizer, warmup, warmup_factor, warmup_form)

    def factor(self, t: int) -> float:
        return self.warmed(t) * self.gamma ** bisect_right(self.milestones, t)


class Cosine(Warmup):
    """Half a cosine from the full rate to 0 at `length`, after an optional linear warm-up (Loshchilov, Hutter 2017).

    Args:
        optimizer: given by the suite.
        length: when the rate reaches 0, warm-up included.
        warmup: length of the warm-up; 0 for none.
        warmup_factor: share of the full rate at which the warm-up starts, 0 to 1.
    """

    def __init__(self, optimizer: Optimizer, length: int, warmup: int = 0, warmup_factor: float = 0.1) -> None:
        if length <= warmup:
            raise ValueError(f"length (={length}) must be greater than warmup (={warmup}), which it includes.")
        self.length = length
        super().__init__(optimizer, warmup, warmup_factor, "linear")

    def factor(self, t: int) -> float:
        if t < self.warmup:
            return self.warmed(t)
        progress = min(1.0, (t - self.warmup) / (self.length - self.warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))


class PiecewiseLinear(FactorSchedule):
    """Straight lines between the given factors, constant after the last; FFCV's and many speed records' schedule.

    Args:
        optimizer: given by the suite.
        points: times, increasing, the first 0.
        factors: factor of the learning rate at each of them.
    """

    def __init__(self, optimizer: Optimizer, points: list[int], factors: list[float]) -> None:
        if len(points) != len(factors) or len(points) < 2:
            raise ValueError(f"points (={points}) and factors (={factors}) must be two or more, as many of each.")
        if points[0] != 0 or points != sorted(set(points)):
            raise ValueError(f"points (={points}) must be times in increasing order, the first of them 0.")
        if min(factors) < 0:
            raise ValueError(f"factors (={factors}) must not be negative: they multiply the learning rate.")
        self.points = points
        self.factors = factors
        super().__init__(optimizer)

    def factor(self, t: int) -> float:
        after = bisect_right(self.points, t)
        if after == len(self.points):
            return self.factors[-1]
        start, end = self.points[after - 1], self.points[after]
        share = (t - start) / (end - start)
        return (1 - share) * self.factors[after - 1] + share * self.factors[after]
