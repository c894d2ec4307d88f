"""ImageNet: photos of any size in one folder per class; ILSVRC-2012 has 1 281 167 + 50 000 in 1 000 classes."""

from __future__ import annotations

import json
from typing import Any

from datamodules.augment import RandomResizedCrop
from datamodules.base import ImageDataModule, Split
from datamodules.beton import BetonSettings
from datamodules.originals import ImageFiles, open_imagenet


class ImageNet(ImageDataModule):
    """ILSVRC-2012 classification, or any subset of its classes, from an ImageFolder tree or the official tar files.

    Training cuts a random part and resizes it (GoogLeNet's augmentation); evaluation resizes the short side and cuts
    the centre, with PIL, as the published weights were evaluated. The test split is the validation set of ILSVRC-2012.

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        image_size: height and width in pixels of a crop.
        eval_resize: short side in pixels before the centre is cut in evaluation.
        scale: smallest and largest share of the image's area in a training crop.
        flip: probability that a training image is mirrored, 0 to 1.
        classes: WordNet ids of the classes to use, such as n01440764; default: every class there is.
        max_size: longest side in pixels of an image in the .beton.
        quality: JPEG quality of an image in the .beton, 1 to 95.
        mean: per channel, subtracted from the pixels / 255.
        std: per channel, divides what is left.
        num_classes: number of classes the dataset must have.
        data: see `datamodules.base.ImageDataModule`.
    """

    name = "imagenet"

    def __init__(
        self,
        batch_size: int,
        image_size: int = 224,
        eval_resize: int = 256,
        scale: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        classes: list[str] | None = None,
        max_size: int = 500,
        quality: int = 90,
        mean: list[float] = [0.485, 0.456, 0.406],  # noqa: B006  (never changed; shown by --help)
        std: list[float] = [0.229, 0.224, 0.225],  # noqa: B006
        num_classes: int = 1000,
        **data: Any,
    ) -> None:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale (={scale}) must be two shares of the area, 0 < smallest <= largest <= 1.")
        if eval_resize < image_size:
            raise ValueError(f"eval_resize (={eval_resize}) must be at least image_size (={image_size}).")
        super().__init__(
            batch_size=batch_size,
            mean=mean,
            std=std,
            image_size=image_size,
            num_classes=num_classes,
            augmentation=RandomResizedCrop(scale=scale, flip=flip),
            **data,
        )
        self.eval_resize = eval_resize
        self.classes = classes
        self.settings = BetonSettings(max_size=max_size, quality=quality)

    def read_originals(self, split: Split) -> ImageFiles:
        return open_imagenet(self.root_path(), "train" if split == "train" else "val", self.classes)

    def variant(self) -> str:
        return json.dumps(self.classes)

    def resize(self) -> int:
        return self.eval_resize
