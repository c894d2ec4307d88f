"""LeNet-1, LeNet-4 and LeNet-5: convolutional networks for grayscale digits (LeCun, Bottou, Bengio, Haffner 1998).

Their ancestor of 1989, with a bias per unit, is in `models/lenet1989.py`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import Classifier, check_choice

# LeCun et al. 1990, Table 1: the H2 maps that each of LeNet-1's 12 H3 maps looks at.
H3_TABLE = (
    (0,), (0, 1), (0, 1), (1,), (0, 1), (0, 1),
    (2,), (2, 3), (2, 3), (3,), (2, 3), (2, 3),
)  # fmt: skip

# LeCun et al. 1998, Table I: the S2 maps that each of LeNet-5's 16 C3 maps looks at.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# No table of LeNet-4 was published. These two are guesses that give the paper's two counts; see `LeNet4`.
LENET4_C3_TABLE = (
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 6), (4, 5, 6, 7), (5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2),
    (0, 1, 4, 5), (1, 2, 5, 6), (2, 3, 6, 7), (3, 4, 7, 0),
    (0, 3, 6), (2, 5, 0), (4, 7, 2), (6, 1, 4),
)  # fmt: skip
LENET4_C5_TABLE = tuple(  # unit after unit, 4, 5 and 5 neighbours among the 16 S4 maps, taken as a ring
    tuple((unit + step) % 16 for step in range(4 if unit % 3 == 0 else 5)) for unit in range(120)
)


class LeNet5(Classifier):
    """C1 5x5x6, S2 /2, C3 5x5x16, S4 /2, C5 5x5x120, F6 84, output; squashed after every layer but the last.

    [B, 1, 32, 32] -> [B, num_classes]. The paper's form is `c3: table`, `subsampling: trainable`,
    `activation: scaled_tanh`: 60 000 trainable parameters up to F6, as the paper counts. Its output layer, Euclidean
    radial basis units with fixed hand-drawn targets, is a linear layer here (+ 850 parameters): cross-entropy needs
    logits. The modern form is the default: 61 706 parameters.

    Args:
        c3: `table` connects C3 to S2 by the paper's Table I, `full` connects every map to every map.
        subsampling: `trainable` is 4 pixels' sum times a coefficient plus a bias, per map, then the activation
            (section II.B); `average` and `max` pool 2x2 without parameters.
        activation: `scaled_tanh` is 1.7159 tanh(2x/3) (Appendix A); `tanh` and `relu` are the plain ones.
        norm: `batch` puts batch normalisation before the activation of C1, C3, C5 and F6.
        dropout: probability that a unit of F6 is dropped, 0 to 1.
        skip: adds to C1, C3 and C5, before the activation, what they look at: see `identity_path`. F6 is narrower than
            C5, so nothing goes around it.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        c3: Literal["table", "full"] = "full",
        subsampling: Literal["trainable", "average", "max"] = "average",
        activation: Literal["scaled_tanh", "tanh", "relu"] = "tanh",
        norm: Literal["none", "batch"] = "none",
        dropout: float = 0.0,
        skip: bool = False,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_choice("c3", c3, ("table", "full"))
        check_switches(subsampling, activation, norm)
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2 = subsample(subsampling, 6)
        self.c3 = nn.Conv2d(6, 16, 5) if c3 == "full" else TableConv2d(C3_TABLE, 5)
        self.s4 = subsample(subsampling, 16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)
        self.norms = nn.ModuleDict(
            {"c1": nn.BatchNorm2d(6), "c3": nn.BatchNorm2d(16), "c5": nn.BatchNorm2d(120), "f6": nn.BatchNorm1d(84)}
            if norm == "batch"
            else {}
        )
        self.squash = ACTIVATIONS[activation]()
        self.squash_s = self.squash if subsampling == "trainable" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.skip = skip
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        check_size("LeNet-5", x, 32)
        return self._head(self.features(x).flatten(1))

    def features(self, x: Tensor) -> Tensor:
        """The units of C5: [B, 1, 32, 32] -> [B, 120, 1, 1], and one more position for every 4 pixels more."""
        x = self.squash(self._convolved("c1", x))  # [B, 6, 28, 28]
        x = self.squash_s(self.s2(x))  # [B, 6, 14, 14]
        x = self.squash(self._convolved("c3", x))  # [B, 16, 10, 10]
        x = self.squash_s(self.s4(x))  # [B, 16, 5, 5]
        return self.squash(self._convolved("c5", x))  # [B, 120, 1, 1]

    def logit_maps(self, images: Tensor) -> Tensor:
        """The network at every fourth row and column of images of 32 pixels or more, section VII's space displacement.

        Raises:
            ValueError: the images are smaller.
        """
        check_size("LeNet-5", images, 32, larger=True)
        return at_every_position(self._head, self.features(images))

    def _head(self, x: Tensor) -> Tensor:
        """F6 and the output layer: [B, 120] -> [B, num_classes]."""
        x = self.squash(self._norm("f6", self.f6(x)))  # [B, 84]
        return self.output(self.dropout(x))

    def _convolved(self, layer: str, x: Tensor) -> Tensor:
        """The named convolution of `x`, normalised, plus the identity path, not yet squashed."""
        out = self._norm(layer, getattr(self, layer)(x))
        return out + identity_path(x, out) if self.skip else out

    def _norm(self, layer: str, x: Tensor) -> Tensor:
        return self.norms[layer](x) if layer in self.norms else x


