"""Augmentation decided by counters: every random choice is a function of (seed, epoch, sample, draw number).

A decision never depends on a thread, a worker, a rank or on what came before, so the same image is cropped and mirrored
the same way whichever loader reads it, and again when a run is resumed. Decisions are boxes; loaders apply them.

A box is one row of int32, 8 columns: top, left, height, width of the crop in the image, and 1 if the crop is then
mirrored; then top, left and side of the square hole that cutout makes in the result, side 0 for none. A box may reach
beyond the image; what lies outside is 0. A hole may reach beyond the result. B is the number of images in a batch.

Draw numbers: 0 to 19 shape a crop, 100 and 101 place it, 102 mirrors it, 110 and 111 place a hole, 200 to 205 change
its colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOP, LEFT, HEIGHT, WIDTH, MIRROR, HOLE_TOP, HOLE_LEFT, HOLE_SIZE = range(8)
COLUMNS = 8  # of a box

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the increment of splitmix64

# Principal components of ImageNet's RGB pixels in [0, 1], as fb.resnet.torch (datasets/imagenet.lua) has them: the
# eigenvalues of the covariance, and the eigenvectors in columns, one row for each of red, green and blue.
RGB_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
RGB_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def uniform(seed: int, epoch: int, samples: NDArray[np.int64], draw: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one per sample, that depend on nothing but the four arguments. [B]"""
    with np.errstate(over="ignore"):
        key = _mix(np.uint64(seed) + GOLDEN)
        key = _mix(key ^ (np.uint64(epoch) * GOLDEN + np.uint64(1)))
        keys = _mix(key ^ _mix(samples.astype(np.uint64) * GOLDEN + np.uint64(1)))
        bits = _mix(keys + np.uint64(draw + 1) * GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: Any) -> Any:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): every output bit depends on every input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def normal(seed: int, epoch: int, samples: NDArray[np.int64], draw: int) -> NDArray[np.float64]:
    """Standard normal numbers, one per sample, from the draws `draw` and `draw` + 1 (Box and Muller 1958). [B]"""
    radius = np.sqrt(-2 * np.log1p(-uniform(seed, epoch, samples, draw)))
    return radius * np.cos(2 * np.pi * uniform(seed, epoch, samples, draw + 1))


class Augmentation:
    """Decides the box that is cut from each image of a batch."""

    fill: tuple[int, ...] = ()  # the pixel that fills holes, one grey level per channel; () is black

    def boxes(
        self,
        seed: int,
        epoch: int,
        samples: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
    ) -> NDArray[np.int32]:
        """Boxes [B, 8] for the images numbered `samples`, of the given sizes in pixels."""
        raise NotImplementedError


@dataclass(frozen=True)
class PaddedCropFlip(Augmentation):
    """The image, padded by `pad` zeros on every side and cut back to its size at random, mirrored half the time.

    He et al. 2015, section 4.2, for CIFAR (`pad` 4). `flip` is the probability of mirroring, 0 to 1.

    Cutout (DeVries, Taylor 2017, section 3) then makes a square hole of `hole` pixels, centred on any pixel with equal
    probability; the part outside the image is lost. Their code (uoguelph-mlrg/Cutout, util/cutout.py) sets what was
    normalised to 0, the mean colour. Here the hole is made before normalisation, so `fill` is the nearest grey level:
    at most half a level off. An odd side is that many pixels here, one less in their code.
    """

    pad: int
    flip: float
    hole: int = 0
    fill: tuple[int, ...] = ()

    def boxes(
        self,
        seed: int,
        epoch: int,
        samples: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
    ) -> NDArray[np.int32]:
        steps = 2 * self.pad + 1
        boxes = np.zeros((len(samples), COLUMNS), np.int32)
        boxes[:, TOP] = np.floor(uniform(seed, epoch, samples, 0) * steps) - self.pad
        boxes[:, LEFT] = np.floor(uniform(seed, epoch, samples, 1) * steps) - self.pad
        boxes[:, HEIGHT] = heights
        boxes[:, WIDTH] = widths
        boxes[:, MIRROR] = uniform(seed, epoch, samples, 2) < self.flip
        if self.hole:
            boxes[:, HOLE_TOP] = np.floor(uniform(seed, epoch, samples, 110) * heights) - self.hole // 2
            boxes[:, HOLE_LEFT] = np.floor(uniform(seed, epoch, samples, 111) * widths) - self.hole // 2
            boxes[:, HOLE_SIZE] = self.hole
        return boxes


