"""LeNet of 1989 against its paper: parameters, connections and units; every unit worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import lenet1989
from models.lenet import ScaledTanh
from models.lenet1989 import H2_TABLE, LeNet1989, UnitBiasConv2d

# The paper's section on the network, layer by layer: units, connections, parameters.
COUNTS = {"h1": (768, 19_968, 1_068), "h2": (192, 38_592, 2_592), "h3": (30, 5_790, 5_790), "output": (10, 310, 310)}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def random_images(images: int) -> Tensor:
    return torch.rand(images, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_units_connections_and_parameters_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every parameter, input and background 1, a unit's value is the number of its connections."""
    network = LeNet1989()
    assert {name: parameters(getattr(network, name)) for name in COUNTS} == {
        name: c for name, (_, _, c) in COUNTS.items()
    }
    assert parameters(network) == 9_760
    monkeypatch.setattr(lenet1989, "BACKGROUND", 1.0)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    x = torch.ones(1, 1, 16, 16)
    units, connections = 256, {}
    for name in COUNTS:
        out = getattr(network, name)(x.flatten(1) if name in ("h3", "output") else x)
        assert out.numel() == COUNTS[name][0]
        connections[name] = int(out.sum().item())
        units += out.numel()
        x = torch.ones_like(out)
    assert connections == {name: count for name, (_, count, _) in COUNTS.items()}
    assert units == 1_256
    assert sum(connections.values()) == 64_660


def test_every_plane_of_h2_sees_eight_planes_of_h1() -> None:
    assert [len(set(row)) for row in H2_TABLE] == [8] * 12
    assert [sum(seen in row for row in H2_TABLE) for seen in range(12)] == [8] * 12
    assert len(set(H2_TABLE)) == 3


def test_a_unit_is_its_window_over_the_planes_it_sees_plus_its_own_bias() -> None:
    torch.manual_seed(0)
    table = ((0, 2), (1, 2), (2, 0))
    layer = UnitBiasConv2d(table, map_size=4).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    padded = torch.full((3, 12, 12), -1.0, dtype=torch.float64)
    padded[:, 2:10, 2:10] = x[0]
    found = layer(x)
    assert found.shape == (1, 3, 4, 4)
    for plane, row in enumerate(table):
        for i in range(4):
            for j in range(4):
                window = padded[list(row), 2 * i : 2 * i + 5, 2 * j : 2 * j + 5]
                expected = (window * layer.weight[plane]).sum() + layer.bias[plane, i, j]
                assert found[0, plane, i, j].item() == pytest.approx(expected.item())


def test_gradients_reach_every_weight_as_those_of_a_dense_convolution() -> None:
    torch.manual_seed(0)
    layer = UnitBiasConv2d(H2_TABLE, map_size=4).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 12, 8, 8, dtype=torch.float64)
    dense = torch.zeros(12, 12, 5, 5, dtype=torch.float64)
    for plane, row in enumerate(H2_TABLE):
        for place, seen in enumerate(row):
            dense[plane, seen] = layer.weight.detach()[plane, place]
    dense.requires_grad_()
    padded = nn.functional.pad(x, (2, 2, 2, 2), value=-1.0)
    expected = nn.functional.conv2d(padded, dense, stride=2) + layer.bias.detach()
    found = layer(x)
    torch.testing.assert_close(found, expected)
    above = torch.randn_like(found)
    found.backward(above)
    expected.backward(above)
    assert dense.grad is not None
    assert layer.weight.grad is not None
    for plane, row in enumerate(H2_TABLE):
        torch.testing.assert_close(layer.weight.grad[plane], dense.grad[plane, list(row)])
    torch.testing.assert_close(layer.bias.grad, above.sum(0))


def test_the_network_is_its_layers_in_order_each_squashed() -> None:
    network, f = LeNet1989(), ScaledTanh()
    layers = (network.h1, f, network.h2, f, nn.Flatten(), network.h3, f, network.output)
    torch.testing.assert_close(network(random_images(2)), nn.Sequential(*layers, f)(random_images(2)))
    network.squash_output = nn.Identity()
    torch.testing.assert_close(network(random_images(2)), nn.Sequential(*layers)(random_images(2)))
    unbounded = LeNet1989(squash_output=False)
    unbounded.load_state_dict(network.state_dict())
    assert torch.equal(unbounded(random_images(2)), network(random_images(2)))


