"""Runs that are stopped or killed at any moment and go on: the same bits, the same rows, the same errors."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import callbacks, lifecycle, results, signals
from benchmarks.checkpoints import CheckpointIOBehind, WholeCheckpointIO, fault, newest
from benchmarks.runs import RunError
from models.classifier import ErrorCount

Bench = Callable[..., tuple[int, str, str]]

STEPS = 1437 // 32  # of an epoch of digits
COMMAND = ("fit", "--config", "digits/mlp", "--seed_everything", "0", "--data.loader", "torch")
COMMAND += ("--trainer.max_epochs", "3", "--model.dropout", "0.3", "--trainer.accelerator", "cpu")

VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "momentum and a schedule by steps": (
        *("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.05", "--model.optimizer.momentum", "0.9"),
        *("--model.lr_scheduler", "torch.optim.lr_scheduler.StepLR", "--model.lr_scheduler.step_size", "7"),
        *("--model.lr_interval", "step"),
    ),
    "a schedule by epochs": (
        *("--model.lr_scheduler", "torch.optim.lr_scheduler.StepLR", "--model.lr_scheduler.step_size", "1"),
    ),
    "accumulated": ("--trainer.accumulate_grad_batches", "4"),
    "validated within epochs": ("--trainer.val_check_interval", "0.4", "--data.eval_batch_size", "77"),
    "validated every second epoch": ("--trainer.check_val_every_n_epoch", "2"),
}


def folder_of(root: Path) -> Path:
    (found,) = root.glob("digits/mlp/*/seed-0")
    return found


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in csv.DictReader(file)]


def step_rows(folder: Path) -> list[dict[str, str]]:
    """Of steps.csv what does not depend on the clock."""
    kept = ("step", "epoch", "lr", "step/loss", "step/top1_error")
    with open(folder / "steps.csv", newline="") as file:
        return [{name: row[name] for name in kept} for row in csv.DictReader(file)]


def everything(folder: Path) -> dict[str, Any]:
    """Weights, optimizer, schedules, random generators, rows and errors of a finished run."""
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "ranks")
    result = results.read_result(folder / "result.json")
    return {
        **{part: checkpoint[part] for part in parts},
        "rows": rows(folder),
        "steps": step_rows(folder),
        "errors": result.errors,
        "training": result.training,
        "state": {k: v for k, v in json.loads((folder / "state.json").read_text()).items() if k != "at"},
    }


def assert_same(ours: Any, theirs: Any, where: str = "") -> None:
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{where}/{index}")
    else:
        assert ours == theirs, where


@pytest.fixture
def at_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes something happen once so many batches of training, validation or testing have been seen in this process."""

    def arrange(hook: str, number: int, action: Callable[[], None]) -> None:
        seen = iter(range(1, 1_000_000))

        def happen(*_: Any, **__: Any) -> None:
            if next(seen) == number:
                action()

        monkeypatch.setattr(callbacks.EpochSeed, hook, happen, raising=False)

    yield arrange
    monkeypatch.undo()


def send(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def fail() -> None:
    raise RuntimeError("killed")


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {}


def whole(bench: Bench, runs: dict[str, dict[str, Any]], root: Path, variant: str) -> dict[str, Any]:
    """What the run of `variant` comes to when it is not disturbed."""
    if variant not in runs:
        status, _, err = bench(*COMMAND, *VARIANTS[variant], "--runs", str(root / "whole"))
        assert status == 0, err
        runs[variant] = everything(folder_of(root / "whole"))
    return runs[variant]


USUAL = ("accumulated", "validated within epochs", "a schedule by epochs")  # the others are for a longer run of tests


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name in USUAL else pytest.mark.slow) for name in VARIANTS]
)
def test_a_run_stopped_twice_at_random_steps_ends_with_the_same_bits(
    bench: Bench, tmp_path: Path, whole_runs: dict[str, Any], at_batch: Callable[..., None], variant: str
) -> None:
    expected = whole(bench, whole_runs, tmp_path, variant)
    parts = 4 if variant == "accumulated" else 1
    first, second = random_steps(variant)
    done = 0
    for step in (first, second):
        at_batch("on_train_batch_start", (step - done) * parts, send(signal.SIGUSR1))
        status, _, err = bench(*COMMAND, *VARIANTS[variant], "--runs", str(tmp_path / "cut"))
        assert status == 75, err
        state = json.loads((folder_of(tmp_path / "cut") / "state.json").read_text())
        assert (state["status"], state["signal"], state["step"]) == ("stopped", "SIGUSR1", step)
        assert state["epoch"] == step // STEPS
        assert err.endswith(f"stopped by SIGUSR1; the same command goes on after step {step}.\n")
        done = step
    at_batch("on_train_batch_start", 0, fail)
    assert bench(*COMMAND, *VARIANTS[variant], "--runs", str(tmp_path / "cut"))[0] == 0
    assert_same(everything(folder_of(tmp_path / "cut")), expected)


