"""A team's results back from W&B: each finished run's own result.json and metrics.csv, as files in the cache.

W&B is a mirror: what is read back is the file that the run wrote and sent, not W&B's configuration and summary of it.
The folder in the cache is laid out like one of runs, so that tables, pages and checks read it as they read every other,
and of a run that is both there and here the newer result counts. What was fetched once is not fetched again.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.results import ResultError, read_result, write_result
from benchmarks.runs import RunError
from benchmarks.wandb_mode import account, fault
from datamodules.files import write_whole
from datamodules.originals import cache_root

RESULT, CURVE = "result.json", "metrics.csv"
PATIENCE = 10.0  # seconds for the server to answer
NAME = re.compile(r"[\w-][\w.-]*")


def fetch(project: str) -> Path:
    """Bring the cache's folder of a W&B project, ENTITY/PROJECT, to what W&B has; says what was left out. The folder.

    Raises:
        RunError: that is no project's name, there is no key, or the server does not answer.
        ResultError: there is no such project.
    """
    folder = folder_of(project)
    check_access(project)
    known, unfinished, foreign = set(), 0, 0
    runs = list(list_runs(project))
    for run in runs:
        finished = run.summary.get("finished")
        if "recipe" not in run.config:
            foreign += 1
            continue
        if not finished:
            unfinished += 1
            continue
        known.add(run.id)
        try:
            bring(run, str(finished), folder)
        except ResultError as error:
            print(f"skipped: {error}", file=sys.stderr)
    for count, what in ((unfinished, "not finished"), (foreign, "none of this suite's")):
        if count:
            print(f"{project}: {count} {'runs are' if count > 1 else 'run is'} {what}", file=sys.stderr)
    kept = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if not runs and kept:
        print(f"{project}: W&B lists no runs. Those fetched before still count: remove {folder}.", file=sys.stderr)
        return folder
    for gone in kept:
        if gone.name not in known:
            shutil.rmtree(gone)
    return folder


def folder_of(project: str) -> Path:
    """The cache's folder for a W&B project.

    Raises:
        RunError: its name is not ENTITY/PROJECT.
    """
    parts = project.split("/")
    if len(parts) != 2 or not all(NAME.fullmatch(part) for part in parts):
        raise RunError(f"the W&B project (={project}) must be ENTITY/PROJECT, such as my-team/ilsvrc-bench.")
    return cache_root(None) / "wandb" / parts[0] / parts[1]


def check_access(project: str) -> None:
    """W&B must answer, with a key that it takes.

    Raises:
        RunError: it does not; the client itself would try for a minute and a half, or ask for a key.
    """
    try:
        why = fault(*account(), patience=PATIENCE)
    except Exception as error:  # the client is not installed, or does not like its own settings
        why = str(error).strip().partition("\n")[0] or type(error).__name__
    if why:
        raise RunError(f"W&B: {why}. Nothing of {project} was read.")


def list_runs(project: str) -> Iterable[Any]:
    """All runs of a project, oldest first, each with its configuration and summary.

    Raises:
        ResultError: there is no such project, or it may not be read.
    """
    import wandb

    try:
        return list(wandb.Api(timeout=30).runs(project, per_page=200, lazy=False))
    except Exception as error:  # whatever the client raises
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ResultError(
            f"W&B's project {project} cannot be read ({why}): correct its name, or ask its team for access."
        ) from error


def bring(run: Any, finished: str, folder: Path) -> None:
    """Fetch one run's files into `folder`, unless the newest are there.

    Raises:
        ResultError: it sent no whole result.
    """
    where = "/".join(run.path)
    if not NAME.fullmatch(run.id):
        raise ResultError(f"{where} has an id that no folder can have")
    if is_there(folder / run.id, finished):
        return
    with tempfile.TemporaryDirectory() as place:
        got = Path(place)
        try:
            for file in run.files(names=[RESULT, CURVE]):
                if file.name in (RESULT, CURVE):
                    file.download(root=place).close()
        except Exception as error:  # whatever the client raises
            raise ResultError(f"{where} could not be fetched ({error}): try again") from None
        if not (got / RESULT).is_file():
            raise ResultError(
                f"{where} is finished, but did not send its {RESULT}: give `python -m benchmarks sync` where it ran"
            )
        try:
            result = read_result(got / RESULT)
        except ResultError as error:
            raise ResultError(f"{where}: {str(error).replace(str(got / RESULT), RESULT)}") from None
        target = folder / run.id / f"seed-{result.seed}"
        shutil.rmtree(target.parent, ignore_errors=True)
        target.mkdir(parents=True)
        if (got / CURVE).is_file():
            write_whole(target / CURVE, (got / CURVE).read_bytes())
        write_result(target / RESULT, replace(result, wandb_id=where))  # last: with it a run is there


def is_there(folder: Path, finished: str) -> bool:
    """Whether the run's result in the cache is the one that W&B's summary is of."""
    for path in folder.glob("seed-*/result.json"):
        try:
            return read_result(path).finished == finished
        except ResultError:
            return False
    return False
