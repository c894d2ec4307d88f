"""Margins of a classifier: by how much the logit of the right class is above all others.

Letters: N images, C classes.
"""

from __future__ import annotations

from torch import Tensor

from benchmarks.phenomena.analysis import AnalysisError


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """f(x)_y - max_{c != y} f(x)_c, below 0 where the network errs. logits [N, C], labels [N] -> [N]

    Raises:
        AnalysisError: there is one class only.
    """
    if logits.shape[1] < 2:
        raise AnalysisError(
            f"logits of {logits.shape[1]} class must be of two or more, a margin is a difference: give all classes."
        )
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return own - others.amax(1)


def margin_at(found: Tensor, share: float, remedy: str | None = None) -> float:
    """The margin that a share of the images does not exceed: the k-th smallest of N, k = share N, at least 1.

    Args:
        found: margins. [N]
        share: 0 to 1.
        remedy: what helps if it is not above 0, where there is neither longer training nor another --quantile.

    Raises:
        AnalysisError: it is not above 0, so that a margin bound has nothing to divide by.
    """
    place = max(1, int(share * len(found)))
    value = float(found.kthvalue(place).values)
    if not value > 0:
        wrong = float((found <= 0).double().mean())
        remedy = remedy or f"train longer, or take a --quantile above {wrong:.3g}"
        raise AnalysisError(
            f"the margin of rank {place} of {len(found)} training images (={value:.3g}) must be above 0, and a share "
            f"of {wrong:.3g} of them is classified wrong: {remedy}."
        )
    return value


def share_within(found: Tensor, margin: float) -> float:
    """Share of the images whose margin is at most `margin`: the margin error, which bounds add to."""
    return float((found <= margin).double().mean())


def normalised(found: Tensor, complexity: float, length: float) -> Tensor:
    """Margins over R_A |X| / n, as in the figures of Bartlett, Foster, Telgarsky 2017 (section 2). [N]

    Args:
        found: margins of the training images.
        complexity: R_A, their spectral complexity, see `capacity.spectral_complexity`.
        length: |X|, the root of the sum of the squared norms of all n training images, over n.
    """
    return found / (complexity * length)
