"""Eigenvalues of the Hessian in training: against those of the finished run; training is not changed by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from watched_runs import SHORT, fit_on_two_ranks, folder_of, recipe_with, state_of, without_clock

from benchmarks.hessian_spectrum import HessianTop
from benchmarks.phenomena.finished import load_run
from benchmarks.phenomena.hessian import curvature
from benchmarks.phenomena.initial_weights import initial_network
from benchmarks.phenomena.lanczos import top_eigenpairs
from benchmarks.tables import read_rows

Bench = Callable[..., tuple[int, str, str]]


def recipe(tmp_path: Path, **init_args: Any) -> str:
    return recipe_with(tmp_path, "benchmarks.hessian_spectrum.HessianTop", **init_args)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return without_clock(read_rows(folder / "hessian_top.csv"))


def test_rows_are_those_of_the_finished_run_and_training_is_the_same(bench: Bench, tmp_path: Path) -> None:
    for config in (recipe_with(tmp_path), recipe(tmp_path, images=40, top=3, batch=16)):
        status, _, err = bench("fit", "--config", config, *SHORT)
        assert status == 0, err
    plain, watched = (folder_of(tmp_path / "runs", name) for name in ("plain", "watched"))
    before, after = state_of(plain), state_of(watched)
    assert all(torch.equal(value, before[key]) for key, value in after.items())

    rows = read_rows(watched / "hessian_top.csv")
    assert [int(row["epoch"]) for row in rows] == [-1, 0, 1, 2]
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert all(float(row["residual"]) < 0.01 for row in rows)
    run = load_run(str(watched))
    images, labels = run.images("train", 40, 0)
    for row, network in ((rows[0], initial_network(run)), (rows[-1], run.network)):
        with curvature(network, images, labels) as of:
            top = top_eigenpairs(of.hessian, of.size, 3, 200, torch.Generator().manual_seed(5), near=1e-6)
        assert [float(row[place]) for place in "123"] == pytest.approx(top.values.tolist(), rel=1e-3)
        with torch.no_grad():
            assert float(row["loss"]) == pytest.approx(float(network.loss(network(images), labels)), rel=1e-4)


def test_a_run_that_was_stopped_has_the_same_rows(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(tmp_path, images=20, every_epochs=2, top=1, products=20)
    honest = HessianTop.on_train_epoch_end

    def breaks(self: HessianTop, trainer: Any, network: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("the machine is gone")
        honest(self, trainer, network)

    assert bench("fit", "--config", config, *SHORT)[0] == 0
    expected = rows_of(folder_of(tmp_path / "runs", "watched"))
    assert [int(row["epoch"]) for row in expected] == [-1, 1, 2]
    elsewhere = ("--runs", str(tmp_path / "other"))
    with monkeypatch.context() as broken:
        broken.setattr(HessianTop, "on_train_epoch_end", breaks)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            bench("fit", "--config", config, *SHORT, *elsewhere)
    stopped = folder_of(tmp_path / "other", "watched")
    assert [int(row["epoch"]) for row in rows_of(stopped)] == [-1]
    assert bench("fit", "--config", config, *SHORT, *elsewhere)[0] == 0
    assert rows_of(stopped) == expected


@pytest.mark.slow
def test_two_ranks(tmp_path: Path) -> None:
    fit_on_two_ranks(recipe(tmp_path, images=10), *SHORT)
    rows = rows_of(folder_of(tmp_path / "runs", "watched"))
    assert [int(row["epoch"]) for row in rows] == [-1, 0, 1, 2]
    assert all(float(row["1"]) > 0 for row in rows)


class Rank:
    """As much of a trainer as the callback asks, on the second of two ranks."""

    is_global_zero = False
    global_step = current_epoch = 0
    max_epochs = max_steps = 1
    should_stop = False


def test_only_the_first_rank_computes() -> None:
    """The second one has nothing to compute with: no images, no table, no network."""
    HessianTop().on_train_epoch_end(Rank(), torch.nn.Linear(1, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images (=0) must be at least 1: leave it out for the usual one."),
        ({"every_epochs": 0}, "every_epochs (=0) must be at least 1: leave it out for the usual one."),
        ({"batch": -1}, "batch (=-1) must be at least 1: leave it out for the usual one."),
        ({"top": 20, "products": 30}, "products (=30) must be twice top (=20) or more: use 210."),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared below
        HessianTop(**arguments)
    assert str(error.value) == message


def test_weights_of_half_precision_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the weights' precision \(=torch.bfloat16\) must be single or double"):
        HessianTop().on_train_start(Rank(), torch.nn.Linear(1, 1, dtype=torch.bfloat16))  # type: ignore[arg-type]


def test_it_needs_a_run() -> None:
    class Trainer:
        callbacks = ()

    with pytest.raises(
        ValueError, match=r"callbacks must have an EpochTable, in whose folder HessianTop writes: train with `fit`\."
    ):
        HessianTop().on_train_start(Trainer(), torch.nn.Linear(1, 1))  # type: ignore[arg-type]
