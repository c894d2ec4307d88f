"""Networks of growing width, and the kernel machine that they become.

Jacot, Gabriel, Hongler 2018, "Neural tangent kernel"; Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein, Pennington
2019, "Wide neural networks of any depth evolve as linear models under gradient descent". The network is

    f(x) = 1 / sqrt(m) sum_j a_j relu(<w_j, x> / sqrt(d)),

a_j and the entries of w_j from N(0, 1), both layers trained by full-batch gradient descent on |f(X) - y|^2 / 2. As m
grows, by the kernel K at the start and Theta in closed form (`arc_cosine`):

- |K - Theta| / |Theta| ~ m^-1/2: random weights, averaged;
- |W_t - W_0| / |W_0| ~ m^-1/2: the function needs a change of fixed size, and there are more weights to bring it about;
- |K_t - K| / |K|: at most m^-1/2 (Lee et al.), observed nearer to 1 / m;
- f less the network that is linear in its weights ~ m^-1/2.

Letters: E networks, n training points, d inputs, m units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.arc_cosine import kernels
from benchmarks.phenomena.figures import panels, points, theory_line
from benchmarks.phenomena.pixels import pixels
from benchmarks.phenomena.tangent_kernel import regression
from datamodules.digits import Digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
MEASURES = ("K - Theta", "kernel drift", "f - linearised", "change of weights")
ACCEPTED = ((-0.6, -0.4), (-1.1, -0.7), (-0.65, -0.4), (-0.6, -0.4))  # log-log slopes over the width


# -- networks ---------------------------------------------------------------------------------------------------------


@dataclass
class TwoLayers:
    """E networks of one width.

    Args:
        w: first layer. [E, d, m]
        a: second layer. [E, m, 1]
    """

    w: Tensor
    a: Tensor

    @classmethod
    def drawn(cls, networks: int, d: int, m: int, generator: torch.Generator) -> TwoLayers:
        """All weights from N(0, 1)."""
        return cls(torch.randn(networks, d, m, generator=generator), torch.randn(networks, m, 1, generator=generator))

    def units(self, x: Tensor) -> Tensor:
        """Pre-activations of x [n, d]: [E, n, m]"""
        return x @ self.w / math.sqrt(x.shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        """f(x) of each network. [n, d] -> [E, n]"""
        return (self.units(x).relu() @ self.a)[..., 0] / math.sqrt(self.a.shape[1])

    def kernel(self, x: Tensor, other: Tensor) -> Tensor:
        """K of x [n, d] and other [k, d], by hand: [E, n, k]

        With respect to a: <h, h'> / m; to w: <x, x'> / d times the units on in both, weighed with a^2 / m.
        """
        m, (z, z_other) = self.a.shape[1], (self.units(x), self.units(other))
        of_a = z.relu() @ z_other.relu().transpose(1, 2) / m
        on = (z > 0).to(z.dtype) * self.a.transpose(1, 2) ** 2
        return of_a + x @ other.T / x.shape[1] * (on @ (z_other > 0).to(z.dtype).transpose(1, 2)) / m

    def step(self, x: Tensor, y: Tensor, rate: float) -> None:
        """One step of gradient descent on |f(x) - y|^2 / 2. x [n, d], y [n]"""
        d, m, z = x.shape[1], self.a.shape[1], self.units(x)
        off = ((z.relu() @ self.a)[..., 0] / math.sqrt(m) - y)[..., None]  # [E, n, 1]
        below = off * (z > 0) * self.a.transpose(1, 2) / math.sqrt(m * d)
        slope_a = z.relu().transpose(1, 2) @ off / math.sqrt(m)
        self.w = self.w - rate * x.T @ below
        self.a = self.a - rate * slope_a

    def change(self, start: TwoLayers) -> Tensor:
        """|W - W_0| / |W_0| over all weights. [E]"""
        moved = (self.w - start.w).flatten(1).square().sum(1) + (self.a - start.a).flatten(1).square().sum(1)
        return (moved / (start.w.flatten(1).square().sum(1) + start.a.flatten(1).square().sum(1))).sqrt()


def linear_dynamics(
    train: Tensor, across: Tensor, start: Tensor, start_across: Tensor, y: Tensor, rate: float, count: int
) -> Tensor:
    """Predictions after `count` steps of a model that is linear in its weights, whose kernel stays as it is.

    train [..., n, n] and across [..., k, n] are its kernel, start [..., n] and start_across [..., k] its predictions
    before, y [n]. With f_t - y = (1 - rate K)^t (f_0 - y) on the training points, summed up, the others move by
    across K^+ (1 - (1 - rate K)^t) (y - f_0) (Lee et al. 2019, the solution of the linear dynamics, in discrete steps).
    In double precision. [..., k]
    """
    values, vectors = torch.linalg.eigh(train.double())
    shrunk = 1 - (1 - rate * values) ** count
    gain = torch.where(values > 1e-12 * values[..., -1:], shrunk / values, rate * count)
    in_basis = vectors.transpose(-1, -2) @ (y.double() - start.double())[..., None]
    return start_across.double() + (across.double() @ (vectors @ (gain[..., None] * in_basis)))[..., 0]


# -- the study --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WidthSettings:
    """What is trained.

    Args:
        widths: m, ascending.
        networks: E.
        points: n.
        steps: of gradient descent, of rate 1 / the largest eigenvalue of Theta.
    """

    widths: tuple[int, ...]
    networks: int
    points: int
    steps: int


PRESETS = {
    "smoke": WidthSettings((64, 256, 1024, 4096), 4, 32, 100),
    "cpu": WidthSettings((64, 128, 256, 512, 1024, 2048, 4096), 10, 64, 100),
    "full": WidthSettings((64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384), 20, 128, 400),
}


def parity(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Digits, odd (+1) or even (-1): `count` for training, all test images. x [n, 64], y [n], x [k, 64], y [k]

    Pixels from 0 to 1, as they are. What is centred is learnt sooner: less their mean over the training images and
    over one standard deviation, 100 steps gave f - linearised the slope -0.74 (10 networks of 7 widths, 64 digits).
    """
    data = Digits(batch_size=1)
    (x, labels), (test_x, test_labels) = pixels(data, "train", count, seed), pixels(data, "test")
    return x.flatten(1), 2.0 * (labels % 2) - 1, test_x.flatten(1), 2.0 * (test_labels % 2) - 1


