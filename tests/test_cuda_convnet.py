"""The four-layer CIFAR-10 network against counts from its definition files, convolutions and sums by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cuda_convnet import CudaConvNet, LocallyConnected2d


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("image_size", "positions", "count"), [(24, 36, 1_116_490), (32, 64, 1_901_386)])
def test_parameters_follow_the_definition_files(image_size: int, positions: int, count: int) -> None:
    """64 filters of 5 x 5, twice; at each position 32 filters of 3 x 3 x 64, then of 3 x 3 x 32; 10 outputs."""
    convolutional = 64 * (25 * 3 + 1) + 64 * (25 * 64 + 1)
    local = positions * 32 * (9 * 64 + 1) + positions * 32 * (9 * 32 + 1)
    network = CudaConvNet(image_size=image_size)
    assert parameters(network) == convolutional + local + 10 * (32 * positions + 1) == count
    for switches in ({"norm": "none"}, {"skip": True}, {"activation": "tanh"}, {"pooling": "separate"}):
        assert parameters(CudaConvNet(image_size=image_size, **switches)) == count  # type: ignore[arg-type]
    batch = CudaConvNet(image_size=image_size, norm="batch")
    assert parameters(batch) - count == 2 * (64 + 64 + 32 + 32)


def test_maps_have_the_sizes_of_cuda_convnet() -> None:
    """Its pools reach over the edge: ceil((24 - 3) / 2) + 1 = 12 pixels, then 6."""
    network, x = CudaConvNet(image_size=24), random_images(1, 3, 24, 24)
    sizes = []
    for layer in network.features:
        x = layer(x)
        sizes.append((type(layer).__name__, *x.shape[1:3]))
    assert sizes == [
        ("Conv2d", 64, 24), ("ReLU", 64, 24), ("LocalResponseNorm", 64, 24), ("MaxPool2d", 64, 12),
        ("Conv2d", 64, 12), ("ReLU", 64, 12), ("LocalResponseNorm", 64, 12), ("MaxPool2d", 64, 6),
        ("LocallyConnected2d", 32, 6), ("ReLU", 32, 6), ("LocallyConnected2d", 32, 6), ("ReLU", 32, 6),
    ]  # fmt: skip


def test_local_response_norm_has_the_constants_of_the_file() -> None:
    """scale=0.001 over size=5 maps, pow=0.75, and 1 where AlexNet has 2."""
    a = 10 * random_images(1, 64, 2, 2)
    norm = next(layer for layer in CudaConvNet().features if type(layer).__name__ == "LocalResponseNorm")
    total = sum(a[:, j] ** 2 for j in range(28, 33))
    torch.testing.assert_close(norm(a)[:, 30], a[:, 30] / (1 + 0.001 / 5 * total) ** 0.75)


# Locally connected layers


def test_with_the_same_kernel_everywhere_it_is_a_convolution() -> None:
    torch.manual_seed(0)
    convolution, local = nn.Conv2d(3, 4, 3, padding=1), LocallyConnected2d(3, 4, 5)
    local.weight.data = convolution.weight.detach().flatten(1).expand(25, 4, 27).clone()
    local.bias.data = convolution.bias.detach().expand(25, 4).clone()  # type: ignore[union-attr]
    x = random_images(2, 3, 5, 5)
    torch.testing.assert_close(local(x), convolution(x))


def test_every_position_has_a_kernel_of_its_own() -> None:
    """Each output is its own kernel on its own 3 x 3 patch, the image padded with zeros, plus its own bias."""
    local = LocallyConnected2d(2, 3, 4)
    for number, parameter in enumerate(local.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
    x = random_images(2, 2, 4, 4)
    padded = F.pad(x, (1, 1, 1, 1))
    found = local(x)
    assert found.shape == (2, 3, 4, 4)
    for row in range(4):
        for column in range(4):
            patch = padded[:, :, row : row + 3, column : column + 3].flatten(1)
            expected = patch @ local.weight[4 * row + column].T + local.bias[4 * row + column]
            torch.testing.assert_close(found[:, :, row, column], expected)


# Initialisation, skips, switches


def test_it_starts_with_the_files_weights() -> None:
    torch.manual_seed(0)
    network = CudaConvNet()
    deviations = [layer.weight.std().item() for layer in network.modules() if hasattr(layer, "weight")]
    assert deviations == pytest.approx([0.0001, 0.01, 0.04, 0.04, 0.01], rel=0.05)
    assert not any(layer.bias.any() for layer in network.modules() if hasattr(layer, "bias"))
    batch = CudaConvNet(norm="batch")
    layers = [layer for layer in batch.features if isinstance(layer, nn.Conv2d | LocallyConnected2d)]
    fan_ins = (25 * 3, 25 * 64, 9 * 64, 9 * 32)
    expected = [(2 / fan_in) ** 0.5 for fan_in in fan_ins]
    assert [layer.weight.std().item() for layer in layers] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_silent_layers_pass_what_they_see(norm: Any) -> None:
    images = 100 * random_images(2, 3, 24, 24)
    for skip in (True, False):
        torch.manual_seed(0)
        network = CudaConvNet(norm=norm, skip=skip, image_size=24).eval()
        layers = [layer for layer in network.features if isinstance(layer, nn.Conv2d | LocallyConnected2d)]
        for silent in (layers[1], layers[3]):
            nn.init.zeros_(silent.weight)

        def normed(x: Tensor) -> Tensor:
            return nn.BatchNorm2d(x.shape[1]).eval()(x) if norm == "batch" else x

        x = F.max_pool2d(normed(layers[0](images)).relu(), 3, 2, ceil_mode=True) * skip
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = normed(layers[2](x)).relu() * skip
        expected = network.output(x.flatten(1))
        torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("norm", ["lrn", "batch", "none"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("skip", [False, True])
def test_every_combination_of_switches_trains(norm: Any, activation: Any, skip: bool) -> None:
    torch.manual_seed(0)
    for pooling in ("overlapping", "separate"):
        network = CudaConvNet(norm, activation, pooling, dropout=0.2, skip=skip, image_size=16, in_channels=1)
        logits = network(100 * random_images(4, 1, 16, 16))
        assert logits.shape == (4, 10)
        network.loss(logits, torch.arange(4)).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_dropout_acts_in_training_only() -> None:
    network, images = CudaConvNet(dropout=0.5, image_size=8), 100 * random_images(1, 3, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_weight_decay_spares_the_kernels_of_convolutions_as_in_the_files() -> None:
    network = CudaConvNet(image_size=8, decay_bias=False)
    decayed, spared = network.parameter_groups()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == ["features.8.weight", "features.10.weight", "output.weight"]
    assert spared["weight_decay"] == 0.0
    assert len(spared["params"]) == 2 + 5  # kernels of two convolutions and all biases
    (everything,) = CudaConvNet(image_size=8, decay_kernels=True).parameter_groups()
    assert len(everything["params"]) == 10


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 30}, "image_size (=30) must be a multiple of 4: 24 in the paper's files, 32 for CIFAR."),
        ({"image_size": 0}, "image_size (=0) must be a multiple of 4: 24 in the paper's files, 32 for CIFAR."),
        ({"norm": "layer"}, "norm (=layer) must be one of lrn, batch, none."),
        ({"activation": "elu"}, "activation (=elu) must be one of relu, tanh."),
        ({"pooling": "average"}, "pooling (=average) must be one of overlapping, separate."),
    ],
)
def test_what_it_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        CudaConvNet(**settings)
    assert str(refusal.value) == message


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        CudaConvNet(image_size=24)(torch.zeros(1, 3, 32, 32))
    assert str(refusal.value) == (
        "this network needs 24 x 24 pixels, got 32 x 32: set model.init_args.image_size to the size of the images."
    )
