"""Bounds: formulas by hand, matrices of layers written out, networks as chains, the studies, and what is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cli import main
from benchmarks.phenomena import bounds, bounds_labels, bounds_run, bounds_width, capacity, weight_chain
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.bounds_numbers import BOUNDS, NUMBERS, capacity_of_trained
from benchmarks.phenomena.bounds_training import Fitting, network_of, read, train
from benchmarks.phenomena.capacity import LayerNorms, Sample
from benchmarks.phenomena.finished import load_run
from benchmarks.phenomena.margins import margin_at, margins, normalised, share_within
from benchmarks.phenomena.operator_norm import operator_norm
from benchmarks.phenomena.weight_chain import NoChain, chain, loose_layers, matrix_of, norms_of, path_norm, through
from models.lenet import LeNet1, LeNet5, ScaledTanh, TableConv2d, TrainableSubsampling, initialise
from models.lenet1989 import LeNet1989
from models.mlp import MLP
from models.nin import NiN
from models.resnet import BlurredConv2d, ResNet
from models.vgg import VGG

Bench = Callable[..., tuple[int, str, str]]


# -- margins ----------------------------------------------------------------------------------------------------------


def test_margins_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 5.0], [2.0, 2.0, 2.0]])
    found = margins(logits, torch.tensor([0, 0, 2, 1]))
    assert found.tolist() == [2, -1, 5, 0]
    assert margin_at(found, 0.75) == 2
    assert [share_within(found, value) for value in (-2, 0, 2, 5)] == [0, 0.5, 0.75, 1]
    assert normalised(found, 4.0, 0.25).tolist() == found.tolist()
    with pytest.raises(AnalysisError) as error:
        margin_at(found, 0.25)
    assert str(error.value) == (
        "the margin of rank 1 of 4 training images (=-1) must be above 0, and a share of 0.5 of them is classified "
        "wrong: train longer, or take a --quantile above 0.5."
    )
    with pytest.raises(AnalysisError, match=r"classified wrong: use fewer of them\.$"):
        margin_at(found, 0.25, "use fewer of them")
    with pytest.raises(AnalysisError, match="logits of 1 class must be of two or more"):
        margins(logits[:, :1], torch.zeros(4, dtype=torch.int64))


# -- operator norms ---------------------------------------------------------------------------------------------------


def written_out(apply: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """The matrix of a linear map, column by column."""
    return torch.stack([apply(one).flatten() for one in torch.eye(size, dtype=torch.float64)], 1).detach()


def test_operator_norm_is_the_largest_singular_value() -> None:
    """Of padded and strided convolutions in groups against the matrix; the reshaped kernel has another norm."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for options, size in (
        ({"padding": 1}, 7), ({"padding": 2, "stride": 2}, 8), ({"groups": 2, "stride": 3}, 9), ({"dilation": 2}, 9),
    ):  # fmt: skip
        layer = nn.Conv2d(4, 6, 3, bias=False, **options).double()  # type: ignore[arg-type]
        state = torch.get_rng_state()

        def apply(v: Tensor, layer: nn.Module = layer, size: int = size) -> Tensor:
            return layer(v.reshape(1, 4, size, size))

        found = operator_norm(apply, 4 * size * size)
        matrix = written_out(apply, 4 * size * size)
        assert found == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-6)
        reshaped = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))
        assert abs(found - reshaped) / found > 0.05
    assert torch.equal(torch.get_rng_state(), state)


def test_operator_norm_of_a_circulant_is_its_largest_fourier_coefficient() -> None:
    torch.manual_seed(1)
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double()
    kernel = torch.zeros(8, 8, dtype=torch.float64)
    kernel[:3, :3] = layer.weight[0, 0].detach()
    wanted = float(torch.fft.fft2(kernel).abs().max())
    assert operator_norm(lambda v: layer(v.reshape(1, 1, 8, 8)), 64) == pytest.approx(wanted, rel=1e-6)


def test_operator_norm_by_hand() -> None:
    """A diagonal, the map to 0, one number, and two equal singular values."""
    diagonal = torch.tensor([1.0, -5.0, 2.0], dtype=torch.float64)
    assert operator_norm(lambda v: diagonal * v, 3) == pytest.approx(5)
    assert operator_norm(lambda v: 0 * v, 3) == 0
    assert operator_norm(lambda v: torch.zeros(2, dtype=torch.float64), 3) == 0
    assert operator_norm(lambda v: 3 * v, 1) == pytest.approx(3)
    assert operator_norm(lambda v: 2 * v, 30) == pytest.approx(2)


# -- formulas ---------------------------------------------------------------------------------------------------------


ONE = LayerNorms(
    inputs=6, outputs=3, spectral=2.0, frobenius=3.0, largest_row=4.0, rows=6.0, rows_from_start=5.0, from_start=2.5
)
RELU = LayerNorms(6, 8, 2.0, 3.0, 4.0, 6.0, 5.0, 2.5, 1.0, frozenset({"relu"}))
LAST = LayerNorms(8, 3, 0.5, 1.0, 2.0, 1.7, 1.5, 0.7)
SAMPLE = Sample(images=100, classes=3, margin=0.5, squares=400.0, longest=4.0, peaks=25.0)


