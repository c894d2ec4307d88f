"""Residual networks, with the shortcuts switchable: without them the same layers are the paper's plain network.

ResNet (He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition"), its plain twin, ResNeXt (Xie et al.
2017) and SE-ResNet (Hu et al. 2018). Units whose layers come in another order are in `models/preresnet.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import Classifier, check_choice, check_in_channels


class ResNet(Classifier):
    """Stem, stages of residual blocks, global average pool, linear output (He, Zhang, Ren, Sun 2015).

    [B, in_channels, H, W] -> [B, num_classes]. State-dict keys follow torchvision's `resnet.py`. Each stage after the
    first halves the image in its first block.

    - CIFAR ResNet-20 (section 4.2): `depths: [3, 3, 3]`, `widths: [16, 32, 64]`, `stem: cifar`, `shortcut: A`
    - ResNet-18 (Table 1): `depths: [2, 2, 2, 2]`, `widths: [64, 128, 256, 512]`
    - ResNet-50: `depths: [3, 4, 6, 3]`, the same widths, `block: bottleneck`; as in the paper with `stride_on: 1x1`
    - ResNeXt-50 32x4d: ResNet-50 with `groups: 32`, `group_width: 4`

    Args:
        depths: blocks in each stage.
        widths: channels of each stage; of a bottleneck's output 4 times as many.
        block: `basic` is two 3x3 convolutions, `bottleneck` 1x1, 3x3, 1x1 (Figure 5).
        stem: `cifar` is one 3x3 convolution; `imagenet` is 7x7, stride 2, then 3x3 max pooling, stride 2.
        shortcut: where a block changes the shape, `A` subsamples and pads new channels with zeros (no parameters),
            `B` projects by a 1x1 convolution; `C` projects in every block (section 3.3).
        stride_on: the convolution of a bottleneck that halves the image: the first `1x1` as in the paper (v1), or the
            `3x3` as in torchvision (v1.5), which keeps three quarters of the pixels from being skipped.
        groups: groups of a bottleneck's 3x3 convolution, ResNeXt's cardinality.
        group_width: channels of each group where `widths` is 64, and in proportion elsewhere.
        se_reduction: squeeze-and-excitation after each block's last convolution, its hidden layer so many times
            narrower than the block's output; 0 for none, 16 in the paper.
        blur: a 3x3 binomial filter before every convolution in a block that halves the image (Zhang 2019); the stem's
            convolution and shortcut A have none, as in FFCV's ImageNet networks.
        zero_init_residual: the last norm of each block starts with scale 0, so that blocks start as their shortcuts
            (Goyal et al. 2017, section 5.1); needs `norm: batch` and `skip: true`.
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
        block: Literal["basic", "bottleneck"] = "basic",
        stem: Literal["cifar", "imagenet"] = "imagenet",
        shortcut: Literal["A", "B", "C"] = "B",
        stride_on: Literal["1x1", "3x3"] = "3x3",
        groups: int = 1,
        group_width: int = 64,
        se_reduction: int = 0,
        blur: bool = False,
        zero_init_residual: bool = False,
        skip: bool = True,
        norm: Literal["none", "batch"] = "batch",
        dropout: float = 0.0,
        in_channels: int = 3,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_stages(depths, widths)
        check_choice("block", block, ("basic", "bottleneck"))
        check_choice("stem", stem, ("cifar", "imagenet"))
        check_choice("shortcut", shortcut, ("A", "B", "C"))
        check_choice("stride_on", stride_on, ("1x1", "3x3"))
        check_choice("norm", norm, ("none", "batch"))
        check_bottleneck_switches(block, stride_on, groups, group_width)
        if zero_init_residual and (norm == "none" or not skip):
            raise ValueError(
                f"zero_init_residual (=True) needs norm: batch (={norm}), whose scales it sets, and skip: true "
                f"(={skip}), without which every block would be silent for ever: set it to false."
            )
        self.stem = stem
        self.conv1, self.maxpool = stem_layers(stem, in_channels, widths[0], norm)
        self.bn1 = batch_norm(widths[0], norm)
        self.relu = nn.ReLU(inplace=True)
        self.stages = len(depths)
        switches: dict[str, Any] = {"shortcut": shortcut, "skip": skip, "norm": norm, "blur": blur}
        channels = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                if block == "basic":
                    unit: BasicBlock | Bottleneck = BasicBlock(channels, width, stride, **switches)
                else:
                    inner = inner_channels(width, groups, group_width)
                    unit = Bottleneck(channels, width, stride, inner, groups, stride_on, **switches)
                channels = unit.out_channels
                if se_reduction:
                    unit.se = SqueezeExcitation(channels, se_reduction)
                blocks.append(unit)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self.apply(initialise)
        if zero_init_residual:
            for unit in self.blocks():
                nn.init.zeros_(unit.last_norm.weight)  # type: ignore[arg-type]
        if skip and norm == "none":
            calm_branches([unit.last_convolution for unit in self.blocks()])

    def blocks(self) -> list[BasicBlock | Bottleneck]:
        """Every residual block, first to last."""
        return [module for module in self.modules() if isinstance(module, BasicBlock | Bottleneck)]

    def features(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, C, h, w], 32 times smaller with the ImageNet stem and 4 stages."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.avgpool(self.features(x)).flatten(1)))

    def logit_maps(self, images: Tensor) -> Tensor:
        return pooled_logit_maps(self.features(images), self.fc, native_map_size(self.stem, self.stages))


