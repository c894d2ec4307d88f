"""What watches a training run: progress on the terminal, its tables, W&B, a stop when the loss is not a number."""

from __future__ import annotations

import csv
import io
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from tqdm import tqdm

from benchmarks.runs import Run
from benchmarks.tables import history, merged, read_rows
from benchmarks.throughput import Throughput
from benchmarks.wandb_run import WandbRun
from datamodules.files import write_whole

log = logging.getLogger("benchmarks")


class TrainingDivergedError(RuntimeError):
    """The loss or a weight is NaN or infinite; the message says since which step, and the remedy."""


class DivergenceGuard(Callback):
    """Stops a run whose loss is not finite, before a checkpoint of it is written.

    Losses stay on the device; the host looks at them every `every_steps` steps and at the end of an epoch, so that no
    step waits for the device, and none pays for looking. Where one rank's loss is not finite, all ranks stop.
    """

    def __init__(self, checkpoint: Path, every_steps: int = 50) -> None:
        self.checkpoint = checkpoint
        self.every_steps = every_steps
        self.unseen: list[tuple[int, torch.Tensor]] = []  # optimizer steps taken so far, and the loss

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss; look at those that were kept."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.unseen.append((trainer.global_step, loss.detach()))
        if len(self.unseen) >= self.every_steps:
            self._stop_if_bad(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look once more, at the weights too: the last step may have spoilt them."""
        self.check(trainer, pl_module)

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look now, before a checkpoint is written.

        Raises:
            TrainingDivergedError: a loss or a weight is not finite.
        """
        self._stop_if_bad(trainer)
        for name, weight in pl_module.named_parameters():
            if not torch.isfinite(weight).all():
                raise self._error(f"weight {name} is not finite after step {trainer.global_step}")

    def _stop_if_bad(self, trainer: pl.Trainer) -> None:
        unseen, self.unseen = self.unseen, []
        if not unseen:
            return
        bad = (~torch.stack([loss for _, loss in unseen]).isfinite()).int()
        bad = trainer.strategy.reduce(bad, reduce_op="max")  # ranks look after the same steps
        if bad.any():
            step, _ = unseen[int(bad.argmax())]  # the first
            raise self._error(f"the loss is not finite at step {step} (epoch {trainer.current_epoch})")

    def _error(self, what: str) -> TrainingDivergedError:
        kept = f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.exists() else "no epoch was finished"
        return TrainingDivergedError(
            f"{what}: training was stopped; {kept}. Lower the learning rate "
            "(--model.init_args.optimizer.init_args.lr), add warm-up or clip gradients (--trainer.gradient_clip_val)."
        )


class EpochSeed(Callback):
    """Seeds torch's generators at each epoch from (seed, epoch, rank), so that dropout repeats after a resume."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed this rank for this epoch."""
        sequence = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


class EpochTable(Checkpoint):
    """Keeps metrics.csv: one row an epoch, never two for the same one however often the run was resumed.

    Lightning's CSVLogger starts an empty file when a run is resumed, so the rows are kept here and in the checkpoint,
    from which a resumed run writes the file anew. It is a `Checkpoint` because Lightning calls those last, when the
    epoch's errors have been logged. What other callbacks log under `watch/` has columns after its own.
    """

    COLUMNS = (
        "epoch", "step", "lr", "train/loss", "train/top1_error", "train/top5_error", "val/loss", "val/top1_error",
        "val/top5_error", "perf/images_per_s", "perf/train", "perf/data_wait", "perf/validation",
    )  # fmt: skip

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.rate = 0.0  # before the schedule's step at the end of the epoch
        self.validation: dict[str, float] = {}  # of this epoch; Lightning keeps it for the epochs after it

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and what this epoch's will hold of what has passed."""
        return {"rate": self.rate, "validation": self.validation, "rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.rate, self.validation = state_dict["rate"], state_dict["validation"]
        self.rows = state_dict.get("rows", [])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows of the checkpoint, whatever has become of the file; also where no epoch is left to train."""
        if self.rows:
            self._write(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the rows of epochs that a checkpoint which holds none has behind it."""
        self.rows = self.rows or [row for row in read_rows(self.path) if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the learning rate before the schedule's step, and that nothing is validated yet."""
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.validation = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the errors of a validation in this epoch."""
        self.validation = self._columns(trainer, "val/")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add this epoch's row and write the file anew, whole."""
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": self.rate}
        row |= {**self._columns(trainer, "train/"), **self.validation, **self._columns(trainer, "perf/")}
        row |= {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("watch/")}
        self.rows.append({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
        log.info("epoch %s", describe_epoch(row, trainer.max_epochs))
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            watched = [name for row in self.rows for name in row if name.startswith("watch/")]
            write_whole(self.path, as_lines([*self.COLUMNS, *dict.fromkeys(watched)], self.rows, header=True))

    def _columns(self, trainer: pl.Trainer, stage: str) -> dict[str, float]:
        """What was last logged of `stage`."""
        found = trainer.callback_metrics.items()
        return {name: float(value) for name, value in found if name in self.COLUMNS and name.startswith(stage)}


class StepTable(Checkpoint):
    """Keeps steps.csv: one row every `trainer.log_every_n_steps` optimizer steps and one at the end of each epoch.

    A row is about the training images since the row before it, or since the epoch began: their mean loss and error as
    the first rank saw them, and over all ranks how fast they were. It costs one wait for the device. Rows after the
    checkpoint that a run goes on from are written anew, so that no step is there twice.

    It is a `Checkpoint` because Lightning calls those last, and comes before the one that saves within epochs.
    """

    COLUMNS = (
        "step", "epoch", "time", "lr", "step/loss", "step/top1_error", "step/images_per_s", "step/data_wait_share",
        "step/memory_gb",
    )  # fmt: skip
    COUNTS = ("loss_sum", "wrong1", "count", "train", "data_wait", "images")  # what a row is a difference of

    def __init__(self, path: Path, clock: Throughput) -> None:
        self.path = path
        self.clock = clock
        self.last: dict[str, float] = {}  # counts of this epoch at the row before; empty where there was none
        self.ranks = 0  # that counted them
        self.rate = 0.0
        self.row: dict[str, str] = {}  # the one just written; empty after a step without

    def state_dict(self) -> dict[str, Any]:
        """What the next row is a difference to."""
        return {"last": self.last, "ranks": self.ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.last, self.ranks = state_dict["last"], state_dict["ranks"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows that the checkpoint has behind it. With other ranks, counts of one are no longer comparable."""
        if self.ranks not in (0, trainer.world_size):
            self.last = {}
        self.ranks = trainer.world_size
        if trainer.is_global_zero:
            rows = [row for row in read_rows(self.path) if int(row["step"]) <= trainer.global_step]
            write_whole(self.path, as_lines(self.COLUMNS, rows, header=True))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts start from zero."""
        self.last = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rate before the schedule's step."""
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a row where one is due."""
        self.row = {}
        if not trainer.is_global_zero or not self._is_due(trainer, batch_idx + 1):
            return
        errors: dict[str, torch.Tensor] = cast(Any, pl_module).train_errors.metric_state
        sums = torch.stack([errors[name].double() for name in self.COUNTS[:3]])
        counts = dict(zip(self.COUNTS, sums.tolist(), strict=False)) | self.clock.state_dict()
        new = {name: counts[name] - self.last.get(name, 0.0) for name in self.COUNTS}
        self.last = {name: counts[name] for name in self.COUNTS}
        row: dict[str, Any] = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "time": f"{time.time():.1f}",
        }
        row["lr"] = self.rate
        if new["count"] > 0 and new["train"] > 0:
            row["step/loss"] = new["loss_sum"] / new["count"]
            row["step/top1_error"] = 100 * new["wrong1"] / new["count"]
            row["step/images_per_s"] = new["images"] / new["train"]
            row["step/data_wait_share"] = new["data_wait"] / new["train"]
        if pl_module.device.type == "cuda":
            row["step/memory_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        self.row = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in row.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(as_lines(self.COLUMNS, [self.row]))

    def _is_due(self, trainer: pl.Trainer, batches: int) -> bool:
        if batches >= trainer.num_training_batches:
            return True
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]  # its annotation is missing
        return batches % trainer.accumulate_grad_batches == 0 and trainer.global_step % every == 0


class Mirror(Checkpoint):
    """Sends the rows of steps.csv and metrics.csv to W&B as they are written; after a resume, what W&B lacks of them.

    An epoch's last step waits for the epoch's row, and both are one row of W&B. It comes after both tables.
    """

    def __init__(self, run: Run, steps: StepTable, epochs: EpochTable) -> None:
        self.run = run
        self.steps = steps
        self.epochs = epochs
        self.wandb = WandbRun(run)  # which does nothing until another one is put in its place

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send what a process before this one did not."""
        if self.wandb.client is not None:
            self.wandb.log_all(history(self.run, trainer.global_step))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send the step's row, unless the epoch's follows."""
        if self.steps.row and batch_idx + 1 < trainer.num_training_batches:
            self.wandb.log_all(merged([self.steps.row], []))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the epoch's row with that of its last step."""
        if self.epochs.rows:
            self.wandb.log_all(merged([self.steps.row] if self.steps.row else [], self.epochs.rows[-1:]))


def as_lines(columns: Sequence[str], rows: Sequence[dict[str, Any]], header: bool = False) -> str:
    """Rows as lines of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def describe_epoch(row: dict[str, Any], epochs: int | None) -> str:
    """`3/20  train 2.10 %  val 1.84 %  9 800 images/s`, for the log."""
    parts = [f"{row['epoch'] + 1}/{epochs}"]
    for stage in ("train", "val"):
        if f"{stage}/top1_error" in row:
            parts.append(f"{stage} {row[f'{stage}/top1_error']:.2f} %")
    if "perf/images_per_s" in row:
        parts.append(f"{row['perf/images_per_s']:,.0f} images/s".replace(",", " "))
    return "  ".join(parts)


class RunProgress(ProgressBar):
    """One bar for the whole run, in steps, with the last validation error: Lightning's has one for every epoch.

    On a terminal it moves four times a second; in a file it writes a line every half minute.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self.bar: Any = None

    def disable(self) -> None:
        """Lightning calls this on every rank but the first."""
        self.title = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the checkpoint left it."""
        steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        self.bar = tqdm(
            desc=self.title,
            total=None if steps == float("inf") else int(steps),
            initial=trainer.fit_loop.epoch_loop.total_batch_idx + 1,
            unit=" steps",
            disable=not self.title,
            mininterval=0.25 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further."""
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the error of the validation just done."""
        if "val/top1_error" in trainer.callback_metrics:
            self.bar.set_postfix_str(f"error {float(trainer.callback_metrics['val/top1_error']):.2f} %", refresh=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self.bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the line before an error is printed."""
        if self.bar is not None:
            self.bar.close()
