"""LeNet-1, LeNet-4 and LeNet-5 against their papers: parameters, connections, tables; layers worked out by hand."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.lenet import (
    C3_TABLE,
    H3_TABLE,
    LENET4_C3_TABLE,
    LENET4_C5_TABLE,
    LeNet1,
    LeNet4,
    LeNet5,
    ScaledTanh,
    TableConv2d,
    TrainableSubsampling,
)

PAPER: dict[str, Any] = {"c3": "table", "subsampling": "trainable", "activation": "scaled_tanh"}

# LeCun et al. 1998, section II.B, layer by layer: trainable parameters, connections.
COUNTS = {
    "c1": (156, 122_304),
    "s2": (12, 5_880),
    "c3": (1_516, 151_600),
    "s4": (32, 2_000),
    "c5": (48_120, 48_120),
    "f6": (10_164, 10_164),
}

# Table I as it is printed: rows are S2 maps, columns C3 maps.
TABLE_1 = """
    X . . . X X X . . X X X X . X X
    X X . . . X X X . . X X X X . X
    X X X . . . X X X . . X . X X X
    . X X X . . X X X X . . X . X X
    . . X X X . . X X X X . X X . X
    . . . X X X . . X X X X . X X X
"""


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def random_images(images: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(images, 1, height, width, generator=torch.Generator().manual_seed(0))


def test_parameters_are_the_papers_layer_by_layer() -> None:
    network = LeNet5(**PAPER)
    assert {name: parameters(getattr(network, name)) for name in COUNTS} == {
        name: count for name, (count, _) in COUNTS.items()
    }
    assert parameters(network.output) == 84 * 10 + 10
    assert parameters(network) - parameters(network.output) == 60_000
    assert parameters(network) == 60_850


def test_the_modern_form_has_61_706_parameters() -> None:
    assert parameters(LeNet5()) == 61_706


def test_connections_are_the_papers_layer_by_layer() -> None:
    """With every parameter and input 1, each unit's value is the number of its connections, the bias among them."""
    network = LeNet5(**PAPER)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    x = torch.ones(1, 1, 32, 32)
    found = {}
    for name in COUNTS:
        units = getattr(network, name)(x.flatten(1) if name == "f6" else x)
        found[name] = int(units.sum().item())
        x = torch.ones_like(units)
    assert found == {name: count for name, (_, count) in COUNTS.items()}
    assert sum(found.values()) == 340_908 - 84 * 10  # the paper's total without its radial basis units


def test_c3_sees_the_maps_of_table_1() -> None:
    printed = [row.split() for row in TABLE_1.split("\n") if row.strip()]
    assert [[seen in row for row in C3_TABLE] for seen in range(6)] == [
        [cell == "X" for cell in row] for row in printed
    ]


def test_table_1_breaks_the_symmetry_as_the_text_says() -> None:
    """Six maps take 3 contiguous maps, six take 4 contiguous ones, three take 4 others, the last takes all."""
    assert [len(set(row)) for row in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert sum(len(row) for row in C3_TABLE) == 60
    assert [sum(seen in row for row in C3_TABLE) for seen in range(6)] == [10] * 6
    assert len({frozenset(row) for row in C3_TABLE}) == 16  # no two maps see the same

    def contiguous(row: tuple[int, ...]) -> bool:
        return any(set(row) == {(first + step) % 6 for step in range(len(row))} for first in range(6))

    assert [contiguous(row) for row in C3_TABLE] == [True] * 12 + [False] * 3 + [True]


def test_a_table_convolution_is_a_dense_one_with_most_weights_zero() -> None:
    torch.manual_seed(0)
    table = TableConv2d(C3_TABLE, 5).double()
    dense = nn.Conv2d(6, 16, 5).double()
    nn.init.normal_(table.weight)
    nn.init.normal_(table.bias)
    pairs = [(out, seen) for out in range(16) for seen in C3_TABLE[out]]
    with torch.no_grad():
        dense.weight.zero_()
        dense.bias.copy_(table.bias)
        for kernel, (out, seen) in zip(table.weight, pairs, strict=True):
            dense.weight[out, seen] = kernel

    x = torch.randn(2, 6, 14, 14, dtype=torch.float64)
    x_table, x_dense = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = table(x_table), dense(x_dense)
    torch.testing.assert_close(found, expected)
    above = torch.randn_like(expected)
    found.backward(above)
    expected.backward(above)
    torch.testing.assert_close(x_table.grad, x_dense.grad)
    torch.testing.assert_close(table.bias.grad, dense.bias.grad)
    assert table.weight.grad is not None
    assert dense.weight.grad is not None
    for gradient, (out, seen) in zip(table.weight.grad, pairs, strict=True):
        torch.testing.assert_close(gradient, dense.weight.grad[out, seen])


def test_trainable_subsampling_by_hand() -> None:
    layer = TrainableSubsampling(2)
    layer.load_state_dict({"weight": torch.tensor([0.5, -1.0]), "bias": torch.tensor([1.0, 10.0])})
    image = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4).expand(1, 2, 4, 4)
    # sums of the blocks: 1+2+5+6 = 14, 3+4+7+8 = 22, 9+10+13+14 = 46, 11+12+15+16 = 54
    assert layer(image).tolist() == [[[[8.0, 12.0], [24.0, 28.0]], [[-4.0, -12.0], [-36.0, -44.0]]]]


