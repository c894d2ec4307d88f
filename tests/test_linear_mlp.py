"""The linear classifier and the fully connected networks: counts, forward passes by hand, switches."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.linear import Linear
from models.mlp import MLP

MNIST = (1, 28, 28)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_linear_classifier_has_the_parameters_of_a_matrix_and_a_bias() -> None:
    assert parameters(Linear(MNIST)) == 28 * 28 * 10 + 10 == 7_850
    assert parameters(Linear((3, 32, 32), num_classes=100)) == 3072 * 100 + 100


@pytest.mark.parametrize(
    ("hidden", "count"),
    [([300], 238_510), ([128], 101_770), ([1000], 795_010), ([300, 100], 266_610), ([500, 150], 469_160)],
)
def test_the_papers_networks_count_one_weight_for_each_pair_of_units(hidden: list[int], count: int) -> None:
    pairs = itertools.pairwise([784, *hidden, 10])
    assert parameters(MLP(MNIST, hidden)) == sum((below + 1) * above for below, above in pairs) == count


def test_linear_by_hand() -> None:
    network = Linear((1, 2, 2), num_classes=2)
    network.load_state_dict(
        {"fc.weight": torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]), "fc.bias": torch.tensor([0.5, -1.0])}
    )
    images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[-1.0, 0.0], [0.0, 1.0]]]])
    assert network(images).tolist() == [[1.5, 1 + 4 + 9 + 16 - 1.0], [-0.5, -1 + 4 - 1.0]]


def test_channels_of_colour_images_are_pixels_like_any_other() -> None:
    network = Linear((3, 1, 2), num_classes=2)
    network.load_state_dict({"fc.weight": torch.arange(12.0).reshape(2, 6), "fc.bias": torch.zeros(2)})
    image = torch.tensor([[[[1.0, 10.0]], [[100.0, 1e3]], [[1e4, 1e5]]]])
    assert network(image).tolist() == [[543210.0, 1209876.0]]  # the second row carries: 11 x 1e5 + 10 x 1e4 + 9876


@pytest.mark.parametrize(
    ("activation", "squash"),
    [
        ("relu", lambda x: max(x, 0.0)),
        ("tanh", math.tanh),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x))),
    ],
)
def test_one_hidden_layer_by_hand(activation: Any, squash: Any) -> None:
    network = MLP((1, 1, 2), [2], activation=activation, num_classes=2)
    network.load_state_dict(
        {
            "hidden.0.weight": torch.tensor([[1.0, 1.0], [1.0, -1.0]]),
            "hidden.0.bias": torch.tensor([0.0, 0.5]),
            "fc.weight": torch.tensor([[2.0, 0.0], [1.0, 1.0]]),
            "fc.bias": torch.tensor([0.0, 1.0]),
        }
    )
    above, below = squash(0.25 + 1.0), squash(0.25 - 1.0 + 0.5)
    found = network(torch.tensor([[[[0.25, 1.0]]]]))
    assert found[0].tolist() == pytest.approx([2 * above, above + below + 1.0])


@pytest.mark.parametrize("hidden", [[], [0], [300, -1]])
def test_hidden_layers_without_units_are_refused(hidden: list[int]) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        MLP(MNIST, hidden)
    assert str(refusal.value) == (
        f"hidden (={hidden}) must name one layer or more of at least 1 unit; models.linear has none."
    )


@pytest.mark.parametrize("activation", ["scaled_tanh", "tanh", "relu"])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_switches_put_their_layer_where_they_say(activation: Any, norm: Any, dropout: float) -> None:
    network = MLP((1, 4, 4), [8, 6], activation=activation, norm=norm, dropout=dropout)
    layer = [
        "Linear",
        *["BatchNorm1d"] * (norm == "batch"),
        {"scaled_tanh": "ScaledTanh", "tanh": "Tanh", "relu": "ReLU"}[activation],
    ]
    layer += ["Dropout"] * (dropout > 0)
    assert [type(module).__name__ for module in network.hidden] == layer * 2
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {dropout} - {0.0}

    images = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    network.loss(network(images), torch.arange(16) % 10).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_dropout_acts_in_training_only() -> None:
    network = MLP((1, 4, 4), [64], dropout=0.5)
    image = torch.ones(1, 1, 4, 4)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_silenced_layers_pass_the_layer_below_if_and_only_if_there_are_skips(norm: Any, dropout: float) -> None:
    """8, 8, 6, 6: the second and the fourth hidden layer stand on one of their own width; the pixels are no layer."""
    switches: dict[str, Any] = {"image_shape": (1, 2, 4), "hidden": [8, 8, 6, 6], "norm": norm, "dropout": dropout}
    network, plain = MLP(skip=True, **switches), MLP(**switches)
    plain.load_state_dict(network.state_dict())  # skips have no parameters
    linear = [layer for layer in network.hidden if isinstance(layer, nn.Linear)]
    for layer in (linear[1], linear[3]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    network.eval()
    images = torch.randn(5, 1, 2, 4, generator=torch.Generator().manual_seed(0))

    def standing(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
        out = layer(x)
        return torch.relu(out / math.sqrt(1 + 1e-5) if norm == "batch" else out)

    expected = network.fc(standing(standing(images.flatten(1), linear[0]), linear[2]))  # ReLU twice is ReLU once
    torch.testing.assert_close(network(images), expected)

    plain.load_state_dict(network.state_dict())
    plain.eval()
    torch.testing.assert_close(plain(images), network.fc.bias.expand(5, -1))


def test_a_skip_by_hand() -> None:
    network = MLP((1, 1, 1), [1, 1], activation="tanh", skip=True, num_classes=2)
    weights = {"hidden.0": (2.0, 0.5), "hidden.2": (-3.0, 0.25)}
    state = {f"{name}.weight": torch.tensor([[w]]) for name, (w, _) in weights.items()}
    state |= {f"{name}.bias": torch.tensor([b]) for name, (_, b) in weights.items()}
    state |= {"fc.weight": torch.tensor([[1.0], [2.0]]), "fc.bias": torch.tensor([0.0, 1.0])}
    network.load_state_dict(state)
    first = math.tanh(2.0 * 0.3 + 0.5)
    second = math.tanh(-3.0 * first + 0.25 + first)
    assert network(torch.tensor([[[[0.3]]]]))[0].tolist() == pytest.approx([second, 2 * second + 1])


@pytest.mark.parametrize("hidden", [[300], [300, 100], [8, 6, 8]])
def test_skips_that_join_nothing_are_refused(hidden: list[int]) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        MLP((1, 4, 2), hidden, skip=True)
    assert str(refusal.value) == (
        f"skip (=True) joins neighbouring hidden layers of equal width, and hidden (={hidden}) has none: make two "
        "neighbours equal, or set skip to False."
    )


@pytest.mark.parametrize("make", [lambda **c: Linear((1, 2, 2), **c), lambda **c: MLP((1, 2, 2), [3], **c)])
def test_weights_can_be_read_from_a_file(make: Any, tmp_path: Path) -> None:
    saved = make()
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    read = make(weights=str(tmp_path / "weights.pt"))
    read.load_weights()
    assert all(torch.equal(w, read.state_dict()[name]) for name, w in saved.state_dict().items())
