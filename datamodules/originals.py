"""The original files of MNIST, USPS, CIFAR, ImageNet: found wherever they are kept, however they are packed, and read.

A dataset is looked for below one folder, the data root; each reader's docstring lists its places in the order in which
they are tried. Files are read where they lie: nothing is unpacked to disk, nothing is written beside them. A download
goes to a folder of its own. Images are uint8, [N, H, W, C] together or [H, W, C] alone: N images, H rows, W columns, C
channels (1 gray, 3 red-green-blue).
"""

from __future__ import annotations

import bz2
import copy
import gzip
import hashlib
import io
import lzma
import os
import pickle
import re
import shutil
import socket
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

DATA_VARIABLE = "ILSVRC_BENCH_DATA"
CACHE_VARIABLE = "ILSVRC_BENCH_CACHE"


class DataError(Exception):
    """A dataset that is missing, damaged or not what was asked for; the message says value, rule, remedy."""


@dataclass(frozen=True)
class ImageArray:
    """A dataset that fits in memory.

    images: uint8 [N, H, W, C]. labels: int64 [N], an index into classes. sources: the name of every file that was read
    -> the SHA-256 of its bytes as found, packed or plain (what `sha256sum` prints).
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    sources: dict[str, str]


class BrokenImage(DataError):
    """One image of a dataset that cannot be read or decoded; `reason` says why in a few words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.reason)  # across processes


