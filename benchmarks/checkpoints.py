"""Checkpoints: one per run, after every epoch, replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, syncs, renames.

    Lightning writes to the system's temporary folder and moves the file from there, which is a copy that can be cut
    short where the run folder is on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save `checkpoint` at `path`; a process killed meanwhile leaves the previous one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with open(unfinished, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)


def last_epoch(path: Path) -> ModelCheckpoint:
    """The callback that keeps the state after the last finished epoch at `path`: never the best on the test set."""
    return ModelCheckpoint(
        dirpath=path.parent,
        filename=path.stem,
        save_top_k=1,
        monitor=None,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
