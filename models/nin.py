"""Network in Network: every convolution is followed by two of 1x1, and one map per class is averaged.

Lin, Chen, Yan 2014, "Network In Network". Its widths on CIFAR are those of the authors' file for Caffe.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from models.alexnet import convolution, run_with_skips, skips_of
from models.classifier import Classifier, check_choice, check_in_channels

SMALLEST = 4  # pixels, of which two poolings leave one


class NiN(Classifier):
    """Three mlpconv layers, each a convolution and two of 1x1 with ReLU; 3x3 pools, stride 2, and dropout between them.

    [B, in_channels, H, W] -> [B, num_classes] (Figure 2), made for 32 x 32 pixels: 966 986 parameters of ten classes.
    Kernels are 5x5, 5x5 and 3x3; the first pool takes maxima, the second averages. The last layer has one map per
    class, whose mean is the logit (section 3.2).

    Args:
        widths: maps of the nine convolutions but the last, which has one per class.
        norm: `batch` puts batch normalisation between each convolution and its ReLU; the paper has `none`.
        dropout: probability that a pixel of a map between mlpconv layers is dropped, 0 to 1; the paper's is 0.5.
        skip: whether every convolution with at least as many maps as it sees adds its input before its ReLU, new maps
            zero (He et al. 2015, option A): 1, 4, 5, 6, 7 and 8 of the paper's. The paper has none.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        widths: list[int] = [192, 160, 96, 192, 192, 192, 192, 192],  # noqa: B006  (never changed; shown by --help)
        norm: Literal["none", "batch"] = "none",
        dropout: float = 0.5,
        skip: bool = False,
        in_channels: int = 3,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_choice("norm", norm, ("none", "batch"))
        if len(widths) != 8 or min(widths) < 1:
            raise ValueError(
                f"widths (={widths}) must be eight numbers of maps, 1 or more each: three mlpconv layers of three "
                "convolutions, the last of which has one map per class."
            )
        a, b, c, d, e, f, g, h = widths
        self.features = nn.Sequential(
            *convolution(in_channels, a, 5, norm, padding=2), *convolution(a, b, 1, norm), *convolution(b, c, 1, norm),
            nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(dropout),
            *convolution(c, d, 5, norm, padding=2), *convolution(d, e, 1, norm), *convolution(e, f, 1, norm),
            nn.AvgPool2d(3, 2, ceil_mode=True), nn.Dropout(dropout),
            *convolution(f, g, 3, norm, padding=1), *convolution(g, h, 1, norm), *convolution(h, num_classes, 1, norm),
        )  # fmt: skip
        self.skips = skips_of(self.features) if skip else {}
        for layer in self.modules():
            initialise(layer)

    def maps(self, x: Tensor) -> Tensor:
        """One map per class. [B, in_channels, H, W] -> [B, num_classes, H / 4, W / 4]

        Raises:
            ValueError: the images are too small to be halved twice.
        """
        if min(x.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"NiN needs at least {SMALLEST} x {SMALLEST} pixels, got {x.shape[-2]} x {x.shape[-1]}: use larger "
                "images."
            )
        return run_with_skips(self.features, self.skips, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean((2, 3))


def initialise(layer: nn.Module) -> None:
    """The file's weights, N(0, 0.05), and biases 0."""
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0, 0.05)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
