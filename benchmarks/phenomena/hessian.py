"""Products with the second derivatives of a network's loss, and with their two parts, in a bounded amount of memory.

With f(x) the logits of an image, theta the weights that are trained and L = 1/N sum_i l(f(x_i), y_i) the loss,

    H = G + R,   G = 1/N sum_i J_i' l''_i J_i,   R = 1/N sum_i sum_c l'_ic d^2 f_c(x_i) / d theta^2,

where J_i = d f(x_i) / d theta. G, the Gauss-Newton part, has no eigenvalue below 0; R is 0 where the logits are linear
in the weights, and small where the loss is. Neither is ever written out: H v is the gradient of <gradient, v>
(Pearlmutter 1994, "Fast exact multiplication by the Hessian"), G v three passes (Schraudolph 2002, "Fast curvature
matrix-vector products for second-order gradient descent").

Everything is of the network as it evaluates: no dropout, batch norms with their running statistics, which are no
weights. Letters: N images, B of them in a batch, C logits, P weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call

from benchmarks.phenomena.analysis import AnalysisError, untouched
from benchmarks.phenomena.tangent_kernel import fixed_of, weights_of
from benchmarks.throughput import wait_for_device

Loss = Callable[[Tensor, Tensor], Tensor]
Parts = Sequence[Tensor]


class Curvature:
    """H, G and the gradient of a network's mean loss, which `curvature` makes; vectors are [P], in double precision.

    The network computes in its own precision. Batches are summed up in double precision, so that their size does not
    matter.

    Args:
        network: in evaluation mode.
        images: [N, ...]
        labels: [N]
        loss: mean loss of logits [B, C] and labels [B].
        batch: images whose graph is held at once.
    """

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor, loss: Loss, batch: int) -> None:
        self.network, self.images, self.labels, self.loss, self.batch = network, images, labels, loss, batch
        self.weights = {name: one.requires_grad_(True) for name, one in weights_of(network).items()}
        self.fixed = fixed_of(network)
        self.sizes = [one.numel() for one in self.weights.values()]

    @property
    def size(self) -> int:
        """P."""
        return sum(self.sizes)

    @property
    def device(self) -> torch.device:
        """Where vectors are."""
        return self.images.device

    def gradient(self) -> Tensor:
        """The gradient of the mean loss. [P]"""
        return self.mean(lambda images, labels: self.slopes(self.loss(self.logits(images), labels)))

    def hessian(self, v: Tensor) -> Tensor:
        """H v. [P] -> [P]"""
        parts = self.split(v)
        return self.mean(lambda images, labels: self._hessian(images, labels, parts))

    def gauss_newton(self, v: Tensor) -> Tensor:
        """G v. [P] -> [P]"""
        parts = self.split(v)
        return self.mean(lambda images, labels: self._gauss_newton(images, labels, parts))

    def logits(self, images: Tensor) -> Tensor:
        """[B, C], with a graph to the weights."""
        found: Tensor = functional_call(self.network, self.weights | self.fixed, (images,))
        return found

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, `batch` at a time."""
        return zip(self.images.split(self.batch), self.labels.split(self.batch), strict=True)

    def slopes(self, y: Tensor, against: Tensor | None = None, graph: bool = False) -> Parts:
        """d <y, against> / d theta, one tensor for each weight; 0 where y does not know the weight."""
        weights = list(self.weights.values())
        return grad(y, weights, against, create_graph=graph, retain_graph=graph or None, materialize_grads=True)

    def mean(self, function: Callable[[Tensor, Tensor], Parts]) -> Tensor:
        """The mean over images of what `function` finds as the mean over those of a batch, flattened. [P]"""
        total = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        for images, labels in self.batches():
            total += len(labels) / len(self.labels) * self.flat(function(images, labels))
        return total

    def flat(self, parts: Parts) -> Tensor:
        """Numbers of all weights, one after the other, in double precision. [P]"""
        return torch.cat([one.detach().flatten().double() for one in parts])

    def split(self, v: Tensor) -> Parts:
        """The same backwards, in the weights' own precision."""
        pieces = v.to(self.device).split(self.sizes)
        return [piece.to(one.dtype).view_as(one) for piece, one in zip(pieces, self.weights.values(), strict=True)]

    def _hessian(self, images: Tensor, labels: Tensor, v: Parts) -> Parts:
        slopes = self.slopes(self.loss(self.logits(images), labels), graph=True)
        return self.slopes(inner(slopes, v))

    def _gauss_newton(self, images: Tensor, labels: Tensor, v: Parts) -> Parts:
        """J' l'' J v; J v is the derivative, by u, of <J' u, v>, whatever u."""
        logits = self.logits(images)
        u = torch.zeros_like(logits, requires_grad=True)
        (forward,) = grad(inner(self.slopes(logits, u, graph=True), v), u)
        return self.slopes(logits, bent(self.loss, logits.detach(), labels, forward))


def inner(parts: Parts, others: Parts) -> Tensor:
    """Sum of all products."""
    return torch.stack([(one * other).sum() for one, other in zip(parts, others, strict=True)]).sum()


def bent(loss: Loss, logits: Tensor, labels: Tensor, direction: Tensor) -> Tensor:
    """The Hessian of the loss by the logits, times a direction. [B, C]"""
    z = logits.clone().requires_grad_(True)
    (slope,) = grad(loss(z, labels), z, create_graph=True)
    (found,) = grad((slope * direction).sum(), z)
    return found


@contextmanager
def curvature(
    network: nn.Module, images: Tensor, labels: Tensor, loss: Loss = F.cross_entropy, batch: int = 250
) -> Iterator[Curvature]:
    """Within it, products with the second derivatives of `loss`; the network comes back as it was.

    No mixed precision, no rounding of a GPU's convolutions to ten bits (TF32), and nothing compiled, which has no
    second derivatives.

    Raises:
        AnalysisError: there are no images, not as many labels, or the batch is empty.
    """
    if not 0 < len(images) == len(labels):
        raise AnalysisError(f"images (={len(images)}) must be some, and as many as labels (={len(labels)}): give both.")
    if batch < 1:
        raise AnalysisError(f"batch (={batch}) must be at least 1 image: use 250.")
    device = images.device.type
    with (
        untouched(network),
        torch.enable_grad(),
        torch.autocast(device, enabled=False),
        torch.compiler.set_stance("force_eager"),
        exact_convolutions(),
    ):
        network.eval()
        yield Curvature(network, images, labels, loss, batch)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Single precision is single precision: cuDNN's convolutions else round what they multiply to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def seconds_of(product: Callable[[Tensor], Tensor], size: int, device: torch.device) -> float:
    """What one product takes, after one that does not count."""
    v = torch.ones(size, dtype=torch.float64, device=device) / size**0.5
    product(v)
    wait_for_device(device)
    started = time.perf_counter()
    product(v)
    wait_for_device(device)
    return time.perf_counter() - started
