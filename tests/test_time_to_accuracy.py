"""The clock of time-to-accuracy: the first epoch that reaches it counts, and a seed that does not is shown."""

from __future__ import annotations

import pytest

from benchmarks.time_to_accuracy import as_tsv, described, raced, reached, summary


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


def test_the_form_of_dawnbench() -> None:
    assert as_tsv(run(0, 98.0, 99.0)) == "epoch\thours\ttop1Accuracy\n1\t0.01000000\t98.000\n2\t0.01000000\t99.000\n"


def test_a_run_notes_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.time_to_accuracy.keep_freed_memory", lambda: False)
    epochs = raced("digits/linear", 0)
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 31))
    assert epochs[-1]["accuracy"] > 90
    times = [epoch["cpu_seconds"] for epoch in epochs]
    assert times[0] > 0
    assert times == sorted(times)
