"""Constant-step SGD stops at a noise ball that can be computed beforehand; a network goes through the noise instead.

The lecture's first code trains `y = x'b + noise` (noise variance 0.25) by SGD: n = 100 000, p = 512, batches of 128 in
a fixed order (781 an epoch, 32 samples never seen), 9 epochs, momentum 0.9, weight decay 5e-4, lr 0.01 divided by 5
after epochs 3 and 6.

- `--model linear`: the first plateau of the slide, 0.42, is not slow convergence. It is the stationary state of SGD
  with this step, which two equations give to a fraction of a percent; the whole curve follows from a recursion of
  three moments.
- `--model net`: a fully connected network p-512-512-1 on the same data. Its training loss ends at half the noise, its
  test loss above the linear model's: the lecture's slide shows the training loss only. The order of
  `scheduler.step()` matters here: the lecture's line, before the epoch, was right until torch 1.0; since 1.1 it divides
  the learning rate one epoch early, with a single warning, and the network ends at a training loss of 0.15 instead of
  0.114. Only the corrected order gives the slide.
- `--model glm`: logistic (two classes) and multinomial (ten) regression by the same recipe, against the optimum that
  L-BFGS finds. The slide's rho(t) = -ln(1 + exp(-t)) is a log-likelihood, to be maximised: the loss is its negative.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, Preset, steps
from benchmarks.phenomena.figures import GREY, OKABE_ITO, panels, points, theory_line

PAPER = "Donoho, Papyan, Zhong 2019, STATS 385, lecture 1; theory of SGD with momentum derived here"
COST = "linear and glm 2 min each, net 20 min on two busy cores; smoke seconds; full, 20 seeds on a GPU, is not tried"
VARIANT = "model"

VARIANCE = 0.25  # of the noise
MOMENTUM, DECAY = 0.9, 5e-4
RATES = (0.01, 0.002, 0.0004)
WINDOW = 100  # iterations that one point of a trace averages

# Read off the slides: the three plateaus (digitised, +- 0.003); the network's curve in epochs 2 to 9, by eye.
SLIDE_PLATEAUS = (0.4188, 0.2717, 0.2548)
SLIDE_NET = (0.24, 0.214, 0.166, 0.15, 0.138, 0.122, 0.117, 0.116)


@dataclass(frozen=True)
class Recipe:
    """Sizes of an experiment.

    Args:
        samples: n, training samples.
        features: p.
        batch: B, samples per step; what does not fill a batch is never seen.
        epochs: passes over the data; the learning rate is divided by 5 after each third of them.
        hidden: units of the network's two hidden layers.
        seeds: repetitions with other data.
        tests: fresh samples to test with.
    """

    samples: int = 100_000
    features: int = 512
    batch: int = 128
    epochs: int = 9
    hidden: int = 512
    seeds: int = 5
    tests: int = 20_000

    @property
    def batches(self) -> int:
        """Steps per epoch."""
        return self.samples // self.batch

    @property
    def milestones(self) -> list[int]:
        """Epochs after which the learning rate falls."""
        return [self.epochs // 3, 2 * self.epochs // 3]


# p / B is 4 in all: the noise balls of the linear model are the same.
RECIPES = {
    "linear": {"smoke": Recipe(6_400, 64, 16, 9, 0, 3, 5_000), "cpu": Recipe(), "full": Recipe(seeds=20)},
    "net": {
        "smoke": Recipe(4_000, 64, 16, 15, 64, 1, 5_000),
        "cpu": Recipe(seeds=3),
        "full": Recipe(seeds=20),
    },
    "glm": {"smoke": Recipe(6_400, 64, 16, 9, 0, 1, 5_000), "cpu": Recipe(seeds=1), "full": Recipe(seeds=20)},
}


# -- theory -----------------------------------------------------------------------------------------------------------


def stationary(lr: float, features: int, batch: int, beta2: float = 0.0) -> float:
    """Excess risk E||w - b||^2 at which SGD with step `lr` stays, for x ~ N(0, I) and fresh batches.

    With e = w - b, a = 2 lr (MSELoss averages: its gradient carries 2/B), l = lr wd, k = 1 + m - a - l, a step is
    e' = k e - m e_ - l b + noise, whose second moment is a^2 ((p + 1) A + s^2 p) / B. So A = E||e||^2 and
    C = E<e, e_> solve A = (k^2 + m^2 + a^2 (p + 1) / B) A - 2 m k C + a^2 s^2 p / B + bias, C = k A - m C + bias.
    The terms called bias, of order l, are what weight decay adds; `beta2` is ||b||^2.

    Raises:
        AnalysisError: the step is so large that there is no such state.
    """
    a, shrink, m = 2 * lr, lr * DECAY, MOMENTUM
    k = 1 + m - a - shrink
    along = -shrink * beta2 / (a + shrink)  # <E e, b>
    constant = a**2 * VARIANCE * features / batch + shrink**2 * beta2 - 2 * shrink * (k - m) * along
    equations = np.array([[1 - k**2 - m**2 - a**2 * (features + 1) / batch, 2 * m * k], [-k, 1 + m]])
    excess, _ = np.linalg.solve(equations, np.array([constant, -shrink * along]))
    if excess <= 0 or np.linalg.det(equations) <= 0:
        raise AnalysisError(f"lr (={lr}) must be smaller for {features} features in batches of {batch}: SGD diverges.")
    return float(excess)


def expected_excess(rates: list[float], features: int, batch: int, start: float, along: float, beta2: float) -> Tensor:
    """E||w_t - b||^2 before each step t, whose learning rates are `rates`. [T]

    The recursion of E||e||^2, E<e, v>, E||v||^2 for torch's v' = m v + g, e' = e - lr v', and of the means along b.
    `start` is ||w_0 - b||^2, `along` is <w_0 - b, b>, `beta2` is ||b||^2.
    """
    m, c = MOMENTUM, 2 + DECAY
    ee, ev, vv, eb, vb = start, 0.0, 0.0, along, 0.0
    found = []
    for lr in rates:
        found.append(ee)
        noise = 4 * ((features + 1) * ee + VARIANCE * features) / batch
        mean = c**2 * ee + 2 * c * DECAY * eb + DECAY**2 * beta2  # of the gradient, squared
        vv = m**2 * vv + 2 * m * (c * ev + DECAY * vb) + mean + noise
        ev = m * ev + c * ee + DECAY * eb  # <e, v'>
        ee, ev = ee - 2 * lr * ev + lr**2 * vv, ev - lr * vv
        vb = m * vb + c * eb + DECAY * beta2
        eb -= lr * vb
    return torch.tensor(found, dtype=torch.float64)


def log_likelihood(t: Tensor) -> Tensor:
    """The slide's rho(t) = -ln(1 + exp(-t)): of a label in {-1, 1} times its score; to be maximised."""
    return -F.softplus(-t)


