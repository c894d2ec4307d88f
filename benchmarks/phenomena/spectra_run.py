"""Spectra of a network that was trained, beside those of its initial weights, which follow from recipe and seed.

Of the Hessian of the training loss, on some training images as evaluation sees them: its largest eigenvalues, the
density of all of them, how far the Gauss-Newton part has the same (`hessian`), and what of it the class means of the
gradients explain (`class_means`). Of every weight matrix the singular values (`weight_spectra`), and of the fully
connected part's features, masks and errors what `feature_spectra` tells. The loss is the run's, without weight decay.
Batch norms of the initial network get the statistics of the images at hand.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, untouched
from benchmarks.phenomena.class_means import class_means, overlap
from benchmarks.phenomena.feature_spectra import Found as Features
from benchmarks.phenomena.feature_spectra import measure as features_of
from benchmarks.phenomena.figures import GREY, OKABE_ITO, panels, points
from benchmarks.phenomena.finished import FinishedRun
from benchmarks.phenomena.hessian import Curvature, Loss, curvature, seconds_of
from benchmarks.phenomena.hessian_mixture import share
from benchmarks.phenomena.initial_weights import initial_network, with_statistics
from benchmarks.phenomena.lanczos import Density, Top, density, top_eigenpairs
from benchmarks.phenomena.options import Device, place
from benchmarks.phenomena.weight_spectra import Spectra, numbers_of, spectra_of
from models.classifier import Classifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

STAGES = ("initial", "trained")
MINI_BATCH = 50  # images of a gradient that is held to the first eigenvectors


@dataclass(frozen=True)
class RunSettings:
    """What is computed.

    Args:
        images: training images.
        probes: random vectors for the density.
        steps: products with the Hessian from each of them.
        products: with the Hessian, and with its Gauss-Newton part, for the largest eigenvalues; at most.
        top: largest eigenvalues; two more than classes where it is 0, 30 at most.
        batch: images in one pass.
        memory_gb: of vectors as long as the weights that may be held at once.
        device: cpu, cuda, or the GPU where there is one.
    """

    images: int
    probes: int
    steps: int
    products: int
    top: int = 0
    batch: int = 250
    memory_gb: float = 2.0
    device: Device = "auto"


PRESETS = {
    "smoke": RunSettings(50, 1, 12, 30),
    "cpu": RunSettings(1000, 3, 40, 60),
    "full": RunSettings(10_000, 10, 90, 200, batch=1000, memory_gb=32),
}


@dataclass(frozen=True)
class Measured:
    """One network.

    Args:
        loss: mean over the images.
        hessian: its largest eigenvalues.
        part: those of the Gauss-Newton part.
        density: of the Hessian.
        classes: eigenvalues that the class means make, descending. [C]
        overlap: share of the Hessian's first C - 1 eigenvectors in the span of the class means; of as many as there
            are, where fewer were asked for.
        split: the same in the span of the Gauss-Newton part's first eigenvectors, as many as were found.
        batches: mean share of a mini-batch's squared gradient in the space of the first C.
        differences: the curvature along the first eigenvector by differences of gradients, over the first eigenvalue.
        weights: spectra of the weight matrices.
        features: of the fully connected part; none where the network ends in no linear layer.
    """

    loss: float
    hessian: Top
    part: Top
    density: Density
    classes: Floats
    overlap: float
    split: float
    batches: float
    differences: float
    weights: Spectra
    features: Features


def study(run: FinishedRun, settings: RunSettings, seed: int) -> Outcome:
    """Measure the network of `run` and its initial one on the same images."""
    device = place(settings.device)
    loss = loss_of(run.network)
    initial = initial_network(run)
    images, labels = run.images("train", settings.images, seed)
    start = with_statistics(initial, images.chunk(-(-len(images) // settings.batch)))
    images, labels = images.to(device), labels.to(device)
    with untouched(run.network) as network:
        networks = {"initial": start.to(device), "trained": network.to(device).eval()}
        print(announce(network, images, labels, loss, settings), file=sys.stderr, flush=True)
        found = {stage: measure(one, images, labels, loss, settings, seed) for stage, one in networks.items()}
    return conclude(run, settings, found)


def loss_of(network: Classifier) -> Loss:
    """What the run's training made small.

    Raises:
        AnalysisError: it is no cross-entropy.
    """
    if network.loss_name != "cross_entropy":
        raise AnalysisError(
            f"the run's loss (={network.loss_name}) must be cross_entropy, whose Gauss-Newton part the class means "
            "take apart: give a run of another recipe."
        )
    return network.loss


def eigenvalues_for(settings: RunSettings, classes: int, weights: int) -> int:
    """How many of the largest are looked for."""
    return min(settings.top or min(classes + 2, 30), settings.products, weights)


def announce(network: nn.Module, images: Tensor, labels: Tensor, loss: Loss, settings: RunSettings) -> str:
    """What will be done and how long it may take, from a trial of each product.

    Raises:
        AnalysisError: the vectors do not fit into `memory_gb`.
    """
    with curvature(network, images, labels, loss, settings.batch) as of:
        with torch.no_grad():
            classes = of.logits(images[:1]).shape[1]
        check_memory(settings, of.size, classes)
        each = [seconds_of(product, of.size, of.device) for product in (of.hessian, of.gauss_newton)]
    of_hessian = settings.products + settings.probes * settings.steps
    seconds = 2 * (of_hessian * each[0] + settings.products * each[1])
    return (
        f"two networks of {of.size} weights, each at most {of_hessian} products with the Hessian on {len(images)} "
        f"images ({each[0]:.2g} s) and {settings.products} with its Gauss-Newton part ({each[1]:.2g} s): "
        f"{gigabytes(settings, of.size, classes):.2g} GB of vectors, at most about {seconds:.0f} s on {of.device}"
    )


def gigabytes(settings: RunSettings, weights: int, classes: int) -> float:
    """Of vectors that are held at once: a Lanczos basis, eigenvectors of both networks, class means and their span."""
    count = max(settings.products, settings.steps) + 4 * eigenvalues_for(settings, classes, weights) + 3 * classes
    return 8e-9 * weights * (count + 3)


def check_memory(settings: RunSettings, weights: int, classes: int) -> None:
    """Refuse what does not fit.

    Raises:
        AnalysisError: as said.
    """
    needed = gigabytes(settings, weights, classes)
    if needed > settings.memory_gb:
        raise AnalysisError(
            f"--memory_gb (={settings.memory_gb:g}) must hold {round(needed / 8e-9 / weights)} vectors of {weights} "
            f"weights: allow {needed * 1.01:.2g} or more, or ask for fewer --products (={settings.products})."
        )


def measure(
    network: nn.Module, images: Tensor, labels: Tensor, loss: Loss, settings: RunSettings, seed: int
) -> Measured:
    """All spectra of one network in evaluation mode; images [N, ...] and labels [N] where it is."""
    generator = torch.Generator().manual_seed(seed)
    with curvature(network, images, labels, loss, settings.batch) as of:
        logits = in_batches(of.logits, images, settings.batch)
        classes, device = logits.shape[1], of.device
        count = eigenvalues_for(settings, classes, of.size)
        hessian, part = (
            top_eigenpairs(product, of.size, count, settings.products, generator, device, label=label)
            for product, label in ((of.hessian, "Hessian"), (of.gauss_newton, "Gauss-Newton part"))
        )
        spectrum = density(of.hessian, of.size, settings.probes, settings.steps, generator, device)
        means = class_means(of, classes)
        if not hessian.values[0] > 0:
            raise AnalysisError(
                f"largest eigenvalue (={hessian.values[0]:g}) of the Hessian must be above 0: the network fits all "
                f"{len(images)} images to the last digit. Give an earlier checkpoint with --ckpt, or more --images."
            )
        first = hessian.vectors[:, : classes - 1]
        of_classes, split = overlap(means.span(), first), overlap(part.vectors, first)
        batches = mini_batches(of, hessian.vectors[:, :classes])
    return Measured(
        loss=float(loss(logits, labels)),
        hessian=hessian,
        part=part,
        density=spectrum,
        classes=means.eigenvalues(),
        overlap=of_classes,
        split=split,
        batches=batches,
        differences=by_differences(network, images, labels, loss, settings.batch, hessian) / float(hessian.values[0]),
        weights=spectra_of(network),
        features=features_or_none(network, images, labels, settings.batch),
    )


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Tensor:
    """`function` of `batch` images at a time, joined."""
    return torch.cat([function(some) for some in images.split(batch)])


def mini_batches(of: Curvature, space: Tensor) -> float:
    """Mean share of the squared gradients of mini-batches that lies in `space` [P, k]."""
    shares = []
    for images, labels in zip(of.images.split(MINI_BATCH), of.labels.split(MINI_BATCH), strict=True):
        shares.append(share(space, of.flat(of.slopes(of.loss(of.logits(images), labels)))))
    return float(np.mean(shares))


def by_differences(network: nn.Module, images: Tensor, labels: Tensor, loss: Loss, batch: int, hessian: Top) -> float:
    """Curvature along the first eigenvector, from gradients at two places beside the weights, in double precision.

    They are so near that hardly a ReLU switches between them, which would be a curvature of its own: 1e-11, 1e-12 and
    1e-13 of the weights' length to either side, of which the median counts. A ResNet-20 had a switch within 1e-11.
    """
    with untouched(network):
        double = copy.deepcopy(network).double()
    along, found = hessian.vectors[:, 0], []
    with curvature(double, images.double(), labels, loss, batch) as of:
        names, start = list(of.weights), of.flat(list(of.weights.values()))
        for step in (1e-11, 1e-12, 1e-13):
            size, slopes = step * float(start.norm()), []
            for sign in (1, -1):
                moved = of.split(start + sign * size * along)
                of.weights = {name: one.clone().requires_grad_(True) for name, one in zip(names, moved, strict=True)}
                slopes.append(float(of.gradient() @ along))
            found.append((slopes[0] - slopes[1]) / (2 * size))
    return float(np.median(found))


def features_or_none(network: nn.Module, images: Tensor, labels: Tensor, batch: int) -> Features:
    """What the fully connected part tells; nothing where there is none."""
    try:
        return features_of(network, images, labels, batch)
    except AnalysisError:  # it ends in a convolution, or in pooling
        return {}


# -- what was found ---------------------------------------------------------------------------------------------------


def conclude(run: FinishedRun, settings: RunSettings, found: dict[str, Measured]) -> Outcome:
    """Checks, numbers, table and figure."""
    weights = len(found["trained"].hessian.vectors)
    numbers: dict[str, Any] = {
        "recipe": run.recipe,
        "training images": settings.images,
        "weights P": weights,
        "classes C": len(found["trained"].classes),
        "probes of the density": settings.probes,
        "steps from each": settings.steps,
    }
    numbers |= {stage: summary(one, weights) for stage, one in found.items()}
    checks = [*(check for stage in STAGES for check in sound(stage, found[stage])), *claims(found, weights)]
    return Outcome(numbers, checks, table_of(found), {"spectra": picture(run, settings, found)})


def sound(stage: str, one: Measured) -> list[Check]:
    """What must hold of any network."""
    first, off = float(one.hessian.values[0]), float(one.hessian.residuals[0])
    return [
        Check(f"{stage}: largest eigenvalue's residual, relative", off / first, 0, 1e-2, "Lanczos has converged"),
        Check(f"{stage}: curvature by differences / largest eigenvalue", one.differences, 0.99, 1.01,
              "gradients, in double precision"),
        Check(f"{stage}: smallest of the Gauss-Newton part / largest", one.part.lowest / float(one.part.values[0]),
              -1e-4, None, "it is a sum of squares"),
    ]  # fmt: skip


def first_of(one: Measured) -> tuple[str, str, int]:
    """How many eigenvectors `overlap` and `batches` are of, in words: C - 1 and C, or as many as there are; the second.

    There are fewer where `--top` asks for fewer, and with more than 30 classes.
    """
    classes, found = len(one.classes), len(one.hessian.values)
    return "C - 1" if found >= classes - 1 else str(found), "C" if found >= classes else str(found), min(classes, found)


def claims(found: dict[str, Measured], weights: int) -> list[Check]:
    """What the papers say of trained networks; at another size, or of another kind, it need not hold."""
    trained, initial = found["trained"], found["initial"]
    less, all_, count = first_of(trained)
    papyan = "Papyan 2020 (from memory)"
    checks = [
        Check(f"trained: first {less} eigenvectors in the class means", trained.overlap, 0.85, 1, papyan, False),
        Check(f"trained: correlation of {less} eigenvalues with the class means'", correlation(trained), 0.9, 1, papyan,
              False),
        Check("trained: Gauss-Newton part against Hessian, largest, relative", apart(trained)[0], 0, 0.05,
              "the loss is small: so is the rest", False),
        Check(f"trained: mini-batch gradients in the first {all_}, over chance", trained.batches * weights / count, 100,
              None, "Gur-Ari et al. 2018", False),
    ]  # fmt: skip
    names = [name for name in trained.features if name.startswith("h")]
    if names:
        last, collapse = names[-1], "Papyan, Han, Donoho 2020"
        rise = trained.features[last]["top"] - initial.features[last]["top"]
        ratio = trained.features[last]["NC1"] / initial.features[last]["NC1"]
        checks += [
            Check(f"energy of {last} in C - 1 directions: rise", rise, 0, None, collapse, False),
            Check(f"NC1 of {last}, trained / initial", ratio, 0, 1, collapse, False),
        ]
    return checks


def correlation(one: Measured) -> float:
    """Pearson's, of the first C - 1 eigenvalues of the Hessian and those of the class means; NaN for fewer than 3."""
    count = min(len(one.classes) - 1, len(one.hessian.values))
    if count < 3:
        return float("nan")
    return float(np.corrcoef(one.hessian.values[:count], one.classes[:count])[0, 1])


