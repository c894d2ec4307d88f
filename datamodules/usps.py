"""USPS: 7 291 + 2 007 handwritten zip code digits of 16 x 16 gray pixels, those of LeCun et al. 1989."""

from __future__ import annotations

from typing import Any

from datamodules.base import ImageDataModule, Split
from datamodules.originals import ImageArray, cache_root, read_usps


class USPS(ImageDataModule):
    """USPS, 10 classes, one channel; downloaded from LIBSVM's data sets where it is not found.

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        mean: subtracted from the pixels / 255; by default 0.5, which together with
        std: 0.5, gives the paper's range from -1, the background, to 1.
        data: see `datamodules.base.ImageDataModule`.
    """

    name = "usps"
    stored_size = 16

    def __init__(
        self,
        batch_size: int,
        mean: list[float] = [0.5],  # noqa: B006  (never changed; shown by --help)
        std: list[float] = [0.5],  # noqa: B006
        num_classes: int = 10,
        **data: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, mean=mean, std=std, image_size=16, num_classes=num_classes, **data)

    def read_originals(self, split: Split) -> ImageArray:
        return read_usps(self.root_path(), split, cache_root(self.cache) / "originals")
