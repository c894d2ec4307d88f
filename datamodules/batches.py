"""Which samples make a batch: the order of an epoch, the share of a rank, and the interface that all loaders have.

A batch is (images, labels): uint8 [B, H, W, C] and int64 [B], both fresh tensors that may be kept. With colour noise a
third part, float32 [B, C], is to be added to each image's pixels. In evaluation a `View` may make the images a tuple.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

    def batches(self, epoch: int) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """This rank's batches in the given epoch: sample numbers [B] and whether each counts [B]."""
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
            order = order[: len(self) * self.batch_size * self.world_size]
            mine = order.reshape(len(self), self.world_size, self.batch_size)[:, self.rank]
            return [(batch, np.ones(len(batch), bool)) for batch in mine]
        mine = self.samples[self.rank :: self.world_size]
        per_rank = -(-len(self.samples) // self.world_size)
        padded = np.concatenate([mine, np.resize(self.samples, per_rank - len(mine))])
        counts = np.arange(per_rank) < len(mine)
        starts = range(0, per_rank, self.batch_size)
        return [(padded[i : i + self.batch_size], counts[i : i + self.batch_size]) for i in starts]


class EpochSampler:
    """Lightning tells a loader's `sampler` which epoch comes next; this passes it on."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        self.batches.epoch = epoch


class Batches:
    """Iterates over the batches of one epoch, which `sampler.set_epoch` chooses. Subclasses read the pixels."""

    batch_sampler = None  # Lightning looks for it wherever there is a sampler

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.epoch = 0
        self.sampler = EpochSampler(self)

    def __len__(self) -> int:
        return len(self.reading)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """A generator, so the epoch is settled at the first `next`: Lightning calls `iter` before it sets the epoch."""
        batches = self.reading.batches(self.epoch)
        pixels = self.read([samples for samples, _ in batches])
        for (samples, counted), (images, labels) in zip(batches, pixels, strict=True):
            if not counted.all():
                labels[torch.from_numpy(~counted)] = IGNORED_LABEL
            yield (images, labels, *self._offsets(samples))

    def _offsets(self, samples: NDArray[np.int64]) -> list[Tensor]:
        """The third part of a batch: none without colour noise."""
        reading = self.reading
        if not reading.colour_noise:
            return []
        return [torch.from_numpy(colour_offsets(reading.seed, self.epoch, samples, reading.colour_noise))]

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Any, Tensor]]:
        """Images and labels of each batch of sample numbers, in order."""
        raise NotImplementedError
