"""The Hessian of small networks on a mixture of k Gaussians: as many large eigenvalues as classes, or one fewer.

Sagun, Evci, Guney, Dauphin, Bottou 2017, "Empirical analysis of the Hessian of over-parametrized neural networks": 100
inputs, two hidden layers of 30, one Gaussian for each class. At the start the eigenvalues fall off without a step;
after training there is one after the first k - 1 or k. Three more things are measured on the same networks:

- how far the Gauss-Newton part explains those eigenvalues (`hessian`);
- how far the class means of the gradients explain their eigenvectors (`class_means`);
- how much of the gradient of a mini-batch lies in the space of the first k (Gur-Ari, Roberts, Dyer 2018, "Gradient
  descent happens in a tiny subspace"), where a random vector has k / P. The gradient of all samples is another matter:
  late in training it need not lie there, and is only reported.

Two Gaussians make the inputs themselves vary most along one direction, so that for k = 2 the spectrum has a small step
at the start already.

Letters: k classes, n samples, P weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.phenomena.analysis import Check, Outcome, random_numbers_kept, steps
from benchmarks.phenomena.class_means import class_means, overlap
from benchmarks.phenomena.figures import GREY, panels, points
from benchmarks.phenomena.hessian import curvature
from benchmarks.phenomena.lanczos import top_eigenpairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

INPUTS, HIDDEN = 100, 30
BEYOND = 6  # eigenvalues that are looked for beside the first k
STAGES = ("initial", "trained")


@dataclass(frozen=True)
class MixtureSettings:
    """What is trained and measured.

    Args:
        classes: k, of each mixture.
        networks: of each k, each with a mixture of its own.
        samples: n.
        spread: standard deviation of the coordinates of the classes' means; within a class it is 1.
        rate: of SGD with momentum 0.9.
        batch: samples of a step, and of a gradient that is looked at.
        loss: training ends after the epoch in which the mean loss falls below it: at 0 there is no curvature left.
        epochs: at most.
        most: products with the Hessian, for its largest eigenvalues.
    """

    classes: tuple[int, ...]
    networks: int
    samples: int = 1000
    spread: float = 0.5
    rate: float = 0.005
    batch: int = 50
    loss: float = 0.03
    epochs: int = 100
    most: int = 250


PRESETS = {
    "smoke": MixtureSettings((2, 5, 10), 2),
    "cpu": MixtureSettings((2, 5, 10, 20), 5),
    "full": MixtureSettings((2, 5, 10, 20, 50), 20),
}


@dataclass(frozen=True)
class Measured:
    """One network at one time.

    Args:
        values: the largest eigenvalues of the Hessian, descending. [k + 6]
        apart: relative distance of the first k of the Gauss-Newton part from them. [k]
        off: largest residual over the largest eigenvalue.
        overlap: share of the first k - 1 eigenvectors that lies in the span of the class means.
        batches: mean share of a mini-batch's squared gradient that lies in the space of the first k.
        whole: the same of the gradient of all samples.
        loss: mean over the samples.
        weights: P.
    """

    values: Floats
    apart: Floats
    off: float
    overlap: float
    batches: float
    whole: float
    loss: float
    weights: int

    @property
    def ratios(self) -> Floats:
        """Each eigenvalue over the next. [k + 5]"""
        found: Floats = self.values[:-1] / self.values[1:]
        return found

    def gap(self, classes: int) -> tuple[int, float]:
        """After how many eigenvalues, k + 3 at most, the ratio is the largest; and that ratio."""
        place = int(self.ratios[: classes + 3].argmax())
        return place + 1, float(self.ratios[place])


def mixture(classes: int, samples: int, spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples [n, 100], as many of each class, around means drawn from N(0, spread^2); labels [n]."""
    means = spread * torch.randn(classes, INPUTS, generator=generator)
    labels = torch.arange(samples) % classes
    return means[labels] + torch.randn(samples, INPUTS, generator=generator), labels


def network_for(classes: int, seed: int) -> nn.Module:
    """100-30-30-k with ReLU, its weights drawn as torch does."""
    with random_numbers_kept():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)
        )


def train(network: nn.Module, x: Tensor, y: Tensor, settings: MixtureSettings, generator: torch.Generator) -> int:
    """SGD until the loss is small enough; how many epochs that took."""
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.rate, momentum=0.9)
    for epoch in range(settings.epochs):
        with torch.no_grad():
            if F.cross_entropy(network(x), y) < settings.loss:
                return epoch
        for chosen in torch.randperm(len(x), generator=generator).split(settings.batch):
            optimizer.zero_grad()
            F.cross_entropy(network(x[chosen]), y[chosen]).backward()
            optimizer.step()
    return settings.epochs


