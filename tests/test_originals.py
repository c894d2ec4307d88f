"""The original files are found in every layout and packing, give the same pixels, and damage is named, never read."""

import functools
import gzip
import hashlib
import http.server
import io
import lzma
import multiprocessing
import os
import pickle
import socket
import struct
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from datamodules import originals
from datamodules.originals import DataError, ImageFiles, cache_root, data_root, open_imagenet, read_cifar, read_mnist

PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
WNIDS = ["n01440764", "n02102040", "n03000684"]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own settings are put aside, but for what real_data() has read from them."""
    real_data()
    for name in ("ILSVRC_BENCH_DATA", "ILSVRC_BENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


_REAL: list[Path | None] = []


def real_data() -> Path | None:
    if not _REAL:
        named = os.environ.get("ILSVRC_BENCH_DATA")
        path = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
        _REAL.append(path if path.is_dir() else None)
    return _REAL[0]


def real_folder(*below: str) -> Path:
    """The data root, if it holds the folder asked for; else the test is skipped."""
    root = real_data()
    if root is None or not root.joinpath(*below).exists():
        pytest.skip(f"real data not found: set ILSVRC_BENCH_DATA to a folder that holds {'/'.join(below)}")
    return root


def error_of(action: Callable[[], object]) -> str:
    """The message of the DataError that action must raise; printed, so that `pytest -s` shows every one to be read."""
    with pytest.raises(DataError) as raised:
        action()
    print(f"\n--- {raised.value}")
    return str(raised.value)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# The two roots --------------------------------------------------------------------------------------------------------


def test_data_root_prefers_the_argument_then_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setenv("ILSVRC_BENCH_DATA", str(tmp_path / "b"))
    assert data_root(str(tmp_path / "a")) == tmp_path / "a"
    assert data_root(None) == tmp_path / "b"


def test_data_root_is_by_default_a_folder_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILSVRC_BENCH_CACHE", str(tmp_path / "cache"))
    assert data_root(None) == tmp_path / "cache" / "originals"
    assert data_root(None).is_dir()


def test_data_root_that_is_missing_or_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = error_of(lambda: data_root(str(tmp_path / "nowhere")))
    assert "nowhere" in message
    assert "No such file" in message
    assert "ILSVRC_BENCH_DATA" in message
    monkeypatch.setenv("ILSVRC_BENCH_DATA", str(write(tmp_path / "file", b"")))
    message = error_of(lambda: data_root(None))
    assert "from $ILSVRC_BENCH_DATA" in message
    assert "Not a directory" in message
    assert "correct the path" in message


def test_cache_root_prefers_argument_environment_then_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root(None) == tmp_path / "home" / ".cache" / "ilsvrc-bench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root(None) == tmp_path / "xdg" / "ilsvrc-bench"
    monkeypatch.setenv("ILSVRC_BENCH_CACHE", str(tmp_path / "environment"))
    assert cache_root(None) == tmp_path / "environment"
    assert cache_root("~/mine") == tmp_path / "home" / "mine"
    assert cache_root("~/mine").is_dir()
    assert not list(cache_root("~/mine").iterdir())


def test_cache_root_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    below_a_file = write(tmp_path / "file", b"") / "cache"
    message = error_of(lambda: cache_root(str(below_a_file)))
    assert str(below_a_file) in message
    assert "Not a directory" in message
    assert "set ILSVRC_BENCH_CACHE" in message


# MNIST ----------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def synthetic_digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, 28, 28), np.uint8), generator.integers(0, 10, count, np.uint8)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Seven synthetic test digits, for an MNIST that is said to have seven."""
    monkeypatch.setitem(originals.MNIST_COUNT, "test", 7)
    return synthetic_digits(7)


def write_mnist(
    folder: Path, images: np.ndarray, labels: np.ndarray, packing: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Writes the test split, and lets torchvision's list know the MD5 of what was written."""
    names = [f"t10k-images-idx3-ubyte{packing}", f"t10k-labels-idx1-ubyte{packing}"]
    contents = [PACK[packing](idx(images)), PACK[packing](idx(labels))]
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in zip(names, contents, strict=True)]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    first, second = (write(folder / name, content) for name, content in zip(names, contents, strict=True))
    return first, second


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
@pytest.mark.parametrize("below", ["MNIST/raw", "mnist", "."])
def test_mnist_in_every_place_and_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[np.ndarray, np.ndarray], packing: str, below: str
) -> None:
    files = write_mnist(tmp_path / below, *digits, packing, monkeypatch)
    mnist = read_mnist(tmp_path, "test", None)
    assert mnist.images.shape == (7, 28, 28, 1)
    assert mnist.images.dtype == np.uint8
    assert np.array_equal(mnist.images[..., 0], digits[0])
    assert mnist.labels.dtype == np.int64
    assert np.array_equal(mnist.labels, digits[1])
    assert mnist.classes == tuple("0123456789")
    assert mnist.sources == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert mnist.images.flags.writeable


