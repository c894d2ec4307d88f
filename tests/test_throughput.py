"""The clock of training: validation is out, the rate is images over training time, and it survives a resume."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.throughput import summary
from models.classifier import Classifier

Bench = Callable[..., tuple[int, str, str]]


def test_summary_leaves_the_first_epoch_out() -> None:
    found = summary([10.0, 100.0, 300.0, 200.0])
    assert (found["images_per_s"], found["lowest"], found["highest"], found["epochs"]) == (200.0, 100.0, 300.0, 3)
    assert found["first_epoch"] == 10.0
    assert summary([10.0])["images_per_s"] == 10.0


def test_validation_and_waiting_are_told_apart(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation that takes 0.3 s more must show in its own column, and not in the rate."""
    honest = Classifier.validation_step

    def slow(self: Classifier, batch: object, batch_idx: int) -> None:
        time.sleep(0.3)
        honest(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "validation_step", slow)
    command = ("fit", "--config", "digits/linear", "--seed_everything", "0", "--data.loader", "torch")
    assert bench(*command, "--trainer.max_epochs", "2")[0] == 0
    path = next((tmp_path / "runs").rglob("metrics.csv"))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert float(row["perf/validation"]) >= 0.3
        assert 0 < float(row["perf/data_wait"]) < float(row["perf/train"])
        images = 1437 // 32 * 32
        assert float(row["perf/images_per_s"]) == pytest.approx(images / float(row["perf/train"]), rel=1e-4)


def test_learning_rate_is_the_one_that_was_used(bench: Bench, tmp_path: Path) -> None:
    command = ("fit", "--config", "digits/linear", "--seed_everything", "0", "--data.loader", "torch")
    assert bench(*command, "--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2")[0] == 0
    path = next((tmp_path / "runs").rglob("metrics.csv"))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.05, 0.049863, 0.049454], abs=1e-6)  # cosine over 30
    assert [bool(row["val/top1_error"]) for row in rows] == [False, True, False]
