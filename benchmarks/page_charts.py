"""The page's plots, drawn by Vega-Altair from typed rows; colours are the page's own, so that they follow its scheme.

Okabe and Ito's colours, which colour-blind people tell apart, and a shape or a dash for each beside them. Every figure
says in words what it shows and brings its numbers as a table.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from benchmarks.grid_table import CellRow, ContrastRow, Report, unit
from benchmarks.page_data import HUMAN, Line, Point, Reproduction, Winner

COLOURS = [f"var(--series-{number})" for number in range(1, 9)]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
DASHES = [[1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 1], [12, 4], [1, 3], [6, 2, 1, 2, 1, 2]]
MOST_SERIES = len(COLOURS)
LINES = alt.Legend(symbolType="stroke", symbolSize=500, symbolStrokeWidth=2, symbolOpacity=1)

TEXT, GRID, OURS, PAPER = "currentColor", "var(--grid)", "var(--series-1)", "var(--series-2)"
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": TEXT, "titleColor": TEXT, "domainColor": TEXT, "tickColor": TEXT, "gridColor": GRID,
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8,
    },
    "legend": {
        "orient": "bottom", "labelColor": TEXT, "titleColor": TEXT, "labelFontSize": 12, "labelLimit": 290,
        "symbolSize": 90, "title": None,
    },
    "title": {"color": TEXT, "anchor": "start", "fontSize": 13, "fontWeight": "normal", "offset": 12},
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A plot and what stands for it where it is not seen.

    Args:
        title: of the figure.
        caption: what it shows and what may be read from it.
        spec: Vega-Lite, as `chart.to_dict()` gives it.
        headers: of the table with its numbers.
        rows: of that table, as text; the first cell names the row.
        width: how much of the page's it takes: third, half or whole.
    """

    title: str
    caption: str
    spec: dict[str, Any]
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    width: str = "half"


def cost_figure(points: Sequence[Point], title: str, axis: str, what: str) -> Figure:
    """Error against a cost or a rate, with the Pareto front of each view."""
    views = list(dict.fromkeys(point.view for point in points))
    series = series_of([(point.name, point.family) for point in points])
    values = [
        {
            "name": point.name, "network": point.network, "series": of_point, "view": point.view, "x": point.x,
            "error": point.error, "low": point.low, "high": point.high, "seeds": point.seeds,
            "front": "yes" if point.front else "no",
        }
        for point, of_point in zip(points, series, strict=True)
    ]  # fmt: skip
    view, chosen = view_of(views)
    base = alt.Chart(alt.NamedData("rows")).transform_filter(alt.datum.view == view)
    scale = alt.Scale(type="log", nice=False, padding=24)
    if max(p.x for p in points) <= 10 * min(p.x for p in points):
        scale = alt.Scale(zero=False, nice=False, padding=24)
    x = alt.X(
        "x:Q",
        title=axis,
        scale=scale,
        axis=alt.Axis(format=".4~s", tickCount=5, labelOverlap="greedy"),
    )
    y = alt.Y("error:Q", title="error, %", scale=alt.Scale(zero=False, nice=True))
    front = (
        base.transform_filter(alt.datum.front == "yes")
        .mark_line(interpolate="step-after", color=TEXT, opacity=0.55, strokeWidth=1.5)
        .encode(x=x, y=y, order=alt.Order("error:Q", sort="descending"))  # from the cheapest on, errors fall
    )
    bars = base.transform_filter("datum.low !== null").mark_rule(strokeWidth=1.5)
    bars = bars.encode(x=x, y=alt.Y("low:Q", title="error, %"), y2="high:Q", color=colour(series))
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=x,
        y=y,
        color=colour(series),
        shape=alt.Shape("series:N", scale=alt.Scale(domain=domain(series), range=SHAPES)),
        opacity=alt.condition("datum.seeds > 1", alt.value(1), alt.value(0.5)),
        tooltip=tooltips(("name", "recipe"), ("network", ""), ("error", "error, %", ".2f"), ("low", "from", ".2f"),
                         ("high", "to", ".2f"), ("seeds", ""), ("x", what, ",.4~s"), ("front", "on the front")),
    )  # fmt: skip
    return Figure(
        title=title,
        caption=f"Error against {what}; rows of the Pareto front are joined by a line.",
        spec=finish(alt.LayerChart(layer=[front, bars, dots]), chosen, values, title_of(views), series),
        headers=("recipe", "measure", what, "error %", "95 % interval", "seeds", "on the front"),
        rows=[
            (p.name, p.view, number(p.x), f"{p.error:.2f}", interval(p.low, p.high), str(p.seeds),
             "yes" if p.front else "no")
            for p in points
        ],
        width="third",
    )  # fmt: skip


