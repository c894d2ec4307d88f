"""Residual networks against the paper's counts, torchvision's logits, and blocks whose outcome is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.resnet import BasicBlock, ResNet, ZeroPadShortcut

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


@pytest.mark.parametrize(
    ("depths", "name", "count"), [([2, 2, 2, 2], "resnet18", 11_689_512), ([3, 4, 6, 3], "resnet34", 21_797_672)]
)
def test_layers_are_torchvisions(depths: list[int], name: str, count: int) -> None:
    with torch.device("meta"):
        ours, theirs = ResNet(depths, WIDTHS), torchvision.models.get_model(name, weights=None)
    assert shapes(ours) == shapes(theirs)
    assert parameters(ours) == parameters(theirs) == count


@pytest.mark.parametrize(("depths", "name"), [([2, 2, 2, 2], "resnet18"), ([3, 4, 6, 3], "resnet34")])
def test_torchvisions_weights_give_torchvisions_logits(depths: list[int], name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None)
    for module in theirs.modules():  # a new network's norms do nothing in eval mode
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)
    with torch.device("meta"):
        ours = ResNet(depths, WIDTHS)
    ours.load_state_dict({name: tensor.clone() for name, tensor in theirs.state_dict().items()}, assign=True)
    images = random_images(4, 3, 64, 64)
    for training in (False, True):
        with torch.inference_mode():
            found, expected = ours.train(training)(images), theirs.train(training)(images)
        assert not torch.allclose(expected[0], expected[1], rtol=0.1)  # the image shows in the logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    for ours_seen, theirs_seen in zip(ours.buffers(), theirs.buffers(), strict=True):  # what the norms have learned
        torch.testing.assert_close(ours_seen, theirs_seen)


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


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize(("stem", "in_channels"), [("cifar", 1), ("imagenet", 3)])
def test_every_combination_of_switches_trains(
    stem: Any, in_channels: int, shortcut: Any, skip: bool, norm: Any
) -> None:
    torch.manual_seed(0)
    switches = {"stem": stem, "shortcut": shortcut, "skip": skip, "norm": norm, "dropout": 0.2}
    network = ResNet([1, 2], [8, 12], in_channels=in_channels, num_classes=7, **switches)
    logits = network(random_images(4, in_channels, 32, 32))
    assert logits.shape == (4, 7)
    network.loss(logits, torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_input_is_left_as_it_was() -> None:
    """ReLUs that work in place must not reach what a skip still needs, nor the caller's tensor."""
    x = random_images(2, 4, 6, 6)
    for skip in (True, False):
        for norm in ("none", "batch"):
            BasicBlock(4, 4, 1, "A", skip, norm)(x)
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
