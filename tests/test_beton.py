"""A .beton that exists is whole, another reader finds the same pixels in it, and damage is named before it is read."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import beton
from datamodules.beton import BetonSettings, Manifest, convert, describe, manifest_path, open_beton, pixel_statistics
from datamodules.files import write_whole
from datamodules.originals import DataError, ImageArray, ImageFiles, open_imagenet

SETTINGS = BetonSettings()
SETTINGS_OF_EVERY_KIND = (
    BetonSettings(),
    BetonSettings(max_size=400),
    BetonSettings(quality=95),
    BetonSettings(mode="raw"),
    BetonSettings(mode="mixed", raw_share=0.5),
    BetonSettings(mode="mixed", raw_share=0.25),
)
REMEDY = "benchmarks prepare"

spawn = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def needs_ffcv() -> None:
    from datamodules.loaders import ffcv_fault  # here, or every process that a test starts would load torch

    if fault := ffcv_fault():
        pytest.skip(fault)


def some_arrays(count: int = 11, height: int = 6, width: int = 5, channels: int = 3) -> ImageArray:
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    return ImageArray(images, np.arange(count, dtype=np.int64) % 4, ("a", "b", "c", "d"), {"some.bin": "12ab"})


def write(path: Path, originals: ImageArray | ImageFiles, settings: BetonSettings = SETTINGS) -> Path:
    convert(path, describe("some", "train", originals), originals, settings, 1)
    return path


def error_of(action: Callable[[], object]) -> str:
    """The message of the DataError that action must raise; printed, so that `pytest -s` shows every one to be read."""
    with pytest.raises(DataError) as raised:
        action()
    print(f"\n--- {raised.value}")
    return str(raised.value)


def names_in(folder: Path) -> set[str]:
    """What the folder holds but for the lock, which stays."""
    return {entry.name for entry in folder.iterdir() if entry.suffix != ".lock"}


# Manifest -------------------------------------------------------------------------------------------------------------


def test_manifest_of_a_case_done_by_hand() -> None:
    """Two images of one pixel: red 0 and 255, so mean 1/2 and deviation 1/2; green 51 twice; blue 255 twice."""
    images = np.array([[[[0, 51, 255]]], [[[255, 51, 255]]]], np.uint8)
    labels = np.array([1, 0], np.int64)
    manifest = describe("tiny", "test", ImageArray(images, labels, ("x", "y"), {"tiny.bin": "ff"}))
    stored = bytes([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) + bytes([0, 51, 255, 255, 51, 255])
    assert manifest.mean == pytest.approx([0.5, 0.2, 1.0], abs=1e-15)
    assert manifest.std == pytest.approx([0.5, 0.0, 0.0], abs=1e-8)
    assert replace(manifest, mean=None, std=None) == Manifest(
        dataset="tiny",
        split="test",
        count=2,
        classes=["x", "y"],
        mean=None,
        std=None,
        content=hashlib.sha256(stored).hexdigest(),
        sources={"tiny.bin": "ff"},
        per_class=[1, 1],
    )


def test_statistics_are_those_of_numpy() -> None:
    images = np.random.default_rng(0).integers(0, 200, (50, 6, 5, 3), np.uint8)
    images[..., 1] //= 3
    mean, std = pixel_statistics(images)
    scaled = images.astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean(axis=(0, 1, 2)), abs=1e-12)
    assert std == pytest.approx(scaled.std(axis=(0, 1, 2)), abs=1e-12)


@pytest.mark.parametrize("level", range(0, 256, 5))
def test_the_deviation_of_one_level_is_zero_and_not_the_root_of_something_negative(level: int) -> None:
    mean, std = pixel_statistics(np.full((3, 4, 4, 1), level, np.uint8))
    assert mean == pytest.approx([level / 255], abs=1e-15)
    assert std == pytest.approx([0.0], abs=1e-7)


def test_content_is_of_pixels_and_labels_and_of_nothing_else() -> None:
    arrays = some_arrays()
    content = describe("some", "train", arrays).content
    renamed = replace(arrays, sources={"elsewhere/packed.xz": "99"})
    assert describe("some", "train", renamed).content == content
    strided = replace(arrays, images=np.asfortranarray(arrays.images))
    assert describe("some", "train", strided).content == content
    other_pixel = arrays.images.copy()
    other_pixel[-1, -1, -1, -1] ^= 1
    assert describe("some", "train", replace(arrays, images=other_pixel)).content != content
    other_label = (arrays.labels + 1) % 4
    assert describe("some", "train", replace(arrays, labels=other_label)).content != content


def test_every_setting_has_a_file_of_its_own(tmp_path: Path) -> None:
    paths = {
        beton.beton_path(tmp_path, dataset, split, settings, root, variant)
        for dataset in ("mnist", "cifar10")
        for split in ("train", "test")
        for settings in SETTINGS_OF_EVERY_KIND
        for root in (tmp_path / "a", tmp_path / "b")
        for variant in ("", "8")
    }
    assert len(paths) == 2 * 2 * len(SETTINGS_OF_EVERY_KIND) * 2 * 2
    same = beton.beton_path(tmp_path, "mnist", "train", BetonSettings(500, 90), tmp_path / "b" / ".." / "a", "")
    assert same in paths
    assert {path.parent for path in paths} == {tmp_path / "beton"}


# Round trip -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_ffcv")
@pytest.mark.parametrize("shape", [(11, 6, 5, 3), (3, 28, 28, 1), (1, 1, 1, 1), (6, 1000, 1700, 1)])
def test_the_index_leads_to_the_original_bytes(tmp_path: Path, shape: tuple[int, int, int, int]) -> None:
    from ffcv.reader import Reader

    arrays = some_arrays(*shape)
    path = write(tmp_path / "some.beton", arrays)
    content, reader = path.read_bytes(), Reader(str(path))
    assert reader.field_names == ["image", "label"]
    assert tuple(reader.handlers["image"].shape) == shape[1:]
    assert reader.metadata["f1"].tolist() == arrays.labels.tolist()
    size = arrays.images[0].nbytes
    for image, pointer in zip(arrays.images, reader.metadata["f0"], strict=True):
        assert content[pointer : pointer + size] == image.tobytes()
        assert pointer // beton.PAGE_BYTES == (pointer + size - 1) // beton.PAGE_BYTES
    assert reader.alloc_table["ptr"].tolist() == reader.metadata["f0"].tolist()
    assert reader.alloc_table["size"].tolist() == [size] * len(arrays.images)


@pytest.mark.usefixtures("needs_ffcv")
def test_opening_gives_the_manifest_back(tmp_path: Path) -> None:
    arrays = some_arrays()
    path = write(tmp_path / "some.beton", arrays)
    assert open_beton(path) == open_beton(path, full=True) == describe("some", "train", arrays)
    assert names_in(tmp_path) == {"some.beton", "some.json"}


def tree_of_jpegs(root: Path, sizes: list[tuple[int, int]]) -> ImageFiles:
    """Images of these heights and widths, in two classes."""
    for number, (height, width) in enumerate(sizes):
        folder = root / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[:height, :width]
        levels = np.stack([x * 255 / width, y * 255 / height, (x + y + 9 * number) % 256], axis=-1)
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{number}.JPEG", quality=95)
    return open_imagenet(root, "train", None)


@pytest.mark.usefixtures("needs_ffcv")
def test_image_files_are_stored_as_jpegs_no_larger_than_asked(tmp_path: Path) -> None:
    """Images up to 60 pixels keep their size; others are shrunk to a longest side of 60 and look the same."""
    from ffcv.reader import Reader

    files = tree_of_jpegs(tmp_path, [(40, 60), (120, 90), (10, 300), (60, 60), (1, 200)])
    path = write(tmp_path / "out" / "some.beton", files, BetonSettings(max_size=60, quality=95))
    content, reader = path.read_bytes(), Reader(str(path))
    assert reader.metadata["f1"].tolist() == files.labels.tolist() == [0, 0, 0, 1, 1]  # 0, 2, 4 and 1, 3
    by_name = {"class0/0.JPEG": (40, 60), "class0/2.JPEG": (2, 60), "class0/4.JPEG": (1, 60)}
    by_name |= {"class1/1.JPEG": (60, 45), "class1/3.JPEG": (60, 60)}
    for number, (row, entry) in enumerate(zip(reader.metadata["f0"], reader.alloc_table, strict=True)):
        jpeg = content[int(row["data_ptr"]) : int(row["data_ptr"] + entry["size"])]
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.format == "JPEG"
            assert (image.height, image.width) == (row["height"], row["width"]) == by_name[files.name(number)]
            stored = np.asarray(image.convert("L")).astype(float)
        original = Image.fromarray(files.decode(number)).resize(image.size, Image.Resampling.BOX).convert("L")
        assert np.abs(stored - np.asarray(original)).mean() < 3  # of lightness: colours are stored at half the size
    assert open_beton(path).mean is None


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path, needs_ffcv: None) -> Path:
    return write(tmp_path / "some.beton", some_arrays())


def assert_refused(path: Path, because: str, full: bool = False) -> str:
    message = error_of(lambda: open_beton(path, full=full))
    assert str(path) in message
    assert because in message
    assert REMEDY in message
    return message


def forge(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change the file, and the manifest's checksum with it: what is left to find it are the other checks."""
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    record = json.loads(manifest_path(path).read_text())
    record |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest_path(path).write_text(json.dumps(record))