def curves_figure(lines: Sequence[Line]) -> Figure:
    """Mean validation or training error over epochs."""
    series = series_of([(line.name, line.family) for line in lines])
    values = [
        {"name": line.name, "series": of_line, "epoch": p.epoch, "view": view, "error": error, "low": low, "high": high}
        for line, of_line in zip(lines, series, strict=True)
        for p in line.points
        for view, error, low, high in (
            ("validation error", p.validation, p.low, p.high),
            ("training error", p.train, None, None),
        )
    ]
    view, chosen = view_of(["validation error", "training error"])
    picked = alt.selection_point(name="picked", fields=["series"], bind="legend")
    base = alt.Chart(alt.NamedData("rows")).transform_filter(alt.datum.view == view)
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(zero=False))
    y = alt.Y("error:Q", title="top-1 error, %", scale=alt.Scale(zero=False))
    faded = alt.condition(picked, alt.value(1), alt.value(0.12))
    band = base.mark_area(opacity=0.16).encode(
        x=x,
        y=alt.Y("low:Q", title="top-1 error, %"),
        y2="high:Q",
        color=stroke_colour(series),
        detail="name:N",
        opacity=alt.condition(picked, alt.value(0.16), alt.value(0.03)),
    )
    line = base.mark_line(strokeWidth=2).encode(
        x=x, y=y, color=stroke_colour(series), strokeDash=dash(series), detail="name:N", opacity=faded
    )
    dots = base.mark_circle(size=22).encode(
        x=x, y=y, color=stroke_colour(series), opacity=faded,
        tooltip=tooltips(("name", "recipe"), ("epoch", ""), ("error", "mean, %", ".2f"), ("low", "lowest", ".2f"),
                         ("high", "highest", ".2f")),
    )  # fmt: skip
    last = [(line, line.points[-1]) for line in lines]
    return Figure(
        title="Learning curves",
        caption="Mean over seeds after each epoch; the band reaches from the lowest to the highest. Training error "
        "is that of the epoch's steps, while the weights change. A click in the legend singles a line out.",
        spec=finish(alt.LayerChart(layer=[band, line, dots]).add_params(picked), chosen, values, series=series),
        headers=(
            "recipe",
            "seeds",
            "epochs",
            "training error %, last epoch",
            "validation error %, last epoch",
            "range",
        ),
        rows=[
            (line.name, str(line.seeds), str(p.epoch), f"{p.train:.2f}", f"{p.validation:.2f}", interval(p.low, p.high))
            for line, p in last
        ],
    )