def optimum(x: Tensor, labels: Tensor, classes: int, decay: float = DECAY) -> Tensor:
    """W [C, p] that minimises the mean cross-entropy of x W' plus decay / 2 ||W||^2, by L-BFGS in double precision."""
    x = x.double()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).view(classes, -1)
        scores = x @ w.T
        slope = scores.softmax(1)
        slope[torch.arange(len(x)), labels] -= 1
        value = F.cross_entropy(scores, labels) + decay / 2 * w.square().sum()
        return float(value), (slope.T @ x / len(x) + decay * w).flatten().numpy()

    start = np.zeros(classes * x.shape[1])
    settings = {"maxiter": 500, "ftol": 1e-13, "gtol": 1e-7}
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=settings)
    return torch.from_numpy(found.x).view(classes, -1)


def least_squares(x: Tensor, y: Tensor) -> Tensor:
    """(x'x)^-1 x'y in double precision. [n, p], [n] -> [p]"""
    x = x.double()
    return torch.linalg.solve(x.T @ x, x.T @ y.double())


# -- training by the lecture's recipe ---------------------------------------------------------------------------------


@dataclass
class Trace:
    """What a training run left.

    Args:
        losses: of each batch before its step. [T]
        rates: the learning rate of each epoch.
        watched: what `watch` returned before each step.
        reports: what `report` returned after each epoch.
        warned: torch has complained about the order of scheduler and optimizer.
    """

    losses: Tensor
    rates: list[float]
    watched: list[float]
    reports: list[Any]
    warned: bool

    def windows(self) -> Tensor:
        """Means over `WINDOW` iterations. [T // WINDOW]"""
        whole = len(self.losses) // WINDOW * WINDOW
        return self.losses[:whole].view(-1, WINDOW).mean(1)


