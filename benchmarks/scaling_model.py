"""The step of data-parallel training on paper: how long it takes on k devices, and what then bounds it.

T(k) = C + max(A / n, A - o C),   A = n * hops(k) * latency + 2 (k - 1) / k * S / bandwidth

C: seconds of a step with no communication. A: seconds of the all-reduces of a step alone, of S bytes of gradients in n
buckets. Every device sends and receives 2 (k - 1) / k of the bytes, the least there can be, and a ring reaches it
(Patarasuk, Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations; its formula is from memory)
in 2 (k - 1) hops; two trees reach it in about 2 log2(k) (Sanders, Speck, Traeff 2009, from memory), and NCCL takes what
is faster. The buckets travel while the backward pass goes on, which hides up to a share o of C (Li et al. 2020, PyTorch
Distributed, section 3.2.3, from memory); the last bucket is only full when that pass is over, so it never hides.

Not in it: reading data, devices of unequal speed, neighbours on the network, buffers of batch norm, which the first
device sends to all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

MEBIBYTE = 2**20
FIRST_BUCKET = MEBIBYTE  # bytes; torch's DDP sends the first one early
BANDWIDTHS = np.geomspace(1e5, 1e13, 3201)  # bytes per second that `fitted` looks at


@dataclass(frozen=True)
class Network:
    """What joins the devices. The defaults are round numbers of the kind that nodes with NVLink and InfiniBand have.

    Args:
        bandwidth: bytes per second that each device sends, and receives, between nodes.
        node_bandwidth: the same where all devices are in one node.
        node_size: devices of a node.
        latency: seconds of a hop from one device to the next.
        overlap: share of a step's computation behind which gradients can travel; the backward pass is about 2/3 of it.
        collective: `ring`, `tree`, or `auto` for the faster of both.
    """

    bandwidth: float = 25e9
    node_bandwidth: float = 200e9
    node_size: int = 8
    latency: float = 5e-6
    overlap: float = 2 / 3
    collective: str = "auto"

    def hops(self, ranks: int) -> int:
        """Of one all-reduce, one after the other."""
        ring, tree = 2 * (ranks - 1), 2 * math.ceil(math.log2(ranks))
        return {"ring": ring, "tree": tree, "auto": min(ring, tree)}[self.collective]

    def at(self, ranks: int) -> float:
        """Bytes per second at so many ranks: the slowest link decides."""
        return self.node_bandwidth if ranks <= self.node_size else self.bandwidth


class Predicted(NamedTuple):
    """A step on paper, in seconds: all of it, and what of the communication is seen, by its cause."""

    step: float
    compute: float
    transfer: float
    latency: float

    @property
    def communication(self) -> float:
        """Share of the step, 0 to 1."""
        return (self.transfer + self.latency) / self.step


def buckets(gradient_bytes: float, cap_mb: float = 25) -> int:
    """All-reduces of a step under torch's DDP: one of `FIRST_BUCKET`, then of `cap_mb` mebibytes each."""
    return 1 + max(0, math.ceil((gradient_bytes - FIRST_BUCKET) / (cap_mb * MEBIBYTE)))


def predicted(compute: float, gradient_bytes: float, count: int, ranks: int, network: Network) -> Predicted:
    """The step of `ranks` ranks that each compute for `compute` seconds, with gradients in `count` buckets."""
    if ranks == 1:
        return Predicted(compute, compute, 0.0, 0.0)
    waiting = count * network.hops(ranks) * network.latency
    moving = 2 * (ranks - 1) / ranks * gradient_bytes / network.at(ranks)
    whole = waiting + moving
    seen = max(whole / count, whole - network.overlap * compute)
    share = seen / whole if whole else 0.0
    return Predicted(compute + seen, compute, share * moving, share * waiting)


@dataclass(frozen=True)
class Computation:
    """Seconds of a step without communication, by the images of a rank: a fixed part, and one for each image."""

    fixed: float
    per_image: float

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]]) -> Computation:
        """The line nearest to (images, seconds) in which neither part is negative; through 0 for one batch size."""
        images, seconds = (np.array(part, dtype=float) for part in zip(*points, strict=True))
        if len(set(images)) > 1:
            slope, start = (float(value) for value in np.polyfit(images, seconds, 1))
            if start >= 0 and slope >= 0:
                return cls(start, slope)
            if slope < 0:
                return cls(float(seconds.mean()), 0.0)
        return cls(0.0, float((images * seconds).sum() / (images**2).sum()))

    def seconds(self, images: float) -> float:
        """Of a step with so many images."""
        return self.fixed + self.per_image * images


def fitted(points: Sequence[dict[str, Any]], gradient_bytes: float, count: int, network: Network) -> float | None:
    """Bytes per second with which the model is nearest to the measured steps: least squares of relative errors.

    Points have `ranks`, `step` and `compute`, in seconds. None where there is no point of several ranks, or where no
    communication can be seen, so that every bandwidth from some on fits as well.
    """
    several = [point for point in points if point["ranks"] > 1]
    if not several:
        return None
    errors = [
        sum(
            (predicted(p["compute"], gradient_bytes, count, p["ranks"], joined(network, rate)).step / p["step"] - 1)
            ** 2
            for p in several
        )
        for rate in BANDWIDTHS
    ]
    best = int(np.argmin(errors))
    return None if best == len(BANDWIDTHS) - 1 else float(BANDWIDTHS[best])


def joined(network: Network, bandwidth: float) -> Network:
    """The network with the same bandwidth everywhere."""
    return replace(network, bandwidth=float(bandwidth), node_bandwidth=float(bandwidth))


def bound(step: Predicted, fixed: float = 0.0) -> str:
    """What most of a step is spent on; `fixed` seconds of its computation do not shrink with the batch."""
    spent = {
        "arithmetic": step.compute - fixed,
        "fixed cost of a step": fixed,
        "bandwidth": step.transfer,
        "latency": step.latency,
    }
    return max(spent, key=lambda part: spent[part])


def efficiency(mode: str, one: float, many: float, ranks: int) -> float:
    """Of `ranks` ranks whose step takes `many` seconds, against `one` rank's: strong shares one batch, weak has k."""
    return one / (ranks * many) if mode == "strong" else one / many


def extrapolated(
    computation: Computation, batch: int, modes: Sequence[str], ranks: Sequence[int], size: float, count: int,
    network: Network,
) -> list[dict[str, Any]]:  # fmt: skip
    """Steps on paper on more devices, each with `batch` images (weak) or its part of them (strong).

    Strong, there are no more ranks than images: those numbers are left out.
    """
    found = []
    one = computation.seconds(batch)
    for mode in modes:
        for k in ranks:
            if mode == "strong" and k > batch:
                continue
            images = batch / k if mode == "strong" else batch
            step = predicted(computation.seconds(images), size, count, k, network)
            found.append(
                {
                    "ranks": k,
                    "mode": mode,
                    "images_per_rank": images,
                    "step_seconds": step.step,
                    "communication": step.communication,
                    "efficiency": efficiency(mode, one, step.step, k),
                    "bound": bound(step, computation.fixed),
                }
            )
    return found
