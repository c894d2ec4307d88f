"""How slices of a loss are drawn: planes as maps on a logarithmic scale, with what is not finite hatched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from benchmarks.phenomena.figures import GREY
from benchmarks.phenomena.slices import Floats, bent_down, not_finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR = 1e-6  # a smaller loss is drawn as this: a logarithm has no 0


def scale(planes: Sequence[Floats]) -> LogNorm:
    """One scale of colours for all of `planes`, over their finite losses."""
    known = np.concatenate([plane[np.isfinite(plane)] for plane in planes] or [np.ones(1)])
    known = np.maximum(known if known.size else np.ones(1), FLOOR)
    low, high = float(known.min()), float(known.max())
    return LogNorm(low, high if high > low else 10 * low)


def draw_plane(axes: Axes, at: Floats, loss: Floats, norm: LogNorm) -> Any:
    """A map of `loss` [rows, columns] at the coordinates `at`; gives it back, for a bar of colours.

    With lines of equal loss, dots where it is bent down, a cross at the network itself. Where the loss is not finite,
    the ground is seen: hatched.
    """
    axes.patch.set(facecolor="#E8E8E8", hatch="////", edgecolor=GREY)
    known = np.ma.masked_invalid(np.maximum(loss, FLOOR))
    shown = axes.pcolormesh(at, at, known, norm=norm, cmap="viridis", shading="nearest", rasterized=True)
    if (levels := levels_within(known)).size:
        axes.contour(at, at, known, levels=levels, colors="white", linewidths=0.6)
    rows, columns = bent_down(loss, at[1] - at[0]).nonzero()
    axes.plot(at[columns + 1], at[rows + 1], ".", color="black", markersize=3)
    axes.plot(0, 0, "+", color="#D55E00", markersize=9, markeredgewidth=1.6)
    axes.grid(False)
    axes.set(aspect="equal", xticks=[at[0], 0, at[-1]], yticks=[at[0], 0, at[-1]])
    return shown


def levels_within(loss: np.ma.MaskedArray) -> Floats:
    """Losses to draw lines at: four to each power of ten, those that the plane has."""
    known = loss.compressed()
    if not known.size or known.max() <= known.min():
        return np.empty(0)
    first, last = np.log10(known.min()), np.log10(known.max())
    steps = 4 if last - first < 4 else 2
    exponents = np.arange(np.ceil(first * steps), np.floor(last * steps) + 1) / steps
    return np.asarray(10.0**exponents)


def said_of_holes(loss: Floats) -> str:
    """`3 points not finite (hatched)`, a line of its own; nothing where there are none."""
    holes = not_finite(loss)
    return f"\n{holes} point{'s' if holes != 1 else ''} not finite (hatched)" if holes else ""


def draw_line(axes: Axes, at: Floats, loss: Floats, **options: Any) -> None:
    """A curve of `loss` over `at`; grey bands where it is not finite."""
    axes.plot(at, np.where(np.isfinite(loss), loss, np.nan), **options)
    half = (at[1] - at[0]) / 2
    for place in at[~np.isfinite(loss)]:
        axes.axvspan(place - half, place + half, facecolor="#E8E8E8", edgecolor=GREY, hatch="////", linewidth=0)


def colour_bar(figure: Figure, shown: Any, axes: Any, label: str = "loss") -> None:
    """What the colours of maps mean."""
    figure.colorbar(shown, ax=axes, label=label, shrink=0.85)