class LeNet4(Classifier):
    """C1 5x5x4, S2 /2 x8, C3 5x5x16, S4 /2, C5 5x5x120, output; squashed after every layer but the last.

    [B, 1, 32, 32] -> [B, num_classes] (LeCun et al. 1998, section III.C). Every C1 map has a pair of S2 maps. The
    paper counts about 17 000 free parameters and 260 000 connections, but calls C5 fully connected, which alone would
    be 48 120 parameters; and it prints no table. Our tables are guesses, fitted to both counts: 16 998 parameters and
    258 306 connections.

    Args:
        c3: `table` connects C3 to S2 by 60 of 128 pairs of maps, as many as in LeNet-5; `full` by all.
        c5: `table` connects each unit of C5 to 4 or 5 of the 16 S4 maps, for the paper's count; `full` to all, as its
            text says: 50 998 parameters.
        subsampling: `trainable` is 4 pixels' sum times a coefficient plus a bias, per map, then the activation;
            `average` and `max` pool 2x2 without parameters, which makes the two maps of a pair the same.
        activation: `scaled_tanh` is 1.7159 tanh(2x/3); `tanh` and `relu` are the plain ones.
        norm: `batch` puts batch normalisation before the activation of C1, C3 and C5.
        dropout: probability that a unit of C5 is dropped, 0 to 1.
        skip: adds to C1, C3 and C5, before the activation, what they look at: see `identity_path`.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        c3: Literal["table", "full"] = "table",
        c5: Literal["table", "full"] = "table",
        subsampling: Literal["trainable", "average", "max"] = "trainable",
        activation: Literal["scaled_tanh", "tanh", "relu"] = "scaled_tanh",
        norm: Literal["none", "batch"] = "none",
        dropout: float = 0.0,
        skip: bool = False,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_choice("c3", c3, ("table", "full"))
        check_choice("c5", c5, ("table", "full"))
        check_switches(subsampling, activation, norm)
        self.c1 = nn.Conv2d(1, 4, 5)
        self.s2 = subsample(subsampling, 8)
        self.c3 = nn.Conv2d(8, 16, 5) if c3 == "full" else TableConv2d(LENET4_C3_TABLE, 5)
        self.s4 = subsample(subsampling, 16)
        self.c5 = nn.Conv2d(16, 120, 5) if c5 == "full" else TableConv2d(LENET4_C5_TABLE, 5)
        self.output = nn.Linear(120, num_classes)
        self.norms = nn.ModuleDict(
            {"c1": nn.BatchNorm2d(4), "c3": nn.BatchNorm2d(16), "c5": nn.BatchNorm2d(120)} if norm == "batch" else {}
        )
        self.squash = ACTIVATIONS[activation]()
        self.squash_s = self.squash if subsampling == "trainable" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.skip = skip
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        check_size("LeNet-4", x, 32)
        return self._head(self.features(x).flatten(1))

    def features(self, x: Tensor) -> Tensor:
        """The units of C5: [B, 1, 32, 32] -> [B, 120, 1, 1], and one more position for every 4 pixels more."""
        x = self.squash(self._convolved("c1", x))  # [B, 4, 28, 28]
        x = self.squash_s(self.s2(x.repeat_interleave(2, dim=1)))  # [B, 8, 14, 14]
        x = self.squash(self._convolved("c3", x))  # [B, 16, 10, 10]
        x = self.squash_s(self.s4(x))  # [B, 16, 5, 5]
        return self.squash(self._convolved("c5", x))  # [B, 120, 1, 1]

    def logit_maps(self, images: Tensor) -> Tensor:
        """The network at every fourth row and column of images of 32 pixels or more.

        Raises:
            ValueError: the images are smaller.
        """
        check_size("LeNet-4", images, 32, larger=True)
        return at_every_position(self._head, self.features(images))

    def _head(self, x: Tensor) -> Tensor:
        """[B, 120] -> [B, num_classes]"""
        return self.output(self.dropout(x))

    def _convolved(self, layer: str, x: Tensor) -> Tensor:
        """The named convolution of `x`, normalised, plus the identity path, not yet squashed."""
        out = getattr(self, layer)(x)
        out = self.norms[layer](out) if layer in self.norms else out
        return out + identity_path(x, out) if self.skip else out


class LeNet1(Classifier):
    """H1 5x5x4, H2 /2, H3 5x5x12, H4 /2, output; squashed after every layer but the last.

    [B, 1, 28, 28] -> [B, num_classes]. LeCun et al. 1990, "Handwritten Digit Recognition with a Back-Propagation
    Network": 4 635 units (the input's 784 and one for the biases among them), 98 442 connections, 2 578
    parameters. LeCun et al. 1998, section III.C, call it LeNet-1.

    Args:
        h3: `table` connects H3 to H2 by Table 1 of 1990, 20 of 48 pairs of maps; `full` by all.
        subsampling: `trainable` is 4 pixels' sum times a coefficient plus a bias, per map, then the activation;
            `average` and `max` pool 2x2 without parameters.
        activation: `scaled_tanh` is 1.7159 tanh(2x/3); `tanh` and `relu` are the plain ones.
        norm: `batch` puts batch normalisation before the activation of H1 and H3.
        dropout: probability that a unit of H4 is dropped, 0 to 1.
        skip: adds to H1 and H3, before the activation, what they look at: see `identity_path`.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        h3: Literal["table", "full"] = "table",
        subsampling: Literal["trainable", "average", "max"] = "trainable",
        activation: Literal["scaled_tanh", "tanh", "relu"] = "scaled_tanh",
        norm: Literal["none", "batch"] = "none",
        dropout: float = 0.0,
        skip: bool = False,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_choice("h3", h3, ("table", "full"))
        check_switches(subsampling, activation, norm)
        self.h1 = nn.Conv2d(1, 4, 5)
        self.h2 = subsample(subsampling, 4)
        self.h3 = nn.Conv2d(4, 12, 5) if h3 == "full" else TableConv2d(H3_TABLE, 5)
        self.h4 = subsample(subsampling, 12)
        self.output = nn.Linear(12 * 4 * 4, num_classes)
        self.norms = nn.ModuleDict({"h1": nn.BatchNorm2d(4), "h3": nn.BatchNorm2d(12)} if norm == "batch" else {})
        self.squash = ACTIVATIONS[activation]()
        self.squash_s = self.squash if subsampling == "trainable" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.skip = skip
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        check_size("LeNet-1", x, 28)
        return self.output(self.dropout(self.features(x).flatten(1)))

    def features(self, x: Tensor) -> Tensor:
        """The units of H4: [B, 1, 28, 28] -> [B, 12, 4, 4], and one more row or column for every 4 pixels more."""
        x = self.squash(self._convolved("h1", x))  # [B, 4, 24, 24]
        x = self.squash_s(self.h2(x))  # [B, 4, 12, 12]
        x = self.squash(self._convolved("h3", x))  # [B, 12, 8, 8]
        return self.squash_s(self.h4(x))  # [B, 12, 4, 4]

    def logit_maps(self, images: Tensor) -> Tensor:
        """The network at every fourth row and column of images of 28 pixels or more.

        Raises:
            ValueError: the images are smaller.
        """
        check_size("LeNet-1", images, 28, larger=True)
        kernel = self.output.weight.unflatten(1, (12, 4, 4))
        return F.conv2d(self.dropout(self.features(images)), kernel, self.output.bias)

    def _convolved(self, layer: str, x: Tensor) -> Tensor:
        """The named convolution of `x`, normalised, plus the identity path, not yet squashed."""
        out = getattr(self, layer)(x)
        out = self.norms[layer](out) if layer in self.norms else out
        return out + identity_path(x, out) if self.skip else out


