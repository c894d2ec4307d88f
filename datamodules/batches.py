"""Which samples make a batch: the order of an epoch, the share of a rank, and the interface that all loaders have.

A batch is (images, labels): uint8 [B, H, W, C] and int64 [B], both fresh tensors that may be kept. With colour noise a
third part, float32 [B, C], is to be added to each image's pixels. In evaluation a `View` may make the images a tuple.

An epoch can be left after any step and gone on with: `Batches.state_dict` says how far it is, in images over all ranks,
and `load_state_dict` takes that up. Lightning keeps it in its checkpoints (its protocol of stateful loaders). Workers
and the device play no part in it. With other ranks the steps that are left hold the same images, each on some rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.ahead import on_device_ahead
from datamodules.augment import Augmentation, colour_offsets
from datamodules.originals import DataError

IGNORED_LABEL = -100  # on images that only fill up a rank's last batch; torch's cross-entropy skips it


@dataclass(frozen=True)
class View:
    """What evaluation cuts from each image after its short side was resized.

    Args:
        part: `centre`, the central crop of the network's size, as one tensor [B, H, W, C]. The others come as tuples of
            such tensors: `square`, the central square; `squares`, the left, central and right square, or the top,
            central and bottom one; `whole`, the whole image, whose sizes differ, so that a batch is one image.
        short_sides: short sides in pixels, one after the other; none: the dataset's own, `eval_resize`.
    """

    part: Literal["centre", "square", "squares", "whole"] = "centre"
    short_sides: tuple[int, ...] = ()


CENTRE = View()


@dataclass(frozen=True)
class Reading:
    """Which samples of a split are read, how they are grouped, and what is cut from them.

    Training (`shuffle`): every epoch has its own permutation of `samples`, cut into global batches; an incomplete last
    one is dropped, so any number of ranks sees the same global batches, and each epoch drops other samples.
    Evaluation: in order, every sample exactly once over all ranks; ranks get equally many batches, filled up with
    images labelled `IGNORED_LABEL`.
    """

    samples: NDArray[np.int64]  # numbers of the samples in their split
    batch_size: int  # images per batch of one rank
    shuffle: bool
    seed: int = 0
    augmentation: Augmentation | None = None
    colour_noise: float = 0.0  # standard deviation of the normal numbers of `augment.colour_offsets`
    view: View = CENTRE  # where there is no augmentation
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1  # batches per optimizer step: an epoch holds whole steps only
    dataset: str = ""  # what identifies the images, such as the hash in their manifest

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"batch_size (={self.batch_size}) must be at least 1 image on every device.")
        if self.shuffle and len(self) == 0:
            raise DataError(
                f"batch_size (={self.batch_size} x {self.world_size} ranks) must not exceed the training set "
                f"(={len(self.samples)} images): lower data.init_args.batch_size."
            )

    def __len__(self) -> int:
        """Batches per epoch on each rank."""
        over_ranks = self.batch_size * self.world_size
        if self.shuffle:
            return len(self.samples) // (over_ranks * self.accumulate) * self.accumulate
        return -(-len(self.samples) // over_ranks)

    @property
    def batch_over_ranks(self) -> int:
        """Images of one batch, over all ranks."""
        return self.batch_size * self.world_size

    def batches(self, epoch: int, start: int = 0) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """This rank's batches in the given epoch: sample numbers [B] and whether each counts [B].

        `start` images, over all ranks, are left out at the beginning; in training a multiple of `batch_over_ranks`.
        """
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
            order = order[start : len(self) * self.batch_over_ranks]
            mine = order.reshape(-1, self.world_size, self.batch_size)[:, self.rank]
            return [(batch, np.ones(len(batch), bool)) for batch in mine]
        left = self.samples[start:]
        mine = left[self.rank :: self.world_size]
        per_rank = -(-len(left) // self.world_size)
        padded = np.concatenate([mine, np.resize(self.samples, per_rank - len(mine))])
        counts = np.arange(per_rank) < len(mine)
        starts = range(0, per_rank, self.batch_size)
        return [(padded[i : i + self.batch_size], counts[i : i + self.batch_size]) for i in starts]

    def identity(self) -> dict[str, Any]:
        """What must be the same where an epoch is gone on with, by the names that messages use."""
        return {
            "shuffle": self.shuffle,
            "seed": self.seed,
            "dataset": self.dataset,
            "images": len(self.samples),
            "samples": hashlib.sha256(self.samples.astype("<i8").tobytes()).hexdigest()[:16],
            "images_per_step": self.batch_over_ranks * self.accumulate,
        }


class EpochSampler:
    """Lightning tells a loader's `sampler` which epoch comes next; this passes it on."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        self.batches.start_epoch(epoch)


