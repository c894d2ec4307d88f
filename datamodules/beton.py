"""Conversion to FFCV's .beton format, and the checks that a .beton is whole before anything reads it.

A conversion writes beside its final name, syncs and renames, under a lock: a file that exists is complete, however many
processes asked for it and however the last one ended. Beside each `NAME.beton` stands `NAME.json`, its manifest. Image
files take hours to convert: what is written of them, `.NAME.beton.unfinished`, stays with its journal when a conversion
is stopped or killed, or the disk runs full, and the next one goes on from there, to the same bytes as in one go.

FFCV's own writer waits for ever when a writing process fails, and its reader takes a truncated file for data; so the
file is written here, in order and by one process, with FFCV's own field types.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from datamodules.encoding import Broken, encoded_in_order, fault_of, in_order
from datamodules.files import write_whole
from datamodules.journal import Journal
from datamodules.originals import DataError, ImageArray, ImageFiles

FORMAT = 2  # raise it when the same settings start to give another file
PAGE_BYTES = 1 << 23  # FFCV's default; an encoded image must fit in one page, so larger images have larger ones
LARGEST_SIDE = 16384  # pixels: above, an image might not fit in the largest page, 1 GiB
CHECKSUM_LIMIT_BYTES = 1 << 30  # up to here the whole file is checksummed whenever it is opened


@dataclass(frozen=True)
class Manifest:
    """What a dataset split holds. `content` is the same for the same images and labels, however they were packed."""

    dataset: str
    split: str
    count: int
    classes: list[str]
    mean: list[float] | None  # of the pixels / 255, per channel; None for a dataset that is never in memory whole
    std: list[float] | None
    content: str  # sha256 over images and labels, or over names and sizes of image files
    sources: dict[str, str]  # original file -> sha256
    per_class: list[int] = field(default_factory=list)  # number of images of each class
    skipped: list[str] = field(default_factory=list)  # images left out because they cannot be decoded


Mode = Literal["jpg", "raw", "mixed"]
WhenBroken = Literal["refuse", "skip"]


@dataclass(frozen=True)
class BetonSettings:
    """How images are written. Datasets in memory are stored raw; image files as these settings say.

    Args:
        max_size: longest side in pixels; larger images are shrunk.
        quality: of JPEGs, 1 to 95.
        mode: `jpg`, as tiled JPEGs (`datamodules.tiles`); `raw`, as pixels: read faster, a dozen times the bytes; or
            `mixed`, a share of the images as pixels.
        raw_share: share of the images that `mixed` stores as pixels, spread evenly; which ones depends on nothing but
            their numbers.

    Raises:
        ValueError: one of them is out of its bounds.
    """

    max_size: int = 500
    quality: int = 90
    mode: Mode = "jpg"
    raw_share: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_size <= LARGEST_SIDE:
            raise ValueError(f"max_size (={self.max_size}) must be 1 to {LARGEST_SIDE} pixels: choose within.")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality (={self.quality}) must be 1 to 95: above 95 JPEG only grows, use mode raw.")
        if self.mode not in ("jpg", "raw", "mixed"):
            raise ValueError(f"mode (={self.mode!r}) must be jpg, raw or mixed: choose one of these.")
        if self.mode == "mixed" and (self.raw_share is None or not 0 < self.raw_share < 1):
            raise ValueError(f"raw_share (={self.raw_share}) must lie between 0 and 1 for mode mixed: 0.5 is FFCV's.")
        if self.mode != "mixed" and self.raw_share is not None:
            raise ValueError(f"raw_share (={self.raw_share}) needs mode mixed: leave it out for mode {self.mode}.")

    def stores_raw(self, number: int) -> bool:
        """Whether this image of the dataset is stored as pixels."""
        if self.raw_share is None:
            return self.mode == "raw"
        return math.floor((number + 1) * self.raw_share) > math.floor(number * self.raw_share)

    @property
    def page_bytes(self) -> int:
        """A power of two in which any image fits: its pixels, and no JPEG of it has more bytes."""
        return page_bytes(3 * self.max_size**2 + (1 << 16))


def page_bytes(largest: int) -> int:
    """FFCV's page, or the smallest power of two that holds `largest` bytes."""
    return max(PAGE_BYTES, 1 << (largest - 1).bit_length())


