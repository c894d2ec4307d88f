"""`python -m benchmarks ablate GRID`: train every cell of a grid with every seed, and set the outcome beside the paper.

Cells are checked before anything trains. What is done is not done again, a run whose loss does not stay finite is an
outcome and not the end, and the same command goes on after an interrupt.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import fit, jobs
from benchmarks.callbacks import TrainingDivergedError
from benchmarks.cli import add_resources
from benchmarks.demo import ONE_DEVICE
from benchmarks.errors import explain
from benchmarks.grid import Cell, Grid, GridError, find_grid, grid_paths, load_grid, read_seeds
from benchmarks.grid_table import DIVERGED, FORMATS, NOT_REACHED, TO_DO, Outcome, build_report
from benchmarks.recipe import FOLDER as RECIPES
from benchmarks.recipe import find_recipe, identity, is_hardware, recipe_name
from benchmarks.results import COMMITTED, load_results
from benchmarks.runs import Run, RunError, runs_root
from benchmarks.submit import check_data, check_ranks, data_of, read_resources
from benchmarks.suite_cli import SuiteCLI, quiet_warnings
from benchmarks.tables import read_rows


@dataclass(frozen=True)
class Variant:
    """A cell that was found sound: what `fit` is given, and where its runs lie.

    Args:
        cell: the cell.
        recipe: the recipe's name.
        identity: hash of its settings, with those of the cell and of the command line.
        config: what `--config` is given: the recipe's name, or a file outside the suite.
        settings: the settings of the cell and of the command line, as arguments of `fit`.
        parsed: all of it parsed, with one device unless the settings say otherwise.
    """

    cell: Cell
    recipe: str
    identity: str
    config: str
    settings: list[str]
    parsed: SuiteCLI

    def run(self, root: Path, seed: int) -> Run:
        """The run with this seed."""
        return Run.of(root, self.recipe, self.identity, seed)

    def fit(self, seed: int, *defaults: str) -> list[str]:
        """Arguments of `fit` for this seed; the settings win over `defaults`."""
        return ["--config", self.config, "--seed_everything", str(seed), *defaults, *self.settings]


def ablate(options: argparse.Namespace) -> int:
    """`python -m benchmarks ablate`: plan, train, table; or only what the options ask for."""
    check_options(options)
    if options.grid is None:
        print(list_grids())
        return 0
    grid = load_grid(find_grid(options.grid))
    if options.seeds:
        grid = replace(grid, seeds=read_seeds(options.seeds))
    root = runs_root(options.runs)
    variants = check_cells(grid, options.settings)
    if not options.table:
        carry_out(options, grid, variants, root)
    if not options.dry_run and not options.submit:
        found = gather(grid, variants, root)
        print(FORMATS[options.format](build_report(grid, found, changed_settings(options.settings))))
    return 0


def carry_out(options: argparse.Namespace, grid: Grid, variants: list[Variant], root: Path) -> None:
    """Say the plan, then train or submit what is missing, or print the commands that would."""
    found = gather(grid, variants, root)
    waiting = to_do(variants, found, options.again)
    on_screen = options.format == "table" and not options.dry_run  # else standard output is for other programs
    with redirect_stdout(sys.stdout if on_screen else sys.stderr):
        print(describe_plan(grid, variants, found))
        if options.submit:
            submit(waiting, root, options.sbatch)
        elif not options.dry_run:
            train(waiting, root)
    if options.dry_run:
        runs = ["--runs", options.runs] if options.runs else []
        for variant, seed in waiting:
            print(command_line([*variant.fit(seed), *runs, *anew(variant.run(root, seed))]))


# Before anything trains


def check_options(options: argparse.Namespace) -> None:
    """What else is on the line must be settings of trainer, data or model, so that no misspelt option starts a study.

    Raises:
        GridError: naming the word.
    """
    if options.sbatch and not options.submit:
        raise GridError(f"--sbatch (={options.sbatch}) belongs to --submit: add it.")
    try:
        shlex.split(options.sbatch)
    except ValueError as error:
        raise GridError(f"--sbatch (={options.sbatch}) must be options as in a shell ({error}): correct it.") from None
    settings = options.settings
    words = [word for word in settings if word.startswith("-")] or settings[:1]
    for word in words:
        if not word.startswith(("--trainer.", "--data.", "--model.")):
            close = difflib.get_close_matches(word, OPTIONS, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else "`python -m benchmarks ablate --help` lists the options."
            raise GridError(f"{word} is no option of ablate, and no setting such as --data.loader torch: {hint}")


OPTIONS = ("--dry-run", "--table", "--submit", "--sbatch", "--format", "--seeds", "--runs", "--again")


def changed_settings(settings: list[str]) -> str:
    """Those of the settings after the grid that are not hardware, as text: with them it is another study."""
    changed: list[str] = []
    hardware = False
    for word in settings:
        if word.startswith("--"):
            key = word.lstrip("-").partition("=")[0]
            hardware = is_hardware(key) or is_hardware(key.replace("data.", "data.init_args.", 1))
        if not hardware:
            changed.append(word)
    return shlex.join(changed)


def check_cells(grid: Grid, settings: list[str]) -> list[Variant]:
    """Parse every cell against its recipe, once for all seeds.

    Raises:
        GridError: naming the cell that does not parse, lacks the protocol, or is the same run as another.
    """
    variants: dict[str, Variant] = {}
    for cell in grid.cells:
        try:
            variant = parse_cell(grid, cell, settings)
        except Exception as error:
            message, _ = explain(error)
            if message is None:
                raise
            raise GridError(f"{grid.name}, cell {cell.name}: {message}") from error
        if same := variants.get(variant.identity):
            raise GridError(
                f"{grid.name}: the cells {same.cell.name} and {cell.name} are the same run, {variant.recipe} with the "
                "same settings: change or remove one."
            )
        variants[variant.identity] = variant
    return list(variants.values())


def parse_cell(grid: Grid, cell: Cell, settings: list[str]) -> Variant:
    """The variant that `fit` would train for this cell.

    Raises:
        GridError: its recipe is not evaluated under the grid's protocol.
    """
    path = find_recipe(cell.recipe)
    config = recipe_name(path) if path.resolve().is_relative_to(RECIPES) else str(path.resolve())
    cli = SuiteCLI("fit", ["--config", config, "--seed_everything", "0", *ONE_DEVICE, *cell.arguments, *settings])
    protocols = fit.protocols_of(cli.recipe.published)
    if grid.measure == "error" and grid.protocol not in protocols:
        raise GridError(
            f"protocol (={grid.protocol}) is not one of those that {cli.recipe.name} is evaluated under, "
            f"{', '.join(protocols)}: correct the grid, or add a claim to the recipe."
        )
    as_it_stands = not cell.settings and not changed_settings(settings)  # then it need not be compared with itself
    found = cli.recipe.identity if as_it_stands else identity(cli.settings)
    return Variant(cell, cli.recipe.name, found, config, [*cell.arguments, *settings], cli)


def check_builds(variants: list[Variant]) -> None:
    """Build every network once: what its constructor refuses should not wait until the cells before it are trained.

    Raises:
        GridError: naming the cell.
        RunError: it would train on several devices, each of which would start the whole study again.
    """
    for variant in variants:
        try:
            with quiet_warnings():
                variant.parsed.build([])
        except Exception as error:
            message, _ = explain(error)
            if message is None:
                raise
            raise GridError(f"cell {variant.cell.name}: {message}") from error
        devices = variant.parsed.trainer.world_size
        if devices > 1:
            raise RunError(
                f"ablate trains on one device, not {devices}: leave out --trainer.devices and "
                "--trainer.num_nodes, or start the runs that --dry-run prints, or --submit."
            )


# What is there


def gather(grid: Grid, variants: list[Variant], root: Path) -> dict[str, list[Outcome]]:
    """The outcomes of every cell, by its name, in the order of the seeds."""
    return {variant.cell.name: outcomes(grid, variant, root) for variant in variants}


def outcomes(grid: Grid, variant: Variant, root: Path) -> list[Outcome]:
    """What came of a cell with each seed, committed results included."""
    if grid.measure == "epochs_to":
        return [epochs_to(variant.run(root, seed), seed, grid.train_error) for seed in grid.seeds]
    found, faults = load_results([COMMITTED / variant.recipe, root / variant.recipe / variant.identity])
    for fault in faults:
        print(fault, file=sys.stderr)
    errors = {
        result.seed: result.errors[grid.protocol][grid.metric]
        for result in found
        if result.identity == variant.identity and grid.protocol in result.errors
    }
    return [
        Outcome(seed, errors[seed]) if seed in errors else lacking(variant.run(root, seed), seed) for seed in grid.seeds
    ]


def epochs_to(run: Run, seed: int, train_error: float) -> Outcome:
    """The first epoch of a finished run, counted from 1, with at most that training error in percent."""
    if not run.result.exists() or not run.metrics.exists():  # committed results come without metrics.csv
        return lacking(run, seed)
    rows = read_rows(run.metrics)
    reached = [int(row["epoch"]) + 1 for row in rows if float(row["train/top1_error"]) <= train_error]
    return Outcome(seed, float(reached[0])) if reached else Outcome(seed, None, NOT_REACHED)


def lacking(run: Run, seed: int) -> Outcome:
    """The outcome of a run without a result."""
    return Outcome(seed, None, DIVERGED if run.diverged.exists() else TO_DO)


def to_do(variants: list[Variant], found: dict[str, list[Outcome]], again: bool) -> list[tuple[Variant, int]]:
    """The runs to train: those that were not, and, `again`, those that did not train."""
    wanted = (TO_DO, DIVERGED) if again else (TO_DO,)
    return [
        (variant, outcome.seed)
        for variant in variants
        for outcome in found[variant.cell.name]
        if outcome.lacking in wanted
    ]


def describe_plan(grid: Grid, variants: list[Variant], found: dict[str, list[Outcome]]) -> str:
    """The cells, and for each seed of each whether it is done."""
    from tabulate import tabulate

    def seeds(variant: Variant, *kinds: str) -> str:
        return " ".join(str(o.seed) for o in found[variant.cell.name] if o.lacking in kinds) or "–"

    rows = []
    for variant in variants:
        settings = shlex.join([variant.recipe, *variant.cell.arguments])
        states = [seeds(variant, "", NOT_REACHED), seeds(variant, DIVERGED), seeds(variant, TO_DO)]
        rows.append([variant.cell.name, settings, *states])
    left = len(to_do(variants, found, again=False))
    head = f"{len(variants)} cells, {len(grid.seeds)} seeds each: {len(variants) * len(grid.seeds)} runs, {left} to do."
    table = tabulate(rows, ("cell", "recipe and settings", "done", DIVERGED, TO_DO), disable_numparse=True)
    return f"{grid.name}: {grid.question}\n{head}\n\n{table}\n"


# Training


def anew(run: Run) -> list[str]:
    """The argument of `fit` for a run that diverged: its last checkpoint would only lead there again."""
    return ["--again"] if run.diverged.exists() else []


def train(waiting: list[tuple[Variant, int]], root: Path) -> None:
    """Train the runs one after the other in this process; one that diverges is named, and the others go on."""
    check_builds(list({variant.identity: variant for variant, _ in waiting}.values()))
    for number, (variant, seed) in enumerate(waiting, start=1):
        print(f"run {number} of {len(waiting)}: {variant.cell.name}, seed {seed}", flush=True)
        extra = ["--runs", str(root), *anew(variant.run(root, seed))]
        try:
            fit.main("fit", [*variant.fit(seed, *ONE_DEVICE), *extra])
        except TrainingDivergedError as error:
            print(f"did not train: {error}", flush=True)


def command_line(arguments: list[str]) -> str:
    """The command that trains one run, for a shell."""
    return shlex.join(["python", "-m", "benchmarks", "fit", *arguments])


def submit(waiting: list[tuple[Variant, int]], root: Path, sbatch: str) -> None:
    """Submit all runs as one array of jobs, after one that converts the data where that is not done.

    Those that diverged start anew: their folders are set aside now, since a job that comes back must go on.

    Raises:
        RunError: there is no sbatch, it refuses the jobs, or they cannot work.
    """
    if not waiting:
        return
    resources = read_sbatch(sbatch)
    os.environ["ILSVRC_BENCH_RUNS"] = str(root.resolve())
    jobs.check_cluster(resources)
    folder = jobs.new_folder(str(root))
    jobs.check_folder(folder)
    prepare, files = {}, {}
    for variant in {variant.identity: variant for variant, _ in waiting}.values():
        check_ranks(variant.parsed, resources)
        files[variant.identity], needed = check_data(data_of(variant.parsed))
        if needed:
            prepare[needed.dataset] = needed
    tasks = []
    for variant, seed in waiting:
        jobs.check_words(variant.settings)
        run = variant.run(root.resolve(), seed)
        epochs = variant.parsed.resolved.get("trainer.max_epochs")
        beton = files[variant.identity]
        tasks.append(jobs.Task(variant.config, seed, variant.settings, run.folder, epochs, beton))
    submission = jobs.Submission(folder, tasks, resources, list(prepare.values()), report=False)
    submission.write()
    submission.test()
    for variant, seed in waiting:
        if variant.run(root, seed).diverged.exists():
            variant.run(root, seed).set_aside()
    ids = submission.queue()
    for number, (variant, seed) in zip(jobs.task_numbers(tasks), waiting, strict=True):
        print(f"{variant.cell.name}, seed {seed}: job {ids['train.sbatch']}{number}")
    print(f"scripts and logs: {folder}. `python -m benchmarks status` shows the runs.", flush=True)


def read_sbatch(text: str) -> jobs.Resources:
    """What `--sbatch` asks for: the options that the suite knows are checked, others handed on."""
    parser = argparse.ArgumentParser(prog="--sbatch", usage=argparse.SUPPRESS, allow_abbrev=False, add_help=False)
    add_resources(parser)
    options, extra = parser.parse_known_args(shlex.split(text))
    return read_resources(options, extra)


def list_grids() -> str:
    """Every grid of the suite with its question."""
    from tabulate import tabulate

    grids = [load_grid(path) for path in grid_paths()]
    rows = [[grid.name, str(len(grid.cells)), str(len(grid.seeds)), grid.question] for grid in grids]
    table = tabulate(rows, ("grid", "cells", "seeds", "question"), disable_numparse=True)
    return f"{table}\n\nNext, in a minute or two on a laptop: python -m benchmarks ablate digits/norm"
