"""Every analysis at its smallest size, through the command, as a reader would run it: what must hold, holds."""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from benchmarks.phenomena.analysis import Analysis, all_analyses

Bench = Callable[..., tuple[int, str, str]]


def every_experiment() -> list[Any]:
    """Each analysis, with each of its experiments where it has several."""
    found = []
    for analysis in all_analyses():
        experiments: tuple[str, ...] = ("",)
        if analysis.variant:
            module = analysis.module()
            hint = inspect.signature(module.analyze).parameters[analysis.variant].annotation
            experiments = get_args(eval(hint, vars(module)))
            assert len(experiments) > 1
            experiments = tuple(one for one in experiments if one != "run")  # needs a finished one: its own tests
        found += [pytest.param(analysis, one, id=f"{analysis.name}-{one}".rstrip("-")) for one in experiments]
    return found


def seen(stem: str, numbers: dict[str, Any], rows: list[dict[str, str]]) -> bool:
    """What the numbers of some analyses show beside their checks."""
    if stem == "adversarial-attack":
        return len(rows) == 2 * (1 + 6 * 3)  # two networks: clean, and three attacks at each epsilon
    if stem == "filters":
        trained, initial = numbers["network, trained"], numbers["network, initial"]
        narrow, any_ = (numbers[name]["median orientation selectivity"] for name in ("sparse code", "noise"))
        learnt = numbers["test error of the network, %"] < 20
        return learnt and narrow > any_ and trained["median R²"] > initial["median R²"] + 0.1
    if stem == "transfer":
        points = numbers["over base B, points"]
        return len(rows) == 2 + 3 * 5 and points["AnB"]["5"] < points["AnB"]["1"]
    return True


@pytest.mark.parametrize(("analysis", "experiment"), every_experiment())
def test_what_must_hold_holds_at_smoke_size(analysis: Analysis, experiment: str, bench: Bench, tmp_path: Path) -> None:
    options = [f"--{analysis.variant}", experiment] if experiment else []
    status, out, err = bench("analyze", analysis.name, "--smoke", *options)
    assert status == 0, out + err
    (path,) = (tmp_path / "runs/phenomena").rglob("*.json")
    record = json.loads(path.read_text())
    must = [check for check in record["checks"] if check["must_hold"]]
    assert must
    assert [check["name"] for check in must if not check["held"]] == []
    assert "FAIL" not in out
    assert all(f"PASS  {check['name']}" in out for check in must)
    assert record["seeds"] == list(range(len(record["seeds"])))
    with path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert seen(path.stem, record["numbers"], rows)


def test_the_whole_lecture_is_there() -> None:
    names = {one.name for one in all_analyses()}
    first = {"regression", "backprop", "filters", "transfer", "adversarial", "interpolate", "double_descent"}
    assert names >= first | {"implicit_bias", "landscape", "spectra", "bounds", "ntk", "lazy", "mean_field"}
