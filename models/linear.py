"""The linear classifier: one layer, the first row of LeCun's MNIST table."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from models.classifier import Classifier


class Linear(Classifier):
    """Every pixel to every class. [B, C, H, W] -> [B, num_classes]

    LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section III.C.1.

    Args:
        image_shape: channels, height and width of an image.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int = 10, **classifier: Any) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        self.fc = nn.Linear(math.prod(image_shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))
