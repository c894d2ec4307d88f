"""How a network is evaluated. A number without its protocol is not a result.

A protocol turns a network and a batch of images [B, C, H, W] into class scores [B, num_classes]. Names are the field's:

- `1crop`: one view. ImageNet: short side 256, centre 224; MNIST, CIFAR: the image itself.
- `flip`: softmax averaged over the image and its mirror image.

Every evaluation is counted: wrong predictions and images are summed as integers over batches and ranks, and the number
of images is held against the size of the dataset.
"""

from __future__ import annotations

from collections.abc import Callable

import pytorch_lightning as pl
from torch import Tensor, nn

from benchmarks.recipe import RecipeError
from models.classifier import ErrorCount

Protocol = Callable[[nn.Module, Tensor], Tensor]


def one_crop(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of the single view. [B, C, H, W] -> [B, num_classes]"""
    return network(images)


def flip(network: nn.Module, images: Tensor) -> Tensor:
    """Mean of the softmax of the view and of its mirror image. [B, C, H, W] -> [B, num_classes]"""
    return (network(images).softmax(1) + network(images.flip(-1)).softmax(1)) / 2


PROTOCOLS: dict[str, Protocol] = {"1crop": one_crop, "flip": flip}


class MiscountError(RuntimeError):
    """An evaluation counted more or fewer images than the dataset has."""


class Evaluation(pl.LightningModule):
    """Evaluates `network` under the protocol of that name; give it to `Trainer.test`, then read `errors`.

    Args:
        network: maps images [B, C, H, W] to logits [B, num_classes].
        protocol: a name in `PROTOCOLS`.
        expected: number of images in the dataset, which the count must equal.
    """

    def __init__(self, network: nn.Module, protocol: str, expected: int) -> None:
        super().__init__()
        self.network = network
        self.score = PROTOCOLS[protocol]
        self.expected = expected
        self.counter = ErrorCount()
        self.errors: dict[str, float | int] = {}

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count one batch."""
        images, labels = batch
        self.counter.update(self.score(self.network, images), labels)

    def on_test_epoch_end(self) -> None:
        """Sum over ranks, check the count, and keep the errors in percent.

        Raises:
            MiscountError: some image was counted twice or not at all.
        """
        found = self.counter.compute()
        count = int(found["count"])
        if count != self.expected:
            raise MiscountError(
                f"the evaluation counted {count} images, the dataset has {self.expected}: the loader repeats or drops "
                "some. Please report this with the recipe and the number of devices."
            )
        wrong1, wrong5 = int(found["wrong1"]), int(found["wrong5"])
        self.errors = {
            "top1_error": 100 * wrong1 / count,
            "top5_error": 100 * wrong5 / count,
            "wrong1": wrong1,
            "wrong5": wrong5,
            "count": count,
        }
        self.counter.reset()


def check_protocols(names: list[str]) -> None:
    """Refuse a protocol that does not exist.

    Raises:
        RecipeError: naming it and those that exist.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise RecipeError(f"protocol (={name}) must be one of {', '.join(PROTOCOLS)}: correct the recipe's claims.")
