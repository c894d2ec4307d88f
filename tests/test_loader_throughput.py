"""Loaders side by side: statistics on numbers made by hand, the quick form on each dataset, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import loader_contestants
from benchmarks.loader_contestants import Contestant, contestants, descendants, reference, tree_cpu_seconds, turn
from benchmarks.loader_throughput import (
    BEGIN,
    END,
    Row,
    as_markdown,
    as_table,
    choose,
    committed,
    plot,
    read_record,
    rounded,
    rows,
)
from benchmarks.results import ResultError
from benchmarks.runs import RunError

Bench = Callable[..., tuple[int, str, str]]


def opens(*_: object) -> Any:
    raise AssertionError("never opened")


def record(**changes: Any) -> dict[str, Any]:
    """A measurement of two loaders over three rounds: rates 100, 50, 200 and 300, 100, 800."""

    def one(name: str, ours: bool, rates: list[int]) -> dict[str, Any]:
        turns = [{"images": 2 * rate, "cpu_seconds": 2.0, "wall_seconds": 4.0} for rate in rates]
        first = {"first_batch_cpu_seconds": 1.5}
        return {"name": name, "what": f"the {name}", "ours": ours, "first_epoch": first, "rounds": turns}

    return {
        "dataset": "imagenet",
        "task": "crop",
        "batch_size": 8,
        "workers": 2,
        "reference": "theirs",
        "contestants": [one("theirs", False, [100, 50, 200]), one("ours", True, [300, 100, 800])],
        "work_seconds_per_image": {"ours": {"decode": 0.002, "resize": 0.0005, "copy": 0.0001}},
        "files": {"source": "photos", "count": 16, "distinct": 4},
        "hardware": {"cores": 2, "name": "some processor", "load_before": 0.5},
        **changes,
    }


def test_rates_are_medians_over_rounds_and_ratios_medians_of_ratios() -> None:
    ours, theirs = rows(record())
    assert ours == Row(
        "ours", "the ours", True, 300, 100, 800, ratio=3, lowest_ratio=2, highest_ratio=4, wall=150, first_batch=1.5
    )
    assert (theirs.rate, theirs.ratio, theirs.lowest_ratio, theirs.highest_ratio) == (100, 1, 1, 1)


def test_table_says_what_was_measured() -> None:
    table = as_table(record())
    assert "photos, 16 images of which 4 different; crop, batch 8, 2 workers; 3 rounds in alternation" in table
    assert table.index("the ours") < table.index("the theirs")
    assert "3.00" in table
    assert "ours is bound by decode: decode 60 %, resize 15 %, copy 3 %, rest 22 % of its processor time." in table


def test_readme_tables_are_fresh() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    assert {one["dataset"] for one in committed()} == {"imagenet", "cifar10", "mnist"}
    assert text.split(BEGIN)[1].split(END)[0].strip() == as_markdown(committed()), "run `make docs`"


def test_committed_measurements_are_of_committed_code_and_five_rounds() -> None:
    for one in committed():
        assert one["commit"]["clean"]
        assert all(len(loader["rounds"]) >= 5 for loader in one["contestants"])
        assert not one["skipped"]


def test_readme_text_and_committed_files(bench: Bench, tmp_path: Path) -> None:
    text = as_markdown([record()])
    assert "**imagenet**: photos, 16 images of which 4 different" in text
    assert "| the ours" in text
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert bench("throughput", "--write", str(path))[0] == 0
    assert "old" not in path.read_text()
    assert as_markdown(committed()) in path.read_text()
    broken = tmp_path / "broken.json"
    for content in ("", "[]", '{"schema": 0}'):
        broken.write_text(content)
        with pytest.raises(ResultError, match="is not a measurement of loaders"):
            read_record(broken)


@pytest.mark.parametrize(("rate", "text"), [(1234567, "1 230 000"), (123.6, "124"), (7.2, "7"), (0.0, "0")])
def test_rates_have_three_digits(rate: float, text: str) -> None:
    assert rounded(rate) == text


def test_plot_is_an_image(tmp_path: Path) -> None:
    plot(record(), tmp_path / "rates.png")
    with Image.open(tmp_path / "rates.png") as image:
        assert image.width > 600
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 3


def test_processor_time_is_that_of_the_whole_tree() -> None:
    """A child's child that computes counts while it lives and after it has ended; one that sleeps does not."""
    work = "import time\nwhile time.process_time() < {}: pass\nprint('done', flush=True)\ninput()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work.format(0.5)!r}])"
    before = tree_cpu_seconds()
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    assert len(descendants(os.getpid())) >= 2
    living = tree_cpu_seconds() - before
    assert 0.5 <= living < 3
    process.communicate("\n", timeout=60)
    assert tree_cpu_seconds() - before >= living - 0.05
    started = tree_cpu_seconds()
    time.sleep(0.5)
    assert tree_cpu_seconds() - started < 0.25


