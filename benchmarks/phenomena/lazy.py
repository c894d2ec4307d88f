"""A trained network beats its own linearisation: of a quadratic function it learns what kernels of its size cannot.

x is Gaussian in d dimensions, the target a quadratic form `<x, Bx>`, and each network has N quadratic units. Letters:
rho = N / d. Three ways to fit it:

- random features (RF): only the second layer is fitted, `sum a_i <w_i, x>^2`;
- neural tangent (NT): linear in what the first layer's weights would do at the start, `sum <a_i, x> <w_i, x>`;
- the network itself (NN): the first layer is trained, `sum <w_i, x>^2`.

There are as many samples as one likes, so that the risk is a matter of matrices: with a constant fitted beside it, a
form A has the risk `2 |B - A|^2` (Frobenius), here divided by `2 |B|^2`, which is that of the best constant. RF and NT
are projections. What is left of NT is `P B P`, where P removes the N directions w_i: by chance a share `1 - rho` of
the directions stays, which gives the closed form. NN reaches the best form of rank N, by Eckart and Young, and is
trained here from random weights by L-BFGS on that risk. B has exponentially distributed eigenvalues, none of them
negative, so that second-layer weights of 1 lose nothing.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, Preset, steps
from benchmarks.phenomena.figures import panels, points, theory_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "Ghorbani, Mei, Misiakiewicz, Montanari 2019, Limitations of Lazy Training of Two-layers Neural Networks"
COST = "smoke seconds; cpu 2 minutes on one core; no data"

Floats = NDArray[np.float64]
METHODS = ("RF", "NT", "NN")


# -- closed forms -----------------------------------------------------------------------------------------------------


def trace_share(b: Floats) -> float:
    """tau = tr(B)^2 / (d |B|^2): the share of B [d, d] that a multiple of the identity explains, 0 to 1."""
    return float(np.trace(b) ** 2 / (len(b) * np.sum(b**2)))


def tangent_limit(rho: float, tau: float) -> float:
    """Risk of NT as d -> infinity: (1 - rho)_+^2 (1 - tau) + (1 - rho)_+ tau (Ghorbani et al. 2019)."""
    left = max(0.0, 1 - rho)
    return left**2 * (1 - tau) + left * tau


def tangent_mean(units: int, b: Floats) -> float:
    """Mean risk of NT over w_i, exact in any dimension: E |P B P|^2 / |B|^2 for a random projection P of rank d - N.

    E tr(P B P B) = x tr(B^2) + y tr(B)^2 by symmetry, and B = 1 and B = e e' fix x and y: E (P_11)^2 is the second
    moment of a Beta(m/2, (d - m)/2), with m = d - N.
    """
    d, m = len(b), max(0, len(b) - units)
    y = m * (d - m) / ((d + 2) * d * (d - 1))
    x = m * (m + 2) / (d * (d + 2)) - y
    return float(x + y * np.trace(b) ** 2 / np.sum(b**2))


def features_limit(rho: float, tau: float) -> float:
    """Risk of RF as d -> infinity: 1 - tau rho / (1 + rho), derived here.

    N matrices w w' span too little of d^2 / 2 dimensions to say anything of B but its trace: their inner products are
    1, and 1 / d in the mean between two of them, so that they explain N / (1 + N / d) of the identity's d.
    """
    return 1 - tau * rho / (1 + rho)


def best_rank(units: int, b: Floats) -> float:
    """Risk of the best form of rank N: the sum of the other squared eigenvalues of B over |B|^2 (Eckart, Young)."""
    squares = np.sort(np.linalg.eigvalsh(b) ** 2)[::-1]
    return float(squares[units:].sum() / squares.sum())


# -- what is fitted ---------------------------------------------------------------------------------------------------


def target(d: int, generator: np.random.Generator) -> Floats:
    """B [d, d], diagonal with eigenvalues of mean 1, exponentially distributed; Gaussian x see no other basis."""
    return np.diag(generator.exponential(size=d))


def directions(units: int, d: int, generator: np.random.Generator) -> Floats:
    """w_i, uniform on the unit sphere. [d, N]"""
    w = generator.standard_normal((d, units))
    return w / np.linalg.norm(w, axis=0)


def features_risk(b: Floats, w: Floats) -> float:
    """Risk of the best sum a_i w_i w_i'. B [d, d], w [d, N]"""
    gram, overlap = (w.T @ w) ** 2, np.einsum("di,de,ei->i", w, b, w, optimize=True)
    return float(1 - overlap @ np.linalg.lstsq(gram, overlap, rcond=1e-12)[0] / np.sum(b**2))