class ImageFiles:
    """A dataset that is decoded image by image, from files below a folder or from byte ranges of one tar.

    labels: int64 [N], an index into classes. sources: split -> the SHA-256 over the sorted lines "name size", which is
    the same for a folder and for the tar it was unpacked from. skipped: names of the images that were left out because
    they cannot be decoded. Images are in class order, then by name.

    Can be pickled, forked and shared between threads: every read names its own place in the file, so there is no
    common offset to disturb.
    """

    def __init__(self, path: Path, split: str, classes: Sequence[str], images: Sequence[Sequence[StoredImage]]):
        """images: one list per class, sorted by name. path: the folder that holds the names, or the tar."""
        flat = [image for of_one_class in images for image in of_one_class]
        self.labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(of_one_class) for of_one_class in images])
        self.classes = tuple(classes)
        self.skipped: tuple[str, ...] = ()
        self._split = split
        self._path = path
        # Arrays rather than lists: a million Python objects would be copied into every forked worker as it counts
        # references to them.
        self._names = np.array([os.fsencode(image.name) for image in flat], dtype=np.bytes_)
        self._offsets = np.array([image.offset for image in flat], dtype=np.int64)
        self._sizes = np.array([image.size for image in flat], dtype=np.int64)
        self.sources = {split: self._listing_sha256()}
        self._open()

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Class folder and file, such as "n01440764/n01440764_10026.JPEG", also for an image inside a tar."""
        return os.fsdecode(self._names[index].item())

    def size(self, index: int) -> int:
        """Bytes of the encoded image as listed; -1 where a listing does not say."""
        return int(self._sizes[index])

    def without(self, skipped: Sequence[int]) -> ImageFiles:
        """The same dataset without the images of these numbers; the others keep their order.

        Raises:
            DataError: a class would be left without an image.
        """
        kept = np.ones(len(self), dtype=bool)
        kept[list(skipped)] = False
        left = copy.copy(self)
        for name, column in self._columns().items():
            setattr(left, name, column[kept])
        left.skipped = self.skipped + tuple(self.name(int(index)) for index in np.flatnonzero(~kept))
        left.sources = {self._split: left._listing_sha256()}
        empty = [self.classes[label] for label in set(self.labels.tolist()) - set(left.labels.tolist())]
        if empty:
            raise DataError(
                f"{self._path}: no image of {len(empty)} classes ({some(sorted(empty))}) can be decoded. Every class "
                "must keep at least one: fetch these again."
            )
        return left

    def listing_bytes(self) -> int:
        """Bytes of memory that names, sizes and labels take, in every process that has them."""
        return sum(column.nbytes for column in self._columns().values())

    def _columns(self) -> dict[str, np.ndarray]:
        """The attributes that have one row per image."""
        return {name: getattr(self, name) for name in ("labels", "_names", "_offsets", "_sizes")}

    def _listing_sha256(self) -> str:
        lines = sorted(b"%b %d\n" % line for line in zip(self._names.tolist(), self._sizes.tolist(), strict=True))
        return hashlib.sha256(b"".join(lines)).hexdigest()

    def read(self, index: int) -> bytes:
        """The encoded bytes as stored. Raises DataError if the file has gone or is shorter than it was."""
        try:
            if self._descriptor is None:
                return (self._path / self.name(index)).read_bytes()
            stored = os.pread(self._descriptor, int(self._sizes[index]), int(self._offsets[index]))
        except OSError as error:
            refused = unreadable(self._path / self.name(index), error)
            raise BrokenImage(str(refused), f"cannot be read: {error.strerror}") from error
        if len(stored) != self._sizes[index]:
            raise BrokenImage(
                f"{self._path}: image {self.name(index)} ends after {len(stored)} bytes, its tar header says "
                f"{self._sizes[index]}. The archive was cut off: fetch it again.",
                f"ends after {len(stored)} of {self._sizes[index]} bytes",
            )
        return stored

    def decode(self, index: int) -> np.ndarray:
        """The image as uint8 [H, W, 3], RGB whatever it was stored as (gray, CMYK, a PNG that is named .JPEG).

        It becomes RGB by PIL's `convert`, as in torchvision. The EXIF orientation is not applied: torchvision and FFCV
        do not apply it either, and neither did the papers. What PIL only warns of, such as the damaged EXIF of some of
        ImageNet's photos, is decoded.

        Raises:
            BrokenImage: a DataError that names the file: it is broken or cut off, no image, or has more pixels than
                PIL's limit against decompression bombs, 179 million.
        """
        stored = self.read(index)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="PIL")
                with Image.open(io.BytesIO(stored)) as image:
                    return np.array(image.convert("RGB"))
        except MemoryError:
            raise
        except Exception as error:  # a damaged file makes PIL raise nearly anything
            reason = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error) or repr(error)
            raise BrokenImage(
                f"{self._path}: image {self.name(index)} ({len(stored)} bytes) cannot be decoded: {reason}. Every "
                "image must be whole: fetch this one again, or leave it out: `python -m benchmarks prepare DATASET "
                "--corrupt skip`.",
                f"cannot be decoded: {reason}",
            ) from error

    def _open(self) -> None:
        packed = len(self._offsets) > 0 and self._offsets[0] >= 0
        self._descriptor: int | None = None
        if packed:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise unreadable(self._path, error) from error

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)  # absent where the constructor raised
        if descriptor is not None:
            os.close(descriptor)


class StoredImage(NamedTuple):
    """Where an image lies: name is "class/file", size in bytes, offset in bytes into the tar (-1: not in a tar)."""

    name: str
    size: int
    offset: int


# Where things are kept ------------------------------------------------------------------------------------------------


def data_root(root: str | None) -> Path:
    """The folder below which originals are looked for: root, else $ILSVRC_BENCH_DATA, else "originals" in the cache.

    Raises DataError if the folder that was named is not a readable directory. The default is created, empty.
    """
    if not root and not os.environ.get(DATA_VARIABLE):
        return _writable_folder(cache_root(None) / "originals", "the default data root")
    named, origin = (root, "given as the data root") if root else (os.environ[DATA_VARIABLE], f"from ${DATA_VARIABLE}")
    path = _expand_home(str(named))
    try:
        os.listdir(path)
    except OSError as error:
        raise DataError(
            f"{path} ({origin}): {error.strerror}. The data root must be an existing, readable folder: correct the "
            f"path, or set {DATA_VARIABLE} to the folder that holds the datasets."
        ) from error
    return path


def cache_root(cache: str | None) -> Path:
    """The folder for what the suite makes itself: cache, else $ILSVRC_BENCH_CACHE, else ~/.cache/ilsvrc-bench.

    $XDG_CACHE_HOME stands for ~/.cache where it is set. The folder is created. Raises DataError if it cannot be
    written to.
    """
    if cache:
        return _writable_folder(_expand_home(cache), "given as the cache")
    if os.environ.get(CACHE_VARIABLE):
        return _writable_folder(_expand_home(os.environ[CACHE_VARIABLE]), f"from ${CACHE_VARIABLE}")
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _writable_folder(_expand_home(user_cache) / "ilsvrc-bench", "the default cache")


def _expand_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: the home folder is unknown ({error}). Set HOME, or name a full path.") from error


def _writable_folder(path: Path, origin: str) -> Path:
    """Creates the folder, and writes to it once: permission bits do not tell of full disks or read-only mounts."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"1")
    except OSError as error:
        raise DataError(
            f"{path} ({origin}): {error.strerror}. The cache must be a folder that can be written to: set "
            f"{CACHE_VARIABLE} to one, on a disk with room."
        ) from error
    return path


# Files, plain or packed -----------------------------------------------------------------------------------------------


def _identity(packed: bytes) -> bytes:
    return packed


def _unpack_bz2(packed: bytes) -> bytes:
    with bz2.open(io.BytesIO(packed)) as file:  # raises EOFError where a file is cut off; bz2.decompress a ValueError
        return file.read()


UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "": _identity,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".bz2": _unpack_bz2,
}
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)


class Found(NamedTuple):
    """A file as found: its own path, the name it has unpacked, and its suffix of packing ("", ".gz", ".xz")."""

    path: Path
    name: str
    packing: str


def _find(folder: Path, names: Sequence[str], packings: Sequence[str]) -> list[Found]:
    """Those of the named files that the folder holds, each in the first packing that is there."""
    found = []
    for name in names:
        packed = next((packing for packing in packings if (folder / (name + packing)).is_file()), None)
        if packed is not None:
            found.append(Found(folder / (name + packed), name, packed))
    return found


def _read_packed(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def _unpack(found: Found, packed: bytes) -> bytes:
    with _damage_named(found.path):
        return UNPACK[found.packing](packed)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turns what the standard library raises for a damaged archive into a DataError that names the archive."""
    try:
        yield
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's refusal; gzip's errors have no number
            raise unreadable(path, error) from error
        raise DataError(
            f"{path} cannot be unpacked: {error}. It is damaged or cut off: delete it and fetch it again."
        ) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """What the system's refusal to read a file or folder is to the user."""
    return DataError(
        f"{path} cannot be read: {error.strerror}. It must be there and readable to this user: restore it, or correct "
        "its permissions."
    )


def _check_md5(path: Path, what: str, content: bytes, expected: str, remedy: str) -> None:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != expected:
        raise DataError(f"{path}: {what} has MD5 {md5} ({len(content)} bytes), the original has {expected}. {remedy}")


def _check_choice(what: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise DataError(f"{what} (={value!r}) must be one of {', '.join(map(repr, allowed))}: choose one of these.")


# Download -------------------------------------------------------------------------------------------------------------


def _not_found(dataset: str, looked: Sequence[str], then: str, wanted: str, put_at: Path) -> DataError:
    places = "".join(f"\n  {place}" for place in looked)
    return DataError(
        f"{dataset} was not found. Looked in:{places}\n{then}\n"
        f"Put {wanted} into {put_at}, or set {DATA_VARIABLE} to the folder that holds them."
    )


def _download(dataset: Callable[..., object], name: str, folder: Path) -> None:
    """Lets torchvision's dataset class download into a folder beside, then moves each file, whole, into `folder`.

    torchvision writes straight to the final name; a process killed in the middle would leave a file that a later run
    takes for whole. Called with the lock held. Raises whatever the download raises.
    """
    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with _socket_timeout(30):
            dataset(str(partial), download=True)
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            _move_whole(path, folder / path.relative_to(partial))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_whole(source: Path, target: Path) -> None:
    with source.open("rb") as written:
        os.fsync(written.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """A compute node whose firewall drops packets would otherwise wait minutes for each mirror."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _find_or_download(
    search: Callable[[], Any | None],
    looked: Callable[[], list[str]],
    dataset: Callable[..., object],
    name: str,
    wanted: str,
    put_at: Path,
    download_to: Path | None,
) -> Any:
    """What search() finds; where it finds nothing, after one download, however many processes ask for it."""
    if (found := search()) is not None:
        return found
    if download_to is None:
        raise _not_found(name, looked(), "Nothing was downloaded: no folder for downloads was given.", wanted, put_at)
    from filelock import FileLock

    try:
        download_to.mkdir(parents=True, exist_ok=True)
        with FileLock(download_to / f".{name}.lock"):
            if (found := search()) is None:  # else another process fetched it while this one waited
                _download(dataset, name, download_to)
                found = search()
    except DataError:
        raise
    except Exception as error:  # a download fails in as many ways as there are networks, disks and archives
        reason = f"The download into {download_to} failed: {_in_short(error)}"
        raise _not_found(name, looked(), reason, wanted, put_at) from error
    if found is None:
        reason = f"The download into {download_to} ended, but left files out."
        raise _not_found(name, looked(), reason, wanted, put_at)
    return found


def _in_short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"


def _describe_places(folders: Sequence[Path], names: Sequence[str], packings: Sequence[str]) -> list[str]:
    """One line per folder, saying of an incomplete one what it lacks."""
    lines = []
    for folder in folders:
        there = {found.name for found in _find(folder, names, packings)}
        missing = ", ".join(name for name in names if name not in there)
        lines.append(f"{folder} (incomplete: without {missing})" if there else str(folder))
    return lines


# MNIST ----------------------------------------------------------------------------------------------------------------

MNIST_COUNT = {"train": 60_000, "test": 10_000}
MNIST_PREFIX = {"train": "train", "test": "t10k"}
MNIST_PACKINGS = (".gz", ".xz", "")  # the .gz first: it is the one whose MD5 is known


def read_mnist(root: Path, split: Literal["train", "test"], download_to: Path | None) -> ImageArray:
    """MNIST, images [N, 28, 28, 1], from its four idx files, each as it was published (.gz), as .xz, or plain.

    Looked for in MNIST/raw, mnist/raw, mnist and . below root, then below download_to; where nothing is found it is
    downloaded there (None: never). Raises DataError if a file is missing, damaged or not MNIST's.
    """
    from torchvision.datasets import MNIST

    _check_choice("MNIST split", split, tuple(MNIST_COUNT))
    prefix = MNIST_PREFIX[split]
    names = [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    folders = [base / below for base in _roots(root, download_to) for below in ("MNIST/raw", "mnist/raw", "mnist", ".")]

    def search() -> list[Found] | None:
        return _first_complete(folders, names, MNIST_PACKINGS)

    image_file, label_file = _find_or_download(
        search,
        lambda: _describe_places(folders, names, MNIST_PACKINGS),
        MNIST,
        "MNIST",
        " and ".join(f"{name}.gz" for name in names),
        root / "MNIST" / "raw",
        download_to,
    )
    md5s = dict(MNIST.resources)
    images, image_sha256 = _read_idx(image_file, (MNIST_COUNT[split], 28, 28), md5s)
    labels, label_sha256 = _read_idx(label_file, (MNIST_COUNT[split],), md5s)
    if labels.max() > 9:
        raise DataError(
            f"{label_file.path}: label {labels.max()} (image {labels.argmax()}) must be 0 to 9. This is not MNIST's "
            "label file, or it is damaged: delete it and fetch MNIST again."
        )
    return ImageArray(
        images=images[..., np.newaxis],
        labels=labels.astype(np.int64),
        classes=tuple(str(digit) for digit in range(10)),
        sources={image_file.path.name: image_sha256, label_file.path.name: label_sha256},
    )


def _roots(root: Path, download_to: Path | None) -> list[Path]:
    return [root] if download_to is None or download_to == root else [root, download_to]


def _first_complete(folders: Sequence[Path], names: Sequence[str], packings: Sequence[str]) -> list[Found] | None:
    """All the named files, from the first folder that holds them all."""
    for folder in folders:
        found = _find(folder, names, packings)
        if len(found) == len(names):
            return found
    return None


def _read_idx(found: Found, shape: tuple[int, ...], md5s: dict[str, str]) -> tuple[np.ndarray, str]:
    """The uint8 array of an idx file, which must have this shape, and the SHA-256 of the file as found."""
    packed = _read_packed(found.path)
    if found.packing == ".gz":
        remedy = (
            "It is damaged, cut off or another dataset's: delete it and fetch it again. (A file that you packed "
            "yourself: unpack it; a plain file is checked by its header and length.)"
        )
        _check_md5(found.path, "the file", packed, md5s[found.path.name], remedy)
    array = _parse_idx(found.path, _unpack(found, packed), shape)
    return array, hashlib.sha256(packed).hexdigest()


def _parse_idx(path: Path, content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """idx: two zero bytes, the type (8: uint8), how many dimensions, each of them as big-endian int32, the data."""
    magic = bytes([0, 0, 8, len(shape)])
    header_bytes = 4 + 4 * len(shape)
    remedy = "This is another file, or a damaged one: delete it and fetch MNIST again."
    if content[:4] != magic:
        raise DataError(f"{path}: starts with bytes 0x{content[:4].hex()}, must be 0x{magic.hex()} (idx). {remedy}")
    dimensions = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header_bytes, 4))
    if dimensions != shape:
        raise DataError(f"{path}: its header says shape {dimensions}, must be {shape}. {remedy}")
    expected_bytes = header_bytes + int(np.prod(shape))
    if len(content) != expected_bytes:
        raise DataError(f"{path}: {len(content)} bytes long, must be {expected_bytes} for shape {shape}. {remedy}")
    flat = np.frombuffer(content, dtype=np.uint8, offset=header_bytes)
    return np.array(flat.reshape(shape))  # a copy: torch warns of arrays that cannot be written to


# USPS -----------------------------------------------------------------------------------------------------------------

USPS_COUNT = {"train": 7_291, "test": 2_007}
USPS_NAME = {"train": "usps", "test": "usps.t"}
USPS_PACKINGS = (".bz2", "")


def read_usps(root: Path, split: Literal["train", "test"], download_to: Path | None) -> ImageArray:
    """The zip code digits of LeCun et al. 1989, images [N, 16, 16, 1], from LIBSVM's files usps.bz2 and usps.t.bz2.

    Their pixels run from -1 (background) to 1; here from 0 to 255, rounded. Looked for in USPS, usps and . below root,
    then below download_to; where nothing is found both are downloaded there (None: never). Raises DataError if a file
    is missing, damaged or not USPS's.
    """
    from torchvision.datasets import USPS

    _check_choice("USPS split", split, tuple(USPS_COUNT))
    names = [USPS_NAME[split]]
    folders = [base / below for base in _roots(root, download_to) for below in ("USPS", "usps", ".")]

    def search() -> list[Found] | None:
        return _first_complete(folders, names, USPS_PACKINGS)

    (found,) = _find_or_download(
        search,
        lambda: _describe_places(folders, names, USPS_PACKINGS),
        _both_splits(USPS),
        "USPS",
        f"{names[0]}.bz2",
        root / "USPS",
        download_to,
    )
    packed = _read_packed(found.path)
    if found.packing == ".bz2":
        remedy = "It is damaged, cut off or another file: delete it and fetch it again."
        _check_md5(found.path, "the file", packed, USPS.split_list[split][2], remedy)
    pixels, labels = _parse_usps(found.path, _unpack(found, packed), USPS_COUNT[split])
    return ImageArray(
        images=np.rint((pixels + 1) * (255 / 2)).astype(np.uint8).reshape(-1, 16, 16, 1),
        labels=labels,
        classes=tuple(str(digit) for digit in range(10)),
        sources={found.path.name: hashlib.sha256(packed).hexdigest()},
    )


def _both_splits(dataset: Callable[..., object]) -> Callable[..., None]:
    """`dataset`, which downloads one split at a time, for both."""

    def download_both(root: str, download: bool) -> None:
        for train in (True, False):
            dataset(root, train=train, download=download)

    return download_both


def _parse_usps(path: Path, content: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [count, 256] and labels [count] of lines "label 1:value 2:value ... 256:value", label 1 being digit 0."""
    remedy = "This is another file, or a damaged one: delete it and fetch USPS again."
    lines = content.splitlines()
    if len(lines) != count:
        raise DataError(f"{path}: holds {len(lines)} lines, must hold {count}, an image each. {remedy}")
    rows = np.empty((count, 1 + 2 * 256))
    for number, line in enumerate(lines, start=1):
        try:
            rows[number - 1] = line.replace(b":", b" ").split()
        except ValueError:
            raise DataError(f"{path}: line {number} must be a label and 256 pairs of numbers. {remedy}") from None
    labels, indices, pixels = rows[:, 0], rows[:, 1::2], rows[:, 2::2]
    wrong = {
        "labels 1 to 10": ~np.isin(labels, np.arange(1, 11)),
        "pixels numbered 1 to 256": (indices != np.arange(1, 257)).any(axis=1),
        "pixels from -1 to 1": ~(np.abs(pixels) <= 1).all(axis=1),
    }
    for rule, fails in wrong.items():
        if fails.any():
            raise DataError(f"{path}: line {fails.argmax() + 1} must have {rule}. {remedy}")
    return pixels, labels.astype(np.int64) - 1


# CIFAR ----------------------------------------------------------------------------------------------------------------

CIFAR_PACKINGS = ("", ".xz", ".gz")  # plain first: the MD5 of the unpacked batch is known, so any packing will do


def read_cifar(
    root: Path, variant: Literal[10, 100], split: Literal["train", "test"], download_to: Path | None
) -> ImageArray:
    """CIFAR-10, or CIFAR-100 with its fine labels, images [N, 32, 32, 3], from the batches of the Python version.

    Looked for in ., cifar10, cifar-10 and CIFAR10 (cifar100, ...) below root, then below download_to: the folder
    cifar-10-batches-py (cifar-100-python), or its files without the folder; after all of these cifar-10-python.tar.gz
    (cifar-100-python.tar.gz). Where nothing is found it is downloaded into download_to (None: never).

    Batches may be plain, .xz or .gz. They are pickles, which could run any code: each one's MD5 is compared with the
    original's first. Raises DataError if a file is missing or damaged.
    """
    from torchvision import datasets

    _check_choice("CIFAR variant", variant, (10, 100))
    _check_choice("CIFAR split", split, ("train", "test"))
    dataset = datasets.CIFAR10 if variant == 10 else datasets.CIFAR100
    batches = dict(dataset.train_list if split == "train" else dataset.test_list)
    md5s = {**batches, dataset.meta["filename"]: dataset.meta["md5"]}
    folders, archives = _cifar_places(root, download_to, variant, dataset.base_folder, dataset.filename)

    def search() -> list[Found] | Path | None:
        complete = _first_complete(folders, list(md5s), CIFAR_PACKINGS)
        return complete or next((archive for archive in archives if archive.is_file()), None)

    found = _find_or_download(
        search,
        lambda: [*_describe_places(folders, list(md5s), CIFAR_PACKINGS), *map(str, archives)],
        dataset,
        f"CIFAR-{variant}",
        dataset.filename,
        root,
        download_to,
    )
    contents, sources = _read_archive(found, dataset.base_folder, md5s) if isinstance(found, Path) else _read_all(found)
    unpickled = {name: _unpickle_checked(contents[name], md5) for name, md5 in md5s.items()}
    key = "labels" if variant == 10 else "fine_labels"
    planes = np.concatenate([np.asarray(unpickled[name]["data"], dtype=np.uint8) for name in batches])
    return ImageArray(
        images=np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)),
        labels=np.concatenate([np.asarray(unpickled[name][key], dtype=np.int64) for name in batches]),
        classes=tuple(unpickled[dataset.meta["filename"]][dataset.meta["key"]]),
        sources=sources,
    )


def _cifar_places(
    root: Path, download_to: Path | None, variant: int, base_folder: str, archive: str
) -> tuple[list[Path], list[Path]]:
    """The folders that may hold the batches, and where the archive may lie, in the order in which they are tried."""
    names = (".", f"cifar{variant}", f"cifar-{variant}", f"CIFAR{variant}")
    parents = [base / name for base in _roots(root, download_to) for name in names]
    return [folder for parent in parents for folder in (parent / base_folder, parent)], [p / archive for p in parents]


class Content(NamedTuple):
    """The unpacked bytes of one batch, and the file they came from."""

    path: Path
    name: str
    content: bytes


def _read_all(files: Sequence[Found]) -> tuple[dict[str, Content], dict[str, str]]:
    """Reads and unpacks several files at once: unpacking and hashing leave Python's lock alone."""

    def read(found: Found) -> tuple[Content, str]:
        packed = _read_packed(found.path)
        return Content(found.path, found.name, _unpack(found, packed)), hashlib.sha256(packed).hexdigest()

    with ThreadPoolExecutor(max_workers=min(len(files), os.cpu_count() or 1)) as pool:
        contents = list(pool.map(read, files))
    return (
        {content.name: content for content, _ in contents},
        {content.path.name: sha256 for content, sha256 in contents},
    )


def _read_archive(
    path: Path, base_folder: str, names: Sequence[str] | dict[str, str]
) -> tuple[dict[str, Content], dict[str, str]]:
    """The named files out of a .tar.gz, straight from memory."""
    packed = _read_packed(path)
    contents = {}
    with _damage_named(path), tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            if place.name in names and place.parent.name == base_folder and (file := archive.extractfile(member)):
                contents[place.name] = Content(path, place.name, file.read())
    missing = [name for name in names if name not in contents]
    if missing:
        raise DataError(
            f"{path}: lacks {', '.join(missing)} in {base_folder}/; the original holds them all. Delete it and fetch "
            "it again."
        )
    return contents, {path.name: hashlib.sha256(packed).hexdigest()}


def _unpickle_checked(batch: Content, md5: str) -> dict[str, Any]:
    remedy = "It is damaged or not the published file, and will not be unpickled: delete it and fetch it again."
    _check_md5(batch.path, f"{batch.name} unpacked", batch.content, md5, remedy)
    with warnings.catch_warnings():
        # The batches were pickled by a NumPy of 2009, which wrote dtype's align as 0 where NumPy 2.4 wants False.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        unpickled: dict[str, Any] = pickle.loads(batch.content, encoding="latin1")  # Python 2 wrote it
    return unpickled


# ImageNet -------------------------------------------------------------------------------------------------------------

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
IMAGENET_TAR = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
PARQUET = {"train": "train", "val": "validation"}  # Hugging Face's names of the splits
IMAGENET_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def open_imagenet(root: Path, split: Literal["train", "val"], classes: Sequence[str] | None) -> ImageFiles:
    """ImageNet, or any dataset laid out like it: a folder per class, the official tars, or Hugging Face's parquet.

    Tried in this order in root, then in root/imagenet, then (only where there is no root/imagenet) in
    root/imagenet-sample: the folder train (val), then the file ILSVRC2012_img_train.tar (ILSVRC2012_img_val.tar, whose
    labels are in ILSVRC2012_devkit_t12.tar.gz beside it), then the shards train-*.parquet (validation-*.parquet) in
    data or beside it. Tars and shards are indexed by their headers and read in place.

    classes: the class folders (wnids) to keep, numbered in the order given; None: all, sorted. Files that are no images
    by their suffix, and hidden ones, are passed over. Raises DataError if there is no such dataset, a class is unknown
    or empty, or an archive is damaged.
    """
    _check_choice("ImageNet split", split, tuple(IMAGENET_TAR))
    places = [root, root / "imagenet"]
    if not places[1].is_dir():
        places.append(root / "imagenet-sample")
    for place in places:
        if (place / split).is_dir():
            return _open_folder(place / split, split, classes)
        if (place / IMAGENET_TAR[split]).is_file():
            return _open_tar(place / IMAGENET_TAR[split], split, classes)
        for folder in (place / "data", place):
            if shards := sorted(folder.glob(f"{PARQUET[split]}-*.parquet")):
                from datamodules.parquet_shards import open_parquet

                return open_parquet(shards, split, classes)
    devkit = f" and {IMAGENET_DEVKIT}" if split == "val" else ""
    raise _not_found(
        f"ImageNet {split}",
        [f"{place}/{{{split}/, {IMAGENET_TAR[split]}, data/{PARQUET[split]}-*.parquet}}" for place in places],
        "It is not downloaded: its terms want everyone to register, at https://image-net.org.",
        f"{IMAGENET_TAR[split]}{devkit}, or the folder {split}/<class>/*.JPEG, or data/{PARQUET[split]}-*.parquet,",
        root / "imagenet",
    )


def open_imagenet_2010(root: Path, split: Literal["train", "test"], classes: Sequence[str] | None) -> ImageFiles:
    """ILSVRC-2010: a folder per class below train and test, in root/imagenet2010 or in root.

    classes as in `open_imagenet`. Raises DataError if there is no such dataset, or a class is unknown or empty.
    """
    _check_choice("ImageNet 2010 split", split, ("train", "test"))
    places = [root / "imagenet2010", root]
    for place in places:
        if (place / split).is_dir():
            return _open_folder(place / split, split, classes)
    raise _not_found(
        f"ImageNet 2010 {split}",
        [f"{place}/{split}/" for place in places],
        "It is not downloaded: its terms want everyone to register, at https://image-net.org.",
        f"the folder {split}/<class>/*.JPEG",
        root / "imagenet2010",
    )


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def choose_classes(available: Sequence[str], classes: Sequence[str] | None, path: Path) -> list[str]:
    """The classes to keep, in the order asked for; all of them, sorted, if nothing was asked for.

    Raises:
        DataError: one that was asked for is not available or asked for twice, or none was.
    """
    if classes is None:
        return sorted(available)
    unknown = sorted(set(classes) - set(available))
    if unknown:
        raise DataError(
            f"{path}: there is no class {', '.join(unknown)} among its {len(available)} ({some(sorted(available))}). "
            "Every class asked for must be there: correct the list of classes, or add the images."
        )
    repeated = sorted({name for name in classes if list(classes).count(name) > 1})
    if repeated or not classes:
        raise DataError(
            f"{path}: classes (={some(classes)}) must name each class once, and at least one. Correct the list, or "
            "leave it out to get every class."
        )
    return list(classes)


def some(names: Sequence[str]) -> str:
    """The first names of a list, for a message, and how many there are more."""
    return ", ".join(names[:5]) + (f", ... {len(names) - 5} more" if len(names) > 5 else "") if names else "none"


def _collect(path: Path, split: str, classes: Sequence[str], images: Sequence[Sequence[StoredImage]]) -> ImageFiles:
    empty = [name for name, of_one_class in zip(classes, images, strict=True) if not of_one_class]
    if empty:
        raise DataError(
            f"{path}: {len(empty)} of {len(classes)} classes hold no image ({some(empty)}). Every class must hold at "
            f"least one file that ends in {', '.join(IMAGE_SUFFIXES)}: add it, or remove the empty class."
        )
    return ImageFiles(path, split, classes, images)


def _open_folder(folder: Path, split: str, classes: Sequence[str] | None) -> ImageFiles:
    try:
        with os.scandir(folder) as entries:
            available = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        if not available:
            raise DataError(
                f"{folder}: holds no class folders, must hold one per class, such as n01440764/. Sort the images into "
                "folders, or remove this one and put the official tar file of ILSVRC-2012 where it was."
            )
        chosen = choose_classes(available, classes, folder)
        with ThreadPoolExecutor(max_workers=16) as pool:  # a million sizes, each a round trip on a network disk
            images = list(pool.map(lambda name: _list_folder(folder, name), chosen))
    except OSError as error:
        raise unreadable(Path(error.filename or folder), error) from error
    return _collect(folder, split, chosen, images)


def _list_folder(folder: Path, name: str) -> list[StoredImage]:
    with os.scandir(folder / name) as entries:
        return sorted(StoredImage(f"{name}/{e.name}", e.stat().st_size, -1) for e in entries if _is_image(e.name))


def _open_tar(path: Path, split: str, classes: Sequence[str] | None) -> ImageFiles:
    index = _index_train_tar if split == "train" else _index_val_tar
    with _damage_named(path), tarfile.open(path, mode="r:") as archive:
        chosen, images = index(path, archive, classes)
    return _collect(path, split, chosen, images)


def _index_train_tar(
    path: Path, archive: tarfile.TarFile, classes: Sequence[str] | None
) -> tuple[list[str], list[list[StoredImage]]]:
    """The training tar holds one tar per class, <wnid>.tar. Only headers are read, of the classes that are kept."""
    inner = {PurePosixPath(member.name).stem: member for member in _members(archive) if member.name.endswith(".tar")}
    if not inner:
        raise DataError(
            f"{path}: holds no <wnid>.tar, must hold one per class. This is not ILSVRC's training archive: fetch that, "
            "or remove this one."
        )
    chosen = choose_classes(list(inner), classes, path)
    return chosen, [_list_inner_tar(archive, name, inner[name]) for name in chosen]


def _list_inner_tar(archive: tarfile.TarFile, name: str, member: tarfile.TarInfo) -> list[StoredImage]:
    with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as images:
        kept = [image for image in _members(images) if _is_image_member(image)]
    return sorted(_stored_image(name, image, member.offset_data) for image in kept)


def _members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """All members. Raises ReadError where they end without the closing zeros: tarfile itself stops there in silence."""
    members = archive.getmembers()
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header and no end of archive at byte {archive.offset}, after {len(members)} files")
    return members


def _is_image_member(member: tarfile.TarInfo) -> bool:
    return member.isreg() and _is_image(PurePosixPath(member.name).name)


def _stored_image(class_name: str, member: tarfile.TarInfo, start: int) -> StoredImage:
    """start: where the member's own tar begins in the file, in bytes."""
    return StoredImage(f"{class_name}/{PurePosixPath(member.name).name}", member.size, start + member.offset_data)


def _index_val_tar(
    path: Path, archive: tarfile.TarFile, classes: Sequence[str] | None
) -> tuple[list[str], list[list[StoredImage]]]:
    """The validation tar is flat; image k, ILSVRC2012_val_<k>.JPEG, has its class on line k of the devkit's list."""
    wnids = _val_wnids(path.parent / IMAGENET_DEVKIT)
    members = [member for member in _members(archive) if _is_image_member(member)]
    if len(members) != len(wnids):
        raise DataError(
            f"{path}: holds {len(members)} images, {IMAGENET_DEVKIT} has labels for {len(wnids)}. The two must agree: "
            "fetch the one that is cut off, or of another year, again."
        )
    by_class: dict[str, list[StoredImage]] = {wnid: [] for wnid in wnids}
    for member in members:
        wnid = wnids[_val_number(path, member.name, len(wnids)) - 1]
        by_class[wnid].append(_stored_image(wnid, member, 0))
    chosen = choose_classes(list(by_class), classes, path)
    return chosen, [sorted(by_class[name]) for name in chosen]


def _val_number(path: Path, name: str, count: int) -> int:
    match = VAL_NAME.fullmatch(PurePosixPath(name).name)
    if match is None or not 1 <= int(match[1]) <= count:
        raise DataError(
            f"{path}: image {name} must be called ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{count:08}.JPEG, for "
            "its number is what leads to its label. Fetch the original archive."
        )
    return int(match[1])


def _val_wnids(devkit: Path) -> list[str]:
    """The wnid of each validation image, in the order of their numbers."""
    if not devkit.is_file():
        raise DataError(
            f"{devkit} is missing, but the labels of {IMAGENET_TAR['val']} are in it. Put it there (from "
            "https://image-net.org, task 1 and 2 development kit), or sort the images into val/<wnid>/."
        )
    ground_truth, meta = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
    contents, _ = _read_archive(devkit, "data", (ground_truth, meta))
    wnid_of = _wnid_of_id(devkit, contents[meta].content)
    try:
        return [wnid_of[int(line)] for line in contents[ground_truth].content.split()]
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{devkit}: {ground_truth} has an entry, {error}, that is no ILSVRC2012 id of {meta}. The two must agree: "
            "fetch the development kit again."
        ) from error


def _wnid_of_id(devkit: Path, meta: bytes) -> dict[int, str]:
    """The devkit numbers its classes in an order of its own, which is not the sorted one."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(
            f"{devkit}: its meta.mat needs scipy, which is not installed: pip install scipy, or sort the images into "
            "val/<wnid>/."
        ) from error
    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise DataError(
            f"{devkit}: meta.mat cannot be read ({_in_short(error)}); it must hold synsets with ILSVRC2012_ID and "
            "WNID. Fetch the development kit again."
        ) from error
