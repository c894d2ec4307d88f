"""AlexNet against the paper's counts and formula, AlexNetOWT against torchvision's; switches, positions, refusals."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.alexnet import AlexNet, AlexNetOWT, LocalResponseNorm, averaged_to, run_with_skips, slide

SMALL: dict[str, Any] = {"widths": [4, 8, 8, 12, 6], "hidden": 10, "num_classes": 7}


def random_images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def megamacs(network: nn.Module) -> int:
    """Millions of multiply-accumulates for an image of 224 x 224 pixels, without biases."""
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device="meta"))
    return round(counter.get_total_flops() / 2e6)


def convolutions(network: AlexNet | AlexNetOWT) -> list[nn.Conv2d]:
    return [layer for layer in network.features if isinstance(layer, nn.Conv2d)]


# The paper's counts


def test_alexnet_has_the_papers_kernels() -> None:
    """Section 3.5: 96 kernels of 11 x 11 x 3, 256 of 5 x 5 x 48, 384 of 3 x 3 x 256, 384 and 256 of 3 x 3 x 192."""
    with torch.device("meta"):
        network = AlexNet()
    assert [tuple(layer.weight.shape) for layer in convolutions(network)] == [
        (96, 3, 11, 11),
        (256, 48, 5, 5),
        (384, 256, 3, 3),
        (384, 192, 3, 3),
        (256, 192, 3, 3),
    ]
    assert [layer.out_features for layer in network.classifier if isinstance(layer, nn.Linear)] == [4096, 4096, 1000]


def test_parameters_and_multiply_accumulates() -> None:
    """The paper says 60 million parameters; a convolution's MACs are its kernel times its positions."""
    with torch.device("meta"):
        two, one, owt = AlexNet(), AlexNet(groups=1), AlexNetOWT()
    kernels = 96 * 363 + 256 * 1200 + 384 * 2304 + 384 * 1728 + 256 * 1728 + 9216 * 4096 + 4096 * 4096 + 4096 * 1000
    assert parameters(two) == kernels + 96 + 256 + 384 + 384 + 256 + 4096 + 4096 + 1000 == 60_965_224
    by_hand = 55**2 * 96 * 363 + 27**2 * 256 * 1200 + 13**2 * (384 * 2304 + 384 * 1728 + 256 * 1728) + 58_621_952
    assert megamacs(two) == round(by_hand / 1e6) == 724
    assert (parameters(one), megamacs(one)) == (62_378_344, 1135)
    assert (parameters(owt), megamacs(owt)) == (61_100_840, 714)


@pytest.mark.parametrize("pooling", ["overlapping", "separate"])
def test_maps_have_the_sizes_of_figure_2(pooling: Any) -> None:
    """The caption's first number of neurons, 253 440, is not 55 x 55 x 96 = 290 400; the others fit."""
    with torch.device("meta"):
        network = AlexNet(pooling=pooling)
        x = torch.empty(1, 3, 224, 224)
    sizes = []
    for layer in network.features:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            sizes.append(x.numel())
    assert sizes == [290_400, 186_624, 64_896, 64_896, 43_264]
    assert x.shape == (1, 256, 6, 6)


def test_switches_cost_no_parameters_but_batch_norms_own() -> None:
    with torch.device("meta"):
        plain = AlexNet(norm="none", dropout=0.0)
        others = AlexNet(), AlexNet(skip=True), AlexNet(pooling="separate"), AlexNet(activation="tanh")
        batch, owt, owt_batch = AlexNet(norm="batch"), AlexNetOWT(skip=True, norm="lrn"), AlexNetOWT(norm="batch")
    assert {parameters(network) for network in others} == {parameters(plain)}
    assert parameters(batch) - parameters(plain) == 2 * (96 + 256 + 384 + 384 + 256)
    assert parameters(owt) == 61_100_840
    assert parameters(owt_batch) - parameters(owt) == 2 * (64 + 192 + 384 + 256 + 256)


# Local response norm


