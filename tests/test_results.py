"""Result files: whole or named as broken; the newer of two counts. Committed ones: see test_check.py."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.published import Claim
from benchmarks.results import Result, ResultError, is_result_file, load_results, read_result, write_result

CLAIM = {"value": 1.0, "protocol": "1crop", "tolerance": 0.1, "tolerance_reason": "a test", "where": "here"}


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


def deep(levels: int) -> list[Any]:
    """Lists in one another."""
    return [deep(levels - 1)] if levels else []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("errors"), "lacks or adds errors"),
        (lambda content: content.update(extra=1), "lacks or adds extra"),
        (lambda content: content.update(schema=99), "has schema 99, this suite reads 1"),
        (lambda content: content.update(schema=True), "has schema True, this suite reads 1"),
        (
            lambda content: content["errors"]["1crop"].update(top1_error=0.5),
            "has a top1_error of 1crop (=0.5), which is not wrong1 / count: remove or correct it",
        ),
        (lambda content: content["errors"]["1crop"].update(top5_error=0.5), "has a top5_error of 1crop (=0.5)"),
        (lambda content: content["errors"]["1crop"].pop("count"), "has no complete errors for protocol 1crop"),
        (lambda content: content["errors"].update(flip=[1.0]), "has no complete errors for protocol flip"),
        (
            lambda content: content["errors"]["1crop"].update(count=0, wrong1=0),
            'has errors.1crop: wrong1, wrong5, count (="0, 0, 0"), which must be such that 0 <= wrong5 <= wrong1',
        ),
        (lambda content: content["errors"]["1crop"].update(wrong5=101), 'wrong1, wrong5, count (="100, 101, 10000")'),
        (
            lambda content: content["errors"]["1crop"].update(wrong1=1e2),
            "errors.1crop.wrong1 (=100.0), which must be a",
        ),
        (lambda content: content.update(errors=[]), "has errors (=[]), which must be an object"),
        (lambda content: content.update(seed="0"), 'has seed (="0"), which must be a whole number of at least 0'),
        (lambda content: content.update(seed=True), "has seed (=true), which must be a whole number of at least 0"),
        (
            lambda content: content.update(parameters=0),
            "has parameters (=0), which must be a whole number of at least 1",
        ),
        (lambda content: content.update(recipe="lenet5"), 'has recipe (="lenet5"), which must be a recipe\'s name'),
        (
            lambda content: content.update(recipe="a/b\n| c"),
            'has recipe (="a/b\\n| c"), which must be a recipe\'s name',
        ),
        (lambda content: content.update(finished="yesterday"), 'has finished (="yesterday"), which must be a date'),
        (
            lambda content: content["training"].update(epochs=None),
            "has training.epochs (=null), which must be a finite",
        ),
        (
            lambda content: content["seconds"].update(total=-1),
            "has seconds.total (=-1), which must be a finite number, n",
        ),
        (lambda content: content["throughput"].update(images_per_s="fast"), 'has throughput.images_per_s (="fast")'),
        (
            lambda content: content["hardware"].pop("name"),
            "has hardware.name (=null), which must be a name, on one line",
        ),
        (
            lambda content: content["hardware"].update(devices=0),
            "has hardware.devices (=0), which must be a whole numb",
        ),
        (lambda content: content.update(wandb_id=7), "has wandb_id (=7), which must be a text, or null"),
        (lambda content: content.update(members=["one"]), 'has members (=["one"]), which must be a list of objects'),
        (
            lambda content: content["published"].update(claims=[{"value": 1.0}]),
            'has published.claims (=[{"value": 1.0}]), which must be a list of objects with protocol, tolerance, toler',
        ),
        (lambda content: content.update(errors={}), "has errors (={}), which must be of at least one protocol"),
        (lambda content: content["dataset"].update(test="x"), 'has dataset.test (="x"), which must be an object, or'),
        (lambda content: content["dataset"].update(train=[1]), "has dataset.train (=[1]), which must be an object, or"),
        (lambda content: content["seconds"].update(total=10**400), "has a number of 401 digits, all of which must be"),
        (lambda content: content.update(parameters=10**400), "has a number of 401 digits, all of which must be below"),
        (
            lambda content: content["training"].update(loss=-1e301),
            "has a number (=-1e+301), which must be below 1e+300",
        ),
        (
            lambda content: content["hardware"].update(name="\ud800"),
            "which must be of whole characters, without halves",
        ),
        (
            lambda content: content["versions"].update({"\ud800": "1"}),
            "which must be of whole characters, without halv",
        ),
        (
            lambda content: content["settings"].update(deep=deep(60)),
            "has objects and lists in one another, 51 deep, whi",
        ),
        (
            lambda content: content["published"].update(departures=5),
            "has published.departures (=5), which must be a li",
        ),
        (lambda content: content.update({"\x1b[31m": 1}), "lacks or adds  [31m"),
        (lambda content: content["published"].update(claims="none"), 'has published.claims (="none")'),
        (lambda content: content["published"].update(claims=[CLAIM | {"value": "1"}]), 'published.claims.value (="1")'),
        (lambda content: content["published"].update(claims=[CLAIM | {"metric": "loss"}]), 'claims.metric (="loss")'),
        (
            lambda content: content["published"].update(claims=[CLAIM | {"spread": 0}]),
            "has published.claims.spread (=0), which must be a finite number above 0, or null: remove or correct it",
        ),
        (lambda content: content["published"].update(claims=[CLAIM | {"spread": "1"}]), 'claims.spread (="1"), which'),
        (lambda content: content["published"].update(claims=[CLAIM | {"spread": True}]), "claims.spread (=true), whi"),
    ],
)
def test_broken_result_is_named(tmp_path: Path, change: Any, message: str) -> None:
    content = json.loads(json.dumps(dataclasses.asdict(make())))
    change(content)
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=re.escape(message)) as found:
        read_result(path)
    assert str(found.value).startswith(str(path))


@pytest.mark.parametrize("more", [{}, {"spread": None}, {"spread": 0.16}])
def test_claims_are_read_with_and_without_a_spread(tmp_path: Path, more: dict[str, Any]) -> None:
    """Those of results that are older than the field have none."""
    path = tmp_path / "seed-0.json"
    write_result(path, make(published={"claims": [CLAIM | more]}))
    (claim,) = read_result(path).published["claims"]
    assert Claim(**claim).spread == more.get("spread")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": 1, ', "is not a result file (Expecting property name"),
        (b"\xff\xfe{}", "is not a result file ('utf-8' codec can't decode byte 0xff"),
        (b"[1, 2]", "is not a result file (it holds a list, not an object): remove it"),
        (b"null", "is not a result file (it holds a NoneType, not an object)"),
        (b"", "is not a result file (Expecting value"),
        (b'{"schema": NaN}', "is not a result file (NaN is no number of JSON)"),
        (b'{"schema": -Infinity}', "is not a result file (-Infinity is no number of JSON)"),
        (b'{"schema": 1e999}', "has schema inf, this suite reads 1"),
        (b"[" * 100_000, "is not a result file (maximum recursion depth"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "is not a result file (Exceeds the limit"),
    ],
)
def test_foreign_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "seed-0.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=re.escape(message)):
        read_result(path)


def test_numbers_that_are_none_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(tmp_path / "seed-0.json", make(training={"val/loss": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_broken_file_is_skipped_and_said(tmp_path: Path) -> None:
    write_result(tmp_path / "seed-0.json", make())
    (tmp_path / "seed-1.json").write_text('{"schema": 1, ')
    (tmp_path / "seed-2.json").mkdir()
    (tmp_path / "notes.json").write_text("no result, and not named like one")
    found, faults = load_results([tmp_path])
    assert found == [make()]
    assert len(faults) == 2
    assert "seed-1.json is not a result file" in faults[0]
    assert "seed-2.json is not a result file ([Errno 21] Is a directory" in faults[1]


def test_newer_of_two_results_of_one_run_counts_and_it_is_said(tmp_path: Path) -> None:
    newer = make(finished="2026-02-01T00:00:00Z", parameters=1)
    a, b = tmp_path / "a" / "seed-0.json", tmp_path / "b" / "seed-0.json"
    for path, result in ((a, newer), (b, make())):
        path.parent.mkdir()
        write_result(path, result)
    said = [
        f"skipped: {b} (finished 2026-01-01T00:00:00Z) is of the same run as {a} (2026-02-01T00:00:00Z), which is newer"
    ]
    assert load_results([tmp_path]) == ([newer], said)
    assert load_results([b.parent, a.parent]) == ([newer], said)


def test_copy_of_a_result_is_none_of_its_own(tmp_path: Path) -> None:
    """Committed results are copies of those in run folders, and W&B's differ in the id alone."""
    for folder, result in (("a", make()), ("b", make(wandb_id="team/project/run"))):
        (tmp_path / folder).mkdir()
        write_result(tmp_path / folder / "seed-0.json", result)
    found, said = load_results([tmp_path, tmp_path / "a"])
    assert (len(found), said) == (1, [])


