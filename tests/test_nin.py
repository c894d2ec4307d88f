"""Network in Network: the file's layers by hand, its count, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nin import NiN

SMALL = [6, 5, 4, 6, 6, 6, 6, 6]


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_parameters_by_hand() -> None:
    """(kernel, maps seen, maps made) of the nine convolutions of the authors' file, a weight each and a bias a map."""
    layers = [(5, 3, 192), (1, 192, 160), (1, 160, 96), (5, 96, 192), (1, 192, 192), (1, 192, 192), (3, 192, 192)]
    layers += [(1, 192, 192), (1, 192, 10)]
    by_hand = sum((size**2 * seen + 1) * made for size, seen, made in layers)
    assert sum(parameter.numel() for parameter in NiN().parameters()) == by_hand == 966_986


def test_logits_are_the_layers_one_after_another() -> None:
    torch.manual_seed(0)
    network = NiN(SMALL, num_classes=3).eval()
    first, second, third, *others = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    x = random_images(2, 3, 32, 32)
    y = F.relu(F.conv2d(x, first.weight, first.bias, padding=2))
    y = F.relu(F.conv2d(F.relu(F.conv2d(y, second.weight, second.bias)), third.weight, third.bias))
    y = F.max_pool2d(F.pad(y, (0, 1, 0, 1), value=-torch.inf), 3, 2)  # windows may reach over the edge: 32 to 16
    assert y.shape == (2, 4, 16, 16)
    for layer, padding in zip(others[:3], (2, 0, 0), strict=True):
        y = F.relu(F.conv2d(y, layer.weight, layer.bias, padding=padding))
    counted = F.avg_pool2d(F.pad(torch.ones_like(y), (0, 1, 0, 1)), 3, 2)  # averages of the pixels that are there
    y = F.avg_pool2d(F.pad(y, (0, 1, 0, 1)), 3, 2) / counted
    for layer, padding in zip(others[3:], (1, 0, 0), strict=True):
        y = F.relu(F.conv2d(y, layer.weight, layer.bias, padding=padding))
    assert y.shape == (2, 3, 8, 8)
    assert torch.allclose(network(x), y.mean((2, 3)), atol=1e-6)


def test_skips_lie_where_no_map_is_lost() -> None:
    network = NiN(skip=True)
    convolutions = [index for index, layer in enumerate(network.features) if isinstance(layer, nn.Conv2d)]
    assert sorted(network.skips) == [convolutions[place - 1] for place in (1, 4, 5, 6, 7, 8)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [8, 8]}, "widths (=[8, 8]) must be eight numbers of maps, 1 or more each: three mlpconv layers of "
         "three convolutions, the last of which has one map per class."),
        ({"norm": "lrn"}, "norm (=lrn) must be one of none, batch."),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        NiN(**settings)
    assert str(refusal.value) == message


def test_images_that_are_pooled_away_are_refused() -> None:
    network = NiN(SMALL, num_classes=3).eval()
    assert network(random_images(1, 3, 4, 4)).shape == (1, 3)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        network(random_images(1, 3, 32, 3))
    assert str(refusal.value) == "NiN needs at least 4 x 4 pixels, got 32 x 3: use larger images."