def test_mnist_is_also_looked_for_among_the_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    write_mnist(tmp_path / "downloads" / "MNIST" / "raw", *digits, ".gz", monkeypatch)
    assert len(read_mnist(tmp_path / "elsewhere", "test", tmp_path / "downloads").labels) == 7


def test_mnist_with_another_md5_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    images, _ = write_mnist(tmp_path, *digits, ".gz", monkeypatch)
    expected = hashlib.md5(images.read_bytes()).hexdigest()
    images.write_bytes(gzip.compress(idx(digits[0][::-1])))
    message = error_of(lambda: read_mnist(tmp_path, "test", None))
    assert images.name in message
    assert expected in message
    assert hashlib.md5(images.read_bytes()).hexdigest() in message
    assert "delete it and fetch it again" in message


@pytest.mark.parametrize("packing", [".gz", ".xz"])
def test_mnist_cut_off_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[np.ndarray, np.ndarray], packing: str
) -> None:
    images, _ = write_mnist(tmp_path, *digits, packing, monkeypatch)
    images.write_bytes(images.read_bytes()[:-100])
    message = error_of(lambda: read_mnist(tmp_path, "test", None))
    assert images.name in message
    assert "fetch it again" in message
    # ... also where the MD5 of the cut file is the one expected, so that the unpacking itself must notice.
    resources = [
        (name, hashlib.md5((tmp_path / name).read_bytes()).hexdigest()) for name, _ in datasets.MNIST.resources
    ]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    message = error_of(lambda: read_mnist(tmp_path, "test", None))
    assert images.name in message
    assert "cannot be unpacked" in message
    assert "fetch it again" in message


def damaged_digits(images: np.ndarray, labels: np.ndarray) -> dict[str, tuple[str, bytes, list[str]]]:
    """What is wrong -> which file, its content, and what the message must say."""
    high = labels.copy()
    high[3] = 11
    pixels = idx(images)
    return {
        "wrong magic": ("images-idx3", b"\x89PNG" + pixels[4:], ["0x89504e47", "0x00000803"]),
        "labels as images": ("images-idx3", idx(labels), ["0x00000801", "0x00000803"]),
        "empty": ("images-idx3", b"", ["0x,", "0x00000803"]),
        "only the magic": ("images-idx3", pixels[:6], ["must be (7, 28, 28)"]),
        "other count": ("images-idx3", idx(images[:6]), ["(6, 28, 28)", "must be (7, 28, 28)"]),
        "other size": ("images-idx3", idx(images[:, :27]), ["(7, 27, 28)"]),
        "cut off": ("images-idx3", pixels[:-1], [f"{len(pixels) - 1} bytes", f"must be {len(pixels)}"]),
        "too long": ("images-idx3", pixels + b"0", [f"{len(pixels) + 1} bytes"]),
        "label range": ("labels-idx1", idx(high), ["label 11 (image 3)", "must be 0 to 9"]),
        "label count": ("labels-idx1", idx(labels[:-1]), ["(6,)", "must be (7,)"]),
    }


@pytest.mark.parametrize("wrong", list(damaged_digits(*synthetic_digits(7))))
def test_mnist_plain_but_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[np.ndarray, np.ndarray], wrong: str
) -> None:
    write_mnist(tmp_path, *digits, "", monkeypatch)
    file, content, expected = damaged_digits(*digits)[wrong]
    path = write(tmp_path / f"t10k-{file}-ubyte", content)
    message = error_of(lambda: read_mnist(tmp_path, "test", None))
    assert all(part in message for part in [str(path), *expected, "delete it and fetch MNIST again"])


def test_mnist_missing_says_where_it_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "mnist" / "train-images-idx3-ubyte.gz", b"")
    message = error_of(lambda: read_mnist(tmp_path, "train", None))
    assert str(tmp_path / "MNIST" / "raw") in message
    assert "set ILSVRC_BENCH_DATA" in message
    assert "incomplete: without train-labels-idx1-ubyte" in message


def test_split_and_variant_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    unknown: Any = "validation"
    for message in (
        error_of(lambda: read_mnist(tmp_path, unknown, None)),
        error_of(lambda: read_cifar(tmp_path, 10, unknown, None)),
        error_of(lambda: open_imagenet(tmp_path, unknown, None)),
    ):
        assert "'validation'" in message
        assert "'train'" in message
        assert "choose" in message
    variant: Any = 20
    assert "20" in error_of(lambda: read_cifar(tmp_path, variant, "test", None))


# Download -------------------------------------------------------------------------------------------------------------