class BrokenImages(DataError):
    """Images of a dataset cannot be decoded; the message names them."""


def describe(dataset: str, split: str, originals: ImageArray | ImageFiles) -> Manifest:
    """The manifest of `originals`; for image arrays this reads every pixel once.

    Raises:
        DataError: a label is no class.
    """
    _check_labels(dataset, split, originals)
    mean = std = None
    digest = hashlib.sha256(np.ascontiguousarray(originals.labels).tobytes())
    if isinstance(originals, ImageArray):
        digest.update(np.ascontiguousarray(originals.images).data)
        mean, std = pixel_statistics(originals.images)
    else:
        digest.update(json.dumps(originals.sources, sort_keys=True).encode())
    return Manifest(
        dataset=dataset,
        split=split,
        count=len(originals.labels),
        classes=list(originals.classes),
        mean=mean,
        std=std,
        content=digest.hexdigest(),
        sources=originals.sources,
        per_class=np.bincount(originals.labels, minlength=len(originals.classes)).tolist(),
        skipped=list(originals.skipped) if isinstance(originals, ImageFiles) else [],
    )


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of `images` / 255, exactly, from a histogram. [N, H, W, C] -> C, C"""
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        means.append(float(share @ levels))
        deviations.append(float(np.sqrt(share @ levels**2 - means[-1] ** 2)))
    return means, deviations


def beton_path(cache: Path, dataset: str, split: str, settings: BetonSettings, root: Path, variant: str) -> Path:
    """Where the .beton of this split lives: one file per dataset, settings and place of the originals."""
    identity = json.dumps([FORMAT, asdict(settings), str(root.resolve()), variant])
    return cache / "beton" / f"{dataset}-{split}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.beton"


def checked_path(cache: Path, dataset: str, split: str, root: Path, variant: str) -> Path:
    """Where it is noted which image files of this split cannot be decoded."""
    identity = json.dumps([str(root.resolve()), variant])
    return cache / "beton" / f"{dataset}-{split}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.checked.json"


def find_broken(path: Path, title: str, originals: ImageFiles, workers: int) -> dict[int, str]:
    """Numbers of the images that cannot be decoded, and why; noted at `path`, so that all are decoded only once.

    Those noted as broken are tried again. A listing with other names or sizes is another dataset, and checked anew.

    Raises:
        DataError: the folder of `path` cannot be written.
    """
    listing = json.dumps(originals.sources, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            noted = _noted(path, listing)
            if noted is not None:
                faults = {number: fault_of(originals, number) for number in noted}
            else:
                with closing(in_order(fault_of, originals, range(len(originals)), workers)) as found:
                    faults = dict(enumerate(progress(found, f"checking {title}", len(originals))))
            broken = {number: fault for number, fault in faults.items() if fault}
            if noted is None or set(noted) != set(broken):
                write_whole(path, json.dumps({"listing": listing, "broken": broken}, indent=1))
    except OSError as error:
        raise _disk_error(path, error) from error
    return broken


def _noted(path: Path, listing: str) -> list[int] | None:
    """The images noted as broken; None where nothing is noted of this listing."""
    try:
        record = json.loads(path.read_text())
        return [int(number) for number in record["broken"]] if record["listing"] == listing else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def convert(
    path: Path,
    manifest: Manifest,
    originals: ImageArray | ImageFiles,
    settings: BetonSettings,
    workers: int,
    when_broken: WhenBroken = "refuse",
) -> None:
    """Write `originals` to `path` and its manifest beside it; do nothing if another process has just done so.

    Every image is tried before broken ones are refused or, as `when_broken` says, left out: the manifest then has
    fewer images than `manifest` and another content, and names them.

    Raises:
        BrokenImages: images cannot be decoded; all are named, and what is written stays for the next conversion.
        DataError: the disk is full or too small, the folder cannot be written, or memory is too small.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not (path.exists() and manifest_path(path).exists()):
                if isinstance(originals, ImageArray):
                    _convert_array(path, manifest, originals, settings)
                else:
                    _convert_files(path, manifest, originals, settings, workers, when_broken)
            journal_path(path).unlink(missing_ok=True)
    except OSError as error:
        raise _disk_error(path, error) from error


