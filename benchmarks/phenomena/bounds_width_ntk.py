"""Bounds over the width in the NTK parametrisation, where layers of any width move about equally far from their start.

Layers are x -> Wx / sqrt(in), SGD trains W, whose entries begin as N(0, 1) (Jacot, Gabriel, Hongler 2018, "Neural
tangent kernel", section 2). As the width h grows, |U - U_0|_F and the spectral norm of V tend to constants, and so

- Bartlett 2017: |(U - U_0)^T|_{2,1} |V|_2 ~ sqrt(h) |U - U_0|_F |V|_2, if its rows are of about one length;
- Neyshabur 2018, from the start: sqrt(h) (|U - U_0|_F |V|_2 + |U|_2 |V - V_0|_F), the last product of a constant size

grow as the square root of the width; in the bounds ln(2h) and sqrt(ln(8h)) come on top. Below the number D of inputs
it is D that counts instead, in the largest side of a matrix and in the spectral norm of U, 1 + sqrt(h / D): widths are
above D here. At these the spectral norm of V still falls towards its limit, that of the initial weights, which takes
from the exponents about what the logarithms add.
"""

from __future__ import annotations

from benchmarks.phenomena.analysis import Check, Outcome
from benchmarks.phenomena.bounds_training import Fitting
from benchmarks.phenomena.bounds_width import (
    DISTANCES,
    Floats,
    WidthSettings,
    exponent,
    of_every_width,
    outcome,
    shared_checks,
)

HALF = ("Bartlett 2017", "Neyshabur 2018, from the start")  # as the square root of the width
FITTING = Fitting(rate=4.0, batch=64, parametrisation="ntk")

PRESETS = {
    "smoke": WidthSettings("digits", 600, (256, 1024, 4096), 2, FITTING),
    "cpu": WidthSettings("digits", 1000, (128, 512, 2048, 8192), 20, FITTING),
    "full": WidthSettings("mnist", 5000, (1024, 4096, 16384), 5, FITTING),
}


def study(settings: WidthSettings, seed: int) -> Outcome:
    """Train networks of every width, and compare the exponents of their bounds with 1/2."""
    seeds = list(range(seed, seed + settings.networks))
    found = of_every_width(settings, seeds)
    return outcome(settings, found, [*shared_checks(settings, found), *checks(found, settings.widths)], seeds)


def checks(found: dict[str, Floats], widths: tuple[int, ...]) -> list[Check]:
    """Exponents of the bounds, and of how far the layers moved. found: of every number [widths, networks]"""
    first, last = (exponent(widths, found[name]) for name in DISTANCES)
    return [
        *(Check(f"{name}: exponent of h", exponent(widths, found[name]), 0.4, 0.6, "sqrt(h)") for name in HALF),
        Check("spectral complexity: exponent of h", exponent(widths, found["spectral complexity"]), 0.4, 0.6,
              "Bartlett's without logarithm and 1/L, 1/2 is its limit", False),
        Check(f"{DISTANCES[0]}: exponent of h", first, -0.15, 0.15, "U moves about equally far at all widths", False),
        Check(f"{DISTANCES[1]}: exponent of h", last, -0.6, -0.4, "V = W / sqrt(h), whose W does", False),
    ]  # fmt: skip
