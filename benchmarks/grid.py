"""Grids: which switches an ablation turns, on which recipes and seeds, and what the paper says comes of it. No torch.

A grid is one YAML file, `benchmarks/grids/<dataset>/<name>.yaml`:

```yaml
paper: Ioffe, Szegedy 2015, Batch Normalization
url: https://arxiv.org/abs/1502.03167
question: Does batch normalisation lower the error, and does it need dropout?
recipe: digits/vgg                # or recipes: {plain-20: cifar10/plain20, ...}, which is then the first axis
settings:                         # of every cell; may be left out
  trainer.max_epochs: 20
axes:                             # every combination is a cell; may be left out where there are several recipes
  model.dropout: [0.0, 0.5]       # one setting and its values: cells `dropout=0.0` and `dropout=0.5`
  norm:                           # or named levels, each with all the settings that go with it
    with norm: {model.norm: batch}
    without norm: {model.norm: none, model.optimizer.lr: 0.01}
seeds: 0-2                        # or a list
measure: error                    # or `epochs_to` with `train_error: 25`, in percent
protocol: 1crop
metric: top1_error
published:                        # the paper's numbers, by cell; may be left out
  where: Table 1
  dropout=0.5, with norm: 3.0
contrasts:
  - of: dropout=0.0, with norm minus dropout=0.5, with norm
    published: 0.4                # a number, or only a bound: "> 0"
    where: section 4
  - of: without norm minus with norm       # at every level of the other axes
```

A name of a cell joins its levels, one of each axis, by a comma. `minus` contrasts means; `over` is their ratio, for
`epochs_to` only.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recipe import RecipeError, read_yaml

FOLDER = Path(__file__).parent / "grids"

REQUIRED = ("paper", "url", "question", "seeds", "measure", "contrasts")
OPTIONAL = ("recipe", "recipes", "settings", "axes", "protocol", "metric", "train_error", "published")
MEASURES = {"error": ("protocol", "metric"), "epochs_to": ("train_error",)}  # what each needs said
METRICS = ("top1_error", "top5_error")
MOST_SEEDS = 10_000  # more are mistyped


class GridError(RecipeError):
    """A grid that does not exist or cannot be read; the message names the remedy."""


@dataclass(frozen=True)
class Number:
    """A published number, or all that the paper says of it: that it is above or below `value`."""

    value: float
    bound: str = ""  # "", ">" or "<"

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}" if self.bound else f"{self.value:.2f}"

    def allows(self, low: float, high: float) -> bool:
        """Whether some value from `low` to `high` is one that the paper could mean."""
        if self.bound:
            return high > self.value if self.bound == ">" else low < self.value
        return low <= self.value <= high


@dataclass(frozen=True)
class Cell:
    """One variant: a recipe with some settings changed.

    Args:
        name: its levels, joined by a comma.
        levels: one of each axis.
        recipe: a recipe's name or file.
        settings: what differs from the recipe, as `model.skip` on the command line.
        published: what the paper measured.
    """

    name: str
    levels: tuple[str, ...]
    recipe: str
    settings: dict[str, Any]
    published: Number | None = None

    @property
    def arguments(self) -> list[str]:
        """The settings as arguments of `fit`."""
        return [word for key, value in self.settings.items() for word in (f"--{key}", as_text(value))]


@dataclass(frozen=True)
class Contrast:
    """Two cells to compare. `kind` is `minus` or `over`.

    Args:
        name: as the grid says it, and the levels of the other axes where it does not name them.
        left: name of the first cell.
        right: name of the second.
        kind: whether the difference or the ratio is meant.
        published: what the paper says of it.
        where: table or section of the paper.
    """

    name: str
    left: str
    right: str
    kind: str
    published: Number | None
    where: str


@dataclass(frozen=True)
class Grid:
    """One study, as its file says it. `train_error` is the threshold of `epochs_to`, in percent."""

    name: str
    path: Path
    paper: str
    url: str
    question: str
    cells: list[Cell]
    seeds: list[int]
    contrasts: list[Contrast]
    measure: str
    protocol: str = ""
    metric: str = ""
    train_error: float = 0.0
    where: str = ""


def load_grid(path: Path) -> Grid:
    """Read one grid. Whether its recipes exist and take the settings is found out by `benchmarks.ablate`.

    Raises:
        RecipeError: the file cannot be read; a GridError where it is no grid. Both say what to do.
    """
    content = read_yaml(path)
    try:
        return build(grid_name(path), path, content)
    except GridError as error:
        raise GridError(f"{path}: {error}") from None


def build(name: str, path: Path, content: Any) -> Grid:
    """The grid in the YAML's `content`."""
    check_keys(content)
    measure, protocol, metric, threshold = read_measure(content)
    cells = read_cells(content)
    published = mapping("published", content.get("published", {}))
    where = str(published.pop("where", ""))
    if published and not where:
        raise GridError("published must say `where` in the paper its numbers stand: add where: Table 2, for example.")
    known = [cell.name for cell in cells]
    if unknown := [key for key in published if key not in known]:
        raise GridError(f"published names {unknown[0]!r}, which is no cell: {closest(unknown[0], known)}")
    numbers = {key: read_number(f"published of {key}", value) for key, value in published.items()}
    cells = [Cell(c.name, c.levels, c.recipe, c.settings, numbers.get(c.name)) for c in cells]
    listed = content["contrasts"]
    if not isinstance(listed, list):
        raise GridError("contrasts must be a list of entries such as - of: A minus B; write [] for none.")
    contrasts = [contrast for entry in listed for contrast in read_contrast(entry, cells, measure)]
    return Grid(
        name=name,
        path=path,
        paper=str(content["paper"]),
        url=str(content["url"]),
        question=str(content["question"]),
        cells=cells,
        seeds=read_seeds(content["seeds"]),
        contrasts=contrasts,
        measure=measure,
        protocol=protocol,
        metric=metric,
        train_error=threshold,
        where=where,
    )


