"""`python -m benchmarks analyze NAME`: run an analysis of `benchmarks/phenomena/`, check its numbers, write all down.

Written to `runs/phenomena/NAME/PRESET/seed-N/`, or, for an analysis of a run, below that run's folder: numbers and
checks (JSON), the table behind the figure (CSV), the figures (PNG and SVG). The same command replaces them.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
import math
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from benchmarks import results, wandb_analysis
from benchmarks.errors import without_noise
from benchmarks.phenomena.analysis import (
    Analysis,
    AnalysisError,
    Check,
    Outcome,
    all_analyses,
    find_analysis,
    random_numbers_kept,
    seed_all,
)
from benchmarks.runs import runs_root
from benchmarks.targets import why_not_writable
from benchmarks.wandb_mode import decide
from datamodules.files import write_whole

if TYPE_CHECKING:
    from benchmarks.phenomena.finished import FinishedRun

SCHEMA = 1
USAGE = """\
usage: python -m benchmarks analyze NAME [--smoke | --preset smoke|cpu|full] [--seed N] [--run DIR] [options]
       python -m benchmarks analyze NAME --help      options of one analysis
       python -m benchmarks analyze --list           what there is, what it claims, what it takes
       python -m benchmarks analyze --write FILE     put the cards of the committed results between FILE's marks
