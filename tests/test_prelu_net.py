"""PReLU-nets: the counts of models A, B and C, the pyramid and the dense form by hand, first weights, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.prelu_net import PReLUNet, initialise

SMALL: dict[str, Any] = {"widths": [8, 12, 12], "depth": 2, "hidden": [10], "num_classes": 5}


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("widths", "depth", "count", "gmac"),
    [
        ([256, 512, 512], 5, 178_032_072, 1.9e10),
        ([256, 512, 512], 6, 183_343_048, 2.3e10),
        ([384, 768, 896], 6, 330_623_944, 5.3e10),
    ],
)
def test_models_of_table_3(widths: list[int], depth: int, count: int, gmac: float) -> None:
    """Weights, a bias and a slope for every map or unit; multiply-accumulates as the paper has them (from memory).

    Others count 330.62 million parameters of model C; the paper says none.
    """
    maps, by_hand = 96, (7 * 7 * 3 + 2) * 96
    for width in widths:
        by_hand += (9 * maps + 2) * width + (depth - 1) * (9 * width + 2) * width
        maps = width
    by_hand += (63 * maps + 2) * 4096 + (4096 + 2) * 4096 + (4096 + 1) * 1000
    with torch.device("meta"):
        network = PReLUNet(widths, depth).eval()
        with FlopCounterMode(display=False) as counted:
            assert network(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == by_hand == count
    assert counted.get_total_flops() / 2 == pytest.approx(gmac, rel=0.02)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == (19 if depth == 5 else 22)


def test_the_pyramid_takes_maxima_of_rows_and_columns() -> None:
    network = PReLUNet(**{**SMALL, "pyramid": [2, 1]})
    maps = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert network.pooled(maps).tolist() == [[5.0, 7.0, 13.0, 15.0, 15.0]]


def test_the_dense_form_is_the_head_of_every_window() -> None:
    torch.manual_seed(0)
    network = PReLUNet(**SMALL).eval()
    with torch.no_grad():
        image = random_images(2, 3, 224, 224)
        assert torch.allclose(network.logit_maps(image)[:, :, 0, 0], network(image), atol=1e-6)
        image = random_images(1, 3, 256, 272)
        maps, dense = network.maps(image), network.logit_maps(image)
        assert dense.shape == (1, 5, 3, 4)
        for i, j in ((0, 0), (1, 2), (2, 3)):
            window = maps[:, :, i : i + 14, j : j + 14]
            assert torch.allclose(dense[:, :, i, j], network.classifier(network.pooled(window)), atol=1e-6)
        assert network.logit_maps(random_images(1, 3, 64, 256)).shape == (1, 5, 1, 3)


@pytest.mark.parametrize("activation", ["prelu", "relu"])
def test_first_weights_keep_the_variance(activation: Any) -> None:
    """Section 2.2: through thirty layers the mean square stays of order one; N(0, 0.01) would leave nothing of it."""
    torch.manual_seed(0)
    x = random_images(64, 200)
    for _ in range(30):
        layer = nn.Linear(200, 200)
        initialise(layer, activation)
        x = layer(x)
        x = nn.functional.leaky_relu(x, 0.25 if activation == "prelu" else 0.0)
    assert 0.1 < x.square().mean().item() < 5


def test_slopes_start_at_a_quarter_and_are_not_decayed() -> None:
    network = PReLUNet(**SMALL)
    slopes = {layer.weight for layer in network.modules() if isinstance(layer, nn.PReLU)}
    assert len(slopes) == 1 + 3 * 2 + 1
    assert all((slope == 0.25).all() for slope in slopes)
    decayed, spared = network.parameter_groups()
    assert set(spared["params"]) == slopes
    assert spared["weight_decay"] == 0.0
    assert not slopes & set(decayed["params"])
    assert len(list(PReLUNet(**SMALL, activation="relu").parameter_groups())) == 1


@pytest.mark.parametrize(("depth", "places"), [(2, [(0, 1)]), (3, [(1, 2)]), (4, [(0, 1), (2, 3)])])
def test_pairs_of_convolutions_have_skips_and_odd_ones_not(depth: int, places: list[tuple[int, int]]) -> None:
    network = PReLUNet(**{**SMALL, "depth": depth, "widths": [96, 96, 96]}, skip=True)
    convolutions = [index for index, layer in enumerate(network.features) if isinstance(layer, nn.Conv2d)][1:]
    expected = {
        convolutions[stage * depth + first]: convolutions[stage * depth + second]
        for stage in range(3)
        for first, second in places
    }
    assert network.skips == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [8, 8]},
         "widths (=[8, 8]) must be three numbers of maps, 1 or more each: 256, 512, 512 in model A."),
        ({"depth": 0}, "depth (=0) must be at least 1 convolution in every stage: 5 in model A, 6 in B and C."),
        ({"pyramid": [0]}, "pyramid (=[0]) must have one level or more, each of 1 bin or more: 7, 3, 2, 1."),
        ({"hidden": [0]}, "hidden (=[0]) must be at least 1 unit in each hidden layer: 4096 in the paper."),
        ({"widths": [8, 12, 12], "depth": 2, "skip": True},
         "skip (=True) pads new maps with zeros, so widths (=[96, 8, 12, 12]) must not shrink."),
        ({"activation": "elu"}, "activation (=elu) must be one of prelu, relu."),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal, torch.device("meta"):  # noqa: PT011 - the whole message is compared
        PReLUNet(**settings)
    assert str(refusal.value) == message


def test_images_that_are_pooled_away_are_refused() -> None:
    network = PReLUNet(**SMALL).eval()
    assert network(random_images(1, 3, 16, 16)).shape == (1, 5)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        network(random_images(1, 3, 32, 15))
    assert str(refusal.value) == (
        "PReLU-net needs at least 16 x 16 pixels, got 32 x 15: set data.init_args.image_size to 224, as in the paper."
    )


def test_the_initial_deviation_is_equation_15() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 256, 3)
    initialise(layer, "prelu")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (1.0625 * 576)), rel=0.01)
    assert not layer.bias.any()  # type: ignore[union-attr]
