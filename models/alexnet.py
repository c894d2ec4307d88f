"""AlexNet: five convolutions, three fully connected layers (Krizhevsky, Sutskever, Hinton 2012); its successor of 2014.

AlexNet won ILSVRC-2012 on two graphics cards, with half of each layer's maps on each; AlexNetOWT is the network on one
card of Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", as torchvision has it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import Classifier, check_choice, check_in_channels

SMALLEST = {"overlapping": 63, "separate": 35}  # pixels of which stride 4 and three poolings leave one
POOLED_SIZE = 6  # height and width of the last map, of 224 x 224 pixels


class EightLayerNet(Classifier):
    """What AlexNet, AlexNetOWT and ZFNet share: convolutions, then fully connected layers. [B, C, H, W] -> [B, K]

    A subclass sets `features`, `classifier`, `smallest` (pixels) and, from `skips_of`, `skips`. The last map of images
    that are not 224 x 224 is averaged to 6 x 6, as in torchvision; that of 224 x 224 is 6 x 6, and left as it is.
    """

    features: nn.Sequential
    classifier: nn.Sequential
    smallest: int
    skips: dict[int, int]

    def maps(self, x: Tensor) -> Tensor:
        """The last feature maps. [B, C, H, W] -> [B, 256, 6, 6] for 224 x 224 pixels

        Raises:
            ValueError: the images are too small to be halved so often.
        """
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f"{type(self).__name__} needs at least {self.smallest} x {self.smallest} pixels, got {x.shape[-2]} x "
                f"{x.shape[-1]}: set data.init_args.image_size to 224, as in the paper."
            )
        return run_with_skips(self.features, self.skips, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(averaged_to(POOLED_SIZE, self.maps(x)).flatten(1))

    def logit_maps(self, images: Tensor) -> Tensor:
        return slide(self.classifier, self.maps(images), POOLED_SIZE)


class AlexNet(EightLayerNet):
    """The network of 2012: 96-256-384-384-256 maps, 4096-4096 units. [B, in_channels, 224, 224] -> [B, num_classes]

    11x11 stride 4, ReLU, local response norm, 3x3 max pool stride 2; 5x5, ReLU, local response norm, pool; 3x3, ReLU,
    three times; pool; linear, ReLU, dropout, twice; linear. 60 965 224 parameters, 724 M multiply-accumulates.

    The paper's 224 pixels alone do not give its 55 x 55 first map: 2 pixels of padding do, here and in torchvision.

    Args:
        groups: the paper's two cards: so many groups of maps that convolutions 2, 4 and 5 keep apart; 1 connects all.
            Half the network on one card, section 3.2, is `groups: 1`, `widths: [48, 128, 192, 192, 256]`.
        pooling: `overlapping` is 3x3 with stride 2 (section 3.4), `separate` is 2x2.
        norm: `lrn` normalises across maps after the ReLU of convolutions 1 and 2 (section 3.3); `batch` puts batch
            normalisation between each convolution and its activation; `none` does neither.
        activation: `relu`, or `tanh` (section 3.1).
        dropout: probability that a unit of a hidden fully connected layer is dropped, 0 to 1 (section 4.2).
        skip: whether the input of convolutions 2, 3 and 4, new maps zero, is added before their activation (He et al.
            2015, option A). Convolution 1 changes the size and 5 has fewer maps than it sees: they have no skip.
        widths: maps of each convolution.
        hidden: units of each of the two hidden fully connected layers.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        groups: int = 2,
        pooling: Literal["overlapping", "separate"] = "overlapping",
        norm: Literal["lrn", "batch", "none"] = "lrn",
        activation: Literal["relu", "tanh"] = "relu",
        dropout: float = 0.5,
        skip: bool = False,
        widths: list[int] = [96, 256, 384, 384, 256],  # noqa: B006  (never changed; shown by --help)
        hidden: int = 4096,
        in_channels: int = 3,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_choice("pooling", pooling, ("overlapping", "separate"))
        check_choice("norm", norm, ("lrn", "batch", "none"))
        check_choice("activation", activation, ("relu", "tanh"))
        check_widths(widths, groups, hidden)
        a, b, c, d, e = widths
        lrn = [LocalResponseNorm()] if norm == "lrn" else []
        pool = nn.MaxPool2d(3 if pooling == "overlapping" else 2, stride=2)
        self.features = nn.Sequential(
            *convolution(in_channels, a, 11, norm, activation, stride=4, padding=2), *lrn, pool,
            *convolution(a, b, 5, norm, activation, padding=2, groups=groups), *lrn, pool,
            *convolution(b, c, 3, norm, activation, padding=1),
            *convolution(c, d, 3, norm, activation, padding=1, groups=groups),
            *convolution(d, e, 3, norm, activation, padding=1, groups=groups), pool,
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(e * POOLED_SIZE**2, hidden), activation_layer(activation), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), activation_layer(activation), nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )  # fmt: skip
        self.skips = skips_of(self.features) if skip else {}
        self.smallest = SMALLEST[pooling]
        initialise(self, norm, activation)


