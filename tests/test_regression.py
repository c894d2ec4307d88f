"""The regressions: theory against a simulation of its own, optima against scikit-learn, orders of the scheduler."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from benchmarks.phenomena import regression
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.cards import RESULTS
from benchmarks.phenomena.regression import RATES, RECIPES, Recipe, expected_excess, stationary
from benchmarks.suite_cli import quiet_warnings

Bench = Callable[..., tuple[int, str, str]]


def test_the_plateaus_of_the_lecture() -> None:
    """The numbers measured before by another program, rounded as they were."""
    assert [round(stationary(lr, 512, 128), 4) for lr in RATES] == [0.1683, 0.0218, 0.0041]


@pytest.mark.parametrize("beta2", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("lr", RATES)
def test_the_recursion_ends_in_the_stationary_state(lr: float, beta2: float) -> None:
    found = expected_excess([lr] * 60_000, 512, 128, start=2.0, along=-beta2, beta2=beta2)
    assert float(found[-1]) == pytest.approx(stationary(lr, 512, 128, beta2), rel=1e-9)


def test_the_recursion_is_the_mean_of_many_runs() -> None:
    """4 features, batches of 8, 20 000 runs of torch's update written out, learning rate falling in between."""
    runs, p, batch, rates = 20_000, 4, 8, [0.05] * 12 + [0.01] * 8
    source = np.random.default_rng(0)
    b = np.array([2.0, -1.0, 0.5, 1.0])
    w = np.tile([0.3, 0.1, -0.2, 0.0], (runs, 1))
    e0, v, found = w[0] - b, np.zeros_like(w), []
    for lr in rates:
        found.append(np.square(w - b).sum(1))
        x = source.standard_normal((runs, batch, p))
        residual = np.einsum("rbp,rp->rb", x, w - b) - 0.5 * source.standard_normal((runs, batch))
        gradient = 2 / batch * np.einsum("rbp,rb->rp", x, residual) + regression.DECAY * w
        v = regression.MOMENTUM * v + gradient
        w = w - lr * v
    theory = expected_excess(rates, p, batch, float(e0 @ e0), float(e0 @ b), float(b @ b)).numpy()
    errors = np.array([one.std() / math.sqrt(runs) for one in found])
    assert np.all(np.abs(np.mean(found, 1) - theory) <= 4 * errors + 1e-12)


def test_a_step_that_diverges_is_refused() -> None:
    with pytest.raises(
        AnalysisError, match=r"lr \(=0\.2\) must be smaller for 512 features in batches of 128: SGD div"
    ):
        stationary(0.2, 512, 128)
    with pytest.raises(AnalysisError, match=r"--repetitions \(=0\) must be at least 1\."):
        regression.analyze(repetitions=0)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_optimum_is_that_of_scikit_learn(classes: int) -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(300, 5), torch.randint(classes, (300,))
    ours = regression.optimum(x, labels, classes, decay=0.01)
    theirs = LogisticRegression(C=1 / (0.01 * 300), fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, labels)
    if classes == 2:  # scikit-learn has one column for two classes, and thus half the penalty on their difference
        theirs = LogisticRegression(C=2 / (0.01 * 300), fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, labels)
        np.testing.assert_allclose((ours[1] - ours[0]).numpy(), theirs.coef_[0], atol=1e-5)
    else:
        np.testing.assert_allclose(ours.numpy(), theirs.coef_ - theirs.coef_.mean(0), atol=1e-5)


def test_the_logistic_loss_is_the_negative_of_the_slides_rho() -> None:
    """rho(t) = -ln(1 + exp(-t)), t = label times score; scores of two classes differ by the score of one."""
    score, label = torch.randn(50, dtype=torch.float64), torch.randint(2, (50,))
    rho = regression.log_likelihood((2 * label - 1) * score)
    assert (rho < 0).all()
    torch.testing.assert_close(rho, -torch.log(1 + torch.exp(-(2 * label - 1) * score)))
    two = torch.stack([torch.zeros_like(score), score], 1)
    torch.testing.assert_close(-rho.mean(), F.cross_entropy(two, label))
    torch.testing.assert_close(-rho.mean(), F.binary_cross_entropy_with_logits(score, label.double()))


def test_least_squares_and_labels() -> None:
    data = regression.draw(Recipe(500, 6, 10, 3, 0, 1, 50), seed=1, outputs=3, length=2.0)
    y = data["x"] @ data["b"][:, 0] + data["noise"][:500, 0]
    best = np.linalg.lstsq(data["x"].double().numpy(), y.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(regression.least_squares(data["x"], y).numpy(), best, rtol=1e-9)
    many = {**data, "x": torch.ones(200_000, 6), "chance": torch.rand(200_000, 1)}
    counts = torch.bincount(regression.with_chance(many), minlength=3) / 200_000
    torch.testing.assert_close(counts, data["b"].sum(0).softmax(0), atol=5e-3, rtol=0)


def test_the_order_of_the_scheduler() -> None:
    """What the lecture meant, what its line does since torch 1.1, and that torch says so."""
    recipe = Recipe(64, 4, 16, 9, 4, 1, 16)
    x, y = torch.randn(70, 4), torch.randn(70, 1)
    traces = [
        regression.train(nn.Linear(4, 1), x, y, F.mse_loss, recipe, scheduler_first=first) for first in (False, True)
    ]
    assert traces[0].rates == pytest.approx([0.01] * 3 + [0.002] * 3 + [0.0004] * 3)
    assert traces[1].rates == pytest.approx([0.01] * 2 + [0.002] * 3 + [0.0004] * 4)
    assert [trace.warned for trace in traces] == [False, True]
    assert [len(trace.losses) for trace in traces] == [36, 36]  # 4 batches an epoch: 6 samples are never seen
    assert regression.scheduled(recipe) == pytest.approx(traces[0].rates)


class Lit(pl.LightningModule):
    """A linear model whose scheduler Lightning steps."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.rates = nn.Linear(4, 1), list[float]()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return self.linear(batch[0]).square().mean()

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6], gamma=0.2)]


def test_lightning_steps_the_scheduler_after_the_epoch(tmp_path: Path) -> None:
    module = Lit()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 4)), batch_size=8)
    with quiet_warnings():
        pl.Trainer(max_epochs=9, accelerator="cpu", default_root_dir=tmp_path, **quiet).fit(module, data)
    assert module.rates == pytest.approx([0.01] * 3 + [0.002] * 3 + [0.0004] * 3)


@pytest.mark.parametrize("model", ["linear", "net", "glm"])
def test_committed_results_are_of_the_lectures_sizes_and_hold(model: str) -> None:
    record = json.loads((RESULTS / f"regression-{model}.json").read_text())
    assert record["preset"] == "cpu"
    assert RECIPES[model]["cpu"].samples == 100_000
    assert all(check["held"] for check in record["checks"])
    assert {path.suffix for path in RESULTS.glob(f"regression-{model}.*")} == {".json", ".csv", ".png", ".svg"}
