"""One pass from stored bytes to a crop: the same pixels however they are stored and however many threads there are."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.augment import HOLE_LEFT, HOLE_SIZE, HOLE_TOP, MIRROR, RandomResizedCrop, whole_boxes
from datamodules.loaders import ffcv_fault, resized_crop
from datamodules.tiles import encode_tiled

if fault := ffcv_fault():
    pytest.skip(fault, allow_module_level=True)

from datamodules import crops
from datamodules.crops import GOOD, JPEG, NO_BOX, NO_JPEG, NO_PIXELS, NO_TILES, RAW, crop_batch

CHECKOUT = Path(__file__).resolve().parent.parent
BLACK = np.zeros(3, np.uint8)


def picture(height: int, width: int, phase: float) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + phase), np.sin(y / 7 + 2 * phase), np.sin((x + y) / 11 - phase)]
    return np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def untiled(rgb: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=90, subsampling=2)
    return buffer.getvalue()


def pixels(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


PICTURES = [picture(40 + 7 * number, 120 - 9 * number, number) for number in range(8)]
SIZES = np.array([rgb.shape[:2] for rgb in PICTURES])


def cropped(
    images: list[bytes], mode: int, boxes: NDArray[np.int32], fill: NDArray[np.uint8] = BLACK, threads: int = 1
) -> tuple[NDArray[np.uint8], list[int]]:
    """The crops of `images`, which have the sizes of `PICTURES`, and what came of each."""
    memory = np.frombuffer(b"".join(images), np.uint8)
    lengths = np.array([len(image) for image in images])
    crops = np.full((len(images), 24, 24, 3), 77, np.uint8)
    modes = np.full(len(images), mode, np.uint8)
    sizes = SIZES[: len(images)]
    faults = crop_batch(memory, np.cumsum(lengths) - lengths, lengths, modes, sizes, boxes, fill, crops, threads)
    return crops, faults.tolist()


def random_boxes(epoch: int) -> NDArray[np.int32]:
    return RandomResizedCrop().boxes(0, epoch, np.arange(8), *SIZES.T)


@pytest.mark.parametrize("epoch", range(5))
def test_crops_are_those_of_pil_whatever_is_stored(epoch: int) -> None:
    boxes = random_boxes(epoch)
    assert 0 < boxes[:, MIRROR].sum() < 8
    tiled, plain = [encode_tiled(rgb, 90) for rgb in PICTURES], [untiled(rgb) for rgb in PICTURES]
    of_tiled, of_plain, of_raw = (
        cropped(images, mode, boxes)
        for images, mode in [(tiled, JPEG), (plain, JPEG), ([pixels(image).tobytes() for image in plain], RAW)]
    )
    assert of_tiled[1] == of_plain[1] == of_raw[1] == [GOOD] * 8
    assert np.array_equal(of_tiled[0], of_plain[0])
    assert np.array_equal(of_raw[0], of_plain[0])
    for number, image in enumerate(plain):
        expected = resized_crop(pixels(image), boxes[number], 24)
        assert np.abs(of_plain[0][number].astype(int) - expected).max() <= 1


def test_holes_are_filled() -> None:
    boxes = whole_boxes(*SIZES.T)
    images = [rgb.tobytes() for rgb in PICTURES]
    expected, _ = cropped(images, RAW, boxes)
    boxes[:, HOLE_TOP], boxes[:, HOLE_LEFT], boxes[::2, HOLE_SIZE] = 3, -2, 7
    expected[::2, 3:10, :5] = (10, 20, 30)
    found, _ = cropped(images, RAW, boxes, np.array([10, 20, 30], np.uint8))
    assert np.array_equal(found, expected)


def test_what_is_wrong_with_an_image_is_said_and_the_others_are_cut() -> None:
    boxes = whole_boxes(*SIZES.T)
    tiled = [encode_tiled(rgb, 90) for rgb in PICTURES]
    expected, _ = cropped(tiled, JPEG, boxes)
    images = list(tiled)
    images[1] = images[1][: len(images[1]) // 2]
    images[2] = tiled[3]
    images[4] = untiled(PICTURES[4])[:-50]
    images[5] = untiled(PICTURES[6])
    images[6] = tiled[6][:300] + bytes(len(tiled[6]) - 300)
    found, faults = cropped(images, JPEG, boxes)
    assert faults == [GOOD, NO_TILES, NO_TILES, GOOD, NO_JPEG, NO_JPEG, NO_TILES, GOOD]
    assert np.array_equal(found[[0, 3, 7]], expected[[0, 3, 7]])
    raw = [rgb.tobytes() for rgb in PICTURES]
    raw[3] += b"\0"
    raw[4] = raw[4][:-1]
    assert cropped(raw, RAW, boxes)[1] == [GOOD] * 3 + [NO_PIXELS] * 2 + [GOOD] * 3


def test_boxes_outside_the_image_are_refused() -> None:
    height, width = SIZES[0]
    for box in ([-1, 0, 5, 5], [0, -1, 5, 5], [0, 0, height + 1, 5], [0, 0, 5, width + 1], [3, 3, 0, 5], [3, 3, 5, 0]):
        boxes = np.array([[*box, 0, 0, 0, 0]], np.int32)
        assert cropped([PICTURES[0].tobytes()], RAW, boxes)[1] == [NO_BOX]


def in_a_process(code: str, folder: Path, **environment: str) -> list[str]:
    """What `code` prints when it is run by a Python of its own, in `folder`."""
    settings = {**os.environ, "PYTHONPATH": str(folder), **environment}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


COUNT_THREADS = """
import hashlib
import numpy as np
from datamodules.augment import RandomResizedCrop
from datamodules.crops import crop_batch
rng = np.random.default_rng(0)
sizes = rng.integers(20, 90, (37, 2))
lengths = 3 * sizes.prod(1)
memory = rng.integers(0, 256, lengths.sum(), np.uint8)
boxes = RandomResizedCrop().boxes(0, 0, np.arange(37), *sizes.T)
for threads in (1, 2, 3, 4):
    import numba
    numba.set_num_threads(threads)
    images = np.zeros((37, 24, 24, 3), np.uint8)
    starts = np.cumsum(lengths) - lengths
    modes = np.ones(37, np.uint8)
    faults = crop_batch(memory, starts, lengths, modes, sizes, boxes, np.zeros(3, np.uint8), images, threads)
    assert not faults.any()
    print(hashlib.sha256(images.tobytes()).hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits() -> None:
    """Four of them, if need be on fewer cores."""
    digests = in_a_process(COUNT_THREADS, CHECKOUT, NUMBA_NUM_THREADS="4")
    assert len(digests) == 4
    assert len(set(digests)) == 1


COUNT_COMPILATIONS = """
import numpy as np
from datamodules import crops
box, image = np.array([[0, 0, 2, 2, 0, 0, 0, 0]], np.int32), np.zeros((1, 2, 2, 3), np.uint8)
crops.cut_stored(np.zeros(12, np.uint8), np.array([0]), box, np.zeros(3, np.uint8), image)
stats = crops.cut_kernel.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The datamodules, without anything compiled."""
    shutil.copytree(CHECKOUT / "datamodules", tmp_path / "datamodules", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_kernels_are_compiled_once_a_machine_and_again_when_any_of_their_files_changes(copied: Path) -> None:
    """With the kernel that is compiled fastest; all of them are made alike."""

    def counts() -> tuple[int, int]:
        hits, misses = in_a_process(COUNT_COMPILATIONS, copied, NUMBA_CACHE_DIR=str(copied / "compiled"))
        return int(hits), int(misses)

    assert counts() == (0, 1)
    assert counts() == (1, 0)
    resample = copied / "datamodules" / "resample.py"
    resample.write_text(resample.read_text().replace("0.5", "0.50"))
    assert counts() == (0, 1)


def test_the_stamp_covers_every_file_with_code_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps: set[Any] = {crops.source_stamp()}
    read_bytes = Path.read_bytes
    for name in ("augment", "cut", "resample", "tiles", "turbojpeg"):
        changed = {f"{name}.py": b"changed"}
        monkeypatch.setattr(Path, "read_bytes", lambda path, new=changed: new.get(path.name) or read_bytes(path))
        stamps.add(crops.source_stamp())
    assert len(stamps) == 6
