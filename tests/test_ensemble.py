"""Ensembles of small runs, against softmaxes averaged by hand, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import results
from benchmarks.leaderboard import build_rows
from benchmarks.protocols import Evaluation
from benchmarks.recipe import RecipeError, all_recipes, find_recipe, load_recipe
from benchmarks.submit import not_reproduced
from benchmarks.suite_cli import SuiteCLI, quiet_warnings

Bench = Callable[..., tuple[int, str, str]]

EPOCHS = ["--trainer.max_epochs", "1"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--data.loader", "torch"]
ONE_EPOCH = [*EPOCHS, *QUIET]


def write(path: Path, members: Any, protocols: tuple[str, ...] = ("ens-2-1crop",), parameters: int = 1300) -> Path:
    """A recipe whose claims have these protocols."""
    claims = [
        {"value": 50.0, "protocol": name, "tolerance": 50.0, "tolerance_reason": "by hand", "where": "here"}
        for name in protocols
    ]
    published = {"paper": "Nobody 2000", "url": "https://example.org", "parameters": parameters, "claims": claims}
    path.write_text(yaml.safe_dump({"published": published, "members": members}))
    return path


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """digits/linear, one epoch: three ways to be wrong are enough."""
    content = yaml.safe_load(find_recipe("digits/linear").read_text())
    content["trainer"]["max_epochs"] = 1
    content["model"]["init_args"].pop("lr_scheduler")
    path = tmp_path / "linear.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def train(bench: Bench, recipe: Path, *seeds: int) -> None:
    for seed in seeds:
        status, _, err = bench("fit", "--config", str(recipe), "--seed_everything", str(seed), *QUIET)
        assert status == 0, err


def by_hand(recipe: Path, checkpoints: list[Path]) -> tuple[dict[str, int], int]:
    """Images wrong under the mean of the softmaxes of one view, and of both mirror images too; and the images."""
    cli = SuiteCLI("test", ["--config", str(recipe), "--seed_everything", "0", *QUIET])
    with quiet_warnings():
        cli.build([])
    cli.datamodule.prepare_data()
    cli.datamodule.setup("test")
    batches = [cli.datamodule.on_after_batch_transfer(batch, 0) for batch in cli.datamodule.test_dataloader()]
    images, labels = torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
    straight, mirrored = [], []
    for checkpoint in checkpoints:
        cli.model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
        with torch.no_grad():
            straight.append(cli.model.eval()(images).softmax(1).double())
            mirrored.append(cli.model(images.flip(-1)).softmax(1).double())
    flip = [(one + other) / 2 for one, other in zip(straight, mirrored, strict=True)]
    means = {"1crop": sum(straight), "1crop+flip": sum(straight) + sum(flip)}
    return {name: int((mean.argmax(1) != labels).sum()) for name, mean in means.items()}, len(labels)


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_ends_it_with_nothing_written(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, expected: int
) -> None:
    weights = [tmp_path / "one.ckpt", tmp_path / "two.ckpt"]
    cli = SuiteCLI("test", ["--config", "digits/linear", "--seed_everything", "0", *QUIET])
    with quiet_warnings():
        cli.build([])
    for path in weights:
        torch.save({"state_dict": cli.model.state_dict()}, path)
    ours = write(tmp_path / "two.yaml", [{"recipe": "digits/linear", "weights": str(path)} for path in weights])
    step, seen = Evaluation.test_step, iter(range(100))

    def stopped(self: Evaluation, *batch: Any) -> Any:
        if next(seen) == 1:  # while the second member is evaluated
            os.kill(os.getpid(), signum)
        return step(self, *batch)

    monkeypatch.setattr(Evaluation, "test_step", stopped)
    status, out, err = bench("ensemble", str(ours), *QUIET)
    assert (status, "done" in out) == (expected, False), err
    assert err.endswith(
        f"stopped by {signal.Signals(signum).name}: no result is written, the same command begins again.\n"
    )
    (folder,) = (tmp_path / "runs/custom/two").iterdir()
    assert {path.name for path in folder.rglob("*")} == {"seed-0", "checkpoints", "log.txt"}
    assert bench("ensemble", str(ours), *QUIET)[0] == 0
    assert (folder / "seed-0/result.json").is_file()


@pytest.mark.slow
def test_an_ensemble_from_training_to_the_leaderboard(bench: Bench, tmp_path: Path, linear: Path) -> None:
    """Refused until two runs are there; then their mean, and the weights of one in a file as a third."""
    weights = tmp_path / "weights.ckpt"
    members = [{"recipe": str(linear), "seeds": [0, 2]}, {"recipe": "digits/linear", "weights": str(weights)}]
    ours = write(tmp_path / "three.yaml", members, ("ens-3-1crop", "ens-3-1crop+flip"), 1950)
    status, _, err = bench("ensemble", str(ours), *QUIET)
    command = f"python -m benchmarks fit --config {linear} --seed_everything"
    assert (status, err) == (
        2,
        "error: custom/three needs 3 finished members, 3 are not:\n"
        f"  {command} 0 {' '.join(QUIET)}\n  {command} 2 {' '.join(QUIET)}\n"
        f"  put the weights of digits/linear at {weights}\nGive this command again when that is done.\n",
    )

    train(bench, linear, 0, 1, 2)
    runs = next((tmp_path / "runs/custom/linear").iterdir())
    checkpoints = [runs / f"seed-{seed}/checkpoints/last.ckpt" for seed in (0, 2, 1)]
    shutil.copy(checkpoints[2], weights)
    status, out, err = bench("ensemble", str(ours), *QUIET)
    assert status == 0, err
    (path,) = (tmp_path / "runs/custom/three").glob("*/seed-0/result.json")
    result = results.read_result(path)
    wrong, count = by_hand(linear, checkpoints)
    assert {name: errors["wrong1"] for name, errors in result.errors.items()} == {
        f"ens-3-{name}": number for name, number in wrong.items()
    }
    assert {errors["count"] for errors in result.errors.values()} == {count} == {360}
    assert result.identity == load_recipe(ours).identity
    assert result.overrides == {}
    assert (result.parameters, result.dataset["test"]["count"]) == (1950, 360)

    own = results.read_result(runs / "seed-2/result.json")
    assert result.members[1]["errors"]["1crop"] == own.errors["1crop"]
    assert (result.members[1]["seed"], result.members[1]["finished"]) == (2, own.finished)
    assert result.members[2]["weights"] == "weights.ckpt"
    assert "member custom/linear seed 2: " in out

    (row, *_) = build_rows([result], all_recipes())
    assert (row.protocol, row.verdict, row.published) == ("ens-3-1crop", "reproduced", 50.0)

    assert bench("ensemble", str(ours), *QUIET)[1].startswith("finished: custom/three seed 0: ")
    content = json.loads((runs / "seed-2/result.json").read_text())  # trained anew since
    (runs / "seed-2/result.json").write_text(json.dumps(content | {"finished": "2000-01-01T00:00:00Z"}))
    assert "done: custom/three" in bench("ensemble", str(ours), *QUIET)[1]

    checkpoints[1].unlink()
    assert f"{command} 2 {' '.join(QUIET)} --again" in bench("ensemble", str(ours), *QUIET)[2]
    status, _, err = bench("ensemble", str(ours), *QUIET, "--repetition", "1")
    assert [line for line in err.splitlines() if "fit" in line] == [  # seeds 0 to 2 are those of the first repetition
        f"  {command} {seed} {' '.join(QUIET)}" for seed in (3, 5)
    ]


def test_order_of_members_changes_no_bit() -> None:
    """Softmaxes in float32 are summed in float64."""
    from benchmarks.protocols import MeanScores

    generator = torch.Generator().manual_seed(0)
    softmaxes = [torch.randn(50, 10, generator=generator).softmax(1) for _ in range(7)]
    sums = []
    for order in (softmaxes, softmaxes[::-1]):
        mean = MeanScores(7)
        for probabilities in order:
            mean.start(50)
            mean.add(probabilities, torch.zeros(50, dtype=torch.int64))
            mean.finish()
        sums.append(mean.sum)
    assert sums[0] is not None
    assert sums[1] is not None
    assert torch.equal(sums[0], sums[1])


def test_settings_make_other_members(bench: Bench, tmp_path: Path) -> None:
    """With --trainer.max_epochs 1 it is another ensemble, as it is for a run."""
    path = write(tmp_path / "two.yaml", [{"recipe": "digits/linear", "seeds": [0, 1]}])
    status, _, err = bench("ensemble", str(path), *ONE_EPOCH)
    assert status == 2
    assert f"fit --config digits/linear --seed_everything 1 {' '.join(ONE_EPOCH)}" in err
    for seed in ("0", "1"):
        assert bench("fit", "--config", "digits/linear", "--seed_everything", seed, *ONE_EPOCH)[0] == 0
    status, _, err = bench("ensemble", str(path), *ONE_EPOCH)
    assert status == 0, err
    (found,) = (tmp_path / "runs/custom/two").glob("*/seed-0/result.json")
    result = results.read_result(found)
    assert result.overrides == {"trainer.max_epochs": 1}
    assert result.identity != load_recipe(path).identity

    wrong = write(tmp_path / "two.yaml", [{"recipe": "digits/linear", "seeds": [0, 1]}], parameters=1)
    status, _, err = bench("ensemble", str(wrong), *ONE_EPOCH, "--again")
    assert err == (
        f"error: published.parameters (=1) of {wrong} is not what the members have together, 1300: correct the members "
        "or the number.\n"
    )
    crops = write(tmp_path / "two.yaml", [{"recipe": "digits/linear", "seeds": [0, 1]}], ("ens-2-10crop",))
    status, _, err = bench("ensemble", str(crops), *ONE_EPOCH, "--again")
    assert (status, err.startswith("error: protocol (=10crop) of the recipe's claims: images of digits")) == (2, True)


TWO = {"recipe": "digits/linear", "seeds": [0, 1]}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([{"recipe": "digits/linear", "seeds": [0]}], "must have at least 2 members, it has 1"),
        (["digits/linear"], r"a member \(=digits/linear\) must be recipe, with seeds or weights"),
        ([{**TWO, "seed": 1}], r"a member \(=.*\) must be recipe, with seeds or weights, and maybe protocol"),
        ([{"recipe": "digits/linear"}], r"must have either seeds \(=None\), a list such as \[0, 1, 2\], or weights"),
        ([{**TWO, "weights": "w.pt"}], r"must have either seeds \(=\[0, 1\]\), .* or weights \(=w.pt\), a file"),
        ([{**TWO, "seeds": 3}], r"must have either seeds \(=3\)"),
        ([{**TWO, "seeds": [0, -1]}], r"must have either seeds \(=\[0, -1\]\)"),
        ([TWO, {**TWO, "seeds": [1]}], "has member digits/linear seed 1 more than once"),
        ([TWO, {**TWO, "seeds": [2], "protocol": "flip"}], "either all members must have a protocol of their own"),
        ([TWO, {"recipe": "imagenet/alexnet_5", "seeds": [0]}], "member imagenet/alexnet_5 is an ensemble itself"),
        ([TWO, {"recipe": "digits/linar", "seeds": [0]}], "did you mean digits/linear"),
    ],
)
def test_members_that_are_none_are_refused(tmp_path: Path, members: list[Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path / "wrong.yaml", members))


OWN = {**TWO, "protocol": "flip"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits/linear"], "digits/linear has no `members`, it trains one network: `python -m benchmarks test --conf"),
        (["{two}", "--oops"], "--oops is no option of ensemble, and no setting such as --data.loader torch"),
        (["{two}", "--data.oops", "1"], "member digits/linear seed 0: "),
        (["{five}"], "protocol (=ens-5-1crop) averages 5 networks, the recipe has 2"),
        (["{bare}"], "members must have a protocol of their own where a claim's (=ens-2) names none"),
        (["{both}"], "members must have a protocol of their own where a claim's (=ens-2-1crop) names none"),
        (["{files}", "--repetition", "1"], "--repetition (=1) needs members with seeds, custom/files has weights"),
    ],
)
def test_what_cannot_be_averaged_is_refused(bench: Bench, tmp_path: Path, arguments: list[str], message: str) -> None:
    files = [{"recipe": "digits/linear", "weights": f"{name}.pt"} for name in ("a", "b")]
    paths = {
        "two": write(tmp_path / "two.yaml", [TWO]),
        "five": write(tmp_path / "five.yaml", [TWO], ("ens-5-1crop",)),
        "bare": write(tmp_path / "bare.yaml", [TWO], ("ens-2",)),
        "both": write(tmp_path / "both.yaml", [OWN]),
        "files": write(tmp_path / "files.yaml", files),
    }
    status, _, err = bench("ensemble", *(argument.format(**paths) for argument in arguments))
    assert status == 2
    assert message in err


def test_members_of_other_images_are_refused(bench: Bench, tmp_path: Path) -> None:
    """digits/mlp has the images of digits/linear, mnist/linear has not."""
    for name in ("digits/linear", "mnist/linear"):
        path = load_recipe(find_recipe(name))
        run = tmp_path / "runs" / name / path.identity / "seed-0"
        (run / "checkpoints").mkdir(parents=True)
        (run / "result.json").write_text("{}")
        torch.save({"state_dict": {}}, run / "checkpoints/last.ckpt")
    members = [{"recipe": name, "seeds": [0]} for name in ("digits/linear", "mnist/linear")]
    status, _, err = bench("ensemble", str(write(tmp_path / "other.yaml", members)), *QUIET[:4])
    assert status == 2
    assert "member mnist/linear seed 0 has another dataset (=mnist) than digits/linear seed 0 (=digits)" in err


def test_an_ensemble_is_not_trained(bench: Bench) -> None:
    status, _, err = bench("plan", "imagenet/zfnet_6")
    assert (status, err) == (
        2,
        "error: imagenet/zfnet_6 is an ensemble and trains nothing: plan its members, imagenet/zfnet, "
        "imagenet/zfnet_wide.\n",
    )
    assert not {recipe.name for recipe in all_recipes() if recipe.members} & set(not_reproduced())
    for command in ("fit", "test", "validate"):
        status, _, err = bench(command, "--config", "imagenet/alexnet_5", "--seed_everything", "0")
        assert (status, err) == (
            2,
            "error: imagenet/alexnet_5 is an ensemble, whose members are trained one by one: `python -m benchmarks "
            "ensemble imagenet/alexnet_5` evaluates it and says which members are to be trained.\n",
        )
