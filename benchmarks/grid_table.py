"""The outcome of an ablation as tables: each cell beside the paper's number, each contrast beside the paper's."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contrast import compare, verdict
from benchmarks.grid import Cell, Contrast, Grid
from benchmarks.leaderboard import confidence

TO_DO = "to do"
DIVERGED = "did not train"
NOT_REACHED = "did not get there"


@dataclass(frozen=True)
class Outcome:
    """What came of one cell with one seed: a `value`, or in words why there is none."""

    seed: int
    value: float | None
    lacking: str = ""  # TO_DO, DIVERGED or NOT_REACHED


@dataclass(frozen=True)
class CellRow:
    """One cell over its seeds.

    Args:
        name: the cell.
        value: mean over seeds, errors in percent.
        interval: half the width of the 95 % confidence interval of the mean (Student's t); None for one seed.
        seeds: the seeds it is the mean of.
        published: the paper's number.
        note: runs that gave no value, and why.
    """

    name: str
    value: float | None
    interval: float | None
    seeds: list[int]
    published: str | None
    note: str


@dataclass(frozen=True)
class ContrastRow:
    """One contrast: our difference or ratio with its 95 % confidence interval (Welch), and the paper's."""

    name: str
    kind: str
    value: float | None
    low: float | None
    high: float | None
    published: str | None
    where: str
    verdict: str


@dataclass(frozen=True)
class Report:
    """A grid's rows. `changed` are settings given on the command line, which make it another study than the paper's."""

    grid: Grid
    changed: str
    cells: list[CellRow]
    contrasts: list[ContrastRow]


def build_report(grid: Grid, outcomes: dict[str, list[Outcome]], changed: str = "") -> Report:
    """The report of a grid whose cell of that name had these outcomes."""
    cells = [cell_row(cell, outcomes[cell.name], bool(changed)) for cell in grid.cells]
    contrasts = [contrast_row(contrast, outcomes, bool(changed)) for contrast in grid.contrasts]
    return Report(grid, changed, cells, contrasts)


def cell_row(cell: Cell, outcomes: Sequence[Outcome], changed: bool) -> CellRow:
    """The row of one cell; nothing published belongs to changed settings."""
    found = values(outcomes)
    return CellRow(
        name=cell.name,
        value=statistics.mean(found) if found else None,
        interval=confidence(found),
        seeds=[outcome.seed for outcome in outcomes if outcome.value is not None],
        published=None if cell.published is None or changed else str(cell.published),
        note=note(outcomes),
    )


def contrast_row(contrast: Contrast, outcomes: dict[str, list[Outcome]], changed: bool) -> ContrastRow:
    """The row of one contrast, with a word on runs that could not take part."""
    sides = (contrast.left, contrast.right)
    found = compare(values(outcomes[contrast.left]), values(outcomes[contrast.right]), contrast.kind)
    published = None if changed else contrast.published
    failed = [
        f"{count} of {len(outcomes[side])} runs of {side} {why}"
        for side in sides
        for why, count in Counter(outcome.lacking for outcome in outcomes[side]).items()
        if why in (DIVERGED, NOT_REACHED)
    ]
    judged = "" if found is None and failed else verdict(found, published, contrast.kind)
    return ContrastRow(
        name=contrast.name,
        kind=contrast.kind,
        value=found.estimate if found else None,
        low=found.low if found else None,
        high=found.high if found else None,
        published=None if published is None else str(published),
        where=contrast.where,
        verdict="; ".join([judged, *failed] if judged else failed),
    )


def values(outcomes: Sequence[Outcome]) -> list[float]:
    """The values there are."""
    return [outcome.value for outcome in outcomes if outcome.value is not None]


def note(outcomes: Sequence[Outcome]) -> str:
    """`1 of 3 did not train, 2 of 3 to do`."""
    lacking = Counter(outcome.lacking for outcome in outcomes if outcome.value is None)
    return ", ".join(f"{count} of {len(outcomes)} {why}" for why, count in lacking.items())


def as_table(report: Report) -> str:
    """The report for a terminal."""
    return render(report, "simple")


def as_markdown(report: Report) -> str:
    """The report in Markdown."""
    return render(report, "github")


def render(report: Report, style: str) -> str:
    """Question, source, cells, contrasts, and what the columns mean."""
    from tabulate import tabulate

    grid = report.grid
    where = f" ({grid.where})" if grid.where and not report.changed else ""
    parts = [f"{grid.name}: {grid.question}\n{grid.paper}{where}. {grid.url}"]
    if report.changed:
        parts.append(f"Changed in every cell: {report.changed}. The paper's numbers do not apply.")
    cells = [cell_texts(row) for row in report.cells]
    parts.append(tabulate(cells, ("cell", unit(grid), "n", "paper", ""), tablefmt=style, disable_numparse=True))
    if report.contrasts:
        contrasts = [contrast_texts(row) for row in report.contrasts]
        header = ("contrast", "ours", "95 % interval", "paper", "where", "verdict")
        parts.append(tabulate(contrasts, header, tablefmt=style, disable_numparse=True))
    return "\n\n".join([*parts, footnote(report)])


def unit(grid: Grid) -> str:
    """What the numbers of the cells are: the head of their column."""
    if grid.measure == "epochs_to":
        return f"epochs to {grid.train_error:g} % training error"
    return f"{'top-1' if grid.metric == 'top1_error' else 'top-5'} error %, {grid.protocol}"


def cell_texts(row: CellRow) -> list[str]:
    """The row as text: cell, error, n, paper, note."""
    error = "–" if row.value is None else f"{row.value:.2f}"
    error += f" ± {row.interval:.2f}" if row.interval is not None else ""
    return [row.name, error, str(len(row.seeds)), row.published or "–", row.note]


def contrast_texts(row: ContrastRow) -> list[str]:
    """The row as text: contrast, ours, interval, paper, where, verdict."""
    sign = "+" if row.kind == "minus" else ""
    ours = "–" if row.value is None else f"{row.value:{sign}.2f}"
    interval = "–" if row.low is None else f"{row.low:{sign}.2f} to {row.high:{sign}.2f}"
    return [row.name, ours, interval, row.published or "–", row.where or "–", row.verdict]


def footnote(report: Report) -> str:
    """What the columns mean and what the intervals rest on."""
    parts = ["Cells: mean over n seeds ± half the 95 % confidence interval (Student's t)."]
    if report.grid.measure == "epochs_to":
        parts.append(
            "An epoch counts when its training error, averaged over its steps while the weights change, is at or below "
            "the threshold."
        )
    else:
        parts.append("Errors are the last epoch's, every test image counted once.")
    if any(row.kind == "over" for row in report.contrasts):
        parts.append("`over` is the ratio of geometric means, its sign that of its logarithm.")
    if report.contrasts:
        parts.append(
            "Contrasts: Welch's interval, because seeds do not pair: the same seed gives two networks different "
            "initial weights. Not proven: the interval includes no difference, or a side has one seed. Each contrast "
            "has its own 5 %; the more of them, the more are proven by chance."
        )
    return " ".join(parts)


def as_csv(report: Report) -> str:
    """Cells, then contrasts, in the same columns; `low` and `high` are the ends of the 95 % confidence interval."""
    text = io.StringIO()
    columns = ("kind", "name", "value", "low", "high", "n", "published", "where", "verdict")
    writer: csv.DictWriter[str] = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in report.cells:
        said: dict[str, str | float | None] = {"kind": "cell", "name": row.name, "value": row.value}
        if row.value is not None and row.interval is not None:
            said |= {"low": row.value - row.interval, "high": row.value + row.interval}
        said |= {"n": len(row.seeds), "published": row.published, "where": report.grid.where, "verdict": row.note}
        writer.writerow(said)
    for contrast in report.contrasts:
        writer.writerow(asdict(contrast))
    return text.getvalue().rstrip("\n")


def as_json(report: Report) -> str:
    """Everything of the report."""
    grid = report.grid
    head: dict[str, Any] = {"grid": grid.name, "question": grid.question, "paper": grid.paper, "url": grid.url}
    head |= {"where": grid.where, "measure": unit(grid), "seeds": grid.seeds, "changed": report.changed}
    cells, contrasts = [asdict(row) for row in report.cells], [asdict(row) for row in report.contrasts]
    return json.dumps({**head, "cells": cells, "contrasts": contrasts}, indent=1)


FORMATS = {"table": as_table, "md": as_markdown, "csv": as_csv, "json": as_json}
