"""Submitted results: committed ones are in order, and whatever cannot be true of one is refused, with the remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.check import claims_of, committed, find_faults, find_marks, read
from benchmarks.recipe import FOLDER, identity, load_recipe
from benchmarks.results import COMMITTED, Result, ResultError, write_result
from tests.test_results import make

LINEAR = COMMITTED / "mnist" / "linear" / "seed-0.json"
Bench = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("path", committed(), ids=str)
def test_committed_result_is_in_order(path: Path) -> None:
    assert list(find_faults(path, *read(path))) == []


def test_there_are_committed_results() -> None:
    assert len(committed()) >= 16


def set_in(part: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Changes of an object in a result, or of one in that: `errors.1crop`."""

    def change(content: dict[str, Any]) -> None:
        for name in part.split("."):
            content = content[name]
        content.update(changes)

    return change


def resettled(content: dict[str, Any], **changes: Any) -> None:
    """Other settings, with the hash that belongs to them."""
    content["settings"].update(changes)
    content["resolved"].update(changes)
    content["identity"] = identity(content["settings"])


def half_of_them(content: dict[str, Any]) -> None:
    content["errors"]["1crop"] = {"wrong1": 372, "wrong5": 22, "count": 5000, "top1_error": 7.44, "top5_error": 0.44}


RATE = {"lowest": 1.0, "images_per_s": 2.0, "highest": 3.0, "first_epoch": 1.0}

CASES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (
        lambda content: content.update(identity="0123456789ab"),
        "identity (=0123456789ab) must be the hash of the settings, ",
    ),
    (
        set_in("settings", **{"model.init_args.optimizer.init_args.lr": 0.9}),
        "settings.model.init_args.optimizer.init_args.lr (=0.9) must be what was resolved, 0.02",
    ),
    (
        lambda content: content.update(overrides={"trainer.max_epochs": 20}),
        "overrides (=trainer.max_epochs=20) must be empty: make the changed settings a recipe of its own",
    ),
    (
        half_of_them,
        "errors.1crop.count (=5000) must be the size of mnist's test set, 10000: evaluate every image of it.",
    ),
    (set_in("dataset.test", count=9_999), "dataset.test.count (=9999) must be the size of mnist's test set, 10000"),
    (set_in("dataset", name="mnist2"), "dataset.name (=mnist2) must be one of digits, mnist, mnist1989, usps,"),
    (
        lambda content: content["errors"].update(centre=content["errors"].pop("1crop")),
        "errors has no 1crop, which the recipe claims a number under: run `fit` again, which adds it.",
    ),
    (
        lambda content: content["errors"].update(centre=content["errors"]["1crop"]),
        "protocol (=centre) must be one of 1crop, flip,",
    ),
    (
        lambda content: content["errors"].update({"ens-5-1crop": content["errors"]["1crop"]}),
        "protocol (=ens-5-1crop) averages 5 networks, the recipe has 1",
    ),
    (
        lambda content: content.update(parameters=7_851),
        "parameters (=7851) must be those of the recipe's network, 7850: run it again with this suite's network.",
    ),
    (
        set_in("training", epochs=19),
        "training.epochs (=19) must be trainer.max_epochs (=20): let the run come to its end",
    ),
    (
        set_in("training", steps=9_361),
        "training.steps (=9361) must be 20 epochs of 468 steps, of 128 of the 60000 images each",
    ),
    (
        lambda content: content["training"].pop("steps"),
        "training.steps is not there: copy the whole file from the run folder.",
    ),
    (lambda content: content["dataset"]["train"].pop("count"), "dataset.train.count is not there"),
    (set_in("seconds", total=100.0), "seconds.total (=100.0) must be the sum of its parts, 27.547"),
    (set_in("seconds", data_wait=20.0), "seconds.data_wait (=20.0) must be a part of train (=18.824)"),
    (
        set_in("seconds", train=1882.4, total=1891.123),
        "images of all epochs / seconds.train (=636.5 images/s) must lie between the slowest and the fastest epoch",
    ),
    (
        set_in("throughput", **RATE),
        "seconds.train (=63646.4 images/s) must lie between the slowest and the fastest epoch",
    ),
    (
        set_in("throughput", images_per_s=90_000.0),
        "throughput.images_per_s (=90000.0) must lie between lowest (=55320.2) and highest (=82405.6).",
    ),
    (
        lambda content: content["throughput"].pop("lowest"),
        "throughput must have lowest, images_per_s, highest, first_epoch: copy the whole file",
    ),
    (set_in("commit", id="main"), "commit.id (=main) must be a commit's 40 hexadecimal digits: run from a clone"),
    (set_in("commit", id=None), "commit.id (=None) must be a commit's 40 hexadecimal digits"),
    (set_in("commit", clean=False), "commit.clean (=False) must be true: commit the code first, then run."),
    (
        lambda content: content.update(finished="2999-01-01T00:00:00Z"),
        "finished (=2999-01-01T00:00:00Z) must not be in the future: set the machine's clock, and run again.",
    ),
    (lambda content: content.update(finished="2026-02-31T00:00:00Z"), "finished (=2026-02-31T00:00:00Z) must be a day"),
    (set_in("hardware", name="/home/me/cpu"), "hardware.name (=/home/me/cpu) must be a processor's or GPU's"),
    (lambda content: content["versions"].pop("torch"), "versions has no torch: copy the whole file"),
    (lambda content: content.update(recipe="custom/mine"), "recipe (=custom/mine) must be one of the suite's: put its"),
    (
        lambda content: content.update(recipe="mnist/gone"),
        "recipe (=mnist/gone) must be one of the suite's, but there is",
    ),
    (
        lambda content: content.update(recipe="mnist/../mnist/linear"),
        "recipe (=mnist/../mnist/linear) must be one of the suite's, but there is no",
    ),
    (
        lambda content: content["errors"].update({"dense-64": content["errors"]["1crop"]}),
        "errors has dense-64, under which the recipe claims nothing: copy the run's own result.",
    ),
    (lambda content: content.update(members=[{}]), "members (=1) must be the recipe's 0: evaluate it again."),
    (set_in("throughput", lowest=True), "throughput must have lowest, images_per_s, highest, first_epoch"),
    (lambda content: content.update(recipe="mnist/../../x"), "recipe (=mnist/../../x) must be one of the suite's, but"),
    (set_in("errors.1crop", wrong1=-1, top1_error=-0.01), "must be such that 0 <= wrong5 <= wrong1 <= count > 0"),
    (set_in("errors.1crop", wrong1=10_001, top1_error=100.01), "must be such that 0 <= wrong5 <= wrong1 <= count > 0"),
    (lambda content: content.update(schema=2), "has schema 2, this suite reads 1"),
]