class Batches:
    """Iterates over the batches of one epoch, which `sampler.set_epoch` chooses. Subclasses read the pixels."""

    batch_sampler = None  # Lightning looks for it wherever there is a sampler

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.epoch = 0
        self.sampler = EpochSampler(self)
        self.position = 0  # images handed out in this epoch, over all ranks
        self.device = torch.device("cpu")  # where images are sent ahead of their turn
        self._resume: tuple[int, int] | None = None  # epoch and position that the next iteration takes up

    def __len__(self) -> int:
        """Batches of a whole epoch, also where one is gone on with: Lightning counts those before."""
        return len(self.reading)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """A generator, so the epoch is settled at the first `next`: Lightning calls `iter` before it sets the epoch."""
        epoch, start = self._resume or (self.epoch, 0)
        self.position = start if epoch == self.epoch else 0
        self._resume = None
        batches = self.reading.batches(self.epoch, self.position)
        if not batches:
            return
        pixels = on_device_ahead(self.read([samples for samples, _ in batches]), self.device)
        for (samples, counted), (images, labels) in zip(batches, pixels, strict=True):
            if not counted.all():
                labels[torch.from_numpy(~counted)] = IGNORED_LABEL
            self.position += self.reading.batch_over_ranks
            yield (images, labels, *self._offsets(samples))

    def start_epoch(self, epoch: int) -> None:
        """The next iteration is over this epoch, from its start unless it is the one that a loaded state is within."""
        if epoch != self.epoch:
            self.position = 0
        if self._resume and self._resume[0] != epoch:
            self._resume = None
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """How far this epoch is, the same on every rank; after its last batch, the beginning of the next one."""
        epoch, position = self._resume or (self.epoch, self.position)
        if position >= len(self) * self.reading.batch_over_ranks:
            epoch, position = epoch + 1, 0
        return {"epoch": epoch, "position": position, **self.reading.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` says, if the next epoch that is iterated over is the state's; a later one is whole.

        Raises:
            DataError: it is of another order of images, or within an optimizer step, whose gradients are gone.
        """
        ours = self.reading.identity()
        for name, value in ours.items():
            if state.get(name) != value:
                raise DataError(
                    f"the checkpoint is in the middle of an epoch with {name} (={state.get(name)}), this run has "
                    f"{name} (={value}): {REMEDIES[name]}, or start the run anew with --again."
                )
        if state["position"] % ours["images_per_step"]:
            raise DataError(
                f"position (={state['position']} images) must be a multiple of images_per_step "
                f"(={ours['images_per_step']}): gradients of a part of a step are not in the checkpoint. Save it after "
                "whole optimizer steps, or start the run anew with --again."
            )
        self._resume = state["epoch"], state["position"]

    def _offsets(self, samples: NDArray[np.int64]) -> list[Tensor]:
        """The third part of a batch: none without colour noise."""
        reading = self.reading
        if not reading.colour_noise:
            return []
        return [torch.from_numpy(colour_offsets(reading.seed, self.epoch, samples, reading.colour_noise))]

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Any, Tensor]]:
        """Images and labels of each batch of sample numbers, in order."""
        raise NotImplementedError


REMEDIES = {
    "shuffle": "load the state of a training loader into a training loader",
    "seed": "give --seed_everything the checkpoint's",
    "dataset": "point --data.root at the images that the run began with",
    "images": "use the images and the holdout that the run began with",
    "samples": "use the images and the holdout that the run began with",
    "images_per_step": "use the batch size that the run began with, whatever the devices",
}
