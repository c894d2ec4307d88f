"""The frame of the analyses: options, checks, files, finished runs, and networks that come back as they were."""

from __future__ import annotations

import csv
import inspect
import json
import math
import random
import shutil
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from wandb_double import WandbDouble, for_this_process

from benchmarks import analyze as command
from benchmarks import wandb_run
from benchmarks.cli import main
from benchmarks.phenomena import cards
from benchmarks.phenomena.analysis import (
    Analysis,
    AnalysisError,
    Check,
    Outcome,
    Preset,
    all_analyses,
    find_analysis,
    read_analysis,
    seed_all,
    steps,
    untouched,
)
from benchmarks.phenomena.figures import panels, points, theory_line
from benchmarks.phenomena.finished import FinishedRun, load_checkpoint, load_run
from datamodules.cifar import CIFAR10
from datamodules.digits import Digits
from datamodules.originals import DataError, ImageArray
from models.resnet import ResNet

Bench = Callable[..., tuple[int, str, str]]


# -- an analysis to try the frame with --------------------------------------------------------------------------------


def draw(shape: str = "square", size: int = 2, wanted: float = 4.0, preset: Preset = "cpu", seed: int = 0) -> Outcome:
    """Count the unit squares of a square.

    Args:
        shape: what is drawn.
        size: length of its side.
        wanted: its area.
        preset: how much of it.
        seed: of nothing.
    """
    figure, (axes,) = panels()
    theory_line(axes, [1, 2, 3], [1, 4, 9], "side squared")
    points(axes, [size], [size**2], "counted", spread=[0.1])
    axes.legend()
    return Outcome(
        numbers={"area": np.float32(size**2), "nothing": math.nan, "chance": random.random(), "sides": torch.ones(4)},
        checks=[
            Check("area", float(size**2), wanted, wanted, "Euclid"),
            Check("side", size, 5, None, "a wish", False, spread=0.25),
        ],
        table={"side": [1, 2, None], "area": np.array([1.0, 4.0, math.inf])},
        figures={"curve": figure, "again": figure},
        seeds=range(seed, seed + 3),
    )


def looks(run: FinishedRun | None = None, preset: Preset = "cpu", seed: int = 0) -> Outcome:
    """Look at a network."""
    assert run is not None
    with untouched(run.network):
        run.network.double()
    return Outcome({"recipe": run.recipe}, [], {"weights": [sum(p.numel() for p in run.network.parameters())]})


def needs(run: FinishedRun, preset: Preset = "cpu", seed: int = 0) -> Outcome:
    """Look at a network, which must be given."""
    return looks(run)


class Made(Analysis):
    """An analysis made of one function, without a file."""

    def module(self) -> types.ModuleType:
        module = types.ModuleType(self.name)
        module.analyze = {"draw": draw, "looks": looks, "needs": needs}[self.name]  # type: ignore[attr-defined]
        return module


DRAW = Made("draw", "A square has as many unit squares as its side squared.", "", "Euclid, I.46", "nothing", "shape")
LOOKS, NEEDS = Made("looks", "Networks have weights.", "", "-", "-"), Made("needs", "They do.", "", "-", "-")


