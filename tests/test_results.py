"""Result files: whole or named as broken; committed ones belong to the recipes as they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.recipe import FOLDER, identity, load_recipe
from benchmarks.results import COMMITTED, Result, ResultError, is_result_file, load_results, read_result, write_result


def make(**changes: Any) -> Result:
    """A small result, made by hand."""
    values: dict[str, Any] = {
        "schema": results.SCHEMA,
        "recipe": "mnist/lenet5",
        "identity": "0123456789ab",
        "overrides": {},
        "seed": 0,
        "errors": {"1crop": {"top1_error": 1.0, "top5_error": 0.0, "wrong1": 100, "wrong5": 0, "count": 10_000}},
        "training": {"epochs": 20},
        "parameters": 60_850,
        "published": {},
        "settings": {},
        "resolved": {},
        "dataset": {"name": "mnist"},
        "throughput": {"images_per_s": 9000.0},
        "seconds": {"total": 120.0},
        "hardware": {"device": "cpu", "name": "a processor", "cores": 2, "devices": 1, "nodes": 1},
        "versions": {},
        "commit": {"id": None, "clean": None},
        "finished": "2026-01-01T00:00:00Z",
        "wandb_id": None,
    }
    return Result(**{**values, **changes})


def test_written_result_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "seed-0.json"
    write_result(path, make())
    assert read_result(path) == make()
    assert [file.name for file in tmp_path.iterdir()] == ["seed-0.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("errors"), "lacks or adds errors"),
        (lambda content: content.update(extra=1), "lacks or adds extra"),
        (lambda content: content.update(schema=99), "schema 99, this suite reads 1"),
        (
            lambda content: content["errors"]["1crop"].update(top1_error=0.5),
            "top1_error of 1crop is not wrong1",
        ),
        (lambda content: content["errors"]["1crop"].pop("count"), "no complete errors for protocol 1crop"),
    ],
)
def test_broken_result_is_named(tmp_path: Path, change: Any, message: str) -> None:
    content = json.loads(json.dumps(dataclasses.asdict(make())))
    change(content)
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=message):
        read_result(path)


def test_broken_file_is_skipped_and_said(tmp_path: Path) -> None:
    write_result(tmp_path / "seed-0.json", make())
    (tmp_path / "seed-1.json").write_text('{"schema": 1, ')
    (tmp_path / "notes.json").write_text("no result, and not named like one")
    found, faults = load_results([tmp_path])
    assert found == [make()]
    assert len(faults) == 1
    assert "seed-1.json is not a result file" in faults[0]


def test_newer_of_two_results_of_one_run_counts(tmp_path: Path) -> None:
    newer = make(finished="2026-02-01T00:00:00Z", parameters=1)
    for folder, result in (("a", newer), ("b", make())):
        (tmp_path / folder).mkdir()
        write_result(tmp_path / folder / "seed-0.json", result)
    assert load_results([tmp_path])[0] == [newer]
    assert load_results([tmp_path / "b", tmp_path / "a"])[0] == [newer]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("seed-3/result.json", True),
        ("mnist/lenet5/seed-0.json", True),
        ("seed-0.replaced-20260101-000000/result.json", False),
        ("seed-0/other.json", False),
        ("manifest.json", False),
    ],
)
def test_which_files_are_results(path: str, expected: bool) -> None:
    assert is_result_file(Path(path)) is expected


def committed() -> list[Path]:
    return sorted(COMMITTED.rglob("*.json"))


def test_committed_results_are_whole_and_current() -> None:
    """Each belongs to a recipe as it is now, without overrides, and counted every test image."""
    assert committed()
    sizes = {"mnist": 10_000, "digits": 360, "cifar10": 10_000, "cifar100": 10_000, "imagenet": 50_000}
    for path in committed():
        assert is_result_file(path), path
        result = read_result(path)
        recipe = load_recipe(FOLDER / f"{result.recipe}.yaml")
        assert path == COMMITTED / result.recipe / f"seed-{result.seed}.json"
        assert result.identity == recipe.identity == identity(result.settings), f"{path} is of another recipe"
        assert result.overrides == {}
        assert all(found["count"] == sizes[recipe.dataset] for found in result.errors.values())
        assert result.commit["clean"] is True, f"{path} was made by code that is in no commit"
        assert {claim.protocol for claim in recipe.published.claims} <= set(result.errors)
        assert "/" not in result.hardware["name"]


def test_a_command_is_kept_without_the_machines_folders() -> None:
    command = results.as_command(["throughput", "--json", "/home/ann/rates of today.json", "--plot", "plots/rates.png"])
    assert command == "python -m benchmarks throughput --json 'rates of today.json' --plot plots/rates.png"


def test_measurements_name_no_folder_of_a_machine() -> None:
    files = sorted((Path(results.__file__).parent / "measurements").glob("*.json"))
    assert files
    for file in files:
        words = json.loads(file.read_text())["command"].split()
        assert not [word for word in words if word.startswith("/")], file
