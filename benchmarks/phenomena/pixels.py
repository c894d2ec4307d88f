"""Images of a dataset as pixels from 0 to 1, for analyses that train networks of their own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.phenomena.analysis import AnalysisError
from datamodules.base import ImageDataModule, Split
from datamodules.originals import ImageArray


def pixels(data: ImageDataModule, split: Split, count: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pixels [N, C, H, W] from 0 to 1 and labels [N]: all of `split`, or `count` drawn with `seed`, none twice.

    Drawn, because the order of a dataset is no accident: the second half of MNIST's test images is easier.

    Raises:
        AnalysisError: the dataset is not held in memory, or has fewer images.
        DataError: the dataset is not there.
    """
    originals = data.originals(split)
    if not isinstance(originals, ImageArray):
        raise AnalysisError(f"{data.name} is a dataset of image files: use one that is held in memory, such as mnist.")
    total = len(originals.labels)
    if count is not None and not 1 <= count <= total:
        raise AnalysisError(f"{count} {split} images of {data.name} cannot be drawn: ask for 1 to {total}.")
    chosen = np.arange(total) if count is None else np.random.default_rng(seed).permutation(total)[:count]
    images = torch.from_numpy(originals.images[chosen]).permute(0, 3, 1, 2).contiguous().float() / 255
    return images, torch.from_numpy(originals.labels[chosen])