def apart(one: Measured) -> Floats:
    """Relative distance of the Gauss-Newton part's largest eigenvalues from the Hessian's, one by one."""
    found: Floats = np.abs(one.part.values / one.hessian.values - 1)
    return found


def summary(one: Measured, weights: int) -> dict[str, Any]:
    """Numbers of one network."""
    classes = len(one.classes)
    less, all_, _ = first_of(one)
    return {
        "loss": one.loss,
        "largest eigenvalue": float(one.hessian.values[0]),
        "smallest eigenvalue, at most": one.hessian.lowest,
        "trace of the Hessian": one.density.mean * weights,
        "products for the largest": one.hessian.products,
        "largest residual of the largest eigenvalues / the largest": float(
            one.hessian.residuals.max() / one.hessian.values[0]
        ),
        "Gauss-Newton against Hessian, relative, of the largest": float(apart(one)[0]),
        f"the same, mean of the first {less}": float(apart(one)[: classes - 1].mean()),
        f"first {less} eigenvectors in those of the Gauss-Newton part": one.split,
        f"first {less} eigenvectors in the class means": one.overlap,
        "the same of random vectors": classes / weights,
        f"correlation of {less} eigenvalues with the class means'": correlation(one),
        f"mini-batch gradients in the first {all_}": one.batches,
        "weights": numbers_of(one.weights),
        "features": one.features,
    }