def test_files_of_an_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = random.getstate()
    assert command.analyze(DRAW, ["--smoke", "--seed", "3", "--shape=circle"]) == 0
    assert random.getstate() == state
    folder = tmp_path / "runs/phenomena/draw-circle/smoke/seed-3"
    names = {path.name for path in folder.iterdir()}
    figures = {f"draw-circle{figure}.{ending}" for figure in ("", "-again") for ending in ("png", "svg")}
    assert names == {"draw-circle.json", "draw-circle.csv", *figures}

    record = json.loads((folder / "draw-circle.json").read_text())
    random.seed(3)
    assert record["numbers"] == {"area": 4.0, "nothing": None, "chance": random.random(), "sides": [1.0] * 4}
    assert [(check["name"], check["held"]) for check in record["checks"]] == [("area", True), ("side", False)]
    assert record["command"] == "python -m benchmarks analyze draw --shape circle --preset smoke --seed 3"
    assert (record["variant"], record["seed"], record["seeds"], record["run"]) == ("circle", 3, [3, 4, 5], None)
    assert {"torch", "numpy", "matplotlib", "scipy"} <= set(record["versions"])
    with (folder / "draw-circle.csv").open() as file:
        assert list(csv.reader(file)) == [["side", "area"], ["1", "1"], ["2", "4"], ["", ""]]
    assert (folder / "draw-circle.png").read_bytes().startswith(b"\x89PNG")
    before = (folder / "draw-circle.svg").read_bytes()
    assert b"counted" in before  # texts stay texts

    out = capsys.readouterr().out
    assert "PASS  area" in out
    assert "no    side     2 ± 0.25" in out
    command.analyze(DRAW, ["--smoke", "--seed", "3", "--shape=circle"])
    assert (folder / "draw-circle.svg").read_bytes() == before


def test_a_check_that_must_hold_and_does_not_fails_the_command(tmp_path: Path, capsys: Any) -> None:
    assert command.analyze(DRAW, ["--wanted", "5", "--to", str(tmp_path / "here")]) == 1
    assert (tmp_path / "here/draw-square.json").is_file()  # written nevertheless
    out, err = capsys.readouterr()
    assert err == "failed: area (=4) must be 5: Euclid\n"
    assert "FAIL  area" in out


def test_checks() -> None:
    assert Check("x", 1.0, 1.0, 2.0, "").held
    assert not Check("x", 2.1, 1.0, 2.0, "").held
    assert not Check("x", math.nan, None, None, "").held
    bounds = ((1, 2), (None, 2), (1, None), (None, None), (1, 1))
    words = [Check("x", 0, low, high, "").accepted for low, high in bounds]
    assert words == ["1 to 2", "at most 2", "at least 1", "any number", "1"]
    with pytest.raises(ValueError, match=r"equally long, they are {'a': 1, 'b': 2}: fill them with None\."):
        Outcome({}, [], {"a": [1], "b": [1, 2]})
    with pytest.raises(TypeError, match=r"object cannot be written to JSON"):
        command.plain({"a": object()})
    assert list(steps([1, 2], "counting")) == [1, 2]


def test_a_folder_that_cannot_be_written_is_refused_before_the_analysis_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(preset: Preset = "cpu", seed: int = 0) -> Outcome:
        raise AssertionError("the analysis ran")

    module = types.ModuleType("looks")
    module.analyze = never  # type: ignore[attr-defined]
    monkeypatch.setattr(Made, "module", lambda self: module)
    with pytest.raises(AnalysisError, match=r"^/proc/nowhere cannot be written \(No such file or directory\): give"):
        command.analyze(LOOKS, ["--to", "/proc/nowhere"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smoke", "--preset", "cpu"], "--smoke is --preset smoke: give only one of them."),
        (["--seed", "-1"], "--seed (=-1) must not be negative, and below 2^32: use 0, 1, 2, ..."),
        (["--preset", "huge"], "`python -m benchmarks analyze draw --help` lists the options."),
        (["--size", "two"], "`python -m benchmarks analyze draw --help` lists the options."),
        (["--run", "runs"], "`python -m benchmarks analyze draw --help` lists the options."),
        (
            ["--to", "/proc/nowhere"],
            "/proc/nowhere cannot be written (No such file or directory): give another",
        ),
    ],
)
def test_options_that_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        command.analyze(DRAW, arguments)
    assert message in str(error.value)