def test_a_turn_is_whole_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of one second by a clock of the test's own: three of them pass two and a half."""
    seen: list[int] = []
    monkeypatch.setattr(loader_contestants, "time", SimpleNamespace(perf_counter=lambda: float(len(seen))))

    def epochs(number: int) -> Any:
        seen.append(number)
        return iter([(None, [0] * 3), (None, [0] * 2)])

    assert turn(epochs, 7, 2.5) == (15, 3.0)
    assert seen == [7, 8, 9]


def test_every_dataset_has_its_reference_and_names_of_its_own() -> None:
    for dataset in ("imagenet", "cifar10", "mnist"):
        names = [one.name for one in contestants(dataset)]
        assert reference(dataset) in names
        assert len(set(names)) == len(names)
        assert any(one.ours for one in contestants(dataset))


def test_what_is_not_installed_is_skipped_and_the_reference_always_measured() -> None:
    there = [Contestant("base", "", opens, ""), Contestant("absent", "", opens, "", ("no.such.package",))]
    chosen, skipped = choose(there, "base", ["absent"])
    assert [one.name for one in chosen] == ["base"]
    assert skipped == {"absent": "no.such.package"}
    with pytest.raises(RunError, match="to which all ratios refer, needs no"):
        choose(there, "absent", None)


def test_unknown_contestants_are_refused(bench: Bench) -> None:
    status, _, err = bench("throughput", "--loaders", "mnist", "--contestants", "ours-torch", "dahli")
    assert status == 2
    assert err.startswith("error: --contestants (=dahli) must be of this dataset's: ours-resident, ours-ffcv")


def test_what_cannot_be_measured_is_refused(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in [
        (("imagenet", "--root", empty), "must hold ImageNet (train/<class>/*, or its tar files) or imagenet-originals"),
        (("imagenet", "--photos", empty), "must hold photos in class folders"),
        (("imagenet", "--photos", tmp_path / "nowhere"), "must be a folder of class folders with photos"),
        (("mnist", "--photos", empty), "needs --loaders imagenet"),
        (("mnist", "--workers", "1000"), "must be at most"),
    ]:
        status, _, err = bench("throughput", "--loaders", *arguments)
        assert status == 2, err
        assert message in err
    status, _, err = bench("throughput")
    assert status == 2
    assert "--loaders" in err


def photos(folder: Path) -> Path:
    """Twelve photos of unlike sizes in two classes, one of them gray."""
    rng = np.random.default_rng(0)
    for number in range(12):
        shape = (int(rng.integers(40, 200)), int(rng.integers(40, 200)))
        pixels = rng.integers(0, 256, shape if number == 5 else (*shape, 3), dtype=np.uint8)
        path = folder / f"class{number % 2}" / f"photo{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def measured(bench: Bench, tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """The record of a quick measurement, after a look at the table."""
    out = tmp_path / "record.json"
    status, table, err = bench("throughput", *map(str, arguments), "--quick", "--json", str(out))
    assert status == 0, err
    found = json.loads(out.read_text())
    assert found["command"].startswith("python -m benchmarks throughput --loaders")
    for row in rows(found):
        assert row.rate > 0
        assert row.wall > 0
        assert row.ratio > 0
        assert row.name in table
        if row.name == found["reference"]:
            assert row.ratio == 1
    levels = [one["first_epoch"]["level"] for one in found["contestants"]]
    assert max(levels) - min(levels) < 6  # they read the same images
    return found


@pytest.mark.slow
def test_quick_form_on_photos(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    folder = photos(tmp_path / "photos")
    names = ("ours-torch",)
    arguments = ("--loaders", "imagenet", "--photos", folder, "--images", 16, "--batch-size", 8, "--workers", 1)
    found = measured(bench, tmp_path, *arguments, "--contestants", *names)
    assert {one["name"] for one in found["contestants"]} == {"ffcv-jpg", *names}
    assert found["files"]["count"] == 16
    assert found["files"]["distinct"] == 12
    assert {one["first_epoch"]["images"] for one in found["contestants"]} == {16}


def test_quick_form_on_arrays(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's own files, with few images in them."""
    pytest.importorskip("ffcv")
    from benchmarks import loader_files
    from datamodules.originals import ImageArray

    pixels = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), dtype=np.uint8)
    few = ImageArray(pixels, np.arange(64) % 10, tuple("0123456789"), {})
    monkeypatch.setattr(loader_files, "read_mnist", lambda *_: few)
    arguments = ("--loaders", "mnist", "--root", tmp_path, "--images", 64, "--workers", 1)
    found = measured(bench, tmp_path, *arguments, "--contestants", "ours-torch", "ours-resident")
    assert [one["first_epoch"]["shape"][0] for one in found["contestants"]] == [32, 32, 32]
