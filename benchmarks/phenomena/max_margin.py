"""On separable data, gradient descent on the logistic loss turns towards the classifier of largest margin.

Soudry, Hoffer, Nacson, Gunasekar, Srebro 2018, "The implicit bias of gradient descent on separable data": |w| grows for
ever, w / |w| tends to the hard-margin support vector machine, but only as 1 / log t, so that no number of steps which
anybody takes comes near. Ji, Telgarsky 2021, "Characterizing the implicit bias via a primal-dual analysis": with a
step that is divided by the loss the same direction is reached as 1 / t; that is checked here, against scikit-learn's
`SVC` and against a dual problem of our own.

The classifier has no bias. SVC always has one: it is given -x with -y beside each x with y, whose symmetry makes its
bias 0. Letters: n points, d dimensions; z_i = y_i x_i; a margin is min_i <w, z_i> / |w|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import expit, softmax
from sklearn.svm import SVC

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.figures import GREY, panels, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


def margin(z: Floats, w: Floats) -> float:
    """min_i <w, z_i> / |w|. z [n, d], w [d]"""
    return float((z @ w).min() / np.linalg.norm(w))


def angle(w: Floats, other: Floats) -> float:
    """Between w and other, in radians."""
    return float(np.arccos(np.clip(w @ other / np.linalg.norm(w) / np.linalg.norm(other), -1, 1)))


def svc_direction(z: Floats) -> Floats:
    """w [d] of the largest margin by scikit-learn, on the points and their reflections."""
    x, y = np.concatenate([z, -z]), np.repeat([1, -1], len(z))
    found: Floats = SVC(kernel="linear", C=1e10, tol=1e-8).fit(x, y).coef_[0]
    return found


def dual_direction(z: Floats) -> Floats:
    """The same by non-negative least squares: w = sum a_i z_i is the point of the convex hull nearest to 0, scaled.

    min over a >= 0 of |z' a|^2 + (1 - sum a)^2: its a is that nearest point's, times a factor that shortens it.
    """
    a, _ = nnls(np.vstack([z.T, np.ones(len(z))]), np.append(np.zeros(z.shape[1]), 1.0), maxiter=100 * len(z))
    found: Floats = z.T @ a
    return found


def plain_descent(z: Floats, marks: Sequence[int]) -> list[Floats]:
    """w after `marks` steps of gradient descent on the mean logistic loss, from 0, of rate 4 n / |z|_2^2."""
    rate = 4 * len(z) / np.linalg.norm(z, 2) ** 2
    w, found = np.zeros(z.shape[1]), []
    for step in range(marks[-1] + 1):
        if step in marks:
            found.append(w.copy())
        w += rate * expit(-(z @ w)) @ z / len(z)
    return found


def normalised_descent(z: Floats, marks: Sequence[int]) -> list[Floats]:
    """w after `marks` steps of 1 / R^2 on log sum exp(-<w, z_i>), from 0, with R the largest |z_i|.

    That is gradient descent on the exponential loss, its step divided by the loss (Ji, Telgarsky 2021).
    """
    rate = 1 / (z**2).sum(1).max()
    w, found = np.zeros(z.shape[1]), []
    for step in range(marks[-1] + 1):
        if step in marks:
            found.append(w.copy())
        w += rate * softmax(-(z @ w)) @ z
    return found


def points_to_separate(n: int, d: int, gap: float, generator: np.random.Generator) -> Floats:
    """z [n, d]: Gaussian points, each moved to its own side by `gap` along a hidden direction."""
    x = generator.standard_normal((n, d))
    hidden = generator.standard_normal(d)
    hidden /= np.linalg.norm(hidden)
    side = np.where(x @ hidden > 0, 1.0, -1.0)
    z: Floats = side[:, None] * x + gap * hidden
    return z


@dataclass(frozen=True)
class MarginSettings:
    """What is separated.

    Args:
        samples: n.
        dimension: d.
        gap: that the hidden direction leaves at least.
        steps: of both descents, ascending, from 1 on; the last is checked.
        repetitions: draws of the points.
    """

    samples: int
    dimension: int
    gap: float
    steps: tuple[int, ...]
    repetitions: int


PRESETS = {
    "smoke": MarginSettings(50, 5, 1.0, (10, 100, 1000, 10_000, 20_000), 3),
    "cpu": MarginSettings(100, 10, 0.5, (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000), 5),
    "full": MarginSettings(1000, 50, 0.5, (10, 100, 1000, 10_000, 100_000, 1_000_000), 10),
}


def study(settings: MarginSettings, seed: int) -> Outcome:
    """Descend in both ways, and compare margins and directions with the support vector machine's."""
    gaps, angles = (np.empty((2, settings.repetitions, len(settings.steps))) for _ in range(2))
    oracles = []
    for r in steps(range(settings.repetitions), "draws"):
        generator = np.random.default_rng([seed, r])
        z = points_to_separate(settings.samples, settings.dimension, settings.gap, generator)
        best = dual_direction(z)
        oracles.append(abs(margin(z, svc_direction(z)) / margin(z, best) - 1))
        for place, method in enumerate((plain_descent, normalised_descent)):
            for mark, w in enumerate(method(z, settings.steps)):
                gaps[place, r, mark] = 1 - margin(z, w) / margin(z, best)
                angles[place, r, mark] = angle(w, best)
    plain, normalised = gaps.mean(1)
    tenfold = slope(settings.steps, normalised, 100)
    checks = [
        Check("our dual's margin against SVC's, largest difference", max(oracles), 0, 1e-4, "scikit-learn SVC"),
        Check("normalised: margin short of the largest, relative", float(gaps[1, :, -1].max()), -1e-6, 1e-3, "SVC"),
        Check("normalised: log-log slope of it from 100 steps", tenfold, -1.6, -0.7, "Ji, Telgarsky 2021: 1 / t"),
        Check(
            "plain: margin short of it / normalised's, last", float(plain[-1] / normalised[-1]), 10, None, "1 / log t"
        ),
        Check(
            "plain: angle, last over that after 100 steps", drop(settings.steps, angles[0]), None, 1.0, "it turns too"
        ),
    ]
    numbers = {
        "samples n": settings.samples,
        "dimension d": settings.dimension,
        "draws": settings.repetitions,
        "plain: margin short of the largest": gaps[0, :, -1],
        "normalised: margin short of the largest": gaps[1, :, -1],
        "plain: angle in radians": angles[0, :, -1],
        "normalised: angle in radians": angles[1, :, -1],
    }
    table: dict[str, Any] = {"step": settings.steps}
    for place, name in enumerate(("plain", "normalised")):
        for quantity, values in (("margin gap", gaps[place]), ("angle", angles[place])):
            table |= {f"{name}: {quantity}": values.mean(0), f"{name}: {quantity}, sd": values.std(0, ddof=1)}
    return Outcome(numbers, checks, table, {"margin": picture(settings, gaps, angles)})