def test_two_results_of_one_run_and_one_time_are_said_to_differ(tmp_path: Path) -> None:
    for folder, parameters in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        write_result(tmp_path / folder / "seed-0.json", make(parameters=parameters))
    (found,), (said,) = load_results([tmp_path])
    assert found.parameters == 2
    assert f"{tmp_path / 'a' / 'seed-0.json'} is of the same run as {tmp_path / 'b' / 'seed-0.json'}" in said
    assert "they differ: remove the wrong one" in said


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


def test_seeds_of_other_images_are_left_out_and_named(tmp_path: Path) -> None:
    """Two of three were trained on the same images; one does not say on which; of two that differ the newer counts."""

    def add(recipe: str, seed: int, content: str | None, finished: str = "2026-01-01T00:00:00Z") -> None:
        train = {} if content is None else {"train": {"content": content}}
        folder = tmp_path / recipe / f"seed-{seed}"
        folder.mkdir(parents=True)
        dataset = make().dataset | train
        write_result(folder / "result.json", make(recipe=recipe, seed=seed, dataset=dataset, finished=finished))

    for seed, content in enumerate(["usual", "other", "usual", None]):
        add("mnist/lenet5", seed, content)
    add("mnist/mlp", 0, "usual", "2026-01-01T00:00:00Z")
    add("mnist/mlp", 1, "other", "2026-01-02T00:00:00Z")
    found, said = load_results([tmp_path])
    assert [(one.recipe, one.seed) for one in found] == [
        ("mnist/lenet5", 0), ("mnist/lenet5", 2), ("mnist/lenet5", 3), ("mnist/mlp", 1),
    ]  # fmt: skip
    assert len(said) == 2
    assert "lenet5/seed-1/result.json is of other images (checksums other) than most seeds of mnist/lenet5" in said[0]
    assert "mlp/seed-0/result.json" in said[1]
