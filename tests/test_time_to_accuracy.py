"""The clock of time-to-accuracy: the first epoch that reaches it counts, and a seed that does not is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.time_to_accuracy import (
    BEGIN,
    END,
    as_markdown,
    as_tsv,
    committed,
    described,
    raced,
    reached,
    record_of,
    summary,
)

Bench = Callable[..., tuple[int, str, str]]


def run(seed: int, *accuracies: float) -> dict[str, object]:
    epochs = [
        {"epoch": number + 1, "accuracy": accuracy, "cpu_seconds": 10.0 * (number + 1), "wall_seconds": 36.0}
        for number, accuracy in enumerate(accuracies)
    ]
    return {"seed": seed, "epochs": epochs}


def test_the_first_epoch_that_reaches_it_counts() -> None:
    runs = [run(0, 98.0, 99.0, 98.5), run(1, 99.5), run(2, 98.0)]
    assert reached(runs[0], 99.0) == runs[0]["epochs"][1]  # type: ignore[index]
    assert reached(runs[2], 99.0) is None
    assert "seed 2: 99.0 % NOT reached, 98.00 % after epoch 1" in described(runs[2], 99.0)
    assert "2 of 3 seeds: median 15.0 processor seconds, 10.0 to 20.0" in summary(runs, 99.0)
    assert "none of 1 seeds" in summary(runs[2:], 99.0)


def test_table_of_races_is_the_readmes() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    assert text.split(BEGIN)[1].split(END)[0].strip() == as_markdown(committed()), "run `make docs`"
    races = [record_of("a/b", 99.0, [run(0, 98.0, 99.0), run(1, 99.5), run(2, 98.0)], 0.0)]
    assert [cell.strip() for cell in as_markdown(races).splitlines()[2].split("|")[1:7]] == [
        "a/b", "99 %", "2 of 3", "1 to 2", "15.0", "10.0 to 20.0",
    ]  # fmt: skip
    assert as_markdown([record_of("a/b", 99.0, [run(0, 98.0)], 0.0)]).splitlines()[2].count("–") == 3


def test_the_form_of_dawnbench() -> None:
    assert as_tsv(run(0, 98.0, 99.0)) == "epoch\thours\ttop1Accuracy\n1\t0.01000000\t98.000\n2\t0.01000000\t99.000\n"


def test_every_seed_is_written(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        """A process pool whose runs are made by hand."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, work: object, recipe: str, seed: int) -> Here:
            self.epochs = run(seed, 98.0, 99.0 + 0.1 * seed)["epochs"]
            return self

        def result(self) -> Any:
            return self.epochs

    monkeypatch.setattr("benchmarks.time_to_accuracy.ProcessPoolExecutor", Here)
    command = ("time-to-accuracy", "digits/linear", "--seeds", "2")
    status, text, error = bench(*command, "--tsv", tmp_path / "race.tsv", "--json", tmp_path / "race.json")
    assert status == 0, error
    assert "99.0 % reached by 2 of 2 seeds" in text
    assert {path.name for path in tmp_path.iterdir()} == {"race.json", "race-seed-0.tsv", "race-seed-1.tsv"}
    assert (tmp_path / "race-seed-1.tsv").read_text() == as_tsv(run(1, 98.0, 99.1))  # type: ignore[arg-type]
    record = json.loads((tmp_path / "race.json").read_text())
    assert record["command"].endswith("--tsv race.tsv --json race.json")


@pytest.mark.parametrize("until", ["0.99", "1", "100.1", "nan", "-5"])
def test_accuracies_that_are_no_percent_are_refused(bench: Bench, until: str) -> None:
    status, _, error = bench("time-to-accuracy", f"--until={until}")
    assert status == 2
    assert f"argument --until: {until} must be over 1 and at most 100: percent, not a fraction; 99, not 0.99" in error


def test_a_misspelt_recipe_is_refused(bench: Bench) -> None:
    status, text, error = bench("time-to-accuracy", "digits/liner")
    assert (status, text) == (2, "")
    assert "recipe (=digits/liner) is neither a file nor a recipe of the suite: did you mean digits/linear" in error


def test_a_run_notes_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.time_to_accuracy.keep_freed_memory", lambda: False)
    epochs = raced("digits/linear", 0)
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 31))
    assert epochs[-1]["accuracy"] > 90
    times = [epoch["cpu_seconds"] for epoch in epochs]
    assert times[0] > 0
    assert times == sorted(times)
