"""`python -m benchmarks throughput`: of recipes, or of loaders."""

from __future__ import annotations

import argparse

from benchmarks.runs import RunError


def throughput(options: argparse.Namespace) -> int:
    """Measure what the command line names.

    Raises:
        RunError: it names recipes and loaders at once, neither, or settings without a recipe.
    """
    if options.recipes and (options.loaders or options.write):
        raise RunError(f"{options.recipes[0]} and --loaders or --write cannot be given at once: use one command each.")
    if options.settings and not options.recipes:
        raise RunError(f"{options.settings[0]} needs a recipe: `python -m benchmarks throughput mnist/lenet5`, as one.")
    if options.recipes:
        from benchmarks.step_throughput import step_throughput

        return step_throughput(options)
    from benchmarks.loader_throughput import loader_throughput

    return loader_throughput(options)
