"""Learning curves: the metrics.csv of finished runs, and their mean over the seeds of a recipe."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Result, is_result_file

SHOWN = 60  # epochs of a mean curve that are kept, evenly spread: more cannot be told apart in a plot


@dataclass(frozen=True)
class Curve:
    """One run, an entry an epoch. Errors are top-1 in percent, None where nothing was validated.

    Args:
        key: recipe, identity and seed of the run.
        train: error over the epoch's steps, while the weights change.
        validation: error at the end of the epoch, on the test images unless the run held some out for it.
        hours: of training up to the end of the epoch, without validation and waiting in queues.
    """

    key: tuple[str, str, int]
    train: list[float]
    validation: list[float | None]
    hours: list[float]

    def hours_to(self, error: float) -> float | None:
        """Hours of training until the validation error was at most `error` for the first time; None if it never was."""
        for hours, found in zip(self.hours, self.validation, strict=True):
            if found is not None and found <= error:
                return hours
        return None


@dataclass(frozen=True)
class MeanPoint:
    """An epoch, counted from 1, of several runs: mean hours and errors, and the lowest and highest of the seeds."""

    epoch: int
    hours: float
    train: float
    validation: float
    low: float
    high: float


def read_curves(folders: Iterable[Path], found: Iterable[Result]) -> tuple[list[Curve], list[str]]:
    """The curve of each result that has one beside its file, and a line for each file that cannot be read.

    A committed result `seed-0.json` has it in `seed-0.csv`, a run's `result.json` in `metrics.csv`.
    """
    dates = {result.key: result.finished for result in found}
    curves: dict[tuple[str, str, int], Curve] = {}
    faults = []
    for folder in folders:
        for path in sorted(folder.rglob("*.csv")):
            beside = path.with_name("result.json") if path.name == "metrics.csv" else path.with_suffix(".json")
            if not is_result_file(beside) or not beside.is_file():
                continue
            try:
                head = json.loads(beside.read_text(encoding="utf-8"))
                key = (head["recipe"], head["identity"], head["seed"])
                if dates.get(key) != head["finished"]:
                    continue  # a result that cannot be read, or an older one of the same run
                curves[key] = read_curve(path, key)
            except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
                faults.append(f"skipped: {path} is not a table of epochs ({type(error).__name__}: {error})")
    return [curves[key] for key in sorted(curves)], faults


def read_curve(path: Path, key: tuple[str, str, int]) -> Curve:
    """The curve in a metrics.csv.

    Raises:
        KeyError: a column is missing.
        ValueError: a cell is no finite number, or there is no epoch.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError("no epochs")
    spent = 0.0
    hours = []
    for row in rows:
        spent += finite(row["perf/train"]) / 3600
        hours.append(spent)
    validation = [finite(row["val/top1_error"]) if row["val/top1_error"] else None for row in rows]
    return Curve(key, [finite(row["train/top1_error"]) for row in rows], validation, hours)


def finite(text: str) -> float:
    """The number in a cell.

    Raises:
        ValueError: it is none, or not finite: neither JSON nor an axis has a place for it.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def by_recipe(curves: Iterable[Curve]) -> dict[tuple[str, str], list[Curve]]:
    """Curves by recipe and identity, seeds in order."""
    groups: dict[tuple[str, str], list[Curve]] = defaultdict(list)
    for curve in sorted(curves, key=lambda curve: curve.key):
        groups[curve.key[:2]].append(curve)
    return dict(groups)


def mean_curve(curves: Sequence[Curve]) -> list[MeanPoint]:
    """The mean over runs, at the epochs that all of them validated; at most `SHOWN`, the first and last among them."""
    epochs = [
        epoch
        for epoch in range(min(len(curve.hours) for curve in curves))
        if all(curve.validation[epoch] is not None for curve in curves)
    ]
    points = []
    for epoch in thinned(epochs, SHOWN):
        errors = [curve.validation[epoch] or 0.0 for curve in curves]
        points.append(
            MeanPoint(
                epoch=epoch + 1,
                hours=statistics.fmean(curve.hours[epoch] for curve in curves),
                train=statistics.fmean(curve.train[epoch] for curve in curves),
                validation=statistics.fmean(errors),
                low=min(errors),
                high=max(errors),
            )
        )
    return points


def thinned(epochs: Sequence[int], most: int) -> list[int]:
    """At most `most` of `epochs`, evenly spread, first and last included."""
    if len(epochs) <= most:
        return list(epochs)
    return [epochs[round(place * (len(epochs) - 1) / (most - 1))] for place in range(most)]