class AlexNetOWT(EightLayerNet):
    """The network of 2014 as torchvision has it: 64-192-384-256-256 maps. [B, 3, 224, 224] -> [B, num_classes]

    Layers, state-dict keys and first weights (torch's own) are those of torchvision's `alexnet.py`, which drops inputs
    of the hidden layers where AlexNet drops their outputs. 61 100 840 parameters, 714 M multiply-accumulates.

    Args:
        norm: `lrn` normalises across maps after the ReLU of convolutions 1 and 2, `batch` puts batch normalisation
            between each convolution and its ReLU; torchvision's is `none`. Both move the keys of later layers.
        dropout: probability that an input of a hidden fully connected layer is dropped, 0 to 1.
        skip: whether the input of convolutions 2, 3 and 5, new maps zero, is added before their activation (He et al.
            2015, option A). Convolution 1 changes the size and 4 has fewer maps than it sees: they have no skip.
        widths: maps of each convolution.
        hidden: units of each of the two hidden fully connected layers.
        in_channels: channels of an image: 3 for colour, 1 for gray.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        norm: Literal["none", "lrn", "batch"] = "none",
        dropout: float = 0.5,
        skip: bool = False,
        widths: list[int] = [64, 192, 384, 256, 256],  # noqa: B006
        hidden: int = 4096,
        in_channels: int = 3,
        num_classes: int = 1000,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_in_channels(in_channels)
        check_choice("norm", norm, ("none", "lrn", "batch"))
        check_widths(widths, groups=1, hidden=hidden)
        a, b, c, d, e = widths
        lrn = [LocalResponseNorm()] if norm == "lrn" else []
        self.features = nn.Sequential(
            *convolution(in_channels, a, 11, norm, stride=4, padding=2), *lrn, nn.MaxPool2d(3, stride=2),
            *convolution(a, b, 5, norm, padding=2), *lrn, nn.MaxPool2d(3, stride=2),
            *convolution(b, c, 3, norm, padding=1),
            *convolution(c, d, 3, norm, padding=1),
            *convolution(d, e, 3, norm, padding=1), nn.MaxPool2d(3, stride=2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(e * POOLED_SIZE**2, hidden), nn.ReLU(inplace=True),
            nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )  # fmt: skip
        self.skips = skips_of(self.features) if skip else {}
        self.smallest = SMALLEST["overlapping"]


class LocalResponseNorm(nn.Module):
    """Each map over (k + alpha * the sum of squares of the n maps around it) ^ beta, pixel by pixel. Keeps the shape.

    Section 3.3; the defaults are the paper's. torch and Caffe mean the average of squares by the same formula, so their
    alpha is n times the paper's: with 0.0001 they would normalise five times less. Neighbours are those of the whole
    layer, as the paper's formula says, also where groups keep the maps of two cards apart. Squares are summed in at
    least 32 bits, whatever the precision: those of activations above 255 overflow in half precision.

    Args:
        n: neighbouring maps that are summed, the map itself in their middle.
        alpha: factor of the sum.
        beta: exponent.
        k: what is added to the sum.
    """

    def __init__(self, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.n, self.alpha, self.beta, self.k = n, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        padded = F.pad(wide.square(), (0, 0, 0, 0, self.n // 2, (self.n - 1) // 2))
        total = sum(padded[:, first : first + x.shape[1]] for first in range(self.n))
        return (wide * (self.k + self.alpha * total) ** -self.beta).to(x.dtype)


def convolution(
    channels: int,
    width: int,
    size: int,
    norm: str,
    activation: str = "relu",
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> list[nn.Module]:
    """`size` x `size` convolution with a bias, batch norm if `norm` is `batch`, activation."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, size, stride, padding, groups=groups)]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(width))
    return [*layers, activation_layer(activation)]


def activation_layer(name: str) -> nn.Module:
    """The activation of that name, which may overwrite its input."""
    return nn.ReLU(inplace=True) if name == "relu" else nn.Tanh()


