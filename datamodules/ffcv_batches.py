"""The `ffcv` loader: FFCV's files, their reader and memory map, its thread and queue, with our order and our kernels.

FFCV's own operations are left out. Its crops draw from generators that cannot be seeded, and read whole JPEGs; numba
compiles them anew in every process. Ours carry out the boxes of `datamodules.augment` (`datamodules.crops`) and are
compiled once per machine. Of what else is mended, `datamodules.ffcv_mended` has what comes with importing FFCV; here:

- an error in its thread left the training loop waiting for ever; it is raised in the loop;
- a damaged JPEG came out as another image; it is an error that names the image;
- an epoch that was broken off kept its thread and buffers; they are closed with the iterator;
- batches were views of a ring of buffers that the thread overwrites; each batch has memory of its own, which is used
  again when nothing refers to it any more.

Image files: of the same pixels this loader and the `torch` one make the same crop, to 1 grey level, because both resize
with PIL's antialiased bilinear filter. But `torch` reads the originals, and the .beton holds them stored a second time,
at quality 90, and shrunk to a longest side of 500 pixels. Random resized crops to 224 pixels of 73 ImageNet photos of
original size then differ by 2.3 grey levels in the mean of an image, and by 9.8 in that of the worst, a photo that was
shrunk of which the crop is enlarged; of photos of 224 pixels, by 0.9 and 1.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.augment import Growth, fill_of, size_in, whole_boxes
from datamodules.batches import Batches, Reading
from datamodules.buffers import Buffers
from datamodules.crops import FAULTS, GOOD, crop_batch, cut_stored
from datamodules.ffcv_mended import EpochIterator, MendedLoader
from datamodules.originals import DataError

PLANNED = 8192  # images whose boxes are decided at once, in whole batches: numpy's overhead is that of one batch


class FFCVBatches(Batches):
    """Reads the .beton at `path`; `workers` threads decode while the network trains.

    `size` is the height and width to which the boxes of image files are resized, or how these grow; None for arrays,
    which keep their own.
    """

    def __init__(self, reading: Reading, path: Path, size: int | Growth | None, workers: int) -> None:
        super().__init__(reading)
        self.path = path
        self.size = size
        self.loader = opened(path, workers, path.stat().st_mtime_ns)
        self.stored = StoredArrays(self.loader) if size is None else StoredFiles(self.loader)
        self.buffers = Buffers(0, ())
        none = np.empty(0, np.int64)  # has the kernel compiled, or found compiled, before the first epoch's clock runs
        self.stored.cut(none, whole_boxes(none, none), np.zeros(3, np.uint8), self._buffers(0).take(0).numpy())

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        loader = copy(self.loader)
        loader.batch_size = max(len(batch) for batch in batches)
        all_labels = loader.reader.metadata["f1"]
        buffers = self._buffers(loader.batch_size)
        epoch = BoxedEpoch(loader, batches, self.stored, self.reading, self.epoch, buffers)
        try:
            for batch in batches:
                yield next(epoch), torch.from_numpy(all_labels[batch].astype(np.int64))
        finally:
            epoch.close()

    def _buffers(self, count: int) -> Buffers:
        """Memory for batches of up to `count` images of the size that they have in this epoch, kept between epochs."""
        shape = self.stored.shape(None if self.size is None else size_in(self.epoch, self.size))
        if self.buffers.shape != shape or self.buffers.count < count:
            self.buffers = Buffers(count, shape, pinned=torch.cuda.is_available())
        return self.buffers


@lru_cache(maxsize=32)
def opened(path: Path, workers: int, written_ns: int) -> MendedLoader:
    """FFCV's loader of `path`, opened once a process.

    `written_ns`, the time at which the file was written, makes a file that was removed and made anew another one.
    """
    return MendedLoader(path, workers)


class BoxedEpoch(EpochIterator):
    """One pass over `batches`, in order: a thread that decides their boxes, has them cut, and queues the images."""

    def __init__(
        self,
        loader: MendedLoader,
        batches: list[NDArray[np.int64]],
        stored: Stored,
        reading: Reading,
        number: int,
        buffers: Buffers,
    ) -> None:
        self.error: BaseException | None = None
        self.stored = stored
        self.buffers = buffers
        self.fill = fill_of(reading.augmentation, buffers.shape[-1])
        self.boxes = self._decide(batches, reading, number)
        super().__init__(loader, np.concatenate(batches))

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:  # reaches the training loop through __next__
            self.error = error
            self.output_queue.put(None)

    def run_pipeline(self, number: int, samples: NDArray[np.int64], slot: int, event: Any) -> Tensor:
        if self.terminate_event.is_set():
            raise StopIteration  # the end, to FFCV's `run`, which looks at this event only when its queue is full
        images = self.buffers.take(len(samples))
        self.stored.cut(samples, next(self.boxes), self.fill, images.numpy())
        return images

    def _decide(self, batches: list[NDArray[np.int64]], reading: Reading, number: int) -> Iterator[NDArray[np.int32]]:
        """What to cut from each batch: the augmentation's boxes, or whole images. [B, 8] each"""
        together = max(1, PLANNED // len(batches[0]))
        for first in range(0, len(batches), together):
            group = batches[first : first + together]
            samples = np.concatenate(group)
            sizes = self.stored.sizes(samples)
            if reading.augmentation is None:
                boxes = whole_boxes(*sizes)
            else:
                boxes = reading.augmentation.boxes(reading.seed, number, samples, *sizes)
            yield from np.split(boxes, np.cumsum([len(batch) for batch in group])[:-1])

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except StopIteration:
            if isinstance(self.error, DataError):
                raise self.error from None
            if self.error is not None:
                raise RuntimeError(f"FFCV failed while reading {self.loader.fname}: {self.error!r}") from self.error
            raise

    def close(self) -> None:
        super().close()
        self.closed = True
        while not self.output_queue.empty():  # room for the batch in work and the end; its thread waits for it for ever
            self.output_queue.get_nowait()


class Stored:
    """The images of a .beton, where they lie in memory and how boxes are cut from them."""

    def __init__(self, loader: MendedLoader) -> None:
        with loader.memory_manager.schedule_epoch(()) as context:
            memory, self.addresses, self.lengths = context.state
        self.memory = np.asarray(memory)  # not a `memmap`, so that there is one type to compile for
        self.index = loader.reader.metadata["f0"]
        self.threads = loader.num_workers
        self.name = loader.fname

    def shape(self, size: int | None) -> tuple[int, int, int]:
        """Of an image in a batch: height, width, channels, if image files are resized to `size`."""
        raise NotImplementedError

    def sizes(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Heights and widths in pixels of the stored images. [B], [B]"""
        raise NotImplementedError

    def cut(
        self,
        samples: NDArray[np.int64],
        boxes: NDArray[np.int32],
        fill: NDArray[np.uint8],
        images: NDArray[np.uint8],
    ) -> None:
        """Write what `boxes` [B, 8] cut from the images numbered `samples` [B] to `images` [B, H, W, C].

        Raises:
            DataError: an image is damaged.
        """
        raise NotImplementedError


class StoredArrays(Stored):
    """uint8 arrays [H, W, C], all of one size: a box is a shifted copy, perhaps mirrored, perhaps with a hole."""

    def __init__(self, loader: MendedLoader) -> None:
        super().__init__(loader)
        self.height, self.width, self.channels = (int(length) for length in loader.reader.handlers["image"].shape)

    def shape(self, size: int | None) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    def sizes(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.full(len(samples), self.height), np.full(len(samples), self.width)

    def cut(
        self,
        samples: NDArray[np.int64],
        boxes: NDArray[np.int32],
        fill: NDArray[np.uint8],
        images: NDArray[np.uint8],
    ) -> None:
        cut_stored(self.memory, self.index[samples].astype(np.int64), boxes, fill, images)


class StoredFiles(Stored):
    """JPEGs, tiled or not, and bare pixels, of any size: a box is resized and perhaps mirrored."""

    def shape(self, size: int | None) -> tuple[int, int, int]:
        assert size is not None
        return size, size, 3

    def sizes(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = self.index[samples]
        return rows["height"].astype(np.int64), rows["width"].astype(np.int64)

    def cut(
        self,
        samples: NDArray[np.int64],
        boxes: NDArray[np.int32],
        fill: NDArray[np.uint8],
        images: NDArray[np.uint8],
    ) -> None:
        rows = self.index[samples]
        starts = rows["data_ptr"]
        lengths = self.lengths[np.searchsorted(self.addresses, starts)].astype(np.int64)
        sizes = np.stack([rows["height"], rows["width"]], axis=1).astype(np.int64)
        modes = np.ascontiguousarray(rows["mode"])
        starts = starts.astype(np.int64)
        faults = crop_batch(self.memory, starts, lengths, modes, sizes, boxes, fill, images, self.threads)
        if (faults != GOOD).any():
            first = int(np.flatnonzero(faults)[0])
            raise DataError(
                f"{self.name}: image {samples[first]} cannot be read: {FAULTS[int(faults[first])]}. Remove the file "
                "and run `python -m benchmarks prepare` again."
            )
