"""ZFNet: AlexNet with finer first layers (Zeiler, Fergus 2013, "Visualizing and Understanding Convolutional Networks").

Looking at what AlexNet's first two layers see, the paper found dead filters and aliasing, made the first kernels 7x7
instead of 11x11 and halved their stride (section 4.1). Table 2 calls that network (a), and (b) the one with wider maps.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.alexnet import POOLED_SIZE, EightLayerNet, LocalResponseNorm, check_widths, convolution, skips_of
from models.classifier import check_choice, check_in_channels

SMALLEST = 47  # pixels of which convolutions and pools leave one


class ZFNet(EightLayerNet):
    """96-256-384-384-256 maps, 4096-4096 units. [B, in_channels, 224, 224] -> [B, num_classes]

    7x7 stride 2, ReLU, 3x3 max pool stride 2, contrast norm; 5x5 stride 2, ReLU, pool, contrast norm; 3x3, ReLU, three
    times; pool; linear, ReLU, dropout, twice; linear. All maps are connected. 62 357 608 parameters, 1.17 G
    multiply-accumulates. Figure 3 gives the maps' sizes, 110, 55, 26, 13, 13, 13 and 6 pixels, which fixes what the
    text leaves open: 1 pixel of padding for 7x7, none for 5x5, and windows of the pools that may reach over the edge.

    Args:
        widths: maps of each convolution; Table 2 (b) has `[96, 256, 512, 1024, 512]`.
        norm: `lrn` is the contrast norm across maps after the first two pools (Figure 3), for which the paper refers to
            Krizhevsky et al. 2012: their local response norm, their constants. `batch` puts batch normalisation between
            each convolution and its ReLU, `none` does neither.
        dropout: probability that a unit of a hidden fully connected layer is dropped, 0 to 1; the paper's is 0.5.
        max_filter_rms: filters of convolutions whose root mean square exceeds this are scaled back to it after every
            step (section 3.1); 0 for no limit.
        skip: whether the input of convolutions 3 and 4, new maps zero, is added before their ReLU (He et al. 2015,
            option A). Convolutions 1 and 2 change the size and 5 has fewer maps than it sees: they have no skip.
        hidden: units of each of the two hidden fully connected layers.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        widths: list[int] = [96, 256, 384, 384, 256],  # noqa: B006  (never changed; shown by --help)
        norm: Literal["lrn", "batch", "none"] = "lrn",
        dropout: float = 0.5,
        max_filter_rms: float = 0.1,
        skip: bool = False,
        hidden: int = 4096,
        in_channels: int = 3,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_choice("norm", norm, ("lrn", "batch", "none"))
        check_widths(widths, groups=1, hidden=hidden)
        if max_filter_rms < 0:
            raise ValueError(
                f"max_filter_rms (={max_filter_rms}) must not be negative: 0.1 in the paper, 0 is no limit."
            )
        a, b, c, d, e = widths
        lrn = [LocalResponseNorm()] if norm == "lrn" else []
        self.features = nn.Sequential(
            *convolution(in_channels, a, 7, norm, stride=2, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True), *lrn,
            *convolution(a, b, 5, norm, stride=2), nn.MaxPool2d(3, 2, ceil_mode=True), *lrn,
            *convolution(b, c, 3, norm, padding=1),
            *convolution(c, d, 3, norm, padding=1),
            *convolution(d, e, 3, norm, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(e * POOLED_SIZE**2, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )  # fmt: skip
        self.skips = skips_of(self.features) if skip else {}
        self.smallest = SMALLEST
        self.max_filter_rms = max_filter_rms
        for layer in self.modules():
            initialise(layer, norm)

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """A step, and the limit with it: whatever is saved after the step holds limited filters."""
        super().optimizer_step(*arguments, **settings)
        if self.max_filter_rms:
            limit_filters(self, self.max_filter_rms)


@torch.no_grad()
def limit_filters(network: nn.Module, radius: float) -> None:
    """Scale every filter of a convolution whose root mean square exceeds `radius` back to it, in place.

    Section 3.1: a few filters of the first layer would dominate, as its pixels reach from -128 to 128.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            rms: Tensor = layer.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
            layer.weight *= (radius / rms).clamp(max=1)


def initialise(layer: nn.Module, norm: str) -> None:
    """Weights of 0.01, read as N(0, 0.01) like Krizhevsky's, and biases 0 (section 3.1).

    Behind batch norm the scale of kernels only sets how fast they turn: there it is He's.
    """
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return
    if norm == "batch" and isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(layer.weight, 0, 0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
