"""The empirical neural tangent kernel of any network, in a bounded amount of memory; the network that is linear in it.

Jacot, Gabriel, Hongler 2018, "Neural tangent kernel: convergence and generalization in neural networks". With f_c(x)
the logits and theta all weights that are trained, the kernel of two images is here one number, the mean over logits

    K(x, x') = 1/C sum_c <d f_c(x) / d theta, d f_c(x') / d theta>     (outputs: `each`),

or, C times cheaper, that of the sum of the logits over sqrt(C) (`sum`), which has the same expectation where the
logits' gradients are independent: at the start of a wide network. Gradients are of the network as it evaluates: no
dropout, batch norms with their running statistics, which are no weights. Letters: N images, C logits, P weights.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from benchmarks.phenomena.analysis import AnalysisError, steps, untouched
from benchmarks.throughput import wait_for_device

Outputs = Literal["each", "sum"]
Weights = dict[str, Tensor]


def weights_of(network: nn.Module) -> Weights:
    """What is trained, by name: the parameters that require a gradient, detached.

    Raises:
        AnalysisError: there are none.
    """
    found = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    if not found:
        raise AnalysisError(
            f"{type(network).__name__} must have weights that are trained, for a tangent kernel; it has none that "
            "require a gradient: call requires_grad_(True) on those you mean."
        )
    return found


def fixed_of(network: nn.Module) -> Weights:
    """Everything else that the network computes with: frozen parameters, and buffers."""
    frozen = {name: p.detach() for name, p in network.named_parameters() if not p.requires_grad}
    return frozen | {name: b.detach() for name, b in network.named_buffers()}


def gradients(network: nn.Module, images: Tensor, outputs: Outputs = "each") -> Tensor:
    """d f / d theta of each image: [B, C, P], or [B, 1, P] for the sum. images [B, ...]

    All at once, of a network in evaluation mode: `tangent_kernel` keeps within a bound.
    """
    fixed = fixed_of(network)

    def logits(weights: Weights, image: Tensor) -> Tensor:
        found: Tensor = functional_call(network, weights | fixed, (image[None],))[0]
        return found

    def scaled_sum(weights: Weights, image: Tensor) -> Tensor:
        found = logits(weights, image)
        return found.sum() / len(found) ** 0.5

    slope: Callable[..., Weights] = jacrev(logits) if outputs == "each" else grad(scaled_sum)
    found = vmap(slope, in_dims=(None, 0))(weights_of(network), images)
    rows = 1 if outputs == "sum" else next(iter(found.values())).shape[1]
    return torch.cat([one.detach().reshape(len(images), rows, -1) for one in found.values()], 2)


@dataclass(frozen=True)
class Plan:
    """How a kernel is computed within a bound of memory.

    Args:
        images: N.
        logits: C, or 1 for the sum.
        weights: P.
        block: images whose gradients are held at once, twice.
        seconds: estimated; NaN where nothing was timed.
        device: where.
    """

    images: int
    logits: int
    weights: int
    block: int
    seconds: float
    device: str

    @property
    def blocks(self) -> int:
        """How many blocks of images there are."""
        return -(-self.images // self.block)

    @property
    def passes(self) -> int:
        """Images whose gradients are computed: those of a block again for every block before it."""
        sizes = [min(self.block, self.images - self.block * b) for b in range(self.blocks)]
        return sum(size * (place + 1) for place, size in enumerate(sizes))

    def __str__(self) -> str:
        gigabytes = 4e-9 * min(self.images, 2 * self.block) * self.logits * self.weights
        return (
            f"kernel of {self.images} images, {self.logits} x {self.weights} gradients each: {self.blocks} blocks, "
            f"{self.passes} gradients of images, {gigabytes:.2g} GB, about {self.seconds:.0f} s on {self.device}"
        )


def plan(network: nn.Module, images: Tensor, outputs: Outputs = "each", memory_gb: float = 1.0) -> Plan:
    """How `tangent_kernel` would go about it, with an estimate of its time from a trial with a few of the images.

    Raises:
        AnalysisError: there are no images, or two images' gradients do not fit into `memory_gb`.
    """
    with untouched(network):
        network.eval()
        made = _sizes(network, images, outputs, memory_gb)
        few = images[: min(made.block, 4, len(images))]
        gradients(network, few, outputs)  # the first time is no measure
        started = time.perf_counter()
        rows = gradients(network, few, outputs).flatten(1)
        wait_for_device(rows.device)
        each = (time.perf_counter() - started) / len(few)
        started = time.perf_counter()
        wait_for_device((rows @ rows.T).device)
        product = (time.perf_counter() - started) / len(few) ** 2
    seconds = made.passes * each + made.images**2 / 2 * product
    return Plan(made.images, made.logits, made.weights, made.block, seconds, made.device)


def _sizes(network: nn.Module, images: Tensor, outputs: Outputs, memory_gb: float) -> Plan:
    """The plan without its time; `network` is in evaluation mode."""
    if len(images) < 1:
        raise AnalysisError(f"images (={len(images)}) must be at least 1 for a kernel: give some.")
    weights = sum(one.numel() for one in weights_of(network).values())
    with torch.no_grad():
        logits = 1 if outputs == "sum" else network(images[:1]).shape[1]
    bytes_each = logits * weights * next(network.parameters()).element_size()
    block = int(memory_gb * 1e9 / 2 / bytes_each)
    if block < 1:
        remedy = f"allow {2e-9 * bytes_each:.2g} or more" + ("" if outputs == "sum" else ", or take outputs: sum")
        raise AnalysisError(
            f"memory_gb (={memory_gb:g}) must hold the gradients of two images, {logits} x {weights} numbers each: "
            f"{remedy}."
        )
    return Plan(len(images), logits, weights, min(block, len(images)), float("nan"), str(images.device))


def tangent_kernel(network: nn.Module, images: Tensor, outputs: Outputs = "each", memory_gb: float = 1.0) -> Tensor:
    """K [N, N] of images [N, ...], in double precision on the CPU; computed where network and images are.

    Gradients of at most `memory_gb` are held, of two blocks of images at a time; what a backward pass needs comes on
    top. The network comes back as it was.

    Raises:
        AnalysisError: there are no images, or two images' gradients do not fit.
    """
    with untouched(network):
        network.eval()
        made = _sizes(network, images, outputs, memory_gb)
        kernel = torch.zeros(made.images, made.images, dtype=torch.float64)
        for rows, columns, left, right in _pairs(network, images, outputs, made):
            each = torch.bmm(left.transpose(0, 1), right.permute(1, 2, 0))  # of each logit
            part = each.cpu().double().mean(0)
            kernel[rows, columns] = part
            kernel[columns, rows] = part.T
    return (kernel + kernel.T) / 2


def _pairs(
    network: nn.Module, images: Tensor, outputs: Outputs, made: Plan
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Each two blocks of images, the same twice included: their places and their gradients."""
    places = [slice(b * made.block, min((b + 1) * made.block, made.images)) for b in range(made.blocks)]
    count = made.blocks * (made.blocks + 1) // 2
    bar = steps(range(count), "tangent kernel")
    for place, rows in enumerate(places):
        left = gradients(network, images[rows], outputs)
        for columns in places[place:]:
            next(bar)
            right = left if columns == rows else gradients(network, images[columns], outputs)
            yield rows, columns, left, right
            del right
        del left
    next(bar, None)  # which ends it