def layout(path: Path) -> SimpleNamespace:
    """Where in the file, in bytes, the parts of the header, the rows of the index and of the table begin."""
    from ffcv.reader import Reader
    from ffcv.types import ALLOC_TABLE_TYPE, HeaderType

    reader = Reader(str(path))
    offsets = {name: HeaderType.fields[name][1] for name in HeaderType.names}
    index = HeaderType.itemsize + reader.field_descriptors.nbytes
    table = int(reader.header["alloc_table_ptr"])
    return SimpleNamespace(
        **offsets, index=index, row=reader.metadata.itemsize, table=table, entry=ALLOC_TABLE_TYPE.itemsize
    )


def put(content: bytearray, at: int, value: int, length: int = 8) -> None:
    content[at : at + length] = value.to_bytes(length, "little")


def test_a_missing_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.beton", "does not exist")


@pytest.mark.parametrize("kept", ["nothing", "half the header", "header", "index", "images", "half the table"])
def test_a_truncated_file_is_refused(written: Path, kept: str) -> None:
    at = layout(written)
    size = written.stat().st_size
    length = {
        "nothing": 0,
        "half the header": 10,
        "header": at.index,
        "index": at.index + 3 * at.row,
        "images": at.table - 1,
        "half the table": (at.table + size) // 2,
    }[kept]
    os.truncate(written, length)
    message = assert_refused(written, "damaged")
    assert f"has {length} bytes, its manifest says {size}" in message
    assert f"rm {written}" in message


