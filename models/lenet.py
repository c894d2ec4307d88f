"""LeNet-5: convolutional network for 32 x 32 grayscale digits (LeCun, Bottou, Bengio, Haffner 1998, section II.B)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import Classifier, check_choice

# Table I: the S2 maps that each of the 16 C3 maps looks at.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip


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
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_choice("c3", c3, ("table", "full"))
        check_choice("subsampling", subsampling, ("trainable", "average", "max"))
        check_choice("activation", activation, ("scaled_tanh", "tanh", "relu"))
        check_choice("norm", norm, ("none", "batch"))
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
        self.squash = {"scaled_tanh": ScaledTanh, "tanh": nn.Tanh, "relu": nn.ReLU}[activation]()
        self.squash_s = self.squash if subsampling == "trainable" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (32, 32):
            raise ValueError(
                f"LeNet-5 needs 32 x 32 pixels, got {x.shape[-2]} x {x.shape[-1]}: set data.init_args.image_size to 32."
            )
        x = self.squash(self._norm("c1", self.c1(x)))  # [B, 6, 28, 28]
        x = self.squash_s(self.s2(x))  # [B, 6, 14, 14]
        x = self.squash(self._norm("c3", self.c3(x)))  # [B, 16, 10, 10]
        x = self.squash_s(self.s4(x))  # [B, 16, 5, 5]
        x = self.squash(self._norm("c5", self.c5(x)))  # [B, 120, 1, 1]
        x = self.squash(self._norm("f6", self.f6(x.flatten(1))))  # [B, 84]
        return self.output(self.dropout(x))

    def _norm(self, layer: str, x: Tensor) -> Tensor:
        return self.norms[layer](x) if layer in self.norms else x


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
