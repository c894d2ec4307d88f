"""Residual units in five orders (He, Zhang, Ren, Sun 2016, "Identity Mappings in Deep Residual Networks", Figure 4).

The original order is also `models/resnet.py`'s, with torchvision's names. Here the place of each norm and ReLU is the
experiment, and full pre-activation is the one that trains a thousand layers.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from models.classifier import Classifier, check_choice
from models.resnet import (
    ZeroPadShortcut,
    batch_norm,
    calm_branches,
    check_stages,
    convolution,
    initialise,
    pooled_logit_maps,
    stem_layers,
)

ORDERS = (
    "original", "batch_norm_after_addition", "relu_before_addition", "relu_only_preactivation", "full_preactivation",
)  # fmt: skip

Order = Literal[
    "original", "batch_norm_after_addition", "relu_before_addition", "relu_only_preactivation", "full_preactivation"
]


class PreResNet(Classifier):
    """Stem, stages of residual units, (BN, ReLU,) global average pool, linear output.

    [B, in_channels, H, W] -> [B, num_classes]. Pre-activation ResNet-164 (Table 2) is `depths: [18, 18, 18]`,
    `widths: [16, 32, 64]`, `unit: bottleneck`; ResNet-110 is the same with `unit: basic`, and with
    `depths: [36, 36, 36]`, `unit: single` for the 1-layer unit of Table 3; ResNet-1001 has `depths: [111, 111, 111]`.

    Args:
        depths: units in each stage.
        widths: channels of each stage; of a bottleneck's output 4 times as many.
        unit: `single` is one 3x3 convolution, `basic` two, `bottleneck` 1x1, 3x3, 1x1.
        order: how convolutions, norms, ReLUs and the addition follow each other (Figure 4, a to e).
        stem: `cifar` is one 3x3 convolution; `imagenet` is 7x7, stride 2, then 3x3 max pooling, stride 2.
        shortcut: where a unit changes the shape, `A` subsamples and pads new channels with zeros (no parameters), `B`
            projects by a 1x1 convolution; with either pre-activation the projection sees the activated input.
        skip: whether units add their input; off gives the plain network, with the same parameters under shortcut A.
        norm: `batch`, or `none`, which gives convolutions a bias instead.
        dropout: probability that a feature of the pooled vector is dropped, 0 to 1; the paper uses none.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        depths: list[int],
        widths: list[int],
        unit: Literal["single", "basic", "bottleneck"] = "basic",
        order: Order = "full_preactivation",
        stem: Literal["cifar", "imagenet"] = "cifar",
        shortcut: Literal["A", "B"] = "A",
        skip: bool = True,
        norm: Literal["none", "batch"] = "batch",
        dropout: float = 0.0,
        in_channels: int = 3,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_stages(depths, widths)
        check_choice("unit", unit, ("single", "basic", "bottleneck"))
        check_choice("order", order, ORDERS)
        check_choice("stem", stem, ("cifar", "imagenet"))
        check_choice("shortcut", shortcut, ("A", "B"))
        check_choice("norm", norm, ("none", "batch"))
        self.stem = stem
        self.conv1, self.maxpool = stem_layers(stem, in_channels, widths[0], norm)
        # The first unit of a pre-activation network would activate the stem's output a second time: it takes it bare.
        activated = order in ("full_preactivation", "relu_only_preactivation")
        self.bn1 = nn.Identity() if activated else batch_norm(widths[0], norm)
        self.relu = nn.Identity() if activated else nn.ReLU(inplace=True)
        self.stages = len(depths)
        channels = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            units = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                units.append(ResidualUnit(channels, width, stride, unit, order, shortcut, skip, norm))
                channels = units[-1].out_channels
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.last_bn = batch_norm(channels, norm if order == "full_preactivation" else "none")
        self.last_relu = nn.ReLU(inplace=True) if activated else nn.Identity()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(initialise)
        if skip and norm == "none":
            calm_branches([unit.last_convolution for unit in self.modules() if isinstance(unit, ResidualUnit)])

    def features(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, C, h, w]"""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.last_relu(self.last_bn(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.avgpool(self.features(x)).flatten(1)))

    def logit_maps(self, images: Tensor) -> Tensor:
        return pooled_logit_maps(self.features(images), self.fc, native_map=8 if self.stem == "cifar" else 7)


class ResidualUnit(nn.Module):
    """One, two or three convolutions, added to the input if `skip`, in one of the five orders of Figure 4.

    [B, channels, H, W] -> [B, out_channels, H/stride, W/stride]. For two convolutions:

    - `original`: conv, BN, ReLU, conv, BN, add, ReLU
    - `batch_norm_after_addition`: conv, BN, ReLU, conv, add, BN, ReLU
    - `relu_before_addition`: conv, BN, ReLU, conv, BN, ReLU, add
    - `relu_only_preactivation`: ReLU, conv, BN, ReLU, conv, BN, add
    - `full_preactivation`: BN, ReLU, conv, BN, ReLU, conv, add
    """

    def __init__(
        self, channels: int, width: int, stride: int, unit: str, order: str, shortcut: str, skip: bool, norm: str
    ) -> None:
        super().__init__()
        self.out_channels = 4 * width if unit == "bottleneck" else width
        widths = {"single": [width], "basic": [width, width], "bottleneck": [width, width, self.out_channels]}[unit]
        sizes = [1, 3, 1] if unit == "bottleneck" else [3] * len(widths)
        seen = [channels, *widths[:-1]]
        strides = [stride] + [1] * (len(widths) - 1)
        self.order = order
        self.skip = skip
        # Biases serve only where no norm follows the convolution before the next one; the shortcut's norm comes later.
        self.convolutions = nn.ModuleList(map(convolution, seen, widths, sizes, strides, [norm] * len(widths)))
        normed = seen if order == "full_preactivation" else widths
        self.norms = nn.ModuleList(batch_norm(count, norm) for count in normed)
        self.relu = nn.ReLU()
        self.shortcut = self._shortcut(channels, stride, shortcut, norm) if skip else nn.Identity()

    def _shortcut(self, channels: int, stride: int, shortcut: str, norm: str) -> nn.Module:
        """Identity, or option A or B of the first paper; B without a norm where units leave the sum un-normed."""
        if stride == 1 and channels == self.out_channels:
            return nn.Identity()
        if shortcut == "A":
            if self.out_channels < channels:
                raise ValueError(
                    f"shortcut A pads channels, so widths must not shrink: {channels} to {self.out_channels}. Use B."
                )
            return ZeroPadShortcut(channels, self.out_channels, stride)
        projection = convolution(channels, self.out_channels, 1, stride, norm)
        if self.order in ("full_preactivation", "batch_norm_after_addition"):
            return projection
        return nn.Sequential(projection, batch_norm(self.out_channels, norm))

    @property
    def last_convolution(self) -> nn.Module:
        """What the unit adds to its shortcut comes from here."""
        return self.convolutions[-1]

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "full_preactivation":
            return self._preactivated(x)
        first_relu = self.order == "relu_only_preactivation"
        out = self.relu(x) if first_relu else x
        shared = out if first_relu and not isinstance(self.shortcut, nn.Identity | ZeroPadShortcut) else x
        last = len(self.convolutions) - 1
        for index, (layer, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            out = layer(out)
            if index < last:
                out = self.relu(norm(out))
        if self.order == "batch_norm_after_addition":
            return self.relu(self.norms[last](self._added(out, shared)))
        out = self.norms[last](out)
        if self.order == "relu_before_addition":
            return self._added(self.relu(out), shared)
        out = self._added(out, shared)
        return out if first_relu else self.relu(out)

    def _preactivated(self, x: Tensor) -> Tensor:
        out = x
        for norm, layer in zip(self.norms, self.convolutions, strict=True):
            activated = self.relu(norm(out))
            if layer is self.convolutions[0] and isinstance(self.shortcut, nn.Conv2d):
                x = activated  # a projection sees what the convolution beside it sees (the paper's appendix)
            out = layer(activated)
        return self._added(out, x)

    def _added(self, out: Tensor, x: Tensor) -> Tensor:
        return out + self.shortcut(x) if self.skip else out