def test_scaled_tanh_passes_through_plus_and_minus_one() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 100.0], dtype=torch.float64)
    expected = torch.tensor([-1.0, 0.0, 1.0, 1.7159], dtype=torch.float64)
    torch.testing.assert_close(ScaledTanh()(x), expected, rtol=0, atol=1e-4)


def test_weights_start_uniform_within_2_4_over_fan_in() -> None:
    torch.manual_seed(0)
    network = LeNet5(**PAPER)
    for layer, fan_in in ((network.c1, 25), (network.c5, 400), (network.f6, 120), (network.output, 84)):
        assert_uniform(layer.weight, 2.4 / fan_in)
    assert isinstance(network.c3, TableConv2d)
    fan_ins = torch.tensor([len(row) * 25 for row in C3_TABLE for _ in row])
    for maps, kernels in ((3, 18), (4, 36), (6, 6)):
        weights = network.c3.weight[fan_ins == maps * 25]
        assert len(weights) == kernels
        assert_uniform(weights, 2.4 / (maps * 25))
    assert_uniform(LeNet5().c3.weight, 2.4 / 150)


def assert_uniform(weights: Tensor, bound: float) -> None:
    """150 values or more that fill [-bound, bound]; a uniform variable's standard deviation is bound / sqrt(3)."""
    assert weights.abs().max() <= bound
    assert weights.max() > 0.9 * bound
    assert weights.min() < -0.9 * bound
    assert weights.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_biases_start_at_zero_and_subsampling_as_the_average() -> None:
    network = LeNet5(**PAPER)
    for layer in (network.c1, network.s2, network.c3, network.s4, network.c5, network.f6, network.output):
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    x = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.s2(x), nn.functional.avg_pool2d(x, 2))


@pytest.mark.parametrize("size", [28, 31, 33, 224])
def test_other_sizes_than_32_are_refused(size: int) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        LeNet5()(torch.zeros(1, 1, size, size))
    assert str(refusal.value) == (
        f"LeNet-5 needs 32 x 32 pixels, got {size} x {size}: set data.init_args.image_size to 32."
    )


def test_the_papers_network_is_its_layers_in_order_each_squashed() -> None:
    network, f = LeNet5(**PAPER), ScaledTanh()
    in_order = nn.Sequential(
        *(network.c1, f, network.s2, f, network.c3, f, network.s4, f, network.c5, f, nn.Flatten(), network.f6, f),
        network.output,
    )
    torch.testing.assert_close(network(random_images(2)), in_order(random_images(2)))


def test_the_modern_network_pools_without_squashing() -> None:
    network, f, pool = LeNet5(), nn.Tanh(), nn.AvgPool2d(2)
    in_order = nn.Sequential(
        *(network.c1, f, pool, network.c3, f, pool, network.c5, f, nn.Flatten(), network.f6, f, network.output)
    )
    torch.testing.assert_close(network(random_images(2)), in_order(random_images(2)))


