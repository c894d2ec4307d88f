"""`python -m benchmarks sync [ROOT]`: send runs to W&B that were trained without it, from a machine that reaches it.

What is sent are the rows of a run's own files that W&B does not have, its result, and its files
(`benchmarks.wandb_run`), so the command may be given as often as one likes. A run counts as sent when W&B has been
asked and has it. Of a run that is not finished only what its checkpoint has behind it is sent, for the rest may still
be trained anew.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.lease import EXPIRY, is_dead, read_lease
from benchmarks.results import Result, ResultError, read_result
from benchmarks.runs import Run, RunError, runs_root
from benchmarks.tables import Row, history
from benchmarks.wandb_mode import account, fault
from benchmarks.wandb_run import (
    Status,
    WandbRun,
    config_of,
    has_all,
    images_of,
    in_short,
    new_id,
    note_sent,
    read_record,
    write_record,
)


def sync(options: argparse.Namespace) -> int:
    """Send every run below the folder that is not there yet; 1 if one could not be sent.

    Raises:
        RunError: there is no such folder, no key, or no server.
    """
    root = runs_root(options.root).resolve()  # `.` has no name
    if not root.is_dir():
        raise RunError(f"there is no folder {root}: name the folder of runs, or a run: python -m benchmarks sync runs")
    runs = sorted(find_runs(root), key=started)
    os.environ.pop("WANDB_MODE", None)  # of runs that train; this command is there to send
    if not options.dry_run and (why := refusal()):
        raise RunError(f"W&B: {why}. Nothing was sent.")
    failed = 0
    for run in runs:
        try:
            line, well = send(run, options.dry_run)
        except Exception as error:  # files that were edited by hand or cut: the others are sent all the same
            line, well = f"not sent: its files cannot be made sense of ({type(error).__name__}: {error})", False
        failed += not well
        print(f"{describe(run)}: {line}", file=sys.stdout if well else sys.stderr, flush=True)
    print(f"{len(runs)} runs, {failed} not sent." if failed else f"{len(runs)} runs.")
    return 1 if failed else 0


def refusal() -> str:
    """Why nothing can be sent from here; "" if nothing speaks against it."""
    try:
        return fault(*account(), patience=10.0)
    except Exception as error:  # the client is not installed, or does not like its own settings
        return in_short(error)


def find_runs(root: Path) -> list[Run]:
    """The runs in and below a folder, but for those that were replaced."""
    folders = [root, *root.rglob("seed-*")]
    return [Run(folder) for folder in folders if re.fullmatch(r"seed-\d+", folder.name) and folder.is_dir()]


def started(run: Run) -> tuple[str, str]:
    """What runs are sent in the order of."""
    return str(read_record(run).get("started") or ""), str(run.folder)


def describe(run: Run) -> str:
    """`mnist/lenet5/<hash of the settings>/seed-0`."""
    return "/".join(run.folder.resolve().parts[-4:])


def send(run: Run, dry_run: bool) -> tuple[str, bool]:
    """Send one run, or only look; what there is to say of it, and whether that is well."""
    record = read_record(run)
    if record.get("mode") == "disabled":
        return "left out, W&B was disabled for it", True
    if record.get("mode") == "online" and is_held(run):
        return "left out, the process that trains it sends it", True
    try:
        result = read_result(run.result) if run.result.exists() else None
    except ResultError as error:
        return f"not sent: {error}", False
    rows = history(run, float("inf") if result else run.read_state().get("step", 0))
    if not rows and result is None:
        return "nothing to send yet", True
    images = images_of(run) if result else {}
    last = (rows[-1][0] if rows else -1) + bool(images)
    if is_sent(record, last, result):
        return f"is there, {record['url']}", True
    if not record.get("config"):
        if result is None:
            return "left out, it is not finished and was begun before runs kept what W&B wants to know", True
        record |= {"id": record.get("id") or new_id(*result.key), "config": config_of(asdict(result))}
    if dry_run:
        return f"would be sent, {len(rows)} rows{' and its result' if result else ''}", True
    return upload(run, record, rows, images, last, result)


def is_held(run: Run) -> bool:
    """Whether a process holds the run's lock that may be alive."""
    try:
        age = time.time() - run.lock.stat().st_mtime
    except OSError:
        return False
    return age < EXPIRY and not is_dead(read_lease(run.lock))


def status_of(run: Run) -> Status:
    """How a run without a result stands; one that was killed can go on like one that was stopped."""
    if run.diverged.exists():
        return "diverged"
    return "failed" if run.read_state().get("status") == "failed" else "stopped"


def is_sent(record: dict[str, Any], last: int, result: Result | None) -> bool:
    """Whether W&B was found to have the run as it is now."""
    sent = record.get("sent") or {}
    return (
        bool(record.get("url"))
        and sent.get("step") == last
        and sent.get("finished") == (result.finished if result else None)
    )


def upload(
    run: Run, record: dict[str, Any], rows: list[Row], images: dict[str, Path], last: int, result: Result | None
) -> tuple[str, bool]:
    """Send what W&B lacks, and ask it whether it has all."""
    if record.get("url"):  # it was there once; perhaps it still is, and nothing was noted
        try:
            if has_all(record, last, result):
                note_sent(run, record, last, result)
                return f"is there, {record['url']}", True
        except Exception as error:
            return f"not sent: W&B does not say what it has ({in_short(error)})", False
    write_record(run, record)
    status = "finished" if result else status_of(run)  # before anything is open
    wandb = WandbRun(run, record)
    wandb.open()
    before = wandb.last
    wandb.log_all(rows)
    wandb.log_images(images, rows[-1][0] if rows else -1)
    wandb.finish(status, result)
    if wandb.fault:
        return f"not sent: W&B {wandb.fault}", False
    new = sum(step > before for step, _, _ in rows)
    return f"sent, {new} rows{' and its result' if result else ''}, {record['url']}", True
