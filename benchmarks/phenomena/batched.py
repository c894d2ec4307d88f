"""Several fully connected networks of one shape, trained at once: an ensemble over seeds at the price of a few.

Letters: E networks, B samples, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BatchedMLP(nn.Module):
    """E independent networks: linear layers of `sizes`, ReLU between them.

    Weights are drawn from N(0, 1 / (3 inputs)), the variance of PyTorch's `nn.Linear`; biases begin at 0. He et al.'s
    2 / inputs is too much for the squared loss of a narrow network: the first steps are so large that units die.

    Args:
        networks: E.
        sizes: inputs, width of each hidden layer, classes.
        generator: what the weights are drawn from.
    """

    def __init__(self, networks: int, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        shapes = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(
            torch.randn(networks, i, o, generator=generator) / math.sqrt(3 * i) for i, o in shapes
        )
        self.biases = nn.ParameterList(torch.zeros(networks, 1, o) for _, o in shapes)

    def forward(self, x: Tensor) -> Tensor:
        """[E, B, inputs], each network its own samples -> logits [E, B, K]"""
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x.relu() if index else x, weight)
        return x

    @property
    def weights_each(self) -> int:
        """Weights and biases of one of the networks."""
        return sum(p[0].numel() for p in self.parameters())


def errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of wrong predictions of each network. logits [E, B, K], labels [E, B] or [B] -> [E]"""
    return (logits.argmax(-1) != labels).double().mean(-1)
