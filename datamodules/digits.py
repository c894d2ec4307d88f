"""Digits: 1 797 handwritten digits of 8 x 8 pixels, which come with scikit-learn. Nothing to download."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import ImageDataModule, Split
from datamodules.originals import DataError, ImageArray, cache_root

NUM_TRAIN = 1437  # the first four fifths, in the order scikit-learn gives; the rest, 360, is the test set


class Digits(ImageDataModule):
    """Optical recognition of handwritten digits (Alpaydin, Kaynak 1998; scikit-learn's `load_digits`), 10 classes.

    Gray levels 0 to 16 become 0 to 255. The first 1 437 images are for training, the last 360 for testing.

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        image_size: height and width in pixels: 8, or a multiple, for which every pixel is repeated; 32 for LeNet-5.
        data: see `datamodules.base.ImageDataModule`.
    """

    name = "digits"

    def __init__(
        self,
        batch_size: int,
        image_size: int = 8,
        mean: list[float] = [0.3054],  # noqa: B006  (never changed; shown by --help)
        std: list[float] = [0.3753],  # noqa: B006
        num_classes: int = 10,
        **data: Any,
    ) -> None:
        if image_size < 8 or image_size % 8:
            raise DataError(
                f"data.init_args.image_size (={image_size}) of digits must be a multiple of 8: use 8 or 32."
            )
        self.stored_size = image_size
        super().__init__(
            batch_size=batch_size, mean=mean, std=std, image_size=image_size, num_classes=num_classes, **data
        )

    def root_path(self) -> Path:
        """Digits come with a package, not from a folder."""
        return cache_root(self.cache)

    def variant(self) -> str:
        return str(self.image_size)

    def read_originals(self, split: Split) -> ImageArray:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        chosen = slice(None, NUM_TRAIN) if split == "train" else slice(NUM_TRAIN, None)
        images = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
        repeats = self.image_size // 8
        images = images.repeat(repeats, axis=1).repeat(repeats, axis=2)
        return ImageArray(
            images=images[..., None],
            labels=bunch.target[chosen].astype(np.int64),
            classes=tuple(str(digit) for digit in range(10)),
            sources={"sklearn.datasets.load_digits": hashlib.sha256(bunch.data.tobytes()).hexdigest()},
        )