def time_figure(lines: Sequence[Line]) -> Figure:
    """Validation error over hours of training, one view for each kind of hardware."""
    counts = [line.device for line in lines]
    views = sorted(set(counts), key=lambda device: (-counts.count(device), device))
    series = series_of([(line.name, line.family) for line in lines])
    values = [
        {"name": line.name, "series": of_line, "hours": p.hours, "error": p.validation, "view": line.device}
        for line, of_line in zip(lines, series, strict=True)
        for p in line.points
        if p.hours > 0
    ]
    marks = [
        {"name": line.name, "series": of_line, "hours": statistics.median(line.reached), "error": line.target,
         "view": line.device, "reached": f"{len(line.reached)} of {line.seeds}"}
        for line, of_line in zip(lines, series, strict=True)
        if line.reached
    ]  # fmt: skip
    view, chosen = view_of(views)
    base = alt.Chart(alt.NamedData("rows")).transform_filter(alt.datum.view == view)
    x = alt.X(
        "hours:Q", title="hours of training", scale=alt.Scale(type="log"), axis=alt.Axis(format="~g", tickCount=6)
    )
    y = alt.Y("error:Q", title="top-1 error, %", scale=alt.Scale(zero=False))
    line = base.mark_line(strokeWidth=2).encode(
        x=x,
        y=y,
        color=stroke_colour(series),
        strokeDash=dash(series),
        detail="name:N",
        order=alt.Order("hours:Q"),
    )
    dots = base.mark_circle(size=22).encode(
        x=x, y=y, color=stroke_colour(series),
        tooltip=tooltips(("name", "recipe"), ("hours", "", ".3~g"), ("error", "mean, %", ".2f")),
    )  # fmt: skip
    layers = [line, dots]
    if marks:
        goal = alt.Chart(alt.Data(values=marks)).transform_filter(alt.datum.view == view)
        layers.append(
            goal.mark_point(shape="diamond", filled=True, size=150, stroke=TEXT, strokeWidth=1.5).encode(
                x=x, y=y, color=stroke_colour(series),
                tooltip=tooltips(("name", "recipe"), ("error", "published error and tolerance, %", ".2f"),
                                 ("hours", "hours, median", ".3~g"), ("reached", "seeds that got there")),
            )
        )  # fmt: skip
    return Figure(
        title="Time to accuracy",
        caption="Mean validation error (1crop) against hours of training, without validation, set-up and queues, on "
        "the hardware named. A diamond: the first epoch within a single run's tolerance of the published 1crop error, "
        "median of the seeds that got there. A result is still that of the last epoch.",
        spec=finish(alt.LayerChart(layer=layers), chosen, values, title_of(views), series),
        headers=("recipe", "hardware", "hours in all", "target %", "seeds that got there", "hours to it, median"),
        rows=[
            (line.name, line.device, f"{line.points[-1].hours:.3g}",
             "–" if line.target is None else f"{line.target:.2f}",
             f"{len(line.reached)} of {line.seeds}" if line.target is not None else "–",
             f"{statistics.median(line.reached):.3g}" if line.reached else "–")
            for line in lines
        ],
    )  # fmt: skip


def cells_figure(report: Report) -> Figure | None:
    """The cells of a study beside the paper's numbers; None where nothing was run."""
    grid = report.grid
    rows = [compared(cell.name, cell.value, *ends(cell.value, cell.interval), cell.published) for cell in report.cells]
    if not any(cell.value is not None for cell in report.cells):
        return None
    stands = f" The paper's numbers: {grid.where}." if grid.where else ""
    return Figure(
        title=f"{grid.name}: variants",
        caption=f"{grid.question} {unit(grid)}, mean over seeds with its 95 % confidence interval.{stands}"
        + bound_note(report.cells),
        spec=finish(comparison_chart(rows, unit(grid), None), ()),
        headers=("variant", unit(grid), "95 % interval", "seeds", "paper", "note"),
        rows=[
            (cell.name, "–" if cell.value is None else f"{cell.value:.2f}",
             interval(*ends(cell.value, cell.interval)), str(len(cell.seeds)), cell.published or "–", cell.note or "–")
            for cell in report.cells
        ],
    )  # fmt: skip


