"""Training throughput while a run trains: images per second, and the time that training waits for data."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.trainer.states import TrainerFn


class Throughput(Callback):
    """Times each training epoch without its validation; two clock readings a step, one device wait an epoch.

    The clock of an epoch runs from the first batch asked for to the last step done on the device. Logs, for each epoch,
    `perf/images_per_s` over all devices, and in seconds `perf/train`, `perf/data_wait` (a part of it) and
    `perf/validation`. An epoch that is gone on with keeps what its checkpoint had counted.
    """

    def __init__(self) -> None:
        self._kept: dict[str, float] = {}

    def state_dict(self) -> dict[str, float]:
        """What this epoch has counted: seconds, and images of this rank."""
        if not hasattr(self, "_epoch_started"):
            return {}
        return {
            "train": perf_counter() - self._epoch_started - self._validated,
            "data_wait": self._waited,
            "validation": self._validated,
            "images": self._images * self._ranks,
        }

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Keep it until training starts."""
        self._kept = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock of an epoch go on that is gone on with; one that starts anew sets it to zero."""
        self._ranks = trainer.world_size
        if not self._kept:
            return
        self._step_ended = perf_counter()
        self._validated = self._kept["validation"]
        self._waited = self._kept["data_wait"]
        self._images = round(self._kept["images"]) // self._ranks
        self._epoch_started = self._step_ended - self._kept["train"] - self._validated
        self._kept = {}

    @contextmanager
    def paused(self, device: torch.device) -> Iterator[None]:
        """What happens within it is no training."""
        wait_for_device(device)
        before = perf_counter()
        yield
        self._epoch_started += perf_counter() - before
        self._step_ended = perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_started = self._step_ended = perf_counter()
        self._images = 0
        self._waited = 0.0
        self._validated = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """What passed since the last step ended was spent waiting for this batch."""
        self._waited += perf_counter() - self._step_ended

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
        if trainer.state.fn == TrainerFn.FITTING:
            self._validated += perf_counter() - self._validation_started
            self._step_ended = perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Turn the epoch into a rate and log it with its times."""
        wait_for_device(pl_module.device)
        seconds = perf_counter() - self._epoch_started - self._validated
        times = {"perf/train": seconds, "perf/data_wait": self._waited, "perf/validation": self._validated}
        rate = self._images * trainer.world_size / seconds
        pl_module.log_dict({"perf/images_per_s": torch.tensor(rate, dtype=torch.float64)})
        pl_module.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in times.items()})


def summary(rates: Sequence[float]) -> dict[str, Any]:
    """Median and spread of the epochs' rates in images per second.

    The first epoch holds compilation and warm-up and is left out where there are others.
    """
    settled = rates[1:] or rates
    return {
        "images_per_s": statistics.median(settled),
        "lowest": min(settled),
        "highest": max(settled),
        "epochs": len(settled),
        "first_epoch": rates[0],
        "rule": "training epochs without validation, median, the first epoch left out",
    }


def wait_for_device(device: torch.device) -> None:
    """Return when the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
