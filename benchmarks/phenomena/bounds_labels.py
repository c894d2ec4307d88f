"""Bounds with true and with random labels: all are far above 1, and all know the two apart.

Zhang et al. 2017 asked what could tell a network that learnt from one that memorised, if neither errs in training.
Bartlett, Foster, Telgarsky 2017 (figure 1, section 2): margins, over the spectral complexity. Networks have no biases,
labels are drawn once; all are trained to the same loss. Bounds are of errors on labels that are corrupted as those of
the training set are; that test error, of new images with such labels, is what they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.phenomena.analysis import Check, Outcome
from benchmarks.phenomena.bounds_numbers import BOUNDS, NUMBERS, Kind, capacity_of_trained, constants
from benchmarks.phenomena.bounds_training import CLASSES, REMEDY, Fitting, error_of, logits_of, read, train
from benchmarks.phenomena.capacity import noise_bound
from benchmarks.phenomena.figures import GREY, MARKERS, OKABE_ITO, panels, points
from benchmarks.phenomena.margins import margin_at, margins, normalised
from benchmarks.phenomena.memorising_runs import Images, with_label_noise
from datamodules.labels import corrupted_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

QUANTILE = 0.1  # of the training margins
SIGMAS = tuple(float(sigma) for sigma in 0.5 * 1.1 ** -np.arange(80))  # of weight noise, 0.5 to 0.00027
DRAWS = 5  # of the noise
ALLOWED = 0.05  # training error with noise
NOISE = "PAC-Bayes, measured noise"
NOISE_KIND = Kind("bound", "of the network with noise: sqrt((|w - w_0|^2 / 2 sigma^2 + ln(2 sqrt(n) 80/delta)) / 2n)")


@dataclass(frozen=True)
class LabelSettings:
    """What is trained.

    Args:
        dataset: mnist or digits.
        samples: n, training images.
        hidden: units of each hidden layer.
        shares: of labels that are corrupted, ascending from 0.
        networks: for each share, of their own weights, images and labels.
        fitting: how.
    """

    dataset: str
    samples: int
    hidden: tuple[int, ...]
    shares: tuple[float, ...]
    networks: int
    fitting: Fitting = field(default_factory=Fitting)


PRESETS = {
    "smoke": LabelSettings("digits", 300, (128, 128), (0.0, 1.0), 2, Fitting(batch=50, epochs=1000)),
    "cpu": LabelSettings("mnist", 2000, (512, 512), (0.0, 0.5, 1.0), 3, Fitting(epochs=1000)),
    "full": LabelSettings("mnist", 10_000, (512, 512), (0.0, 0.25, 0.5, 0.75, 1.0), 5, Fitting(epochs=1000)),
}


def study(settings: LabelSettings, seed: int) -> Outcome:
    """Train networks with every share of corrupted labels, and compute every number of each."""
    images = read(settings.dataset)
    seeds = list(range(seed, seed + settings.networks))
    rows, shown = [], []
    for share in settings.shares:
        for one in seeds:
            row, spread = one_network(settings, images, share, one)
            rows.append(row)
            if one == seed:
                shown.append(spread)
    found = {name: np.array([row[name] for row in rows]).reshape(-1, len(seeds)) for name in rows[0]}
    return conclude(settings, found, shown, seeds)


def one_network(settings: LabelSettings, images: Images, share: float, seed: int) -> tuple[dict[str, float], Tensor]:
    """Train one; its errors and numbers, and its normalised margins [n]."""
    spoilt = with_label_noise(images, share, settings.samples, seed)
    x, y = spoilt.x, spoilt.y
    trained = train((x.shape[1], *settings.hidden, CLASSES), x, y, settings.fitting, seed)
    found = margins(logits_of(trained.network, x), y)
    gamma = margin_at(found, QUANTILE, REMEDY)
    capacity = capacity_of_trained(trained.network, trained.start, x, gamma, CLASSES)
    reach = float(x.double().square().sum().sqrt()) / len(x)
    spread = normalised(found, capacity.complexity, reach)
    train_error = error_of(trained.network, x, y)
    likewise = torch.from_numpy(corrupted_labels(images.test_y.numpy(), share, CLASSES, seed + 10_000))
    sigma, noisy_train, noisy_test = bearable_noise(trained.network, (x, y), (images.test_x, likewise), seed)
    row = {
        "training error": train_error,
        "test error": error_of(trained.network, images.test_x, images.test_y),
        "gap": error_of(trained.network, images.test_x, likewise) - train_error,
        "epochs": float(trained.epochs or settings.fitting.epochs),
        "gamma": gamma,
        "distance from the start": capacity.distance,
        "normalised margin": margin_at(spread, QUANTILE),
        "sigma": sigma,
        "gap with noise": noisy_test - noisy_train,
        NOISE: noise_bound(capacity.distance, sigma, len(x), len(SIGMAS)),
        **capacity.values,
    }
    return row, spread


def bearable_noise(
    network: nn.Module, trained_on: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int
) -> tuple[float, float, float]:
    """The largest sigma of `SIGMAS` at which the training error stays within 0.05; training and test error there.

    By halving the list, as if the error always rose with the noise; the bound holds for whichever is found.
    """
    low, high = 0, len(SIGMAS) - 1  # the last is the least noise
    while low < high:
        middle = (low + high) // 2
        if noisy_error(network, *trained_on, SIGMAS[middle], seed) <= ALLOWED:
            high = middle
        else:
            low = middle + 1
    sigma = SIGMAS[low]
    return sigma, noisy_error(network, *trained_on, sigma, seed), noisy_error(network, *test, sigma, seed)


@torch.no_grad()
def noisy_error(network: nn.Module, x: Tensor, y: Tensor, sigma: float, seed: int) -> float:
    """Mean error with N(0, sigma^2) added to every weight, over some draws."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: p.detach() for name, p in network.named_parameters()}
    found = []
    for _ in range(DRAWS):
        noisy = {name: p + sigma * torch.randn(p.shape, generator=generator) for name, p in weights.items()}
        wrong = [
            torch.func.functional_call(network, noisy, (a,)).argmax(1) != b
            for a, b in zip(x.split(2000), y.split(2000), strict=True)
        ]
        found.append(float(torch.cat(wrong).double().mean()))
    return float(np.mean(found))


