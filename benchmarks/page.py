"""`python -m benchmarks leaderboard --html FILE`: everything that was measured, as one page that opens from disk.

The page loads nothing: tables (itables' build of DataTables) and plots (Vega) are within it. What it shows is decided
in `page_data.py`, plots are drawn in `page_charts.py`; here it is put into words and into page.html, where Jinja
escapes every value. The same result files give the same bytes.
"""

from __future__ import annotations

import importlib.util
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.leaderboard import spaced
from benchmarks.page_data import VERDICTS, WINNERS, ClaimRow, Content, Entry, Line, build_points, tally
from benchmarks.runs import RunError
from datamodules.files import write_whole

if TYPE_CHECKING:
    from benchmarks.page_charts import Figure

FOLDER = Path(__file__).parent
TITLE = "The ILSVRC era, trained again"
EXTRA = ("altair", "vl_convert", "itables", "jinja2")

KINDS = {  # of verdicts: class on the page, sign, what a tile says
    "reproduced": ("reproduced", "✓", "reproduced"),
    "better than published": ("better", "▲", "better than published"),
    "short": ("short", "▼", "short of it"),
    "other protocol": ("", "≠", "other protocol"),
    "not run": ("", "○", "not run yet"),
}


@dataclass(frozen=True)
class Table:
    """A table of text on the page; the first cell of a row names it."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Placed:
    """A figure, the id of its place, and its numbers as a `Table` has them."""

    id: str
    figure: Figure

    @property
    def caption(self) -> str:
        """Of the table."""
        return f"The numbers of: {self.figure.title}"

    @property
    def headers(self) -> Sequence[str]:
        """Of the table."""
        return self.figure.headers

    @property
    def rows(self) -> Sequence[Sequence[str]]:
        """Of the table."""
        return self.figure.rows


@dataclass(frozen=True)
class Part:
    """A section with figures."""

    id: str
    title: str
    text: Sequence[str]
    figures: Sequence[Placed]


@dataclass(frozen=True)
class Column:
    """A column of the table of results."""

    name: str
    numeric: bool = False
    title: str = ""


@dataclass(frozen=True)
class TableCell:
    """A cell of the table of results.

    Args:
        text: what stands there.
        order: what it sorts by, where that is not the text; what is missing sorts last.
        numeric: whether it is a number.
        kind: the class of a verdict.
        sign: of the verdict.
        links: texts, each with an address or "".
    """

    text: str
    order: str | None = None
    numeric: bool = False
    kind: str = ""
    sign: str = ""
    links: Sequence[tuple[str, str]] = ()


COLUMNS = (
    Column("recipe"), Column("dataset"), Column("architecture"), Column("year", True, "of the source"), Column("era"),
    Column("protocol"), Column("rank", True, "within dataset, protocol and metric"), Column("error %", True),
    Column("seeds", True), Column("published %", True), Column("verdict"), Column("parameters", True),
    Column("MACs", True, "multiply-accumulates for one image"), Column("images/s", True, "training"),
    Column("hours", True, "of a run, median"), Column("epochs", True), Column("hardware"), Column("W&B"),
)  # fmt: skip
MENUS = ("dataset", "architecture", "protocol", "era", "verdict")  # columns one may filter by
LAST = "1e99"  # where a missing number sorts


def check_extra() -> None:
    """The packages that draw the page must be there.

    Raises:
        RunError: one is not; the message says how to install it.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(
            f"--html needs {', '.join(missing)}, which training does not, so it is not installed: "
            "pip install -e '.[report]'"
        )


def write_page(path: Path, content: Content, only: str = "") -> str:
    """Write the page, whole or not at all, and say what is on it. `only` names what the rows were filtered by.

    Raises:
        RunError: the file cannot be written.
    """
    text = render(content, only)
    try:
        write_whole(path, text)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}): name another file with --html.") from None
    return (
        f"{path}: {len(content.entries)} rows of {content.runs} runs, {len(text.encode()) / 1e6:.1f} MB. "
        "Open it in a browser; it needs no network."
    )


def render(content: Content, only: str = "") -> str:
    """The page as text."""
    import jinja2
    from altair.utils.schemapi import debug_mode

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}  # browsers refuse NaN
    with debug_mode(False):  # altair otherwise checks every piece against its schema, for seconds; a test does
        parts = build_parts(content)
    anchors = {key: f"recipe-{number}" for number, key in enumerate(sorted(content.sources))}
    lines = [{"cells": cells(entry, anchors), "quiet": is_quiet(entry)} for entry in content.entries]
    names = [column.name for column in COLUMNS]
    return environment.get_template("page.html").render(
        title=TITLE,
        only=only,
        content=content,
        sections=sections(content, parts),
        tiles=tiles(content.claims),
        by_dataset=claims_by_dataset(content.claims),
        all_claims=table_of_claims(content.claims),
        menus=[menu(name, names.index(name), lines) for name in MENUS],
        columns=COLUMNS,
        lines=lines,
        parts=parts,
        protocols=describe_protocols({entry.row.protocol for entry in content.entries}),
        sources=sources(content, anchors),
        specs={one.id: one.figure.spec for part in parts for one in part.figures},
        css=verbatim(bundle("itables/html/dt_bundle.css") + (FOLDER / "page.css").read_text(encoding="utf-8")),
        script=verbatim((FOLDER / "page.js").read_text(encoding="utf-8")),
        tables_bundle=b64encode(bundle("itables/html/dt_bundle.js").encode()).decode(),
        plots_bundle=verbatim(vega()),
    )