def test_peeling() -> None:
    """Powers of 1.05 above the value; all shares of the probability sum to less than 1."""
    assert capacity.rounded(1.0) == pytest.approx((1.0, math.log(3)))
    assert capacity.rounded(1.05) == pytest.approx((1.05, math.log(12)))
    assert capacity.rounded(1.051) == pytest.approx((1.05**2, math.log(27)))
    assert capacity.rounded(0.9) == pytest.approx((1.05**-2, math.log(27)))
    assert sum(math.exp(-capacity.rounded(1.05**power)[1]) for power in range(-400, 401)) < 1


def test_bartlett_2017_by_hand() -> None:
    """One layer: n = 100, L = 1, |X| = 20, W = 6. Two: s = (2, 1/2), b = (5, 3/2), L = 2."""
    leading = 144 * math.log(100) * math.log(12) / 50 * 21 * (1 + 5)
    logs = math.log(100) + math.log(400) + 2 * math.log(22) + 2 * math.log(7) + 2 * math.log(4)
    assert capacity.bartlett_2017([ONE], SAMPLE) == pytest.approx(0.08 + leading + math.sqrt(0.045 * logs))
    sizes = ((5.5 * 1.0) ** (2 / 3) + (2.0 * 2.5) ** (2 / 3)) ** 1.5
    leading = 144 * math.log(100) * math.log(16) / 50 * 21 * sizes
    logs = math.log(100) + math.log(400) + 2 * math.log(22) + 2 * math.log(12 * 6 * 5 * 3)
    assert capacity.bartlett_2017([RELU, LAST], SAMPLE) == pytest.approx(0.08 + leading + math.sqrt(0.045 * logs))
    assert [layer.rows_from_start for layer in capacity.from_zero([RELU, LAST])] == [6, 1.7]
    assert capacity.spectral_complexity([RELU, LAST]) == pytest.approx((2.5 ** (2 / 3) + 3 ** (2 / 3)) ** 1.5)


def test_norm_bounds_by_hand() -> None:
    """Products 3 x 1 and 4 x 2 over the margin 1/2, rounded up to a power of 1.05: j = 37 and 57."""
    rest = [3 * math.sqrt((math.log(200) + math.log(3 * (1 + j) ** 2)) / 200) for j in (37, 57)]
    wanted = 8 * math.sqrt(3) * 1.05**37 * 20 / 100 + rest[0]
    assert capacity.neyshabur_2015([RELU, LAST], SAMPLE) == pytest.approx(wanted)
    wanted = 8 * 3 * 1.05**57 * math.sqrt(2 * math.log(12) * 25) / 100 + rest[1]
    assert capacity.bartlett_mendelson_2002([RELU, LAST], SAMPLE) == pytest.approx(wanted)
    three = [RELU, RELU, LAST]
    assert capacity.neyshabur_2015(three, SAMPLE) == pytest.approx(2 * 3 * 8 * math.sqrt(3) * 6 * 20 / 100, rel=0.06)


def test_neyshabur_2018_by_hand() -> None:
    """prod s / gamma = 2 = 1.05^{14.2}; ranks 9/4 + 4; h = 8, L = 2, B = 4."""
    divergence = 16 * math.e**2 * 4 * 16 * 1.05**30 * 8 * math.log(64) * (9 / 4 + 4)
    wanted = 4 * math.sqrt((divergence + math.log(60_000) + math.log(3 * 16**2)) / 99)
    assert capacity.neyshabur_2018([RELU, LAST], SAMPLE) == pytest.approx(wanted)


def test_neyshabur_2018_from_the_start_by_hand() -> None:
    """1 / gamma = 2 = 1.05^{14.2}, s = (2, 1/2) to j = 15 and -14; distances 2.5 and 0.7; h = 8, L = 2, B = 4."""
    ratio = 1.05 ** (15 + 15 - 14)
    moved = (2.5 / 1.05**15) ** 2 + (0.7 / 1.05**-14) ** 2
    divergence = 16 * math.e**2 * 4 * 16 * ratio**2 * 8 * math.log(64) * moved
    costs = 2 * math.log(3 * 16**2) + math.log(3 * 15**2)
    wanted = 4 * math.sqrt((divergence + math.log(60_000) + costs) / 99)
    assert capacity.neyshabur_2018_from_start([RELU, LAST], SAMPLE) == pytest.approx(wanted)
    assert capacity.neyshabur_2018_from_start([replace(RELU, spectral=0.0), LAST], SAMPLE) is None


def test_noise_of_neyshabur_2018_from_the_start_moves_logits_by_a_quarter_of_the_margin() -> None:
    """What the proof needs of tau: disturbed networks stay that near, by far more than half of them."""
    torch.manual_seed(0)
    x, network = torch.randn(30, 12), network_of((12, 20, 3), torch.Generator().manual_seed(0))
    first, last = (network[place].weight.detach() for place in (0, 2))
    norms = [capacity.rounded(float(torch.linalg.matrix_norm(one, 2)))[0] for one in (first, last)]
    gamma, h, longest = 0.5, 20, float(x.norm(dim=1).max())
    tau = gamma / (4 * math.e * math.sqrt(2) * 2 * longest * math.prod(norms) * math.sqrt(h * math.log(4 * 2 * h)))
    logits = network(x).detach()
    for _ in range(20):
        noisy = [one + norm * tau * torch.randn_like(one) for one, norm in zip((first, last), norms, strict=True)]
        assert float(((x @ noisy[0].T).relu() @ noisy[1].T - logits).norm(dim=1).max()) <= gamma / 4


