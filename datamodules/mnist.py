"""MNIST: 60 000 + 10 000 handwritten digits of 28 x 28 gray pixels (LeCun, Cortes, Burges)."""

from __future__ import annotations

from typing import Any

from datamodules.base import ImageDataModule, Split
from datamodules.originals import ImageArray, cache_root, read_mnist


class MNIST(ImageDataModule):
    """MNIST, 10 classes, one channel; downloaded where it is not found.

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        image_size: height and width in pixels: 28, or 32 for LeNet's black border of 2.
        mean: subtracted from the pixels / 255; default: the training images' mean.
        std: divides what is left; default: the training images' standard deviation.
        data: see `datamodules.base.ImageDataModule`.
    """

    name = "mnist"
    stored_size = 28

    def __init__(
        self,
        batch_size: int,
        image_size: int = 28,
        mean: list[float] = [0.1307],  # noqa: B006  (never changed; shown by --help)
        std: list[float] = [0.3081],  # noqa: B006
        num_classes: int = 10,
        **data: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size, mean=mean, std=std, image_size=image_size, num_classes=num_classes, **data
        )

    def read_originals(self, split: Split) -> ImageArray:
        return read_mnist(self.root_path(), split, cache_root(self.cache) / "originals")
