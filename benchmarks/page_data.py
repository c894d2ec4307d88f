"""What the page shows, as typed rows: every number and every statement about numbers, and nothing of how it looks."""

from __future__ import annotations

import os
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.curves import Curve, MeanPoint, by_recipe, mean_curve, read_curves
from benchmarks.grid import Cell, Grid, grid_paths, load_grid
from benchmarks.grid_table import DIVERGED, NOT_REACHED, TO_DO, Outcome, Report, build_report
from benchmarks.leaderboard import Row, build_rows, confidence, proven_better
from benchmarks.macs import UncountableError, macs
from benchmarks.published import Claim, verdict
from benchmarks.recipe import Recipe, all_recipes, identity
from benchmarks.results import Result, load_results

ERAS = ((0, "before 2012"), (2012, "2012 to 2014"), (2015, "2015 to 2017"), (2018, "since 2018"))


@dataclass(frozen=True)
class Entry:
    """One line of the table: a recipe under one protocol and metric, over its seeds.

    Args:
        row: what the leaderboard says of it.
        errors: of each seed, in percent.
        network: the kind of network, as one would say it: LeNet-5, plain, SE-ResNet.
        family: a wider kind, few enough for colours.
        year: of the source; None where it does not say.
        era: a span of years with `year` in it; empty where there is none.
        macs: multiply-accumulates for one image; None where no network can be built from the settings.
        hours: of a run from start to end, median over seeds.
        epochs: of training; None for an ensemble.
        wandb: seed and address of each run that W&B has.
        paper: the source.
        url: where it can be read.
    """

    row: Row
    errors: list[float]
    network: str
    family: str
    year: int | None
    era: str
    macs: int | None
    hours: float | None
    epochs: int | None
    wandb: list[tuple[str, str]]
    paper: str
    url: str

    @property
    def key(self) -> tuple[str, str]:
        """The runs it is the mean of: recipe and identity."""
        return self.row.recipe, self.row.identity

    @property
    def name(self) -> str:
        """The recipe, with what was changed."""
        return self.row.recipe + (f" ({self.row.changed})" if self.row.changed else "")

    @property
    def measure(self) -> str:
        """What the error is: `1crop, top-1`. Errors of two measures are never compared."""
        return f"{self.row.protocol}, {'top-5' if self.row.metric == 'top5_error' else 'top-1'}"


@dataclass(frozen=True)
class Point:
    """A row in a plot of error against a cost, or against what is the less of it the better, drawn at `x`.

    `low` and `high` are the 95 % confidence interval; None for one seed.
    """

    name: str
    network: str
    family: str
    view: str
    x: float
    error: float
    low: float | None
    high: float | None
    seeds: int
    front: bool


@dataclass(frozen=True)
class Line:
    """A mean learning curve, on one kind of hardware.

    Args:
        target: the published 1crop top-1 error with its tolerance for a single run; None where there is none.
        reached: hours of training until the validation error was there, of each seed that got there.
    """

    name: str
    family: str
    device: str
    seeds: int
    points: list[MeanPoint]
    target: float | None
    reached: list[float]


@dataclass(frozen=True)
class ClaimRow:
    """A published number and what our runs say of it.

    Args:
        tolerance: how far the mean over so many seeds may be, see `benchmarks.published.Claim.allowed`.
        spread: of single runs in the source; None where it gives none.
        kind: the verdict without its number: a key of `VERDICTS`.
    """

    dataset: str
    recipe: str
    measure: str
    published: float
    where: str
    tolerance: float
    spread: float | None
    ours: float | None
    interval: float | None
    seeds: int
    verdict: str
    kind: str


VERDICTS = ("reproduced", "better than published", "short", "other protocol", "not run")


@dataclass(frozen=True)
class Winner:
    """The winner of ILSVRC's classification task in a year: top-5 error in percent on the test set."""

    year: int
    name: str
    error: float
    note: str


# Russakovsky et al. 2015, Table 5 and section 6.4; 2016 and 2017: the challenge's own results pages, as the SENet paper
# repeats them (2.251 %). The entries are what the teams submitted: mostly ensembles, under protocols of their own.
WINNERS = (
    Winner(2010, "NEC-UIUC", 28.2, "no deep network"),
    Winner(2011, "XRCE", 25.8, "no deep network"),
    Winner(2012, "AlexNet", 16.4, "team SuperVision, ensemble of 5; 15.3 with more training images"),
    Winner(2013, "Clarifai", 11.7, "Zeiler, ensemble; 11.2 with more training images"),
    Winner(2014, "GoogLeNet", 6.7, "ensemble of 7; second: VGG, 7.3"),
    Winner(2015, "ResNet", 3.57, "ensemble of 6"),
    Winner(2016, "Trimps", 2.99, "team Trimps-Soushen, ensemble"),
    Winner(2017, "SENet", 2.25, "ensemble"),
)
HUMAN = 5.1  # one trained annotator, Russakovsky et al. 2015, section 6.4