def contrasts_figure(report: Report) -> Figure | None:
    """The contrasts of a study beside the paper's; None where both sides of none were run."""
    if not any(row.value is not None for row in report.contrasts):
        return None
    rows = [compared(row.name, row.value, row.low, row.high, row.published) for row in report.contrasts]
    ratio = any(row.kind == "over" for row in report.contrasts)
    return Figure(
        title=f"{report.grid.name}: differences",
        caption=("Ratios" if ratio else "Differences of means") + " with Welch's 95 % confidence interval, beside the "
        "paper's; where an interval includes the upright line, none is proven."
        + bound_note(report.contrasts),
        spec=finish(comparison_chart(rows, "ratio" if ratio else "points of error", 1.0 if ratio else 0.0), ()),
        headers=("contrast", "ours", "95 % interval", "paper", "where", "verdict"),
        rows=[
            (row.name, "–" if row.value is None else f"{row.value:.2f}", interval(row.low, row.high),
             row.published or "–", row.where or "–", row.verdict)
            for row in report.contrasts
        ],
    )  # fmt: skip


def comparison_chart(rows: Sequence[dict[str, Any]], axis: str, none: float | None) -> alt.LayerChart:
    """Ours as dots with intervals and the paper's as diamonds, a line each; an upright line at `none`."""
    names = [row["name"] for row in rows if row["value"] is not None or row["paper"] is not None]
    y = alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labelLimit=210))
    x = alt.X("value:Q", title=axis, scale=alt.Scale(zero=none is not None))
    ours = [{**row, "source": "ours"} for row in rows if row["value"] is not None]
    paper = [{**row, "value": row["paper"]} for row in rows if row["paper"] is not None]
    signs = {"ours": "circle", "paper": "diamond", "paper: above": "triangle-right", "paper: below": "triangle-left"}
    signs = {name: sign for name, sign in signs.items() if name in {row["source"] for row in [*ours, *paper]}}
    shapes = alt.Shape("source:N", scale=alt.Scale(domain=list(signs), range=list(signs.values())))
    colours = [OURS if name == "ours" else PAPER for name in signs]
    coloured = alt.Color("source:N", scale=alt.Scale(domain=list(signs), range=colours))
    tips = tooltips(("name", ""), ("source", ""), ("value", "", ".2f"), ("low", "from", ".2f"), ("high", "to", ".2f"))
    layers: list[alt.Chart] = []
    if none is not None:
        upright = alt.Chart(alt.Data(values=[{"value": none}])).mark_rule(color=TEXT, opacity=0.5)
        layers.append(upright.encode(x=x))
    if spans := [row for row in ours if row["low"] is not None]:
        bars = alt.Chart(alt.Data(values=spans)).mark_rule(color=OURS, strokeWidth=2)
        layers.append(bars.encode(y=y, x=alt.X("low:Q", title=axis), x2="high:Q"))
    for values, filled, size in ((paper, False, 110), (ours, True, 80)):
        if values:
            marks = alt.Chart(alt.Data(values=values)).mark_point(filled=filled, size=size, strokeWidth=2, opacity=1)
            layers.append(marks.encode(y=y, x=x, shape=shapes, color=coloured, tooltip=tips))
    return alt.LayerChart(layer=layers).properties(height=max(60, 28 * len(names)))


