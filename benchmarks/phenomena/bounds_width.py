"""Bounds over the width of one hidden layer: the networks generalise better the wider they are, most bounds say worse.

Neyshabur, Li, Bhojanapalli, LeCun, Srebro 2019, "The role of over-parametrization in generalization of neural
networks", figure 1, with the bounds that they compare. Networks have no biases, as in the theorems; all are trained
to the same loss, and gamma is the margin that 10 % of the training images do not exceed. Batch, momentum, the loss at
which training ends and PyTorch's initial weights are those of their code; its learning rate is a tenth of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.phenomena.analysis import Check, Outcome
from benchmarks.phenomena.bounds_numbers import BOUNDS, NUMBERS, capacity_of_trained, constants
from benchmarks.phenomena.bounds_training import CLASSES, REMEDY, Fitting, error_of, logits_of, read, train
from benchmarks.phenomena.figures import GREY, panels, points
from benchmarks.phenomena.margins import margin_at, margins
from datamodules.labels import subset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchmarks.phenomena.memorising_runs import Images

Floats = NDArray[np.float64]

QUANTILE = 0.1  # of the training margins
DISTANCES = ("|U - U_0|_F", "|V - V_0|_F")
SOURCE = "Neyshabur et al. 2019"


@dataclass(frozen=True)
class WidthSettings:
    """What is trained.

    Args:
        dataset: mnist or digits.
        samples: n, training images.
        widths: hidden units h, ascending.
        networks: for each, of their own weights, images and order.
        fitting: how.
    """

    dataset: str
    samples: int
    widths: tuple[int, ...]
    networks: int
    fitting: Fitting = field(default_factory=Fitting)


PRESETS = {
    "smoke": WidthSettings("digits", 600, (16, 64, 256), 3, Fitting(rate=0.05, batch=50)),
    "cpu": WidthSettings("mnist", 5000, (32, 128, 512, 2048), 3, Fitting(rate=0.01, batch=64)),
    "full": WidthSettings("mnist", 50_000, (32, 128, 512, 2048, 8192), 5, Fitting(rate=0.01, batch=64)),
}


def study(settings: WidthSettings, seed: int) -> Outcome:
    """Train networks of every width, and compare their numbers with the figure of the paper."""
    seeds = list(range(seed, seed + settings.networks))
    found = of_every_width(settings, seeds)
    return outcome(settings, found, [*shared_checks(settings, found), *checks(found, settings.widths)], seeds)


def of_every_width(settings: WidthSettings, seeds: list[int]) -> dict[str, Floats]:
    """Train networks of every width, and compute every number of each. [widths, networks]"""
    images = read(settings.dataset)
    rows = [one_network(settings, images, width, one) for width in settings.widths for one in seeds]
    return {name: np.array([row[name] for row in rows]).reshape(-1, len(seeds)) for name in rows[0]}


def one_network(settings: WidthSettings, images: Images, width: int, seed: int) -> dict[str, float]:
    """Train one; its errors, and its numbers."""
    chosen = subset(len(images.x), settings.samples, seed, f"the training set of {images.name}")
    x, y = images.x[chosen], images.y[chosen]
    trained = train((x.shape[1], width, CLASSES), x, y, settings.fitting, seed)
    gamma = margin_at(margins(logits_of(trained.network, x), y), QUANTILE, REMEDY)
    train_error, test_error = (error_of(trained.network, *one) for one in ((x, y), (images.test_x, images.test_y)))
    capacity = capacity_of_trained(trained.network, trained.start, x, gamma, CLASSES)
    return {
        "training error": train_error,
        "gap": test_error - train_error,
        "epochs": float(trained.epochs or settings.fitting.epochs),
        "gamma": gamma,
        **{name: layer.from_start for name, layer in zip(DISTANCES, capacity.layers, strict=True)},
        **capacity.values,
    }


def exponent(widths: tuple[int, ...], values: Floats) -> float:
    """Slope of log(value) over log(width), least squares through the means. values [widths, networks]"""
    return float(np.polyfit(np.log(widths), np.log(values.mean(1)), 1)[0])


def shared_checks(settings: WidthSettings, found: dict[str, Floats]) -> list[Check]:
    """What holds however the networks are trained. found: of every number [widths, networks]"""
    widths, gap = settings.widths, found["gap"]
    least = min(float((found[name] - gap).min()) for name in found if name in BOUNDS)
    spread = float(np.sqrt((gap[0].var(ddof=1) + gap[-1].var(ddof=1)) / gap.shape[1]))
    return [
        Check("largest training error", float(found["training error"].max()), 0, 0, "all are fitted"),
        Check("smallest bound less the gap", least, 0, None, "a theorem, with its constants"),
        Check(f"gap at h = {widths[0]} less that at h = {widths[-1]}", float(gap[0].mean() - gap[-1].mean()), 0, None,
              f"{SOURCE}, figure 1: it falls", spread=spread),
    ]  # fmt: skip


def checks(found: dict[str, Floats], widths: tuple[int, ...]) -> list[Check]:
    """What the paper shows of networks that are trained as its own. found: of every number [widths, networks]"""
    slopes = {name: exponent(widths, found[name]) for name in found if name in NUMBERS}
    return [
        Check("Bartlett 2017: exponent of h, at least", slopes["Bartlett 2017"], 0.1, None,
              f"{SOURCE}, figure 1: it rises while the gap falls"),
        Check("Bartlett 2017: exponent of h", slopes["Bartlett 2017"], 0.4, 0.6,
              "sqrt(h) |U - U_0|_F above the l2,1 norm, if layers of any width move as far", False),
        Check("Bartlett 2017, from 0: exponent of h", slopes["Bartlett 2017, from 0"], 0.4, None,
              "h |u| / sqrt(h), rows of the initial weights and their spectral norm"),
        Check("Neyshabur 2018: exponent of h", slopes["Neyshabur 2018"], 0, None,
              f"{SOURCE}, figure 1: it rises", False),
        Check("Neyshabur 2019, first term: exponent of h", slopes["Neyshabur 2019, first term"], None, 0,
              f"{SOURCE}, figure 1: it falls", False),
        Check("path norm / gap at the widest", float((found["path norm"] / found["gap"])[-1].mean()), None, 1,
              "below the gap: without constants it bounds nothing", False),
    ]  # fmt: skip


def outcome(settings: WidthSettings, found: dict[str, Floats], shown: list[Check], seeds: list[int]) -> Outcome:
    """Numbers, table and figure beside the checks that are `shown`. found: of every number [widths, networks]"""
    gap, names = found["gap"], [name for name in found if name in NUMBERS]
    numbers = {
        "dataset": settings.dataset,
        "training images n": settings.samples,
        "networks of each width": len(seeds),
        "gamma is the quantile": QUANTILE,
        "parametrisation": settings.fitting.parametrisation,
        "learning rate": settings.fitting.rate,
        "training ends at a loss of": settings.fitting.loss,
        "what the numbers are": {name: constants()[name] for name in names},
        "exponents of h": {name: exponent(settings.widths, found[name]) for name in names},
        "smallest bound / gap": {
            name: float((found[name] / gap).min()) for name in names if name in BOUNDS and (gap > 0).all()
        },
    }
    table: dict[str, Any] = {"h": settings.widths}
    for name in ("gap", "epochs", "gamma", *DISTANCES, *names):
        table |= {f"{name}: mean": found[name].mean(1), f"{name}: sd": found[name].std(1, ddof=1)}
    return Outcome(numbers, shown, table, {"widths": picture(settings, found, names)}, seeds)


def picture(settings: WidthSettings, found: dict[str, Floats], names: list[str]) -> Figure:
    """The gap; the bounds, with their constants; the measures, each over its value for the narrowest network."""
    figure, axes = panels(1, 3, width=11.0, height=4.4)
    widths, gap = settings.widths, found["gap"]
    points(axes[0], widths, 100 * gap.mean(1), "test error less training error", 0, 100 * gap.std(1, ddof=1), True)
    axes[0].set(ylabel="generalisation gap, points", ylim=(0, None))
    axes[0].set_title(f"{settings.dataset}, n = {settings.samples}, {gap.shape[1]} networks: mean ± sd")
    bounds = [name for name in names if name in BOUNDS]
    for place, name in enumerate(bounds):
        points(axes[1], widths, found[name].mean(1), name, place + 1, found[name].std(1, ddof=1), True)
    axes[1].plot(widths, gap.mean(1), color=GREY, linestyle="--", label="gap")
    axes[1].axhline(1, color=GREY, linewidth=0.9, linestyle=":", label="1: any error")
    axes[1].set(yscale="log", ylabel="bound of the gap")
    axes[1].set_title("bounds, with all constants")
    measures = [name for name in names if name not in BOUNDS]
    for place, name in enumerate(["gap", *measures]):
        values = found[name] / found[name][0].mean()
        points(axes[2], widths, values.mean(1), name, place, values.std(1, ddof=1), True)
    axes[2].set(yscale="log", ylabel=f"value / value at h = {widths[0]}")
    axes[2].set_title("measures, without constants")
    for ax in axes:
        ax.set(xscale="log", xlabel="hidden units, h")
        ax.set_xticks(widths, [str(width) for width in widths])
        ax.set_xticks([], minor=True)
    for ax in axes[1:]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=7)
    return figure
