"""Residual networks against the paper's counts, torchvision's logits, and blocks whose outcome is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from models import resnet
from models.resnet import BasicBlock, BlurredConv2d, Bottleneck, ResNet, SqueezeExcitation, ZeroPadShortcut

WIDTHS = [64, 128, 256, 512]
CIFAR_WIDTHS = [16, 32, 64]


def cifar(depth: int, **settings: Any) -> ResNet:
    """The network of section 4.2 with `depth` = 6n + 2 weighted layers, shortcut A."""
    blocks = [(depth - 2) // 6] * 3
    return ResNet(blocks, CIFAR_WIDTHS, **{"stem": "cifar", "shortcut": "A", "num_classes": 10, **settings})


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ImageNet networks


DEEP = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
SETTINGS: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": [2, 2, 2, 2]},
    "resnet34": {"depths": [3, 4, 6, 3]},
    "resnet50": {"depths": DEEP[50], "block": "bottleneck"},
    "resnet101": {"depths": DEEP[101], "block": "bottleneck"},
    "resnet152": {"depths": DEEP[152], "block": "bottleneck"},
    "resnext50_32x4d": {"depths": DEEP[50], "block": "bottleneck", "groups": 32, "group_width": 4},
    "resnext101_32x8d": {"depths": DEEP[101], "block": "bottleneck", "groups": 32, "group_width": 8},
    "resnext101_64x4d": {"depths": DEEP[101], "block": "bottleneck", "groups": 64, "group_width": 4},
    "wide_resnet50_2": {"depths": DEEP[50], "block": "bottleneck", "group_width": 128},
    "wide_resnet101_2": {"depths": DEEP[101], "block": "bottleneck", "group_width": 128},
}  # by torchvision's names
COUNTS = {  # `num_params` of torchvision's published weights
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_layers_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = ResNet(widths=WIDTHS, **SETTINGS[name]), torchvision.models.get_model(name, weights=None)
    assert shapes(ours) == shapes(theirs)
    assert parameters(ours) == parameters(theirs) == COUNTS[name]
    assert torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta["num_params"] == COUNTS[name]


def shake_norms(network: nn.Module) -> None:
    """Give norms scales, shifts and statistics that show: those of a new network do nothing in eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)


def assert_same_logits(ours: nn.Module, theirs: nn.Module) -> None:
    """In both modes, and what the norms have learned from that."""
    images = random_images(4, 3, 64, 64)
    for training in (False, True):
        with torch.inference_mode():
            found, expected = ours.train(training)(images), theirs.train(training)(images)
        assert not torch.allclose(expected[0], expected[1], rtol=0.1)  # the image shows in the logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    for ours_seen, theirs_seen in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours_seen, theirs_seen)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"])
def test_torchvisions_weights_give_torchvisions_logits(name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None)
    shake_norms(theirs)
    with torch.device("meta"):
        ours = ResNet(widths=WIDTHS, **SETTINGS[name])
    ours.load_state_dict({name: tensor.clone() for name, tensor in theirs.state_dict().items()}, assign=True)
    assert_same_logits(ours, theirs)


def test_stride_on_1x1_is_the_papers_bottleneck() -> None:
    with torch.device("meta"):
        paper, later = (ResNet(widths=WIDTHS, stride_on=on, **SETTINGS["resnet50"]) for on in ("1x1", "3x3"))
    assert shapes(paper) == shapes(later)
    strides = [(block.conv1.stride, block.conv2.stride) for block in paper.blocks()]
    one, two = (1, 1), (2, 2)
    assert [index for index, found in enumerate(strides) if found == (two, one)] == [3, 3 + 4, 3 + 4 + 6]
    assert strides.count((one, one)) == 13

    torch.manual_seed(0)
    block = Bottleneck(8, 4, 2, 4, 1, "1x1", "B", True, "batch")
    x = random_images(2, 8, 6, 6)
    unseen = x.clone()
    unseen[:, :, 1::2], unseen[:, :, :, 1::2] = 9.0, 9.0  # three quarters of the pixels
    assert torch.equal(block(x), block(unseen))
    later_block = Bottleneck(8, 4, 2, 4, 1, "3x3", "B", True, "batch")
    assert not torch.equal(later_block(x), later_block(unseen))


