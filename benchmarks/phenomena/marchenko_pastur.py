"""The spectrum of a matrix of independent entries, and how far that of a layer's weights is from it.

Marchenko, Pastur 1967. W [N, M], N >= M, has independent entries of mean 0 and variance s. As both sides grow with
q = M / N, the eigenvalues of W'W / N fill

    s (1 - sqrt q)^2  to  s (1 + sqrt q)^2,   with density  sqrt((b - x)(x - a)) / (2 pi s q x)

between these edges a and b. Where it is not known, s is taken as the mean square of the entries, which makes the mean
eigenvalue right: a matrix with a few large eigenvalues then has a bulk that is narrower than the law's.

Martin, Mahoney 2021, "Implicit self-regularization in deep neural networks": spectra of trained layers leave the law,
first by single eigenvalues beyond the edge, spikes, then altogether, with tails that fall as a power.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.phenomena.analysis import AnalysisError

Floats = NDArray[np.float64]

ONE_IN_A_THOUSAND = 3.3  # quantile 0.999 of the Tracy-Widom law of real matrices, which lies at 3.27 (from memory)


@dataclass(frozen=True)
class MarchenkoPastur:
    """The law.

    Args:
        ratio: q = M / N, above 0, at most 1.
        variance: s, above 0.
    """

    ratio: float
    variance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise AnalysisError(f"ratio (={self.ratio:g}) must be above 0 and at most 1: divide by the longer side.")
        if not self.variance > 0:
            raise AnalysisError(f"variance (={self.variance:g}) must be above 0: a matrix of zeros has no spectrum.")

    @property
    def edges(self) -> tuple[float, float]:
        """a and b."""
        root = self.ratio**0.5
        return self.variance * (1 - root) ** 2, self.variance * (1 + root) ** 2

    def density(self, x: Floats) -> Floats:
        """At x, which is above 0. [n] -> [n]"""
        a, b = self.edges
        inside = np.clip((b - x) * (x - a), 0, None)
        found: Floats = np.sqrt(inside) / (2 * np.pi * self.variance * self.ratio * x)
        return found

    def below(self, x: Floats) -> Floats:
        """Share of the eigenvalues that are at most x. [n] -> [n]

        With x = s (1 + q + 2 sqrt q cos t) the density becomes 2 / pi sin^2 t / (1 + q + 2 sqrt q cos t) dt, t from 0
        at the upper edge to pi at the lower one, which has a closed integral.
        """
        q, root = self.ratio, self.ratio**0.5
        cosine = np.clip((np.asarray(x) / self.variance - 1 - q) / (2 * root), -1, 1)
        t = np.arccos(cosine)
        half = np.arctan2((1 - root) * np.sin(t / 2), (1 + root) * np.cos(t / 2))
        above = ((1 + q) * t - 2 * root * np.sin(t) - 2 * (1 - q) * half) / (4 * q)
        found: Floats = 1 - 2 / np.pi * above
        return found


def largest_by_chance(rows: int, columns: int, variance: float) -> float:
    """What the largest eigenvalue of W'W / N exceeds once in a thousand such matrices. rows N >= columns M

    Johnstone 2001, "On the distribution of the largest eigenvalue in principal components analysis": near the edge b it
    is (sqrt N + sqrt M)^2 / N, with fluctuations of (sqrt N + sqrt M) (1 / sqrt N + 1 / sqrt M)^(1/3) / N.
    """
    n, m = rows**0.5, columns**0.5
    return variance * ((n + m) ** 2 + ONE_IN_A_THOUSAND * (n + m) * (1 / n + 1 / m) ** (1 / 3)) / rows


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of W'W / N against the law.

    Args:
        rows: N, the longer side of the matrix.
        columns: M.
        values: the eigenvalues, descending. [M]
        law: with the mean square of the entries.
    """

    rows: int
    columns: int
    values: Floats
    law: MarchenkoPastur

    @property
    def over_edge(self) -> float:
        """The largest eigenvalue over the law's upper edge."""
        return float(self.values[0] / self.law.edges[1])

    @property
    def spikes(self) -> int:
        """Eigenvalues beyond what chance puts there."""
        return int((self.values > largest_by_chance(self.rows, self.columns, self.law.variance)).sum())

    @property
    def distance(self) -> float:
        """Kolmogorov and Smirnov's: the largest difference of the share below any x, from the law's."""
        ascending = self.values[::-1]
        law, count = self.law.below(ascending), len(ascending)
        steps = np.arange(count + 1) / count
        return float(max((steps[1:] - law).max(), (law - steps[:-1]).max()))

    @property
    def tail(self) -> float:
        """Exponent of the power law that its upper part is nearest to; NaN where there are too few eigenvalues."""
        return tail_exponent(self.values)


def spectrum_of(weights: Floats) -> Spectrum:
    """Of a matrix [n, m]; of a convolution's weights [out, in, height, width] as a matrix of `out` rows.

    Raises:
        AnalysisError: it is a vector or a number.
    """
    if weights.ndim < 2:
        raise AnalysisError(f"weights (={list(weights.shape)}) must have two sides or more: a bias has no spectrum.")
    matrix = weights.reshape(len(weights), -1).astype(np.float64)
    rows, columns = max(matrix.shape), min(matrix.shape)
    values = np.linalg.svd(matrix, compute_uv=False) ** 2 / rows
    return Spectrum(rows, columns, values, MarchenkoPastur(columns / rows, float((matrix**2).mean())))


def tail_exponent(values: Floats, fewest: int = 10) -> float:
    """alpha of a density that falls as x^-alpha above some x. values descending, at least `fewest` above that x.

    Clauset, Shalizi, Newman 2009, "Power-law distributions in empirical data": by maximum likelihood above every
    possible x, of which the one is taken whose law is nearest by Kolmogorov and Smirnov's distance.
    """
    best, found = np.inf, float("nan")
    for count in range(fewest, len(values)):
        start, tail = values[count], values[:count]
        if not start > 0:
            break
        logs = np.log(tail / start)
        alpha = 1 + count / logs.sum()
        off = np.abs(np.exp(-(alpha - 1) * logs) - np.arange(1, count + 1) / count).max()  # shares above each
        if off < best:
            best, found = float(off), float(alpha)
    return found
