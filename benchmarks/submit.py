"""`python -m benchmarks submit RECIPE...`: check recipes, data and scripts, then queue prepare, train and report.

Whatever cannot work is refused before anything is queued. What a job does then is in `slurm/job.sh`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import fit, jobs
from benchmarks.errors import explain
from benchmarks.grid import read_seeds
from benchmarks.jobs import COUNTS, VALUES, Prepare, Resources, Submission, Task
from benchmarks.leaderboard import gather
from benchmarks.prepare import DATASETS
from benchmarks.recipe import FOLDER as RECIPES
from benchmarks.recipe import all_recipes, find_recipe, identity, recipe_name
from benchmarks.results import COMMITTED
from benchmarks.runs import Run, RunError, runs_root
from benchmarks.suite_cli import SuiteCLI, quiet_warnings, try_training
from datamodules import beton
from datamodules.base import ImageDataModule, Split

HERE = ("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1")  # while it is checked

SPLITS: tuple[Split, Split] = ("train", "test")


@dataclass(frozen=True)
class Checked:
    """A recipe that was found sound: one task for each seed, and the dataset to convert before, if any."""

    name: str
    tasks: list[Task]
    prepare: Prepare | None


def submit(options: argparse.Namespace) -> int:
    """`python -m benchmarks submit`: check everything, then queue it, or print the scripts."""
    check_settings(options.settings)
    resources = read_resources(options)
    if options.runs:
        os.environ["ILSVRC_BENCH_RUNS"] = str(Path(options.runs).resolve())
    if not options.dry_run:
        jobs.check_cluster(resources)
    folder = jobs.new_folder(None)
    jobs.check_folder(folder)
    seeds = read_seeds(options.seeds)
    found = [check(text, seeds, options.settings, resources, build=not options.all) for text in wanted(options)]
    tasks = left_to_do([task for one in found for task in one.tasks])
    if not tasks:
        print("nothing to submit: every run is finished.", file=sys.stderr)
        return 0
    prepare = {one.prepare.dataset: one.prepare for one in found if one.prepare}
    return carry_out(Submission(folder, tasks, resources, list(prepare.values()), not options.no_report), options)


def carry_out(submission: Submission, options: argparse.Namespace) -> int:
    """Print the scripts, have sbatch check them, or queue them and print the ids, one job a line."""
    if options.dry_run:
        for name, script in submission.scripts().items():
            print(f"# {name}\n{script}")
        return 0
    submission.write()
    submission.test()
    if options.test_only:
        print(f"sbatch accepts the scripts in {submission.folder}; nothing is queued.", file=sys.stderr)
        return 0
    for name, job in submission.queue().items():
        print(f"{name.removesuffix('.sbatch')}\t{job}")
    print(
        f"{len(submission.tasks)} runs submitted; scripts and logs: {submission.folder}. `python -m benchmarks status` "
        "shows them.",
        file=sys.stderr,
    )
    return 0


# What to submit -------------------------------------------------------------------------------------------------------


def read_resources(options: argparse.Namespace, extra: Sequence[str] = ()) -> Resources:
    """What the command line asks for, and where it does not say, the site.

    Raises:
        RunError: a value cannot be one of sbatch's.
    """
    given = {name: getattr(options, name.replace("-", "_")) for name in (*VALUES, *COUNTS)}
    asked = {**jobs.adopt_site(), **{name: value for name, value in given.items() if value is not None}}
    return Resources(jobs.check_resources(asked), options.array_limit, tuple(extra))


def check_settings(settings: Sequence[str]) -> None:
    """What follows the recipes must be settings that a job does not set itself.

    Raises:
        RunError: naming the word.
    """
    for word in settings:
        key = word.partition("=")[0]
        if key in ("--trainer.devices", "--trainer.num_nodes", "--data.workers"):
            raise RunError(
                f"{key} cannot be given: a job takes it from its nodes and tasks. Use --nodes, --gpus-per-node or "
                "--ntasks-per-node, and --cpus-per-task."
            )
    words = [word for word in settings if word.startswith("-")] or settings[:1]
    ours = ("--trainer.", "--data.", "--model.", "--checkpoint_minutes", "--checkpoint_behind", "--wandb", "--pictures")
    for word in words:
        if not word.startswith(ours):
            raise RunError(
                f"{word} is no option of submit, and no setting such as --data.loader torch: "
                "`python -m benchmarks submit --help` lists the options."
            )


def wanted(options: argparse.Namespace) -> list[str]:
    """The recipes that are named, or all with a claim that is not reproduced yet.

    Raises:
        RunError: none or both.
    """
    if bool(options.recipes) == options.all:
        raise RunError("submit needs recipes, mnist/lenet5 for example, or --all instead of them.")
    return not_reproduced() if options.all else list(dict.fromkeys(options.recipes))


def not_reproduced() -> list[str]:
    """Recipes with a claim of which no finished runs say that it is met; ensembles are no jobs of their own."""
    rows = gather([COMMITTED, runs_root()])
    met = {
        (row.recipe, row.protocol, row.metric)
        for row in rows
        if not row.changed and row.verdict in ("reproduced", "better than published")
    }
    return [
        recipe.name
        for recipe in all_recipes()
        if not recipe.members
        and any((recipe.name, claim.protocol, claim.metric) not in met for claim in recipe.published.claims)
    ]


def left_to_do(tasks: list[Task]) -> list[Task]:
    """The tasks whose runs are not finished; the others are named."""
    done = [task for task in tasks if Run(task.folder).result.exists()]
    for task in done:
        print(f"finished already: {task.recipe} seed {task.seed}, {task.folder}", file=sys.stderr)
    return [task for task in tasks if task not in done]


# Checks ---------------------------------------------------------------------------------------------------------------


def check(text: str, seeds: list[int], settings: list[str], resources: Resources, build: bool) -> Checked:
    """Parse a recipe as a job will, build it, and look for its data.

    Args:
        build: make the network and try it; where `--all` takes the suite's recipes as they are, tests have done so.

    Raises:
        RunError: naming the recipe and what is wrong.
    """
    jobs.check_words([text, *settings])
    path = find_recipe(text)
    name = recipe_name(path)
    config = name if path.resolve().is_relative_to(RECIPES) else str(path.resolve())
    try:
        with outside_jobs(), quiet_warnings():
            cli = SuiteCLI("fit", ["--config", config, "--seed_everything", str(seeds[0]), *settings, *HERE])
            check_ranks(cli, resources)
            fit.check_options(cli)
            fit.protocols_of(cli.recipe.published)
            data = build_whole(cli, resources) if build else data_of(cli)
            files, prepare = check_data(data)
    except Exception as error:
        message, _ = explain(error)
        if message is None:
            raise
        raise RunError(f"{name}: {message}") from error
    settings_hash, epochs = identity(cli.settings), cli.resolved.get("trainer.max_epochs")
    tasks = [
        Task(
            config, seed, list(settings), Run.of(runs_root().resolve(), name, settings_hash, seed).folder, epochs, files
        )
        for seed in seeds
    ]
    return Checked(name, tasks, prepare)


@contextmanager
def outside_jobs() -> Iterator[None]:
    """Without SLURM's variables: this process may stand in a job's shell, and is none of the ranks that it checks."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SLURM_")}
    try:
        yield
    finally:
        os.environ.update(kept)


