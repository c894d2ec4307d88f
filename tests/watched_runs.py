"""Runs of digits/mlp with a callback that watches training, and without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.recipe import find_recipe

SHORT = ("--seed_everything", "0", "--data.loader", "torch", "--trainer.max_epochs", "3")


def recipe_with(tmp_path: Path, callback: str = "", **init_args: Any) -> str:
    """digits/mlp as plain.yaml; with the name of a callback's class, as watched.yaml with that callback."""
    content = yaml.safe_load(find_recipe("digits/mlp").read_text())
    if callback:
        content["trainer"]["callbacks"] = [{"class_path": callback, "init_args": init_args}]
    path = tmp_path / ("watched.yaml" if callback else "plain.yaml")
    path.write_text(yaml.safe_dump(content))
    return str(path)


def folder_of(runs: Path, name: str) -> Path:
    """The folder of seed 0 of the recipe in `name`.yaml."""
    (found,) = runs.glob(f"custom/{name}/*/seed-0")
    return found


def state_of(folder: Path) -> dict[str, Tensor]:
    """The trained weights."""
    state: dict[str, Tensor] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state
    return state


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table without what depends on the clock."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def fit_on_two_ranks(config: str, *settings: str) -> None:
    """`fit` in two processes, on CPUs."""
    command = [sys.executable, "-m", "benchmarks", "fit", "--config", config, *settings]
    command += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
