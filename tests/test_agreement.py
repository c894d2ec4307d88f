"""The three loaders are one: the same uint8 tensors, labels and order, for any number of workers and ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import base, loaders
from datamodules.augment import Augmentation, PaddedCropFlip
from datamodules.batches import IGNORED_LABEL
from datamodules.loaders import LoaderName, available_workers, ffcv_fault
from datamodules.synthetic import Synthetic

CHECKOUT = Path(__file__).resolve().parent.parent
NAMES: tuple[LoaderName, ...] = ("torch", "resident", "ffcv")
AUGMENTATIONS = (None, PaddedCropFlip(2, 0.5), PaddedCropFlip(2, 0.5, hole=4, fill=(10, 200, 30)))


def dataset(name: LoaderName, workers: int, augmentation: Augmentation | None) -> Any:
    """Sizes that neither batches nor ranks divide: 103 training images less 14 held out, 23 test images."""
    data = Synthetic(
        **{"batch_size": 12, "image_size": 8, "num_train": 103, "num_test": 23, "eval_batch_size": 5, "holdout": 14},
        **{"augmentation": augmentation, "loader": name, "workers": workers, "seed": 6},
    )
    data.prepare_data()
    data.setup()
    assert data.chosen_loader == (name, "asked for")
    return data


def batches_of(data: Any, rank: int, ranks: int) -> list[tuple[Tensor, Tensor]]:
    """All this rank reads in two epochs: training, held-out images, test images."""
    data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks, num_devices=1, accumulate_grad_batches=1)
    found = []
    for epoch in (0, 1):
        for batches in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            batches.sampler.set_epoch(epoch)
            found += list(batches)
    return found


def agree(workers: int) -> int:
    """Compare the loaders on 1, 2 and 3 ranks with every augmentation; the number of batches that are equal."""
    compared = 0
    for augmentation in AUGMENTATIONS:
        of_loader = {name: dataset(name, workers, augmentation) for name in NAMES}
        for ranks in (1, 2, 3):
            for rank in range(ranks):
                expected = batches_of(of_loader["torch"], rank, ranks)
                filling = sum(int((labels == IGNORED_LABEL).sum()) for _, labels in expected)
                assert filling == 2 * ((14 % ranks and rank >= 14 % ranks) + (23 % ranks and rank >= 23 % ranks))
                for name in NAMES[1:]:
                    found = batches_of(of_loader[name], rank, ranks)
                    assert len(found) == len(expected) > 0
                    for (images, labels), (same_images, same_labels) in zip(found, expected, strict=True):
                        assert images.dtype == same_images.dtype == torch.uint8
                        assert labels.dtype == same_labels.dtype == torch.int64
                        assert torch.equal(images, same_images), (name, augmentation, rank, ranks)
                        assert torch.equal(labels, same_labels), (name, augmentation, rank, ranks)
                        compared += 1
    return compared


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_three_loaders_agree_to_the_bit(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault := ffcv_fault():
        pytest.skip(fault)
    if workers <= available_workers():
        assert agree(workers) > 300
        return
    # More threads than cores, which the suite refuses: in a process in which numba allows them.
    program = (
        "import sys; sys.path.insert(0, 'tests'); import test_agreement as t\n"
        f"t.base.checked_workers = lambda workers, ranks: workers; print('agreed', t.agree({workers}))"
    )
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(workers), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 300
    assert base.checked_workers is loaders.checked_workers
