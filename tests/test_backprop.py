"""The lecture's formulas against autograd, on networks small and large, and a network trained by them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.cli import main
from benchmarks.phenomena import backprop
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.cards import RESULTS
from benchmarks.phenomena.finished import load_run
from benchmarks.tables import read_rows
from models.lenet import LeNet5, ScaledTanh
from models.mlp import MLP
from models.resnet import ResNet

Bench = Callable[..., tuple[int, str, str]]


def test_two_layers_by_hand() -> None:
    """h = ReLU(x W'), one image (1, 2), W1 = [[1, 0], [0, -1]], W2 = [[2, 3]], y = 0, 1/2 ||.||^2."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 1)
    with torch.no_grad():
        for layer, weight in ((first, [[1.0, 0.0], [0.0, -1.0]]), (second, [[2.0, 3.0]])):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.zero_()
    x = torch.tensor([[1.0, 2.0]])
    z = first(x).detach()  # (1, -2), so h = (1, 0), logit 2
    delta2 = backprop.error_of_squares(torch.tensor([[2.0]]), torch.zeros(1, 1), "half")
    weight2, bias2, below = backprop.linear_gradients(second, z.relu(), delta2)
    delta1 = backprop.DERIVATIVES[nn.ReLU](z, z.relu()) * below
    weight1, bias1, _ = backprop.linear_gradients(first, x, delta1)
    assert [one.tolist() for one in (delta2, weight2, bias2, below)] == [[[2.0]], [[2.0, 0.0]], [2.0], [[4.0, 6.0]]]
    assert [one.tolist() for one in (delta1, weight1, bias1)] == [[[4.0, 0.0]], [[4.0, 8.0], [0.0, 0.0]], [4.0, 0.0]]


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 7), ({"stride": 2, "padding": 1}, 8), ({"dilation": 2, "groups": 2}, 9), ({"stride": (2, 1)}, 8)],
)
def test_convolutions(options: dict, size: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, (3, 2), **options, dtype=torch.float64)
    x = torch.randn(2, 4, size, size, dtype=torch.float64, requires_grad=True)
    z = layer(x)
    delta = torch.randn_like(z)
    wanted = torch.autograd.grad(z, [layer.weight, layer.bias, x], delta)
    for ours, theirs in zip(backprop.convolution_gradients(layer, x, delta), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, ScaledTanh])
def test_derivatives(activation: type[nn.Module]) -> None:
    z = torch.randn(100, dtype=torch.float64, requires_grad=True)
    h = activation()(z)
    (slope,) = torch.autograd.grad(h.sum(), z)
    torch.testing.assert_close(backprop.DERIVATIVES[activation](z, h), slope)


def test_slips_of_the_slide() -> None:
    """logits - y is the error of half the square; MSELoss differs by just 2 / (B C), here 1 / 35."""
    found = backprop.slide_factors(10, 7)
    assert found["MSELoss over slide"] == pytest.approx(2 / 70, rel=1e-14)
    assert max(found[name] for name in ("half", "whole", "mean")) < 1e-15
    logits, labels = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 0, 1])
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    delta = backprop.error_of_cross_entropy(logits, labels)
    torch.testing.assert_close(delta, slope)
    torch.testing.assert_close(delta.sum(1), torch.zeros(6, dtype=torch.float64))


NETWORKS = {
    "mlp": (lambda: MLP((1, 8, 8), [16, 16], activation="sigmoid", norm="batch", dropout=0.5), (1, 8, 8), 1),
    "lenet": (lambda: LeNet5(c3="table", subsampling="trainable", activation="scaled_tanh"), (1, 32, 32), 2),
    "resnet": (lambda: ResNet(depths=[1, 1], widths=[4, 8], stem="cifar", shortcut="A"), (3, 32, 32), 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network(name: str) -> None:
    """Activations in place or shared between layers, batch norm, dropout, tables: everything stays as it was.

    The fully connected part ends at batch norm, and at the convolution C5 of LeNet-5.
    """
    make, shape, linear_layers = NETWORKS[name]
    torch.manual_seed(0)
    network = make().train()
    before = copy.deepcopy(network.state_dict())
    in_place = [getattr(module, "inplace", None) for module in network.modules()]
    images, labels = torch.randn(4, *shape), torch.tensor([0, 1, 2, 3])
    for dtype, accepted in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        found, calls = backprop.compare(network, images, labels, dtype)
        assert 0 <= found.connected < accepted, found
        assert found.worst < (1e-12 if dtype == torch.float64 else 1e-5), found  # sums over positions cancel
        assert len(found.chain) == linear_layers
        assert set(found.layers) == {call.name for call in calls}
    covered = {where for where, module in network.named_modules() if backprop.is_covered(module)}
    assert set(found.layers) == covered
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [getattr(module, "inplace", None) for module in network.modules()] == in_place
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_wrong_formula_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slide's factor, put in on purpose, is off by B / 1."""
    network = MLP((1, 2, 2), [3])
    images, labels = torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 2, 3])
    monkeypatch.setattr(backprop, "error_of_cross_entropy", lambda z, y: z.softmax(1) - F.one_hot(y, 10))
    found, _ = backprop.compare(network, images, labels, torch.float64)
    assert max(found.layers.values()) < 1e-12
    assert found.chain == pytest.approx({"hidden.0": 3.0, "fc": 3.0})


