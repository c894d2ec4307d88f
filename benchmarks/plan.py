"""`python -m benchmarks plan RECIPE`: what a recipe costs, from images/s that were measured. Without torch.

A number that was not measured is not guessed: the line says so, and what to give instead.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.grid import read_seeds
from benchmarks.leaderboard import describe_device
from benchmarks.recipe import Recipe, RecipeError, find_recipe, load_recipe
from benchmarks.results import COMMITTED, Result, load_results
from benchmarks.runs import named_runs
from datamodules.originals import cache_root

# Numbers that an optimizer keeps for each parameter, each float32.
OPTIMIZER_STATE = {"SGD": 1, "RMSprop": 2, "Adam": 2, "AdamW": 2}
CHECKPOINTS_KEPT = 2  # the last and the one before
SLOWEST = 1e-3  # images/s, of any device there is


@dataclass(frozen=True)
class Rate:
    """Training images/s of one device, and where that is from."""

    images_per_s: float
    source: str


def plan(options: argparse.Namespace) -> int:
    """Print the plan.

    Raises:
        RecipeError: there is no such recipe, it is an ensemble, or a number in it or a rate is none.
        RunError: there is no such folder of runs.
    """
    recipe = load_recipe(find_recipe(options.recipe))
    if recipe.members:
        members = ", ".join(dict.fromkeys(member.recipe for member in recipe.members))
        raise RecipeError(f"{recipe.name} is an ensemble and trains nothing: plan its members, {members}.")
    check_numbers(recipe)
    if options.images_per_s is not None and not SLOWEST <= options.images_per_s < float("inf"):
        raise RecipeError(
            f"--images-per-s (={options.images_per_s}) must be at least {SLOWEST:g}, and finite: give the images that "
            "one device trains on in a second."
        )
    results, _ = load_results([COMMITTED, named_runs(options.runs)])
    seeds, devices = len(read_seeds(options.seeds)), options.nodes * options.gpus_per_node
    images = options.images or training_images(recipe, results)
    seen = images_seen(recipe, images)
    rates = [Rate(options.images_per_s, "as given")] if options.images_per_s else measured(recipe, results)
    print(f"{recipe.name}: {describe_training(recipe, images, seen)}")
    print(f"{seeds} seeds, {options.nodes} nodes with {options.gpus_per_node} devices each\n")
    for line in [*time_lines(seen, rates, devices, seeds), disk_line(recipe, seeds), memory_line(recipe)]:
        print(line)
    return 0


def check_numbers(recipe: Recipe) -> None:
    """The numbers of a recipe that a plan is made of must be numbers.

    Raises:
        RecipeError: naming the one that is not.
    """
    found = recipe.settings | {"published.parameters": recipe.published.parameters}
    least = {
        "data.init_args.batch_size": 1,
        "published.parameters": 1,
        "trainer.max_epochs": -1,
        "trainer.max_steps": -1,
    }
    for name, low in least.items():
        value = found.get(name)
        if not (type(value) is int and value >= low) and not (value is None and low < 0):
            raise RecipeError(f"{recipe.path}: {name} (={value}) must be a whole number of at least {low}: correct it.")


def training_images(recipe: Recipe, results: list[Result]) -> int | None:
    """Images of the training split as results of the same dataset and classes counted them."""
    for result in results:
        its, ours = result.settings, recipe.settings
        same = all(its.get(key) == ours.get(key) for key in ("data.class_path", "data.init_args.num_classes"))
        if same and not its.get("data.init_args.holdout"):
            count = (result.dataset.get("train") or {}).get("count")
            if type(count) is int and count > 0:
                return count
    return None


def images_seen(recipe: Recipe, images: int | None) -> int | None:
    """Images in all of training; None where their number is not known."""
    steps, epochs = recipe.settings.get("trainer.max_steps"), recipe.settings.get("trainer.max_epochs")
    if steps is not None and steps > 0:
        return int(steps * recipe.settings["data.init_args.batch_size"])
    return None if images is None or epochs is None or epochs < 1 else int(epochs * images)


def describe_training(recipe: Recipe, images: int | None, seen: int | None) -> str:
    """`20 epochs of 60 000 images, 128 a step`."""
    epochs = recipe.settings.get("trainer.max_epochs")
    known = "an unknown number of images (give --images)" if images is None else f"{images:,} images".replace(",", " ")
    total = "" if seen is None else f", {seen:,} in all".replace(",", " ")
    return f"{epochs} epochs of {known}, {recipe.settings['data.init_args.batch_size']} a step{total}"


def measured(recipe: Recipe, results: list[Result]) -> list[Rate]:
    """What finished runs of this recipe measured, by device; of the recipe as it stands, if there are any."""
    ours = [result for result in results if result.recipe == recipe.name and result.throughput.get("images_per_s")]
    ours = [result for result in ours if result.identity == recipe.identity] or ours
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in ours:
        groups[describe_device([result])].append(result)
    rates = []
    for device, found in groups.items():
        speeds = [result.throughput["images_per_s"] / result.hardware["devices"] for result in found]
        rates.append(Rate(statistics.median(speeds), f"measured, {len(found)} runs on {device}"))
    return rates


def time_lines(seen: int | None, rates: list[Rate], devices: int, seeds: int) -> list[str]:
    """GPU-hours and wall time for each rate."""
    if seen is None:
        return ["time      not known: give --images"]
    if not rates:
        return ["time      not measured: no finished run of this recipe; give --images-per-s, of one device"]
    lines = []
    for rate in rates:
        hours = seen / rate.images_per_s / 3600
        scaled = ", if images/s grow with the devices" if devices > 1 else ""
        lines.append(
            f"time      {hours * seeds:.3g} device-hours; {duration(hours / devices)} a seed{scaled} "
            f"({rate.images_per_s:.4g} images/s and device, {rate.source}; training alone)"
        )
    return lines


def duration(hours: float) -> str:
    """`2 d 3 h`, `4.5 h`, `3 min`, `20 s`."""
    if hours >= 48:
        return f"{int(hours // 24)} d {hours % 24:.0f} h"
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours >= 1 / 30 else f"{hours * 3600:.0f} s"


def disk_line(recipe: Recipe, seeds: int) -> str:
    """Checkpoints, computed from the parameters, and .beton files, as they are."""
    optimizer = str(recipe.settings.get("model.init_args.optimizer.class_path", "")).rsplit(".", 1)[-1]
    states = OPTIMIZER_STATE.get(optimizer)
    if states is None:
        kept = f"checkpoints not known (optimizer {optimizer or 'unnamed'})"
    else:
        size = 4 * recipe.published.parameters * (1 + states) * CHECKPOINTS_KEPT
        kept = f"{size_of(size * seeds)} of checkpoints (weights and {states} more for each, {CHECKPOINTS_KEPT} kept)"
    found = beton_bytes(recipe)
    return f"disk      {kept}; .beton files: {size_of(found) if found else 'not converted here yet'}"


def memory_line(recipe: Recipe) -> str:
    """What would keep the .beton files in memory; what the processes take was not measured."""
    found = beton_bytes(recipe)
    pages = f"{size_of(found)} a node keep the .beton files in memory" if found else "not known before conversion"
    return f"memory    {pages}; that of the processes is not measured"


def beton_bytes(recipe: Recipe) -> int:
    """Size of the .beton files of the recipe's dataset in the cache; 0 where there are none."""
    return sum(path.stat().st_size for path in Path(cache_root(None), "beton").glob(f"{recipe.dataset}-*.beton"))


def size_of(size: int) -> str:
    """`1.5 GB`, `3 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
