"""Length and angle of signals on their way through a random network, layer by layer, against mean-field maps.

Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli 2016, "Exponential expressivity in deep neural networks through transient
chaos"; Schoenholz, Gilmer, Ganguli, Sohl-Dickstein 2017, "Deep information propagation". z_l = W_l phi(z_(l-1)) + b_l,
entries of W_l from N(0, weight / N), of b_l from N(0, bias), N units in each layer. q_l = |z_l|^2 / N and c_l, the
correlation of two signals, follow for N -> infinity

    q' = weight E phi(sqrt(q) z)^2 + bias,
    c' = (weight E phi(sqrt(q) z) phi(sqrt(q) (c z + sqrt(1 - c^2) z')) + bias) / q',

z and z' from N(0, 1). chi = weight E phi'(sqrt(q) z)^2 is the slope of the second map at c = 1: below 1 signals become
alike (order), above 1 they part (chaos), and gradients shrink or grow by chi a layer.

Expectations for tanh are sums over Gauss and Hermite's nodes. Those would be wrong for ReLU, whose kink they miss (201
nodes give chi = 0.912 for 1): its maps are the arc-cosine kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.arc_cosine import kappa1
from benchmarks.phenomena.figures import GREY, panels, points, theory_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(101)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True)
class Network:
    """A random network.

    Args:
        name: on the figure.
        activation: tanh or relu.
        weight: variance of a weight times the units of a layer.
        bias: variance of a bias.
    """

    name: str
    activation: Literal["tanh", "relu"]
    weight: float
    bias: float


# -- maps -------------------------------------------------------------------------------------------------------------


def length_map(network: Network, q: float) -> float:
    """q' of q."""
    if network.activation == "relu":
        return network.weight * q / 2 + network.bias
    return network.weight * float(WEIGHTS @ np.tanh(math.sqrt(q) * NODES) ** 2) + network.bias


def correlation_map(network: Network, q: float, c: float) -> float:
    """c' of c, for two signals of length q."""
    if network.activation == "relu":
        inner = q * float(kappa1(torch.tensor(c, dtype=torch.float64))) / 2
    else:
        first = math.sqrt(q) * NODES
        second = math.sqrt(q) * (c * NODES[:, None] + math.sqrt(max(0.0, 1 - c * c)) * NODES)
        inner = float(WEIGHTS @ (np.tanh(first)[:, None] * np.tanh(second)) @ WEIGHTS)
    return (network.weight * inner + network.bias) / length_map(network, q)


def slope(network: Network, q: float) -> float:
    """chi at length q."""
    if network.activation == "relu":
        return network.weight / 2
    return network.weight * float(WEIGHTS @ (1 - np.tanh(math.sqrt(q) * NODES) ** 2) ** 2)


def fixed_length(network: Network) -> float:
    """q* = q'(q*), by iteration; a tanh network has one that is stable. 1 for ReLU, whose `length_map` is linear."""
    q = 1.0
    for _ in range(10_000 if network.activation == "tanh" else 0):
        q = length_map(network, q)
    return q


def predicted(network: Network, q: float, c: float, layers: int) -> tuple[Floats, Floats]:
    """q_l and c_l for l = 0 to `layers`, from q and c on. [layers + 1] each"""
    lengths, correlations = [q], [c]
    for _ in range(layers):
        c = correlation_map(network, q, c)
        q = length_map(network, q)
        lengths.append(q)
        correlations.append(c)
    return np.array(lengths), np.array(correlations)


def relu_spread(units: int, layers: int) -> Floats:
    """Standard deviation over networks of q_l / q_0, l = 0 to `layers`, for He et al.'s ReLU without biases; exact.

    z_0 is Gaussian of variance v_0. Given z_(l-1), z_l is Gaussian of variance v_l = 2 / N sum relu(z_(l-1))^2. Twice a
    relu^2 has the mean 1 and the mean square 6 in units of v_(l-1), so that E v_l^2 = (1 + 5 / N) E v_(l-1)^2; and q_l
    is v_l times a chi-square variable over N, whose mean square is 1 + 2 / N.
    """
    return np.sqrt((1 + 5 / units) ** np.arange(layers + 1) * (1 + 2 / units) - 1)


# -- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signals:
    """What random networks did to signals; layer 0 is what went in. Letters: E networks, L layers, G groups of signals.

    Args:
        lengths: q_l. [E, L + 1, lengths that went in, G]
        correlations: c_l of pairs of one length, means over G. [E, L + 1, correlations that went in]
        slopes: weight times the mean of phi'^2 over a layer and G, which estimates chi. [E, L + 1]
    """

    lengths: Floats
    correlations: Floats
    slopes: Floats