@pytest.mark.parametrize("kept", ["nothing", "half the header", "header", "index", "images", "half the table"])
def test_a_truncated_file_whose_manifest_agrees_is_refused(written: Path, kept: str) -> None:
    """Nothing that was interrupted can look so, but a file that somebody cut and described anew must not crash FFCV."""
    at = layout(written)
    length = {
        "nothing": 0,
        "half the header": 10,
        "header": at.index,
        "index": at.index + 3 * at.row,
        "images": at.table - 1,
        "half the table": at.table + 5 * at.entry,
    }[kept]

    def cut(content: bytearray) -> None:
        del content[length:]

    forge(written, cut)
    assert_refused(written, "some.beton")


def test_one_flipped_bit_anywhere_is_found(written: Path) -> None:
    content = bytearray(written.read_bytes())
    at = layout(written)
    in_header = [(place, 7) for place in range(at.index if at.index < 100 else 24)]
    images = int(np.fromfile(written, np.uint64, 3, offset=at.table)[1])  # where the first image begins
    others = [(at.index, 0), (images, 0), (images + 100, 5), (at.table, 1), (len(content) - 1, 3)]
    for place, bit in in_header + others:
        content[place] ^= 1 << bit
        written.write_bytes(content)
        with pytest.raises(DataError) as raised:
            open_beton(written)
        assert str(written) in str(raised.value)
        assert REMEDY in str(raised.value)
        content[place] ^= 1 << bit
    written.write_bytes(content)
    assert open_beton(written).count == 11


