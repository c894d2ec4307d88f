"""Exact statistics of batch norms against averages by hand, in one process and in two; nothing else is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from benchmarks import precise_norm, results
from benchmarks.precise_norm import ExactBatchNorm
from benchmarks.recipe import find_recipe
from benchmarks.tables import read_rows
from datamodules.batches import Reading
from datamodules.digits import Digits
from datamodules.loaders import ArrayBatches
from models.resnet import ResNet

Bench = Callable[..., tuple[int, str, str]]

EPOCHS = 2
SHORT = ("--seed_everything", "0", "--data.loader", "torch", "--trainer.max_epochs", str(EPOCHS))


def recipe(tmp_path: Path, *callbacks: dict[str, Any]) -> str:
    """digits/resnet, smaller, with these callbacks; without any, its name is `moving`."""
    content = yaml.safe_load(find_recipe("digits/resnet").read_text())
    content["model"]["init_args"] |= {"depths": [1, 1], "widths": [4, 8]}
    content["published"]["parameters"] = sum(p.numel() for p in small_resnet().parameters())
    if callbacks:
        content["trainer"]["callbacks"] = list(callbacks)
    path = tmp_path / ("exact.yaml" if callbacks else "moving.yaml")
    path.write_text(yaml.safe_dump(content))
    return str(path)


def exact(**init_args: Any) -> dict[str, Any]:
    return {"class_path": "benchmarks.precise_norm.ExactBatchNorm", "init_args": init_args}


def small_resnet() -> ResNet:
    return ResNet([1, 1], [4, 8], stem="cifar", shortcut="A", in_channels=1, num_classes=10)


def folder_of(runs: Path, name: str) -> Path:
    (found,) = runs.glob(f"custom/{name}/*/seed-0")
    return found


def state_of(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def normalised(data: Digits, images: Tensor) -> Tensor:
    """As the datamodule is documented: gray levels over 255, minus the mean, over the standard deviation."""
    return (images.float() / 255 - 0.3054).permute(0, 3, 1, 2) / 0.3753


def averages_by_hand(state: dict[str, Tensor], batches: int | None, ranks: int = 1) -> dict[str, Tensor]:
    """Plain means over batches of every norm's batch mean and unbiased variance, in the epoch after the last."""
    network = small_resnet().train()
    network.load_state_dict(state)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))

    def watch(name: str) -> Callable[..., None]:
        def add(module: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].transpose(0, 1).flatten(1)
            sums[f"{name}.running_mean"] = sums[f"{name}.running_mean"] + x.mean(1)
            sums[f"{name}.running_var"] = sums[f"{name}.running_var"] + x.var(1, correction=1)

        return add

    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(watch(name))
    data = Digits(batch_size=32, loader="torch")
    count = 0
    for rank in range(ranks):
        samples = data._train_and_held_out()[0]
        reading = Reading(samples, 32 // ranks, shuffle=True, seed=0, rank=rank, world_size=ranks)
        loader = ArrayBatches(reading, data.originals("train"))
        loader.sampler.set_epoch(EPOCHS)  # the epochs trained are 0 and 1
        for index, (images, _) in enumerate(loader):
            if batches is not None and index >= batches:
                break
            with torch.no_grad():
                network(normalised(data, images))
            count += 1
    assert count == ranks * (batches or 1437 // 32)
    return {name: total / count for name, total in sums.items()}


def assert_statistics(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    names = {name for name in state if name.endswith(("running_mean", "running_var"))}
    assert expected.keys() == names
    assert len(names) == 2 * 5
    for name in names:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batches", [None, 5])
def test_statistics_are_averages_over_the_next_epoch_and_nothing_else_changes(
    bench: Bench, tmp_path: Path, batches: int | None
) -> None:
    for config in (recipe(tmp_path), recipe(tmp_path, exact(batches=batches))):
        status, _, err = bench("fit", "--config", config, *SHORT)
        assert status == 0, err
    moving, precise = (folder_of(tmp_path / "runs", name) for name in ("moving", "exact"))
    state, before = state_of(precise), state_of(moving)
    assert_statistics(state, averages_by_hand(state, batches))

    parameters = [name for name, _ in small_resnet().named_parameters()]
    assert all(torch.equal(state[name], before[name]) for name in parameters)
    assert not torch.allclose(state["bn1.running_mean"], before["bn1.running_mean"], rtol=1e-3)
    without_times = [
        [{name: value for name, value in row.items() if not name.startswith("perf/")} for row in rows]
        for rows in (read_rows(folder / "metrics.csv") for folder in (moving, precise))
    ]
    assert without_times[0] == without_times[1]  # the last validation used the moving averages


def test_the_result_is_of_the_exact_statistics_and_a_resumed_run_keeps_them(bench: Bench, tmp_path: Path) -> None:
    config = recipe(tmp_path, exact())
    assert bench("fit", "--config", config, *SHORT)[0] == 0
    folder = folder_of(tmp_path / "runs", "exact")
    state = state_of(folder)
    first = results.read_result(folder / "result.json").errors

    network = small_resnet().eval()
    data = Digits(batch_size=32, loader="torch")
    test = data.originals("test")
    images, labels = torch.from_numpy(test.images), torch.from_numpy(test.labels)

    def wrong(state: dict[str, Tensor]) -> int:
        network.load_state_dict(state)
        with torch.inference_mode():
            return int((network(normalised(data, images)).argmax(1) != labels).sum())

    assert first["1crop"]["wrong1"] == wrong(state)
    blunt = {name: torch.ones_like(value) if name.endswith("running_var") else value for name, value in state.items()}
    assert wrong(blunt) != wrong(state)  # the statistics do decide

    (folder / "result.json").unlink()  # as if it had been stopped after the last epoch
    assert bench("fit", "--config", config, *SHORT)[0] == 0
    assert results.read_result(folder / "result.json").errors == first
    again = state_of(folder)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_training_time_does_not_hold_the_statistics(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of Throughput stops when its own hook is called, which is before."""
    seen: list[str] = []
    honest = ExactBatchNorm.on_train_epoch_end

    def watched(self: ExactBatchNorm, trainer: Any, network: Any) -> None:
        seen[:] = [type(callback).__name__ for callback in trainer.callbacks]
        honest(self, trainer, network)

    monkeypatch.setattr(ExactBatchNorm, "on_train_epoch_end", watched)
    assert bench("fit", "--config", recipe(tmp_path, exact()), *SHORT[:-1], "1")[0] == 0
    assert seen.index("Throughput") < seen.index("ExactBatchNorm")
    assert seen.index("DivergenceGuard") < seen.index("ExactBatchNorm") < seen.index("ModelCheckpoint")


WITNESS = """
from pathlib import Path
import torch
from pytorch_lightning import Callback

class Witness(Callback):
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_fit_end(self, trainer, network) -> None:
        torch.save(network.state_dict(), Path(self.folder, f"{trainer.global_rank}.pt"))
"""


def test_two_ranks_average_over_the_batches_of_both(tmp_path: Path) -> None:
    (tmp_path / "witness.py").write_text(WITNESS)
    config = recipe(tmp_path, exact(), {"class_path": "witness.Witness", "init_args": {"folder": str(tmp_path)}})
    command = [sys.executable, "-m", "benchmarks", "fit", "--config", config, *SHORT]
    command += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    saved = state_of(folder_of(tmp_path / "runs", "exact"))
    for name in saved:
        assert torch.equal(ours[name], theirs[name]), name
        assert torch.equal(ours[name], saved[name]), name
    assert_statistics(saved, averages_by_hand(saved, None, ranks=2))


class Trainer:
    """What `is_last_epoch` asks for."""

    def __init__(self, **state: Any) -> None:
        values = {"should_stop": False, "max_steps": -1, "global_step": 10, "max_epochs": 5, "current_epoch": 2}
        self.__dict__.update(values | state)


@pytest.mark.parametrize(
    ("state", "last"),
    [
        ({}, False),
        ({"current_epoch": 4}, True),
        ({"should_stop": True}, True),
        ({"max_steps": 10}, True),
        ({"max_steps": 11}, False),
        ({"max_epochs": None}, False),
        ({"max_epochs": -1, "current_epoch": 100}, False),
    ],
)
def test_the_last_epoch_is_known(state: dict[str, Any], last: bool) -> None:
    assert precise_norm.is_last_epoch(Trainer(**state)) is last


def test_a_network_without_norms_is_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.LayerNorm(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    nobody: Any = None  # no data, no strategy: neither is asked for anything
    ExactBatchNorm().on_train_epoch_end(nobody, network)  # type: ignore[arg-type]
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_batches_are_refused(bench: Bench, tmp_path: Path) -> None:
    message = "batches (=0) must be at least 1; leave it out for a whole epoch."
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        ExactBatchNorm(batches=0)
    assert str(refusal.value) == message
    status, _, err = bench("fit", "--config", recipe(tmp_path, exact(batches=0)), *SHORT)
    assert status == 2
    assert message in err
