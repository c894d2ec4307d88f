"""Eigenvalues of a symmetric matrix that is only known by its products with vectors: the largest, and their density.

Lanczos 1950; Golub, Meurant 2010, "Matrices, moments and quadrature". After m products with a start q,
Q' A Q = T is tridiagonal [m, m], and

- the eigenvalues of T at its ends are soon those of A, with an error that is known: |A x - theta x| = beta_m |s_m|;
- the eigenvalues of T, with the squares of the first components of its eigenvectors, are the nodes and weights of a
  Gauss quadrature for the spectrum as q sees it. Averaged over random q they are the density of all eigenvalues:
  stochastic Lanczos quadrature (Ghorbani, Krishnan, Xiao 2019, "An investigation into neural net optimization via
  Hessian eigenvalue density").

Rounding makes plain Lanczos find the largest eigenvalues again and again. Here every new vector is made orthogonal to
all before it, twice, in double precision. Letters: P rows of A, m steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.special import ndtr
from torch import Tensor

from benchmarks.phenomena.analysis import AnalysisError, steps

Floats = NDArray[np.float64]
Product = Callable[[Tensor], Tensor]  # v -> A v, [P] -> [P] in double precision


@dataclass(frozen=True)
class Tridiagonal:
    """A on the space of its first m products with a vector.

    Args:
        diagonal: of T. [m]
        beside: the numbers beside it. [m - 1]
        rest: length of what the last product has outside of the space; 0 where A keeps to it.
        basis: of the space, orthonormal. [m, P]
    """

    diagonal: Floats
    beside: Floats
    rest: float
    basis: Tensor

    def eigenpairs(self) -> tuple[Floats, Floats]:
        """Eigenvalues of T, ascending [m], and its eigenvectors in columns [m, m]."""
        values, vectors = eigh_tridiagonal(self.diagonal, self.beside)
        return values, vectors


@dataclass(frozen=True)
class Top:
    """The largest eigenvalues.

    Args:
        values: descending. [k]
        vectors: of length 1, in columns, where the products are. [P, k]
        residuals: |A x - theta x| of each; an eigenvalue of A is as near as that. [k]
        lowest: the smallest eigenvalue of T, which none of A's smallest exceeds.
        products: m.
    """

    values: Floats
    vectors: Tensor
    residuals: Floats
    lowest: float
    products: int


@dataclass(frozen=True)
class Density:
    """Where the eigenvalues are, as several random vectors see it.

    Args:
        nodes: of each vector. [R, m]
        weights: their shares, each row of sum 1; 0 for nodes that are none. [R, m]
    """

    nodes: Floats
    weights: Floats

    def below(self, x: Floats, width: float) -> Floats:
        """Share of the eigenvalues below x, every node a Gaussian of standard deviation `width`. [n] -> [n]

        Between nodes nothing is known; a width of 0.01 times the largest eigenvalue is what 64 steps can tell.
        """
        found: Floats = ndtr((x[:, None] - self.nodes.ravel()) / width) @ self.weights.ravel() / len(self.nodes)
        return found

    def smoothed(self, x: Floats, width: float) -> Floats:
        """Density at x, every node a Gaussian of standard deviation `width`. [n] -> [n]"""
        off = (x[:, None] - self.nodes.ravel()) / width
        bumps = np.exp(-(off**2) / 2) / (width * np.sqrt(2 * np.pi))
        found: Floats = bumps @ self.weights.ravel() / len(self.nodes)
        return found

    @property
    def mean(self) -> float:
        """The mean eigenvalue, trace over P."""
        return float((self.nodes * self.weights).sum() / len(self.nodes))


def tridiagonalise(
    product: Product, start: Tensor, most: int, enough: Callable[[Tridiagonal], bool] | None = None, label: str = ""
) -> Tridiagonal:
    """`most` steps from `start` [P], fewer where the space is exhausted, or `enough` says so, which is asked at times.

    Raises:
        AnalysisError: `start` is 0.
    """
    length = float(start.norm())
    if not length > 0:
        raise AnalysisError(f"start must not be a vector of length {length:g}, it has no direction: draw another.")
    basis = torch.zeros(min(most, len(start)), len(start), dtype=torch.float64, device=start.device)
    basis[0] = start.double() / length
    diagonal: list[float] = []
    beside: list[float] = []
    for step in steps(range(len(basis)), label or "Lanczos"):
        v, known = product(basis[step]).double(), basis[: step + 1]
        along = known @ v
        v = v - along @ known
        v = v - (known @ v) @ known
        diagonal.append(float(along[-1]))
        rest = float(v.norm())
        if step + 1 == len(basis) or rest <= 1e-10 * max(map(abs, [*diagonal, *beside])):
            break
        if enough is not None and step % 5 == 4 and enough(_made(diagonal, beside, rest, known)):
            break
        basis[step + 1] = v / rest
        beside.append(rest)
    return _made(diagonal, beside, rest, basis[: len(diagonal)])


def _made(diagonal: list[float], beside: list[float], rest: float, basis: Tensor) -> Tridiagonal:
    return Tridiagonal(np.array(diagonal), np.array(beside), rest, basis)


def top_eigenpairs(
    product: Product,
    size: int,
    count: int,
    most: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    near: float = 1e-3,
    label: str = "",
) -> Top:
    """The `count` largest eigenvalues and their eigenvectors, of a matrix [size, size].

    It ends when the residual of each is at most `near` of the largest, or after `most` products; `residuals` tell. The
    start is drawn from `generator`, on the CPU. An eigenvalue that is there several times is found once.

    Raises:
        AnalysisError: `most` steps cannot give so many, or the matrix has not so many.
    """
    if not 0 < count <= min(most, size):
        raise AnalysisError(
            f"count (={count}) must be 1 to {min(most, size)}, there are {most} products and {size} rows: "
            "ask for fewer."
        )

    def residuals(made: Tridiagonal) -> tuple[Floats, Floats, Floats]:
        values, vectors = made.eigenpairs()
        values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
        return values, vectors, np.abs(made.rest * vectors[-1])

    def enough(made: Tridiagonal) -> bool:
        values, _, off = residuals(made)
        return len(values) == count and bool(off.max() <= near * abs(values[0]))

    start = torch.randn(size, generator=generator, dtype=torch.float64).to(device)
    made = tridiagonalise(product, start, most, enough, label)
    values, vectors, off = residuals(made)
    mixed = torch.from_numpy(vectors.copy()).to(made.basis)
    return Top(values.copy(), made.basis.T @ mixed, off, float(made.eigenpairs()[0][0]), len(made.diagonal))


def density(
    product: Product,
    size: int,
    probes: int,
    count: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    label: str = "",
) -> Density:
    """Stochastic Lanczos quadrature: `probes` vectors of random signs, `count` steps from each.

    Raises:
        AnalysisError: there is no probe or no step.
    """
    for name, value in (("probes", probes), ("count", count)):
        if value < 1:
            raise AnalysisError(f"{name} (={value}) must be at least 1: use {8 if name == 'probes' else 64}.")
    nodes, weights = np.zeros((2, probes, min(count, size)))
    for probe in range(probes):
        signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.float64) * 2 - 1
        made = tridiagonalise(product, signs.to(device), count, label=f"{label or 'density'} {probe + 1} of {probes}")
        values, vectors = made.eigenpairs()
        nodes[probe, : len(values)] = values
        weights[probe, : len(values)] = vectors[0] ** 2
    return Density(nodes, weights)
