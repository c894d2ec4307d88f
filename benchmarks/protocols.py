"""How a network, or several, are evaluated. A number without its protocol is not a result.

A protocol says what is cut from a test image (a `View`), and turns the cuts into class scores [B, num_classes]. Names
are the field's. Q is a short side in pixels to which the image is resized, and a crop has `data.init_args.eval_size`:

- `1crop`: one view. ImageNet: short side `eval_resize`, centre; MNIST, CIFAR: the image itself.
- `flip`: the view and its mirror image.
- `10crop`: the corners and the centre of the central square at `eval_resize`, and their mirror images (Krizhevsky et
  al. 2012, section 4.1).
- `144crop`: at short sides 256, 288, 320 and 352 the left, central and right (top, central, bottom) square; of each the
  corners, the centre and the whole square resized, and their mirror images (Szegedy et al. 2015, section 7).
- `150crop`: at short sides 256, 384 and 512 a regular grid of 5 x 5 crops from edge to edge, and their mirror images
  (Simonyan, Zisserman 2015, section 3.2; "multi-crop" in its tables).
- `dense-Q`: the whole image at short side Q and its mirror image, through the fully convolutional form, whose logits
  are averaged over positions (there).
- `ms-dense-Q1-Q2-...`: the mean of `dense-Q` over several short sides (there, section 4.2).

Where there are several views, their softmaxes are averaged, in float32; and so, in float64, are whole evaluations:

- `A+B`: the mean of the softmaxes under A and under B, as `150crop+ms-dense-256-384-512` (there, Table 5).
- `ens-N-A`: the mean of the softmaxes of N networks, each under A, which may be a sum of several, as `ens-5-10crop`.
- `ens-N`: likewise, each network under the protocol that its line in the ensemble's recipe names.

Every evaluation is counted: wrong predictions and images are summed as integers over batches and ranks, and the number
of images is held against the size of the dataset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mistakes import Mistakes
from benchmarks.recipe import RecipeError
from datamodules.base import ImageDataModule
from datamodules.batches import CENTRE, IGNORED_LABEL, View
from datamodules.originals import DataError
from models.classifier import Classifier, ErrorCount, rank_of_label

Score = Callable[[Any, tuple[Tensor, ...], int], Tensor]


@dataclass(frozen=True)
class Protocol:
    """What is cut from a test image, and the scores [B, num_classes] that a network gives the cuts [B, C, H, W].

    `score` takes the network, the cuts of the view, and the height and width in pixels of a crop.
    """

    view: View
    score: Score

    def probabilities(self, scores: Tensor) -> Tensor:
        """What `score` gave as class probabilities [B, num_classes]: a single view has logits, whose order is finer."""
        return scores.float().softmax(1) if self.score is one_crop else scores


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


def grid_crop(network: nn.Module, cuts: tuple[Tensor, ...], size: int) -> Tensor:
    """Of each whole image a regular grid of crops, which go through the network together, and their mirror images."""
    grids = [grid_crops(image, size) for image in cuts]
    means = mean_softmax(network, (torch.cat(crops) for crops in grids))  # of each place in the grid
    return means.unflatten(0, (len(grids[0]), -1)).mean(0)


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


def grid_crops(images: Tensor, size: int, per_side: int = 5) -> list[Tensor]:
    """per_side x per_side crops of size x size, the outer ones at the edges, the others evenly between them."""
    height, width = images.shape[-2:]
    tops, lefts = (
        [round(step * (length - size) / (per_side - 1)) for step in range(per_side)] for length in (height, width)
    )
    return [images[..., top : top + size, left : left + size] for top in tops for left in lefts]


def shrunk(images: Tensor, size: int) -> Tensor:
    """Resized to size x size, antialiased bilinear as PIL, but not rounded to whole grey levels."""
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True).to(images.dtype)


PROTOCOLS: dict[str, Protocol] = {
    "1crop": Protocol(CENTRE, one_crop),
    "flip": Protocol(CENTRE, flip),
    "10crop": Protocol(View("square"), ten_crop),
    "144crop": Protocol(View("squares", (256, 288, 320, 352)), many_crop),
    "150crop": Protocol(View("whole", (256, 384, 512)), grid_crop),
}  # and those of `DENSE`, for any short side
DENSE = re.compile(r"dense-([1-9]\d*)|ms-dense((?:-[1-9]\d*){2,})")
ENSEMBLE = re.compile(r"ens-([1-9]\d*)(?:-(.+))?")


def find_protocol(name: str) -> Protocol:
    """The protocol of that name, of one network and one view: no sum and no ensemble.

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
            "such as ms-dense-256-384-512 with different short sides in pixels; a sum of them, A+B; or, of N networks, "
            "ens-N-A or ens-N: correct the recipe's claims."
        )
    return Protocol(View("whole", short_sides), dense)