def test_the_command_itself(bench: Bench) -> None:
    assert bench("analyze") == (2, command.USAGE, "")
    assert bench("analyze", "--help") == (0, command.USAGE, "")
    status, out, _ = bench("analyze", "--list")
    assert status == 0
    analyses = all_analyses()
    assert analyses
    for one in analyses:
        assert f"{one.name}\n  {one.claim}\n  {one.paper}\n  takes: {one.cost}" in out
    assert bench("analyze", "--seed", "1")[::2] == (
        2,
        "error: the name of an analysis must come before --seed: `analyze --list` shows them.\n",
    )
    names = ", ".join(one.name for one in analyses)
    status, _, err = bench("analyze", "xyz")
    assert (status, err.startswith(f"error: analysis (=xyz) does not exist: there are: {names}. `python")) == (2, True)
    for one in analyses:
        with pytest.raises(AnalysisError, match=rf"did you mean {one.name}\?"):
            find_analysis(one.name[:-1])


def test_analyses_are_found_by_listing(tmp_path: Path) -> None:
    whole = '"""Claim.\n\nText.\n"""\nPAPER = "P 1900"\nCOST = "1 s"\nVARIANT = "model"\ndef analyze():\n    pass\n'
    (tmp_path / "one.py").write_text(whole)
    (tmp_path / "helper.py").write_text('"""No analysis."""\n')
    (found,) = all_analyses(tmp_path)
    assert found == Analysis("one", "Claim.", "Text.", "P 1900", "1 s", "model")
    assert found.stem({"model": "net"}) == "one-net"
    (tmp_path / "two.py").write_text("def analyze():\n    pass\n")
    with pytest.raises(AnalysisError, match=r"two\.py lacks docstring, PAPER, COST, which `analyze --list` shows"):
        read_analysis(tmp_path / "two.py")


# -- a network comes back as it was -----------------------------------------------------------------------------------


def everything(network: nn.Module) -> list[Any]:
    """All that `untouched` promises to keep, as objects and bytes."""
    found: list[Any] = [random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()]
    for name, module in network.named_modules():
        found += [name, id(module), module.training]
        found += [[(hook, id(call)) for hook, call in getattr(module, which).items()] for which in hook_tables(module)]
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.numpy().tobytes())
        found += [name, id(tensor), tensor.dtype, tensor.stride(), tensor.data_ptr(), tensor.requires_grad, grad]
        found += [tensor.detach().contiguous().numpy().tobytes(), len(tensor._backward_hooks or {})]
    return found


def hook_tables(module: nn.Module) -> list[str]:
    return sorted(name for name, value in vars(module).items() if "hooks" in name and isinstance(value, dict))


def test_a_network_comes_back_bit_for_bit() -> None:
    seed_all(0)
    network = (
        ResNet(depths=[1, 1], widths=[4, 8], stem="cifar", shortcut="A").to(memory_format=torch.channels_last).train()
    )
    network.fc.eval()
    network.fc.weight.requires_grad_(False)
    network.fc.register_forward_hook(lambda *_: None)
    network(torch.randn(4, 3, 32, 32)).square().mean().backward()
    before = everything(network)
    with pytest.raises(ZeroDivisionError), untouched(network):
        spoil(network)
    assert everything(network) == before
    assert "forward" not in vars(network)


def spoil(network: ResNet) -> None:
    """Change all of it, then fail."""
    seed_all(5)
    network.eval().requires_grad_(True)
    network.register_forward_hook(lambda *_: 1 / 0)
    first = next(network.parameters())
    first.register_hook(lambda grad: 2 * grad)
    network.double()
    for parameter in network.parameters():
        parameter.grad = None
        parameter.data += 1
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.running_mean = torch.ones(1)
    network.fc = nn.Linear(3, 2)
    network.forward = lambda x: x  # type: ignore[method-assign]
    network(torch.randn(1))


TAKING_A_NETWORK = [one for one in all_analyses() if "run" in inspect.signature(one.module().analyze).parameters]
OWN_TESTS = ("bounds", "landscape", "ntk", "spectra")  # they need the initial weights too, and with them a run's folder
TAKING_A_NETWORK = [one for one in TAKING_A_NETWORK if one.name not in OWN_TESTS]