def bundle(name: str) -> str:
    """The text of a file in an installed package."""
    package, _, rest = name.partition("/")
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / rest).read_text(encoding="utf-8")


@cache
def vega() -> str:
    """The script that defines `vegaEmbed`, with Vega and Vega-Lite in it."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def verbatim(text: str) -> Any:
    """Script or style of ours or of a package, to stand in the page as it is.

    Raises:
        RunError: it would end the element it stands in.
    """
    from markupsafe import Markup

    if re.search(r"</(script|style)", text, re.IGNORECASE):
        raise RunError(
            "a script for the page holds the end of a script: install altair and itables as setup.py bounds them."
        )
    return Markup(text)


# The sections ---------------------------------------------------------------------------------------------------------


def sections(content: Content, parts: Sequence[Part]) -> list[tuple[str, str]]:
    """Id and name of each section, for the list on top."""
    found = [("verdicts", "Verdicts"), ("results", "Results")]
    found += [(part.id, part.title) for part in parts]
    found += [("claims", "Claims"), ("protocols", "How it was measured")]
    return found + ([("recipes", "Recipes")] if content.sources else [])


def build_parts(content: Content) -> list[Part]:
    """A section for each dataset, one for the ablations, and the challenge."""
    from benchmarks.page_charts import cells_figure, challenge_figure, contrasts_figure

    parts = []
    for dataset in content.datasets:
        figures = dataset_figures(content.of(dataset), content.curves.get(dataset, []))
        changed = sum(bool(entry.row.changed) for entry in content.of(dataset))
        text = [READING] if figures else []
        if changed:
            text.append(f"{changed} rows of the table above are of changed settings and not in the first three plots.")
        parts.append(part(f"dataset-{dataset}", dataset, text, figures))
    if content.ablations or content.idle_grids:
        pairs = [one for report in content.ablations for one in (cells_figure(report), contrasts_figure(report))]
        idle = f"Not run yet: {', '.join(content.idle_grids)}." if content.idle_grids else ""
        text = [ABLATIONS, *([idle] if idle else [])]
        parts.append(part("ablations", "Ablations", text, [one for one in pairs if one is not None]))
    parts.append(part("challenge", "The challenge", [], [challenge_figure(WINNERS, content.reproductions)]))
    return parts


READING = (
    "Bars are 95 % confidence intervals of the mean over seeds; what is pale and has none is a single seed. On a "
    "Pareto front each row is proven better than every cheaper one on it (Welch's t-test, 5 %), so a front has only "
    "the steps that the noise allows, and a single seed is on none."
)
ABLATIONS = (
    "What one switch does, with everything else as it was: shortcuts, dropout, normalisation, activation. Ours beside "
    "the paper's."
)


def part(name: str, title: str, text: Sequence[str], figures: Iterable[Figure]) -> Part:
    """The section with an id for each of its figures."""
    slug = re.sub(r"[^a-z0-9-]+", "-", name.lower())
    return Part(slug, title, text, [Placed(f"{slug}-{number}", figure) for number, figure in enumerate(figures)])


def dataset_figures(entries: Sequence[Entry], lines: Sequence[Line]) -> list[Figure]:
    """Error against each cost, learning curves and time to accuracy, as far as there is anything to draw."""
    from benchmarks.page_charts import cost_figure, curves_figure, time_figure

    figures = []
    if points := build_points(entries, lambda entry: entry.row.parameters):
        figures.append(cost_figure(points, "Error and size", "trainable parameters", "parameters"))
    if points := build_points(entries, lambda entry: entry.macs):
        figures.append(cost_figure(points, "Error and arithmetic", "multiply-accumulates for one image", "MACs"))
    if points := build_points(entries, lambda entry: entry.row.images_per_s, rate=True):
        figures.append(cost_figure(points, "Error and speed", "training images per second", "images/s"))
    if lines:
        figures += [curves_figure(lines), time_figure(lines)]
    return figures


# The table of results -------------------------------------------------------------------------------------------------


def cells(entry: Entry, anchors: dict[tuple[str, str], str]) -> list[TableCell]:
    """One line of the table, a cell for each of `COLUMNS`."""
    row = entry.row
    kind, sign, _ = KINDS.get("short" if row.verdict.startswith("short") else row.verdict, ("", "", ""))
    judged = bool(kind or sign)
    error = f"{row.error:.2f}" + (f" ± {row.interval:.2f}" if row.interval is not None else "")
    link = (row.recipe, f"#{anchors[entry.key]}" if entry.key in anchors else "")
    return [
        TableCell(row.changed, links=[link]),
        TableCell(row.dataset),
        TableCell(entry.network),
        numeric("–" if entry.year is None else str(entry.year), entry.year),
        TableCell(entry.era or "–"),
        TableCell(entry.measure),
        numeric("–" if row.rank is None else str(row.rank), row.rank),
        numeric(error, row.error),
        numeric(str(len(row.seeds)), len(row.seeds)),
        numeric("–" if row.published is None else f"{row.published:.2f}", row.published),
        TableCell(row.verdict, kind=(kind or "other") if judged else "", sign=sign),
        numeric(spaced(row.parameters), row.parameters),
        numeric(shortened(entry.macs), entry.macs),
        numeric(shortened(row.images_per_s), row.images_per_s),
        numeric("–" if entry.hours is None else f"{entry.hours:.2g}", entry.hours),
        numeric("–" if entry.epochs is None else str(entry.epochs), entry.epochs),
        TableCell(row.device),
        TableCell("" if entry.wandb else "–", links=entry.wandb),
    ]


def numeric(text: str, value: float | None) -> TableCell:
    """A number that sorts by its value, and last where it is missing."""
    return TableCell(text, LAST if value is None else f"{value:.10g}", numeric=True)


def shortened(value: float | None) -> str:
    """Three digits and a unit of thousands: 4.09 G, 123 k, 36.9."""
    if value is None:
        return "–"
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{value / min(size, 1e3 if size == 1e4 else size):.3g}{unit}"
    return spaced(value) if value >= 100 else f"{value:.3g}"


def is_quiet(entry: Entry) -> bool:
    """Whether the line is printed pale: a single seed, or changed settings."""
    return entry.row.rank is None


def menu(name: str, column: int, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A filter: its column, and every text there is in it."""
    return {"name": name, "column": column, "options": sorted({line["cells"][column].text for line in lines})}


