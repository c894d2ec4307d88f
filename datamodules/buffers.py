"""Memory for batches that is used again, so that a fresh batch costs no page faults.

Memory fresh from the system is zeroed page by page at its first touch, which costs more than cutting small images.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 8  # buffers that wait for use; whoever keeps more batches and then lets go of them gives memory back


class Buffers:
    """Hands out uint8 tensors of up to `count` x `shape`, whose memory comes again when nothing refers to it any more.

    A tensor from here may be kept for ever and is never written to again, nor is any view of it or numpy array made
    from it: all of them keep the storage alive, and the memory comes back from the storage's end. That holds for
    `non_blocking` copies to a CUDA device too, which read what is not pinned before they return. Threads may share it.

    Args:
        count: images in the largest batch.
        shape: of one image, such as (H, W, C).
        pinned: page-locked memory, from which copies to a CUDA device run beside the computation. It comes from torch's
            own cache, which gives memory out again only when the copies that read it are done.
    """

    def __init__(self, count: int, shape: tuple[int, ...], pinned: bool = False) -> None:
        self.count = count
        self.shape = shape
        self.pinned = pinned
        self.free: list[NDArray[np.uint8]] = []
        self.lent: dict[int, tuple[weakref.ref[Any], NDArray[np.uint8]]] = {}  # by the identity of the reference
        myself = weakref.ref(self)  # no cycle, so that memory goes at once with the last user

        def returned(loan: weakref.ref[Any]) -> None:
            if (buffers := myself()) is not None:
                buffers._returned(loan)

        self.returned = returned

    def take(self, count: int) -> Tensor:
        """A tensor [count, *shape] with anything in it."""
        if count > self.count:
            raise ValueError(f"a batch of {count} images must not exceed the buffer's {self.count}.")
        if self.pinned:
            return torch.empty((count, *self.shape), dtype=torch.uint8, pin_memory=True)
        try:
            buffer = self.free.pop()
        except IndexError:  # not asked beforehand: another thread may take the last one
            buffer = np.empty((self.count, *self.shape), np.uint8)
        loan = buffer[:count]  # the storage of the tensor refers to this object, and nothing else does
        ends = weakref.ref(loan, self.returned)
        self.lent[id(ends)] = ends, buffer
        return torch.from_numpy(loan)

    def _returned(self, loan: weakref.ref[Any]) -> None:
        _, buffer = self.lent.pop(id(loan))
        if len(self.free) < KEPT:
            self.free.append(buffer)