def propagate(
    network: Network,
    size: tuple[int, int, int],
    lengths: Sequence[float],
    correlations: Sequence[float],
    length: float,
    seed: int,
    groups: int = 8,
) -> Signals:
    """Send signals of `lengths`, and pairs of `correlations` whose length is `length`, through random networks.

    `size`: networks, layers, units a layer. Signals are Gaussian and, as weights, drawn anew for each network; several
    groups of them share one, whose weights are what takes the time. Single precision: a correlation is good to 1e-6.
    """
    networks, layers, units = size
    generator = torch.Generator().manual_seed(seed)
    sizes, c = (torch.tensor(list(values))[:, None] for values in (lengths, correlations))
    found = []
    for _ in steps(range(networks), network.name):
        singles = sizes.sqrt() * torch.randn(units, len(sizes), groups, generator=generator)
        first = torch.randn(units, 1, groups, generator=generator)
        others = torch.randn(units, len(c), groups, generator=generator)
        pairs = math.sqrt(length) * torch.cat([first, c * first + (1 - c**2).sqrt() * others], 1)
        z = torch.cat([singles, pairs], 1)
        measured = [measure(network, z, len(sizes))]
        for _ in range(layers):
            w = torch.randn(units, units, generator=generator) * math.sqrt(network.weight / units)
            b = torch.randn(units, 1, generator=generator) * math.sqrt(network.bias)
            h = z.tanh() if network.activation == "tanh" else z.relu()
            z = (w @ h.flatten(1) + b).view_as(z)
            measured.append(measure(network, z, len(sizes)))
        found.append(measured)
    stacked = [np.array([[layer[place] for layer in one] for one in found]) for place in range(3)]
    return Signals(*stacked)


def measure(network: Network, z: Tensor, singles: int) -> tuple[Floats, Floats, float]:
    """Of z [N, columns, G]: q of the first `singles` columns, c of the next with each after it, chi at the next."""
    q = z[:, :singles].square().mean(0)
    first, others = z[:, singles : singles + 1], z[:, singles + 1 :]
    c = (first * others).sum(0) / (first.norm(dim=0) * others.norm(dim=0))
    derivative = 1 - first.tanh() ** 2 if network.activation == "tanh" else (first > 0).to(z.dtype)
    chi = network.weight * float(derivative.square().mean())
    return q.double().numpy(), c.mean(1).double().numpy(), chi


# -- the study --------------------------------------------------------------------------------------------------------

ORDER = Network("tanh, order", "tanh", 1.3**2, 0.3**2)
CHAOS = Network("tanh, chaos", "tanh", 2.5**2, 0.3**2)
RELU = Network("ReLU, He et al.'s", "relu", 2.0, 0.0)
LENGTHS = (0.3, 3.0)
CORRELATIONS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class MapSettings:
    """What is drawn.

    Args:
        units: N.
        layers: of each network.
        networks: tanh networks of each kind.
        relu: ReLU networks; their lengths spread, so that 50 are the least.
    """

    units: int
    layers: int
    networks: int
    relu: int


PRESETS = {
    "smoke": MapSettings(400, 6, 20, 60),
    "cpu": MapSettings(1000, 15, 20, 100),
    "full": MapSettings(4000, 30, 50, 200),
}


def study(settings: MapSettings, seed: int) -> Outcome:
    """Send signals through networks of three kinds, and compare with the maps."""
    table: dict[str, Any] = {"layer": list(range(settings.layers + 1))}
    checks: list[Check] = []
    numbers: dict[str, Any] = {}
    found: dict[Network, Signals] = {}
    for network in (ORDER, CHAOS, RELU):
        count = settings.relu if network.activation == "relu" else settings.networks
        q, size = fixed_length(network), (count, settings.layers, settings.units)
        signals = propagate(network, size, LENGTHS, CORRELATIONS, q, seed)
        found[network] = signals
        in_length, in_correlation = distances(network, signals, q, table)
        spread = signals.lengths.std((0, 3), ddof=1)[-1] / signals.lengths.mean((0, 3))[-1]
        numbers[network.name] = {
            "weight variance x N": network.weight,
            "bias variance": network.bias,
            "networks": count,
            "fixed length": None if network.activation == "relu" else q,
            "chi": slope(network, q),
            "chi, measured": float(signals.slopes[:, 1:].mean()),
            "length / map, furthest from 1": 1 + in_length,
            "sd over networks of the last length / its mean": spread,
            "correlation: distance from the map, largest": in_correlation,
        }
        checks += network_checks(network, signals, settings, in_length, in_correlation)
    numbers |= {"units": settings.units, "layers": settings.layers, "groups of signals in a network": 8}
    return Outcome(numbers, checks, table, {"maps": draw(settings, found)})