def conclude(settings: LabelSettings, found: dict[str, Floats], shown: list[Tensor], seeds: list[int]) -> Outcome:
    """Checks, table and figure. found: of every number [shares, networks]"""
    names = [*(name for name in found if name in NUMBERS), NOISE]
    ratio = {name: float((values[-1] / values[0]).mean()) for name, values in found.items() if (values[0] > 0).all()}
    sd = {name: float((found[name][-1] / found[name][0]).std(ddof=1)) for name in ratio}
    least = min(float((found[name] - found["gap"]).min()) for name in names if name in BOUNDS)
    source = "Bartlett et al. 2017, figure 1"
    checks = [
        Check("largest training error", float(found["training error"].max()), 0, 0, "all are fitted"),
        Check("smallest bound less the gap", least, 0, None, "a theorem, with its constants"),
        Check("measured noise: bound less the gap with noise", float((found[NOISE] - found["gap with noise"]).min()), 0,
              None, "a theorem, with its constants"),
        Check("Bartlett 2017: random / true labels", ratio["Bartlett 2017"], 5, None,
              f"{source}: it knows them apart", spread=sd["Bartlett 2017"]),
        Check("normalised margin, 10 % quantile: true / random labels",
              float((found["normalised margin"][0] / found["normalised margin"][-1]).mean()), 5, None,
              f"{source}: it knows them apart"),
        Check("distance from the start: random / true labels", ratio["distance from the start"], 1, None,
              "Neyshabur et al. 2017, Exploring generalization: it rises", spread=sd["distance from the start"]),
        Check("measured noise: random / true labels", ratio[NOISE], 1, None,
              "Neyshabur et al. 2017, Exploring generalization: it rises", False, spread=sd[NOISE]),
    ]  # fmt: skip
    numbers = {
        "dataset": settings.dataset,
        "training images n": settings.samples,
        "hidden units": settings.hidden,
        "networks of each share": len(seeds),
        "gamma is the quantile": QUANTILE,
        "training ends at a loss of": settings.fitting.loss,
        "training error allowed with noise, more than without": ALLOWED,
        "what the numbers are": {
            **{name: constants()[name] for name in names if name in NUMBERS},
            NOISE: f"{NOISE_KIND.kind}: {NOISE_KIND.constants}",
        },
        "random / true labels": ratio,
    }
    table: dict[str, Any] = {"share of corrupted labels": settings.shares}
    for name in (one for one in found if one != "training error"):
        table |= {f"{name}: mean": found[name].mean(1), f"{name}: sd": found[name].std(1, ddof=1)}
    return Outcome(numbers, checks, table, {"labels": picture(settings, found, shown, names)}, seeds)


def picture(settings: LabelSettings, found: dict[str, Floats], shown: list[Tensor], names: list[str]) -> Figure:
    """Normalised margins of one network of each share; bounds and measures over the share of corrupted labels."""
    figure, axes = panels(1, 3, width=11.0, height=4.4)
    for place, (share, margin) in enumerate(zip(settings.shares, shown, strict=True)):
        ordered = np.sort(margin.numpy())
        axes[0].plot(
            ordered, np.arange(1, len(ordered) + 1) / len(ordered), color=OKABE_ITO[place], marker=MARKERS[place],
            markevery=max(1, len(ordered) // 8), label=f"{100 * share:.0f} % corrupted",
        )  # fmt: skip
    axes[0].axhline(QUANTILE, color=GREY, linewidth=0.9, linestyle=":")
    axes[0].set(xscale="log", xlabel="margin / (R_A |X| / n)", ylabel="share of training images below")
    axes[0].set_title(f"normalised margins, {settings.dataset}, n = {settings.samples}, the first network")
    bounds = [name for name in names if name in (*BOUNDS, NOISE)]
    measures = [name for name in names if name not in bounds] + ["distance from the start"]
    for place, name in enumerate(bounds):
        points(axes[1], settings.shares, found[name].mean(1), name, place + 1, found[name].std(1, ddof=1), True)
    axes[1].plot(settings.shares, found["gap"].mean(1), color=GREY, linestyle="--", label="gap")
    axes[1].axhline(1, color=GREY, linewidth=0.9, linestyle=":", label="1: any error")
    axes[1].set(yscale="log", ylabel="bound of the gap")
    axes[1].set_title(f"bounds, with all constants, {len(found['gap'][0])} networks: mean ± sd")
    for place, name in enumerate(measures):
        values = found[name] / found[name][0].mean()
        points(axes[2], settings.shares, values.mean(1), name, place, values.std(1, ddof=1), True)
    axes[2].set(yscale="log", ylabel="value / value with true labels")
    axes[2].set_title("measures, without constants")
    for ax in axes[1:]:
        ax.set(xlabel="share of corrupted labels")
    for ax in axes:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=7)
    return figure
