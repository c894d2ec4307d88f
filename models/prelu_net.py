"""PReLU-nets: VGG-like networks whose rectifiers learn their negative slope, under a spatial pyramid (He et al. 2015).

He, Zhang, Ren, Sun 2015, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification".
The pyramid is that of He et al. 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.alexnet import run_with_skips
from models.classifier import Classifier, check_choice, check_in_channels, undecayed
from models.resnet import calm_branches

FIRST_SLOPE = 0.25  # of PReLU's negative side (section 2.1)
SMALLEST = 16  # pixels, of which stride 2 and three poolings leave one
NATIVE_MAP = 14  # height and width of the last map of 224 x 224 pixels


class PReLUNet(Classifier):
    """7x7/2 convolution, 96 maps; 2x2 max pool and 3x3 convolutions, thrice; pyramid; two hidden layers; output.

    [B, in_channels, H, W] -> [B, num_classes], made for 224 x 224 pixels. PReLU follows every layer but the last. Table
    3: model A is `widths: [256, 512, 512]`, `depth: 5`; B has `depth: 6`; C is B with `widths: [384, 768, 896]`.

    Args:
        widths: maps of the convolutions of each of the three stages.
        depth: convolutions of each stage.
        pyramid: the last map is max-pooled to this many rows and columns, level by level, side by side.
        hidden: units of each hidden fully connected layer.
        activation: `prelu` learns a slope for every map or unit, not decayed, 0.25 at first; `relu` is its twin.
        norm: `batch` puts batch normalisation between each convolution and its activation; the paper has `none`.
        dropout: probability that a unit of a hidden layer is dropped, 0 to 1; the paper's is 0.5.
        skip: whether every two convolutions of a stage add their input before the second activation, new maps zero (He
            et al. 2015, "Deep Residual Learning", option A); of an odd number the first stays alone.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        widths: list[int] = [256, 512, 512],  # noqa: B006  (never changed; shown by --help)
        depth: int = 5,
        pyramid: list[int] = [7, 3, 2, 1],  # noqa: B006
        hidden: list[int] = [4096, 4096],  # noqa: B006
        activation: Literal["prelu", "relu"] = "prelu",
        norm: Literal["none", "batch"] = "none",
        dropout: float = 0.5,
        skip: bool = False,
        in_channels: int = 3,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_choice("activation", activation, ("prelu", "relu"))
        check_choice("norm", norm, ("none", "batch"))
        check_numbers(widths, depth, pyramid, hidden, skip)
        layers = convolution(in_channels, 96, 7, 2, norm, activation)
        channels = 96
        self.skips: dict[int, int] = {}  # index of the first convolution of a pair: last layer before the second PReLU
        for width in widths:
            layers.append(nn.MaxPool2d(2))
            starts = []
            for _ in range(depth):
                starts.append(len(layers))
                layers += convolution(channels, width, 3, 1, norm, activation)
                channels = width
            paired = starts[depth % 2 :]
            ends = [start + (norm == "batch") for start in paired[1::2]]
            self.skips.update(zip(paired[::2], ends, strict=True) if skip else ())
        self.features = nn.Sequential(*layers)
        self.pyramid = pyramid
        units = [channels * sum(level**2 for level in pyramid), *hidden]
        self.classifier = fully_connected(units, num_classes, activation, dropout)
        for layer in self.modules():
            initialise(layer, activation)
        if skip and norm == "none":
            calm_branches([self.features[end] for end in self.skips.values()])  # type: ignore[misc]

    def maps(self, x: Tensor) -> Tensor:
        """The last feature maps. [B, in_channels, H, W] -> [B, C, H / 16, W / 16]

        Raises:
            ValueError: the images are too small to be halved so often.
        """
        if min(x.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"PReLU-net needs at least {SMALLEST} x {SMALLEST} pixels, got {x.shape[-2]} x {x.shape[-1]}: set "
                "data.init_args.image_size to 224, as in the paper."
            )
        return run_with_skips(self.features, self.skips, x)

    def pooled(self, maps: Tensor) -> Tensor:
        """The spatial pyramid: every level's maxima, side by side. [B, C, h, w] -> [B, C * bins], 63 bins by default"""
        return torch.cat([F.adaptive_max_pool2d(maps, level).flatten(1) for level in self.pyramid], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pooled(self.maps(x)))

    def logit_maps(self, images: Tensor) -> Tensor:
        """The pyramid and what follows, of every 14 x 14 window of the last map ("multi-view testing on feature maps").

        He et al. 2014 pool some windows of the map, this paper all, as VGG does. No convolution can stand for a
        pyramid: windows are taken one row at a time.
        """
        maps = self.maps(images)
        height, width = (min(NATIVE_MAP, size) for size in maps.shape[-2:])
        windows = maps.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, h, w, height, width], a view
        rows = []
        for row in windows.unbind(2):
            row = row.transpose(1, 2)  # [B, w, C, height, width]
            rows.append(self.classifier(self.pooled(row.flatten(0, 1))).unflatten(0, row.shape[:2]))
        return torch.stack(rows, dim=1).permute(0, 3, 1, 2)  # [B, h, w, K] -> [B, K, h, w]

    def parameter_groups(self) -> Iterable[dict[str, Any]]:
        """As every network's, but without weight decay of the slopes, which would pull them to ReLU (section 2.1)."""
        spared = undecayed(self, norm=not self.decay_norm, bias=not self.decay_bias)
        spared.update(layer.weight for layer in self.modules() if isinstance(layer, nn.PReLU))
        groups: list[dict[str, Any]] = [{"params": [p for p in self.parameters() if p not in spared]}]
        if spared:
            groups.append({"params": [p for p in self.parameters() if p in spared], "weight_decay": 0.0})
        return groups