def random_steps(key: str) -> list[int]:
    """Two steps of the run, of different epochs, none the last of an epoch."""
    generator = random.Random(key)
    return [epoch * STEPS + generator.randint(1, STEPS - 1) for epoch in sorted(generator.sample(range(3), 2))]


@pytest.mark.parametrize("variant", ["validated within epochs", "accumulated"])
def test_a_run_killed_at_a_random_step_goes_on_from_its_last_checkpoint(
    bench: Bench, tmp_path: Path, whole_runs: dict[str, Any], at_batch: Callable[..., None], variant: str
) -> None:
    """A checkpoint after every step, and an error that stands for a kill."""
    expected = whole(bench, whole_runs, tmp_path, variant)
    parts = 4 if variant == "accumulated" else 1
    often = ("--checkpoint_minutes", "1e-9", "--runs", str(tmp_path / "cut"))
    step = random_steps(f"{variant}, killed")[0]
    at_batch("on_train_batch_start", step * parts + 1, fail)
    with pytest.raises(RuntimeError, match="killed"):
        bench(*COMMAND, *VARIANTS[variant], *often)
    folder = folder_of(tmp_path / "cut")
    state = json.loads((folder / "state.json").read_text())
    assert (state["status"], state["step"], state["why"]) == ("failed", step, "RuntimeError: killed")
    assert bench(*COMMAND, *VARIANTS[variant], *often)[0] == 0
    assert_same(everything(folder), expected)
    assert not (folder / "checkpoints/previous.ckpt").exists()


def test_checkpoints_written_behind_are_there_when_the_run_is_killed_or_stopped(
    bench: Bench, tmp_path: Path, whole_runs: dict[str, Any], at_batch: Callable[..., None]
) -> None:
    """A checkpoint after every step; an error that stands for a kill, then a signal."""
    expected = whole(bench, whole_runs, tmp_path, "plain")
    command = (*COMMAND, "--checkpoint_behind", "--checkpoint_minutes", "1e-9", "--runs", str(tmp_path / "cut"))
    first, second = random_steps("written behind")
    at_batch("on_train_batch_start", first + 1, fail)
    with pytest.raises(RuntimeError, match="killed"):
        bench(*command)
    folder = folder_of(tmp_path / "cut")
    for step in (first, second):
        assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == step
        assert json.loads((folder / "state.json").read_text())["step"] == step
        if step == first:
            at_batch("on_train_batch_start", second - first, send(signal.SIGUSR1))
            assert bench(*command)[0] == 75
    at_batch("on_train_batch_start", 0, fail)
    assert bench(*command)[0] == 0
    assert_same(everything(folder), expected)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt"}


@pytest.mark.parametrize(("variant", "batch"), [("validated within epochs", 8), ("plain", 1), ("plain", 3)])
def test_a_run_stopped_in_validation_validates_anew(
    bench: Bench, tmp_path: Path, whole_runs: dict[str, Any], at_batch: Callable[..., None], variant: str, batch: int
) -> None:
    """In the second of the validations of 5 batches; in those of 1 batch at the end of an epoch, of the run."""
    expected = whole(bench, whole_runs, tmp_path, variant)
    at_batch("on_validation_batch_end", batch, send(signal.SIGUSR2))
    command = (*COMMAND, *VARIANTS[variant], "--runs", str(tmp_path / "cut"))
    status, _, err = bench(*command)
    assert status == 75, err
    at_batch("on_validation_batch_end", 0, fail)
    assert bench(*command)[0] == 0
    assert_same(everything(folder_of(tmp_path / "cut")), expected)


