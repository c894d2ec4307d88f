"""A run from command to result: trained, counted, recorded; resumed to the same bits; and what bad input gets."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import callbacks, results
from benchmarks.recipe import by_content, find_recipe, load_recipe
from benchmarks.runs import Run, RunError
from benchmarks.suite_cli import try_training, usable
from datamodules.synthetic import Synthetic
from models.classifier import Classifier
from models.linear import Linear
from models.resnet import ResNet

Bench = Callable[..., tuple[int, str, str]]

SHORT = ("--seed_everything", "0", "--data.loader", "torch", "--trainer.max_epochs", "3")


def run_folder(root: Path, recipe: str = "digits/mlp", seed: int = 0) -> Path:
    found = list(root.glob(f"{recipe}/*/seed-{seed}"))
    assert len(found) == 1
    return found[0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in csv.DictReader(file)]


def test_fit_records_a_result_and_skips_the_second_time(bench: Bench, tmp_path: Path) -> None:
    status, out, _ = bench("fit", "--config", "digits/mlp", *SHORT)
    assert status == 0, out
    folder = run_folder(tmp_path / "runs")
    result = results.read_result(folder / "result.json")
    assert result.errors["1crop"]["count"] == 360  # 360 is no multiple of the evaluation batch of 500
    assert result.errors["1crop"]["top1_error"] == 100 * result.errors["1crop"]["wrong1"] / 360
    assert result.overrides == {"trainer.max_epochs": 3}
    assert (result.recipe, result.seed, result.parameters) == ("digits/mlp", 0, 4810)
    assert result.dataset["train"]["count"] == 1437
    assert result.throughput["images_per_s"] > 0
    assert 0 < result.seconds["train"] < result.seconds["total"]
    assert result.training["epochs"] == 3
    assert result.training["steps"] == 3 * (1437 // 32)
    assert [row["epoch"] for row in rows(folder)] == ["0", "1", "2"]
    assert "epoch 3/3" in (folder / "log.txt").read_text()
    assert not [key for key in result.resolved if key.endswith((".root", ".cache"))]

    written = (folder / "result.json").stat().st_mtime_ns
    status, out, _ = bench("fit", "--config", "digits/mlp", *SHORT)
    assert status == 0
    assert "finished" in out
    assert "--again" in out
    assert (folder / "result.json").stat().st_mtime_ns == written


def test_again_trains_anew_and_keeps_the_old_run(bench: Bench, tmp_path: Path) -> None:
    short = (*SHORT[:-1], "1")
    assert bench("fit", "--config", "digits/linear", *short)[0] == 0
    first = weights(run_folder(tmp_path / "runs", "digits/linear"))
    assert bench("fit", "--config", "digits/linear", *short, "--again")[0] == 0
    second = weights(run_folder(tmp_path / "runs", "digits/linear"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    kept = list((tmp_path / "runs").glob("digits/linear/*/seed-0.replaced-*/result.json"))
    assert len(kept) == 1
    found, faults = results.load_results([tmp_path / "runs"])
    assert len(found) == 1
    assert faults == []


def test_last_validation_equals_the_counted_evaluation(bench: Bench, tmp_path: Path) -> None:
    assert bench("fit", "--config", "digits/mlp", *SHORT)[0] == 0
    folder = run_folder(tmp_path / "runs")
    counted = results.read_result(folder / "result.json").errors["1crop"]["top1_error"]
    assert float(rows(folder)[-1]["val/top1_error"]) == pytest.approx(counted, abs=1e-3)
    status, out, _ = bench("test", "--config", "digits/mlp", *SHORT)
    assert status == 0
    assert f"top-1 error {counted:.2f} %" in out
    assert "of 360 wrong" in out
    status, out, _ = bench("validate", "--config", "digits/mlp", *SHORT)
    assert status == 0
    assert "val/top1_error" in out


def test_interrupted_run_ends_with_the_same_bits(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("fit", "--config", "digits/mlp", *SHORT, "--model.dropout", "0.3")
    assert bench(*command, "--runs", str(tmp_path / "whole"))[0] == 0

    def killed(self: Any, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 1 and trainer.global_step > 60:  # in the middle of the second epoch
            raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.EpochSeed, "on_train_batch_start", killed, raising=False)
        with pytest.raises(RuntimeError, match="killed"):
            bench(*command, "--runs", str(tmp_path / "cut"))
    cut = run_folder(tmp_path / "cut")
    assert [row["epoch"] for row in rows(cut)] == ["0"]
    assert not (cut / "result.json").exists()

    assert bench(*command, "--runs", str(tmp_path / "cut"))[0] == 0
    whole = run_folder(tmp_path / "whole")
    assert rows(cut) == rows(whole)
    ours, theirs = weights(cut), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    errors = [results.read_result(folder / "result.json").errors for folder in (cut, whole)]
    assert errors[0] == errors[1]


def test_interrupt_from_the_keyboard_says_how_to_go_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Any, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.EpochSeed, "on_train_batch_start", interrupt, raising=False)
    status, _, err = bench("fit", "--config", "digits/mlp", *SHORT)
    assert status == 130
    assert "the same command goes on from its last checkpoint" in err


def test_run_stopped_before_its_result_only_evaluates_again(bench: Bench, tmp_path: Path) -> None:
    assert bench("fit", "--config", "digits/mlp", *SHORT)[0] == 0
    folder = run_folder(tmp_path / "runs")
    first = results.read_result(folder / "result.json")
    (folder / "result.json").unlink()
    assert bench("fit", "--config", "digits/mlp", *SHORT)[0] == 0
    second = results.read_result(folder / "result.json")
    assert second.errors == first.errors
    assert second.training == first.training
    assert second.throughput == first.throughput
    assert "setup" not in second.seconds
    assert second.seconds["train"] == first.seconds["train"]


def test_seed_changes_the_weights(bench: Bench, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        assert bench("fit", "--config", "digits/mlp", "--seed_everything", seed, *SHORT[2:-1], "1")[0] == 0
    first, second = (weights(run_folder(tmp_path / "runs", seed=seed)) for seed in (0, 1))
    assert not torch.equal(first["fc.weight"], second["fc.weight"])


def test_nan_stops_at_its_step_and_keeps_the_last_good_checkpoint(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10_000))
    honest = Classifier.loss

    def spoilt(self: Classifier, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = honest(self, logits, labels)
        return loss * float("nan") if self.training and next(calls) >= 50 else loss

    monkeypatch.setattr(Classifier, "loss", spoilt)
    status, _, err = bench("fit", "--config", "digits/mlp", *SHORT)
    assert status == 1
    assert "not finite at step 51 (epoch 1)" in err  # 44 steps make an epoch
    assert "last good checkpoint" in err
    assert "Lower the learning rate" in err
    folder = run_folder(tmp_path / "runs")
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in weights(folder).values())
    assert not (folder / "result.json").exists()


def test_absurd_learning_rate_is_stopped(bench: Bench) -> None:
    status, _, err = bench("fit", "--config", "digits/mlp", *SHORT, "--model.optimizer.lr", "1e30")
    assert status == 1
    assert "not finite" in err
    assert "Traceback" not in err


def recipe_with(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    content = yaml.safe_load(find_recipe("digits/mlp").read_text())
    change(content)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_misspelt_key_in_a_recipe_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = recipe_with(tmp_path, lambda content: content["model"]["init_args"].update(droput=0.5))
    status, _, err = bench("fit", "--config", path, *SHORT)
    assert status == 2
    assert "droput" in err
    assert not (tmp_path / "runs").exists()


def test_misspelt_part_of_a_recipe_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = recipe_with(tmp_path, lambda content: content.update(trainr={}))
    status, _, err = bench("fit", "--config", path, *SHORT)
    assert status == 2
    assert "trainr" in err


def test_number_of_classes_set_by_hand_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = recipe_with(tmp_path, lambda content: content["model"]["init_args"].update(num_classes=7))
    status, _, err = bench("fit", "--config", path, *SHORT)
    assert status == 2
    assert "num_classes" in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--config", "digits/mpl", *SHORT), ("recipe (=digits/mpl)", "did you mean", "digits/mlp")),
        (("--config", "digits/mlp"), ("--seed_everything must be given", "Add --seed_everything 0")),
        (("--config", "digits/mlp", "--seed_everything", "abc"), ("seed_everything", "(=abc)")),
        (("--config", "digits/mlp", *SHORT, "--wandb", "sometimes"), ("wandb", "(=sometimes)", "offline")),
        (("--config", "digits/mlp", "--seed_everything", "-1"), ("must not be negative",)),
        (SHORT, ("needs a recipe", "python -m benchmarks list")),
        (("--config", "digits/mlp", *SHORT, "--data.num_classes", "11"), ("num_classes (=11)", "10 classes")),
        (
            ("--config", "mnist/linear", *SHORT, "--data.root", "/nowhere/at/all"),
            ("/nowhere/at/all", "ILSVRC_BENCH_DATA"),
        ),
        (("--config", "digits/mlp", *SHORT, "--data.batch_size", "2000"), ("batch_size (=2000", "1437", "lower")),
        (("--config", "digits/mlp", *SHORT, "--trainer.max_epoch", "2"), ("max_epoch",)),
        (("--config", "digits/lenet5", *SHORT, "--data.image_size", "16"), ("needs 32 x 32 pixels, got 16 x 16",)),
        (("--config", "digits/mlp", *SHORT, "--runs", "/proc/nothing"), ("cannot be written", "--runs")),
        (
            ("--config", "digits/mlp", *SHORT, "--trainer.fast_dev_run", "true"),
            ("counts every",),
        ),
        (("--config", "digits/mlp", *SHORT[:-1], "0"), ("max_epochs (=0) must be above 0",)),
        (("--config", "digits/mlp", *SHORT[:-1], "-1"), ("max_epochs (=-1) must be above 0",)),
        (("--config", "digits/mlp", *SHORT[:-1], "x"), ("trainer.max_epochs", "(=x)")),
        (("--config", "digits/mlp", *SHORT, "--trainer.max_steps", "0"), ("max_steps (=0)", "-1 for no limit")),
        (("--config", "digits/mlp", *SHORT, "--trainer.limit_train_batches", "0"), ("(=0.0) must be above 0",)),
        (("--config", "digits/mlp", *SHORT, "--trainer.accumulate_grad_batches", "0"), ("(=0) must be above 0",)),
        (("--config", "digits/mlp", *SHORT, "--trainer.gradient_clip_val", "-1"), ("must not be negative",)),
        (("--config", "digits/mlp", *SHORT, "--trainer.barebones", "true"), ("barebones (=True) must be left out",)),
        (("--config", "digits/mlp", *SHORT, "--trainer.strategy", "foo"), ("strategy='foo'", "correct --trainer")),
        (("--config", "digits/mlp", *SHORT, "--trainer.val_check_interval", "1000"), ("(1000) must be less", "44")),
        (("--config", "digits/mlp", *SHORT, "--model.optimizer.lr", "-1"), ("init_args.optimizer", "learning rate")),
        (
            ("--config", "digits/mlp", *SHORT, "--data.init_args.mean", "[0.1]", "--data.init_args.std", "[1.0, 1.0]"),
            ("one number per channel",),
        ),
        (("--config", "digits/mlp", *SHORT, "--trainer.accelerator", "cuda"), ("accelerator",)),
    ],
)
def test_bad_input_gets_one_message_with_the_remedy(
    bench: Bench, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    status, _, err = bench("fit", *arguments)
    assert status == 2, err
    assert err.count("error:") == 1
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (b"", "is empty"),
        (b"x: 2026-13-01", "month must be"),
        (b"- 1", "not a list"),
        (b"a: [1", "cannot be read as YAML"),
        (b"a: \xe9", "in UTF-8"),
    ],
)
def test_files_that_hold_no_settings_are_named(bench: Bench, tmp_path: Path, content: bytes, because: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    status, _, err = bench("fit", "--config", str(path), *SHORT)
    assert status == 2
    assert str(path) in err
    assert because in err


def test_a_checkpoint_without_what_training_needs_is_refused(bench: Bench, tmp_path: Path) -> None:
    assert bench("fit", "--config", "digits/linear", *SHORT[:-1], "1")[0] == 0
    folder = run_folder(tmp_path / "runs", "digits/linear")
    (folder / "result.json").unlink()
    checkpoint = folder / "checkpoints/last.ckpt"
    torch.save({"state_dict": torch.load(checkpoint, weights_only=True)["state_dict"]}, checkpoint)
    status, _, err = bench("fit", "--config", "digits/linear", *SHORT[:-1], "1")
    assert status == 2
    assert f"{checkpoint} is no checkpoint of this suite" in err


def test_checkpoint_that_is_not_there(bench: Bench) -> None:
    status, _, err = bench("test", "--config", "digits/mlp", "--seed_everything", "7")
    assert status == 2
    assert "train it first" in err


def test_damaged_checkpoint_is_named(bench: Bench, tmp_path: Path) -> None:
    assert bench("fit", "--config", "digits/linear", *SHORT[:-1], "1")[0] == 0
    folder = run_folder(tmp_path / "runs", "digits/linear")
    checkpoint = folder / "checkpoints/last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-300])
    (folder / "result.json").unlink()
    for command in ("fit", "test"):
        status, _, err = bench(command, "--config", "digits/linear", *SHORT[:-1], "1")
        assert status == 2
        assert f"{checkpoint} is not a whole checkpoint" in err
        assert "remove" in err


def test_new_claim_is_evaluated_without_training_again(bench: Bench, tmp_path: Path) -> None:
    def claim(protocol: str) -> dict[str, Any]:
        return {"value": 8.0, "protocol": protocol, "tolerance": 1.0, "tolerance_reason": "a test", "where": "here"}

    content = yaml.safe_load(find_recipe("digits/linear").read_text())
    path = tmp_path / "mine.yaml"
    found = []
    for claims in (["1crop"], ["1crop", "flip"]):
        content["published"]["claims"] = [claim(protocol) for protocol in claims]
        path.write_text(yaml.safe_dump(content))
        assert bench("fit", "--config", str(path), *SHORT[:-1], "1")[0] == 0
        found.append(results.read_result(run_folder(tmp_path / "runs", "custom/mine") / "result.json"))
    assert list(found[0].errors) == ["1crop"]
    assert list(found[1].errors) == ["1crop", "flip"]
    assert found[1].errors["1crop"] == found[0].errors["1crop"]
    assert found[1].training == found[0].training


def test_second_process_on_the_same_run_is_refused(bench: Bench, tmp_path: Path) -> None:
    assert bench("fit", "--config", "digits/linear", *SHORT[:-1], "1")[0] == 0
    folder = run_folder(tmp_path / "runs", "digits/linear")
    (folder / "result.json").unlink()
    with Run(folder).locked():
        status, _, err = bench("fit", "--config", "digits/linear", *SHORT[:-1], "1")
    assert status == 69
    assert f"another process is training {folder}: process {os.getpid()} on " in err
    assert "Give --wait to wait for it" in err
    assert not (folder / "state.json").exists() or "running" not in (folder / "state.json").read_text()


def test_resolved_settings_can_be_printed(bench: Bench) -> None:
    status, out, _ = bench("fit", "--config", "digits/mlp", "--print_config")
    assert status == 0
    assert yaml.safe_load(out)["model"]["init_args"]["hidden"] == [64]


def test_accumulated_batches_take_the_same_steps(bench: Bench, tmp_path: Path) -> None:
    """32 images a step, at once or in 8 batches of 4: the same number of steps, the same weights to float tolerance."""
    found = []
    for batches in ("1", "8"):
        runs = tmp_path / batches
        command = ("fit", "--config", "digits/mlp", *SHORT, "--trainer.accumulate_grad_batches", batches)
        assert bench(*command, "--runs", str(runs))[0] == 0
        found.append(run_folder(runs))
    assert [rows(folder)[-1]["step"] for folder in found] == [str(3 * (1437 // 32))] * 2
    ours, theirs = (weights(folder) for folder in found)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_bf16_weights_train(bench: Bench) -> None:
    command = ("fit", "--config", "digits/mlp", *SHORT, "--trainer.precision", "bf16-true")
    status, out, err = bench(*command)
    assert status == 0, err
    assert "done" in out


def test_apples_gpu_has_no_64_bit_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for there, wanted in ((True, "cpu"), (False, "auto")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=there: there)
        assert usable("auto") == wanted
    assert usable("gpu") == "gpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for name in ("mps", "gpu"):
        with pytest.raises(RunError, match=rf"accelerator \(={name}\) must be a device with 64-bit numbers"):
            usable(name)


def test_two_ranks_train_the_same_network_and_count_every_image_once(tmp_path: Path) -> None:
    """DDP with gloo on this machine's CPU: same global batches, same weights to float tolerance, exact counts."""
    found = []
    for devices in (1, 2):
        runs = tmp_path / f"runs{devices}"
        command = [sys.executable, "-m", "benchmarks", "fit", "--config", "digits/mlp", *SHORT, "--runs", str(runs)]
        command += ["--trainer.accelerator", "cpu", "--trainer.devices", str(devices), "--trainer.strategy", "ddp"]
        command += ["--data.eval_batch_size", "77"]  # 360 images: 4 full batches and a part of 52, or 2 and 26 a rank
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(run_folder(runs))
    one, two = (json.loads((folder / "result.json").read_text()) for folder in found)
    assert one["identity"] == two["identity"]
    assert two["hardware"]["devices"] == 2
    assert two["errors"]["1crop"]["count"] == 360
    assert abs(one["errors"]["1crop"]["wrong1"] - two["errors"]["1crop"]["wrong1"]) <= 1
    ours, theirs = weights(found[0]), weights(found[1])
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


