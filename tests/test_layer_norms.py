"""Norms of layers in training: against weights and gradients by hand; training is not changed by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import watched_runs
from torch import Tensor, nn
from watched_runs import fit_on_two_ranks, folder_of, recipe_with, state_of, without_clock

from benchmarks.layer_norms import LayerNorms, layers_of, squared
from benchmarks.phenomena.finished import load_run
from benchmarks.phenomena.initial_weights import initial_network
from benchmarks.tables import read_rows

Bench = Callable[..., tuple[int, str, str]]

SHORT = (*watched_runs.SHORT[:-1], "2")  # two epochs
LAYERS = ["all", "hidden.0", "fc"]


def recipe(tmp_path: Path, **init_args: Any) -> str:
    return recipe_with(tmp_path, "benchmarks.layer_norms.LayerNorms", **init_args)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return without_clock(read_rows(folder / "layer_norms.csv"))


def length(tensors: list[Tensor]) -> float:
    return float(sum(one.detach().double().square().sum() for one in tensors)) ** 0.5


def test_rows_are_those_of_the_finished_run_and_training_is_the_same(bench: Bench, tmp_path: Path) -> None:
    for config in (recipe_with(tmp_path), recipe(tmp_path, every_steps=3)):
        status, _, err = bench("fit", "--config", config, *SHORT)
        assert status == 0, err
    plain, watched = (folder_of(tmp_path / "runs", name) for name in ("plain", "watched"))
    before, after = state_of(plain), state_of(watched)
    assert all(torch.equal(value, before[key]) for key, value in after.items())

    rows = read_rows(watched / "layer_norms.csv")
    assert [(int(row["epoch"]), row["layer"]) for row in rows] == [(e, name) for e in (-1, 0, 1) for name in LAYERS]
    assert all((float(row["seconds"] or 0) > 0) == (row["layer"] == "all") for row in rows)
    run = load_run(str(watched))
    first, last = initial_network(run), run.network
    for start, row in zip(rows[:3], rows[-3:], strict=True):
        name = row["layer"]
        pairs = [
            (one, other)
            for (key, one), other in zip(first.named_parameters(), last.parameters(), strict=True)
            if name in ("all", key.rpartition(".")[0])
        ]
        assert pairs
        assert float(start["norm"]) == pytest.approx(length([one for one, _ in pairs]), rel=1e-5)
        assert float(row["norm"]) == pytest.approx(length([other for _, other in pairs]), rel=1e-5)
        assert float(row["moved"]) == pytest.approx(length([other - one for one, other in pairs]), rel=1e-4)
        assert (float(start["moved"]), start["gradient"]) == (0, "")
        assert float(row["gradient"]) > 0


def test_gradients_by_hand() -> None:
    """Steps 0 and 2 of three are looked at; the root mean square of what the optimizer gets, layer by layer."""
    network = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1), nn.ReLU())
    network[1].bias.requires_grad_(False)
    callback, trainer = LayerNorms(every_steps=2), Rank(True)
    callback.layers = layers_of(network)
    assert {name: len(weights) for name, weights in callback.layers.items()} == {"0": 2, "1": 1}
    for step, slope in enumerate((1.0, 50.0, 3.0)):
        network[0].weight.grad = torch.full((1, 2), slope)
        network[0].bias.grad = torch.full((1,), 2 * slope)
        trainer.global_step = step
        callback.on_before_optimizer_step(trainer, Device(), None)  # type: ignore[arg-type]
    assert callback.sums is not None
    assert callback.sums.tolist() == pytest.approx([6 * (1 + 9), 0])
    assert callback.looks == 2
    taken = LayerNorms(every_steps=2)
    taken.load_state_dict(callback.state_dict())
    assert (taken.looks, taken.seconds > 0) == (2, True)
    assert float(squared([torch.tensor([3.0, 4.0]), torch.tensor([[12.0]]).bfloat16()])) == pytest.approx(169)


class Rank:
    """As much of a trainer as the callback asks between steps."""

    global_step = current_epoch = 0

    def __init__(self, first: bool) -> None:
        self.is_global_zero = first


class Device:
    device = torch.device("cpu")


def test_only_the_first_rank_looks() -> None:
    """The second one has no table and keeps no weights, and touches neither network nor gradients."""
    callback = LayerNorms(every_steps=1)
    callback.on_before_optimizer_step(Rank(False), nn.Linear(1, 1), None)  # type: ignore[arg-type]
    callback.on_train_epoch_end(Rank(False), nn.Linear(1, 1))  # type: ignore[arg-type]
    assert (callback.sums, callback.looks, callback.rows) == (None, 0, [])


def test_a_run_that_was_stopped_has_the_same_rows(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(tmp_path)
    honest = LayerNorms.on_train_epoch_end

    def breaks(self: LayerNorms, trainer: Any, network: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("the machine is gone")
        honest(self, trainer, network)

    assert bench("fit", "--config", config, *SHORT)[0] == 0
    expected = rows_of(folder_of(tmp_path / "runs", "watched"))
    elsewhere = ("--runs", str(tmp_path / "other"))
    with monkeypatch.context() as broken:
        broken.setattr(LayerNorms, "on_train_epoch_end", breaks)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            bench("fit", "--config", config, *SHORT, *elsewhere)
    stopped = folder_of(tmp_path / "other", "watched")
    assert len(rows_of(stopped)) == 6
    assert bench("fit", "--config", config, *SHORT, *elsewhere)[0] == 0
    assert rows_of(stopped) == expected


@pytest.mark.slow
def test_two_ranks_have_the_rows_of_one(bench: Bench, tmp_path: Path) -> None:
    """The same batches, shared by two: weights and averaged gradients agree but for rounding."""
    config = recipe(tmp_path, every_steps=1)
    fit_on_two_ranks(config, *SHORT, "--runs", str(tmp_path / "two"))
    rows = rows_of(folder_of(tmp_path / "two", "watched"))
    assert bench("fit", "--config", config, *SHORT)[0] == 0
    alone = rows_of(folder_of(tmp_path / "runs", "watched"))
    assert [row["layer"] for row in rows] == [row["layer"] for row in alone] == 3 * LAYERS
    for row, other in zip(rows, alone, strict=True):
        for name in ("norm", "moved", "gradient"):
            assert float(row[name] or 0) == pytest.approx(float(other[name] or 0), rel=0.2)


def test_arguments_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"every_steps \(=0\) must be at least 1, every step: use 10\."):
        LayerNorms(every_steps=0)


def test_it_needs_a_run() -> None:
    class Trainer:
        callbacks = ()

    with pytest.raises(
        ValueError, match=r"callbacks must have an EpochTable, in whose folder LayerNorms writes: train with `fit`\."
    ):
        LayerNorms().on_train_start(Trainer(), nn.Linear(1, 1))  # type: ignore[arg-type]
