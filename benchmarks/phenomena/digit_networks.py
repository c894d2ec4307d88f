"""Networks of one hidden layer that learn digits, many at once. Letters: E networks, n images, K classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.phenomena.batched import BatchedMLP, errors
from benchmarks.phenomena.pixels import pixels
from datamodules.digits import Digits

PIXELS, CLASSES = 64, 10
Order = Callable[[int], Tensor]  # of an epoch: a permutation of the images for each network, [E, n]


@dataclass(frozen=True)
class FlatDigits:
    """Images [n, pixels], normalised, with labels [n]."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def read() -> FlatDigits:
    """All of scikit-learn's digits."""
    data = Digits(batch_size=1)
    mean, std = data.mean[:, None, None] / 255, data.std[:, None, None] / 255
    (x, y), (test_x, test_y) = (pixels(data, split) for split in ("train", "test"))
    return FlatDigits(((x - mean) / std).flatten(1), y, ((test_x - mean) / std).flatten(1), test_y)


def own_orders(networks: int, images: int, seed: int) -> Order:
    """Each network its own order in each epoch, which follows from the seed and the number of the epoch alone."""

    def order(epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        return torch.stack([torch.randperm(images, generator=generator) for _ in range(networks)])

    return order


def descend(
    networks: BatchedMLP, x: Tensor, y: Tensor, order: Order, epochs: int, batch: int, rate: float
) -> BatchedMLP:
    """SGD with momentum 0.9, whose rate falls linearly from `rate` to 0; the last few images of an epoch are left.

    The sum of the networks' losses is minimised, of which each weight sees that of its own network alone.
    """
    in_epoch = len(x) // batch
    optimizer = torch.optim.SGD(networks.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * in_epoch)
    for epoch in range(epochs):
        for chosen in order(epoch)[:, : in_epoch * batch].split(batch, 1):
            optimizer.zero_grad()
            losses(networks(x[chosen]), y[chosen]).sum().backward()
            optimizer.step()
            schedule.step()
    return networks


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each network, mean over images. logits [E, B, K], labels [E, B] -> [E]"""
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return each.reshape(labels.shape).mean(1)


@torch.no_grad()
def evaluate(networks: BatchedMLP, x: Tensor, y: Tensor, size: int = 500) -> Tensor:
    """Loss and share of wrong predictions of each network on all of x [n, pixels], y [n]. [2, E], double precision"""
    count = len(networks.weights[0])
    total = torch.zeros(2, count, dtype=torch.float64)
    for images, labels in zip(x.split(size), y.split(size), strict=True):
        logits = networks(images.expand(count, -1, -1))
        found = torch.stack([losses(logits, labels.expand(count, -1)).double(), errors(logits, labels)])
        total += len(labels) * found
    return total / len(y)