# Weights from a file


def trained_weights(bench: Bench, root: Path) -> Path:
    """A checkpoint of digits/linear after two epochs."""
    command = ("--config", "digits/linear", *SHORT[:-1], "2", "--runs", str(root))
    assert bench("fit", *command)[0] == 0
    return run_folder(root, "digits/linear") / "checkpoints/last.ckpt"


def test_a_file_of_weights_counts_by_its_content(bench: Bench, tmp_path: Path) -> None:
    checkpoint = trained_weights(bench, tmp_path / "first")
    digits = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
    here, there = tmp_path / "here.ckpt", tmp_path / "there.ckpt"
    for copy in (here, there):
        shutil.copy(checkpoint, copy)
    fit = ("fit", "--config", "digits/linear", *SHORT[:-1], "1", "--model.weights")
    assert bench(*fit, str(here))[0] == 0
    folder = run_folder(tmp_path / "runs", "digits/linear")
    result = results.read_result(folder / "result.json")
    assert result.overrides == {"model.init_args.weights": f"sha256:{digits}", "trainer.max_epochs": 1}
    assert result.resolved["model.init_args.weights"] == f"sha256:{digits}"
    assert str(here) in (folder / "recipe.yaml").read_text()  # which starts the run again

    status, out, _ = bench(*fit, str(there))  # the same file elsewhere
    assert status == 0
    assert "finished" in out
    content = torch.load(here, weights_only=True)
    content["state_dict"]["fc.bias"] += 1
    torch.save(content, here)
    assert bench(*fit, str(here))[0] == 0  # another file in its place
    assert len(list((tmp_path / "runs").glob("digits/linear/*/seed-0"))) == 2


