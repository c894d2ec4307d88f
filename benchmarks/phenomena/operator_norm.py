"""The largest singular value of a linear map that is known only by what it does, such as a convolution.

A convolution is the matrix that takes all input pixels to all output pixels; its kernel, reshaped to a matrix, has
another norm (Sedghi, Gupta, Long 2019, "The singular values of convolutional layers"). Their Fourier transform is exact
for circular padding; what is here is exact for any padding and stride, and for maps that are no convolution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]

STEPS = 20  # vectors that are held at once


def operator_norm(
    apply: Map, size: int, device: torch.device | str = "cpu", tolerance: float = 1e-6, restarts: int = 50
) -> float:
    """sup |A v| / |v| over vectors v of `size` numbers. `apply`: [size] -> a tensor of any shape, in double precision

    Lanczos' iteration on A^T A with all vectors orthogonalised, begun again from its best vector after every 20 (Golub,
    Van Loan 2013, section 10.1). A^T comes from autograd. The value is approached from below; it ends when the residual
    |A^T A v - s^2 v| is at most `tolerance` s^2, or after so many restarts. No random number is lost.
    """
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(size, generator=generator, dtype=torch.float64).to(device)
    gram = gram_of(apply)
    value = 0.0
    for _ in range(restarts):
        value, residual, v = best_of_krylov(gram, v, min(STEPS, size))
        if residual <= tolerance * value:
            break
    return max(value, 0.0) ** 0.5


def gram_of(apply: Map) -> Map:
    """v -> A^T A v."""

    def gram(v: Tensor) -> Tensor:
        with torch.enable_grad():
            v = v.detach().requires_grad_(True)
            half = apply(v).square().sum() / 2
            if not half.requires_grad:  # A is constant
                return torch.zeros_like(v)
            (found,) = torch.autograd.grad(half, v)
        return found

    return gram


def best_of_krylov(gram: Map, v: Tensor, steps: int) -> tuple[float, float, Tensor]:
    """The largest Ritz value of span(v, G v, G^2 v, ...), the length of its residual, and its vector."""
    basis = v.new_empty(steps, len(v))  # a row each
    basis[0] = v / v.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    for place in range(steps):
        w = gram(basis[place])
        diagonal.append(float(w @ basis[place]))
        held = basis[: place + 1]
        for _ in range(2):  # once is not enough in floating point
            w = w - held.T @ (held @ w)
        beside.append(float(w.norm()))
        if beside[-1] <= 1e-14 * max(abs(value) for value in diagonal) or place + 1 == steps:
            break
        basis[place + 1] = w / beside[-1]
    off = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(small)
    best = vectors[:, -1]
    return float(values[-1]), beside[-1] * abs(float(best[-1])), best.to(v) @ basis[: len(diagonal)]