def train(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    recipe: Recipe,
    scheduler_first: bool = False,
    watch: Callable[[], float] | None = None,
    report: Callable[[], Any] | None = None,
    label: str = "training",
) -> Trace:
    """Train `net` as the lecture's code does; `scheduler_first`: `scheduler.step()` before the epoch, as it had it."""
    optimizer = torch.optim.SGD(net.parameters(), lr=RATES[0], momentum=MOMENTUM, weight_decay=DECAY)
    losses, rates, watched, reports = [], [], [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, recipe.milestones, gamma=0.2)
        for _ in steps(range(recipe.epochs), label):
            if scheduler_first:
                scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
            for xs, ys in zip(x.split(recipe.batch)[: recipe.batches], y.split(recipe.batch), strict=False):
                if watch:
                    watched.append(watch())
                value = loss(net(xs), ys)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                losses.append(value.detach())
            if report:
                reports.append(report())
            if not scheduler_first:
                scheduler.step()
    warned = any("lr_scheduler.step()" in str(one.message) for one in caught)
    return Trace(torch.stack(losses).cpu().double(), rates, watched, reports, warned)


def scheduled(recipe: Recipe) -> list[float]:
    """The learning rate of each epoch as the lecture means it."""
    return [RATES[sum(epoch >= milestone for milestone in recipe.milestones)] for epoch in range(recipe.epochs)]


def plateaus(recipe: Recipe) -> list[slice]:
    """The iterations of each learning rate, without the first epoch, in which the loss still falls."""
    ends = [*recipe.milestones, recipe.epochs]
    starts = [0, *recipe.milestones]
    return [slice((s + 1) * recipe.batches, e * recipe.batches) for s, e in zip(starts, ends, strict=True)]


def draw(recipe: Recipe, seed: int, outputs: int = 1, length: float = 1.0) -> dict[str, Tensor]:
    """x ~ N(0, I) [n, p], coefficients b [p, C] with entries N(0, length^2 / p), and fresh samples, from `seed`."""
    source = torch.Generator().manual_seed(seed)
    p = recipe.features
    b = torch.randn(p, outputs, generator=source) * length / math.sqrt(p)
    x = torch.randn(recipe.samples, p, generator=source)
    tests = torch.randn(recipe.tests, p, generator=source)
    noise = math.sqrt(VARIANCE) * torch.randn(recipe.samples + recipe.tests, 1, generator=source)
    chance = torch.rand(recipe.samples + recipe.tests, 1, generator=source)
    return {"x": x, "tests": tests, "b": b, "noise": noise, "chance": chance}


