"""Every recipe is whole: it parses, builds, counts, trains. Its identity moves when, and only when, it must."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader

from benchmarks import recipe as recipes
from benchmarks.ensemble import check_claims
from benchmarks.fit import count_parameters, protocols_of
from benchmarks.recipe import Recipe, RecipeError, find_recipe, flatten, identity, load_recipe, recipe_paths
from benchmarks.suite_cli import SuiteCLI, quiet_warnings

PATHS = recipe_paths()
ENSEMBLES = [path for path in PATHS if load_recipe(path).members]
TRAINABLE = [path for path in PATHS if path not in ENSEMBLES]


def test_there_are_recipes() -> None:
    names = {recipes.recipe_name(path) for path in PATHS}
    assert {"mnist/lenet5", "mnist/mlp", "mnist/linear", "digits/linear", "digits/vgg", "digits/resnet"} <= names


TRAINED: set[str] = set()  # networks that have taken their two steps, with the size of their images


@pytest.mark.parametrize("path", TRAINABLE, ids=recipes.recipe_name)
def test_recipe_builds_counts_and_takes_two_steps(path: Path) -> None:
    """Recipes that differ in schedule or data only share the steps of the first of them.

    `build` has tried the network on an image of full size; the steps are taken at 96 pixels at most, where it allows.
    """
    cli = SuiteCLI("fit", ["--config", str(path), "--seed_everything", "0"])
    with quiet_warnings():
        cli.build([])
    assert count_parameters(cli.model) == cli.recipe.published.parameters
    size, channels = cli.datamodule.image_size, len(cli.datamodule.mean)
    if network_of(cli.recipe, size) in TRAINED:
        return
    generator = torch.Generator().manual_seed(0)
    count = 8 if size < 64 and cli.recipe.published.parameters < 2e6 else 2
    pixels = torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8, generator=generator)
    images = cli.datamodule.normalise(pixels)[:, :, :96, :96]
    batch = images, torch.arange(count) % cli.datamodule.num_classes
    before = sums(cli.model)
    trainer = pl.Trainer(
        max_steps=2,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    with quiet_warnings():
        batches = DataLoader([batch, batch], batch_size=None)  # type: ignore[arg-type]
        trainer.fit(cli.model, train_dataloaders=batches, val_dataloaders=batches)
    assert trainer.global_step == 2
    after = sums(cli.model)
    assert after != before
    assert all(math.isfinite(value) for value in after.values())
    TRAINED.add(network_of(cli.recipe, size))


def sums(network: torch.nn.Module) -> dict[str, float]:
    """The sum of each of its tensors, which is not finite where one of its numbers is not."""
    return {name: float(value.sum()) for name, value in network.state_dict().items()}


@pytest.mark.parametrize("path", ENSEMBLES, ids=recipes.recipe_name)
def test_parameters_of_an_ensemble_are_those_of_its_members(path: Path) -> None:
    """And their data modules show them the same images."""
    recipe = load_recipe(path)
    members = [load_recipe(member.path) for member in recipe.members]
    assert recipe.published.parameters == sum(member.published.parameters for member in members)
    assert len({member.settings["data.class_path"] for member in members}) == 1
    assert [member.identity for member in recipe.members] == [member.identity for member in members]


def network_of(recipe: Recipe, size: int) -> str:
    """The recipe's network and the size of its images, without what only decides how it is trained."""
    training = ("optimizer", "lr_scheduler", "lr_interval", "decay_norm", "decay_bias")
    kept = {key: value for key, value in recipe.settings.items() if key.startswith("model.")}
    kept = {key: value for key, value in kept.items() if not key.removeprefix("model.init_args.").startswith(training)}
    return f"{sorted(kept.items(), key=str)} at {size}"


@pytest.mark.parametrize("path", PATHS, ids=recipes.recipe_name)
def test_recipe_says_what_a_reader_needs(path: Path) -> None:
    text, recipe = path.read_text(), load_recipe(path)
    head = text.split("\npublished:")[0]
    for word in ("Paper", "Command", "Cost", "Expect"):
        assert re.search(rf"^# {word} ", head, re.MULTILINE), f"the opening comment must say {word}"
    assert f"benchmarks {'ensemble' if recipe.members else 'fit --config'} {recipe.name}" in head
    assert check_claims(recipe) if recipe.members else protocols_of(recipe.published)
    assert all(claim.tolerance > 0 and claim.tolerance_reason and claim.where for claim in recipe.published.claims)
    assert recipe.published.claims == [] or recipe.published.departures
    for claim in recipe.published.claims:
        if claim.spread is not None:
            assert 0 < claim.spread < claim.value
            assert f"{claim.spread:g}" in claim.tolerance_reason
            assert f"+- {claim.spread:.2f}" in claim.where, "where the source gives it"


@pytest.mark.parametrize("depth", [110, 164])
def test_se_resnets_on_cifar_are_the_pre_activation_networks_with_se(depth: int) -> None:
    plain, excited = (load_recipe(find_recipe(f"cifar10/{kind}resnet{depth}")) for kind in ("pre", "se_"))
    assert excited.settings == {**plain.settings, "model.init_args.se_reduction": 16}


@pytest.mark.parametrize("path", PATHS, ids=recipes.recipe_name)
def test_no_number_is_read_as_text(path: Path) -> None:
    """YAML reads 5e-4 as a string, 5.0e-4 as a number."""
    values = flatten(yaml.safe_load(path.read_text())).values()
    assert values
    assert not [value for value in values if isinstance(value, str) and re.fullmatch(r"[-+\d.]+e[-+]?\d+", value)]


