"""Which part of a network's Hessian is due to the classes: their mean gradients, against its outliers.

Papyan 2020, "Traces of class/cross-class structure pervade deep learning spectra" (from memory). For the cross-entropy
the Gauss-Newton part is a sum over images i and classes c', with p the network's probabilities,

    G = 1/N sum_i sum_c' p_ic' d_ic' d_ic'',   d_ic' = d f_c'(x_i) / d theta - sum_k p_ik d f_k(x_i) / d theta.

Averaged over the images of class c and all c' other than c, each with its weight p_ic' / N, the vectors are class
means d_c, of total weight w_c. `G_class = sum_c w_c d_c d_c'` is what G has of them: rank C at most, and, as Papyan
found, the outliers of the spectrum. As the d_ic' of an image, weighed with p, sum to 0,

    S_c = w_c d_c = 1/N sum_{i in c} p_ic (sum_k p_ik d f_k(x_i) / d theta - d f_c(x_i) / d theta):

the images' gradients of the loss, each weighed with its probability of being right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.phenomena.hessian import Curvature

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassMeans:
    """Mean gradients of the classes.

    Args:
        sums: S_c, one row for each class. [C, P]
        weights: w_c. [C]
    """

    sums: Tensor
    weights: Tensor

    def eigenvalues(self) -> Floats:
        """Those of G_class that can be other than 0, descending: of the rows S_c / sqrt(w_c). [C]"""
        rows = self._rows()
        found: Floats = torch.linalg.eigvalsh(rows @ rows.T).flip(0).clamp(min=0).cpu().numpy()
        return found

    def _rows(self) -> Tensor:
        """S_c / sqrt(w_c); 0 for a class without images, or whose images leave nothing to the others. [C, P]"""
        lengths = self.weights.sqrt()[:, None]
        return torch.where(lengths > 0, self.sums / lengths, 0)

    def span(self) -> Tensor:
        """An orthonormal basis of the class means, in columns. [P, rank]"""
        rows = self._rows()
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        kept = values > 1e-10 * values[-1]
        return rows.T @ (vectors[:, kept] / values[kept].sqrt())


def class_means(of: Curvature, classes: int) -> ClassMeans:
    """S_c and w_c of the images of `of`, by one backward pass for each class of a batch."""
    sums = torch.zeros(classes, of.size, dtype=torch.float64, device=of.device)
    weights = torch.zeros(classes, dtype=torch.float64, device=of.device)
    for images, labels in of.batches():
        for c in labels.unique().tolist():
            logits = of.logits(images[labels == c]).double()  # or what is left to other classes would be rounded to 0
            p = logits.detach().softmax(1)
            off = (p * (logits - logits[:, [c]])).sum(1)
            sums[c] += of.flat(of.slopes((p[:, c] * off).sum())) / len(of.labels)
            weights[c] += p[:, [k for k in range(p.shape[1]) if k != c]].sum() / len(of.labels)
    return ClassMeans(sums, weights)


def overlap(span: Tensor, vectors: Tensor) -> float:
    """Share of `vectors` [P, k] in `span` [P, r], both orthonormal: |span' vectors|^2 / k, 0 to 1."""
    return float((span.T @ vectors).square().sum() / vectors.shape[1])
