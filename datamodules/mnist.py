"""MNIST: 60 000 + 10 000 handwritten digits of 28 x 28 gray pixels (LeCun, Cortes, Burges)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from datamodules.base import ImageDataModule, Split
from datamodules.batches import Batches
from datamodules.distort import DistortedBatches, Distortion
from datamodules.originals import ImageArray, cache_root, read_mnist

STORED_SIZE = 28  # height and width in pixels of MNIST's images

COUNT_1989 = {"train": 7_291, "test": 2_007}  # LeCun et al. 1989


class MNIST(ImageDataModule):
    """MNIST, 10 classes, one channel; downloaded where it is not found.

    The arguments from `translate` to `distorted` distort training images, anew in every epoch; see
    `datamodules.distort.Distortion`.

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        image_size: height and width in pixels: 28, or 32 for LeNet's black border of 2.
        resize: stretch or shrink images to `image_size`, bilinearly, instead of giving them a border.
        translate: training images move by up to so many pixels in each direction.
        scale: they become up to so much larger or smaller: 0.1 is 0.9 to 1.1 times.
        squeeze: they become up to so much wider and flatter, or the reverse.
        shear: their points move right by up to so many pixels for each pixel below the middle, or left.
        elastic: strength of elastic distortions, Simard et al. 2003's alpha; they take 34.
        elastic_sigma: smoothness of elastic distortions in pixels; they take 4.
        distorted: probability that a training image is distorted, in an epoch.
        mean: subtracted from the pixels / 255; default: the training images' mean.
        std: divides what is left; default: the training images' standard deviation.
        data: see `datamodules.base.ImageDataModule`.
    """

    name = "mnist"
    stored_size = STORED_SIZE

    def __init__(
        self,
        batch_size: int,
        image_size: int = 28,
        resize: bool = False,
        translate: float = 0.0,
        scale: float = 0.0,
        squeeze: float = 0.0,
        shear: float = 0.0,
        elastic: float = 0.0,
        elastic_sigma: float = 4.0,
        distorted: float = 1.0,
        mean: list[float] = [0.1307],  # noqa: B006  (never changed; shown by --help)
        std: list[float] = [0.3081],  # noqa: B006
        num_classes: int = 10,
        **data: Any,
    ) -> None:
        if resize:
            self.stored_size = image_size
        super().__init__(
            batch_size=batch_size, mean=mean, std=std, image_size=image_size, num_classes=num_classes, **data
        )
        self.distortion = Distortion(
            image_size, translate, scale, squeeze, shear, elastic, elastic_sigma, share=distorted
        )

    def variant(self) -> str:
        return "" if self.stored_size == STORED_SIZE else f"resized to {self.stored_size}"

    def read_originals(self, split: Split) -> ImageArray:
        digits = read_mnist(self.root_path(), split, cache_root(self.cache) / "originals")
        if self.stored_size == STORED_SIZE:
            return digits
        return ImageArray(resized(digits.images, self.image_size), digits.labels, digits.classes, digits.sources)

    def train_dataloader(self) -> Batches:
        batches = super().train_dataloader()
        return DistortedBatches(batches, self.distortion) if self.distortion else batches


class MNIST1989(MNIST):
    """7 291 + 2 007 of MNIST's digits, shrunk to 16 x 16 pixels: Karpathy's stand-in for the zip codes of 1989.

    karpathy/lecun1989-repro, prepro.py: bilinear without antialiasing, drawn by NumPy's generator seeded with 1337,
    training images first. (His script leaves the order of the two splits to Python.) Gray levels are rounded to 256
    steps here, his are not. Normalised by default to -1 (background) to 1. The other arguments are those of `MNIST`.

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        data: see `datamodules.mnist.MNIST`; not `image_size` and `resize`.
    """

    name = "mnist1989"

    def __init__(
        self,
        batch_size: int,
        mean: list[float] = [0.5],  # noqa: B006
        std: list[float] = [0.5],  # noqa: B006
        num_classes: int = 10,
        **data: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size, image_size=16, resize=True, mean=mean, std=std, num_classes=num_classes, **data
        )

    def read_originals(self, split: Split) -> ImageArray:
        digits = super().read_originals(split)
        chosen = drawn_1989(split, len(digits.labels))
        return ImageArray(digits.images[chosen], digits.labels[chosen], digits.classes, digits.sources)


def drawn_1989(split: Split, count: int) -> NDArray[np.int64]:
    """Numbers of the digits of `split`, of which MNIST has `count`, in the order drawn."""
    generator = np.random.RandomState(1337)
    if split == "test":
        generator.permutation(60_000)  # the draw of the training images comes before
    return generator.permutation(count)[: COUNT_1989[split]]


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`images` [N, H, W, 1] stretched to `size` x `size` pixels, bilinearly without antialiasing. [N, size, size, 1]"""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    found = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
    rounded: NDArray[np.uint8] = found.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return rounded