def check_switches(subsampling: str, activation: str, norm: str) -> None:
    """Refuse positions that the switches all three networks have do not know.

    Raises:
        ValueError: as said.
    """
    check_choice("subsampling", subsampling, ("trainable", "average", "max"))
    check_choice("activation", activation, tuple(ACTIVATIONS))
    check_choice("norm", norm, ("none", "batch"))


def check_size(network: str, x: Tensor, size: int, larger: bool = False) -> None:
    """Refuse images [B, C, H, W] that are not `size` x `size`, or smaller than that where `larger` ones may come.

    Raises:
        ValueError: as said.
    """
    height, width = x.shape[-2:]
    if larger and min(height, width) < size:
        raise ValueError(f"{network} needs {size} x {size} pixels or more, got {height} x {width}: use larger images.")
    if not larger and (height, width) != (size, size):
        raise ValueError(
            f"{network} needs {size} x {size} pixels, got {height} x {width}: set data.init_args.image_size to {size}."
        )


def identity_path(x: Tensor, out: Tensor) -> Tensor:
    """What a valid convolution from `x` [B, C, H, W] to `out` [B, D, h, w] looks at, in its shape. [B, D, h, w]

    The border that the convolution eats is cropped, new channels are zero: no parameters, as option A of He et al.
    2015, section 3.3. None of these papers has such a path.
    """
    height, width = out.shape[2:]
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return F.pad(x[:, :, top : top + height, left : left + width], (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))