def convolution(channels: int, width: int, size: int, stride: int, norm: str, activation: str) -> list[nn.Module]:
    """`size` x `size` convolution with a bias, batch norm if `norm` is `batch`, activation."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, size, stride, padding=size // 2)]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(width))
    return [*layers, rectifier(activation, width)]


def fully_connected(units: list[int], num_classes: int, activation: str, dropout: float) -> nn.Sequential:
    """Linear, activation, dropout for every hidden layer, then linear to the classes."""
    layers: list[nn.Module] = []
    for fan_in, width in itertools.pairwise(units):
        layers += [nn.Linear(fan_in, width), rectifier(activation, width), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(units[-1], num_classes))


def rectifier(activation: str, width: int) -> nn.Module:
    """ReLU, or PReLU with a slope for each of `width` maps or units (channel-wise, section 2.1)."""
    return nn.PReLU(width, init=FIRST_SLOPE) if activation == "prelu" else nn.ReLU(inplace=True)


def initialise(layer: nn.Module, activation: str) -> None:
    """N(0, 2 / ((1 + a^2) n)), n inputs per unit and a the slope at the start; biases 0 (Equations 10 and 15)."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        slope = FIRST_SLOPE if activation == "prelu" else 0.0
        fan_in = layer.weight[0].numel()
        nn.init.normal_(layer.weight, 0, math.sqrt(2 / ((1 + slope**2) * fan_in)))
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def check_numbers(widths: list[int], depth: int, pyramid: list[int], hidden: list[int], skip: bool) -> None:
    """Refuse another number of stages than three, empty ones, and skips that would have to drop maps.

    Raises:
        ValueError: as said.
    """
    if len(widths) != 3 or min(widths) < 1:
        raise ValueError(f"widths (={widths}) must be three numbers of maps, 1 or more each: 256, 512, 512 in model A.")
    if depth < 1:
        raise ValueError(f"depth (={depth}) must be at least 1 convolution in every stage: 5 in model A, 6 in B and C.")
    if not pyramid or min(pyramid) < 1:
        raise ValueError(f"pyramid (={pyramid}) must have one level or more, each of 1 bin or more: 7, 3, 2, 1.")
    if min(hidden, default=1) < 1:
        raise ValueError(f"hidden (={hidden}) must be at least 1 unit in each hidden layer: 4096 in the paper.")
    if skip and depth % 2 == 0 and not 96 <= widths[0] <= widths[1] <= widths[2]:
        raise ValueError(
            f"skip (=True) pads new maps with zeros, so widths (=[96, {', '.join(map(str, widths))}]) must not shrink."
        )
