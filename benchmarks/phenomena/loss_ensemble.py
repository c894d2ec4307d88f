"""The losses that many initial weights lead to, over the width of the network: in wide ones, all to about the same.

Choromanska, Henaff, Mathieu, Ben Arous, LeCun 2015, "The loss surfaces of multilayer networks", AISTATS, figures 3 and
4 and table 1: test losses of networks of one hidden layer, on MNIST of 10 x 10 pixels. Here: digits of 8 x 8 pixels. A
minimum is called bad if its test loss is more than twice the median of those of its width; on data as easy as these, no
width has any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.batched import BatchedMLP
from benchmarks.phenomena.digit_networks import (
    CLASSES,
    PIXELS,
    FlatDigits,
    descend,
    evaluate,
    own_orders,
    read,
)
from benchmarks.phenomena.figures import OKABE_ITO, panels, points
from benchmarks.phenomena.slices import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAD = 2.0  # medians
TABLE_1 = {25: 0.76, 50: 0.69, 100: 0.60, 250: 0.53, 500: 0.41}  # correlation of training and test loss over
# hidden units, figures from memory and on other data: they are drawn, no check asks for them


@dataclass(frozen=True)
class EnsembleSettings:
    """What is trained.

    Args:
        widths: hidden units, ascending.
        networks: initial weights of each width.
        epochs: of SGD with momentum 0.9, whose rate falls linearly to 0.
        batch: images of a step.
        rate: at the start.
        narrower: least ratio of the narrowest networks' coefficient of variation to the widest's.
    """

    widths: tuple[int, ...]
    networks: int
    epochs: int
    batch: int = 64
    rate: float = 0.01
    narrower: float = 5.0


PRESETS = {
    "smoke": EnsembleSettings((5, 25, 100), 20, 20, narrower=3.0),
    "cpu": EnsembleSettings((5, 10, 25, 50, 100, 250), 100, 50),
    "full": EnsembleSettings((5, 10, 25, 50, 100, 250, 500), 1000, 200),
}


def of_width(settings: EnsembleSettings, data: FlatDigits, width: int, seed: int) -> Floats:
    """Training loss, training error, test loss and test error of each network of a width. [4, networks]"""
    count = settings.networks
    networks = BatchedMLP(count, (PIXELS, width, CLASSES), torch.Generator().manual_seed(seed))
    order = own_orders(count, len(data.x), seed)
    descend(networks, data.x, data.y, order, settings.epochs, settings.batch, settings.rate)
    found = [evaluate(networks, *sample) for sample in ((data.x, data.y), (data.test_x, data.test_y))]
    return np.asarray(torch.cat(found).numpy())


def study(settings: EnsembleSettings, seed: int) -> Outcome:
    """Networks of every width."""
    data = read()
    found = np.stack([of_width(settings, data, width, seed) for width in steps(settings.widths, "widths")])
    return conclude(settings, found)


def variation(loss: Floats) -> Floats:
    """Standard deviation over networks / their mean. [..., networks] -> [...]"""
    return np.asarray(loss.std(-1, ddof=1) / loss.mean(-1))


def bad_share(loss: Floats) -> Floats:
    """Share of networks whose loss is more than twice the median. [..., networks] -> [...]"""
    return np.asarray((loss > BAD * np.median(loss, -1, keepdims=True)).mean(-1))


def correlation(one: Floats, other: Floats) -> float:
    """Pearson's, over networks."""
    return float(np.corrcoef(one, other)[0, 1])


def conclude(settings: EnsembleSettings, found: Floats) -> Outcome:
    """Numbers, checks, table and figure. found [widths, 4, networks]"""
    widths, test = settings.widths, found[:, 2]
    vary, bad = variation(test), bad_share(test)
    together = [correlation(one[0], one[2]) for one in found]
    first, last = f"h = {widths[0]}", f"h = {widths[-1]}"
    source = "Choromanska et al. 2015, "
    checks = [
        Check(f"test loss: coefficient of variation, {first} / {last}", float(vary[0] / vary[-1]), settings.narrower,
              None, source + "figure 3: the losses of wide networks are near one another"),
        Check(f"correlation of training and test loss, {first} less {last}", together[0] - together[-1], 0.2, None,
              source + "table 1: a lower training loss is worth less and less"),
        Check(f"share of bad minima, {last}", float(bad[-1]), 0, 0.0, source + "section 5: none are bad in wide ones"),
        Check(f"mean test loss, {last} / {first}", float(test[-1].mean() / test[0].mean()), None, 0.8,
              source + "figure 3"),
    ]  # fmt: skip
    numbers = {
        "dataset": "digits",
        "networks of each width": settings.networks,
        "epochs": settings.epochs,
        "bad": f"test loss above {BAD:g} times the median",
        "coefficient of variation of the test loss": named(widths, vary),
        "correlation of training and test loss": named(widths, together),
        "its standard error": named(widths, [(1 - r * r) / (settings.networks - 1) ** 0.5 for r in together]),
        "share of bad minima": named(widths, bad),
        "mean test loss": named(widths, test.mean(1)),
        "mean training loss": named(widths, found[:, 0].mean(1)),
        "mean test error, %": named(widths, 100 * found[:, 3].mean(1)),
    }
    table: dict[str, Any] = {
        "hidden units": np.repeat(widths, settings.networks),
        "network": np.tile(np.arange(settings.networks), len(widths)),
    }
    for place, name in enumerate(("training loss", "training error", "test loss", "test error")):
        table[name] = found[:, place].ravel()
    return Outcome(numbers, checks, table, {"losses": picture(settings, found, vary, together)})


def named(widths: tuple[int, ...], values: Any) -> dict[str, float]:
    """Values by width."""
    return {str(width): float(value) for width, value in zip(widths, values, strict=True)}


def picture(settings: EnsembleSettings, found: Floats, vary: Floats, together: list[float]) -> Figure:
    """Test loss of each network; and over width, how far they spread and what the training loss tells of them."""
    figure, (left, middle, right) = panels(1, 3, 9.6, 3.3)
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, settings.networks)
    for place, test in enumerate(found[:, 2]):
        left.plot(place + jitter, test, "o", color=OKABE_ITO[0], markersize=2, alpha=0.5, markeredgewidth=0)
        left.plot([place - 0.36, place + 0.36], [np.median(test)] * 2, color=OKABE_ITO[1], linewidth=1.6)
    names = [str(width) for width in settings.widths]
    left.set_xticks(range(len(names)), names)
    left.set(yscale="log", xlabel="hidden units", ylabel="test loss", title="each network, and the median")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6)))
    points(middle, settings.widths, vary, "", 0, line=True)
    middle.set(xscale="log", yscale="log", xlabel="hidden units", title="test loss: standard deviation / mean")
    points(right, settings.widths, together, "digits, 8 x 8", 0, line=True)
    right.plot(list(TABLE_1), list(TABLE_1.values()), "s--", color=OKABE_ITO[6], markersize=3.5, linewidth=0.9,
               label="MNIST, 10 x 10: the paper's, from memory")  # fmt: skip
    right.set(xscale="log", xlabel="hidden units", ylim=(-0.1, 1.25), title="correlation of training and test loss")
    right.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    right.legend(loc="upper right", fontsize=7)
    middle.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6)))
    for ax in (left, middle):
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    for ax in (middle, right):
        ax.set_xticks([5, 25, 100, 500], ["5", "25", "100", "500"])
        ax.set_xticks([], minor=True)
    figure.suptitle(f"digits, {settings.networks} initial weights for each width", fontsize=9)
    return figure