def at_every_position(head: Any, maps: Tensor) -> Tensor:
    """`head`, which takes [B, C] to [B, K], of the vector at each position of `maps` [B, C, h, w]. [B, K, h, w]"""
    vectors = maps.permute(0, 2, 3, 1)  # [B, h, w, C]
    logits: Tensor = head(vectors.flatten(0, 2)).unflatten(0, vectors.shape[:3])
    return logits.permute(0, 3, 1, 2)


def subsample(kind: str, maps: int) -> nn.Module:
    """The 2x2 sub-sampling layer named `kind` for `maps` feature maps."""
    if kind == "trainable":
        return TrainableSubsampling(maps)
    return nn.AvgPool2d(2) if kind == "average" else nn.MaxPool2d(2)


class TrainableSubsampling(nn.Module):
    """Sum of each 2x2 block, times a coefficient, plus a bias, one of each per map. [B, C, H, W] -> [B, C, H/2, W/2]"""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(maps))
        self.bias = nn.Parameter(torch.empty(maps))

    def forward(self, x: Tensor) -> Tensor:
        total = 4 * F.avg_pool2d(x, 2)
        return total * self.weight[:, None, None] + self.bias[:, None, None]


class TableConv2d(nn.Module):
    """Convolution whose output map k sees only the input maps `table[k]`. [B, C, H, W] -> [B, len(table), H', W']

    Holds one size x size kernel per connection, so it has exactly the parameters of the paper: 60 x 25 + 16 for C3.
    """

    outs: Tensor
    seens: Tensor

    def __init__(self, table: tuple[tuple[int, ...], ...], size: int) -> None:
        super().__init__()
        pairs = [(out, seen) for out, row in enumerate(table) for seen in row]
        self.dense_shape = (len(table), 1 + max(seen for _, seen in pairs), size, size)
        self.fan_ins = [len(row) * size * size for row in table for _ in row]
        self.register_buffer("outs", torch.tensor([out for out, _ in pairs]), persistent=False)
        self.register_buffer("seens", torch.tensor([seen for _, seen in pairs]), persistent=False)
        self.weight = nn.Parameter(torch.empty(len(pairs), size, size))
        self.bias = nn.Parameter(torch.empty(len(table)))

    def forward(self, x: Tensor) -> Tensor:
        dense = self.weight.new_zeros(self.dense_shape).index_put((self.outs, self.seens), self.weight)
        return F.conv2d(x, dense, self.bias)


class ScaledTanh(nn.Module):
    """1.7159 tanh(2x/3): +1 at 1, -1 at -1, steepest in between (LeCun et al. 1998, Appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


ACTIVATIONS: dict[str, type[nn.Module]] = {"scaled_tanh": ScaledTanh, "tanh": nn.Tanh, "relu": nn.ReLU}


def initialise(module: nn.Module) -> None:
    """Weights uniform in +-2.4 / fan-in (Appendix A); biases 0, which the paper leaves open.

    A `TrainableSubsampling` starts as the plain average (coefficient 1/4): a coefficient drawn from +-2.4/4 may start
    near 0 and then lets nothing through its map.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        bound = 2.4 / math.prod(module.weight.shape[1:])
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    elif isinstance(module, TableConv2d):
        with torch.no_grad():
            bounds = 2.4 / torch.tensor(module.fan_ins, dtype=torch.float32)
            module.weight.uniform_(-1, 1).mul_(bounds[:, None, None])
        nn.init.zeros_(module.bias)
    elif isinstance(module, TrainableSubsampling):
        nn.init.constant_(module.weight, 0.25)
        nn.init.zeros_(module.bias)