def table_of(found: dict[str, Measured]) -> dict[str, Any]:
    """The largest eigenvalues by place; below, the density, of the eigenvalue over the largest."""
    x = grid()
    columns: dict[str, list[Any]] = {"place": list(range(1, len(found["trained"].hessian.values) + 1))}
    for stage, one in found.items():
        columns[f"Hessian, {stage}"] = list(one.hessian.values)
        columns[f"Gauss-Newton part, {stage}"] = list(one.part.values)
        columns[f"class means, {stage}"] = list(one.classes)
    columns["eigenvalue / largest"] = list(x)
    for stage, one in found.items():
        columns[f"density, {stage}"] = list(relative_density(one, x))
    length = max(len(column) for column in columns.values())
    return {name: column + [None] * (length - len(column)) for name, column in columns.items()}


def grid() -> Floats:
    """Places of the density, in units of the largest eigenvalue."""
    found: Floats = np.linspace(-0.4, 1.1, 301)
    return found


def relative_density(one: Measured, x: Floats, width: float = 0.01) -> Floats:
    """The density over the eigenvalue in units of the largest, each node as wide as `width`."""
    largest = float(one.hessian.values[0])
    return Density(one.density.nodes / largest, one.density.weights).smoothed(x, width)


def picture(run: FinishedRun, settings: RunSettings, found: dict[str, Measured]) -> Figure:
    """Density, largest eigenvalues, shares; weight matrices; features."""
    figure, axes = panels(2, 3, width=11.0, height=6.4)
    draw_density(axes[0], found)
    draw_top(axes[1], found["trained"])
    draw_shares(axes[2], found)
    draw_weights(axes[3], found)
    draw_features(axes[4], found, "top", "h, D, δ: energy in C − 1 directions", "share")
    draw_features(axes[5], found, "rank", "h, D, δ: effective rank", "(Σ s²)² / Σ s⁴")
    figure.suptitle(f"{run.recipe}, {settings.images} training images, initial and trained weights", fontsize=9)
    return figure


