"""Conversion to FFCV's .beton format, and the checks that a .beton is whole before anything reads it.

A conversion writes beside its final name, syncs and renames, under a lock: a file that exists is complete, however many
processes asked for it and however the last one ended. Beside each `NAME.beton` stands `NAME.json`, its manifest.

FFCV's own writer waits for ever when a writing process fails, and its reader takes a truncated file for data; so the
file is written here, in order and by one process, with FFCV's own field types.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from datamodules.files import write_whole
from datamodules.originals import DataError, ImageArray, ImageFiles

FORMAT = 1  # raise it when the same settings start to give another file
PAGE_BYTES = 1 << 23  # FFCV's default; an encoded image must fit in one page
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


@dataclass(frozen=True)
class BetonSettings:
    """How images are written. Datasets in memory are stored raw; image files as JPEG, shrunk to `max_size` first."""

    max_size: int = 500  # longest side in pixels
    quality: int = 90  # JPEG quality


def describe(dataset: str, split: str, originals: ImageArray | ImageFiles) -> Manifest:
    """The manifest of `originals`; for image arrays this reads every pixel once."""
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


def convert(
    path: Path, manifest: Manifest, originals: ImageArray | ImageFiles, settings: BetonSettings, workers: int
) -> None:
    """Write `originals` to `path` and its manifest beside it; do nothing if another process has just done so.

    Raises:
        DataError: the disk is full, the folder cannot be written, or an image cannot be read (it is named).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.exists() and manifest_path(path).exists():
                return
            _convert_locked(path, manifest, originals, settings, workers)
    except OSError as error:
        raise _disk_error(path, error) from error


def _convert_locked(
    path: Path, manifest: Manifest, originals: ImageArray | ImageFiles, settings: BetonSettings, workers: int
) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed: we hold the lock
        leftover.unlink()
    _check_space(path, originals)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        digest = _write(unfinished, manifest, originals, settings, workers)
        record = {"manifest": asdict(manifest), "settings": asdict(settings), "format": FORMAT}
        record |= {"bytes": unfinished.stat().st_size, "sha256": digest}
        write_whole(manifest_path(path), json.dumps(record, indent=1))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def manifest_path(path: Path) -> Path:
    """Where the manifest of the .beton at `path` stands."""
    return path.with_suffix(".json")


def _check_space(path: Path, originals: ImageArray | ImageFiles) -> None:
    """Refuse before the first byte when the images, known or guessed at 100 kB each, cannot fit."""
    needed = originals.images.nbytes if isinstance(originals, ImageArray) else 100_000 * len(originals)
    free = shutil.disk_usage(path.parent).free
    if free < 1.05 * needed + PAGE_BYTES:
        raise DataError(
            f"{path.parent} has {free / 1e9:.2f} GB free, the .beton needs about {needed / 1e9:.2f} GB: free some "
            "space or set ILSVRC_BENCH_CACHE to a folder on a larger disk."
        )


def _disk_error(path: Path, error: OSError) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DataError(
            f"{path.parent} ran full while {path.name} was written ({error.strerror}); the unfinished file was "
            "removed. Free some space or set ILSVRC_BENCH_CACHE to a folder on a larger disk."
        )
    return DataError(
        f"{path.parent} cannot be written ({error.strerror or error}): set ILSVRC_BENCH_CACHE to a folder that can."
    )


