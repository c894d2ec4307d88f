"""Image files as they really are become a .beton: every kind, broken ones, stopped on the way, on too small a disk."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import beton, encoding, estimate, journal
from datamodules.beton import BetonSettings, BrokenImages, convert, describe, journal_path, open_beton, unfinished_path
from datamodules.encoding import in_order
from datamodules.originals import BrokenImage, DataError, ImageFiles, open_imagenet

spawn = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def needs_ffcv() -> None:
    from datamodules.loaders import ffcv_fault

    if fault := ffcv_fault():
        pytest.skip(fault)


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(DataError) as raised:
        action()
    print(f"\n--- {raised.value}")
    return str(raised.value)


def write(
    path: Path,
    files: ImageFiles,
    settings: BetonSettings = BetonSettings(),  # noqa: B008  (frozen)
    workers: int = 1,
    when_broken: beton.WhenBroken = "refuse",
) -> Path:
    convert(path, describe("some", "train", files), files, settings, workers, when_broken)
    return path


def photo(number: int, height: int = 30, width: int = 40) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (height // 2 + 1, width // 2 + 1, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def tree(root: Path, contents: list[bytes]) -> ImageFiles:
    """Files of these bytes in two classes; image k has the number k in the dataset."""
    half = -(-len(contents) // 2)
    for number, content in enumerate(contents):
        folder = root / "train" / f"class{number // half}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03}.JPEG").write_bytes(content)
    return open_imagenet(root, "train", None)


def photos(root: Path, count: int = 8) -> ImageFiles:
    return tree(root, [saved(photo(number, 30 + number, 40), "JPEG", quality=95) for number in range(count)])


def stored(path: Path) -> list[tuple[int, int, int, int, bytes]]:
    """Mode, height, width, label and bytes of every image, by FFCV's own reader."""
    from ffcv.reader import Reader

    content, reader = path.read_bytes(), Reader(str(path))
    images = []
    for row, entry, label in zip(reader.metadata["f0"], reader.alloc_table, reader.metadata["f1"], strict=True):
        at, size = int(entry["ptr"]), int(entry["size"])
        images.append((int(row["mode"]), int(row["height"]), int(row["width"]), int(label), content[at : at + size]))
    return images


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.suffix != ".lock"}


# Every kind of image --------------------------------------------------------------------------------------------------


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    return saved(photo(1), "JPEG", quality=95, exif=exif)


def damaged_exif() -> bytes:
    """As some of ImageNet's photos have it: PIL warns, and the pixels are whole."""
    block = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\0\0\xff\xff\xff\xff"
    jpeg = saved(photo(1), "JPEG", quality=95)
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[20:]  # without the JFIF block


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.arange(0, 30 * 40 * 50, 50, dtype=np.uint16).reshape(30, 40))


def palette_with_transparency() -> bytes:
    return saved(photo(1).quantize(16), "PNG", transparency=b"\0\x80\xff")


KINDS: dict[str, Callable[[], bytes]] = {
    "gray": lambda: saved(photo(1).convert("L"), "JPEG"),
    "cmyk": lambda: saved(photo(1).convert("CMYK"), "JPEG"),
    "progressive": lambda: saved(photo(1), "JPEG", progressive=True),
    "png named jpeg": lambda: saved(photo(1), "PNG"),
    "rgba png": lambda: saved(photo(1).convert("RGBA"), "PNG"),
    "gray and alpha": lambda: saved(photo(1).convert("LA"), "PNG"),
    "palette": lambda: saved(photo(1).quantize(16), "PNG"),
    "palette with transparency": palette_with_transparency,
    "one bit": lambda: saved(photo(1).convert("1"), "PNG"),
    "16 bits": lambda: saved(sixteen_bits(), "PNG"),
    "gif": lambda: saved(photo(1).quantize(16), "GIF"),
    "bmp": lambda: saved(photo(1), "BMP"),
    "webp": lambda: saved(photo(1), "WEBP", lossless=True),
    "turned by exif": rotated_by_exif,
    "damaged exif": damaged_exif,
    "one pixel": lambda: saved(photo(1, 1, 1), "JPEG"),
    "one row": lambda: saved(photo(1, 1, 3000), "PNG"),
    "one column": lambda: saved(photo(1, 3000, 1), "PNG"),
}


