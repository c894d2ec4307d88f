"""Ridge regression on random ReLU features: simulated risk against the exact asymptotics of Mei and Montanari.

"MM": Mei, Montanari 2022, "The generalization error of random features regression: precise asymptotics and the double
descent curve", Communications on Pure and Applied Mathematics 75(4).

x is uniform on the sphere of radius sqrt(d) in R^d, y = <beta, x> + noise, |beta|^2 = F1^2 = `signal`, noise of
variance tau^2 = `noise`. The network is f(x) = sum_j a_j relu(<theta_j, x> / sqrt(d)), theta_j uniform on the same
sphere, and only a is fitted: it minimises |y - f(X)|^2 / n + (N lambda / d) |a|^2. Letters: n samples, N features,
psi1 = N/d, psi2 = n/d. A risk is E (f(x) - <beta, x>)^2, without the noise of a test sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.optimize import brentq

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.figures import panels, points, theory_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

MU_1 = 0.5  # E G relu(G), G ~ N(0, 1)
MU_STAR = math.sqrt(0.25 - 0.5 / math.pi)  # (E relu(G)^2 - (E relu(G))^2 - MU_1^2)^(1/2)
ZETA = MU_1 / MU_STAR


def chi(psi1: float, psi2: float, penalty: float, zeta: float = ZETA) -> float:
    """chi = nu1 nu2 of MM, Definition 1, at the penalty lambda / mu_*^2.

    The equations there are nu1 = psi1 / (-xi - nu2 - zeta^2 nu2 / (1 - zeta^2 nu1 nu2)), and the same with 1 and 2
    exchanged, at xi = i sqrt(psi1 psi2 penalty). Multiplied out, with q = -chi > 0 and g = q + zeta^2 q / (1 +
    zeta^2 q), they say psi1 psi2 penalty q = (psi1 - g)(psi2 - g) with g below psi1 and psi2: one side rises in q, the
    other falls, so that there is one root and nothing to iterate.
    """

    def g(q: float) -> float:
        return q + zeta**2 * q / (1 + zeta**2 * q)

    def fault(q: float) -> float:
        return (psi1 - g(q)) * (psi2 - g(q)) - psi1 * psi2 * penalty * q

    psi = min(psi1, psi2)
    b = 1 + zeta**2 - psi * zeta**2
    at_no_penalty = (math.sqrt(b * b + 4 * psi * zeta**2) - b) / (2 * zeta**2)  # where g = psi, MM, equation (19)
    return -float(brentq(fault, 0.0, at_no_penalty, xtol=1e-15, rtol=1e-14)) if penalty else -at_no_penalty


def risk(psi1: float, psi2: float, penalty: float, signal: float, noise: float, zeta: float = ZETA) -> float:
    """Limit of the risk as n, N, d -> infinity (MM, Theorem 2), for a target that is linear.

    `penalty` is lambda; it is divided by mu_*^2 here, as the theorem wants it.
    """
    bias, variance = bias_and_variance(psi1, psi2, penalty / MU_STAR**2, zeta)
    return signal * bias + noise * variance


def bias_and_variance(psi1: float, psi2: float, penalty: float, zeta: float) -> tuple[float, float]:
    """E1/E0 and E2/E0 of MM, Definition 1, equations (15) to (18)."""
    x = chi(psi1, psi2, penalty, zeta)
    z2, z4, z6 = zeta**2, zeta**4, zeta**6
    e0 = (
        -(x**5) * z6
        + 3 * x**4 * z4
        + (psi1 * psi2 - psi2 - psi1 + 1) * x**3 * z6
        - 2 * x**3 * z4
        - 3 * x**3 * z2
        + (psi1 + psi2 - 3 * psi1 * psi2 + 1) * x**2 * z4
        + 2 * x**2 * z2
        + x**2
        + 3 * psi1 * psi2 * x * z2
        - psi1 * psi2
    )
    e1 = psi2 * x**3 * z4 - psi2 * x**2 * z2 + psi1 * psi2 * x * z2 - psi1 * psi2
    e2 = (
        x**5 * z6
        - 3 * x**4 * z4
        + (psi1 - 1) * x**3 * z6
        + 2 * x**3 * z4
        + 3 * x**3 * z2
        + (-psi1 - 1) * x**2 * z4
        - 2 * x**2 * z2
        - x**2
    )
    return e1 / e0, e2 / e0


def sphere(count: int, d: int, generator: np.random.Generator) -> Floats:
    """`count` points, uniform on the sphere of radius sqrt(d). [count, d]"""
    x = generator.standard_normal((count, d))
    return x * (math.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True))


def features(x: Floats, theta: Floats) -> Floats:
    """relu(<theta_j, x_i> / sqrt(d)). x [n, d], theta [N, d] -> [n, N]"""
    return np.maximum(x @ theta.T / math.sqrt(x.shape[1]), 0)


def fit(z: Floats, y: Floats, penalty: float, d: int) -> Floats:
    """The a [N] that minimises |y - z a|^2 / n + (N penalty / d) |a|^2. z [n, N], y [n]; penalty > 0."""
    n, count = z.shape
    shift = n * count * penalty / d
    if count > n:
        return z.T @ solve(z @ z.T + shift * np.eye(n), y, assume_a="pos")
    return solve(z.T @ z + shift * np.eye(count), z.T @ y, assume_a="pos")


def simulated_risk(settings: RandomFeatureSettings, count: int, generator: np.random.Generator) -> float:
    """Risk on one draw of samples, noise, beta and `count` features, measured on fresh points."""
    d = settings.dimension
    beta = sphere(1, d, generator)[0] * math.sqrt(settings.signal / d)
    theta = sphere(count, d, generator)
    x = sphere(settings.samples, d, generator)
    y = x @ beta + math.sqrt(settings.noise) * generator.standard_normal(settings.samples)
    a = fit(features(x, theta), y, settings.penalty, d)
    fresh = sphere(settings.test, d, generator)
    return float(np.mean((features(fresh, theta) @ a - fresh @ beta) ** 2))


@dataclass(frozen=True)
class RandomFeatureSettings:
    """What is simulated.

    Args:
        dimension: d.
        samples: n.
        repetitions: draws for each N.
        ratios: N/n.
        test: fresh points that the risk is measured on.
        penalty: lambda.
        signal: F1^2.
        noise: tau^2.
    """

    dimension: int
    samples: int
    repetitions: int
    ratios: tuple[float, ...]
    test: int = 2000
    penalty: float = 1e-3
    signal: float = 1.0
    noise: float = 0.25


RATIOS = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0, 7 / 6, 4 / 3, 2.0, 10 / 3, 20 / 3)
PRESETS = {
    "smoke": RandomFeatureSettings(100, 300, 10, (1 / 3, 2 / 3, 1.0, 4 / 3, 2.0, 10 / 3)),
    "cpu": RandomFeatureSettings(200, 600, 40, RATIOS),
    "full": RandomFeatureSettings(500, 1500, 40, RATIOS),
}


def study(settings: RandomFeatureSettings, seed: int) -> Outcome:
    """Simulate, and compare with the formula."""
    generator = np.random.default_rng(seed)
    counts = [max(1, round(ratio * settings.samples)) for ratio in settings.ratios]
    ratios = np.array(counts) / settings.samples
    drawn = np.array(
        [
            [simulated_risk(settings, count, generator) for _ in range(settings.repetitions)]
            for count in steps(counts, "features")
        ]
    )
    mean, error = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / math.sqrt(settings.repetitions)
    closed = np.array([closed_form(settings, ratio) for ratio in ratios])
    off, in_errors = np.abs(mean / closed - 1), np.abs(mean - closed) / error
    peak, at = int(np.argmax(mean)), float(ratios[int(np.argmax(mean))])
    tolerance = 0.06 if settings.dimension >= 200 else 0.15
    theory = "MM 2022, Theorem 2" + ("" if settings.dimension >= 200 else f"; dimension {settings.dimension} only")
    checks = [
        Check("risk / theory, furthest from 1", 1 + off.max(), None, 1 + tolerance, theory),
        Check("distance from theory in standard errors, largest", in_errors.max(), None, 4.0, "chance", False),
        Check("N/n of the largest risk", at, 0.8, 1.2, "the peak is where N = n"),
        Check(
            "risk at the most features / smallest risk at N < n",
            float(mean[-1] / mean[ratios < 1].min()),
            None,
            1.0,
            "MM 2022, figure 1: the second descent goes lower",
        ),
    ]
    numbers = {
        "dimension d": settings.dimension,
        "samples n": settings.samples,
        "repetitions": settings.repetitions,
        "penalty lambda": settings.penalty,
        "signal F1^2": settings.signal,
        "noise tau^2": settings.noise,
        "largest deviation": off.max(),
        "largest deviation in standard errors": in_errors.max(),
        "largest risk": mean[peak],
    }
    table = {"N/n": ratios, "N": counts, "theory": closed, "mean": mean, "standard error": error}
    return Outcome(numbers, checks, table, {"risk": picture(settings, ratios, mean, error)})


def closed_form(settings: RandomFeatureSettings, ratio: float) -> float:
    """`risk` at N/n = ratio."""
    psi2 = settings.samples / settings.dimension
    return risk(ratio * psi2, psi2, settings.penalty, settings.signal, settings.noise)


def picture(settings: RandomFeatureSettings, ratios: Floats, mean: Floats, error: Floats) -> Figure:
    """Risk over N/n."""
    figure, (axes,) = panels()
    fine = np.geomspace(ratios.min(), ratios.max(), 400)
    theory_line(axes, fine, [closed_form(settings, ratio) for ratio in fine], "theory (d → ∞)")
    label = f"d = {settings.dimension}, n = {settings.samples}: mean of {settings.repetitions} draws ± standard error"
    points(axes, ratios, mean, label, spread=error)
    axes.set(
        xscale="log", xlabel="random ReLU features per sample, N / n", ylabel="risk, in units of |β|²", ylim=(0, None)
    )
    axes.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    axes.set_xticks([], minor=True)
    axes.legend(loc="lower left")
    return figure
