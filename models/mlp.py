"""Fully connected networks: LeCun's 28x28-300-10 and its relatives."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

from torch import Tensor, nn

from models.classifier import Classifier, check_choice
from models.lenet import ACTIVATIONS as LENET_ACTIVATIONS

ACTIVATIONS: dict[str, type[nn.Module]] = {**LENET_ACTIVATIONS, "sigmoid": nn.Sigmoid}


class MLP(Classifier):
    """Pixels, hidden layers each followed by `activation` (and dropout), classes. [B, C, H, W] -> [B, num_classes]

    LeCun et al. 1998, sections III.C.5 and III.C.6 (from memory): one hidden layer of 300 or 1000 units, or two.

    Args:
        image_shape: channels, height and width of an image.
        hidden: units in each hidden layer, first to last.
        activation: non-linearity after each hidden layer; `scaled_tanh` is 1.7159 tanh(2x/3).
        norm: `batch` puts batch normalisation before each activation.
        dropout: probability that a hidden unit is dropped, 0 to 1.
        skip: adds to each hidden layer, before its activation, the hidden layer below, where both have the same width
            (He et al. 2015, Equation 1; no paper of the time has it). Needs two such neighbours.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        hidden: list[int],
        activation: Literal["scaled_tanh", "tanh", "relu", "sigmoid"] = "relu",
        norm: Literal["none", "batch"] = "none",
        dropout: float = 0.0,
        skip: bool = False,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        if not hidden or min(hidden) < 1:
            raise ValueError(
                f"hidden (={hidden}) must name one layer or more of at least 1 unit; models.linear has none."
            )
        check_choice("activation", activation, tuple(ACTIVATIONS))
        check_choice("norm", norm, ("none", "batch"))
        if skip and all(below != above for below, above in itertools.pairwise(hidden)):
            raise ValueError(
                f"skip (=True) joins neighbouring hidden layers of equal width, and hidden (={hidden}) has none: "
                "make two neighbours equal, or set skip to False."
            )
        widths = [math.prod(image_shape), *hidden]
        layers: list[nn.Module] = []
        self.joins: set[int] = set()  # the activations before which the hidden layer below is added
        for place, (fan_in, units) in enumerate(itertools.pairwise(widths)):
            layers.append(nn.Linear(fan_in, units))
            if norm == "batch":
                layers.append(nn.BatchNorm1d(units))
            if skip and place > 0 and fan_in == units:
                self.joins.add(len(layers))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.hidden = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = below = x.flatten(1)
        for place, layer in enumerate(self.hidden):
            if isinstance(layer, nn.Linear):
                below = x
            if place in self.joins:
                x = x + below
            x = layer(x)
        return self.fc(x)
