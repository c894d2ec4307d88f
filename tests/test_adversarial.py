"""Adversarial examples: attacks against two other libraries and against closed forms, and what holds on digits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.phenomena import adversarial
from benchmarks.phenomena.adversarial import (
    LinearFit,
    checked_epsilons,
    error_and_confidence,
    fgsm,
    fit_linear,
    pgd,
    random_signs,
    worst_logistic_error,
    worst_logistic_loss,
)
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.finished import load_run


@pytest.fixture
def digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A convolutional network after a few steps, and 64 images it has not seen."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
    data = adversarial.SIZES["smoke"].data()
    x, y = adversarial.pixels(data, "train", 640, 0)
    adversarial.train(network, x, y, 4, torch.Generator().manual_seed(0), 1e-2)
    return network.requires_grad_(False), *adversarial.pixels(data, "test", 64, 0)


def test_fgsm_is_that_of_art_bit_for_bit(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed: it is in the extra `dev`")
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier

    network, x, y = digits
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # ART differentiates by them too
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))
    for epsilon in (0.05, 0.25):
        theirs = FastGradientMethod(classifier, eps=epsilon).generate(x.numpy(), F.one_hot(y, 10).numpy())
        ours = fgsm(network, x, y, epsilon)
        assert (ours.numpy() == theirs).all()
        assert (ours != x).any()


def test_fgsm_is_that_of_foolbox_bit_for_bit(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed: it is in the extra `oracles`")
    network, x, y = digits
    model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfFastGradientAttack()
    _, theirs, _ = attack(model, x, y, epsilons=0.1)
    assert torch.equal(fgsm(network, x, y, 0.1), theirs)


def test_pgd_stays_within_and_is_no_weaker(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    network, x, y = digits

    def loss(moved: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(moved), y, reduction="none")

    def attack(restarts: int) -> torch.Tensor:
        return pgd(network, x, y, 0.1, 0.01, 40, torch.Generator().manual_seed(0), restarts=restarts)

    once, thrice = attack(1), attack(3)
    assert (once - x).abs().max() <= 0.1 + 1e-6
    assert once.min() >= 0
    assert once.max() <= 1
    assert loss(once).mean() >= loss(fgsm(network, x, y, 0.1)).mean() - 1e-3
    assert (loss(thrice) >= loss(once)).all()  # its first start is the same
    free = pgd(network, x, y, 0.1, 0.01, 3, torch.Generator().manual_seed(0), bounds=None)
    assert free.min() < 0


def test_one_step_of_pgd_from_nowhere_is_fgsm(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    network, x, y = digits
    within = pgd(network, x, y, 0.0, 0.0, 1, torch.Generator())
    assert torch.equal(within, x)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    far = pgd(linear, x, y % 2, 0.1, 1.0, 1, torch.Generator().manual_seed(0), bounds=None)
    assert torch.allclose(far, fgsm(linear, x, y % 2, 0.1, bounds=None), atol=1e-6)


def test_random_signs_move_every_pixel_by_epsilon() -> None:
    x = torch.full((50, 1, 8, 8), 0.5)
    moved = random_signs(x, 0.25, torch.Generator().manual_seed(0))
    assert set(moved.unique().tolist()) == {0.25, 0.75}
    assert abs(moved.mean().item() - 0.5) < 0.02


def test_worst_case_of_a_linear_model_by_hand() -> None:
    fit = LinearFit(np.array([[0.0, 0.0], [2.0, -1.0]]), np.array([0.0, 0.5]))  # w = (2, -1), |w|_1 = 3
    x, y = torch.tensor([[[[1.0, 1.0]]], [[[0.0, 0.0]]]]), torch.tensor([1, 0])
    loss = worst_logistic_loss(fit, x, y, 0.5)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-(1.5 - 1.5))), math.log1p(math.exp(0.5 + 1.5))])
    assert worst_logistic_error(fit, x, y, 0.0) == 0.5
    assert worst_logistic_error(fit, x, y, 0.5) == 1.0  # the margin of the first is 1.5 = 0.5 * 3: just lost


def test_fgsm_attains_the_worst_case_of_a_linear_model_and_nothing_exceeds_it() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(40, 1, 8, 8, generator=generator), torch.randint(2, (40,), generator=generator)
    fit = fit_linear(x, y, l2=1e-2)
    network = fit.network()
    exact = worst_logistic_loss(fit, x, y, 0.1)

    def loss(moved: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(moved), y, reduction="none").detach().double()

    assert ((loss(fgsm(network, x, y, 0.1, None)) - exact).abs() / exact).max() < 1e-5
    for _ in range(20):
        assert (loss(random_signs(x, 0.1, generator, None)) <= exact + 1e-6).all()


def test_logistic_regression_is_at_its_optimum() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(200, 1, 2, 2, generator=generator), torch.randint(3, (200,), generator=generator)
    fit = fit_linear(x, y, l2=1e-2)
    w, b = (torch.from_numpy(part).requires_grad_(True) for part in (fit.weights, fit.biases))
    loss = F.cross_entropy(x.flatten(1).double() @ w.T + b, y) + 0.5e-2 * w.square().sum()
    slopes = torch.autograd.grad(loss, (w, b))
    assert max(slope.abs().max().item() for slope in slopes) < 1e-4


def test_confidence_is_of_the_wrong_answers_only() -> None:
    x = torch.tensor([[[[0.0]]], [[[1.0]]]])
    y = torch.tensor([1, 1])

    def network(images: torch.Tensor) -> torch.Tensor:  # image 0: class 0 with 0.8; image 1: class 1 with 0.9
        right = torch.where(images.flatten() > 0, 0.9, 0.2)
        return torch.stack([1 - right, right], 1).log()

    error, confidence = error_and_confidence(network, x, y)
    assert (error, confidence) == (0.5, pytest.approx(0.8))
    assert math.isnan(error_and_confidence(network, x[1:], y[1:])[1])


@pytest.mark.parametrize("epsilons", [[-0.1], [0.1, 2.0], [math.nan], [0.0], []])
def test_epsilons_that_are_refused(epsilons: list[float]) -> None:
    with pytest.raises(AnalysisError, match=r"--epsilons \(=.*\) must .*(use 0\.25|always measured)"):
        checked_epsilons(epsilons)
    assert checked_epsilons([0.2, 0.0, 0.1, 0.2]) == (0.1, 0.2)


def test_a_negative_epsilon_on_the_command_line(bench: Any) -> None:
    status, _, err = bench("analyze", "adversarial", "--smoke", "--epsilons", "[-0.1]")
    assert status == 2
    assert "--epsilons (=-0.1) must lie in [0, 1], the range of a pixel: use 0.25" in err


def test_the_network_of_a_run_is_attacked_and_comes_back(tmp_path: Path, bench: Any) -> None:
    quiet = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "3", "--trainer.enable_progress_bar", "false"]
    status, _, err = bench("fit", "--config", "digits/mlp", "--seed_everything", "0", "--runs", tmp_path, *quiet)
    assert status == 0, err
    (folder,) = tmp_path.glob("digits/mlp/*/seed-0")
    run = load_run(str(folder))
    run.network.train()
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    random_numbers = torch.get_rng_state()
    outcome = adversarial.analyze("smoke", epsilons=[0.1], run=run)
    assert not outcome.failed
    assert run.network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in run.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_numbers)
    with pytest.raises(AnalysisError, match="--experiment train trains networks of its own: leave --run and --ckpt"):
        adversarial.analyze("smoke", experiment="train", run=run)
