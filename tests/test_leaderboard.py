"""The table: means, intervals and ranks checked by hand or by scipy; the README's is the one the results give."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import leaderboard
from benchmarks.leaderboard import (
    BEGIN,
    COMMITTED,
    END,
    as_csv,
    as_json,
    as_markdown,
    as_table,
    build_rows,
    gather,
    runs_as,
)
from benchmarks.recipe import all_recipes
from benchmarks.results import Result, write_result
from benchmarks.run_rows import build_run_rows
from tests.test_results import make

RECIPES = list(all_recipes())
IDENTITIES = {recipe.name: recipe.identity for recipe in RECIPES}
README = Path(__file__).parent.parent / "README.md"


def runs(recipe: str, errors: Sequence[float], identity: str | None = None, **changes: object) -> list[Result]:
    """One result per error, in percent of 10 000 images."""
    identity = identity or IDENTITIES[recipe]
    return [
        make(
            recipe=recipe,
            identity=identity,
            seed=seed,
            errors={
                "1crop": {"top1_error": e, "top5_error": 0.0, "wrong1": round(100 * e), "wrong5": 0, "count": 10_000}
            },
            **changes,
        )
        for seed, e in enumerate(errors)
    ]


def test_mean_spread_and_interval() -> None:
    errors = [0.9, 1.0, 1.1, 0.8, 0.95]
    (row,) = build_rows(runs("mnist/lenet5", errors), RECIPES)
    assert row.error == pytest.approx(0.95)
    assert row.spread == pytest.approx(0.111803, abs=1e-6)
    low, high = stats.t.interval(0.95, 4, loc=0.95, scale=stats.sem(errors))
    assert row.interval == pytest.approx((high - low) / 2)
    assert (row.seeds, row.published, row.verdict, row.rank) == ([0, 1, 2, 3, 4], 0.95, "reproduced", 1)


def test_one_seed_has_no_interval_and_no_rank() -> None:
    (row,) = build_rows(runs("mnist/lenet5", [0.5]), RECIPES)
    assert (row.interval, row.spread, row.rank) == (None, None, None)
    assert row.verdict == "better than published"


def test_ranks_do_not_go_below_the_noise() -> None:
    found = [
        *runs("mnist/lenet5", [1.0, 1.1, 0.9]),
        *runs("mnist/mlp", [1.05, 1.15, 0.95]),  # not to be told apart from the first
        *runs("mnist/linear", [8.0, 8.1, 7.9]),
    ]
    ranks = {row.recipe: row.rank for row in build_rows(found, RECIPES)}
    assert ranks == {"mnist/lenet5": 1, "mnist/mlp": 1, "mnist/linear": 3}


def test_datasets_are_not_ranked_against_each_other() -> None:
    found = [*runs("mnist/linear", [8.0, 8.1]), *runs("digits/linear", [9.0, 9.1])]
    assert {row.rank for row in build_rows(found, RECIPES)} == {1}


def test_another_kind_of_a_dataset_is_a_table_of_its_own() -> None:
    """mnist/lenet1989 is tested on 2 007 digits of another size."""
    dataset = make().dataset
    found = [
        *runs("mnist/lenet5", [1.0, 1.1]),
        *runs("mnist/lenet1989", [3.0, 3.1], dataset=dataset | {"name": "mnist1989"}),
    ]
    assert {(row.dataset, row.recipe, row.rank) for row in build_rows(found, RECIPES)} == {
        ("mnist", "mnist/lenet5", 1), ("mnist1989", "mnist/lenet1989", 1),
    }  # fmt: skip
    assert [row.dataset for row in build_run_rows(found[1:3], RECIPES)] == ["mnist1989", "mnist"]


def test_identical_seeds_can_still_be_ranked() -> None:
    found = [*runs("mnist/lenet5", [1.0, 1.0]), *runs("mnist/mlp", [2.0, 2.0]), *runs("mnist/linear", [8.0, 8.1])]
    ranks = {row.recipe: row.rank for row in build_rows(found, RECIPES)}
    assert ranks == {"mnist/lenet5": 1, "mnist/mlp": 2, "mnist/linear": 3}


def test_changed_settings_are_shown_but_neither_judged_nor_ranked() -> None:
    changed = runs("mnist/lenet5", [0.1, 0.2], identity="another", overrides={"trainer.max_epochs": 2})
    rows = build_rows([*changed, *runs("mnist/lenet5", [0.9, 1.0])], RECIPES)
    assert [row.changed for row in rows] == ["", "max_epochs=2"]
    assert (rows[1].rank, rows[1].verdict, rows[1].published) == (None, "changed recipe", None)
    assert "mnist/lenet5 (max_epochs=2)" in as_table(rows)


def test_result_of_an_older_recipe_says_so() -> None:
    (row,) = build_rows(runs("mnist/lenet5", [0.9], identity="older"), RECIPES)
    assert row.changed == "recipe has changed since"
    (row,) = build_rows([make(recipe="mnist/gone")], RECIPES)
    assert row.changed == "recipe is not here"


def test_recipe_outside_the_suite_is_judged_by_its_own_claims() -> None:
    claim = {"value": 1.1, "protocol": "1crop", "tolerance": 0.2, "tolerance_reason": "a test", "where": "here"}
    (row,) = build_rows([make(recipe="custom/mine", published={"claims": [claim]})], RECIPES)
    assert (row.changed, row.published, row.verdict) == ("", 1.1, "reproduced")
    (row,) = build_rows([make(recipe="custom/mine", overrides={"trainer.max_epochs": 1})], RECIPES)
    assert (row.changed, row.verdict) == ("max_epochs=1", "changed recipe")


def test_formats_hold_the_same_rows() -> None:
    rows = build_rows(runs("mnist/lenet5", [0.9, 1.0]), RECIPES)
    assert json.loads(as_json(rows))[0]["error"] == pytest.approx(0.95)
    assert next(csv.DictReader(io.StringIO(as_csv(rows))))["recipe"] == "mnist/lenet5"
    assert "| mnist/lenet5 " in as_markdown(rows)
    assert "0.95 ± 0.64" in as_table(rows)  # t(1, 97.5 %) = 12.706; 12.706 * 0.0707 / sqrt(2) = 0.635


def test_runs_one_by_one_are_what_pandas_wants() -> None:
    """A flat table with a type for each column, from which the leaderboard's own numbers come out again."""
    pandas = pytest.importorskip("pandas")
    errors = [0.9, 1.0, 1.2]
    found = [
        *runs("mnist/lenet5", errors),
        *runs("mnist/lenet5", [0.1], "another", overrides={"trainer.max_epochs": 2}),
    ]
    rows = build_run_rows(found, RECIPES)
    table = pandas.read_csv(io.StringIO(runs_as("csv", rows)))
    means = table[table.current].groupby(["recipe", "protocol"]).top1_error.agg(["mean", "std", "count"])
    assert means.loc["mnist/lenet5", "1crop"].tolist() == pytest.approx([np.mean(errors), np.std(errors, ddof=1), 3])
    assert table.top1_error.dtype == float
    assert table.wrong1.dtype == int
    assert table.current.tolist() == [True, True, True, False]
    assert table.verdict.tolist() == ["reproduced"] * 2 + ["short by 0.25", "changed recipe"]
    assert table.overrides.dropna().tolist() == ['{"trainer.max_epochs": 2}']
    assert table.published.tolist()[:3] == [0.95] * 3
    again = pandas.DataFrame(json.loads(runs_as("json", rows)))
    assert again.top1_error.tolist() == table.top1_error.tolist()
    assert list(again) == list(table)


