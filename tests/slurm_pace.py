"""A callback that makes epochs take so many seconds at least, for runs that must last until something happens."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl


class Pace(pl.Callback):
    """Waits after every batch.

    Args:
        seconds: of an epoch, shared by its batches.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Wait for this batch's share."""
        time.sleep(self.seconds / trainer.num_training_batches)