def test_trainable_subsampling_of_relus_starts_as_average_pooling() -> None:
    """An average of numbers that are not negative passes a ReLU unchanged."""
    trainable = LeNet5(subsampling="trainable", activation="relu")
    average = LeNet5(subsampling="average", activation="relu")
    average.load_state_dict({name: w for name, w in trainable.state_dict().items() if name[:2] not in ("s2", "s4")})
    torch.testing.assert_close(trainable(random_images(2)), average(random_images(2)))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("activation", ["scaled_tanh", "tanh", "relu"])
@pytest.mark.parametrize("subsampling", ["trainable", "average", "max"])
@pytest.mark.parametrize("c3", ["table", "full"])
def test_every_combination_of_switches_trains(
    c3: Any, subsampling: Any, activation: Any, norm: Any, dropout: float, skip: bool
) -> None:
    torch.manual_seed(0)
    network = LeNet5(c3, subsampling, activation, norm, dropout, skip, num_classes=7)
    logits = network(random_images(4))
    assert logits.shape == (4, 7)
    network.loss(logits, torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name

    count = 850 - 3 * 85 + 156 + 48_120 + 10_164
    count += {"table": 1_516, "full": 2_416}[c3] + {"trainable": 12 + 32, "average": 0, "max": 0}[subsampling]
    count += {"none": 0, "batch": 2 * (6 + 16 + 120 + 84)}[norm]
    assert parameters(network) == count


def test_dropout_acts_in_training_only() -> None:
    network = LeNet5(dropout=0.5)
    assert not torch.equal(network(random_images(1)), network(random_images(1)))
    network.eval()
    assert torch.equal(network(random_images(1)), network(random_images(1)))


def test_batch_normalisation_stands_before_the_activation() -> None:
    """Then what is squashed has mean 0 and variance 1 in every map, however large the weights."""
    torch.manual_seed(0)
    network = LeNet5(norm="batch")
    for layer in (network.c1, network.c3, network.c5, network.f6):
        layer.weight.data *= 100  # so large that the norm's epsilon does not show
    squashed: list[Tensor] = []
    network.squash.register_forward_pre_hook(lambda _, inputs: squashed.append(inputs[0].detach()))
    network(random_images(16))
    assert [x.shape[1] for x in squashed] == [6, 16, 120, 84]
    for x in squashed:
        values = x.transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), rtol=0, atol=1e-4)
        torch.testing.assert_close(values.var(1, correction=0), torch.ones(len(values)), rtol=0, atol=1e-3)


def test_a_checkpoint_holds_the_parameters_and_not_the_table() -> None:
    first, second = LeNet5(**PAPER), LeNet5(**PAPER)
    assert set(first.state_dict()) == {name for name, _ in first.named_parameters()}
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(random_images(1)), second(random_images(1)))


def test_the_weights_of_a_seed_are_those_of_the_committed_results() -> None:
    """Nothing but a change of torch's generator may change them: mnist/lenet5 was measured from these."""
    torch.manual_seed(0)
    digest = hashlib.sha256()
    for name, weights in LeNet5(**PAPER).state_dict().items():
        digest.update(name.encode())
        digest.update(weights.numpy().tobytes())
    assert digest.hexdigest()[:16] == "ae7b41c203ade9f6"


# Identity paths and the fully convolutional form ----------------------------------------------------------------------


