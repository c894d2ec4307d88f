"""The next batch of images is on its way to a CUDA device while the network computes with the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Pixels = tuple[Any, Tensor]  # of a batch: images [B, H, W, C], or several of them in a tuple, and labels [B]
Ready = Callable[[], Tensor]  # waits for a copy that has begun, and gives it


def on_device_ahead(batches: Iterator[Pixels], device: torch.device) -> Iterator[Pixels]:
    """Images of `batches` on a CUDA `device`, labels as they are; on another device, `batches` themselves.

    The copies have a stream of their own. Only those from page-locked memory run beside the computation. One more batch
    of uint8 images is in the device's memory at a time.
    """
    if device.type != "cuda":
        return batches
    stream = torch.cuda.Stream(device)
    return one_ahead(batches, lambda images: begin_copy(images, device, stream))


def begin_copy(images: Tensor, device: torch.device, stream: torch.cuda.Stream) -> Ready:
    """Begin to copy `images` to `device` on `stream`; what it returns has the stream in use wait for the copy."""
    with torch.cuda.stream(stream):
        copy = images.to(device, non_blocking=True)
        done = stream.record_event()

    def ready() -> Tensor:
        using = torch.cuda.current_stream(device)
        using.wait_event(done)
        copy.record_stream(using)  # or its memory would be given out again to `stream`, which does not wait for users
        return copy

    return ready


def one_ahead(batches: Iterator[Pixels], begin: Callable[[Tensor], Ready]) -> Iterator[Pixels]:
    """Each batch, with its images as `begin` gives them, which is called for the next one before one is handed out."""
    waiting: tuple[Any, Tensor] | None = None
    for images, labels in batches:
        coming = begin(images) if isinstance(images, Tensor) else lambda images=images: images, labels
        if waiting is not None:
            yield waiting[0](), waiting[1]
        waiting = coming
    if waiting is not None:
        yield waiting[0](), waiting[1]
