"""The explicit network that fits anything: d inputs, n hidden units, 2n + d weights, zero error on n points.

Zhang, Bengio, Hardt, Recht, Vinyals 2017, "Understanding deep learning requires rethinking generalization", ICLR:
Theorem 1, with Lemma 1 of its proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from benchmarks.phenomena.analysis import AnalysisError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MemorisingNetwork:
    """f(x) = sum_j w_j relu(<a, x> - b_j).

    Args:
        a: direction that all units share. [d]
        b: threshold of each unit, ascending. [n]
        w: weight of each unit. [n]
    """

    a: Floats
    b: Floats
    w: Floats

    def __call__(self, x: Floats) -> Floats:
        """[N, d] -> [N]"""
        return np.maximum((x @ self.a)[:, None] - self.b, 0) @ self.w

    @property
    def weights(self) -> int:
        """2n + d, as the theorem counts them."""
        return len(self.a) + len(self.b) + len(self.w)


def memorise(x: Floats, y: Floats, seed: int) -> MemorisingNetwork:
    """The network with f(x_i) = y_i for all i. x [n, d], y [n]

    A random direction a sorts the points; a threshold goes below the first and between each point and the next, so that
    b_1 < <a, x_1> < b_2 < ... and the matrix relu(<a, x_i> - b_j) is lower triangular with a positive diagonal (Lemma
    1): it has an inverse, and w is that inverse times y. In double precision: its condition number is large.

    Raises:
        AnalysisError: two points are equal, of which nothing can tell the labels apart.
    """
    if len(np.unique(x, axis=0)) < len(x):
        raise AnalysisError(f"the points (n={len(x)}) must differ from one another, two are equal: remove one of them.")
    a: Floats = np.random.default_rng(seed).standard_normal((x.shape[1],))
    a /= np.linalg.norm(a)
    position = x @ a
    order = np.argsort(position)
    sorted_position = position[order]
    between = (sorted_position[1:] + sorted_position[:-1]) / 2
    b = np.concatenate([[sorted_position[0] - 1], between])
    matrix = np.maximum(sorted_position[:, None] - b, 0)
    return MemorisingNetwork(a, b, solve_triangular(matrix, y[order], lower=True))


def condition(network: MemorisingNetwork, x: Floats) -> float:
    """Condition number of the triangular matrix that was solved for the points x [n, d]."""
    return float(np.linalg.cond(np.maximum(np.sort(x @ network.a)[:, None] - network.b, 0)))
