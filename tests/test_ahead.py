"""Images that are sent to the device ahead of their turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.ahead import Ready, on_device_ahead, one_ahead
from datamodules.digits import Digits


def numbered(count: int, log: list[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches 0, 1, ... of one image."""
    try:
        for number in range(count):
            log.append(f"read {number}")
            yield torch.full((1, 2, 2, 1), number), torch.tensor([number])
    finally:
        log.append("closed")


def logged(log: list[str]) -> Any:
    """A copy that notes when it begins and when it is waited for."""

    def begin(images: Tensor) -> Ready:
        number = int(images.flatten()[0])
        log.append(f"begin {number}")

        def ready() -> Tensor:
            log.append(f"ready {number}")
            return images + 100

        return ready

    return begin


def test_the_next_copy_begins_before_a_batch_is_handed_out() -> None:
    log: list[str] = []
    found = []
    for images, labels in one_ahead(numbered(3, log), logged(log)):
        log.append(f"use {int(labels)}")
        found.append((int(images.flatten()[0]), int(labels)))
    assert found == [(100, 0), (101, 1), (102, 2)]
    order = "read 0, begin 0, read 1, begin 1, ready 0, use 0, read 2, begin 2, ready 1, use 1, closed, ready 2, use 2"
    assert ", ".join(log) == order


@pytest.mark.parametrize("count", [0, 1])
def test_few_batches(count: int) -> None:
    assert [int(labels) for _, labels in one_ahead(numbered(count, []), logged([]))] == list(range(count))


def test_who_stops_early_stops_the_reading_too() -> None:
    log: list[str] = []
    batches = one_ahead(numbered(9, log), logged(log))
    next(batches)
    del batches
    assert log[-2:] == ["ready 0", "closed"]


def test_several_images_of_a_sample_are_left_to_lightning() -> None:
    log: list[str] = []
    parts = (torch.zeros(1), torch.ones(1))
    ((images, _),) = one_ahead(iter([(parts, torch.tensor([0]))]), logged(log))
    assert images is parts
    assert log == []


def test_elsewhere_than_on_a_cuda_device_nothing_is_sent() -> None:
    batches = numbered(2, [])
    assert on_device_ahead(batches, torch.device("cpu")) is batches


def test_the_position_in_an_epoch_is_that_of_what_was_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped in an epoch goes on after the batches that it has trained on, not those that were sent."""
    log: list[str] = []
    monkeypatch.setattr("datamodules.batches.on_device_ahead", lambda pixels, _: one_ahead(pixels, logged(log)))
    data = Digits(batch_size=100, loader="torch")
    data.prepare_data()
    data.setup()
    loader = data.train_dataloader()
    batches = iter(loader)
    for number in range(1, 4):
        next(batches)
        assert loader.state_dict()["position"] == 100 * number
        assert sum(line.startswith("begin") for line in log) == number + 1


@pytest.mark.gpu
def test_on_a_gpu_every_image_arrives_whole_while_the_device_is_busy() -> None:
    """The network's stream is kept busy, so that copies that did not wait, or memory given out too soon, would show."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")

    def read() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(30):
            yield torch.full((64, 224, 224, 3), number, dtype=torch.uint8).pin_memory(), torch.tensor([number])

    busy = torch.randn(4096, 4096, device="cuda")
    sums = []
    for images, labels in on_device_ahead(read(), torch.device("cuda", 0)):
        assert images.is_cuda
        assert not labels.is_cuda
        for _ in range(5):
            busy = busy @ busy.T / 4096
        sums.append(images.double().mean())
        del images
    assert torch.stack(sums).tolist() == list(range(30))