def with_noise(data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """y = x b + noise of training and test samples. [n, 1], [tests, 1]"""
    n = len(data["x"])
    return data["x"] @ data["b"] + data["noise"][:n], data["tests"] @ data["b"] + data["noise"][n:]


def with_chance(data: dict[str, Tensor]) -> Tensor:
    """Labels drawn from the softmax of x b. [n]"""
    cumulated = (data["x"] @ data["b"]).softmax(1).cumsum(1)
    return (data["chance"][: len(cumulated)] > cumulated[:, :-1]).sum(1)


def network(recipe: Recipe, seed: int) -> nn.Sequential:
    """p-hidden-hidden-1 with ReLU, as torch initialises it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        p, h = recipe.features, recipe.hidden
        return nn.Sequential(nn.Linear(p, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 1))


def linear_map(recipe: Recipe, seed: int, outputs: int = 1) -> nn.Linear:
    """p to `outputs`, without bias: the lecture's formulas have none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(recipe.features, outputs, bias=False)


# -- the analysis -----------------------------------------------------------------------------------------------------


def analyze(
    model: Literal["linear", "net", "glm"] = "linear",
    repetitions: int | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Train by the lecture's recipe and compare with theory and with its slides.

    Args:
        model: linear regression, a network of three layers on the same data, or logistic and multinomial regression.
        repetitions: data sets, drawn with seed, seed + 1, ...; default: the preset's.
        preset: smoke has p = 64 and batches of 16, cpu the lecture's sizes, full 20 data sets on a GPU.
        seed: of data and initial weights.
    """
    recipe = RECIPES[model][preset]
    count = recipe.seeds if repetitions is None else repetitions
    if count < 1:
        raise AnalysisError(f"--repetitions (={count}) must be at least 1.")
    device = "cuda" if preset == "full" and torch.cuda.is_available() else "cpu"
    return {"linear": analyze_linear, "net": analyze_net, "glm": analyze_glm}[model](
        recipe, [seed + i for i in range(count)], preset, device
    )


def mean_and_spread(values: Any) -> tuple[float, float]:
    """Mean, and standard deviation over seeds; 0 for one."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


def over(seeds: list[int]) -> str:
    """What points and bars of a figure are, for its title."""
    return f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"


def analyze_linear(recipe: Recipe, seeds: list[int], preset: Preset, device: str) -> Outcome:
    """Linear regression beside the theory of SGD."""
    found = [train_linear(recipe, seed, device) for seed in seeds]
    theory = [stationary(lr, recipe.features, recipe.batch, found[0]["beta2"]) for lr in RATES]
    near, close = (0.1, 0.02) if preset == "smoke" else (0.03, 0.01)
    checks: list[Check] = []
    numbers: dict[str, Any] = {"theory": {"excess": theory, "loss": [VARIANCE + one for one in theory]}}
    for index, (lr, at) in enumerate(zip(RATES, plateaus(recipe), strict=True)):
        excess, spread = mean_and_spread([one["excess"][at].mean() for one in found])
        loss, loss_spread = mean_and_spread([one["trace"].losses[at].mean() for one in found])
        numbers[f"lr {lr}"] = {"excess": excess, "spread": spread, "loss": loss, "loss spread": loss_spread}
        low, high = (1 - near) * theory[index], (1 + near) * theory[index]
        source = f"closed form {theory[index]:.4f} ± {near:.0%}"
        checks.append(Check(f"excess risk at lr {lr}", excess, low, high, source, spread=spread))
        slide = SLIDE_PLATEAUS[index]
        name = f"training loss at lr {lr}"
        checks.append(
            Check(
                name, loss, slide - close, slide + close, f"slide ± {close}", published=slide, spread=loss_spread
            )
        )  # fmt: skip
    for name in ("train", "test", "ols train", "ols test", "noise train", "noise test"):
        numbers[name] = dict(zip(("mean", "spread"), mean_and_spread([one[name] for one in found]), strict=True))
    numbers["lr per epoch"] = found[0]["trace"].rates
    drop = max(abs(a / b - 1) for a, b in zip(found[0]["trace"].rates, scheduled(recipe), strict=True))
    checks.append(
        Check("learning rate per epoch, off by", drop, 0, 1e-12, "0.01, 0.002, 0.0004: a third of the epochs each")
    )

    curve = VARIANCE + found[0]["theory"]
    windows = torch.stack([one["trace"].windows() for one in found])
    x = (np.arange(windows.shape[1]) + 0.5) * WINDOW
    figure, (left, right) = panels(1, 2, width=8.4, height=3.4)
    deviation = windows.std(0) if len(seeds) > 1 else torch.zeros(len(x))
    theory_line(left, np.arange(len(curve)), curve, "exact theory of SGD")
    points(
        left,
        x[::2],
        windows.mean(0)[::2],
        f"training loss, mean of {WINDOW} steps",
        0,
        deviation[::2],
    )
    left.axhline(numbers["ols train"]["mean"], color=OKABE_ITO[2], linestyle=":", label="least squares, training")
    for at, slide in zip(plateaus(recipe), SLIDE_PLATEAUS, strict=True):
        label = "slide" if slide == SLIDE_PLATEAUS[0] else None
        left.plot([at.start, at.stop], [slide, slide], color=OKABE_ITO[1], linestyle="--", zorder=4, label=label)
    left.set(xlabel="iteration", ylabel="squared error", ylim=(0.22, 0.6))
    left.set_title(f"one plateau for each step size; {over(seeds)}")
    left.legend()
    measured = torch.stack([one["excess"] for one in found]).mean(0)
    thin = np.unique(np.geomspace(1, len(measured), 120).astype(int)) - 1
    theory_line(right, np.arange(1, len(measured) + 1), found[0]["theory"], "exact theory of SGD")
    points(right, thin + 1, measured[thin], "measured", 0)
    right.set(
        xscale="log",
        yscale="log",
        xlabel="iteration",
        ylabel="excess risk ‖w − b‖²",
        title=f"mean over {len(seeds)} seeds" if len(seeds) > 1 else None,
    )
    right.legend()
    table = {
        "iteration": x.tolist(),
        "train_loss": windows.mean(0).tolist(),
        "spread": deviation.tolist(),
        "theory": [float(curve[int(at - WINDOW / 2) : int(at + WINDOW / 2)].mean()) for at in x],
        "excess": [float(measured[int(at - WINDOW / 2) : int(at + WINDOW / 2)].mean()) for at in x],
    }
    return Outcome(numbers, checks, table, {"trace": figure}, seeds)


def train_linear(recipe: Recipe, seed: int, device: str) -> dict[str, Any]:
    """One seed of linear regression: its trace, excess risk at every step, theory, and final losses."""
    data = {name: one.to(device) for name, one in draw(recipe, seed).items()}
    (y, tests), b = with_noise(data), data["b"][:, 0]
    net = linear_map(recipe, seed).to(device)
    w = net.weight.detach()[0]
    start, along, beta2 = float((w - b).square().sum()), float((w - b) @ b), float(b.square().sum())
    trace = train(
        net, data["x"], y, F.mse_loss, recipe, watch=lambda: float((w - b).square().sum()), label=f"linear, seed {seed}"
    )
    rates = [rate for rate in trace.rates for _ in range(recipe.batches)]
    ols = least_squares(data["x"], y[:, 0]).float()
    n = recipe.samples
    with torch.no_grad():
        return {
            "trace": trace,
            "excess": torch.tensor(trace.watched, dtype=torch.float64),
            "theory": expected_excess(rates, recipe.features, recipe.batch, start, along, beta2),
            "beta2": beta2,
            "train": float(F.mse_loss(net(data["x"]), y)),
            "test": float(F.mse_loss(net(data["tests"]), tests)),
            "ols train": float(F.mse_loss(data["x"] @ ols, y[:, 0])),
            "ols test": float(F.mse_loss(data["tests"] @ ols, tests[:, 0])),
            "noise train": float(data["noise"][:n].square().mean()),
            "noise test": float(data["noise"][n:].square().mean()),
        }


def analyze_net(recipe: Recipe, seeds: list[int], preset: Preset, device: str) -> Outcome:
    """The network of three layers in the corrected order, one seed in the lecture's order, and the linear model."""
    found = [train_net(recipe, seed, device) for seed in seeds]
    early = train_net(recipe, seeds[0], device, scheduler_first=True)
    linear = [train_linear(recipe, seed, device) for seed in seeds]
    reports = torch.tensor([one["trace"].reports for one in found], dtype=torch.float64)  # [seeds, epochs, 2]
    (train_end, train_spread), (test_end, test_spread) = (mean_and_spread(reports[:, -1, i]) for i in (0, 1))
    linear_test, ols_test = (mean_and_spread([one[name] for one in linear])[0] for name in ("test", "ols test"))
    running = torch.stack([one["trace"].losses.view(recipe.epochs, -1).mean(1) for one in found]).mean(0)
    early_running = early["trace"].losses.view(recipe.epochs, -1).mean(1)
    above = mean_and_spread([float(one[-1, 1]) - two["test"] for one, two in zip(reports, linear, strict=True)])
    drops = [sum(rate == RATES[0] for rate in one["trace"].rates) for one in (found[0], early)]
    due = recipe.milestones[0]
    numbers = {
        "train": {"mean": train_end, "spread": train_spread},
        "test": {"mean": test_end, "spread": test_spread},
        "test after the first epoch": float(reports[:, 0, 1].mean()),
        "linear test": linear_test,
        "ols test": ols_test,
        "noise": VARIANCE,
        "running loss per epoch": running,
        "running loss per epoch, scheduler first": early_running,
        "train, scheduler first": early["trace"].reports[-1][0],
        "test, scheduler first": early["trace"].reports[-1][1],
        "lr per epoch": found[0]["trace"].rates,
        "lr per epoch, scheduler first": early["trace"].rates,
        "torch warned of the old order": early["trace"].warned,
    }
    drop = max(abs(a / b - 1) for a, b in zip(found[0]["trace"].rates, scheduled(recipe), strict=True))
    checks = [
        Check("test loss above the linear model's by", above[0], 0.02, None, "it has fitted noise", spread=above[1]),
        Check("learning rate per epoch, off by", drop, 0, 1e-12, "0.01, 0.002, 0.0004: a third of the epochs each"),
        Check("epochs at lr 0.01", drops[0], due, due, "slide: drops at iterations 2343 and 4686"),
        Check("epochs at lr 0.01, scheduler first", drops[1], due - 1, due - 1, "torch 1.1 and later: one early"),
        Check("torch warns of the old order", float(early["trace"].warned), 1, 1, "torch"),
        Check(
            "training loss, scheduler first, above by",
            early["trace"].reports[-1][0] - float(reports[0, -1, 0]),
            0.01 if preset != "smoke" else 0,
            None,
            "only the corrected order gives the slide",
        ),
    ]
    if preset == "smoke":
        checks.append(Check("final training loss / noise", train_end / VARIANCE, None, 0.8, "it goes below the noise"))
    else:
        off = max(abs(a - b) for a, b in zip(running[1:].tolist(), SLIDE_NET, strict=True))
        checks += [
            Check(
                "final training loss", train_end, 0.109, 0.119, "slide's end of curve ± 0.005",
                published=0.116, spread=train_spread,
            ),
            Check(
                "final test loss", test_end, 0.29, 0.31, "measured before, three seeds: 0.301 to 0.306",
                spread=test_spread,
            ),
            Check("running loss of epochs 2 to 9, off the slide by at most", off, 0, 0.01, "slide, by eye"),
        ]  # fmt: skip
    figure, (left, right) = panels(1, 2, width=8.4, height=3.4)
    epochs = np.arange(1, recipe.epochs + 1)
    spread = reports.std(0) if len(seeds) > 1 else torch.zeros_like(reports[0])
    points(left, epochs, reports.mean(0)[:, 0], "network, training", 0, spread[:, 0], line=True)
    points(left, epochs, reports.mean(0)[:, 1], "network, test", 1, spread[:, 1], line=True)
    left.axhline(linear_test, color=OKABE_ITO[2], linestyle="--", label="linear by SGD, test")
    left.axhline(VARIANCE, color=GREY, linestyle=":", label="variance of the noise")
    left.set(
        xlabel="epoch",
        ylabel="squared error",
        ylim=(0, None),
        title=over(seeds),
    )
    left.legend()
    windows, old = found[0]["trace"].windows(), early["trace"].windows()
    x = (np.arange(len(windows)) + 0.5) * WINDOW
    right.plot(x, windows, color=OKABE_ITO[0], label="scheduler after the epoch")
    right.plot(x, old, color=OKABE_ITO[1], linestyle="--", label="scheduler before it, as on the slide")
    if preset != "smoke":
        points(right, (epochs[1:] - 0.5) * recipe.batches, SLIDE_NET, "slide's curve, by eye", 6)
    right.set(xlabel="iteration", ylabel=f"training loss, mean of {WINDOW} steps", ylim=(0, 0.5))
    right.set_title(f"seed {seeds[0]}")
    right.legend()
    table = {"iteration": x.tolist(), "train_loss": windows.tolist(), "train_loss_scheduler_first": old.tolist()}
    return Outcome(numbers, checks, table, {"trace": figure}, seeds)


def train_net(recipe: Recipe, seed: int, device: str, scheduler_first: bool = False) -> dict[str, Any]:
    """One seed of the network: its trace, with training and test loss after every epoch."""
    data = {name: one.to(device) for name, one in draw(recipe, seed).items()}
    y, tests = with_noise(data)
    net = network(recipe, seed).to(device)

    @torch.no_grad()
    def report() -> tuple[float, float]:
        return float(F.mse_loss(net(data["x"]), y)), float(F.mse_loss(net(data["tests"]), tests))

    order = ", scheduler first" if scheduler_first else ""
    label = f"network, seed {seed}{order}"
    return {"trace": train(net, data["x"], y, F.mse_loss, recipe, scheduler_first, report=report, label=label)}


def analyze_glm(recipe: Recipe, seeds: list[int], preset: Preset, device: str) -> Outcome:
    """Logistic and multinomial regression beside the optimum."""
    numbers: dict[str, Any] = {}
    checks, curves = [], {}
    for classes, name in ((2, "logistic"), (10, "multinomial")):
        found = [train_glm(recipe, seed, classes, device) for seed in seeds]
        own = {key: mean_and_spread([one[key] for one in found]) for key in found[0] if key != "trace"}
        numbers[name] = {key: {"mean": mean, "spread": spread} for key, (mean, spread) in own.items()}
        curves[name] = (torch.stack([one["trace"].windows() for one in found]), numbers[name])
        ratio = max(one["objective"] / one["optimal objective"] - 1 for one in found)
        limit = 0.0015 if preset != "smoke" else 0.01
        checks.append(Check(f"{name}: objective above the optimum, relative", ratio, 0, limit, "L-BFGS"))
        checks.append(
            Check(
                f"{name}: training loss below Bayes' by",
                own["bayes"][0] - own["nll"][0],
                0,
                None,
                "p coefficients were fitted",
            )
        )
    figure, axes = panels(1, 2, width=8.4, height=3.4)
    for ax, (name, (windows, own)) in zip(axes, curves.items(), strict=True):
        x = (np.arange(windows.shape[1]) + 0.5) * WINDOW
        deviation = windows.std(0) if len(seeds) > 1 else torch.zeros(len(x))
        points(ax, x[::2], windows.mean(0)[::2], f"training loss, mean of {WINDOW} steps", 0, deviation[::2])
        ax.axhline(own["optimal nll"]["mean"], color=OKABE_ITO[1], linestyle="--", label="at the optimum (L-BFGS)")
        ax.axhline(own["bayes"]["mean"], color=GREY, linestyle=":", label="of the true coefficients")
        ax.set(xlabel="iteration", ylabel="cross-entropy in nats", title=f"{name}; {over(seeds)}")
        ax.set_ylim(0.93 * own["optimal nll"]["mean"], 1.6 * own["optimal nll"]["mean"])
        ax.legend()
    table: dict[str, Any] = {"iteration": x.tolist()}
    table |= {f"{name}_nll": windows.mean(0) for name, (windows, _) in curves.items()}
    return Outcome(numbers, checks, table, {"trace": figure}, seeds)


def train_glm(recipe: Recipe, seed: int, classes: int, device: str) -> dict[str, Any]:
    """One seed of softmax regression: its trace, loss and objective, and those of the optimum and of the truth."""
    data = draw(recipe, seed, classes, length=3.0)
    labels = with_chance(data)
    net = linear_map(recipe, seed, classes).to(device)
    label = f"{classes} classes, seed {seed}"
    trace = train(net, data["x"].to(device), labels.to(device), F.cross_entropy, recipe, label=label)
    best, w, x = optimum(data["x"], labels, classes), net.weight.detach().cpu().double(), data["x"].double()
    nll, best_nll = (float(F.cross_entropy(x @ one.T, labels)) for one in (w, best))
    return {
        "trace": trace,
        "nll": nll,
        "optimal nll": best_nll,
        "bayes": float(F.cross_entropy(x @ data["b"].double(), labels)),
        "objective": nll + DECAY / 2 * float(w.square().sum()),
        "optimal objective": best_nll + DECAY / 2 * float(best.square().sum()),
        "distance": float((w - best).norm() / best.norm()),
    }