def measure(network: nn.Module, x: Tensor, y: Tensor, settings: MixtureSettings, seed: int) -> Measured:
    """Eigenvalues and gradients of `network` on x [n, 100], y [n]."""
    classes, generator = int(y.max()) + 1, torch.Generator().manual_seed(seed)
    with curvature(network, x, y, batch=len(x)) as of:
        top = top_eigenpairs(of.hessian, of.size, classes + BEYOND, settings.most, generator)
        part = top_eigenpairs(of.gauss_newton, of.size, classes, settings.most, generator)
        span, whole, size = class_means(of, classes).span(), of.gradient(), of.size
    space = top.vectors[:, :classes]
    gradients = []
    for chosen in torch.randperm(len(x), generator=generator).split(settings.batch):
        with curvature(network, x[chosen], y[chosen], batch=len(chosen)) as of:
            gradients.append(of.gradient())
    with torch.no_grad():
        loss = float(F.cross_entropy(network(x), y))
    return Measured(
        values=top.values,
        apart=np.abs(part.values / top.values[:classes] - 1),
        off=float(top.residuals.max() / top.values[0]),
        overlap=overlap(span, top.vectors[:, : classes - 1]),
        batches=float(np.mean([share(space, one) for one in gradients])),
        whole=share(space, whole),
        loss=loss,
        weights=size,
    )


def share(space: Tensor, vector: Tensor) -> float:
    """Share of the squared length of `vector` [P] that lies in `space` [P, k], orthonormal. 0 for a vector of 0."""
    total = vector.square().sum()
    return float((space.T @ vector).square().sum() / total) if total > 0 else 0.0


Found = dict[tuple[int, str], list[Measured]]  # by k and stage, one for each network


def study(settings: MixtureSettings, seed: int) -> Outcome:
    """Train networks on every mixture; measure before and after."""
    found: Found = {(k, stage): [] for k in settings.classes for stage in STAGES}
    epochs: dict[int, list[int]] = {k: [] for k in settings.classes}
    seeds = range(seed, seed + settings.networks)
    for k, one in steps([(k, one) for k in settings.classes for one in seeds], "networks"):
        generator = torch.Generator().manual_seed(one)
        x, y = mixture(k, settings.samples, settings.spread, generator)
        network = network_for(k, one)
        found[k, "initial"].append(measure(network, x, y, settings, one))
        epochs[k].append(train(network, x, y, settings, generator))
        found[k, "trained"].append(measure(network, x, y, settings, one))
    return conclude(settings, found, epochs, seeds)


def conclude(settings: MixtureSettings, found: Found, epochs: dict[int, list[int]], seeds: Sequence[int]) -> Outcome:
    """Checks, numbers, table and figure."""
    checks = [check for k in settings.classes for check in checks_of(k, found[k, "initial"], found[k, "trained"])]
    off = max(one.off for some in found.values() for one in some)
    before = [at_classes(k, one) for (k, stage), some in found.items() for one in some if stage == "initial"]
    steepest = [one.gap(k)[1] for (k, stage), some in found.items() for one in some if stage == "initial"]
    checks += [
        Check("largest residual / largest eigenvalue", off, 0, 2e-3, "Lanczos has converged"),
        Check("at the start, ratio at k - 1 or k, mean of all", float(np.mean(before)), 1, 1.3,
              "Sagun et al. 2017: a spectrum without steps", spread=float(np.std(before, ddof=1))),
        Check("at the start, largest ratio anywhere, mean", float(np.mean(steepest)), 1, 1.3,
              "Sagun et al. 2017: a spectrum without steps", False, spread=float(np.std(steepest, ddof=1))),
    ]  # fmt: skip
    numbers: dict[str, Any] = {
        "networks of each k": settings.networks,
        "samples n": settings.samples,
        "loss at which training ends": settings.loss,
        "epochs": {str(k): some for k, some in epochs.items()},
        "weights P": {str(k): found[k, "initial"][0].weights for k in settings.classes},
    }
    for stage in STAGES:
        numbers[stage] = {str(k): summary(k, found[k, stage]) for k in settings.classes}
    return Outcome(numbers, checks, table_of(found), {"mixture": picture(settings, found)}, seeds)


def checks_of(k: int, initial: list[Measured], trained: list[Measured]) -> list[Check]:
    """Those of the mixtures of k classes."""
    gaps = [one.gap(k) for one in trained]
    there = float(np.mean([place in (k - 1, k) for place, _ in gaps]))
    ratio = [size for _, size in gaps]
    before = [at_classes(k, one) for one in initial]
    over = [one.batches / (k / one.weights) for one in trained]
    lies = [one.overlap for one in trained]
    enough = min(100.0, 0.25 * trained[0].weights / k)  # a hundred times chance, or a quarter of the squared gradient
    sagun = "Sagun et al. 2017: about as many as classes"
    ours = "Gur-Ari et al. 2018: most of it; 100 times chance, or a quarter"
    return [
        Check(f"k = {k}: share of networks with the largest gap at k - 1 or k", there, 0.8, 1, sagun),
        Check(f"k = {k}: ratio at the largest gap", float(np.mean(ratio)), 1.4, None, sagun, spread=sd(ratio)),
        Check(f"k = {k}: ratio at k - 1 or k at the start", float(np.mean(before)), 1, 1.3, sagun, False,
              spread=sd(before)),
        Check(f"k = {k}: mini-batch gradients in the first k, over chance", float(np.mean(over)), enough, None, ours,
              spread=sd(over)),
        Check(f"k = {k}: first k - 1 eigenvectors in the class means", float(np.mean(lies)), 0.85, 1,
              "Papyan 2020 (from memory): outliers are class means", False, spread=sd(lies)),
    ]  # fmt: skip


