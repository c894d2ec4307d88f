"""The loss around a network that was trained, from its start to it, and from it to another of the same recipe.

Cut are a plane and a line in directions whose filters are as long as the network's (`benchmarks.phenomena.slices`), on
which batch norms keep scale, shift and running statistics; and straight lines between networks, on which the running
statistics are computed anew at each point, from the training images at hand. The loss is the one the network was
trained with, less weight decay, of images that are not augmented. The initial weights follow from recipe and seed; of a
checkpoint that lies in no run they are not known, and the line from them is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, untouched
from benchmarks.phenomena.figures import GREY, OKABE_ITO, panels
from benchmarks.phenomena.finished import FinishedRun, load_run
from benchmarks.phenomena.hessian import exact_convolutions
from benchmarks.phenomena.initial_weights import initial_network, with_statistics
from benchmarks.phenomena.options import Device, place
from benchmarks.phenomena.slice_figures import colour_bar, draw_line, draw_plane, said_of_holes, scale
from benchmarks.phenomena.slices import (
    Floats,
    Loss,
    Point,
    Sample,
    barrier,
    between,
    coordinates,
    cosine,
    filter_direction,
    measure,
    non_convex_share,
    not_finite,
    point_of,
    rise,
    seconds_for,
    slice_line,
    slice_plane,
    true_loss,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = 20  # steps of a line from t = 0 to t = 1
ALONG: Floats = np.arange(PARTS + PARTS // 4 + 1) / PARTS  # t; goes on beyond the end


@dataclass(frozen=True)
class RunSettings:
    """What is looked at.

    Args:
        images: training images.
        test: test images, for lines.
        points: of each side of the plane; odd. Lines have three times as many.
        radius: of plane and line, in lengths of the filters.
        batch: images that the network sees at once, which bounds the memory.
        device: cpu, cuda, or the GPU where there is one.
        other: folder of a second run of the recipe; empty for none.
    """

    images: int
    test: int
    points: int
    radius: float = 1.0
    batch: int = 250
    device: Device = "auto"
    other: str = ""


PRESETS = {
    "smoke": RunSettings(100, 100, 5),
    "cpu": RunSettings(500, 300, 15),
    "full": RunSettings(5000, 5000, 51, batch=1000),
}


@dataclass(frozen=True)
class Sliced:
    """What was measured.

    Args:
        plane: training loss. [points, points]
        line: loss and error of training and of test images, along the first direction. [3 points, 2, 2]
        lines: the same on straight lines between networks, by name. [ALONG, 2, 2]
        faults: |loss at the middle or the end of a slice less the network's own|, by name.
        angle: cosine of the two directions.
        remark: why there is no line from the start; empty where there is one.
    """

    plane: Floats
    line: Floats
    lines: dict[str, Floats]
    faults: dict[str, float]
    angle: float
    remark: str


def study(run: FinishedRun, settings: RunSettings, seed: int) -> Outcome:
    """Cut and measure; `run.network` comes back as it was."""
    at = coordinates(settings.radius, settings.points)
    device = place(settings.device)
    ends, remark = networks_of(run, settings)
    train = Sample(*run.images("train", settings.images, seed), settings.batch).to(device)
    test = Sample(*run.images("test", settings.test, seed), settings.batch).to(device)
    with untouched(run.network) as network, exact_convolutions():
        network.to(device).eval()
        points: dict[str, Point] = {}
        for name, point in ends.items():
            points[name] = {key: p.to(device) for key, p in point.items()}
        print(planned(network, train, settings, len(points)), file=sys.stderr, flush=True)
        found = cut(network, run.network.loss, (train, test), points, at, seed, remark)
    return conclude(run, settings, found)


def networks_of(run: FinishedRun, settings: RunSettings) -> tuple[dict[str, Point], str]:
    """The networks that lines lead from or to, by name, and why one is missing.

    Raises:
        AnalysisError: the other run is of another recipe, of another shape, or the same.
    """
    ends: dict[str, Point] = {}
    remark = ""
    try:
        ends["start"] = point_of(initial_network(run))
    except AnalysisError as error:
        remark = "left out: the initial weights are not known"
        print(f"there will be no line from the start: {error}", file=sys.stderr, flush=True)
    if settings.other:
        ends["other"] = point_of(other_network(run, settings.other))
    return ends, remark


def other_network(run: FinishedRun, folder: str) -> nn.Module:
    """The network of the second run.

    Raises:
        AnalysisError: no straight line leads to it.
    """
    other = load_run(folder, "--other")
    if other.recipe != run.recipe:
        raise AnalysisError(
            f"--other (={folder}) must be a run of {run.recipe}, as --run is, it is of {other.recipe}: give one of "
            "that recipe."
        )
    mine, theirs = ({key: p.shape for key, p in one.network.named_parameters()} for one in (run, other))
    if mine != theirs:
        differ = sorted(key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key))
        raise AnalysisError(
            f"--other (={folder}) must have parameters of the names and shapes of --run, {len(differ)} differ "
            f"({', '.join(differ[:3])}): give a run with the same settings of the network."
        )
    if other.checkpoint == run.checkpoint:
        raise AnalysisError(f"--other (={folder}) must be another run than --run: give one of another seed.")
    return other.network


def planned(network: nn.Module, train: Sample, settings: RunSettings, lines: int) -> str:
    """What will be computed, and about how long it will take."""
    images, both = settings.images, settings.images + settings.test
    on_lines = len(ALONG) * (both + images * has_norms(network))
    count = settings.points**2 * images + 3 * settings.points * both + lines * on_lines
    seconds = seconds_for(network, train, count)
    places = settings.points**2 + 3 * settings.points + lines * len(ALONG)
    held = sum(p.numel() * p.element_size() for p in network.parameters())
    return (
        f"loss at {places} points, {count} images through the network, {settings.batch} at once, "
        f"{(6 + lines) * held / 1e9:.2g} GB of weights, about {seconds:.0f} s on {train.images.device}"
    )


def has_norms(network: nn.Module) -> bool:
    """Whether there are running statistics to compute."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def cut(
    network: nn.Module,
    loss: Loss,
    samples: tuple[Sample, Sample],
    ends: dict[str, Point],
    at: Floats,
    seed: int,
    remark: str,
) -> Sliced:
    """Every slice of `network`, and how far their middles and ends are from the networks' own losses."""
    train, test = samples
    generator = torch.Generator().manual_seed(seed)
    centre = point_of(network)
    first, second = (filter_direction(network, generator) for _ in range(2))
    plane = measure(network, slice_plane(centre, first, second, at), [train], loss)[:, 0, 0].reshape(len(at), len(at))
    line = measure(network, slice_line(centre, first, finer(at)), [train, test], loss)
    own = true_loss(network, train, loss)
    faults = {"plane": off(plane[len(at) // 2, len(at) // 2], own), "line": off(line[len(line) // 2, 0, 0], own)}
    statistics = train.equal_parts()
    renewed = true_loss(with_statistics(network, statistics), train, loss)
    lines = {}
    for name, other in ends.items():
        way = between(other, centre, ALONG) if name == "start" else between(centre, other, ALONG)
        lines[name] = measure(network, way, [train, test], loss, statistics)
        faults[f"line, {name}"] = off(lines[name][PARTS if name == "start" else 0, 0, 0], renewed)
    return Sliced(plane, line, lines, faults, cosine(first, second), remark)


def finer(at: Floats) -> Floats:
    """About three times as many coordinates, 0 among them."""
    half = 3 * (len(at) // 2) + 1
    return at[-1] * np.arange(-half, half + 1) / half


def off(value: float, wanted: float) -> float:
    """Distance of two losses, of the larger of `wanted` and 1."""
    return abs(value - wanted) / max(1.0, wanted)


def conclude(run: FinishedRun, settings: RunSettings, found: Sliced) -> Outcome:
    """Numbers, checks, table and figure."""
    at = coordinates(settings.radius, settings.points)
    middle = settings.points // 2
    numbers: dict[str, Any] = {
        "recipe": run.recipe,
        "training images": settings.images,
        "test images": settings.test,
        "points of a side": settings.points,
        "radius, lengths of a filter": settings.radius,
        "cosine of the directions": found.angle,
        "training loss": float(found.plane[middle, middle]),
        "lowest loss on the plane less that": finite(np.nanmin(found.plane) - found.plane[middle, middle]),
        "largest loss on the plane": finite(np.max(found.plane)),
        "losses on the plane that are not finite": not_finite(found.plane),
        "share of the plane that is bent down": non_convex_share(found.plane, at[1] - at[0]),
    }
    numbers |= {f"line, {name}": of_line(line, name == "other") for name, line in found.lines.items()}
    if found.remark:
        numbers["line, start"] = found.remark
    figures = {"slices": picture(run, settings, found)}
    return Outcome(numbers, checks_of(found), table(settings, found), figures)


def of_line(line: Floats, minima: bool) -> dict[str, Any]:
    """What a line between two networks shows from one to the other; `minima`: both are. line [ALONG, 2, 2]"""
    train, test = line[: PARTS + 1, 0, 0], line[: PARTS + 1, 1, 0]
    found: dict[str, Any] = {"losses that are not finite": not_finite(line[..., 0])}
    if not minima:
        return found | {"largest rise of the training loss": rise(train)}
    return found | {"barrier of the training loss": barrier(train), "barrier of the test loss": barrier(test)}


def checks_of(found: Sliced) -> list[Check]:
    """That slices go through the networks; and what others saw on such lines, which need not be so here."""
    checks = [
        Check(f"{name}: loss at the network less its own, of the larger of it and 1", fault, 0, 1e-6,
              "the suite's own count of a loss")
        for name, fault in found.faults.items()
    ]  # fmt: skip
    for name, line in found.lines.items():
        if name == "start":
            checks.append(Check("line, start: largest rise of the training loss", rise(line[: PARTS + 1, 0, 0]), None,
                                0.01, "Goodfellow et al. 2015, figure 1: it only falls", False))  # fmt: skip
        else:
            checks.append(Check("line, other: barrier of the training loss", barrier(line[: PARTS + 1, 0, 0]), 0.1,
                                None, "Goodfellow et al. 2015 (from memory): there is one", False))  # fmt: skip
    return checks


def finite(value: float) -> float | None:
    """The number; None for what is none, which JSON has no word for."""
    return float(value) if np.isfinite(value) else None


def table(settings: RunSettings, found: Sliced) -> dict[str, Sequence[Any]]:
    """A row for each point: where it is, loss and error there; the plane has no test images."""
    at = coordinates(settings.radius, settings.points)
    rows: list[tuple[Any, ...]] = [
        ("plane", a, b, found.plane[row, column], None, None, None)
        for row, b in enumerate(at)
        for column, a in enumerate(at)
    ]
    lines = {"first direction": (finer(at), found.line)} | {
        f"line, {name}": (ALONG, line) for name, line in found.lines.items()
    }
    for name, (places, line) in lines.items():
        rows += [(name, t, None, *values.ravel()) for t, values in zip(places, line, strict=True)]
    names = ("slice", "first", "second", "training loss", "training error", "test loss", "test error")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def picture(run: FinishedRun, settings: RunSettings, found: Sliced) -> Figure:
    """The plane, the line in its first direction, and the lines between networks."""
    count = 2 + len(found.lines)
    rows, columns = (2, 2) if count == 4 else (1, count)
    figure, axes = panels(rows, columns, 3.8 * columns, 3.3 * rows)
    at = coordinates(settings.radius, settings.points)
    shown = draw_plane(axes[0], at, found.plane, scale([found.plane]))
    axes[0].set(xlabel="first direction", ylabel="second direction, lengths of a filter")
    axes[0].set_title(f"{settings.images} training images; bent down at dots{said_of_holes(found.plane)}")
    colour_bar(figure, shown, axes[0], "training loss")
    draw_both(axes[1], finer(at), found.line)
    axes[1].set(xlabel="first direction, lengths of a filter", title="through the network")
    words = {"start": ("start (0) to trained (1)", "from its initial weights"), "other": ("this (0) to the other (1)",
             "to another run's network")}  # fmt: skip
    for ax, (name, line) in zip(axes[2:], found.lines.items(), strict=True):
        draw_both(ax, ALONG, line)
        for end in (0, 1):
            ax.axvline(end, color=GREY, linewidth=0.9, linestyle=":")
        ax.set(xlabel=f"t, from {words[name][0]}", title=words[name][1])
    for ax in axes[1:]:
        ax.set(ylim=(0, None), ylabel="loss")
    axes[1].legend(fontsize=7)
    figure.suptitle(f"{run.recipe}, seed {run.seed}", fontsize=9)
    return figure


def draw_both(axes: Axes, at: Floats, line: Floats) -> None:
    """Training and test loss."""
    for column, (name, style) in enumerate((("training", "-"), ("test", "--"))):
        draw_line(axes, at, line[:, column, 0], color=OKABE_ITO[column], linestyle=style, label=name)
