"""The drift of the kernel in training: against the same from the finished run; training is not changed by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from watched_runs import SHORT, fit_on_two_ranks, folder_of, recipe_with, state_of, without_clock

from benchmarks.kernel_drift import KernelDrift
from benchmarks.phenomena.finished import load_run
from benchmarks.phenomena.initial_weights import initial_network
from benchmarks.phenomena.tangent_kernel import drift, tangent_kernel, turn
from benchmarks.tables import read_rows

Bench = Callable[..., tuple[int, str, str]]


def recipe(tmp_path: Path, **init_args: Any) -> str:
    return recipe_with(tmp_path, "benchmarks.kernel_drift.KernelDrift", **init_args)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return without_clock(read_rows(folder / "kernel_drift.csv"))


def test_rows_are_those_of_the_finished_run_and_training_is_the_same(bench: Bench, tmp_path: Path) -> None:
    for config in (recipe_with(tmp_path), recipe(tmp_path, images=12)):
        status, _, err = bench("fit", "--config", config, *SHORT)
        assert status == 0, err
    plain, watched = (folder_of(tmp_path / "runs", name) for name in ("plain", "watched"))
    assert all(torch.equal(value, state_of(plain)[key]) for key, value in state_of(watched).items())

    rows = read_rows(watched / "kernel_drift.csv")
    assert [int(row["epoch"]) for row in rows] == [-1, 0, 1, 2]
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert [float(rows[0][key]) for key in ("drift", "turn", "norm")] == [0, 0, 1]
    run = load_run(str(watched))
    images, _ = run.images("train", 12, 0)
    before, after = (tangent_kernel(one, images) for one in (initial_network(run), run.network))
    assert float(rows[-1]["drift"]) == pytest.approx(drift(before, after), rel=1e-4)
    assert float(rows[-1]["turn"]) == pytest.approx(turn(before, after), rel=1e-3)
    assert float(rows[-1]["norm"]) == pytest.approx(float(after.norm() / before.norm()), rel=1e-4)
    assert float(rows[-1]["drift"]) > 0.05


def test_a_run_that_was_stopped_has_the_same_rows(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(tmp_path, images=12, every_epochs=2)
    honest = KernelDrift.on_train_epoch_end

    def breaks(self: KernelDrift, trainer: Any, network: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("the machine is gone")
        honest(self, trainer, network)

    assert bench("fit", "--config", config, *SHORT)[0] == 0
    whole = folder_of(tmp_path / "runs", "watched")
    expected = rows_of(whole)
    assert [int(row["epoch"]) for row in expected] == [-1, 1, 2]
    elsewhere = ("--runs", str(tmp_path / "other"))
    with monkeypatch.context() as broken:
        broken.setattr(KernelDrift, "on_train_epoch_end", breaks)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            bench("fit", "--config", config, *SHORT, *elsewhere)
    stopped = folder_of(tmp_path / "other", "watched")
    assert [int(row["epoch"]) for row in rows_of(stopped)] == [-1]
    assert bench("fit", "--config", config, *SHORT, *elsewhere)[0] == 0
    assert rows_of(stopped) == expected


def test_two_ranks(tmp_path: Path) -> None:
    fit_on_two_ranks(recipe(tmp_path, images=6, outputs="sum"), *SHORT)
    rows = rows_of(folder_of(tmp_path / "runs", "watched"))
    assert [int(row["epoch"]) for row in rows] == [-1, 0, 1, 2]
    assert float(rows[-1]["drift"]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 1}, "images (=1) must be at least 2, a kernel is of two images: use 32."),
        ({"every_epochs": 0}, "every_epochs (=0) must be at least 1, the most that there can be: use 1."),
        ({"outputs": "all"}, "outputs (=all) must be each or sum: use sum where there are many classes."),
        ({"memory_gb": 0.0}, "memory_gb (=0) must be above 0, it is a bound: use 1."),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared below
        KernelDrift(**arguments)
    assert str(error.value) == message


def test_a_recipe_with_a_bad_argument_is_refused(bench: Bench, tmp_path: Path) -> None:
    status, _, err = bench("fit", "--config", recipe(tmp_path, images=1), *SHORT)
    assert status == 2
    assert "images (=1) must be at least 2" in err


def test_it_needs_a_run() -> None:
    class Trainer:
        callbacks = ()

    with pytest.raises(
        ValueError, match="callbacks must have an EpochTable, in whose folder KernelDrift writes: train"
    ):
        KernelDrift().on_train_start(Trainer(), torch.nn.Linear(1, 1))  # type: ignore[arg-type]
