"""Which solution gradient descent finds depends on the size of the initial weights: from the l2 to the l1 norm's.

Woodworth, Gunasekar, Lee, Moroshko, Savarese, Golan, Soudry, Srebro 2020, "Kernel and rich regimes in overparametrized
models". The network computes <w, x> with w = u^2 - v^2, entry by entry, from u = v = alpha; it is trained on
|X w - y|^2 / 2n, with n equations for d > n unknowns. Gradient flow keeps w on the surface w = 2 alpha^2 sinh(X' l), l
of n entries, and so ends where this meets X w = y: at the solution that is smallest in a norm which is l2 for large
alpha (lazy: the network's tangent kernel does not change) and l1 for small (rich). That end is computed here by itself,
by Newton's method on l, and gradient descent on u and v is held to it; the two norms' solutions come from numpy's
`pinv` and scipy's `linprog`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, steps
from benchmarks.phenomena.figures import GREY, panels, points, theory_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


def l1_solution(x: Floats, y: Floats) -> Floats:
    """The w [d] of smallest l1 norm with X w = y, by scipy's `linprog` on its positive and negative parts."""
    found = linprog(np.ones(2 * x.shape[1]), A_eq=np.hstack([x, -x]), b_eq=y, bounds=(0, None), method="highs")
    positive, negative = np.split(found.x, 2)
    return positive - negative


def flow_limit(x: Floats, y: Floats, alpha: float) -> Floats:
    """Where gradient flow from u = v = alpha ends: w = 2 alpha^2 sinh(X' l) with X w = y (Woodworth et al.).

    l is the minimum of a convex function, sum 2 alpha^2 cosh(X' l) - <y, l>; Newton's method finds it with steps of
    which none changes an entry of X' l by more than 1, so that no sinh runs away.

    Raises:
        AnalysisError: it does not converge, which can only be if X w = y has no solution.
    """
    dual = np.zeros(len(y))
    for _ in range(1000):
        s = x.T @ dual
        off = y - x @ (2 * alpha**2 * np.sinh(s))
        if np.linalg.norm(off) <= 1e-10 * np.linalg.norm(y):
            return 2 * alpha**2 * np.sinh(s)
        step = np.linalg.solve((x * (2 * alpha**2 * np.cosh(s))) @ x.T, off)
        dual += step / max(1.0, float(np.abs(x.T @ step).max()))
    raise AnalysisError(
        f"gradient flow from alpha (={alpha:g}) was not found to end: the rows of X must be independent, {len(y)} of "
        f"them in {x.shape[1]} dimensions; use fewer."
    )


def descend(x: Floats, y: Floats, alphas: Floats, count: int) -> tuple[Floats, Floats]:
    """w after `count` steps of gradient descent on u and v, for every alpha and draw [S, A, d]; |X w - y| / |y| [S, A].

    x [S, n, d], y [S, n]; S draws. The rate is 1 / curvature: 4 (u^2 + v^2) times the largest eigenvalue of X'X / n,
    with the u^2 + v^2 of the start, or 1 near the end if that is more.
    """
    n = x.shape[1]
    curvature = np.linalg.norm(x, 2, axis=(1, 2))[:, None] ** 2 / n * 4 * np.maximum(2 * alphas**2, 1.0)
    rate = (1 / curvature)[:, :, None]  # [S, A, 1]
    u = np.broadcast_to(alphas[:, None], (len(x), len(alphas), x.shape[2])).copy()
    v = u.copy()
    across = x.transpose(0, 2, 1).copy()
    for _ in steps(range(count), "gradient descent"):
        slope = 2 * rate / n * ((u**2 - v**2) @ across - y[:, None]) @ x
        u, v = u - slope * u, v + slope * v
    w = u**2 - v**2
    off = np.linalg.norm(w @ across - y[:, None], axis=2) / np.linalg.norm(y, axis=1)[:, None]
    return w, off


@dataclass(frozen=True)
class DiagonalSettings:
    """What is fitted.

    Args:
        samples: n.
        unknowns: d.
        sparsity: entries of the true w that are not 0; each is 1 / sqrt(sparsity) in size.
        alphas: initial u and v, descending; the first and the last are checked.
        steps: of gradient descent.
        repetitions: draws of X and w.
    """

    samples: int
    unknowns: int
    sparsity: int
    alphas: tuple[float, ...]
    steps: int
    repetitions: int


PRESETS = {
    "smoke": DiagonalSettings(40, 100, 5, (10.0, 1.0, 0.1, 1e-3), 20_000, 2),
    "cpu": DiagonalSettings(40, 100, 5, (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3), 100_000, 5),
    "full": DiagonalSettings(400, 1000, 50, (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3), 1_000_000, 5),
}