def draw_density(ax: Any, found: dict[str, Measured]) -> None:
    """Of all eigenvalues, in units of the largest."""
    x = grid()
    for series, (stage, one) in enumerate(found.items()):
        label = f"{stage}: largest {one.hessian.values[0]:.3g}"
        ax.plot(x, relative_density(one, x), color=OKABE_ITO[series], linestyle=("-", "--")[series], label=label)
    ax.set(yscale="log", ylim=(1e-6, 1e4), xlabel="eigenvalue / largest", ylabel="density")
    ax.set_title("Hessian: all eigenvalues")
    ax.legend(loc="upper right")


def draw_top(ax: Any, one: Measured) -> None:
    """The largest eigenvalues of the Hessian, its Gauss-Newton part and the class means, trained."""
    shown = {"Hessian": one.hessian.values, "Gauss-Newton part": one.part.values, "class means": one.classes}
    for series, (name, values) in enumerate(shown.items()):
        values = np.where(values > 1e-6 * one.hessian.values[0], values, np.nan)[: len(one.hessian.values)]
        points(ax, np.arange(1, len(values) + 1) + 0.15 * (series - 1), values, name, series + 2)
    ax.axvline(len(one.classes) - 0.5, color=GREY, linestyle=":", linewidth=1)
    ax.set(yscale="log", xlabel="place (dotted: after C − 1)", ylabel="eigenvalue")
    ax.set_title("trained: largest eigenvalues")
    ax.legend(loc="lower left")