def check_ranks(cli: SuiteCLI, resources: Resources) -> None:
    """The batch of a step must divide among all ranks.

    Raises:
        RunError: it does not.
    """
    batch = int(cli.resolved["data.init_args.batch_size"])
    accumulated = int(cli.resolved.get("trainer.accumulate_grad_batches") or 1)
    parts = resources.ranks * accumulated
    if batch % parts:
        fitting = [ranks for ranks in range(1, resources.ranks) if batch % (ranks * accumulated) == 0]
        raise RunError(
            f"data.init_args.batch_size (={batch}) must be divisible by nodes x tasks per node x "
            f"accumulate_grad_batches (={parts}): it is the number of images per optimizer step over all of them. "
            f"Use {' or '.join(map(str, fitting[-3:])) or 'fewer'} ranks, or another batch size, which is another "
            "recipe."
        )


def build_whole(cli: SuiteCLI, resources: Resources) -> ImageDataModule:
    """Make network and data; try the network with as many images as each rank will have."""
    cli.build([])
    accumulated = int(cli.resolved.get("trainer.accumulate_grad_batches") or 1)
    try_training(cli.model, cli.datamodule, resources.ranks * accumulated)
    return cli.datamodule


def data_of(cli: SuiteCLI) -> ImageDataModule:
    """The data alone, as the recipe describes it."""
    init: Any = cli.parser.instantiate_classes(cli.config)
    return init["data"]


def check_data(data: ImageDataModule) -> tuple[list[Path], Prepare | None]:
    """The .beton files that a run will read, and the conversion that must come before; the originals must be there.

    Raises:
        DataError: something is missing or damaged.
    """
    files = [data.beton_path(split) for split in SPLITS if data.reads_beton(split)]
    missing = False
    for split in SPLITS:
        path = data.beton_path(split)
        if data.reads_beton(split) and path.exists() and beton.manifest_path(path).exists():
            continue
        data.originals(split)
        missing = missing or data.reads_beton(split)
    words = prepare_words(data) if missing else None
    return files, Prepare(data.name, words) if words else None


def prepare_words(data: ImageDataModule) -> list[str] | None:
    """Arguments of `prepare` that convert exactly this dataset; None where there are none, and the run does it."""
    if data.name not in DATASETS:
        return None
    words: dict[str, Any] = {"root": data.root, "cache": data.cache}
    words |= {"num_classes": data.num_classes} if data.variant() else {}
    plain = DATASETS[data.name](batch_size=1, **words)
    if any(plain.beton_path(split) != data.beton_path(split) for split in SPLITS):
        return None
    given = [(f"--{key.replace('_', '-')}", str(value)) for key, value in words.items() if value is not None]
    return [data.name, *(word for pair in given for word in pair)]
