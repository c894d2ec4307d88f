"""What every dataset shares: finding and converting the originals, loaders, normalisation on the device."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import beton
from datamodules.augment import Augmentation, Growth
from datamodules.batches import CENTRE, Batches, Reading, View
from datamodules.loaders import (
    ArrayBatches,
    FileBatches,
    LoaderName,
    checked_workers,
    choose_loader,
)
from datamodules.originals import DATA_VARIABLE, DataError, ImageArray, ImageFiles, cache_root, data_root
from datamodules.resident import Resident, ResidentBatches, memory_fault
from datamodules.staging import nearest

log = logging.getLogger("datamodules")

Split = Literal["train", "test"]

HOLDOUT_SEED = 0  # of the draw of held-out images; another one would make errors on them incomparable


class ImageDataModule(pl.LightningDataModule):
    """Images with labels, as batches of normalised float images [B, C, H, W] and int64 labels [B] on the device.

    The loader yields uint8; normalisation happens after the transfer, so a quarter of the bytes is moved. Subclasses
    name their dataset and say where its originals are (`originals`).

    Args:
        batch_size: images per optimizer step, over all devices and accumulated batches.
        mean: per channel, subtracted from the pixels / 255.
        std: per channel, divides what is left.
        image_size: height and width in pixels at which the network sees an image.
        num_classes: number of classes the dataset must have.
        eval_batch_size: images per device and step in evaluation; every image counts once whatever it is.
        holdout: so many training images are kept from training, and validation measures them instead of the test
            images: for choosing hyper-parameters. Which ones does not depend on the seed. 0 trains on everything, and
            validation watches the test images.
        augmentation: what is cut from a training image; none means the image as it is.
        loader: `resident`, the dataset as one array on the device; `ffcv`, which reads a .beton; `torch`, which needs
            nothing else; or `auto`: resident for images in memory, for image files FFCV where it can be imported.
        workers: decoding threads or processes per rank; default: every core this process may use.
        root: folder with the original files; default `$ILSVRC_BENCH_DATA`. It is only read.
        cache: folder for downloads and .beton files; default `$ILSVRC_BENCH_CACHE`, else a user cache folder.
        seed: decides order and augmentation, together with the epoch; set from `seed_everything`.
    """

    name = ""  # as in recipes/<name>/ and `prepare <name>`
    stored_size: int | None = None  # height and width of every stored image; None where sizes differ

    def __init__(
        self,
        batch_size: int,
        mean: list[float],
        std: list[float],
        image_size: int,
        num_classes: int,
        eval_batch_size: int = 500,
        holdout: int = 0,
        augmentation: Augmentation | None = None,
        loader: LoaderName = "auto",
        workers: int | None = None,
        root: str | None = None,
        cache: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.image_size = image_size
        self.holdout = holdout
        self.augmentation = augmentation
        self.loader = loader
        self.workers = workers
        self.root = root
        self.cache = cache
        self.seed = seed
        self.settings = beton.BetonSettings()
        self.corrupt: beton.WhenBroken = "refuse"
        self.train_size: int | Growth = image_size  # of what is cut from image files, as are the next two
        self.eval_size = self.eval_resize = image_size  # central crop, and short side before it is cut
        self.colour_noise = 0.0
        self.view = CENTRE
        self._listed: dict[Split, ImageArray | ImageFiles] = {}
        self._originals: dict[Split, ImageArray | ImageFiles] = {}
        self._manifests: dict[Split, beton.Manifest] = {}
        self._residents: dict[tuple[Split, torch.device], Resident] = {}
        self.mean = torch.tensor([255 * value for value in mean])
        self.std = torch.tensor([255 * value for value in std])
        self._check_sizes()

    def _check_sizes(self) -> None:
        for name in ("batch_size", "eval_batch_size", "image_size"):
            if getattr(self, name) < 1:
                raise DataError(f"data.init_args.{name} (={getattr(self, name)}) must be at least 1.")
        if self.holdout < 0:
            raise DataError(f"data.init_args.holdout (={self.holdout}) must not be negative; 0 trains on all images.")
        if len(self.mean) != len(self.std) or not (self.std > 0).all():
            raise DataError("data.init_args.mean and std must have one number per channel, and std must be positive.")
        if self.stored_size is not None and self.image_size < self.stored_size:
            raise DataError(
                f"data.init_args.image_size (={self.image_size}) is smaller than the images of {self.name} "
                f"({self.stored_size} pixels): use {self.stored_size}, or more for a border of 0."
            )

    # -- what subclasses say ------------------------------------------------------------------------------------------

    def read_originals(self, split: Split) -> ImageArray | ImageFiles:
        """The original images of `split`, read or opened from `root` (or downloaded)."""
        raise NotImplementedError

    def variant(self) -> str:
        """Whatever else than the root decides which images these are, such as a subset of classes."""
        return ""

    def root_path(self) -> Path:
        """The folder with the originals: what was named, else a folder for downloads in the cache."""
        if self.root or os.environ.get(DATA_VARIABLE):
            return data_root(self.root)
        downloads = cache_root(self.cache) / "originals"
        downloads.mkdir(exist_ok=True)
        return downloads

    # -- files --------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def chosen_loader(self) -> tuple[str, str]:
        """`resident`, `ffcv` or `torch`, and why."""
        return choose_loader(self.loader, in_memory=self.stored_size is not None)

    def originals(self, split: Split) -> ImageArray | ImageFiles:
        """The originals of `split`, read once and checked against `num_classes`.

        With `corrupt: skip`, image files that cannot be decoded are left out: the first time, every image is decoded
        to find them.

        Raises:
            DataError: nothing is found, something is damaged, or the number of classes is another.
        """
        if split not in self._originals:
            originals = self.listed(split)
            if isinstance(originals, ImageFiles) and self.corrupt == "skip":
                originals = originals.without(list(self.broken(split)))
            self._originals[split] = originals
        return self._originals[split]

    def listed(self, split: Split) -> ImageArray | ImageFiles:
        """The originals of `split` with the image files that cannot be decoded, see `originals`."""
        if split not in self._listed:
            originals = self.read_originals(split)
            self._check_classes(len(originals.classes), self.root_path())
            self._listed[split] = originals
        return self._listed[split]

    def broken(self, split: Split) -> dict[int, str]:
        """Numbers of the image files of `split` that cannot be decoded, and why; every image is tried, but only once.

        Raises:
            DataError: as `originals`, or the cache cannot be written.
        """
        originals = self.listed(split)
        if isinstance(originals, ImageArray):
            return {}
        cache, root = cache_root(self.cache), self.root_path()
        path = beton.checked_path(cache, self.name, split, root, self.variant())
        return beton.find_broken(path, f"{self.name} {split}", originals, checked_workers(self.workers, 1))

    def _check_classes(self, found: int, place: Path) -> None:
        if found != self.num_classes:
            raise DataError(
                f"data.init_args.num_classes (={self.num_classes}) is not what {place} holds: {found} classes. "
                f"Set it to {found}, or point --data.root elsewhere."
            )

    def beton_path(self, split: Split) -> Path:
        cache = cache_root(self.cache)
        return beton.beton_path(cache, self.name, split, self.settings, self.root_path(), self.variant())

    def reads_beton(self, split: Split) -> bool:
        """Whether `split` is read from a .beton: with the ffcv loader, all but the evaluation of image files.

        Held-out training images count as evaluation. Published weights are evaluated on pixels as PIL resizes them, so
        evaluation decodes image files with PIL.
        """
        return self.chosen_loader[0] == "ffcv" and (self.stored_size is not None or split == "train")

    def prepare_data(self) -> None:
        """Obtain the originals and, for the ffcv loader, convert what is not converted yet. One process per node."""
        for split in self._splits(self.trainer.state.fn if self.trainer else None):
            if self.reads_beton(split):
                self.convert(split)
            else:
                self.originals(split)

    def _splits(self, stage: str | None) -> tuple[Split, ...]:
        """What a stage of the trainer reads: testing, and validation on test images, need no training images."""
        if stage == "test" or (stage == "validate" and not self.holdout):
            return ("test",)
        return ("train", "test")

    def convert(self, split: Split) -> None:
        """Write the .beton of `split` unless it is there."""
        path = self.beton_path(split)
        if path.exists() and beton.manifest_path(path).exists():
            return
        originals = self.listed(split)
        manifest = beton.describe(self.name, split, originals)
        beton.convert(path, manifest, originals, self.settings, checked_workers(self.workers, 1), self.corrupt)

    def manifest(self, split: Split) -> beton.Manifest:
        """What `split` holds. A .beton it is read from is checked, and DataError raised if that is damaged."""
        if split not in self._manifests:
            if self.reads_beton(split):
                manifest = beton.open_beton(self.beton_path(split))
                self._check_classes(len(manifest.classes), self.beton_path(split))
                if manifest.skipped and self.corrupt == "refuse":
                    raise DataError(
                        f"{self.beton_path(split)} lacks {len(manifest.skipped)} images that could not be decoded, "
                        f"such as {manifest.skipped[0]}: train without them, which results tell, with --data.corrupt "
                        f"skip; or fetch them again, and rm {self.beton_path(split)}"
                    )
            else:
                manifest = beton.describe(self.name, split, self.originals(split))
            self._manifests[split] = manifest
        return self._manifests[split]

    def setup(self, stage: str | None = None) -> None:
        """Open what the stage reads, so that a damaged file is found before the first batch."""
        self._open(stage)
        if self.chosen_loader[0] == "resident":
            for split in self._splits(stage):
                self._make_resident(split)

    def _open(self, stage: str | None) -> None:
        test = self.manifest("test")
        if test.mean is not None and len(test.mean) != len(self.std):
            raise DataError(
                f"data.init_args.mean (={(self.mean / 255).tolist()}) must have one number for each of the "
                f"{len(test.mean)} channels of {self.name}, and std likewise."
            )
        if "train" not in self._splits(stage):
            return
        train = self.manifest("train")
        if train.classes != test.classes:
            raise DataError(
                f"{self.name}: the test images' classes are not the training images' ({len(test.classes)} and "
                f"{len(train.classes)}, first difference: {first_difference(train.classes, test.classes)}): "
                "use the same class folders in both."
            )
        if self.holdout >= train.count:
            raise DataError(
                f"data.init_args.holdout (={self.holdout}) must leave some of the {train.count} training images."
            )

    def _make_resident(self, split: Split) -> None:
        """Put `split` on the device, once; with `auto`, choose the torch loader where there is no room for it."""
        originals, device = self.originals(split), self._device()
        assert isinstance(originals, ImageArray)  # or another loader would have been chosen
        if (split, device) in self._residents:
            return
        if self.loader == "auto" and (fault := memory_fault(originals, device)):
            log.warning("loader torch is used: %s", fault)
            self.chosen_loader = "torch", fault
            self._residents.clear()
            return
        self._residents[split, device] = Resident(originals, device)

    def _device(self) -> torch.device:
        """Where this process computes."""
        strategy = getattr(self.trainer, "strategy", None)
        return strategy.root_device if strategy else torch.device("cpu")

    # -- batches ------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> Batches:
        return self._batches("train", self._train_and_held_out()[0], self._batch_size_per_rank(), shuffle=True)

    def val_dataloader(self) -> Batches:
        """The held-out training images, or the test images where none are held out."""
        if not self.holdout:
            return self.test_dataloader()
        return self._batches("train", self._train_and_held_out()[1], self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> Batches:
        """The test images, as `view` wants them; `viewed_as` changes it."""
        samples = np.arange(self.manifest("test").count)
        return self._batches("test", samples, self._viewed_batch_size(), shuffle=False)

    def drawn(self, split: Split, count: int, seed: int) -> Batches:
        """`count` images of `split`, drawn with `seed`, none twice, as evaluation sees them: not augmented.

        Of the training images, none that is held out.

        Raises:
            DataError: there are not so many.
        """
        samples = self._train_and_held_out()[0] if split == "train" else np.arange(self.manifest("test").count)
        if not 1 <= count <= len(samples):
            raise DataError(f"{count} {split} images of {self.name} cannot be drawn: ask for 1 to {len(samples)}.")
        chosen = np.random.default_rng(seed).permutation(samples)[:count]
        return self._batches(split, chosen, self.eval_batch_size, shuffle=False)

    @contextmanager
    def viewed_as(self, view: View) -> Iterator[None]:
        """Within it, test images come as `view` wants them.

        Raises:
            DataError: this dataset cannot give them so.
        """
        self.check_view(view)
        self.view = view
        try:
            yield
        finally:
            self.view = CENTRE

    def check_view(self, view: View) -> None:
        """Refuse a view for which images are too small.

        Raises:
            DataError: it wants more than the central crop, of images that have no more or not at that short side.
        """
        if view.part != "centre" and self.stored_size is not None:
            raise DataError(
                f"images of {self.name} ({self.stored_size} pixels) must be image files to be evaluated by several "
                "crops or densely: there is no larger picture to cut from. Use the protocols 1crop or flip."
            )
        smallest = min(view.short_sides, default=self.eval_resize)
        if smallest < self.eval_size:
            raise DataError(
                f"a short side (={smallest}) must be at least data.init_args.eval_size (={self.eval_size}), the size "
                "of a crop in evaluation: use another protocol, or a smaller eval_size."
            )

    def sizes(self) -> list[int]:
        """Every height and width in pixels that training crops begin and end with, and that of evaluation's."""
        first = self.train_size.smallest if isinstance(self.train_size, Growth) else self.train_size
        return sorted({first, self.image_size, self.eval_size})

    def _viewed_batch_size(self) -> int:
        """As many images as keep a batch at the pixels of `eval_batch_size` central crops; one where sizes differ."""
        if self.view.part == "centre":
            return self.eval_batch_size
        if self.view.part == "whole":
            return 1
        squares = 3 if self.view.part == "squares" else 1
        pixels = squares * sum(side**2 for side in self.view.short_sides or (self.eval_resize,))
        return max(1, self.eval_batch_size * self.eval_size**2 // pixels)

    def _train_and_held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the training images to train on, and of those held out, both in order.

        Held-out images are drawn at random, because image files are stored class by class.
        """
        count = self.manifest("train").count
        drawn = np.random.default_rng(HOLDOUT_SEED).permutation(count)
        return np.sort(drawn[: count - self.holdout]), np.sort(drawn[count - self.holdout :])

    def _batches(self, split: Split, samples: np.ndarray, batch_size: int, shuffle: bool) -> Batches:
        reading = Reading(
            samples=samples,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=self.seed,
            augmentation=self.augmentation if shuffle else None,
            colour_noise=self.colour_noise if shuffle else 0.0,
            view=self.view if split == "test" else CENTRE,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            accumulate=self.trainer.accumulate_grad_batches if self.trainer and shuffle else 1,
            dataset=self.manifest(split).content,
        )
        workers = checked_workers(self.workers, self._local_world_size())
        if self.chosen_loader[0] == "resident":
            self._make_resident(split)  # which may find that there is no room
        if self.chosen_loader[0] == "resident":
            return ResidentBatches(reading, self._residents[split, self._device()])
        batches = self._batches_from_host(split, reading, workers)
        batches.device = self._device()
        return batches

    def _batches_from_host(self, split: Split, reading: Reading, workers: int) -> Batches:
        if self.reads_beton(split) and (reading.shuffle or self.stored_size is not None):
            from datamodules.ffcv_batches import FFCVBatches

            size = None if self.stored_size is not None else self.train_size
            return FFCVBatches(reading, nearest(self.beton_path(split)), size, workers)
        originals = self.originals(split)
        if isinstance(originals, ImageArray):
            return ArrayBatches(reading, originals)
        size = self.train_size if reading.shuffle else self.eval_size
        return FileBatches(reading, originals, size, self.eval_resize, workers)

    def _batch_size_per_rank(self) -> int:
        """`batch_size` divided among ranks and accumulated batches.

        Raises:
            DataError: it cannot be divided.
        """
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches if self.trainer else 1
        if self.batch_size % parts:
            raise DataError(
                f"data.init_args.batch_size (={self.batch_size}) must be divisible by devices x nodes x "
                f"accumulate_grad_batches (={parts}): it is the number of images per optimizer step over all of them. "
                "Use another --trainer.devices, or another batch size, which is another recipe."
            )
        return self.batch_size // parts

    def _local_world_size(self) -> int:
        return self.trainer.num_devices if self.trainer else 1

    def on_after_batch_transfer(self, batch: tuple[Any, ...], dataloader_idx: int) -> tuple[Any, Tensor]:
        """uint8 [B, H, W, C] -> float32 [B, C, H, W], see `normalise`; each of them where there are several."""
        images, labels, *offsets = batch
        if isinstance(images, tuple):
            return tuple(self._to_inputs(part) for part in images), labels
        return self._to_inputs(images, *offsets), labels

    def _to_inputs(self, images: Tensor, offsets: Tensor | None = None) -> Tensor:
        images = self.normalise(images, offsets)
        if self.trainer is not None:  # Lightning has converted its inputs before; these are new
            images = self.trainer.precision_plugin.convert_input(images)
        return images

    def normalise(self, images: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Images that are stored smaller than `image_size` get a black border; minus mean, over std.

        uint8 [B, H, W, C] -> float32 [B, C, H, W], channels-last in memory. `offsets` [B, C] are added to the pixels.
        """
        border = self.image_size - images.shape[1] if self.stored_size is not None else 0
        if border:
            before = border // 2
            images = F.pad(images, (0, 0, before, border - before, before, border - before))
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        mean = self.mean if offsets is None else self.mean - offsets[:, None, None]
        return ((images - mean) / self.std).permute(0, 3, 1, 2)


def first_difference(ours: list[str], theirs: list[str]) -> str:
    """The first place where two lists of classes differ, for a message."""
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            return f"{mine} against {other}"
    return "one list is longer"
