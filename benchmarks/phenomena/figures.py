"""How every figure looks: readable in print, by the colour-blind, and beside its neighbours.

Colours are Okabe and Ito's (2008, "Color Universal Design"), and no two series differ by colour alone: markers differ
with them. Theory is a line below the points that were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#6E6E6E"  # theory, and lines of reference

STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=OKABE_ITO),
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "image.cmap": "gray",
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "ilsvrc-bench",  # the same picture gives the same file
}


def style() -> Any:
    """Context manager within which figures are drawn and saved in the style of the suite."""
    return matplotlib.rc_context(STYLE)


def panels(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row; `width` and `height` in inches, of the whole figure."""
    with style():
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(rows, columns, squeeze=False)
        return figure, list(axes.flat)


def theory_line(axes: Axes, x: Sequence[float] | Any, y: Sequence[float] | Any, label: str, **options: Any) -> None:
    """A curve that was computed, not measured; it lies below the points."""
    axes.plot(x, y, **{"color": GREY, "linewidth": 2.2, "alpha": 0.8, "zorder": 1, "label": label, **options})


def points(
    axes: Axes,
    x: Sequence[float] | Any,
    y: Sequence[float] | Any,
    label: str,
    series: int = 0,
    spread: Sequence[float] | Any = None,
    line: bool = False,
) -> None:
    """What was measured, as series number `series`: its colour and its marker; `spread` is drawn as error bars."""
    axes.errorbar(
        x,
        y,
        yerr=spread,
        color=OKABE_ITO[series % len(OKABE_ITO)],
        marker=MARKERS[series % len(MARKERS)],
        linestyle="-" if line else "none",
        linewidth=1.0,
        elinewidth=0.9,
        capsize=2,
        zorder=3,
        label=label,
    )