@dataclass(frozen=True)
class Trained:
    """What was measured on networks of one width.

    Args:
        measures: MEASURES. [4, E]
        accuracy: on the test images. [E]
        accuracy_linear: of the linearised networks. [E]
        predictions: mean over networks on the test images. [k]
    """

    measures: Floats
    accuracy: Floats
    accuracy_linear: Floats
    predictions: Tensor


def measure(settings: WidthSettings, width: int, data: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> Trained:
    """Train networks of one width, and compare them with Theta, with themselves before, and linearised."""
    x, y, test_x, test_y = data
    theta, rate = theory(x)
    generator = torch.Generator().manual_seed(seed)
    network = TwoLayers.drawn(settings.networks, x.shape[1], width, generator)
    start = TwoLayers(network.w, network.a)
    before, across = start.kernel(x, x), start.kernel(test_x, x)
    linear = linear_dynamics(before, across, start(x), start(test_x), y, rate, settings.steps)
    for _ in range(settings.steps):
        network.step(x, y, rate)
    after, found = network.kernel(x, x), network(test_x).double()
    measures = (
        (before.double() - theta).flatten(1).norm(dim=1) / theta.norm(),
        (after - before).double().flatten(1).norm(dim=1) / before.double().flatten(1).norm(dim=1),
        (found - linear).square().mean(1).sqrt(),
        network.change(start).double(),
    )
    right = [(one.sign() == test_y).double().mean(1).numpy() for one in (found, linear)]
    return Trained(torch.stack(measures).numpy(), right[0], right[1], found.mean(0))


def theory(x: Tensor) -> tuple[Tensor, float]:
    """Theta of the training points [n, n], in double precision; the rate 1 / its largest eigenvalue."""
    theta = kernels(x.double(), x.double())[1]
    return theta, 1 / float(torch.linalg.eigvalsh(theta)[-1])


def study(settings: WidthSettings, seed: int) -> Outcome:
    """Train networks of every width."""
    data = parity(settings.points, seed)
    x, y, test_x, test_y = data
    found = {
        width: measure(settings, width, data, seed * 1000 + place)
        for place, width in enumerate(steps(settings.widths, "widths"))
    }
    theta, rate = theory(x)
    across = kernels(test_x.double(), x.double())[1]
    zero = torch.zeros(1)
    predicted = linear_dynamics(theta, across, zero.expand(len(x)), zero.expand(len(test_x)), y, rate, settings.steps)
    converged = regression(theta, across, y.double()[:, None], 0.0)[:, 0]
    accuracy = {name: float((one.sign() == test_y).double().mean()) for name, one in
                (("after so many steps", predicted), ("at the end", converged))}  # fmt: skip
    return conclude(settings, found, predicted, accuracy)


def slopes(widths: tuple[int, ...], values: Floats) -> Floats:
    """Log-log slope over the widths, of each network's row. values [W, E] -> [E]"""
    fitted: Floats = np.polyfit(np.log(widths), np.log(values), 1)[0]
    return fitted


def conclude(
    settings: WidthSettings, found: dict[int, Trained], predicted: Tensor, accuracy: dict[str, float]
) -> Outcome:
    """Checks, table and figure."""
    values = np.stack([one.measures for one in found.values()], 1)  # [4, W, E]
    fitted = {name: slopes(settings.widths, one) for name, one in zip(MEASURES, values, strict=True)}
    source = "Lee et al. 2019, figures of convergence with width (from memory)"
    checks = [
        Check(f"{name}: log-log slope over width", float(fitted[name].mean()), low, high, source)
        for name, (low, high) in zip(MEASURES, ACCEPTED, strict=True)
    ]
    widest = found[settings.widths[-1]]
    off = float((widest.predictions - predicted).square().mean().sqrt())
    by_chance = float(widest.accuracy.std(ddof=1))
    checks += [
        Check("widest networks, mean prediction less the kernel's, RMS", off, 0, 0.15, "Jacot et al. 2018: mean of f"),
        Check(
            "widest networks: accuracy less the kernel's, after as many steps",
            float(widest.accuracy.mean()) - accuracy["after so many steps"],
            -0.03,
            0.03,
            "Lee et al. 2019: they are the kernel machine",
        ),
    ]
    numbers: dict[str, Any] = {
        "points n": settings.points,
        "networks of each width": settings.networks,
        "steps": settings.steps,
        "slopes, mean over networks": {name: one.mean() for name, one in fitted.items()},
        "slopes, sd over networks": {name: one.std(ddof=1) for name, one in fitted.items()},
        "accuracy of Theta": accuracy,
        "accuracy of the widest networks": float(widest.accuracy.mean()),
        "its sd over networks": by_chance,
        "accuracy of the widest, linearised": float(widest.accuracy_linear.mean()),
    }
    table: dict[str, Any] = {"width": settings.widths}
    for place, name in enumerate(MEASURES):
        table |= {f"{name}: mean": values[place].mean(1), f"{name}: sd": values[place].std(1, ddof=1)}
    table["accuracy: mean"] = [one.accuracy.mean() for one in found.values()]
    table["accuracy: sd"] = [one.accuracy.std(ddof=1) for one in found.values()]
    return Outcome(numbers, checks, table, {"width": picture(settings, values, fitted)})


def picture(settings: WidthSettings, values: Floats, fitted: dict[str, Floats]) -> Figure:
    """The four measures over width, each with its fitted line. values [4, W, E]"""
    figure, axes = panels(1, 2, width=9.0, height=3.6)
    titles = ("at the start, and of the weights", "after training")
    widths = np.array(settings.widths)
    for place, name in enumerate(MEASURES):
        ax = axes[0] if name in ("K - Theta", "change of weights") else axes[1]
        mean, slope = values[place].mean(1), float(fitted[name].mean())
        line = np.exp(np.log(mean).mean() + slope * (np.log(widths) - np.log(widths).mean()))
        theory_line(ax, widths, line, "powers, fitted" if place in (0, 1) else "_")
        points(ax, widths, mean, f"{LABELS[name]}: slope {slope:.2f}", place, values[place].std(1, ddof=1))
    for ax, title in zip(axes, titles, strict=True):
        ax.set(xscale="log", yscale="log", xlabel="units, m", title=f"{title}")
        ax.legend()
    axes[0].set_ylabel("relative")
    figure.suptitle(
        f"{settings.networks} networks of each width, {settings.points} digits, {settings.steps} steps: mean ± sd",
        fontsize=9,
    )
    return figure


LABELS = {
    "K - Theta": "|K − Θ| / |Θ|",
    "kernel drift": "|K$_t$ − K| / |K|",
    "f - linearised": "f − linearised f, RMS",
    "change of weights": "|W$_t$ − W$_0$| / |W$_0$|",
}
