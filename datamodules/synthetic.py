"""Synthetic: random images that can be learnt, of any size and number, made in a moment. For tests and timings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import ImageDataModule, Split
from datamodules.originals import ImageArray, cache_root


class Synthetic(ImageDataModule):
    """Each class is a fixed random pattern under noise. The images depend on the arguments only, never on the seed.

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        image_size: height and width in pixels.
        channels: 3 for colour, 1 for gray.
        num_train: number of training images.
        num_test: number of test images.
        num_classes: number of classes.
        data: see `datamodules.base.ImageDataModule`.
    """

    name = "synthetic"

    def __init__(
        self,
        batch_size: int,
        image_size: int = 32,
        channels: int = 3,
        num_train: int = 1000,
        num_test: int = 200,
        num_classes: int = 10,
        **data: Any,
    ) -> None:
        self.stored_size = image_size
        self.channels = channels
        self.counts = {"train": num_train, "test": num_test}
        super().__init__(
            batch_size=batch_size,
            mean=[0.5] * channels,
            std=[0.25] * channels,
            image_size=image_size,
            num_classes=num_classes,
            **data,
        )

    def root_path(self) -> Path:
        """Synthetic images come from no folder."""
        return cache_root(self.cache)

    def variant(self) -> str:
        return f"{self.image_size} {self.channels} {self.counts} {self.num_classes}"

    def read_originals(self, split: Split) -> ImageArray:
        shape = (self.image_size, self.image_size, self.channels)
        patterns = np.random.default_rng([0, self.num_classes]).integers(0, 256, (self.num_classes, *shape))
        rng = np.random.default_rng([1 if split == "train" else 2, self.num_classes])
        labels = np.arange(self.counts[split]) % self.num_classes
        noise = rng.integers(0, 256, (len(labels), *shape))
        images = (0.3 * patterns[labels] + 0.7 * noise).astype(np.uint8)
        return ImageArray(
            images=images,
            labels=labels.astype(np.int64),
            classes=tuple(f"class {number}" for number in range(self.num_classes)),
            sources={"synthetic": hashlib.sha256(self.variant().encode()).hexdigest()},
        )