def silence(network: nn.Module) -> None:
    """No convolution lets anything through."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | TableConv2d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(
    ("make", "size"), [(LeNet1, 28), (LeNet4, 32), (LeNet5, 32)], ids=["LeNet1", "LeNet4", "LeNet5"]
)
def test_silenced_layers_pass_the_cropped_image_if_and_only_if_there_are_skips(make: Any, size: int, norm: Any) -> None:
    """Two pixels of border for each convolution, average pooling in between, ReLU of what is positive anyway."""
    images = random_images(3, size, size).abs()
    network = make(skip=True, subsampling="average", activation="relu", norm=norm)
    silence(network)
    pool = nn.functional.avg_pool2d
    expected = pool(images[:, :, 2:-2, 2:-2], 2)[:, :, 2:-2, 2:-2]  # to H2 or S2, and once more cropped
    expected = pool(expected, 2)  # H4 or S4
    if size == 32:
        expected = expected[:, :, 2:3, 2:3]  # C5 sees 5 x 5 pixels around one
    found = network.features(images)
    if isinstance(network, LeNet4):
        torch.testing.assert_close(found[:, :2], expected.expand(-1, 2, -1, -1))  # the pair of maps
        assert not found[:, 2:].any()
    else:
        torch.testing.assert_close(found[:, :1], expected)
        assert not found[:, 1:].any()

    plain = make(skip=False, subsampling="average", activation="relu", norm=norm)
    plain.load_state_dict(network.state_dict())
    assert not plain.features(images).any()


@pytest.mark.parametrize("make", [LeNet1, LeNet4, LeNet5])
def test_skips_have_no_parameters_and_change_no_initial_weight(make: Any) -> None:
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    skipping = make(skip=True)
    assert plain.state_dict().keys() == skipping.state_dict().keys()
    assert all(torch.equal(w, skipping.state_dict()[name]) for name, w in plain.state_dict().items())
    size = 28 if make is LeNet1 else 32
    assert not torch.equal(plain(random_images(1, size, size)), skipping(random_images(1, size, size)))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(("make", "size"), [(LeNet1, 28), (LeNet4, 32), (LeNet5, 32)])
def test_logit_maps_are_the_network_at_every_fourth_pixel(make: Any, size: int, norm: Any, skip: bool) -> None:
    torch.manual_seed(0)
    network = make(norm=norm, skip=skip, num_classes=7)
    network(random_images(8, size, size))  # gives the norms something to remember
    network.eval()
    images = random_images(2, size + 9, size + 4)  # 9: three positions, and a pixel that none of them sees
    maps = network.logit_maps(images)
    assert maps.shape == (2, 7, 3, 2)
    for row in range(3):
        for column in range(2):
            window = images[:, :, 4 * row : 4 * row + size, 4 * column : 4 * column + size]
            torch.testing.assert_close(maps[:, :, row, column], network(window), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "name", "size"), [(LeNet1, "LeNet-1", 28), (LeNet4, "LeNet-4", 32), (LeNet5, "LeNet-5", 32)]
)
def test_images_of_another_size_are_refused_by_name(make: Any, name: str, size: int) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        make()(torch.zeros(1, 1, size, size + 1))
    assert str(refusal.value) == (
        f"{name} needs {size} x {size} pixels, got {size} x {size + 1}: set data.init_args.image_size to {size}."
    )
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        make().logit_maps(torch.zeros(1, 1, size - 1, size + 1))
    assert str(refusal.value) == (
        f"{name} needs {size} x {size} pixels or more, got {size - 1} x {size + 1}: use larger images."
    )


# LeNet-1 --------------------------------------------------------------------------------------------------------------

# LeCun et al. 1990, Table 1 as it is printed: rows are H2 maps, columns H3 maps.
TABLE_1_OF_1990 = """
    X X X . X X . . . . . .
    . X X X X X . . . . . .
    . . . . . . X X X . X X
    . . . . . . . X X X X X
"""


def count_connections(network: nn.Module, layers: list[str], size: int) -> dict[str, int]:
    """With every parameter and input 1, each unit's value is the number of its connections, the bias among them."""
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    x, found = torch.ones(1, 1, size, size), {}
    for name in layers:
        if isinstance(network, LeNet4) and name == "s2":
            x = x.repeat_interleave(2, dim=1)
        units = getattr(network, name)(x.flatten(1) if name == "output" else x)
        found[name] = int(units.sum().item())
        x = torch.ones_like(units)
    return found


def test_lenet_1_has_the_papers_parameters_and_connections() -> None:
    network = LeNet1()
    assert parameters(network) == 2_578
    found = count_connections(network, ["h1", "h2", "h3", "h4", "output"], 28)
    assert found == {"h1": 59_904, "h2": 2_880, "h3": 32_768, "h4": 960, "output": 1_930}
    assert sum(found.values()) == 98_442
    assert parameters(LeNet1(h3="full")) == 2_578 + 28 * 25


def test_h3_sees_the_maps_of_table_1_of_1990() -> None:
    printed = [row.split() for row in TABLE_1_OF_1990.split("\n") if row.strip()]
    assert [[seen in row for row in H3_TABLE] for seen in range(4)] == [
        [cell == "X" for cell in row] for row in printed
    ]


def test_lenet_1_is_its_layers_in_order_each_squashed() -> None:
    network, f = LeNet1(), ScaledTanh()
    in_order = nn.Sequential(
        *(network.h1, f, network.h2, f, network.h3, f, network.h4, f, nn.Flatten(), network.output)
    )
    torch.testing.assert_close(network(random_images(2, 28, 28)), in_order(random_images(2, 28, 28)))