def check_keys(content: Any) -> None:
    """Refuse a file that lacks a part or has one that means nothing."""
    if not isinstance(content, dict):
        raise GridError("a grid must be a mapping that begins with paper, url and question: see benchmarks/grid.py.")
    if unknown := [key for key in content if key not in (*REQUIRED, *OPTIONAL)]:
        raise GridError(f"the key {unknown[0]!r} means nothing: {closest(str(unknown[0]), (*REQUIRED, *OPTIONAL))}")
    if missing := [key for key in REQUIRED if key not in content]:
        raise GridError(f"{', '.join(missing)} must be there: see benchmarks/grid.py for an example.")
    if ("recipe" in content) == ("recipes" in content):
        raise GridError("say either recipe: NAME, or recipes: {LEVEL: NAME, ...} as an axis.")


def read_measure(content: dict[str, Any]) -> tuple[str, str, str, float]:
    """What is measured: measure, protocol, metric, train_error."""
    measure = content["measure"]
    if measure not in MEASURES:
        raise GridError(f"measure (={measure}) must be one of {', '.join(MEASURES)}.")
    for other, keys in MEASURES.items():
        for key in keys:
            if (key in content) != (other == measure):
                say = "leave it out" if key in content else "add it"
                raise GridError(f"{key} belongs to measure: {other}, and measure is {measure}: {say}.")
    if measure == "epochs_to":
        threshold = content["train_error"]
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < 100:
            raise GridError(f"train_error (={threshold}) must lie between 0 and 100: it is in percent.")
        return measure, "", "", float(threshold)
    if content["metric"] not in METRICS:
        raise GridError(f"metric (={content['metric']}) must be one of {', '.join(METRICS)}.")
    return measure, str(content["protocol"]), content["metric"], 0.0


def read_cells(content: dict[str, Any]) -> list[Cell]:
    """Every combination of the axes' levels."""
    common = mapping("settings", content.get("settings", {}))
    axes = [read_axis(axis, values) for axis, values in mapping("axes", content.get("axes", {})).items()]
    recipes = mapping("recipes", content.get("recipes", {}))
    if not recipes and not axes:
        raise GridError("one recipe without axes has nothing to compare: add axes, or recipes.")
    levels = [level for axis in (recipes, *axes) for level in axis]
    for level in levels:
        check_level(level, levels)
    cells = []
    for recipe, *chosen in itertools.product(recipes or [""], *axes):
        settings = dict(common)
        for axis, level in zip(axes, chosen, strict=True):
            if twice := sorted(set(settings) & set(axis[level])):
                raise GridError(
                    f"{twice[0]} is set twice, the second time by the level {level!r}: set it in one place."
                )
            settings |= axis[level]
        whole = (recipe, *chosen) if recipe else tuple(chosen)
        cells.append(Cell(", ".join(whole), whole, str(recipes[recipe] if recipe else content["recipe"]), settings))
    return cells


