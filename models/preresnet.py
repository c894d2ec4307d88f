"""Residual units in five orders (He, Zhang, Ren, Sun 2016, "Identity Mappings in Deep Residual Networks", Figure 4).

The original order is also `models/resnet.py`'s, with torchvision's names. Here the place of each norm and ReLU is the
experiment, and full pre-activation is the one that trains a thousand layers. A branch may end in
squeeze-and-excitation, as in the CIFAR networks of Hu, Shen, Albanie, Sun, Wu 2018.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from models.classifier import Classifier, check_choice, check_in_channels
from models.resnet import (
    SqueezeExcitation,
    batch_norm,
    calm_branches,
    check_stages,
    convolution,
    initialise,
    native_map_size,
    pooled_logit_maps,
    shortcut_layer,
    stem_layers,
)

Order = Literal[
    "original", "batch_norm_after_addition", "relu_before_addition", "relu_only_preactivation", "full_preactivation"
]

# Figure 4, a to e: what comes before the first convolution, after the last one, and after the addition. Between the
# convolutions there is always a norm and a ReLU.
ORDERS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "original": ([], ["norm"], ["relu"]),
    "batch_norm_after_addition": ([], [], ["norm", "relu"]),
    "relu_before_addition": ([], ["norm", "relu"], []),
    "relu_only_preactivation": (["relu"], ["norm"], []),
    "full_preactivation": (["norm", "relu"], [], []),
}


class PreResNet(Classifier):
    """Stem, stages of residual units, global average pool, linear output; ReLU after the stem or before the pool.

    [B, in_channels, H, W] -> [B, num_classes]. Each stage after the first halves the image in its first unit.

    - pre-activation ResNet-164 (Table 2): `depths: [18, 18, 18]`, `widths: [16, 32, 64]`, `unit: bottleneck`,
      `shortcut: B`; ResNet-1001 has 111 units in each stage
    - ResNet-110: the depths and widths of ResNet-164, `unit: basic`; with the 1-layer units of Table 3
      `depths: [36, 36, 36]`, `unit: single`
    - SE-ResNet-110 and -164 (Hu et al. 2018, Table 4): these with `se_reduction: 16`

    Pre-activation leaves the stem's output to the first unit, whose norm and ReLU come before its two paths part, and
    follows the last unit by another ReLU, full pre-activation by another norm too (the paper's appendix).

    Args:
        depths: units in each stage.
        widths: channels of each stage; of a bottleneck's output 4 times as many.
        unit: `single` is one 3x3 convolution, `basic` two, `bottleneck` 1x1, 3x3, 1x1; the first one has the stride.
        order: how convolutions, norms, ReLUs and the addition follow each other (Figure 4, a to e).
        stem: `cifar` is one 3x3 convolution; `imagenet` is 7x7, stride 2, then 3x3 max pooling, stride 2.
        shortcut: where a unit changes the shape, `A` subsamples and pads new channels with zeros (no parameters), `B`
            projects by a 1x1 convolution. With pre-activation the projection sees the activated input, as in the code
            that the authors released (KaimingHe/resnet-1k-layers).
        se_reduction: squeeze-and-excitation at the end of each unit's branch, before the addition, "the non-identity
            branch of a residual module" (Hu et al. 2018, section 3.3); its hidden layer is so many times narrower than
            the unit's output, 16 in that paper. None or 0 for none.
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
        se_reduction: int | None = None,
        skip: bool = True,
        norm: Literal["none", "batch"] = "batch",
        dropout: float = 0.0,
        in_channels: int = 3,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_stages(depths, widths)
        check_choice("unit", unit, ("single", "basic", "bottleneck"))
        check_choice("order", order, tuple(ORDERS))
        check_choice("stem", stem, ("cifar", "imagenet"))
        check_choice("shortcut", shortcut, ("A", "B"))
        check_choice("norm", norm, ("none", "batch"))
        preactivated = order in ("relu_only_preactivation", "full_preactivation")
        self.stem = stem
        self.conv1, self.maxpool = stem_layers(stem, in_channels, widths[0], norm)
        self.after_stem = nn.Sequential() if preactivated else layers(["norm", "relu"], widths[0], norm)
        self.stages = len(depths)
        channels = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            units = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                first = stage == 1 and index == 0
                units.append(
                    ResidualUnit(channels, width, stride, unit, order, shortcut, skip, norm, first, se_reduction)
                )
                channels = units[-1].out_channels
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.before_pool = layers(ORDERS[order][0], channels, norm)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(initialise)
        if skip and norm == "none":
            calm_branches([module.last_convolution for module in self.modules() if isinstance(module, ResidualUnit)])

    def features(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, C, h, w]"""
        x = self.maxpool(self.after_stem(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.before_pool(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.avgpool(self.features(x)).flatten(1)))

    def logit_maps(self, images: Tensor) -> Tensor:
        return pooled_logit_maps(self.features(images), self.fc, native_map_size(self.stem, self.stages))


class ResidualUnit(nn.Module):
    """One, two or three convolutions, added to the input if `skip`, in one of the five orders of Figure 4.

    [B, channels, H, W] -> [B, out_channels, H/stride, W/stride]. For two convolutions:

    - `original`: conv, BN, ReLU, conv, BN, add, ReLU
    - `batch_norm_after_addition`: conv, BN, ReLU, conv, add, BN, ReLU
    - `relu_before_addition`: conv, BN, ReLU, conv, BN, ReLU, add
    - `relu_only_preactivation`: ReLU, conv, BN, ReLU, conv, BN, add
    - `full_preactivation`: BN, ReLU, conv, BN, ReLU, conv, add

    With `se_reduction`, squeeze-and-excitation comes right before "add", in every order.

    What is added is the input as it came. After the pre-activation it is taken in the `first` unit of a network, and
    where it is projected. A projection has a norm where the branch ends in one.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        unit: str,
        order: str,
        shortcut: str,
        skip: bool,
        norm: str,
        first: bool = False,
        se_reduction: int | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = 4 * width if unit == "bottleneck" else width
        widths = {"single": [width], "basic": [width, width], "bottleneck": [width, width, self.out_channels]}[unit]
        sizes = [1, 3, 1] if unit == "bottleneck" else [3] * len(widths)
        before, last, after = ORDERS[order]
        self.before = layers(before, channels, norm, in_place=False)  # the shortcut may need the input as it came
        self.branch = nn.Sequential(convolution(channels, widths[0], sizes[0], stride, norm))
        for seen, wide, size in zip(widths, widths[1:], sizes[1:], strict=False):
            self.branch += layers(["norm", "relu"], seen, norm)
            self.branch.append(convolution(seen, wide, size, 1, norm))
        self.branch += layers(last, self.out_channels, norm)
        self.se: nn.Module = SqueezeExcitation(self.out_channels, se_reduction) if se_reduction else nn.Identity()
        self.after = layers(after, self.out_channels, norm)
        self.skip = skip
        self.shortcut: nn.Module = nn.Identity()
        if skip:
            self.shortcut = shortcut_layer(channels, self.out_channels, stride, shortcut, norm)
        projected = isinstance(self.shortcut, nn.Sequential)
        if projected and "norm" not in last:
            self.shortcut = self.shortcut[0]  # type: ignore[index]
        self.adds_activated = first or projected

    @property
    def last_convolution(self) -> nn.Conv2d:
        """What the unit adds to its shortcut comes from here."""
        return [layer for layer in self.branch if isinstance(layer, nn.Conv2d)][-1]

    def forward(self, x: Tensor) -> Tensor:
        activated = self.before(x)
        out = self.se(self.branch(activated))
        if self.skip:
            out = out + self.shortcut(activated if self.adds_activated else x)
        return self.after(out)


def layers(names: list[str], channels: int, norm: str, in_place: bool = True) -> nn.Sequential:
    """`norm` and `relu` layers for maps of `channels` channels, in the order of `names`."""
    made = {"norm": lambda: batch_norm(channels, norm), "relu": lambda: nn.ReLU(in_place)}
    return nn.Sequential(*(made[name]() for name in names))
