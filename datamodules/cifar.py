"""CIFAR-10 and CIFAR-100: 50 000 + 10 000 colour photos of 32 x 32 pixels (Krizhevsky 2009)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from datamodules.augment import PaddedCropFlip
from datamodules.base import ImageDataModule, Split
from datamodules.originals import DataError, ImageArray, cache_root, read_cifar


class CIFAR10(ImageDataModule):
    """CIFAR-10, 10 classes; downloaded where it is not found.

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        pad: training images are padded by this many zero pixels on every side and cut back at random; He et al. use 4.
        flip: probability that a training image is mirrored, 0 to 1; He et al. use 0.5.
        cutout: side in pixels of the square hole in every training image, 0 for none; DeVries and Taylor 2017 use 16
            for CIFAR-10 and 8 for CIFAR-100. It is filled with the grey levels nearest to `mean`, also with
            `per_pixel_mean`, where what is left after subtraction is how the mean image differs from its average.
        per_pixel_mean: subtract the mean of all training images, one number per pixel and channel, instead of `mean`
            (He et al. 2015, section 4.2). It takes reading the original files.
        mean: per channel, subtracted from the pixels / 255; default: the training images' mean.
        std: per channel, divides what is left; default: the training images' standard deviation.
        data: see `datamodules.base.ImageDataModule`.
    """

    name = "cifar10"
    stored_size = 32

    def __init__(
        self,
        batch_size: int,
        pad: int = 0,
        flip: float = 0.0,
        cutout: int = 0,
        per_pixel_mean: bool = False,
        mean: list[float] = [0.4914, 0.4822, 0.4465],  # noqa: B006  (never changed; shown by --help)
        std: list[float] = [0.2470, 0.2435, 0.2616],  # noqa: B006
        num_classes: int = 10,
        **data: Any,
    ) -> None:
        if pad < 0 or not 0 <= flip <= 1:
            raise ValueError(f"pad (={pad}) must not be negative and flip (={flip}) must lie in [0, 1].")
        if cutout < 0:
            raise DataError(
                f"data.init_args.cutout (={cutout}) must not be negative: it is a side in pixels, 0 is none."
            )
        fill = tuple(round(255 * value) for value in mean) if cutout else ()
        augmented = pad or flip or cutout
        super().__init__(
            batch_size=batch_size,
            mean=mean,
            std=std,
            image_size=32,
            num_classes=num_classes,
            augmentation=PaddedCropFlip(pad, flip, cutout, fill) if augmented else None,
            **data,
        )
        self.per_pixel_mean = per_pixel_mean

    def setup(self, stage: str | None = None) -> None:
        """Open both splits and, for `per_pixel_mean`, average the training images, held-out ones included."""
        super().setup(stage)
        if self.per_pixel_mean:
            images = self.originals("train").images  # type: ignore[union-attr]
            self.mean = torch.from_numpy(images.mean(axis=0, dtype=np.float64).astype(np.float32))  # [H, W, C]

    def read_originals(self, split: Split) -> ImageArray:
        return read_cifar(self.root_path(), 10, split, cache_root(self.cache) / "originals")


class CIFAR100(CIFAR10):
    """CIFAR-100, 100 fine classes; downloaded where it is not found. Arguments as for CIFAR-10."""

    name = "cifar100"

    def __init__(
        self,
        batch_size: int,
        mean: list[float] = [0.5071, 0.4865, 0.4409],  # noqa: B006
        std: list[float] = [0.2673, 0.2564, 0.2762],  # noqa: B006
        num_classes: int = 100,
        **data: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, mean=mean, std=std, num_classes=num_classes, **data)

    def read_originals(self, split: Split) -> ImageArray:
        return read_cifar(self.root_path(), 100, split, cache_root(self.cache) / "originals")