def test_runs_one_by_one_as_a_table(bench: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = bench("leaderboard", "--by-run", "--format", "md", "--dataset", "mnist", "--committed")
    assert status == 0
    lines = [line for line in out.splitlines() if "mnist/lenet5 " in line]
    assert len(lines) == 5
    assert "| 0.88 " in lines[0]
    assert "cifar10" not in out


def test_no_results_yet() -> None:
    assert "demo" in as_table([])
    assert as_markdown([]) == "No results yet."


def test_command_filters_and_names_broken_files(bench: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for result in [*runs("mnist/lenet5", [0.9, 1.0]), *runs("digits/linear", [9.0])]:
        folder = tmp_path / "runs" / result.recipe / result.identity / f"seed-{result.seed}"
        folder.mkdir(parents=True)
        write_result(folder / "result.json", result)
    (folder / "result.json").write_text("{")
    status, out, err = bench("leaderboard", "--dataset", "mnist", "--format", "json")
    assert status == 0
    assert {row["dataset"] for row in json.loads(out)} == {"mnist"}
    assert "skipped" in err
    assert str(folder) in err


def test_list_of_a_dataset_without_recipes_is_refused(bench: Callable[..., tuple[int, str, str]]) -> None:
    status, _, err = bench("list", "--dataset", "mnits")
    assert status == 2
    assert "--dataset (=mnits) has no recipes: there are some of cifar10, cifar100, digits, imagenet" in err


def test_list_names_every_recipe(bench: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = bench("list")
    assert status == 0
    assert all(recipe.name in out for recipe in RECIPES)
    assert "0.95 % top1, 1crop" in out


def test_writing_needs_marks(bench: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("no marks")
    status, _, err = bench("leaderboard", "--write", str(path))
    assert status == 2
    assert "must hold each of these lines once" in err
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert bench("leaderboard", "--write", str(path))[0] == 0
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text


def test_readme_table_is_fresh() -> None:
    text = README.read_text()
    table = text.split(BEGIN)[1].split(END)[0].strip()
    assert table == as_markdown(gather([COMMITTED])), "run `make docs`"


def test_mean_of_committed_lenet5_is_within_its_tolerance_of_the_paper() -> None:
    (row,) = [row for row in gather([COMMITTED]) if row.recipe == "mnist/lenet5"]
    assert len(row.seeds) >= 5
    assert row.verdict in ("reproduced", "better than published")


SAMPLES = (
    [1.0, 1.2, 1.1, 0.9],
    [1.4, 1.3, 1.6, 1.5],
    [1.12, 1.13],
    [1.0, 1.0],
    [0.95, 0.96, 0.94, 0.95, 0.95],
    [5.0, 0.1, 2.2],
)


@pytest.mark.parametrize("ours", SAMPLES, ids=str)
def test_intervals_and_tests_agree_with_scipy(ours: list[float]) -> None:
    low, high = stats.t.interval(0.95, len(ours) - 1, loc=np.mean(ours), scale=stats.sem(ours) or 1e-300)
    assert leaderboard.confidence(ours) == pytest.approx((high - low) / 2)
    for theirs in SAMPLES:
        if theirs is ours:
            continue
        with warnings.catch_warnings():  # scipy warns of rounding where all seeds of one side agree
            warnings.simplefilter("ignore", RuntimeWarning)
            p = stats.ttest_ind(ours, theirs, equal_var=False).pvalue
        assert leaderboard.welch(ours, theirs) == pytest.approx(p, rel=1e-9)
        assert leaderboard.proven_better(ours, theirs) is bool(p < 0.05 and np.mean(ours) < np.mean(theirs))


def test_samples_without_any_spread() -> None:
    assert leaderboard.welch([1.0, 1.0], [1.0, 1.0, 1.0]) == 1.0
    assert leaderboard.welch([1.0, 1.0], [2.0, 2.0]) == 0.0
    assert leaderboard.confidence([1.0, 1.0]) == 0.0
    assert leaderboard.confidence([1.0]) is None


def test_one_seed_stands_below_those_that_are_ranked_however_good_it_looks() -> None:
    found = [*runs("mnist/mlp", [0.1]), *runs("mnist/lenet5", [1.0, 1.1, 0.9]), *runs("mnist/linear", [8.0, 8.1])]
    rows = build_rows(found, RECIPES)
    assert [(row.recipe, row.rank) for row in rows] == [("mnist/lenet5", 1), ("mnist/linear", 2), ("mnist/mlp", None)]
    assert (rows[2].interval, rows[2].spread) == (None, None)


def test_nothing_shares_the_rank_of_what_is_proven_better_than_it() -> None:
    """Over random fields of up to 12 rows, with 1 to 5 seeds and spreads that differ a hundredfold."""
    names = [recipe.name for recipe in RECIPES if recipe.dataset == "cifar10"]
    draw = np.random.default_rng(0)
    shared = 0
    for _ in range(60):
        found = []
        for name in names[: draw.integers(2, 13)]:
            errors = draw.uniform(5, 6) + 10 ** draw.uniform(-3, -1) * draw.standard_normal(draw.integers(1, 6))
            found += runs(name, [round(error, 2) for error in errors.tolist()], IDENTITIES[name])
        rows = build_rows(found, RECIPES)
        rank = {row.recipe: row.rank for row in rows}
        errors_of = {name: [r.errors["1crop"]["top1_error"] for r in found if r.recipe == name] for name in rank}
        ranked = [name for name in rank if rank[name] is not None]
        assert {name for name in rank if len(errors_of[name]) == 1} == set(rank) - set(ranked)
        for better in ranked:
            for worse in ranked:
                if leaderboard.proven_better(errors_of[better], errors_of[worse]):
                    assert rank[better] < rank[worse]
        shared += len(ranked) - len({rank[name] for name in ranked})
    assert shared  # some are not told apart


def test_claims_in_a_file_decide_nothing_about_a_recipe_of_the_suite() -> None:
    claim = {"value": 5.0, "protocol": "1crop", "tolerance": 9.0, "tolerance_reason": "a lie", "where": "nowhere"}
    (row,) = build_rows(runs("mnist/lenet5", [3.0, 3.1], published={"claims": [claim]}), RECIPES)
    assert (row.published, row.verdict) == (0.95, "short by 2.10")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--write", "F", "--html", "G", "--dataset", "mnist"), "--dataset, --html does nothing with --write: use one"),
        (("--write", "F", "--from-wandb", "a/b"), "--from-wandb does nothing with --write: use one command each."),
        (("--html", "F", "--by-run", "--format", "csv"), "--by-run, --format does nothing with --html: use one"),
    ],
)
def test_nothing_is_ignored(bench: Callable[..., tuple[int, str, str]], options: tuple[str, ...], message: str) -> None:
    status, out, err = bench("leaderboard", *options)
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("form", [(), ("--by-run",)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dataset", "nope"), "--dataset (=nope) has no results: there are some of cifar10, digits"),
        (("--protocol", "nope"), "--protocol (=nope) has no results: there are some of "),
        (
            ("--dataset", "digits", "--protocol", "10crop"),
            "--protocol (=10crop) has no results on digits: there are some of 1crop.",
        ),
        (("--runs", "/nonexistent"), "there is no folder /nonexistent: name the folder of runs with --runs, or leave"),
    ],
)
def test_what_has_no_results_is_named(
    bench: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    options: tuple[str, ...],
    form: tuple[str, ...],
    message: str,
) -> None:
    for result in runs("digits/linear", [9.0]):
        folder = tmp_path / "runs" / result.recipe / result.identity / f"seed-{result.seed}"
        folder.mkdir(parents=True)
        write_result(folder / "result.json", result)
    status, out, err = bench("leaderboard", *options, *form)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")


def test_texts_from_elsewhere_do_not_break_a_table() -> None:
    hardware = {"device": "cpu", "name": "a | b", "cores": 2, "devices": 1, "nodes": 1}
    overrides = {"model.init_args.norm": "x|y\n\x1b[31m"}
    rows = build_rows(runs("mnist/lenet5", [0.9], "another", overrides=overrides, hardware=hardware), RECIPES)
    (line,) = [line for line in as_markdown(rows).splitlines() if "mnist/lenet5" in line]
    assert "norm=x\\|y  [31m" in line
    assert "2 cores of a \\| b" in line