@pytest.mark.usefixtures("needs_ffcv")
def test_every_kind_is_stored_as_torchvision_sees_it(tmp_path: Path) -> None:
    """Raw: to the bit. As JPEG: with the same size, and pixels that lie near."""
    from torchvision import datasets  # here, or every process that a test starts would load torch

    files = tree(tmp_path, [make() for make in KINDS.values()])
    theirs = datasets.ImageFolder(str(tmp_path / "train"))
    raw = stored(write(tmp_path / "raw" / "some.beton", files, BetonSettings(3000, mode="raw")))
    jpg = stored(write(tmp_path / "jpg" / "some.beton", files, BetonSettings(3000, quality=95)))
    assert len(raw) == len(jpg) == len(theirs) == len(KINDS)
    with pytest.warns(UserWarning, match="Transparency|Tag data|EXIF"):  # PIL's; ours are none
        expected = [(np.asarray(image), label) for image, label in theirs]
    for kind, (pixels, label), in_raw, in_jpg in zip(KINDS, expected, raw, jpg, strict=True):
        assert in_raw == (encoding.RAW, *pixels.shape[:2], label, pixels.tobytes()), kind
        assert in_jpg[:4] == (encoding.JPEG, *pixels.shape[:2], label), kind
        with Image.open(io.BytesIO(in_jpg[4])) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", pixels.shape[1::-1]), kind
            difference = np.asarray(image.convert("L")).astype(float) - np.asarray(Image.fromarray(pixels).convert("L"))
        assert np.abs(difference).mean() < 4, kind


def test_a_photo_is_not_turned_as_its_exif_says(tmp_path: Path) -> None:
    files = tree(tmp_path, [rotated_by_exif(), saved(photo(1), "JPEG", quality=95)])
    assert files.decode(0).shape == (30, 40, 3)
    assert np.array_equal(files.decode(0), files.decode(1))


def test_colours_of_cmyk_and_of_16_bits_by_hand(tmp_path: Path) -> None:
    """Full cyan is no red. PIL, and so torchvision, cuts 16 bits off at 255 rather than scale them."""
    cyan = saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95)
    files = tree(tmp_path, [cyan, saved(Image.fromarray(np.full((4, 4), 300, np.uint16)), "PNG")])
    assert np.abs(files.decode(0).astype(int) - [0, 255, 255]).max() <= 3
    with Image.open(io.BytesIO(files.read(1))) as image:
        assert np.array_equal(files.decode(1), np.array(image.convert("RGB")))