@pytest.mark.parametrize("analysis", TAKING_A_NETWORK, ids=lambda one: one.name)
def test_a_network_handed_to_an_analysis_comes_back_as_it_was(analysis: Analysis) -> None:
    """Mode, gradients, hooks, parameters, statistics, and the generators of random numbers."""
    seed_all(0)
    network = ResNet([1, 1], [4, 8], stem="imagenet", in_channels=1, num_classes=10).train()
    network.layer1.eval()
    network.fc.bias.requires_grad_(False)
    network.fc.register_forward_hook(lambda *_: None)
    network(torch.randn(4, 1, 32, 32)).square().mean().backward()
    run = FinishedRun(network, Digits(batch_size=1, image_size=32), "digits/some", 0, Path("last.ckpt"), None)
    before = everything(network)
    outcome = analysis.module().analyze(preset="smoke", run=run)
    assert everything(network) == before
    assert outcome.figures


# -- finished runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch."""
    runs = tmp_path_factory.mktemp("finished")
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", "digits/mlp", "--seed_everything", "4", "--runs", str(runs), *quiet]) == 0
    (folder,) = runs.glob("digits/mlp/*/seed-4")
    return folder


def test_a_finished_run(trained: Path) -> None:
    state = torch.get_rng_state()
    run = load_run(str(trained))
    assert torch.equal(torch.get_rng_state(), state)
    assert (run.recipe, run.seed, run.network.training) == ("digits/mlp", 4, False)
    assert run.name == f"digits/mlp/{trained.parent.name}/seed-4"
    weights = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in run.network.state_dict().items())

    images, labels = run.images("test", 360)
    result = json.loads((trained / "result.json").read_text())
    with torch.no_grad():
        wrong = int((run.network(images).argmax(1) != labels).sum())
    assert wrong == result["errors"]["1crop"]["wrong1"]
    few, same = run.images("train", 50, seed=1)
    again, _ = run.images("train", 50, seed=1)
    assert torch.equal(few, again)
    assert len(same) == 50
    assert not torch.equal(few, run.images("train", 50, seed=2)[0])
    pixels, _ = run.pixels("train", 50, seed=1)
    assert 0 <= pixels.min() < pixels.max() <= 1
    torch.testing.assert_close(run.normalise(pixels), few, rtol=0, atol=1e-5)
    with pytest.raises(DataError, match=r"361 test images of digits cannot be drawn: ask for 1 to 360\."):
        run.images("test", 361)


@pytest.mark.parametrize("per_pixel_mean", [False, True])
def test_pixels_of_a_run_are_those_of_its_dataset(per_pixel_mean: bool) -> None:
    """Also where the mean of every pixel is subtracted, which is known only when the data is open."""
    generator = np.random.default_rng(0)
    stored = {split: generator.integers(0, 256, (60, 32, 32, 3), np.uint8) for split in ("train", "test")}
    data = CIFAR10(batch_size=4, per_pixel_mean=per_pixel_mean, loader="torch")
    data.read_originals = lambda split: ImageArray(  # type: ignore[method-assign]
        stored[split], np.arange(60) % 10, tuple("0123456789"), {}
    )
    run = FinishedRun(ResNet([1], [4], stem="cifar"), data, "cifar10/some", 0, Path("last.ckpt"), None)
    drawn = np.random.default_rng(5).permutation(60)[:20]
    expected = torch.from_numpy(stored["test"][drawn]).permute(0, 3, 1, 2) / 255
    inputs = run.normalise(expected)  # before anything else opens the data
    mean = stored["train"].mean(0).transpose(2, 0, 1) / 255 if per_pixel_mean else [[[0.4914]], [[0.4822]], [[0.4465]]]
    std = torch.tensor([0.2470, 0.2435, 0.2616])[:, None, None]
    torch.testing.assert_close(inputs, (expected - torch.as_tensor(mean).float()) / std, rtol=0, atol=1e-5)
    images, labels = run.images("test", 20, seed=5)
    torch.testing.assert_close(images, inputs, rtol=0, atol=1e-5)
    pixels, _ = run.pixels("test", 20, seed=5)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    assert labels.tolist() == (drawn % 10).tolist()