def challenge_figure(winners: Sequence[Winner], ours: Sequence[Reproduction]) -> Figure:
    """The lecture's chart of ILSVRC's winners, with our reproductions as dots, one protocol at a time."""
    bars = [
        {"year": f"{w.year}|{w.name}", "name": w.name, "error": w.error, "note": w.note,
         "kind": "no deep network" if w.year < 2012 else "deep network"}
        for w in winners
    ]  # fmt: skip
    said = ["no deep network", "deep network", *(["ours"] if ours else [])]
    kinds = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=said, range=["var(--quiet)", OURS, PAPER]),
        legend=alt.Legend(columns=3),
    )
    years = {w.year: f"{w.year}|{w.name}" for w in winners}
    label = "width > 520 ? split(datum.value, '|') : split(datum.value, '|')[0]"
    x = alt.X("year:N", title=None, sort=list(years.values()), axis=alt.Axis(labelAngle=0, labelExpr=label))
    y = alt.Y("error:Q", title="top-5 error, %", scale=alt.Scale(domainMin=0))
    base = alt.Chart(alt.Data(values=bars))
    tips = tooltips(("name", "winner"), ("error", "top-5 error, %", ".2f"), ("note", ""))
    human = alt.Chart(alt.Data(values=[{"error": HUMAN, "text": f"one trained human, {HUMAN} %"}]))
    layers: list[alt.Chart] = [
        base.mark_bar(opacity=0.85, cornerRadiusEnd=2).encode(x=x, y=y, color=kinds, tooltip=tips),
        base.mark_text(dy=-8, color=TEXT, fontSize=12).encode(x=x, y=y, text=alt.Text("error:Q", format="~g")),
        human.mark_rule(strokeDash=[6, 4], color=TEXT, strokeWidth=1.5).encode(y=y),
        human.mark_text(align="right", dy=-8, color=TEXT, fontSize=12).encode(y=y, x=alt.value("width"), text="text:N"),
    ]
    views = sorted({one.view for one in ours})
    view, chosen = view_of(views)
    if ours:
        dots = [
            {"name": one.name, "year": years[one.year], "view": one.view, "error": one.error, "low": one.low,
             "high": one.high, "seeds": one.seeds, "kind": "ours"}
            for one in ours
        ]  # fmt: skip
        mine = alt.Chart(alt.Data(values=dots)).transform_filter(alt.datum.view == view)
        layers.append(
            mine.transform_filter("datum.low !== null")
            .mark_rule(color=PAPER, strokeWidth=2)
            .encode(x=x, y=alt.Y("low:Q", title="top-5 error, %"), y2="high:Q")
        )
        tips = tooltips(("name", "ours"), ("view", "protocol"), ("error", "top-5 error, %", ".2f"), ("seeds", ""))
        layers.append(
            mine.mark_point(filled=True, size=110, shape="diamond", stroke=TEXT, strokeWidth=1).encode(
                x=x, y=y, color=kinds, tooltip=tips
            )
        )
    dots_said = (
        "Diamonds: our networks, in the year their kind won or took part, on the validation set, under one protocol at "
        "a time, each with its 95 % confidence interval."
        if ours
        else "Ours: none yet. They will be shown as diamonds once ImageNet recipes have been run."
    )
    return Figure(
        title="ILSVRC classification, 2010 to 2017",
        caption="Bars: top-5 error of each year's winner on the test set. These are what teams entered in a "
        "competition, from 2012 on mostly ensembles of networks with many crops of each image, so a single network is "
        f"not expected to reach its bar. {dots_said}",
        spec=finish(alt.LayerChart(layer=layers).properties(height=320), chosen, title=title_of(views)),
        headers=("year", "who", "top-5 error %", "95 % interval", "what"),
        rows=[
            *[(str(w.year), w.name, f"{w.error:g}", "–", w.note) for w in winners],
            ("2014", "one trained human", f"{HUMAN:g}", "–", "Russakovsky et al. 2015"),
            *[
                (
                    str(o.year),
                    f"ours: {o.name}",
                    f"{o.error:.2f}",
                    interval(o.low, o.high),
                    f"{o.view}, {o.seeds} seeds",
                )
                for o in ours
            ],
        ],
        width="whole",
    )


# What the plots share -------------------------------------------------------------------------------------------------


def series_of(members: Sequence[tuple[str, str]]) -> list[str]:
    """What each member is coloured by: its name while there are colours for all, else its family."""
    names = {name for name, _ in members}
    return [name if len(names) <= MOST_SERIES else family for name, family in members]


def domain(series: Sequence[str]) -> list[str]:
    """The series in the order of the legend; beyond the colours there are, several share one."""
    return sorted(set(series))