def test_local_response_norm_is_the_papers_formula() -> None:
    a = 30 * random_images(2, 7, 2, 3)
    expected = torch.empty_like(a)
    for i in range(7):
        total = sum(a[:, j] ** 2 for j in range(max(0, i - 2), min(6, i + 2) + 1))
        expected[:, i] = a[:, i] / (2 + 1e-4 * total) ** 0.75
    torch.testing.assert_close(LocalResponseNorm()(a), expected)
    weaker = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)(a)  # torch's alpha is shared by the 5 neighbours
    torch.testing.assert_close(nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)(a), expected)
    assert (weaker - expected).abs().max() > 0.1


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_local_response_norm_of_large_numbers_in_16_bits(kind: torch.dtype) -> None:
    """Their squares overflow half precision, and sums of 2 and less are coarse in bfloat16."""
    a = (300 * random_images(2, 7, 2, 3)).to(kind).requires_grad_()
    found = LocalResponseNorm()(a)
    assert found.dtype == kind
    torch.testing.assert_close(found, LocalResponseNorm()(a.float()).to(kind))
    found.float().sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    double = random_images(2, 7, 2, 3).double()
    assert LocalResponseNorm()(double).dtype == torch.float64


def test_maps_of_the_right_size_are_not_averaged() -> None:
    maps = random_images(2, 3, 6, 6)
    assert averaged_to(6, maps) is maps
    torch.testing.assert_close(averaged_to(6, maps.repeat_interleave(2, 2)), maps)


def test_norms_stand_where_they_say() -> None:
    def names(network: nn.Module) -> str:
        short = {
            "Conv2d": "c",
            "BatchNorm2d": "b",
            "ReLU": "r",
            "Tanh": "t",
            "LocalResponseNorm": "l",
            "MaxPool2d": "p",
        }
        return "".join(short[type(layer).__name__] for layer in network.features)

    assert names(AlexNet(**SMALL)) == "crlpcrlpcrcrcrp"
    assert names(AlexNet(norm="none", activation="tanh", **SMALL)) == "ctpctpctctctp"
    assert names(AlexNet(norm="batch", **SMALL)) == "cbrpcbrpcbrcbrcbrp"
    assert names(AlexNetOWT(**SMALL)) == "crpcrpcrcrcrp"
    assert names(AlexNetOWT(norm="lrn", **SMALL)) == "crlpcrlpcrcrcrp"
    assert names(AlexNetOWT(norm="batch", **SMALL)) == "cbrpcbrpcbrcbrcbrp"
    layers = [type(layer).__name__ for layer in AlexNet(**SMALL).classifier]
    assert layers == [*["Linear", "ReLU", "Dropout"] * 2, "Linear"]


# torchvision


def test_owt_is_torchvisions() -> None:
    """The same keys and logits, of images that are averaged to 6 x 6 maps as well."""
    with torch.device("meta"):
        ours, theirs = AlexNetOWT(dropout=0.0), torchvision.models.alexnet(dropout=0.0)
    theirs.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for layer in theirs.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.uniform_(layer.bias, -0.5, 0.5, generator=generator)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    for training, size in itertools.product((False, True), (224, 100)):
        images = random_images(2, 3, size, size)
        with torch.inference_mode():
            found, expected = ours.train(training)(images), theirs.train(training)(images)
        assert not torch.allclose(expected[0], expected[1], rtol=0.1)  # the image shows in the logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_owt_drops_what_torchvision_drops() -> None:
    with torch.device("meta"):
        ours, theirs = AlexNetOWT(dropout=0.3), torchvision.models.alexnet(dropout=0.3)
    assert [repr(layer) for layer in ours.classifier] == [repr(layer) for layer in theirs.classifier]
    assert [repr(layer) for layer in ours.features] == [repr(layer) for layer in theirs.features]


# Initialisation


