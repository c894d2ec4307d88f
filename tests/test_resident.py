"""A dataset on the device: cut there as the compiled kernel cuts, never overwritten, refused where it does not fit."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from benchmarks.suite_cli import quiet_warnings
from datamodules import base, beton, resident
from datamodules.augment import COLUMNS, HEIGHT, LEFT, MIRROR, TOP, WIDTH, Augmentation, PaddedCropFlip, cut_same_size
from datamodules.batches import IGNORED_LABEL, Reading
from datamodules.cifar import CIFAR10
from datamodules.cut import cut_batch
from datamodules.digits import Digits
from datamodules.imagenet import ImageNet
from datamodules.loaders import ArrayBatches
from datamodules.mnist import MNIST
from datamodules.originals import DataError, ImageArray
from datamodules.resident import Resident, ResidentBatches, cut_on_device, in_pieces, memory_fault
from datamodules.synthetic import Synthetic
from models.linear import Linear

CHECKOUT = Path(__file__).resolve().parent.parent
COUNT = 67
CPU = torch.device("cpu")


@pytest.fixture
def arrays() -> ImageArray:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 9, 7, 3), np.uint8)
    labels = np.random.default_rng(1).permutation(COUNT).astype(np.int64)
    return ImageArray(images, labels, tuple(str(number) for number in range(COUNT)), {"random": "0"})


class Elsewhere(ResidentBatches):
    """On the CPU, by the operations that other devices run."""

    _on_cpu = ResidentBatches._elsewhere


# The operations of other devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_device_cuts_what_the_kernel_and_numpy_cut(channels: int, device: str) -> None:
    """Every shift, far beyond the image too, on both sides, with holes inside, at the edges and outside."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    places = [(top, left, mirror) for top in range(-8, 9) for left in range(-7, 8) for mirror in (0, 1)]
    rng = np.random.default_rng(0)
    boxes = np.zeros((len(places), COLUMNS), np.int32)
    boxes[:, [TOP, LEFT, MIRROR]] = places
    boxes[:, HEIGHT], boxes[:, WIDTH] = 6, 5
    boxes[:, 5:7] = rng.integers(-5, 9, (len(places), 2))
    boxes[:, 7] = rng.integers(0, 6, len(places))
    images = rng.integers(1, 256, (11, 6, 5, channels), np.uint8)
    samples = rng.integers(0, 11, len(places))
    fill = np.array([50, 60, 70, 80][:channels], np.uint8)
    batch = np.empty((len(places), 6, 5, channels), np.uint8)
    cut_batch(images, samples, boxes, fill, batch)
    assert np.array_equal(batch, cut_same_size(images[samples], boxes, fill))
    found = cut_on_device(*(torch.from_numpy(array).to(device) for array in (images, samples, boxes, fill)))
    assert found.device.type == device
    assert found.dtype == torch.uint8
    assert np.array_equal(found.cpu().numpy(), batch)


