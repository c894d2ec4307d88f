"""Residual networks, with the shortcuts switchable: without them the same layers are the paper's plain network."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import Classifier, check_choice


class ResNet(Classifier):
    """Stem, stages of residual blocks, global average pool, linear output (He, Zhang, Ren, Sun 2015).

    [B, in_channels, H, W] -> [B, num_classes]. State-dict keys follow torchvision's `resnet.py`. Each stage after the
    first halves the image in its first block. CIFAR ResNet-20 (section 4.2) is `stem: cifar`, `depths: [3, 3, 3]`,
    `widths: [16, 32, 64]`, `shortcut: A`; ResNet-18 (Table 1) is `stem: imagenet`, `depths: [2, 2, 2, 2]`,
    `widths: [64, 128, 256, 512]`, `shortcut: B`.

    Args:
        depths: blocks in each stage.
        widths: channels of each stage.
        stem: `cifar` is one 3x3 convolution; `imagenet` is 7x7, stride 2, then 3x3 max pooling, stride 2.
        shortcut: where a block changes the shape, `A` subsamples and pads new channels with zeros (no parameters),
            `B` projects by a 1x1 convolution (section 3.3).
        skip: whether blocks add their input; off gives the plain network, with the same parameters under shortcut A.
        norm: `batch` normalises after every convolution; `none` does not, and gives convolutions a bias instead.
        dropout: probability that a feature of the pooled vector is dropped, 0 to 1; the paper uses none.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        depths: list[int],
        widths: list[int],
        stem: Literal["cifar", "imagenet"] = "imagenet",
        shortcut: Literal["A", "B"] = "B",
        skip: bool = True,
        norm: Literal["none", "batch"] = "batch",
        dropout: float = 0.0,
        in_channels: int = 3,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        if len(depths) != len(widths) or not 1 <= len(depths) <= 4:
            raise ValueError(f"depths (={depths}) and widths (={widths}) must name the same stages, 1 to 4 of them.")
        if min(depths) < 1:
            raise ValueError(f"depths (={depths}) must be at least 1 block in every stage.")
        check_choice("stem", stem, ("cifar", "imagenet"))
        check_choice("shortcut", shortcut, ("A", "B"))
        check_choice("norm", norm, ("none", "batch"))
        if stem == "cifar":
            self.conv1 = convolution(in_channels, widths[0], 3, 1, norm)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = convolution(in_channels, widths[0], 7, 2, norm)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = batch_norm(widths[0], norm)
        self.relu = nn.ReLU(inplace=True)
        self.stages = len(depths)
        channels = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(BasicBlock(channels, width, stride, shortcut, skip, norm))
                channels = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(self.dropout(self.avgpool(x).flatten(1)))


class BasicBlock(nn.Module):
    """3x3, BN, ReLU, 3x3, BN, plus the input if `skip`, ReLU (Figure 5, left)."""

    def __init__(self, channels: int, width: int, stride: int, shortcut: str, skip: bool, norm: str) -> None:
        super().__init__()
        self.conv1 = convolution(channels, width, 3, stride, norm)
        self.bn1 = batch_norm(width, norm)
        self.conv2 = convolution(width, width, 3, 1, norm)
        self.bn2 = batch_norm(width, norm)
        self.relu = nn.ReLU(inplace=True)
        self.skip = skip
        self.downsample: nn.Module = nn.Identity()
        if skip and (stride != 1 or channels != width):
            self.downsample = shortcut_layer(channels, width, stride, shortcut, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.skip:
            out = out + self.downsample(x)
        return self.relu(out)


class ZeroPadShortcut(nn.Module):
    """Shortcut A: every `stride`-th pixel, new channels zero. [B, C, H, W] -> [B, width, H/stride, W/stride]"""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = width - channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def shortcut_layer(channels: int, width: int, stride: int, shortcut: str, norm: str) -> nn.Module:
    """The layer on the skip path of a block that changes shape: option A or B of section 3.3."""
    if shortcut == "A":
        if width < channels:
            raise ValueError(f"shortcut A pads channels, so widths must not shrink: {channels} to {width}. Use B.")
        return ZeroPadShortcut(channels, width, stride)
    return nn.Sequential(convolution(channels, width, 1, stride, norm), batch_norm(width, norm))


def convolution(channels: int, width: int, size: int, stride: int, norm: str) -> nn.Conv2d:
    """`size` x `size` convolution that keeps the image size at stride 1; where a norm follows, it has no bias."""
    return nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=norm == "none")


def batch_norm(width: int, norm: str) -> nn.Module:
    """The layer after a convolution: batch normalisation, or nothing where `norm` is `none`."""
    return nn.BatchNorm2d(width) if norm == "batch" else nn.Identity()


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions (He et al. 2015, "Delving Deep into Rectifiers"), by fan-out as torchvision."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
