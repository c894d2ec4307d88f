"""What ranks must share: the batch-norm averages that are tested, and the news of a loss that is not finite."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from benchmarks.callbacks import DivergenceGuard, TrainingDivergedError
from benchmarks.lifecycle import Agreement, EpochState


def one_rank(rank: int, folder: str) -> None:
    """Each rank's norm has averages of its own; rank 1 alone sees a loss that is not finite, in the fourth step."""
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", meeting, timedelta(seconds=60), rank=rank, world_size=2)
    trainer: Any = SimpleNamespace(world_size=2, global_step=0, current_epoch=0, strategy=DDPStrategy())
    norm: Any = nn.BatchNorm1d(3)
    norm.running_mean += 1 + rank
    EpochState(0, Agreement()).on_train_end(trainer, norm)
    message = ""
    guard = DivergenceGuard(Path(folder, "last.ckpt"), every_steps=6)
    try:
        for step in range(1, 8):
            trainer.global_step = step
            loss = torch.tensor(float("nan") if (rank, step) == (1, 4) else 1.0)
            guard.on_train_batch_end(trainer, norm, {"loss": loss}, None, step)
    except TrainingDivergedError as error:
        message = str(error)
    Path(folder, f"{rank}.json").write_text(json.dumps([norm.running_mean.tolist(), message, trainer.global_step]))
    torch.distributed.destroy_process_group()


def test_two_ranks_test_one_network_and_stop_together(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    mean, message, step = first
    assert mean == [1, 1, 1]
    assert message.startswith("the loss is not finite at step 4 (epoch 0)")
    assert step == 6
