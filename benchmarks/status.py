"""`python -m benchmarks status`: what became of submitted runs. Without torch.

The run's folder is the truth: result.json, diverged.json, state.json, metrics.csv. Whether a job is still there, squeue
knows, then sacct, then scontrol, whichever this cluster has.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.jobs import RECORD, ask
from benchmarks.runs import Run, RunError, named_runs
from benchmarks.tables import damaged, read_rows

OVER = ("finished", "diverged")


@dataclass(frozen=True)
class Row:
    """One run of a submission.

    Args:
        job: Slurm's number of it, with the task where it is one of an array.
        recipe: what was submitted.
        seed: its seed.
        state: finished, diverged, running, pending (why), or what the job ended as; then it goes on when submitted
            again.
        epoch: epochs that are finished, and of how many; `?` where metrics.csv is damaged.
        step: optimizer steps at the last checkpoint.
        images_per_s: in training, of the last epoch.
        end: when it should end, from the time its epochs took; of a run that waits, when it should start.
        folder: the run's.
    """

    job: str
    recipe: str
    seed: int
    state: str
    epoch: str
    step: int | None
    images_per_s: float | None
    end: str
    folder: str


def status(options: argparse.Namespace) -> int:
    """Print one line for each run; a damaged file is named on stderr.

    Raises:
        RunError: the folder that was named is no submission, or there is no such folder of runs.
    """
    named = options.submission
    records = [read_record(Path(named))] if named else read_records(named_runs(options.runs))
    rows = [(record, build_rows(record)) for record in records]
    if not named and not options.all:
        rows = [(record, its) for record, its in rows if any(row.state not in OVER for row in its)]
    print(FORMATS[options.format]([row for _, its in rows for row in its]))
    return 0


def read_records(root: Path) -> list[dict[str, Any]]:
    """What all submissions recorded; one that is damaged is named on stderr and left out."""
    records = []
    for path in sorted((root / "jobs").glob(f"*/{RECORD}")):
        try:
            records.append(read_record(path.parent))
        except RunError as error:
            print(f"skipped: {error}", file=sys.stderr)
    return records


def read_record(folder: Path) -> dict[str, Any]:
    """What a submission recorded.

    Raises:
        RunError: there is nothing of it, or it does not say what `build_rows` needs.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"there is no {path}: name a folder in runs/jobs, or none.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged_record(path, str(error)) from None
    runs = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(runs, list):
        raise damaged_record(path, "it has no list of runs")
    kinds = {"job": str, "recipe": str, "seed": int, "folder": str, "epochs": int | None}
    for run in runs:
        for name, kind in kinds.items():
            if not isinstance(run, dict) or name not in run or not isinstance(run[name], kind):
                raise damaged_record(path, f"a run in it has no {name}")
    return content


def damaged_record(path: Path, why: str) -> RunError:
    """What is said of a record that `submit` has not written."""
    return RunError(f"{path} is no record of a submission ({why}): restore it, or move its folder out of runs/jobs.")


def build_rows(record: dict[str, Any]) -> list[Row]:
    """A row for each run of a submission."""
    runs = record["runs"]
    left = [run["job"] for run in runs if not Run(Path(run["folder"])).result.exists()]
    queue = job_states(left)
    return [build_row(run, queue.get(run["job"])) for run in runs]


def build_row(run: dict[str, Any], job: Job | None) -> Row:
    """The row of one run, whose job is `job`, if any of Slurm's programs still knows it."""
    files, epochs = Run(Path(run["folder"])), run["epochs"]
    try:
        rows = read_metrics(files.metrics)
        done = f"{rows[-1]['epoch'] + 1:.0f}" if rows else "0"
    except RunError as error:
        print(f"skipped: {error}", file=sys.stderr)
        rows, done = [], "?"
    if files.result.exists():
        name, end = "finished", ""
    elif files.diverged.exists():
        name, end = "diverged", ""
    else:
        name, end = what_the_job_is(job), expected_end(job, rows, epochs)
    return Row(
        job=run["job"],
        recipe=run["recipe"],
        seed=run["seed"],
        state=name,
        epoch=f"{done}/{epochs or '?'}",
        step=files.read_state().get("step"),
        images_per_s=rows[-1].get("perf/images_per_s") if rows else None,
        end=end,
        folder=run["folder"],
    )


NUMBERS = ("epoch", "perf/images_per_s", "perf/train", "perf/validation")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """`NUMBERS` of each finished epoch, as far as metrics.csv has them; none where there is none yet.

    Raises:
        RunError: the file is damaged.
    """
    rows = read_rows(path)
    try:
        return [{name: float(row[name]) for name in NUMBERS if row.get(name)} for row in rows]
    except ValueError as error:
        raise damaged(path, str(error)) from None


