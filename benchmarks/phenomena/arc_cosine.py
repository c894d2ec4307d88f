"""Kernels of infinitely wide ReLU networks in closed form, layer by layer.

Cho, Saul 2009, "Kernel methods for deep learning" (the arc-cosine kernels); Jacot, Gabriel, Hongler 2018, "Neural
tangent kernel". For two Gaussian pre-activations of unit variance and correlation u = cos(theta),

    E relu(a) relu(b) = kappa1(u) / 2,   kappa1 = (u (pi - theta) + sin(theta)) / pi,
    E 1(a > 0) 1(b > 0) = kappa0(u) / 2, kappa0 = (pi - theta) / pi.

The network, in the NTK parametrisation without biases: h_0 = x, z_l = W_l h_(l-1) / sqrt(n_(l-1)), h_l = relu(z_l)
times `gain`, all entries of W_l drawn from N(0, 1); one layer more gives the output.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.phenomena.analysis import AnalysisError


def kappa0(u: Tensor) -> Tensor:
    """(pi - theta) / pi, u = cos(theta): from 0 at -1 to 1 at 1."""
    return 1 - torch.arccos(u.clamp(-1, 1)) / math.pi


def kappa1(u: Tensor) -> Tensor:
    """(u (pi - theta) + sin(theta)) / pi, u = cos(theta): from 0 at -1 to 1 at 1."""
    u = u.clamp(-1, 1)
    return (u * (math.pi - torch.arccos(u)) + (1 - u**2).sqrt()) / math.pi


def kernels(
    x: Tensor, other: Tensor, hidden: int = 1, scale: float | None = None, gain: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The covariance of the outputs at the start (NNGP) and the tangent kernel (NTK) of `hidden` hidden layers.

    x [n, d], other [m, d] -> [n, m] each. With one hidden layer and gain 1, NNGP = |x| |x'| kappa1 / (2 d) and
    NTK = NNGP + <x, x'> kappa0 / (2 d); `scale` replaces 1 / d. Each further layer takes the covariance S and the
    kernel T of the one before to S' = sqrt(S(x, x) S(x', x')) kappa1 / 2 and T' = S' + T kappa0 / 2 (Jacot et al.
    2018, Theorem 1), both times gain^2.

    Raises:
        AnalysisError: there is no hidden layer, or a row of x is 0, which has no direction.
    """
    if hidden < 1:
        raise AnalysisError(
            f"hidden (={hidden}) must be at least 1: the kernel of a linear model is its inner product."
        )
    scale = 1 / x.shape[1] if scale is None else scale
    left, right = scale * x.square().sum(1), scale * other.square().sum(1)
    if not (left > 0).all() or not (right > 0).all():
        raise AnalysisError("a point (=0) must have a direction for its angle to others: leave points that are 0 out.")
    covariance = scale * x @ other.T
    tangent = covariance
    for _ in range(hidden):
        size = (left[:, None] * right[None, :]).sqrt()
        u = covariance / size
        covariance = gain**2 * size * kappa1(u) / 2
        tangent = covariance + gain**2 * tangent * kappa0(u) / 2
        left, right = gain**2 * left / 2, gain**2 * right / 2
    return covariance, tangent
