"""Runs: where one recipe with one seed keeps its files, who may write there, and whether it is finished.

A run folder is `runs/<recipe>/<identity>/seed-<n>/` with recipe.yaml, checkpoints/last.ckpt, metrics.csv, steps.csv,
log.txt, state.json, wandb.json and, when the run is finished, result.json and figures/; diverged.json if its loss did
not stay finite. The same command finds the same folder again: it goes on where the run stopped, or says that it is
finished. `$ILSVRC_BENCH_RUNS` names another folder than `runs`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from benchmarks.lease import Lease, LeaseHeldError, wait_for_first_rank
from datamodules.files import write_whole


class RunError(RuntimeError):
    """A run that cannot start or go on; the message names the remedy."""


class RunBusyError(RunError):
    """Another process is training the run; it may be waited for."""


def runs_root(folder: str | None = None) -> Path:
    """The folder of all runs: `folder`, else `$ILSVRC_BENCH_RUNS`, else `runs` in the current folder."""
    return Path(folder or os.environ.get("ILSVRC_BENCH_RUNS") or "runs")


def named_runs(folder: str | None) -> Path:
    """`runs_root`, for commands that only read: a folder that is named must be there.

    Raises:
        RunError: it is not.
    """
    root = runs_root(folder)
    if folder and not root.is_dir():
        raise RunError(f"there is no folder {root}: name the folder of runs with --runs, or leave it out.")
    return root


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
        """The newest state to go on from; `checkpoints.previous` names the one before."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.folder / "metrics.csv"

    @property
    def steps(self) -> Path:
        """One row every few optimizer steps, see `StepTable`."""
        return self.folder / "steps.csv"

    @property
    def wandb(self) -> Path:
        """Which W&B run it is, and what W&B is known to have of it, see `benchmarks.wandb_run`."""
        return self.folder / "wandb.json"

    @property
    def figures(self) -> Path:
        """The folder of the pictures that are drawn of a finished run, PNG files."""
        return self.folder / "figures"

    @property
    def result(self) -> Path:
        """Written last: a run that has it is finished."""
        return self.folder / "result.json"

    @property
    def diverged(self) -> Path:
        """Why training stopped, where the loss or a weight was no longer finite; gone when the run starts again."""
        return self.folder / "diverged.json"

    @property
    def state(self) -> Path:
        """How the run stands, see `write_state`; what a batch script reads to decide whether the run goes on."""
        return self.folder / "state.json"

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

    def write_state(
        self,
        status: Literal["running", "stopped", "failed", "finished"],
        step: int | None = None,
        epoch: int | None = None,
        **more: Any,
    ) -> None:
        """Write state.json: status, optimizer steps and whole epochs in the newest checkpoint, time.

        `stopped` wants to go on; `more` then has the `signal` that stopped it. `failed` has `why`. A run that was
        killed still says `running`. Steps and epochs that are not given stay as they were.
        """
        before = self.read_state()
        counts = {"step": before.get("step", 0), "epoch": before.get("epoch", 0)}
        counts |= {name: count for name, count in (("step", step), ("epoch", epoch)) if count is not None}
        at = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        write_whole(self.state, json.dumps({"status": status, **counts, "at": at, **more}) + "\n")

    def read_state(self) -> dict[str, Any]:
        """What state.json says; empty where it is not there."""
        try:
            found = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def lock(self) -> Path:
        """The file that says which process is training the run, while one does."""
        return self.folder.with_name(f".{self.folder.name}.lock")

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[Lease]:
        """Keep every other process out of the folder, until this one leaves or dies.

        Raises:
            RunBusyError: another process is training this run, and `wait` is false.
            RunError: the folder cannot be written.
        """
        lease = Lease(self.lock)
        try:
            lease.acquire(wait)
        except LeaseHeldError as error:
            raise self._busy(error) from None
        except OSError as error:
            raise RunError(
                f"the run folder {self.folder.parent} cannot be written ({error.strerror}): give another with --runs, "
                "or set ILSVRC_BENCH_RUNS."
            ) from None
        try:
            yield lease
        finally:
            lease.release()

    def wait_for_first_rank(self, wait: bool) -> None:
        """What ranks other than the first do, which were started at the same time, while that one takes the lock.

        Raises:
            RunBusyError: another process is training this run, and `wait` is false.
        """
        try:
            wait_for_first_rank(self.lock, wait, self.result.exists)
        except LeaseHeldError as error:
            raise self._busy(error) from None

    def _busy(self, error: LeaseHeldError) -> RunBusyError:
        return RunBusyError(
            f"another process is training {self.folder}: {error}. Give --wait to wait for it, or use another "
            "--seed_everything or --runs."
        )
