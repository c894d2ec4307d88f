"""ImageNet as Hugging Face packs it: parquet shards of rows with an encoded image, its file name, and a label.

    data/train-00000-of-00294.parquet ...    columns image: struct{bytes, path}, label: integer
    data/validation-00000-of-00014.parquet ...

Rows are found through the shards' metadata; names and labels are read when a dataset is opened, images a row group
(mostly 100 rows) at a time. That suits a conversion and an evaluation, which go through them in order; random access
reads a whole row group for every image, so training should read a .beton.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.originals import BrokenImage, DataError, ImageFiles, choose_classes, some, unreadable

SHARD = re.compile(r".*-(\d+)-of-(\d+)(-[0-9a-f]+)?\.parquet")
WNID_AT_END = re.compile(r"(.+)_(n\d{8})(\.\w+)")  # of ILSVRC2012_val_00000293_n01440764.JPEG
COLUMNS = ["image.path", "label"]


class ParquetImages(ImageFiles):
    """`ImageFiles` in parquet shards, in their order there: shard by shard, row by row.

    Sizes of single images are not known without reading them (`size` is -1), so `sources` has the SHA-256 over names
    and over the sizes of the shards, and is not that of the folder or the tar with the same images.
    """

    def __init__(
        self, shards: Sequence[Path], split: str, classes: Sequence[str], names: Sequence[str], rows: np.ndarray
    ) -> None:
        """rows: int64 [N, 4], of each image its label, shard, row group, and row in this."""
        self.labels = np.ascontiguousarray(rows[:, 0])
        self.classes = tuple(classes)
        self.skipped = ()
        self._split = split
        self._path = shards[0].parent
        self._shards = tuple(shards)
        self._shard_bytes = tuple(shard.stat().st_size for shard in shards)
        self._names = np.array([name.encode() for name in names], dtype=np.bytes_)
        self._rows = np.ascontiguousarray(rows[:, 1:].astype(np.int32))
        self._last: tuple[tuple[int, int], Any] | None = None  # the row group that was read last
        self.sources = {split: self._listing_sha256()}

    def size(self, index: int) -> int:
        return -1

    def _columns(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in ("labels", "_names", "_rows")}

    def _listing_sha256(self) -> str:
        listing = json.dumps([sorted(map(os.fsdecode, self._names.tolist())), self._shard_bytes])
        return hashlib.sha256(listing.encode()).hexdigest()

    def read(self, index: int) -> bytes:
        """The encoded bytes as stored. Raises BrokenImage if they are missing or their row group is damaged."""
        shard, group, row = (int(number) for number in self._rows[index])
        last = self._last  # another thread may replace it meanwhile, but not change it
        if last is None or last[0] != (shard, group):
            last = (shard, group), self._read_group(index, shard, group)
            self._last = last
        stored = last[1][row].as_py()
        if stored is None:
            raise BrokenImage(
                f"{self._shards[shard]}: row {row} of row group {group}, {self.name(index)}, holds no image bytes, "
                "must hold them in image.bytes. Fetch the shard again.",
                "has no bytes",
            )
        return stored

    def _read_group(self, index: int, shard: int, group: int) -> Any:
        import pyarrow
        from pyarrow.parquet import ParquetFile

        path = self._shards[shard]
        try:
            with ParquetFile(path, memory_map=True) as file:
                table = file.read_row_group(group, columns=["image.bytes"], use_threads=False)
            return table.column(0).combine_chunks().field("bytes")
        except (pyarrow.ArrowException, OSError) as error:
            reason = f"is in row group {group}, which cannot be read ({first_line(error)})"
            raise BrokenImage(
                f"{path}: image {self.name(index)} {reason}. Fetch the shard again.", f"{reason}, of {path.name}"
            ) from error

    def _open(self) -> None:
        self._last = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}


def open_parquet(shards: Sequence[Path], split: str, classes: Sequence[str] | None) -> ImageFiles:
    """The images of all shards of a split.

    Classes are the WordNet ids at the end of the file names, else the names that the shards give their labels. Labels
    must number the sorted WordNet ids. classes: those to keep, numbered in the order given; None: all.

    Raises:
        DataError: pyarrow is not installed, a shard is missing, damaged or has other columns, a label is out of range
            or is not that of the file's name, or a class is unknown.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"{shards[0]}: parquet shards need pyarrow, which is not installed: pip install 'pyarrow>=17,<27'; or "
            "sort the images into train/<wnid>/ and val/<wnid>/."
        ) from error
    _check_complete(shards)
    names, columns, label_names = [], [], None
    for number, shard in enumerate(shards):
        paths, rows, named = _index(shard, number)
        names += paths
        columns.append(rows)
        label_names = label_names or named
    rows = np.concatenate(columns)
    wnids = [match[2] if (match := WNID_AT_END.fullmatch(PurePosixPath(name).name)) else "" for name in names]
    if all(wnids):
        available = _checked_wnids(shards, rows, wnids, label_names)
        names = [
            f"{wnid}/{WNID_AT_END.sub(_plain, PurePosixPath(name).name)}"
            for wnid, name in zip(wnids, names, strict=True)
        ]
    elif label_names is not None:
        available = label_names
        _check_range(shards, rows, len(available))
        names = [f"{available[label]}/{PurePosixPath(n).name}" for label, n in zip(rows[:, 0], names, strict=True)]
    else:
        unnamed = next(name for name, wnid in zip(names, wnids, strict=True) if not wnid)
        raise DataError(
            f"{shards[0].parent}: file name {unnamed!r} does not end in a WordNet id, such as _n01440764.JPEG, and the "
            "shards do not name their labels: one of both must say which class is which. Fetch the dataset "
            "imagenet-1k, or sort the images into folders."
        )
    kept = choose_classes(available, classes, shards[0].parent)
    number_of = np.full(len(available), -1)
    for number, name in enumerate(kept if classes is not None else available):
        number_of[available.index(name)] = number
    rows[:, 0] = number_of[rows[:, 0]]
    chosen = np.flatnonzero(rows[:, 0] >= 0)
    return ParquetImages(
        shards, split, kept if classes is not None else available, [names[row] for row in chosen], rows[chosen]
    )


