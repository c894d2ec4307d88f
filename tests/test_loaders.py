"""Every loader gives the same samples, in the same order, with the same boxes, for any number of ranks and workers."""

from __future__ import annotations

import gc
import importlib.machinery
import importlib.util
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from stored import write_beton
from torchvision import transforms

import datamodules
from datamodules import beton, loaders
from datamodules.augment import (
    LEFT,
    MIRROR,
    TOP,
    Augmentation,
    Growth,
    PaddedCropFlip,
    RandomResizedCrop,
    ScaleJitter,
    colour_offsets,
    whole_boxes,
)
from datamodules.batches import IGNORED_LABEL, Batches, Reading, View
from datamodules.loaders import (
    ArrayBatches,
    FileBatches,
    available_workers,
    checked_workers,
    choose_loader,
    ffcv_fault,
    resized_crop,
    viewed,
)
from datamodules.originals import DataError, ImageArray, ImageFiles, open_imagenet
from datamodules.tiles import encode_tiled

CHECKOUT = Path(__file__).resolve().parent.parent
COUNT = 67  # a prime, so that no batch size and no number of ranks divides it

Result = TypeVar("Result")


def within(seconds: float, action: Callable[[], Result]) -> Result:
    """What `action` returns or raises; a failure if that takes longer, so that a hang does not stop the suite."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(action())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        pytest.fail(f"still waiting after {seconds} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def assert_equal_batches(found: list[tuple[torch.Tensor, ...]], expected: list[tuple[torch.Tensor, ...]]) -> None:
    assert len(found) == len(expected) > 0
    for (images, labels), (same_images, same_labels) in zip(found, expected, strict=True):
        assert images.dtype == same_images.dtype == torch.uint8
        assert labels.dtype == same_labels.dtype == torch.int64
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


@pytest.fixture
def needs_ffcv() -> None:
    if fault := ffcv_fault():
        pytest.skip(fault)


@pytest.fixture(scope="module")
def arrays() -> ImageArray:
    """Random images, higher than wide, and no two labels alike: a label tells which sample it belongs to."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 9, 7, 3), np.uint8)
    labels = np.random.default_rng(1).permutation(COUNT).astype(np.int64)
    return ImageArray(images, labels, tuple(str(number) for number in range(COUNT)), {"random": "0"})