@pytest.mark.parametrize(("name", "count"), [("seresnet50", 28_088_024), ("seresnet101", None), ("seresnet152", None)])
def test_se_resnets_have_timms_parameters(name: str, count: int | None) -> None:
    with torch.device("meta"):
        depths = DEEP[int(name.removeprefix("seresnet"))]
        ours = ResNet(depths, WIDTHS, block="bottleneck", se_reduction=16)
        theirs = timm.create_model(name)
    assert parameters(ours) == parameters(theirs)
    assert count in (None, parameters(ours))


def test_timms_se_resnet_50_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("seresnet50")
    shake_norms(theirs)
    with torch.device("meta"):
        ours = ResNet(widths=WIDTHS, se_reduction=16, **SETTINGS["resnet50"])
    state = {}
    for name, tensor in theirs.state_dict().items():  # timm's are 1x1 convolutions, ours linear layers
        state[name] = tensor.flatten(1) if ".se." in name and tensor.ndim == 4 else tensor.clone()
    ours.load_state_dict(state, assign=True)
    assert_same_logits(ours, theirs)


def test_groups_see_their_own_channels_only() -> None:
    """ResNeXt's cardinality: the second of two groups hears nothing of the first."""
    block = Bottleneck(4, 2, 1, 4, 2, "3x3", "B", False, "none")
    maps = random_images(1, 4, 5, 5)
    other = maps.clone()
    other[:, :2] += 1
    before, after = block.conv2(maps), block.conv2(other)
    assert torch.equal(before[:, 2:], after[:, 2:])
    assert not torch.allclose(before[:, :2], after[:, :2])
    with torch.device("meta"):
        network = ResNet(widths=WIDTHS, **SETTINGS["resnext50_32x4d"])
    middle = [block.conv2 for block in network.blocks()]
    assert {layer.groups for layer in middle} == {32}
    assert sorted({layer.out_channels for layer in middle}) == [128, 256, 512, 1024]  # Xie et al. 2017, Table 1
    assert sorted({layer.weight.shape[1] for layer in middle}) == [4, 8, 16, 32]  # channels of a group


# CIFAR networks


