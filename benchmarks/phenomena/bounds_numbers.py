"""Every bound and measure of one network by name, what kind of number it is, and with which constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from benchmarks.phenomena import capacity
from benchmarks.phenomena.capacity import LayerNorms, Sample
from benchmarks.phenomena.weight_chain import Stage, Travelled, chain, norms_of, path_norm, travel


@dataclass(frozen=True)
class Kind:
    """What a number is.

    Args:
        kind: a `bound` holds with probability 1 - delta, a `measure` is only what bounds grow with.
        constants: which constants and logarithms it has, or that it has none.
    """

    kind: Literal["bound", "measure"]
    constants: str


NUMBERS = {
    "Bartlett 2017": Kind("bound", "Lemma A.8: 144 ln(n) ln(2W), W the largest side of a matrix; delta = 0.01"),
    "Bartlett 2017, from 0": Kind("bound", "the same with M = 0 in place of the initial weights"),
    "Neyshabur 2018": Kind("bound", "Theorem 1: 4 sqrt(KL / n), KL with 16 e^2 L^2 h ln(4Lh); delta = 0.01"),
    "Neyshabur 2018, from the start": Kind("bound", "the same with |A - M|_F, M the initial weights, in KL"),
    "Neyshabur 2015": Kind("bound", "2^(L+1) sqrt(C), Frobenius norms; delta = 0.01"),
    "Bartlett-Mendelson 2002": Kind("bound", "2^(L+1) C sqrt(2 ln(2D)), largest l1 norm of a row; delta = 0.01"),
    "Neyshabur 2019": Kind("bound", "Theorem 2: 3 sqrt(2) (sqrt(2C) + 1), and 3 sqrt(5h/n); delta = 0.01"),
    "Neyshabur 2019, first term": Kind("measure", "3 sqrt(2) (sqrt(2C) + 1), without 3 sqrt(5h/n)"),
    "Arora 2018": Kind("measure", "layer cushions; no constants, logarithms or interlayer cushions"),
    "spectral complexity": Kind("measure", "Bartlett's R_A |X| / (gamma n), no constants"),
    "path norm": Kind("measure", "l2 path norm / (gamma sqrt(n)), no constants"),
    "parameters / n": Kind("measure", "no constants"),
}
BOUNDS = tuple(name for name, one in NUMBERS.items() if one.kind == "bound")


@dataclass(frozen=True)
class Capacity:
    """A network's numbers.

    Args:
        values: by the names of `NUMBERS`; a bound whose theorem is not about such networks is not there.
        layers: norms of its layers.
        travelled: what they did to images; None where they are no chain.
        complexity: R_A; NaN where they are no chain.
    """

    values: dict[str, float]
    layers: list[LayerNorms]
    travelled: Travelled | None
    complexity: float

    @property
    def distance(self) -> float:
        """|w - w_0| over all weights, each entry of a matrix counted."""
        return sum(layer.from_start**2 for layer in self.layers) ** 0.5


def capacity_of(stages: list[Stage], sample: Sample, batches: Sequence[Tensor], parameters: int) -> Capacity:
    """All numbers of a chain. `batches` of images [B, ...] that travel; `parameters` of the network."""
    layers = norms_of(stages)
    travelled = travel(stages, layers, list(batches))
    complexity = capacity.spectral_complexity(layers)
    initial = travelled.initial_squares * sample.images
    found = {
        "Bartlett 2017": capacity.bartlett_2017(layers, sample),
        "Bartlett 2017, from 0": capacity.bartlett_2017(capacity.from_zero(layers), sample),
        "Neyshabur 2018": capacity.neyshabur_2018(layers, sample),
        "Neyshabur 2018, from the start": capacity.neyshabur_2018_from_start(layers, sample),
        "Neyshabur 2015": capacity.neyshabur_2015(layers, sample),
        "Bartlett-Mendelson 2002": capacity.bartlett_mendelson_2002(layers, sample),
        "Neyshabur 2019": capacity.neyshabur_2019(layers, sample, initial),
        "Neyshabur 2019, first term": capacity.neyshabur_2019_leading(layers, sample, initial),
        "Arora 2018": capacity.cushion_measure(
            travelled.cushions, travelled.contraction, travelled.largest_logits, sample
        ),
        "spectral complexity": complexity * sample.squares**0.5 / (sample.margin * sample.images),
        "path norm": capacity.per_margin(path_norm(stages), sample),
        "parameters / n": parameters / sample.images,
    }
    return Capacity({name: value for name, value in found.items() if value is not None}, layers, travelled, complexity)


def capacity_of_trained(network: nn.Module, start: nn.Module, x: Tensor, margin: float, classes: int) -> Capacity:
    """All numbers of a network that was trained on x [n, D], all of which travels."""
    stages = chain(network, start, x[:1])
    parameters = sum(p.numel() for p in network.parameters())
    return capacity_of(stages, sample_of(x, margin, classes), x.split(1000), parameters)


def sample_of(x: Tensor, margin: float, classes: int) -> Sample:
    """The training images x [n, D], of a network without biases."""
    squares = x.double().square().sum(1)
    peaks = x.double().abs().amax(1).square().sum()
    return Sample(len(x), classes, margin, float(squares.sum()), float(squares.max().sqrt()), float(peaks))


def constants() -> dict[str, str]:
    """Kind and constants of every number, for a record of results."""
    return {name: f"{one.kind}: {one.constants}" for name, one in NUMBERS.items()}
