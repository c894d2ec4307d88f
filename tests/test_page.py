"""The page: its numbers against scipy and cases done by hand, its text in a parser, its behaviour in a browser."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import random
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmarks import page, page_data
from benchmarks.callbacks import EpochTable
from benchmarks.curves import Curve, mean_curve, read_curves, thinned
from benchmarks.page_data import Content, build_points, gather, pareto_front, tally
from benchmarks.recipe import all_recipes, find_recipe, load_recipe
from benchmarks.results import COMMITTED, Result, write_result
from tests.browser import NoBrowserError, requests, running_browser
from tests.test_leaderboard import runs
from tests.test_results import make

pytest.importorskip("altair", reason="needs the extra: pip install -e '.[report]'")

HOSTILE = "<script>window.broken = 1</script>\"'><img src=x onerror=alert(1)>"


class Reader(HTMLParser):
    """Counts the elements of a page and notes what stands in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.within: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.within and tag == self.within[-1]:
            self.within.pop()

    def handle_data(self, data: str) -> None:
        if not self.within:
            self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def place(root: Path, result: Result, epochs: int = 0, slope: float = 1.0) -> Path:
    """Write a result as `fit` does, with a metrics.csv whose error falls from 90 % by `slope` an epoch."""
    folder = root / result.recipe / result.identity / f"seed-{result.seed}"
    folder.mkdir(parents=True)
    write_result(folder / "result.json", result)
    if epochs:
        with open(folder / "metrics.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, EpochTable.COLUMNS, restval="0")
            writer.writeheader()
            for epoch in range(epochs):
                error = 90 - slope * epoch
                row = {"epoch": epoch, "train/top1_error": error + 1, "val/top1_error": error, "perf/train": 36.0}
                writer.writerow(row)
    return folder


def content_of(root: Path, *results: Result) -> Content:
    for result in results:
        place(root, result)
    return gather([root])


# Statistics -----------------------------------------------------------------------------------------------------------


def test_front_has_only_proven_steps() -> None:
    cheap, dearer, dearest = [9.0, 9.1, 8.9], [8.95, 9.05, 9.0], [5.0, 5.2, 4.8]
    assert stats.ttest_ind(dearer, cheap, equal_var=False).pvalue > 0.05
    assert stats.ttest_ind(dearest, cheap, equal_var=False).pvalue < 0.05
    assert pareto_front([(1, cheap), (2, dearer), (3, dearest)]) == [True, False, True]
    assert pareto_front([(3, cheap), (2, dearer), (1, dearest)]) == [False, False, True]


def test_single_seed_is_on_no_front_and_blocks_none() -> None:
    assert pareto_front([(1, [0.1]), (2, [5.0, 5.1])]) == [False, True]
    assert pareto_front([(1, [0.1])]) == [False]
    assert pareto_front([]) == []


def test_of_equal_costs_the_better_one_is_on_the_front() -> None:
    assert pareto_front([(1, [5.0, 5.1, 5.2]), (1, [3.0, 3.1, 3.2])]) == [False, True]


def test_intervals_are_students(tmp_path: Path) -> None:
    errors = [23.5, 24.1, 24.0, 23.7]
    content = content_of(tmp_path, *runs("cifar10/resnet20", errors))
    (point,) = build_points(content.entries, lambda entry: entry.row.parameters)
    low, high = stats.t.interval(0.95, 3, loc=sum(errors) / 4, scale=stats.sem(errors))
    assert (point.low, point.high) == (pytest.approx(low), pytest.approx(high))


def test_single_seed_has_neither_interval_nor_rank_and_is_pale(tmp_path: Path) -> None:
    content = content_of(tmp_path, *runs("mnist/lenet5", [0.01]), *runs("mnist/mlp", [1.5, 1.6]))
    (point,) = [p for p in build_points(content.entries, lambda entry: entry.row.parameters) if p.name == "lenet5"]
    assert (point.low, point.high, point.front) == (None, None, False)
    single, ranked = sorted(content.entries, key=lambda entry: len(entry.errors))
    texts = [cell.text for cell in page.cells(single, {})]
    assert "0.01" in texts
    assert single.row.rank is None
    assert page.is_quiet(single)
    assert ranked.row.rank == 1


def test_views_hold_one_protocol_one_metric_and_for_rates_one_device(tmp_path: Path) -> None:
    counted = {"top1_error": 30.0, "top5_error": 10.0, "wrong1": 3000, "wrong5": 1000, "count": 10_000}
    both = {"1crop": counted, "10crop": counted}
    gpu = {"device": "cuda", "name": "a GPU", "cores": 2, "devices": 4, "nodes": 1}
    results = [dataclasses.replace(one, errors=both) for one in runs("imagenet/resnet50", [30.0, 30.0])]
    results += [dataclasses.replace(one, errors=both, hardware=gpu) for one in runs("imagenet/resnet101", [30.0, 30.0])]
    content = content_of(tmp_path, *results)
    assert {entry.measure for entry in content.entries} == {
        "1crop, top-1", "1crop, top-5", "10crop, top-1", "10crop, top-5",
    }  # fmt: skip
    by_size = build_points(content.entries, lambda entry: entry.row.parameters)
    by_rate = build_points(content.entries, lambda entry: entry.row.images_per_s, rate=True)
    assert {p.view for p in by_size} == {entry.measure for entry in content.entries}
    assert len({p.view for p in by_rate}) == 2 * len({p.view for p in by_size})
    assert {p.view for p in by_rate if p.name == "resnet101"}.isdisjoint(
        p.view for p in by_rate if p.name == "resnet50"
    )


def test_higher_rates_are_cheaper(tmp_path: Path) -> None:
    fast = runs("mnist/linear", [8.0, 8.1], throughput={"images_per_s": 100.0})
    slow = runs("mnist/lenet5", [1.0, 1.1], throughput={"images_per_s": 10.0})
    useless = runs("mnist/mlp", [9.0, 9.1], throughput={"images_per_s": 5.0})
    content = content_of(tmp_path, *fast, *slow, *useless)
    points = build_points(content.entries, lambda entry: entry.row.images_per_s, rate=True)
    assert {p.name: p.front for p in points} == {"linear": True, "lenet5": True, "mlp": False}


def test_changed_settings_are_in_the_table_and_in_no_comparison(tmp_path: Path) -> None:
    changed = runs("mnist/lenet5", [0.1, 0.2], identity="another", overrides={"trainer.max_epochs": 2})
    content = content_of(tmp_path, *changed)
    assert content.entries[0].row.changed == "max_epochs=2"
    assert build_points(content.entries, lambda entry: entry.row.parameters) == []
    assert tally(content.claims)["reproduced"] == tally(content.claims)["better than published"] == 0


def test_claims_are_counted_once_each(tmp_path: Path) -> None:
    claims = [claim for recipe in all_recipes() for claim in recipe.published.claims]
    content = content_of(tmp_path, *runs("mnist/lenet5", [0.95, 0.95]), *runs("imagenet/resnet50", [30.0]))
    counts = tally(content.claims)
    assert sum(counts.values()) == len(claims) == len(content.claims)
    assert counts["reproduced"] == 1
    resnet = [claim for claim in content.claims if claim.recipe == "imagenet/resnet50"]
    kinds = {claim.measure: claim.kind for claim in resnet}
    assert kinds["1crop, top-1"] == "short"
    assert kinds["10crop, top-1"] == "other protocol"
    assert {c.verdict for c in resnet if c.kind == "short"} >= {"short by 5.30"}


# Curves ---------------------------------------------------------------------------------------------------------------


def test_mean_curve_by_hand() -> None:
    one = Curve(("r", "i", 0), [50.0, 40.0, 30.0], [45.0, None, 25.0], [1.0, 2.0, 3.0])
    two = Curve(("r", "i", 1), [52.0, 42.0, 32.0], [47.0, 37.0, 29.0], [3.0, 4.0, 5.0])
    first, last = mean_curve([one, two])  # one of them was not validated after its second epoch
    assert dataclasses.astuple(first) == (1, 2.0, 51.0, 46.0, 45.0, 47.0)
    assert dataclasses.astuple(last) == (3, 4.0, 31.0, 27.0, 25.0, 29.0)
    assert one.hours_to(25.0) == 3.0
    assert one.hours_to(24.9) is None


def test_thinned_keeps_first_and_last() -> None:
    assert thinned(range(200), 60)[0] == 0
    assert thinned(range(200), 60)[-1] == 199
    assert len(set(thinned(range(200), 60))) == 60
    assert thinned(range(5), 60) == [0, 1, 2, 3, 4]


def test_curves_are_found_beside_results_and_broken_ones_named(tmp_path: Path) -> None:
    results = runs("mnist/lenet5", [0.9, 1.0, 1.1])
    folders = [place(tmp_path, result, epochs=4) for result in results]
    endless = place(tmp_path, (another := runs("mnist/mlp", [1.7])[0]), epochs=4) / "metrics.csv"
    endless.write_text(endless.read_text().replace(",90", ",inf"))
    results.append(another)
    (folders[1] / "metrics.csv").write_text("epoch,step\n0,1\n")
    (folders[2] / "metrics.csv").write_text("")
    curves, faults = read_curves([tmp_path], results)
    assert [curve.key for curve in curves] == [results[0].key]
    assert curves[0].validation == [90, 89, 88, 87]
    assert curves[0].hours == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert len(faults) == 3
    assert "seed-1/metrics.csv is not a table of epochs (KeyError: 'perf/train')" in faults[0]
    assert "no epochs" in faults[1]


def test_committed_curves_are_read() -> None:
    content = gather([COMMITTED])
    assert {line.name for line in content.curves["cifar10"]} >= {"plain20_short", "resnet20_short"}
    assert content.faults == []


def test_time_to_the_published_error(tmp_path: Path) -> None:
    claim = {"value": 80.0, "protocol": "1crop", "tolerance": 2.0, "tolerance_reason": "a test", "where": "here"}
    slopes = (1.0, 2.0, 0.1)  # reach 82 % after 9 and 5 epochs, and never
    for seed, slope in enumerate(slopes):
        result = make(recipe="custom/mine", seed=seed, published={"claims": [claim]})
        place(tmp_path, result, epochs=20, slope=slope)
    (line,) = gather([tmp_path]).curves["custom"]
    assert line.target == 82.0
    assert line.reached == pytest.approx([0.09, 0.05])


def test_a_run_is_held_to_the_spread_of_single_runs(tmp_path: Path) -> None:
    claim = {"value": 80.0, "protocol": "1crop", "tolerance": 2.0, "tolerance_reason": "a test", "where": "here"}
    for seed in range(2):
        result = make(recipe="custom/mine", seed=seed, published={"claims": [claim | {"spread": 1.0}]})
        place(tmp_path, result, epochs=20)
    (line,) = gather([tmp_path]).curves["custom"]
    assert line.target == 83.0
    assert line.reached == pytest.approx([0.08, 0.08])


def test_tolerance_is_that_of_so_many_seeds(tmp_path: Path) -> None:
    def told(content: Content) -> tuple[str, ...]:
        (cells,) = [row for row in page.table_of_claims(content.claims).rows if row[0] == "cifar10/resnet110"]
        return tuple(cells[2:7])

    assert told(content_of(tmp_path / "none")) == ("6.61", "0.3 (spread 0.16)", "–", "0", "not run")
    one = content_of(tmp_path / "one", *runs("cifar10/resnet110", [7.0]))
    assert told(one) == ("6.61", "0.48 (spread 0.16)", "7.00", "1", "reproduced")
    three = content_of(tmp_path / "three", *runs("cifar10/resnet110", [7.0, 7.0, 7.0]))
    assert told(three) == ("6.61", "0.3 (spread 0.16)", "7.00 ± 0.00", "3", "short by 0.39")


# Ablations ------------------------------------------------------------------------------------------------------------


def test_cells_are_found_as_ablate_finds_them() -> None:
    """The identity of a cell, made without torch, is that of the run that `ablate` would start."""
    from benchmarks.ablate import check_cells
    from benchmarks.grid import find_grid, load_grid
    from benchmarks.recipe import find_recipe, identity, load_recipe

    grid = load_grid(find_grid("digits/norm"))
    for variant in check_cells(grid, []):
        recipe = load_recipe(find_recipe(variant.cell.recipe))
        assert identity(page_data.with_cell(recipe, variant.cell)) == variant.identity


def test_every_key_of_the_grids_is_one_that_its_recipe_writes_down() -> None:
    from benchmarks.grid import grid_paths, load_grid

    recipes = {recipe.name: recipe for recipe in all_recipes()}
    cells = [cell for path in grid_paths() for cell in load_grid(path).cells]
    assert cells
    for cell in cells:
        recipe = recipes[cell.recipe]
        assert page_data.with_cell(recipe, cell).keys() == recipe.settings.keys(), cell


def test_ablation_beside_the_paper(tmp_path: Path) -> None:
    plain, residual = [9.0, 9.2, 9.1], [8.8, 8.7, 8.9]
    content = content_of(tmp_path / "a", *runs("cifar10/plain56", plain), *runs("cifar10/resnet56", residual))
    (report,) = [report for report in content.ablations if report.grid.name == "cifar10/plain_residual"]
    (row,) = [row for row in report.contrasts if row.name == "plain-56 minus ResNet-56"]
    expected = stats.ttest_ind(plain, residual, equal_var=False).confidence_interval(0.95)
    assert row.value == pytest.approx(0.3)
    assert (row.low, row.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert row.published == "> 0"


@pytest.mark.parametrize(
    ("recipe", "network"),
    [
        ("cifar10/resnet110", "ResNet"),
        ("cifar10/preresnet110", "pre-activation ResNet"),
        ("cifar10/se_resnet110", "pre-activation SE-ResNet"),
        ("imagenet/resnext50_32x4d", "ResNeXt"),
        ("imagenet/se_resnet50", "SE-ResNet"),
        ("imagenet/se_resnext50_32x4d", "SE-ResNeXt"),
    ],
)
def test_residual_networks_are_called_by_their_names(recipe: str, network: str) -> None:
    settings = dict(load_recipe(find_recipe(recipe)).settings)
    assert page_data.kind_of(settings, recipe) == (network, "residual")


# Arithmetic -----------------------------------------------------------------------------------------------------------


def test_macs_are_those_of_the_papers_and_of_torchs_own_counter() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.macs import count_macs, kept, macs, macs_of
    from models.resnet import ResNet

    by_name = {recipe.name: recipe for recipe in all_recipes()}
    assert macs(by_name["imagenet/resnet50"].settings) == pytest.approx(3.8e9, rel=0.02)  # He et al. 2015, Table 1
    assert macs(by_name["imagenet/vgg_d"].settings) == pytest.approx(15.5e9, rel=0.01)
    assert macs(by_name["imagenet/resnet50_torchvision"].settings) == 4_089_184_256  # stride on the 3x3
    for name in ("mnist/lenet5", "digits/resnet", "imagenet/alexnet"):
        assert count_macs(by_name[name].settings) == macs(by_name[name].settings)
    with torch.device("meta"):
        network = ResNet(
            num_classes=10, depths=[1, 1, 1], widths=[16, 32, 64], block="basic", stem="cifar", shortcut="A"
        )
        images = torch.empty(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        network(images)
    assert macs_of(network, images) == counter.get_total_flops() // 2
    assert len(kept()) > 50


def test_settings_from_elsewhere_build_classes_of_the_suite_and_call_nothing_else(tmp_path: Path) -> None:
    from benchmarks.macs import build

    for name in ("models.classifier.read_state", "models.classifier.Path", "os.system"):
        settings = {"model.class_path": name, "model.init_args.path": str(tmp_path)}
        with pytest.raises(ValueError, match=r"class_path \(=.*\) is (no class of models|not in models)"):
            build(settings, "model.", "models.")


def test_kept_macs_belong_to_recipes_as_they_are() -> None:
    """Those of recipes that are not there are counted when they are needed, which takes longer."""
    from benchmarks.macs import KEPT, kept, key

    assert KEPT.is_file()
    trained = [recipe for recipe in all_recipes() if not recipe.members]
    found = sum(key(recipe.settings) in kept() for recipe in trained)
    assert found > 0.8 * len(trained), "run `python -m benchmarks.macs`"


@pytest.mark.slow
def test_all_kept_macs_are_counted_again() -> None:
    from benchmarks.macs import count_all, kept, key

    recipes = [recipe for recipe in all_recipes() if not recipe.members and key(recipe.settings) in kept()]
    assert {entry["key"]: entry["macs"] for entry in count_all(recipes).values()}.items() <= kept().items()


def test_what_cannot_be_built_has_no_macs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = dict(load_recipe(find_recipe("mnist/lenet5")).settings)
    settings["model.class_path"] = "os.system"
    content = content_of(tmp_path, make(recipe="custom/mine", settings=settings))
    assert content.entries[0].macs is None
    assert "model.class_path (=os.system) is not in models" in capsys.readouterr().err


# The page -------------------------------------------------------------------------------------------------------------


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    claim = {"value": 1.0, "protocol": "1crop", "tolerance": 0.1, "tolerance_reason": HOSTILE, "where": HOSTILE}
    published = {"paper": HOSTILE, "url": "javascript:alert(1)", "claims": [claim], "departures": [HOSTILE]}
    hardware = {"device": "cuda", "name": HOSTILE, "cores": 1, "devices": 1, "nodes": 1}
    hostile = make(
        recipe=f"custom/{HOSTILE.replace('/', '')}",
        published=published,
        hardware=hardware,
        wandb_id=HOSTILE,
        overrides={"trainer.x": HOSTILE},
        settings={"model.class_path": HOSTILE},
    )
    folder = tmp_path / "hostile" / "seed-0"
    folder.mkdir(parents=True)
    write_result(folder / "result.json", hostile)
    harmless = Reader(page.render(content_of(tmp_path / "b", make(recipe="custom/mine"))))
    content = gather([tmp_path / "hostile"])
    text = page.render(content)
    found = Reader(text)
    assert len(content.entries) == 1
    assert HOSTILE in " ".join(found.text)
    for tag in ("script", "img", "style"):
        assert found.count(tag) == harmless.count(tag)
    assert "javascript:alert" not in text
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)


def test_runs_that_wandb_has_are_linked_and_no_others(tmp_path: Path) -> None:
    ours = runs("mnist/lenet5", [0.9, 1.0, 1.1])
    ids = ("team/project/a1", "mnist-lenet5-101bf1e6b957-s1-0123ab", None)  # sent, kept here, none
    content = content_of(
        tmp_path, *(dataclasses.replace(one, wandb_id=name) for one, name in zip(ours, ids, strict=True))
    )
    assert content.entries[0].wandb == [("seed 0", "https://wandb.ai/team/project/runs/a1")]


def test_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    results = [*runs("mnist/lenet5", [0.9, 1.0]), *runs("mnist/mlp", [1.5, 1.6]), *runs("cifar10/plain56", [9.0, 9.1])]
    for folder, order in (("a", results), ("b", results[::-1])):
        for result in order:
            place(tmp_path / folder, result, epochs=3)
    assert page.render(gather([tmp_path / "a"])) == page.render(gather([tmp_path / "b"]))


def test_no_results_yet(bench: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    status, out, _ = bench("leaderboard", "--html", str(file), "--dataset", "usps")
    assert status == 0
    assert "0 rows of 0 runs" in out
    text = " ".join(Reader(file.read_text()).text)
    assert "There are no results yet for dataset usps" in text
    assert "Ours: none yet." in text


def test_command_writes_the_page_and_names_broken_files(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    for result in runs("mnist/lenet5", [0.9, 1.0]):
        folder = place(tmp_path / "runs", result)
    (folder / "result.json").write_text('{"schema": 7}')
    file = tmp_path / "page.html"
    status, out, err = bench("leaderboard", "--html", str(file), "--protocol", "1crop")
    assert status == 0
    assert "Open it in a browser; it needs no network." in out
    assert str(folder) in err
    text = " ".join(Reader(file.read_text()).text)
    assert "Files left out" in text
    assert "schema 7" in text
    assert "only protocol 1crop" in text


def test_folder_that_is_not_there_is_a_mistake(bench: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, _, err = bench("leaderboard", "--html", str(tmp_path / "nowhere" / "page.html"))
    assert status == 2
    assert "page.html cannot be written (No such file or directory): name another file with --html." in err


def test_missing_extra_says_what_to_install(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "itables" else find(name))
    status, _, err = bench("leaderboard", "--html", str(tmp_path / "page.html"))
    assert status == 2
    assert "--html needs itables, which training does not, so it is not installed: pip install -e '.[report]'" in err


def test_script_that_would_end_its_element_is_refused() -> None:
    with pytest.raises(page.RunError, match="holds the end of a script"):
        page.verbatim("const x = '</script>'")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (4_089_184_256, "4.09 G"),
        (416_520, "417 k"),
        (9560.0, "9 560"),
        (36_900.0, "36.9 k"),
        (12.3, "12.3"),
    ],
)
def test_short_numbers(value: float | None, text: str) -> None:
    assert page.shortened(value) == text


def test_plots_are_what_vega_lite_allows(tmp_path: Path) -> None:
    """Altair checks every piece while it is built, here and not when the page is made."""
    claim = {"value": 85.0, "protocol": "1crop", "tolerance": 2.0, "tolerance_reason": "a test", "where": "here"}
    for result in [*runs("mnist/lenet5", [0.9, 1.0]), *runs("cifar10/plain56", [9.0, 9.1])]:
        place(tmp_path, dataclasses.replace(result, published={"claims": [claim]}), epochs=9)
    results = [*runs("imagenet/resnet50", [30.0, 31.0]), *runs("cifar10/resnet56", [7.0, 7.1])]
    parts = page.build_parts(content_of(tmp_path, *results))
    assert sum(len(part.figures) for part in parts) > 12


def test_every_protocol_has_a_meaning() -> None:
    names = {claim.protocol for recipe in all_recipes() for claim in recipe.published.claims}
    assert len(names) > 10
    assert all("Not one of" not in meaning for _, meaning in page.describe_protocols(names))


# A thousand runs, and the browser -------------------------------------------------------------------------------------


def thousand(root: Path) -> None:
    """1 000 results of 60 recipes, each with a curve of 40 epochs."""
    chance = random.Random(0)
    recipes = [recipe for recipe in all_recipes() if not recipe.members]
    chosen = recipes[:: len(recipes) // 60][:60]
    for number in range(1000):
        recipe = chosen[number % 60]
        protocols = {claim.protocol for claim in recipe.published.claims} or {"1crop"}
        wrong = 1000 + 50 * (number % 60) + chance.randrange(100)
        counted = {"top1_error": wrong / 100, "top5_error": wrong // 5 / 100, "wrong1": wrong, "wrong5": wrong // 5}
        result = make(
            recipe=recipe.name,
            identity=recipe.identity,
            seed=number // 60,
            errors={protocol: counted | {"count": 10_000} for protocol in sorted(protocols)},
            parameters=recipe.published.parameters,
            published=dataclasses.asdict(recipe.published),
            settings=recipe.settings,
            throughput={"images_per_s": 1e9 / recipe.published.parameters},
            wandb_id=f"run{number}",
        )
        place(root, result, epochs=40)


@dataclasses.dataclass
class Large:
    """The page of a thousand runs."""

    file: Path
    seconds: float
    content: Content


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Large:
    root = tmp_path_factory.mktemp("thousand")
    thousand(root / "runs")
    started = time.process_time()
    content = gather([root / "runs"])
    page.write_page(root / "page.html", content)
    return Large(root / "page.html", time.process_time() - started, content)


def test_a_thousand_runs_fit_in_five_megabytes(large: Large) -> None:
    assert large.content.runs == 1000
    assert len(large.content.sources) == 60
    assert large.file.stat().st_size < 5e6


def test_tables_have_captions_and_heads_and_plots_have_tables(large: Large) -> None:
    found = Reader(large.file.read_text())
    tables = found.count("table")
    assert tables == found.count("caption") > 10
    heads = [attributes for tag, attributes in found.elements if tag == "th"]
    assert heads
    assert all(attributes.get("scope") in ("col", "row") for attributes in heads)
    assert found.count("figure") == sum("data-plot" in attributes for _, attributes in found.elements)
    assert found.count("figure") == found.count("figcaption") <= tables
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"] or "" for tag, a in found.elements if tag == "a"]
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        with running_browser() as found:
            yield found
    except NoBrowserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def opened(browser: Any, large: Large) -> Any:
    """The browser with the page, when its table and plots are there."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(large.file.as_uri())
    ready = """return document.getElementById("results-table").dataset.ready &&
        [...document.querySelectorAll("[data-plot]")].every((place) => place.querySelector("svg"))"""
    WebDriverWait(browser, 120).until(lambda b: b.execute_script(ready))
    return browser


def column(browser: Any, name: str) -> list[str]:
    """The texts of a column of the table, as it is shown now."""
    return browser.execute_script(
        """const table = document.getElementById("results-table");
        const text = (cell) => cell.textContent.trim();
        const place = [...table.tHead.rows[0].cells].map(text).indexOf(arguments[0]);
        return [...table.tBodies[0].rows].map((row) => text(row.cells[place]))""",
        name,
    )


def head(browser: Any, name: str) -> Any:
    from selenium.webdriver.common.by import By

    (found,) = [h for h in browser.find_elements(By.CSS_SELECTOR, "#results-table thead th") if h.text.strip() == name]
    return found


def test_table_sorts(opened: Any) -> None:
    def errors() -> list[float]:
        return [float(text.split(" ")[0]) for text in column(opened, "error %")]

    opened.execute_script("arguments[0].click()", head(opened, "error %"))
    first = errors()
    assert first == sorted(first)
    assert len(set(first)) > 30
    opened.execute_script("arguments[0].click()", head(opened, "error %"))
    assert errors() == sorted(first, reverse=True)
    opened.execute_script("arguments[0].click()", head(opened, "parameters"))
    sizes = [int(text.replace("\u00a0", "").replace(" ", "")) for text in column(opened, "parameters")]
    assert sizes == sorted(sizes)  # as numbers, not as text


def test_table_filters(opened: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    menus = {
        label.text.split("\n")[0].strip(): Select(label.find_element(By.TAG_NAME, "select"))
        for label in opened.find_elements(By.CSS_SELECTOR, "#filters label")
    }
    assert set(menus) == {"dataset", "architecture", "protocol", "era", "verdict"}
    everything = len(column(opened, "recipe"))
    menus["dataset"].select_by_visible_text("imagenet")
    imagenet = column(opened, "recipe")
    assert 0 < len(imagenet) < everything
    assert all(name.startswith("imagenet/") for name in imagenet)
    menus["protocol"].select_by_visible_text("10crop, top-1")
    assert set(column(opened, "protocol")) == {"10crop, top-1"}
    menus["architecture"].select_by_visible_text("ResNet")
    assert set(column(opened, "architecture")) == {"ResNet"}
    opened.find_element(By.CSS_SELECTOR, "#filters button").click()
    opened.execute_async_script("setTimeout(arguments[0], 50)")
    assert len(column(opened, "recipe")) == everything
    verdict = next(o.text for o in menus["verdict"].options if o.text.startswith("short by"))
    menus["verdict"].select_by_visible_text(verdict)
    assert {text.removeprefix("▼ ") for text in column(opened, "verdict")} == {verdict}
    menus["verdict"].select_by_visible_text("all")
    menus["era"].select_by_visible_text("before 2012")
    assert {int(year) for year in column(opened, "year")} <= set(range(1900, 2012))
    menus["era"].select_by_visible_text("all")


def test_plots_are_drawn_with_their_marks(opened: Any) -> None:
    counts = opened.execute_script(
        """const marks = "svg .role-mark path, svg .role-mark line";
        return [...document.querySelectorAll("[data-plot]")].map(
            (place) => [place.dataset.plot, place.querySelectorAll(marks).length])"""
    )
    assert len(counts) > 15
    assert all(marks > 0 for _, marks in counts), counts


def test_the_menu_of_a_plot_shows_another_protocol(opened: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    plot = opened.find_element(By.CSS_SELECTOR, "[data-plot='dataset-imagenet-0']")
    menu = Select(plot.find_element(By.TAG_NAME, "select"))
    before = plot.find_element(By.CSS_SELECTOR, "svg .role-title-text").text
    other = next(option.text for option in menu.options if option.text != before)
    menu.select_by_visible_text(other)
    opened.execute_async_script("setTimeout(arguments[0], 300)")
    assert plot.find_element(By.CSS_SELECTOR, "svg .role-title-text").text == other


def test_link_opens_its_recipe(opened: Any) -> None:
    from selenium.webdriver.common.by import By

    link = opened.find_element(By.CSS_SELECTOR, "#results-table tbody a")
    opened.execute_script("arguments[0].click()", link)
    opened.execute_async_script("setTimeout(arguments[0], 100)")
    target = link.get_attribute("href").rpartition("#")[2]
    assert "published:" in opened.find_element(By.ID, target).text


def test_page_is_as_wide_as_a_phone(opened: Any) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    opened.execute_async_script("setTimeout(arguments[0], 1000)")
    assert opened.execute_script("return document.documentElement.scrollWidth") == 390
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_complained_of_and_nothing_leaves_the_machine(opened: Any) -> None:
    assert [entry["message"] for entry in opened.get_log("browser")] == []
    asked = requests(opened)
    assert asked
    assert all(address.startswith(("file:", "data:", "blob:")) for address in asked), asked