def slope(marks: Sequence[int], gaps: Floats, start: int) -> float:
    """Log-log slope of `gaps` over `marks` from `start` on, by least squares."""
    kept = np.array(marks) >= start
    return float(np.polyfit(np.log(np.array(marks)[kept]), np.log(np.maximum(gaps[kept], 1e-16)), 1)[0])


def drop(marks: Sequence[int], angles: Floats) -> float:
    """Mean angle at the last mark over that at the first mark of 100 steps or more. angles [draws, marks]"""
    first = next(place for place, mark in enumerate(marks) if mark >= 100)
    return float(angles[:, -1].mean() / angles[:, first].mean())


def picture(settings: MarginSettings, gaps: Floats, angles: Floats) -> Figure:
    """Margin and angle over steps."""
    figure, axes = panels(1, 2, width=9.0, height=3.4)
    names = ("gradient descent", "step divided by the loss")
    titles = ("short of the largest margin, relative", "angle from the SVM, rad")
    for ax, values, title in zip(axes, (gaps, angles), titles, strict=True):
        for place, name in enumerate(names):
            low, middle, high = np.quantile(values[place], [0, 0.5, 1], 0)
            points(ax, settings.steps, middle, name, place, [middle - low, high - middle], line=True)
        ax.set(xscale="log", yscale="log", xlabel="steps", ylabel=title)
    axes[0].axhline(1e-3, color=GREY, linestyle="--", linewidth=0.9)
    axes[0].legend(loc="lower left")
    axes[0].set_title(f"{settings.samples} points in {settings.dimension} dimensions")
    axes[1].set_title(f"{settings.repetitions} draws: median and range")
    return figure