def parameters_of_section_4_2(n: int) -> int:
    """3x3 kernels and two numbers per norm channel: stem, 2n layers in each of three stages, linear layer."""
    count = 9 * 3 * 16 + 2 * 16
    for seen, width in ((16, 16), (16, 32), (32, 64)):
        count += 9 * seen * width + (2 * n - 1) * 9 * width * width + 2 * n * 2 * width
    return count + 64 * 10 + 10


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_networks_have_the_papers_layers_and_parameters(depth: int, millions: float) -> None:
    with torch.device("meta"):
        network = cifar(depth)
    assert parameters(network) == parameters_of_section_4_2((depth - 2) // 6)
    assert round(parameters(network) / 1e6, 1 if depth == 110 else 2) == millions  # Table 6
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == depth


def test_resnet_1202_has_19_421_274_parameters() -> None:
    with torch.device("meta"):
        network = cifar(1202)
    assert parameters(network) == parameters_of_section_4_2(200) == 19_421_274  # 19.4 M in Table 6


def test_resnext_29_8x64d_has_the_papers_parameters() -> None:
    """Xie et al. 2017, Table 7: 34.4 M; a stem of 64 channels and three stages of 3 blocks."""
    with torch.device("meta"):
        network = ResNet([3, 3, 3], [64, 128, 256], block="bottleneck", groups=8, stem="cifar", num_classes=10)
    assert round(parameters(network) / 1e6, 1) == 34.4
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == 29 + 3  # and three projections


def test_cifar_resnet_20_has_269_722_parameters() -> None:
    assert parameters(cifar(20)) == 269_722
    assert parameters(cifar(20, shortcut="B")) == 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def test_cifar_stages_see_the_papers_map_sizes() -> None:
    network = cifar(20)
    found = []
    for name in ("conv1", "layer1", "layer2", "layer3"):
        getattr(network, name).register_forward_hook(lambda _, inputs, output: found.append(tuple(output.shape[1:])))
    assert network(random_images(1, 3, 32, 32)).shape == (1, 10)
    assert found == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


# Shortcuts


def test_a_plain_network_has_the_layers_of_the_residual_one() -> None:
    assert shapes(cifar(20, skip=False)) == shapes(cifar(20))
    projections = sum(seen * width + 2 * width for seen, width in ((16, 32), (32, 64)))  # kernels and norms
    assert parameters(cifar(20, shortcut="B")) - parameters(cifar(20, shortcut="B", skip=False)) == projections


def silenced(block: nn.Module) -> nn.Module:
    """The block with every 3x3 kernel zero: nothing but its shortcut is left."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return block


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_silent_block_passes_its_input_and_without_a_skip_nothing(norm: str) -> None:
    x = random_images(2, 4, 6, 6)
    assert torch.equal(silenced(BasicBlock(4, 4, 1, "A", True, norm))(x), x.relu())
    assert torch.equal(silenced(BasicBlock(4, 4, 1, "A", False, norm))(x), torch.zeros(2, 4, 6, 6))


def test_a_silent_block_that_changes_the_shape_passes_its_shortcut() -> None:
    x = random_images(2, 4, 6, 6)
    padded = silenced(BasicBlock(4, 8, 2, "A", True, "none"))(x)
    assert torch.equal(padded, torch.cat([x[:, :, ::2, ::2].relu(), torch.zeros(2, 4, 3, 3)], dim=1))
    assert not silenced(BasicBlock(4, 8, 2, "A", False, "none"))(x).any()

    block = silenced(BasicBlock(4, 8, 2, "B", True, "none"))
    projection, bias = block.downsample[0].weight[:, :, 0, 0], block.downsample[0].bias
    by_hand = torch.einsum("oc,bchw->bohw", projection, x[:, :, ::2, ::2]) + bias[:, None, None]
    torch.testing.assert_close(block(x), by_hand.relu())


def test_bottlenecks_without_a_skip_lose_the_identity_paths_and_nothing_else() -> None:
    network = ResNet([2, 1], [4, 8], block="bottleneck", shortcut="A", stem="cifar")
    plain = ResNet([2, 1], [4, 8], block="bottleneck", shortcut="A", stem="cifar", skip=False)
    assert shapes(network) == shapes(plain)
    plain.load_state_dict(network.state_dict())
    for ours, bare in zip(network.blocks(), plain.blocks(), strict=True):
        x = random_images(2, ours.conv1.in_channels, 6, 6)
        with torch.no_grad():
            branch = ours.bn3(ours.conv3(ours.bn2(ours.conv2(ours.bn1(ours.conv1(x)).relu())).relu()))
            torch.testing.assert_close(bare(x), branch.relu())
            stride = ours.conv2.stride[0]
            padding = torch.zeros(2, ours.out_channels - x.shape[1], *branch.shape[2:])
            shortcut = torch.cat([x[:, :, ::stride, ::stride], padding], dim=1)
            torch.testing.assert_close(ours(x), (branch + shortcut).relu())


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_shortcut_c_projects_in_every_block(block: Any) -> None:
    with torch.device("meta"):
        b, c = (ResNet([2, 3], [8, 16], block=block, shortcut=shortcut) for shortcut in ("B", "C"))
    assert all(isinstance(unit.downsample, nn.Sequential) for unit in c.blocks())
    out = [unit.out_channels for unit in c.blocks()]
    added = [(0 if block == "bottleneck" else 1, out[0]), (1, out[1]), (2, out[3])]  # of blocks with an identity in b
    assert parameters(c) - parameters(b) == sum(count * (width * width + 2 * width) for count, width in added)

    unit = silenced(BasicBlock(4, 4, 1, "C", True, "none"))
    nn.init.constant_(unit.downsample[0].weight, 2.0)  # every channel twice the sum of all
    nn.init.zeros_(unit.downsample[0].bias)
    x = random_images(2, 4, 5, 5)
    torch.testing.assert_close(unit(x), (2 * x.sum(1, keepdim=True)).relu().expand(2, 4, 5, 5))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_init_residual_starts_blocks_as_their_shortcuts(block: Any) -> None:
    network = ResNet([2, 2], [4, 8], block=block, shortcut="A", stem="cifar", zero_init_residual=True)
    images = random_images(2, 3, 8, 8)
    with torch.no_grad():
        stem = network.bn1(network.conv1(images)).relu()
        carried = F.pad(stem[:, :, ::2, ::2], (0, 0, 0, 0, 0, network.fc.in_features - 4))
        torch.testing.assert_close(network.features(images), carried)
    for unit in network.blocks():
        assert not unit.last_norm.weight.any()
        unit.last_norm.weight.grad = None
    network(images).sum().backward()
    assert all(unit.last_norm.weight.grad.any() for unit in network.blocks())  # and they can leave that place


def test_a_plain_network_of_silent_blocks_is_blind() -> None:
    images = random_images(2, 3, 32, 32)
    plain, residual = (cifar(20, norm="none", skip=skip) for skip in (False, True))
    for stage in ("layer1", "layer2", "layer3"):
        silenced(getattr(plain, stage))
        silenced(getattr(residual, stage))
    assert torch.equal(plain(images), plain.fc.bias.expand(2, 10))
    stem = residual.conv1(images).relu()[:, :, ::4, ::4].mean((2, 3))  # two stages halve what the skips carry
    torch.testing.assert_close(residual(images), stem @ residual.fc.weight[:, :16].T + residual.fc.bias)


def test_shortcut_a_by_hand() -> None:
    image = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    zeros = [[0.0, 0.0], [0.0, 0.0]]
    assert ZeroPadShortcut(1, 3, 2)(image).tolist() == [[[[1.0, 3.0], [9.0, 11.0]], zeros, zeros]]
    assert ZeroPadShortcut(1, 1, 2)(image[:, :, :3, :3]).tolist() == [[[[1.0, 3.0], [9.0, 11.0]]]]
    assert torch.equal(ZeroPadShortcut(1, 2, 1)(image)[:, :1], image)


def test_shortcut_a_and_convolutions_agree_on_odd_sizes() -> None:
    network = cifar(8)
    for height, width in ((28, 28), (27, 31), (7, 5), (1, 1)):
        assert network.eval()(random_images(1, 3, height, width)).shape == (1, 10)


def test_shortcut_a_cannot_drop_channels() -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        ResNet([1, 1], [32, 16], stem="cifar", shortcut="A")
    assert str(refusal.value) == "shortcut A pads channels, so widths must not shrink: 32 to 16. Use B."
    assert ResNet([1, 1], [32, 16], stem="cifar", shortcut="B")(random_images(2, 3, 8, 8)).shape == (2, 1000)


# Squeeze-and-excitation, blur


def test_squeeze_and_excitation_by_hand() -> None:
    layer = SqueezeExcitation(2, 2)
    nn.init.constant_(layer.fc1.weight, 1.0)
    nn.init.constant_(layer.fc1.bias, -1.0)
    layer.fc2.weight.data = torch.tensor([[1.0], [-1.0]])
    nn.init.zeros_(layer.fc2.bias)
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # means 2 and 1, hidden 2 + 1 - 1 = 2
    up, down = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))
    torch.testing.assert_close(layer(x), torch.tensor([[[[up, 3 * up]], [[0.0, 2 * down]]]]))


def test_blur_by_hand() -> None:
    layer = BlurredConv2d(1, 1, 1, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 1] = 16.0
    # [1 2 1] x [1 2 1] around that pixel, of which every other row and column is left
    assert layer(image)[0, 0].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 2, 0] = 16.0
    assert layer(image)[0, 0].tolist() == [[0.0, 0.0], [4.0, 0.0]]


def test_blur_keeps_channels_apart_and_comes_before_what_halves_the_image_in_blocks() -> None:
    layer = BlurredConv2d(3, 5, 3, stride=2, padding=1)
    x = random_images(2, 3, 9, 8)
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
    smooth = torch.cat([F.conv2d(x[:, [c]], kernel[None, None], padding=1) for c in range(3)], dim=1)
    torch.testing.assert_close(layer(x), F.conv2d(smooth, layer.weight, layer.bias, stride=2, padding=1))

    with torch.device("meta"):
        plain, blurred = (ResNet(widths=WIDTHS, blur=blur, **SETTINGS["resnet50"]) for blur in (False, True))
    assert shapes(plain) == shapes(blurred)
    names = {name for name, module in blurred.named_modules() if isinstance(module, BlurredConv2d)}
    assert names == {f"layer{stage}.0.{layer}" for stage in (2, 3, 4) for layer in ("conv2", "downsample.0")}


# Logit maps


@pytest.mark.parametrize(
    ("settings", "size", "larger"),
    [
        ({"depths": [1, 1, 1], "widths": [4, 6, 8], "stem": "cifar"}, 32, 40),
        ({"depths": [1, 1, 1, 1], "widths": [4, 4, 6, 8], "stem": "cifar"}, 32, 40),
        ({"depths": [1, 1, 1, 1], "widths": [4, 4, 6, 8], "block": "bottleneck"}, 224, 288),
    ],
)
def test_logit_maps_are_the_network_at_every_place(settings: dict[str, Any], size: int, larger: int) -> None:
    torch.manual_seed(0)
    network = ResNet(num_classes=5, dropout=0.5, **settings).eval()
    shake_norms(network)
    images = random_images(2, 3, size, size)
    maps = network.logit_maps(images)
    assert maps.shape == (2, 5, 1, 1)
    torch.testing.assert_close(maps[:, :, 0, 0], network(images))

    images = random_images(2, 3, larger, larger + 32)
    maps = network.logit_maps(images)
    with torch.no_grad():
        features = network.features(images)
    native = network.features(images[:, :, :size, :size]).shape[2]
    assert maps.shape == (2, 5, features.shape[2] - native + 1, features.shape[3] - native + 1)
    for row, column in ((0, 0), (maps.shape[2] - 1, maps.shape[3] - 1), (0, 1)):
        window = features[:, :, row : row + native, column : column + native]
        torch.testing.assert_close(maps[:, :, row, column], network.fc(window.mean((2, 3))))


def test_logit_maps_of_a_small_image_have_one_place() -> None:
    network = cifar(8).eval()
    images = random_images(2, 3, 16, 16)
    torch.testing.assert_close(network.logit_maps(images)[:, :, 0, 0], network(images))


# Stages, stems, norms, dropout


@pytest.mark.parametrize(("depths", "widths"), [([], []), ([1, 1], [16]), ([1], [16, 32]), ([1] * 5, [16] * 5)])
def test_stages_that_do_not_match_are_refused(depths: list[int], widths: list[int]) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        ResNet(depths, widths)
    assert str(refusal.value) == (
        f"depths (={depths}) and widths (={widths}) must name the same stages, 1 to 4 of them."
    )


def test_without_norms_convolutions_have_biases() -> None:
    normed, bare = ResNet([1, 1], [8, 12]), ResNet([1, 1], [8, 12], norm="none")
    convolutions = [module for module in bare.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 1 + 2 * 2 + 1
    assert all(module.bias is not None and not module.bias.any() for module in convolutions)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in bare.modules())
    assert not any(module.bias is not None for module in normed.modules() if isinstance(module, nn.Conv2d))
    channels = 8 * 3 + 12 * 3  # a bias each, where a norm has a scale and a shift
    assert parameters(normed) - parameters(bare) == channels


BOTTLENECK = {"block": "bottleneck", "groups": 2, "group_width": 32}


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize("block", [{}, BOTTLENECK, BOTTLENECK | {"stride_on": "1x1"}])
@pytest.mark.parametrize(("stem", "in_channels"), [("cifar", 1), ("imagenet", 3)])
def test_every_combination_of_switches_trains(
    stem: Any, in_channels: int, block: dict[str, Any], shortcut: Any, skip: bool, norm: Any
) -> None:
    torch.manual_seed(0)
    switches = {"stem": stem, "shortcut": shortcut, "skip": skip, "norm": norm, "dropout": 0.2, **block}
    extra = {"se_reduction": 4, "blur": True} if shortcut == "B" else {}
    network = ResNet([1, 2], [8, 12], in_channels=in_channels, num_classes=7, **switches, **extra)
    for size in (32, 45):
        logits = network(random_images(4, in_channels, size, size))
        assert logits.shape == (4, 7)
        network.zero_grad()
        network.loss(logits, torch.arange(4)).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_without_norms_the_logits_stay_small_however_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches of variance 1/L make (1 + 1/L)^L < e of a variance of 1, equal ones 2^L."""
    images = random_images(4, 3, 32, 32)

    def spread(depth: int) -> float:
        torch.manual_seed(0)
        network = cifar(depth, norm="none").eval()
        with torch.inference_mode():
            return network.features(images).square().mean().sqrt().item()

    calm = {depth: spread(depth) for depth in (8, 20, 110)}
    assert max(calm.values()) < 3 * min(calm.values())
    monkeypatch.setattr(resnet, "calm_branches", lambda _: None)
    assert spread(110) > 1000 * calm[110]


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_calmed_branches_are_divided_by_the_root_of_their_number(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    calm = ResNet([2, 1], [8, 8], block=block, norm="none")
    monkeypatch.setattr(resnet, "calm_branches", lambda _: None)
    torch.manual_seed(0)
    loud = ResNet([2, 1], [8, 8], block=block, norm="none")
    layer = "conv2" if block == "basic" else "conv3"
    last = {f"{unit}.{layer}.weight" for unit in ("layer1.0", "layer1.1", "layer2.0")}
    assert last <= set(loud.state_dict())
    for name, tensor in loud.state_dict().items():
        torch.testing.assert_close(calm.state_dict()[name], tensor / math.sqrt(3) if name in last else tensor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": "deep"}, "block (=deep) must be one of basic, bottleneck."),
        ({"stem": "mnist"}, "stem (=mnist) must be one of cifar, imagenet."),
        ({"shortcut": "D"}, "shortcut (=D) must be one of A, B, C."),
        ({"stride_on": "5x5"}, "stride_on (=5x5) must be one of 1x1, 3x3."),
        ({"norm": "layer"}, "norm (=layer) must be one of none, batch."),
        ({"depths": [1, 0]}, "depths (=[1, 0]) must be at least 1 block in every stage."),
        ({"widths": [8, 0]}, "widths (=[8, 0]) must be at least 1 channel in every stage."),
        ({"groups": 0}, "groups (=0) and group_width (=64) must be at least 1: 1 and 64 for ResNet."),
        (
            {"groups": 2},
            "groups (=2), group_width (=64) and stride_on (=3x3) belong to block: bottleneck; with block: basic leave "
            "them at 1, 64 and 3x3.",
        ),
        (
            {"stride_on": "1x1"},
            "groups (=1), group_width (=64) and stride_on (=1x1) belong to block: bottleneck; with block: basic leave "
            "them at 1, 64 and 3x3.",
        ),
        (
            {"block": "bottleneck", "groups": 32, "group_width": 4},
            "group_width (=4) must be at least 64 / 8 where widths has 8, so that each group holds a channel: it "
            "counts where widths is 64, and is in proportion elsewhere.",
        ),
        (
            {"se_reduction": 16},
            "se_reduction (=16) must lie between 1 and the 8 channels of every block, or be 0 for no "
            "squeeze-and-excitation.",
        ),
        (
            {"se_reduction": -1},
            "se_reduction (=-1) must lie between 1 and the 8 channels of every block, or be 0 for no "
            "squeeze-and-excitation.",
        ),
        (
            {"zero_init_residual": True, "norm": "none"},
            "zero_init_residual (=True) needs norm: batch (=none), whose scales it sets, and skip: true (=True), "
            "without which every block would be silent for ever: set it to false.",
        ),
        (
            {"zero_init_residual": True, "skip": False},
            "zero_init_residual (=True) needs norm: batch (=batch), whose scales it sets, and skip: true (=False), "
            "without which every block would be silent for ever: set it to false.",
        ),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        ResNet(**{"depths": [1, 1], "widths": [8, 16], **settings})
    assert str(refusal.value) == message


def test_the_input_is_left_as_it_was() -> None:
    """ReLUs that work in place must not reach what a skip still needs, nor the caller's tensor."""
    x = random_images(2, 4, 6, 6)
    for skip in (True, False):
        for norm in ("none", "batch"):
            BasicBlock(4, 4, 1, "A", skip, norm)(x)
            assert torch.equal(x, random_images(2, 4, 6, 6))
            Bottleneck(4, 1, 1, 4, 1, "3x3", "A", skip, norm)(x)
            assert torch.equal(x, random_images(2, 4, 6, 6))


def test_dropout_acts_in_training_only() -> None:
    network = ResNet([1], [64], stem="cifar", norm="none", dropout=0.5)
    images = random_images(1, 3, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_convolutions_start_with_hes_variance() -> None:
    torch.manual_seed(0)
    network = cifar(20)
    checked = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            fan_out = 9 * module.out_channels
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.06)
            checked += 1
    assert checked == 18
