"""`python -m benchmarks throughput`: of recipes, or of loaders."""

from __future__ import annotations

import argparse

from benchmarks.runs import RunError
from benchmarks.targets import PICTURES, check_target

# What belongs to one mode alone, with what the other has instead.
OF_RECIPES = {"steps": "use --rounds", "search_batch": "leave it out"}
OF_LOADERS = {
    "contestants": "leave it out, or give --data.loader with one loader",
    "rounds": "use --steps",
    "images": "use --steps",
    "batch_size": "use --data.batch_size {}",
    "workers": "use --data.workers {}",
    "photos": "leave it out",
    "root": "use --data.root {}",
    "quick": "use --steps 5",
}


def throughput(options: argparse.Namespace) -> int:
    """Measure what the command line names.

    Raises:
        RunError: it names recipes and loaders at once, neither, settings without a recipe, or options of the other
            mode; or what is measured could not be written.
    """
    if options.recipes and (options.loaders or options.write):
        raise RunError(f"{options.recipes[0]} and --loaders or --write cannot be given at once: use one command each.")
    if options.settings and not options.recipes:
        raise RunError(f"{options.settings[0]} needs a recipe: `python -m benchmarks throughput mnist/lenet5`, as one.")
    refuse_options_of_others(options)
    check_target("--json", options.json)
    check_target("--plot", options.plot, PICTURES)
    if options.recipes:
        from benchmarks.step_throughput import step_throughput

        return step_throughput(options)
    from benchmarks.loader_throughput import loader_throughput

    return loader_throughput(options)


def refuse_options_of_others(options: argparse.Namespace) -> None:
    """Refuse an option that the mode would ignore, where it is not its default.

    Raises:
        RunError: naming it and what the mode has instead.
    """
    from benchmarks.cli import parse

    defaults = vars(parse(["throughput"]))
    if options.write:
        mode, others = "--write", dict.fromkeys(("loaders", *OF_RECIPES, *OF_LOADERS, "json", "plot"), "leave it out")
    elif options.recipes:
        mode, others = "recipes", OF_LOADERS
    elif options.loaders:
        mode, others = "--loaders", OF_RECIPES
    else:
        return
    for name, remedy in others.items():
        value = getattr(options, name)
        if value != defaults[name]:
            flag = "--" + name.replace("_", "-")
            shown = "" if value is True else f" (={' '.join(value) if isinstance(value, list) else value})"
            raise RunError(f"{flag}{shown} does nothing with {mode}: {remedy.format(value)}.")
