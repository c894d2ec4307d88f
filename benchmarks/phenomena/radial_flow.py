"""Stochastic gradient descent on a wide network, and the partial differential equation that its histogram follows.

"MMN": Mei, Montanari, Nguyen 2018, "A mean field view of the landscape of two-layer neural networks", PNAS 115(33),
figure 1 (its parameters here are from memory). Two classes, y = +1 or -1 with equal chance, x ~ N(0, (1 + y Delta)^2 I)
in d dimensions; N units, f(x) = (1/N) sum_i sigma(<w_i, x>), squared loss; sigma is -2.5 below 1/2, 7.5 above 3/2, and
linear between. One step of SGD with rate eps is time eps: w_i += 2 eps (y - f(x)) sigma'(<w_i, x>) x.

As N grows, the w_i are a cloud whose density rho_t(w) obeys a PDE. Everything is isotropic, so that
only the radius r = |w| matters, and each point of the cloud moves by

    dr/dt = 2 E[(y - f(s)) s Q'(r s)],    f(s) = E_r Q(r s),    Q(z) = E sigma(z u),

with s = |x|, (1 + y Delta) times a chi variable of d degrees, and u a coordinate of a point on the unit sphere in R^d.
Here Q is that of the d at hand, not its Gaussian limit: with the limit the risk is off by 0.04 at d = 40.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.special import betainc, gammaln
from scipy.stats import chi, wasserstein_distance
from torch import Tensor

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.figures import GREY, OKABE_ITO, panels, points, theory_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

LOW, HIGH, BEND, END = -2.5, 7.5, 0.5, 1.5  # sigma: its two values, and where it leaves one and reaches the other
SLOPE = (HIGH - LOW) / (END - BEND)


@dataclass(frozen=True)
class TwoBalls:
    """What is learnt.

    Args:
        dimension: d.
        delta: Delta; classes have the standard deviations 1 + Delta and 1 - Delta.
        start: variance of w_i at the start, times d.
    """

    dimension: int = 40
    delta: float = 0.8
    start: float = 0.64


# -- the equation -----------------------------------------------------------------------------------------------------


def activation(z: Tensor) -> Tensor:
    """sigma."""
    return LOW + SLOPE * (z.clamp(BEND, END) - BEND)


def tail(a: Floats, d: int) -> Floats:
    """P(u > a), a >= 0, for a coordinate u of a point on the unit sphere in R^d: u^2 is Beta(1/2, (d - 1)/2)."""
    return 0.5 * betainc((d - 1) / 2, 0.5, 1 - np.minimum(a, 1) ** 2)


def first_moment(a: Floats, d: int) -> Floats:
    """E[u; u > a]: u has the density c (1 - u^2)^((d - 3)/2), whose product with u integrates in closed form."""
    c = np.exp(gammaln(d / 2) - gammaln((d - 1) / 2)) / np.sqrt(np.pi)
    return c / (d - 1) * np.maximum(1 - a**2, 0) ** ((d - 1) / 2)


def response(z: Floats, d: int) -> tuple[Floats, Floats]:
    """Q(z) = E sigma(z u) and Q'(z) = E[u sigma'(z u)], for z > 0."""
    bend, end = BEND / z, END / z
    slope = SLOPE * (first_moment(bend, d) - first_moment(end, d))
    return LOW + z * slope - SLOPE * (BEND * tail(bend, d) - END * tail(end, d)), slope


@dataclass(frozen=True)
class Response:
    """Q and Q' read off a fine table, for speed.

    Args:
        z: ascending.
        value: Q there.
        slope: Q' there.
    """

    z: Floats
    value: Floats
    slope: Floats

    @classmethod
    def up_to(cls, largest: float, d: int) -> Response:
        """For z from 0 to `largest`."""
        z = np.linspace(1e-6, largest, 20_001)
        return cls(z, *response(z, d))

    def __call__(self, z: Floats) -> tuple[Floats, Floats]:
        """Q(z) and Q'(z)."""
        return np.interp(z, self.z, self.value), np.interp(z, self.z, self.slope)


def quantiles(count: int, d: int) -> Floats:
    """`count` points that stand for a chi variable of d degrees with equal weights. [count]"""
    return chi.ppf((np.arange(count) + 0.5) / count, d)


