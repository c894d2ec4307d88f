"""The `ffcv` loader: FFCV 1.0.2's reader, ring of buffers and thread, with our order, our boxes and its faults mended.

FFCV is frozen upstream. What is mended here, so that the rest of the suite need not know:

- an error in its thread left the training loop waiting for ever; it is raised in the loop;
- an epoch that was broken off kept its thread and buffers; they are closed with the iterator;
- batches are views of a ring that the thread overwrites; copies are handed out;
- its augmentation draws from generators that cannot be seeded; boxes come from `datamodules.augment`;
- it set torch's thread count for the whole process, took `cpu_count()` for the cores it may use, changed a type that
  numba shares with every other function, and left the threading layer to chance (`workqueue` aborts the process
  when two loaders run at once).
"""

from __future__ import annotations

import os

os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "tbb omp workqueue")  # read when numba is first imported

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

TORCH_THREADS = torch.get_num_threads()  # importing FFCV sets it to 1

from ffcv.fields.ndarray import NDArrayDecoder
from ffcv.fields.rgb_image import IMAGE_MODES, SimpleRGBImageDecoder
from ffcv.libffcv import imdecode, resize_crop
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.memory_managers.os_cache import OSCacheManager
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.state import State
from ffcv.transforms import ToTensor
from numba import types
from numpy.typing import NDArray
from torch import Tensor

from datamodules.augment import COLUMNS, HEIGHT, LEFT, MIRROR, TOP, WIDTH, Growth, fill_of, size_in, whole_boxes
from datamodules.batches import Batches, Reading
from datamodules.cut import cut_one

torch.set_num_threads(TORCH_THREADS)

READ_ONLY_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
STORAGE = types.Tuple([READ_ONLY_BYTES, types.uint64[::1], types.uint64[::1]])


def _set_numba_threads(cls: type[Compiler], count: int) -> None:
    """FFCV's `set_num_threads` without its change of torch's own thread count."""
    cls.num_threads = count
    numba.set_num_threads(count)


def _compile_reader(manager: OSCacheManager) -> Callable[..., Any]:
    """FFCV's reader on a read-only type of its own, not on numba's shared `uint8[::1]` made read-only."""

    def read(address: int, storage: Any) -> Any:
        size = storage[2][np.searchsorted(storage[1], address)]
        return storage[0][address : address + size]

    return Compiler.compile(read, READ_ONLY_BYTES(types.uint64, STORAGE))


Compiler.set_num_threads = classmethod(_set_numba_threads)
OSCacheManager.state_type = property(lambda self: STORAGE)
OSCacheManager.compile_reader = _compile_reader


class FFCVBatches(Batches):
    """Reads the .beton at `path`; `workers` threads decode while the network trains.

    `size` is the height and width to which the boxes of image files are resized, or how these grow; None for arrays,
    which keep their own.
    """

    def __init__(self, reading: Reading, path: Path, size: int | Growth | None, workers: int) -> None:
        super().__init__(reading)
        self.path = path
        self.size = size
        self.workers = workers
        self.compiled()  # before the first epoch's clock runs

    def compiled(self) -> Loader:
        """FFCV's loader for the size that images have in this epoch."""
        size = None if self.size is None else size_in(self.epoch, self.size)
        return compiled_loader(self.path, size, self.workers, self.path.stat().st_mtime_ns)

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        loader = copy(self.compiled())
        loader.batch_size = max(len(batch) for batch in batches)
        all_labels = loader.reader.metadata["f1"]
        epoch = BoxedEpoch(loader, np.concatenate(batches), self.reading, self.epoch)
        try:
            for batch in batches:
                (images,) = next(epoch)
                yield images.clone(), torch.from_numpy(all_labels[batch].astype(np.int64))
        finally:
            epoch.close()


@lru_cache(maxsize=32)
def compiled_loader(path: Path, size: int | None, workers: int, written_ns: int) -> Loader:
    """FFCV's loader of `path`, compiled once a process and size: batch size, order and epoch do not matter to it.

    `written_ns`, the time at which the file was written, makes a file that was removed and made anew another one.
    """
    decoder = BoxedArrayDecoder() if size is None else BoxedJpegDecoder(size)
    return Loader(
        str(path),
        batch_size=1,
        num_workers=workers,
        os_cache=True,
        seed=0,
        drop_last=False,
        pipelines={"image": [decoder, ToTensor()], "label": None},
    )