def test_neyshabur_2019_by_hand() -> None:
    leading = 3 * math.sqrt(2) * (math.sqrt(6) + 1) * 2 * (2.5 * 20 + 7 + 10) / 50
    assert capacity.neyshabur_2019_leading([RELU, LAST], SAMPLE, 49.0) == pytest.approx(leading)
    wanted = leading + 3 * math.sqrt((40 + math.log(5 / 0.01)) / 100)
    assert capacity.neyshabur_2019([RELU, LAST], SAMPLE, 49.0) == pytest.approx(wanted)


def test_other_numbers_by_hand() -> None:
    wanted = math.sqrt((9 / (2 * 0.25) + math.log(2 * 10 * 80 / 0.01)) / 200)
    assert capacity.noise_bound(3.0, 0.5, 100, 80) == pytest.approx(wanted)
    assert capacity.per_margin(2.0, SAMPLE) == pytest.approx(2 / 0.5 / 10)
    wanted = math.sqrt(1.5**2 * 4 * 9 * (4 + 16) / (0.25 * 100))
    assert capacity.cushion_measure([0.5, 0.25], 1.5, 3.0, SAMPLE) == pytest.approx(wanted)
    assert capacity.product([1e200, 1e200, 1e-300]) == pytest.approx(1e100)
    assert capacity.product([2.0, 0.0]) == 0
    with pytest.raises(AnalysisError, match=r"the margin \(=0\) must be above 0 to divide by: train longer."):
        Sample(100, 3, 0.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("maps", "wanted"),
    [
        ({"relu"}, {"2018", "2015", "2002", "2019"}),
        ({"tanh"}, {"2002"}),
        ({"relu", "maximum"}, {"2018"}),
        ({"relu", "average"}, {"2018", "2002"}),
        ({"tanh", "maximum"}, set()),
    ],
)
def test_bounds_are_of_the_networks_of_their_theorems(maps: set[str], wanted: set[str]) -> None:
    layers = [LayerNorms(6, 8, 2.0, 3.0, 4.0, 6.0, 5.0, 2.5, 1.0, frozenset(maps)), LAST]
    found = {
        "2018": capacity.neyshabur_2018(layers, SAMPLE),
        "2015": capacity.neyshabur_2015(layers, SAMPLE),
        "2002": capacity.bartlett_mendelson_2002(layers, SAMPLE),
        "2019": capacity.neyshabur_2019(layers, SAMPLE, 1.0),
    }
    assert {name for name, value in found.items() if value is not None} == wanted
    assert capacity.neyshabur_2019([RELU, RELU, LAST], SAMPLE, 1.0) is None


# -- networks as chains -----------------------------------------------------------------------------------------------


