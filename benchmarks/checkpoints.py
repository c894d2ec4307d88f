"""Checkpoints: the newest of a run and the one before it, replaced in one step, whole or refused.

A checkpoint is a zip file, as torch writes it, with a checksum of every part; `fault` reads them all.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from benchmarks.runs import RunError

log = logging.getLogger("benchmarks")


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, syncs, renames; keeps the checkpoint before as `previous.ckpt`.

    Lightning writes to the system's temporary folder and moves the file from there, which is a copy that can be cut
    short where the run folder is on another file system.

    Args:
        whole: a checkpoint that is known to be whole, and thus worth keeping when another takes its name.
    """

    def __init__(self, whole: Path | None = None) -> None:
        self.whole = whole

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save `checkpoint` at `path`; a process killed meanwhile leaves the previous one."""
        self.replace(Path(path), lambda file: torch.save(checkpoint, file))

    def replace(self, target: Path, write: Callable[[BinaryIO], object]) -> None:
        """Put what `write` writes in the place of the checkpoint at `target`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with open(unfinished, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if self.whole == target and target.exists():
                os.replace(target, previous(target))
            os.replace(unfinished, target)
            sync_folder(target.parent)
        finally:
            unfinished.unlink(missing_ok=True)
        self.whole = target


class CheckpointIOBehind(WholeCheckpointIO):
    """The same files, which a thread puts on the disk while training goes on.

    The checkpoint is turned into the bytes of its file before `save_checkpoint` returns, in host memory, so that no
    later step can change it; the thread writes, syncs and renames. One at a time: the next waits for the one before,
    and so does the end of training, whatever ends it. That is also where the error of a write that failed is raised. A
    process killed meanwhile leaves the checkpoint before, while state.json may already name the step of this one.
    """

    def __init__(self, whole: Path | None = None) -> None:
        super().__init__(whole)
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Take `checkpoint` as it is now, and return while it is being written to `path`."""
        self.join()
        content = BytesIO()
        torch.save(checkpoint, content)
        self.pending = self.writer.submit(self.replace, Path(path), lambda file: file.write(content.getbuffer()))

    def join(self) -> None:
        """Return when nothing is left to write."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def load_checkpoint(self, *arguments: Any, **settings: Any) -> dict[str, Any]:
        """Load what is whole."""
        self.join()
        return super().load_checkpoint(*arguments, **settings)

    def teardown(self) -> None:
        """Training is over, or was stopped."""
        self.join()


def sync_folder(folder: Path) -> None:
    """Let renames in `folder` survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def previous(path: Path) -> Path:
    """Where the checkpoint is kept that was at `path` before."""
    return path.with_name("previous.ckpt")


def newest(path: Path, tell: Callable[[str], object] = log.warning) -> Path | None:
    """The checkpoint to go on from: that at `path`, or the one before it if that is damaged; None if there is none.

    `tell` is told of the damaged one.

    Raises:
        RunError: there is one, or there are two, and none is whole.
    """
    found = [candidate for candidate in (path, previous(path)) if candidate.exists()]
    faults: list[str] = []
    for candidate in found:
        why = fault(candidate)
        if not why:
            if faults:
                tell(f"{'; '.join(faults)}: going on from the one before, {candidate}.")
            return candidate
        faults.append(f"{candidate} is not a whole checkpoint ({why})")
    if faults:
        raise RunError(f"{'; '.join(faults)}: remove {path.parent} to train from the start.")
    return None


def fault(path: Path) -> str:
    """What is wrong with the checkpoint at `path`, by its own checksums; empty if nothing is."""
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
        if not damaged:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # finds what zip files may lack
    except Exception as error:  # whatever a damaged name or size makes of it
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return f"its part {damaged} has another checksum" if damaged else ""


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