def pretend_download(monkeypatch: pytest.MonkeyPatch, method: Callable[[Any], None]) -> None:
    monkeypatch.setattr(datasets.MNIST, "download", method)


def test_download_that_fails_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(self: Any) -> None:
        write(Path(self.raw_folder) / "t10k-images-idx3-ubyte.gz", b"half a fi")
        raise RuntimeError("Error downloading:\nTried https://mirror, got:\n<urlopen error no network>")

    pretend_download(monkeypatch, no_network)
    root, downloads = tmp_path / "root", tmp_path / "downloads"
    root.mkdir()
    message = error_of(lambda: read_mnist(root, "test", downloads))
    assert "no network" in message
    assert str(downloads) in message
    assert str(root / "MNIST" / "raw") in message
    assert "set ILSVRC_BENCH_DATA" in message
    assert message.count("Looked in") == 1
    assert not list(root.iterdir())
    assert not list(downloads.rglob("*ubyte*"))


def test_download_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    below_a_file = write(tmp_path / "file", b"") / "downloads"
    message = error_of(lambda: read_mnist(tmp_path, "test", below_a_file))
    assert str(below_a_file) in message
    assert "set ILSVRC_BENCH_DATA" in message


def test_download_that_leaves_files_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_download(monkeypatch, lambda self: None)
    monkeypatch.setattr(datasets.MNIST, "_check_exists", lambda self: True)
    monkeypatch.setattr(datasets.MNIST, "_load_data", lambda self: (None, None))
    message = error_of(lambda: read_mnist(tmp_path, "test", tmp_path / "downloads"))
    assert "left files out" in message
    assert "set ILSVRC_BENCH_DATA" in message


def test_download_happens_once_however_many_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    made = write_mnist(tmp_path / "made", *digits, ".gz", monkeypatch)
    calls: list[int] = []
    together = threading.Barrier(4)

    def download(self: Any) -> None:
        calls.append(1)
        for file in made:
            write(Path(self.raw_folder) / file.name, file.read_bytes())

    pretend_download(monkeypatch, download)
    monkeypatch.setattr(datasets.MNIST, "_check_exists", lambda self: True)
    monkeypatch.setattr(datasets.MNIST, "_load_data", lambda self: (None, None))
    write(tmp_path / "downloads" / ".MNIST.partial" / "MNIST" / "raw" / "left-by-a-killed-run.gz", b"half a fi")

    def read(_: int) -> np.ndarray:
        together.wait()
        return read_mnist(tmp_path / "root", "test", tmp_path / "downloads").labels

    with ThreadPoolExecutor(4) as pool:
        read_by_all = list(pool.map(read, range(4)))
    assert len(calls) == 1
    assert all(np.array_equal(labels, digits[1]) for labels in read_by_all)
    left = sorted(path.name for path in (tmp_path / "downloads").rglob("*") if path.is_file())
    assert [name for name in left if not name.endswith(".lock")] == sorted(file.name for file in made)


# CIFAR ----------------------------------------------------------------------------------------------------------------


def synthetic_cifar(variant: int) -> dict[str, dict[str, Any]]:
    """Batch name -> what is pickled in it, four images a batch."""
    generator = np.random.default_rng(variant)

    def batch() -> dict[str, Any]:
        data = generator.integers(0, 256, (4, 3072), np.uint8)
        labels = generator.integers(0, variant, 4).tolist()
        return {"data": data, "labels": labels} if variant == 10 else {"data": data, "fine_labels": labels}

    names = [f"class {number}" for number in range(variant)]
    if variant == 100:
        return {"train": batch(), "test": batch(), "meta": {"fine_label_names": names}}
    batches = {f"data_batch_{number}": batch() for number in range(1, 6)}
    return {**batches, "test_batch": batch(), "batches.meta": {"label_names": names}}


def pickled_cifar(variant: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Batch name -> its pickle, whose MD5s torchvision's lists are made to hold."""
    pickles = {name: pickle.dumps(batch, protocol=2) for name, batch in synthetic_cifar(variant).items()}
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in pickles.items()}
    dataset = datasets.CIFAR10 if variant == 10 else datasets.CIFAR100
    for of_split in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, of_split, [[name, md5s[name]] for name, _ in getattr(dataset, of_split)])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5s[dataset.meta["filename"]]})
    return pickles


