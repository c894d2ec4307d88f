"""`python -m benchmarks report [ENTITY/PROJECT]`: the results as a W&B report, and a workspace to look into the runs.

Every number and sentence is the suite's, from result files: W&B's own grouped plots draw a sample of the runs, know
no confidence intervals and rank whatever one asks them to. Its panels are beside the text, to look closer: run sets are
one for each dataset, with the runs of the recipes as they are now, grouped by recipe; errors of different protocols are
in different panels.

The report and the workspace are built without asking W&B anything, and the same results give the same JSON. Which ones
they are at W&B is kept in the folder of runs, in `wandb-views.json`, so that saving again updates them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.leaderboard import FOOTNOTE, Row, build_rows, gather_results, markdown_table
from benchmarks.published import verdict
from benchmarks.recipe import Recipe, all_recipes
from benchmarks.results import COMMITTED, Result
from benchmarks.runs import RunError, runs_root
from datamodules.files import write_whole

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import PanelGrid, Report
    from wandb_workspaces.workspaces import Workspace

TITLE = "Results of the ILSVRC era, trained again"
VIEWS = "wandb-views.json"


def report(options: argparse.Namespace) -> int:
    """`python -m benchmarks report`.

    Raises:
        RunError: wandb-workspaces is not there, or W&B cannot be reached; `--dry-run` needs no W&B.
    """
    check_installed()
    folders = [COMMITTED, runs_root(options.runs)]
    entity, project = place_of(options.project, asking=not options.dry_run)
    if not options.dry_run:
        from benchmarks.wandb_results import fetch

        folders.append(fetch(f"{entity}/{project}"))
    recipes = list(all_recipes())
    found = gather_results(folders)
    content = Content.of(found, recipes)
    built = build_report(entity, project, content), build_workspace(entity, project, content)
    if options.dry_run:
        print(json.dumps(as_sent(*built), indent=1))
        return 0
    for name, url in save(*built, runs_root(options.runs) / VIEWS).items():
        print(f"{name}: {url}")
    return 0


def check_installed() -> None:
    """The library that builds reports must be there.

    Raises:
        RunError: it is not.
    """
    try:
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError as error:
        raise RunError(f"reports need wandb-workspaces ({error}): pip install -e '.[report]'") from None


def place_of(text: str | None, asking: bool) -> tuple[str, str]:
    """Entity and project that `text` names, or else the environment, or else, if it may be asked, W&B.

    Raises:
        RunError: `text` is not ENTITY/PROJECT.
    """
    from benchmarks.wandb_run import PROJECT

    project = os.environ.get("WANDB_PROJECT") or PROJECT
    if text:
        entity, slash, project = text.partition("/")
        if not slash or not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
            raise RunError(f"the W&B project (={text}) must be ENTITY/PROJECT, such as my-team/ilsvrc-bench.")
        return entity, project
    entity = os.environ.get("WANDB_ENTITY") or ""
    if not entity and asking:
        import wandb

        from benchmarks.wandb_results import check_access

        check_access(project)
        entity = wandb.Api(timeout=30).default_entity or ""
    return entity or "ENTITY", project


# What is said ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Content:
    """Results as a report tells them.

    Args:
        rows: of all results, best first within dataset, protocol and metric.
        recipes: of the suite.
        runs: how many results there are.
        newest: when the last of them was finished.
    """

    rows: list[Row]
    recipes: list[Recipe]
    runs: int
    newest: str

    @classmethod
    def of(cls, found: Sequence[Result], recipes: Sequence[Recipe]) -> Content:
        """The content of these results."""
        newest = max((result.finished for result in found), default="")
        return cls(build_rows(found, recipes), list(recipes), len(found), newest)

    @property
    def datasets(self) -> list[str]:
        """Those with results."""
        return sorted({row.dataset for row in self.rows})

    def of_dataset(self, dataset: str) -> list[Row]:
        """The rows of one dataset."""
        return [row for row in self.rows if row.dataset == dataset]

    def identities(self, dataset: str) -> list[str]:
        """Hashes of the settings that count: the recipes as they are now, and those outside the suite that were run."""
        ours = {recipe.identity for recipe in self.recipes if recipe.dataset == dataset}
        ours -= {row.identity for row in self.rows if row.dataset != dataset}  # of another kind: mnist1989
        return sorted(ours | {row.identity for row in self.of_dataset(dataset) if not row.changed})


def overview(content: Content) -> str:
    """What there is, and how many published numbers are reproduced."""
    judged = Counter[str]()
    rows = {(row.recipe, row.protocol, row.metric): row for row in content.rows if not row.changed}
    for recipe in content.recipes:
        for claim in recipe.published.claims:
            row = rows.get((recipe.name, claim.protocol, claim.metric))
            said = row.verdict if row else verdict(claim, [], any(key[0] == recipe.name for key in rows))
            judged[said.partition(" by ")[0]] += 1
    recipes = len({row.recipe for row in content.rows})
    lines = [f"{count(content.runs, 'run')} of {count(recipes, 'recipe')}, the newest finished {content.newest}."]
    if not content.runs:
        lines = ["There are no results yet."]
    order = ("reproduced", "better than published", "short", "other protocol", "not run")
    told = [f"{judged[name]} {name}" for name in order if judged[name]]
    lines.append(f"Of {count(sum(judged.values()), 'published number')}: {', '.join(told)}.")
    lines.append(
        "*Reproduced*: the mean over seeds is within the tolerance that the recipe states, or within three standard "
        "errors where the source gives the spread of its runs and that is more; *short*: worse than that. "
        "A verdict holds our error against the paper's under the paper's own protocol, and numbers under different "
        "protocols are never ranked together. The numbers and sentences of this report come from the suite's result "
        "files; the panels below them are W&B's own view of the same runs."
    )
    return "\n\n".join(lines)


def by_measure(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that may be compared with each other, by what was measured: `top-1 error, 10crop`."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{'top-5' if row.metric == 'top5_error' else 'top-1'} error, {row.protocol}", []).append(row)
    return found


def sentences(field: Sequence[Row], recipes: dict[str, Recipe]) -> str:
    """What results under one protocol and metric say, as a list: verdicts, then what the noise lets be ranked."""
    lines = [judged(row, recipes.get(row.recipe)) for row in field if row.published is not None]
    return "\n".join(f"- {line}" for line in [*lines, *ranking(field)])


def judged(row: Row, recipe: Recipe | None) -> str:
    """`mnist/lenet5: 0.89 ± 0.10 % over 5 seeds, published 0.95 % (LeCun et al., Fig. 9): **reproduced**.`"""
    claims = recipe.published.claims if recipe else []
    claim = next((one for one in claims if (one.protocol, one.metric) == (row.protocol, row.metric)), None)
    source = f" ({recipe.published.paper}; {claim.where})" if recipe and claim else ""
    return (
        f"{escaped(row.recipe)}: {measured(row)} under {row.protocol}, published {row.published:.2f} %"
        f"{escaped(source)}: **{row.verdict}**."
    )


def measured(row: Row) -> str:
    """`0.89 ± 0.10 % over 5 seeds`."""
    spread = f" ± {row.interval:.2f}" if row.interval is not None else ""
    return f"{row.error:.2f}{spread} % {'top-5 ' * (row.metric == 'top5_error')}over {count(len(row.seeds), 'seed')}"


def ranking(field: Sequence[Row]) -> list[str]:
    """What can be said of the order of rows under one protocol and metric."""
    first = [row for row in field if row.rank == 1]
    others = [row for row in field if row.rank is not None and row.rank > 1]
    single = [row for row in field if row.rank is None and not row.changed]
    changed = [row for row in field if row.changed]
    lines = []
    if len(first) == 1 and others:
        lines.append(f"Proven better than all others that have several seeds: {names(first)} (Welch's test, 5 %).")
    elif len(first) > 1:
        beaten = f" Proven worse than one of these: {names(others)}." if others else ""
        lines.append(f"Nothing is proven better than {names(first)} (Welch's test, 5 %).{beaten}")
    if single:
        lines.append(f"One seed, and so neither interval nor rank: {names(single)}.")
    if changed:
        lines.append(f"Other settings than the recipe's as it is now, neither ranked nor judged: {names(changed)}.")
    return lines


def names(rows: Iterable[Row]) -> str:
    """Recipes, one after the other."""
    return ", ".join(dict.fromkeys(escaped(row.recipe) for row in rows))


def count(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}{'s' * (number != 1)}"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


# The report -----------------------------------------------------------------------------------------------------------


def build_report(entity: str, project: str, content: Content) -> Report:
    """The report; nothing is asked of W&B."""
    import wandb_workspaces.reports.v2 as wr

    by_name = {recipe.name: recipe for recipe in content.recipes}
    blocks: list[Any] = [wr.MarkdownBlock(overview(content)), wr.TableOfContents()]
    for dataset in content.datasets:
        rows = content.of_dataset(dataset)
        blocks.append(wr.H2(dataset))
        for measure, field in by_measure(rows).items():
            blocks += [wr.H3(measure), wr.MarkdownBlock(markdown_table(field))]
            if said := sentences(field, by_name):
                blocks.append(wr.MarkdownBlock(said))
        blocks.append(build_grid(dataset, content))
    if content.datasets:
        blocks.append(wr.MarkdownBlock(FOOTNOTE))
    return wr.Report(
        entity=entity,
        project=project,
        title=TITLE,
        description="Generated by `python -m benchmarks report`, which writes it anew: what is edited here is lost.",
        blocks=blocks,
        width="fluid",
    )


COLUMNS = (
    "run:displayName", "config:recipe.value", "config:seed.value", "summary:error", "summary:published",
    "summary:delta", "summary:verdict", "config:parameters.value", "summary:images_per_s", "summary:device",
    "summary:hours", "config:commit.value",
)  # fmt: skip


def build_grid(dataset: str, content: Content) -> PanelGrid:
    """The panels of one dataset, above its table of runs."""
    import wandb_workspaces.reports.v2 as wr

    chosen = wr.Runset(
        name=dataset,
        filters=filters(dataset, content),
        groupby=["config.recipe"],
        order=[wr.OrderBy(wr.SummaryMetric("error"), ascending=True)],
        pinned_columns=list(COLUMNS[:1]),
        visible_columns=list(COLUMNS),
        column_order=list(COLUMNS),
        lock_columns=True,
    )
    panels = build_panels(dataset, content)
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=12 * (number % 2), y=8 * (number // 2), w=12, h=8)
    return numbered(wr.PanelGrid(runsets=[chosen], panels=panels), dataset)


def filters(dataset: str, content: Content) -> str:
    """Finished runs of a dataset whose settings count: a recipe's as it is now."""
    listed = ", ".join(repr(identity) for identity in content.identities(dataset))
    return f"State = 'finished' and Config('identity') in [{listed}]"


