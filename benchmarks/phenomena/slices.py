"""Slices of a loss: its values on lines and planes of weight space, with directions that are fair to every filter.

Li, Xu, Taylor, Studer, Goldstein 2018, "Visualizing the loss landscape of neural nets", NeurIPS: f(a, b) = L(w + a d +
b e), where d and e are drawn at random and each filter of theirs is as long as that of w (section 4). A network whose
weights are twice as large and computes the same would else look half as steep.

A batch norm keeps its scale, its shift and its running statistics on such a slice, as in the paper's code, which
evaluates. On a line from one network to another its statistics are computed anew at every point: those of one end are
of no use at the other. Letters: N images, O outputs of a layer; a point is a tensor for each parameter, by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.phenomena.analysis import AnalysisError, untouched
from benchmarks.phenomena.initial_weights import with_statistics
from models.classifier import NORM_LAYERS, ErrorCount, rank_of_label

Floats = NDArray[np.float64]
Point = Mapping[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]  # mean over logits [B, K] and labels [B]

ROUNDING = 1e-6  # of a loss in single precision, differences of which are taken
BENT = 0.1  # of the larger curvature's size: by more than this the smaller one must be negative


@dataclass(frozen=True)
class Sample:
    """What a loss is the mean over: images [N, C, H, W] with labels [N], of which `batch` are looked at at once."""

    images: Tensor
    labels: Tensor
    batch: int = 500

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches, the last of which may be smaller."""
        return zip(self.images.split(self.batch), self.labels.split(self.batch), strict=True)

    def equal_parts(self) -> list[Tensor]:
        """Images in batches of one size, for the statistics of batch norms, which are averaged over batches."""
        size = min(self.batch, len(self.images))
        return [part for part in self.images.split(size) if len(part) == size]

    def to(self, device: torch.device) -> Sample:
        """The same on `device`."""
        return Sample(self.images.to(device), self.labels.to(device), self.batch)


# -- points -----------------------------------------------------------------------------------------------------------


def point_of(network: nn.Module) -> Point:
    """Where `network` is: a copy of its parameters."""
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def put(network: nn.Module, point: Point) -> None:
    """Move `network` to `point`; its parameters stay the same objects."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(point[name])


def filter_direction(network: nn.Module, generator: torch.Generator) -> Point:
    """A random direction whose filters are as long as the network's (Li et al. 2018, section 4).

    Drawn from N(0, 1); then d_i <- d_i |w_i| / |d_i| for the weights of each output i of a convolution or a linear
    layer, all that share their first index. 0 for biases and for norms, their scales and shifts.

    Raises:
        AnalysisError: nothing is left to move.
    """
    spared = {id(p) for module in network.modules() if isinstance(module, NORM_LAYERS) for p in module.parameters()}
    direction = {}
    for name, weight in network.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        if weight.dim() < 2 or id(weight) in spared:
            direction[name] = torch.zeros_like(drawn)
        else:
            direction[name] = drawn * (filter_norms(weight.detach()) / filter_norms(drawn).clamp(min=1e-10))
    if not any(d.any() for d in direction.values()):
        raise AnalysisError(
            f"{type(network).__name__} must have weights that are not 0, of convolutions or linear layers, for a "
            "direction to go: give another network."
        )
    return direction


def filter_norms(weight: Tensor) -> Tensor:
    """Length of the weights of each output. [O, ...] -> [O, 1, ...]"""
    return weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))


def cosine(one: Point, other: Point) -> float:
    """Of the angle between two directions; random ones in so many dimensions are nearly orthogonal."""

    def product(a: Point, b: Point) -> float:
        return sum(float((a[name].double() * b[name].double()).sum()) for name in a)

    return product(one, other) / (product(one, one) * product(other, other)) ** 0.5


def coordinates(radius: float, points: int) -> Floats:
    """`points` numbers from -radius to radius, 0 exactly in the middle.

    Raises:
        AnalysisError: there is no middle, or no curvature of so few.
    """
    if points < 5 or points % 2 == 0:
        raise AnalysisError(
            f"points (={points}) must be odd, so that one is the network itself, and at least 5, for curvatures: use "
            "15."
        )
    half = points // 2
    return radius * np.arange(-half, half + 1) / half


def slice_line(centre: Point, direction: Point, at: Iterable[float]) -> Iterator[Point]:
    """centre + a direction for each a."""
    return ({name: w + a * direction[name] for name, w in centre.items()} for a in at)


def slice_plane(centre: Point, first: Point, second: Point, at: Sequence[float] | Floats) -> Iterator[Point]:
    """centre + a first + b second, row by row: b is that of the row, a that of the column."""
    return (
        {name: w + float(a) * first[name] + float(b) * second[name] for name, w in centre.items()}
        for b in at
        for a in at
    )


def between(start: Point, end: Point, at: Iterable[float]) -> Iterator[Point]:
    """(1 - t) start + t end for each t; `start` and `end` themselves, to the last bit, at 0 and 1.

    Goodfellow, Vinyals, Saxe 2015, "Qualitatively characterizing neural network optimization problems", ICLR.
    """
    return ({name: torch.lerp(w, end[name], float(t)) for name, w in start.items()} for t in at)


# -- the loss at points -----------------------------------------------------------------------------------------------


@torch.no_grad()
def loss_and_error(network: nn.Module, sample: Sample, loss: Loss = F.cross_entropy) -> tuple[float, float]:
    """Mean loss, and share of wrong predictions; a logit that is no number is wrong. The network's mode is its own."""
    total = torch.zeros((), dtype=torch.float64)
    wrong = 0
    for images, labels in sample.parts():
        logits = network(images)
        total += len(labels) * loss(logits, labels).double().cpu()
        wrong += int((rank_of_label(logits, labels) > 0).sum())
    return float(total) / len(sample.labels), wrong / len(sample.labels)


