"""Least squares with more and more columns: simulated risk against the exact asymptotics of Hastie et al.

"HMRT": Hastie, Montanari, Rosset, Tibshirani 2022, "Surprises in high-dimensional ridgeless least squares
interpolation", Annals of Statistics 50(2).

The model is y = x beta + noise with x ~ N(0, I_p), |beta|^2 = r^2 = `signal`, noise of variance sigma^2 = `noise`.
Letters: n samples, p columns, gamma = p/n. A risk is the excess risk E|x (beta_hat - beta)|^2 = |beta_hat - beta|^2:
the noise of a test sample, sigma^2, is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.figures import GREY, OKABE_ITO, panels, points, theory_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


def ridgeless_risk(gamma: float, signal: float, noise: float) -> float:
    """Limit of the risk of minimum-norm least squares as n, p -> infinity with p/n -> gamma (HMRT, Theorem 1)."""
    if gamma == 1:
        return math.inf
    if gamma < 1:
        return noise * gamma / (1 - gamma)
    return signal * (1 - 1 / gamma) + noise / (gamma - 1)


def stieltjes(gamma: float, penalty: float) -> float:
    """m(-penalty), the Stieltjes transform of the Marchenko-Pastur law of ratio gamma (HMRT, equation 13)."""
    b = 1 - gamma + penalty
    return (math.sqrt(b * b + 4 * gamma * penalty) - b) / (2 * gamma * penalty)


def best_penalty(gamma: float, signal: float, noise: float) -> float:
    """The ridge penalty of least risk: gamma sigma^2 / r^2 (HMRT, Corollary 5), of |y - X b|^2 / n + penalty |b|^2."""
    return gamma * noise / signal


def best_ridge_risk(gamma: float, signal: float, noise: float) -> float:
    """Limit of the risk of ridge regression with `best_penalty`: sigma^2 gamma m(-penalty) (HMRT, Corollary 5)."""
    return noise * gamma * stieltjes(gamma, best_penalty(gamma, signal, noise))


def ridge(x: Floats, y: Floats, penalty: float) -> Floats:
    """The b [p] that minimises |y - x b|^2 / n + penalty |b|^2; for penalty 0, of all that do the shortest.

    x [n, p], y [n]. Works on the smaller of x x^T and x^T x; directions whose eigenvalue is below 1e-13 of the largest
    are left out.
    """
    n, p = x.shape
    wide = p > n
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = values > 1e-13 * values[-1]
    inverse = np.where(kept, 1 / np.where(kept, values + n * penalty, 1), 0)
    return x.T @ (vectors @ (inverse * (vectors.T @ y))) if wide else vectors @ (inverse * (vectors.T @ (x.T @ y)))


def simulated_risks(n: int, p: int, signal: float, noise: float, generator: np.random.Generator) -> tuple[float, float]:
    """Risk of ridgeless and of best ridge regression, on one draw of x, beta and the noise."""
    beta = generator.standard_normal(p)
    beta *= math.sqrt(signal) / np.linalg.norm(beta)
    x = generator.standard_normal((n, p))
    y = x @ beta + math.sqrt(noise) * generator.standard_normal(n)
    ridgeless, best = (ridge(x, y, penalty) for penalty in (0.0, best_penalty(p / n, signal, noise)))
    return float(np.sum((ridgeless - beta) ** 2)), float(np.sum((best - beta) ** 2))


@dataclass(frozen=True)
class LinearSettings:
    """What is simulated.

    Args:
        samples: n.
        repetitions: draws for each gamma.
        gammas: p/n.
        signal: r^2.
        noise: sigma^2.
    """

    samples: int
    repetitions: int
    gammas: tuple[float, ...]
    signal: float = 1.0
    noise: float = 0.25


GAMMAS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
PRESETS = {
    "smoke": LinearSettings(100, 60, (0.2, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)),
    "cpu": LinearSettings(400, 150, GAMMAS),
    "full": LinearSettings(1000, 100, GAMMAS),
}
PEAK = (0.85, 1.15)  # gammas between which the mean of few draws says little: its variance is infinite at 1


def study(settings: LinearSettings, seed: int) -> Outcome:
    """Simulate, and compare with the two closed forms."""
    generator = np.random.default_rng(seed)
    columns = [max(1, round(gamma * settings.samples)) for gamma in settings.gammas]
    gammas = [p / settings.samples for p in columns]
    drawn = np.array(
        [
            [
                simulated_risks(settings.samples, p, settings.signal, settings.noise, generator)
                for _ in range(settings.repetitions)
            ]
            for p in steps(columns, "columns")
        ]
    )  # [gamma, repetition, ridgeless or best ridge]
    mean, error = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / math.sqrt(settings.repetitions)
    median = np.median(drawn, axis=1)
    closed = [
        np.array([form(gamma, settings.signal, settings.noise) for gamma in gammas])
        for form in (ridgeless_risk, best_ridge_risk)
    ]
    away = np.array([not PEAK[0] < gamma < PEAK[1] for gamma in gammas])
    off = [np.abs(mean[:, 0] / closed[0] - 1)[away].max(), np.abs(mean[:, 1] / closed[1] - 1).max()]
    in_errors = [(np.abs(mean[:, k] - closed[k]) / error[:, k])[away].max() for k in (0, 1)]
    peak = int(np.argmax(median[:, 0]))

    table: dict[str, Sequence[float]] = {"p/n": gammas, "p": columns}
    for k, name in enumerate(("ridgeless", "best ridge")):
        table |= {
            f"{name}: theory": closed[k].tolist(),
            f"{name}: mean": mean[:, k].tolist(),
            f"{name}: standard error": error[:, k].tolist(),
            f"{name}: median": median[:, k].tolist(),
        }
    tolerance = 0.05 if settings.samples >= 400 else 0.15
    theory = "HMRT 2022, Theorem 1" + ("" if settings.samples >= 400 else f"; {settings.samples} samples only")
    checks = [
        Check(
            "ridgeless risk / theory, furthest from 1, p/n outside 0.85 to 1.15",
            1 + off[0],
            None,
            1 + tolerance,
            theory,
        ),
        Check(
            "best ridge risk / theory, furthest from 1, any p/n",
            1 + off[1],
            None,
            1 + tolerance,
            "HMRT 2022, Corollary 5",
        ),
        Check("ridgeless, distance from theory in standard errors, largest", in_errors[0], None, 4.0, "chance", False),
        Check("p/n of the largest median risk", gammas[peak], 1.0, 1.0, "the peak is where p = n"),
        Check(
            "best ridge risk / ridgeless risk, largest over p/n",
            float((mean[:, 1] / mean[:, 0]).max()),
            None,
            1.0,
            "ridge of the best penalty has no peak",
        ),
    ]
    numbers = {
        "samples": settings.samples,
        "repetitions": settings.repetitions,
        "signal r^2": settings.signal,
        "noise sigma^2": settings.noise,
        "largest deviation, ridgeless": off[0],
        "largest deviation, best ridge": off[1],
        "largest deviation in standard errors, ridgeless": in_errors[0],
        "largest deviation in standard errors, best ridge": in_errors[1],
    }
    return Outcome(numbers, checks, table, {"risk": picture(settings, gammas, mean, error, median)})


def picture(settings: LinearSettings, gammas: list[float], mean: Floats, error: Floats, median: Floats) -> Figure:
    """Risk over p/n: the two closed forms and the means of the draws; medians near the peak."""
    figure, (axes,) = panels(height=3.8)
    fine = np.concatenate([np.geomspace(min(gammas), 0.999, 300), [math.nan], np.geomspace(1.001, max(gammas), 300)])
    forms = (ridgeless_risk, best_ridge_risk)
    for k, (name, form, dashes) in enumerate(zip(("ridgeless", "best ridge"), forms, ("-", "--"), strict=True)):
        theory_line(
            axes, fine, [form(g, settings.signal, settings.noise) for g in fine], f"{name}: theory", linestyle=dashes
        )
        near = np.array([k == 0 and PEAK[0] < gamma < PEAK[1] for gamma in gammas])
        shown = f"{name}: mean of {settings.repetitions} draws ± standard error"
        points(axes, np.array(gammas)[~near], mean[~near, k], shown, series=k, spread=error[~near, k])
        if near.any():
            axes.plot(
                np.array(gammas)[near], median[near, k], "o", mfc="white", color=OKABE_ITO[k], label="median instead"
            )
    axes.axhline(settings.signal, color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate("risk of predicting 0", (max(gammas), settings.signal), ha="right", va="bottom", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="columns per sample, p / n", ylabel="excess risk, in units of |β|²")
    axes.set_ylim(0.02, max(60, 2 * float(median.max())))
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.9 * min(gammas), 1.1 * max(gammas))
    axes.legend(loc="lower right")
    return figure
