"""Time until a test accuracy is reached: seconds of training and testing from the first batch on, over several seeds.

The clock's rules: it starts when the loader is asked for the first batch and stops at the end of the test of the first
epoch that reaches the accuracy. In it: reading, augmentation, training, the test after each epoch, checkpoints, logs.
Out of it: imports, reading and converting the dataset, building the network. Processor seconds of the process, all its
threads; wall seconds beside them. A seed that does not get there counts as not reached, and is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.lean import keep_freed_memory
from benchmarks.results import as_command, commit, cores, now, versions
from benchmarks.step_peers import device_name
from benchmarks.step_throughput import parsed
from benchmarks.suite_cli import SuiteCLI, quiet_warnings
from benchmarks.targets import check_target
from benchmarks.throughput import wait_for_device
from datamodules.files import write_whole

SCHEMA = 1


class Race(pl.Callback):
    """Notes accuracy and time at the end of each epoch's test."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock once."""
        if trainer.current_epoch == 0:
            self.wall, self.cpu = perf_counter(), process_time()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One more epoch is tested."""
        wait_for_device(pl_module.device)
        self.epochs.append(
            {
                "epoch": trainer.current_epoch + 1,
                "accuracy": 100 - float(trainer.callback_metrics["val/top1_error"]),
                "cpu_seconds": process_time() - self.cpu,
                "wall_seconds": perf_counter() - self.wall,
            }
        )


def time_to_accuracy(options: argparse.Namespace) -> int:
    """`python -m benchmarks time-to-accuracy`: train each seed in a process of its own, print and write."""
    check_target("--json", options.json)
    check_target("--tsv", options.tsv)
    recipe = parsed(options, options.recipe).name
    load = os.getloadavg()[0]
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            runs.append({"seed": seed, "epochs": apart.submit(raced, options.recipe, seed).result()})
        print(described(runs[-1], options.until), flush=True)
    record = {
        "schema": SCHEMA,
        "recipe": recipe,
        "until": options.until,
        "runs": runs,
        "hardware": {"name": device_name(), "cores": cores(), "threads": torch.get_num_threads(), "load_before": load},
        "versions": versions(),
        "commit": commit(),
        "command": as_command(options.arguments),
        "finished": now(),
    }
    print(summary(runs, options.until))
    if options.json:
        write_whole(Path(options.json), json.dumps(record, indent=1) + "\n")
    if options.tsv:
        for run in runs:
            write_whole(tsv_of_seed(Path(options.tsv), run["seed"]), as_tsv(run))
    return 0


def tsv_of_seed(path: Path, seed: int) -> Path:
    """`race-seed-0.tsv` for `race.tsv`."""
    return path.with_stem(f"{path.stem}-seed-{seed}")


def raced(recipe: str, seed: int) -> list[dict[str, float]]:
    """Accuracy and time after each epoch of one run, whose files are not kept."""
    keep_freed_memory()
    race = Race()
    with TemporaryDirectory() as folder, quiet_warnings():
        cli = SuiteCLI("fit", ["--config", recipe, "--seed_everything", str(seed), "--runs", folder])
        cli.run.make()
        cli.build([*cli.callbacks(), race])
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return race.epochs


def reached(run: dict[str, Any], until: float) -> dict[str, float] | None:
    """The first epoch with at least this accuracy; None if there is none."""
    return next((epoch for epoch in run["epochs"] if epoch["accuracy"] >= until), None)


def described(run: dict[str, Any], until: float) -> str:
    """One run in a line."""
    last = reached(run, until) or run["epochs"][-1]
    verb = "reached" if last["accuracy"] >= until else "NOT reached"
    return (
        f"seed {run['seed']}: {until} % {verb}, {last['accuracy']:.2f} % after epoch {last['epoch']:.0f}, "
        f"{last['cpu_seconds']:.1f} processor seconds, {last['wall_seconds']:.1f} on the wall"
    )


def summary(runs: list[dict[str, Any]], until: float) -> str:
    """All runs in a line."""
    clock = "wall" if torch.cuda.is_available() else "cpu"
    times = [found[f"{clock}_seconds"] for run in runs if (found := reached(run, until))]
    if not times:
        return f"{until} % was reached by none of {len(runs)} seeds"
    return (
        f"{until} % reached by {len(times)} of {len(runs)} seeds: median {statistics.median(times):.1f} "
        f"{'processor' if clock == 'cpu' else 'wall'} seconds, {min(times):.1f} to {max(times):.1f}"
    )


def as_tsv(run: dict[str, Any]) -> str:
    """A run as DAWNBench wanted it: epoch, hours on the wall, top-1 accuracy in percent."""
    lines = ["epoch\thours\ttop1Accuracy"]
    lines += [f"{e['epoch']:.0f}\t{e['wall_seconds'] / 3600:.8f}\t{e['accuracy']:.3f}" for e in run["epochs"]]
    return "\n".join(lines) + "\n"
