"""The `resident` loader: a whole dataset as one uint8 tensor on the device, cut there, batch by batch.

On a CPU one compiled kernel (`datamodules.cut`) makes a batch, in a tenth of a millisecond: no worker, no thread, no
file. On other devices operations of torch do the same, and there the batch stays: Lightning finds nothing to move. What
to cut is decided on the host for many batches at once and shipped in one piece, so that no batch waits for the host.
Letters as in `datamodules.augment`; N is the number of images in the dataset.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.augment import HOLE_LEFT, HOLE_SIZE, HOLE_TOP, LEFT, MIRROR, TOP, fill_of
from datamodules.batches import Batches, Reading
from datamodules.buffers import Buffers
from datamodules.originals import DataError, ImageArray

SPARE = 0.9  # share of a device's free memory that a dataset may take; the network needs some, too
DECIDED_ON_CPU = 8192  # images whose boxes are computed in one piece, which stays in the processor's caches
DECIDED_ELSEWHERE = 65_536  # and shipped in one piece, 3 MB


class Resident:
    """Images [N, H, W, C] and labels [N] of one split on a device.

    Raises:
        DataError: the device has no room for them.
    """

    def __init__(self, originals: ImageArray, device: torch.device) -> None:
        self.device = device
        if fault := memory_fault(originals, device):
            raise DataError(
                f"loader resident: {fault}: use --data.loader torch, which keeps them in the host's memory."
            )
        self.images = torch.from_numpy(np.require(originals.images, requirements=["C", "W"])).to(
            device
        )  # no copy on a CPU
        self.labels = torch.from_numpy(originals.labels).to(device)


def memory_fault(originals: ImageArray, device: torch.device) -> str:
    """Why a CUDA device has no room for the images; empty if it has. On a CPU they are in memory already."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    needed = originals.images.nbytes
    if free is None or needed <= SPARE * free:
        return ""
    return (
        f"the images (={needed / 1e6:.0f} MB) must fit into {SPARE:.0%} of the free memory of {device} "
        f"(={free / 1e6:.0f} MB)"
    )


class ResidentBatches(Batches):
    """Cuts batches out of a dataset that lies on the device; they are there when they are handed out."""

    def __init__(self, reading: Reading, resident: Resident) -> None:
        super().__init__(reading)
        self.resident = resident
        self.shape = tuple(resident.images.shape[1:])
        self.buffers = Buffers(reading.batch_size, self.shape)

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        on_cpu = self.resident.device.type == "cpu"
        for some in in_pieces(batches, DECIDED_ON_CPU if on_cpu else DECIDED_ELSEWHERE):
            samples, sizes = np.concatenate(some), [len(batch) for batch in some]
            cut = self._on_cpu if on_cpu else self._elsewhere
            yield from cut(samples, self._boxes(samples), sizes)

    def _boxes(self, samples: NDArray[np.int64]) -> NDArray[np.int32] | None:
        augmentation = self.reading.augmentation
        if augmentation is None:
            return None
        heights, widths = (np.full(len(samples), length) for length in self.shape[:2])
        return augmentation.boxes(self.reading.seed, self.epoch, samples, heights, widths)

    def _on_cpu(
        self, samples: NDArray[np.int64], boxes: NDArray[np.int32] | None, sizes: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.resident.images.numpy(), self.resident.labels.numpy()
        fill = fill_of(self.reading.augmentation, self.shape[-1])
        begin = 0
        for size in sizes:
            these = slice(begin, begin + size)
            batch = self.buffers.take(size)
            if boxes is None:
                np.take(images, samples[these], axis=0, out=batch.numpy(), mode="clip")  # other modes copy twice
            else:
                from datamodules.cut import cut_batch  # and numba with it, which small runs need not wait for

                cut_batch(images, samples[these], boxes[these], fill, batch.numpy())
            yield batch, torch.from_numpy(labels[samples[these]])
            begin += size

    def _elsewhere(
        self, samples: NDArray[np.int64], boxes: NDArray[np.int32] | None, sizes: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.resident.device
        fill = torch.from_numpy(fill_of(self.reading.augmentation, self.shape[-1])).to(device)
        shipped = torch.from_numpy(samples).to(device).split(sizes)
        cuts = [None] * len(sizes) if boxes is None else torch.from_numpy(boxes).to(device).split(sizes)
        for these, box in zip(shipped, cuts, strict=True):
            images = self.resident.images
            batch = images[these] if box is None else cut_on_device(images, these, box, fill)
            yield batch, self.resident.labels[these]


def in_pieces(batches: list[NDArray[np.int64]], images: int) -> Iterator[list[NDArray[np.int64]]]:
    """`batches` in groups of at least so many images."""
    some: list[NDArray[np.int64]] = []
    count = 0
    for batch in batches:
        some.append(batch)
        count += len(batch)
        if count >= images:
            yield some
            some, count = [], 0
    if some:
        yield some


def cut_on_device(images: Tensor, samples: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """`datamodules.cut.cut_batch` in operations of torch, without a word from the host in between.

    Args:
        images: uint8 [N, H, W, C].
        samples: int64 [B].
        boxes: int32 [B, 8].
        fill: uint8 [C], the pixel that fills holes.

    Returns:
        uint8 [B, H, W, C], on the device of the images, as all arguments are.
    """
    _, height, width, channels = images.shape
    boxes = boxes.long()
    down, right = torch.arange(height, device=images.device), torch.arange(width, device=images.device)

    def column(number: int) -> Tensor:
        return boxes[:, number, None]  # [B, 1]

    rows = column(TOP) + down
    columns = column(LEFT) + torch.where(column(MIRROR) != 0, width - 1 - right, right)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]  # [B, H, W]
    places = (samples[:, None] * height + rows.clamp(0, height - 1))[:, :, None] * width
    places = places + columns.clamp(0, width - 1)[:, None]
    pixels = images.reshape(-1, channels)[places] * inside[..., None]
    below, beside = down - column(HOLE_TOP), right - column(HOLE_LEFT)
    size = column(HOLE_SIZE)
    hole = ((below >= 0) & (below < size))[:, :, None] & ((beside >= 0) & (beside < size))[:, None]
    return torch.where(hole[..., None], fill, pixels)
