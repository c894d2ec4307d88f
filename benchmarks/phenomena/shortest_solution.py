"""Of all solutions of a least-squares problem, gradient descent finds the nearest to where it starts.

X w = y has n equations and d > n unknowns, so that infinitely many w solve it. A gradient of |X w - y|^2 is a
combination of the rows of X, and w never leaves w_0 plus their span: what it converges to is X^+ y from 0 (the
pseudo-inverse, the shortest solution), and P w_0 + X^+ y from w_0, with P the projection away from the rows. The same
is true of steps on one row at a time, which for steps of size 1 / |x_i|^2 are Kaczmarz's projections (1937).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.figures import GREY, panels, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


def descend(x: Floats, y: Floats, start: Floats, marks: Sequence[int]) -> list[Floats]:
    """w [d] after `marks` steps, ascending, of gradient descent on |X w - y|^2 / 2, of rate 1 / largest eigenvalue."""
    rate = 1 / float(np.linalg.norm(x, 2)) ** 2
    w, found = start.copy(), []
    for step in range(marks[-1] + 1):
        if step in marks:
            found.append(w.copy())
        w = w - rate * x.T @ (x @ w - y)
    return found


def project(x: Floats, y: Floats, start: Floats, sweeps: int, generator: np.random.Generator) -> Floats:
    """w [d] after `sweeps` times n steps on one random row each, of the rate that solves this row's equation."""
    w, squares = start.copy(), np.sum(x**2, 1)
    for i in generator.integers(len(x), size=sweeps * len(x)):
        w += (y[i] - x[i] @ w) / squares[i] * x[i]
    return w


def nearest_solution(x: Floats, y: Floats, start: Floats) -> Floats:
    """P w_0 + X^+ y, by numpy's pseudo-inverse. [d]"""
    found: Floats = start + np.linalg.pinv(x) @ (y - x @ start)
    return found


@dataclass(frozen=True)
class SolutionSettings:
    """What is solved.

    Args:
        samples: n.
        unknowns: d.
        steps: of gradient descent, ascending; the last is checked.
        sweeps: of steps on single rows.
        repetitions: draws of X, y and w_0.
    """

    samples: int
    unknowns: int
    steps: tuple[int, ...]
    sweeps: int
    repetitions: int


MARKS = (0, 10, 20, 30, 50, 70, 100, 150, 200, 300)
PRESETS = {
    "smoke": SolutionSettings(20, 100, MARKS, 60, 3),
    "cpu": SolutionSettings(40, 200, MARKS, 100, 10),
    "full": SolutionSettings(400, 2000, MARKS, 100, 10),
}


def study(settings: SolutionSettings, seed: int) -> Outcome:
    """Descend from 0 and from a random w_0, and compare with the nearest solutions."""
    off = np.empty((2, settings.repetitions, len(settings.steps)))
    rows, lengths = np.empty((2, settings.repetitions)), np.empty(settings.repetitions)
    for r in steps(range(settings.repetitions), "draws"):
        generator = np.random.default_rng([seed, r])
        x = generator.standard_normal((settings.samples, settings.unknowns))
        y, w0 = x @ generator.standard_normal(settings.unknowns), generator.standard_normal(settings.unknowns)
        for place, start in enumerate((np.zeros_like(w0), w0)):
            wanted = nearest_solution(x, y, start)
            size = np.linalg.norm(wanted)
            found = descend(x, y, start, settings.steps)
            off[place, r] = [np.linalg.norm(w - wanted) / size for w in found]
            rows[place, r] = np.linalg.norm(project(x, y, start, settings.sweeps, generator) - wanted) / size
        lengths[r] = np.linalg.norm(w0 - nearest_solution(x, y, np.zeros_like(w0)))
    pinv = "numpy.linalg.pinv"
    checks = [
        Check("from 0: |w - w+| / |w+|, largest", float(off[0, :, -1].max()), 0, 1e-8, pinv),
        Check("from w_0: distance from P w_0 + w+, relative, largest", float(off[1, :, -1].max()), 0, 1e-8, pinv),
        Check("one row at a time, from 0: the same", float(rows[0].max()), 0, 1e-8, pinv),
        Check("one row at a time, from w_0: the same", float(rows[1].max()), 0, 1e-8, pinv),
        Check("distance of w_0 from w+, smallest", float(lengths.min()), 1, None, "the start decides which solution"),
    ]
    numbers = {
        "samples n": settings.samples,
        "unknowns d": settings.unknowns,
        "draws": settings.repetitions,
        "distance after the last step, from 0": off[0, :, -1],
        "distance after the last step, from w_0": off[1, :, -1],
    }
    table: dict[str, Any] = {"step": settings.steps}
    for place, name in enumerate(("from 0", "from w_0")):
        table |= {f"{name}: median": np.median(off[place], 0), f"{name}: largest": off[place].max(0)}
    return Outcome(numbers, checks, table, {"distance": picture(settings, off)})


def picture(settings: SolutionSettings, off: Floats) -> Figure:
    """Distance from the predicted solution over steps. off [2, draws, marks]"""
    figure, (axes,) = panels()
    for place, name in enumerate(("from 0: to the shortest solution", "from w₀: to the solution nearest to it")):
        middle = np.maximum(np.median(off[place], 0), 1e-17)
        spread = np.abs(np.maximum(np.quantile(off[place], [0, 1], 0), 1e-17) - middle)
        points(axes, settings.steps, middle, name, place, spread, line=True)
    axes.axhline(1e-8, color=GREY, linestyle="--", linewidth=0.9)
    axes.set(yscale="log", xlabel="steps of gradient descent", ylabel="relative distance", ylim=(1e-17, 10))
    axes.set_title(
        f"{settings.samples} equations, {settings.unknowns} unknowns, {settings.repetitions} draws: median and range"
    )
    axes.legend()
    return figure