def test_a_step_by_the_formulas_is_a_step_of_sgd() -> None:
    torch.manual_seed(0)
    network = MLP((1, 4, 4), [6, 5]).double()
    twin = copy.deepcopy(network)
    images, labels = torch.randn(8, 1, 4, 4, dtype=torch.float64), torch.randint(10, (8,))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3)
    for _ in range(3):
        with torch.no_grad():
            backprop.manual_step(network, images, labels, lr=0.3)
        optimizer.zero_grad()
        F.cross_entropy(twin(images), labels).backward()
        optimizer.step()
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_spectra() -> None:
    """Class means alone: all energy in C - 1 directions and between classes; noise alone: almost none."""
    labels = torch.arange(3).repeat(100)
    means = torch.eye(3)[labels] * 2
    found = backprop.spectrum(means, labels)
    assert (found["top"], found["between"], found["rank"]) == pytest.approx((1, 1, 2))
    assert found["norm"] == pytest.approx(2)
    noise = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    found = backprop.spectrum(noise, labels)
    assert found["between"] < 0.02
    values = np.linalg.svd(noise.double().numpy() - noise.double().mean(0).numpy(), compute_uv=False) ** 2
    assert found["top"] == pytest.approx(values[:2].sum() / values.sum())
    assert found["rank"] == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert backprop.spectrum(torch.ones(300, 4), labels)["top"] == 0


def test_on_a_finished_run(bench: Bench, tmp_path: Path) -> None:
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", "digits/mlp", "--seed_everything", "0", *quiet]) == 0
    (folder,) = (tmp_path / "runs/digits/mlp").glob("*/seed-0")
    status, out, err = bench("analyze", "backprop", "--run", folder, "--smoke")
    assert status == 0, out + err
    record = json.loads((folder / "phenomena/backprop/smoke/seed-0/backprop.json").read_text())
    assert set(record["numbers"]["spectra"]["trained"]) == {"h0", "δ1", "D1", "h1", "δ2"}
    status, _, err = bench("analyze", "backprop", "--images", "1")
    assert (status, err) == (2, "error: --images (=1) must be at least 2.\n")


def test_a_network_that_ends_in_no_linear_layer_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LogSoftmax(1))
    batch = torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    message = r"Sequential must end in a linear layer for the lecture's formulas, it ends in another: use another netw"
    with pytest.raises(AnalysisError, match=message):
        backprop.compare(network, *batch, torch.float32)
    with pytest.raises(AnalysisError, match=message):
        backprop.objects(network, *batch)
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


def test_errors_of_objects_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    network, images, labels = MLP((1, 4, 4), [6, 5]), torch.randn(8, 1, 4, 4), torch.randint(10, (8,))
    found = backprop.objects(network, images, labels)
    z = network.hidden[0](images.flatten(1)).detach().requires_grad_(True)
    loss = F.cross_entropy(network.fc(network.hidden[2](z.relu()).relu()), labels)
    torch.testing.assert_close(found["δ1"], torch.autograd.grad(loss, z)[0])
    torch.testing.assert_close(found["h1"], z.detach().relu())
    torch.testing.assert_close(found["D1"], (z > 0).float())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_a_run_is_watched_and_goes_on_as_if_it_were_not(tmp_path: Path) -> None:
    """The last row of metrics.csv holds the spectra of the last checkpoint's network, and weights are those of a run
    without."""
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    watch = ["--trainer.callbacks+=benchmarks.phenomena.backprop.Spectra", "--trainer.callbacks.images=200"]
    for runs, more in (("without", []), ("with", watch)):
        arguments = ["--config", "digits/mlp", "--seed_everything", "0", "--runs", str(tmp_path / runs), *quiet]
        assert main(["fit", *arguments, "--trainer.max_epochs", "2", *more]) == 0
    (plain,), (watched,) = (tmp_path.glob(f"{runs}/digits/mlp/*/seed-0") for runs in ("without", "with"))
    assert plain.parent.name != watched.parent.name  # another run, as its recipe says more
    one, other = (load_run(str(folder)) for folder in (plain, watched))
    assert all(
        torch.equal(weight, other.network.state_dict()[name]) for name, weight in one.network.state_dict().items()
    )
    rows = read_rows(watched / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert not any(name.startswith("watch/") for name in read_rows(plain / "metrics.csv")[0])
    images, labels = other.images("train", 200, seed=0)
    found = backprop.objects(other.network, images, labels)
    assert set(found) == {"h0", "δ1", "D1", "h1", "δ2"}
    for name in ("δ1", "D1", "h1", "δ2"):
        for key, value in backprop.spectrum(found[name], labels).items():
            assert float(rows[1][f"watch/{name.replace('δ', 'delta')}/{key}"]) == pytest.approx(value, rel=1e-5)
    assert "watch/h0/top" not in rows[1]


def test_spectra_of_one_image_are_refused() -> None:
    with pytest.raises(AnalysisError, match=r"images \(=1\) of Spectra must be at least 2: use 1000\."):
        backprop.Spectra(images=1)


def test_the_committed_result_is_of_mnist_and_holds() -> None:
    record = json.loads((RESULTS / "backprop.json").read_text())
    assert record["preset"] == "cpu"
    assert record["numbers"]["accuracy"] >= 97
    assert all(check["held"] for check in record["checks"])
