"""Training speed of a recipe, taken apart: the network alone, the loader alone, both under `fit`, and the bound."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.errors import explain
from benchmarks.lean import keep_freed_memory
from benchmarks.peaks import datasheet_peak, matmul_ceiling
from benchmarks.recipe import Recipe
from benchmarks.results import as_command, commit, cores, now, processor, versions, without_folders
from benchmarks.runs import RunError
from benchmarks.suite_cli import SuiteCLI, quiet_warnings
from benchmarks.switches import Compiled
from benchmarks.throughput import Throughput, wait_for_device
from datamodules.files import write_whole
from datamodules.originals import DataError

SCHEMA = 1
WARM_UP = 3  # steps, the first of which is timed apart
PARTS = ("data_wait", "to_device", "forward", "backward", "optimizer", "logging")


def step_throughput(options: argparse.Namespace) -> int:
    """`python -m benchmarks throughput RECIPE...`: measure each in a process of its own, print, write."""
    for recipe in options.recipes:
        parsed(options, recipe)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "recipes": [],
        "versions": versions(),
        "commit": commit(),
        "command": as_command(options.arguments),
    }
    for recipe in options.recipes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            record["recipes"].append(
                apart.submit(measured, recipe, options.settings, options.steps, options.search_batch).result()
            )
        print(as_text(record["recipes"][-1]), flush=True)
    record["finished"] = now()
    if options.json:
        write_whole(Path(options.json), json.dumps(record, indent=1) + "\n")
    if options.plot:
        plot(record, Path(options.plot))
    return 0


def parsed(options: argparse.Namespace, recipe: str) -> Recipe:
    """The recipe with the command's settings, nothing built: refused here, before anything is measured.

    Raises:
        RunError: it stands where the value of a setting does.
        RecipeError: there is none, or it trains no network.
        ArgumentError: a setting is refused.
    """
    for before, word in zip(options.arguments, options.arguments[1:], strict=False):
        if word == recipe and before in options.settings and before.startswith("--") and "=" not in before:
            raise RunError(
                f"{word} after {before} is no recipe but a setting's value; settings come after the recipe: `python -m "
                f"benchmarks {options.command} mnist/lenet5 {before} {word}`, as one."
            )
    return SuiteCLI("fit", ["--config", recipe, "--seed_everything", "0", *options.settings]).recipe


def measured(recipe: str, settings: list[str], steps: int, search_batch: int | None) -> dict[str, Any]:
    """Everything about one recipe.

    Raises:
        RunError: the recipe or a setting is refused.
    """
    keep_freed_memory()
    try:
        with TemporaryDirectory() as folder, quiet_warnings():
            return _measured(recipe, settings, steps, search_batch, folder)
    except Exception as error:  # whose kind may not survive the way to the other process
        message, _ = explain(error)
        if message is None:
            raise
        raise RunError(message) from None


def _measured(recipe: str, settings: list[str], steps: int, search_batch: int | None, folder: str) -> dict[str, Any]:
    load = Path("/proc/loadavg").read_text().split()[0] if sys.platform == "linux" else None
    cli = SuiteCLI("fit", ["--config", recipe, "--seed_everything", "0", "--runs", folder, *settings])
    cli.build([])
    step = Step(cli)
    batch_size = cli.datamodule.batch_size // cli.trainer.world_size
    found: dict[str, Any] = {
        "recipe": cli.recipe.name,
        "settings": without_folders(settings),
        "batch_size": batch_size,
        "precision": str(cli.trainer.precision),
        "device": step.device.type,
        "name": torch.cuda.get_device_name(step.device) if step.device.type == "cuda" else processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "load_before": load and float(load),
        "clock": "processor seconds" if step.device.type == "cpu" else "wall seconds",
        "steps": steps,
    }
    batch = step.synthetic(batch_size)
    found["first_step_seconds"] = step.timed(lambda: step.take(batch), 1)
    found["flops_per_image"] = step.flops(batch) / batch_size
    step.timed(lambda: step.take(batch), WARM_UP)
    found["model_step_seconds"] = step.timed(lambda: step.take(batch), steps)
    found["peak_memory_bytes"] = step.peak_memory()
    found |= arithmetic(found, step.device)
    try:
        found |= with_data(cli, step, steps, settings)
    except DataError as error:
        found["without_data"] = str(error)
    found["callback_seconds_per_step"] = callback_cost(cli)
    if search_batch:
        found["largest_batch"] = largest_batch(lambda size: step.take(step.synthetic(size)), batch_size, search_batch)
    found["bound"] = bound(found)
    return found


class Step:
    """A training step of the suite without Lightning's loop, part by part, on the trainer's device and precision."""

    def __init__(self, cli: SuiteCLI) -> None:
        self.device = cli.trainer.strategy.root_device
        self.network = cli.model.to(self.device).train()
        self.data = cli.datamodule
        self.data.trainer = cli.trainer
        self.precision = cli.trainer.precision_plugin
        for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Compiled):
                callback.on_fit_start(cli.trainer, self.network)
        self.optimizer = self.network.optimizer(self.network.parameter_groups())

    def clock(self) -> float:
        """Seconds, processor time on a CPU; with a GPU, by the wall, once it has done all."""
        wait_for_device(self.device)
        return process_time() if self.device.type == "cpu" else perf_counter()

    def timed(self, work: Callable[[], object], times: int) -> float:
        """Mean seconds of `work`; a GPU is waited for only at the end."""
        started = self.clock()
        for _ in range(times):
            work()
        return (self.clock() - started) / times

    def synthetic(self, count: int) -> tuple[Tensor, Tensor]:
        """Random images [count, C, H, W] and labels [count], resident on the device, as the network gets them."""
        size, channels = self.data.image_size, len(self.data.mean)
        images = torch.randn(count, size, size, channels, device=self.device).permute(0, 3, 1, 2)
        return self.precision.convert_input(images), torch.randint(0, self.data.num_classes, (count,)).to(self.device)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss."""
        with self.precision.forward_context():
            return self.network.loss(self.network(batch[0]), batch[1])

    def take(self, batch: tuple[Tensor, Tensor]) -> None:
        """Forward, backward, optimizer."""
        loss = self.forward(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def flops(self, batch: tuple[Tensor, Tensor]) -> int:
        """Floating-point operations of forward and backward, a multiply-add counted as two, by torch's counter."""
        with FlopCounterMode(display=False) as counter:
            self.forward(batch).backward()
        return counter.get_total_flops()

    def peak_memory(self) -> int:
        """Bytes: of tensors on a GPU; of the whole process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def split(self, batches: Any, steps: int) -> dict[str, float]:
        """Median seconds of each part of a step that reads its batch; the device is waited for after each part.

        Logging is a mean: errors are counted many steps at once.
        """
        seconds: dict[str, list[float]] = {part: [] for part in PARTS if part != "logging"}
        for _ in range(steps):
            marks = [self.clock()]
            batch = next(batches)
            marks.append(self.clock())
            moved = tuple(part.to(self.device, non_blocking=True) for part in batch)
            images, labels = self.data.on_after_batch_transfer(moved, 0)
            marks.append(self.clock())
            with self.precision.forward_context():
                logits = self.network(images)
                loss = self.network.loss(logits, labels)
            marks.append(self.clock())
            loss.backward()
            marks.append(self.clock())
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            marks.append(self.clock())
            for part, before, after in zip(seconds, marks[:-1], marks[1:], strict=True):
                seconds[part].append(after - before)
        found = {part: statistics.median(values) for part, values in seconds.items()}
        return found | {"logging": self.logging(logits.detach(), labels, loss.detach())}

    def logging(self, logits: Tensor, labels: Tensor, loss: Tensor, counts: int = 5) -> float:
        """Mean seconds a step in which errors are noted, over `counts` times as many steps as are counted at once."""
        errors = self.network.train_errors
        errors.reset()
        together = max(1, -(-errors.NOTED // logits.numel()))
        self.timed(lambda: errors.note(logits, labels, loss), together)
        return self.timed(lambda: errors.note(logits, labels, loss), counts * together)


def with_data(cli: SuiteCLI, step: Step, steps: int, settings: list[str]) -> dict[str, Any]:
    """The loader alone, the parts of a step, and steps as `fit` takes them.

    Raises:
        DataError: the dataset is not there.
        RunError: an epoch is too short for the steps.
    """
    from benchmarks.overhead import WARM_UP_STEPS, lightning_seconds

    data = cli.datamodule
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    needed = steps + max(WARM_UP, WARM_UP_STEPS)
    if needed > len(loader):
        raise RunError(
            f"--steps (={steps}) with {needed - steps} of warm-up must fit in an epoch of {cli.recipe.name} "
            f"({len(loader)} steps): use --steps {len(loader) + steps - needed} or less."
        )
    batches = iter(loader)
    for _ in range(WARM_UP):
        next(batches)
    loading = step.timed(lambda: data.on_after_batch_transfer(to_device(next(batches), step.device), 0), steps)
    batches = iter(loader)
    step.split(batches, WARM_UP)
    parts = step.split(batches, steps)
    fitting = lightning_seconds(str(cli.recipe.path), steps, settings) / steps
    return {
        "loader": data.chosen_loader[0],
        "loader_step_seconds": loading,
        "parts_seconds": parts,
        "fit_step_seconds": fitting,
    }


def to_device(batch: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """The parts of a batch, moved."""
    return tuple(part.to(device, non_blocking=True) for part in batch)


def arithmetic(found: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """FLOP/s of the network alone, and its share of what the device can do."""
    rate = found["flops_per_image"] * found["batch_size"] / found["model_step_seconds"]
    ceiling = matmul_ceiling(device, found["precision"])
    share: dict[str, Any] = {"flop_per_s": rate, "matmul_flop_per_s": ceiling, "of_matmul": rate / ceiling}
    sheet = datasheet_peak(found["name"], found["precision"]) if device.type == "cuda" else None
    if sheet:
        share |= {"datasheet_flop_per_s": sheet[0], "mfu": rate / sheet[0], "datasheet": sheet[1]}
    return share


def callback_cost(cli: SuiteCLI, calls: int = 2000) -> float:
    """Processor seconds that the clock of `fit`, the `Throughput` callback, takes from each step."""
    clock = Throughput()
    batch = torch.zeros(1), torch.zeros(1)
    clock.on_train_start(cli.trainer, cli.model)
    clock.on_train_epoch_start(cli.trainer, cli.model)
    started = process_time()
    for index in range(calls):
        clock.on_train_batch_start(cli.trainer, cli.model, batch, index)
        clock.on_train_batch_end(cli.trainer, cli.model, None, batch, index)
    return (process_time() - started) / calls


def largest_batch(work: Callable[[int], object], start: int, limit: int) -> int:
    """The largest of `start` times powers of two, up to `limit`, with which `work` does not run out of memory.

    Halves where already the first does not fit; 0 if not even one image does. Memory is given back after a failure.
    """

    def fits(size: int) -> bool:
        try:
            work(size)
        except torch.OutOfMemoryError:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return False
        return True

    size = min(start, limit)
    while size and not fits(size):
        size //= 2
    if size < min(start, limit):
        return size
    while 2 * size <= limit and fits(2 * size):
        size *= 2
    return size


def bound(found: dict[str, Any]) -> str:
    """What most of a step under `fit` is spent on: the loader, the network's arithmetic, or the loop around them."""
    if "fit_step_seconds" not in found:
        return "network (nothing else was measured)"
    wait = found["parts_seconds"]["data_wait"] + found["parts_seconds"]["to_device"]
    spent = {
        "loader": wait,
        "network": found["model_step_seconds"],
        "loop": found["fit_step_seconds"] - wait - found["model_step_seconds"],
    }
    return max(spent, key=lambda part: spent[part])


def rates(found: dict[str, Any]) -> dict[str, float]:
    """Images per second (per processor second on a CPU) of the network alone, the loader alone, and `fit`."""
    names = {"network": "model_step_seconds", "loader": "loader_step_seconds", "fit": "fit_step_seconds"}
    return {name: found["batch_size"] / found[key] for name, key in names.items() if key in found}


def as_text(found: dict[str, Any]) -> str:
    """The measurement of one recipe, for a terminal."""
    from tabulate import tabulate

    unit = "images/s/core" if found["device"] == "cpu" else "images/s"
    lines = [
        f"{found['recipe']}: batch {found['batch_size']}, {found['precision']}, {found['name']}, {found['steps']} "
        f"steps, {found['clock']}, load {found['load_before']} before",
        tabulate(
            [[name, f"{rate:,.0f}".replace(",", " ")] for name, rate in rates(found).items()],
            ["alone, and together", unit],
            disable_numparse=True,
            colalign=("left", "right"),
        ),
    ]
    if "parts_seconds" in found:
        parts = found["parts_seconds"]
        whole = sum(parts.values())
        rows = [[part, f"{1e3 * value:.3f}", f"{100 * value / whole:.1f}"] for part, value in parts.items()]
        lines.append(tabulate(rows, ["part of a step", "ms", "%"], disable_numparse=True))
    if "without_data" in found:
        lines.append(f"network alone only: {found['without_data']}")
    lines.append(
        f"{found['flops_per_image'] / 1e6:,.2f} MFLOP an image, {found['flop_per_s'] / 1e9:,.1f} GFLOP/s, "
        f"{100 * found['of_matmul']:.1f} % of this device's matrix product ({found['matmul_flop_per_s'] / 1e9:,.0f})"
        + (f", {100 * found['mfu']:.1f} % of the datasheet's" if "mfu" in found else "")
        + f"; peak memory {found['peak_memory_bytes'] / 1e6:,.0f} MB; first step {found['first_step_seconds']:.2f} s; "
        f"the clock of fit takes {1e6 * found['callback_seconds_per_step']:.1f} us a step"
        + (f"; largest batch {found['largest_batch']}" if "largest_batch" in found else "")
        + f". Bound by: {found['bound']}."
    )
    return "\n\n".join(lines)


def plot(record: dict[str, Any], path: Path) -> None:
    """Bars of the parts of a step, one bar a recipe, in percent."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [found for found in record["recipes"] if "parts_seconds" in found]
    if not shown:
        raise RunError("--plot needs a recipe whose data is there: none was measured with its loader.")
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.5 * len(shown)), layout="constrained")
    left = [0.0] * len(shown)
    for part in PARTS:
        shares = [100 * found["parts_seconds"][part] / sum(found["parts_seconds"].values()) for found in shown]
        axes.barh([found["recipe"] for found in shown], shares, left=left, label=part.replace("_", " "))
        left = [before + share for before, share in zip(left, shares, strict=True)]
    axes.set_xlabel("percent of a training step")
    axes.legend(ncols=len(PARTS), fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)
