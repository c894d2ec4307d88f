"""Highway networks: layers that learn how much of their input passes unchanged (Srivastava, Greff, Schmidhuber 2015).

Srivastava, Greff, Schmidhuber 2015, "Training Very Deep Networks"; the widths are those of a FitNet (Romero et al.
2015, "FitNets: Hints for Thin Deep Nets", Table 7).
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import Classifier, check_choice, check_in_channels


class HighwayNet(Classifier):
    """Stages of 3x3 layers, 2x2 max pool between them, maximum over what is left, a hidden layer with ReLU, output.

    [B, in_channels, H, W] -> [B, num_classes]. A layer that keeps the number of maps is a highway layer, one that
    changes it a convolution with ReLU. Highway B of Table 2, 19 layers with about 2.3 million parameters, has the
    widths of FitNet 4: `stages: [[32, 32, 32, 48, 48], [80, 80, 80, 80, 80, 80], [128, 128, 128, 128, 128, 128]]`.

    Args:
        stages: maps of every layer, a list per stage.
        hidden: units of the hidden fully connected layer.
        gate_bias: bias at the start of the gates that let a layer speak; below 0, so that inputs pass at first.
        norm: `batch` puts batch normalisation between each convolution and its ReLU, and none in gates; the paper has
            `none`.
        dropout: probability that a unit of the hidden layer is dropped, 0 to 1.
        skip: whether what the gates hold back is replaced by the input; off gives gated layers without a highway, with
            the same parameters.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        stages: list[list[int]],
        hidden: int = 500,
        gate_bias: float = -2.0,
        norm: Literal["none", "batch"] = "none",
        dropout: float = 0.0,
        skip: bool = True,
        in_channels: int = 3,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_choice("norm", norm, ("none", "batch"))
        if not stages or not all(stages) or min(map(min, stages)) < 1 or hidden < 1:
            raise ValueError(
                f"stages (={stages}) must hold one stage or more of one layer or more, and every width and hidden "
                f"(={hidden}) must be at least 1: [[16, 16], [32, 32]] and 500."
            )
        layers: list[nn.Module] = []
        channels = in_channels
        for place, widths in enumerate(stages):
            layers += [nn.MaxPool2d(2)] if place else []
            for width in widths:
                layers.append(Highway(width, norm, skip) if width == channels else plain(channels, width, norm))
                channels = width
        self.features = nn.Sequential(*layers)
        self.smallest = 2 ** (len(stages) - 1)
        self.hidden = nn.Linear(channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, num_classes)
        for layer in self.modules():
            initialise(layer)
        for layer in self.modules():
            if isinstance(layer, Highway):
                nn.init.constant_(layer.gate.bias, gate_bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f"this highway network halves the image {self.smallest.bit_length() - 1} times and needs at least "
                f"{self.smallest} x {self.smallest} pixels, got {x.shape[-2]} x {x.shape[-1]}: use fewer stages."
            )
        x = self.features(x).amax((2, 3))
        return self.output(self.dropout(F.relu(self.hidden(x))))


class Highway(nn.Module):
    """H(x) T(x) + x (1 - T(x)), H a convolution with ReLU, T one with a sigmoid (Equation 3). Keeps the shape.

    Without `skip` it is H(x) T(x).
    """

    def __init__(self, width: int, norm: str, skip: bool) -> None:
        super().__init__()
        self.layer = plain(width, width, norm)
        self.gate = nn.Conv2d(width, width, 3, padding=1)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        out = self.layer(x) * gate
        return out + x * (1 - gate) if self.skip else out


def plain(channels: int, width: int, norm: str) -> nn.Sequential:
    """3x3 convolution with a bias, batch norm if `norm` is `batch`, ReLU; keeps the image size."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(width))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def initialise(layer: nn.Module) -> None:
    """He's weights, which the paper cites as normalised initialisation of rectifiers, and biases 0."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