def _check_labels(dataset: str, split: str, originals: ImageArray | ImageFiles) -> None:
    outside = np.flatnonzero((originals.labels < 0) | (originals.labels >= len(originals.classes)))
    if len(outside):
        number = int(outside[0])
        raise DataError(
            f"{dataset} {split}: image {number} has the label {originals.labels[number]}, and so "
            f"{len(outside)} of {len(originals.labels)} have one outside 0 to {len(originals.classes) - 1}, the "
            "numbers of the classes: fetch the dataset again, or correct its labels."
        )


def _convert_array(path: Path, manifest: Manifest, originals: ImageArray, settings: BetonSettings) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed: we hold the lock
        leftover.unlink()
    _check_space(path, originals)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        digest = _write(unfinished, manifest, originals)
        _publish(unfinished, path, manifest, settings, digest)
    finally:
        unfinished.unlink(missing_ok=True)


def _publish(unfinished: Path, path: Path, manifest: Manifest, settings: BetonSettings, digest: str) -> None:
    record = {"manifest": asdict(manifest), "settings": asdict(settings), "format": FORMAT}
    record |= {"bytes": unfinished.stat().st_size, "sha256": digest}
    write_whole(manifest_path(path), json.dumps(record, indent=1))
    os.replace(unfinished, path)


def _convert_files(
    path: Path,
    manifest: Manifest,
    originals: ImageFiles,
    settings: BetonSettings,
    workers: int,
    when_broken: WhenBroken,
) -> None:
    from datamodules.estimate import estimate

    expected = estimate(path, originals, settings, workers)
    print(f"{manifest.dataset} {manifest.split} to {path}:\n  {expected}", file=sys.stderr)
    expected.check(path.parent)
    layout = _layout_of_files(len(originals), settings)
    unfinished = unfinished_path(path)
    identity = json.dumps([FORMAT, asdict(settings), len(originals), layout.page, layout.first_page])
    journal = Journal(journal_path(path), unfinished, identity, len(originals), layout.first_page)
    try:
        broken = _write_images(journal, layout, manifest, originals, settings, workers)
        if broken and when_broken == "refuse":
            raise BrokenImages(_refusal(manifest, originals, broken, path))
        kept = originals.without(list(broken)) if broken else originals
        records = journal.records[journal.records["size"] > 0]
        index = np.zeros(len(records), layout.row)
        index["f1"] = kept.labels
        for theirs, ours in (("mode", "mode"), ("width", "width"), ("height", "height"), ("data_ptr", "position")):
            index["f0"][theirs] = records[ours]
        head, end, table = layout.around(index, records["position"], records["size"], journal.end)
        journal.finish(head, end, table)
    finally:
        journal.close()
    digest = file_sha256(unfinished)
    _publish(unfinished, path, describe(manifest.dataset, manifest.split, kept), settings, digest)
    journal_path(path).unlink()