def test_training_starts_from_the_weights_of_a_file(bench: Bench, tmp_path: Path) -> None:
    checkpoint = trained_weights(bench, tmp_path / "first")
    still = ("--model.optimizer.lr", "0.0", "--model.weights", str(checkpoint))
    assert bench("fit", "--config", "digits/linear", *SHORT[:-1], "1", *still)[0] == 0
    ours = weights(run_folder(tmp_path / "runs", "digits/linear"))
    theirs = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_in_a_recipe_count_by_their_content_too(bench: Bench, tmp_path: Path) -> None:
    checkpoint = trained_weights(bench, tmp_path / "first")
    recipe = yaml.safe_load(find_recipe("digits/linear").read_text())
    recipe["model"]["init_args"]["weights"] = str(checkpoint)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert bench("fit", "--config", str(path), *SHORT[:-1], "1")[0] == 0
    result = results.read_result(run_folder(tmp_path / "runs", "custom/mine") / "result.json")
    digits = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
    assert result.settings["model.init_args.weights"] == f"sha256:{digits}"
    assert result.overrides == {"trainer.max_epochs": 1}
    assert load_recipe(path).settings["model.init_args.weights"] == f"sha256:{digits}"


def test_test_and_validate_evaluate_the_weights_they_are_given(bench: Bench, tmp_path: Path) -> None:
    checkpoint = trained_weights(bench, tmp_path / "first")
    expected = results.read_result(checkpoint.parent.parent / "result.json").errors["1crop"]
    state = tmp_path / "state.pth"  # as published weights are: nothing but tensors
    torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], state)
    given = ("--config", "digits/linear", "--seed_everything", "5", "--data.loader", "torch", "--model.weights")
    status, out, err = bench("test", *given, str(state))
    assert status == 0, err
    assert out.splitlines()[0] == f"weights: {state}"
    assert f"({expected['wrong1']} of 360 wrong)" in out
    status, out, _ = bench("validate", *given, str(state))
    assert status == 0
    assert f"val/top1_error {expected['top1_error']:.4f}" in out

    status, _, err = bench("test", *given, str(tmp_path / "nothing.pth"))
    assert status == 2
    assert "nothing.pth) must be a file: download it first" in err


