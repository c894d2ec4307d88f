"""`prepare imagenet` on photos, whole and broken: estimates, settings, and what is left out is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.fit import dataset_record
from datamodules import beton, estimate
from datamodules.imagenet import ImageNet
from datamodules.originals import DataError, open_imagenet

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def needs_ffcv() -> None:
    from datamodules.loaders import ffcv_fault

    if fault := ffcv_fault():
        pytest.skip(fault)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; in train 4 and 5 photos, in val 3 each."""
    for split, counts in (("train", (4, 5)), ("val", (3, 3))):
        for label, count in enumerate(counts):
            folder = tmp_path / "data" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
                Image.fromarray(noise).resize((80, 60)).save(folder / f"{number}.JPEG")
    return tmp_path / "data"


def imagenet(root: Path, **settings: Any) -> ImageNet:
    return ImageNet(batch_size=2, num_classes=2, root=str(root), workers=1, **settings)


def spoil(root: Path) -> None:
    (root / "train" / "class1" / "3.JPEG").write_bytes(b"")
    (root / "val" / "class0" / "1.JPEG").write_bytes(b"<html>404</html>")


@pytest.mark.usefixtures("needs_ffcv")
def test_a_dry_run_writes_nothing(bench: Bench, root: Path, tmp_path: Path) -> None:
    status, out, _ = bench("prepare", "imagenet", "--root", root, "--num-classes", "2", "--dry-run")
    assert status == 0
    assert "9 of 9 images encoded to see" in out
    assert "about 8.4 MB" in out
    assert "of memory; free" in out
    assert "imagenet test: 6 images, read from the original files: no .beton" in out
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert bench("prepare", "imagenet", "--root", root, "--num-classes", "2")[0] == 0
    assert (
        "imagenet train: is there" in bench("prepare", "imagenet", "--root", root, "--num-classes", "2", "--dry-run")[1]
    )
    assert "MB, in seconds" in bench("prepare", "digits", "--loader", "ffcv", "--dry-run")[1]