def test_an_analysis_of_a_run_writes_below_it(trained: Path, capsys: Any) -> None:
    assert command.analyze(LOOKS, ["--run", str(trained)]) == 0
    record = json.loads((trained / "phenomena/looks/cpu/seed-0/looks.json").read_text())
    assert record["run"] == f"digits/mlp/{trained.parent.name}/seed-4"
    assert record["command"] == f"python -m benchmarks analyze looks --run runs/{record['run']}"
    assert record["numbers"] == {"recipe": "digits/mlp"}
    assert record["seeds"] == [0]
    assert command.without_place(str(trained)) == f"runs/{record['run']}"  # also as another option's value
    assert command.without_place("digits/mlp") == "digits/mlp"

    assert command.analyze(NEEDS, ["--ckpt", str(trained / "checkpoints/last.ckpt"), "--recipe", "digits/mlp"]) == 0
    record = json.loads((Path(capsys.readouterr().out.split("Files: ")[-1].strip()) / "needs.json").read_text())
    assert record["run"] == "digits/mlp, last.ckpt"
    assert load_checkpoint(str(trained / "checkpoints/last.ckpt"), None).folder == trained


def test_runs_that_are_refused(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "checkpoints/last.ckpt"
    elsewhere = tmp_path / "some/weights.ckpt"
    elsewhere.parent.mkdir()
    shutil.copy(checkpoint, elsewhere)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(trained, unfinished)
    (unfinished / "result.json").unlink()
    empty = tmp_path / "empty"
    shutil.copytree(trained, empty)
    (empty / "checkpoints/last.ckpt").unlink()
    cases = {
        f"--run {tmp_path}": "must hold a finished run, it has no recipe.yaml: give the folder seed-N that `fit` names",
        f"--run {unfinished}": "must hold a finished run, it has no result.json: finish it first with",
        f"--run {empty}": "must hold a finished run, it has no last.ckpt: train it first with",
        f"--run {trained} --ckpt {checkpoint}": "--run and --ckpt both name a network: give only one of them.",
        "--recipe digits/mlp": "--recipe (=digits/mlp) says what --ckpt was trained with: add --ckpt, or leave it out.",
        "": "needs needs a trained network: --run with the folder seed-N of a finished run, or --ckpt.",
        "--ckpt nowhere.ckpt": "--ckpt (=nowhere.ckpt) must be a file: give the checkpoints/last.ckpt of a run.",
        f"--ckpt {elsewhere}": "lies in no run, whose recipe.yaml would tell its network: add --recipe.",
        f"--ckpt {elsewhere} --recipe digits/linear": "give the --recipe it was trained with, or another --ckpt.",
    }
    for arguments, message in cases.items():
        with pytest.raises(AnalysisError) as error:
            command.analyze(NEEDS, arguments.split())
        assert message in str(error.value)
    assert f"{elsewhere} must fit the network of digits/linear, Linear, name by name (" in str(error.value)


# -- W&B and cards ----------------------------------------------------------------------------------------------------


def logged(values: dict[str, Any]) -> dict[str, Any]:
    """Without what the client adds and what is drawn at random; figures by the name of their file's beginning."""
    return {
        name: value
        for name, value in values.items()
        if not name.startswith("_") and not name.endswith(("chance", "/curve", "/again"))
    }


NUMBERS = {"area": 4.0, "checks/area": True, "checks/side": False}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbDouble]:
    """A server that this process may send to, and will."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb_run, "OPENING", 3.0)
    monkeypatch.setattr(wandb_run, "FINISHING", 3.0)
    with for_this_process(monkeypatch) as double:
        yield double


def test_an_analysis_is_a_run_at_wandb(server: WandbDouble, tmp_path: Path, capsys: Any) -> None:
    assert command.analyze(DRAW, ["--seed", "3", "--to", str(tmp_path / "here")]) == 0
    ((_, project, name), sent) = next(iter(server.runs.items()))
    assert len(server.runs) == 1
    assert f"W&B: {server.url}/team/ilsvrc-bench/runs/{name}\n" in capsys.readouterr().out
    assert (project, sent.state, name.rpartition("-")[0]) == ("ilsvrc-bench", "finished", "draw-square-cpu-s3")
    assert (sent.fields["groupName"], sent.fields["jobType"]) == ("draw-square", "analysis")
    config = sent.config()
    assert (config["options"]["shape"], config["seed"], config["of_run"]) == ("square", 3, None)
    (values,) = sent.history()
    assert logged(values) == {f"analysis/draw-square/{key}": value for key, value in NUMBERS.items()}
    for figure, file in (("curve", "draw-square.png"), ("again", "draw-square-again.png")):
        image = values[f"analysis/draw-square/{figure}"]
        assert sent.files[image["path"]] == (tmp_path / "here" / file).read_bytes()
    assert sent.summary()["checks_failed"] == 0
    assert server.unanswered == []


def test_an_analysis_within_an_open_run_is_logged_to_that(server: WandbDouble, tmp_path: Path) -> None:
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    with wandb.init(project="mine", id="notebook", dir=tmp_path, settings=settings):
        command.analyze(DRAW, [])
    (values,) = server.run("notebook").history()
    assert len(server.runs) == 1
    assert logged(values) == {f"analysis/draw-square/{key}": value for key, value in NUMBERS.items()}


def test_what_wandb_does_ends_no_analysis(server: WandbDouble, tmp_path: Path, capsys: Any) -> None:
    server.fail("UpsertBucket", 400)
    assert command.analyze(DRAW, ["--to", str(tmp_path / "here")]) == 0
    assert "W&B: did not get the analysis (" in capsys.readouterr().out
    assert (tmp_path / "here/draw-square.json").is_file()
    asked = len(server.requests)
    for mode, said in (("disabled", ""), ("offline", "W&B: offline, as asked\n")):
        assert command.analyze(DRAW, ["--wandb", mode]) == 0
        assert capsys.readouterr().out.partition("Files: ")[2].partition("\n")[2] == said
    assert len(server.requests) == asked


def test_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command.analyze(DRAW, ["--to", str(tmp_path / "results")])
    monkeypatch.setattr(cards, "all_analyses", lambda: [DRAW, LOOKS])
    text = cards.cards(tmp_path, tmp_path / "results")
    assert "## draw\n\n**A square has as many unit squares as its side squared.**\n\nEuclid, I.46. Takes: no" in text
    assert "### draw-square\n\n```bash\npython -m benchmarks analyze draw\n```" in text
    assert "| area | 4 | – | 4 | yes | Euclid |" in text
    assert "| side | 2 ± 0.25 | – | at least 5 | **no** | a wish |" in text
    assert "Seeds 0 to 2 (±: standard deviation over them), preset cpu, 0 s, " in text
    assert cards.seeds_in_words([7], True) == "Seed 7"
    assert cards.seeds_in_words([7, 8], False) == "Seeds 7 to 8"
    assert "![draw-square](results/draw-square.png)" in text
    assert "## looks\n\n**Networks have weights.**\n\n-. Takes: -.\n\nNo result is committed yet." in text
    (tmp_path / "results/other.json").write_text("[]")
    with pytest.raises(AnalysisError, match=r"other\.json is no file of `analyze`: remove it"):
        cards.cards(tmp_path, tmp_path / "results")


def test_the_committed_cards_are_those_of_the_committed_results() -> None:
    path = cards.FOLDER / "README.md"
    assert f"{cards.BEGIN}\n\n{cards.cards(cards.FOLDER)}\n\n{cards.END}" in path.read_text()
