"""Grids: every one of the suite resolves and its settings parse; a grid that is not right says so, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.ablate import parse_cell
from benchmarks.fit import protocols_of
from benchmarks.grid import (
    FOLDER,
    Contrast,
    Grid,
    GridError,
    Number,
    find_grid,
    grid_name,
    grid_paths,
    load_grid,
    read_seeds,
)
from benchmarks.recipe import RecipeError, find_recipe, load_recipe

PATHS = grid_paths()

SMALL: dict[str, Any] = {
    "paper": "Somebody 2015, A Paper",
    "url": "https://example.org",
    "question": "Does it help?",
    "recipe": "digits/mlp",
    "axes": {"model.norm": ["batch", "none"], "model.dropout": [0.0, 0.5]},
    "seeds": "0-2",
    "measure": "error",
    "protocol": "1crop",
    "metric": "top1_error",
    "published": {"where": "Table 1", "norm=batch, dropout=0.5": 3.0, "norm=none, dropout=0.5": "> 60"},
    "contrasts": [{"of": "norm=none minus norm=batch"}],
}


def load(folder: Path, **changes: Any) -> Grid:
    """`SMALL` with changes, a None taking the key away."""
    path = folder / "small.yaml"
    content = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_grid(path)


def test_there_are_grids() -> None:
    names = {grid_name(path) for path in PATHS}
    assert {"digits/norm", "digits/dropout", "digits/skip", "mnist/lenet_switches"} <= names
    assert {"cifar10/plain_residual", "cifar10/relu_tanh", "imagenet/plain_residual", "imagenet/alexnet"} <= names


@pytest.mark.parametrize("path", PATHS, ids=grid_name)
def test_every_cell_resolves_and_its_settings_parse(path: Path) -> None:
    grid = load_grid(path)
    found = set()
    for cell in grid.cells:
        if cell.settings:
            variant = parse_cell(grid, cell, [])
            found.add((variant.recipe, variant.identity))
        else:  # that the recipe itself parses is tested with the recipes
            recipe = load_recipe(find_recipe(cell.recipe))
            assert grid.measure != "error" or grid.protocol in protocols_of(recipe.published)
            found.add((recipe.name, recipe.identity))
    assert len(found) == len(grid.cells) >= 2


@pytest.mark.parametrize("path", PATHS, ids=grid_name)
def test_grid_says_what_a_reader_needs(path: Path) -> None:
    grid, head = load_grid(path), path.read_text().split("\npaper:")[0]
    for word in ("# Paper ", "# Command ", "# Cost ", "# Expect "):
        assert word in head
    assert f"ablate {grid.name}" in head
    assert any(year in grid.paper for year in map(str, range(1986, 2021)))
    assert grid.url.startswith("http")
    assert grid.question.endswith("?")
    assert grid.contrasts
    assert all(contrast.where for contrast in grid.contrasts if contrast.published)


@pytest.mark.parametrize("path", PATHS, ids=grid_name)
def test_published_numbers_are_those_of_the_recipes(path: Path) -> None:
    grid = load_grid(path)
    compared = 0
    for cell in grid.cells:
        if cell.settings or cell.published is None or cell.published.bound:
            continue
        claims = load_recipe(find_recipe(cell.recipe)).published.claims
        values = [c.value for c in claims if (c.protocol, c.metric) == (grid.protocol, grid.metric)]
        assert values == [cell.published.value]
        compared += 1
    published = [cell for cell in grid.cells if cell.published and not cell.published.bound and not cell.settings]
    assert compared == len(published)


def test_cells_are_every_combination(tmp_path: Path) -> None:
    grid = load(tmp_path, settings={"trainer.max_epochs": 3})
    assert [cell.name for cell in grid.cells] == [
        "norm=batch, dropout=0.0",
        "norm=batch, dropout=0.5",
        "norm=none, dropout=0.0",
        "norm=none, dropout=0.5",
    ]
    arguments = ["--trainer.max_epochs", "3", "--model.norm", "batch", "--model.dropout", "0.5"]
    assert grid.cells[1].arguments == arguments
    assert grid.seeds == [0, 1, 2]
    assert [cell.published for cell in grid.cells] == [None, Number(3.0), None, Number(60.0, ">")]


def test_named_levels_carry_all_that_goes_with_them(tmp_path: Path) -> None:
    axes = {"depth": {"flat": None, "deep": {"model.hidden": [64, 64], "model.optimizer.lr": 0.01}}}
    grid = load(tmp_path, axes=axes, published=None, contrasts=[])
    assert [cell.arguments for cell in grid.cells] == [
        [],
        ["--model.hidden", "[64,64]", "--model.optimizer.lr", "0.01"],
    ]


def test_recipes_are_an_axis(tmp_path: Path) -> None:
    recipes = {"one": "digits/mlp", "two": "digits/linear"}
    contrasts = [{"of": "one minus two"}]
    grid = load(tmp_path, recipe=None, recipes=recipes, axes=None, published=None, contrasts=contrasts)
    assert [(cell.name, cell.recipe) for cell in grid.cells] == [("one", "digits/mlp"), ("two", "digits/linear")]
    grid = load(tmp_path, recipe=None, recipes=recipes, axes={"model.x": [1, 2]}, published=None, contrasts=contrasts)
    assert [cell.name for cell in grid.cells] == ["one, x=1", "one, x=2", "two, x=1", "two, x=2"]
    assert [contrast.name for contrast in grid.contrasts] == ["one minus two (x=1)", "one minus two (x=2)"]


def test_a_contrast_is_drawn_at_every_level_it_does_not_name(tmp_path: Path) -> None:
    first, second = load(tmp_path, published=None).contrasts
    left, right = "norm=none, dropout=0.0", "norm=batch, dropout=0.0"
    assert first == Contrast("norm=none minus norm=batch (dropout=0.0)", left, right, "minus", None, "")
    assert second.left == "norm=none, dropout=0.5"


def test_a_difference_of_published_cells_need_not_be_written(tmp_path: Path) -> None:
    first, second = load(tmp_path).contrasts
    assert first.published is None
    assert second.published == Number(57.0, ">")
    entry = {"of": "norm=batch, dropout=0.5 minus norm=none, dropout=0.5"}
    assert load(tmp_path, contrasts=[entry]).contrasts[0].published == Number(-57.0, "<")


@pytest.mark.parametrize(
    ("value", "seeds"),
    [("0-4", [0, 1, 2, 3, 4]), ("0,2,5-7", [0, 2, 5, 6, 7]), ("3-3", [3]), ([7], [7]), ([0, 2], [0, 2])],
)
def test_seeds(value: Any, seeds: list[int]) -> None:
    assert read_seeds(value) == seeds


RIGHT = "must be a range such as 0-4, or several: 0,2,5. Seed 3 alone is 3-3."
TWICE = "must rise, and each be there once: 0-4, for example."
MANY = "must be at most 10000, one run each: name fewer."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *((value, RIGHT) for value in (3, "3", "0-2-4", "a", [], [True], "0-1" + 18 * "0")),
        *((value, TWICE) for value in ("4-0", "0,0-2")),
        *((value, MANY) for value in ("0-10000", "0-99999999999", "9-0,0-9999,20000-20000")),
    ],
)
def test_seeds_that_could_be_misread_are_refused(value: Any, message: str) -> None:
    with pytest.raises(GridError) as refusal:
        read_seeds(value)
    assert str(refusal.value) == f"seeds (={value}) {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"paper: \xff\n", "must be text in UTF-8 ('utf-8' codec can't decode byte 0xff in position 7: invalid start"),
        (b"paper: 2026-13-01\n", "cannot be read as YAML (month must be in 1..12): correct it at that place."),
        (b"", "is empty: write settings into it, or name another file."),
    ],
)
def test_file_that_is_no_grid_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as refusal:
        load_grid(path)
    assert str(refusal.value).startswith(str(path))
    assert message in str(refusal.value)


def entry(**changes: Any) -> list[dict[str, Any]]:
    return [{"of": "norm=none minus norm=batch", **changes}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocl": "1crop"}, "the key 'protocl' means nothing: did you mean protocol?"),
        ({"question": None}, "question must be there: see benchmarks/grid.py for an example."),
        ({"recipe": None}, "say either recipe: NAME, or recipes: {LEVEL: NAME, ...} as an axis."),
        ({"axes": None, "published": None}, "one recipe without axes has nothing to compare: add axes, or recipes."),
        ({"measure": "accuracy"}, "measure (=accuracy) must be one of error, epochs_to."),
        ({"metric": "error"}, "metric (=error) must be one of top1_error, top5_error."),
        ({"metric": None}, "metric belongs to measure: error, and measure is error: add it."),
        ({"train_error": 25}, "train_error belongs to measure: epochs_to, and measure is error: leave it out."),
        (
            {"measure": "epochs_to", "train_error": 0, "protocol": None, "metric": None},
            "train_error (=0) must lie between 0 and 100: it is in percent.",
        ),
        (
            {"axes": {"model.norm": ["batch"]}, "published": None},
            "the axis model.norm must be a setting with two values",
        ),
        ({"axes": {"norm": ["batch", "none"]}, "published": None}, "the axis norm must be a setting with two values"),
        (
            {"axes": {"norm": {True: {}, False: {}}}, "published": None},
            "the level True must be text: put it in quotes.",
        ),
        (
            {"axes": {"norm": {"a, b": {}, "c": {}}}, "published": None},
            "the level 'a, b' must hold neither a comma with a space nor ` minus ` nor ` over `.",
        ),
        (
            {"axes": {"x": {"a": {}, "b": {}}, "y": {"a": {}, "c": {}}}, "published": None},
            "the level 'a' is there twice: names of levels must differ.",
        ),
        (
            {"settings": {"model.norm": "none"}},
            "model.norm is set twice, the second time by the level 'norm=batch': set it in one place.",
        ),
        ({"settings": ["a"]}, "settings (=['a']) must be a mapping, key: value."),
        (
            {"published": {"where": "Table 1", "norm=batch, dropout=0.6": 3.0}},
            "published names 'norm=batch, dropout=0.6', which is no cell: did you mean norm=batch, dropout=0.5",
        ),
        (
            {"published": {"norm=batch, dropout=0.5": 3.0}},
            "published must say `where` in the paper its numbers stand: add where: Table 2, for example.",
        ),
        (
            {"published": {"where": "Table 1", "norm=batch, dropout=0.5": "about 3"}},
            'published of norm=batch, dropout=0.5 (=about 3) must be a number, or a bound in quotes such as "> 60".',
        ),
        ({"contrasts": "none"}, "contrasts must be a list of entries such as - of: A minus B; write [] for none."),
        ({"contrasts": entry(paper=3)}, "a contrast has no 'paper': it has of, published and where."),
        ({"contrasts": entry(of="norm=none - norm=batch")}, "must be of: A minus B, or of: A over B."),
        (
            {"contrasts": entry(of="norm=none over norm=batch")},
            "contrast (=norm=none over norm=batch) must be a difference: `over` is for measure: epochs_to.",
        ),
        (
            {"contrasts": entry(of="norm=on minus norm=batch")},
            "a contrast names 'norm=on', which is no level: did you mean norm=none or norm=batch?",
        ),
        (
            {"contrasts": entry(of="norm=none minus dropout=0.5")},
            "contrast (=norm=none against dropout=0.5) must name different levels of the same axes on both sides.",
        ),
        (
            {"contrasts": entry(of="norm=none minus norm=none")},
            "contrast (=norm=none against norm=none) must name different levels of the same axes on both sides.",
        ),
        (
            {"contrasts": entry(published=1.0)},
            "contrast (=norm=none minus norm=batch) must say `where` in the paper its number stands.",
        ),
        (
            {"contrasts": entry(published=0, where="Table 1")},
            "published of norm=none minus norm=batch (=0.00) must say which side is higher: leave it out otherwise.",
        ),
        (
            {"contrasts": entry(published="> -1", where="Table 1")},
            "published of norm=none minus norm=batch (=> -1) must say which side is higher: leave it out otherwise.",
        ),
    ],
)
def test_what_is_not_right_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GridError) as refusal:
        load(tmp_path, **changes)
    assert str(tmp_path / "small.yaml") in str(refusal.value)
    assert message in str(refusal.value)


def test_a_published_contrast_must_fit_its_cells(tmp_path: Path) -> None:
    published = {"where": "Table 1", "norm=batch, dropout=0.5": 3.0, "norm=none, dropout=0.5": 5.0}
    of = "norm=none, dropout=0.5 minus norm=batch, dropout=0.5"
    with pytest.raises(GridError) as refusal:
        load(tmp_path, published=published, contrasts=entry(of=of, published=2.2, where="Table 1"))
    message = f"published of {of} (=2.20) must be the difference of its cells' numbers, 2.00: correct one of the three."
    assert message in str(refusal.value)
    rounded = load(tmp_path, published=published, contrasts=entry(of=of, published=2.05, where="Table 1"))
    assert rounded.contrasts[0].published == Number(2.05)


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("paper: [\n")
    with pytest.raises(RecipeError, match=r"broken\.yaml cannot be read as YAML"):
        load_grid(path)
    path.write_text("- a list\n")
    with pytest.raises(GridError, match="must be a mapping that begins with paper, url and question"):
        load_grid(path)


def test_unknown_grid_names_the_closest() -> None:
    with pytest.raises(GridError, match="did you mean digits/norm"):
        find_grid("digits/norms")
    assert find_grid("digits/norm") == FOLDER / "digits" / "norm.yaml"
