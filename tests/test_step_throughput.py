"""The parts of a step, its FLOPs by hand, the search for a batch size, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from benchmarks.peaks import DATASHEETS, datasheet_peak, matmul_ceiling
from benchmarks.step_throughput import PARTS, Step, bound, largest_batch, measured
from benchmarks.suite_cli import SuiteCLI
from benchmarks.switches import Compiled
from models.classifier import ErrorCount
from models.linear import Linear
from models.zoo import Zoo

Bench = Callable[..., tuple[int, str, str]]


def test_a_linear_network_is_measured_and_its_flops_are_those_by_hand() -> None:
    found = measured("digits/linear", ["--data.loader", "torch"], steps=4, search_batch=64)
    # Forward 2 x 64 x 10 an image, backward as much for the weights; pixels need no gradient.
    assert found["flops_per_image"] == 2 * 2 * 64 * 10
    assert set(found["parts_seconds"]) == set(PARTS)
    assert all(value >= 0 for value in found["parts_seconds"].values())
    assert found["model_step_seconds"] > 0
    assert found["fit_step_seconds"] > found["callback_seconds_per_step"] > 0
    assert found["largest_batch"] == 64
    assert 0 < found["of_matmul"] < 1
    assert "mfu" not in found  # no datasheet for a CPU


def test_the_command_writes_what_it_measured(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import step_throughput

    class Here:
        """A process pool that is this process."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            pass

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def submit(self, work: Callable[..., Any], *arguments: Any) -> Here:
            self.work = lambda: work(*arguments)
            return self

        def result(self) -> Any:
            return self.work()

    monkeypatch.setattr(step_throughput, "ProcessPoolExecutor", Here)
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    command = ("throughput", "digits/linear", "--steps", "3", "--json", out, "--plot", picture)
    status, text, error = bench(*command, "--data.batch_size", "16", f"--data.root={tmp_path}")
    assert status == 0, error
    assert "Bound by: " in text
    assert picture.stat().st_size > 1000
    record = json.loads(out.read_text())
    assert record["recipes"][0]["batch_size"] == 16
    assert {"versions", "commit", "command", "finished"} <= set(record)
    assert str(tmp_path) not in out.read_text()  # nor any folder of this machine
    assert record["recipes"][0]["settings"][-1] == f"--data.root={tmp_path.name}"


