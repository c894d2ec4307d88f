"""BN-Inception: modules of four branches with batch norm after every convolution (Ioffe, Szegedy 2015, appendix).

With `se_reduction` it is SE-BN-Inception (Hu et al. 2018).

GoogLeNet, which it grew from, comes from torchvision through `models/zoo.py`, with 3x3 kernels where the paper has 5x5.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.classifier import Classifier, check_choice, check_in_channels
from models.resnet import SqueezeExcitation

# Figure 5, row by row: name, stride, 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3, pooling, its projection.
# A module of stride 2 has no 1x1 branch, and its pooling passes all channels on. The figure has 576 maps behind 4c and
# 4d, but its filters make 608, as in the network that others released.
MODULES = (
    ("3a", 1, 64, 64, 64, 64, 96, "average", 32),
    ("3b", 1, 64, 64, 96, 64, 96, "average", 64),
    ("3c", 2, 0, 128, 160, 64, 96, "max", 0),
    ("4a", 1, 224, 64, 96, 96, 128, "average", 128),
    ("4b", 1, 192, 96, 128, 96, 128, "average", 128),
    ("4c", 1, 160, 128, 160, 128, 160, "average", 128),
    ("4d", 1, 96, 128, 192, 160, 192, "average", 128),
    ("4e", 2, 0, 128, 192, 192, 256, "max", 0),
    ("5a", 1, 352, 192, 320, 160, 224, "average", 128),
    ("5b", 1, 352, 192, 320, 192, 224, "max", 128),
)


class BNInception(Classifier):
    """7x7/2 and 3x3 convolutions with 3x3/2 max pools, ten Inception modules, mean, linear output.

    [B, in_channels, H, W] -> [B, num_classes], made for 224 x 224 pixels.

    Args:
        norm: `batch` normalises after every convolution; `none` does not, and gives convolutions a bias instead.
        skip: whether modules that keep their input's shape (4a, 4b, 4d, 5b) add it; the paper has none.
        se_reduction: squeeze-and-excitation of every module's output, its hidden layer so many times narrower (Hu et
            al. 2018, Figure 2: SE-BN-Inception); 0 for none, 16 in their paper.
        dropout: probability that a feature of the pooled vector is dropped, 0 to 1; the paper removes dropout.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        norm: Literal["none", "batch"] = "batch",
        skip: bool = False,
        se_reduction: int = 0,
        dropout: float = 0.0,
        in_channels: int = 3,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_choice("norm", norm, ("none", "batch"))
        self.stem = nn.Sequential(
            convolution(in_channels, 64, 7, 2, norm),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            convolution(64, 64, 1, 1, norm),
            convolution(64, 192, 3, 1, norm),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        channels = 192
        self.inception = nn.Sequential()
        for name, *row in MODULES:
            module = Inception(channels, *row, skip, norm)  # type: ignore[arg-type, call-arg]
            self.inception.add_module(str(name), module)
            channels = module.out_channels
            if se_reduction:
                module.se = SqueezeExcitation(channels, se_reduction)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < 7:
            raise ValueError(
                f"BN-Inception needs at least 7 x 7 pixels, got {x.shape[-2]} x {x.shape[-1]}: use larger images."
            )
        x = self.inception(self.stem(x))
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))


class Inception(nn.Module):
    """Branches side by side: 1x1; 1x1, 3x3; 1x1, 3x3, 3x3; pool, 1x1. [B, channels, H, W] -> [B, out_channels, H', W']

    The second 3x3 of the third branch replaces GoogLeNet's 5x5.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        single: int,
        reduce: int,
        middle: int,
        double_reduce: int,
        double: int,
        pooling: str,
        projection: int,
        skip: bool,
        norm: str,
    ) -> None:
        super().__init__()
        branches: list[nn.Module] = []
        if single:
            branches.append(convolution(channels, single, 1, 1, norm))
        branches.append(
            nn.Sequential(convolution(channels, reduce, 1, 1, norm), convolution(reduce, middle, 3, stride, norm))
        )
        branches.append(
            nn.Sequential(
                convolution(channels, double_reduce, 1, 1, norm),
                convolution(double_reduce, double, 3, 1, norm),
                convolution(double, double, 3, stride, norm),
            )
        )
        pool: nn.Module = nn.MaxPool2d(3, stride, 1) if pooling == "max" else nn.AvgPool2d(3, stride, 1)
        branches.append(nn.Sequential(pool, convolution(channels, projection, 1, 1, norm)) if projection else pool)
        self.branches = nn.ModuleList(branches)
        self.out_channels = single + middle + double + (projection or channels)
        self.se: nn.Module = nn.Identity()
        self.skip = skip and stride == 1 and self.out_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.se(torch.cat([branch(x) for branch in self.branches], dim=1))
        return out + x if self.skip else out


def convolution(channels: int, width: int, size: int, stride: int, norm: str) -> nn.Sequential:
    """Convolution, norm or none, ReLU; keeps the image size at stride 1."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, size, stride, size // 2, bias=norm == "none")]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(width))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions by fan-in, so that the network also starts without norms."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
