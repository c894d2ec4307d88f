"""The drift of a network's tangent kernel from that of its initial weights, epoch by epoch. A recipe asks for it with

    trainer:
      callbacks:
        - class_path: benchmarks.kernel_drift.KernelDrift
          init_args:
            images: 32

What it costs is written down beside what it finds. Each time it needs the gradients of every logit for `images` images,
as much as `images x classes` images of training, and for each of them as many numbers as the network has weights.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from benchmarks.callbacks import EpochTable, as_lines
from benchmarks.phenomena.tangent_kernel import Outputs, drift, tangent_kernel, turn
from benchmarks.precise_norm import is_last_epoch
from benchmarks.tables import read_rows
from datamodules.files import write_whole

COLUMNS = ("epoch", "step", "drift", "turn", "norm", "seconds")


class KernelDrift(Callback):
    """Keeps kernel_drift.csv in the run's folder: the tangent kernel on a few training images, against its start.

    A row an epoch: `drift`, |K - K_0| / |K_0| (Frobenius); `turn`, 1 less the cosine of K and K_0; `norm`, |K| / |K_0|;
    `seconds`, what the row took. Epoch -1 is the start, whose row says what K_0 took. `benchmarks.phenomena.
    tangent_kernel` says what K is: of the network as it evaluates, in single precision. Only the first rank computes,
    the others wait; its images are of the training set, not augmented, others for another number of ranks. Training is
    the same to the last digit with it and without.

    Args:
        images: so many training images are looked at.
        every_epochs: one row in so many epochs, and one at the end.
        outputs: `each` logit's gradients, or those of their `sum`, which is cheaper by the number of classes.
        memory_gb: gigabytes of gradients that are held at once.
    """

    def __init__(
        self, images: int = 32, every_epochs: int = 1, outputs: Outputs = "each", memory_gb: float = 1.0
    ) -> None:
        for name, value in (("images", images), ("every_epochs", every_epochs)):
            if value < (2 if name == "images" else 1):
                least = "2, a kernel is of two images" if name == "images" else "1, the most that there can be"
                raise ValueError(f"{name} (={value}) must be at least {least}: use {32 if name == 'images' else 1}.")
        if outputs not in ("each", "sum"):
            raise ValueError(f"outputs (={outputs}) must be each or sum: use sum where there are many classes.")
        if not memory_gb > 0:
            raise ValueError(f"memory_gb (={memory_gb:g}) must be above 0, it is a bound: use 1.")
        self.images = images
        self.every_epochs = every_epochs
        self.outputs: Outputs = outputs
        self.memory_gb = memory_gb
        self.start: Tensor | None = None  # K_0, in double precision on the CPU; on the first rank only
        self.seen: Tensor | None = None  # the images, normalised
        self.rows: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """K_0, which nobody can compute later."""
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.start = state_dict["start"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the images; compute K_0 unless the checkpoint had it."""
        self.path = table_of(trainer)
        self.seen = self._images(trainer)
        if not trainer.is_global_zero:
            return
        self.rows = [row for row in read_rows(self.path) if int(row["epoch"]) < trainer.current_epoch]
        if self.start is None:
            self.start, seconds = self._kernel(trainer, pl_module)
            self.rows = [{"epoch": -1, "step": 0, "drift": 0.0, "turn": 0.0, "norm": 1.0, "seconds": seconds}]
            self._write()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row, if one is due."""
        due = (trainer.current_epoch + 1) % self.every_epochs == 0 or is_last_epoch(trainer)
        if not due or not trainer.is_global_zero:
            return
        assert self.start is not None
        kernel, seconds = self._kernel(trainer, pl_module)
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "drift": drift(self.start, kernel),
                "turn": turn(self.start, kernel),
                "norm": float(kernel.norm() / self.start.norm()),
                "seconds": seconds,
            }
        )
        self._write()

    def _write(self) -> None:
        rows = [
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            for row in self.rows
        ]
        write_whole(self.path, as_lines(COLUMNS, rows, header=True))

    def _kernel(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> tuple[Tensor, float]:
        """The kernel as it is now, and how long it took in seconds."""
        assert self.seen is not None
        started = time.perf_counter()
        device = pl_module.device
        single = torch.autocast(device.type, enabled=False) if device.type in ("cpu", "cuda") else nullcontext()
        with single:
            kernel = tangent_kernel(pl_module, self.seen.to(device), self.outputs, self.memory_gb)
        return kernel, time.perf_counter() - started

    def _images(self, trainer: pl.Trainer) -> Tensor:
        """Normalised training images: this rank's share of as many times the ranks. [images, C, H, W]"""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batches = data.drawn("train", self.images * trainer.world_size, 0)
        moved = (data.transfer_batch_to_device(batch, trainer.strategy.root_device, 0) for batch in batches)
        return torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in moved])


def table_of(trainer: pl.Trainer) -> Path:
    """kernel_drift.csv, beside the table of epochs.

    Raises:
        ValueError: there is none; this is no run of the suite.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EpochTable):
            return callback.path.parent / "kernel_drift.csv"
    raise ValueError("callbacks must have an EpochTable, in whose folder KernelDrift writes: train with `fit`.")