def flow(task: TwoBalls, times: Sequence[float], particles: int = 400, nodes: int = 100) -> tuple[Floats, Floats]:
    """Radii of the cloud at `times`, ascending [T, particles], and its risk E (y - f)^2 there [T].

    `particles` quantiles of the cloud, `nodes` quantiles of s in each class; integrated by Runge and Kutta's method of
    order 5 with a relative error of 1e-6 (`scipy.integrate.solve_ivp`).
    """
    d = task.dimension
    s = np.concatenate([(1 + task.delta) * quantiles(nodes, d), (1 - task.delta) * quantiles(nodes, d)])
    y = np.repeat([1.0, -1.0], nodes)
    q = Response.up_to(20 * float(s.max()), d)  # radii stay far below 20; beyond the table Q would be constant
    start = np.sqrt(task.start / d) * quantiles(particles, d)

    def residual(r: Floats) -> tuple[Floats, Floats]:
        value, slope = q(np.outer(r, s))
        return y - value.mean(0), slope

    def velocity(_: float, r: Floats) -> Floats:
        off, slope = residual(r)
        return 2 * slope @ (off * s) / len(s)

    found = solve_ivp(velocity, (0, max(times)), start, t_eval=list(times), rtol=1e-6, atol=1e-8)
    return found.y.T, np.array([np.mean(residual(r)[0] ** 2) for r in found.y.T])


# -- the network ------------------------------------------------------------------------------------------------------