def test_the_run_that_started_from_given_weights_is_named_and_can_be_asked_for(bench: Bench, tmp_path: Path) -> None:
    checkpoint = trained_weights(bench, tmp_path / "first")
    start = results.read_result(checkpoint.parent.parent / "result.json").errors["1crop"]
    given = ("--config", "digits/linear", *SHORT[:-1], "9", "--model.weights", str(checkpoint))
    assert bench("fit", *given)[0] == 0
    folder = run_folder(tmp_path / "runs", "digits/linear")
    own = results.read_result(folder / "result.json").errors["1crop"]
    assert own["wrong1"] != start["wrong1"]
    _, out, _ = bench("test", *given)
    assert f"not those of the run that started from them: --ckpt_path {folder}/checkpoints/last.ckpt" in out
    assert f"({start['wrong1']} of 360 wrong)" in out
    _, out, _ = bench("test", *given, "--ckpt_path", str(folder / "checkpoints/last.ckpt"))
    assert f"({own['wrong1']} of 360 wrong)" in out


def test_only_files_to_start_from_are_read_and_only_if_they_are_there(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # whose SHA-256 is the example of FIPS 180-2
    settings = {"model.init_args.start_from": str(path), "data.init_args.root": str(path), "trainer.max_epochs": 1}
    assert by_content(settings) == settings | {"model.init_args.start_from": "sha256:ba7816bf8f01"}
    for other in (None, str(tmp_path), str(tmp_path / "nothing")):
        assert by_content({"model.init_args.weights": other}) == {"model.init_args.weights": other}


def test_a_network_that_cannot_train_on_single_images_is_refused_before_any_work(bench: Bench, tmp_path: Path) -> None:
    """In evaluation, batch norm takes any number of images; in training it needs two values of each map."""
    command = ("--config", "digits/lenet5", *SHORT, "--data.batch_size", "1", "--model.norm", "batch")
    status, _, err = bench("fit", *command)
    assert status == 2
    assert "cannot train on 1 image of 32 x 32 pixels for each device and step" in err
    assert "raise data.init_args.batch_size" in err
    assert not list((tmp_path / "runs").rglob("metrics.csv"))


def test_trying_the_network_changes_neither_it_nor_the_random_numbers() -> None:
    torch.manual_seed(0)
    network = ResNet([1], [4], stem="cifar", dropout=0.5, num_classes=10).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected = torch.get_rng_state()
    try_training(network, Synthetic(batch_size=8, image_size=8), parts=1)
    assert torch.equal(torch.get_rng_state(), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--config", "digits/resnet", "--model.se_reduction", "99"),
            "se_reduction (=99) must lie between 1 and the 16 channels of every block, or be 0 for no "
            "squeeze-and-excitation.",
        ),
        (
            ("--config", "imagenet/resnet18_torchvision", "--data.image_size", "300"),
            "eval_size (=300; image_size where it is not given) must be 1 to eval_resize (=256) pixels: lower it or "
            "raise eval_resize.",
        ),
    ],
)
def test_what_a_constructor_refuses_is_one_message(bench: Bench, arguments: tuple[str, ...], message: str) -> None:
    status, _, err = bench("fit", *arguments, "--seed_everything", "0", "--data.loader", "torch")
    assert status == 2
    assert err == f"error: {message}\n"


