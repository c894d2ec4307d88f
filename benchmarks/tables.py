"""metrics.csv and steps.csv of a run: read, and joined to one history in the order of the optimizer's steps."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.runs import Run, RunError

Row = tuple[int, float | None, dict[str, float]]  # optimizer step, seconds since 1970 where known, values by name


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv or steps.csv, first epoch first; none where there is no file.

    A last line that a killed process has not finished is left out.

    Raises:
        RunError: it cannot be read, or a row does not say of which epoch and step it is.
    """
    try:
        content = path.read_bytes()
        text = content[: content.rfind(b"\n") + 1].decode()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from None
    if "\0" in text:
        raise damaged(path, "it has zero bytes")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise damaged(path, str(error)) from None
    for number, row in enumerate(rows, start=1):
        for name in ("epoch", "step"):
            if not re.fullmatch(r"-?[0-9]{1,18}", row.get(name) or ""):  # a callback's first row may be epoch -1
                raise damaged(path, f"{name} (={row.get(name)!r}) of row {number} must be a whole number")
    return rows


def damaged(path: Path, why: str) -> RunError:
    """What is said of a metrics.csv or steps.csv that no run has written."""
    return RunError(f"{path} is no table of a run ({why}): restore it, or move it away.")


def history(run: Run, until: float = float("inf")) -> list[Row]:
    """All rows of a run up to and including the step `until`."""
    return [row for row in merged(read_rows(run.steps), read_rows(run.metrics)) if row[0] <= until]


def merged(steps: Iterable[Mapping[str, Any]], epochs: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row for each step, in order; what an epoch's row says goes before what its last step's row says."""
    times: dict[int, float | None] = {}
    values: dict[int, dict[str, float]] = {}
    for row in [*steps, *epochs]:
        step = int(row["step"])
        times[step] = float(row["time"]) if row.get("time") else times.get(step)
        found = {key: float(value) for key, value in row.items() if key not in ("step", "time") and value != ""}
        values[step] = {**values.get(step, {}), **found}
    return [(step, times[step], values[step]) for step in sorted(values)]