def _plain(match: re.Match[str]) -> str:
    """n01440764_10026_n01440764.JPEG is n01440764_10026.JPEG in the folders and the tar."""
    return match[1] + match[3]


def _check_complete(shards: Sequence[Path]) -> None:
    """Names tell how many shards there are."""
    matches = [SHARD.fullmatch(shard.name) for shard in shards]
    counts = {int(match[2]) for match in matches if match}
    if None in matches or len(counts) != 1:
        raise DataError(
            f"{shards[0].parent}: shards must be called NAME-00000-of-00294.parquet, all of the same number; found "
            f"{some([shard.name for shard in shards])}. Remove what is not of this dataset."
        )
    (count,) = counts
    there = [int(match[1]) for match in matches if match]
    missing = sorted(set(range(count)) - set(there))
    if missing or len(there) != count:
        raise DataError(
            f"{shards[0].parent}: {len(there)} shards like {shards[0].name}, must be one each of 0 to {count - 1}; "
            f"missing: {some([str(number) for number in missing])}. Fetch the others."
        )


def _index(shard: Path, number: int) -> tuple[list[str], np.ndarray, list[str] | None]:
    """File names, rows as `ParquetImages` wants them, and the names of the labels where the shard gives them."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(shard, memory_map=True) as file:
            lengths = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            columns = {file.metadata.schema.column(c).path for c in range(file.metadata.num_columns)}
            if not {"image.bytes", *COLUMNS} <= columns:
                raise DataError(
                    f"{shard}: has the columns {some(sorted(columns))}, must have image.bytes, image.path and label. "
                    "Fetch the dataset imagenet-1k, or sort the images into folders."
                )
            table = file.read(columns=COLUMNS, use_threads=False)
            named = _label_names(file.schema_arrow.metadata)
    except OSError as error:
        if error.errno is not None and not isinstance(error, pyarrow.ArrowException):
            raise unreadable(shard, error) from error
        raise _damaged(shard, error) from error
    except pyarrow.ArrowException as error:
        raise _damaged(shard, error) from error
    labels = table.column("label")
    if labels.null_count or not pyarrow.types.is_integer(labels.type):
        raise DataError(
            f"{shard}: label has {labels.null_count} empty rows and type {labels.type}, must be a whole number in "
            "every row. Fetch the shard again."
        )
    rows = np.empty((table.num_rows, 4), np.int64)
    rows[:, 0] = labels.to_numpy()
    rows[:, 1] = number
    rows[:, 2] = np.repeat(np.arange(len(lengths)), lengths)
    rows[:, 3] = np.concatenate([np.arange(length) for length in [0, *lengths]])
    paths = table.column("image").combine_chunks().field("path").to_pylist()
    return [path or f"{number:05}-{row:05}.JPEG" for row, path in enumerate(paths)], rows, named


def _damaged(shard: Path, error: Exception) -> DataError:
    return DataError(
        f"{shard} cannot be read as parquet ({first_line(error)}): it is damaged or cut off. Fetch it again."
    )


def first_line(error: Exception) -> str:
    """What pyarrow says, without the rest of it."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def _label_names(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """Names of the labels, in their order, as Hugging Face's `datasets` notes them in a shard."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _check_range(shards: Sequence[Path], rows: np.ndarray, classes: int) -> None:
    outside = np.flatnonzero((rows[:, 0] < 0) | (rows[:, 0] >= classes))
    if len(outside):
        label, shard, group, row = rows[outside[0]]
        at = int((rows[:, 1] == shard)[: outside[0]].sum())
        raise DataError(
            f"{shards[shard]}: row {at} (row {row} of row group {group}) has the label {label}, must be 0 to "
            f"{classes - 1}; {len(outside)} rows have such labels. Fetch the shard again: a test split without labels "
            "cannot be evaluated."
        )


def _checked_wnids(
    shards: Sequence[Path], rows: np.ndarray, wnids: Sequence[str], label_names: list[str] | None
) -> list[str]:
    """The sorted WordNet ids, after a check that labels number them."""
    available = sorted(set(wnids))
    if label_names is not None and len(label_names) != len(available):
        raise DataError(
            f"{shards[0].parent}: file names have {len(available)} WordNet ids, the shards name {len(label_names)} "
            "labels. Every class must have an image: fetch the shards again."
        )
    _check_range(shards, rows, len(available))
    number_of = {wnid: number for number, wnid in enumerate(available)}
    expected = np.array([number_of[wnid] for wnid in wnids])
    wrong = np.flatnonzero(expected != rows[:, 0])
    if len(wrong):
        label, shard, group, row = rows[wrong[0]]
        raise DataError(
            f"{shards[shard]}: row {row} of row group {group} has the label {label}, its file name says "
            f"{wnids[wrong[0]]}, which is number {expected[wrong[0]]} of the sorted WordNet ids; {len(wrong)} rows "
            "differ so. Labels must number the sorted ids: fetch the dataset again."
        )
    return available