def write_tar(path: Path, files: dict[str, bytes], mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


CIFAR_FOLDER = {10: "cifar-10-batches-py", 100: "cifar-100-python"}
CIFAR_TAR = {10: "cifar-10-python.tar.gz", 100: "cifar-100-python.tar.gz"}


@pytest.mark.parametrize("variant", [10, 100])
@pytest.mark.parametrize("form", ["", ".xz", ".gz", "tar.gz", "cifar{}", "cifar-{}", "itself"])
def test_cifar_in_every_place_and_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: Any, form: str
) -> None:
    pickles = pickled_cifar(variant, monkeypatch)
    folder = tmp_path / CIFAR_FOLDER[variant]
    if form == "tar.gz":
        inside = {f"{CIFAR_FOLDER[variant]}/{name}": content for name, content in pickles.items()}
        write_tar(tmp_path / CIFAR_TAR[variant], inside, "w:gz")
    elif form in PACK:
        for name, content in pickles.items():
            write(folder / (name + form), PACK[form](content))
    else:
        folder = tmp_path if form == "itself" else tmp_path / form.format(variant) / CIFAR_FOLDER[variant]
        for name, content in pickles.items():
            write(folder / name, content)
    batches = synthetic_cifar(variant)
    train, test = read_cifar(tmp_path, variant, "train", None), read_cifar(tmp_path, variant, "test", None)
    assert train.images.shape == (20 if variant == 10 else 4, 32, 32, 3)
    assert train.images.dtype == np.uint8
    assert test.classes == tuple(f"class {number}" for number in range(variant))
    last = batches["data_batch_5" if variant == 10 else "train"]
    key = "labels" if variant == 10 else "fine_labels"
    assert train.labels.dtype == np.int64
    assert train.labels[-4:].tolist() == last[key]
    for row, column, channel in [(0, 0, 0), (5, 31, 1), (31, 0, 2)]:  # planes R, G, B, each row by row
        assert train.images[-1, row, column, channel] == last["data"][3, channel * 1024 + row * 32 + column]
    assert train.images.flags.writeable
    assert train.images.flags.c_contiguous
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*") if path.is_file()}
    assert train.sources
    assert train.sources.items() <= found.items()