@pytest.mark.parametrize(
    ("hook", "number", "signum", "status"),
    [
        ("on_train_batch_start", 20, signal.SIGTERM, 143),
        ("on_train_batch_start", 20, signal.SIGINT, 130),
        ("setup", 1, signal.SIGUSR1, 75),
        ("on_train_epoch_end", 3, signal.SIGUSR1, 75),
        ("on_test_batch_start", 1, signal.SIGUSR1, 75),
    ],
)
def test_a_run_can_be_stopped_at_other_moments(
    bench: Bench,
    tmp_path: Path,
    whole_runs: dict[str, Any],
    at_batch: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    hook: str,
    number: int,
    signum: int,
    status: int,
) -> None:
    expected = whole(bench, whole_runs, tmp_path, "plain")
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    if hook == "on_test_batch_start":
        seen = iter(range(1, 1000))
        monkeypatch.setattr(
            lifecycle.StepCheckpoint, hook, lambda *_: next(seen) == 1 and send(signum)(), raising=False
        )
    else:
        at_batch(hook, number, send(signum))
    command = (*COMMAND, "--runs", str(tmp_path / "cut"))
    found, _, err = bench(*command)
    assert found == status, err
    assert f"stopped by {signal.Signals(signum).name}; the same command goes on after step" in err
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == handlers
    at_batch(hook, 0, fail)
    assert bench(*command)[0] == 0
    assert_same(everything(folder_of(tmp_path / "cut")), expected)


@pytest.mark.slow
def test_two_ranks_stop_after_the_same_step_and_end_with_the_same_bits(tmp_path: Path) -> None:
    """Processes of their own, a real signal to the first of them, checkpoints all along; dropout draws on each rank."""
    command = [sys.executable, "-m", "benchmarks", *COMMAND, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run(
        [*command, "--runs", str(tmp_path / "whole")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert whole.returncode == 0, whole.stderr[-3000:]

    command += ["--runs", str(tmp_path / "cut"), "--checkpoint_minutes", "1e-9"]
    run = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not any(json.loads(path.read_text())["step"] for path in tmp_path.glob("cut/digits/mlp/*/seed-0/state.json")):
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGUSR1)
    _, err = run.communicate(timeout=200)
    assert run.returncode == 75, err[-3000:]
    state = json.loads((folder_of(tmp_path / "cut") / "state.json").read_text())
    assert state["status"] == "stopped"
    assert 0 < state["step"] < 3 * STEPS

    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr[-3000:]
    assert_same(everything(folder_of(tmp_path / "cut")), everything(folder_of(tmp_path / "whole")))


def test_a_signal_while_python_imports_is_noted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", *COMMAND, "--runs", str(tmp_path)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "torch" not in Path(f"/proc/{run.pid}/maps").read_text():  # its libraries are being loaded
        time.sleep(0.02)
    run.send_signal(signal.SIGUSR1)
    _, err = run.communicate(timeout=200)
    assert run.returncode == 75, err
    assert "stopped by SIGUSR1; the same command goes on after step 0." in err


def test_a_process_that_inherits_the_handler_does_nothing() -> None:
    with signals.listening():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGUSR1)
            os._exit(signals.asked())
        assert os.waitpid(child, 0)[1] == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.asked() == signal.SIGUSR1
    assert signals.asked() == 0


def test_a_second_interrupt_is_not_patient() -> None:
    with signals.listening():
        signals.stop_after_step()
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# Checkpoints ----------------------------------------------------------------------------------------------------------


def saved(path: Path, *values: int) -> WholeCheckpointIO:
    writer = WholeCheckpointIO()
    for value in values:
        writer.save_checkpoint({"value": torch.full((1000,), value)}, path)
    return writer


def value_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["value"][0])


