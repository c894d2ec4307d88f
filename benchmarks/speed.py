"""The whole table of a GPU's speed by one command: each measurement in turn, into a folder of files.

Parts that are there already are left as they are, so the command goes on where it stopped; a part that fails is said
and the others follow.
"""

from __future__ import annotations

import argparse
import json
import shlex
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.runs import RunError
from benchmarks.targets import why_not_writable

COMMITTED = Path(__file__).parent / "measurements"
COMPILED = ("--trainer.callbacks+=benchmarks.switches.Compiled",)
GRAPHS = (*COMPILED, "--trainer.callbacks.mode", "reduce-overhead")
RESNET50 = ("imagenet/resnet50", "--data.batch_size", "256", "--trainer.precision", "bf16-mixed", *COMPILED)

# The file of each part, and the command that measures it. Networks and images are channels-last in all of them.
PARTS: dict[str, tuple[str, ...]] = {
    "throughput-imagenet-resnet50.json": ("throughput", *RESNET50),
    "steps-imagenet-resnet50.json": ("peers", *RESNET50),
    "throughput-cifar10-resnet20-graphs.json": ("throughput", "cifar10/resnet20", *GRAPHS),
    "throughput-mnist-lenet5-graphs.json": ("throughput", "mnist/lenet5", *GRAPHS),
    "time-cifar10-resnet18_fast.json": ("time-to-accuracy", "cifar10/resnet18_fast", "--until", "94", "--seeds", "10"),
}

# The same commands where there is no GPU: whether each runs, and nothing of its speed.
SMALL: dict[str, tuple[str, ...]] = {
    "throughput-digits-linear.json": ("throughput", "digits/linear", "--steps", "2"),
    "steps-digits-linear.json": ("peers", "digits/linear", "--rounds", "1", "--steps", "2"),
    "time-digits-linear.json": ("time-to-accuracy", "digits/linear", "--until", "90", "--seeds", "2"),
}


def speed(options: argparse.Namespace) -> int:
    """`python -m benchmarks speed`: 0 if every part is there at the end, 1 if one failed.

    Raises:
        RunError: there is no GPU, `--small` would write among the committed measurements, or the folder cannot be
            written.
    """
    folder = Path(options.to) if options.to else COMMITTED
    if options.small and folder.resolve() == COMMITTED.resolve():
        raise RunError(f"--small measures nothing that may stand in {COMMITTED}: name another folder with --to.")
    if not options.small and not torch.cuda.is_available():
        raise RunError(
            "speed is of a GPU, and torch sees none here: run it where there is one, or try it with --small."
        )
    if reason := why_not_writable(folder):
        raise RunError(f"--to (={folder}) must be a folder that can be written ({reason}): name another.")
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, arguments in (SMALL if options.small else PARTS).items():
        path = folder / name
        if is_measured(path):
            print(f"{name}: is there, left as it is; remove it to measure anew", flush=True)
            continue
        print(f"{name}: python -m benchmarks {shlex.join(arguments)}", flush=True)
        if not measured([*arguments, "--json", str(path)]) or not is_measured(path):
            print(f"{name}: FAILED, see above; the others follow", flush=True)
            failed.append(name)
    print(f"failed: {', '.join(failed)}; the same command tries them again" if failed else "every part is there")
    return 1 if failed else 0


def is_measured(path: Path) -> bool:
    """Whether a whole measurement is at `path`."""
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and "finished" in record


def measured(arguments: list[str]) -> bool:
    """Whether the command came to its end; what it raises is printed, so that others can follow it."""
    from benchmarks.cli import main

    try:
        status = main(arguments)
    except SystemExit as leaving:  # argparse
        return leaving.code == 0
    except Exception:
        traceback.print_exc()
        return False
    if status == 130:
        raise KeyboardInterrupt
    return status == 0