def faults_of(path: Path, content: dict[str, Any]) -> list[str]:
    path.write_text(json.dumps(content))
    try:
        return list(find_faults(path, *read(path)))
    except ResultError as error:
        return [str(error)]


@pytest.mark.parametrize(("change", "message"), CASES, ids=[message[:50] for _, message in CASES])
def test_what_cannot_be_true_is_refused_with_its_remedy(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = json.loads(LINEAR.read_text())
    assert faults_of(tmp_path / "seed-0.json", content) == []
    change(content)
    faults = faults_of(tmp_path / "seed-0.json", content)
    assert any(message in fault for fault in faults), faults


def test_command_says_what_is_well_and_what_is_refused(bench: Bench, tmp_path: Path) -> None:
    broken, well = tmp_path / "seed-1.json", tmp_path / "seed-0.json"
    content = json.loads(LINEAR.read_text())
    well.write_text(json.dumps(content))
    broken.write_text(json.dumps(content | {"parameters": 1, "finished": "2999-01-01T00:00:00Z"}))
    status, out, err = bench("check", str(well), str(broken), str(tmp_path / "seed-2.json"))
    assert status == 1
    assert out.splitlines() == [
        f"{well}: mnist/linear seed 0: 7.44 % (1crop), better than published (top1 12.00 %)",
        "3 results, 2 refused.",
    ]
    lines = err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        f"refused: {broken}: parameters",
        f"refused: {broken}: finished",
        f"refused: {tmp_path / 'seed-2.json'} is not a result file",
    ]
    status, out, err = bench("check")
    assert (status, err) == (0, "")
    assert out.endswith(f"\n{len(committed())} results, none refused.\n")


def test_what_is_no_file_has_a_remedy_of_its_own(bench: Bench, tmp_path: Path) -> None:
    missing = tmp_path / "seed-2.json"
    status, out, err = bench("check", str(missing), str(tmp_path))
    assert (status, out) == (1, "2 results, 2 refused.\n")
    assert err.splitlines() == [
        f"refused: {missing} is not a result file (there is none): correct its name.",
        f"refused: {tmp_path} is not a result file (it is a folder): name the files in it, {tmp_path}/seed-*.json.",
    ]


def test_what_a_file_says_cannot_colour_the_terminal(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps(json.loads(LINEAR.read_text()) | {"overrides": {"a": "\x1b[31m"}}))
    status, out, err = bench("check", str(path))
    assert status == 1
    assert "overrides (=a= [31m) must be empty" in err
    assert "\x1b" not in out + err