def test_the_newest_whole_checkpoint_is_chosen_and_the_one_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    assert newest(path) is None
    saved(path, 1, 2, 3)
    assert (newest(path), value_of(path), value_of(tmp_path / "previous.ckpt")) == (path, 3, 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert newest(path) == tmp_path / "previous.ckpt"
    WholeCheckpointIO(newest(path)).save_checkpoint({"value": torch.full((1000,), 4)}, path)
    assert (newest(path), value_of(path)) == (path, 4)
    assert value_of(tmp_path / "previous.ckpt") == 2  # not the damaged one


def test_a_checkpoint_written_behind_is_of_its_moment_and_the_next_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, value, go = tmp_path / "last.ckpt", torch.full((1000,), 1), threading.Event()
    replace = WholeCheckpointIO.replace
    monkeypatch.setattr(WholeCheckpointIO, "replace", lambda *arguments: go.wait(60) and replace(*arguments))
    writer = CheckpointIOBehind()
    writer.save_checkpoint({"value": value}, path)
    value.fill_(2)  # the next step
    assert not path.exists()
    threading.Timer(0.2, go.set).start()
    writer.save_checkpoint({"value": value}, path)
    assert path.exists()  # the first, for the second has waited
    writer.teardown()
    assert (value_of(path), value_of(tmp_path / "previous.ckpt")) == (2, 1)
    assert writer.load_checkpoint(path, weights_only=True)["value"][0] == 2
    assert (fault(path), fault(tmp_path / "previous.ckpt")) == ("", "")


@pytest.mark.parametrize("later", ["save", "teardown"])
def test_a_write_behind_that_fails_is_raised_later_and_once(tmp_path: Path, later: str) -> None:
    (tmp_path / "file").touch()
    writer, state = CheckpointIOBehind(), {"value": torch.zeros(1)}
    writer.save_checkpoint(state, tmp_path / "file" / "last.ckpt")
    with pytest.raises(OSError, match="file"):
        writer.teardown() if later == "teardown" else writer.save_checkpoint(state, tmp_path / "last.ckpt")
    writer.teardown()
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_any_changed_byte_that_matters_and_any_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    saved(path, 7)
    content = path.read_bytes()
    generator = random.Random(0)
    for _ in range(100):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        assert fault(path) or value_of(path) == 7  # or it was in what only fills the file up
        path.write_bytes(content[: generator.randrange(len(content))])
        assert fault(path)
    with pytest.raises(RunError) as refused:
        newest(path)
    assert f"{path} is not a whole checkpoint (BadZipFile" in str(refused.value)
    assert f"remove {tmp_path} to train from the start" in str(refused.value)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    bench: Bench, tmp_path: Path, whole_runs: dict[str, Any], at_batch: Callable[..., None]
) -> None:
    expected = whole(bench, whole_runs, tmp_path, "plain")
    at_batch("on_train_batch_start", 60, send(signal.SIGUSR1))
    cut = (*COMMAND, "--runs", str(tmp_path / "cut"))
    assert bench(*cut)[0] == 75
    folder = folder_of(tmp_path / "cut")
    last = folder / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    at_batch("on_train_batch_start", 0, fail)
    status, out, _ = bench(*cut)
    assert status == 0
    for told in (out, (folder / "log.txt").read_text()):
        assert f"going on from the one before, {folder / 'checkpoints/previous.ckpt'}" in told
    assert_same(everything(folder), expected)


@pytest.mark.parametrize(("batch", "hook"), [(60, "on_train_batch_start"), (1, "on_test_batch_start")])
def test_the_rows_of_a_run_are_in_its_checkpoint(
    bench: Bench, tmp_path: Path, whole_runs: dict[str, Any], at_batch: Callable[..., None], batch: int, hook: str
) -> None:
    """Stopped in the second epoch, and when all are trained, with metrics.csv cut short or gone."""
    expected = whole(bench, whole_runs, tmp_path, "plain")
    at_batch(hook, batch, send(signal.SIGUSR1))
    cut = (*COMMAND, "--runs", str(tmp_path / "cut"))
    assert bench(*cut)[0] == 75
    metrics = folder_of(tmp_path / "cut") / "metrics.csv"
    if batch == 1:
        metrics.unlink()
    else:
        metrics.write_bytes(metrics.read_bytes()[:-30])
    at_batch(hook, 0, fail)
    assert bench(*cut)[0] == 0
    assert_same(everything(folder_of(tmp_path / "cut")), expected)


def test_a_run_goes_on_with_the_images_it_began_with(
    bench: Bench, tmp_path: Path, at_batch: Callable[..., None]
) -> None:
    at_batch("on_train_batch_start", 10, send(signal.SIGUSR1))
    cut = (*COMMAND, "--runs", str(tmp_path / "cut"))
    assert bench(*cut)[0] == 75
    path = folder_of(tmp_path / "cut") / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["images"]) == {"train", "test"}
    content = checkpoint["images"]["train"]
    checkpoint["images"]["train"] = "0123456789abcdef"
    torch.save(checkpoint, path)
    at_batch("on_train_batch_start", 0, fail)
    status, _, err = bench(*cut)
    assert status == 2
    assert f"the train images (checksum {content[:12]}) must be those that the run began with (checksum 01234567" in err
    assert "train anew with --again" in err
    del checkpoint["images"]  # as checkpoints were before
    torch.save(checkpoint, path)
    assert bench(*cut)[0] == 0


def test_counts_keep_their_precision_where_the_network_has_less() -> None:
    """A network in bfloat16 would round a sum of losses to 8 bits."""
    errors = ErrorCount().to(torch.bfloat16)
    saved = {"wrong1": torch.tensor(5), "loss_sum": torch.tensor(1234.5678, dtype=torch.float64)}
    lifecycle.set_counts(errors, saved)
    errors.wrong1 += 1
    assert (errors.loss_sum.item(), errors.wrong1.item(), saved["wrong1"].item()) == (1234.5678, 6, 5)
