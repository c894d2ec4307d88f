"""What Lightning costs: the same training steps in the suite's loop and in a bare PyTorch loop, measured in pairs."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.lean import keep_freed_memory
from benchmarks.precise_norm import ExactBatchNorm
from benchmarks.results import cores, processor
from benchmarks.runs import RunError
from benchmarks.suite_cli import SuiteCLI, quiet_warnings
from benchmarks.throughput import wait_for_device

WARM_UP_STEPS = 20


def overhead(options: argparse.Namespace) -> int:
    """Print the ratio of times, Lightning over bare, of each pair, and their median.

    Both sides read the same loader, normalise, go forward and backward and step the same optimizer from the same
    weights, for the same steps after the same warm-up. The suite's side has every callback that `fit` has and counts
    its training errors; the bare side does neither. Validation is off on both. Times are this process's processor
    seconds, which other work on the machine disturbs least; with a GPU, by the clock on the wall.
    """
    if options.callbacks:
        from benchmarks.callback_cost import callback_cost

        return callback_cost(options)
    if options.json:
        raise RunError(f"--json (={options.json}) goes with --callbacks: add it, or leave --json out.")
    keep_freed_memory()
    ratios, taxes = [], []
    for pair in range(options.pairs):
        sides = [lightning_seconds, bare_seconds]
        order = sides if pair % 2 == 0 else sides[::-1]  # neither side always follows the other
        seconds = {side: side(options.recipe, options.steps) for side in order}
        lightning, bare = seconds[lightning_seconds], seconds[bare_seconds]
        ratios.append(lightning / bare)
        taxes.append(1e3 * (lightning - bare) / options.steps)
        print(f"pair {pair + 1}: lightning {lightning:.2f} s, bare {bare:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
    low, middle, high = (100 * (f(ratios) - 1) for f in (min, statistics.median, max))
    print(
        f"{options.recipe}: Lightning adds {middle:+.1f} % to the bare loop's time (median of {len(ratios)} pairs "
        f"of {options.steps} steps; {low:+.1f} to {high:+.1f} %), {statistics.median(taxes):.2f} ms a step; "
        f"{cores()} cores, {processor()}"
    )
    return 0


def clock(device: torch.device) -> float:
    """Seconds: processor time of this process; on a GPU wall time, when all is done that was asked of it."""
    wait_for_device(device)
    return process_time() if device.type == "cpu" else perf_counter()


def built(recipe: str, steps: int, folder: str, watching: list[pl.Callback], settings: Sequence[str] = ()) -> SuiteCLI:
    """The recipe's data, network and trainer for `steps` measured steps, with the callbacks of `fit` and a clock."""
    total = WARM_UP_STEPS + steps
    cli = SuiteCLI(
        "fit",
        [
            "--config",
            recipe,
            "--seed_everything",
            "0",
            "--runs",
            folder,
            "--trainer.max_epochs",
            "1",
            "--trainer.limit_train_batches",
            str(total),
            "--trainer.limit_val_batches",
            "0",
            *settings,
        ],
    )
    cli.run.make()
    cli.build([*cli.callbacks(), *watching])
    kept = [one for one in cli.trainer.callbacks if not isinstance(one, ExactBatchNorm)]  # type: ignore[attr-defined]
    cli.trainer.callbacks = kept  # type: ignore[attr-defined]  # that one reads an epoch of images after the steps
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    epoch = len(cli.datamodule.train_dataloader())
    if total > epoch:
        raise RunError(
            f"--steps (={steps}) and {WARM_UP_STEPS} of warm-up must fit in an epoch of {recipe}, {epoch} steps: "
            f"use --steps {epoch - WARM_UP_STEPS} or less."
        )
    return cli


class Clock(pl.Callback):
    """Reads the clock after the warm-up steps and at the end of the epoch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start, and stop, where the bare loop does."""
        if batch_idx + 1 in (WARM_UP_STEPS, WARM_UP_STEPS + self.steps):
            self.seconds = clock(pl_module.device) - self.seconds


def lightning_seconds(recipe: str, steps: int, settings: Sequence[str] = ()) -> float:
    """Seconds of `steps` steps as `fit` takes them, with other `settings` than the recipe's."""
    stopwatch = Clock(steps)
    with TemporaryDirectory() as folder, quiet_warnings():
        cli = built(recipe, steps, folder, [stopwatch], settings)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return stopwatch.seconds


def bare_seconds(recipe: str, steps: int) -> float:
    """Seconds of the same steps in a plain loop."""
    with TemporaryDirectory() as folder:
        cli = built(recipe, steps, folder, [])
        device = cli.trainer.strategy.root_device
        network = cli.model.to(device).train()
        optimizer = network.optimizer(network.parameter_groups())
        batches = iter(cli.datamodule.train_dataloader())
        started = 0.0
        for step in range(WARM_UP_STEPS + steps):
            if step == WARM_UP_STEPS:
                started = clock(device)
            batch = tuple(part.to(device, non_blocking=True) for part in next(batches))
            images, labels = cli.datamodule.on_after_batch_transfer(batch, 0)
            loss = network.loss(network(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return clock(device) - started