def test_result_of_a_recipe_that_has_changed_is_marked(bench: Bench, tmp_path: Path) -> None:
    content = json.loads(LINEAR.read_text())
    resettled(content, **{"model.init_args.optimizer.init_args.lr": 0.05})
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps(content))
    status, out, err = bench("check", str(path))
    assert (status, err) == (0, "")
    assert out.splitlines()[:2] == [
        f"{path}: mnist/linear seed 0: 7.44 % (1crop)",
        "  marked: the recipe has changed since, in model.init_args.optimizer.init_args.lr: the leaderboard says so, "
        "and neither ranks nor judges it; run it again for one that counts",
    ]


def test_claims_are_the_recipes_whatever_the_file_says(bench: Bench, tmp_path: Path) -> None:
    content = json.loads(LINEAR.read_text())
    content["published"]["claims"][0]["value"] = 7.44
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps(content))
    status, out, _ = bench("check", str(path))
    assert status == 0
    assert "better than published (top1 12.00 %)" in out
    assert re.search(
        r"marked: it has other claims than the recipe, whose own count: top1_error 12 \+- .* under 1crop", out
    )


def test_claims_are_told_with_the_spread_of_their_source() -> None:
    (plain,) = map(vars, load_recipe(FOLDER / "mnist/lenet5.yaml").published.claims)
    (spread,) = map(vars, load_recipe(FOLDER / "cifar10/resnet110.yaml").published.claims)
    older = {key: value for key, value in spread.items() if key != "spread"}
    assert claims_of([plain, spread, older]) == [
        "top1_error 0.95 +- 0.15 under 1crop",
        "top1_error 6.61 +- 0.3 (spread 0.16) under 1crop",
        "top1_error 6.61 +- 0.3 under 1crop",
    ]


def test_committed_file_lies_where_its_recipe_and_seed_say() -> None:
    result, recipe = read(LINEAR)
    (fault,) = find_faults(LINEAR.with_name("seed-1.json"), result, recipe)
    assert fault == f"the file of this recipe and seed must be {LINEAR}: move it there."


def test_name_that_leaderboards_overlook_is_refused(tmp_path: Path) -> None:
    (fault,) = find_faults(tmp_path / "mine.json", *read(LINEAR))
    assert fault == "the file's name must be seed-0.json, or leaderboards overlook it: rename it."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text, None),
        (lambda text: "\n".join(text.splitlines()[:-1]) + "\n", "seed-0.csv has 5 epochs, the result 6"),
        (lambda text: text.replace("33.65", "33.64"), "ends with val/top1_error (=33.64), the result with 33.65"),
        (lambda text: "nothing", "seed-0.csv is no metrics.csv of a run (IndexError"),
    ],
)
def test_curve_beside_a_result_is_of_the_same_run(
    tmp_path: Path, change: Callable[[str], str], message: str | None
) -> None:
    source = COMMITTED / "cifar10" / "resnet20_short_without_norm" / "seed-0"
    path = tmp_path / "seed-0.json"
    path.write_bytes(source.with_suffix(".json").read_bytes())
    path.with_suffix(".csv").write_text(change(source.with_suffix(".csv").read_text()))
    faults = list(find_faults(path, *read(path)))
    assert (faults == []) if message is None else any(message in fault for fault in faults)


def ensemble(**changes: Any) -> Result:
    """What an ensemble of the suite leaves, as `benchmarks.ensemble` writes it."""
    recipe = load_recipe(FOLDER / "imagenet" / "alexnet_5.yaml")
    errors = {"top1_error": 40.0, "top5_error": 16.0, "wrong1": 20_000, "wrong5": 8_000, "count": 50_000}
    values: dict[str, Any] = {
        "recipe": recipe.name,
        "identity": recipe.identity,
        "settings": recipe.settings,
        "errors": {claim.protocol: errors for claim in recipe.published.claims},
        "training": {},
        "throughput": {},
        "parameters": recipe.published.parameters,
        "published": {},
        "dataset": {"name": "imagenet", "test": {"count": 50_000}},
        "versions": {"python": "3.11", "torch": "2.15"},
        "commit": {"id": "0" * 40, "clean": True},
        "members": [member.settings() for member in recipe.members],
    }
    return make(**{**values, **changes})


def test_ensemble_needs_no_training_and_all_its_members(tmp_path: Path) -> None:
    path = tmp_path / "seed-0.json"
    write_result(path, ensemble())
    assert list(find_faults(path, *read(path))) == []
    assert [mark[:40] for mark in find_marks(*read(path))] == ["it has other claims than the recipe, who"]
    write_result(path, ensemble(members=[]))
    assert list(find_faults(path, *read(path))) == ["members (=0) must be the recipe's 5: evaluate it again."]
