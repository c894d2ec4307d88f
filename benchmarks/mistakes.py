"""What an evaluation notes besides the errors: which class is taken for which, and the mistakes that are surest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.batches import IGNORED_LABEL
from models.classifier import rank_of_label


@dataclass(frozen=True)
class Mistake:
    """An image taken for another class than its own, with the probability that the network gave that class."""

    probability: float
    label: int
    predicted: int
    image: Tensor  # [C, H, W], as the network gets it


class Mistakes:
    """Counts every image by its class and the predicted one, and keeps the wrong ones of highest probability.

    Costs a few small operations and one wait for the device per batch. Of several ranks each has its own images; the
    counts are to be summed, as integers, and the mistakes that are kept are the rank's own.

    Args:
        num_classes: what the network tells apart.
        kept: how many mistakes are kept.
    """

    def __init__(self, num_classes: int, kept: int = 16) -> None:
        self.kept = kept
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)  # by label and prediction
        self.worst: list[Mistake] = []  # surest first; of equal ones the earlier first

    def add(self, scores: Tensor, probabilities: Tensor, labels: Tensor, images: Tensor) -> None:
        """Count a batch: [B, num_classes] twice, [B], [B, C, H, W]. Images that only fill it up are left out.

        Ties are decided as `ErrorCount` does, so the diagonal of `counts` holds what that counts as right.
        """
        size = self.counts.shape[0]
        counted, predicted = labels != IGNORED_LABEL, scores.argmax(1)
        wrong = counted & (rank_of_label(scores, labels) > 0)
        cells = torch.bincount((labels * size + predicted)[counted], minlength=size**2)
        self.counts = self.counts.to(cells.device) + cells.reshape(size, size)
        sure = probabilities.gather(1, predicted[:, None])[:, 0].float().masked_fill(~wrong, -1)
        found, places = sure.sort(descending=True, stable=True)
        rows = zip(found.tolist(), places.tolist(), labels[places].tolist(), predicted[places].tolist(), strict=True)
        least = self.worst[-1].probability if len(self.worst) == self.kept else -1
        new = [
            Mistake(probability, label, guess, images[place].clone().cpu())  # the batch may be written over
            for probability, place, label, guess in list(rows)[: self.kept]
            if probability > least
        ]
        self.worst = sorted([*self.worst, *new], key=lambda one: -one.probability)[: self.kept]