def test_weights_given_as_a_checkpoint_are_sent_where_they_belong(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(Linear((1, 8, 8)).state_dict(), path)
    given = ("--config", "digits/linear", "--seed_everything", "0", "--data.loader", "torch")
    status, _, err = bench("test", *given, "--ckpt_path", str(path))
    assert status == 2
    assert (
        err == f"error: {path} is no checkpoint of this suite: weights of others are given as --model.weights {path}.\n"
    )
    path.write_text("no weights")
    status, _, err = bench("test", *given, "--ckpt_path", str(path))
    assert status == 2
    assert f"{path} is not a whole checkpoint" in err
    assert "name another with --ckpt_path" in err
    assert "remove it" not in err


def test_weights_named_by_recipe_and_command_line_alike_are_evaluated(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(Linear((1, 8, 8)).state_dict(), path)
    content = yaml.safe_load(find_recipe("digits/linear").read_text())
    content["model"]["init_args"]["weights"] = str(path)
    recipe = tmp_path / "started.yaml"
    recipe.write_text(yaml.safe_dump(content))
    given = ("--config", str(recipe), "--seed_everything", "0", "--data.loader", "torch")
    status, out, err = bench("test", *given, "--model.weights", str(path))
    assert status == 0, err
    assert f"weights: {path}" in out
    status, _, err = bench("test", *given, "--model.weights", "")
    assert status == 2
    assert "weights (=) must be a file" in err