def _write_images(
    journal: Journal,
    layout: Layout,
    manifest: Manifest,
    originals: ImageFiles,
    settings: BetonSettings,
    workers: int,
) -> dict[int, str]:
    """Every image that the journal does not have yet. Returns the numbers of the broken ones, and why they are."""
    broken: dict[int, str] = {}

    def is_broken(number: int) -> bool:
        if reason := fault_of(originals, number):
            broken[number] = reason
        return bool(reason)

    def original(number: int) -> int:
        return zlib.crc32(f"{originals.name(number)} {originals.size(number)} {originals.labels[number]}".encode())

    title = f"writing {manifest.dataset} {manifest.split}"
    journal.read(original, layout.place, is_broken)
    if journal.done:
        print(f"{title}: going on after {journal.done} images that are there and whole", file=sys.stderr)
    numbers = range(journal.done, len(originals))
    with closing(encoded_in_order(originals, numbers, settings, workers)) as encoded:
        for number, image in zip(numbers, progress(encoded, title, len(originals), journal.done), strict=True):
            if isinstance(image, Broken):
                broken[number] = image.reason
                journal.add_broken(original(number))
            else:
                at = layout.place(journal.end, image.data.nbytes)
                journal.add(original(number), at, image.height, image.width, image.mode, image.data)
    journal.flush()
    return broken


def progress(images: Iterable[Any], title: str, total: int, done: int = 0) -> Iterator[Any]:
    """A bar with images/s and the time left; a line every half minute where nobody watches."""
    watched = sys.stderr.isatty()
    every = 0.2 if watched else 30
    yield from tqdm(images, desc=title, total=total, initial=done, unit=" images", mininterval=every, maxinterval=60)


NAMED = 20  # broken images in a message


def _refusal(manifest: Manifest, originals: ImageFiles, broken: dict[int, str], path: Path) -> str:
    return refusal(manifest, {originals.name(number): reason for number, reason in broken.items()}, path) + (
        f" What is encoded stays in {unfinished_path(path)}: the same command goes on from it, `--corrupt skip` too."
    )


def refusal(manifest: Manifest, broken: dict[str, str], path: Path) -> str:
    """A message that names the broken images of a split, or the file beside `path` with all their names."""
    named = "".join(f"\n  {name} {reason}" for name, reason in list(broken.items())[:NAMED])
    if len(broken) > NAMED:
        listed = path.with_suffix(".broken.txt")
        write_whole(listed, "".join(f"{name} {reason}\n" for name, reason in broken.items()))
        named += f"\n  ... {len(broken) - NAMED} more, all in {listed}"
    by_class = Counter(name.split("/")[0] for name in broken)
    worst, most = by_class.most_common(1)[0]
    return (
        f"{manifest.dataset} {manifest.split}: {len(broken)} of {manifest.count} images cannot be decoded, at most "
        f"{most} of one class ({worst}):{named}\nFetch them again; or leave them out, in which case results say so: "
        "`python -m benchmarks prepare ... --corrupt skip`, and --data.corrupt skip in training."
    )


def unfinished_path(path: Path) -> Path:
    """Where the .beton at `path` is while it is being written from image files."""
    return path.with_name(f".{path.name}.unfinished")


def journal_path(path: Path) -> Path:
    """Where the journal of the unfinished .beton at `path` is."""
    return path.with_name(f".{path.name}.journal")


def manifest_path(path: Path) -> Path:
    """Where the manifest of the .beton at `path` stands."""
    return path.with_suffix(".json")


def _check_space(path: Path, originals: ImageArray) -> None:
    """Refuse before the first byte when the images cannot fit."""
    needed = originals.images.nbytes
    free = shutil.disk_usage(path.parent).free
    if free < 1.05 * needed + PAGE_BYTES:
        raise DataError(
            f"{path.parent} has {free / 1e9:.2f} GB free, the .beton needs about {needed / 1e9:.2f} GB: free some "
            "space or set ILSVRC_BENCH_CACHE to a folder on a larger disk."
        )