@pytest.mark.usefixtures("needs_ffcv")
def test_a_dry_run_refuses_what_does_not_fit(bench: Bench, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    status, out, err = bench("prepare", "imagenet", "--root", root, "--num-classes", "2", "--dry-run")
    assert status == 2
    assert "free on disk: 1.0 MB" in out
    assert "has 1.0 MB free, the .beton needs about 8.4 MB" in err


@pytest.mark.usefixtures("needs_ffcv")
def test_broken_images_of_both_splits_are_refused_at_once(bench: Bench, root: Path) -> None:
    spoil(root)
    status, _, err = bench("prepare", "imagenet", "--root", root, "--num-classes", "2")
    assert status == 2
    assert "imagenet train: 1 of 9 images cannot be decoded" in err
    assert "class1/3.JPEG" in err
    assert "imagenet test: 1 of 6 images cannot be decoded" in err
    assert "class0/1.JPEG cannot be decoded: of no known format" in err
    print(err)


@pytest.mark.usefixtures("needs_ffcv")
def test_images_left_out_are_told(bench: Bench, root: Path) -> None:
    whole = imagenet(root)
    whole.prepare_data()
    whole.setup()
    spoil(root)
    for path in Path(whole.beton_path("train")).parent.glob("*train*"):
        path.unlink()
    status, out, _ = bench("prepare", "imagenet", "--root", root, "--num-classes", "2", "--corrupt", "skip")
    assert status == 0
    assert "imagenet train: 8 images, 2 classes of 4," in out
    assert "imagenet test: 5 images, 2 classes of 2 to 3," in out
    assert "without 1 that cannot be decoded: class0/1.JPEG" in out
    assert "--data.corrupt skip" in out

    data = imagenet(root, corrupt="skip")
    data.prepare_data()
    data.setup()
    record = dataset_record(SimpleNamespace(datamodule=data), "test")  # type: ignore[arg-type]
    of_whole = dataset_record(SimpleNamespace(datamodule=whole), "test")  # type: ignore[arg-type]
    assert (record["count"], record["skipped"]) == (5, ["class0/1.JPEG"])
    assert of_whole["count"] == 6
    assert "skipped" not in of_whole
    assert record["content"] != of_whole["content"]
    batches = list(data.test_dataloader())
    assert sum(len(labels) for _, labels in batches) == 5

    strict = imagenet(root)
    with pytest.raises(DataError, match=r"lacks 1 images that could not be decoded, such as class1/3.JPEG"):
        strict.manifest("train")


def test_the_torch_loader_leaves_the_same_images_out(root: Path) -> None:
    spoil(root)
    data = imagenet(root, corrupt="skip", loader="torch", image_size=32, eval_resize=32)
    data.prepare_data()
    data.setup()
    assert data.manifest("train").skipped == ["class1/3.JPEG"]
    assert data.manifest("train").per_class == [4, 4]
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 5


@pytest.mark.usefixtures("needs_ffcv")
def test_settings_reach_the_file(bench: Bench, root: Path) -> None:
    from ffcv.reader import Reader

    arguments = ("--root", root, "--num-classes", "2", "--max-size", "40", "--mode", "mixed", "--raw-share", "0.5")
    assert bench("prepare", "imagenet", *arguments, "--quality", "80", "--workers", "1")[0] == 0
    data = imagenet(root, max_size=40, mode="mixed", raw_share=0.5, quality=80)
    rows = Reader(str(data.beton_path("train"))).metadata["f0"]
    assert rows["mode"].tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert rows["width"].tolist() == [40] * 9
    assert rows["height"].tolist() == [30] * 9


@pytest.mark.usefixtures("needs_ffcv")
@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (("imagenet", "--quality", "99"), "quality (=99) must be 1 to 95"),
        (("imagenet", "--mode", "png"), "mode (='png') must be jpg, raw or mixed"),
        (("imagenet", "--mode", "mixed"), "raw_share (=None) must lie between 0 and 1"),
        (("imagenet", "--corrupt", "ignore"), "corrupt (='ignore') must be refuse or skip"),
        (("digits", "--quality", "80"), "--quality: the images of digits are stored as they are"),
        (("digits", "--corrupt", "skip"), "--corrupt: the images of digits are stored as they are"),
        (("digits", "--loader", "ffcv", "--workers", "5000"), "workers (=5000) must be between 1 and"),
    ],
)
def test_settings_that_cannot_be_are_refused(bench: Bench, arguments: tuple[str, ...], because: str) -> None:
    status, _, err = bench("prepare", *arguments)
    assert status == 2
    assert because in err


@pytest.mark.usefixtures("needs_ffcv")
def test_real_photos_of_every_size(data_root: Path, tmp_path: Path) -> None:
    """ImageNet's own files, with their EXIF and gray ones: as PIL sees them, shrunk to a longest side of 500."""
    (tmp_path / "train").symlink_to(data_root / "imagenet-originals")
    files = open_imagenet(tmp_path, "train", None)
    path, settings = tmp_path / "out" / "originals.beton", beton.BetonSettings(mode="raw")
    beton.convert(path, beton.describe("originals", "train", files), files, settings, 2)
    from ffcv.reader import Reader

    content, rows = path.read_bytes(), Reader(str(path)).metadata["f0"]
    assert len(rows) == 73
    for number, row in enumerate(rows):
        with Image.open(data_root / "imagenet-originals" / files.name(number)) as photo:
            image = photo.convert("RGB")
        if max(image.size) > 500:
            share = 500 / max(image.size)
            size = int(image.width * share), int(image.height * share)
            image = image.resize(size, Image.Resampling.BOX)
        assert (row["width"], row["height"]) == image.size
        begin = int(row["data_ptr"])
        assert content[begin : begin + 3 * image.width * image.height] == image.tobytes()