class Trap:
    """A pickle that, once unpickled, has written a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("packing", ["", ".xz"])
def test_cifar_that_is_not_the_original_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    pickles = pickled_cifar(10, monkeypatch)
    expected = hashlib.md5(pickles["test_batch"]).hexdigest()
    trap = pickle.dumps(Trap(str(tmp_path / "sprung")))
    for name, content in {**pickles, "test_batch": trap}.items():
        write(tmp_path / "cifar-10-batches-py" / (name + packing), PACK[packing](content))
    message = error_of(lambda: read_cifar(tmp_path, 10, "test", None))
    assert f"test_batch{packing}" in message
    assert expected in message
    assert hashlib.md5(trap).hexdigest() in message
    assert "not be unpickled" in message
    assert "fetch it again" in message
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()  # the trap was live


def test_cifar_cut_off_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickles = pickled_cifar(10, monkeypatch)
    inside = {f"cifar-10-batches-py/{name}": content for name, content in pickles.items()}
    archive = write_tar(tmp_path / "cifar-10-python.tar.gz", inside, "w:gz")
    archive.write_bytes(archive.read_bytes()[:-5000])
    message = error_of(lambda: read_cifar(tmp_path, 10, "test", None))
    assert str(archive) in message
    assert "fetch it again" in message
    for name, content in pickles.items():
        write(tmp_path / "cifar-10-batches-py" / f"{name}.xz", lzma.compress(content)[:-20])
    message = error_of(lambda: read_cifar(tmp_path, 10, "test", None))
    assert "test_batch.xz" in message
    assert "cannot be unpacked" in message
    assert "fetch it again" in message


def test_cifar_incomplete_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickles = pickled_cifar(10, monkeypatch)
    inside = {f"cifar-10-batches-py/{name}": pickles[name] for name in ("test_batch", "data_batch_1")}
    archive = write_tar(tmp_path / "in-tar" / "cifar-10-python.tar.gz", inside, "w:gz")
    message = error_of(lambda: read_cifar(archive.parent, 10, "test", None))
    assert str(archive) in message
    assert "lacks batches.meta" in message
    assert "fetch it again" in message
    for name in ("data_batch_1", "batches.meta"):
        write(tmp_path / "cifar10" / "cifar-10-batches-py" / name, pickles[name])
    message = error_of(lambda: read_cifar(tmp_path, 10, "train", None))
    assert "incomplete: without data_batch_2, data_batch_3" in message
    assert "cifar-10-python.tar.gz into" in message
    assert "set ILSVRC_BENCH_DATA" in message


def test_a_path_that_leads_out_of_the_archive_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickles = pickled_cifar(10, monkeypatch)
    inside = {f"../../cifar-10-batches-py/{name}": content for name, content in pickles.items()}
    write_tar(tmp_path / "a" / "b" / "cifar-10-python.tar.gz", inside, "w:gz")
    assert len(read_cifar(tmp_path / "a" / "b", 10, "test", None).labels) == 4
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["cifar-10-python.tar.gz"]


# ImageNet -------------------------------------------------------------------------------------------------------------


def encoded(mode: str, file_format: str, color: Any, size: tuple[int, int] = (24, 16)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, color).save(stream, file_format)
    return stream.getvalue()


def imagenet_files(split: str) -> dict[str, bytes]:
    """ "class/file" -> encoded bytes: two images in each of three classes, of the kinds that ImageNet holds."""
    kinds = [
        encoded("RGB", "JPEG", (200, 30, 30)),
        encoded("L", "JPEG", 90),
        encoded("CMYK", "JPEG", (0, 255, 255, 0)),
        encoded("RGB", "PNG", (1, 2, 3), (5, 7)),
        encoded("P", "PNG", 0),
        encoded("RGB", "JPEG", (30, 30, 200), (40, 10)),
    ]
    if split == "train":
        names = [f"{wnid}/{wnid}_{number}.JPEG" for wnid in WNIDS for number in (10, 9)]
    else:
        names = [f"{WNIDS[(number * 2) % 3]}/ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 7)]
    return dict(zip(names, kinds, strict=True))


def write_folder(root: Path, split: str) -> Path:
    for name, content in imagenet_files(split).items():
        write(root / split / name, content)
    return root


def write_train_tar(root: Path) -> Path:
    inner = {}
    for wnid in WNIDS[::-1]:
        below = {n.split("/")[1]: c for n, c in imagenet_files("train").items() if n.startswith(wnid)}
        inner[f"{wnid}.tar"] = write_tar(root / "packing.tar", {"notes.txt": b"x" * 700, **below}).read_bytes()
    (root / "packing.tar").unlink()
    return write_tar(root / "ILSVRC2012_img_train.tar", inner)


def write_devkit(root: Path, truth: list[int]) -> Path:
    """The ids 1, 2, 3 stand for the classes in an order that is not the sorted one; id 4 is an inner node."""
    scipy_io = pytest.importorskip("scipy.io")
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children"]
    synsets = np.empty((4, 1), dtype=[(field, object) for field in fields])
    for row, wnid in enumerate([WNIDS[2], WNIDS[0], WNIDS[1], "n00001740"]):
        synsets[row, 0] = (float(row + 1), wnid, "word, another word", "gloss", float(wnid == "n00001740"))
    stream = io.BytesIO()
    scipy_io.savemat(stream, {"synsets": synsets})
    files = {
        "ILSVRC2012_devkit_t12/readme.txt": b"",
        "ILSVRC2012_devkit_t12/data/meta.mat": stream.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{i}\n" for i in truth).encode(),
    }
    return write_tar(root / "ILSVRC2012_devkit_t12.tar.gz", files, "w:gz")


def val_truth() -> list[int]:
    ids = {WNIDS[2]: 1, WNIDS[0]: 2, WNIDS[1]: 3}
    return [ids[name.split("/")[0]] for name in imagenet_files("val")]


def write_val_tar(root: Path) -> Path:
    write_devkit(root, val_truth())
    shuffled = sorted(imagenet_files("val").items(), key=lambda item: hashlib.md5(item[0].encode()).digest())
    return write_tar(root / "ILSVRC2012_img_val.tar", {name.split("/")[1]: content for name, content in shuffled})


def contents(files: ImageFiles) -> list[tuple[str, int, bytes]]:
    return [(files.name(index), int(files.labels[index]), files.read(index)) for index in range(len(files))]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("below", [".", "imagenet", "imagenet-sample"])
def test_imagenet_folder(tmp_path: Path, split: Any, below: str) -> None:
    write_folder(tmp_path / below, split)
    write(tmp_path / below / split / WNIDS[0] / "Thumbs.db", b"")
    write(tmp_path / below / split / WNIDS[0] / f"._{WNIDS[0]}_9.JPEG", b"")
    write(tmp_path / below / split / ".ipynb_checkpoints" / "a.JPEG", b"")
    write(tmp_path / below / split / "list.txt", b"")
    files = open_imagenet(tmp_path, split, None)
    expected = sorted((name, WNIDS.index(name.split("/")[0]), data) for name, data in imagenet_files(split).items())
    assert len(files) == 6
    assert contents(files) == expected
    assert files.classes == tuple(WNIDS)
    assert files.labels.dtype == np.int64
    lines = sorted(f"{name} {len(data)}\n" for name, _, data in expected)
    assert files.sources == {split: hashlib.sha256("".join(lines).encode()).hexdigest()}


def test_imagenet_folder_is_as_torchvision_sees_it(tmp_path: Path) -> None:
    files = open_imagenet(write_folder(tmp_path, "train"), "train", None)
    theirs = datasets.ImageFolder(str(tmp_path / "train"))
    assert len(theirs) == 6
    assert theirs.classes == list(files.classes)
    for index, (path, label) in enumerate(theirs.samples):
        assert path.endswith(files.name(index))
        assert label == files.labels[index]
        assert np.array_equal(np.asarray(theirs[index][0]), files.decode(index))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("classes", [None, [WNIDS[2], WNIDS[0]]])
def test_imagenet_tar_gives_what_the_folder_gives(tmp_path: Path, split: Any, classes: list[str] | None) -> None:
    tar = write_train_tar(tmp_path / "tar") if split == "train" else write_val_tar(tmp_path / "tar")
    before = tar.stat()
    folder = open_imagenet(write_folder(tmp_path / "folder", split), split, classes)
    files = open_imagenet(tmp_path / "tar", split, classes)
    assert len(files) == (6 if classes is None else 4)
    assert contents(files) == contents(folder)
    assert files.classes == folder.classes == tuple(classes or WNIDS)
    assert files.sources == folder.sources
    for index in range(len(files)):
        assert np.array_equal(files.decode(index), folder.decode(index))
    assert tar.stat() == before or tar.stat().st_mtime_ns == before.st_mtime_ns


def test_every_kind_of_image_becomes_rgb(tmp_path: Path) -> None:
    files = open_imagenet(write_folder(tmp_path, "train"), "train", None)
    images = {files.name(index): files.decode(index) for index in range(len(files))}
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 for image in images.values())
    assert all(image.flags.writeable for image in images.values())
    gray, cmyk, png = (images[f"{w}/{w}_{n}.JPEG"] for w, n in [(WNIDS[0], 9), (WNIDS[1], 10), (WNIDS[1], 9)])
    assert gray.shape == (16, 24, 3)
    assert (gray == 90).all()
    assert np.abs(cmyk.astype(int) - [255, 0, 0]).max() <= 3  # no cyan, all magenta, all yellow: red
    assert png.shape == (7, 5, 3)
    assert (png == [1, 2, 3]).all()


def test_subset_is_numbered_in_the_order_given(tmp_path: Path) -> None:
    files = open_imagenet(write_folder(tmp_path, "train"), "train", [WNIDS[2], WNIDS[0]])
    assert files.classes == (WNIDS[2], WNIDS[0])
    assert files.labels.tolist() == [0, 0, 1, 1]
    assert [files.name(index).split("/")[0] for index in range(4)] == [WNIDS[2]] * 2 + [WNIDS[0]] * 2


@pytest.mark.parametrize("packed", [False, True])
def test_subset_with_unknown_or_repeated_classes_is_refused(tmp_path: Path, packed: bool) -> None:
    _ = write_train_tar(tmp_path) if packed else write_folder(tmp_path, "train")
    message = error_of(lambda: open_imagenet(tmp_path, "train", [WNIDS[0], "n99999999", "tench"]))
    assert "n99999999, tench" in message
    assert WNIDS[0] in message
    assert "correct the list" in message
    message = error_of(lambda: open_imagenet(tmp_path, "train", [WNIDS[0], WNIDS[0]]))
    assert WNIDS[0] in message
    assert "once" in message
    assert "Correct the list" in message
    message = error_of(lambda: open_imagenet(tmp_path, "train", []))
    assert "none" in message
    assert "at least one" in message
    assert "Correct the list" in message


def test_broken_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, "train")
    name = f"{WNIDS[1]}/{WNIDS[1]}_10.JPEG"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    whole = stream.getvalue()
    for broken in (whole[: len(whole) // 2], b"", b"not an image", encoded("RGB", "PNG", 0)[:50]):
        write(tmp_path / "train" / name, broken)
        files = open_imagenet(tmp_path, "train", None)
        index = [files.name(index) for index in range(6)].index(name)
        message = error_of(lambda files=files, index=index: files.decode(index))  # type: ignore[misc]
        assert name in message
        assert f"({len(broken)} bytes)" in message
        assert "fetch this one again" in message
        assert files.read(index) == broken


def test_image_that_goes_away_is_named(tmp_path: Path) -> None:
    files = open_imagenet(write_folder(tmp_path, "train"), "train", None)
    (tmp_path / "train" / files.name(0)).unlink()
    message = error_of(lambda: files.read(0))
    assert files.name(0) in message
    assert "No such file" in message
    assert "restore it" in message


def test_image_folder_without_images_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "train")
    write(tmp_path / "train" / "n00000001" / "readme.txt", b"")
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert "1 of 4 classes hold no image (n00000001)" in message
    assert "remove the empty class" in message
    assert len(open_imagenet(tmp_path, "train", WNIDS)) == 6
    write(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", b"")
    message = error_of(lambda: open_imagenet(tmp_path, "val", None))
    assert str(tmp_path / "val") in message
    assert "no class folders" in message
    assert "Sort the images" in message
    (tmp_path / "val" / WNIDS[0]).mkdir()
    (tmp_path / "val" / WNIDS[0] / "gone.JPEG").symlink_to(tmp_path / "nowhere")
    message = error_of(lambda: open_imagenet(tmp_path, "val", None))
    assert "gone.JPEG" in message
    assert "No such file" in message
    assert "restore it" in message


def test_imagenet_missing_says_where_it_was_looked_for(tmp_path: Path) -> None:
    for split in ("train", "val"):
        message = error_of(lambda split=split: open_imagenet(tmp_path, split, None))  # type: ignore[misc]
        assert str(tmp_path / "imagenet-sample") in message
        assert f"ILSVRC2012_img_{split}.tar" in message
        assert "set ILSVRC_BENCH_DATA" in message
        assert ("devkit" in message) == (split == "val")
    write_folder(tmp_path / "imagenet-sample", "train")
    (tmp_path / "imagenet").mkdir()  # whoever has an imagenet does not get the sample in its place
    assert "imagenet-sample" not in error_of(lambda: open_imagenet(tmp_path, "train", None))


def test_damaged_train_tar_is_refused(tmp_path: Path) -> None:
    whole = write_train_tar(tmp_path).read_bytes()
    path = tmp_path / "ILSVRC2012_img_train.tar"
    with tarfile.open(path) as archive:
        second, third = archive.getmembers()[1:]
    with_bad_header = bytearray(whole)
    with_bad_header[third.offset : third.offset + 10] = b"0123456789"
    damaged = {
        "empty": b"",
        "not a tar": b"<html>404</html>" * 100,
        "gzipped": gzip.compress(whole),
        "cut inside the data": whole[: second.offset_data + 1000],
        "cut inside a header": whole[: third.offset + 100],
        "cut between two files": whole[: third.offset],  # tarfile alone takes this one for whole
        "bad header": bytes(with_bad_header),  # and this one
        "bad inner header": whole.replace(WNIDS[0].encode() + b"_9", b"x" + WNIDS[0].encode()[1:] + b"_9"),
    }
    for wrong, content in damaged.items():
        assert content != whole, wrong
        path.write_bytes(content)
        message = error_of(lambda: open_imagenet(tmp_path, "train", None))
        assert str(path) in message, wrong
        assert "delete it and fetch it again" in message, wrong
    write_tar(path, {"readme.txt": b""})
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert str(path) in message
    assert "no <wnid>.tar" in message
    assert "fetch that" in message


def test_tar_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = write_train_tar(tmp_path)
    files = open_imagenet(tmp_path, "train", None)
    os.truncate(path, 1000)
    message = error_of(lambda: files.read(0))
    assert files.name(0) in message
    assert "cut off" in message
    assert "fetch it again" in message
    pickled = pickle.dumps(files)
    path.unlink()
    message = error_of(lambda: pickle.loads(pickled))
    assert str(path) in message
    assert "No such file" in message
    assert "restore it" in message


def test_val_tar_without_fitting_labels_is_refused(tmp_path: Path) -> None:
    path = write_val_tar(tmp_path)
    devkit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    devkit.unlink()
    message = error_of(lambda: open_imagenet(tmp_path, "val", None))
    assert str(devkit) in message
    assert "missing" in message
    assert "Put it there" in message

    write_devkit(tmp_path, val_truth()[:5])
    message = error_of(lambda: open_imagenet(tmp_path, "val", None))
    assert str(path) in message
    assert "6 images" in message
    assert "labels for 5" in message
    assert "again" in message

    write_devkit(tmp_path, [*val_truth()[:5], 17])
    message = error_of(lambda: open_imagenet(tmp_path, "val", None))
    assert str(devkit) in message
    assert "17" in message
    assert "fetch the development kit again" in message

    inside = {f"d/data/{name}": b"1\n" for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")}
    write_tar(devkit, inside, "w:gz")
    message = error_of(lambda: open_imagenet(tmp_path, "val", None))
    assert str(devkit) in message
    assert "meta.mat cannot be read" in message
    assert "development kit again" in message

    devkit.write_bytes(devkit.read_bytes()[:-30])
    message = error_of(lambda: open_imagenet(tmp_path, "val", None))
    assert str(devkit) in message
    assert "fetch it again" in message


def test_val_tar_with_other_names_is_refused(tmp_path: Path) -> None:
    write_val_tar(tmp_path)
    for name in ("ILSVRC2012_val_00000099.JPEG", "ILSVRC2012_test_00000001.JPEG"):
        renamed = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 6)] + [name]
        write_tar(tmp_path / "ILSVRC2012_img_val.tar", dict.fromkeys(renamed, b"x"))
        message = error_of(lambda: open_imagenet(tmp_path, "val", None))
        assert name in message
        assert "ILSVRC2012_val_00000006.JPEG" in message
        assert "Fetch the original" in message


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # DataLoader forks as well
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_image_files_work_in_another_process(tmp_path: Path, form: str) -> None:
    _ = write_folder(tmp_path, "train") if form == "folder" else write_train_tar(tmp_path)
    files = open_imagenet(tmp_path, "train", None)
    here = [files.read(index) for index in range(6)]
    assert contents(pickle.loads(pickle.dumps(files))) == contents(files)
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(files.read, range(6), chunksize=1) == here


@pytest.mark.filterwarnings("error")
def test_image_files_work_in_many_threads(tmp_path: Path) -> None:
    write_train_tar(tmp_path)
    files = open_imagenet(tmp_path, "train", None)
    here = [files.read(index) for index in range(6)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read, list(range(6)) * 200)) == here * 200


def test_tar_is_closed_with_the_last_reference(tmp_path: Path) -> None:
    path = write_train_tar(tmp_path)
    files = open_imagenet(tmp_path, "train", None)

    def open_here() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{number}") == str(path) for number in os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are counted in /proc")
    assert len(files)
    assert open_here() == 1
    del files
    assert open_here() == 0


# Real data ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_real_mnist() -> None:
    root = real_folder("MNIST", "raw")
    train, test = read_mnist(root, "train", None), read_mnist(root, "test", None)
    assert train.images.shape == (60_000, 28, 28, 1)
    assert test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.images.mean() / 255 == pytest.approx(0.13066, abs=5e-6)
    assert train.images.std() / 255 == pytest.approx(0.30811, abs=5e-6)


def test_real_mnist_downloads_from_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own download, with this machine as the mirror; the first mirror refuses the connection."""
    root = real_folder("MNIST", "raw")
    handler = functools.partial(QuietHandler, directory=str(root / "MNIST" / "raw"))
    with QuietServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        mirrors = ["http://127.0.0.1:1/", f"http://127.0.0.1:{server.server_port}/"]
        monkeypatch.setattr(datasets.MNIST, "mirrors", mirrors)
        test = read_mnist(tmp_path / "root", "test", tmp_path / "downloads")
        server.shutdown()
    assert len(test.labels) == 10_000
    assert not (tmp_path / "root").exists()
    monkeypatch.setattr(datasets.MNIST, "mirrors", mirrors[:1])
    assert len(read_mnist(tmp_path / "root", "train", tmp_path / "downloads").labels) == 60_000
    assert socket.getdefaulttimeout() is None
    message = error_of(lambda: read_mnist(tmp_path / "root", "test", tmp_path / "others"))
    assert "Connection refused" in message
    assert "set ILSVRC_BENCH_DATA" in message


