"""The drift of the kernel in training: against the same from the finished run; training is not changed by it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from benchmarks.kernel_drift import COLUMNS, KernelDrift
from benchmarks.phenomena.finished import load_run
from benchmarks.phenomena.initial_weights import initial_network
from benchmarks.phenomena.tangent_kernel import drift, tangent_kernel, turn
from benchmarks.recipe import find_recipe
from benchmarks.tables import read_rows

Bench = Callable[..., tuple[int, str, str]]

SHORT = ("--seed_everything", "0", "--data.loader", "torch", "--trainer.max_epochs", "3")


def recipe(tmp_path: Path, **init_args: Any) -> str:
    """digits/mlp; with arguments, the callback too and the name `watched`."""
    content = yaml.safe_load(find_recipe("digits/mlp").read_text())
    if init_args:
        content["trainer"]["callbacks"] = [
            {"class_path": "benchmarks.kernel_drift.KernelDrift", "init_args": init_args}
        ]
    path = tmp_path / ("watched.yaml" if init_args else "plain.yaml")
    path.write_text(yaml.safe_dump(content))
    return str(path)


def folder_of(runs: Path, name: str) -> Path:
    (found,) = runs.glob(f"custom/{name}/*/seed-0")
    return found


def state_of(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Without what depends on the clock."""
    return [{key: row[key] for key in COLUMNS if key != "seconds"} for row in read_rows(folder / "kernel_drift.csv")]


def test_rows_are_those_of_the_finished_run_and_training_is_the_same(bench: Bench, tmp_path: Path) -> None:
    for config in (recipe(tmp_path), recipe(tmp_path, images=12)):
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
    command = [sys.executable, "-m", "benchmarks", "fit", "--config", recipe(tmp_path, images=6, outputs="sum"), *SHORT]
    command += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
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
