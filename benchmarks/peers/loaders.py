"""Other loaders, each as its own documentation uses it, to measure the suite's beside.

Every function opens the files of a measurement and returns what gives an epoch's batches: uint8 images, [B, H, W, C] or
[B, C, H, W], and labels [B]. All read in random order and drop an incomplete last batch. Photos are cut by a random
resized crop to 224 and mirrored half the time; CIFAR images are moved by up to 4 pixels and mirrored; MNIST's are moved
by up to 2. Nothing here uses a line of the suite's loaders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

Epochs = Callable[[int], Iterator[tuple[Any, Any]]]

SIZE = 224  # height and width in pixels of a crop
PADDING = {"cifar10": 4, "mnist": 2}  # pixels by which an image may move


def ffcv_photos(path: Path, batch_size: int, workers: int) -> Epochs:
    """FFCV with its own crop: JPEG by libjpeg-turbo, OpenCV's area filter."""
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    pictures = [RandomResizedCropRGBImageDecoder((SIZE, SIZE)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
    return ffcv_epochs(path, batch_size, workers, pictures)


def ffcv_array(path: Path, batch_size: int, workers: int, rgb: bool, padding: int, flip: bool) -> Epochs:
    """FFCV with its own transforms, as in its CIFAR example: flip, then move."""
    from ffcv.fields.decoders import NDArrayDecoder, SimpleRGBImageDecoder
    from ffcv.transforms import RandomHorizontalFlip, RandomTranslate, ToTensor, ToTorchImage

    pictures = [
        SimpleRGBImageDecoder() if rgb else NDArrayDecoder(),
        *([RandomHorizontalFlip()] if flip else []),
        RandomTranslate(padding, (0, 0, 0) if flip else (0,)),
        ToTensor(),
        ToTorchImage(),
    ]
    return ffcv_epochs(path, batch_size, workers, pictures)


def ffcv_epochs(path: Path, batch_size: int, workers: int, pictures: list[Any]) -> Epochs:
    """FFCV's loader of the .beton at `path` in random order."""
    from ffcv.fields.decoders import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import Squeeze, ToTensor

    loader = Loader(
        str(path),
        batch_size=batch_size,
        num_workers=workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=0,
        drop_last=True,
        pipelines={"image": pictures, "label": [IntDecoder(), ToTensor(), Squeeze(1)]},
    )
    return lambda epoch: iter(loader)


def torchvision_pil(tree: Path, batch_size: int, workers: int) -> Epochs:
    """torch's DataLoader, ImageFolder and the v1 transforms on PIL images, without the conversion to float."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    return torch_epochs(ImageFolder(str(tree), transforms.Compose(steps)), batch_size, workers)


def torchvision_tensors(tree: Path, batch_size: int, workers: int) -> Epochs:
    """torch's DataLoader, `decode_image` and the v2 transforms on tensors."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    return torch_epochs(ImageFolder(str(tree), steps, loader=decoded), batch_size, workers)


def decoded(path: str) -> torch.Tensor:
    """The photo as uint8 [3, H, W]."""
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(path, ImageReadMode.RGB)


def torch_epochs(dataset: Any, batch_size: int, workers: int, **options: Any) -> Epochs:
    """A DataLoader whose worker processes stay from one epoch to the next."""
    loader = DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True, **options
    )
    return lambda epoch: iter(loader)


def timm_photos(tree: Path, batch_size: int, workers: int) -> Epochs:
    """timm's `create_loader` with its random crop and flip and no other augmentation.

    Its prefetcher turns uint8 batches into floats; they are taken before that.
    """
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import create_loader

    loader = create_loader(
        create_dataset("", root=str(tree)),
        input_size=(3, SIZE, SIZE),
        batch_size=batch_size,
        is_training=True,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=workers,
        persistent_workers=True,
        pin_memory=False,
        device=torch.device("cpu"),
    )
    return lambda epoch: iter(loader.loader)


class Pictures(torch.utils.data.Dataset[tuple[Any, int]]):
    """An array of images as torchvision's CIFAR10 and MNIST hold one: a PIL image at a time, then its transforms."""

    def __init__(self, folder: Path, padding: int, flip: bool) -> None:
        from torchvision import transforms

        self.images = np.load(folder / "images.npy")
        self.labels = np.load(folder / "labels.npy")
        size = self.images.shape[1]
        steps = [transforms.RandomCrop(size, padding), transforms.RandomHorizontalFlip(0.5 if flip else 0.0)]
        self.transform = transforms.Compose([*(steps if flip else steps[:1]), transforms.PILToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        from PIL import Image

        pixels = self.images[number]
        image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        return self.transform(image), int(self.labels[number])


def torchvision_array(folder: Path, batch_size: int, workers: int, padding: int, flip: bool) -> Epochs:
    """torch's DataLoader on images in memory, each through PIL and the v1 transforms."""
    return torch_epochs(Pictures(folder, padding, flip), batch_size, workers)


def dali_photos(tree: Path, batch_size: int, workers: int) -> Epochs:
    """DALI on the CPU: its decoder of a random part, triangular filter, flip."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy

    def photos() -> Any:
        encoded, labels = fn.readers.file(file_root=str(tree), random_shuffle=True, name="photos")
        images = fn.decoders.image_random_crop(
            encoded, output_type=types.RGB, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        images = fn.resize(images, resize_x=SIZE, resize_y=SIZE, interp_type=types.INTERP_TRIANGULAR)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    pipeline = pipeline_def(photos)(batch_size=batch_size, num_threads=workers, device_id=None, seed=0)
    loader = DALIClassificationIterator(
        pipeline, reader_name="photos", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )

    def epoch(number: int) -> Iterator[tuple[Any, Any]]:
        for (batch,) in loader:
            yield batch["data"], batch["label"].flatten()

    return epoch


def spdl_photos(tree: Path, batch_size: int, workers: int) -> Epochs:
    """SPDL's loader: threads that read, decode and cut with torchvision's tensor transforms."""
    import random

    from spdl.dataloader import DataLoader as Threads
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    samples = ImageFolder(str(tree)).samples
    steps = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    torch.set_num_threads(1)  # in each of its threads

    def load(sample: tuple[str, int]) -> tuple[torch.Tensor, int]:
        return steps(decoded(sample[0])), sample[1]

    def collate(items: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])

    def epoch(number: int) -> Iterator[tuple[Any, Any]]:
        order = random.Random(number).sample(samples, len(samples))
        yield from Threads(
            order,
            preprocessor=load,
            aggregator=collate,
            batch_size=batch_size,
            drop_last=True,
            num_threads=workers,
        )

    return epoch


def webdataset_photos(shards: list[Path], batch_size: int, workers: int) -> Epochs:
    """webdataset: tar shards read in order, shuffled in a buffer, torchvision's tensor transforms."""
    import webdataset
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    steps = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])

    def picture(encoded: bytes) -> torch.Tensor:
        return steps(decode_image(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), ImageReadMode.RGB))

    dataset = (
        webdataset.WebDataset([str(path) for path in shards], shardshuffle=len(shards), nodesplitter=None, seed=0)
        .shuffle(1000)
        .to_tuple("jpeg", "cls")
        .map_tuple(picture, lambda label: int(label))
        .batched(batch_size, partial=False)
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=True)
    return lambda epoch: iter(loader)
