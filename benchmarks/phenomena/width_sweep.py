"""Test error over the width of one hidden layer: it falls on where the training error is 0 already.

Neyshabur, Tomioka, Srebro 2015, "In search of the real inductive bias: on the role of implicit regularization in deep
learning", figure 1. Nothing but the descent itself limits these networks: no weight decay, no dropout, no early stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.batched import BatchedMLP, errors
from benchmarks.phenomena.figures import GREY, panels, points
from benchmarks.phenomena.pixels import pixels
from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from datamodules.mnist import MNIST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

CLASSES = 10
FIGURE_1 = {4: 0.099, 8: 0.051, 16: 0.0345, 32: 0.0315, 64: 0.025, 128: 0.020, 256: 0.018, 512: 0.017}  # read off the
# lecture's slide, with an error of about 0.001


@dataclass(frozen=True)
class WidthSettings:
    """What is trained.

    Args:
        dataset: mnist or digits.
        widths: H, ascending.
        networks: for each, of their own weights and order.
        epochs: of SGD with momentum 0.9, whose rate falls linearly to 0.
        batch: images of a step.
        rate: at the start.
        fitted: the width at which the training error is 0 already.
        train_error: largest mean training error there.
        gain: by how much the widest network's test error is lower.
    """

    dataset: str
    widths: tuple[int, ...]
    networks: int
    epochs: int
    batch: int
    rate: float
    fitted: int
    train_error: float
    gain: float


PRESETS = {
    "smoke": WidthSettings("digits", (4, 8, 16, 64, 256), 5, 20, 32, 0.05, 16, 0.002, 0.005),
    "cpu": WidthSettings("mnist", tuple(FIGURE_1), 3, 15, 128, 0.1, 64, 0.002, 0.002),
    "full": WidthSettings("mnist", (*FIGURE_1, 1024, 2048, 4096), 10, 60, 128, 0.1, 64, 0.002, 0.002),
}


def train(settings: WidthSettings, width: int, x: Tensor, y: Tensor, seed: int) -> BatchedMLP:
    """Networks of one width, at once, on images x [n, pixels] with labels y [n]; the last few of an epoch are left."""
    generator = torch.Generator().manual_seed(seed)
    networks = BatchedMLP(settings.networks, (x.shape[1], width, CLASSES), generator)
    optimizer = torch.optim.SGD(networks.parameters(), lr=settings.rate, momentum=0.9)
    in_epoch = len(x) // settings.batch
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.epochs * in_epoch)
    for _ in steps(range(settings.epochs), f"{width} units"):
        order = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(settings.networks)])
        for chosen in order[:, : in_epoch * settings.batch].split(settings.batch, 1):
            logits = networks(x[chosen])
            loss = settings.networks * F.cross_entropy(logits.flatten(0, 1), y[chosen].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return networks


@torch.no_grad()
def error_of(networks: BatchedMLP, x: Tensor, y: Tensor, count: int) -> Floats:
    """Share of wrong predictions of each of the `count` networks. [count]"""
    wrong = [
        len(b) * errors(networks(a.expand(count, -1, -1)), b) for a, b in zip(x.split(5000), y.split(5000), strict=True)
    ]
    return (torch.stack(wrong).sum(0) / len(y)).numpy()


def study(settings: WidthSettings, seed: int) -> Outcome:
    """Train networks of every width."""
    data: ImageDataModule = {"mnist": MNIST, "digits": Digits}[settings.dataset](batch_size=1)
    mean, std = data.mean[:, None, None] / 255, data.std[:, None, None] / 255
    (x, y), (test_x, test_y) = (pixels(data, split) for split in ("train", "test"))
    x, test_x = ((one - mean) / std for one in (x, test_x))
    x, test_x = x.flatten(1), test_x.flatten(1)
    found = np.empty((2, len(settings.widths), settings.networks))
    for place, width in enumerate(settings.widths):
        networks = train(settings, width, x, y, seed)
        found[0, place] = error_of(networks, x, y, settings.networks)
        found[1, place] = error_of(networks, test_x, test_y, settings.networks)
    return conclude(settings, found)


def conclude(settings: WidthSettings, found: Floats) -> Outcome:
    """Checks, table and figure. found [train and test, widths, networks]"""
    (train_error, test_error), sd = found.mean(2), found.std(2, ddof=1)
    fitted, widest = settings.widths.index(settings.fitted), settings.widths[-1]
    gain = float(test_error[fitted] - test_error[-1])
    source = "Neyshabur et al. 2015, figure 1"
    on_mnist = settings.dataset == "mnist"
    published = FIGURE_1[settings.fitted] - FIGURE_1[512] if on_mnist else None
    checks = [
        Check(f"training error at H = {settings.fitted}", float(train_error[fitted]), 0, settings.train_error, source),
        Check(
            f"test error at H = {settings.fitted} less that at H = {widest}",
            gain,
            settings.gain,
            None,
            f"{source}: it falls on",
            published=published,
        ),
        Check("largest rise of the test error from a width to the next", float(np.diff(test_error).max()), None, 0.003,
              f"{source}: never up", False),
    ]  # fmt: skip
    if on_mnist:
        compared = [place for place, width in enumerate(settings.widths) if width in FIGURE_1]
        best = found[1].min(1)
        off = max(abs(best[place] - FIGURE_1[settings.widths[place]]) for place in compared)
        checks.append(Check("test error, best network, from the figure's, largest", float(off), 0, 0.03, source, False))
    numbers = {
        "dataset": settings.dataset,
        "networks": settings.networks,
        "epochs": settings.epochs,
        "batch": settings.batch,
        "rate at the start": settings.rate,
        "best test error": {str(w): float(e) for w, e in zip(settings.widths, found[1].min(1), strict=True)},
    }
    table: dict[str, Any] = {"width": settings.widths}
    for place, name in enumerate(("training error", "test error")):
        table |= {f"{name}: mean": found[place].mean(1), f"{name}: sd": sd[place]}
    table["figure 1"] = [FIGURE_1.get(width) if on_mnist else None for width in settings.widths]
    return Outcome(numbers, checks, table, {"widths": picture(settings, found)})


def picture(settings: WidthSettings, found: Floats) -> Figure:
    """Training and test error over width."""
    figure, (axes,) = panels()
    for place, name in ((1, "test"), (0, "training")):
        points(axes, settings.widths, 100 * found[place].mean(1), name, place, 100 * found[place].std(1, ddof=1), True)
    if settings.dataset == "mnist":
        axes.plot(
            list(FIGURE_1), [100 * e for e in FIGURE_1.values()], color=GREY, linestyle="--", label="test, figure 1"
        )
    axes.axvline(settings.fitted, color=GREY, linewidth=0.9, linestyle=":")
    axes.set(xscale="log", xlabel="hidden units, H", ylabel="error, %", ylim=(-0.2, None))
    axes.set_xticks(settings.widths, [str(width) for width in settings.widths])
    axes.set_xticks([], minor=True)
    axes.set_title(f"{settings.dataset}, {settings.networks} networks of each width: mean ± sd")
    axes.legend()
    return figure