# LeNet-4 --------------------------------------------------------------------------------------------------------------


def test_lenet_4_has_about_the_papers_parameters_and_connections() -> None:
    """Section III.C: about 260 000 connections, and about 17 000 free parameters."""
    network = LeNet4()
    assert parameters(network) == 16_998
    found = count_connections(network, ["c1", "s2", "c3", "s4", "c5", "output"], 32)
    assert sum(found.values()) == 258_306
    assert round(parameters(network), -3) == 17_000
    assert round(sum(found.values()), -4) == 260_000
    assert parameters(LeNet4(c5="full")) == 16_998 - 560 * 25 + 120 * 16 * 25
    assert parameters(LeNet4(c3="full")) == 16_998 + (128 - 60) * 25


def test_tables_of_lenet_4_treat_maps_alike() -> None:
    """No two C3 maps see the same S2 maps, no map twice, and every map is seen about equally often."""
    assert len(LENET4_C3_TABLE) == 16
    assert len({frozenset(row) for row in LENET4_C3_TABLE}) == 16
    assert all(len(set(row)) == len(row) for row in LENET4_C3_TABLE)
    assert {sum(seen in row for row in LENET4_C3_TABLE) for seen in range(8)} <= {7, 8}
    assert len(LENET4_C5_TABLE) == 120
    assert all(len(set(row)) == len(row) for row in LENET4_C5_TABLE)
    assert all(32 <= sum(seen in row for row in LENET4_C5_TABLE) <= 38 for seen in range(16))  # of 35 on average


def test_lenet_4_is_its_layers_in_order_each_squashed() -> None:
    """S2's maps 2k and 2k + 1 are the pair of C1's map k."""
    network, f = LeNet4(), ScaledTanh()
    pairs = network.c1(random_images(2))[:, [0, 0, 1, 1, 2, 2, 3, 3]]
    in_order = nn.Sequential(
        *(f, network.s2, f, network.c3, f, network.s4, f, network.c5, f, nn.Flatten(), network.output)
    )
    torch.testing.assert_close(network(random_images(2)), in_order(pairs))


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("activation", ["scaled_tanh", "tanh", "relu"])
@pytest.mark.parametrize("subsampling", ["trainable", "average", "max"])
@pytest.mark.parametrize("table", ["table", "full"])
def test_every_combination_of_switches_trains_the_smaller_networks(
    table: Any, subsampling: Any, activation: Any, norm: Any
) -> None:
    switches = {"subsampling": subsampling, "activation": activation, "norm": norm, "dropout": 0.5, "num_classes": 7}
    for network in (LeNet1(h3=table, skip=True, **switches), LeNet4(c3=table, c5=table, skip=True, **switches)):
        size = 28 if isinstance(network, LeNet1) else 32
        logits = network(random_images(4, size, size))
        assert logits.shape == (4, 7)
        network.loss(logits, torch.arange(4)).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        network.eval()
        assert torch.equal(network(random_images(1, size, size)), network(random_images(1, size, size)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeNet1(h3="tabel"), "h3 (=tabel) must be one of table, full."),
        (lambda: LeNet4(c3="tabel"), "c3 (=tabel) must be one of table, full."),
        (lambda: LeNet4(c5="tabel"), "c5 (=tabel) must be one of table, full."),
        (lambda: LeNet1(subsampling="avg"), "subsampling (=avg) must be one of trainable, average, max."),
        (lambda: LeNet4(activation="gelu"), "activation (=gelu) must be one of scaled_tanh, tanh, relu."),
        (lambda: LeNet5(norm="layer"), "norm (=layer) must be one of none, batch."),
    ],
)
def test_switches_in_no_position_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        make()
    assert str(refusal.value) == message


@pytest.mark.parametrize("make", [LeNet1, LeNet4, LeNet5])
def test_weights_can_be_read_from_a_file(make: Any, tmp_path: Path) -> None:
    saved = make()
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    read = make(weights=str(tmp_path / "weights.pt"))
    read.load_weights()
    assert all(torch.equal(w, read.state_dict()[name]) for name, w in saved.state_dict().items())
