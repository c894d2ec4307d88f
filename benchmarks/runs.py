"""Runs: where one recipe with one seed keeps its files, who may write there, and whether it is finished.

A run folder is `runs/<recipe>/<identity>/seed-<n>/` with recipe.yaml, checkpoints/last.ckpt, metrics.csv, log.txt and,
when the run is finished, result.json; diverged.json if its loss did not stay finite. The same command finds the same
folder again: it goes on where the run stopped, or says that it is finished. `$ILSVRC_BENCH_RUNS` names another folder
than `runs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout


class RunError(RuntimeError):
    """A run that cannot start or go on; the message names the remedy."""


def runs_root(folder: str | None = None) -> Path:
    """The folder of all runs: `folder`, else `$ILSVRC_BENCH_RUNS`, else `runs` in the current folder."""
    return Path(folder or os.environ.get("ILSVRC_BENCH_RUNS") or "runs")


@dataclass(frozen=True)
class Run:
    """The folder of one recipe, one set of settings and one seed, and what lies in it."""

    folder: Path

    @classmethod
    def of(cls, root: Path, recipe: str, identity: str, seed: int) -> Run:
        """The run of `recipe` with the settings whose hash is `identity`."""
        return cls(root / recipe / identity / f"seed-{seed}")

    @property
    def checkpoint(self) -> Path:
        """State after the last finished epoch."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.folder / "metrics.csv"

    @property
    def result(self) -> Path:
        """Written last: a run that has it is finished."""
        return self.folder / "result.json"

    @property
    def diverged(self) -> Path:
        """Why training stopped, where the loss or a weight was no longer finite; gone when the run starts again."""
        return self.folder / "diverged.json"

    @property
    def log(self) -> Path:
        """What the run said, with times."""
        return self.folder / "log.txt"

    @property
    def resolved_recipe(self) -> Path:
        """Every setting of the run, defaults included, as a file that `--config` reads."""
        return self.folder / "recipe.yaml"

    def make(self) -> None:
        """Create the folder.

        Raises:
            RunError: it cannot be written.
        """
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"the run folder {self.folder} cannot be written ({error.strerror}): give another with --runs, or set "
                "ILSVRC_BENCH_RUNS."
            ) from None

    def set_aside(self) -> None:
        """Rename the folder, so that the run starts anew and nothing of the old one is lost."""
        if self.folder.exists():
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            self.folder.rename(self.folder.with_name(f"{self.folder.name}.replaced-{stamp}"))

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed had not finished writing; call it with the lock held."""
        for folder in (self.folder, self.checkpoint.parent):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out of the folder; the system frees the lock of a process that dies.

        Raises:
            RunError: another process is training this run.
        """
        lock = FileLock(self.folder.with_name(f".{self.folder.name}.lock"), timeout=0)
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise RunError(
                f"another process is training {self.folder}: wait for it, or use another --seed_everything or --runs."
            ) from None
        except OSError as error:
            raise RunError(
                f"the run folder {self.folder.parent} cannot be written ({error.strerror}): give another with --runs, "
                "or set ILSVRC_BENCH_RUNS."
            ) from None
        try:
            yield
        finally:
            lock.release()