def build_panels(dataset: str, content: Content) -> list[Any]:
    """Errors of each protocol and metric by recipe and against throughput, curves, and what differs between runs."""
    import wandb_workspaces.reports.v2 as wr

    panels: list[Any] = []
    recipe = wr.Config("recipe")
    for protocol, metric in sorted({(row.protocol, row.metric) for row in content.of_dataset(dataset)}):
        key = wr.SummaryMetric(f"{metric}_{re.sub(r'[^a-zA-Z0-9_]', '_', protocol)}")
        name = f"{'top-5' if metric == 'top5_error' else 'top-1'} error, {protocol}, %"
        panels += [
            wr.BarPlot(
                title=f"{dataset}: {name}: mean, lowest and highest seed",
                metrics=[key],
                groupby=recipe,
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
                max_bars_to_show=60,
            ),
            wr.ScatterPlot(
                title=f"{dataset}: {name}, against training images/s",
                x=wr.SummaryMetric("images_per_s"),
                y=key,
                log_x=True,
            ),
        ]
    for metric, name in (("val/top1_error", "top-1 error in validation, %"), ("train/loss", "training loss")):
        panels.append(
            wr.LinePlot(
                title=f"{dataset}: {name}, by epoch",
                x="epoch",
                y=[metric],
                groupby=recipe,
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
                max_runs_to_show=60,
            )
        )
    return [*panels, wr.RunComparer(diff_only="split")]


