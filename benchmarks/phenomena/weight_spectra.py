"""Singular values of a network's weight matrices: at the start those of noise, after training not.

Martin, Mahoney 2021, "Implicit self-regularization in deep neural networks". The weights of a layer, before training
independent numbers, are held to the law that such numbers have (`marchenko_pastur`); training adds eigenvalues far
beyond its edge. Layers of a few units have too few eigenvalues for a law, and are measured without a check. LeNet's
convolution with a table of connections is no matrix of independent numbers, and is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullFormatter
from torch import nn

from benchmarks.phenomena.analysis import Check, Outcome
from benchmarks.phenomena.figures import GREY, OKABE_ITO, panels
from benchmarks.phenomena.marchenko_pastur import Spectrum, spectrum_of
from benchmarks.phenomena.trained_by_epochs import TrainSettings, epochs, read, test_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Spectra = dict[str, Spectrum]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
FEWEST = 50  # eigenvalues, for a law of many


def spectra_of(network: nn.Module) -> Spectra:
    """Of the weights of every linear layer and convolution, [out, in k k], by the layer's name."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
    return {name: spectrum_of(layer.weight.detach().cpu().double().numpy()) for name, layer in layers.items()}


def study(settings: TrainSettings, seed: int) -> Outcome:
    """Train a network; spectra before and after."""
    task = read(settings.dataset)
    found: dict[str, Spectra] = {}
    for epoch, network in epochs(settings, task, seed):
        if epoch in (0, settings.epochs):
            found["initial" if epoch == 0 else "trained"] = spectra_of(network)
    return conclude(settings, found, test_error(network, task))


def conclude(settings: TrainSettings, found: dict[str, Spectra], error: float) -> Outcome:
    """Checks, table and figure."""
    law, source = "Marchenko, Pastur 1967", "Martin, Mahoney 2021: training adds spikes"
    beyond = 3.0 if settings.dataset == "mnist" else 1.2  # digits train for a hundredth of MNIST's steps
    checks = []
    for name, before in found["initial"].items():
        if before.columns >= FEWEST:
            after = found["trained"][name]
            near = max(0.02, 2.5 / before.columns)  # of M eigenvalues, however regular, it is 1 / (2 M) at least
            checks += [
                Check(f"{name} at the start: distance from the law", before.distance, 0, near, law),
                Check(f"{name} at the start: spikes", before.spikes, 0, 0, law),
                Check(f"{name} trained: largest eigenvalue / edge", after.over_edge, beyond, None, source),
            ]
    numbers = {
        "dataset": settings.dataset,
        "epochs": settings.epochs,
        "test error, %": error,
        "layers": {stage: numbers_of(spectra) for stage, spectra in found.items()},
    }
    return Outcome(numbers, checks, table_of(found), {"weights": picture(settings, found)})


def numbers_of(spectra: Spectra) -> dict[str, dict[str, Any]]:
    """What is told of each layer."""
    return {
        name: {
            "sides": [one.rows, one.columns],
            "distance from the law": one.distance,
            "largest eigenvalue / edge": one.over_edge,
            "spikes": one.spikes,
            "exponent of the tail": one.tail,
        }
        for name, one in spectra.items()
    }


def table_of(found: dict[str, Spectra]) -> dict[str, Any]:
    """All eigenvalues, over the mean square of the entries."""
    rows = [
        (stage, name, place + 1, value / one.law.variance)
        for stage, spectra in found.items()
        for name, one in spectra.items()
        for place, value in enumerate(one.values)
    ]
    names = ("stage", "layer", "place", "eigenvalue / mean square")
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def picture(settings: TrainSettings, found: dict[str, Spectra]) -> Figure:
    """Spectra of the layers that are large enough, before and after."""
    names = [name for name, one in found["initial"].items() if one.columns >= FEWEST]
    figure, axes = panels(1, len(names), width=4.6 * len(names), height=3.6)
    for ax, name in zip(axes, names, strict=True):
        draw(ax, {stage: spectra[name] for stage, spectra in found.items()})
        ax.set_title(f"{name}: {found['initial'][name].rows} × {found['initial'][name].columns}")
    axes[0].set_ylabel("eigenvalues, density over log x")
    figure.suptitle(
        f"{settings.dataset}, weights before and after {settings.epochs} epochs (ticks: spikes)", fontsize=9
    )
    return figure


def draw(ax: Axes, spectra: dict[str, Spectrum]) -> None:
    """Histograms over the logarithm of the eigenvalue, with the law; ticks at the largest ones."""
    positive = [one.values[one.values > 1e-12 * one.values[0]] / one.law.variance for one in spectra.values()]
    low, high = min(v.min() for v in positive), max(v.max() for v in positive)
    bins = np.geomspace(max(low, 1e-4), 1.5 * high, min(45, 10 + len(positive[0]) // 8))
    across = np.diff(np.log(bins))
    for series, (stage, values) in enumerate(zip(spectra, positive, strict=True)):
        counts = np.histogram(values, bins)[0] / len(values) / across
        label = f"{stage}: largest {spectra[stage].over_edge:.1f} × edge, {spectra[stage].spikes} spikes"
        ax.stairs(
            counts, bins, color=OKABE_ITO[series], fill=series == 1, alpha=1 if series == 0 else 0.45, label=label
        )
        spikes = values[: spectra[stage].spikes]
        ax.plot(spikes, np.full(len(spikes), -0.02), "|", color=OKABE_ITO[series], markersize=6)
    one = next(iter(spectra.values())).law
    x = np.geomspace(bins[0], bins[-1], 400)
    ax.plot(x, x * type(one)(one.ratio).density(x), color=GREY, linewidth=2, alpha=0.8, label="law of noise")
    ax.set(xscale="log", xlabel="eigenvalue of W'W / N, over the mean square of W")
    ax.set_ylim(-0.04, 1.6 * ax.get_ylim()[1])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=7, loc="upper left")