def _disk_error(path: Path, error: OSError) -> DataError:
    left = unfinished_path(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        stays = (
            f"what is written so far, {left} ({512 * left.stat().st_blocks / 1e9:.2f} GB), stays, and the same command "
            "goes on from it; or remove it."
            if left.exists()
            else "the unfinished file was removed."
        )
        return DataError(
            f"{path.parent} ran full while {path.name} was written ({error.strerror}); {stays} Free some space or set "
            "ILSVRC_BENCH_CACHE to a folder on a larger disk."
        )
    return DataError(
        f"{path.parent} cannot be written ({error.strerror or error}): set ILSVRC_BENCH_CACHE to a folder that can."
    )


class Layout:
    """Where things stand in a .beton: header, description of the fields, index, pages of images, table of images."""

    def __init__(self, image: Any, count: int, page: int) -> None:
        """image: FFCV's field. count: an upper bound of the number of images. page: bytes, a power of two."""
        from ffcv.fields import IntField
        from ffcv.types import TYPE_ID_HANDLER, FieldDescType, HeaderType, get_metadata_type

        fields = {"image": image, "label": IntField()}
        type_ids = {handler: number for number, handler in TYPE_ID_HANDLER.items()}
        self.descriptions = np.zeros(len(fields), FieldDescType)
        for row, (name, handler) in zip(self.descriptions, fields.items(), strict=True):
            row["type_id"] = type_ids[type(handler)]
            row["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
            row["arguments"][:] = handler.to_binary()[0]
        self.row = get_metadata_type(list(fields.values()))
        self.page = page
        self.first_page = self.page_after(HeaderType.itemsize + self.descriptions.nbytes + count * self.row.itemsize)

    def page_after(self, position: int) -> int:
        """The first page boundary from this byte on."""
        return position + -position % self.page

    def place(self, end: int, size: int) -> int:
        """Where an image of `size` bytes stands after one that ended at `end`: there, but never across a page."""
        return end if end // self.page == (end + size - 1) // self.page else self.page_after(end)

    def around(self, index: Any, positions: Any, sizes: Any, end: int) -> tuple[bytes, int, bytes]:
        """The bytes before the images, the place of those behind them, and these, when the last image ends at `end`."""
        from ffcv.types import ALLOC_TABLE_TYPE, CURRENT_VERSION, HeaderType

        table = np.zeros(len(index), ALLOC_TABLE_TYPE)
        table["sample_id"], table["ptr"], table["size"] = np.arange(len(index)), positions, sizes
        header = np.zeros(1, HeaderType)
        header["version"], header["num_fields"] = CURRENT_VERSION, len(self.descriptions)
        header["page_size"] = self.page
        header["num_samples"], header["alloc_table_ptr"] = len(index), self.page_after(end)
        head = header.tobytes() + self.descriptions.tobytes() + index.tobytes()
        return head, self.page_after(end), table.tobytes()


def _layout_of_files(count: int, settings: BetonSettings) -> Layout:
    from ffcv.fields import RGBImageField

    return Layout(RGBImageField(), count, settings.page_bytes)


def _write(path: Path, manifest: Manifest, originals: ImageArray) -> str:
    """Write an array front to back but for header and index, which are known last. Returns the file's sha256."""
    from ffcv.fields import NDArrayField

    shape = originals.images.shape[1:]
    layout = Layout(NDArrayField(np.dtype("uint8"), shape), manifest.count, page_bytes(math.prod(shape)))
    index = np.zeros(manifest.count, layout.row)
    index["f1"] = originals.labels
    images = progress(_raw_images(originals), f"writing {manifest.dataset} {manifest.split}", manifest.count)
    with open(path, "wb") as file:
        end, size = layout.first_page, math.prod(shape)
        for number, image in enumerate(images):
            index["f0"][number] = layout.place(end, size)
            end = int(index["f0"][number]) + size
            file.seek(end - size)
            file.write(image)
        head, table_at, table = layout.around(index, index["f0"], size, end)
        file.seek(table_at)
        file.write(table)
        file.seek(0)
        file.write(head)
        file.flush()
        os.fsync(file.fileno())
    return file_sha256(path)


def _raw_images(originals: ImageArray) -> Iterator[np.ndarray]:
    for image in originals.images:
        yield np.ascontiguousarray(image).reshape(-1)


def file_sha256(path: Path) -> str:
    """sha256 of the whole file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: Any) -> str:
    """`hashlib.file_digest` for Python 3.10."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def open_beton(path: Path, full: bool = False) -> Manifest:
    """Check that the .beton at `path` is whole and return its manifest.

    Sizes, header and index are always checked; the checksum too for files up to 1 GiB, and for all if `full`.

    Raises:
        DataError: the file or its manifest is missing, not readable, truncated, changed, of another FFCV version, or
            has labels that are no classes.
    """
    remedy = f"remove it and run `python -m benchmarks prepare` again: rm {path}"
    try:
        if not path.is_file():
            raise DataError(f"{path} does not exist: run `python -m benchmarks prepare DATASET` to make it.")
        return _open_checked(path, full, remedy)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): correct the permissions of the file and of its folders, or set "
            "ILSVRC_BENCH_CACHE to a folder of your own and run `python -m benchmarks prepare` there."
        ) from error