def numbered(grid: PanelGrid, name: str) -> PanelGrid:
    """The grid with ids that are the same every time, instead of W&B's random ones."""
    for number, runset in enumerate(grid.runsets):
        runset._id = f"{name}-runs-{number}"
    for number, panel in enumerate(grid.panels):
        panel._id = f"{name}-panel-{number}"
    return grid


def build_workspace(entity: str, project: str, content: Content) -> Workspace:
    """A view of the project's runs: a section of panels for each dataset, runs grouped by dataset and recipe."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    sections: list[Any] = []
    for dataset in content.datasets:
        panels = build_panels(dataset, content)[:-1]
        for number, panel in enumerate(panels):
            panel._id = f"{dataset}-workspace-panel-{number}"
        sections.append(ws.Section(name=dataset, panels=panels, is_open=not sections))
    view = ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=ws.RunsetSettings(
            groupby=[expr.Config("dataset"), expr.Config("recipe")],
            order=[expr.Ordering(expr.Summary("error"), ascending=True)],
            pinned_columns=[column for column in COLUMNS if column != "config:recipe.value"],
        ),
    )
    view._internal_runset_id = "all-runs"
    return view


def as_sent(built: Report, view: Workspace) -> dict[str, Any]:
    """What W&B is sent of them: names, and the specifications as JSON."""
    models = {"report": built._to_model(), "workspace": view._to_model()}
    specs = {
        name: json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True)) for name, model in models.items()
    }
    return {
        "entity": built.entity,
        "project": built.project,
        "report": {"title": built.title, "description": built.description, "spec": specs["report"]},
        "workspace": {"title": view.name, "spec": specs["workspace"]},
    }


# At W&B ---------------------------------------------------------------------------------------------------------------


def save(built: Report, view: Workspace, path: Path) -> dict[str, str]:
    """Save both at W&B, in the place of those that `path` says are there. Their addresses.

    Raises:
        RunError: W&B does not take them.
    """
    key = f"{built.entity}/{built.project}"
    views = read_views(path)
    known = views.get(key, {})
    try:
        if exists(known.get("report", "")):
            built.id = known["report"]
        if exists(known.get("workspace", "")):
            view._internal_id, view._internal_name = known["workspace"], known["workspace_name"]
        built.save()
        keep(path, views | {key: known | {"report": built.id}})
        view.save()
    except Exception as error:  # whatever the client raises
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RunError(f"W&B did not take the report ({why}): give the command again.") from error
    keep(
        path, views | {key: {"report": built.id, "workspace": view._internal_id, "workspace_name": view._internal_name}}
    )
    return {"report": built.url, "workspace": view.url}


def exists(name: str) -> bool:
    """Whether W&B still has the report or workspace of this id."""
    if not name:
        return False
    import wandb
    from wandb_workspaces._graphql import execute_graphql
    from wandb_workspaces.reports.v2 import gql

    return execute_graphql(wandb.Api(timeout=30), gql.view_report, {"reportId": name}).get("view") is not None


def read_views(path: Path) -> dict[str, dict[str, str]]:
    """Which report and workspace each project has, by what was saved from here.

    Raises:
        RunError: the file is something else; without it another report would be made.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: {name: str(value) for name, value in views.items()} for key, views in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path} cannot be read ({error}): remove it, and new views are made.") from None


def keep(path: Path, views: dict[str, dict[str, str]]) -> None:
    """Write which report and workspace each project has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(views, indent=1) + "\n")