def colour(series: Sequence[str], legend: Any = alt.Undefined) -> alt.Color:
    """A colour for each series."""
    return alt.Color("series:N", scale=alt.Scale(domain=domain(series), range=COLOURS), legend=legend)


def stroke_colour(series: Sequence[str]) -> alt.Color:
    """The same where lines are drawn, which its legend then shows."""
    return colour(series, LINES)


def dash(series: Sequence[str]) -> alt.StrokeDash:
    """A dash for each series."""
    return alt.StrokeDash("series:N", scale=alt.Scale(domain=domain(series), range=DASHES), legend=LINES)


def view_of(views: Sequence[str]) -> tuple[Any, tuple[Any, ...]]:
    """A parameter that holds the view that is shown, and what the chart must add: a menu if there are several."""
    if len(views) > 1:
        menu = alt.param(name="view", value=views[0], bind=alt.binding_select(options=list(views), name="shown: "))
    else:
        menu = alt.param(name="view", value=views[0] if views else "")
    return menu, (menu,)


def title_of(views: Sequence[str]) -> alt.Title | None:
    """The view that is shown, as the plot's own title, so that a picture of it says what it is."""
    return alt.Title(alt.expr("view")) if views else None


def finish(
    chart: alt.LayerChart,
    params: Sequence[Any],
    rows: Sequence[dict[str, Any]] = (),
    title: alt.Title | None = None,
    series: Sequence[str] = (),
) -> dict[str, Any]:
    """The specification, as wide as its place on the page; long names stand below each other in its legend.

    `rows` are what the chart calls by the name "rows": altair copies what it holds again and again.
    """
    if chart.height is alt.Undefined:
        chart = chart.properties(height=300)
    chart = chart.properties(width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    if title is not None:
        chart = chart.properties(title=title)
    columns = 1 if any(len(one) > 14 for one in series) else 2
    config = {**CONFIG, "legend": {**CONFIG["legend"], "columns": columns}}
    spec = chart.add_params(*params).properties(config=alt.Config(**config)).to_dict()
    return {**spec, "datasets": {**spec.get("datasets", {}), "rows": rounded(rows)}} if rows else spec


def tooltips(*fields: tuple[str, ...]) -> list[alt.Tooltip]:
    """Tooltips of (field, title, format); a title of "" is the field's name."""
    found = []
    for name, title, *form in fields:
        kind = "Q" if form else "N"
        found.append(alt.Tooltip(f"{name}:{kind}", title=title or name, format=form[0] if form else alt.Undefined))
    return found


def compared(
    name: str, value: float | None, low: float | None, high: float | None, published: str | None
) -> dict[str, Any]:
    """A line of `comparison_chart`; the paper's text is a number, or a bound such as `> 60`."""
    bound = (published or "").split(" ")[0]
    source = {">": "paper: above", "<": "paper: below"}.get(bound, "paper")
    paper = None if published is None else float(published.lstrip("<> "))
    return {"name": name, "value": value, "low": low, "high": high, "paper": paper, "source": source}


def bound_note(rows: Sequence[CellRow] | Sequence[ContrastRow]) -> str:
    """A word on triangles, where there are any."""
    if any(row.published and row.published[0] in "<>" for row in rows):
        return " A triangle points to the side of a bound, where the paper says no more."
    return ""


def ends(value: float | None, half: float | None) -> tuple[float | None, float | None]:
    """The interval around a value."""
    return (None, None) if value is None or half is None else (value - half, value + half)


def interval(low: float | None, high: float | None) -> str:
    """`1.20 to 1.40`, or a dash."""
    return "–" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def number(value: float) -> str:
    """12345.6 as `12 346`."""
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def rounded(values: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """With four digits behind the point at most: a plot shows no more, and the page is smaller."""
    return [{k: round(v, 4) if isinstance(v, float) and v > 0.01 else v for k, v in one.items()} for one in values]
