"""BN-Inception against the counts of the network that others released, and modules worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.inception import MODULES, BNInception, Inception
from models.resnet import SqueezeExcitation


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_layers_are_those_of_the_released_network() -> None:
    """The Caffe network, ported to PyTorch as `bninception`, has 11 295 240 parameters, with biases before norms."""
    with torch.device("meta"):
        network, bare = BNInception().eval(), BNInception(norm="none")
        image = torch.empty(1, 3, 224, 224)
    biases = sum(module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    assert parameters(network) + biases == 11_295_240
    assert parameters(bare) == parameters(network) - biases  # a bias where a norm has a scale and a shift
    assert [module.out_channels for module in network.inception] == [
        256,
        320,
        576,
        576,
        576,
        608,
        608,
        1056,
        1024,
        1024,
    ]
    with FlopCounterMode(display=False) as counted:
        assert network(image).shape == (1, 1000)
    assert counted.get_total_flops() / 2e9 == pytest.approx(2.03, abs=0.005)  # GMAC


def test_maps_have_the_papers_sizes() -> None:
    network, sizes = BNInception(num_classes=10).eval(), []
    for module in network.inception:
        module.register_forward_hook(lambda _, inputs, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        assert network(random_images(1, 3, 224, 224)).shape == (1, 10)
    assert sizes == [28, 28, 14, 14, 14, 14, 14, 7, 7, 7]


@pytest.mark.parametrize(
    ("norm", "skip", "dropout"), [("batch", False, 0.0), ("none", True, 0.3), ("batch", True, 0.0)]
)
def test_every_switch_trains_at_another_size(norm: Any, skip: bool, dropout: float) -> None:
    torch.manual_seed(0)
    network = BNInception(norm=norm, skip=skip, dropout=dropout, in_channels=1, num_classes=7)
    logits = network(random_images(2, 1, 64, 72))
    network.loss(logits, torch.tensor([0, 6])).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def silenced(module: Inception) -> Inception:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return module


def test_a_silent_module_passes_its_input_only_with_a_skip() -> None:
    x = random_images(2, 16, 6, 6)
    with_skip, without = (
        silenced(Inception(16, 1, 4, 2, 4, 2, 4, "average", 4, skip, "none")) for skip in (True, False)
    )
    assert torch.equal(with_skip(x), x)
    assert not without(x).any()
    halving = silenced(Inception(16, 2, 0, 2, 4, 2, 4, "max", 0, True, "none"))(x)  # nothing to add, pooling passes
    assert not halving[:, :8].any()
    assert torch.equal(halving[:, 8:], nn.functional.max_pool2d(x, 3, 2, 1))


def test_a_skip_has_no_parameters() -> None:
    with torch.device("meta"):
        assert parameters(BNInception(skip=True)) == parameters(BNInception(skip=False))
        added = [module.skip for module in BNInception(skip=True).inception]
    assert [row[0] for row, skip in zip(MODULES, added, strict=True) if skip] == ["4a", "4b", "4d", "5b"]


def test_squeeze_and_excitation_follows_every_module() -> None:
    """Two linear layers per module; and closed gates, whose factors are 1/2, halve what a module says."""
    with torch.device("meta"):
        network = BNInception(se_reduction=16)
        added = parameters(network) - parameters(BNInception())
    widths = [module.out_channels for module in network.inception]
    assert added == sum(2 * width * (width // 16) + width // 16 + width for width in widths) == 646_398
    megabytes = 4 * 11_931_622 / 2**20
    assert 45 < megabytes < 47  # the released file has 46 MB
    torch.manual_seed(0)
    module = Inception(16, 1, 4, 2, 4, 2, 4, "average", 4, True, "none")
    x = random_images(2, 16, 6, 6)
    bare = module(x) - x
    module.se = SqueezeExcitation(16, 4)
    for parameter in module.se.parameters():
        nn.init.zeros_(parameter)
    assert torch.allclose(module(x), bare / 2 + x)


def test_unknown_switch_is_refused() -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        BNInception(norm="layer")  # type: ignore[arg-type]
    assert str(refusal.value) == "norm (=layer) must be one of none, batch."


def test_images_that_are_pooled_away_are_refused() -> None:
    network = BNInception(num_classes=3).eval()
    with torch.no_grad():
        assert network(random_images(1, 3, 7, 7)).shape == (1, 3)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        network(random_images(1, 3, 32, 6))
    assert str(refusal.value) == "BN-Inception needs at least 7 x 7 pixels, got 32 x 6: use larger images."
