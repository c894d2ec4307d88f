"""Distortions of digits: affine as in LeCun et al. 1998, elastic as in Simard et al. 2003, the same from every loader.

As in `datamodules.augment`, every random number is a function of (seed, epoch, sample, draw number), so that an image
is distorted the same way by any number of workers and ranks, and again when a run is resumed. Distortions act on the
batches a loader has read, before normalisation. B is the number of images in a batch, H and W the height and width of a
stored image, S those of a distorted one, all in pixels.

Draw numbers: 300 whether an image is distorted, 301 to 305 its affine map, from 1000 on its elastic field.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datamodules.augment import uniform
from datamodules.batches import Batches
from datamodules.originals import DataError

ELASTIC_DRAW = 1000


@dataclass(frozen=True)
class Distortion:
    """A random affine map and a random elastic field for each image, sampled bilinearly; 0 outside the image.

    LeCun et al. 1998, section III.B, name horizontal and vertical translation, scaling, squeezing (narrower and taller
    at once, or the reverse) and horizontal shearing, without amounts or distribution. Here each is drawn uniformly.

    Args:
        size: height and width in pixels of a distorted image; the stored image lies in the middle of it.
        translate: an image moves by up to so many pixels, in each direction on its own.
        scale: it becomes up to so much larger or smaller: 0.1 is 0.9 to 1.1 times.
        squeeze: its width is multiplied, and its height divided, by up to so much more or less than 1.
        shear: a point moves right by up to so many pixels for each pixel it lies below the middle, or left.
        elastic: points move by a smooth random field of this strength, Simard et al. 2003's alpha; 0 for none.
        elastic_sigma: standard deviation in pixels of the Gaussian that smooths the field.
        share: probability that an image is distorted at all.
    """

    size: int
    translate: float = 0.0
    scale: float = 0.0
    squeeze: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    elastic_sigma: float = 4.0
    share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("translate", "shear", "elastic"):
            if getattr(self, name) < 0:
                raise DataError(f"data.init_args.{name} (={getattr(self, name)}) must not be negative; 0 is none.")
        for name in ("scale", "squeeze"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"data.init_args.{name} (={getattr(self, name)}) must lie in [0, 1); 0 is none.")
        if self.elastic_sigma <= 0:
            raise DataError(
                f"data.init_args.elastic_sigma (={self.elastic_sigma}) must be positive: 4 pixels in the paper."
            )
        if not 0 <= self.share <= 1:
            raise DataError(
                f"data.init_args.distorted (={self.share}) must lie in [0, 1]: it is the share of distorted images."
            )

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return self.share > 0 and any((self.translate, self.scale, self.squeeze, self.shear, self.elastic))

    def matrices(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """Affine maps [B, 2, 3] of points (x, y), from the middle in pixels, x to the right and y down.

        (x, y, 1) of the original is moved to matrix times (x, y, 1).
        """

        def drawn(draw: int, bound: float) -> NDArray[np.float64]:
            return (2 * uniform(seed, epoch, samples, draw) - 1) * bound

        scale, squeeze = 1 + drawn(303, self.scale), 1 + drawn(304, self.squeeze)
        matrices = np.zeros((len(samples), 2, 3))
        matrices[:, 0, 0], matrices[:, 1, 1] = scale * squeeze, scale / squeeze
        matrices[:, 0, 1] = drawn(305, self.shear)
        matrices[:, 0, 2], matrices[:, 1, 2] = drawn(301, self.translate), drawn(302, self.translate)
        matrices[uniform(seed, epoch, samples, 300) >= self.share] = np.eye(2, 3)
        return matrices

    def fields(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far right and down, in pixels, every point of the distorted images is taken from. [B, 2, S, S]

        `elastic` times numbers uniform in [-1, 1], smoothed (Simard, Steinkraus, Platt 2003, section 2); alpha 34 and
        sigma 4 pixels suit them best, on 29 x 29 pixels. (Both numbers are quoted from memory.)
        """
        draws: Any = ELASTIC_DRAW + np.arange(2 * self.size**2).reshape(2, self.size, self.size)
        noise = 2 * uniform(seed, epoch, samples[:, None, None, None], draws) - 1  # every draw of every sample
        smooth = gaussian(self.size, self.elastic_sigma)
        fields = self.elastic * (smooth @ noise @ smooth.T)
        fields[uniform(seed, epoch, samples, 300) >= self.share] = 0
        return fields

    def __call__(self, images: Tensor, seed: int, epoch: int, samples: NDArray[np.int64]) -> Tensor:
        """Distort `images`, which are those numbered `samples`. uint8 [B, H, W, C] -> uint8 [B, S, S, C]"""
        middle = (self.size - 1) / 2
        y, x = np.meshgrid(np.arange(self.size) - middle, np.arange(self.size) - middle, indexing="ij")
        matrices = self.matrices(seed, epoch, samples)
        points = np.stack([x, y])[None] - matrices[:, :, 2, None, None]  # where points end, [B, 2, S, S]
        origins = np.einsum("bij,bjyx->biyx", np.linalg.inv(matrices[:, :, :2]), points)  # where they came from
        if self.elastic:
            origins += self.fields(seed, epoch, samples)
        return sampled(images, origins)


def sampled(images: Tensor, points: NDArray[np.float64]) -> Tensor:
    """`images` at `points`, (x, y) from the middle in pixels, bilinearly, 0 outside, rounded.

    uint8 [B, H, W, C] and [B, 2, S, S] -> uint8 [B, S, S, C]
    """
    height, width = images.shape[1:3]
    halves = torch.tensor([width / 2, height / 2])  # grid_sample measures in these
    grid = (torch.from_numpy(points).float().permute(0, 2, 3, 1) / halves).to(images.device, non_blocking=True)
    pixels = images.permute(0, 3, 1, 2).float()
    found = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def gaussian(size: int, sigma: float) -> NDArray[np.float64]:
    """The matrix [size, size] that smooths a row of pixels by a Gaussian of `sigma` pixels; zeros beyond the ends."""
    distances = np.arange(size)[:, None] - np.arange(size)
    everywhere = np.arange(-8 * int(np.ceil(sigma)), 8 * int(np.ceil(sigma)) + 1)
    weights: NDArray[np.float64] = np.exp(-(distances**2) / (2 * sigma**2))
    return weights / np.exp(-(everywhere**2) / (2 * sigma**2)).sum()


class DistortedBatches(Batches):
    """Batches of any loader, each image distorted."""

    def __init__(self, batches: Batches, distortion: Distortion) -> None:
        super().__init__(batches.reading)
        self.batches = batches
        self.distortion = distortion

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Any, Tensor]]:
        self.batches.epoch = self.epoch
        for samples, (images, labels) in zip(batches, self.batches.read(batches), strict=True):
            yield self.distortion(images, self.reading.seed, self.epoch, samples), labels