@pytest.mark.parametrize("augmentation", [None, PaddedCropFlip(2, 0.5), PaddedCropFlip(2, 0.5, 4, (9, 8, 7))])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_of_other_devices_are_those_of_numpy(
    arrays: ImageArray, augmentation: Augmentation | None, shuffle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided in pieces of 32 images, which batches of 10 do not divide; filled up on the last of three ranks."""
    monkeypatch.setattr(resident, "DECIDED_ON_CPU", 32)
    for rank in range(3):
        reading = Reading(np.arange(1, COUNT), 5, shuffle, 3, augmentation, rank=rank, world_size=3)
        expected = ArrayBatches(reading, arrays)
        for kind in (ResidentBatches, Elsewhere):
            loader = kind(reading, Resident(arrays, CPU))
            for epoch in (0, 4):
                for each in (loader, expected):
                    each.sampler.set_epoch(epoch)
                for found, wanted in zip(loader, expected, strict=True):
                    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert arrays.labels.min() == 0  # IGNORED_LABEL is not written into the dataset


def test_pieces_hold_whole_batches() -> None:
    batches = [np.arange(10)] * 7
    assert [len(some) for some in in_pieces(batches, 25)] == [3, 3, 1]
    assert [len(some) for some in in_pieces(batches, 10)] == [1] * 7
    assert [len(some) for some in in_pieces(batches, 1000)] == [7]
    assert list(in_pieces([], 5)) == []


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", [None, PaddedCropFlip(2, 0.5)])
def test_batches_may_be_kept_and_memory_comes_again(arrays: ImageArray, augmentation: Augmentation | None) -> None:
    reading = Reading(np.arange(COUNT), 4, False, augmentation=augmentation)
    loader = ResidentBatches(reading, Resident(arrays, CPU))
    kept = list(loader)
    assert len({images.data_ptr() for images, _ in kept}) == len(kept) == 17
    for (images, _), (same, _) in zip(kept, ArrayBatches(reading, arrays), strict=True):
        assert torch.equal(images, same)
    del kept, images
    assert len({images.data_ptr() for images, _ in loader}) <= 8
    untouched = arrays.images.copy()
    for images, labels in loader:
        images.zero_()
        labels.zero_()
    assert np.array_equal(arrays.images, untouched)


def test_on_a_cpu_the_dataset_is_not_copied(arrays: ImageArray) -> None:
    assert Resident(arrays, CPU).images.data_ptr() == arrays.images.ctypes.data
    read_only = replace(arrays, images=arrays.images[::2])
    read_only.images.flags.writeable = False
    assert Resident(read_only, CPU).images.is_contiguous()


def test_a_dataset_that_does_not_fit_is_refused_before_it_is_moved(
    arrays: ImageArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that is not there; the dataset is one byte, broadcast to the size of CIFAR-10."""
    large = replace(arrays, images=np.broadcast_to(np.uint8(0), (50_000, 32, 32, 3)))
    device = torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (170_000_000, 10**10))
    with pytest.raises(
        DataError,
        match=r"loader resident: the images \(=154 MB\) must fit into 90% of the free memory of cuda:3 \(=170 MB\): "
        r"use --data.loader torch, which keeps them in the host's memory",
    ):
        Resident(large, device)
    assert memory_fault(arrays, device) == ""
    assert memory_fault(large, CPU) == ""


# Which loader ---------------------------------------------------------------------------------------------------------


def test_datasets_in_memory_are_resident_unless_asked_otherwise() -> None:
    assert Digits(batch_size=1).chosen_loader == ("resident", "the images fit in memory")
    assert Digits(batch_size=1, loader="torch").chosen_loader == ("torch", "asked for")
    assert MNIST(batch_size=1, loader="resident").chosen_loader == ("resident", "asked for")
    assert ImageNet(batch_size=1).chosen_loader[0] in ("ffcv", "torch")
    with pytest.raises(
        DataError, match=r"resident was asked for, but these are image files .*: use --data.loader auto"
    ):
        ImageNet(batch_size=1, loader="resident").chosen_loader  # noqa: B018


@pytest.mark.parametrize("loader", ["auto", "resident", "torch"])
def test_no_beton_is_written(loader: Any, tmp_path: Path) -> None:
    data = Synthetic(batch_size=4, image_size=8, num_train=20, loader=loader, cache=str(tmp_path))
    data.prepare_data()
    data.setup()
    next(iter(data.train_dataloader()))
    assert not list(tmp_path.rglob("*.beton"))
    assert not data.reads_beton("train")
    assert beton.manifest_path(data.beton_path("train")).exists() is False


