"""Schedules against closed forms and torch's own over whole runs, resumed half-way, and from recipes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, SequentialLR

from benchmarks.recipe import find_recipe
from benchmarks.tables import read_rows
from models.schedules import Cosine, PiecewiseLinear, StepDecay

Bench = Callable[..., tuple[int, str, str]]
Make = Callable[[SGD], LRScheduler]


def optimizer_with(*lrs: float) -> SGD:
    """One parameter group for each learning rate."""
    return SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], lr=1.0)


def advance(optimizer: SGD, schedule: LRScheduler, steps: int) -> list[list[float]]:
    """The rates of all groups at the next `steps` steps."""
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


def rates(make: Make, steps: int, lrs: tuple[float, ...] = (1.0,)) -> list[list[float]]:
    optimizer = optimizer_with(*lrs)
    return advance(optimizer, make(optimizer), steps)


def single(make: Make, steps: int) -> list[float]:
    return [rate for (rate,) in rates(make, steps)]


# Against torch


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
def test_step_decay_is_torchs(gamma: float) -> None:
    lrs = (0.1, 2.0)
    ours = rates(lambda optimizer: StepDecay(optimizer, [3, 4, 9], gamma), 15, lrs)
    theirs = rates(lambda optimizer: MultiStepLR(optimizer, [3, 4, 9], gamma), 15, lrs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-12)


def test_cosine_is_torchs() -> None:
    lrs = (0.1, 2.0)
    ours = rates(lambda optimizer: Cosine(optimizer, 40), 41, lrs)
    theirs = rates(lambda optimizer: CosineAnnealingLR(optimizer, 40), 41, lrs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-9, abs=1e-12)
    assert ours[40] == [0.0, 0.0]


def test_cosine_with_a_warm_up_is_two_schedules_of_torch() -> None:
    def torchs(optimizer: SGD) -> LRScheduler:
        parts = [LinearLR(optimizer, 0.25, 1.0, 8), CosineAnnealingLR(optimizer, 32)]
        return SequentialLR(optimizer, parts, milestones=[8])

    ours = single(lambda optimizer: Cosine(optimizer, 40, warmup=8, warmup_factor=0.25), 40)
    # torch multiplies the last rate, ours are computed from the first: they round differently
    assert ours == pytest.approx(single(torchs, 40), rel=1e-9, abs=1e-12)


# Closed forms


def test_resnet_110s_warm_up_is_constant() -> None:
    """He et al. 2015, section 4.2: 0.01 for about 400 iterations, then 0.1, divided by 10 at 32 000 and 48 000."""
    at = {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
    schedule = StepDecay(optimizer_with(0.1), [32_000, 48_000], warmup=400, warmup_factor=0.1)
    assert {t: 0.1 * schedule.factor(t) for t in at} == pytest.approx(at)


def test_a_linear_warm_up_climbs_to_the_full_rate() -> None:
    """Goyal et al. 2017, section 2.2: from 0.1 to 3.2, evenly over 5 epochs."""
    schedule = StepDecay(optimizer_with(3.2), [30, 60, 80], warmup=5, warmup_factor=0.1 / 3.2, warmup_form="linear")
    assert [3.2 * schedule.factor(t) for t in range(6)] == pytest.approx([0.1, 0.72, 1.34, 1.96, 2.58, 3.2])
    assert schedule.factor(29) == 1.0
    assert [schedule.factor(t) for t in (30, 60, 80, 1000)] == pytest.approx([0.1, 0.01, 0.001, 0.001])


def test_a_milestone_within_the_warm_up_counts_too() -> None:
    found = single(lambda optimizer: StepDecay(optimizer, [2], 0.5, warmup=4, warmup_factor=0.2), 6)
    assert found == pytest.approx([0.2, 0.2, 0.1, 0.1, 0.5, 0.5])


def test_cosine_by_hand_and_beyond_its_end() -> None:
    found = single(lambda optimizer: Cosine(optimizer, 8, warmup=2, warmup_factor=0.0), 11)
    half = [0.5 * (1 + math.cos(math.pi * t / 6)) for t in range(7)]
    assert found == pytest.approx([0.0, 0.5, *half, 0.0, 0.0])
    assert half[3] == pytest.approx(0.5)


def test_piecewise_linear_by_hand() -> None:
    found = single(lambda optimizer: PiecewiseLinear(optimizer, [0, 2, 6, 7], [0.5, 1.0, 0.2, 0.0]), 10)
    assert found == pytest.approx([0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0])


SCHEDULES: list[Make] = [
    lambda optimizer: StepDecay(optimizer, [4, 9], warmup=3, warmup_factor=0.1, warmup_form="linear"),
    lambda optimizer: StepDecay(optimizer, [2, 9], warmup=3),
    lambda optimizer: Cosine(optimizer, 12, warmup=3),
    lambda optimizer: PiecewiseLinear(optimizer, [0, 5, 12], [0.2, 1.0, 0.1]),
]


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("at", [0, 1, 3, 7, 13])
def test_a_resumed_schedule_goes_on_with_the_same_rates(make: Make, at: int, tmp_path: Path) -> None:
    whole = rates(make, 15, (0.4, 3.0))

    optimizer = optimizer_with(0.4, 3.0)
    schedule = make(optimizer)
    assert advance(optimizer, schedule, at) == whole[:at]
    torch.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "state")

    optimizer = optimizer_with(0.4, 3.0)
    schedule = make(optimizer)
    saved = torch.load(tmp_path / "state", weights_only=True)
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    assert advance(optimizer, schedule, 15 - at) == whole[at:]


@pytest.mark.parametrize("make", SCHEDULES)
def test_every_group_keeps_its_own_first_rate(make: Make) -> None:
    for first, second in rates(make, 15, (0.4, 3.0)):
        assert second == pytest.approx(first * 3.0 / 0.4)


# Refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda o: StepDecay(o, []),
            "milestones (=[]) must be one or more times, at least 1, in increasing order.",
        ),
        (
            lambda o: StepDecay(o, [5, 5]),
            "milestones (=[5, 5]) must be one or more times, at least 1, in increasing order.",
        ),
        (
            lambda o: StepDecay(o, [6, 5]),
            "milestones (=[6, 5]) must be one or more times, at least 1, in increasing order.",
        ),
        (
            lambda o: StepDecay(o, [0, 5]),
            "milestones (=[0, 5]) must be one or more times, at least 1, in increasing order.",
        ),
        (
            lambda o: StepDecay(o, [5], gamma=0.0),
            "gamma (=0.0) must lie in (0, 1]: it multiplies the learning rate at each milestone.",
        ),
        (
            lambda o: StepDecay(o, [5], gamma=10.0),
            "gamma (=10.0) must lie in (0, 1]: it multiplies the learning rate at each milestone.",
        ),
        (lambda o: StepDecay(o, [5], warmup=-1), "warmup (=-1) must not be negative; 0 is no warm-up."),
        (
            lambda o: StepDecay(o, [5], warmup=1, warmup_factor=1.5),
            "warmup_factor (=1.5) must lie in [0, 1]: it multiplies the learning rate.",
        ),
        (
            lambda o: StepDecay(o, [5], warmup=1, warmup_form="cosine"),
            "warmup_form (=cosine) must be one of constant, linear.",
        ),
        (lambda o: Cosine(o, 5, warmup=5), "length (=5) must be greater than warmup (=5), which it includes."),
        (lambda o: Cosine(o, 0), "length (=0) must be greater than warmup (=0), which it includes."),
        (lambda o: Cosine(o, 5, warmup=-1), "warmup (=-1) must not be negative; 0 is no warm-up."),
        (
            lambda o: PiecewiseLinear(o, [0], [1.0]),
            "points (=[0]) and factors (=[1.0]) must be two or more, as many of each.",
        ),
        (
            lambda o: PiecewiseLinear(o, [0, 1], [1.0]),
            "points (=[0, 1]) and factors (=[1.0]) must be two or more, as many of each.",
        ),
        (
            lambda o: PiecewiseLinear(o, [1, 2], [1.0, 0.0]),
            "points (=[1, 2]) must be times in increasing order, the first of them 0.",
        ),
        (
            lambda o: PiecewiseLinear(o, [0, 2, 2], [1.0, 0.5, 0.0]),
            "points (=[0, 2, 2]) must be times in increasing order, the first of them 0.",
        ),
        (
            lambda o: PiecewiseLinear(o, [0, 2], [1.0, -0.5]),
            "factors (=[1.0, -0.5]) must not be negative: they multiply the learning rate.",
        ),
    ],
)
def test_settings_without_a_meaning_are_refused(make: Callable[[SGD], Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        make(optimizer_with(1.0))
    assert str(refusal.value) == message


# From a recipe


def recipe_with(tmp_path: Path, scheduler: dict[str, Any], interval: str) -> str:
    content = yaml.safe_load(find_recipe("digits/linear").read_text())
    settings = content["model"]["init_args"]
    settings |= {"lr_scheduler": scheduler, "lr_interval": interval, "decay_bias": False}  # two parameter groups
    path = tmp_path / "scheduled.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    ("name", "settings", "interval", "factors"),
    [
        ("StepDecay", {"milestones": [2], "warmup": 1, "warmup_factor": 0.2}, "epoch", [0.2, 1.0, 0.1]),
        ("Cosine", {"length": 3 * 44}, "step", [1.0, 0.75, 0.25]),  # 44 steps make an epoch
        ("PiecewiseLinear", {"points": [0, 88, 132], "factors": [0.5, 1.5, 0.0]}, "step", [0.5, 1.0, 1.5]),
    ],
)
def test_a_recipe_names_them(
    bench: Bench, tmp_path: Path, name: str, settings: dict[str, Any], interval: str, factors: list[float]
) -> None:
    scheduler = {"class_path": f"models.schedules.{name}", "init_args": settings}
    config = recipe_with(tmp_path, scheduler, interval)
    short = ("--seed_everything", "0", "--data.loader", "torch", "--trainer.max_epochs", "3")
    status, _, err = bench("fit", "--config", config, *short)
    assert status == 0, err
    (folder,) = (tmp_path / "runs").glob("custom/scheduled/*/seed-0")
    base = yaml.safe_load(Path(config).read_text())["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    found = [float(row["lr"]) for row in read_rows(folder / "metrics.csv")]
    assert found == pytest.approx([base * factor for factor in factors], rel=1e-5)
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert len(state["optimizer_states"][0]["param_groups"]) == 2


def test_what_a_schedule_refuses_is_a_users_mistake(bench: Bench, tmp_path: Path) -> None:
    scheduler = {"class_path": "models.schedules.StepDecay", "init_args": {"milestones": [5, 2]}}
    config = recipe_with(tmp_path, scheduler, "epoch")
    status, _, err = bench("fit", "--config", config, "--seed_everything", "0", "--data.loader", "torch")
    assert status == 2
    assert "milestones (=[5, 2]) must be one or more times" in err
