"""The largest eigenvalues of the Hessian of a network's loss, every few epochs. A recipe asks for it with

    trainer:
      callbacks:
        - class_path: benchmarks.hessian_spectrum.HessianTop
          init_args:
            images: 256

What it costs is written down beside what it finds. A row takes up to `products` products with the Hessian, each about
as much as two or three training steps on `images` images, and holds so many vectors of all weights in double precision.
Of `mnist/lenet5` on a busy core, whose epoch took 41 s, the row of the start took 17 s (40 products), the next 8.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from benchmarks.callbacks import EpochTable, as_lines
from benchmarks.phenomena.hessian import curvature
from benchmarks.phenomena.lanczos import top_eigenpairs
from benchmarks.precise_norm import is_last_epoch
from benchmarks.tables import read_rows
from datamodules.files import write_whole


class HessianTop(Callback):
    """Keeps hessian_top.csv in the run's folder: the largest eigenvalues of the Hessian on some training images.

    A row at the start, as epoch -1, and one in so many epochs: `loss` on the images; the eigenvalues, `1` the largest;
    `lowest`, which the smallest of all does not exceed; `residual` of the last of them over the largest eigenvalue, by
    which it may be wrong; `products` that it took, and `seconds`. `benchmarks.phenomena.hessian` and `lanczos` say how:
    of the network as it evaluates, batch norms with their running statistics, in single precision, without weight
    decay. Only the first rank computes, the others wait; its images are of the training set, not augmented, others for
    another number of ranks. Training is the same to the last digit with it and without.

    Args:
        images: so many training images are looked at.
        every_epochs: one row in so many epochs, and one at the end.
        top: so many eigenvalues.
        products: with the Hessian, at most, in each row.
        batch: images in one pass, which bounds the memory.
    """

    def __init__(
        self, images: int = 256, every_epochs: int = 1, top: int = 5, products: int = 60, batch: int = 256
    ) -> None:
        given = {"images": images, "every_epochs": every_epochs, "top": top, "products": products, "batch": batch}
        for name, value in given.items():
            if value < 1:
                raise ValueError(f"{name} (={value}) must be at least 1: leave it out for the usual one.")
        if products < 2 * top:
            raise ValueError(f"products (={products}) must be twice top (={top}) or more: use {10 * top + 10}.")
        self.images, self.every_epochs, self.top, self.products, self.batch = given.values()
        self.seen: tuple[Tensor, Tensor] | None = None  # normalised images and their labels
        self.rows: list[dict[str, Any]] = []

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table."""
        return ("epoch", "step", "loss", *map(str, range(1, self.top + 1)), "lowest", "residual", "products", "seconds")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the images; add the row of the start, unless the checkpoint has it behind it.

        Raises:
            ValueError: weights are of half precision.
        """
        precision = next(pl_module.parameters()).dtype
        if precision not in (torch.float32, torch.float64):
            raise ValueError(
                f"the weights' precision (={precision}) must be single or double for HessianTop, half has too "
                "few digits for a gradient of a gradient: train with --trainer.precision bf16-mixed, or without it."
            )
        self.path = beside_epochs(trainer, "hessian_top.csv", type(self).__name__)
        self.seen = self._images(trainer)
        if not trainer.is_global_zero:
            return
        self.rows = [row for row in read_rows(self.path) if int(row["epoch"]) < trainer.current_epoch]
        if trainer.global_step == 0:
            self.rows = []
            self._add(-1, trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row, if one is due."""
        due = (trainer.current_epoch + 1) % self.every_epochs == 0 or is_last_epoch(trainer)
        if due and trainer.is_global_zero:
            self._add(trainer.current_epoch, trainer, pl_module)

    def _add(self, epoch: int, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.seen is not None
        started = time.perf_counter()
        images, labels = (one.to(pl_module.device) for one in self.seen)
        loss: Any = pl_module.loss
        with curvature(pl_module, images, labels, loss, self.batch) as of:
            count, generator = min(self.top, of.size), torch.Generator().manual_seed(0)
            top = top_eigenpairs(of.hessian, of.size, count, self.products, generator, of.device, label="Hessian")
            with torch.no_grad():
                mean = sum(len(y) * float(loss(of.logits(x), y)) for x, y in of.batches()) / len(labels)
        row: dict[str, Any] = {"epoch": epoch, "step": trainer.global_step, "loss": mean, "lowest": top.lowest}
        row |= {str(place + 1): float(value) for place, value in enumerate(top.values)}
        row |= {"residual": float(top.residuals[-1] / abs(top.values[0])), "products": top.products}
        self.rows.append(row | {"seconds": time.perf_counter() - started})
        write_whole(self.path, as_lines(self.columns, [rounded(one) for one in self.rows], header=True))

    def _images(self, trainer: pl.Trainer) -> tuple[Tensor, Tensor]:
        """Normalised training images [images, C, H, W] and labels: this rank's share of as many times the ranks."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        parts = []
        for batch in data.drawn("train", self.images * trainer.world_size, 0):
            moved = data.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
            parts.append(data.on_after_batch_transfer(moved, 0))
        return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def beside_epochs(trainer: pl.Trainer, name: str, who: str) -> Path:
    """The file `name` beside the table of epochs.

    Raises:
        ValueError: there is none; this is no run of the suite.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EpochTable):
            return callback.path.parent / name
    raise ValueError(f"callbacks must have an EpochTable, in whose folder {who} writes: train with `fit`.")


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table, its numbers to six digits."""
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