def _write(
    path: Path, manifest: Manifest, originals: ImageArray | ImageFiles, settings: BetonSettings, workers: int
) -> str:
    """Write the file front to back but for its header and index, which are known last. Returns its sha256."""
    from ffcv.fields import IntField, NDArrayField, RGBImageField
    from ffcv.types import (
        ALLOC_TABLE_TYPE,
        CURRENT_VERSION,
        TYPE_ID_HANDLER,
        FieldDescType,
        HeaderType,
        get_metadata_type,
    )

    if isinstance(originals, ImageArray):
        field = NDArrayField(np.dtype("uint8"), originals.images.shape[1:])
        encoded, files = _raw_images(originals), None
    else:
        field = RGBImageField("jpg")
        encoded, files = _jpegs(originals, settings, workers), originals
    fields = {"image": field, "label": IntField()}
    type_ids = {handler: number for number, handler in TYPE_ID_HANDLER.items()}
    descriptions = np.zeros(len(fields), FieldDescType)
    for row, (name, handler) in zip(descriptions, fields.items(), strict=True):
        row["type_id"] = type_ids[type(handler)]
        row["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        row["arguments"][:] = handler.to_binary()[0]
    index = np.zeros(manifest.count, get_metadata_type(list(fields.values())))
    index["f1"] = originals.labels

    first_page = HeaderType.itemsize + descriptions.nbytes + index.nbytes
    first_page += -first_page % PAGE_BYTES
    progress = tqdm(encoded, total=manifest.count, desc=f"writing {path.name[1:].split('.')[0]}", unit=" images")
    with open(path, "wb") as file:
        table = np.zeros(manifest.count, ALLOC_TABLE_TYPE)
        end = _write_pages(file, first_page, progress, index, table, files)
        file.seek(end)
        file.write(table.tobytes())
        header = np.zeros(1, HeaderType)
        header["version"], header["num_fields"], header["page_size"] = CURRENT_VERSION, len(fields), PAGE_BYTES
        header["num_samples"], header["alloc_table_ptr"] = manifest.count, end
        file.seek(0)
        file.write(header.tobytes() + descriptions.tobytes() + index.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return file_sha256(path)


def _write_pages(
    file: Any, start: int, encoded: Iterable[tuple[int, int, np.ndarray]], index: Any, table: Any, files: Any
) -> int:
    """Write each (height, width, bytes) after the last, never across a page. Returns the end, page-aligned."""
    position = start
    for number, (height, width, data) in enumerate(encoded):
        if data.nbytes > PAGE_BYTES:
            raise DataError(
                f"image {files.name(number) if files else number} takes {data.nbytes} bytes, more than the "
                f"{PAGE_BYTES} of a page: lower the maximal size or the quality."
            )
        if position // PAGE_BYTES != (position + data.nbytes - 1) // PAGE_BYTES:
            position += -position % PAGE_BYTES
        file.seek(position)
        file.write(data)
        if files is None:
            index["f0"][number] = position
        else:
            index["f0"][number] = (0, width, height, position)
        table[number] = (number, position, data.nbytes)
        position += data.nbytes
    return position + -position % PAGE_BYTES


def _raw_images(originals: ImageArray) -> Iterator[tuple[int, int, np.ndarray]]:
    height, width = originals.images.shape[1:3]
    for image in originals.images:
        yield height, width, np.ascontiguousarray(image).reshape(-1)


def _jpegs(originals: ImageFiles, settings: BetonSettings, workers: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Encode in `workers` processes, a bounded number of images ahead, and yield in order."""
    numbers = iter(range(len(originals)))
    # Spawned, not forked: a child forked after numba's OpenMP has run is killed.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(encode_jpeg, originals, number, settings) for number in islice(numbers, 8 * workers)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(encode_jpeg, originals, number, settings) for number in islice(numbers, 1)]


def encode_jpeg(originals: ImageFiles, number: int, settings: BetonSettings) -> tuple[int, int, np.ndarray]:
    """Height, width and JPEG bytes of one image, shrunk (PIL, box filter) if its longest side is above `max_size`."""
    import io

    from PIL import Image

    image = Image.fromarray(originals.decode(number))
    shrink = settings.max_size / max(image.size)
    if shrink < 1:
        size = (max(1, int(image.width * shrink)), max(1, int(image.height * shrink)))
        image = image.resize(size, Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=settings.quality, subsampling=2, optimize=True)
    return image.height, image.width, np.frombuffer(buffer.getvalue(), np.uint8)


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
        DataError: the file or its manifest is missing, truncated, changed, or of another FFCV version.
    """
    remedy = f"remove it and run `python -m benchmarks prepare` again: rm {path}"
    if not path.is_file():
        raise DataError(f"{path} does not exist: run `python -m benchmarks prepare DATASET` to make it.")
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
        pointers, table = reader.metadata["f0"], reader.alloc_table
    except Exception as error:  # whatever FFCV makes of descriptions that are none
        raise DataError(f"{path} has fields that FFCV cannot read ({error!r}): it is damaged; {remedy}") from error
    pointers = pointers["data_ptr"] if pointers.dtype.names else pointers
    inside = (table["ptr"] <= end) & (table["size"] <= end) & (table["ptr"] + table["size"] <= end)
    if not inside.all() or not np.array_equal(pointers, table["ptr"]):
        raise DataError(outside)