def skips_of(layers: nn.Sequential) -> dict[int, int]:
    """Where a skip can go: {index of a convolution: index of its last layer before the activation}.

    That is around every convolution that keeps the size of the image and has at least as many maps as it sees.
    """
    skips = {}
    for index, layer in enumerate(layers):
        if not isinstance(layer, nn.Conv2d) or layer.out_channels < layer.in_channels:
            continue
        if layer.stride == (1, 1) and 2 * layer.padding[0] + 1 == layer.kernel_size[0]:  # type: ignore[operator]
            skips[index] = index + 1 if isinstance(layers[index + 1], nn.BatchNorm2d) else index
    return skips


def run_with_skips(layers: nn.Sequential, skips: dict[int, int], x: Tensor) -> Tensor:
    """`layers` one after another; the input of each layer in `skips` is added to the output of the layer it names.

    New maps of the output see zeros: option A of He et al. 2015, section 3.3. [B, C, H, W] -> [B, C', H', W']
    """
    kept: dict[int, Tensor] = {}
    for index, layer in enumerate(layers):
        if index in skips:
            kept[skips[index]] = x
        x = layer(x)
        if index in kept:
            shortcut = kept.pop(index)
            x = x + F.pad(shortcut, (0, 0, 0, 0, 0, x.shape[1] - shortcut.shape[1]))
    return x


def averaged_to(size: int, maps: Tensor) -> Tensor:
    """Maps [B, C, h, w] averaged to [B, C, size, size]; those of that size as they are.

    That would be the same numbers, but CUDA's gradient of an adaptive average is not deterministic.
    """
    return maps if maps.shape[-2:] == (size, size) else F.adaptive_avg_pool2d(maps, size)


def slide(classifier: nn.Sequential, maps: Tensor, size: int) -> Tensor:
    """Fully connected layers of a `size` x `size` map, at every position of a larger one, as convolutions.

    The first linear layer becomes a `size` x `size` convolution, the others 1x1 (Sermanet et al. 2014, "OverFeat").
    Smaller maps are first averaged to that size, as in `forward`. [B, C, h, w] -> [B, K, h - size + 1, w - size + 1]
    """
    height, width = maps.shape[-2:]
    x = F.adaptive_avg_pool2d(maps, (max(height, size), max(width, size))) if min(height, width) < size else maps
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            x = F.conv2d(x, layer.weight.unflatten(1, (x.shape[1], size, size)), layer.bias)
            size = 1
        else:
            x = layer(x)
    return x


def initialise(network: AlexNet, norm: str, activation: str) -> None:
    """The paper's weights, N(0, 0.01), and biases: 1 in convolutions 2, 4, 5 and the hidden layers, else 0 (section 5).

    The biases of 1 give ReLUs positive inputs early on. Tanh would start saturated by them, and N(0, 0.01) lets its
    signal fade: there biases are 0 and weights Glorot's, which were made for tanh. Batch norm takes a constant away
    again, and with it the scale of weights only sets how fast they turn: there biases are 0 and kernels He's.
    """
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    linear = [layer for layer in network.classifier if isinstance(layer, nn.Linear)]
    weighted: list[nn.Conv2d | nn.Linear] = [*convolutions, *linear]
    for layer in weighted:
        if activation == "tanh":
            nn.init.xavier_normal_(layer.weight)
        elif norm == "batch" and isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.normal_(layer.weight, 0, 0.01)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    if activation == "relu" and norm != "batch":
        for bias in [layer.bias for layer in weighted[1:7] if layer is not convolutions[2]]:
            nn.init.ones_(bias)  # type: ignore[arg-type]


def check_widths(widths: list[int], groups: int, hidden: int) -> None:
    """Refuse another number of layers than five, maps that groups cannot share out, hidden layers without units.

    Raises:
        ValueError: as said.
    """
    if len(widths) != 5 or min(widths) < 1:
        raise ValueError(f"widths (={widths}) must be five numbers of maps, 1 or more each: 96, 256, 384, 384, 256.")
    if hidden < 1:
        raise ValueError(f"hidden (={hidden}) must be at least 1 unit in each hidden layer: 4096 in the paper.")
    if groups < 1:
        raise ValueError(f"groups (={groups}) must be at least 1: 2 in the paper, 1 connects all maps.")
    for width in widths:
        if width % groups:
            raise ValueError(
                f"width (={width}) must be divisible by groups (={groups}): change widths (={widths}) or groups."
            )