# Recipes of networks that took part, by the beginning of their names, the longest that fits: year of the challenge.
TOOK_PART = {
    "alexnet": 2012, "zfnet": 2013, "vgg": 2014, "googlenet": 2014, "resnet": 2015, "resnext": 2016, "se_": 2017,
    "senet": 2017,
}  # fmt: skip


@dataclass(frozen=True)
class Reproduction:
    """A result of ours in the chart of the challenge's winners: top-5 error on the validation set."""

    name: str
    year: int
    view: str
    error: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Source:
    """A recipe as the page keeps it: its text, or the settings of one that is not here."""

    name: str
    text: str
    departures: list[str]


@dataclass(frozen=True)
class Content:
    """All that the page shows."""

    entries: list[Entry]
    claims: list[ClaimRow]
    curves: dict[str, list[Line]]
    ablations: list[Report]
    idle_grids: list[str]
    reproductions: list[Reproduction]
    sources: dict[tuple[str, str], Source]
    faults: list[str]
    runs: int
    newest: str
    datasets: list[str] = field(default_factory=list)

    def of(self, dataset: str) -> list[Entry]:
        """The entries of a dataset."""
        return [entry for entry in self.entries if entry.row.dataset == dataset]


def gather(folders: Sequence[Path], keep: Callable[[Row], bool] = lambda row: True) -> Content:
    """Everything about the results below `folders` of which `keep` wants the row; what is not whole is in `faults`."""
    found, faults = load_results(folders)
    curves, more = read_curves(folders, found)
    recipes = list(all_recipes())
    rows = build_rows(found, recipes)
    entries = build_entries([row for row in rows if keep(row)], found, recipes)
    keys = {entry.key for entry in entries}
    shown = [result for result in found if result.key[:2] in keys]
    ablations, idle = build_ablations(shown, curves, recipes, folders)
    return Content(
        entries=entries,
        claims=build_claims(rows, recipes),
        curves=build_lines(entries, curves, found),
        ablations=ablations,
        idle_grids=idle,
        reproductions=build_reproductions(entries, shown),
        sources=build_sources(shown, recipes),
        faults=[*faults, *more],
        runs=len(shown),
        newest=max((result.finished for result in shown), default=""),
        datasets=sorted({entry.row.dataset for entry in entries}),
    )


# The table -----------------------------------------------------------------------------------------------------------


def build_entries(rows: Iterable[Row], found: Iterable[Result], recipes: Sequence[Recipe]) -> list[Entry]:
    """The rows with what else is known of their runs."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in found:
        groups[result.recipe, result.identity].append(result)
    counted = {key: count(results[0], recipes) for key, results in groups.items()}
    return [build_entry(row, groups[row.recipe, row.identity], counted[row.recipe, row.identity]) for row in rows]


def build_entry(row: Row, results: Sequence[Result], macs: int | None) -> Entry:
    """The row of runs with these results."""
    ran = [result for result in results if row.protocol in result.errors]
    first = ran[0]
    paper = str(first.published.get("paper", ""))
    year = re.search(r"\b(19|20)\d\d\b", paper)
    network, family = kind_of(first.settings, row.recipe)
    hours = [result.seconds["total"] / 3600 for result in ran if "total" in result.seconds]
    epochs = first.training.get("epochs")
    return Entry(
        row=row,
        errors=[result.errors[row.protocol][row.metric] for result in ran],
        network=network,
        family=family,
        year=int(year[0]) if year else None,
        era=era_of(int(year[0])) if year else "",
        macs=macs,
        hours=statistics.median(hours) if hours else None,
        epochs=None if epochs is None else int(epochs),
        wandb=[(f"seed {result.seed}", url) for result in ran if (url := wandb_url(result))],
        paper=paper,
        url=safe_url(str(first.published.get("url", ""))),
    )


def era_of(year: int) -> str:
    """The span of years that `year` lies in."""
    return [name for start, name in ERAS if year >= start][-1]


def safe_url(text: str) -> str:
    """The address, if it is one of the web: a result file from elsewhere must not make a link run a script."""
    return text if re.match(r"https?://[^\s<>\"']+$", text) else ""


def wandb_url(result: Result) -> str:
    """The address of a result's W&B run; empty where entity or project are neither in its id nor in its settings."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+/[\w.-]+", str(result.wandb_id)):
        team, place, name = str(result.wandb_id).split("/")
        return f"{wandb_address()}/{team}/{place}/runs/{name}"
    said = {key.rpartition(".")[2]: value for key, value in result.resolved.items() if "WandbLogger" in str(value)}
    said |= {key.rpartition(".")[2]: v for key, v in result.resolved.items() if key.startswith("trainer.logger.")}
    entity, project = said.get("entity"), said.get("project")
    words = (entity, project, result.wandb_id)
    if not all(isinstance(word, str) and re.fullmatch(r"[\w.-]+", word) for word in words):
        return ""
    return f"{wandb_address()}/{entity}/{project}/runs/{result.wandb_id}"