class BoxedEpoch(EpochIterator):
    """One pass over `samples`, in order: a thread that decides each batch's boxes, then lets FFCV decode it."""

    def __init__(self, loader: Loader, samples: NDArray[np.int64], reading: Reading, number: int) -> None:
        self.error: BaseException | None = None
        self.reading = reading
        self.number = number
        nodes = loader.graph.nodes
        self.decoder_id = next(node.id for node in nodes if isinstance(getattr(node, "decoder", None), BoxedDecoder))
        super().__init__(loader, samples)

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:  # reaches the training loop through __next__
            self.error = error
            self.output_queue.put(None)

    def run_pipeline(self, number: int, samples: NDArray[np.int64], slot: int, event: Any) -> Any:
        if self.terminate_event.is_set():
            raise StopIteration  # the end, to FFCV's `run`, which looks at this event only when its queue is full
        memory = self.memory_allocations["operation"][self.decoder_id]
        memory[1][slot, : len(samples)] = self.boxes(samples)
        if isinstance(self.decoder_of(), BoxedArrayDecoder):
            memory[2][slot, : len(samples)] = fill_of(self.reading.augmentation, memory[2].shape[-1])
        return super().run_pipeline(number, samples, slot, event)

    def boxes(self, samples: NDArray[np.int64]) -> NDArray[np.int32]:
        """What to cut from each sample: the augmentation's boxes, or the whole image."""
        heights, widths = self.decoder_of().image_sizes(samples)
        augmentation = self.reading.augmentation
        if augmentation is not None:
            return augmentation.boxes(self.reading.seed, self.number, samples, heights, widths)
        return whole_boxes(heights, widths)

    def decoder_of(self) -> BoxedDecoder:
        return next(node.decoder for node in self.loader.graph.nodes if node.id == self.decoder_id)

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except StopIteration:
            if self.error is not None:
                raise RuntimeError(f"FFCV failed while reading {self.loader.fname}: {self.error!r}") from self.error
            raise

    def close(self) -> None:
        super().close()
        self.closed = True
        while not self.output_queue.empty():  # room for the batch in work and the end; its thread waits for it for ever
            self.output_queue.get_nowait()


class BoxedDecoder:
    """A decoder that cuts, from each image, the box written for it into the batch's slot."""

    metadata: Any

    def image_sizes(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Heights and widths in pixels of the stored images. [B], [B]"""
        raise NotImplementedError


class BoxedArrayDecoder(BoxedDecoder, NDArrayDecoder):
    """uint8 arrays [H, W, C], all of one size: the box is a shifted, perhaps mirrored copy, perhaps with a hole."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, tuple[AllocationQuery, ...]]:
        shape = tuple(int(length) for length in self.field.shape)
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype("uint8"))
        return state, (
            AllocationQuery(shape, np.dtype("uint8")),
            AllocationQuery((COLUMNS,), np.dtype("int32")),
            AllocationQuery(shape[-1:], np.dtype("uint8")),
        )

    def image_sizes(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        height, width = (int(length) for length in self.field.shape[:2])
        return np.full(len(samples), height), np.full(len(samples), width)

    def generate_code(self) -> Callable[..., Any]:
        read = self.memory_read

        def decode(samples: Any, memory: Any, pointers: Any, storage: Any) -> Any:
            images, boxes, fills = memory
            for i in range(len(samples)):  # a few kB an image: threads cost more than they bring
                source = read(pointers[samples[i]], storage)
                cut_one(source, boxes[i], fills[i], images[i])
            return images[: len(samples)]

        return decode


class BoxedJpegDecoder(BoxedDecoder, SimpleRGBImageDecoder):
    """Encoded images of any size: the box is resized to size x size (OpenCV's area filter) and perhaps mirrored."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, tuple[AllocationQuery, ...]]:
        shape = (self.size, self.size, 3)
        largest = int((self.metadata["height"].astype(np.int64) * self.metadata["width"]).max()) * 3
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype("uint8"))
        return state, (
            AllocationQuery(shape, np.dtype("uint8")),
            AllocationQuery((COLUMNS,), np.dtype("int32")),
            AllocationQuery((largest,), np.dtype("uint8")),
        )

    def image_sizes(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = self.metadata[samples]
        return rows["height"].astype(np.int64), rows["width"].astype(np.int64)

    def generate_code(self) -> Callable[..., Any]:
        read = self.memory_read
        decode_jpeg = Compiler.compile(imdecode)
        resize = Compiler.compile(resize_crop)
        threads = Compiler.get_iterator()
        jpeg = IMAGE_MODES["jpg"]

        def decode(samples: Any, memory: Any, metadata: Any, storage: Any) -> Any:
            images, boxes, scratch = memory
            for i in threads(len(samples)):
                row = metadata[samples[i]]
                source = read(row["data_ptr"], storage)
                height, width = np.uint32(row["height"]), np.uint32(row["width"])
                if row["mode"] == jpeg:
                    decode_jpeg(source, scratch[i], height, width, height, width, 0, 0, 1, 1, False, False)
                    pixels = scratch[i][: 3 * np.int64(height) * np.int64(width)].reshape(height, width, 3)
                else:
                    pixels = source.reshape(height, width, 3)
                top, left = boxes[i, TOP], boxes[i, LEFT]
                resize(pixels, top, top + boxes[i, HEIGHT], left, left + boxes[i, WIDTH], images[i])
                if boxes[i, MIRROR]:
                    images[i] = images[i][:, ::-1].copy()
            return images[: len(samples)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode
