"""Training to zero error on labels and images that were spoilt, as Zhang et al. 2017 did (section 2, figure 1).

Letters: E networks trained at once, n images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.phenomena.batched import BatchedMLP, errors
from datamodules.labels import corrupted_labels, random_labels, subset

Corruption = Literal["true labels", "random labels", "shuffled pixels", "random pixels", "Gaussian"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)


@dataclass(frozen=True)
class Images:
    """A dataset in memory: standardised images [N, D] and labels [N] of both splits."""

    name: str
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int = 10


@dataclass(frozen=True)
class Spoilt:
    """What one network is trained and tested on: images [n, D], labels [n], and the same of the test set."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def spoil(images: Images, corruption: Corruption, count: int, seed: int) -> Spoilt:
    """`count` training images and all test images, spoilt as in Zhang et al. 2017, section 2.1, once.

    Shuffled pixels: one permutation for all images, of both splits. Random pixels: another one for every image.
    Gaussian: every pixel a draw with the mean and variance of the images. Labels of the test set stay true.
    """
    chosen = subset(len(images.x), count, seed, f"the training set of {images.name}")
    x, y, test_x = images.x[chosen], images.y[chosen], images.test_x
    generator = torch.Generator().manual_seed(seed)
    if corruption == "random labels":
        y = torch.from_numpy(random_labels(count, images.classes, seed))
    elif corruption == "shuffled pixels":
        order = torch.randperm(x.shape[1], generator=generator)
        x, test_x = x[:, order], test_x[:, order]
    elif corruption == "random pixels":
        x, test_x = (each_shuffled(part, generator) for part in (x, test_x))
    elif corruption == "Gaussian":
        mean, std = images.x.mean(), images.x.std()
        x, test_x = (mean + std * torch.randn(part.shape, generator=generator) for part in (x, test_x))
    return Spoilt(x, y, test_x, images.test_y)


def each_shuffled(x: Tensor, generator: torch.Generator) -> Tensor:
    """The pixels of every image [N, D] in an order of its own."""
    return x.gather(1, torch.rand(x.shape, generator=generator).argsort(1))


def with_label_noise(images: Images, share: float, count: int, seed: int) -> Spoilt:
    """`count` training images, whose labels are corrupted with probability `share`, once."""
    chosen = subset(len(images.x), count, seed, f"the training set of {images.name}")
    y = corrupted_labels(images.y[chosen].numpy(), share, images.classes, seed)
    return Spoilt(images.x[chosen], torch.from_numpy(y), images.test_x, images.test_y)


@dataclass(frozen=True)
class Training:
    """How a network is trained: SGD on cross-entropy, as in Zhang et al., without weight decay and augmentation.

    Args:
        width: hidden units; their MLP 1x512 has 512.
        batch_size: images of a step.
        lr: learning rate; theirs is 0.1.
        momentum: of SGD.
        epochs: at most; a network is done when it makes no error on its training set.
    """

    width: int = 512
    batch_size: int = 100
    lr: float = 0.1
    momentum: float = 0.9
    epochs: int = 300


@dataclass(frozen=True)
class Fitted:
    """A trained network: after which epoch it had learnt its training set by heart (None: never), and its errors then.

    curve: training error after each epoch.
    """

    epochs: int | None
    train_error: float
    test_error: float
    curve: list[float]


def memorise_all(spoilt: list[Spoilt], training: Training, classes: int, seed: int) -> list[Fitted]:
    """Train one network on each of `spoilt`, at once, until all make no error on their training set or time is up.

    What is fitted is in `spoilt`, from which every epoch takes it: nothing is drawn again.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.stack([s.x for s in spoilt]), torch.stack([s.y for s in spoilt])
    networks = BatchedMLP(len(spoilt), (x.shape[2], training.width, classes), generator)
    optimizer = torch.optim.SGD(networks.parameters(), lr=training.lr, momentum=training.momentum)
    curves: list[list[float]] = [[] for _ in spoilt]
    done: dict[int, Fitted] = {}
    for epoch in range(1, training.epochs + 1):
        for batch in batches(x.shape[0], x.shape[1], training.batch_size, generator):
            optimizer.zero_grad()
            rows = torch.arange(len(spoilt))[:, None]
            logits = networks(x[rows, batch])
            F.cross_entropy(logits.flatten(0, 1), y[rows, batch].flatten(), reduction="sum").div(
                batch.shape[1]
            ).backward()
            optimizer.step()
        with torch.no_grad():
            wrong = errors(networks(x), y).tolist()
        for index, error in enumerate(wrong):
            if index not in done:
                curves[index].append(error)
        fitted = [i for i, error in enumerate(wrong) if i not in done and (error == 0 or epoch == training.epochs)]
        for index, error in zip(fitted, evaluated(networks, spoilt, fitted), strict=True):
            done[index] = Fitted(epoch if wrong[index] == 0 else None, wrong[index], error, curves[index])
        if len(done) == len(spoilt):
            break
    return [done[index] for index in range(len(spoilt))]


def batches(networks: int, count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Numbers of the images of each step of an epoch, each network in its own order: [E, size]; the last smaller."""
    order = torch.rand((networks, count), generator=generator).argsort(1)
    yield from order.split(size, dim=1)


@torch.no_grad()
def evaluated(networks: BatchedMLP, spoilt: list[Spoilt], which: list[int]) -> list[float]:
    """Test error of the networks numbered `which`."""
    found = []
    for index in which:
        hidden = torch.relu(spoilt[index].test_x @ networks.weights[0][index] + networks.biases[0][index])
        logits = hidden @ networks.weights[1][index] + networks.biases[1][index]
        found.append(float(errors(logits, spoilt[index].test_y)))
    return found


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over networks; the latter 0 for one network."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