class BasicBlock(nn.Module):
    """3x3, BN, ReLU, 3x3, BN, (squeeze-and-excitation,) plus the input if `skip`, ReLU (Figure 5, left).

    [B, channels, H, W] -> [B, width, H/stride, W/stride]
    """

    def __init__(
        self, channels: int, width: int, stride: int, shortcut: str, skip: bool, norm: str, blur: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = convolution(channels, width, 3, stride, norm, blur=blur)
        self.bn1 = batch_norm(width, norm)
        self.conv2 = convolution(width, width, 3, 1, norm)
        self.bn2 = batch_norm(width, norm)
        self.relu = nn.ReLU(inplace=True)
        self.se: nn.Module = nn.Identity()
        self.skip = skip
        self.out_channels = width
        self.downsample = shortcut_layer(channels, width, stride, shortcut, norm, blur) if skip else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        if self.skip:
            out = out + self.downsample(x)
        return self.relu(out)

    @property
    def last_convolution(self) -> nn.Conv2d:
        """What the block adds to its shortcut comes from here."""
        return self.conv2

    @property
    def last_norm(self) -> nn.Module:
        """The norm of `last_convolution`."""
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, BN, ReLU, 3x3 in groups, BN, ReLU, 1x1, BN, (squeeze-and-excitation,) plus the input if `skip`, ReLU.

    [B, channels, H, W] -> [B, 4 width, H/stride, W/stride] (Figure 5, right; with groups Xie et al. 2017, Figure 3c).
    `inner` is the number of channels of the 3x3 convolution.
    """

    expansion = 4

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        inner: int,
        groups: int,
        stride_on: str,
        shortcut: str,
        skip: bool,
        norm: str,
        blur: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = self.expansion * width
        strides = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.conv1 = convolution(channels, inner, 1, strides[0], norm, blur=blur)
        self.bn1 = batch_norm(inner, norm)
        self.conv2 = convolution(inner, inner, 3, strides[1], norm, groups, blur)
        self.bn2 = batch_norm(inner, norm)
        self.conv3 = convolution(inner, self.out_channels, 1, 1, norm)
        self.bn3 = batch_norm(self.out_channels, norm)
        self.relu = nn.ReLU(inplace=True)
        self.se: nn.Module = nn.Identity()
        self.skip = skip
        self.downsample = (
            shortcut_layer(channels, self.out_channels, stride, shortcut, norm, blur) if skip else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        if self.skip:
            out = out + self.downsample(x)
        return self.relu(out)

    @property
    def last_convolution(self) -> nn.Conv2d:
        """What the block adds to its shortcut comes from here."""
        return self.conv3

    @property
    def last_norm(self) -> nn.Module:
        """The norm of `last_convolution`."""
        return self.bn3


class SqueezeExcitation(nn.Module):
    """Every channel times a factor in (0, 1) made of all channels' means (Hu et al. 2018, Figure 3). Keeps the shape.

    Mean over the map, linear to `channels / reduction`, ReLU, linear back, sigmoid.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(
                f"se_reduction (={reduction}) must lie between 1 and the {channels} channels of every block, or be 0 "
                "for no squeeze-and-excitation."
            )
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        factors = self.fc2(F.relu(self.fc1(x.mean((2, 3))))).sigmoid()
        return x * factors[:, :, None, None]


class ZeroPadShortcut(nn.Module):
    """Shortcut A: every `stride`-th pixel, new channels zero. [B, C, H, W] -> [B, width, H/stride, W/stride]"""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = width - channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def shortcut_layer(
    channels: int, width: int, stride: int, shortcut: str, norm: str, blur: bool = False
) -> nn.Sequential | ZeroPadShortcut | nn.Identity:
    """The layer on the skip path of a block from `channels` to `width`: option A, B or C of section 3.3."""
    if shortcut != "C" and stride == 1 and channels == width:
        return nn.Identity()
    if shortcut == "A":
        if width < channels:
            raise ValueError(f"shortcut A pads channels, so widths must not shrink: {channels} to {width}. Use B.")
        return ZeroPadShortcut(channels, width, stride)
    return nn.Sequential(convolution(channels, width, 1, stride, norm, blur=blur), batch_norm(width, norm))


def stem_layers(stem: str, in_channels: int, width: int, norm: str) -> tuple[nn.Conv2d, nn.Module]:
    """First convolution and pooling: 3x3 and none for `cifar`; 7x7, stride 2, and 3x3, stride 2, for `imagenet`."""
    if stem == "cifar":
        return convolution(in_channels, width, 3, 1, norm), nn.Identity()
    return convolution(in_channels, width, 7, 2, norm), nn.MaxPool2d(3, stride=2, padding=1)


def convolution(
    channels: int, width: int, size: int, stride: int, norm: str, groups: int = 1, blur: bool = False
) -> nn.Conv2d:
    """`size` x `size` convolution that keeps the image size at stride 1; where a norm follows, it has no bias."""
    layer = BlurredConv2d if blur and stride > 1 else nn.Conv2d
    return layer(channels, width, size, stride, padding=size // 2, groups=groups, bias=norm == "none")


class BlurredConv2d(nn.Conv2d):
    """A convolution with stride whose input is smoothed first, by [1 2 1] x [1 2 1] / 16 (Zhang 2019, "BlurPool")."""

    blur: Tensor

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        binomial = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("blur", binomial[:, None] * binomial, persistent=False)  # on the device, to wait for none

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.blur.expand(x.shape[1], 1, 3, 3)
        return super().forward(F.conv2d(x, kernel, padding=1, groups=x.shape[1]))


def batch_norm(width: int, norm: str) -> nn.Module:
    """The layer after a convolution: batch normalisation, or nothing where `norm` is `none`."""
    return nn.BatchNorm2d(width) if norm == "batch" else nn.Identity()


def native_map_size(stem: str, stages: int) -> int:
    """Height and width of the last map for images of the size the stem was made for: 32 for `cifar`, 224 else."""
    return (32 if stem == "cifar" else 224 // 4) // 2 ** (stages - 1)


def pooled_logit_maps(features: Tensor, fc: nn.Linear, native_map: int) -> Tensor:
    """`fc` of the mean over every `native_map` x `native_map` window of `features` [B, C, h, w]. [B, K, h', w']

    The windows slide by 1: what the network says, without dropout, at every place of an image larger than those it was
    made for. Smaller maps give one position.
    """
    window = (min(native_map, features.shape[2]), min(native_map, features.shape[3]))
    return F.conv2d(F.avg_pool2d(features, window, stride=1), fc.weight[:, :, None, None], fc.bias)


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions (He et al. 2015, "Delving Deep into Rectifiers"), by fan-out as torchvision."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def calm_branches(last_convolutions: Sequence[nn.Conv2d]) -> None:
    """Divide the kernels of the last convolution of each of L residual branches by the root of L, in place.

    Without norms every block doubles the variance, 2^L in all, and a deep network starts with logits in the thousands;
    with branches of variance 1/L it is (1 + 1/L)^L, less than e (Hanin, Rolnick 2018; Zhang, Dauphin, Ma 2019).
    """
    with torch.no_grad():
        for layer in last_convolutions:
            layer.weight /= math.sqrt(len(last_convolutions))


def check_stages(depths: list[int], widths: list[int]) -> None:
    """Refuse stages that do not match.

    Raises:
        ValueError: as said.
    """
    if len(depths) != len(widths) or not 1 <= len(depths) <= 4:
        raise ValueError(f"depths (={depths}) and widths (={widths}) must name the same stages, 1 to 4 of them.")
    if min(depths) < 1:
        raise ValueError(f"depths (={depths}) must be at least 1 block in every stage.")
    if min(widths) < 1:
        raise ValueError(f"widths (={widths}) must be at least 1 channel in every stage.")


def inner_channels(width: int, groups: int, group_width: int) -> int:
    """Channels of a bottleneck's 3x3 convolution, all groups together.

    Raises:
        ValueError: a group would hold no channel.
    """
    if width * group_width < 64:
        raise ValueError(
            f"group_width (={group_width}) must be at least 64 / {width} where widths has {width}, so that each group "
            "holds a channel: it counts where widths is 64, and is in proportion elsewhere."
        )
    return width * group_width // 64 * groups


def check_bottleneck_switches(block: str, stride_on: str, groups: int, group_width: int) -> None:
    """Refuse settings of a bottleneck where there is none, and numbers below 1.

    Raises:
        ValueError: as said.
    """
    if groups < 1 or group_width < 1:
        raise ValueError(
            f"groups (={groups}) and group_width (={group_width}) must be at least 1: 1 and 64 for ResNet."
        )
    if block == "basic" and (groups, group_width, stride_on) != (1, 64, "3x3"):
        raise ValueError(
            f"groups (={groups}), group_width (={group_width}) and stride_on (={stride_on}) belong to block: "
            "bottleneck; with block: basic leave them at 1, 64 and 3x3."
        )