@pytest.fixture(scope="module")
def array_file(arrays: ImageArray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .beton of `arrays`. One for the module: FFCV is compiled once for every file and number of workers."""
    if fault := ffcv_fault():
        pytest.skip(fault)
    path = tmp_path_factory.mktemp("arrays") / "arrays.beton"
    beton.convert(path, beton.describe("arrays", "train", arrays), arrays, beton.BetonSettings(), 1)
    return path


def ffcv_batches(reading: Reading, path: Path, size: int | Growth | None = None, workers: int = 1) -> Batches:
    from datamodules.ffcv_batches import FFCVBatches

    return FFCVBatches(reading, path, size, workers)


def a_reading(**changes: Any) -> Reading:
    return replace(Reading(np.arange(COUNT), batch_size=10, shuffle=False, seed=3), **changes)


# Which samples --------------------------------------------------------------------------------------------------------

ODD_SAMPLES = np.arange(103) * 7 + 3  # 103 is a prime; numbers with gaps, as a subset of a split has


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_training_has_the_same_global_batches_for_any_number_of_ranks(world_size: int) -> None:
    per_rank = 12 // world_size
    alone = Reading(ODD_SAMPLES, 12, shuffle=True, seed=5)
    ranks = [
        Reading(ODD_SAMPLES, per_rank, shuffle=True, seed=5, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for epoch in (0, 1, 7):
        expected = alone.batches(epoch)
        found = [reading.batches(epoch) for reading in ranks]
        assert [len(reading) for reading in (alone, *ranks)] == [103 // 12] * (1 + world_size)
        assert [len(batches) for batches in found] == [103 // 12] * world_size
        for number, (whole, _) in enumerate(expected):
            parts = [batches[number][0] for batches in found]
            assert [len(part) for part in parts] == [per_rank] * world_size
            assert sorted(np.concatenate(parts)) == sorted(whole)
        assert all(counted.all() for batches in found for _, counted in batches)


def test_an_epoch_of_training_repeats_nothing_and_each_leaves_out_others() -> None:
    reading = Reading(ODD_SAMPLES, 12, shuffle=True, seed=5)
    left_out = set()
    for epoch in range(200):
        seen = np.concatenate([batch for batch, _ in reading.batches(epoch)])
        assert len(seen) == len(set(seen.tolist())) == 96
        assert set(seen.tolist()) <= set(ODD_SAMPLES.tolist())
        left_out |= set(ODD_SAMPLES.tolist()) - set(seen.tolist())
    assert left_out == set(ODD_SAMPLES.tolist())  # to be always in has (96 / 103)^200, under 1e-6


def test_orders_differ_by_seed_and_epoch_and_are_not_shared_by_neighbours() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(Reading(np.arange(50), 50, shuffle=True, seed=seed).batches(epoch)[0][0])

    orders = {(seed, epoch): order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == 16
    assert order(2, 3) == orders[2, 3]  # and it is the same when it is asked for again


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 10, 103])
def test_evaluation_counts_every_sample_once(world_size: int, count: int) -> None:
    samples = ODD_SAMPLES[:count]
    ranks = [Reading(samples, 10, shuffle=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [reading.batches(0) for reading in ranks]
    shapes = [[len(batch) for batch, _ in of_rank] for of_rank in batches]
    assert shapes == [shapes[0]] * world_size  # or a rank would wait for ever for the others
    assert all(len(reading) == len(shapes[0]) for reading in ranks)
    assert sum(map(sum, shapes)) - count < world_size  # at most one image of filling a rank
    counted = [batch[counts] for of_rank in batches for batch, counts in of_rank]
    assert sorted(np.concatenate(counted)) == sorted(samples)
    filling = [batch[~counts] for of_rank in batches for batch, counts in of_rank]
    assert set(np.concatenate(filling).tolist()) <= set(samples.tolist())


def test_evaluation_by_one_rank_is_in_order_and_without_filling() -> None:
    batches = Reading(ODD_SAMPLES, 10, shuffle=False).batches(3)
    assert np.array_equal(np.concatenate([batch for batch, _ in batches]), ODD_SAMPLES)
    assert [len(batch) for batch, _ in batches] == [10] * 10 + [3]


def test_filling_is_labelled_as_not_counting(arrays: ImageArray) -> None:
    """67 images on 4 ranks: 17 each, the fourth has one of filling, which is its last."""
    counted = []
    for rank in range(4):
        loader = ArrayBatches(a_reading(rank=rank, world_size=4), arrays)
        labels = torch.cat([labels for _, labels in loader])
        assert len(labels) == 17
        assert (labels == IGNORED_LABEL).tolist() == [False] * 16 + [rank == 3]
        counted += labels[labels != IGNORED_LABEL].tolist()
    assert sorted(counted) == list(range(COUNT))
    assert sorted(arrays.labels) == list(range(COUNT))  # labels of the dataset itself are left alone


def test_readings_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match=r"batch_size \(=0\) must be at least 1 image"):
        Reading(np.arange(5), 0, shuffle=False)
    with pytest.raises(DataError, match=r"batch_size \(=6 x 1 ranks\) must not exceed .* \(=5 images\): lower"):
        Reading(np.arange(5), 6, shuffle=True)
    with pytest.raises(DataError, match=r"batch_size \(=3 x 2 ranks\) must not exceed .* \(=5 images\): lower"):
        Reading(np.arange(5), 3, shuffle=True, world_size=2)
    assert len(Reading(np.arange(5), 6, shuffle=False)) == 1


# Arrays: ffcv is torch ------------------------------------------------------------------------------------------------


def test_the_torch_loader_gives_the_samples_it_was_asked_for(arrays: ImageArray) -> None:
    reading = a_reading(samples=np.arange(5, 60), shuffle=True)
    loader = ArrayBatches(reading, arrays)
    loader.sampler.set_epoch(2)
    for (samples, _), (images, labels) in zip(reading.batches(2), loader, strict=True):
        assert np.array_equal(images.numpy(), arrays.images[samples])
        assert np.array_equal(labels.numpy(), arrays.labels[samples])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    "augmentation", [None, PaddedCropFlip(2, 0.5), PaddedCropFlip(20, 0.5), PaddedCropFlip(2, 0.5, 4, (9, 8, 7))]
)
def test_ffcv_and_torch_are_equal_to_the_bit(
    arrays: ImageArray, array_file: Path, augmentation: Augmentation | None, shuffle: bool, workers: int
) -> None:
    if workers > available_workers():
        pytest.skip(f"needs {workers} cores")
    reading = a_reading(augmentation=augmentation, shuffle=shuffle)
    torch_loader, ffcv_loader = ArrayBatches(reading, arrays), ffcv_batches(reading, array_file, workers=workers)
    epochs = []
    for epoch in (0, 1):
        torch_loader.sampler.set_epoch(epoch)
        ffcv_loader.sampler.set_epoch(epoch)
        epochs.append(list(torch_loader))
        assert_equal_batches(within(60, lambda: list(ffcv_loader)), epochs[-1])
        assert [len(labels) for _, labels in epochs[-1]] == [10] * 6 + [7] * (not shuffle)
    if augmentation or shuffle:
        assert not torch.equal(epochs[0][0][0], epochs[1][0][0])


def test_ffcv_reads_a_subset_on_one_of_several_ranks(arrays: ImageArray, array_file: Path) -> None:
    reading = a_reading(samples=np.arange(20, 51), batch_size=4, rank=2, world_size=3)
    found = within(60, lambda: list(ffcv_batches(reading, array_file)))
    assert_equal_batches(found, list(ArrayBatches(reading, arrays)))
    assert found[-1][1][-1] == IGNORED_LABEL


def test_batches_may_be_kept(arrays: ImageArray, array_file: Path) -> None:
    """FFCV's own are views of a ring of five slots, which later batches overwrite."""
    reading = a_reading(batch_size=2)
    kept = within(60, lambda: list(ffcv_batches(reading, array_file)))
    assert len(kept) == 34
    for (samples, _), (images, labels) in zip(reading.batches(0), kept, strict=True):
        assert np.array_equal(images.numpy(), arrays.images[samples])
        assert np.array_equal(labels.numpy(), arrays.labels[samples])
    assert len({images.data_ptr() for images, _ in kept}) == 34


def test_training_and_validation_may_read_the_same_file_at_once(arrays: ImageArray, array_file: Path) -> None:
    training = a_reading(batch_size=4, shuffle=True, augmentation=PaddedCropFlip(1, 0.5))
    validation = a_reading(batch_size=7)

    def interleaved() -> tuple[list[Any], list[Any]]:
        outer, inner = [], []
        for number, batch in enumerate(ffcv_batches(training, array_file)):
            outer.append(batch)
            if number == 3:
                inner = list(ffcv_batches(validation, array_file))
        return outer, inner

    outer, inner = within(60, interleaved)
    assert_equal_batches(outer, list(ArrayBatches(training, arrays)))
    assert_equal_batches(inner, list(ArrayBatches(validation, arrays)))


@pytest.mark.parametrize("kind", ["torch", "ffcv"])
def test_the_epoch_is_settled_at_the_first_batch(arrays: ImageArray, array_file: Path, kind: str) -> None:
    """Lightning calls `iter` before it says which epoch comes next."""
    reading = a_reading(shuffle=True)
    loader = ArrayBatches(reading, arrays) if kind == "torch" else ffcv_batches(reading, array_file)
    iterator = iter(loader)
    loader.sampler.set_epoch(3)
    _, labels = within(60, lambda: next(iterator))
    loader.sampler.set_epoch(4)
    _, more = within(60, lambda: next(iterator))
    expected = reading.batches(3)
    assert labels.tolist() == arrays.labels[expected[0][0]].tolist()
    assert more.tolist() == arrays.labels[expected[1][0]].tolist()


def test_ffcv_goes_on_in_the_middle_of_an_epoch(arrays: ImageArray, array_file: Path) -> None:
    for reading in (a_reading(shuffle=True, augmentation=PaddedCropFlip(2, 0.5)), a_reading()):
        expected = list(ArrayBatches(reading, arrays))
        for stop in (1, 3, 5):
            begun = ffcv_batches(reading, array_file)
            iterator = iter(begun)
            found = within(60, lambda iterator=iterator, stop=stop: [next(iterator) for _ in range(stop)])
            resumed = ffcv_batches(reading, array_file)
            resumed.load_state_dict(begun.state_dict())
            found += within(60, lambda resumed=resumed: list(resumed))
            assert_equal_batches(found, expected)


# FFCV's faults --------------------------------------------------------------------------------------------------------


def test_epochs_that_are_broken_off_leave_no_threads(arrays: ImageArray, array_file: Path) -> None:
    """Broken off after the first or second of 2 to 17 batches, while the thread works or waits for room in its queue.

    The queue holds 3: where 4 to 6 batches are left, the thread finds it full again when it wants to say that it ends.
    """

    def break_off(batch_size: int, after: int) -> None:
        for number, _ in enumerate(ffcv_batches(a_reading(batch_size=batch_size), array_file)):
            if number == after:
                time.sleep(0.02)  # meanwhile the thread fills its queue
                break

    within(60, lambda: list(ffcv_batches(a_reading(), array_file)))
    before = set(threading.enumerate())
    for batch_size in (4, 7, 8, 9, 10, 12, 14, 17, 23, 40):
        for after in (0, 1):
            within(60, lambda size=batch_size, after=after: break_off(size, after))  # type: ignore[misc]
    gc.collect()
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


class Counting(Augmentation):
    """Counts the batches that were begun."""

    calls = 0

    def boxes(self, *arguments: Any) -> NDArray[np.int32]:
        self.calls += 1
        return PaddedCropFlip(1, 0.5).boxes(*arguments)


@pytest.fixture
def boxes_by_batch(needs_ffcv: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes are decided for one batch at a time, not for thousands of images."""
    from datamodules import ffcv_batches

    monkeypatch.setattr(ffcv_batches, "PLANNED", 1)


@pytest.mark.usefixtures("boxes_by_batch")
def test_what_is_left_of_a_broken_off_epoch_is_not_read(array_file: Path) -> None:
    counting = Counting()
    before = set(threading.enumerate())
    iterator = iter(ffcv_batches(a_reading(batch_size=1, augmentation=counting), array_file))
    within(60, lambda: next(iterator))
    iterator.close()  # type: ignore[attr-defined]
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    assert 1 <= counting.calls < 10  # of 67: those that fit into the queue, and one


class Failing(Augmentation):
    """Raises at the third batch."""

    calls = 0

    def boxes(self, *arguments: Any) -> NDArray[np.int32]:
        self.calls += 1
        if self.calls == 3:
            raise ZeroDivisionError("the third batch has no boxes")
        return PaddedCropFlip(1, 0.5).boxes(*arguments)


@pytest.mark.usefixtures("boxes_by_batch")
def test_an_error_in_the_thread_of_ffcv_is_raised_in_the_loop(array_file: Path) -> None:
    seen = []

    def read() -> None:
        for _, labels in ffcv_batches(a_reading(augmentation=Failing()), array_file):
            seen.append(len(labels))

    with pytest.raises(RuntimeError, match=r"arrays\.beton.*the third batch has no boxes") as raised:
        within(30, read)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert seen == [10, 10]


def test_a_file_that_was_made_anew_is_read_anew(arrays: ImageArray, array_file: Path, tmp_path: Path) -> None:
    """In one process, as in a notebook: FFCV's loader of a file is kept, but not for another file of the same name."""
    path = tmp_path / "some.beton"
    for images in (arrays.images, 255 - arrays.images):
        originals = replace(arrays, images=images)
        path.unlink(missing_ok=True)
        beton.convert(path, beton.describe("some", "train", originals), originals, beton.BetonSettings(), 1)
        found = within(60, lambda: list(ffcv_batches(a_reading(), path)))
        assert_equal_batches(found, list(ArrayBatches(a_reading(), originals)))


STARTED_FRESH = """
import sys
import numba
import numpy as np
import torch
torch.set_num_threads(3)
total = numba.njit(lambda array: array.sum())
total(np.ones(4, np.uint8))
from datamodules.ffcv_batches import FFCVBatches
from datamodules.batches import Reading
from pathlib import Path
imported = torch.get_num_threads()
batches = list(FFCVBatches(Reading(np.arange(20), 10, shuffle=False), Path(sys.argv[1]), None, 1))
print(imported, torch.get_num_threads(), len(batches), total(np.ones(5, np.uint8)), len(total.signatures))
"""


@pytest.fixture(scope="module")
def fresh_process(array_file: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has not imported FFCV yet. That takes it seconds: others work meanwhile."""
    command = [sys.executable, "-c", STARTED_FRESH, array_file]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


# Image files ----------------------------------------------------------------------------------------------------------


def picture(height: int, width: int, phase: float) -> NDArray[np.uint8]:
    """A smooth picture, as photos are: two ways to decode or resize it differ by a few grey levels only."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + phase), np.sin(y / 7 + 2 * phase), np.sin((x + y) / 11 - phase)]
    return np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    """24 pictures of unequal sizes, 20 to 60 pixels a side, in three classes."""
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = root / "train" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(20, 61, 2)
        Image.fromarray(picture(height, width, number)).save(folder / f"{number:02}.JPEG", quality=95)
    return open_imagenet(root, "train", None)


@pytest.fixture(scope="module")
def jpeg_file(files: ImageFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if fault := ffcv_fault():
        pytest.skip(fault)
    path = tmp_path_factory.mktemp("jpegs") / "jpegs.beton"
    beton.convert(path, beton.describe("files", "train", files), files, beton.BetonSettings(), 1)
    return path


def files_reading(**changes: Any) -> Reading:
    return replace(Reading(np.arange(24), batch_size=10, shuffle=False, seed=3), **changes)


@dataclass(frozen=True)
class FixedBoxes(Augmentation):
    """Squares of 16 pixels whose place and side follow from the number of the sample."""

    def boxes(self, seed: int, epoch: int, samples: Any, heights: Any, widths: Any) -> NDArray[np.int32]:
        boxes = whole_boxes(np.full(len(samples), 16), np.full(len(samples), 16))
        boxes[:, TOP] = samples % (heights - 15)
        boxes[:, LEFT] = 3 * samples % (widths - 15)
        boxes[:, MIRROR] = samples % 2
        return boxes


class Recording(Augmentation):
    """Passes on the boxes of another and keeps them, by sample."""

    def __init__(self, decides: Augmentation) -> None:
        self.decides = decides
        self.kept: dict[int, list[int]] = {}

    def boxes(self, seed: int, epoch: int, samples: Any, heights: Any, widths: Any) -> NDArray[np.int32]:
        boxes = self.decides.boxes(seed, epoch, samples, heights, widths)
        self.kept.update(zip(samples.tolist(), boxes.tolist(), strict=True))
        return boxes


@pytest.mark.usefixtures("fresh_process")
def test_jpegs_are_cut_where_the_boxes_say(files: ImageFiles, jpeg_file: Path) -> None:
    """Boxes of the size of the output, so nothing is resized: cut and mirrored by hand from what PIL decodes."""
    loader = ffcv_batches(files_reading(augmentation=FixedBoxes()), jpeg_file, size=16)
    images = torch.cat([images for images, _ in within(120, lambda: list(loader))]).numpy().astype(int)
    assert images.shape == (24, 16, 16, 3)
    for sample in range(24):
        pixels = files.decode(sample)
        top, left = sample % (pixels.shape[0] - 15), 3 * sample % (pixels.shape[1] - 15)
        expected = pixels[top : top + 16, left : left + 16].astype(int)
        if sample % 2:
            expected = expected[:, ::-1]
        assert np.abs(images[sample] - expected).mean() < 3  # stored a second time, at quality 90
        assert np.abs(images[sample] - expected[:, ::-1]).mean() > 10  # what the wrong side would give


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(
    "decides",
    [
        RandomResizedCrop(),
        ScaleJitter(16, (17, 40)),
        ScaleJitter(16, (17, 40), central=True),
        ScaleJitter(16, (16, 16)),
    ],
)
def test_image_files_have_the_same_boxes_and_labels_in_both_loaders(
    files: ImageFiles, jpeg_file: Path, epoch: int, decides: Augmentation
) -> None:
    of_ffcv, of_torch = Recording(decides), Recording(decides)
    ffcv_loader = ffcv_batches(files_reading(augmentation=of_ffcv, shuffle=True), jpeg_file, size=16)
    torch_loader = FileBatches(files_reading(augmentation=of_torch, shuffle=True), files, 16, 16, workers=1)
    for loader in (ffcv_loader, torch_loader):
        loader.sampler.set_epoch(epoch)
    found = within(120, lambda: list(ffcv_loader))
    samples = np.concatenate([batch for batch, _ in ffcv_loader.reading.batches(epoch)])
    expected = [torch_loader.cropped[epoch, int(sample)] for sample in samples]
    assert of_ffcv.kept == of_torch.kept
    assert len(of_ffcv.kept) == 20
    assert torch.cat([labels for _, labels in found]).tolist() == [label for _, label in expected]
    differences = (torch.cat([images for images, _ in found]).int() - torch.stack([i for i, _ in expected]).int()).abs()
    assert differences.float().mean() < 2  # stored a second time


def stored_as(files: ImageFiles, path: Path, kind: str, **replaced: bytes) -> Path:
    """A .beton of the files' pixels at `path`: `raw`, `jpeg` or `tiled`; `image3=...` are other bytes for number 3."""
    images = []
    for number in range(len(files)):
        pixels = files.decode(number)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        encoded = {"raw": pixels.tobytes(), "jpeg": buffer.getvalue(), "tiled": encode_tiled(pixels, 95)}[kind]
        images.append((int(kind == "raw"), *pixels.shape[:2], replaced.get(f"image{number}", encoded)))
    write_beton(path, images, files.labels.tolist())
    return path


@pytest.mark.usefixtures("needs_ffcv")
def test_bare_pixels_are_cropped_as_the_torch_loader_does(files: ImageFiles, tmp_path: Path) -> None:
    """To one grey level: nothing was shrunk or stored with loss."""
    path = stored_as(files, tmp_path / "raw.beton", "raw")
    reading = files_reading(augmentation=RandomResizedCrop(), shuffle=True)
    loaders = ffcv_batches(reading, path, size=16), FileBatches(reading, files, 16, 16, workers=1)
    found, expected = (within(120, lambda loader=loader: list(loader)) for loader in loaders)  # type: ignore[misc]
    assert len(found) == len(expected) == 2
    for (images, labels), (same_images, same_labels) in zip(found, expected, strict=True):
        assert torch.equal(labels, same_labels)
        assert (images.int() - same_images.int()).abs().max() <= 1


@pytest.mark.usefixtures("needs_ffcv")
def test_tiled_jpegs_are_cropped_from_the_pixels_that_any_decoder_finds(files: ImageFiles, tmp_path: Path) -> None:
    reading = files_reading(augmentation=RandomResizedCrop())
    tiled = stored_as(files, tmp_path / "tiled.beton", "tiled")
    found = within(120, lambda: list(ffcv_batches(reading, tiled, size=16)))
    pixels = {f"image{n}": decoded(encode_tiled(files.decode(n), 95)).tobytes() for n in range(24)}
    raw = stored_as(files, tmp_path / "raw.beton", "raw", **pixels)
    assert_equal_batches(found, within(120, lambda: list(ffcv_batches(reading, raw, size=16))))


def decoded(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@pytest.mark.usefixtures("needs_ffcv")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["jpeg", "tiled"])
def test_an_image_that_is_damaged_is_named(files: ImageFiles, tmp_path: Path, kind: str, workers: int) -> None:
    """FFCV's own decoder gives another image, under this one's label. The batches before it come out whole."""
    if workers > available_workers():
        pytest.skip(f"needs {workers} cores")
    whole = encode_tiled(files.decode(13), 95)
    path = stored_as(files, tmp_path / "damaged.beton", kind, image13=whole[: len(whole) // 2])
    seen: list[Any] = []

    def read() -> None:
        seen.extend(iter(ffcv_batches(files_reading(augmentation=RandomResizedCrop()), path, 16, workers)))

    with pytest.raises(DataError, match=r"damaged\.beton: image 13 cannot be read: it.* damaged\. Remove .* prepare"):
        within(60, read)
    assert len(seen) == 0 or [len(labels) for _, labels in seen] == [10]


@pytest.mark.usefixtures("needs_ffcv")
def test_the_size_of_a_batch_changes_no_image(jpeg_file: Path) -> None:
    by_size = []
    for batch_size in (1, 7, 24):
        reading = files_reading(augmentation=RandomResizedCrop(), batch_size=batch_size)
        found = within(120, lambda reading=reading: list(ffcv_batches(reading, jpeg_file, size=16)))  # type: ignore[misc]
        assert len(found) == -(-24 // batch_size)
        by_size.append(torch.cat([images for images, _ in found]))
    assert torch.equal(by_size[0], by_size[1])
    assert torch.equal(by_size[0], by_size[2])


def test_crops_grow_alike_in_both_loaders(files: ImageFiles, jpeg_file: Path) -> None:
    """From 16 to 32 pixels; an epoch may come again."""
    growth = Growth(16, 32, first=0, last=3)
    reading = files_reading(augmentation=RandomResizedCrop(), shuffle=True)
    ffcv_loader = ffcv_batches(reading, jpeg_file, size=growth)
    torch_loader = FileBatches(reading, files, growth, 16, workers=1)
    for epoch, size in [(0, 16), (1, 32), (3, 32), (0, 16)]:
        for loader in (ffcv_loader, torch_loader):
            loader.sampler.set_epoch(epoch)
        found, expected = within(120, lambda: list(ffcv_loader)), list(torch_loader)
        assert [len(batch) for batch in found] == [2, 2]
        for (images, labels), (same_images, same_labels) in zip(found, expected, strict=True):
            assert images.shape == same_images.shape == (10, size, size, 3)
            assert torch.equal(labels, same_labels)
            assert (images.int() - same_images.int()).abs().float().mean() < 5


def test_colour_noise_comes_with_the_batch_from_every_loader(
    files: ImageFiles, jpeg_file: Path, arrays: ImageArray
) -> None:
    reading = files_reading(augmentation=RandomResizedCrop(), shuffle=True, colour_noise=0.1)
    loaders = [
        ffcv_batches(reading, jpeg_file, size=16),
        FileBatches(reading, files, 16, 16, workers=1),
        ArrayBatches(replace(reading, augmentation=None), arrays),
    ]
    for epoch in (0, 3):
        expected = [colour_offsets(3, epoch, samples, 0.1) for samples, _ in reading.batches(epoch)]
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
            found = [offsets.numpy() for _, _, offsets in within(120, lambda loader=loader: list(loader))]  # type: ignore[misc]
            assert len(found) == 2
            assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_decoding_by_two_threads_is_decoding_by_one(jpeg_file: Path) -> None:
    if available_workers() < 2:
        pytest.skip("needs 2 cores")
    reading = files_reading(augmentation=RandomResizedCrop())
    one, two = (ffcv_batches(reading, jpeg_file, size=16, workers=workers) for workers in (1, 2))
    assert_equal_batches(within(120, lambda: list(two)), within(120, lambda: list(one)))


@pytest.mark.parametrize("workers", [1, 2])
def test_image_files_come_in_order_whatever_the_number_of_workers(files: ImageFiles, workers: int) -> None:
    if workers > available_workers():
        pytest.skip(f"needs {workers} cores")
    reading = files_reading(augmentation=RandomResizedCrop(), shuffle=True)
    loader = FileBatches(reading, files, 16, 16, workers)
    loader.sampler.set_epoch(1)
    found = list(loader)
    assert len(found) == len(loader) == 2
    for (samples, _), (images, labels) in zip(reading.batches(1), found, strict=True):
        alone = [loader.cropped[1, int(sample)] for sample in samples]
        assert torch.equal(images, torch.stack([image for image, _ in alone]))
        assert labels.tolist() == [label for _, label in alone] == files.labels[samples].tolist()


def test_workers_serve_on_when_every_process_of_a_job_is_signalled(files: ImageFiles) -> None:
    reading = a_reading(samples=np.arange(len(files.labels)), batch_size=1)
    expected = list(FileBatches(reading, files, 8, 8, 0))
    iterator = iter(FileBatches(reading, files, 8, 8, 1))
    found = [next(iterator)]
    (worker,) = multiprocessing.active_children()
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        os.kill(worker.pid or 0, signum)
    found += within(60, lambda: list(iterator))
    assert_equal_batches(found, expected)
    worker.join(60)
    assert worker.exitcode == 0


def test_evaluation_of_image_files_is_what_torchvision_does(files: ImageFiles) -> None:
    reference = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16)])
    loader = FileBatches(files_reading(), files, size=16, resize=20, workers=1)
    images = torch.cat([images for images, _ in loader]).numpy()
    assert len(images) == 24
    for sample in range(24):
        assert np.array_equal(images[sample], np.asarray(reference(Image.fromarray(files.decode(sample)))))


def view(pixels: NDArray[np.uint8], part: Any, *short_sides: int) -> list[NDArray[np.uint8]]:
    return viewed(pixels, View(part, short_sides), 16, 20)


def test_views_are_cut_where_one_can_count() -> None:
    """Of pictures whose short side is that of the view, so that nothing is resized."""
    lying, standing = picture(20, 47, 1.0), picture(47, 20, 1.0)
    assert [cut.tolist() for cut in view(lying, "square")] == [lying[:, 14:34].tolist()]  # 27 / 2 rounds to 14
    expected = [lying[:, :20], lying[:, 14:34], lying[:, 27:]]
    assert [cut.tolist() for cut in view(lying, "squares")] == [part.tolist() for part in expected]
    expected = [standing[:20], standing[14:34], standing[27:]]
    assert [cut.tolist() for cut in view(standing, "squares")] == [part.tolist() for part in expected]
    assert [cut.tolist() for cut in view(lying, "whole")] == [lying.tolist()]
    assert [cut.tolist() for cut in view(standing, "centre")] == [standing[16:32, 2:18].tolist()]  # 31 / 2 rounds to 16


def test_views_of_several_short_sides_come_in_their_order() -> None:
    pixels = picture(50, 41, 1.0)
    for part, count in [("whole", 1), ("square", 1), ("squares", 3)]:
        cuts = view(pixels, part, 30, 20, 41)
        assert len(cuts) == 3 * count
        assert [min(cut.shape[:2]) for cut in cuts] == [side for side in (30, 20, 41) for _ in range(count)]
    for cut, short_side in zip(view(pixels, "whole", 30, 20), (30, 20), strict=True):
        assert np.array_equal(cut, np.asarray(transforms.Resize(short_side)(Image.fromarray(pixels))))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_views_of_files_are_tuples_and_count_once(files: ImageFiles, world_size: int) -> None:
    """Of 23 files, whose number neither 2 nor 3 divides: whole ones one by one, squares in batches of 5."""
    for part, batch_size, cuts in [("whole", 1, 2), ("squares", 5, 6)]:
        seen = []
        for rank in range(world_size):
            reading = Reading(
                *(np.arange(1, 24), batch_size, False), view=View(part, (17, 25)), rank=rank, world_size=world_size
            )
            for images, labels in FileBatches(reading, files, 16, 20, workers=1):
                assert isinstance(images, tuple)
                assert [len(cut) for cut in images] == [len(labels)] * cuts
                assert [min(cut.shape[1:3]) for cut in images] == sorted([17, 25] * (cuts // 2))
                seen += [image.numpy().tobytes() for image in images[0][labels != IGNORED_LABEL]]
        assert len(seen) == len(set(seen)) == 23


def test_a_training_crop_is_what_torchvision_cuts() -> None:
    pixels = picture(50, 41, 1.0)
    for box in ([3, 5, 30, 22, 0], [0, 0, 50, 41, 1], [49, 40, 1, 1, 1]):
        top, left, height, width, mirror = box
        expected = transforms.functional.resized_crop(Image.fromarray(pixels), top, left, height, width, [16, 16])
        expected = transforms.functional.hflip(expected) if mirror else expected
        assert np.array_equal(resized_crop(pixels, np.array([*box, 0, 0, 0], np.int32), 16), np.asarray(expected))


def test_reading_image_files_does_not_move_the_random_numbers_of_torch(files: ImageFiles) -> None:
    """Or dropout would depend on the loader, and on how often a run is evaluated."""
    before = torch.random.get_rng_state()
    assert len(list(FileBatches(files_reading(), files, 16, 16, workers=1))) == 3
    assert torch.equal(torch.random.get_rng_state(), before)


def test_ffcv_leaves_the_threads_of_torch_and_the_types_of_numba_alone(fresh_process: subprocess.Popen[str]) -> None:
    """FFCV as it is sets 1 thread when imported, as many as it has workers when used, and breaks functions of others

    that numba compiled for arrays of bytes: it makes the type that all of them share read-only.
    """
    printed, errors = fresh_process.communicate(timeout=120)
    assert fresh_process.returncode == 0, errors
    assert printed.split() == ["3", "3", "2", "5", "1"]


# Which loader, how many workers ---------------------------------------------------------------------------------------


def test_without_ffcv_the_torch_loader_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def without_ffcv(name: str, package: str | None = None) -> importlib.machinery.ModuleSpec | None:
        return None if name == "ffcv" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_ffcv)
    assert choose_loader("auto", False) == ("torch", "FFCV is not installed")
    assert choose_loader("auto", True) == ("resident", "the images fit in memory")
    assert choose_loader("torch", False) == ("torch", "asked for")
    with pytest.raises(DataError, match=r"FFCV is not installed: use --data.loader torch, or .* doctor"):
        choose_loader("ffcv", True)


def test_an_ffcv_that_does_not_import_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    monkeypatch.delattr(datamodules, "ffcv_batches", raising=False)
    monkeypatch.setitem(sys.modules, "datamodules.ffcv_batches", None)  # makes its import fail
    name, why = choose_loader("auto", False)
    assert name == "torch"
    assert why.startswith("FFCV does not import (")
    with pytest.raises(DataError, match=r"FFCV does not import \(.*use --data.loader torch"):
        choose_loader("ffcv", True)


@pytest.mark.usefixtures("needs_ffcv")
def test_with_ffcv_it_is_chosen_for_image_files() -> None:
    assert choose_loader("auto", False) == ("ffcv", "FFCV is installed")
    assert choose_loader("ffcv", True) == ("ffcv", "asked for")
    assert choose_loader("torch", False) == ("torch", "asked for")


def test_workers_are_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders.os, "sched_getaffinity", lambda process: {0, 2, 4, 6, 7, 9, 11}, raising=False)
    assert available_workers() == 7
    assert checked_workers(None, 1) == 7
    assert checked_workers(None, 2) == 3
    assert checked_workers(None, 8) == 1
    assert checked_workers(7, 1) == 7
    for refused in (0, -1, 8):
        with pytest.raises(DataError, match=rf"workers \(={refused}\) must be between 1 and 7, .*: leave it out"):
            checked_workers(refused, 1)