class QuietServer(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """torchvision opens each address once more, to see whether it is redirected, and hangs up."""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.filterwarnings("error")
def test_real_cifar10() -> None:
    root = real_folder("cifar10", "cifar-10-batches-py")
    train, test = read_cifar(root, 10, "train", None), read_cifar(root, 10, "test", None)
    assert train.images.shape == (50_000, 32, 32, 3)
    assert test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    assert train.images.mean((0, 1, 2)) / 255 == pytest.approx([0.49140, 0.48216, 0.44653], abs=5e-6)
    assert train.classes[0] == "airplane"
    assert train.classes[9] == "truck"


@pytest.mark.filterwarnings("error")
def test_real_imagenet_sample() -> None:
    root = real_folder("imagenet-sample", "train")
    for split, per_class, gray in (("train", 130, 24), ("val", 35, 8)):
        files = open_imagenet(root / "imagenet-sample", split, None)  # type: ignore[arg-type]
        assert len(files.classes) == 10
        assert files.classes[0] == "n01440764"
        assert files.classes[9] == "n03888257"
        assert np.bincount(files.labels).tolist() == [per_class] * 10
        theirs = datasets.ImageFolder(str(root / "imagenet-sample" / split))
        assert [label for _, label in theirs.samples] == files.labels.tolist()
        images = [files.decode(index) for index in range(len(files))]
        assert {image.shape for image in images} == {(224, 224, 3)}
        without_color = sum((image == image[..., :1]).all() for image in images)
        assert without_color >= gray


@pytest.mark.filterwarnings("error")
def test_real_imagenet_originals_decode(tmp_path: Path) -> None:
    root = real_folder("imagenet-originals")
    (tmp_path / "val").symlink_to(root / "imagenet-originals")
    files = open_imagenet(tmp_path, "val", None)
    sizes = {files.decode(index).shape for index in range(len(files))}
    assert len(files) == len(files.classes) == 73
    assert len(sizes) == 51
    assert (121, 68, 3) in sizes or (68, 121, 3) in sizes