def test_auto_takes_the_torch_loader_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The test images fit, the training images do not."""
    fault = "the images must fit into 90% of the free memory of cuda:0"
    monkeypatch.setattr(base, "memory_fault", lambda originals, device: fault if len(originals.labels) == 50 else "")
    data = Synthetic(batch_size=4, image_size=8, num_train=50)
    data.prepare_data()
    assert data.chosen_loader == ("resident", "the images fit in memory")
    with caplog.at_level(logging.WARNING, "datamodules"):
        data.setup()
    assert data.chosen_loader == ("torch", fault)
    assert caplog.messages == [f"loader torch is used: {fault}"]
    assert type(data.train_dataloader()) is type(data.test_dataloader()) is ArrayBatches


# Through the whole way ------------------------------------------------------------------------------------------------


def test_training_and_held_out_images_share_their_memory() -> None:
    data = Synthetic(batch_size=4, image_size=8, num_train=50, holdout=9, loader="resident")
    data.prepare_data()
    data.setup()
    training, held_out = data.train_dataloader(), data.val_dataloader()
    assert isinstance(training, ResidentBatches)
    assert isinstance(held_out, ResidentBatches)
    assert training.resident is held_out.resident is data.train_dataloader().resident  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [MNIST, CIFAR10])
def test_distorted_digits_and_the_mean_image_are_those_of_the_torch_loader(make: Any) -> None:
    """On random images of their shapes."""
    settings: dict[str, Any] = {"batch_size": 50, "eval_batch_size": 40}
    if make is MNIST:
        settings |= {"translate": 2.0, "elastic": 8.0, "holdout": 90}
    else:
        settings |= {"pad": 4, "flip": 0.5, "cutout": 16, "per_pixel_mean": True}

    def images(split: str) -> ImageArray:
        shape = (200, 28, 28, 1) if make is MNIST else (200, 32, 32, 3)
        pixels = np.random.default_rng(len(split)).integers(0, 256, shape, np.uint8)
        return ImageArray(pixels, np.arange(200) % 10, tuple("0123456789"), {})

    found = {}
    for loader in ("torch", "resident"):
        data = make(loader=loader, **settings)
        data.read_originals = images
        data.prepare_data()
        data.setup()
        data.trainer = SimpleNamespace(
            **{"global_rank": 1, "world_size": 2, "num_devices": 1, "accumulate_grad_batches": 1},
            precision_plugin=SimpleNamespace(convert_input=lambda images: images),
        )
        batches = []
        for each in (data.train_dataloader(), data.val_dataloader()):
            each.sampler.set_epoch(3)
            batches += [data.on_after_batch_transfer(batch, 0) for _, batch in zip(range(3), each, strict=False)]
        found[loader] = batches
    assert len(found["torch"]) >= 4
    for pair in zip(*found.values(), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(*pair, strict=True))


class Seen(Linear):
    """Keeps the labels it meets."""

    def __init__(self) -> None:
        super().__init__((3, 8, 8), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.met: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Any:
        self.met += batch[1].tolist()
        return super().training_step(batch, index)


def test_lightning_trains_the_same_with_it() -> None:
    """Two epochs with validation, to the last bit of the weights."""
    found = []
    for loader in ("torch", "auto"):
        pl.seed_everything(1, verbose=False)
        augmentation = PaddedCropFlip(1, 0.5, 2)
        data = Synthetic(
            batch_size=8, num_train=60, num_test=21, image_size=8, loader=loader, augmentation=augmentation
        )  # type: ignore[arg-type]
        network = Seen()
        with quiet_warnings():
            trainer = pl.Trainer(
                accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=2,
                enable_model_summary=False,
            )  # fmt: skip
            trainer.fit(network, datamodule=data)
        found.append((network.met, [weight.tolist() for weight in network.parameters()]))
    assert len(found[0][0]) == 2 * 56
    assert IGNORED_LABEL not in found[0][0]
    assert found[0] == found[1]


@pytest.mark.gpu
def test_on_a_gpu_batches_are_there_and_nothing_waits(arrays: ImageArray) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    reading = Reading(np.arange(COUNT), 10, True, 3, PaddedCropFlip(2, 0.5, 3, (1, 2, 3)))
    loader = ResidentBatches(reading, Resident(arrays, torch.device("cuda", 0)))
    batches: Iterator[Any] = iter(loader)
    found = [next(batches)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found += list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (images, labels), (same, those) in zip(found, ArrayBatches(reading, arrays), strict=True):
        assert images.is_cuda
        assert labels.is_cuda
        assert torch.equal(images.cpu(), same)
        assert torch.equal(labels.cpu(), those)


def test_numba_is_imported_only_where_something_is_cut() -> None:
    """It takes 0.4 s, and small runs on small images cut nothing."""
    program = (
        "import sys; from datamodules.digits import Digits; data = Digits(batch_size=10)\n"
        "data.prepare_data(); data.setup(); print(len(list(data.train_dataloader())), 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["143", "False"]
