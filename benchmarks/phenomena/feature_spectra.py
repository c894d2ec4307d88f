"""What training does to the features, masks and errors of a network, epoch by epoch: they gather by class.

The objects are those of `backprop`: features h, masks D and errors delta of the fully connected part, one row for each
image. Their energy is that of the singular values of the rows less their mean. Errors of the last layer have rank
C - 1 at most, as each row sums to 0. Papyan, Han, Donoho 2020, "Prevalence of neural collapse during the terminal phase
of deep learning training": within a class the last features vary less and less, beside the distance of the class means,
`NC1 = tr(S_W S_B^+) / C`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome
from benchmarks.phenomena.backprop import objects, spectrum
from benchmarks.phenomena.figures import panels, points
from benchmarks.phenomena.trained_by_epochs import TrainSettings, epochs, read, test_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = dict[str, dict[str, float]]  # by object: what `spectrum` tells, `numerical rank`, and `NC1` of features


def measure(network: nn.Module, images: Tensor, labels: Tensor, batch: int = 1000) -> Found:
    """Of every object of the fully connected part; `batch` images go through the network at once.

    Raises:
        AnalysisError: the network ends in no linear layer.
    """
    found: Found = {}
    for name, rows in in_parts(network, images, labels, batch).items():
        found[name] = spectrum(rows, labels) | {"numerical rank": rank(rows)}
        if name.startswith("h"):
            found[name]["NC1"] = collapse(rows, labels)
    return found


def in_parts(network: nn.Module, images: Tensor, labels: Tensor, batch: int) -> dict[str, Tensor]:
    """The objects of all images [N, ...], found of `batch` at a time; errors are those of the mean loss over all."""
    parts: dict[str, list[Tensor]] = {}
    for some, theirs in zip(images.split(batch), labels.split(batch), strict=True):
        for name, rows in objects(network, some, theirs).items():
            scale = len(some) / len(images) if name.startswith("δ") else 1.0
            parts.setdefault(name, []).append(rows.flatten(1) * scale)
    return {name: torch.cat(rows) for name, rows in parts.items()}


def rank(rows: Tensor, least: float = 1e-5) -> int:
    """Singular values of the rows [n, d] above `least` of the largest, in double precision."""
    values = torch.linalg.svdvals(rows.double())
    return int((values > least * values[0]).sum())


def collapse(rows: Tensor, labels: Tensor) -> float:
    """NC1 of features [n, d]: tr(S_W S_B^+) / C, with S_W their covariance within classes and S_B that of the means.

    0 where every image of a class has the features of its mean; infinite where all classes have the same mean.
    """
    rows = rows.double()
    there = labels.unique()
    means = torch.stack([rows[labels == c].mean(0) for c in there])  # [C, d]
    within = rows - means[torch.searchsorted(there, labels)]
    apart = means - means.mean(0)
    # S_B^+ = V s^-2 V' C with apart = U s V'; only C - 1 directions of the d matter
    _, sizes, directions = torch.linalg.svd(apart, full_matrices=False)
    kept = sizes > 1e-10 * sizes[0]
    if not bool(sizes[0] > 0):
        return float("inf")
    along = (within @ directions[kept].T).square().mean(0)  # of S_W in each
    return float((along / (sizes[kept].square() / len(there))).sum() / len(there))


def study(settings: TrainSettings, seed: int) -> Outcome:
    """Train a network, and measure it before and after every epoch.

    Raises:
        AnalysisError: there are not so many images.
    """
    task = read(settings.dataset)
    if settings.images > len(task.x):
        raise AnalysisError(
            f"--images (={settings.images}) must be at most {len(task.x)}, the training images of {settings.dataset}: "
            "leave it out for the preset's."
        )
    few = torch.randperm(len(task.x), generator=torch.Generator().manual_seed(seed))[: settings.images]
    found, errors = [], []
    for _, network in epochs(settings, task, seed):
        found.append(measure(network, task.x[few], task.y[few]))
        errors.append(test_error(network, task))
    return conclude(settings, found, errors)


def conclude(settings: TrainSettings, found: list[Found], errors: list[float]) -> Outcome:
    """Checks, table and figure. One of `found` and of `errors` for the start and each epoch."""
    depth, first, last = len(settings.hidden), found[0], found[-1]
    h, d, top = f"h{depth}", f"δ{depth}", f"δ{depth + 1}"
    source, ours = "Papyan, Han, Donoho 2020", "measured before"
    most = max(one[top]["numerical rank"] for one in found)
    checks = [
        Check(f"rank of {top}, most of all epochs", most, 1, 9, "rows sum to 0: at most C - 1"),
        Check(f"energy of {h} in C - 1 directions: rise", last[h]["top"] - first[h]["top"], 0.05, None, source),
        Check(f"class means' share of {h}: rise", last[h]["between"] - first[h]["between"], 0.05, None, source),
        Check(f"NC1 of {h}, trained / initial", last[h]["NC1"] / first[h]["NC1"], 0, 0.8, source),
        Check(f"effective rank of {h}, trained / initial", last[h]["rank"] / first[h]["rank"], 0, 1, source),
        Check(f"class means' share of {d} at the start", first[d]["between"], 0.5, None, f"0.73 {ours}"),
        Check(f"class means' share of {d} after training", last[d]["between"], None, 0.3, f"0.05 {ours}"),
    ]
    numbers = {
        "dataset": settings.dataset,
        "epochs": settings.epochs,
        "images": settings.images,
        "test error, %": errors[-1],
        "initial": first,
        "trained": last,
    }
    return Outcome(numbers, checks, table_of(found, errors), {"features": picture(settings, found)})


def table_of(found: list[Found], errors: list[float]) -> dict[str, Any]:
    """Of each epoch, every object."""
    columns = ("top", "between", "rank", "norm", "numerical rank", "NC1")
    rows = [
        (epoch, errors[epoch], name, *(values.get(column) for column in columns))
        for epoch, one in enumerate(found)
        for name, values in one.items()
    ]
    names = ("epoch", "test error, %", "object", *columns)
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def picture(settings: TrainSettings, found: list[Found]) -> Figure:
    """Energy in C - 1 directions, class means' share and effective rank over epochs; NC1 of the features."""
    figure, axes = panels(2, 2, width=9.0, height=6.0)
    shown = [name for name in found[0] if name not in ("h0", f"δ{len(settings.hidden) + 1}")]
    titles = {
        "top": ("energy in C − 1 directions", "share"),
        "between": ("class means' share", "share"),
        "rank": ("effective rank", "(Σ s²)² / Σ s⁴"),
        "NC1": ("variation within classes, of features", "NC1 = tr(S$_W$ S$_B^+$) / C"),
    }
    epoch = np.arange(len(found))
    for ax, (key, (title, label)) in zip(axes, titles.items(), strict=True):
        for series, name in enumerate(shown):
            if key in found[0][name]:
                points(ax, epoch, [one[name][key] for one in found], name, series, line=True)
        ax.set(title=title, ylabel=label, xlabel="epoch")
    for ax, most in zip(axes, (1.02, 1.02, None, None), strict=True):
        ax.set_ylim(0, most)
    axes[0].legend(ncols=3, loc="lower right")
    figure.suptitle(f"{settings.dataset}, {settings.images} training images: features h, masks D, errors δ", fontsize=9)
    return figure