def _open_checked(path: Path, full: bool, remedy: str) -> Manifest:
    try:
        record = json.loads(manifest_path(path).read_text())
        manifest = Manifest(**record["manifest"])
        size, digest = record["bytes"], record["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{manifest_path(path)}, the manifest of {path.name}, cannot be read ({error}): {remedy}"
        ) from None
    if path.stat().st_size != size:
        raise DataError(f"{path} has {path.stat().st_size} bytes, its manifest says {size}: it is damaged; {remedy}")
    _check_index(path, manifest, remedy)
    if (full or size <= CHECKSUM_LIMIT_BYTES) and file_sha256(path) != digest:
        raise DataError(f"{path} has not the checksum of its manifest, {digest[:12]}...: it is damaged; {remedy}")
    return manifest


def _check_index(path: Path, manifest: Manifest, remedy: str) -> None:
    """Header, version and count are right, and every image lies inside the file, where its sample says."""
    from ffcv.reader import Reader
    from ffcv.types import ALLOC_TABLE_TYPE, CURRENT_VERSION, HeaderType

    outside = f"{path} has an index that points outside the file: it is damaged; {remedy}"
    size = path.stat().st_size
    if size < HeaderType.itemsize:
        raise DataError(f"{path} has {size} bytes, less than a header: it is damaged; {remedy}")
    header = np.fromfile(path, HeaderType, count=1)[0]
    if header["version"] != CURRENT_VERSION:
        raise DataError(f"{path} has FFCV format {header['version']}, this FFCV reads {CURRENT_VERSION}: {remedy}")
    if header["num_samples"] != manifest.count:
        raise DataError(f"{path} holds {header['num_samples']} images, its manifest says {manifest.count}: {remedy}")
    end = int(header["alloc_table_ptr"])  # of the images; the table is the rest of the file
    if end + manifest.count * ALLOC_TABLE_TYPE.itemsize != size:
        raise DataError(outside)
    try:
        reader = Reader(str(path))
        pointers, labels, table = reader.metadata["f0"], reader.metadata["f1"], reader.alloc_table
    except Exception as error:  # whatever FFCV makes of descriptions that are none
        raise DataError(f"{path} has fields that FFCV cannot read ({error!r}): it is damaged; {remedy}") from error
    pointers = pointers["data_ptr"] if pointers.dtype.names else pointers
    inside = (table["ptr"] <= end) & (table["size"] <= end) & (table["ptr"] + table["size"] <= end)
    if not inside.all() or not np.array_equal(pointers, table["ptr"]):
        raise DataError(outside)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(manifest.classes)))
    if len(wrong):
        raise DataError(
            f"{path}: image {wrong[0]} has the label {labels[wrong[0]]}, and so {len(wrong)} of {len(labels)} have one "
            f"outside 0 to {len(manifest.classes) - 1}, the numbers of its manifest's classes: it is damaged; {remedy}"
        )