def strided() -> nn.Module:
    """Padding, stride and groups, maxima that overlap, averages."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Dropout(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.ReLU(),
        nn.Linear(5, 3),
    )  # fmt: skip


def table() -> nn.Module:
    """The layers of LeNet, small."""
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), TrainableSubsampling(3), ScaledTanh(), TableConv2d(((0, 1), (1, 2)), 2), nn.BatchNorm2d(2),
        nn.Tanh(), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    return network.apply(initialise)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "mlp": (lambda: MLP((1, 4, 4), [6, 5], activation="tanh", norm="batch", dropout=0.5), (1, 4, 4)),
    "lenet5 of the paper": (
        lambda: LeNet5(c3="table", subsampling="trainable", activation="scaled_tanh"),
        (1, 32, 32),
    ),
    "lenet1": (lambda: LeNet1(norm="batch"), (1, 28, 28)),
    "lenet5 with batch norm": (lambda: LeNet5(subsampling="max", activation="relu", norm="batch"), (1, 32, 32)),
    "vgg": (lambda: VGG([[4, 4], [6]], [7], 2, 1, "batch", num_classes=10), (1, 8, 8)),
    "plain resnet": (lambda: ResNet([1, 1], [4, 6], stem="cifar", shortcut="A", skip=False, num_classes=10), (3, 8, 8)),
    "strided": (strided, (2, 8, 8)),
    "table": (table, (1, 8, 8)),
}


def moved(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """A network whose weights, biases and statistics are not those of its start; and its start."""
    torch.manual_seed(0)
    start = make().eval()
    network = copy.deepcopy(start).train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            network(1 + torch.randn(20, *shape))
    return network.eval(), start


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_changes_no_logits_and_the_network_comes_back(name: str) -> None:
    make, shape = NETWORKS[name]
    network, start = moved(make, shape)
    images = torch.randn(5, *shape)
    wanted = network(images).detach()
    network.train()
    first = next(network.parameters())
    first.grad = torch.ones_like(first)
    seen: list[int] = []
    last = list(network.modules())[-1]
    last.register_forward_hook(lambda *_: seen.append(1))
    before, hooks = copy.deepcopy(network.state_dict()), dict(last._forward_hooks)
    numbers = torch.get_rng_state()

    stages = chain(network, start, images[:1])
    assert len(seen) == 1  # the pass of one image
    norms = norms_of(stages)
    path_norm(stages)
    found = through(stages, images)
    assert float((found - wanted.flatten(1)).norm() / wanted.norm()) < 1e-5
    travelled = weight_chain.travel(stages, norms, [images])
    assert len(seen) == 1
    assert all(most <= one.spectral * (1 + 1e-6) for most, one in zip(travelled.stretches, norms, strict=True))
    assert all(0 < one.spectral <= one.frobenius * (1 + 1e-12) for one in norms)

    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.requires_grad for p in network.parameters())
    assert dict(last._forward_hooks) == hooks
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.parametrize("name", ["mlp", "table", "vgg", "strided"])
def test_norms_are_those_of_the_matrices_written_out(name: str) -> None:
    """Every norm of every layer, with its biases and what it carries on."""
    make, shape = NETWORKS[name]
    network, start = moved(make, shape)
    stages = chain(network, start, torch.randn(1, *shape))
    norms = norms_of(stages)
    for place, (stage, one) in enumerate(zip(stages, norms, strict=True)):
        row = place < len(stages) - 1
        at_start = weight_chain.Stage(stage.name, stage.start, stage.start, stage.given, stage.made, ())
        matrix, first = (written_out(matrix_of(s, True, row), math.prod(s.given) + 1) for s in (stage, at_start))
        assert tuple(matrix.shape) == (one.outputs, one.inputs)
        assert one.spectral == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-6)
        assert one.frobenius == pytest.approx(float(matrix.norm()))
        assert one.largest_row == pytest.approx(float(matrix.abs().sum(1).max()))
        assert one.rows == pytest.approx(float(matrix.norm(dim=1).sum()))
        assert one.rows_from_start == pytest.approx(float((matrix - first).norm(dim=1).sum()))
        assert one.from_start == pytest.approx(float((matrix - first).norm()))


def test_path_norm_by_hand() -> None:
    """Squared weights along all paths: a product of squared matrices, of averages too; biases begin paths."""
    torch.manual_seed(0)
    plain = network_of((3, 4, 2), torch.Generator().manual_seed(0))
    a, b = (plain[place].weight.detach().double() for place in (0, 2))
    found = path_norm(chain(plain, plain, torch.randn(1, 3)))
    assert found == pytest.approx(math.sqrt(float((b**2 @ a**2).sum())))
    averaged = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 3, bias=False))
    stages = chain(averaged, averaged, torch.randn(1, 1, 2, 2))
    w, v = (averaged[place].weight.detach().double().flatten(1) for place in (0, 3))
    assert path_norm(stages) == pytest.approx(math.sqrt(float((v**2 @ w**2).sum()) * 4 / 16))
    averaged[1] = nn.AdaptiveAvgPool2d(1)
    assert path_norm(chain(averaged, averaged, torch.randn(1, 1, 2, 2))) == pytest.approx(path_norm(stages))
    with_bias = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for parameter, value in zip(with_bias.parameters(), (2.0, 3.0, 5.0, 7.0), strict=True):
            parameter.fill_(value)
    wanted = math.sqrt((4 + 9) * 25 + 49)
    assert path_norm(chain(with_bias, with_bias, torch.ones(1, 1))) == pytest.approx(wanted)


def test_biases_are_a_column_and_the_one_goes_on() -> None:
    """f(x) = 5 relu(2x + 3) + 7 as [[2, 3], [0, 1]] and [5, 7]."""
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    start = copy.deepcopy(network)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (2.0, 3.0, 5.0, 7.0), strict=True):
            parameter.fill_(value)
        for parameter in start.parameters():
            parameter.fill_(1.0)
    stages = chain(network, start, torch.ones(1, 1))
    first, last = norms_of(stages)
    matrix = torch.tensor([[2.0, 3.0], [0.0, 1.0]], dtype=torch.float64)
    assert first.spectral == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)))
    assert (first.inputs, first.outputs, last.inputs, last.outputs) == (2, 2, 2, 1)
    assert first.frobenius == pytest.approx(math.sqrt(14))
    assert last.spectral == last.frobenius == pytest.approx(math.sqrt(74))
    assert (first.largest_row, last.largest_row) == (5, 12)
    assert first.rows_from_start == first.from_start == pytest.approx(math.sqrt(1 + 4))
    assert last.from_start == pytest.approx(math.sqrt(16 + 36))

    found = weight_chain.travel(stages, [first, last], [torch.tensor([[1.0], [-2.0]])])
    # x = 1: (1, 1) -> (5, 1) -> 32; x = -2: (-2, 1) -> (-1, 1), after ReLU (0, 1) -> 7
    assert found.largest_logits == pytest.approx(32)
    assert found.contraction == pytest.approx(math.sqrt(2))
    assert found.stretches[0] == pytest.approx(math.sqrt(26 / 2))
    assert found.cushions[0] == pytest.approx(math.sqrt(2 / 5) / math.sqrt(14))
    assert found.cushions[1] == pytest.approx(min(32 / math.sqrt(26), 7) / math.sqrt(74))
    assert found.initial_squares == pytest.approx(((4 + 1) + (1 + 1)) / 2)  # the start gives 2 and -1


def test_slopes_of_fixed_maps() -> None:
    """Maxima that overlap four times move twice as far; averages of 2 x 2 half as far; tanh of 2x/3 times 1.7159."""
    shape = torch.Size([3, 8, 8])
    for module, wanted in (
        (nn.MaxPool2d(2), 1.0), (nn.MaxPool2d(3, 2), 2.0), (nn.MaxPool2d(3, 1, 1), 3.0), (nn.AvgPool2d(2), 0.5),
        (nn.AdaptiveAvgPool2d(1), 1 / 8), (nn.AdaptiveAvgPool2d(8), 1.0), (nn.ReLU(), 1.0),
    ):  # fmt: skip
        assert weight_chain.slope(weight_chain.Fixed(module, shape)) == pytest.approx(wanted)
    network, start = moved(*NETWORKS["lenet5 of the paper"])
    stages = chain(network, start, torch.randn(1, 1, 32, 32))
    assert [type(stage.layer).__name__ for stage in stages] == [
        "Conv2d", "TrainableSubsampling", "TableConv2d", "TrainableSubsampling", "Conv2d", "Linear", "Linear",
    ]  # fmt: skip
    assert [weight_chain.product_of_slopes(stage) for stage in stages] == pytest.approx([1.7159 * 2 / 3] * 6 + [1])
    wide = torch.zeros(1, 1, 5, 5)
    wide[0, 0, 2, 2] = 1.0  # seen by all four windows
    assert float(nn.MaxPool2d(3, 2)(wide).norm() / wide.norm()) == 2


@pytest.mark.parametrize("activation", [nn.ReLU(), ScaledTanh()])
@pytest.mark.parametrize("biases", [False, True])
def test_bartlett_mendelson_2002_of_averages_by_hand(activation: nn.Module, biases: bool) -> None:
    """An average is at most its largest input: rows of l1 norm 3 and 5 times the slope, not times half of it."""
    first, last = nn.Conv2d(1, 2, 1, bias=biases), nn.Linear(8, 3, bias=biases)
    network = nn.Sequential(first, activation, nn.AvgPool2d(2), nn.Flatten(), last)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        first.weight[1, 0, 0, 0] = -3.0
        last.weight[2, :5] = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    layers = norms_of(chain(network, copy.deepcopy(network), torch.randn(1, 1, 4, 4)))
    slope = 1.7159 * 2 / 3 if isinstance(activation, ScaledTanh) else 1.0
    assert [layer.sup_lipschitz for layer in layers] == pytest.approx([slope, 1])
    assert layers[0].lipschitz == pytest.approx(1.0 if biases else slope / 2)
    size, cost = capacity.rounded(3 * slope * 5 / 0.5)
    wanted = 8 * 3 * size * math.sqrt(2 * math.log(2 * (16 + biases)) * 25) / 100
    wanted += 3 * math.sqrt((math.log(200) + cost) / 200)
    assert capacity.bartlett_mendelson_2002(layers, SAMPLE) == pytest.approx(wanted)


def test_where_nothing_is_pooled_both_norms_have_one_constant() -> None:
    network, start = moved(*NETWORKS["lenet5 of the paper"])
    layers = norms_of(chain(network, start, torch.randn(1, 1, 32, 32)))
    assert [layer.sup_lipschitz for layer in layers] == [layer.lipschitz for layer in layers]


def test_numbers_that_do_not_know_the_scale() -> None:
    """One layer times 10, the next over 10: the same function, margins, products of norms and path norm."""
    network = network_of((6, 8, 3), torch.Generator().manual_seed(0))
    zero, other = copy.deepcopy(network), copy.deepcopy(network)
    with torch.no_grad():
        other[0].weight.mul_(10)
        other[2].weight.div_(10)
        for parameter in zero.parameters():
            parameter.zero_()
    x = torch.randn(50, 6)
    torch.testing.assert_close(network(x), other(x))
    found, again = (capacity_of_trained(one, zero, x, 0.1, 3).values for one in (network, other))
    same = {name for name, value in found.items() if again[name] == pytest.approx(value, rel=1e-5)}
    assert same >= {
        "Neyshabur 2018", "Neyshabur 2015", "Bartlett-Mendelson 2002", "Arora 2018", "spectral complexity", "path norm",
        "parameters / n",
    }  # fmt: skip
    assert set(found) == set(NUMBERS)
    half = capacity_of_trained(network, zero, x, 0.05, 3).values
    assert half["spectral complexity"] == pytest.approx(2 * found["spectral complexity"])
    assert half["path norm"] == pytest.approx(2 * found["path norm"])


class Added(nn.Module):
    """A shortcut that is added in place, in the memory of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        z += x
        return self.last(z)


