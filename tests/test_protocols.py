"""Protocols on networks whose answer is known, and evaluations that count wrongly."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.protocols import PROTOCOLS, Evaluation, MiscountError, check_protocols
from benchmarks.recipe import RecipeError
from benchmarks.suite_cli import quiet_warnings


class LeftPixel(nn.Module):
    """Logits 0 and the value of the left pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(images)), images[:, 0, 0, 0]], dim=1)


def test_flip_is_the_mean_of_two_softmaxes() -> None:
    image = torch.tensor([[[[2.0, -1.0]]]])
    scores = PROTOCOLS["flip"](LeftPixel(), image)
    expected = (torch.tensor([0.0, 2.0]).softmax(0) + torch.tensor([0.0, -1.0]).softmax(0)) / 2
    torch.testing.assert_close(scores[0], expected)
    assert PROTOCOLS["1crop"](LeftPixel(), image).tolist() == [[0.0, 2.0]]


def evaluate(expected: int) -> Evaluation:
    images = torch.tensor([1.0, -1.0, 1.0, 3.0, -2.0]).reshape(5, 1, 1, 1)
    labels = torch.tensor([1, 0, 0, 1, -100])  # the third is wrong, the last only fills up the batch
    evaluation = Evaluation(LeftPixel(), "1crop", expected)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with quiet_warnings():
        loader = DataLoader([(images[:3], labels[:3]), (images[3:], labels[3:])], batch_size=None)  # type: ignore[arg-type]
        trainer.test(evaluation, loader, verbose=False)
    return evaluation


def test_evaluation_counts_every_image() -> None:
    errors = evaluate(expected=4).errors
    assert errors == {"top1_error": 25.0, "top5_error": 0.0, "wrong1": 1, "wrong5": 0, "count": 4}


def test_wrong_count_is_an_error() -> None:
    with pytest.raises(MiscountError, match="counted 4 images, the dataset has 5"):
        evaluate(expected=5)


def test_unknown_protocol_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"protocol \(=12crop\) must be one of 1crop, flip"):
        check_protocols(["1crop", "12crop"])