def study(settings: DiagonalSettings, seed: int) -> Outcome:
    """Train from every alpha, and compare with the ends of the flow and the solutions of the two norms."""
    x, truth = problems(settings, seed)
    y = np.einsum("snd,sd->sn", x, truth)
    alphas = np.array(settings.alphas)
    w, off = descend(x, y, alphas, settings.steps)
    ends = np.array([[flow_limit(a, b, alpha) for alpha in alphas] for a, b in zip(x, y, strict=True)])
    short = np.array([np.linalg.pinv(a) @ b for a, b in zip(x, y, strict=True)])
    sparse = np.array([l1_solution(a, b) for a, b in zip(x, y, strict=True)])
    l1 = np.abs(w).sum(2)
    least, of_short = np.abs(sparse).sum(1), np.abs(short).sum(1)
    to_short = np.linalg.norm(w[:, 0] - short, axis=1) / np.linalg.norm(short, axis=1)
    to_end = np.linalg.norm(w - ends, axis=2) / np.linalg.norm(ends, axis=2)
    error = np.sum((w - truth[:, None]) ** 2, 2)
    largest, smallest = alphas[0], alphas[-1]
    rises = np.diff(np.abs(ends).sum(2), axis=1).max()
    checks = [
        Check(f"alpha = {largest:g}: distance from the l2 solution", float(to_short.max()), 0, 0.01, "numpy pinv"),
        Check(f"alpha = {smallest:g}: l1 norm over the least", float((l1[:, -1] / least).max()), 0.99, 1.01, "linprog"),
        Check("distance from the flow's end, largest", float(to_end.max()), 0, 0.03, "Woodworth et al. 2020"),
        Check("l1 norm at the flow's end: largest rise as alpha falls", float(rises), None, 1e-6, "from l2 to l1"),
        Check(f"alpha = {largest:g}: |w - truth|^2", float(error[:, 0].mean()), 0.2, None, "l2 does not see sparsity"),
        Check(f"alpha = {smallest:g}: |w - truth|^2", float(error[:, -1].max()), 0, 1e-3, "l1 recovers it"),
    ]
    numbers = {
        "samples n": settings.samples,
        "unknowns d": settings.unknowns,
        "entries that are not 0": settings.sparsity,
        "draws": settings.repetitions,
        "steps": settings.steps,
        "least l1 norm": least,
        "l1 norm of the l2 solution": of_short,
        "residual |X w - y| / |y|, mean over draws": {
            f"{a:g}": value for a, value in zip(alphas, off.mean(0), strict=True)
        },
    }
    table: dict[str, Any] = {"alpha": alphas}
    measured = (("l1 norm", l1), ("|w - truth|^2", error), ("residual", off), ("distance from the flow's end", to_end))
    for name, values in measured:
        table |= {f"{name}: mean": values.mean(0), f"{name}: sd": values.std(0, ddof=1)}
    table["l1 norm at the flow's end"] = np.abs(ends).sum(2).mean(0)
    return Outcome(numbers, checks, table, {"norms": picture(settings, x, y, l1, error, least, of_short)})


def problems(settings: DiagonalSettings, seed: int) -> tuple[Floats, Floats]:
    """X [S, n, d], standard Gaussian, and sparse w [S, d] of length 1."""
    x, truth = [], []
    for r in range(settings.repetitions):
        generator = np.random.default_rng([seed, r])
        x.append(generator.standard_normal((settings.samples, settings.unknowns)))
        w = np.zeros(settings.unknowns)
        places = generator.permutation(settings.unknowns)[: settings.sparsity]
        w[places] = generator.choice([-1.0, 1.0], settings.sparsity) / np.sqrt(settings.sparsity)
        truth.append(w)
    return np.array(x), np.array(truth)


def picture(
    settings: DiagonalSettings, x: Floats, y: Floats, l1: Floats, error: Floats, least: Floats, of_short: Floats
) -> Figure:
    """l1 norm and error over alpha; x [S, n, d] and y [S, n] for the line, the flow's end, mean over draws."""
    figure, (left, right) = panels(1, 2, width=9.0, height=3.4)
    alphas = np.array(settings.alphas)
    fine = np.geomspace(alphas.min(), alphas.max(), 60)
    ends = [[np.abs(flow_limit(a, b, alpha)).sum() for alpha in fine] for a, b in zip(x, y, strict=True)]
    theory_line(left, fine, (np.array(ends) / least[:, None]).mean(0), "end of the flow")
    relative = l1 / least[:, None]
    points(
        left, alphas, relative.mean(0), f"gradient descent, {settings.repetitions} draws", 0, relative.std(0, ddof=1)
    )
    left.axhline(1, color=GREY, linestyle=":", linewidth=1)
    left.axhline(float((of_short / least).mean()), color=GREY, linestyle="--", linewidth=1)
    left.annotate("l1 solution", (alphas.max(), 1), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8)
    left.annotate("l2 solution", (alphas.min(), float((of_short / least).mean())), xytext=(0, 3),
                  textcoords="offset points", fontsize=8)  # fmt: skip
    left.set(xscale="log", xlabel="initial weights, α", ylabel="l1 norm / the least")
    left.legend(loc="center right", fontsize=7)
    points(right, alphas, error.mean(0), "gradient descent", 0, error.std(0, ddof=1), line=True)
    right.set(xscale="log", xlabel="initial weights, α", ylabel="|w − truth|², of 1")
    right.set_title(f"{settings.samples} equations, {settings.unknowns} unknowns, {settings.sparsity} of them not 0")
    return figure
