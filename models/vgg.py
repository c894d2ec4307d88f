"""VGG: stages of 3x3 convolutions and 2x2 max pooling, then fully connected layers (Simonyan, Zisserman 2015)."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.alexnet import LocalResponseNorm, run_with_skips, slide
from models.classifier import Classifier, check_choice, check_in_channels, read_state
from models.resnet import calm_branches

# Table 1 of the paper, column by column: maps of 3x3 convolutions, and in C of 1x1 convolutions too.
COLUMNS: dict[str, list[list[int | str]]] = {
    "A": [[64], [128], [256, 256], [512, 512], [512, 512]],
    "B": [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]],
    "C": [[64, 64], [128, 128], [256, 256, "conv1-256"], [512, 512, "conv1-512"], [512, 512, "conv1-512"]],
    "D": [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]],
    "E": [[64, 64], [128, 128], [256, 256, 256, 256], [512, 512, 512, 512], [512, 512, 512, 512]],
}

# The layers of net A that deeper nets start from (section 3.1): stage, place in it, and index in A's `features`.
COPIED_CONVOLUTIONS = ((0, 0, 0), (1, 0, 3), (2, 0, 6), (2, 1, 8))


class VGG(Classifier):
    """For each stage: its 3x3 convolutions with ReLU, 2x2 max pool. Then hidden layers with ReLU and dropout, output.

    [B, in_channels, H, W] -> [B, num_classes]. Layers and state-dict keys follow torchvision's `vgg.py`, so net A is
    `stages: [[64], [128], [256, 256], [512, 512], [512, 512]]`, `hidden: [4096, 4096]`, `pooled_size: 7`.

    Args:
        stages: width of every convolution, a list per stage. They are 3x3; `conv1-256` is the paper's name of a 1x1
            convolution of width 256.
        hidden: units of each hidden fully connected layer.
        pooled_size: the last feature map is averaged to this height and width before the fully connected layers.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        norm: `batch` puts batch normalisation between convolution and ReLU; `lrn` AlexNet's local response norm after
            the first ReLU, which makes A-LRN of A.
        dropout: probability that a unit of a hidden layer is dropped, 0 to 1; the paper's is 0.5.
        skip: whether every two convolutions of a stage add their input before the second ReLU, new maps zero (He et al.
            2015, option A). Of an odd number the first stays alone. Without batch norm they start calmed, as in ResNet.
        init: first weights. `he` is torchvision's: He's for convolutions, N(0, 0.01) for linear layers. `xavier` is
            Glorot's, which the paper recommends in hindsight. `gaussian` is N(0, 0.01) throughout, with which nets
            deeper than A need `start_from`.
        start_from: file with the weights of a trained net A without norm, whose first four convolutions and three
            linear layers are copied (section 3.1); needs `init: gaussian`, from which the others are drawn.
        column: A, B, C, D or E instead of `stages`: the column of Table 1. A-LRN is A with `norm: lrn`.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        stages: list[list[int | str]] | None = None,
        hidden: list[int] = [4096, 4096],  # noqa: B006  (never changed; shown by --help)
        pooled_size: int = 7,
        in_channels: int = 3,
        norm: Literal["none", "batch", "lrn"] = "none",
        dropout: float = 0.5,
        skip: bool = False,
        init: Literal["he", "xavier", "gaussian"] = "he",
        start_from: str | None = None,
        column: str | None = None,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_choice("norm", norm, ("none", "batch", "lrn"))
        check_choice("init", init, ("he", "xavier", "gaussian"))
        check_start(start_from, init, self.weights)
        stages = choose_stages(stages, column)
        self.stages = [[kernel_and_width(layer) for layer in stage] for stage in stages]
        self.smallest = 2 ** len(stages)
        self.start_from = start_from
        self.features = convolutions(self.stages, in_channels, norm)
        self.skips = skips_of_pairs(self.features) if skip else {}
        self.avgpool = nn.AdaptiveAvgPool2d(pooled_size)
        self.pooled_size = pooled_size
        self.classifier = fully_connected([self.stages[-1][-1][1] * pooled_size**2, *hidden], num_classes, dropout)
        for layer in self.modules():
            initialise(layer, init)
        if skip and norm != "batch":
            calm_branches([self.features[last] for last in self.skips.values()])  # type: ignore[misc]

    def maps(self, x: Tensor) -> Tensor:
        """The last feature maps. [B, in_channels, H, W] -> [B, C, h, w], half the size for every stage

        Raises:
            ValueError: the images are too small to be halved so often.
        """
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f"this VGG halves the image {self.smallest.bit_length() - 1} times and needs at least "
                f"{self.smallest} x {self.smallest} pixels, got {x.shape[-2]} x {x.shape[-1]}: use fewer stages."
            )
        return run_with_skips(self.features, self.skips, x)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.maps(x)
        if maps.shape[-2:] != (self.pooled_size, self.pooled_size):  # as in `alexnet.averaged_to`
            maps = self.avgpool(maps)
        return self.classifier(maps.flatten(1))

    def logit_maps(self, images: Tensor) -> Tensor:
        return slide(self.classifier, self.maps(images), self.pooled_size)

    def load_weights(self) -> None:
        """Load the file that `weights` names, or the layers of net A in the file that `start_from` names.

        Raises:
            ValueError: the file is missing, is no file of weights, or does not fit.
        """
        if self.start_from is None:
            super().load_weights()
            return
        layers = self.layers_of_net_a()
        try:
            state = read_state(self.start_from)
        except ValueError as error:
            raise ValueError(f"start_from: {error}") from None
        with torch.no_grad():
            for theirs, layer in layers.items():
                for name, parameter in layer.named_parameters():
                    parameter.copy_(fitting(state, f"{theirs}.{name}", parameter, self.start_from))

    def layers_of_net_a(self) -> dict[str, nn.Module]:
        """Name in net A -> layer of this network that starts from it.

        Net A's layers go to those of the same stage and place, as files of that time were copied, by name: conv1_1,
        conv2_1, conv3_1, conv3_2. The paper says "the first four"; only these have the shapes of A's.
        """
        ours = iter(layer for layer in self.features if isinstance(layer, nn.Conv2d))
        placed = {(i, j): next(ours) for i, stage in enumerate(self.stages) for j in range(len(stage))}
        found: dict[str, nn.Module] = {
            f"features.{index}": placed[stage, place]
            for stage, place, index in COPIED_CONVOLUTIONS
            if (stage, place) in placed
        }
        linear = [layer for layer in self.classifier if isinstance(layer, nn.Linear)]
        found.update({f"classifier.{3 * place}": layer for place, layer in enumerate(linear)})
        if len(found) != len(COPIED_CONVOLUTIONS) + 3:
            widths = [[width for _, width in stage] for stage in self.stages]
            hidden = [layer.out_features for layer in linear[:-1]]
            raise ValueError(
                f"start_from (={self.start_from}) gives four convolutions and three linear layers; stages (={widths}) "
                f"must have a third one with two convolutions, and hidden (={hidden}) two layers: use a column of the "
                "paper, or leave start_from out."
            )
        return found