def test_a_flipped_bit_among_the_pixels_has_another_checksum(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(written.read_bytes())
    content[beton.PAGE_BYTES + 17] ^= 1
    written.write_bytes(content)
    assert_refused(written, "checksum")
    monkeypatch.setattr(beton, "CHECKSUM_LIMIT_BYTES", 1000)  # as if it were ImageNet's
    assert open_beton(written).count == 11
    assert_refused(written, "checksum", full=True)


def test_a_file_of_another_ffcv_is_refused(written: Path) -> None:
    at = layout(written)
    forge(written, lambda content: put(content, at.version, 3, 2))
    assert_refused(written, "has FFCV format 3, this FFCV reads 2")


def test_another_number_of_images_is_refused(written: Path) -> None:
    at = layout(written)
    forge(written, lambda content: put(content, at.num_samples, 12))
    assert_refused(written, "holds 12 images, its manifest says 11")


@pytest.mark.parametrize(
    "wrong",
    [
        "the table is beyond the file",
        "the table is further than files go",
        "the table disagrees with the index",
        "the index disagrees with the table",
        "an image begins beyond the file",
        "an image begins where 64 bits end",
        "an image is one byte too long",
        "an image is as long as 64 bits can say",
    ],
)
def test_an_index_that_points_elsewhere_is_refused(written: Path, wrong: str) -> None:
    """FFCV would take the size of another image, read what lies elsewhere, or be killed by the system."""
    at = layout(written)
    table, pointer = at.alloc_table_ptr, at.index + 2 * at.row
    begins, size = at.table + 2 * at.entry + 8, at.table + 2 * at.entry + 16
    begin = int.from_bytes(written.read_bytes()[begins : begins + 8], "little")
    changes = {
        "the table is beyond the file": {table: at.table + 10**9},
        "the table is further than files go": {table: 2**64 - 1},
        "the table disagrees with the index": {begins: begin + 90},
        "the index disagrees with the table": {pointer: begin + 90},
        "an image begins beyond the file": {begins: at.table + 10**9, pointer: at.table + 10**9},
        "an image begins where 64 bits end": {begins: 2**64 - 8, pointer: 2**64 - 8},
        "an image is one byte too long": {size: at.table - begin + 1},
        "an image is as long as 64 bits can say": {size: 2**64 - begin},
    }[wrong]

    def change(content: bytearray) -> None:
        for place, value in changes.items():
            put(content, place, value)

    forge(written, change)
    assert_refused(written, "points outside")


def test_a_missing_or_damaged_manifest_is_named(written: Path) -> None:
    manifest = manifest_path(written)
    whole = manifest.read_text()
    for content in ("", whole[: len(whole) // 2], "[]", "{}", '{"manifest": {"dataset": "some"}}', "\udcff"):
        manifest.write_text(content, errors="surrogateescape")
        assert str(manifest) in assert_refused_by_manifest(written)
    manifest.unlink()
    assert str(manifest) in assert_refused_by_manifest(written)


def assert_refused_by_manifest(path: Path) -> str:
    message = error_of(lambda: open_beton(path))
    assert "cannot be read" in message
    assert f"rm {path}" in message
    assert REMEDY in message
    return message


@pytest.mark.usefixtures("needs_ffcv")
def test_the_manifest_of_another_file_is_refused(tmp_path: Path) -> None:
    """Of another length; and of the same length, where only the checksum tells."""
    arrays = some_arrays()
    path = write(tmp_path / "some.beton", arrays)
    longer = write(tmp_path / "longer.beton", some_arrays(count=12))
    negative = write(tmp_path / "negative.beton", replace(arrays, images=255 - arrays.images))
    assert negative.stat().st_size == path.stat().st_size
    for other, because in ((longer, "bytes, its manifest says"), (negative, "checksum")):
        manifest_path(path).write_bytes(manifest_path(other).read_bytes())
        assert_refused(path, because)


@pytest.mark.usefixtures("needs_ffcv")
def test_the_remedy_mends_what_it_is_for(written: Path) -> None:
    os.truncate(written, 100)
    message = assert_refused(written, "damaged")
    written.unlink()  # "rm ..."; the old manifest is still there
    assert str(written) in message
    write(written, some_arrays())
    assert open_beton(written, full=True).count == 11


# Conversions that fail ------------------------------------------------------------------------------------------------


def full_after(count: int) -> Callable[..., Iterator[Any]]:
    """Images, and then no room left for the next."""

    def encoded(originals: ImageArray) -> Iterator[np.ndarray]:
        for number, image in enumerate(originals.images):
            if number == count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield image.reshape(-1)

    return encoded


@pytest.mark.usefixtures("needs_ffcv")
def test_a_full_disk_leaves_nothing_and_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, old = tmp_path / "some.beton", tmp_path / "old.beton"
    old.write_bytes(b"whole, but its manifest was lost")
    monkeypatch.setattr(beton, "_raw_images", full_after(5))
    for target, left in ((path, {"old.beton"}), (old, {"old.beton"})):
        message = error_of(lambda target=target: write(target, some_arrays()))  # type: ignore[misc]
        assert f"{tmp_path} ran full while {target.name} was written" in message
        assert "ILSVRC_BENCH_CACHE" in message
        assert names_in(tmp_path) == left
    assert old.read_bytes() == b"whole, but its manifest was lost"


@pytest.mark.usefixtures("needs_ffcv")
def test_what_is_written_already_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "some.beton", some_arrays())
    before = path.read_bytes(), path.stat().st_mtime_ns, manifest_path(path).read_bytes()
    monkeypatch.setattr(beton, "_raw_images", full_after(0))
    write(path, some_arrays(count=3))
    assert (path.read_bytes(), path.stat().st_mtime_ns, manifest_path(path).read_bytes()) == before


@pytest.mark.usefixtures("needs_ffcv")
def test_a_file_system_that_refuses_more_bytes(tmp_path: Path) -> None:
    """The operating system's own refusal, met while writing, flushing and closing: no file may grow beyond 9 MB."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = some_arrays(count=3, height=1000, width=600)  # 1.8 MB each, and the first begins at 8.4 MB
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000_000, hard))
        message = error_of(lambda: write(tmp_path / "some.beton", big))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ran full" in message
    assert names_in(tmp_path) == set()


@pytest.mark.usefixtures("needs_ffcv")
def test_a_process_that_ends_between_manifest_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.beton"

    def fails_for_the_beton(source: Any, target: Any, replaces: Callable[..., None] = os.replace) -> None:
        if Path(target) == path:
            raise KeyboardInterrupt
        replaces(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fails_for_the_beton)
        with pytest.raises(KeyboardInterrupt):
            write(path, some_arrays())
    assert names_in(tmp_path) == {"some.json"}
    assert_refused(path, "does not exist")
    assert open_beton(write(path, some_arrays()), full=True).count == 11


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file stands where the folder should: that refuses an administrator as well."""
    (tmp_path / "cache").write_text("not a folder")
    message = error_of(lambda: write(tmp_path / "cache" / "beton" / "some.beton", some_arrays()))
    assert f"{tmp_path / 'cache' / 'beton'} cannot be written" in message
    assert "ILSVRC_BENCH_CACHE" in message


def test_a_cache_without_permission_is_named() -> None:
    with without_privileges() as folder:
        (folder / "cache").mkdir(mode=0o555)
        become_nobody()
        message = error_of(lambda: write(folder / "cache" / "beton" / "some.beton", some_arrays()))
        assert "cannot be written (Permission denied)" in message


def test_too_little_space_is_refused_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = some_arrays(count=100, height=100, width=100)  # 3 MB
    monkeypatch.setattr(beton.shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    monkeypatch.setattr(beton, "_write", lambda *arguments: pytest.fail("it began to write"))
    message = error_of(lambda: write(tmp_path / "some.beton", arrays))
    assert f"{tmp_path} has 0.01 GB free" in message or f"{tmp_path} has 0.00 GB free" in message
    assert "ILSVRC_BENCH_CACHE" in message
    assert names_in(tmp_path) == set()


@pytest.mark.usefixtures("needs_ffcv")
def test_images_larger_than_a_page_have_larger_pages(tmp_path: Path) -> None:
    """8.67 MB each, FFCV's page is 8.39."""
    from ffcv.reader import Reader

    arrays = some_arrays(count=2, height=1700, width=1700)
    path = write(tmp_path / "some.beton", arrays)
    reader = Reader(str(path))
    assert reader.page_size == 1 << 24
    content = path.read_bytes()
    for image, pointer in zip(arrays.images, reader.metadata["f0"], strict=True):
        assert content[pointer : pointer + image.nbytes] == image.tobytes()
        assert pointer >> 24 == (pointer + image.nbytes - 1) >> 24


@pytest.mark.parametrize(("max_size", "page"), [(1, 23), (500, 23), (1600, 23), (1700, 24), (4000, 26), (16384, 30)])
def test_any_image_fits_in_a_page(max_size: int, page: int) -> None:
    settings = BetonSettings(max_size)
    assert settings.page_bytes == 1 << page
    assert settings.page_bytes >= 3 * max_size**2 + 65536


@pytest.mark.parametrize(
    ("settings", "because"),
    [
        ({"max_size": 0}, r"max_size \(=0\) must be 1 to 16384"),
        ({"max_size": 16385}, r"max_size \(=16385\) must be 1 to 16384"),
        ({"quality": 96}, r"quality \(=96\) must be 1 to 95"),
        ({"mode": "png"}, r"mode \(='png'\) must be jpg, raw or mixed"),
        ({"mode": "mixed"}, r"raw_share \(=None\) must lie between 0 and 1"),
        ({"mode": "mixed", "raw_share": 1.0}, r"raw_share \(=1.0\) must lie between 0 and 1"),
        ({"raw_share": 0.5}, r"raw_share \(=0.5\) needs mode mixed"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any], because: str) -> None:
    with pytest.raises(ValueError, match=because):
        BetonSettings(**settings)


def test_a_label_that_is_no_class_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    arrays = some_arrays()
    for wrong in (4, -1):
        arrays.labels[7] = wrong
        message = error_of(lambda: write(tmp_path / "some.beton", arrays))
        assert f"image 7 has the label {wrong}" in message
        assert "outside 0 to 3" in message
    assert names_in(tmp_path) == set()


def test_a_stored_label_that_is_no_class_is_refused(written: Path) -> None:
    from ffcv.reader import Reader

    at = layout(written)
    label = at.index + 7 * at.row + Reader(str(written)).metadata.dtype.fields["f1"][1]
    for value in (4, 2**64 - 1):
        forge(written, lambda content, value=value: put(content, label, value))  # type: ignore[misc]
        message = assert_refused(written, "image 7 has the label")
        assert "outside 0 to 3" in message


@contextmanager
def without_privileges() -> Iterator[Path]:
    """A folder that everybody may read, seen by a user whom permissions bind."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=True)
        shutil.rmtree(folder)


def become_nobody() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


@pytest.mark.usefixtures("needs_ffcv")
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_file_that_may_not_be_read_is_named(closed: str) -> None:
    with without_privileges() as folder:
        path = write(folder / "cache" / "some.beton", some_arrays())
        for entry in (path.parent, path, manifest_path(path)):
            entry.chmod(0o755)
        (path if closed == "file" else path.parent).chmod(0)
        become_nobody()
        message = error_of(lambda: open_beton(path))
        assert f"{path} cannot be read (Permission denied)" in message
        assert "correct the permissions" in message


def test_a_class_folder_that_may_not_be_read_is_named() -> None:
    with without_privileges() as folder:
        tree_of_jpegs(folder, [(8, 8)] * 4)
        (folder / "train" / "class1").chmod(0)
        become_nobody()
        message = error_of(lambda: open_imagenet(folder, "train", None))
        assert f"{folder / 'train' / 'class1'} cannot be read: Permission denied" in message
        assert "correct its permissions" in message


# Several processes ----------------------------------------------------------------------------------------------------


def convert_at_once(path: Path, barrier: Any) -> None:
    """Runs in a process of its own; leaves a file that tells that this one was it that wrote."""
    writes = beton._write

    def telling(*arguments: Any) -> str:
        (path.parent / f"wrote-{os.getpid()}").touch()
        return writes(*arguments)

    beton._write = telling
    arrays = some_arrays()
    manifest = describe("some", "train", arrays)
    barrier.wait(60)
    convert(path, manifest, arrays, SETTINGS, 1)


def convert_until_killed(path: Path) -> None:
    """Runs in a process of its own, which ends as soon as it has begun to write."""

    def killed(unfinished: Path, *arguments: Any) -> str:
        unfinished.write_bytes(b"the first pages")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    beton._write = killed
    write(path, some_arrays())


STOCK_FFCV = """
import sys
import numpy as np
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.compiler import Compiler
Compiler.set_enabled(False)  # FFCV's own switch: the same functions as Python, which takes less time than compiling
loader = Loader(sys.argv[1], batch_size=4, num_workers=1, os_cache=True, order=OrderOption.SEQUENTIAL, drop_last=False)
batches = [[field.clone().numpy() for field in batch] for batch in loader]
np.savez(sys.argv[2], *[np.concatenate([batch[field] for batch in batches]) for field in range(2)])
"""


def photos() -> ImageArray:
    """Images of 2 MB, four to a page."""
    return some_arrays(count=9, height=800, width=870, channels=3)


@pytest.fixture(scope="module")
def stock_ffcv(
    needs_ffcv: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that reads `photos`, and the file it leaves. Importing FFCV takes it seconds: others work meanwhile."""
    folder = tmp_path_factory.mktemp("stock")
    path, read = write(folder / "photos.beton", photos()), folder / "read.npz"
    with subprocess.Popen([sys.executable, "-c", STOCK_FFCV, path, read], stderr=subprocess.PIPE, text=True) as process:
        yield process, read
        process.kill()


@pytest.mark.usefixtures("needs_ffcv", "stock_ffcv")
def test_four_processes_at_once_write_one_file(tmp_path: Path) -> None:
    path, barrier = tmp_path / "some.beton", spawn.Barrier(4)
    processes = [spawn.Process(target=convert_at_once, args=(path, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert open_beton(path, full=True) == describe("some", "train", some_arrays())
    wrote = {name for name in names_in(tmp_path) if name.startswith("wrote-")}
    assert len(wrote) == 1
    assert names_in(tmp_path) - wrote == {"some.beton", "some.json"}


@pytest.mark.usefixtures("needs_ffcv")
def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "some.beton"
    process = spawn.Process(target=convert_until_killed, args=(path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert names_in(tmp_path) == {f".some.beton.{process.pid}.tmp"}
    assert_refused(path, "does not exist")
    of_another = tmp_path / ".other.beton.17.tmp"  # under another lock: perhaps being written
    of_another.touch()
    write(path, some_arrays())
    assert names_in(tmp_path) == {"some.beton", "some.json", of_another.name}
    assert open_beton(path, full=True).count == 11


def test_stock_ffcv_reads_the_original_pixels(stock_ffcv: tuple[subprocess.Popen[str], Path]) -> None:
    """FFCV's own loader and decoders, in a process that knows nothing of ours."""
    process, path = stock_ffcv
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    arrays = photos()
    assert 4 * arrays.images[0].nbytes < beton.PAGE_BYTES < 5 * arrays.images[0].nbytes
    with np.load(path) as read:
        assert np.array_equal(read["arr_0"], arrays.images)
        assert np.array_equal(read["arr_1"].reshape(-1), arrays.labels)


# Small files ----------------------------------------------------------------------------------------------------------


def test_a_small_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    write_whole(path, "old")
    assert path.read_text() == "old"

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_room)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "new")
    assert path.read_text() == "old"
    write_whole(path, "new, größer")
    assert path.read_text(encoding="utf-8") == "new, größer"
    assert names_in(tmp_path) == {"manifest.json"}