def at_classes(k: int, one: Measured) -> float:
    """The larger one of the ratios after k - 1 and after k eigenvalues."""
    return float(one.ratios[k - 2 : k].max())


def sd(values: Sequence[float] | Floats) -> float:
    """Standard deviation over networks."""
    return float(np.std(values, ddof=1))


def summary(k: int, some: list[Measured]) -> dict[str, Any]:
    """Of the networks of one k at one stage: each gap, and means."""
    return {
        "largest gap after": [one.gap(k)[0] for one in some],
        "its ratio": [one.gap(k)[1] for one in some],
        "Gauss-Newton against Hessian, relative, of the largest": float(np.mean([one.apart[0] for one in some])),
        "the same, mean of the first k": float(np.mean([one.apart.mean() for one in some])),
        "first k - 1 eigenvectors in the class means": float(np.mean([one.overlap for one in some])),
        "mini-batch gradients in the first k": float(np.mean([one.batches for one in some])),
        "gradient of all samples in the first k": float(np.mean([one.whole for one in some])),
        "loss": float(np.mean([one.loss for one in some])),
    }


def table_of(found: Found) -> dict[str, Any]:
    """Eigenvalues, and each over the next, by k, stage and place."""
    rows: list[tuple[Any, ...]] = []
    for (k, stage), some in found.items():
        values, ratios = np.stack([one.values for one in some]), np.stack([one.ratios for one in some])
        for place in range(ratios.shape[1]):
            mean, ratio = values[:, place], ratios[:, place]
            rows.append((k, stage, place + 1, mean.mean(), sd(mean), ratio.mean(), sd(ratio)))
    names = ("k", "stage", "place", "eigenvalue: mean", "eigenvalue: sd", "over the next: mean", "over the next: sd")
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def picture(settings: MixtureSettings, found: Found) -> Figure:
    """Ratios of neighbouring eigenvalues, a panel for each k; two shares over k."""
    shown = settings.classes[:4]
    figure, axes = panels(2, 3, width=10.0, height=5.6)
    for ax, k in zip([*axes[:2], *axes[3:5]], shown, strict=False):
        for series, stage in enumerate(STAGES):
            ratios = np.stack([one.ratios[: k + 3] for one in found[k, stage]])
            places = np.arange(1, ratios.shape[1] + 1) + 0.12 * (2 * series - 1)
            points(ax, places, ratios.mean(0), stage, series, ratios.std(0, ddof=1))
        ax.axvspan(k - 1.5, k + 0.5, color=GREY, alpha=0.15, linewidth=0)
        ax.set(yscale="log", title=f"k = {k} (shaded: k − 1 and k)", xlabel="i")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_yticks([1, 1.5, 2, 3, 4, 6], ["1", "1.5", "2", "3", "4", "6"])
        ax.set_yticks([], minor=True)
        ax.set_ylabel("i-th eigenvalue / the next")
    for ax in [*axes[:2], *axes[3:5]][len(shown) :]:
        ax.set_axis_off()
    axes[0].legend()
    classes = list(settings.classes)
    for ax, title, value in (
        (axes[2], "mini-batch gradients", lambda one: one.batches),
        (axes[5], "first k − 1 eigenvectors", lambda one: one.overlap),
    ):
        for series, stage in enumerate(STAGES):
            each = np.array([[value(one) for one in found[k, stage]] for k in classes])
            points(ax, np.arange(len(classes)) + 0.1 * series, each.mean(1), stage, series, each.std(1, ddof=1))
        chance = [100 * k / found[k, "trained"][0].weights for k in classes]
        if ax is axes[2]:
            ax.plot(range(len(classes)), chance, color=GREY, linestyle="--", label="100 × chance")
        ax.set_xticks(range(len(classes)), [str(k) for k in classes])
        ax.set(ylim=(0, 1.35), xlabel="classes, k", title=title)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
        ax.legend(ncols=2)
    axes[2].set_ylabel("share in the first k eigenvectors")
    axes[5].set_ylabel("share in the span of class means")
    figure.suptitle(
        f"{INPUTS}-{HIDDEN}-{HIDDEN}-k on mixtures of k Gaussians, n = {settings.samples}, "
        f"{settings.networks} networks of each k: mean ± sd",
        fontsize=9,
    )
    return figure