def drift(before: Tensor, after: Tensor) -> float:
    """|K' - K| / |K|, Frobenius."""
    return float((after - before).norm() / before.norm())


def turn(before: Tensor, after: Tensor) -> float:
    """1 - <K, K'> / (|K| |K'|), from 0 to 1: how much the kernel has changed but for its scale (Fort et al. 2020)."""
    return 1 - float((before * after).sum() / (before.norm() * after.norm()))


def regression(kernel: Tensor, across: Tensor, targets: Tensor, ridge: float = 1e-6) -> Tensor:
    """Predictions of kernel regression. kernel [n, n], across [m, n], targets [n, C] -> [m, C]

    `ridge` is added to the diagonal in units of its mean.
    """
    shift = ridge * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=kernel.dtype)
    return across @ torch.linalg.solve(kernel + shift, targets)


def linearised(network: nn.Module, now: Weights, images: Tensor) -> Tensor:
    """Logits of the network that is linear in its weights, f(x, theta_0) + d f / d theta_0 (theta - theta_0). [N, C]

    theta_0 are the weights of `network`, theta those of `now`, by name; images [N, ...]. One forward-mode pass,
    whatever the number of weights. The network comes back as it was.

    Raises:
        AnalysisError: `now` has other names or shapes than the weights of `network`.
    """
    start = weights_of(network)
    shapes = [{name: tuple(one.shape) for name, one in weights.items()} for weights in (start, now)]
    if shapes[0] != shapes[1]:
        names = sorted(shapes[0].keys() | shapes[1].keys())
        other = [name for name in names if shapes[0].get(name) != shapes[1].get(name)]
        raise AnalysisError(
            f"weights (={', '.join(other[:3])}; {len(other)} in all) must be those of the network, name by name and "
            "shape by shape: take both from networks of one recipe."
        )
    with untouched(network):
        network.eval()
        fixed = fixed_of(network)
        change = {name: now[name].detach() - start[name] for name in start}
        with warnings.catch_warnings():  # torch's own rules for this mode are compiled with what it deprecates
            warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
            warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
            found = jvp(lambda weights: functional_call(network, weights | fixed, (images,)), (start,), (change,))
    logits: Tensor = found[0] + found[1]
    return logits.detach()