@pytest.mark.parametrize("path", PATHS, ids=recipes.recipe_name)
def test_no_hardware_in_a_recipe(path: Path) -> None:
    assert [key for key in load_recipe(path).settings if recipes.is_hardware(key)] == []


def lenet() -> Recipe:
    return load_recipe(find_recipe("mnist/lenet5"))


def test_identity_is_pinned() -> None:
    """Run folders and committed results carry it: a change here makes every finished run a new one."""
    assert identity({"trainer.max_epochs": 1, "data.init_args.batch_size": 128}) == "18d838d0fba4"


def test_identity_ignores_hardware_and_order() -> None:
    settings = lenet().settings
    hardware = {"trainer.devices": 8, "trainer.logger.init_args.project": "x", "data.init_args.loader": "torch"}
    assert identity(settings | hardware) == identity(dict(reversed(settings.items())))


@pytest.mark.parametrize("change", [{"trainer.max_epochs": 21}, {"model.init_args.optimizer.init_args.lr": 0.06}])
def test_identity_moves_with_settings(change: dict[str, object]) -> None:
    assert identity(lenet().settings | change) != lenet().identity


def test_override_equal_to_the_recipe_changes_nothing() -> None:
    config = ["--config", str(find_recipe("mnist/lenet5")), "--seed_everything", "0"]
    same = SuiteCLI("fit", [*config, "--trainer.max_epochs", "20", "--data.loader", "torch", "--trainer.devices", "1"])
    other = SuiteCLI("fit", [*config, "--trainer.max_epochs", "2"])
    assert identity(same.settings) == lenet().identity
    assert same.overrides == {}
    assert other.overrides == {"trainer.max_epochs": 2}
    assert identity(other.settings) != lenet().identity


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        ([], {}),
        (["--data.loader=torch", "--trainer.devices=1", "--runs", "elsewhere"], {}),
        (["--trainer.max_epochs=2"], {"trainer.max_epochs": 2}),
        (["--config=shorter.yaml"], {"trainer.max_epochs": 3}),
        (["--trainer=trainer.yaml"], {"trainer.max_epochs": 4}),
        (["--data.loader", "torch", "--model.optimizer.lr", "0.5"], {"model.init_args.optimizer.init_args.lr": 0.5}),
    ],
)
def test_overrides_are_found_however_they_are_given(
    arguments: list[str], overrides: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shorter.yaml").write_text("trainer:\n  max_epochs: 3\n")
    Path("trainer.yaml").write_text("max_epochs: 4\n")
    cli = SuiteCLI("fit", ["--config", str(find_recipe("mnist/lenet5")), "--seed_everything", "0", *arguments])
    assert cli.overrides == overrides
    assert set(cli.settings) == set(lenet().settings) | set(overrides)


def test_run_folder_is_the_recipe_again(tmp_path: Path) -> None:
    """The resolved recipe that a run keeps parses, and gives the same run."""
    config = ["--config", str(find_recipe("digits/mlp")), "--seed_everything", "3", "--trainer.max_epochs", "2"]
    first = SuiteCLI("fit", config)
    kept = tmp_path / "recipe.yaml"
    kept.write_text(first.recipe_text())
    second = SuiteCLI("fit", ["--config", str(kept)])
    assert second.resolved == first.resolved
    assert second.seed == 3


def test_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(RecipeError, match="did you mean mnist/lenet5"):
        find_recipe("mnist/lenet")


def test_broken_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("published: [\n")
    with pytest.raises(RecipeError, match=r"broken\.yaml cannot be read as YAML"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"published: \xff\n", " must be text in UTF-8 ('utf-8' codec can't decode byte 0xff in position 11"),
        (b"published: 2026-13-01\n", " cannot be read as YAML (month must be in 1..12): correct it at that place."),
        (b"", " is empty: write settings into it, or name another file."),
        (b"published:\nmodel:\ndata:\ntrainer:\n3:\nx:\n", " has a part 3, x, which does not exist: correct or"),
    ],
)
def test_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=re.escape(f"{path}{message}")):
        load_recipe(path)


def test_recipe_without_claims_part_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.yaml"
    path.write_text("model: {}\ndata: {}\n")
    with pytest.raises(RecipeError, match="four parts published, model, data and trainer"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("value", "5 %", "value (=5 %) of a claim must be a finite number, in points of error: correct."),
        ("value", math.nan, "value (=nan) of a claim must be a finite number, in points of error: correct."),
        ("tolerance", 0, "tolerance (=0) of a claim must be a finite number above 0, in points of error: correct."),
        (
            "tolerance",
            None,
            "tolerance (=None) of a claim must be a finite number above 0, in points of error: correct.",
        ),
        ("spread", -0.1, "spread (=-0.1) of a claim must be a finite number above 0, in points of error: correct."),
        ("spread", math.inf, "spread (=inf) of a claim must be a finite number above 0, in points of error: correct."),
        ("spread", True, "spread (=True) of a claim must be a finite number above 0, in points of error: correct."),
        ("spread", "0.16", "spread (=0.16) of a claim must be a finite number above 0, in points of error: correct."),
    ],
)
def test_claim_without_a_number_is_refused(tmp_path: Path, name: str, value: object, rule: str) -> None:
    content = yaml.safe_load(find_recipe("mnist/lenet5").read_text())
    content["published"]["claims"][0][name] = value
    path = tmp_path / "number.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=re.escape(f"{path}: {rule}")):
        load_recipe(path)


def test_misspelt_claim_is_refused(tmp_path: Path) -> None:
    content = yaml.safe_load(find_recipe("mnist/lenet5").read_text())
    content["published"]["claims"][0]["tolerence"] = 1
    path = tmp_path / "typo.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match="tolerence"):
        load_recipe(path)