def expected_end(job: Job | None, rows: Sequence[dict[str, float]], epochs: int | None) -> str:
    """When a running job should have trained, if its epochs go on as they went; when a waiting one should start."""
    if job is None or job.state in ENDED:
        return ""
    if job.state != "running":
        return f"starts {job.start}" if job.start and job.start != "N/A" else ""
    spent = [row.get("perf/train", 0.0) + row.get("perf/validation", 0.0) for row in rows[-10:]]
    if not spent or not epochs:
        return ""
    left = (epochs - rows[-1]["epoch"] - 1) * statistics.median(spent)
    return (datetime.now() + timedelta(seconds=left)).strftime("%Y-%m-%dT%H:%M")


# Slurm ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What Slurm says of a job: its state in small letters, why it waits, and when it should start."""

    state: str
    why: str = ""
    start: str = ""


ENDED = ("completed", "failed", "cancelled", "timeout", "node_fail", "out_of_memory", "deadline", "boot_fail")


def what_the_job_is(job: Job | None) -> str:
    """The state of a run that is not finished."""
    if job is None:
        return "gone, not finished"
    if job.state == "pending":
        return f"pending ({job.why})" if job.why and job.why != "None" else "pending"
    return f"{job.state}, not finished" if job.state in ENDED else job.state


def job_states(wanted: Iterable[str]) -> dict[str, Job]:
    """What is known of the jobs and array tasks `wanted`."""
    missing = dict.fromkeys(wanted)
    found: dict[str, Job] = {}
    for source in (from_squeue, from_sacct, from_scontrol):
        if missing:
            found |= {name: job for name, job in source(list(missing)).items() if name in missing}
            missing = {name: None for name in missing if name not in found}
    return found


def from_squeue(wanted: Sequence[str]) -> dict[str, Job]:
    """Jobs that wait or run."""
    lines = ask("squeue", "--noheader", "--array", "--me", "--format=%i|%T|%r|%S").splitlines()
    parts = [line.split("|") for line in lines if line.count("|") >= 3]
    return {part[0]: Job(part[1].lower(), part[2], part[3]) for part in parts}


def from_sacct(wanted: Sequence[str]) -> dict[str, Job]:
    """Jobs that have ended, where the site keeps accounts."""
    jobs = ",".join(wanted)
    lines = ask("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={jobs}")
    parts = [line.split("|") for line in lines.splitlines() if "|" in line]
    return {part[0]: Job(part[1].split()[0].lower()) for part in parts if part[1]}  # CANCELLED by 1000


def from_scontrol(wanted: Sequence[str]) -> dict[str, Job]:
    """Jobs that have ended lately."""
    found = {}
    for name in wanted:
        state = re.search(r"JobState=(\w+)", ask("scontrol", "--oneliner", "show", "job", name))
        if state:
            found[name] = Job(state[1].lower())
    return found


# Tables ---------------------------------------------------------------------------------------------------------------

HEADERS = ("job", "recipe", "seed", "state", "epoch", "step", "images/s", "end")


def cells(row: Row) -> list[str]:
    """The row as text, one cell per header."""
    rate = "–" if row.images_per_s is None else f"{row.images_per_s:.4g}"
    step = "–" if row.step is None else str(row.step)
    return [row.job, row.recipe, str(row.seed), row.state, row.epoch, step, rate, row.end]


def as_table(rows: Sequence[Row], style: str = "simple") -> str:
    """A table, and what is to be done where something is."""
    from tabulate import tabulate

    if not rows:
        return "No submitted runs, or all are finished (--all shows them)."
    table = tabulate([cells(row) for row in rows], HEADERS, tablefmt=style, disable_numparse=True)
    stopped = sum("not finished" in row.state for row in rows)
    done = sum(row.state == "finished" for row in rows)
    text = f"{table}\n\n{done} of {len(rows)} runs are finished."
    return text + (f" {stopped} have no job any more: submitted again, they go on where they are." if stopped else "")


def as_markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    return as_table(rows, "github")


def as_csv(rows: Sequence[Row]) -> str:
    """Every field of every row, comma-separated."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue().rstrip("\n")


def as_json(rows: Sequence[Row]) -> str:
    """Every field of every row."""
    return json.dumps([asdict(row) for row in rows], indent=1)


FORMATS = {"table": as_table, "md": as_markdown, "csv": as_csv, "json": as_json}
