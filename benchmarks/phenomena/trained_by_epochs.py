"""A fully connected network that is trained as usual, for analyses that look at it between epochs.

784-512-256-10 with ReLU on MNIST, the network of `phenomena/mlp_spectra`; a smaller one on scikit-learn's digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.phenomena.analysis import steps
from benchmarks.phenomena.pixels import pixels
from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from datamodules.mnist import MNIST
from models.mlp import MLP


@dataclass(frozen=True)
class TrainSettings:
    """What is trained.

    Args:
        dataset: mnist or digits.
        hidden: units of the hidden layers.
        epochs: of SGD without momentum and decay.
        rate: of SGD.
        batch: images of a step.
        images: training images that features are looked at with.
    """

    dataset: str
    hidden: tuple[int, ...]
    epochs: int
    rate: float = 0.1
    batch: int = 64
    images: int = 4000


PRESETS = {
    "smoke": TrainSettings("digits", (256, 128), 30, images=1000),
    "cpu": TrainSettings("mnist", (512, 256), 8),
    "full": TrainSettings("mnist", (512, 256), 100, images=10_000),
}


@dataclass(frozen=True)
class Task:
    """Normalised images and labels.

    Args:
        x: training images. [n, 1, side, side]
        y: their labels. [n]
        test_x: test images.
        test_y: their labels.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def read(dataset: str) -> Task:
    """All of a dataset.

    Raises:
        DataError: it is not there.
    """
    data: ImageDataModule = {"mnist": MNIST, "digits": Digits}[dataset](batch_size=1)
    mean, std = data.mean[:, None, None] / 255, data.std[:, None, None] / 255
    (x, y), (test_x, test_y) = pixels(data, "train"), pixels(data, "test")
    return Task((x - mean) / std, y, (test_x - mean) / std, test_y)


def epochs(settings: TrainSettings, task: Task, seed: int) -> Iterator[tuple[int, MLP]]:
    """The network before its first step, as epoch 0, and after every epoch; it goes on from what it is handed back.

    Weights are drawn from torch's generator, the order from one with `seed`.
    """
    _, channels, height, width = task.x.shape
    network = MLP((channels, height, width), list(settings.hidden))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.rate)
    yield 0, network
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(len(task.x), generator=generator)
        for chosen in steps(order.split(settings.batch), f"epoch {epoch} of {settings.epochs}"):
            optimizer.zero_grad()
            F.cross_entropy(network(task.x[chosen]), task.y[chosen]).backward()
            optimizer.step()
        yield epoch, network


@torch.no_grad()
def test_error(network: MLP, task: Task) -> float:
    """In percent."""
    guesses = torch.cat([network(some).argmax(1) for some in task.test_x.split(2000)])
    return 100 * float((guesses != task.test_y).double().mean())