def test_alexnet_starts_with_the_papers_weights() -> None:
    """Section 5: N(0, 0.01), biases 1 in convolutions 2, 4 and 5 and in the hidden layers, 0 elsewhere."""
    torch.manual_seed(0)
    network = AlexNet(hidden=64)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert [layer.bias.unique().tolist() for layer in layers] == [[0], [1], [0], [1], [1], [1], [1], [0]]
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_tanh_and_batch_norm_start_with_weights_of_their_own() -> None:
    torch.manual_seed(0)
    tanh, batch = AlexNet(hidden=64, activation="tanh"), AlexNet(hidden=64, norm="batch")
    for network in (tanh, batch):
        assert not any(layer.bias.any() for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    third = 9 * 256, 9 * 384  # fan-in and fan-out
    assert convolutions(tanh)[2].weight.std().item() == pytest.approx((2 / sum(third)) ** 0.5, rel=0.02)
    assert convolutions(batch)[2].weight.std().item() == pytest.approx((2 / third[1]) ** 0.5, rel=0.02)
    assert batch.classifier[0].weight.std().item() == pytest.approx(0.01, rel=0.02)


# Skips


def test_a_skip_adds_its_input_by_hand() -> None:
    x = random_images(2, 3, 6, 6)
    convolution = nn.Conv2d(3, 5, 3, padding=1)
    layers = nn.Sequential(convolution, nn.ReLU(inplace=True))
    expected = convolution(x)
    expected[:, :3] += x
    assert torch.equal(run_with_skips(layers, {0: 0}, x), expected.relu())
    assert torch.equal(run_with_skips(layers, {}, x), convolution(x).relu())
    assert torch.equal(x, random_images(2, 3, 6, 6))  # nothing worked in place on the caller's tensor


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_silent_convolutions_pass_what_they_see(norm: Any) -> None:
    """With kernels of zero, convolutions 2, 3 and 4 give their input, and without skips nothing."""
    images = random_images(2, 3, 67, 67)
    for skip in (True, False):
        network = AlexNet(norm=norm, skip=skip, **SMALL).eval()
        for layer in convolutions(network)[1:4]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        first = convolutions(network)[0](images)
        if norm == "batch":
            first = network.features[1](first)
        seen = F.max_pool2d(F.max_pool2d(first.relu(), 3, 2), 3, 2) * skip
        seen = F.pad(seen, (0, 0, 0, 0, 0, 8))  # maps 4, 8, 8, 12
        last = convolutions(network)[4](seen)
        if norm == "batch":
            last = network.features[-3](last)
        torch.testing.assert_close(network.maps(images), F.max_pool2d(last.relu(), 3, 2))


def test_skips_go_where_maps_keep_their_size_and_do_not_shrink() -> None:
    """Of 2012 around convolutions 2, 3 and 4, of 2014 around 2, 3 and 5; behind batch norm where there is one."""
    with torch.device("meta"):
        assert AlexNet(norm="none", skip=True).skips == {3: 3, 6: 6, 8: 8}
        assert AlexNet(skip=True).skips == {4: 4, 8: 8, 10: 10}
        assert AlexNet(norm="batch", skip=True).skips == {4: 5, 8: 9, 11: 12}
        assert AlexNetOWT(skip=True).skips == {3: 3, 6: 6, 10: 10}
        assert AlexNet().skips == AlexNetOWT().skips == {}


# Switches


@pytest.mark.parametrize("norm", ["lrn", "batch", "none"])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_every_combination_of_switches_trains(norm: Any, skip: bool, activation: Any) -> None:
    torch.manual_seed(0)
    switches = {"norm": norm, "skip": skip, **SMALL}
    for network in (
        AlexNet(activation=activation, pooling="separate", in_channels=1, **switches),
        AlexNet(activation=activation, groups=1, in_channels=1, **switches),
        AlexNetOWT(in_channels=1, **switches),
    ):
        logits = network(random_images(4, 1, 96, 80))
        assert logits.shape == (4, 7)
        network.loss(logits, torch.arange(4)).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_dropout_acts_in_training_only() -> None:
    images = random_images(1, 3, 67, 67)
    for network in (AlexNet(**SMALL), AlexNetOWT(**SMALL)):
        assert not torch.equal(network(images), network(images))
        network.eval()
        assert torch.equal(network(images), network(images))


# The fully convolutional form


def at_every_position(network: AlexNet | AlexNetOWT, maps: Tensor) -> Tensor:
    """The classifier on every 6 x 6 window of `maps` [B, C, h, w], one after another."""
    windows = F.unfold(maps, 6).transpose(1, 2)  # [B, positions, C * 36]
    return network.classifier(windows).transpose(1, 2).unflatten(2, (maps.shape[2] - 5, maps.shape[3] - 5))


@pytest.mark.parametrize("kind", [AlexNet, AlexNetOWT])
def test_logit_maps_are_the_classifier_at_every_position(kind: Any) -> None:
    torch.manual_seed(0)
    network = kind(**{**SMALL, "hidden": 16}).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight)
    with torch.inference_mode():
        native = network.logit_maps(random_images(2, 3, 224, 224))
        assert native.shape == (2, 7, 1, 1)
        torch.testing.assert_close(native[:, :, 0, 0], network(random_images(2, 3, 224, 224)))
        large = random_images(2, 3, 256, 320)
        found = network.logit_maps(large)
        assert found.shape == (2, 7, 2, 4)
        torch.testing.assert_close(found, at_every_position(network, network.maps(large)))
        assert not torch.allclose(found[..., :1], found[..., 1:2], rtol=0.1)
        smaller = random_images(2, 3, 100, 120)  # maps of 2 x 2: averaged to 6 x 6, as in forward
        torch.testing.assert_close(network.logit_maps(smaller)[:, :, 0, 0], network(smaller))


