"""Networks without biases, as the theorems have them, trained until they fit; their start is kept.

Letters: n images, D pixels.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.phenomena.analysis import steps
from benchmarks.phenomena.memorising_runs import Images
from benchmarks.phenomena.pixels import pixels
from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from datamodules.mnist import MNIST

CLASSES = 10
REMEDY = "use wider networks or fewer --samples"  # where images are not fitted in the epochs that there are

Parametrisation = Literal["pytorch", "ntk"]


@dataclass(frozen=True)
class Fitting:
    """SGD with momentum 0.9 on cross-entropy, without weight decay, until the training set is learnt.

    Args:
        rate: learning rate; of the parametrisation's own weights.
        batch: images of a step.
        loss: mean cross-entropy over the training set at which training ends, if there is no training error either.
        epochs: at most.
        parametrisation: `pytorch`, layers x -> Ax with A from U(+-1/sqrt(in)); or `ntk`, x -> Wx / sqrt(in) with W from
            N(0, 1), whose A = W / sqrt(in) have their own learning rates, rate / in (Jacot, Gabriel, Hongler 2018).
    """

    rate: float = 0.05
    batch: int = 100
    loss: float = 0.01
    epochs: int = 300
    parametrisation: Parametrisation = "pytorch"


def read(dataset: str) -> Images:
    """All images of mnist or digits, standardised as recipes do."""
    data: ImageDataModule = {"mnist": MNIST, "digits": Digits}[dataset](batch_size=1)
    mean, std = data.mean[:, None, None] / 255, data.std[:, None, None] / 255
    (x, y), (test_x, test_y) = (pixels(data, split) for split in ("train", "test"))
    x, test_x = (((one - mean) / std).flatten(1) for one in (x, test_x))
    return Images(dataset, x, y, test_x, test_y, CLASSES)


def network_of(
    sizes: Sequence[int], generator: torch.Generator, parametrisation: Parametrisation = "pytorch"
) -> nn.Sequential:
    """Linear layers x -> Ax of these sizes without biases, ReLU between them; A as the parametrisation draws it."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
        if parametrisation == "ntk":
            nn.init.normal_(layer.weight, 0, 1 / math.sqrt(inputs), generator=generator)
        else:
            nn.init.uniform_(layer.weight, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def groups_of(network: nn.Module, fitting: Fitting) -> list[dict[str, Any]]:
    """The matrices A, each with its learning rate: a step of W by rate dL/dW is one of A by (rate / in) dL/dA."""
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Linear)]
    shares = [1 / weight.shape[1] if fitting.parametrisation == "ntk" else 1.0 for weight in weights]
    return [{"params": [weight], "lr": fitting.rate * share} for weight, share in zip(weights, shares, strict=True)]


@dataclass(frozen=True)
class Trained:
    """A network, what it began as, and the epochs that it took; None if time was up."""

    network: nn.Sequential
    start: nn.Sequential
    epochs: int | None


def train(sizes: Sequence[int], x: Tensor, y: Tensor, fitting: Fitting, seed: int) -> Trained:
    """Train on x [n, D] with labels y [n], until they are fitted."""
    generator = torch.Generator().manual_seed(seed)
    network = network_of(sizes, generator, fitting.parametrisation)
    start = copy.deepcopy(network)
    optimizer = torch.optim.SGD(groups_of(network, fitting), momentum=0.9)
    for epoch in steps(range(1, fitting.epochs + 1), f"{sizes[1]} units, seed {seed}"):
        for chosen in torch.randperm(len(x), generator=generator).split(fitting.batch):
            loss = F.cross_entropy(network(x[chosen]), y[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        logits = logits_of(network, x)
        if float(F.cross_entropy(logits, y)) <= fitting.loss and bool((logits.argmax(1) == y).all()):
            return Trained(network.requires_grad_(False), start.requires_grad_(False), epoch)
    return Trained(network.requires_grad_(False), start.requires_grad_(False), None)


@torch.no_grad()
def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """[N, D] -> [N, classes], in parts."""
    return torch.cat([network(part) for part in x.split(2000)])


def error_of(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of wrong predictions."""
    return float((logits_of(network, x).argmax(1) != y).double().mean())
