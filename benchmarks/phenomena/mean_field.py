"""The more units, the less chance: wide networks follow equations, in training and from layer to layer.

Two studies:

- `sgd`: the histogram of the units of a two-layer network during stochastic gradient descent, against the partial
  differential equation that it obeys for infinitely many. The task is isotropic, so that the equation is one in the
  length of a unit's weights; it is solved by particles, with kernels of the dimension at hand, because those of its
  Gaussian limit put the risk off by 0.04.
- `maps`: the length of a signal and the correlation of two on their way through a deep random network, against the
  maps of Poole et al. and, for ReLU, the arc-cosine kernel. The slope chi of the correlation map divides networks
  into those in which all signals become alike, and those in which they part; its size says how gradients shrink or
  grow. ReLU with He et al.'s weights has chi = 1. Its lengths spread from network to network more with every layer,
  by an amount that is known exactly, so that at least 50 networks are averaged.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from benchmarks.phenomena import radial_flow, signal_maps
from benchmarks.phenomena.analysis import AnalysisError, Outcome, Preset

PAPER = (
    "Mei, Montanari, Nguyen 2018 (PNAS 115); Poole et al. 2016, Exponential expressivity in deep neural networks "
    "through transient chaos; Schoenholz et al. 2017, Deep information propagation"
)
COST = "smoke seconds; cpu 2 to 4 minutes on one core; no data"
VARIANT = "study"

Study = Literal["sgd", "maps"]


def analyze(
    study: Study = "sgd",
    units: list[int] | None = None,
    networks: int | None = None,
    layers: int | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Compare networks with the equations of infinitely wide ones. Options that are not given are the preset's.

    Args:
        study: sgd or maps.
        units: of a hidden layer; for sgd two or more, ascending, of which the last but one is held to the equation.
        networks: drawn for each; for maps of ReLU at least 50 in any case.
        layers: of a network; for maps.
        preset: smoke, cpu or full.
        seed: of weights and samples.
    """
    check_options(study, units, networks, layers)
    if study == "maps":
        given = {"units": units[0] if units else None, "networks": networks, "layers": layers}
        given |= {"relu": None if networks is None else max(50, networks)}
        settings = dataclasses.replace(signal_maps.PRESETS[preset], **{k: v for k, v in given.items() if v is not None})
        return signal_maps.study(settings, seed)
    flow = radial_flow.PRESETS[preset]
    if units is not None:
        flow = dataclasses.replace(flow, units=tuple(units), networks=(3,) * len(units), checked=units[-2])
    if networks is not None:
        flow = dataclasses.replace(flow, networks=(networks,) * len(flow.units))
    return radial_flow.study(flow, seed)


def check_options(study: Study, units: list[int] | None, networks: int | None, layers: int | None) -> None:
    """Refuse values that cannot be run.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    if units is not None:
        if study == "maps" and len(units) != 1:
            raise AnalysisError(f"--units (={units}) must be one width for maps: use [1000].")
        if study == "sgd" and len(units) < 2:
            raise AnalysisError(f"--units (={units}) must be two widths or more, to see the trend: use [100,800].")
        if sorted(set(units)) != units or units[0] < 10:
            raise AnalysisError(f"--units (={units}) must ascend from 10 or more: use [100,800], or [1000] for maps.")
    if networks is not None and networks < 2:
        raise AnalysisError(f"--networks (={networks}) must be at least 2, to show a spread: use 3 or more.")
    if layers is not None and study != "maps":
        raise AnalysisError(f"--layers (={layers}) is for maps, sgd trains one hidden layer: leave it out.")
    if layers is not None and layers < 2:
        raise AnalysisError(f"--layers (={layers}) must be at least 2, there is a map from one to the next: use 15.")
