"""VGG against torchvision's: the same layers, parameters and logits; a small one by hand; switches and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.vgg import VGG

# Table 1 of the paper, column by column.
A = [[64], [128], [256, 256], [512, 512], [512, 512]]
B = [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]]
D = [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]]
E = [[64, 64], [128, 128], [256] * 4, [512] * 4, [512] * 4]
HIDDEN = [4096, 4096]


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(
    ("stages", "name", "millions"), [(A, "vgg11", 133), (B, "vgg13", 133), (D, "vgg16", 138), (E, "vgg19", 144)]
)
def test_layers_are_torchvisions_and_parameters_the_papers(
    stages: list[list[int]], name: str, millions: int, norm: Any
) -> None:
    with torch.device("meta"):
        ours = VGG(stages, HIDDEN, norm=norm)
        theirs = torchvision.models.get_model(name + {"none": "", "batch": "_bn"}[norm], weights=None)
    assert shapes(ours) == shapes(theirs)
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert count == sum(parameter.numel() for parameter in theirs.parameters())
    assert round(count / 1e6) == millions  # Table 2, which knows no norm: it adds too little to show
    weighted = [module for module in ours.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(weighted) == int(name.removeprefix("vgg"))


def with_random_weights(network: nn.Module) -> nn.Module:
    """Weights under which every layer matters: a new network's biases are 0 and its norms do nothing."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5, generator=generator)
            nn.init.zeros_(module.num_batches_tracked)
    return network


@pytest.mark.parametrize(("name", "norm"), [("vgg11", "none"), ("vgg11_bn", "batch")])
def test_torchvisions_weights_give_torchvisions_logits(name: str, norm: Any) -> None:
    with torch.device("meta"):  # 133 million numbers: drawn once, and shared by both networks
        ours = VGG(A, HIDDEN, norm=norm).eval()
        theirs = torchvision.models.get_model(name, weights=None).eval()
    with_random_weights(theirs.to_empty(device="cpu"))
    ours.load_state_dict(theirs.state_dict(), assign=True)
    image = random_images(1, 3, 224, 224)
    with torch.inference_mode():
        found, expected = ours(image), theirs(image)
        assert not torch.allclose(expected, theirs(-image), rtol=0.1)  # the image shows in the logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_a_small_network_by_hand() -> None:
    """A convolution that copies the pixel, ReLU, the largest of each 2x2 block, their mean, and a linear layer."""
    network = VGG([[1]], [], pooled_size=1, in_channels=1, num_classes=2)
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 1] = 1.0
    network.load_state_dict(
        {
            "features.0.weight": kernel,
            "features.0.bias": torch.tensor([-7.0]),
            "classifier.0.weight": torch.tensor([[1.0], [-2.0]]),
            "classifier.0.bias": torch.tensor([0.0, 0.5]),
        }
    )
    image = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    # largest pixels 6, 8, 14, 16; less 7, and not below 0: 0, 1, 7, 9; mean 17/4
    assert network(image).tolist() == [[4.25, 0.5 - 8.5]]


def test_too_small_images_are_refused() -> None:
    network = VGG([[4], [8], [8]], [16], pooled_size=1, in_channels=1)
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 1000)
    for height, width in ((7, 7), (8, 7), (7, 8)):
        with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
            network(torch.zeros(1, 1, height, width))
        assert str(refusal.value) == (
            f"this VGG halves the image 3 times and needs at least 8 x 8 pixels, got {height} x {width}: "
            "use fewer stages."
        )


@pytest.mark.parametrize("stages", [[], [[]], [[64], []]])
def test_stages_without_convolutions_are_refused(stages: list[list[int]]) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        VGG(stages, HIDDEN)
    assert str(refusal.value) == (
        f"stages (={stages}) must hold one stage or more, each with a width or more: [[64], [128]]."
    )


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("hidden", [[], [16], [16, 12]])
def test_switches_put_their_layer_where_they_say(norm: Any, dropout: float, hidden: list[int]) -> None:
    torch.manual_seed(0)
    network = VGG([[4, 6], [8]], hidden, pooled_size=2, in_channels=1, norm=norm, dropout=dropout, num_classes=7)
    convolution = ["Conv2d", *["BatchNorm2d"] * (norm == "batch"), "ReLU"]
    features = [type(module).__name__ for module in network.features]
    assert features == [*convolution, *convolution, "MaxPool2d", *convolution, "MaxPool2d"]
    layers = [type(module).__name__ for module in network.classifier]
    assert layers == [*["Linear", "ReLU", "Dropout"] * len(hidden), "Linear"]
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [dropout] * len(hidden)

    logits = network(random_images(4, 1, 9, 8))
    assert logits.shape == (4, 7)
    network.loss(logits, torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_dropout_acts_in_training_only() -> None:
    network = VGG([[4]], [64], pooled_size=2, in_channels=1, dropout=0.5)
    image = random_images(1, 1, 8, 8)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_signals_neither_grow_nor_vanish_at_the_start() -> None:
    """He initialisation keeps the mean square from layer to layer; half the variance would lose 2^16 in 16."""
    torch.manual_seed(0)
    network = VGG([[64] * 16], [], pooled_size=1, in_channels=64)
    x = random_images(1, 64, 32, 32)
    with torch.inference_mode():
        for module in list(network.features)[:-1]:
            x = module(x)
    assert 0.1 < x.square().mean() < 10  # it started at 1
    assert network.classifier[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