def wandb_address() -> str:
    """Where W&B shows runs: at `$WANDB_BASE_URL` if that names a server of one's own."""
    address = safe_url(os.environ.get("WANDB_BASE_URL", "").rstrip("/"))
    return "https://wandb.ai" if address in ("", "https://api.wandb.ai") else address


FAMILIES = {
    "linear": "linear and MLP", "mlp": "linear and MLP", "lenet": "LeNet", "lenet1989": "LeNet",
    "alexnet": "AlexNet and kin", "zfnet": "AlexNet and kin", "cuda_convnet": "AlexNet and kin", "vgg": "VGG and kin",
    "nin": "VGG and kin", "prelu_net": "VGG and kin", "inception": "Inception", "resnet": "residual",
    "preresnet": "residual", "highway": "residual",
}  # fmt: skip
NETWORKS = {
    "LeNet1": "LeNet-1", "LeNet4": "LeNet-4", "LeNet5": "LeNet-5", "LeNet1989": "LeNet 1989", "AlexNetOWT": "AlexNet",
    "BNInception": "BN-Inception", "HighwayNet": "highway", "Linear": "linear", "CudaConvNet": "cuda-convnet",
    "PReLUNet": "PReLU-net", "ZFNet": "ZFNet", "PreResNet": "pre-activation ResNet",
}  # fmt: skip


def kind_of(settings: dict[str, Any], recipe: str) -> tuple[str, str]:
    """Kind and family of the network: `SE-ResNet`, `residual`."""
    if "members" in settings:
        return "ensemble", "ensemble"
    path = str(settings.get("model.class_path", ""))
    module, _, name = path.removeprefix("models.").rpartition(".")
    network, family = NETWORKS.get(name, name or recipe.rpartition("/")[2]), FAMILIES.get(module, "other")
    if module == "zoo":
        network = str(settings.get("model.init_args.name", network))
        family = "Inception" if network.startswith(("googlenet", "inception")) else "other"
    elif family == "residual" and settings.get("model.init_args.skip") is False:
        network, family = "plain", "plain"
    elif module in ("resnet", "preresnet"):
        network = "ResNeXt" if settings.get("model.init_args.groups", 1) != 1 else network
        if settings.get("model.init_args.se_reduction", 0):
            network = network.replace("ResNe", "SE-ResNe")  # ResNet, ResNeXt, pre-activation ResNet
    return network, family


def count(result: Result, recipes: Sequence[Recipe]) -> int | None:
    """Multiply-accumulates for one image; of an ensemble, of all members. None where a network cannot be built."""
    by_name = {recipe.name: recipe for recipe in recipes}
    settings = [result.settings]
    if "members" in result.settings:
        settings = [by_name[m["recipe"]].settings for m in result.members if m.get("recipe") in by_name]
        if len(settings) < len(result.members) or not settings:
            return None
    try:
        return sum(macs(of_network) for of_network in settings)
    except UncountableError as error:
        print(f"{result.recipe} seed {result.seed}: no MACs, its network cannot be built ({error})", file=sys.stderr)
        return None


# Plots of error against a cost ----------------------------------------------------------------------------------------