def choose_stages(stages: list[list[int | str]] | None, column: str | None) -> list[list[int | str]]:
    """The stages given, or those of the column.

    Raises:
        ValueError: both are given, or none, or a stage is empty, or there is no such column.
    """
    if (stages is None) == (column is None):
        raise ValueError(
            f"stages (={stages}) and column (={column}) say the same: give one of them, such as column: D."
        )
    if column == "A-LRN":
        raise ValueError("column (=A-LRN) must be given as column: A with norm: lrn.")
    if column is not None:
        check_choice("column", column, tuple(COLUMNS))
        return COLUMNS[column]
    if not stages or not all(stages):
        raise ValueError(f"stages (={stages}) must hold one stage or more, each with a width or more: [[64], [128]].")
    return stages


def kernel_and_width(layer: int | str) -> tuple[int, int]:
    """Kernel size and width of a convolution: 256 is 3x3, `conv1-256` is 1x1.

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(r"conv([13579])-([1-9]\d*)", layer) if isinstance(layer, str) else None
    if found:
        return int(found[1]), int(found[2])
    if isinstance(layer, int) and layer >= 1:
        return 3, layer
    raise ValueError(
        f"stages: {layer!r} must be the width of a 3x3 convolution, 1 or more, or an odd kernel size and a width such "
        "as conv1-256."
    )


def check_start(start_from: str | None, init: str, weights: str | None) -> None:
    """Refuse a start from net A together with another, and say at once if its file is missing too.

    Raises:
        ValueError: as said.
    """
    if start_from is None:
        return
    if init != "gaussian":
        absent = (
            "" if Path(start_from).is_file() else " There is no such file either: train column A without norm first."
        )
        raise ValueError(
            f"start_from (={start_from}) leaves some layers to N(0, 0.01): give init: gaussian with it, not {init}."
            f"{absent}"
        )
    if weights is not None:
        raise ValueError(f"start_from (={start_from}) and weights (={weights}) exclude each other: leave one out.")


def fitting(state: dict[str, Tensor], name: str, parameter: Tensor, path: str) -> Tensor:
    """The tensor called `name` in `state`, which must have the shape of `parameter`.

    Raises:
        ValueError: it is not there, or has another shape.
    """
    if name not in state or state[name].shape != parameter.shape:
        found = list(state[name].shape) if name in state else "none"
        raise ValueError(
            f"start_from (={path}) must hold a net A with {name} of shape {list(parameter.shape)}, it has {found}: "
            "train column A without norm, for as many classes and with the same hidden layers."
        )
    return state[name]


def convolutions(stages: list[list[tuple[int, int]]], channels: int, norm: str) -> nn.Sequential:
    """Convolution (batch norm) ReLU for every (kernel size, width), 2x2 max pool after every stage."""
    layers: list[nn.Module] = []
    for stage in stages:
        for size, width in stage:
            layers.append(nn.Conv2d(channels, width, size, padding=size // 2))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            if norm == "lrn" and len(layers) == 2:
                layers.append(LocalResponseNorm())
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def skips_of_pairs(features: nn.Sequential) -> dict[int, int]:
    """For every two convolutions of a stage, index of the first: index of the last layer before the second ReLU.

    Raises:
        ValueError: the second convolution of a pair has fewer maps than the first one sees.
    """
    skips: dict[int, int] = {}
    stage: list[int] = []
    for index, layer in enumerate(features):
        if isinstance(layer, nn.Conv2d):
            stage.append(index)
        if not isinstance(layer, nn.MaxPool2d):
            continue
        paired = stage[len(stage) % 2 :]
        for first, second in zip(paired[::2], paired[1::2], strict=True):
            check_growth(features[first].in_channels, features[second].out_channels)  # type: ignore[arg-type]
            skips[first] = second + 1 if isinstance(features[second + 1], nn.BatchNorm2d) else second
        stage = []
    return skips


def check_growth(seen: int, width: int) -> None:
    """Refuse a skip that would have to drop maps.

    Raises:
        ValueError: as said.
    """
    if width < seen:
        raise ValueError(f"skip (=True) pads new maps with zeros, so widths must not shrink: {seen} to {width}.")


def fully_connected(widths: list[int], num_classes: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout for every hidden width, then linear to the classes."""
    layers: list[nn.Module] = []
    for fan_in, units in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, units), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))


def initialise(module: nn.Module, init: str = "he") -> None:
    """First weights of a convolution or linear layer, biases 0.

    `he`: He's of convolutions, N(0, 0.01) of linear layers, as torchvision: deep nets start without help. `xavier`:
    Glorot's uniform weights. `gaussian`: N(0, 0.01) everywhere, which leaves the 16- and 19-layer nets stuck unless
    they start from a trained net A. The paper says "10^-2 variance"; we read it as AlexNet's standard deviation: one of
    0.1 multiplies the signal by about five in every convolution of 512 maps.
    """
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return
    if init == "xavier":
        nn.init.xavier_uniform_(module.weight)
    elif init == "he" and isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(module.weight, 0, 0.01)
    nn.init.zeros_(module.bias)  # type: ignore[arg-type]
