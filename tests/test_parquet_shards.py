"""Hugging Face's shards give the images and labels of the folders they were made from; whatever is amiss is named."""

from __future__ import annotations

import builtins
import io
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import beton
from datamodules.beton import BetonSettings, convert, describe, open_beton
from datamodules.originals import DataError, open_imagenet

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

WNIDS = ["n01440764", "n01443537", "n02102040"]
Row = tuple[str | None, bytes | None, int | None]


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(DataError) as raised:
        action()
    print(f"\n--- {raised.value}")
    return str(raised.value)


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20 + number, 10), (9 * number, 99, 200 - number)).save(stream, "JPEG")
    return stream.getvalue()


def rows_of(split: str, count: int = 12) -> list[Row]:
    """Images in an order that is not that of the classes, with Hugging Face's file names."""
    rows: list[Row] = []
    for number in range(count):
        label = (2 * number) % 3
        name = f"{WNIDS[label]}_{number}" if split == "train" else f"ILSVRC2012_val_{number + 1:08}"
        rows.append((f"{name}_{WNIDS[label]}.JPEG", jpeg(number), label))
    return rows


def write_shard(path: Path, rows: list[Row], names: list[str] | None = None, label_type: Any = None) -> None:
    """A shard with row groups of two, and Hugging Face's description of its columns."""
    images = pyarrow.array(
        [{"bytes": content, "path": name} for name, content, _ in rows],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )
    table = pyarrow.table({"image": images, "label": pyarrow.array([row[2] for row in rows], label_type)})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=2)