class Twice(nn.Module):
    """A layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


class Outside(nn.Module):
    """A weight that is in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale


class Two(nn.Module):
    """A module that gives two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: ResNet([1], [4], stem="cifar", shortcut="A", num_classes=10), (3, 8, 8),
         "between layer1.0.se and layer1.0.downsample the network computes with what is no module"),
        (Added, (4,), "between first and last the network computes with what is no module (a shortcut, a mean):"),
        (lambda: MLP((1, 2, 2), [4, 4], skip=True), (1, 2, 2), "between hidden.2 and hidden.3 the network computes"),
        (lambda: LeNet5(skip=True), (1, 32, 32), "between c1 and squash the network computes with what is no module"),
        (lambda: NiN([4] * 8), (3, 8, 8), "must be what features.21 makes, they are computed from it: a bound is of"),
        (lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), (4,), "0 (ReLU) comes before the first layer with weights"),
    ],
)  # fmt: skip
def test_networks_that_are_no_chain(make: Callable[[], nn.Module], shape: tuple[int, ...], message: str) -> None:
    network = make().eval()
    with pytest.raises(NoChain) as error:
        chain(network, copy.deepcopy(network), torch.randn(1, *shape))
    assert message in str(error.value)
    assert str(error.value).endswith((": false.", "is a layer.", "begins with a layer."))


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: MLP((1, 2, 2), [4], activation="sigmoid"), (1, 2, 2),
         "hidden.1 is a Sigmoid, whose matrix or Lipschitz constant is not known here: give a network of linear"),
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4)), (2, 3, 3), "1 is a GroupNorm, whose matrix"),
        (lambda: nn.Sequential(BlurredConv2d(2, 4, 3, 2, 1)), (2, 8, 8), "0 is a BlurredConv2d, whose matrix"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.PReLU()), (2,), "1 is a PReLU, whose matrix"),
        (lambda: LeNet1989(), (1, 16, 16), "h1 is a UnitBiasConv2d, whose matrix"),
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")), (2, 8, 8),
         "0 has padding_mode (=circular), it must be zeros: sums over its rows are not known"),
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), (2, 8, 8),
         "1 has no running statistics (track_running_stats is False) and is no fixed map: give a network"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2)), (4,),
         "2 (BatchNorm1d) must follow a layer with weights, to be folded into it: give a network that normalises"),
        (Twice, (4,), "layer is used more than once in a pass: give a network whose layers are used once."),
        (Outside, (4,), "scale (1 such) belongs to no module that an image came through, so that no norm would"),
        (Two, (4,), "(Two) gives a tuple, which is no layer's output: give a network whose modules give one"),
    ],
)  # fmt: skip
def test_modules_that_are_refused(make: Callable[[], nn.Module], shape: tuple[int, ...], message: str) -> None:
    network = make().eval()
    has_weights = not any(word in message for word in ("Sigmoid", "Two"))
    for function in (chain, loose_layers) if has_weights else (chain,):
        with pytest.raises(AnalysisError) as error:
            function(network, copy.deepcopy(network), torch.randn(1, *shape))
        assert message in str(error.value)


def test_averages_of_different_windows_are_refused() -> None:
    for module, size, message in (
        (nn.AvgPool2d(2, ceil_mode=True), 5, "AvgPool2d with ceil_mode (=True) and padding (=0) takes averages of"),
        (nn.AdaptiveAvgPool2d(2), 5, "AdaptiveAvgPool2d from [5, 5] to [2, 2] takes averages of different windows"),
    ):
        with pytest.raises(AnalysisError) as error:
            weight_chain.squared_map(weight_chain.Fixed(module, torch.Size([1, 5, 5])), torch.ones(1, 1, size, size))
        assert message in str(error.value)


# -- the studies ------------------------------------------------------------------------------------------------------


def test_training_starts_where_it_says_and_fits() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=generator), torch.randint(3, (40,), generator=generator)
    trained = train((6, 30, 3), x, y, Fitting(batch=10, loss=0.05), 5)
    assert trained.epochs is not None
    assert bool((trained.network(x).argmax(1) == y).all())
    again = network_of((6, 30, 3), torch.Generator().manual_seed(5))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained.start.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(again.parameters(), trained.network.parameters(), strict=True))
    assert train((6, 30, 3), x, y, Fitting(batch=10, epochs=1), 5).epochs is None
    largest = float(again[0].weight.detach().abs().max())
    assert 0.95 / math.sqrt(6) < largest <= 1 / math.sqrt(6)


def test_the_ntk_parametrisation_is_jacots() -> None:
    """SGD of W in x -> Wx / sqrt(in), written out, ends at the same matrices W / sqrt(in); W begins as N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=generator), torch.randint(3, (40,), generator=generator)
    trained = train((6, 30, 3), x, y, Fitting(rate=0.5, batch=40, epochs=8, parametrisation="ntk"), 5)
    begun = [trained.start[place].weight.detach() for place in (0, 2)]
    weights = [(one * math.sqrt(one.shape[1])).requires_grad_() for one in begun]
    optimizer = torch.optim.SGD(weights, lr=0.5, momentum=0.9)
    for _ in range(8):
        loss = F.cross_entropy((x @ weights[0].T / math.sqrt(6)).relu() @ weights[1].T / math.sqrt(30), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for place, weight in zip((0, 2), weights, strict=True):
        torch.testing.assert_close(trained.network[place].weight, weight.detach() / math.sqrt(weight.shape[1]))
        assert not torch.equal(trained.network[place].weight, trained.start[place].weight)
    drawn = network_of((400, 300, 10), torch.Generator().manual_seed(1), "ntk")
    assert float(drawn[0].weight.detach().std()) == pytest.approx(1 / 20, rel=0.01)
    assert float(drawn[2].weight.detach().std()) == pytest.approx(1 / math.sqrt(300), rel=0.05)


def test_noise_is_the_largest_that_is_borne() -> None:
    """One weight of 1: x = 1 is right until the noise turns its sign, with sigma about 1/1.64 for 5 %."""
    network = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.3], [-0.3]]))
    x, y = torch.ones(8, 1), torch.zeros(8, dtype=torch.int64)
    sigma, train_error, _ = bounds_labels.bearable_noise(network, (x, y), (x, y), 0)
    assert sigma in bounds_labels.SIGMAS
    assert train_error <= 0.05
    place = bounds_labels.SIGMAS.index(sigma)
    if place:
        assert bounds_labels.noisy_error(network, x, y, bounds_labels.SIGMAS[place - 1], 0) > 0.05