# Claims ---------------------------------------------------------------------------------------------------------------


def tiles(claims: Sequence[ClaimRow]) -> list[dict[str, Any]]:
    """How many published numbers have each verdict."""
    counts = tally(claims)
    found = []
    for kind in VERDICTS:
        css, sign, name = KINDS[kind]
        found.append({"kind": css, "sign": sign, "name": name, "count": counts[kind]})
    return found


def claims_by_dataset(claims: Sequence[ClaimRow]) -> Table:
    """The same for each dataset."""
    rows = []
    for dataset in sorted({claim.dataset for claim in claims}):
        counts = tally(claim for claim in claims if claim.dataset == dataset)
        rows.append((dataset, str(sum(counts.values())), *(str(counts[kind] or "–") for kind in VERDICTS)))
    heads = ("dataset", "claims", *(KINDS[kind][2] for kind in VERDICTS))
    return Table("Published numbers by dataset", heads, rows)


def table_of_claims(claims: Sequence[ClaimRow]) -> Table:
    """Every claim with its source."""
    rows = []
    for claim in claims:
        ours = "–" if claim.ours is None else f"{claim.ours:.2f}"
        ours += f" ± {claim.interval:.2f}" if claim.interval is not None else ""
        spread = "" if claim.spread is None else f" (spread {claim.spread:g})"
        allowed = f"{claim.tolerance:.3g}{spread}"
        cells = (claim.recipe, claim.measure, f"{claim.published:.2f}", allowed, ours, str(claim.seeds))
        rows.append((*cells, claim.verdict, claim.where))
    heads = ("recipe", "measure", "published %", "tolerance", "ours %", "seeds", "verdict", "source")
    return Table("Every published number of the suite's recipes", heads, rows)


# Words ----------------------------------------------------------------------------------------------------------------

PROTOCOLS = (
    (r"1crop", "One view: the whole image on MNIST and CIFAR, the central crop on ImageNet."),
    (r"flip", "The view and its mirror image, softmaxes averaged."),
    (r"10crop", "The four corners and the centre of the central square, and their mirror images, averaged."),
    (r"144crop", "Three squares at each of four sizes; of each five crops and the whole, and their mirror images."),
    (r"150crop", "A grid of 5 x 5 crops at each of three sizes, and their mirror images."),
    (r"dense-\d+", "The whole image, its short side as long as the number says, through the fully convolutional form."),
    (r"ms-dense(-\d+)+", "The mean of dense evaluation over several sizes."),
    (r"ens-\d+(-.+)?", "The mean of so many networks, each under the protocol that follows."),
    (r".+\+.+", "The mean of the softmaxes under both."),
)


def describe_protocols(names: Iterable[str]) -> list[tuple[str, str]]:
    """What each protocol means, in the order of their names."""
    found = []
    for name in sorted(names):
        meaning = next((text for pattern, text in PROTOCOLS if re.fullmatch(pattern, name)), "")
        found.append((name, meaning or "Not one of the suite's protocols."))
    return found


def sources(content: Content, anchors: dict[tuple[str, str], str]) -> list[dict[str, Any]]:
    """The recipes as the page keeps them."""
    entries = {entry.key: entry for entry in reversed(content.entries)}
    found = []
    for key, source in sorted(content.sources.items()):
        entry = entries[key]
        found.append(
            {"id": anchors[key], "name": entry.name, "text": source.text, "departures": source.departures,
             "paper": entry.paper, "url": entry.url}
        )  # fmt: skip
    return found
