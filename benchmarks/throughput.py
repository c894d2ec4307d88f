"""Training throughput while a run trains: images per second, and the time that training waits for data."""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback


class Throughput(Callback):
    """Times each training epoch without its validation; two clock readings a step, one device wait an epoch.

    The clock of an epoch runs from the first batch asked for to the last step done on the device. The first epoch
    holds compilation and warm-up and is left out of the rate where there are others.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []  # images per second of each epoch of this process
        self.train_seconds = 0.0
        self.wait_seconds = 0.0
        self.evaluation_seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_started = self._step_ended = perf_counter()
        self._images = 0
        self._paused = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """What passed since the last step ended was spent waiting for this batch."""
        self.wait_seconds += perf_counter() - self._step_ended

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count this rank's images."""
        self._images += len(batch[1])
        self._step_ended = perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the epoch's clock: validation runs inside the training epoch."""
        wait_for_device(pl_module.device)
        self._validation_started = perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the epoch's clock go on."""
        wait_for_device(pl_module.device)
        spent = perf_counter() - self._validation_started
        self.evaluation_seconds += spent
        self._paused = getattr(self, "_paused", 0.0) + spent
        self._step_ended = perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Turn the epoch into a rate and log it."""
        wait_for_device(pl_module.device)
        seconds = perf_counter() - self._epoch_started - self._paused
        self.train_seconds += seconds
        self.rates.append(self._images * trainer.world_size / seconds)
        pl_module.log("perf/images_per_s", self.rates[-1])

    def summary(self) -> dict[str, Any]:
        """Median and spread of the epochs' rates, over all devices, in images per second."""
        settled = self.rates[1:] or self.rates
        if not settled:
            return {"images_per_s": None, "epochs": 0}
        return {
            "images_per_s": statistics.median(settled),
            "lowest": min(settled),
            "highest": max(settled),
            "epochs": len(settled),
            "first_epoch": self.rates[0],
            "rule": "training epochs of the last process without validation, median, the first epoch left out",
        }


def wait_for_device(device: torch.device) -> None:
    """Return when the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
