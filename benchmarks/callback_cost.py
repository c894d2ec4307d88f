"""What each callback of `fit` costs in a training step: the time within its hooks, as a share of the steps' time."""

from __future__ import annotations

import json
import os
import statistics
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.fit import begin, known_facts
from benchmarks.lean import keep_freed_memory
from benchmarks.overhead import Clock, built
from benchmarks.results import commit, cores, now, processor, versions
from benchmarks.step_peers import device_name
from benchmarks.suite_cli import quiet_warnings
from benchmarks.targets import check_target
from benchmarks.wandb_mode import decide
from benchmarks.wandb_run import write_record
from datamodules.files import write_whole

HOOKS = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
)  # fmt: skip
PROJECT = "ilsvrc-bench-overhead"  # at W&B, apart from runs that count
ROWS = 200


def callback_cost(options: Namespace) -> int:
    """Print the share of each callback, median over rounds, and what a row costs that is sent to W&B.

    Shares are of this thread's hooks in the time of all steps: processor time; with a GPU, time on the wall, where a
    hook that reads a value from the device also waits for the work before it. W&B is part of it where a run would be
    online now; then `ROWS` rows more are sent in one go, and a row costs what this process, with all its threads,
    spent until the server had them. W&B's client has another process besides, which is not counted.
    """
    check_target("--json", options.json)
    keep_freed_memory()
    load, rounds = os.getloadavg()[0], []
    for number in range(options.pairs):
        rounds.append(one_round(options.recipe, options.steps))
        print(f"round {number + 1}: {1e3 * rounds[-1]['step']:.2f} ms a step, {rounds[-1]['wandb']}", flush=True)
    shares = {name: [each["shares"][name] for each in rounds] for name in rounds[0]["shares"]}
    step = statistics.median(each["step"] for each in rounds)
    print(f"\n{'callback':<18}{'% of a step':>12}")
    for name, found in sorted(shares.items(), key=lambda item: -statistics.median(item[1])):
        print(f"{name:<18}{100 * statistics.median(found):>12.3f}")
    if rows := [each["row"] for each in rounds if each["row"] is not None]:
        row, every = statistics.median(rows), rounds[0]["every"]
        print(
            f"\na row sent to W&B: {1e3 * row:.2f} ms, {100 * row / step / every:.3f} % of {every} steps, which it has"
        )
    if options.json:
        record = {
            "schema": 1,
            "recipe": options.recipe,
            "steps": options.steps,
            "rounds": rounds,
            "clock": "processor seconds" if rounds[0]["device"] == "cpu" else "wall seconds",
            "hardware": {
                "name": processor() if rounds[0]["device"] == "cpu" else device_name(),
                "cores": cores(),
                "threads": torch.get_num_threads(),
                "load_before": load,
            },
            "versions": versions(),
            "commit": commit(),
            "command": f"python -m benchmarks overhead {options.recipe} --callbacks --pairs {options.pairs} "
            f"--steps {options.steps}",
            "finished": now(),
        }
        write_whole(Path(options.json), json.dumps(record, indent=1) + "\n")
    return 0


def one_round(recipe: str, steps: int) -> dict[str, Any]:
    """Seconds of a step, shares of the callbacks, and seconds of a row that is sent to W&B, None where it is not."""
    stopwatch = Clock(steps)
    with TemporaryDirectory() as folder, quiet_warnings():
        cli = built(recipe, steps, folder, [stopwatch])
        device = cli.trainer.strategy.root_device.type
        spent = watch(cli.trainer.callbacks, stopwatch, process_time if device == "cpu" else perf_counter)  # type: ignore[attr-defined]
        assert cli.mirror is not None
        write_record(cli.run, {"project": PROJECT})
        decision = decide(None)
        wandb = cli.mirror.wandb = begin(cli.run, known_facts(cli, commit()), decision)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        row = None
        if wandb.client is not None:
            first = wandb.last + 1
            before = process_time()
            wandb.log_all((first + n, None, {"step/loss": 1.0, "step/top1_error": 1.0, "lr": 0.1}) for n in range(ROWS))
            wandb.finish("finished", confirm=False)
            row = None if wandb.fault else (process_time() - before) / ROWS
    shares = {name: seconds / stopwatch.seconds for name, seconds in spent.items()}
    return {
        "device": device,
        "step": stopwatch.seconds / steps,
        "every": max(1, cli.trainer.log_every_n_steps),  # type: ignore[attr-defined]
        "shares": shares,
        "wandb": f"W&B {wandb.fault}" if wandb.fault else f"W&B {decision.mode}",
        "row": row,
    }


def watch(callbacks: list[pl.Callback], window: Clock, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds within the hooks of each callback that has any, by its class, filled in while `window` is measured."""
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **others: Any) -> Any:
            before = clock()
            try:
                return hook(*arguments, **others)
            finally:
                if window.seconds:  # since its first reading
                    spent[name] += clock() - before

        return run

    for callback in callbacks:
        name = type(callback).__name__
        for hook in HOOKS:
            if not isinstance(callback, Clock) and getattr(type(callback), hook) is not getattr(pl.Callback, hook):
                setattr(callback, hook, timed(name, getattr(callback, hook)))
                spent[name] += 0.0
    return spent