def test_counting_of_errors_is_a_part_of_every_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a clock that each count puts forward by a second: 3 x 10 logits a step, so 100 of 3000 at once."""
    cli = SuiteCLI("fit", ["--config", "digits/linear", "--seed_everything", "0", "--runs", str(tmp_path)])
    cli.build([])
    step, counted = Step(cli), []
    update = ErrorCount.update

    def counting(self: ErrorCount, logits: torch.Tensor, *rest: torch.Tensor) -> None:
        counted.append(len(logits))
        update(self, logits, *rest)

    monkeypatch.setattr(ErrorCount, "NOTED", 3000)
    monkeypatch.setattr(step.network.train_errors, "update", lambda *given: counting(step.network.train_errors, *given))
    monkeypatch.setattr(step, "clock", lambda: float(len(counted)))
    logits, labels = torch.zeros(3, 10), torch.zeros(3, dtype=torch.long)
    assert step.logging(logits, labels, torch.tensor(1.0)) == pytest.approx(1 / 100)
    assert set(counted) == {300}
    monkeypatch.setattr(ErrorCount, "NOTED", 0)  # as CUDA graphs need it
    assert step.logging(logits, labels, torch.tensor(1.0)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits/linear", "--loaders", "mnist"), "cannot be given at once"),
        (("--trainer.precision=16-mixed",), "needs a recipe"),
        ((), "needs a recipe"),
        (
            ("digits/linear", "--batch-size", "7"),
            "--batch-size (=7) does nothing with recipes: use --data.batch_size 7.",
        ),
        (("digits/linear", "--quick"), "--quick does nothing with recipes: use --steps 5."),
        (("digits/linear", "--rounds", "2"), "--rounds (=2) does nothing with recipes: use --steps."),
        (("digits/linear", "--root", "a"), "--root (=a) does nothing with recipes: use --data.root a."),
        (("--loaders", "mnist", "--steps", "5"), "--steps (=5) does nothing with --loaders: use --rounds."),
        (
            ("--loaders", "mnist", "--search-batch", "5"),
            "--search-batch (=5) does nothing with --loaders: leave it out.",
        ),
        (("--write", "README.md", "--steps", "5"), "--steps (=5) does nothing with --write: leave it out."),
        (
            ("digits/linear", "digits/liner"),
            "recipe (=digits/liner) is neither a file nor a recipe of the suite: did you",
        ),
        (("digits/linear", "--data.batch", "5"), "Option 'batch' is not accepted"),
        (
            ("--steps", "5", "--data.batch_size", "16", "digits/linear"),
            "16 after --data.batch_size is no recipe but a setting's value; settings come after the recipe: "
            "`python -m benchmarks throughput mnist/lenet5 --data.batch_size 16`, as one.",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(bench: Bench, arguments: tuple[str, ...], message: str) -> None:
    status, _, error = bench("throughput", *arguments)
    assert status == 2
    assert message in error


@pytest.mark.parametrize(
    "command",
    [("throughput", "digits/linear"), ("throughput", "--loaders", "mnist"), ("peers",), ("time-to-accuracy",)],
)
def test_where_nothing_can_be_written_nothing_is_measured(
    bench: Bench, tmp_path: Path, command: tuple[str, ...]
) -> None:
    nowhere = tmp_path / "nowhere"
    status, text, error = bench(*command, "--json", nowhere / "out.json")
    assert (status, text) == (2, "")
    assert f"--json (={nowhere / 'out.json'}) must be in a folder that exists, {nowhere} does not: make it." in error


def test_targets_that_are_refused(bench: Bench, tmp_path: Path) -> None:
    for option, path, message in [
        ("--json", tmp_path, f"must be a file, it is a folder: add a name, such as {tmp_path / 'measured'}."),
        (
            "--json",
            "/proc/out.json",
            "must be in a folder that can be written, /proc cannot (No such file or directory)",
        ),
        ("--plot", tmp_path / "out.xyz", "must end in .png, .svg or .pdf: name another file."),
    ]:
        status, text, error = bench("throughput", "digits/linear", option, path)
        assert (status, text) == (2, "")
        assert f"{option} (={path}) {message}" in error
    assert list(tmp_path.iterdir()) == []


def test_batch_sizes_double_and_back_off() -> None:
    tried = []

    def work(size: int) -> None:
        tried.append(size)
        if size > 100:
            raise torch.OutOfMemoryError("full")

    assert largest_batch(work, 16, 1024) == 64
    assert tried == [16, 32, 64, 128]
    assert largest_batch(work, 400, 1024) == 100
    assert largest_batch(lambda size: work(1000), 4, 8) == 0
    assert largest_batch(work, 48, 50) == 48


def test_the_bound_is_the_largest_part() -> None:
    found = {"parts_seconds": {"data_wait": 1.0, "to_device": 1.0}, "model_step_seconds": 3.0, "fit_step_seconds": 9.0}
    assert bound(found) == "loop"
    assert bound({**found, "model_step_seconds": 5.0}) == "network"
    assert bound({**found, "parts_seconds": {"data_wait": 4.0, "to_device": 1.0}}) == "loader"


def test_datasheets_are_found_by_the_longest_name_and_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    assert datasheet_peak("NVIDIA H100 80GB HBM3", "bf16-mixed") == (989.4e12, DATASHEETS["H100"][3])
    assert datasheet_peak("NVIDIA H100 PCIe", "bf16-mixed") == (756e12, DATASHEETS["H100 PCIe"][3])
    assert datasheet_peak("NVIDIA A100-SXM4-40GB", "32-true") == (156e12, DATASHEETS["A100"][3])  # convolutions
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert datasheet_peak("NVIDIA A100-SXM4-40GB", "32-true") == (19.5e12, DATASHEETS["A100"][3])
    assert datasheet_peak("NVIDIA A10", "16-mixed") == (125e12, DATASHEETS["A10"][3])
    assert datasheet_peak("NVIDIA L40S", "16-mixed") == (362e12, DATASHEETS["L40S"][3])
    assert datasheet_peak("NVIDIA GeForce GTX 1080", "16-mixed") is None
    for sixteen, tf32, single, _ in DATASHEETS.values():
        assert single < sixteen
        assert tf32 is None or single <= tf32 <= sixteen


def test_a_matrix_product_has_a_rate() -> None:
    assert 1e8 < matmul_ceiling(torch.device("cpu"), "32-true", seconds=0.05) < 1e14


def test_compiling_keeps_the_names_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's compiler left out, for it takes half a minute: what it is given, and that it can be undone."""
    asked = []

    def compiler(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        asked.append(settings)
        return lambda *arguments: 2 * function(*arguments)

    monkeypatch.setattr(torch, "compile", compiler)
    network = Linear(image_shape=[1, 2, 2], num_classes=3)
    names, image = list(network.state_dict()), torch.ones(1, 1, 2, 2)
    plain = network(image)
    switch = Compiled("reduce-overhead")
    trainer: Any = SimpleNamespace(accumulate_grad_batches=1)
    switch.on_fit_start(trainer, network)
    assert list(network.state_dict()) == names
    assert asked[0]["mode"] == "reduce-overhead"
    assert torch.equal(network(image), 2 * plain)
    network.train_errors.note(network(image), torch.tensor([1]), torch.tensor(1.0))
    assert int(network.train_errors.count) == 1  # counted at once: a graph would write over the logits
    switch.on_fit_end(trainer, network)
    assert torch.equal(network(image), plain)


def test_compiling_reaches_the_network_of_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its training step calls the library's network by itself."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda x: torch.full((len(x), 3), 7.0))
    network = Zoo("resnet18", num_classes=3).eval()
    image, switch = torch.ones(2, 3, 32, 32), Compiled()
    plain = network(image)
    trainer: Any = SimpleNamespace(accumulate_grad_batches=4)
    switch.on_fit_start(trainer, network)
    loss = network.training_step((image, torch.tensor([0, 1])), 0)
    assert loss.item() == pytest.approx(math.log(3))
    switch.on_fit_end(trainer, network)
    assert torch.equal(network(image), plain)


def test_graphs_that_would_write_over_gradients_are_refused() -> None:
    trainer: Any = SimpleNamespace(accumulate_grad_batches=4)
    network = Linear(image_shape=[1, 2, 2], num_classes=3)
    for mode in ("reduce-overhead", "max-autotune"):
        with pytest.raises(MisconfigurationException, match=r"accumulate_grad_batches \(=4\) use mode: default"):
            Compiled(mode).on_fit_start(trainer, network)  # type: ignore[arg-type]