"""


def main(arguments: list[str]) -> int:
    """Run the command. Returns 0, or 1 if a check that must hold does not.

    Raises:
        AnalysisError: an analysis or option that does not exist, or one that does not take its value.
    """
    if not arguments or arguments[0] in ("--help", "-h"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] in ("--list", "--write") and len(arguments) > (1 if arguments[0] == "--list" else 2):
        raise AnalysisError(f"{arguments[-1]} does nothing after {arguments[0]}: leave it out.")
    if arguments[0] == "--list":
        print(as_list(all_analyses()))
        return 0
    if arguments[0] == "--write":
        from benchmarks.phenomena.cards import write_cards

        write_cards(Path(arguments[1] if len(arguments) > 1 else "benchmarks/phenomena/README.md"))
        return 0
    if arguments[0].startswith("-"):
        raise AnalysisError(f"the name of an analysis must come before {arguments[0]}: `analyze --list` shows them.")
    return analyze(find_analysis(arguments[0]), arguments[1:])


def as_list(analyses: list[Analysis]) -> str:
    """Name, claim, paper and cost of each."""
    lines = [f"{one.name}\n  {one.claim}\n  {one.paper}\n  takes: {one.cost}" for one in analyses]
    return "\n".join(lines) or "there are none."


def analyze(analysis: Analysis, arguments: list[str]) -> int:
    """Run one analysis with the options in `arguments`, print its checks, save what it found."""
    from benchmarks.phenomena.figures import style

    function = analysis.module().analyze
    frame, options = parse(analysis, function, arguments)
    run = find_run(analysis, function, frame)
    folder = folder_for(analysis, frame, options, run)
    if reason := why_not_writable(folder):
        raise cannot_be_written(folder, reason)
    decision = decide(frame.wandb)
    started, code = time.perf_counter(), results.commit()
    with random_numbers_kept(), style():
        seed_all(options["seed"])
        outcome = function(**options, **({"run": run} if run is not None else {}))
        record = describe(analysis, function, options, run, outcome, time.perf_counter() - started, code)
        saved = save(folder, analysis.stem(options), record, outcome)
    print(as_table(outcome.checks))
    print(f"{analysis.stem(options)}, seed {options['seed']}, {record['seconds']:.0f} s. Files: {saved.folder}")
    if said := wandb_analysis.log(decision, saved.stem, saved.record, saved.pictures):
        print(said)
    for check in outcome.failed:
        print(f"failed: {check.name} (={check.value:.6g}) must be {check.accepted}: {check.source}", file=sys.stderr)
    return 1 if outcome.failed else 0


def parse(analysis: Analysis, function: Any, arguments: list[str]) -> tuple[Namespace, dict[str, Any]]:
    """The options of the frame (run, ckpt, recipe, runs, to, wandb), and those of the analysis.

    Raises:
        AnalysisError: as jsonargparse says it, with a remedy.
    """
    if "--smoke" in arguments:
        if any(word.split("=")[0] == "--preset" for word in arguments):
            raise AnalysisError("--smoke is --preset smoke: give only one of them.")
        arguments = ["--preset=smoke" if word == "--smoke" else word for word in arguments]
    parser = ArgumentParser(
        prog=f"python -m benchmarks analyze {analysis.name}",
        description=f"{analysis.claim} {analysis.paper}. Takes: {analysis.cost}.",
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
    )
    parser.add_argument("--runs", type=str | None, help="folder of all runs; default: runs")
    parser.add_argument("--to", type=str | None, help="folder for the files, instead of a run folder")
    parser.add_argument(
        "--wandb",
        type=Literal["auto", "online", "offline", "disabled"] | None,
        default=None,
        help="send numbers and figures to W&B: auto (default, or $WANDB_MODE) where there is a key and a network",
    )
    parser.add_argument("--smoke", action="store_true", help="--preset smoke: seconds, to see that it works")
    if "run" in inspect.signature(function).parameters:
        parser.add_argument("--run", type=str | None, help="folder seed-N of the finished run to analyse")
        parser.add_argument("--ckpt", type=str | None, help="a checkpoint instead: of a run folder, or with --recipe")
        parser.add_argument("--recipe", type=str | None, help="recipe that the checkpoint was trained with")
    names = parser.add_function_arguments(function, skip={"run"})
    try:
        found = parser.parse_args(arguments)
    except ArgumentError as error:
        raise AnalysisError(
            f"{without_noise(str(error))}\n`python -m benchmarks analyze {analysis.name} --help` lists the options."
        ) from None
    if not 0 <= found.seed < 2**32:
        raise AnalysisError(f"--seed (={found.seed}) must not be negative, and below 2^32: use 0, 1, 2, ...")
    return found, {name: found[name] for name in names}


def find_run(analysis: Analysis, function: Any, frame: Namespace) -> FinishedRun | None:
    """The run that --run or --ckpt names; None where neither is given.

    Raises:
        AnalysisError: both are given, none where the analysis needs one, or it cannot be loaded.
    """
    parameter = inspect.signature(function).parameters.get("run")
    if parameter is None:
        return None
    if frame.run and frame.ckpt:
        raise AnalysisError("--run and --ckpt both name a network: give only one of them.")
    if frame.recipe and not frame.ckpt:
        raise AnalysisError(
            f"--recipe (={frame.recipe}) says what --ckpt was trained with: add --ckpt, or leave it out."
        )
    if not frame.run and not frame.ckpt:
        if parameter.default is inspect.Parameter.empty:
            raise AnalysisError(
                f"{analysis.name} needs a trained network: --run with the folder seed-N of a finished run, or --ckpt. "
                "`python -m benchmarks fit --config mnist/lenet5 --seed_everything 0` trains one."
            )
        return None
    from benchmarks.phenomena.finished import load_checkpoint, load_run

    return load_run(frame.run) if frame.run else load_checkpoint(frame.ckpt, frame.recipe)


def folder_for(analysis: Analysis, frame: Namespace, options: dict[str, Any], run: FinishedRun | None) -> Path:
    """Where the files go."""
    if frame.to:
        return Path(frame.to)
    place = Path(analysis.stem(options)) / options["preset"] / f"seed-{options['seed']}"
    if run is not None and run.folder is not None:
        return run.folder / "phenomena" / place
    return runs_root(frame.runs) / "phenomena" / place


def describe(
    analysis: Analysis,
    function: Any,
    options: dict[str, Any],
    run: FinishedRun | None,
    outcome: Outcome,
    seconds: float,
    code: dict[str, Any],
) -> dict[str, Any]:
    """Everything that is known about the outcome, as it is written to JSON; numbers that are not finite become None."""
    return plain(
        {
            "schema": SCHEMA,
            "analysis": analysis.name,
            "variant": options[analysis.variant] if analysis.variant else None,
            "preset": options["preset"],
            "seed": options["seed"],
            "seeds": list(outcome.seeds) or [options["seed"]],
            "options": {name: without_place(value) for name, value in options.items()},
            "run": run.name if run is not None else None,
            "numbers": outcome.numbers,
            "checks": [asdict(check) | {"held": check.held} for check in outcome.checks],
            "command": command(analysis, function, options, run),
            "seconds": round(seconds, 1),
            "hardware": {
                "processor": results.processor(),
                "cores": results.cores(),
                "threads": torch.get_num_threads(),
                "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            },
            "versions": results.versions((*results.PACKAGES, "scipy", "matplotlib")),
            "commit": {"id": code["id"], "clean": code["clean"] and results.commit() == code},
            "finished": results.now(),
        }
    )


def command(analysis: Analysis, function: Any, options: dict[str, Any], run: FinishedRun | None) -> str:
    """The command that does the same again, without folders of this machine."""
    words = ["python", "-m", "benchmarks", "analyze", analysis.name]
    for name, parameter in inspect.signature(function).parameters.items():
        if name in options and options[name] != parameter.default:
            value = without_place(options[name])
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(plain(value))]
    if run is not None and run.folder is not None:
        words += ["--run", f"runs/{run.name}"]
    elif run is not None:
        words += ["--ckpt", run.checkpoint.name, "--recipe", run.recipe]
    return shlex.join(words)


def without_place(value: Any) -> Any:
    """The folder of a run as `runs/` and its name, wherever it lies on this machine; other values as they are."""
    if not isinstance(value, str) or not (Path(value) / "recipe.yaml").is_file():
        return value
    return "/".join(("runs", *Path(value).resolve().parts[-4:]))


@dataclass(frozen=True)
class Saved:
    """The files of an outcome.

    Args:
        folder: where they are.
        stem: their name: NAME.json, NAME.csv, NAME.png, NAME.svg; further figures are NAME-FIGURE.png.
        record: what the JSON file holds.
        pictures: PNG file of each figure.
    """

    folder: Path
    stem: str
    record: dict[str, Any]
    pictures: dict[str, Path]


def save(folder: Path, stem: str, record: dict[str, Any], outcome: Outcome) -> Saved:
    """Write every file, each whole or not at all; the JSON last.

    Raises:
        AnalysisError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{stem}.csv", as_csv(outcome.table))
        pictures = {}
        for index, (name, figure) in enumerate(outcome.figures.items()):
            file = stem if index == 0 else f"{stem}-{name}"
            for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
                content = io.BytesIO()
                figure.savefig(content, format=ending, metadata=metadata)
                write_whole(folder / f"{file}.{ending}", content.getvalue())
            pictures[name] = folder / f"{file}.png"
        write_whole(folder / f"{stem}.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise cannot_be_written(folder, error.strerror or str(error)) from None
    return Saved(folder, stem, record, pictures)


def cannot_be_written(folder: Path, reason: str) -> AnalysisError:
    """To be raised before the analysis runs, or after it if the folder was lost meanwhile."""
    return AnalysisError(f"{folder} cannot be written ({reason}): give another folder with --to or --runs.")


def as_table(checks: list[Check]) -> str:
    """A line for each check: PASS, FAIL, or `no` where it need not hold."""
    from tabulate import tabulate

    words = {(True, True): "PASS", (True, False): "PASS", (False, True): "FAIL", (False, False): "no"}
    rows = [
        (
            words[c.held, c.must_hold],
            c.name,
            f"{c.value:.6g}" + (f" ± {c.spread:.2g}" if c.spread else ""),
            c.accepted,
            c.source,
        )
        for c in checks
    ]
    return tabulate(rows, ("", "check", "value", "accepted", "source"), disable_numparse=True)


def as_csv(table: dict[str, Any]) -> str:
    """Columns, comma-separated, with a line of names; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    columns = [[cell(value) for value in plain(list(column))] for column in table.values()]
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def cell(value: Any) -> Any:
    """Numbers to seven digits, which is more than any figure shows."""
    return f"{value:.7g}" if isinstance(value, float) else value


def plain(value: Any) -> Any:
    """Numbers, texts, lists and dicts in place of tensors, arrays and dataclasses; None for NaN and infinity.

    Raises:
        TypeError: it holds something else.
    """
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    raise TypeError(f"{type(value).__name__} cannot be written to JSON: give numbers, texts, lists or dicts.")
