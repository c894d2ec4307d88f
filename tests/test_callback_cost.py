"""The share of each callback in a step, and what a row costs that is sent to W&B."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb_double import for_this_process

from benchmarks import callback_cost

Bench = Callable[..., tuple[int, str, str]]
COMMAND = ("overhead", "digits/mlp", "--callbacks", "--steps", "20")


def test_every_callback_has_a_share_and_wandb_gets_what_is_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with for_this_process(monkeypatch) as server:
        status, out, err = bench(*COMMAND, "--pairs", "2", "--json", str(tmp_path / "cost.json"))
        assert status == 0, err
        assert len(server.runs) == 2
        for run in server.runs.values():
            assert run.project == callback_cost.PROJECT
            assert run.state == "finished"
            assert len(run.history()) >= callback_cost.ROWS
    record = json.loads((tmp_path / "cost.json").read_text())
    for one in record["rounds"]:
        assert {"StepTable", "Mirror", "Throughput", "DivergenceGuard", "StepCheckpoint"} <= set(one["shares"])
        assert all(0 <= share < 1 for share in one["shares"].values())
        assert one["row"] > 0
        assert one["step"] > 0
    assert "a row sent to W&B: " in out


def test_without_wandb_and_without_callbacks(bench: Bench, tmp_path: Path) -> None:
    status, out, _ = bench(*COMMAND, "--pairs", "1")
    assert status == 0
    assert "a row sent" not in out
    file = tmp_path / "cost.json"
    status, _, err = bench("overhead", "digits/mlp", "--json", str(file))
    assert status == 2
    assert f"--json (={file}) goes with --callbacks" in err
