"""The loss on straight lines: from initial weights to trained ones, and from one minimum to another.

Goodfellow, Vinyals, Saxe 2015, "Qualitatively characterizing neural network optimization problems", ICLR: from the
start to the solution it only falls. Between two solutions of different initial weights it rises to a barrier. Frankle,
Dziugaite, Roy, Carbin 2020, "Linear mode connectivity and the lottery ticket hypothesis", ICML: for two networks that
share their first epochs and go on with other orders of images, the barrier falls with what they share; small networks
on easy data hardly have one, though they share no more than the start.
Letters: E pairs of networks, t the place on a line.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, steps
from benchmarks.phenomena.batched import BatchedMLP
from benchmarks.phenomena.digit_networks import CLASSES, PIXELS, FlatDigits, descend, evaluate, own_orders, read
from benchmarks.phenomena.figures import GREY, MARKERS, OKABE_ITO, panels, points
from benchmarks.phenomena.slices import Floats, barrier, rise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = 20  # steps from t = 0 to t = 1
AT: Floats = np.arange(-PARTS // 4, 5 * PARTS // 4 + 1) / PARTS  # beyond both ends, which are on it exactly
WITHIN = slice(PARTS // 4, PARTS // 4 + PARTS + 1)  # t from 0 to 1
START, OTHER = "start to solution", "two starts"


@dataclass(frozen=True)
class BetweenSettings:
    """What is trained.

    Args:
        networks: pairs.
        width: hidden units.
        epochs: of SGD with momentum 0.9, whose rate falls linearly to 0.
        shared: first epochs that the two of a pair have in common, ascending from 0, fewer than all.
        batch: images of a step.
        rate: at the start.
        high: smallest barrier between solutions of two starts, mean over pairs.
    """

    networks: int
    width: int
    epochs: int
    shared: tuple[int, ...]
    batch: int = 32
    rate: float = 0.1
    high: float = 0.03


PRESETS = {
    "smoke": BetweenSettings(3, 64, 10, (0, 5)),
    "cpu": BetweenSettings(10, 64, 40, (0, 1, 2, 5, 10, 20)),
    "full": BetweenSettings(30, 512, 100, (0, 1, 2, 5, 10, 20, 50)),
}


def start_of(settings: BetweenSettings, seed: int) -> BatchedMLP:
    """E networks at their initial weights."""
    sizes = (PIXELS, settings.width, CLASSES)
    return BatchedMLP(settings.networks, sizes, torch.Generator().manual_seed(seed))


def trained(
    settings: BetweenSettings, data: FlatDigits, start: BatchedMLP, order: int, fork: int = 0, first: int = 0
) -> BatchedMLP:
    """Copies of `start`, trained on orders of images of seed `order`; the first `fork` epochs on those of `first`.

    Two with the same `first` are one, bit for bit, until the epoch `fork`: weights, momenta and rate.
    """
    before, after = (own_orders(settings.networks, len(data.x), one) for one in (first, order))
    return descend(
        copy.deepcopy(start), data.x, data.y, lambda epoch: before(epoch) if epoch < fork else after(epoch),
        settings.epochs, settings.batch, settings.rate,
    )  # fmt: skip


@torch.no_grad()
def along(start: BatchedMLP, end: BatchedMLP, data: FlatDigits) -> Floats:
    """Training loss, training error, test loss, test error on the line at each of AT. [4, points, E]"""
    there, found = copy.deepcopy(start), []
    for t in AT:
        for p, a, b in zip(there.parameters(), start.parameters(), end.parameters(), strict=True):
            p.copy_(torch.lerp(a, b, float(t)))
        found.append(at_point(there, data))
    return np.asarray(torch.stack(found, 1).numpy())


def at_point(networks: BatchedMLP, data: FlatDigits) -> Tensor:
    """Training loss, training error, test loss and test error. [4, E]"""
    return torch.cat([evaluate(networks, data.x, data.y), evaluate(networks, data.test_x, data.test_y)])


def study(settings: BetweenSettings, seed: int) -> Outcome:
    """Train one network of each pair, then the others, and walk from one to the other."""
    check_shared(settings)
    data = read()
    start, elsewhere = start_of(settings, seed), start_of(settings, seed + 1)
    mine, theirs = 2 * seed, 2 * seed + 1  # orders
    solution = trained(settings, data, start, mine)
    lines = {START: along(start, solution, data)}
    lines[OTHER] = along(solution, trained(settings, data, elsewhere, theirs), data)
    for epochs in steps(settings.shared, "shared epochs"):
        twin = trained(settings, data, start, theirs, epochs, mine)
        lines[shared_name(epochs)] = along(solution, twin, data)
    return conclude(settings, lines)


def check_shared(settings: BetweenSettings) -> None:
    """Refuse a training that ends before the networks part.

    Raises:
        AnalysisError: as said.
    """
    if settings.epochs <= settings.shared[-1]:
        raise AnalysisError(
            f"--epochs (={settings.epochs}) must be more than {settings.shared[-1]}, which the two networks of a pair "
            f"share at most: use {2 * settings.shared[-1]}."
        )


def shared_name(epochs: int) -> str:
    """How the line between two that share so many epochs is called."""
    return f"{epochs} epochs shared"


def barriers(line: Floats) -> Floats:
    """Of the training loss, for each pair. line [4, points, E] -> [E]"""
    return np.array([barrier(one) for one in line[0, WITHIN].T])


def conclude(settings: BetweenSettings, lines: dict[str, Floats]) -> Outcome:
    """Numbers, checks, table and figure. lines: [4, points, E] each"""
    rises = np.array([rise(one) for one in lines[START][0, WITHIN].T])
    high = barriers(lines[OTHER])
    shared = {epochs: barriers(lines[shared_name(epochs)]) for epochs in settings.shared}
    last = settings.shared[-1]
    frankle = "Frankle et al. 2020, figures 2 and 3"
    checks = [
        Check("start to solution: largest rise of the training loss", float(rises.max()), None, 0.01,
              "Goodfellow et al. 2015, figure 1: it only falls"),
        Check("solutions of two starts: barrier of the training loss, least of all pairs", float(high.min()),
              settings.high, None, "Goodfellow et al. 2015 (from memory): a line between them rises"),
        Check("one start, other orders of images: mean barrier / that of two starts",
              float(shared[0].mean() / high.mean()), 0, 0.1, frankle + ": small networks are stable from the start"),
        Check(f"mean barrier, {last} epochs shared / none", float(shared[last].mean() / shared[0].mean()), 0, 0.5,
              frankle),
    ]  # fmt: skip
    numbers = {
        "dataset": "digits",
        "hidden units": settings.width,
        "pairs": settings.networks,
        "epochs": settings.epochs,
        "start to solution: largest rise, each": rises,
        "barrier of two starts, each": high,
        "barrier of two starts: test error halfway less the mean of the ends, points": float(
            100 * (lines[OTHER][3, WITHIN][PARTS // 2] - lines[OTHER][3, WITHIN][[0, -1]].mean(0)).mean()
        ),
        "mean barrier over shared epochs": {str(epochs): float(one.mean()) for epochs, one in shared.items()},
        "its standard deviation over pairs": {str(epochs): float(one.std(ddof=1)) for epochs, one in shared.items()},
        "training loss at the solutions, mean": float(lines[START][0, WITHIN][-1].mean()),
        "test error at the solutions, %": float(100 * lines[START][3, WITHIN][-1].mean()),
    }
    table: dict[str, Any] = {"line": np.repeat(list(lines), len(AT)), "t": np.tile(AT, len(lines))}
    table["line"] = table["line"].tolist()
    for place, name in enumerate(("training loss", "training error", "test loss", "test error")):
        table[f"{name}: mean"] = np.concatenate([line[place].mean(1) for line in lines.values()])
        table[f"{name}: standard deviation"] = np.concatenate([line[place].std(1, ddof=1) for line in lines.values()])
    return Outcome(numbers, checks, table, {"lines": picture(settings, lines, shared, high)})


def picture(settings: BetweenSettings, lines: dict[str, Floats], shared: dict[int, Floats], high: Floats) -> Figure:
    """Loss from start to solution, between solutions, and the barrier over what they share."""
    figure, (left, middle, right) = panels(1, 3, 9.6, 3.3)
    left.plot(AT, lines[START][0], color=OKABE_ITO[0], linewidth=0.9, alpha=0.7)
    left.set(xlabel="t, from start (0) to solution (1)", ylabel="training loss", title="from the initial weights")
    chosen = [OTHER] + [shared_name(epochs) for epochs in (settings.shared[0], settings.shared[-1])]
    for series, name in enumerate(chosen):
        loss = lines[name][0]
        middle.plot(AT, loss.mean(1), color=OKABE_ITO[series], label=legend_name(name), marker=MARKERS[series],
                    markevery=5)  # fmt: skip
        middle.fill_between(AT, loss.min(1), loss.max(1), color=OKABE_ITO[series], alpha=0.2, linewidth=0)
    middle.set(xlabel="t, from one solution (0) to the other (1)", title="between solutions: mean and range")
    middle.legend(fontsize=7)
    for ax in (left, middle):
        for end in (0, 1):
            ax.axvline(end, color=GREY, linewidth=0.9, linestyle=":")
    left.set_ylim(0, None)
    middle.set_ylim(0, 1.45 * max(float(lines[name][0].max()) for name in chosen))
    points(right, list(shared), [float(one.mean()) for one in shared.values()], "one start, other orders", 1, line=True)
    lowest, highest = ([float(f(one)) for one in shared.values()] for f in (np.min, np.max))
    right.fill_between(list(shared), lowest, highest, alpha=0.2, color=OKABE_ITO[1], linewidth=0)
    right.axhline(high.mean(), color=OKABE_ITO[0], label="two starts")
    right.set(xlabel="first epochs in common", title="barrier of the training loss", yscale="log")
    right.legend(fontsize=7)
    figure.suptitle(
        f"digits, {settings.networks} pairs of networks with {settings.width} hidden units, {settings.epochs} epochs",
        fontsize=9,
    )
    return figure


def legend_name(name: str) -> str:
    """What a line is called in the legend."""
    if name == OTHER:
        return "two starts"
    epochs = int(name.split()[0])
    return "one start, other orders" if epochs == 0 else f"one start, {epochs} epochs in common"