def read_axis(axis: Any, values: Any) -> dict[str, dict[str, Any]]:
    """The levels of one axis, each with its settings."""
    if isinstance(values, list) and len(values) > 1 and "." in str(axis):
        return {f"{axis.rpartition('.')[2]}={as_text(value)}": {axis: value} for value in values}
    if isinstance(values, dict) and len(values) > 1:
        return {level: mapping(f"the level {level!r}", settings or {}) for level, settings in values.items()}
    raise GridError(
        f"the axis {axis} must be a setting with two values or more, model.skip: [true, false], or a name with two "
        f"levels or more and the settings of each, norm: {{with: {{model.norm: batch}}, without: {{}}}}."
    )


def check_level(level: Any, levels: Sequence[Any]) -> None:
    """Refuse a name that a contrast could not name."""
    if not isinstance(level, str):
        raise GridError(f"the level {level!r} must be text: put it in quotes.")
    if levels.count(level) > 1:
        raise GridError(f"the level {level!r} is there twice: names of levels must differ.")
    if re.search(r", | minus | over ", level):
        raise GridError(f"the level {level!r} must hold neither a comma with a space nor ` minus ` nor ` over `.")


def read_contrast(entry: Any, cells: Sequence[Cell], measure: str) -> list[Contrast]:
    """The contrast of an entry, one for each combination of the levels it does not name."""
    entry = mapping("an entry of contrasts", entry)
    if unknown := [key for key in entry if key not in ("of", "published", "where")]:
        raise GridError(f"a contrast has no {unknown[0]!r}: it has of, published and where.")
    text = str(entry.get("of", ""))
    found = re.fullmatch(r"(.+) (minus|over) (.+)", text)
    if not found:
        raise GridError(f"contrast (={text}) must be of: A minus B, or of: A over B.")
    left, kind, right = found.groups()
    if kind == "over" and measure != "epochs_to":
        raise GridError(f"contrast (={text}) must be a difference: `over` is for measure: epochs_to.")
    number = read_number(f"published of {text}", entry["published"]) if "published" in entry else None
    check_sign(text, number, 1 if kind == "over" else 0)
    if number is not None and not entry.get("where"):
        raise GridError(f"contrast (={text}) must say `where` in the paper its number stands.")
    contrasts = []
    for first, second in pairs(left, right, cells):
        rest = [level for level in first.levels if level not in left.split(", ")]
        name = f"{text} ({', '.join(rest)})" if rest else text
        claimed = number or difference(first, second, kind)
        contrasts.append(Contrast(name, first.name, second.name, kind, claimed, str(entry.get("where", ""))))
        check_difference(contrasts[-1], difference(first, second, kind))
    return contrasts


def check_sign(text: str, number: Number | None, none: int) -> None:
    """Refuse a published contrast that names no direction; `none` is where there is no difference."""
    if number is None:
        return
    side = {"": number.value != none, ">": number.value >= none, "<": number.value <= none}[number.bound]
    if not side:
        raise GridError(f"published of {text} (={number}) must say which side is higher: leave it out otherwise.")