def test_exponent_of_a_power() -> None:
    widths = (10, 20, 40)
    values = torch.tensor([[3.0 * w**0.5] * 2 for w in widths]).double().numpy()
    assert bounds_width.exponent(widths, values) == pytest.approx(0.5)


@pytest.mark.parametrize("study", ["width", "width_ntk", "labels"])
def test_bounds_hold_at_smoke_size(study: str) -> None:
    outcome = bounds.analyze(study=study, preset="smoke", networks=2)  # type: ignore[arg-type]
    assert [f"{check.name} = {check.value}" for check in outcome.failed] == []
    assert list(outcome.seeds) == [0, 1]
    assert outcome.figures
    kinds = outcome.numbers["what the numbers are"]
    assert {name for name, text in kinds.items() if text.startswith("bound")} >= {"Bartlett 2017", "Neyshabur 2018"}
    assert all(text.startswith(("bound: ", "measure: ")) for text in kinds.values())


def test_networks_that_fitted_too_little_are_refused_with_options_that_there_are() -> None:
    images, fitting = read("digits"), Fitting(epochs=1)
    narrow = bounds_width.WidthSettings("digits", 100, (2, 3), 2, fitting)
    corrupted = bounds_labels.LabelSettings("digits", 100, (2,), (0.0, 1.0), 2, fitting)
    for found in (
        lambda: bounds_width.one_network(narrow, images, 2, 0),
        lambda: bounds_labels.one_network(corrupted, images, 1.0, 0),
    ):
        with pytest.raises(AnalysisError, match=r"is classified wrong: use wider networks or fewer --samples\.$"):
            found()


