"""What tests share: the place of real data, folders of their own, and the command line in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture
def data_root() -> Path:
    """The folder with real datasets, or a skip."""
    for place in (os.environ.get("ILSVRC_BENCH_DATA"), CHECKOUT.parent / "shared" / "data"):
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip("no real data: set ILSVRC_BENCH_DATA to a folder with MNIST, CIFAR-10 and ImageNet samples")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes to the user's cache or runs, sends to the user's W&B, or draws runs unless it asks to."""
    monkeypatch.setenv("ILSVRC_BENCH_PICTURES", "0")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("ILSVRC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ILSVRC_BENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command of the suite in this process: exit status, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        from benchmarks.cli import main

        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        out, err = capsys.readouterr()
        return status, out, err

    return run