def pairs(left: str, right: str, cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """The cells that have the levels of `left`, each with the one of `right` whose other levels are the same."""
    found = []
    for side in (left, right):
        wanted = set(side.split(", "))
        known = {level for cell in cells for level in cell.levels}
        if unknown := sorted(wanted - known):
            raise GridError(f"a contrast names {unknown[0]!r}, which is no level: {closest(unknown[0], known)}")
        having = [cell for cell in cells if wanted <= set(cell.levels)]
        found.append({tuple(level for level in cell.levels if level not in wanted): cell for cell in having})
    if set(left.split(", ")) == set(right.split(", ")) or not found[0] or found[0].keys() != found[1].keys():
        raise GridError(
            f"contrast (={left} against {right}) must name different levels of the same axes on both sides."
        )
    return [(cell, found[1][rest]) for rest, cell in found[0].items()]


def difference(left: Cell, right: Cell, kind: str) -> Number | None:
    """What the paper's numbers of two cells say of their contrast; None if one is missing or both are bounds."""
    if left.published is None or right.published is None or kind == "over":
        return None
    value = round(left.published.value - right.published.value, 6)
    flipped = {"": "", ">": "<", "<": ">"}[right.published.bound]
    bounds = {left.published.bound, flipped} - {""}
    return Number(value, bounds.pop() if bounds else "") if len(bounds) < 2 and (value or bounds) else None


def check_difference(contrast: Contrast, implied: Number | None) -> None:
    """Refuse a published contrast that its cells' published numbers contradict by more than rounding."""
    stated = contrast.published
    if stated is None or implied is None or stated.bound or implied.bound:
        return
    if abs(stated.value - implied.value) > 0.051:
        raise GridError(
            f"published of {contrast.name} (={stated}) must be the difference of its cells' numbers, {implied}: "
            "correct one of the three."
        )


def read_number(what: str, value: Any) -> Number:
    """A number, or a bound such as `> 60`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Number(float(value))
    found = re.fullmatch(r"([<>])\s*(-?\d+(?:\.\d+)?)", str(value))
    if not found:
        raise GridError(f'{what} (={value}) must be a number, or a bound in quotes such as "> 60".')
    return Number(float(found[2]), found[1])


SEEDS = re.compile(r"[0-9]{1,18}(-[0-9]{1,18})?(,[0-9]{1,18}(-[0-9]{1,18})?)*")


def read_seeds(value: Any) -> list[int]:
    """Seeds from a list, or from text such as `0-4` or `0,2,5-7`.

    Raises:
        GridError: they are neither, one is there twice, or there are more than `MOST_SEEDS`.
    """
    if isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value):
        ranges = [(seed, seed) for seed in value]
    elif isinstance(value, str) and SEEDS.fullmatch(value) and not value.isdigit():
        parts = [part.partition("-") for part in value.split(",")]
        ranges = [(int(first), int(last or first)) for first, _, last in parts]
    else:  # a lone 3 could mean three seeds
        raise GridError(f"seeds (={value}) must be a range such as 0-4, or several: 0,2,5. Seed 3 alone is 3-3.")
    if sum(last - first + 1 for first, last in ranges if last >= first) > MOST_SEEDS:
        raise GridError(f"seeds (={str(value)[:60]}) must be at most {MOST_SEEDS}, one run each: name fewer.")
    seeds = [seed for first, last in ranges for seed in range(first, last + 1)]
    if not seeds or len(set(seeds)) < len(seeds):
        raise GridError(f"seeds (={value}) must rise, and each be there once: 0-4, for example.")
    return seeds


def mapping(what: str, value: Any) -> dict[str, Any]:
    """`value`, if it is a mapping."""
    if not isinstance(value, dict):
        raise GridError(f"{what} (={value}) must be a mapping, key: value.")
    return dict(value)


def as_text(value: Any) -> str:
    """A setting's value as one writes it on the command line: `true`, `0.5`, `[3,3,3]`, `batch`."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def closest(word: str, known: Iterable[str]) -> str:
    """A remedy: what was probably meant, or all there is."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(sorted(known))}."


def grid_name(path: Path) -> str:
    """`cifar10/plain_residual` for a grid of the suite, the file's name for anybody else's."""
    resolved = path.resolve()
    return resolved.relative_to(FOLDER).with_suffix("").as_posix() if resolved.is_relative_to(FOLDER) else path.stem


def grid_paths() -> list[Path]:
    """Every grid of the suite, sorted by name."""
    return sorted(FOLDER.rglob("*.yaml"))


def find_grid(text: str) -> Path:
    """The file that `text` names: a path, or a grid's name such as `cifar10/plain_residual`.

    Raises:
        GridError: there is none.
    """
    for candidate in (Path(text), FOLDER / text, FOLDER / f"{text}.yaml"):
        if candidate.is_file():
            return candidate
    known = [grid_name(path) for path in grid_paths()]
    raise GridError(f"grid (={text}) is neither a file nor a grid of the suite: {closest(text, known)}")