def test_an_image_of_too_many_pixels_is_refused_and_one_of_many_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PIL warns above its limit and refuses above twice its limit."""
    files = tree(tmp_path, [saved(photo(0, 15, 10), "JPEG"), saved(photo(0, 25, 10), "JPEG")])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert files.decode(0).shape == (15, 10, 3)
    message = error_of(lambda: files.decode(1))
    assert "class1/001.JPEG" in message
    assert "250 pixels" in message


def test_memory_that_runs_out_is_no_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = photos(tmp_path, 2)

    def no_memory(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(MemoryError):
        encoding.fault_of(files, 0)


@pytest.mark.usefixtures("needs_ffcv")
def test_a_huge_image_is_shrunk(tmp_path: Path) -> None:
    files = tree(tmp_path, [saved(Image.new("L", (9000, 6000)), "JPEG"), saved(photo(1), "JPEG")])
    (_, height, width, _, _), _ = stored(write(tmp_path / "out" / "some.beton", files))
    assert (height, width) == (333, 500)


# Raw and mixed --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_ffcv")
def test_a_share_is_stored_raw_by_number(tmp_path: Path) -> None:
    files = photos(tmp_path)
    mixed = stored(write(tmp_path / "a" / "some.beton", files, BetonSettings(mode="mixed", raw_share=0.25)))
    assert [mode for mode, *_ in mixed] == [0, 0, 0, 1, 0, 0, 0, 1]
    for number in (3, 7):
        assert mixed[number][4] == files.decode(number).tobytes()
    again = write(tmp_path / "b" / "some.beton", files, BetonSettings(mode="mixed", raw_share=0.25))
    assert again.read_bytes() == (tmp_path / "a" / "some.beton").read_bytes()


@pytest.mark.parametrize("share", [0.01, 0.1, 1 / 3, 0.5, 0.9])
def test_the_share_holds_in_every_part(share: float) -> None:
    settings = BetonSettings(mode="mixed", raw_share=share)
    raw = np.cumsum([settings.stores_raw(number) for number in range(10_000)])
    assert np.abs(raw - share * np.arange(1, 10_001)).max() <= 1


# Broken images --------------------------------------------------------------------------------------------------------


def with_broken(root: Path) -> ImageFiles:
    """Eight photos, of which 1, 4 and 6 are cut off, empty, and a text."""
    photos(root)
    for number, content in ((1, None), (4, b""), (6, b"<html>404</html>")):
        path = root / "train" / f"class{number // 4}" / f"{number:03}.JPEG"
        path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    return open_imagenet(root, "train", None)


BROKEN = ["class0/001.JPEG", "class1/004.JPEG", "class1/006.JPEG"]


@pytest.mark.usefixtures("needs_ffcv")
def test_all_broken_images_are_named_at_once(tmp_path: Path) -> None:
    files, path = with_broken(tmp_path), tmp_path / "out" / "some.beton"
    message = error_of(lambda: write(path, files))
    assert "3 of 8 images cannot be decoded, at most 2 of one class (class1)" in message
    assert all(name in message for name in BROKEN)
    assert "truncated" in message
    assert "of no known format" in message
    assert "--corrupt skip" in message
    assert names_in(path.parent) == {unfinished_path(path).name, journal_path(path).name}


@pytest.mark.usefixtures("needs_ffcv")
def test_broken_images_are_left_out_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one go, and after a refusal: then nothing is encoded again."""
    files, path = with_broken(tmp_path), tmp_path / "out" / "some.beton"
    manifest = open_beton(write(path, files, when_broken="skip"), full=True)
    assert manifest.skipped == BROKEN
    assert manifest.count == 5
    assert manifest.per_class == [3, 2]
    whole = [number for number in range(8) if files.name(number) not in BROKEN]
    encoded = [encoding.encode_image(files, number, BetonSettings()) for number in whole]
    assert [image[4] for image in stored(path)] == [image.data.tobytes() for image in encoded]  # type: ignore[union-attr]
    assert [image[3] for image in stored(path)] == [0, 0, 0, 1, 1]
    assert manifest.content != describe("some", "train", files).content
    assert manifest == describe("some", "train", files.without([1, 4, 6]))

    other = tmp_path / "other" / "some.beton"
    error_of(lambda: write(other, files))
    monkeypatch.setattr(beton, "encoded_in_order", only_from(8))
    assert write(other, files, when_broken="skip").read_bytes() == path.read_bytes()
    assert names_in(other.parent) == {"some.beton", "some.json"}


def only_from(first: int) -> Callable[..., Iterator[Any]]:
    """Encoding that must begin at this image."""
    honest = encoding.encoded_in_order

    def encoded(originals: ImageFiles, numbers: range, *arguments: Any) -> Iterator[Any]:
        assert numbers.start == first
        return honest(originals, numbers, *arguments)

    return encoded


@pytest.mark.usefixtures("needs_ffcv")
def test_an_image_that_was_mended_is_taken(tmp_path: Path) -> None:
    """With another size, as with the same size."""
    files, path = with_broken(tmp_path), tmp_path / "out" / "some.beton"
    error_of(lambda: write(path, files))
    for number in (1, 4, 6):
        broken = tmp_path / "train" / files.name(number)
        mended = saved(photo(number), "JPEG", quality=95)
        broken.write_bytes(mended)
    mended_files = open_imagenet(tmp_path, "train", None)
    assert open_beton(write(path, mended_files)).count == 8
    assert path.read_bytes() == write(tmp_path / "fresh" / "some.beton", mended_files).read_bytes()