def tangent_risk(b: Floats, w: Floats) -> float:
    """Risk of the best sum of a_i w_i' + w_i a_i': |P B P|^2 / |B|^2, P the projection away from all w_i."""
    q = np.linalg.qr(w)[0]
    half = b - q @ (q.T @ b)
    left = half - (half @ q) @ q.T
    return float(np.sum(left**2) / np.sum(b**2))


def network_risk(b: Floats, start: Floats) -> float:
    """Risk of sum <w_i, x>^2 after training w [d, N] from `start` by L-BFGS on the risk itself."""
    size = float(np.sum(b**2))

    def risk(flat: Floats) -> tuple[float, Floats]:
        w = flat.reshape(start.shape)
        off = w @ w.T - b
        return float(np.sum(off**2)) / size, (4 / size * off @ w).ravel()

    found = minimize(
        risk, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-9, "gtol": 1e-9}
    )
    return float(found.fun)


# -- the analysis -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LazySettings:
    """What is fitted.

    Args:
        dimension: d.
        sizes: N/d, ascending, between 0 and 1.
        repetitions: draws of the target and of every w.
        features_tolerance: how far RF may be from its limit at this dimension.
    """

    dimension: int
    sizes: tuple[float, ...]
    repetitions: int
    features_tolerance: float


