"""Units in five orders against a straight line of functions, torchvision's order, and the released code's counts."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import preresnet
from models.preresnet import ORDERS, Order, PreResNet, ResidualUnit
from models.resnet import ResNet, SqueezeExcitation

PREACTIVATED = ("relu_only_preactivation", "full_preactivation")
DEPTHS = {110: [18, 18, 18], 164: [18, 18, 18], 1001: [111, 111, 111]}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shake(module: nn.Module) -> None:
    """Norms with scales, shifts and statistics that show, biases that are not 0."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.uniform_(layer.bias, -0.5, 0.5)


# One unit


def by_hand(x: float, order: str) -> float:
    """Figure 4 for one pixel; the kernels have 2 and -3 at their centres."""

    def norm1(value: float) -> float:
        return (value - 1) / 2 + 1

    def norm2(value: float) -> float:
        return (value + 1) / 0.5 + 1

    def relu(value: float) -> float:
        return max(value, 0.0)

    if order == "original":
        return relu(norm2(-3 * relu(norm1(2 * x))) + x)
    if order == "batch_norm_after_addition":
        return relu(norm2(-3 * relu(norm1(2 * x)) + x))
    if order == "relu_before_addition":
        return relu(norm2(-3 * relu(norm1(2 * x)))) + x
    if order == "relu_only_preactivation":
        return norm2(-3 * relu(norm1(2 * relu(x)))) + x
    return -3 * relu(norm2(2 * relu(norm1(x)))) + x


@pytest.mark.parametrize("order", ORDERS)
def test_a_unit_of_one_channel_by_hand(order: str) -> None:
    unit = ResidualUnit(1, 1, 1, "basic", order, "A", True, "batch").eval()
    kernels = [layer.weight for layer in unit.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in unit.modules() if isinstance(layer, nn.BatchNorm2d)]
    for kernel, value in zip(kernels, (2.0, -3.0), strict=True):
        nn.init.zeros_(kernel)
        kernel.data[0, 0, 1, 1] = value
    for layer, mean, deviation, shift in zip(norms, (1.0, -1.0), (2.0, 0.5), (1.0, 1.0), strict=True):
        nn.init.constant_(layer.running_mean, mean)
        nn.init.constant_(layer.running_var, deviation**2 - layer.eps)
        nn.init.constant_(layer.bias, shift)
    pixels = [-7.0, -2.0, -0.5, 0.0, 0.25, 1.0, 3.0, 6.0]
    expected = [by_hand(pixel, order) for pixel in pixels]
    found = unit(torch.tensor(pixels).view(1, 1, 1, -1)).flatten()
    torch.testing.assert_close(found, torch.tensor(expected))
    assert min(expected) < 0 or order in ("original", "batch_norm_after_addition")  # where a ReLU comes last


def test_the_five_orders_differ_where_the_test_by_hand_looks() -> None:
    pixels = (-7.0, -2.0, -0.5, 0.0, 0.25, 1.0, 3.0, 6.0)
    assert len({tuple(by_hand(pixel, order) for pixel in pixels) for order in ORDERS}) == 5
    assert tuple(ORDERS) == get_args(Order)


