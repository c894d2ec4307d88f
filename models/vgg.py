"""VGG: stages of 3x3 convolutions and 2x2 max pooling, then fully connected layers (Simonyan, Zisserman 2015)."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from torch import Tensor, nn

from models.classifier import Classifier, check_choice


class VGG(Classifier):
    """For each stage: its 3x3 convolutions with ReLU, 2x2 max pool. Then hidden layers with ReLU and dropout, output.

    [B, in_channels, H, W] -> [B, num_classes]. Layers and state-dict keys follow torchvision's `vgg.py`, so net A is
    `stages: [[64], [128], [256, 256], [512, 512], [512, 512]]`, `hidden: [4096, 4096]`, `pooled_size: 7`.

    Args:
        stages: width of every convolution, a list per stage (Table 1 of the paper, column by column).
        hidden: units of each hidden fully connected layer.
        pooled_size: the last feature map is averaged to this height and width before the fully connected layers.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        norm: `batch` puts batch normalisation between convolution and ReLU.
        dropout: probability that a unit of a hidden layer is dropped, 0 to 1; the paper's is 0.5.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        stages: list[list[int]],
        hidden: list[int],
        pooled_size: int = 7,
        in_channels: int = 3,
        norm: Literal["none", "batch"] = "none",
        dropout: float = 0.5,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        if not stages or not all(stages):
            raise ValueError(
                f"stages (={stages}) must hold one stage or more, each with a width or more: [[64], [128]]."
            )
        check_choice("norm", norm, ("none", "batch"))
        self.smallest = 2 ** len(stages)
        self.features = convolutions(stages, in_channels, norm == "batch")
        self.avgpool = nn.AdaptiveAvgPool2d(pooled_size)
        self.classifier = fully_connected([stages[-1][-1] * pooled_size**2, *hidden], num_classes, dropout)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f"this VGG halves the image {self.smallest.bit_length() - 1} times and needs at least "
                f"{self.smallest} x {self.smallest} pixels, got {x.shape[-2]} x {x.shape[-1]}: use fewer stages."
            )
        x = self.avgpool(self.features(x))
        return self.classifier(x.flatten(1))


def convolutions(stages: list[list[int]], channels: int, batch_norm: bool) -> nn.Sequential:
    """3x3 convolution (norm) ReLU for every width, 2x2 max pool after every stage."""
    layers: list[nn.Module] = []
    for stage in stages:
        for width in stage:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def fully_connected(widths: list[int], num_classes: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout for every hidden width, then linear to the classes."""
    layers: list[nn.Module] = []
    for fan_in, units in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, units), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions, N(0, 0.01) of linear layers, as torchvision: deep nets start without help.

    The paper's N(0, 0.01) everywhere leaves the 16- and 19-layer nets stuck unless they start from a trained net A.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