def build_points(entries: Iterable[Entry], axis: Callable[[Entry], float | None], rate: bool = False) -> list[Point]:
    """The rows with a number on this axis, those of changed settings excepted, with the Pareto front of each view.

    The number is a cost or, if `rate`, images per second, of which more are better. A view is one protocol and metric
    and, of rates, one kind of hardware: those of two are not comparable.
    """
    views: dict[str, list[tuple[float, Entry]]] = defaultdict(list)
    for entry in entries:
        x = axis(entry)
        if x and not entry.row.changed and not (rate and entry.row.device == "several"):
            views[entry.measure + (f", {entry.row.device}" if rate else "")].append((x, entry))
    points = []
    for view, members in sorted(views.items(), key=lambda item: (-len(item[1]), item[0])):
        front = pareto_front([(1 / x if rate else x, entry.errors) for x, entry in members])
        for (x, entry), on_front in zip(members, front, strict=True):
            row = entry.row
            points.append(
                Point(
                    name=row.recipe.partition("/")[2],
                    network=entry.network,
                    family=entry.family,
                    view=view,
                    x=x,
                    error=row.error,
                    low=None if row.interval is None else max(0.0, row.error - row.interval),
                    high=None if row.interval is None else min(100.0, row.error + row.interval),
                    seeds=len(row.seeds),
                    front=on_front,
                )
            )
    return points


def pareto_front(measured: Sequence[tuple[float, Sequence[float]]]) -> list[bool]:
    """Which pairs of cost and errors of several seeds lie on the Pareto front that the noise lets one draw.

    From the cheapest on, one is on the front if it is proven better (Welch's t-test, 5 %) than the last that is. A
    single seed proves nothing and is never on it. Of equal costs the lower mean comes first.
    """
    order = sorted(
        (index for index, (_, errors) in enumerate(measured) if len(errors) > 1),
        key=lambda index: (measured[index][0], statistics.fmean(measured[index][1])),
    )
    front: list[int] = []
    for index in order:
        if not front or proven_better(measured[index][1], measured[front[-1]][1]):
            front.append(index)
    return [index in front for index in range(len(measured))]


# Curves ---------------------------------------------------------------------------------------------------------------


def build_lines(entries: Sequence[Entry], curves: Iterable[Curve], found: Iterable[Result]) -> dict[str, list[Line]]:
    """Mean curves by dataset, of the runs that the table shows."""
    lines: dict[str, list[Line]] = defaultdict(list)
    devices: dict[tuple[str, str], str] = {entry.key: entry.row.device for entry in entries}
    claims = {
        (result.recipe, result.identity): next(
            (
                claim.value + claim.allowed(1)
                for claim in (Claim(**one) for one in result.published.get("claims", []))
                if (claim.protocol, claim.metric) == ("1crop", "top1_error")
            ),
            None,
        )
        for result in found
        if not result.overrides
    }
    named = {entry.key: entry for entry in reversed(entries)}
    for key, runs in by_recipe(curves).items():
        if key not in named:
            continue
        points = mean_curve(runs)
        if len(points) < 2:
            continue
        target = claims.get(key)
        reached = [hours for run in runs if target is not None and (hours := run.hours_to(target)) is not None]
        entry = named[key]
        lines[entry.row.dataset].append(
            Line(entry.name.partition("/")[2], entry.family, devices[key], len(runs), points, target, reached)
        )
    return dict(lines)


# Claims ---------------------------------------------------------------------------------------------------------------


def build_claims(rows: Iterable[Row], recipes: Iterable[Recipe]) -> list[ClaimRow]:
    """Every published number of the suite's recipes, with what our runs say of it."""
    ours = {(row.recipe, row.protocol, row.metric): row for row in rows if not row.changed}
    run = {recipe for recipe, _, _ in ours}
    claims = []
    for recipe in recipes:
        for claim in recipe.published.claims:
            row = ours.get((recipe.name, claim.protocol, claim.metric))
            said = row.verdict if row else verdict(claim, [], recipe.name in run)
            seeds = len(row.seeds) if row else 0
            claims.append(
                ClaimRow(
                    dataset=recipe.dataset,
                    recipe=recipe.name,
                    measure=f"{claim.protocol}, {'top-5' if claim.metric == 'top5_error' else 'top-1'}",
                    published=claim.value,
                    where=f"{recipe.published.paper}; {claim.where}",
                    tolerance=claim.allowed(seeds),
                    spread=claim.spread,
                    ours=row.error if row else None,
                    interval=row.interval if row else None,
                    seeds=seeds,
                    verdict=said,
                    kind="short" if said.startswith("short") else said,
                )
            )
    return claims


def tally(claims: Iterable[ClaimRow]) -> dict[str, int]:
    """How many claims have each verdict."""
    counts = Counter(claim.kind for claim in claims)
    return {kind: counts[kind] for kind in VERDICTS}


# Ablations ------------------------------------------------------------------------------------------------------------