def straight_line(unit: ResidualUnit, x: Tensor, order: str, stride: int, training: bool) -> Tensor:
    """The unit with nothing but functions on its tensors, in the order that Figure 4 draws; SE before the addition."""
    convolutions = iter([m for m in [*unit.before, *unit.branch] if isinstance(m, nn.Conv2d)])
    norms = iter([m for m in [*unit.before, *unit.branch, *unit.after] if isinstance(m, nn.BatchNorm2d)])
    count = sum(isinstance(m, nn.Conv2d) for m in unit.branch)
    strides = iter([stride] + [1] * count)

    def bn(y: Tensor, layer: nn.BatchNorm2d | None = None) -> Tensor:
        layer = layer or next(norms)
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
        return F.batch_norm(y, mean, var, layer.weight, layer.bias, training, eps=layer.eps)

    def conv(y: Tensor) -> Tensor:
        layer = next(convolutions)
        return F.conv2d(y, layer.weight, layer.bias, next(strides), layer.weight.shape[-1] // 2)

    def projected(y: Tensor, normed: bool) -> Tensor:
        kernel, *norm = unit.shortcut if normed else [unit.shortcut]
        y = F.conv2d(y, kernel.weight, None, stride)
        return bn(y, norm[0]) if normed else y

    def excited(y: Tensor) -> Tensor:
        """Hu et al. 2018, Eq. 2 to 4, where the unit has it."""
        if not isinstance(unit.se, SqueezeExcitation):
            return y
        one, two = unit.se.fc1, unit.se.fc2
        z = y.sum((2, 3)) / (y.shape[2] * y.shape[3])
        s = 1 / (1 + (-((z @ one.weight.T + one.bias).clamp(min=0) @ two.weight.T + two.bias)).exp())
        return torch.einsum("bchw,bc->bchw", y, s)

    if order == "full_preactivation":
        y = bn(x).relu()
        shortcut = projected(y, normed=False)
        for _ in range(count - 1):
            y = bn(conv(y)).relu()
        return excited(conv(y)) + shortcut
    y = x.relu() if order == "relu_only_preactivation" else x
    shortcut = projected(y, normed=order != "batch_norm_after_addition")
    for _ in range(count - 1):
        y = bn(conv(y)).relu()
    y = conv(y)
    if order == "batch_norm_after_addition":
        return bn(excited(y) + shortcut).relu()
    y = bn(y)
    if order == "relu_before_addition":
        return excited(y.relu()) + shortcut
    y = excited(y)
    return (y + shortcut).relu() if order == "original" else y + shortcut


@pytest.mark.parametrize("se_reduction", [None, 3])
@pytest.mark.parametrize("unit", ["single", "basic", "bottleneck"])
@pytest.mark.parametrize("order", ORDERS)
def test_units_that_project_are_a_straight_line_of_functions(order: str, unit: str, se_reduction: int | None) -> None:
    torch.manual_seed(0)
    layer = ResidualUnit(4, 3, 2, unit, order, "B", True, "batch", se_reduction=se_reduction)
    shake(layer)
    x = random_images(3, 4, 7, 6)
    for training in (False, True):
        expected = straight_line(layer, x, order, stride=2, training=training)
        assert expected.shape == (3, 12 if unit == "bottleneck" else 3, 4, 3)
        torch.testing.assert_close(layer.train(training)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first", [False, True])
def test_squeeze_and_excitation_of_one_channel_by_hand(first: bool) -> None:
    """What the branch gives is multiplied, by a number from its own mean; what the shortcut carries is not."""
    unit = ResidualUnit(1, 1, 1, "basic", "full_preactivation", "A", True, "none", first, se_reduction=1)
    assert isinstance(unit.se, SqueezeExcitation)
    convolutions = [layer for layer in unit.branch if isinstance(layer, nn.Conv2d)]
    for layer, value in zip(convolutions, (2.0, -3.0), strict=True):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        layer.weight.data[0, 0, 1, 1] = value
    for fully, weight, bias in ((unit.se.fc1, -0.25, 0.5), (unit.se.fc2, 0.5, -2.0)):
        nn.init.constant_(fully.weight, weight)
        nn.init.constant_(fully.bias, bias)
    pixels = [-4.0, 1.0, 3.0, 0.0]
    branch = [0.0, -6.0, -18.0, 0.0]  # -3 relu(2 relu(x)), with a mean of -6
    factor = 1 / (1 + math.exp(-(0.5 * max(-0.25 * -6 + 0.5, 0) - 2)))
    assert factor == pytest.approx(1 / (1 + math.e))
    carried = [max(pixel, 0.0) if first else pixel for pixel in pixels]
    expected = [factor * b + x for b, x in zip(branch, carried, strict=True)]
    found = unit(torch.tensor(pixels).view(1, 1, 1, -1)).flatten()
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("unit", ["single", "basic", "bottleneck"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_unit_adds_its_input_as_it_came_and_leaves_it_so(order: str, unit: str, norm: str) -> None:
    """Without its skip a unit is its branch; with it, the input is in the sum, not what a ReLU in place made of it."""
    torch.manual_seed(0)
    with_skip = ResidualUnit(4, 1 if unit == "bottleneck" else 4, 1, unit, order, "A", True, norm).eval()
    bare = ResidualUnit(4, 1 if unit == "bottleneck" else 4, 1, unit, order, "A", False, norm).eval()
    shake(with_skip)
    assert bare.load_state_dict(with_skip.state_dict())
    x = random_images(2, 4, 5, 5)
    with torch.no_grad():
        branch = bare.branch(bare.before(x))
        torch.testing.assert_close(bare(x), bare.after(branch.clone()))
        torch.testing.assert_close(with_skip(x), with_skip.after(branch + random_images(2, 4, 5, 5)))
    assert torch.equal(x, random_images(2, 4, 5, 5))


@pytest.mark.parametrize("order", ORDERS)
def test_shortcut_a_subsamples_the_input_as_it_came(order: str) -> None:
    unit = ResidualUnit(2, 3, 2, "basic", order, "A", True, "none")
    for layer in unit.branch:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    x = random_images(1, 2, 6, 6)
    carried = torch.cat([x[:, :, ::2, ::2], torch.zeros(1, 1, 3, 3)], dim=1)
    relu_last = order in ("original", "batch_norm_after_addition")
    assert torch.equal(unit(x), carried.relu() if relu_last else carried)


# The whole network


@pytest.mark.parametrize(
    ("depth", "settings", "count"),
    [
        (110, {"unit": "basic", "shortcut": "A"}, 1_727_962),  # 1.7 M, as ResNet-110's 3x3 kernels and norms
        (164, {"unit": "bottleneck", "shortcut": "B"}, 1_703_258),  # 1.70 M
        (1001, {"unit": "bottleneck", "shortcut": "B"}, 10_327_706),  # 10.33 M; the paper's Table 4 says 10.2
    ],
)
def test_networks_have_the_released_codes_parameters(depth: int, settings: dict[str, Any], count: int) -> None:
    """Counted from KaimingHe/resnet-1k-layers, resnet-pre-act.lua: projections without norm, no biases but the last."""
    with torch.device("meta"):
        network = PreResNet(DEPTHS[depth], [16, 32, 64], **settings)
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules())
    projections = 3 if settings["shortcut"] == "B" else 0
    assert layers == depth + projections

    by_formula, seen = 3 * 9 * 16, 16
    for width in (16, 32, 64):
        out = 4 * width if settings["unit"] == "bottleneck" else width
        for _ in range(DEPTHS[depth][0]):
            if settings["unit"] == "bottleneck":
                by_formula += 2 * seen + seen * width + 2 * width + 9 * width * width + 2 * width + width * out
                by_formula += seen * out if seen != out else 0
            else:
                by_formula += 2 * seen + 9 * seen * width + 2 * width + 9 * width * width
            seen = out
    by_formula += 2 * seen + seen * 10 + 10
    assert parameters(network) == by_formula == count


@pytest.mark.parametrize(
    ("depth", "settings", "count"),
    [
        (110, {"unit": "basic", "shortcut": "A"}, 1_727_962 + 14_238),
        (164, {"unit": "bottleneck", "shortcut": "B"}, 1_703_258 + 202_104),
    ],
)
def test_squeeze_and_excitation_adds_what_its_paper_counts(depth: int, settings: dict[str, Any], count: int) -> None:
    """Hu et al. 2018, Eq. 5: 2 / r times the squares of all units' channels; and biases, which it leaves out."""
    with torch.device("meta"):
        network = PreResNet(DEPTHS[depth], [16, 32, 64], se_reduction=16, **settings)
    channels = [16, 32, 64] if depth == 110 else [64, 128, 256]
    weights = sum(18 * 2 * wide**2 // 16 for wide in channels)
    biases = sum(18 * (wide // 16 + wide) for wide in channels)
    assert sum(parameters(module) for module in network.modules() if isinstance(module, SqueezeExcitation)) == (
        weights + biases
    )
    assert parameters(network) == count


@pytest.mark.parametrize("off", [{}, {"se_reduction": None}, {"se_reduction": 0}])
def test_without_squeeze_and_excitation_names_and_numbers_stay(off: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = PreResNet([1], [4], **off)
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert list(network.state_dict()) == [
        "conv1.weight",
        *(f"layer1.0.before.0.{name}" for name in norm),
        "layer1.0.branch.0.weight",
        *(f"layer1.0.branch.1.{name}" for name in norm),
        "layer1.0.branch.3.weight",
        *(f"before_pool.0.{name}" for name in norm),
        "fc.weight",
        "fc.bias",
    ]
    torch.manual_seed(0)
    excited = PreResNet([1], [4], se_reduction=2)
    assert set(excited.state_dict()) - set(network.state_dict()) == {
        f"layer1.0.se.{layer}.{name}" for layer in ("fc1", "fc2") for name in ("weight", "bias")
    }
    assert not excited.load_state_dict(network.state_dict(), strict=False).unexpected_keys
    images = random_images(2, 3, 8, 8)
    assert not torch.allclose(network.eval()(images), excited.eval()(images))


def test_one_layer_units_make_the_same_110_layers() -> None:
    with torch.device("meta"):
        network = PreResNet([36, 36, 36], [16, 32, 64], unit="single")
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == 110
    assert parameters(network) == 1_727_962


@pytest.mark.parametrize("order", ORDERS)
def test_all_orders_have_the_same_kernels(order: Any) -> None:
    def kernels(network: nn.Module) -> list[torch.Size]:
        return [layer.weight.shape for layer in network.modules() if isinstance(layer, nn.Conv2d)]

    with torch.device("meta"):
        ours, full = (
            PreResNet([2, 2], [4, 8], "bottleneck", which, shortcut="B") for which in (order, "full_preactivation")
        )
    assert kernels(ours) == kernels(full)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("se_reduction", [0, 2])
def test_the_original_order_is_resnets(block: Any, shortcut: Any, stem: Any, norm: Any, se_reduction: int) -> None:
    torch.manual_seed(0)
    settings = {"depths": [2, 1, 2], "widths": [4, 6, 8], "stem": stem, "shortcut": shortcut, "norm": norm}
    settings["se_reduction"] = se_reduction
    bottleneck = {"stride_on": "1x1"} if block == "bottleneck" else {}
    theirs = ResNet(num_classes=10, block=block, **bottleneck, **settings)
    ours = PreResNet(unit=block, order="original", **settings)
    shake(theirs)

    def places(network: nn.Module) -> list[nn.Module]:
        return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]

    def places_in_order_of_use(network: ResNet) -> list[nn.Module]:
        found = [network.conv1, network.bn1]
        for unit in network.blocks():
            for number in (1, 2, 3):
                found += [
                    getattr(unit, f"{kind}{number}") for kind in ("conv", "bn") if hasattr(unit, f"{kind}{number}")
                ]
            found += [unit.se.fc1, unit.se.fc2] if isinstance(unit.se, SqueezeExcitation) else []
            found += list(unit.downsample) if isinstance(unit.downsample, nn.Sequential) else []
        return [layer for layer in [*found, network.fc] if not isinstance(layer, nn.Identity)]

    for mine, other in zip(places(ours), places_in_order_of_use(theirs), strict=True):
        mine.load_state_dict(other.state_dict())
    images = random_images(4, 3, 64, 64)
    for training in (False, True):
        with torch.inference_mode():
            expected = theirs.train(training)(images)
            torch.testing.assert_close(ours.train(training)(images), expected, rtol=1e-4, atol=1e-4)


def released_network(network: PreResNet, images: Tensor) -> Tensor:
    """resnet-pre-act.lua as a straight line: units that change the shape normalise and activate before they split."""

    def bn(y: Tensor, layer: nn.Module) -> Tensor:
        return F.batch_norm(y, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)

    x = F.conv2d(images, network.conv1.weight, padding=1)
    for stage in (1, 2, 3):
        for index, unit in enumerate(getattr(network, f"layer{stage}")):
            stride = 2 if stage > 1 and index == 0 else 1
            norms = [unit.before[0], unit.branch[1], unit.branch[4]]
            kernels = [unit.branch[0].weight, unit.branch[3].weight, unit.branch[6].weight]
            activated = bn(x, norms[0]).relu()
            y = F.conv2d(activated, kernels[0], stride=stride)
            y = F.conv2d(bn(y, norms[1]).relu(), kernels[1], padding=1)
            y = F.conv2d(bn(y, norms[2]).relu(), kernels[2])
            x = y + (F.conv2d(activated, unit.shortcut.weight, stride=stride) if index == 0 else x)
    return network.fc(bn(x, network.before_pool[0]).relu().mean((2, 3)))


def test_full_preactivation_is_the_released_code() -> None:
    torch.manual_seed(0)
    network = PreResNet([2, 3, 2], [4, 6, 8], unit="bottleneck", shortcut="B").eval()
    shake(network)
    images = random_images(3, 3, 32, 32)
    with torch.no_grad():
        expected = released_network(network, images)
        assert not torch.allclose(expected[0], expected[1], rtol=0.1)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_first_and_last_activation(order: Any) -> None:
    """The paper's appendix: the first unit splits after its activation, the last unit is followed by another."""
    network = PreResNet([2, 1], [4, 4], order=order, norm="none").eval()
    for unit in [module for module in network.modules() if isinstance(module, ResidualUnit)]:
        for layer in unit.branch:
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.weight)
    seen: dict[str, Tensor] = {}
    network.layer1[0].register_forward_hook(lambda _, inputs, output: seen.update(first=output.clone()))
    images = random_images(2, 3, 8, 8)
    with torch.no_grad():
        stem = network.conv1(images)
        assert stem.min() < 0
        features = network.features(images)
        torch.testing.assert_close(seen["first"], stem.relu())
        torch.testing.assert_close(features, stem.relu()[:, :, ::2, ::2])
    assert any(isinstance(layer, nn.ReLU) for layer in network.before_pool) == (order in PREACTIVATED)


@pytest.mark.parametrize("order", ORDERS)
def test_plain_networks_have_the_parameters_of_shortcut_a(order: Any) -> None:
    torch.manual_seed(0)
    residual, plain = (PreResNet([2, 2], [4, 8], order=order, skip=skip) for skip in (True, False))
    plain.load_state_dict(residual.state_dict())
    for network in (plain.eval(), residual.eval()):
        units = [module for module in network.modules() if isinstance(module, ResidualUnit)]
        assert len(units) == 4
        for unit in units:
            nn.init.zeros_(unit.last_convolution.weight)
    one, two = random_images(1, 3, 8, 8), random_images(1, 3, 8, 8, seed=1)
    assert torch.equal(plain(one), plain(two))  # nothing reaches the end of a network of silent branches
    assert not torch.allclose(residual(one), residual(two))


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("unit", ["single", "basic", "bottleneck"])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("order", ORDERS)
def test_every_combination_of_switches_trains(order: Any, norm: Any, unit: Any, shortcut: Any) -> None:
    torch.manual_seed(0)
    for skip, stem, reduction in ((True, "cifar", None), (True, "cifar", 4), (False, "imagenet", 4)):
        network = PreResNet(
            [1, 2], [8, 12], unit=unit, order=order, stem=stem, shortcut=shortcut, skip=skip, norm=norm,
            se_reduction=reduction, dropout=0.2, in_channels=1, num_classes=7,
        )  # fmt: skip
        assert norm == "batch" or not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        for size in (32, 45):
            logits = network(random_images(4, 1, size, size))
            assert logits.shape == (4, 7)
            network.zero_grad()
            network.loss(logits, torch.arange(4)).backward()
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name


def test_logit_maps_are_the_network_at_every_place() -> None:
    torch.manual_seed(0)
    network = PreResNet([1, 1, 1], [4, 6, 8], dropout=0.5, num_classes=5).eval()
    shake(network)
    images = random_images(2, 3, 32, 32)
    torch.testing.assert_close(network.logit_maps(images)[:, :, 0, 0], network(images))
    larger = random_images(2, 3, 40, 48)
    maps, features = network.logit_maps(larger), network.features(larger)
    assert maps.shape == (2, 5, 10 - 8 + 1, 12 - 8 + 1)
    torch.testing.assert_close(maps[:, :, 2, 3], network.fc(features[:, :, 2:10, 3:11].mean((2, 3))))


def test_without_norms_the_features_stay_small_however_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(4, 3, 32, 32)

    def spread(depth: int) -> float:
        torch.manual_seed(0)
        with torch.inference_mode():
            return PreResNet([depth] * 3, [16, 32, 64], norm="none").features(images).square().mean().sqrt().item()

    calm = {depth: spread(depth) for depth in (1, 3, 18)}
    assert max(calm.values()) < 3 * min(calm.values())
    monkeypatch.setattr(preresnet, "calm_branches", lambda _: None)
    assert spread(18) > 1000 * calm[18]


def test_a_thousand_and_one_layers_train() -> None:
    torch.manual_seed(0)
    network = PreResNet(DEPTHS[1001], [16, 32, 64], unit="bottleneck", shortcut="B")
    loss = network.loss(network(random_images(2, 3, 16, 16)), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    assert network.conv1.weight.grad is not None
    assert network.conv1.weight.grad.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "triple"}, "unit (=triple) must be one of single, basic, bottleneck."),
        ({"order": "post"}, f"order (=post) must be one of {', '.join(get_args(Order))}."),
        ({"stem": "mnist"}, "stem (=mnist) must be one of cifar, imagenet."),
        ({"shortcut": "C"}, "shortcut (=C) must be one of A, B."),
        ({"norm": "layer"}, "norm (=layer) must be one of none, batch."),
        ({"depths": [1]}, "depths (=[1]) and widths (=[4, 8]) must name the same stages, 1 to 4 of them."),
        ({"depths": [1, 0]}, "depths (=[1, 0]) must be at least 1 block in every stage."),
        ({"widths": [0, 4]}, "widths (=[0, 4]) must be at least 1 channel in every stage."),
        (
            {"se_reduction": 16},
            "se_reduction (=16) must lie between 1 and the 4 channels of every block, or be 0 for no "
            "squeeze-and-excitation.",
        ),
        (
            {"se_reduction": -1},
            "se_reduction (=-1) must lie between 1 and the 4 channels of every block, or be 0 for no "
            "squeeze-and-excitation.",
        ),
        ({"widths": [8, 4]}, "shortcut A pads channels, so widths must not shrink: 8 to 4. Use B."),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        PreResNet(**{"depths": [1, 1], "widths": [4, 8], **settings})
    assert str(refusal.value) == message