def distances(network: Network, signals: Signals, q: float, table: dict[str, Any]) -> tuple[float, float]:
    """Largest distance of the mean over networks from the maps: of q, relative; of c. Adds columns to `table`."""
    layers = signals.slopes.shape[1] - 1
    in_length, in_correlation = [], []
    for place, start in enumerate(LENGTHS):
        theory, mean = predicted(network, start, 0.0, layers)[0], signals.lengths[:, :, place].mean((0, 2))
        in_length.append(np.abs(mean / theory - 1).max())
        table |= {f"{network.name}: q from {start}": mean, f"{network.name}: q from {start}, map": theory}
    for place, start in enumerate(CORRELATIONS):
        theory, mean = predicted(network, q, start, layers)[1], signals.correlations[:, :, place].mean(0)
        in_correlation.append(np.abs(mean - theory).max())
        table |= {f"{network.name}: c from {start}": mean, f"{network.name}: c from {start}, map": theory}
    return float(max(in_length)), float(max(in_correlation))


def network_checks(
    network: Network, signals: Signals, settings: MapSettings, in_length: float, in_correlation: float
) -> list[Check]:
    """What must be true of one kind of network."""
    chi, measured = slope(network, fixed_length(network)), float(signals.slopes[:, 1:].mean())
    slopes = Check(f"{network.name}: chi, measured / theory", measured / chi, 0.97, 1.03, "Poole et al. 2016, chi_1")
    if network.activation == "relu":
        expected = relu_spread(settings.units, settings.layers)
        off = np.abs(signals.lengths.mean((0, 3)) / np.array(LENGTHS) - 1).max(1)
        in_errors = float((off / expected).max() * math.sqrt(len(signals.slopes)))
        spread = float(signals.lengths[:, -1, 0].std(ddof=1) / signals.lengths[:, -1, 0].mean() / expected[-1])
        return [
            Check(f"{network.name}: c, distance from arc-cosine", in_correlation, 0, 0.01, "Cho, Saul 2009"),
            Check(f"{network.name}: q, distance in standard errors", in_errors, 0, 4, "exact spread, derived here"),
            Check(f"{network.name}: spread of the last q / exact", spread, 0.7, 1.3, "derived here"),
            slopes,
        ]
    kind = Check("tanh, order: chi", measured, None, 1.0, "below 1: signals become alike")
    if network is CHAOS:
        kind = Check("tanh, chaos: chi", measured, 1.0, None, "above 1: signals part")
    return [
        Check(
            f"{network.name}: q / map, furthest from 1", 1 + in_length, None, 1.05, "Poole et al. 2016, the length map"
        ),
        Check(
            f"{network.name}: c, distance from the map",
            in_correlation,
            0,
            0.05,
            "Poole et al. 2016, the correlation map",
        ),
        slopes,
        kind,
    ]


def draw(settings: MapSettings, found: dict[Network, Signals]) -> Figure:
    """q above and c below, over layers, for each kind of network."""
    figure, axes = panels(2, len(found), width=10.0, height=5.4)
    layers = np.arange(settings.layers + 1)
    for column, (network, signals) in enumerate(found.items()):
        above, below = axes[column], axes[len(found) + column]
        q = fixed_length(network)
        for place, start in enumerate(LENGTHS):
            theory_line(above, layers, predicted(network, start, 0.0, settings.layers)[0], "map" if not place else "_")
            one = signals.lengths[:, :, place]
            points(above, layers, one.mean((0, 2)), f"from {start}", place, one.std((0, 2), ddof=1))
        for place, start in enumerate(CORRELATIONS):
            theory_line(below, layers, predicted(network, q, start, settings.layers)[1], "map" if not place else "_")
            one = signals.correlations[:, :, place]
            points(below, layers, one.mean(0), f"from {start}", place, one.std(0, ddof=1))
        above.set(ylim=(0, None))
        above.set_title(f"{network.name}, χ = {slope(network, q):.3f}, {len(signals.slopes)} networks")
        below.set(xlabel="layer", ylim=(-0.05, 1.05))
        below.axhline(0, color=GREY, linewidth=0.6)
        above.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        height = {ORDER: 1.0, CHAOS: 0.35, RELU: 0.45}[network]  # where nothing else is
        above.legend(loc="upper right", bbox_to_anchor=(1, height))
    axes[0].set_ylabel("length q")
    axes[len(found)].set_ylabel("correlation c")
    axes[-1].legend(loc="lower right")
    return figure