def build_ablations(
    found: Iterable[Result], curves: Iterable[Curve], recipes: Iterable[Recipe], folders: Sequence[Path]
) -> tuple[list[Report], list[str]]:
    """Reports of the grids of which something was run, and the names of the others."""
    done = Done(
        {recipe.name: recipe for recipe in recipes},
        {result.key: result for result in found},
        {curve.key: curve for curve in curves},
        folders,
    )
    reports, idle = [], []
    for path in grid_paths():
        grid = load_grid(path)
        outcomes = {cell.name: outcomes_of(grid, cell, done) for cell in grid.cells}
        if any(outcome.lacking != TO_DO for of_cell in outcomes.values() for outcome in of_cell):
            reports.append(build_report(grid, outcomes))
        else:
            idle.append(grid.name)
    return reports, idle


@dataclass(frozen=True)
class Done:
    """What there is: recipes by name, results and curves by recipe, identity and seed, and the folders of runs."""

    recipes: dict[str, Recipe]
    results: dict[tuple[str, str, int], Result]
    curves: dict[tuple[str, str, int], Curve]
    folders: Sequence[Path]

    def diverged(self, key: tuple[str, str, int]) -> bool:
        """Whether the loss of this run did not stay finite."""
        recipe, known, seed = key
        return any((folder / recipe / known / f"seed-{seed}" / "diverged.json").is_file() for folder in self.folders)


def outcomes_of(grid: Grid, cell: Cell, done: Done) -> list[Outcome]:
    """What came of a cell with each seed, from the results and curves there are; as `benchmarks.ablate` says it."""
    recipe = done.recipes.get(cell.recipe)
    if recipe is None:  # a file outside the suite
        return [Outcome(seed, None, TO_DO) for seed in grid.seeds]
    known = identity(with_cell(recipe, cell)) if cell.settings else recipe.identity
    outcomes = []
    for seed in grid.seeds:
        key = (recipe.name, known, seed)
        result, curve = done.results.get(key), done.curves.get(key)
        if grid.measure == "epochs_to" and curve:
            epochs = [epoch for epoch, error in enumerate(curve.train, start=1) if error <= grid.train_error]
            outcomes.append(Outcome(seed, float(epochs[0])) if epochs else Outcome(seed, None, NOT_REACHED))
        elif grid.measure == "error" and result and grid.protocol in result.errors:
            outcomes.append(Outcome(seed, result.errors[grid.protocol][grid.metric]))
        else:
            outcomes.append(Outcome(seed, None, DIVERGED if done.diverged(key) else TO_DO))
    return outcomes


def with_cell(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    """The recipe's settings with the cell's, whose keys leave `init_args` out where the command line may."""
    full = {key.replace(".init_args", ""): key for key in recipe.settings}
    changed = {full.get(key.replace(".init_args", ""), key): value for key, value in cell.settings.items()}
    return {**recipe.settings, **changed}


# The challenge and the recipes ----------------------------------------------------------------------------------------


def build_reproductions(entries: Iterable[Entry], found: Iterable[Result]) -> list[Reproduction]:
    """Our top-5 errors on ImageNet's validation set, of networks that took part in the challenge."""
    current = {entry.key for entry in entries if not entry.row.changed and entry.row.dataset == "imagenet"}
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for result in found:
        if result.key[:2] in current:
            for protocol, counted in result.errors.items():
                errors[result.recipe, protocol].append(counted["top5_error"])
    reproductions = []
    for (recipe, protocol), values in sorted(errors.items()):
        begins = [begin for begin in TOOK_PART if recipe.partition("/")[2].startswith(begin)]
        if begins:
            year, mean, half = TOOK_PART[max(begins, key=len)], statistics.fmean(values), confidence(values)
            low, high = (None, None) if half is None else (max(0.0, mean - half), mean + half)
            reproductions.append(Reproduction(recipe.partition("/")[2], year, protocol, mean, low, high, len(values)))
    return reproductions


def build_sources(found: Iterable[Result], recipes: Iterable[Recipe]) -> dict[tuple[str, str], Source]:
    """The recipes of the results, by recipe and identity: its text, or the settings where those were others."""
    by_name = {recipe.name: recipe for recipe in recipes}
    sources = {}
    for result in found:
        key = result.key[:2]
        if key in sources:
            continue
        recipe = by_name.get(result.recipe)
        departures = [str(line) for line in result.published.get("departures", [])]
        if recipe is not None and recipe.identity == result.identity:
            text = recipe.path.read_text(encoding="utf-8")
        else:
            text = yaml.safe_dump(result.settings, sort_keys=False, allow_unicode=True)
        sources[key] = Source(result.recipe, text, departures)
    return sources
