"""The lean loop trains to the same bits as Lightning's own, and calls every hook that is filled."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import SimpleProfiler

from benchmarks import suite_cli
from benchmarks.lean import STEP_HOOKS, NoProfiler, keep_freed_memory, skip_empty_hooks

Bench = Callable[..., tuple[int, str, str]]


class Filled(pl.Callback):
    """Fills two of the hooks of a step."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_batch_start(self, *arguments: Any) -> None:
        self.calls.append("start")

    def on_before_optimizer_step(self, *arguments: Any) -> None:
        self.calls.append("step")


class Network(pl.LightningModule):
    """Two weights; fills one hook."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.calls = 0

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def on_after_backward(self) -> None:
        self.calls += 1

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(lean: bool) -> tuple[Network, Filled]:
    torch.manual_seed(0)
    filled, network = Filled(), Network()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[filled, pl.Callback()],
        profiler=NoProfiler() if lean else None,
    )
    if lean:
        skip_empty_hooks(trainer, network)
    images = torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(1))
    trainer.fit(network, torch.utils.data.DataLoader(images, batch_size=None))
    return network, filled


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on so small a run
def test_filled_hooks_are_called_and_weights_are_the_same() -> None:
    (plain, _), (lean, filled) = trained(False), trained(True)
    assert torch.equal(plain.layer.weight, lean.layer.weight)
    assert filled.calls == ["start", "step"] * 4
    assert lean.calls == plain.calls == 4
    assert filled.on_train_batch_end is None
    assert lean.on_before_zero_grad is None
    assert set(STEP_HOOKS) <= set(dir(pl.Callback))


def test_a_profiler_that_was_asked_for_is_kept(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    honest = suite_cli.skip_empty_hooks

    def looking(trainer: pl.Trainer, network: pl.LightningModule) -> None:
        kept.append(trainer.profiler)
        honest(trainer, network)

    monkeypatch.setattr(suite_cli, "skip_empty_hooks", looking)
    command = ("fit", "--config", "digits/linear", "--seed_everything", "0", "--trainer.max_epochs", "1")
    assert bench(*command, "--trainer.profiler", "simple")[0] == 0
    assert bench(*command, "--again")[0] == 0
    assert [type(profiler) for profiler in kept] == [SimpleProfiler, NoProfiler]


def test_memory_is_kept_only_by_glibc_and_when_nobody_else_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    asked: list[tuple[int, int]] = []

    class Library:
        """Notes what it is asked for."""

        def mallopt(self, parameter: int, value: int) -> int:
            asked.append((parameter, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr("sys.platform", "linux")
    assert keep_freed_memory()
    assert asked == [(-4, 0), (-1, 2**31 - 1)]  # no block from mmap, no block back to the kernel: glibc's malloc.h
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert not keep_freed_memory()
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
