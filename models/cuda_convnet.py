"""The four-layer CIFAR-10 network of the AlexNet paper: two convolutions, two locally connected layers, linear output.

Krizhevsky, Sutskever, Hinton 2012, section 3.3, measure local response norm on it and leave its description to the
files of cuda-convnet: in `example-layers` those are `layers-conv-local-13pct.cfg` (13 % error) and, with local response
norm, `layers-conv-local-11pct.cfg` (11 %).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.alexnet import LocalResponseNorm, activation_layer, convolution, run_with_skips
from models.classifier import Classifier, check_choice, check_in_channels, undecayed


class CudaConvNet(Classifier):
    """5x5 convolution, 64 maps, ReLU, local response norm, 3x3 max pool stride 2, twice; then 3x3 locally connected, 32
    maps, ReLU, twice; then linear. [B, in_channels, image_size, image_size] -> [B, num_classes]

    The files train on patches of 24 x 24 pixels, for which there are 1 116 490 parameters; for 32 x 32 there are
    1 901 386, as locally connected layers have kernels of their own at each of 8 x 8 positions instead of 6 x 6.

    Args:
        norm: `lrn` is local response norm after the ReLU of both convolutions, with the constants of the file (k = 1,
            n = 5, alpha = 0.001 / 5, beta = 0.75; those of AlexNet differ). `batch` puts batch normalisation before
            each activation of the four layers, `none` does neither: the network of 13 %.
        activation: `relu`, or `tanh` (AlexNet, section 3.1 and Figure 1).
        pooling: `overlapping` is 3x3 with stride 2, windows reaching over the edge, `separate` is 2x2.
        dropout: probability that a unit of the last hidden layer is dropped, 0 to 1; the files have none.
        skip: whether the second convolution and the second locally connected layer add their input before their
            activation (He et al. 2015, option A). The first sees the image, and the third has fewer maps than it sees.
        decay_kernels: whether weight decay acts on the kernels of the two convolutions; in the files it does not.
        image_size: height and width in pixels of an image, a multiple of 4.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        norm: Literal["lrn", "batch", "none"] = "lrn",
        activation: Literal["relu", "tanh"] = "relu",
        pooling: Literal["overlapping", "separate"] = "overlapping",
        dropout: float = 0.0,
        skip: bool = False,
        decay_kernels: bool = False,
        image_size: int = 32,
        in_channels: int = 3,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_choice("norm", norm, ("lrn", "batch", "none"))
        check_choice("activation", activation, ("relu", "tanh"))
        check_choice("pooling", pooling, ("overlapping", "separate"))
        if image_size < 4 or image_size % 4:
            raise ValueError(
                f"image_size (={image_size}) must be a multiple of 4: 24 in the paper's files, 32 for CIFAR."
            )
        size = image_size // 4
        pool = nn.MaxPool2d(3, 2, ceil_mode=True) if pooling == "overlapping" else nn.MaxPool2d(2)
        lrn = [LocalResponseNorm(n=5, alpha=0.001 / 5, beta=0.75, k=1.0)] if norm == "lrn" else []
        self.features = nn.Sequential(
            *convolution(in_channels, 64, 5, norm, activation, padding=2), *lrn, pool,
            *convolution(64, 64, 5, norm, activation, padding=2), *lrn, pool,
            *locally_connected(64, 32, size, norm, activation),
            *locally_connected(32, 32, size, norm, activation),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(32 * size**2, num_classes)
        self.skips = skips_of(self.features) if skip else {}
        self.image_size = image_size
        self.decay_kernels = decay_kernels
        initialise(self, norm)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"this network needs {self.image_size} x {self.image_size} pixels, got {x.shape[-2]} x {x.shape[-1]}: "
                "set model.init_args.image_size to the size of the images."
            )
        x = run_with_skips(self.features, self.skips, x)
        return self.output(self.dropout(x.flatten(1)))

    def parameter_groups(self) -> Iterable[dict[str, Any]]:
        """As every network's, but without weight decay of the convolutions' kernels unless `decay_kernels`."""
        spared = undecayed(self, norm=not self.decay_norm, bias=not self.decay_bias)
        if not self.decay_kernels:
            spared.update(layer.weight for layer in self.features if isinstance(layer, nn.Conv2d))  # type: ignore[misc]
        groups: list[dict[str, Any]] = [{"params": [p for p in self.parameters() if p not in spared]}]
        if spared:
            groups.append({"params": [p for p in self.parameters() if p in spared], "weight_decay": 0.0})
        return groups


class LocallyConnected2d(nn.Module):
    """A convolution with kernels and biases of its own at each position. [B, C, size, size] -> [B, width, size, size]

    Positions p count the pixels row by row; the image is padded with zeros so that its size stays.

    Args:
        channels: maps that it sees.
        width: maps that it makes.
        size: height and width of a map in pixels.
        kernel: height and width of a kernel in pixels, odd.
    """

    def __init__(self, channels: int, width: int, size: int, kernel: int = 3) -> None:
        super().__init__()
        self.size = size
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(size * size, width, channels * kernel * kernel))  # [p, width, C k k]
        self.bias = nn.Parameter(torch.empty(size * size, width))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel, padding=self.kernel // 2)  # [B, C k k, p]
        out = torch.baddbmm(self.bias[:, None], patches.permute(2, 0, 1), self.weight.transpose(1, 2))  # [p, B, width]
        return out.permute(1, 2, 0).unflatten(2, (self.size, self.size))


def locally_connected(channels: int, width: int, size: int, norm: str, activation: str) -> list[nn.Module]:
    """3x3 locally connected layer, batch norm if `norm` is `batch`, activation."""
    layers: list[nn.Module] = [LocallyConnected2d(channels, width, size)]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(width))
    return [*layers, activation_layer(activation)]


def skips_of(layers: nn.Sequential) -> dict[int, int]:
    """Index of the second convolution and of the second locally connected layer: last index before the activation."""
    skips: dict[int, int] = {}
    for kind in (nn.Conv2d, LocallyConnected2d):
        second = [index for index, layer in enumerate(layers) if isinstance(layer, kind)][1]
        skips[second] = second + 1 if isinstance(layers[second + 1], nn.BatchNorm2d) else second
    return skips


def initialise(network: CudaConvNet, norm: str) -> None:
    """The files' weights, normal with standard deviations 0.0001, 0.01, 0.04, 0.04 and 0.01, and biases 0.

    The first is for grey levels, -128 to 128, with which it gives first maps of order 0.1 in spite of its size. Behind
    batch norm the scale of kernels only sets how fast they turn: there the four are He's.
    """
    hidden = [layer for layer in network.features if isinstance(layer, nn.Conv2d | LocallyConnected2d)]
    for layer, deviation in zip([*hidden, network.output], (0.0001, 0.01, 0.04, 0.04, 0.01), strict=True):
        if norm == "batch" and layer is not network.output:
            fan_in = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.weight.shape[2]
            deviation = math.sqrt(2 / fan_in)
        nn.init.normal_(layer.weight, 0, deviation)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