ALWAYS = {"Bartlett 2017", "Bartlett 2017, from 0", "Neyshabur 2018, from the start"}  # of any chain
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")


def fitted(runs: Path, name: str, epochs: int, *options: str) -> Path:
    arguments = ["--trainer.max_epochs", str(epochs), "--seed_everything", "3", *QUIET, *options]
    assert main(["fit", "--config", f"digits/{name}", "--runs", str(runs), *arguments]) == 0
    (folder,) = (runs / f"digits/{name}").glob("*/seed-3")
    return folder


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 64-64-10."""
    return fitted(tmp_path_factory.mktemp("bounds"), "mlp", 2)


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("mlp", (), {*ALWAYS, "Neyshabur 2018", "Neyshabur 2015", "Bartlett-Mendelson 2002", "Neyshabur 2019"}),
        ("lenet5", (), {*ALWAYS, "Neyshabur 2018"}),
        ("resnet", ("--model.init_args.skip", "false"), {*ALWAYS, "Neyshabur 2018", "Bartlett-Mendelson 2002"}),
        ("resnet", (), set()),
    ],
    ids=["mlp", "lenet5", "plain", "resnet"],
)
def test_bounds_of_a_run(name: str, options: tuple[str, ...], wanted: set[str], bench: Bench, tmp_path: Path) -> None:
    folder = fitted(tmp_path / "runs", name, 2, *options)
    status, out, err = bench("analyze", "bounds", "--study", "run", "--run", folder, "--smoke", "--quantile", "0.4")
    assert status == 0, out + err
    assert "margins of 500 images, about " in err
    record = json.loads((folder / "phenomena/bounds-run/smoke/seed-0/bounds-run.json").read_text())
    numbers = record["numbers"]
    assert {one for one in numbers["numbers"] if one in BOUNDS} == wanted
    assert (numbers["no bounds, because"] is None) == bool(wanted)
    assert (numbers["training images n"], numbers["of them looked at"], numbers["test images"]) == (1437, 300, 200)
    assert set(numbers["numbers"]) == set(numbers["what they are"])
    names = {check["name"] for check in record["checks"]}
    assert ("largest |A x| / (s |x|) of 300 training images" in names) == bool(wanted)
    travelled = numbers.get("training images for cushions, contraction, largest logits and |U_0 X|")
    assert travelled == (300 if wanted else None)


def test_a_run_which_comes_back_as_it_was(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(str(mlp))
    before, state = copy.deepcopy(run.network.state_dict()), torch.get_rng_state()
    run.network.train()
    exact: list[bool] = []  # whether convolutions are, in every pass
    hook = run.network.register_forward_hook(lambda *_: exact.append(not torch.backends.cudnn.allow_tf32))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    outcome = bounds.analyze(study="run", run=run, preset="smoke", quantile=0.4, device="cpu", images=100, test=100)
    hook.remove()
    assert exact
    assert all(exact)
    assert torch.backends.cudnn.allow_tf32
    assert outcome.numbers["of them looked at"] == 100
    assert run.network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in run.network.state_dict().items())
    assert all(p.grad is None for p in run.network.parameters())


def test_numbers_of_a_run_by_hand(mlp: Path) -> None:
    """Gamma, errors and the sample once more, from the images; norms of the matrices themselves."""
    run = load_run(str(mlp))
    outcome = bounds.analyze(study="run", run=run, preset="smoke", quantile=0.4, images=1437, test=360)
    assert "largest |A x| / (s |x|) of 500 training images" in {check.name for check in outcome.checks}
    (images, labels), (test, test_labels) = run.images("train", 1437, 0), run.images("test", 360, 0)
    with torch.no_grad():
        found, unseen = margins(run.network(images), labels), margins(run.network(test), test_labels)
    assert outcome.numbers["gamma"] == pytest.approx(float(found.sort().values[int(0.4 * 1437) - 1]), rel=1e-5)
    assert outcome.numbers["training error"] == pytest.approx(float((found <= 0).double().mean()))
    assert outcome.numbers["gap"] == pytest.approx(float((unseen <= 0).double().mean() - (found <= 0).double().mean()))
    weights = dict(run.network.named_parameters())
    hidden = torch.cat([weights["hidden.0.weight"], weights["hidden.0.bias"][:, None]], 1).detach()
    last = torch.cat([weights["fc.weight"], weights["fc.bias"][:, None]], 1).detach()
    carried = torch.cat([hidden, torch.eye(65)[-1:]])
    assert outcome.table["spectral norm"] == pytest.approx(
        [float(torch.linalg.matrix_norm(one, 2)) for one in (carried, last)], rel=1e-5
    )
    x = torch.cat([images.flatten(1), torch.ones(1437, 1)], 1)
    size = capacity.rounded(float(carried.norm() * last.norm()) / outcome.numbers["gamma"])
    wanted = 8 * math.sqrt(10) * size[0] * float(x.norm()) / 1437
    wanted += 3 * math.sqrt((math.log(200) + size[1]) / (2 * 1437))
    assert outcome.numbers["numbers"]["Neyshabur 2015"] == pytest.approx(wanted, rel=1e-4)


def test_a_run_that_fitted_too_little_is_refused(tmp_path: Path) -> None:
    run = load_run(str(fitted(tmp_path / "runs", "mlp", 1, "--model.init_args.optimizer.init_args.lr", "0.0")))
    with pytest.raises(AnalysisError, match=r"training images \(=-.*\) must be above 0, and a share of 0\.[89]"):
        bounds.analyze(study="run", run=run, preset="smoke")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": "run"}, "--study (=run) needs a trained network: --run with the folder seed-N of a finished run."),
        ({"images": 200}, "--images (=200) is for run, not width: leave it out."),
        ({"device": "cpu"}, "--device (=cpu) is for run, not width: leave it out."),
        ({"study": "labels", "widths": [2, 4]}, "--widths (=[2, 4]) is for width and width_ntk, not labels: leave"),
        ({"shares": [0, 1]}, "--shares (=[0, 1]) is for labels, not width: leave it out."),
        ({"samples": 99}, "--samples (=99) must be at least 100: leave it out for the preset's."),
        ({"networks": 1}, "--networks (=1) must be at least 2: leave it out for the preset's."),
        ({"widths": [64, 32]}, "--widths (=[64, 32]) must be two or more that ascend from 2 or more, for a slope:"),
        ({"widths": [64]}, "--widths (=[64]) must be two or more that ascend"),
        ({"study": "labels", "shares": [0.5, 1]}, "--shares (=[0.5, 1]) must ascend from 0, the true labels, to 1"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        bounds.analyze(**options)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_options_of_a_run_that_are_refused(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(str(mlp))
    with pytest.raises(AnalysisError, match=r"is for --study run, width trains networks of its own: add --study run"):
        bounds.analyze(run=run)
    with pytest.raises(AnalysisError, match=r"--quantile \(=1\) must lie between 0 and 1, it is a share of training"):
        bounds.analyze(study="run", run=run, quantile=1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AnalysisError, match=r"--device \(=cuda\) must be there, torch sees no GPU"):
        bounds.analyze(study="run", run=run, device="cuda")
    assert bounds_run.kind_of("Bartlett 2017") == "bound"
