"""The linear classifier and the fully connected networks: counts, forward passes by hand, switches."""

from __future__ import annotations

import itertools
import math
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
    ("hidden", "count"), [([300], 238_510), ([1000], 795_010), ([300, 100], 266_610), ([500, 150], 469_160)]
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


@pytest.mark.parametrize(("activation", "squash"), [("relu", lambda x: max(x, 0.0)), ("tanh", math.tanh)])
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


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_switches_put_their_layer_where_they_say(activation: Any, norm: Any, dropout: float) -> None:
    network = MLP((1, 4, 4), [8, 6], activation=activation, norm=norm, dropout=dropout)
    layer = ["Linear", *["BatchNorm1d"] * (norm == "batch"), {"tanh": "Tanh", "relu": "ReLU"}[activation]]
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