@pytest.mark.parametrize(("init", "power"), [("fan_in", 1.0), ("root_fan_in", 0.5)])
def test_weights_start_uniform_within_2_4_over_fan_in_or_its_root(init: Any, power: float) -> None:
    torch.manual_seed(0)
    network = LeNet1989(init=init, output_bias=-1.0)
    for layer, fan_in in ((network.h1, 25), (network.h2, 200), (network.h3, 192), (network.output, 30)):
        bound = 2.4 / fan_in**power
        assert 0.9 * bound < layer.weight.max() <= bound
        assert -bound <= layer.weight.min() < -0.9 * bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert not any(layer.bias.any() for layer in (network.h1, network.h2, network.h3))
    assert torch.equal(network.output.bias, -torch.ones(10))


def test_silenced_layers_pass_every_fourth_pixel_if_and_only_if_there_are_skips() -> None:
    images = random_images(2).abs()
    network = LeNet1989(skip=True, activation="relu", squash_output=False)
    for layer in (network.h1, network.h2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    seen: list[Tensor] = []
    network.h3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].unflatten(1, (12, 4, 4))))
    network(images)
    torch.testing.assert_close(seen[0][:, :1], images[:, :, ::4, ::4])
    assert not seen[0][:, 1:].any()
    network.skip = False
    network(images)
    assert not seen[1].any()
    plain = LeNet1989(skip=False)
    assert {name: w.shape for name, w in plain.state_dict().items()} == {
        name: w.shape for name, w in network.state_dict().items()
    }


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("activation", ["scaled_tanh", "tanh", "relu"])
def test_every_combination_of_switches_trains(activation: Any, norm: Any, dropout: float, skip: bool) -> None:
    torch.manual_seed(0)
    network = LeNet1989(activation, norm=norm, dropout=dropout, skip=skip, num_classes=7, loss="mse")
    logits = network(random_images(4))
    assert logits.shape == (4, 7)
    network.loss(logits, torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    norms = {"none": 0, "batch": 2 * (12 + 12 + 30)}[norm]
    assert parameters(network) == 9_760 - 3 * 31 + norms
    network.eval()
    assert torch.equal(network(random_images(1)), network(random_images(1)))


def test_batches_of_one_train() -> None:
    network = LeNet1989(loss="mse")
    network.loss(network(random_images(1)), torch.tensor([3])).backward()
    assert network.h1.weight.grad is not None
    assert network.h1.weight.grad.any()


def test_other_sizes_and_dense_evaluation_are_refused() -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        LeNet1989()(torch.zeros(1, 1, 28, 28))
    assert str(refusal.value) == (
        "LeNet of 1989 needs 16 x 16 pixels, got 28 x 28: use the data modules USPS or MNIST1989."
    )
    with pytest.raises(ValueError, match="LeNet1989 has no fully convolutional form"):
        LeNet1989().logit_maps(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ({"init": "fanin"}, "init (=fanin) must be one of fan_in, root_fan_in."),
        ({"activation": "gelu"}, "activation (=gelu) must be one of scaled_tanh, tanh, relu."),
        ({"norm": "layer"}, "norm (=layer) must be one of none, batch."),
    ],
)
def test_switches_in_no_position_are_refused(switch: Any, message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        LeNet1989(**switch)
    assert str(refusal.value) == message


def test_a_checkpoint_holds_the_parameters_and_not_the_tables(tmp_path: Path) -> None:
    saved = LeNet1989()
    assert set(saved.state_dict()) == {name for name, _ in saved.named_parameters()}
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    read = LeNet1989(weights=str(tmp_path / "weights.pt"))
    read.load_weights()
    assert torch.equal(read(random_images(1)), saved(random_images(1)))