PRESETS = {
    "smoke": LazySettings(60, (0.1, 0.2, 0.4, 0.6, 0.8), 10, 0.05),
    "cpu": LazySettings(450, (0.1, 0.2, 0.4, 0.6, 0.8), 4, 0.01),
    "full": LazySettings(450, (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 20, 0.01),
}


def analyze(
    dimension: int | None = None,
    sizes: list[float] | None = None,
    repetitions: int | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Fit a quadratic target by random features, by the tangent model and by the network. Defaults are the preset's.

    Args:
        dimension: of the inputs; the paper's figure has 450, from memory.
        sizes: units per dimension, ascending, between 0 and 1.
        repetitions: draws of the target and the first layer.
        preset: smoke, cpu or full.
        seed: of the draws.
    """
    check_options(dimension, sizes, repetitions)
    given = {
        "dimension": dimension,
        "sizes": None if sizes is None else tuple(sizes),
        "repetitions": repetitions,
        "features_tolerance": None if dimension is None else max(0.01, 3 / dimension),
    }
    settings = dataclasses.replace(PRESETS[preset], **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    return study(settings, seed)


def check_options(dimension: int | None, sizes: list[float] | None, repetitions: int | None) -> None:
    """Refuse values that cannot be run.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    if dimension is not None and dimension < 20:
        raise AnalysisError(
            f"--dimension (={dimension}) must be at least 20, the theory is of large ones: use 60 or 450."
        )
    if repetitions is not None and repetitions < 3:
        raise AnalysisError(f"--repetitions (={repetitions}) must be at least 3, to show a spread: use 5 or more.")
    if sizes is not None and (not sizes or sorted(set(sizes)) != sizes or not 0 < sizes[0] <= sizes[-1] < 1):
        raise AnalysisError(
            f"--sizes (={sizes}) must ascend between 0 and 1, units per dimension: from 1 on NT and NN fit all. "
            "Use [0.2,0.5,0.8]."
        )


def study(settings: LazySettings, seed: int) -> Outcome:
    """Fit, for every size, on several draws."""
    generator, d = np.random.default_rng(seed), settings.dimension
    counts = [max(1, round(size * d)) for size in settings.sizes]
    risks = np.empty((settings.repetitions, len(counts), 3))
    closed, tail, mean = (np.empty((settings.repetitions, len(counts))) for _ in range(3))
    taus = np.empty(settings.repetitions)
    jobs = [(r, place) for r in range(settings.repetitions) for place in range(len(counts))]
    b = np.empty((d, d))
    for r, place in steps(jobs, "fits"):
        if place == 0:
            b = target(d, generator)
            taus[r] = trace_share(b)
        units = counts[place]
        w = directions(units, d, generator)
        risks[r, place] = features_risk(b, w), tangent_risk(b, w), network_risk(b, w)
        closed[r, place] = tangent_limit(units / d, taus[r])
        mean[r, place] = tangent_mean(units, b)
        tail[r, place] = best_rank(units, b)
    return conclude(settings, np.array(counts) / d, risks, closed, mean, tail, taus)


def conclude(
    settings: LazySettings, sizes: Floats, risks: Floats, closed: Floats, mean: Floats, tail: Floats, taus: Floats
) -> Outcome:
    """Checks, table and figure. risks [draws, sizes, 3]; closed, mean and tail [draws, sizes]; taus [draws]."""
    rf, nt, nn = (risks[:, :, place] for place in range(3))
    deviation = nt - closed
    in_sd = float(np.max(np.abs(deviation.mean(0)) / deviation.std(0, ddof=1)))
    chance = nt - mean
    in_errors = float(np.max(np.abs(chance.mean(0)) / chance.std(0, ddof=1)) * math.sqrt(len(nt)))
    features = np.array([[features_limit(size, tau) for size in sizes] for tau in taus])
    features_off = float(np.abs((rf - features).mean(0)).max())
    checks = [
        Check(
            "NT: mean risk, distance from the limit in standard deviations",
            in_sd,
            None,
            3.0,
            "Ghorbani et al. 2019: (1 - rho)^2 (1 - tau) + (1 - rho) tau",
        ),
        Check("NT: distance from the limit, largest", float(np.abs(deviation.mean(0)).max()), None, 0.02, "the same"),
        Check("NT: from the exact mean, in standard errors", in_errors, None, 5.0, "chance, derived here", False),
        Check(
            "NN: distance from the best rank N, largest", float(np.abs(nn - tail).max()), None, 1e-4, "Eckart, Young"
        ),
        Check("NN less NT, largest", float((nn - nt).max()), None, 0.0, "figure 1: NN < NT in every draw"),
        Check("NT less RF, largest", float((nt - rf).max()), None, 0.0, "figure 1: NT < RF in every draw"),
        Check("RF: distance from its limit, largest", features_off, None, settings.features_tolerance, "derived here"),
    ]
    numbers = {
        "dimension d": settings.dimension,
        "draws": settings.repetitions,
        "tau": taus,
        "risk at the middle size": dict(zip(METHODS, risks[:, len(sizes) // 2].mean(0), strict=True)),
    }
    table: dict[str, Any] = {"N/d": sizes}
    for place, name in enumerate(METHODS):
        table |= {f"{name}: mean": risks[:, :, place].mean(0), f"{name}: sd": risks[:, :, place].std(0, ddof=1)}
    table |= {"NT: limit": closed.mean(0), "NT: exact mean": mean.mean(0), "NN: best rank N": tail.mean(0)}
    table |= {"RF: limit": features.mean(0)}
    return Outcome(numbers, checks, table, {"risk": picture(settings, sizes, risks, tail.mean(0), float(taus.mean()))})


def picture(settings: LazySettings, sizes: Floats, risks: Floats, tail: Floats, tau: float) -> Figure:
    """Risk over N/d for the three."""
    figure, (axes,) = panels()
    fine = np.linspace(0, 1, 200)
    theory_line(axes, fine, [features_limit(rho, tau) for rho in fine], "theory")
    theory_line(axes, fine, [tangent_limit(rho, tau) for rho in fine], "_")
    theory_line(axes, [0.0, *sizes, 1.0], [1.0, *tail, 0.0], "_")
    labels = ("random features", "neural tangent", "network, trained")
    for place, label in enumerate(labels):
        points(axes, sizes, risks[:, :, place].mean(0), label, place, risks[:, :, place].std(0, ddof=1))
    axes.set(xlabel="units per dimension, N / d", ylabel="risk / risk of a constant", xlim=(0, 1), ylim=(-0.02, 1.05))
    axes.set_title(f"quadratic target, d = {settings.dimension}, {settings.repetitions} draws: mean ± sd")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.72))
    return figure
