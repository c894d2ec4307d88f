"""Highway networks: the paper's count, layers by hand, gates at the start, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.highway import Highway, HighwayNet

FITNET_4 = [[32, 32, 32, 48, 48], [80] * 6, [128] * 6]


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_highway_b_has_the_papers_layers_and_about_its_parameters() -> None:
    """Table 2: 19 layers, about 2.3 million parameters. A convolution per layer, a gate where maps are kept."""
    network = HighwayNet(FITNET_4)
    maps, by_hand, layers = 3, 0, 0
    for width in [width for stage in FITNET_4 for width in stage]:
        by_hand += (2 if width == maps else 1) * (9 * maps + 1) * width
        maps, layers = width, layers + 1
    by_hand += (128 + 1) * 500 + (500 + 1) * 10
    assert sum(parameter.numel() for parameter in network.parameters()) == by_hand == 2_342_406
    assert round(by_hand / 1e6, 1) == 2.3
    assert layers + 2 == 19


@pytest.mark.parametrize("skip", [True, False])
def test_a_highway_layer_is_equation_3(skip: bool) -> None:
    torch.manual_seed(0)
    unit = Highway(4, "none", skip)
    x = random_images(2, 4, 5, 5)
    convolution = unit.layer[0]
    assert isinstance(convolution, nn.Conv2d)
    gate = 1 / (1 + (-F.conv2d(x, unit.gate.weight, unit.gate.bias, padding=1)).exp())
    state = F.conv2d(x, convolution.weight, convolution.bias, padding=1).clamp(min=0)
    assert torch.allclose(unit(x), state * gate + (x * (1 - gate) if skip else 0), atol=1e-6)


def test_shut_gates_pass_the_input_and_open_ones_the_layer() -> None:
    unit = Highway(4, "none", skip=True)
    nn.init.zeros_(unit.gate.weight)
    x = random_images(2, 4, 5, 5)
    nn.init.constant_(unit.gate.bias, -100.0)  # type: ignore[arg-type]
    assert torch.allclose(unit(x), x)
    nn.init.constant_(unit.gate.bias, 100.0)  # type: ignore[arg-type]
    assert torch.allclose(unit(x), unit.layer(x))


def test_gates_start_nearly_shut() -> None:
    network = HighwayNet([[4, 4], [4, 8, 8]], gate_bias=-3.0)
    gates = [layer.gate for layer in network.modules() if isinstance(layer, Highway)]
    assert len(gates) == 3
    assert all((gate.bias == -3.0).all() for gate in gates)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": [[4], []]}, "stages (=[[4], []]) must hold one stage or more of one layer or more, and every width "
         "and hidden (=500) must be at least 1: [[16, 16], [32, 32]] and 500."),
        ({"stages": [[4]], "norm": "lrn"}, "norm (=lrn) must be one of none, batch."),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        HighwayNet(**settings)
    assert str(refusal.value) == message


def test_images_that_are_pooled_away_are_refused() -> None:
    network = HighwayNet([[4], [4], [4]], hidden=5).eval()
    assert network(random_images(1, 3, 4, 4)).shape == (1, 10)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        network(random_images(1, 3, 32, 3))
    assert str(refusal.value) == (
        "this highway network halves the image 2 times and needs at least 4 x 4 pixels, got 32 x 3: use fewer stages."
    )
