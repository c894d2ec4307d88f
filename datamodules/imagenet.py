"""ImageNet: photos of any size in one folder per class; ILSVRC-2012 has 1 281 167 + 50 000 in 1 000 classes."""

from __future__ import annotations

import json
from typing import Any, Literal

from datamodules.augment import Augmentation, Growth, RandomResizedCrop, ScaleJitter
from datamodules.base import ImageDataModule, Split
from datamodules.beton import BetonSettings, Mode, WhenBroken
from datamodules.originals import ImageFiles, open_imagenet, open_imagenet_2010

Crop = Literal["random_resized", "scale_jitter", "central_square"]

WHOLE_SCALE = (0.08, 1.0)  # GoogLeNet's range of areas, section 6


class ImageNet(ImageDataModule):
    """ILSVRC-2012 classification, or any subset of its classes, from an ImageFolder tree or the official tar files.

    Training cuts a random part of each photo as `crop` says; evaluation resizes the short side and cuts the centre,
    with PIL, as the published weights were evaluated. The test split is the validation set of ILSVRC-2012.

    `crop` is one of the papers' ways to choose the part:

    - `random_resized`: of random area (`scale`) and aspect ratio 3/4 to 4/3 (GoogLeNet, section 6; torchvision's).
    - `scale_jitter`: the photo's short side is resized to a random length in `short_side`, and a square of `image_size`
      is cut at random (VGG, section 3.1; ResNet, section 3.4). Equal bounds are VGG's fixed scale.
    - `central_square`: likewise, but within the central square of the resized photo (AlexNet, sections 2 and 4.1).

    Photos in a .beton are shrunk to `max_size` first, and a short side longer than what is left enlarges them: of 4:3,
    500 pixels keep a short side of 375, which 480 shows 1.28 times enlarged. That is what the papers did with originals
    of this size; of larger ones detail is lost. `max_size` 683 keeps a short side of 512. The torch loader reads the
    originals.

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        image_size: height and width in pixels of a training crop.
        crop: how a training crop is chosen: `random_resized`, `scale_jitter` or `central_square`.
        scale: smallest and largest share of the image's area in a training crop (`random_resized` only).
        short_side: smallest and largest short side in pixels (`scale_jitter` and `central_square`, which need it).
        flip: probability that a training image is mirrored, 0 to 1.
        colour_noise: standard deviation of the noise along the principal components of RGB, as a share of their
            eigenvalues (AlexNet, section 4.1, has 0.1); 0 for none.
        eval_size: height and width in pixels of a crop in evaluation; default: image_size.
        eval_resize: short side in pixels before the centre is cut in evaluation.
        grow_from: height and width in pixels of training crops in the first epochs, which then grow to `image_size`:
            the same parts of the photos with fewer pixels. Default: no growth.
        grow_epochs: the last epoch at `grow_from` and the first at `image_size`, counted from 0; multiples of 32 pixels
            between them.
        classes: WordNet ids of the classes to use, such as n01440764; default: every class there is.
        max_size: longest side in pixels of an image in the .beton.
        quality: JPEG quality of an image in the .beton, 1 to 95.
        mode: how images stand in the .beton: `jpg`; `raw`, as pixels, which is read several times faster and takes a
            dozen times the bytes; or `mixed`, a share of them raw.
        raw_share: share of the images that `mixed` stores raw, such as 0.5.
        corrupt: what happens to images that cannot be decoded: `refuse` stops with all their names, `skip` leaves them
            out of training and evaluation, and results say how many images there were.
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
        crop: Crop = "random_resized",
        scale: tuple[float, float] = WHOLE_SCALE,
        short_side: list[int] | None = None,
        flip: float = 0.5,
        colour_noise: float = 0.0,
        eval_size: int | None = None,
        eval_resize: int = 256,
        grow_from: int | None = None,
        grow_epochs: list[int] | None = None,
        classes: list[str] | None = None,
        max_size: int = 500,
        quality: int = 90,
        mode: Mode = "jpg",
        raw_share: float | None = None,
        corrupt: WhenBroken = "refuse",
        mean: list[float] = [0.485, 0.456, 0.406],  # noqa: B006  (never changed; shown by --help)
        std: list[float] = [0.229, 0.224, 0.225],  # noqa: B006
        num_classes: int = 1000,
        **data: Any,
    ) -> None:
        if not 0 <= flip <= 1:
            raise ValueError(f"flip (={flip}) must lie in [0, 1]: it is the probability of mirroring an image.")
        if colour_noise < 0:
            raise ValueError(f"colour_noise (={colour_noise}) must not be negative; 0 is none, the paper has 0.1.")
        eval_size = image_size if eval_size is None else eval_size
        if not 1 <= eval_size <= eval_resize:
            raise ValueError(
                f"eval_size (={eval_size}; image_size where it is not given) must be 1 to eval_resize (={eval_resize}) "
                "pixels: lower it or raise eval_resize."
            )
        super().__init__(
            batch_size=batch_size,
            mean=mean,
            std=std,
            image_size=image_size,
            num_classes=num_classes,
            augmentation=cropping(crop, image_size, scale, short_side, flip),
            **data,
        )
        self.train_size = growth(grow_from, grow_epochs, image_size)
        self.colour_noise = colour_noise
        self.eval_size = eval_size
        self.eval_resize = eval_resize
        self.classes = classes
        if corrupt not in ("refuse", "skip"):
            raise ValueError(f"corrupt (={corrupt!r}) must be refuse or skip.")
        self.settings = BetonSettings(max_size, quality, mode, raw_share)
        self.corrupt = corrupt

    def read_originals(self, split: Split) -> ImageFiles:
        return open_imagenet(self.root_path(), "train" if split == "train" else "val", self.classes)

    def variant(self) -> str:
        return json.dumps(self.classes)


class ImageNet2010(ImageNet):
    """ILSVRC-2010 classification, whose test labels are public: 1 261 406 + 150 000 images in 1 000 classes.

    AlexNet's first table is measured on it. Its classes are not those of 2012. The photos are looked for in the folders
    train/CLASS and test/CLASS below imagenet2010; the labels of the official test images come in a file of their own,
    ILSVRC2010_test_ground_truth.txt, by which they have to be sorted first. Arguments as for ImageNet.
    """

    name = "imagenet2010"

    def read_originals(self, split: Split) -> ImageFiles:
        return open_imagenet_2010(self.root_path(), split, self.classes)


def cropping(
    crop: Crop, size: int, scale: tuple[float, float], short_side: list[int] | None, flip: float
) -> Augmentation:
    """What is cut from a training image.

    Raises:
        ValueError: `crop` is unknown, or the bounds are not those of that crop.
    """
    if crop not in ("random_resized", "scale_jitter", "central_square"):
        raise ValueError(f"crop (={crop}) must be random_resized, scale_jitter or central_square.")
    if crop == "random_resized":
        if short_side is not None:
            raise ValueError(f"short_side (={short_side}) needs crop: scale_jitter or central_square; leave it out.")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale (={scale}) must be two shares of the area, 0 < smallest <= largest <= 1.")
        return RandomResizedCrop(scale=(scale[0], scale[1]), flip=flip)
    if tuple(scale) != WHOLE_SCALE:
        raise ValueError(f"scale (={scale}) needs crop: random_resized; leave it out, {crop} has short_side.")
    if short_side is None or len(short_side) != 2 or not size <= short_side[0] <= short_side[1]:
        raise ValueError(
            f"short_side (={short_side}) must be two lengths in pixels, image_size (={size}) <= smallest <= largest: "
            f"crop: {crop} cuts its squares from photos whose short side has a length between them."
        )
    return ScaleJitter(size, (short_side[0], short_side[1]), flip, central=crop == "central_square")


def growth(grow_from: int | None, grow_epochs: list[int] | None, size: int) -> int | Growth:
    """The size of training crops: how it grows to `size`, or `size` itself.

    Raises:
        ValueError: it would shrink, or not end after it began.
    """
    if grow_from is None and grow_epochs is None:
        return size
    if grow_from is None or not 1 <= grow_from <= size:
        raise ValueError(
            f"grow_from (={grow_from}) must be 1 to image_size (={size}) pixels: or leave out grow_epochs."
        )
    if grow_epochs is None or len(grow_epochs) != 2 or not 0 <= grow_epochs[0] < grow_epochs[1]:
        raise ValueError(
            f"grow_epochs (={grow_epochs}) must be two epochs, 0 <= last at grow_from < first at image_size: "
            "or leave out grow_from."
        )
    return Growth(grow_from, size, grow_epochs[0], grow_epochs[1])
