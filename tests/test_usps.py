"""USPS in LIBSVM's format: found, read, checked; against torchvision's reader on synthetic files."""

from __future__ import annotations

import bz2
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from datamodules import originals
from datamodules.loaders import LoaderName, ffcv_fault
from datamodules.originals import DataError, read_usps
from datamodules.usps import USPS

PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".bz2": bz2.compress}
PUBLISHED = dict(originals.USPS_COUNT)  # as it is before `small` changes it
COUNTS = {"train": 23, "test": 11}


def synthetic(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [count, 256] in thousandths from -1 to 1, both ends among them, and digits [count]."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(-1000, 1001, (count, 256)) / 1000
    pixels[0, :3] = -1, 1, 0
    return pixels, generator.integers(0, 10, count)


def libsvm(pixels: np.ndarray, digits: np.ndarray) -> bytes:
    lines = []
    for row, digit in zip(pixels, digits, strict=True):
        lines.append(" ".join([str(digit + 1), *(f"{number}:{value:g}" for number, value in enumerate(row, start=1))]))
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A USPS that is said to have 23 + 11 digits, with the MD5 sums of what `write_usps` writes."""
    monkeypatch.delenv("ILSVRC_BENCH_DATA", raising=False)
    known = {}
    for seed, (split, count) in enumerate(COUNTS.items()):
        monkeypatch.setitem(originals.USPS_COUNT, split, count)
        url, name, _ = datasets.USPS.split_list[split]
        packed = bz2.compress(libsvm(*synthetic(count, seed)))
        known[split] = [url, name, hashlib.md5(packed).hexdigest()]
    monkeypatch.setattr(datasets.USPS, "split_list", known)


def write_usps(folder: Path, packing: str = ".bz2") -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"train": folder / f"usps{packing}", "test": folder / f"usps.t{packing}"}
    for seed, (split, path) in enumerate(paths.items()):
        path.write_bytes(PACK[packing](libsvm(*synthetic(COUNTS[split], seed))))
    return paths


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(DataError) as raised:
        action()
    return str(raised.value)


@pytest.mark.parametrize("packing", ["", ".bz2"])
@pytest.mark.parametrize("below", ["USPS", "usps", "."])
def test_usps_in_every_place_and_packing(tmp_path: Path, below: str, packing: str) -> None:
    paths = write_usps(tmp_path / below, packing)
    for seed, split in enumerate(("train", "test")):
        pixels, digits = synthetic(COUNTS[split], seed)
        usps = read_usps(tmp_path, split, None)  # type: ignore[arg-type]
        assert usps.images.shape == (COUNTS[split], 16, 16, 1)
        assert usps.images.dtype == np.uint8
        assert np.abs(usps.images.reshape(-1, 256) / 127.5 - 1 - pixels).max() <= 0.5 / 127.5 + 1e-9
        assert usps.images.reshape(-1, 256)[0, :2].tolist() == [0, 255]
        assert usps.labels.dtype == np.int64
        assert np.array_equal(usps.labels, digits)
        assert usps.classes == tuple("0123456789")
        assert usps.sources == {paths[split].name: hashlib.sha256(paths[split].read_bytes()).hexdigest()}


def test_digits_and_pixels_are_those_of_torchvision(tmp_path: Path) -> None:
    """It rounds grey levels down, this reader to the nearest."""
    write_usps(tmp_path)
    theirs = datasets.USPS(str(tmp_path), train=False)
    ours = read_usps(tmp_path, "test", None)
    assert ours.labels.tolist() == theirs.targets
    difference = ours.images[..., 0].astype(int) - np.asarray(theirs.data)
    assert set(np.unique(difference)) == {0, 1}


def test_the_real_counts_are_the_papers() -> None:
    assert PUBLISHED == {"train": 7_291, "test": 2_007}


def test_missing_files_say_where_they_were_looked_for(tmp_path: Path) -> None:
    (tmp_path / "usps").mkdir()
    message = refusal(lambda: read_usps(tmp_path, "test", None))
    for place in ("USPS", "usps"):
        assert str(tmp_path / place) in message
    assert f"Put usps.t.bz2 into {tmp_path / 'USPS'}" in message
    assert "Nothing was downloaded" in message


def test_both_splits_are_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    class Pretended:
        split_list = datasets.USPS.split_list

        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert download
            calls.append(train)
            split = "train" if train else "test"
            packed = bz2.compress(libsvm(*synthetic(COUNTS[split], 0 if train else 1)))
            (Path(root) / self.split_list[split][1]).write_bytes(packed)

    monkeypatch.setattr(datasets, "USPS", Pretended)
    assert len(read_usps(tmp_path / "root", "test", tmp_path / "downloads").labels) == 11
    assert len(read_usps(tmp_path / "root", "train", tmp_path / "downloads").labels) == 23
    assert calls == [True, False]


def test_a_download_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets.USPS, "__init__", no_network)
    message = refusal(lambda: read_usps(tmp_path / "root", "train", tmp_path / "downloads"))
    assert "RuntimeError: no network" in message
    assert "Put usps.bz2 into" in message


def test_another_md5_and_a_file_that_is_cut_off_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_usps(tmp_path)["test"]
    expected = datasets.USPS.split_list["test"][2]
    cut = path.read_bytes()[:-20]
    path.write_bytes(cut)
    message = refusal(lambda: read_usps(tmp_path, "test", None))
    assert message == (
        f"{path}: the file has MD5 {hashlib.md5(cut).hexdigest()} ({len(cut)} bytes), the original has {expected}. "
        "It is damaged, cut off or another file: delete it and fetch it again."
    )
    monkeypatch.setitem(datasets.USPS.split_list, "test", ["", path.name, hashlib.md5(cut).hexdigest()])
    message = refusal(lambda: read_usps(tmp_path, "test", None))
    assert message.startswith(f"{path} cannot be unpacked: ")
    assert "fetch it again" in message


def damaged() -> dict[str, tuple[bytes, str]]:
    """What is wrong -> the file's content, and what the message must say."""
    pixels, digits = synthetic(11, 1)
    lines = libsvm(pixels, digits).splitlines(keepends=True)
    bright, label, swapped = pixels.copy(), digits.copy(), list(lines)
    bright[4, 7], label[2] = 1.5, 10
    swapped[3] = swapped[3].replace(b" 5:", b" 6:")
    return {
        "a line less": (b"".join(lines[:-1]), "holds 10 lines, must hold 11, an image each."),
        "a pixel less": (
            b"".join([*lines[:-1], lines[-1].rsplit(b" ", 1)[0]]),
            "line 11 must be a label and 256 pairs of numbers.",
        ),
        "no number": (b"x" + b"".join(lines), "line 1 must be a label and 256 pairs of numbers."),
        "too bright": (libsvm(bright, digits), "line 5 must have pixels from -1 to 1."),
        "an eleventh digit": (libsvm(pixels, label), "line 3 must have labels 1 to 10."),
        "numbered wrongly": (b"".join(swapped), "line 4 must have pixels numbered 1 to 256."),
    }


@pytest.mark.parametrize("wrong", list(damaged()))
def test_damaged_lines_are_refused(tmp_path: Path, wrong: str) -> None:
    content, rule = damaged()[wrong]
    path = tmp_path / "usps.t"
    path.write_bytes(content)
    message = refusal(lambda: read_usps(tmp_path, "test", None))
    remedy = "This is another file, or a damaged one: delete it and fetch USPS again."
    assert message == f"{path}: {rule} {remedy}"


def test_a_split_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    unknown: Any = "validation"
    assert "USPS split (='validation') must be one of 'train', 'test'" in refusal(
        lambda: read_usps(tmp_path, unknown, None)
    )


@pytest.mark.parametrize("loader", ["torch", "ffcv"])
def test_batches_run_from_minus_one_to_one(tmp_path: Path, loader: LoaderName) -> None:
    if loader == "ffcv" and (fault := ffcv_fault()):
        pytest.skip(fault)
    write_usps(tmp_path / "USPS")
    data = USPS(batch_size=1, eval_batch_size=4, root=str(tmp_path), loader=loader, workers=1)
    data.prepare_data()
    data.setup()
    assert len(data.train_dataloader()) == 23
    pixels, digits = synthetic(11, 1)
    images, labels = zip(*data.test_dataloader(), strict=True)
    inputs = data.normalise(torch.cat(images))
    assert inputs.shape == (11, 1, 16, 16)
    assert torch.cat(labels).tolist() == digits.tolist()
    expected = torch.from_numpy(pixels).float().reshape(11, 1, 16, 16)
    torch.testing.assert_close(inputs, expected, rtol=0, atol=0.5 / 127.5 + 1e-6)
