"""Memory is handed out again when nothing refers to it any more, and never before."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.buffers import KEPT, Buffers

SHAPE = (5, 4, 3)


def test_memory_comes_again_when_its_batch_is_gone() -> None:
    buffers = Buffers(8, SHAPE)
    batch = buffers.take(8)
    assert (batch.shape, batch.dtype, batch.is_contiguous()) == ((8, *SHAPE), torch.uint8, True)
    place = batch.data_ptr()
    assert buffers.take(8).data_ptr() != place  # while the first is there
    del batch
    places = set()
    for count in (8, 3, 0, 8):  # an incomplete last batch has the memory of a whole one
        batch = buffers.take(count)
        assert batch.shape == (count, *SHAPE)
        places |= {batch.data_ptr()} if count else set()
        del batch
    assert len(places) <= 2


VIEWS: list[Callable[[Tensor], Any]] = [
    lambda batch: batch,
    lambda batch: batch[3],
    lambda batch: batch[2:4, ::2],
    lambda batch: batch.permute(0, 3, 1, 2),
    lambda batch: batch.numpy(),
    lambda batch: batch[5:].numpy()[0, 1:],
    lambda batch: batch.view(torch.int8),
    lambda batch: batch.detach(),
    lambda batch: batch.untyped_storage(),
    lambda batch: iter(batch.unbind()),
    lambda batch: memoryview(batch.numpy()),
    lambda batch: torch.from_dlpack(batch),
    lambda batch: np.from_dlpack(batch),
    lambda batch: torch.utils.data.TensorDataset(batch),
]


@pytest.mark.parametrize("number", range(len(VIEWS)))
def test_what_is_kept_in_any_way_is_not_handed_out(number: int) -> None:
    buffers = Buffers(8, SHAPE)
    batch = buffers.take(8)
    place = batch.data_ptr()
    kept = VIEWS[number](batch)
    del batch
    gc.collect()
    others = [buffers.take(8) for _ in range(4)]
    assert place not in {other.data_ptr() for other in others}
    del kept
    gc.collect()
    assert buffers.take(8).data_ptr() == place


def test_batches_that_are_kept_stay_what_they_were() -> None:
    buffers = Buffers(2, SHAPE)
    kept = []
    for number in range(100):
        batch = buffers.take(2).fill_(number)
        if number % 3 == 0:
            kept.append(batch[1, 2:])
    assert [view.unique().tolist() for view in kept] == [[number] for number in range(0, 100, 3)]


def test_only_a_few_buffers_wait_for_use() -> None:
    """Whoever keeps an epoch and then lets go of it gives its memory back."""
    buffers = Buffers(2, SHAPE)
    batches = [buffers.take(2) for _ in range(50)]
    arrays = [weakref.ref(buffer) for _, buffer in buffers.lent.values()]
    assert len(arrays) == 50
    del batches
    assert len(buffers.free) == KEPT
    assert not buffers.lent
    assert sum(array() is not None for array in arrays) == KEPT


def test_a_batch_outlives_its_buffers() -> None:
    buffers = Buffers(2, SHAPE)
    batch = buffers.take(2).fill_(7)
    gone = weakref.ref(buffers)
    del buffers
    assert gone() is None  # without waiting for the garbage collector
    assert (batch == 7).all()


def test_threads_never_get_the_same_memory() -> None:
    buffers = Buffers(16, (8, 8, 3))
    wrong = []

    def work(mark: int) -> None:
        for _ in range(300):
            batch = buffers.take(16).fill_(mark)
            another = buffers.take(3).fill_(mark + 100)
            if not (batch == mark).all() or not (another == mark + 100).all():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_batch_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a batch of 9 images must not exceed the buffer's 8"):
        Buffers(8, SHAPE).take(9)


@pytest.mark.gpu
def test_pinned_memory_is_not_written_to_before_copies_are_done() -> None:
    """A slow device, and copies that wait behind its work while the host fills the next batches."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    buffers = Buffers(64, (224, 224, 3), pinned=True)
    busy = torch.randn(4096, 4096, device="cuda")
    moved = []
    for number in range(30):
        for _ in range(5):
            busy = busy @ busy.T / 4096
        batch = buffers.take(64).fill_(number)
        assert batch.is_pinned()
        moved.append(batch.to("cuda", non_blocking=True))
    torch.cuda.synchronize()
    assert [batch.unique().tolist() for batch in moved] == [[number] for number in range(30)]