def test_a_class_is_not_left_without_images(tmp_path: Path) -> None:
    files = photos(tmp_path)
    message = error_of(lambda: files.without([4, 5, 6, 7]))
    assert "no image of 1 classes (class1) can be decoded" in message
    assert "fetch these again" in message


def test_many_broken_images_are_listed_in_a_file(tmp_path: Path) -> None:
    files = photos(tmp_path, 2)
    manifest = describe("some", "train", files)
    message = beton.refusal(manifest, {f"class0/{n:03}.JPEG": "is gone" for n in range(25)}, tmp_path / "some.beton")
    listed = tmp_path / "some.broken.txt"
    assert f"... 5 more, all in {listed}" in message
    assert len(listed.read_text().splitlines()) == 25
    assert "class0/019.JPEG" in message
    assert "class0/020.JPEG" not in message


def test_a_dataset_without_images_keeps_its_numbers(tmp_path: Path) -> None:
    files = with_broken(tmp_path)
    left = files.without([1, 4]).without([4])  # 6, which has become the 4th
    assert left.skipped == ("class0/001.JPEG", "class1/004.JPEG", "class1/006.JPEG")
    assert [left.name(number) for number in range(5)] == [files.name(number) for number in (0, 2, 3, 5, 7)]
    assert left.labels.tolist() == [0, 0, 0, 1, 1]
    assert np.array_equal(left.decode(4), files.decode(7))
    assert len(files) == 8
    assert files.skipped == ()


def test_broken_images_are_looked_for_once_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = with_broken(tmp_path), tmp_path / "cache" / "checked.json"
    found = beton.find_broken(path, "some train", files, 1)
    assert list(found) == [1, 4, 6]
    assert "truncated" in found[1]
    monkeypatch.setattr(beton, "in_order", lambda *arguments: pytest.fail("all were decoded again"))
    assert beton.find_broken(path, "some train", files, 1) == found
    cut = tmp_path / "train" / files.name(1)
    cut.write_bytes(saved(photo(1), "JPEG", quality=20).ljust(cut.stat().st_size, b"\0"))  # mended: the same size
    assert len(files.read(1)) == files.size(1)
    assert list(beton.find_broken(path, "some train", files, 1)) == [4, 6]
    monkeypatch.undo()
    (tmp_path / "train" / files.name(0)).write_bytes(b"another size")
    assert list(beton.find_broken(path, "some train", open_imagenet(tmp_path, "train", None), 1)) == [0, 4, 6]


# Several processes ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_ffcv")
def test_processes_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    count = 3 * encoding.CHUNK + 5
    assert count > encoding.FEW
    files = photos(tmp_path, count)
    (tmp_path / "train" / files.name(20)).write_bytes(b"")
    files = open_imagenet(tmp_path, "train", None)
    several = write(tmp_path / "two" / "some.beton", files, workers=2, when_broken="skip").read_bytes()
    encoding_here, encoding.FEW = encoding.FEW, 1000
    try:
        one = write(tmp_path / "one" / "some.beton", files, when_broken="skip").read_bytes()
    finally:
        encoding.FEW = encoding_here
    assert several == one


def dies(files: ImageFiles, number: int) -> int:
    if number == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_process_that_is_killed_is_reported(tmp_path: Path) -> None:
    files = photos(tmp_path, 60)
    message = error_of(lambda: list(in_order(dies, files, range(60), 1)))
    assert "one of 1 processes that decode images was killed" in message
    assert "--workers" in message


def process_id(files: ImageFiles, number: int) -> int:
    return os.getpid()


def convert_in_processes(files: ImageFiles, said: Any) -> None:
    """Tells the id of a process that it started, and then is killed with SIGKILL."""
    for number in in_order(process_id, files, range(60), 1):
        said.send(number)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="processes are looked for in /proc")