def networks_of(name: str) -> int:
    """How many networks a protocol averages: N of `ens-N` and `ens-N-A`, else 1."""
    found = ENSEMBLE.fullmatch(name)
    return int(found[1]) if found else 1


def parts_of(name: str) -> tuple[str, ...]:
    """The protocols that are averaged for each network: A and B of `A+B` and `ens-N-A+B`, none of `ens-N`."""
    found = ENSEMBLE.fullmatch(name)
    parts = found[2] if found else name
    return tuple(parts.split("+")) if parts is not None else ()


def check_protocols(names: list[str], networks: int = 1) -> None:
    """Refuse protocols that do not exist, or average another number of networks than the recipe has.

    Raises:
        RecipeError: naming the first of them and those that exist.
    """
    for name in names:
        parts = parts_of(name)
        for part in parts:
            find_protocol(part)
        if len(set(parts)) < len(parts):
            raise RecipeError(f"protocol (={name}) names {parts[0]} more than once: leave the others out.")
        if networks_of(name) != networks:
            wanted = f"ens-{networks}-A or ens-{networks}" if networks > 1 else "none with ens-"
            raise RecipeError(
                f"protocol (={name}) averages {networks_of(name)} network{'s' * (networks_of(name) > 1)}, the recipe "
                f"has {networks}: claims of this recipe must have {wanted}. An ensemble is a recipe with `members`."
            )


def check_evaluation(names: list[str], network: Classifier, data: ImageDataModule) -> None:
    """Refuse protocols that this network or this dataset cannot have, before anything is trained.

    Raises:
        RecipeError: naming the protocol and the reason.
    """
    for part in dict.fromkeys(part for name in names for part in parts_of(name)):
        protocol = find_protocol(part)
        try:
            data.check_view(protocol.view)
            if protocol.score is dense:
                try_densely(network, len(data.std), min(protocol.view.short_sides))
        except (DataError, ValueError) as error:
            raise RecipeError(f"protocol (={part}) of the recipe's claims: {error}") from None


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