def draw_shares(ax: Any, found: dict[str, Measured]) -> None:
    """What of the first eigenvectors, and of gradients, the classes explain."""
    names = ("eigenvectors in\nclass means", "eigenvectors in\nGauss-Newton's", "mini-batch gradients\nin eigenvectors")
    for series, (stage, one) in enumerate(found.items()):
        places = np.arange(len(names)) + 0.36 * series - 0.18
        ax.bar(places, (one.overlap, one.split, one.batches), 0.34, color=OKABE_ITO[series], label=stage)
    ax.set_xticks(range(len(names)), names, fontsize=7)
    less, all_, _ = first_of(found["trained"])
    ax.set(ylim=(0, 1.25), ylabel="share", title=f"the first {less.replace('-', '−')}, or {all_}, eigenvectors")
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.legend(ncols=2, loc="upper center")


def draw_weights(ax: Any, found: dict[str, Measured]) -> None:
    """Largest eigenvalue of each weight matrix over the law's edge, from the input on."""
    for series, (stage, one) in enumerate(found.items()):
        edges = [layer.over_edge for layer in one.weights.values()]
        points(ax, np.arange(1, len(edges) + 1) + 0.1 * series, edges, stage, series)
    ax.axhline(1, color=GREY, linestyle="--", label="edge of the law of noise")
    ax.set(yscale="log", xlabel="weight matrix, from the input", ylabel="largest eigenvalue / edge")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = list(found["trained"].weights)
    if len(names) <= 6:
        ax.set_xticks(range(1, len(names) + 1), names, fontsize=7)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_title("weights")
    ax.set_ylim(None, 2.5 * ax.get_ylim()[1])
    ax.legend(loc="upper left")


def draw_features(ax: Any, found: dict[str, Measured], key: str, title: str, label: str) -> None:
    """One measure of each object of the fully connected part."""
    ax.set(title=title, ylabel=label)
    if not found["trained"].features:
        ax.text(0.5, 0.5, "the network ends in\nno linear layer", ha="center", transform=ax.transAxes)
        return
    for series, (stage, one) in enumerate(found.items()):
        values = [measures[key] for measures in one.features.values()]
        points(ax, np.arange(len(values)) + 0.1 * series, values, stage, series)
    names = list(found["trained"].features)
    ax.set_xticks(range(len(names)), names, fontsize=7)
    ax.set_ylim(0, 1.25 * ax.get_ylim()[1])
    if key == "top":
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.legend(ncols=2, loc="upper center")