def test_positions_are_crops_where_nothing_is_padded() -> None:
    """Without padding and with stride 1, position (i, j) is the network's answer to the crop that starts there."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    classifier = nn.Sequential(nn.Linear(5 * 4 * 4, 8), nn.ReLU(), nn.Linear(8, 3))
    image = random_images(1, 3, 9, 8)
    found = slide(classifier, features(image), 4)
    assert found.shape == (1, 3, 4, 3)
    for i, j in itertools.product(range(4), range(3)):
        crop = image[:, :, i : i + 6, j : j + 6]
        torch.testing.assert_close(found[:, :, i, j], classifier(features(crop).flatten(1)))


# Refusals


@pytest.mark.parametrize(
    ("network", "smallest"),
    [(AlexNet(**SMALL), 63), (AlexNet(pooling="separate", **SMALL), 35), (AlexNetOWT(**SMALL), 63)],
    ids=["overlapping", "separate", "owt"],
)
def test_too_small_images_are_refused_and_no_others(network: Any, smallest: int) -> None:
    assert network(torch.zeros(1, 3, smallest, smallest)).shape == (1, 7)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        network.features(torch.zeros(1, 3, smallest, smallest - 1))
    for call in (network, network.logit_maps):
        with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
            call(torch.zeros(1, 3, smallest, smallest - 1))
        assert str(refusal.value) == (
            f"{type(network).__name__} needs at least {smallest} x {smallest} pixels, got {smallest} x {smallest - 1}: "
            "set data.init_args.image_size to 224, as in the paper."
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [96, 256, 384, 384, 255]},
         "width (=255) must be divisible by groups (=2): change widths (=[96, 256, 384, 384, 255]) or groups."),
        ({"widths": [96, 256]},
         "widths (=[96, 256]) must be five numbers of maps, 1 or more each: 96, 256, 384, 384, 256."),
        ({"groups": 0}, "groups (=0) must be at least 1: 2 in the paper, 1 connects all maps."),
        ({"pooling": "average"}, "pooling (=average) must be one of overlapping, separate."),
        ({"norm": "layer"}, "norm (=layer) must be one of lrn, batch, none."),
        ({"activation": "elu"}, "activation (=elu) must be one of relu, tanh."),
    ],
)  # fmt: skip
def test_what_alexnet_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        AlexNet(**settings)
    assert str(refusal.value) == message


@pytest.mark.parametrize("network", [AlexNet, AlexNetOWT])
def test_hidden_layers_without_units_are_refused(network: Any) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        network(hidden=0)
    assert str(refusal.value) == "hidden (=0) must be at least 1 unit in each hidden layer: 4096 in the paper."