class MeanScores:
    """The mean of the softmaxes of several evaluations, each of which goes over the same images in the same order.

    Holds the sum for this rank's images in host memory, as float64, so that it does not depend on the order of the
    evaluations: over all ranks 8 bytes x images x classes, 0.4 GB for 50 000 images of 1 000 classes.

    Args:
        evaluations: how many are added, each between `start` and `finish`.
    """

    def __init__(self, evaluations: int) -> None:
        self.evaluations = evaluations
        self.finished = 0
        self.place = 0  # of the next image
        self.sum: Tensor | None = None
        self.labels = torch.empty(0, dtype=torch.int64)
        self.errors: dict[str, float | int] = {}

    def start(self, images: int) -> None:
        """An evaluation begins, of so many images on this rank."""
        if self.finished == 0:
            self.sum, self.labels = None, torch.empty(images, dtype=torch.int64)
        self.place = 0

    def add(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch, [B, num_classes] and [B]; images that only fill it up are left out.

        Raises:
            MiscountError: these are not the images of the evaluations before.
        """
        counted = labels != IGNORED_LABEL
        probabilities, labels = probabilities[counted].double().cpu(), labels[counted].cpu()
        if self.sum is None:
            self.sum = torch.zeros(len(self.labels), probabilities.shape[1], dtype=torch.float64)
        rows = slice(self.place, self.place + len(labels))
        if self.finished == 0 and rows.stop <= len(self.labels):
            self.labels[rows] = labels
        if not torch.equal(self.labels[rows], labels) or self.sum.shape[1] != probabilities.shape[1]:
            raise MiscountError(
                f"image {self.place} or one behind it has another label than in the evaluation before, or there are "
                "more images: what is averaged must go over the same images. Please report this with the recipe."
            )
        self.sum[rows] += probabilities
        self.place = rows.stop

    def finish(self) -> None:
        """An evaluation is over.

        Raises:
            MiscountError: it did not go over every image.
        """
        if self.place != len(self.labels):
            raise MiscountError(
                f"an evaluation went over {self.place} of this rank's {len(self.labels)} images: please report this "
                "with the recipe and the number of devices."
            )
        self.finished += 1

    @property
    def complete(self) -> bool:
        """Whether every evaluation is added."""
        return self.finished == self.evaluations

    def counts(self) -> Tensor:
        """Of this rank's images, in integers: those wrong in top-1, those wrong in top-5, all. [3]"""
        if self.sum is None:  # a rank without images
            return torch.zeros(3, dtype=torch.int64)
        ranks = rank_of_label(self.sum / self.evaluations, self.labels)
        return torch.tensor([(ranks >= 1).sum(), (ranks >= 5).sum(), len(ranks)])


class Evaluation(pl.LightningModule):
    """Evaluates `network` under the protocol of that name; give it to `Trainer.test`, then read `errors`.

    Args:
        network: maps images [B, C, H, W] to logits [B, num_classes].
        protocol: a name that `find_protocol` knows.
        size: height and width in pixels of a crop.
        expected: number of images in the dataset, which the count must equal; default: as the data module has it, once
            it is prepared.
        means: to each the softmaxes are added, and those that are complete with them get their errors.
        mistakes: what notes who is taken for whom; its counts are of all ranks afterwards.
    """

    def __init__(
        self,
        network: nn.Module,
        protocol: str,
        size: int,
        expected: int | None = None,
        means: Sequence[MeanScores] = (),
        mistakes: Mistakes | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.protocol = find_protocol(protocol)
        self.expected = expected
        self.size = size
        self.means = means
        self.mistakes = mistakes
        self.counter = ErrorCount()
        self.errors: dict[str, float | int] = {}

    def on_test_start(self) -> None:
        """Tell the means how many images this rank has: every `world_size`th of the dataset."""
        if self.expected is None:
            self.expected = self.trainer.datamodule.manifest("test").count  # type: ignore[attr-defined]
        for mean in self.means:
            mean.start(len(range(self.trainer.global_rank, self.expected, self.trainer.world_size)))

    def test_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:
        """Count one batch: its images are one cut, or a tuple of several."""
        images, labels = batch
        cuts = images if isinstance(images, tuple) else (images,)
        scores = self.protocol.score(self.network, cuts, self.size)
        self.counter.update(scores, labels)
        for mean in self.means:
            mean.add(self.protocol.probabilities(scores), labels)
        if self.mistakes is not None:
            self.mistakes.add(scores, self.protocol.probabilities(scores), labels, cuts[0])

    def on_test_epoch_end(self) -> None:
        """Sum over ranks, check the count, and keep the errors in percent.

        Raises:
            MiscountError: some image was counted twice or not at all.
        """
        found = self.counter.compute()
        self.errors = errors_of([int(found[name]) for name in ("wrong1", "wrong5", "count")], self.expected)
        self.counter.reset()
        for mean in self.means:
            mean.finish()
            if mean.complete:
                counts = self.trainer.strategy.reduce(mean.counts().to(self.device), reduce_op="sum")
                mean.errors = errors_of(counts.tolist(), self.expected)
                mean.sum = None
        if self.mistakes is not None:
            counts = self.mistakes.counts.to(self.device)
            self.mistakes.counts = self.trainer.strategy.reduce(counts, reduce_op="sum").cpu()


def errors_of(counts: list[int], expected: int | None) -> dict[str, float | int]:
    """Errors in percent, and what they are counted from: images wrong in top-1, wrong in top-5, and all.

    Raises:
        MiscountError: there are not as many as expected.
    """
    wrong1, wrong5, count = counts
    if count != expected:
        raise MiscountError(
            f"the evaluation counted {count} images, the dataset has {expected}: the loader repeats or drops some. "
            "Please report this with the recipe and the number of devices."
        )
    errors = {"top1_error": 100 * wrong1 / count, "top5_error": 100 * wrong5 / count}
    return errors | {"wrong1": wrong1, "wrong5": wrong5, "count": count}