def measure(
    network: nn.Module,
    points: Iterable[Point],
    samples: Sequence[Sample],
    loss: Loss = F.cross_entropy,
    statistics: Sequence[Tensor] = (),
) -> Floats:
    """Loss and share of wrong predictions, of each sample at each point. [points, samples, 2]

    The network evaluates, and comes back bit for bit as it was, also after an error. With `statistics`, batches of
    images, the running statistics of batch norms are those of the batches at each point; else they stay.
    """
    found = []
    with untouched(network):
        network.eval()
        for point in points:
            put(network, point)
            there = with_statistics(network, statistics) if len(statistics) else network
            found.append([loss_and_error(there, sample, loss) for sample in samples])
    return np.array(found)


@torch.no_grad()
def true_loss(network: nn.Module, sample: Sample, loss: Loss = F.cross_entropy) -> float:
    """Mean loss of `network` where it is, as the suite's tests count it: the oracle for the centre of a slice."""
    counted = ErrorCount()
    with untouched(network):
        network.eval()
        for images, labels in sample.parts():
            logits = network(images)
            counted.update(logits.cpu(), labels.cpu(), loss(logits, labels).cpu())
    return float(counted.compute()["loss"])


def seconds_for(network: nn.Module, sample: Sample, images: int) -> float:
    """How long so many images will about take, from the second and third of three batches."""
    part = sample.images[: sample.batch]
    with untouched(network), torch.no_grad():
        network.eval()
        network(part)
        started = time.perf_counter()
        for _ in range(2):
            network(part).sum().item()  # which waits for the device
        return (time.perf_counter() - started) / (2 * len(part)) * images


# -- what a slice shows -----------------------------------------------------------------------------------------------


def curvatures(loss: Floats, step: float) -> Floats:
    """The two curvatures of a plane at each point inside it, smaller one first. loss [n, m] -> [n - 2, m - 2, 2]

    Eigenvalues of the Hessian within the plane, by central differences of the loss at a point and its eight neighbours,
    which are `step` apart; NaN where one of them is not finite. They are averages of those of the whole Hessian, so a
    negative one says that the loss has one as well (Li et al. 2018, section 6). One that the rounding of losses in
    single precision could have made is 0.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        middle = loss[1:-1, 1:-1]
        across = (loss[1:-1, 2:] - 2 * middle + loss[1:-1, :-2]) / step**2
        down = (loss[2:, 1:-1] - 2 * middle + loss[:-2, 1:-1]) / step**2
        both = (loss[2:, 2:] - loss[2:, :-2] - loss[:-2, 2:] + loss[:-2, :-2]) / (4 * step**2)
        mean, turn = (across + down) / 2, np.hypot((across - down) / 2, both)
        found: Floats = np.stack([mean - turn, mean + turn], axis=-1)
        size = np.lib.stride_tricks.sliding_window_view(np.abs(loss), (3, 3)).max((2, 3))
        found[np.abs(found) < ROUNDING * size[..., None] / step**2] = 0
    found[~np.isfinite(found).all(-1)] = np.nan
    return found


def non_convex_share(loss: Floats, step: float, ratio: float = BENT) -> float:
    """Share of the points inside a plane at which the loss is bent down; NaN if it is known at none of them.

    Bent down is where the smaller curvature is negative, and more than `ratio` of the larger one's size. Li et al.
    2018, figure 7, draw |smaller / larger|, of the whole Hessian.
    """
    known = np.isfinite(curvatures(loss, step)).all(-1)
    return float(bent_down(loss, step, ratio)[known].mean()) if known.any() else float("nan")


def bent_down(loss: Floats, step: float, ratio: float = BENT) -> NDArray[np.bool_]:
    """Which points inside a plane are, see `non_convex_share`. loss [n, m] -> [n - 2, m - 2]"""
    smaller, larger = np.moveaxis(curvatures(loss, step), -1, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(smaller < -ratio * np.abs(larger))


def not_finite(loss: Floats) -> int:
    """How many losses are infinite or no numbers."""
    return int((~np.isfinite(loss)).sum())


def rise(loss: Floats) -> float:
    """The most by which a loss exceeds one before it: 0 or less on a way that only goes down, NaN if one is unknown."""
    if not np.isfinite(loss).all():
        return float("nan")
    lowest = np.minimum.accumulate(loss)
    return float((loss[1:] - lowest[:-1]).max())


def barrier(loss: Floats) -> float:
    """How far a way goes above the mean of its two ends, 0 if it is flat (Frankle et al. 2020).

    Frankle, Dziugaite, Roy, Carbin 2020, "Linear mode connectivity and the lottery ticket hypothesis", ICML.
    """
    return float(np.max(loss) - (loss[0] + loss[-1]) / 2)
