"""The W&B report: what it says comes from the results; the real client saves it at the test double, once."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.leaderboard import build_rows
from benchmarks.report import Content, as_sent, build_report, build_workspace, overview, sentences
from benchmarks.results import Result, write_result
from tests.test_leaderboard import IDENTITIES, RECIPES, runs
from tests.test_wandb_results import lenet, store
from tests.wandb_double import WandbDouble, for_this_process

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # wandb_workspaces' own
Bench = Callable[..., tuple[int, str, str]]
BY_NAME = {recipe.name: recipe for recipe in RECIPES}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbDouble]:
    """A W&B server with one run, which the client in this process talks to."""
    for name in ("WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    with for_this_process(monkeypatch) as double:
        store(double, "a", lenet(7, 1.0))
        yield double


def results() -> list[Result]:
    """LeNet-5 proven better than linear; an MLP with one seed; CIFAR under two protocols; changed settings."""
    return [
        *runs("mnist/lenet5", [0.9, 1.0, 1.1]),
        *runs("mnist/linear", [8.0, 8.1, 8.2]),
        *runs("mnist/mlp", [1.5]),
        *runs("mnist/lenet5", [0.5, 0.6], "another", overrides={"trainer.max_epochs": 2}),
        *runs("cifar10/resnet20", [8.0, 9.0]),
        *runs("cifar10/resnet56", [8.2, 8.8]),
    ]


def spec() -> dict[str, Any]:
    content = Content.of(results(), RECIPES)
    return as_sent(build_report("team", "p", content), build_workspace("team", "p", content))


def texts(blocks: list[dict[str, Any]]) -> list[str]:
    return [block.get("content") or block["children"][0]["text"] for block in blocks]


def test_what_is_said_of_results() -> None:
    rows = [row for row in build_rows(results(), RECIPES) if row.dataset == "mnist"]
    assert sentences(rows, BY_NAME).splitlines() == [
        # 1.0: t(2, 97.5 %) * 0.1 / sqrt(3) = 4.303 * 0.0577 = 0.248
        "- mnist/lenet5: 1.00 ± 0.25 % over 3 seeds under 1crop, published 0.95 % (LeCun, Bottou, Bengio, Haffner 1998"
        ", Gradient-Based Learning Applied to Document Recognition; section III.B and Figure 9, 60 000 training "
        "patterns without distortion): **reproduced**.",
        "- mnist/linear: 8.10 ± 0.25 % over 3 seeds under 1crop, published 12.00 % (LeCun, Bottou, Bengio, Haffner "
        "1998, Gradient-Based Learning Applied to Document Recognition; section III.C.1, linear classifier on the "
        "regular data): **better than published**.",
        "- mnist/mlp: 1.50 % over 1 seed under 1crop, published 4.70 % (LeCun, Bottou, Bengio, Haffner 1998, "
        "Gradient-Based Learning Applied to Document Recognition; Figure 9 and section III.C.5 (the section from "
        "memory), 28x28-300-10 on the regular data): **better than published**.",
        "- Proven better than all others that have several seeds: mnist/lenet5 (Welch's test, 5 %).",
        "- One seed, and so neither interval nor rank: mnist/mlp.",
        "- Other settings than the recipe's as it is now, neither ranked nor judged: mnist/lenet5.",
    ]
    rows = [row for row in build_rows(results(), RECIPES) if row.dataset == "cifar10"]
    assert sentences(rows, BY_NAME).splitlines()[-1] == (
        "- Nothing is proven better than cifar10/resnet20, cifar10/resnet56 (Welch's test, 5 %)."
    )


def test_overview_counts_every_published_number_once() -> None:
    said = overview(Content.of(results(), RECIPES)).splitlines()
    claims = sum(len(recipe.published.claims) for recipe in RECIPES)
    assert said[0] == "13 runs of 5 recipes, the newest finished 2026-01-01T00:00:00Z."
    # resnet20 has 8.5 of 8.75, resnet56 8.5 of 6.97
    assert (
        said[2]
        == f"Of {claims} published numbers: 2 reproduced, 2 better than published, 1 short, {claims - 5} not run."
    )
    assert overview(Content.of([], RECIPES)).startswith("There are no results yet.")


def test_report_has_a_part_for_each_dataset_with_its_runs() -> None:
    blocks = spec()["report"]["spec"]["blocks"]
    headings = [text for block, text in zip(blocks, texts(blocks), strict=True) if block["type"] == "heading"]
    assert headings == ["cifar10", "top-1 error, 1crop", "mnist", "top-1 error, 1crop"]
    assert any("| mnist/lenet5 (max_epochs=2) |" in text for text in texts(blocks))
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    assert len(grids) == 2
    (shown,) = grids[1]["runSets"]
    assert shown["name"] == "mnist"
    assert shown["grouping"] == [{"section": "config", "name": "recipe.value"}]
    wanted = {(one["key"]["name"], one["op"]): one["value"] for one in shown["filters"]["filters"]}
    assert wanted["state", "="] == "finished"
    counted = wanted["identity", "IN"]
    assert IDENTITIES["mnist/lenet5"] in counted
    assert "another" not in counted
    panels = grids[1]["panelBankSectionConfig"]["panels"]
    assert [panel["viewType"] for panel in panels] == [
        "Bar Chart", "Scatter Plot", "Run History Line Plot", "Run History Line Plot", "Run Comparer",
    ]  # fmt: skip
    assert panels[0]["config"]["metrics"] == ["summary_metrics.top1_error_1crop"]
    assert panels[0]["config"]["groupBy"] == "recipe.value"
    assert panels[2]["config"]["metrics"] == ["val/top1_error"]
    places = [tuple(panel["layout"].values()) for panel in panels]
    assert len(set(places)) == len(places)


def test_another_kind_of_a_dataset_is_a_part_of_its_own() -> None:
    """Its runs are on no plot of the dataset whose folder its recipe lies in."""
    found = [replace(one, dataset={"name": "mnist1989"}) for one in runs("mnist/lenet1989", [3.0, 3.1])]
    content = Content.of([*found, *runs("mnist/lenet5", [0.9, 1.0])], RECIPES)
    assert content.datasets == ["mnist", "mnist1989"]
    assert content.identities("mnist1989") == [IDENTITIES["mnist/lenet1989"]]
    assert IDENTITIES["mnist/lenet1989"] not in content.identities("mnist")
    assert {IDENTITIES["mnist/lenet5"], IDENTITIES["mnist/lenet4"]} <= set(content.identities("mnist"))


def test_protocols_have_panels_and_tables_of_their_own() -> None:
    errors = {"top1_error": 8.0, "top5_error": 1.0, "wrong1": 800, "wrong5": 100, "count": 10_000}
    both = {"10crop": errors, "1crop": errors}
    found = [Result(**{**vars(result), "errors": both}) for result in runs("imagenet/resnet50", [8.0, 8.0])]
    content = Content.of(found, RECIPES)
    blocks = build_report("team", "p", content)._to_model().spec.model_dump(by_alias=True)["blocks"]
    headings = [block["children"][0]["text"] for block in blocks if block["type"] == "heading"]
    assert headings[0] == "imagenet"
    assert {"top-1 error, 10crop", "top-1 error, 1crop"} <= set(headings[1:])
    (grid,) = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    bars = [
        panel["config"]["metrics"]
        for panel in grid["panelBankSectionConfig"]["panels"]
        if panel["viewType"] == "Bar Chart"
    ]
    assert len(bars) == len(headings) - 1
    assert ["summary_metrics.top1_error_10crop"] in bars
    assert all(len(metrics) == 1 for metrics in bars)


def test_columns_and_metrics_are_those_that_runs_are_logged_with() -> None:
    from benchmarks import wandb_run

    result = lenet(0, 1.0, published={"claims": [vars(claim) for claim in BY_NAME["mnist/lenet5"].published.claims]},
                   seconds={"total": 1.0, "train": 1.0})  # fmt: skip
    logged = {f"summary:{key}" for key in wandb_run.summary_of(result)}
    logged |= {f"config:{key}.value" for key in wandb_run.config_of(vars(result))} | {"run:displayName"}
    text = json.dumps(spec())
    from benchmarks.report import COLUMNS

    assert set(COLUMNS) <= logged
    assert "summary:images_per_s" in text
    assert {"summary:top1_error_1crop", "summary:images_per_s"} <= logged


def test_same_results_give_the_same_json_without_network(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("benchmarks.report.COMMITTED", tmp_path / "none")
    for result in results():
        folder = tmp_path / "runs" / result.recipe / result.identity / f"seed-{result.seed}"
        folder.mkdir(parents=True)
        write_result(folder / "result.json", result)
    status, out, err = bench("report", "team/p", "--dry-run")
    assert (status, err) == (0, "")
    assert bench("report", "--dry-run", "team/p") == (0, out, "")
    found = json.loads(out)
    assert (found["entity"], found["project"]) == ("team", "p")
    assert [section["name"] for section in found["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]] == [
        "cifar10", "mnist",
    ]  # fmt: skip
    assert not (tmp_path / "runs" / "wandb-views.json").exists()


def test_saving_twice_updates_one_report(bench: Bench, server: WandbDouble, tmp_path: Path) -> None:
    status, out, err = bench("report", "team/p")
    assert status == 0, err
    first, second = server.saves
    assert {server.views[first]["type"], server.views[second]["type"]} == {"runs", "project-view"}
    lines = out.splitlines()
    assert lines[0].startswith(f"report: {server.url}/team/p/reports/")
    assert lines[0].endswith(first)
    assert lines[1].startswith(f"workspace: {server.url}/team/p?nw=")
    sent = json.loads(server.views[first]["spec"])
    assert any("seed" in text and "mnist/lenet5" in text for text in texts(sent["blocks"]))
    assert "over 6 seeds" in json.dumps(sent)  # five that are committed, and the one at W&B
    kept = json.loads((tmp_path / "runs" / "wandb-views.json").read_text())
    assert kept["team/p"]["report"] == first
    assert kept["team/p"]["workspace"] == second

    status, again, _ = bench("report", "team/p")
    assert (status, again) == (0, out)
    assert server.saves == [first, second, first, second]
    assert len(server.views) == 2

    server.views.clear()  # somebody removed them
    status, again, _ = bench("report", "team/p")
    assert status == 0
    assert len(server.views) == 2
    assert server.unanswered == []


def test_what_goes_wrong_is_said(bench: Bench, server: WandbDouble, tmp_path: Path) -> None:
    status, out, err = bench("report", "p")
    assert (status, err) == (2, "error: the W&B project (=p) must be ENTITY/PROJECT, such as my-team/ilsvrc-bench.\n")
    server.fail("upsertView", 403)
    status, out, err = bench("report", "team/p")
    assert (status, out) == (2, "")
    assert err.startswith("error: W&B did not take the report (")
    assert err.endswith("give the command again.\n")
    assert "\n" not in err.strip()
    server.heal()
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs" / "wandb-views.json").write_text("[1]")
    status, _, err = bench("report", "team/p")
    assert status == 2
    assert "wandb-views.json cannot be read" in err
    server.keys.clear()
    status, _, err = bench("report", "team/p")
    assert status == 2
    assert "refuses the key" in err


def test_filter_is_what_w_and_b_reads() -> None:
    """Its grammar is Python's, with `=` for equality and `in` for lists."""
    from benchmarks.report import filters

    text = filters("mnist", Content.of(results(), RECIPES))
    listed = text.partition(" in ")[2]
    assert len(ast.literal_eval(listed)) == sum(recipe.dataset == "mnist" for recipe in RECIPES)