@dataclass(frozen=True)
class RandomResizedCrop(Augmentation):
    """A crop of random area and aspect ratio (to be resized), mirrored half the time; torchvision's distribution.

    Szegedy et al. 2015 (GoogLeNet), section 6. `scale` bounds the share of the image's area, `ratio` width / height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def boxes(
        self,
        seed: int,
        epoch: int,
        samples: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
    ) -> NDArray[np.int32]:
        boxes = self._fallback(heights, widths)
        missing = np.ones(len(samples), bool)
        low, high = np.log(self.ratio)
        for attempt in range(10):
            area = (
                heights
                * widths
                * (self.scale[0] + (self.scale[1] - self.scale[0]) * uniform(seed, epoch, samples, 2 * attempt))
            )
            ratio = np.exp(low + (high - low) * uniform(seed, epoch, samples, 2 * attempt + 1))
            width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
            height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
            fits = missing & (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
            boxes[fits, HEIGHT] = height[fits]
            boxes[fits, WIDTH] = width[fits]
            missing &= ~fits
            if not missing.any():
                break
        chosen = ~missing  # the others keep the fallback's place
        top = np.floor(uniform(seed, epoch, samples, 100) * (heights - boxes[:, HEIGHT] + 1))
        left = np.floor(uniform(seed, epoch, samples, 101) * (widths - boxes[:, WIDTH] + 1))
        boxes[chosen, TOP] = top[chosen]
        boxes[chosen, LEFT] = left[chosen]
        boxes[:, MIRROR] = uniform(seed, epoch, samples, 102) < self.flip
        return boxes

    def _fallback(self, heights: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int32]:
        """The largest central crop whose aspect ratio is allowed, as torchvision after ten failures."""
        boxes = np.zeros((len(heights), COLUMNS), np.int32)
        width = np.minimum(widths, np.rint(heights * max(self.ratio)).astype(np.int64))
        height = np.minimum(heights, np.rint(widths / min(self.ratio)).astype(np.int64))
        boxes[:, TOP], boxes[:, LEFT] = (heights - height) // 2, (widths - width) // 2
        boxes[:, HEIGHT], boxes[:, WIDTH] = height, width
        return boxes


@dataclass(frozen=True)
class ScaleJitter(Augmentation):
    """The image resized to a random short side, then a random size x size crop of it, mirrored half the time.

    Simonyan and Zisserman 2015 (VGG), section 3.1, and He et al. 2015, section 3.4. The short side is a whole number,
    both bounds included, as in fb.resnet.torch. The box is the crop's place before the resizing, rounded to whole
    pixels there: the crop is cut first and then resized, which is the same but for the pixels along its edge.

    Args:
        size: height and width in pixels of the crop.
        short_side: smallest and largest short side in pixels; at least `size`.
        flip: probability of mirroring, 0 to 1.
        central: crops lie in the central square of the resized image, as in Krizhevsky et al. 2012, section 2.
    """

    size: int
    short_side: tuple[int, int]
    flip: float = 0.5
    central: bool = False

    def boxes(
        self,
        seed: int,
        epoch: int,
        samples: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
    ) -> NDArray[np.int32]:
        smallest, largest = self.short_side
        short_side = smallest + np.floor(uniform(seed, epoch, samples, 0) * (largest - smallest + 1))
        short = np.minimum(heights, widths)
        side = np.maximum(1, np.rint(short * self.size / short_side))
        tall, wide = (short, short) if self.central else (heights, widths)  # the region in which crops lie
        boxes = np.zeros((len(samples), COLUMNS), np.int32)
        boxes[:, TOP] = (heights - tall) // 2 + np.floor(uniform(seed, epoch, samples, 100) * (tall - side + 1))
        boxes[:, LEFT] = (widths - wide) // 2 + np.floor(uniform(seed, epoch, samples, 101) * (wide - side + 1))
        boxes[:, HEIGHT] = boxes[:, WIDTH] = side
        boxes[:, MIRROR] = uniform(seed, epoch, samples, 102) < self.flip
        return boxes


def colour_offsets(seed: int, epoch: int, samples: NDArray[np.int64], deviation: float) -> NDArray[np.float32]:
    """What is added to all pixels (0 to 255) of each image, per channel. [B, 3]

    Krizhevsky et al. 2012, section 4.1: the sum over the principal components of RGB, eigenvector times eigenvalue
    times a normal number of standard deviation `deviation`. Pixels are in [0, 1] there, as in fb.resnet.torch: on a
    scale of 255 the eigenvalues would be 255^2 times as large, and the noise would hide the image. Krizhevsky's later
    code (cuda-convnet2, convdata.py) has their roots instead and divides the noisy image by 1 + `deviation`; we follow
    the paper.
    """
    alphas = np.stack([deviation * normal(seed, epoch, samples, draw) for draw in (200, 202, 204)], axis=1)
    return (255 * (alphas * RGB_EIGENVALUES) @ RGB_EIGENVECTORS.T).astype(np.float32)


@dataclass(frozen=True)
class Growth:
    """Crops that grow in the course of a training: progressive resizing, as in ffcv-imagenet's `get_resolution`.

    Args:
        smallest: height and width in pixels up to the epoch `first`.
        largest: height and width in pixels from the epoch `last` on; between them the nearest multiple of 32.
    """

    smallest: int
    largest: int
    first: int
    last: int

    def size_in(self, epoch: int) -> int:
        """Height and width in pixels in that epoch, the first being 0."""
        if epoch <= self.first:
            return self.smallest
        if epoch >= self.last:
            return self.largest
        between = np.interp(epoch, [self.first, self.last], [self.smallest, self.largest])
        return int(np.clip(32 * np.round(between / 32), self.smallest, self.largest))


def size_in(epoch: int, size: int | Growth) -> int:
    """Height and width in pixels in that epoch of crops that grow or keep their size."""
    return size.size_in(epoch) if isinstance(size, Growth) else size


def whole_boxes(heights: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int32]:
    """Boxes of whole images, neither moved nor mirrored nor with a hole. [B, 8]"""
    boxes = np.zeros((len(heights), COLUMNS), np.int32)
    boxes[:, HEIGHT], boxes[:, WIDTH] = heights, widths
    return boxes


def fill_of(augmentation: Augmentation | None, channels: int) -> NDArray[np.uint8]:
    """The pixel that fills holes. [C]"""
    if augmentation is None or not augmentation.fill:
        return np.zeros(channels, np.uint8)
    return np.broadcast_to(np.array(augmentation.fill, np.uint8), (channels,)).copy()


def cut_same_size(
    images: NDArray[np.uint8], boxes: NDArray[np.int32], fill: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Cut `boxes` of the images' own size from `images` [B, H, W, C]; 0 outside, mirrored where asked. [B, H, W, C]

    `fill` [C] is the pixel that fills holes, by default black. `datamodules.cut` does the same, compiled.
    """
    height, width, channels = images.shape[1:]
    rows = boxes[:, TOP, None] + np.arange(height)
    columns = boxes[:, LEFT, None] + np.where(boxes[:, MIRROR, None], np.arange(width)[::-1], np.arange(width))
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    picked = images[
        np.arange(len(images))[:, None, None],
        rows.clip(0, height - 1)[:, :, None],
        columns.clip(0, width - 1)[:, None, :],
    ]
    cut = picked * inside[..., None]
    if boxes[:, HOLE_SIZE].any():
        down, right = (np.arange(n) - boxes[:, c, None] for n, c in ((height, HOLE_TOP), (width, HOLE_LEFT)))
        size = boxes[:, HOLE_SIZE, None]
        hole = ((down >= 0) & (down < size))[:, :, None] & ((right >= 0) & (right < size))[:, None, :]
        cut[hole] = np.zeros(channels, np.uint8) if fill is None else fill
    return cut
