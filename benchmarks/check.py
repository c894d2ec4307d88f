"""`python -m benchmarks check [FILE...]`: whether result files can be true, as `benchmarks/results/` holds them.

What can be computed again is computed again: the hash of the settings, the recipe they are of, the claims and what the
errors say of them, the images of the test set, the steps of the optimizer, the images per second. A result of a recipe
that has changed since is marked, and not refused: it was true when it was measured.

This finds mistakes, and files that were put together or edited by hand without care. It cannot tell who invents a whole
run; the commit, the versions and the machine in a result are there so that it can be measured again.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from benchmarks.protocols import check_protocols
from benchmarks.published import verdict
from benchmarks.recipe import FOLDER, Recipe, RecipeError, by_content, identity, load_recipe
from benchmarks.results import COMMITTED, Result, ResultError, is_number, is_result_file, printable, read_result

TEST_IMAGES = {
    "digits": 360, "mnist": 10_000, "mnist1989": 2_007, "usps": 2_007, "cifar10": 10_000, "cifar100": 10_000,
    "imagenet": 50_000, "imagenet2010": 150_000,
}  # fmt: skip
SKEW = timedelta(minutes=10)  # by which another machine's clock may be ahead
ROUNDING = 0.01  # share by which rates and times may differ that were rounded before they were written


def check(options: argparse.Namespace) -> int:
    """`python -m benchmarks check`: a line for each file; 1 if one is refused.

    Raises:
        ResultError: there is no file to check.
    """
    paths = [Path(name) for name in options.files] or committed()
    if not paths:
        raise ResultError(f"there is no result below {COMMITTED}: name the files to check.")
    refused = 0
    for path in paths:
        try:
            result, recipe = read(path)
            faults = list(find_faults(path, result, recipe))
        except ResultError as error:
            faults = [str(error)]
        refused += bool(faults)
        for fault in faults:
            said = printable(fault)
            print(f"refused: {said if str(path) in said else f'{path}: {said}'}", file=sys.stderr)
        if not faults:
            print(f"{path}: {describe(result, recipe)}")
            for mark in find_marks(result, recipe):
                print(f"  marked: {printable(mark)}")
    print(f"{len(paths)} results, {refused} refused." if refused else f"{len(paths)} results, none refused.")
    return 1 if refused else 0


def committed() -> list[Path]:
    """Every JSON file among the committed results, whatever its name."""
    here = Path.cwd()
    paths = sorted(COMMITTED.rglob("*.json"))
    return [path.relative_to(here) if path.is_relative_to(here) else path for path in paths]


def read(path: Path) -> tuple[Result, Recipe]:
    """The result in a file, and the recipe it names.

    Raises:
        ResultError: it is not there or no whole result, or its recipe is none of the suite's.
    """
    if path.is_dir():
        raise ResultError(f"{path} is not a result file (it is a folder): name the files in it, {path}/seed-*.json.")
    if not path.exists():
        raise ResultError(f"{path} is not a result file (there is none): correct its name.")
    result = read_result(path)
    if result.recipe.startswith("custom/"):
        raise ResultError(
            f"{path}: recipe (={result.recipe}) must be one of the suite's: put its file into benchmarks/recipes/, and "
            "run it from there."
        )
    try:
        file = FOLDER / f"{result.recipe}.yaml"
        if not file.is_file() or (recipe := load_recipe(file)).name != result.recipe:
            raise RecipeError(f"there is no {file}")
        return result, recipe
    except RecipeError as error:
        raise ResultError(
            f"{path}: recipe (={result.recipe}) must be one of the suite's, but {error}: bring the recipe with the "
            "result, or correct its name."
        ) from None


def describe(result: Result, recipe: Recipe) -> str:
    """`mnist/lenet5 seed 0: 0.93 % (1crop), reproduced`."""
    said = []
    for protocol, errors in result.errors.items():
        judged = [
            f"{verdict(claim, [errors[claim.metric]])} ({claim.metric.removesuffix('_error')} {claim.value:.2f} %)"
            for claim in recipe.published.claims
            if claim.protocol == protocol and is_current(result, recipe)
        ]
        said.append(", ".join([f"{errors['top1_error']:.2f} % ({protocol})", *judged]))
    return f"{result.recipe} seed {result.seed}: {'; '.join(said)}"


def is_current(result: Result, recipe: Recipe) -> bool:
    """Whether the recipe is still the one that was run."""
    return result.identity == recipe.identity


def find_marks(result: Result, recipe: Recipe) -> Iterator[str]:
    """What has changed since the result was measured, for whoever reads it."""
    if not is_current(result, recipe):
        changed = sorted(
            key for key in {*result.settings, *recipe.settings} if result.settings.get(key) != recipe.settings.get(key)
        )
        yield (
            f"the recipe has changed since, in {', '.join(changed)}: the leaderboard says so, and neither ranks nor "
            "judges it; run it again for one that counts"
        )
    elif claims_of(result.published.get("claims", [])) != (ours := claims_of(map(vars, recipe.published.claims))):
        yield f"it has other claims than the recipe, whose own count: {'; '.join(ours) or 'none'}"


def claims_of(claims: Any) -> list[str]:
    """`top1_error 0.95 +- 0.1 under 1crop` of each claim, with `(spread 0.05)` where the source gives one."""
    return [
        f"{claim.get('metric', 'top1_error')} {claim['value']:g} +- {claim['tolerance']:g}"
        + (f" (spread {claim['spread']:g})" if claim.get("spread") is not None else "")
        + f" under {claim['protocol']}"
        for claim in claims
    ]


def find_faults(path: Path, result: Result, recipe: Recipe) -> Iterator[str]:
    """Everything that cannot be true of a result, or keeps it from being committed: the value, the rule, the remedy."""
    yield from misplaced(path, result)
    yield from wrong_settings(result, recipe)
    yield from wrong_evaluation(result, recipe)
    if not recipe.members:
        yield from wrong_training(result, recipe)
        yield from wrong_curve(path.with_suffix(".csv"), result)
    yield from wrong_origin(result)


def misplaced(path: Path, result: Result) -> Iterator[str]:
    """Files where they are not looked for."""
    folder = COMMITTED.resolve()
    wanted = folder / result.recipe / f"seed-{result.seed}.json"
    if path.resolve().is_relative_to(folder) and path.resolve() != wanted:
        yield f"the file of this recipe and seed must be {wanted}: move it there."
    elif not is_result_file(path):
        yield f"the file's name must be seed-{result.seed}.json, or leaderboards overlook it: rename it."


def wrong_settings(result: Result, recipe: Recipe) -> Iterator[str]:
    """Settings that do not have the hash, or are not those of the recipe as it stood."""
    if result.overrides:
        said = ", ".join(f"{key}={value}" for key, value in result.overrides.items())
        yield f"overrides (={said}) must be empty: make the changed settings a recipe of its own, and run that."
    if (found := identity(result.settings)) != result.identity:
        yield (
            f"identity (={result.identity}) must be the hash of the settings, {found}: nothing in a result may be "
            "edited; copy it from the run folder again."
        )
    if recipe.members:
        return
    for key, value in result.settings.items():
        if key not in result.resolved or key in result.overrides:
            continue
        if by_content({key: value})[key] != result.resolved[key]:
            yield (
                f"settings.{key} (={value}) must be what was resolved, {result.resolved[key]}: nothing in a result may "
                "be edited; copy it from the run folder again."
            )


def wrong_evaluation(result: Result, recipe: Recipe) -> Iterator[str]:
    """Errors under protocols that do not exist or are lacking, or of other images than the whole test set."""
    try:
        check_protocols(list(result.errors), networks=len(recipe.members) or 1)
    except RecipeError as error:
        yield str(error)
    name = result.dataset.get("name")
    images = TEST_IMAGES.get(str(name))
    if images is None:
        yield f"dataset.name (={name}) must be one of {', '.join(TEST_IMAGES)}: results of other images stay at home."
    said = (result.dataset.get("test") or {}).get("count")
    counts = {"dataset.test.count": said} | {f"errors.{p}.count": found["count"] for p, found in result.errors.items()}
    for where, count in counts.items():
        if images is not None and count != images:
            yield f"{where} (={count}) must be the size of {name}'s test set, {images}: evaluate every image of it."
    if is_current(result, recipe):
        lacking = {claim.protocol for claim in recipe.published.claims} - set(result.errors)
        claimed = [*map(vars, recipe.published.claims), *result.published.get("claims", [])]
        for protocol in sorted(set(result.errors) - {claim["protocol"] for claim in claimed} - {"1crop"}):
            yield f"errors has {protocol}, under which the recipe claims nothing: copy the run's own result."
        for protocol in sorted(lacking):
            yield f"errors has no {protocol}, which the recipe claims a number under: run `fit` again, which adds it."
        if result.parameters != recipe.published.parameters:
            yield (
                f"parameters (={result.parameters}) must be those of the recipe's network, "
                f"{recipe.published.parameters}: run it again with this suite's network."
            )
    if len(result.members) != len(recipe.members):
        yield f"members (={len(result.members)}) must be the recipe's {len(recipe.members)}: evaluate it again."


def wrong_training(result: Result, recipe: Recipe) -> Iterator[str]:
    """Epochs, steps, times and rates that do not fit each other or the settings."""
    lacking = [
        name
        for part, names in (("training", ("epochs", "steps")), ("seconds", ("train", "evaluation", "total")))
        for key in names
        if key not in getattr(result, part)
        for name in [f"{part}.{key}"]
    ]
    images, batch = (result.dataset.get("train") or {}).get("count"), setting(result, "data.init_args.batch_size")
    lacking += [name for name, value in (("dataset.train.count", images), ("batch_size", batch)) if not is_size(value)]
    if lacking or not isinstance(images, int) or not isinstance(batch, int):
        yield f"{', '.join(lacking)} is not there: copy the whole file from the run folder."
        return
    held = setting(result, "data.init_args.holdout")
    images -= held if is_size(held) else 0
    epochs, steps, seconds = result.training["epochs"], result.training["steps"], result.seconds
    wanted = setting(result, "trainer.max_epochs")
    if is_size(wanted) and epochs != wanted:
        yield f"training.epochs (={epochs}) must be trainer.max_epochs (={wanted}): let the run come to its end."
    if steps != epochs * (images // batch):
        yield (
            f"training.steps (={steps}) must be {epochs} epochs of {images // batch} steps, of {batch} of the {images} "
            "images each: copy the file from the run folder again."
        )
    parts = seconds["train"] + seconds["evaluation"] + seconds.get("setup", 0.0)
    if abs(parts - seconds["total"]) > ROUNDING * max(parts, 1.0):
        yield f"seconds.total (={seconds['total']}) must be the sum of its parts, {parts:.3f}: copy the file again."
    if seconds.get("data_wait", 0.0) > seconds["train"] * (1 + ROUNDING):
        yield f"seconds.data_wait (={seconds['data_wait']}) must be a part of train (={seconds['train']}): copy again."
    yield from wrong_rate(result.throughput, float(steps) * batch / seconds["train"] if seconds["train"] else math.inf)


def wrong_rate(throughput: dict[str, Any], overall: float) -> Iterator[str]:
    """Rates of epochs that do not lie around the rate of all of training, `overall` in images per second."""
    names = ("lowest", "images_per_s", "highest", "first_epoch")
    if not all(is_number(throughput.get(name)) for name in names):
        yield f"throughput must have {', '.join(names)}: copy the whole file from the run folder."
        return
    lowest, rate, highest, first = (throughput[name] for name in names)
    if not lowest <= rate <= highest:
        yield f"throughput.images_per_s (={rate}) must lie between lowest (={lowest}) and highest (={highest})."
    low, high = min(lowest, first) * (1 - ROUNDING), max(highest, first) * (1 + ROUNDING)
    if not low <= overall <= high:
        yield (
            f"images of all epochs / seconds.train (={overall:.1f} images/s) must lie between the slowest and the "
            f"fastest epoch, {low:.1f} and {high:.1f}: copy the file from the run folder again."
        )


def wrong_curve(path: Path, result: Result) -> Iterator[str]:
    """A metrics.csv beside the result that is of another run."""
    if path.name == "result.csv" or not path.is_file():
        return
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        last = {name: float(rows[-1][name]) for name in ("train/loss", "val/top1_error") if rows[-1].get(name)}
        epochs = [int(row["epoch"]) for row in rows]
    except (OSError, ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
        yield f"{path} is no metrics.csv of a run ({type(error).__name__}: {error}): copy it, or leave it out."
        return
    if len(rows) != result.training.get("epochs", 0) or epochs != list(range(len(rows))):
        yield f"{path} has {len(rows)} epochs, the result {result.training.get('epochs')}: copy that run's metrics.csv."
    for name, value in last.items():
        if name in result.training and not math.isclose(value, result.training[name], rel_tol=1e-4, abs_tol=1e-6):
            yield f"{path} ends with {name} (={value}), the result with {result.training[name]}: copy that run's."


def wrong_origin(result: Result) -> Iterator[str]:
    """Commits, dates and machines that are not what they are called."""
    commit = result.commit.get("id")
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):
        yield f"commit.id (={commit}) must be a commit's 40 hexadecimal digits: run from a clone of the repository."
    if result.commit.get("clean") is not True:
        yield f"commit.clean (={result.commit.get('clean')}) must be true: commit the code first, then run."
    try:
        finished = datetime.strptime(result.finished, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        if finished > datetime.now(timezone.utc) + SKEW:
            yield f"finished (={result.finished}) must not be in the future: set the machine's clock, and run again."
    except ValueError:
        yield f"finished (={result.finished}) must be a day there is: copy the file from the run folder again."
    if "/" in result.hardware["name"]:
        yield f"hardware.name (={result.hardware['name']}) must be a processor's or GPU's, without a path."
    if lacking := sorted({"python", "torch"} - set(result.versions)):
        yield f"versions has no {', '.join(lacking)}: copy the whole file from the run folder."


def setting(result: Result, key: str) -> Any:
    """A setting that the recipe wrote down, or its default."""
    return result.settings.get(key, result.resolved.get(key))


def is_size(value: Any) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