def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=convert_in_processes, args=(photos(tmp_path, 60), theirs))
    process.start()
    child = ours.recv()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    for _ in range(200):
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"process {child} goes on without its parent")


# Stopped on the way ---------------------------------------------------------------------------------------------------


def stops_after(count: int, error: BaseException) -> Callable[..., Iterator[Any]]:
    honest = encoding.encoded_in_order

    def encoded(*arguments: Any) -> Iterator[Any]:
        for number, image in enumerate(honest(*arguments)):
            if number == count:
                raise error
            yield image

    return encoded


@pytest.fixture
def in_one_go(tmp_path: Path, needs_ffcv: None) -> tuple[ImageFiles, bytes]:
    files = with_broken(tmp_path)
    return files, write(tmp_path / "one" / "some.beton", files, when_broken="skip").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 2, 5, 7])
def test_a_conversion_that_was_stopped_goes_on(
    in_one_go: tuple[ImageFiles, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    files, whole = in_one_go
    path = tmp_path / "out" / "some.beton"
    with monkeypatch.context() as patched:
        patched.setattr(beton, "encoded_in_order", stops_after(count, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write(path, files, when_broken="skip")
    assert names_in(path.parent) == {unfinished_path(path).name, journal_path(path).name}
    monkeypatch.setattr(beton, "encoded_in_order", only_from(count))
    assert write(path, files, when_broken="skip").read_bytes() == whole
    assert names_in(path.parent) == {"some.beton", "some.json"}
    assert open_beton(path, full=True).count == 5


def convert_until_killed(path: Path, files: ImageFiles) -> None:
    journal.FLUSH_BYTES = 2000

    honest = encoding.encoded_in_order

    def encoded(*arguments: Any) -> Iterator[Any]:
        for number, image in enumerate(honest(*arguments)):
            if number == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            yield image

    beton.encoded_in_order = encoded  # type: ignore[assignment]
    write(path, files, when_broken="skip")


def test_a_conversion_that_was_killed_goes_on(in_one_go: tuple[ImageFiles, bytes], tmp_path: Path) -> None:
    files, whole = in_one_go
    path = tmp_path / "out" / "some.beton"
    process = spawn.Process(target=convert_until_killed, args=(path, files))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert journal_path(path).stat().st_size >= journal.HEAD + journal.RECORD.itemsize
    assert write(path, files, when_broken="skip").read_bytes() == whole


@pytest.mark.parametrize("damage", ["torn", "flipped", "images cut", "image flipped", "empty", "other settings"])
def test_what_is_torn_or_damaged_is_written_anew(
    in_one_go: tuple[ImageFiles, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    files, whole = in_one_go
    path = tmp_path / "out" / "some.beton"
    settings = BetonSettings(quality=80) if damage == "other settings" else BetonSettings()
    with monkeypatch.context() as patched:
        patched.setattr(beton, "encoded_in_order", stops_after(6, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write(path, files, settings)
    noted, images = journal_path(path), unfinished_path(path)
    record = journal.HEAD + 3 * journal.RECORD.itemsize  # of image 3
    begins = int(np.frombuffer(noted.read_bytes()[record:], journal.RECORD, 1)[0]["position"])
    first = {"empty": 0, "other settings": 0}.get(damage, 3)
    if damage == "torn":
        os.truncate(noted, record + 11)
    elif damage == "empty":
        os.truncate(noted, 0)
    elif damage == "images cut":
        os.truncate(images, begins + 100)
    elif damage != "other settings":
        file, at = (noted, record + 10) if damage == "flipped" else (images, begins + 100)
        content = bytearray(file.read_bytes())
        content[at] ^= 4
        file.write_bytes(content)
    monkeypatch.setattr(beton, "encoded_in_order", only_from(first))
    assert write(path, files, when_broken="skip").read_bytes() == whole


@pytest.mark.usefixtures("needs_ffcv")
def test_a_disk_that_runs_full_half_way(tmp_path: Path) -> None:
    """The operating system's own refusal. The file of old stays, and what is written is gone on from."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    files = tree(tmp_path, [saved(photo(number, 400, 500), "JPEG", quality=95) for number in range(8)])
    settings = BetonSettings(mode="raw")  # 600 kB each; the first begins at 8.4 MB
    whole = write(tmp_path / "one" / "some.beton", files, settings).read_bytes()
    path = tmp_path / "out" / "some.beton"
    path.parent.mkdir()
    path.write_bytes(b"whole, but its manifest was lost")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (beton.PAGE_BYTES + 4 * 600_000 + 1000, hard))
        message = error_of(lambda: write(path, files, settings))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{path.parent} ran full while some.beton was written" in message
    assert f"{unfinished_path(path)} (0.00 GB), stays, and the same command goes on from it" in message
    assert path.read_bytes() == b"whole, but its manifest was lost"
    assert write(path, files, settings).read_bytes() == whole
    assert names_in(path.parent) == {"some.beton", "some.json"}


@pytest.mark.usefixtures("needs_ffcv")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    files, path = photos(tmp_path), tmp_path / "out" / "some.beton"
    monkeypatch.setattr(beton, "encoded_in_order", stops_after(4, OSError(number, os.strerror(number))))
    assert f"ran full while some.beton was written ({os.strerror(number)})" in error_of(lambda: write(path, files))


# Estimates ------------------------------------------------------------------------------------------------------------


def test_an_estimate_of_all_images_is_exact(tmp_path: Path) -> None:
    files = photos(tmp_path)
    sizes = [encoding.encode_image(files, number, BetonSettings()).data.nbytes for number in range(8)]  # type: ignore[union-attr]
    expected = estimate.estimate(tmp_path / "new" / "some.beton", files, BetonSettings(), 2)
    assert expected.bytes == sum(sizes) + beton.PAGE_BYTES
    assert expected.error == 0
    assert expected.sampled == expected.count == 8
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("needs_ffcv")
def test_an_estimate_of_some_images_is_near(tmp_path: Path) -> None:
    files = tree(tmp_path, [saved(photo(n, 20 + n % 90, 100), "JPEG", quality=90) for n in range(200)])
    path = tmp_path / "out" / "some.beton"
    expected = estimate.estimate(path, files, BetonSettings(), 1)
    assert expected.sampled == estimate.SAMPLED
    images = sum(len(image[4]) for image in stored(write(path, files)))
    assert abs(expected.bytes - beton.PAGE_BYTES - images) < 1.5 * expected.error
    assert 0 < expected.error < 0.3 * images
    text = str(expected)
    assert "50 of 200 images encoded to see" in text
    assert "1 processes" in text


def test_what_does_not_fit_is_refused_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = photos(tmp_path), tmp_path / "out" / "some.beton"
    monkeypatch.setattr(beton, "Journal", lambda *arguments: pytest.fail("it began to write"))
    with monkeypatch.context() as patched:
        patched.setattr(estimate.shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
        message = error_of(lambda: write(path, files))
        assert f"{path.parent} has 5.0 MB free, the .beton needs about 8.4 MB" in message
        assert "ILSVRC_BENCH_CACHE" in message
        assert "--max-size" in message
    monkeypatch.setattr(estimate, "free_memory", lambda: 50_000_000)
    message = error_of(lambda: write(path, files))
    assert "1 processes need about" in message
    assert "50.0 MB are free: use fewer (--workers" in message


def test_memory_is_that_of_the_machine_or_of_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "CGROUP", tmp_path)
    machine = estimate.free_memory()
    assert machine > 10_000_000 or machine == -1
    (tmp_path / "memory.max").write_text("9000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    assert estimate.free_memory() == 7_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert estimate.free_memory() == pytest.approx(machine, rel=0.2)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h"), (36 * 3600, "36.0 h")]
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert estimate.duration(seconds) == text


def test_a_broken_image_survives_the_way_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(BrokenImage("a.JPEG cannot be decoded: torn", "torn")))
    assert (str(error), error.reason) == ("a.JPEG cannot be decoded: torn", "torn")
    assert issubclass(BrokenImages, DataError)
