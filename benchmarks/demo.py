"""`python -m benchmarks demo`: five networks on scikit-learn's digits, a few seeds each, and the table of results."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks import fit
from benchmarks.leaderboard import as_table, gather
from benchmarks.runs import runs_root

ONE_DEVICE = ("--trainer.devices", "1")  # small batches, and ranks would start the whole demo again
QUICKLY = ("--wandb", "disabled", "--pictures", "false")  # a second or two for each run's pictures

RECIPES = ("digits/linear", "digits/mlp", "digits/lenet5", "digits/vgg", "digits/resnet")


def demo(options: argparse.Namespace) -> int:
    """Train what is not trained yet, print the leaderboard, say where its files are and what to do next."""
    started = time.perf_counter()
    runs = runs_root(options.runs)
    print(f"{len(RECIPES)} networks, {options.seeds} seeds each, on digits (1 437 training and 360 test images).")
    for recipe in RECIPES:
        for seed in range(options.seeds):
            fit.main(
                "fit", ["--config", recipe, "--seed_everything", str(seed), "--runs", str(runs), *ONE_DEVICE, *QUICKLY]
            )
    print(f"\n{as_table([row for row in gather([runs]) if row.dataset == 'digits'])}\n")
    print(
        f"Took {time.perf_counter() - started:.0f} s. Checkpoints, metrics.csv and results: {runs.resolve() / 'digits'}"
    )
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
    print(f"Next, LeNet-5 on MNIST: {python} -m benchmarks fit --config mnist/lenet5 --seed_everything 0")
    return 0