def write_shards(
    root: Path, split: str, rows: list[Row], shards: int = 3, names: list[str] | None = None
) -> list[Path]:
    paths = []
    for number in range(shards):
        part = rows[number * len(rows) // shards : (number + 1) * len(rows) // shards]
        paths.append(root / "data" / f"{split}-{number:05}-of-{shards:05}.parquet")
        write_shard(paths[-1], part, names)
    return paths


def plain_name(row: Row) -> str:
    assert row[0] is not None
    stem, wnid = row[0].removesuffix(".JPEG").rsplit("_", 1)
    return f"{wnid}/{stem}.JPEG"


@pytest.mark.parametrize("below", [".", "imagenet"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_shards_give_what_the_folder_gives(tmp_path: Path, split: str, below: str) -> None:
    """The same names, labels and bytes; the order is that of the shards."""
    rows = rows_of(split)
    write_shards(tmp_path / "shards" / below, split, rows, names=["tench", "goldfish", "spaniel"])
    ours: Any = {"train": "train", "validation": "val"}[split]
    for row in rows:
        path = tmp_path / "folder" / ours / plain_name(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row[1] or b"")
    files = open_imagenet(tmp_path / "shards", ours, None)
    folder = open_imagenet(tmp_path / "folder", ours, None)
    assert files.classes == folder.classes == tuple(WNIDS)
    assert [files.name(number) for number in range(12)] == [plain_name(row) for row in rows]
    assert [files.read(number) for number in range(12)] == [row[1] for row in rows]
    assert files.labels.tolist() == [row[2] for row in rows]
    assert files.labels.dtype == np.int64
    theirs = {folder.name(n): (int(folder.labels[n]), folder.read(n)) for n in range(12)}
    assert {files.name(n): (int(files.labels[n]), files.read(n)) for n in range(12)} == theirs
    assert np.array_equal(files.decode(5), np.asarray(Image.open(io.BytesIO(rows[5][1] or b""))))


def test_names_without_a_wordnet_id_take_the_labels_names(tmp_path: Path) -> None:
    rows: list[Row] = [(None, jpeg(0), 1), ("b.JPEG", jpeg(1), 0), ("c.JPEG", jpeg(2), 1), ("d.JPEG", jpeg(3), 0)]
    write_shards(tmp_path, "train", rows, 2, names=["cat", "dog"])
    files = open_imagenet(tmp_path, "train", None)
    assert files.classes == ("cat", "dog")
    assert [files.name(n) for n in range(4)] == ["dog/00000-00000.JPEG", "cat/b.JPEG", "dog/c.JPEG", "cat/d.JPEG"]
    write_shards(tmp_path, "train", rows, 2)
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert "does not end in a WordNet id" in message
    assert "sort the images into folders" in message


def test_a_subset_is_numbered_in_the_order_given(tmp_path: Path) -> None:
    rows = rows_of("train")
    write_shards(tmp_path, "train", rows)
    files = open_imagenet(tmp_path, "train", [WNIDS[2], WNIDS[0]])
    kept = [row for row in rows if row[2] in (0, 2)]
    assert files.classes == (WNIDS[2], WNIDS[0])
    assert files.labels.tolist() == [{2: 0, 0: 1}[row[2] or 0] for row in kept]
    assert [files.read(number) for number in range(len(files))] == [row[1] for row in kept]
    message = error_of(lambda: open_imagenet(tmp_path, "train", ["n00000001"]))
    assert "no class n00000001 among its 3" in message


def test_shards_work_in_other_processes_and_threads(tmp_path: Path) -> None:
    rows = rows_of("train")
    write_shards(tmp_path, "train", rows)
    files = open_imagenet(tmp_path, "train", None)
    assert files.read(3) == rows[3][1]
    assert len(pickle.dumps(files)) < 5000  # without the row group that was read
    copy = pickle.loads(pickle.dumps(files))
    assert [copy.read(number) for number in range(12)] == [row[1] for row in rows]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read, list(range(12)) * 20)) == [row[1] for row in rows] * 20
    left = files.without([0, 5])
    assert [left.read(number) for number in range(10)] == [row[1] for n, row in enumerate(rows) if n not in (0, 5)]
    assert left.sources != files.sources


def test_shards_become_a_beton(tmp_path: Path) -> None:
    from datamodules.loaders import ffcv_fault

    if fault := ffcv_fault():
        pytest.skip(fault)
    rows = rows_of("train")
    rows[4] = (rows[4][0], b"torn", rows[4][2])
    rows[7] = (rows[7][0], None, rows[7][2])
    write_shards(tmp_path, "train", rows)
    files, path = open_imagenet(tmp_path, "train", None), tmp_path / "out" / "some.beton"
    message = error_of(
        lambda: convert(path, describe("some", "train", files), files, BetonSettings(), 1),
    )
    assert f"{plain_name(rows[4])} cannot be decoded: of no known format" in message
    assert f"{plain_name(rows[7])} has no bytes" in message
    convert(path, describe("some", "train", files), files, BetonSettings(mode="raw"), 1, "skip")
    manifest = open_beton(path, full=True)
    assert manifest.skipped == [plain_name(rows[4]), plain_name(rows[7])]
    assert manifest.per_class == [4, 4, 2]


# What is amiss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("label", [3, -1, 10**12])
def test_a_label_out_of_range_is_refused_with_file_and_row(tmp_path: Path, label: int, named: bool) -> None:
    rows = rows_of("train")
    rows[7] = (rows[7][0], rows[7][1], label)
    paths = write_shards(tmp_path, "train", rows, names=["tench", "goldfish", "spaniel"] if named else None)
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert f"{paths[1]}: row 3 (row 1 of row group 1) has the label {label}, must be 0 to 2" in message
    assert "Fetch the shard again" in message


def test_labels_that_do_not_number_the_sorted_classes_are_refused(tmp_path: Path) -> None:
    rows = [(name, content, 2 - (label or 0)) for name, content, label in rows_of("train")]
    paths = write_shards(tmp_path, "train", rows)
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert f"{paths[0]}: row 0 of row group 0 has the label 2, its file name says n01440764" in message
    assert "8 rows differ" in message
    write_shards(tmp_path, "train", rows_of("train"), names=["tench", "goldfish"])
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert "3 WordNet ids, the shards name 2 labels" in message


def test_missing_and_foreign_shards_are_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "train", rows_of("train"), 4)
    paths[1].unlink()
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert "3 shards like train-00000-of-00004.parquet, must be one each of 0 to 3; missing: 1" in message
    paths[3].rename(paths[3].with_name("train-00003-of-00005.parquet"))
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert "all of the same number" in message


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "train", rows_of("train"))
    whole = paths[1].read_bytes()
    for content in (b"", b"<html>404</html>", whole[: len(whole) // 2], whole[:-4] + b"none"):
        paths[1].write_bytes(content)
        message = error_of(lambda: open_imagenet(tmp_path, "train", None))
        assert f"{paths[1]} cannot be read as parquet" in message
        assert "Fetch it again" in message
    paths[1].unlink()
    paths[1].mkdir()
    assert str(paths[1]) in error_of(lambda: open_imagenet(tmp_path, "train", None))


def test_a_shard_that_is_damaged_later_breaks_its_images_only(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "train", rows_of("train"))
    files = open_imagenet(tmp_path, "train", None)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    found = beton.find_broken(tmp_path / "checked.json", "some train", files, 1)
    assert list(found) == [4, 5, 6, 7]
    assert "cannot be read (" in found[4]
    assert paths[1].name in found[4]


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    parquet.write_table(pyarrow.table({"text": ["a"], "label": [0]}), path)
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert f"{path}: has the columns label, text, must have image.bytes, image.path and label" in message
    for labels, kind in (([0, None], pyarrow.int64()), (["a", "b"], pyarrow.string())):
        write_shard(path, [("a.JPEG", b"", label) for label in labels], label_type=kind)  # type: ignore[misc]
        assert "must be a whole number in every row" in error_of(lambda: open_imagenet(tmp_path, "train", None))


def test_without_pyarrow_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, "train", rows_of("train"))
    honest = builtins.__import__

    def without_pyarrow(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(f"No module named {name!r}")
        return honest(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    message = error_of(lambda: open_imagenet(tmp_path, "train", None))
    assert "pip install 'pyarrow>=17,<27'" in message