def samples(task: TwoBalls, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x [*shape, d] and y [*shape]."""
    y = torch.randint(2, shape, generator=generator).float() * 2 - 1
    x = torch.randn(*shape, task.dimension, generator=generator)
    return x * (1 + task.delta * y)[..., None], y


def descend(
    task: TwoBalls, units: int, rate: float, batch: int, times: Sequence[float], networks: int, seed: int
) -> tuple[Floats, Floats]:
    """Radii of the units at `times` [T, networks, units], and risks on 10 000 fresh samples there [T, networks].

    `networks` networks at once, each with weights and samples of its own. Each time is rounded to a step of `rate`.
    """
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(networks, task.dimension, units, generator=generator) * (task.start / task.dimension) ** 0.5
    fresh, truth = samples(task, (10_000,), generator)
    marks = [round(time / rate) for time in times]
    radii, risks = [], []
    for step in steps(range(1, marks[-1] + 1), f"{units} units"):
        x, y = samples(task, (networks, batch), generator)
        z = x @ w
        off = y - activation(z).mean(2)
        inside = ((z > BEND) & (z < END)).to(z.dtype)
        w += (2 * rate * SLOPE / batch) * (off[:, :, None] * x).transpose(1, 2) @ inside
        if step in marks:
            radii.append(w.norm(dim=1).double().numpy())
            risks.append([float((truth - activation(fresh @ one).mean(1)).square().mean()) for one in w])
    return np.stack(radii), np.array(risks)


def distance(radii: Floats, cloud: Floats) -> float:
    """Wasserstein distance W1 of two samples of radii, divided by the mean of the second."""
    return float(wasserstein_distance(radii, cloud) / cloud.mean())


# -- the study --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlowSettings:
    """What is trained.

    Args:
        units: N, ascending; the checks are about the one in `checked`.
        networks: for each N.
        times: at which histograms are compared.
        rate: time of one step of SGD.
        batch: samples of a step.
        checked: the N whose distances are held to `distance` and `risk`.
        distance: largest W1 over the mean radius.
        risk: largest difference of the risks.
    """

    units: tuple[int, ...]
    networks: tuple[int, ...]
    times: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    rate: float = 2e-3
    batch: int = 100
    checked: int = 800
    distance: float = 0.02
    risk: float = 0.025


PRESETS = {
    "smoke": FlowSettings((50, 400), (4, 2), (0.5, 1.0, 2.0, 4.0), 4e-3, 100, 400, 0.03, 0.025),
    "cpu": FlowSettings((100, 800, 3200), (3, 3, 2)),
    "full": FlowSettings((100, 800, 3200, 12800), (10, 10, 10, 10), rate=1e-3, batch=200),
}


def study(settings: FlowSettings, seed: int) -> Outcome:
    """Train networks of every width, and compare them with the equation."""
    task = TwoBalls()
    cloud, risk = flow(task, settings.times)
    means = cloud.mean(1)
    distances, risks, radii = {}, {}, {}
    for units, networks in zip(settings.units, settings.networks, strict=True):
        r, found = descend(task, units, settings.rate, settings.batch, settings.times, networks, seed)
        pairs = zip(r, cloud, strict=True)
        distances[units] = np.array([[distance(one, theory) for one in at] for at, theory in pairs])
        risks[units], radii[units] = found, r
    few, many, checked = settings.units[0], settings.units[-1], settings.checked
    worst = {units: float(found.mean(1).max()) for units, found in distances.items()}
    off = {units: float(np.abs(found.mean(1) - risk).max()) for units, found in risks.items()}
    theory = "MMN 2018, figure 1: SGD against the PDE"
    checks = [
        Check(f"W1 of |w| over its mean, N = {checked}, largest", worst[checked], 0, settings.distance, theory),
        Check(f"risk: largest difference, N = {checked}", off[checked], 0, settings.risk, theory),
        Check(f"W1 at N = {many} over W1 at N = {few}", worst[many] / worst[few], None, 0.5, "MMN 2018: falls with N"),
        Check(f"risk's difference at N = {many} over N = {few}", off[many] / off[few], None, 0.5, "falls with N"),
        Check("risk falls, equation: end over start", float(risk[-1] / risk[0]), None, 0.95, "the task is learnt"),
    ]
    numbers = {
        "dimension d": task.dimension,
        "Delta": task.delta,
        "rate": settings.rate,
        "batch": settings.batch,
        "networks": dict(zip(map(str, settings.units), settings.networks, strict=True)),
        "largest W1 over the mean": {str(units): value for units, value in worst.items()},
        "largest difference of the risks": {str(units): value for units, value in off.items()},
    }
    table: dict[str, Any] = {"time": settings.times, "PDE: risk": risk, "PDE: mean |w|": means}
    for units in settings.units:
        for name, values in (("W1 / mean", distances[units]), ("risk", risks[units])):
            table[f"N = {units}: {name}"] = values.mean(1)
            table[f"N = {units}: {name}, sd"] = values.std(1, ddof=1)
    figures = {
        "histograms": draw_histograms(settings, radii[checked], cloud),
        "distances": draw_distances(settings, risk, distances, risks),
    }
    return Outcome(numbers, checks, table, figures)


def draw_histograms(settings: FlowSettings, radii: Floats, cloud: Floats) -> Figure:
    """|w| at some times: units of all networks as bars, the equation as a line.

    radii [T, E, N], cloud [T, particles]
    """
    shown = list(range(0, len(settings.times), 2))
    figure, axes = panels(1, len(shown), width=3.2 * len(shown), height=3.0)
    for ax, place in zip(axes, shown, strict=True):
        units, particles = radii[place].ravel(), cloud[place]
        low, high = min(units.min(), particles.min()), max(units.max(), particles.max())
        edges = np.linspace(low, high, 31)
        ax.hist(units, list(edges), density=True, color=OKABE_ITO[5], label=f"SGD, N = {settings.checked}")
        heights = np.histogram(particles, edges, density=True)[0]
        ax.stairs(heights, edges, color="black", linewidth=1.4, label="equation")
        ax.set(xlabel="|w|", title=f"t = {settings.times[place]:g}")
    axes[0].set_ylabel("density")
    axes[0].legend(loc="upper right", fontsize=7)
    return figure


def draw_distances(
    settings: FlowSettings, risk: Floats, distances: dict[int, Floats], risks: dict[int, Floats]
) -> Figure:
    """Risk and W1 over time."""
    figure, (left, right) = panels(1, 2, width=9.0, height=3.4)
    theory_line(left, settings.times, risk, "equation")
    for series, units in enumerate(settings.units):
        for ax, found in ((left, risks[units]), (right, 100 * distances[units])):
            label = f"N = {units}, {found.shape[1]} networks"
            points(ax, settings.times, found.mean(1), label, series, found.std(1, ddof=1), line=ax is right)
    right.axhline(100 * settings.distance, color=GREY, linestyle="--", linewidth=0.9)
    for ax, name in ((left, "risk"), (right, "W₁ of |w| from the equation, % of its mean")):
        ax.set(xscale="log", xlabel="time = rate × steps", ylabel=name, ylim=(0, None))
        ax.set_xticks(settings.times, [f"{time:g}" for time in settings.times])
        ax.set_xticks([], minor=True)
    left.legend()
    return figure
