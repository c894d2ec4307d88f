"""How a network is evaluated. A number without its protocol is not a result.

A protocol says what is cut from a test image (a `View`), and turns the cuts into class scores [B, num_classes]. Names
are the field's. Q is a short side in pixels to which the image is resized, and a crop has `data.init_args.eval_size`:

- `1crop`: one view. ImageNet: short side `eval_resize`, centre; MNIST, CIFAR: the image itself.
- `flip`: the view and its mirror image.
- `10crop`: the corners and the centre of the central square at `eval_resize`, and their mirror images (Krizhevsky et
  al. 2012, section 4.1).
- `144crop`: at short sides 256, 288, 320 and 352 the left, central and right (top, central, bottom) square; of each the
  corners, the centre and the whole square resized, and their mirror images (Szegedy et al. 2015, section 7).
- `dense-Q`: the whole image at short side Q and its mirror image, through the fully convolutional form, whose logits
  are averaged over positions (Simonyan, Zisserman 2015, section 3.2).
- `ms-dense-Q1-Q2-...`: the mean of `dense-Q` over several short sides (there, section 4.2).

Where there are several views, their softmaxes are averaged, in float32.

Every evaluation is counted: wrong predictions and images are summed as integers over batches and ranks, and the number
of images is held against the size of the dataset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.recipe import RecipeError
from datamodules.base import ImageDataModule
from datamodules.batches import CENTRE, View
from datamodules.originals import DataError
from models.classifier import Classifier, ErrorCount

Score = Callable[[Any, tuple[Tensor, ...], int], Tensor]


@dataclass(frozen=True)
class Protocol:
    """What is cut from a test image, and the scores [B, num_classes] that a network gives the cuts [B, C, H, W].

    `score` takes the network, the cuts of the view, and the height and width in pixels of a crop.
    """

    view: View
    score: Score


def one_crop(network: nn.Module, cuts: tuple[Tensor, ...], size: int) -> Tensor:
    """Logits of the single view."""
    return network(cuts[0])


def flip(network: nn.Module, cuts: tuple[Tensor, ...], size: int) -> Tensor:
    """The view and its mirror image."""
    return mean_softmax(network, cuts)


def ten_crop(network: nn.Module, cuts: tuple[Tensor, ...], size: int) -> Tensor:
    """Five crops of the square and their mirror images."""
    return mean_softmax(network, five_crops(cuts[0], size))


def many_crop(network: nn.Module, cuts: tuple[Tensor, ...], size: int) -> Tensor:
    """Of each square five crops and the square itself, resized, and their mirror images."""
    return mean_softmax(
        network, (crop for square in cuts for crop in [*five_crops(square, size), shrunk(square, size)])
    )


def dense(network: Classifier, cuts: tuple[Tensor, ...], size: int) -> Tensor:
    """Whole images and their mirror images, each averaged over the positions of its logit map."""
    return mean_softmax(lambda images: network.logit_maps(images).float().mean((2, 3)), cuts)


def mean_softmax(classify: Callable[[Tensor], Tensor], views: Iterable[Tensor]) -> Tensor:
    """Mean of the softmax over the views [B, C, H, W] and their mirror images. [B, num_classes]"""
    return torch.stack([classify(x).float().softmax(1) for view in views for x in (view, view.flip(-1))]).mean(0)


def five_crops(images: Tensor, size: int) -> list[Tensor]:
    """The corners and the centre, size x size, where torchvision's `five_crop` has them."""
    bottom, right = images.shape[-2] - size, images.shape[-1] - size
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    return [images[..., top : top + size, left : left + size] for top, left in places]


def shrunk(images: Tensor, size: int) -> Tensor:
    """Resized to size x size, antialiased bilinear as PIL, but not rounded to whole grey levels."""
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True).to(images.dtype)


PROTOCOLS: dict[str, Protocol] = {
    "1crop": Protocol(CENTRE, one_crop),
    "flip": Protocol(CENTRE, flip),
    "10crop": Protocol(View("square"), ten_crop),
    "144crop": Protocol(View("squares", (256, 288, 320, 352)), many_crop),
}  # and those of `DENSE`, for any short side
DENSE = re.compile(r"dense-([1-9]\d*)|ms-dense((?:-[1-9]\d*){2,})")


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        RecipeError: there is none; the message lists those that exist.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    found = DENSE.fullmatch(name)
    short_sides = tuple(int(side) for side in re.findall(r"\d+", name)) if found else ()
    if not short_sides or len(set(short_sides)) < len(short_sides):
        raise RecipeError(
            f"protocol (={name}) must be one of {', '.join(PROTOCOLS)}, dense-Q such as dense-384, or ms-dense-Q1-Q2 "
            "such as ms-dense-256-384-512 with different short sides in pixels: correct the recipe's claims."
        )
    return Protocol(View("whole", short_sides), dense)


def check_protocols(names: list[str]) -> None:
    """Refuse protocols that do not exist.

    Raises:
        RecipeError: naming the first of them and those that exist.
    """
    for name in names:
        find_protocol(name)


def check_evaluation(names: list[str], network: Classifier, data: ImageDataModule) -> None:
    """Refuse protocols that this network or this dataset cannot have, before anything is trained.

    Raises:
        RecipeError: naming the protocol and the reason.
    """
    for name in names:
        protocol = find_protocol(name)
        try:
            data.check_view(protocol.view)
            if protocol.score is dense:
                try_densely(network, len(data.std), min(protocol.view.short_sides))
        except (DataError, ValueError) as error:
            raise RecipeError(f"protocol (={name}) of the recipe's claims: {error}") from None


def try_densely(network: Classifier, channels: int, side: int) -> None:
    """One black image of side x side pixels through the fully convolutional form of the network.

    Raises:
        ValueError: it has none, or that does not take images of this size.
    """
    image = torch.zeros(1, channels, side, side, device=network.device)
    training = network.training
    try:
        with torch.no_grad():
            maps = network.eval().logit_maps(image)
    except RuntimeError as error:  # torch's own complaint about shapes
        raise ValueError(f"the network must take images of {side} x {side} pixels, it does not: {error}") from None
    finally:
        network.train(training)
    if maps.ndim != 4 or maps.shape[:2] != (1, network.num_classes):
        raise ValueError(f"logit_maps must give [1, {network.num_classes}, h, w], it gives {list(maps.shape)}.")


class MiscountError(RuntimeError):
    """An evaluation counted more or fewer images than the dataset has."""


class Evaluation(pl.LightningModule):
    """Evaluates `network` under the protocol of that name; give it to `Trainer.test`, then read `errors`.

    Args:
        network: maps images [B, C, H, W] to logits [B, num_classes].
        protocol: a name that `find_protocol` knows.
        expected: number of images in the dataset, which the count must equal.
        size: height and width in pixels of a crop.
    """

    def __init__(self, network: nn.Module, protocol: str, expected: int, size: int) -> None:
        super().__init__()
        self.network = network
        self.score = find_protocol(protocol).score
        self.expected = expected
        self.size = size
        self.counter = ErrorCount()
        self.errors: dict[str, float | int] = {}

    def test_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:
        """Count one batch: its images are one cut, or a tuple of several."""
        images, labels = batch
        cuts = images if isinstance(images, tuple) else (images,)
        self.counter.update(self.score(self.network, cuts, self.size), labels)

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
