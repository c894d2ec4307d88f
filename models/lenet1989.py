"""LeNet of 1989: the network that read zip codes (LeCun et al. 1989).

"Backpropagation Applied to Handwritten Zip Code Recognition", Neural Computation 1. What the paper leaves open is
filled in as Karpathy does (karpathy/lecun1989-repro, repro.py) and called a guess where it stands.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classifier import Classifier, check_choice
from models.lenet import ACTIVATIONS

BACKGROUND = -1.0  # what units see beyond the edge of a plane, of the image and, a guess, of H1 too

H1_TABLE = ((0,),) * 12
# Each plane of H2 sees 8 of H1's 12; the paper does not say which. Karpathy's guess: of three blocks of 4, two.
H2_TABLE = (
    *(((0, 1, 2, 3, 4, 5, 6, 7),) * 4),
    *(((4, 5, 6, 7, 8, 9, 10, 11),) * 4),
    *(((0, 1, 2, 3, 8, 9, 10, 11),) * 4),
)

FAN_IN_POWERS = {"fan_in": 1.0, "root_fan_in": 0.5}


class LeNet1989(Classifier):
    """H1 5x5x12 stride 2, H2 5x5x12 stride 2, H3 30, output; a bias per unit; all squashed, the output too.

    [B, 1, 16, 16] -> [B, num_classes], images from -1 (background) to 1. The paper counts 1 256 units, 64 660
    connections and 9 760 parameters: units of a plane share their weights but not their biases.

    Args:
        activation: `scaled_tanh` is 1.7159 tanh(2x/3), the paper's; `tanh` and `relu` are the plain ones.
        squash_output: whether the output units are squashed as the others, for `loss: mse`; off for `cross_entropy`,
            which needs logits without bounds.
        init: weights start uniform in +-2.4 / F, F the inputs of a unit, as the paper says (`fan_in`), or in
            +-2.4 / root of F (`root_fan_in`), which Karpathy takes for what was meant.
        output_bias: where the biases of the output units start; 0, or Karpathy's -1, the target of nine in ten.
        norm: `batch` puts batch normalisation before the activation of H1, H2 and H3; needs batches of 2 or more.
        dropout: probability that a unit of H3 is dropped, 0 to 1.
        skip: adds to H1 and H2, before the activation, what they look at: every other pixel, new planes zero. H3 is
            narrower than H2, so nothing goes around it. No parameters; the paper has no such path.
        num_classes: number of classes; comes from the dataset.
        classifier: see `models.classifier.Classifier`.
    """

    def __init__(
        self,
        activation: Literal["scaled_tanh", "tanh", "relu"] = "scaled_tanh",
        squash_output: bool = True,
        init: Literal["fan_in", "root_fan_in"] = "fan_in",
        output_bias: float = 0.0,
        norm: Literal["none", "batch"] = "none",
        dropout: float = 0.0,
        skip: bool = False,
        num_classes: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        check_choice("activation", activation, tuple(ACTIVATIONS))
        check_choice("init", init, tuple(FAN_IN_POWERS))
        check_choice("norm", norm, ("none", "batch"))
        self.h1 = UnitBiasConv2d(H1_TABLE, map_size=8)
        self.h2 = UnitBiasConv2d(H2_TABLE, map_size=4)
        self.h3 = nn.Linear(12 * 4 * 4, 30)
        self.output = nn.Linear(30, num_classes)
        self.norms = nn.ModuleDict(
            {"h1": nn.BatchNorm2d(12), "h2": nn.BatchNorm2d(12), "h3": nn.BatchNorm1d(30)} if norm == "batch" else {}
        )
        self.squash = ACTIVATIONS[activation]()
        self.squash_output = self.squash if squash_output else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.skip = skip
        self._initialise(FAN_IN_POWERS[init], output_bias)

    def _initialise(self, power: float, output_bias: float) -> None:
        """Weights uniform in +-2.4 / F^power; biases 0, which the paper leaves open, but for the output's."""
        for layer in (self.h1, self.h2, self.h3, self.output):
            bound = 2.4 / layer.weight[0].numel() ** power
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.output.bias, output_bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (16, 16):
            raise ValueError(
                f"LeNet of 1989 needs 16 x 16 pixels, got {x.shape[-2]} x {x.shape[-1]}: use the data modules USPS or "
                "MNIST1989."
            )
        x = self.squash(self._convolved("h1", x))  # [B, 12, 8, 8]
        x = self.squash(self._convolved("h2", x))  # [B, 12, 4, 4]
        x = self.squash(self._norm("h3", self.h3(x.flatten(1))))  # [B, 30]
        return self.squash_output(self.output(self.dropout(x)))

    def _convolved(self, layer: str, x: Tensor) -> Tensor:
        """The named convolution of `x`, normalised, plus the identity path, not yet squashed."""
        out = self._norm(layer, getattr(self, layer)(x))
        return out + halved(x, out.shape[1]) if self.skip else out

    def _norm(self, layer: str, x: Tensor) -> Tensor:
        return self.norms[layer](x) if layer in self.norms else x


class UnitBiasConv2d(nn.Module):
    """5x5 convolution with stride 2 over planes with a background around; a bias for each of its own units.

    [B, C, 2 S, 2 S] -> [B, D, S, S], S the `map_size` in pixels and D the length of `table`, whose row k names the
    planes that plane k looks at, all rows equally many (P): weights [D, P, 5, 5], biases [D, S, S].
    """

    seen: Tensor

    def __init__(self, table: tuple[tuple[int, ...], ...], map_size: int) -> None:
        super().__init__()
        self.planes = 1 + max(plane for row in table for plane in row)
        self.register_buffer("seen", torch.tensor(table), persistent=False)  # [D, P]
        self.weight = nn.Parameter(torch.empty(*self.seen.shape, 5, 5))
        self.bias = nn.Parameter(torch.empty(len(table), map_size, map_size))

    def forward(self, x: Tensor) -> Tensor:
        own = torch.arange(len(self.seen), device=x.device)[:, None]
        dense = self.weight.new_zeros(len(self.seen), self.planes, 5, 5).index_put((own, self.seen), self.weight)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), value=BACKGROUND), dense, stride=2) + self.bias


def halved(x: Tensor, planes: int) -> Tensor:
    """Every other pixel of `x` [B, C, H, W], over which a 5x5 window with stride 2 lies, new planes 0. [B, planes, ...]

    As option A of He et al. 2015, section 3.3.
    """
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, planes - x.shape[1]))
