"""VGG against torchvision's: the same layers, parameters and logits; a small one by hand; switches and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from models.vgg import VGG

# Table 1 of the paper, column by column.
A: list[list[int | str]] = [[64], [128], [256, 256], [512, 512], [512, 512]]
B: list[list[int | str]] = [[64, 64], [128, 128], [256, 256], [512, 512], [512, 512]]
D: list[list[int | str]] = [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]]
E: list[list[int | str]] = [[64, 64], [128, 128], [256] * 4, [512] * 4, [512] * 4]
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
    stages: list[list[int | str]], name: str, millions: int, norm: Any
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


@pytest.fixture(scope="module")
def linear_layers() -> dict[str, Tensor]:
    """Random weights of the linear layers that all columns share: 124 million numbers, drawn once for all networks."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for index, (fan_in, units) in {0: (25088, 4096), 3: (4096, 4096), 6: (4096, 1000)}.items():
        state[f"classifier.{index}.weight"] = uniform(generator, (6 / fan_in) ** 0.5, units, fan_in)
        state[f"classifier.{index}.bias"] = uniform(generator, 0.5, units)
    return state


def uniform(generator: torch.Generator, bound: float, *shape: int) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def random_convolutions(network: nn.Module) -> dict[str, Tensor]:
    """Weights under which every layer matters: a new network's biases are 0 and its norms do nothing."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            state[f"{name}.weight"] = uniform(generator, (6 / layer.weight[0].numel()) ** 0.5, *layer.weight.shape)
            state[f"{name}.bias"] = uniform(generator, 0.5, layer.out_channels)
        elif isinstance(layer, nn.BatchNorm2d):
            for key in ("weight", "bias", "running_mean", "running_var"):
                around = 1.0 if key in ("weight", "running_var") else 0.0
                state[f"{name}.{key}"] = around + uniform(generator, 0.5, layer.num_features)
            state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return state


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(("column", "name"), [("A", "vgg11"), ("B", "vgg13"), ("D", "vgg16"), ("E", "vgg19")])
def test_torchvisions_weights_give_torchvisions_logits(
    column: str, name: str, norm: Any, linear_layers: dict[str, Tensor]
) -> None:
    """In both modes, of 64 x 64 pixels, whose maps of 2 x 2 are averaged to 7 x 7; net A also of 224 x 224."""
    with torch.device("meta"):
        ours = VGG(column=column, norm=norm, dropout=0.0)
        theirs = torchvision.models.get_model(name + {"none": "", "batch": "_bn"}[norm], weights=None, dropout=0.0)
    state = random_convolutions(theirs) | linear_layers
    theirs.load_state_dict(state, assign=True)
    before = {key: state[key].clone() for key, _ in ours.named_buffers()}
    ours.load_state_dict(state | {key: tensor.clone() for key, tensor in before.items()}, assign=True)
    for training, size in ((False, 64), (True, 64), *([(False, 224)] if column == "A" else [])):
        images = random_images(2, 3, size, size)
        with torch.inference_mode():
            found, expected = ours.train(training)(images), theirs.train(training)(images)
        assert not torch.allclose(expected[0], expected[1], rtol=0.1)  # the image shows in the logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    for (key, seen), (_, theirs_seen) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        torch.testing.assert_close(seen, theirs_seen)
        assert not torch.equal(seen, before[key])  # what the norms have learned in training mode


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


# Columns, and the notation of 1x1 convolutions


@pytest.mark.parametrize(("column", "stages"), [("A", A), ("B", B), ("D", D), ("E", E)])
def test_columns_are_table_1(column: str, stages: list[list[int | str]]) -> None:
    with torch.device("meta"):
        assert shapes(VGG(column=column)) == shapes(VGG(stages, HIDDEN))


def test_column_c_has_1x1_convolutions() -> None:
    """Table 2: 134 million parameters, D's less 8/9 of the three kernels that are 1 x 1 in C."""
    with torch.device("meta"):
        c, d, lrn = VGG(column="C"), VGG(column="D"), VGG(column="C", norm="lrn")
        written = VGG([[64, 64], [128, 128], [256, 256, "conv1-256"], *[[512, 512, "conv1-512"]] * 2], HIDDEN)
    kernels = [layer.kernel_size[0] for layer in c.features if isinstance(layer, nn.Conv2d)]
    assert kernels == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1]
    count, of_d = (sum(parameter.numel() for parameter in network.parameters()) for network in (c, d))
    assert of_d - count == 8 * (256**2 + 512**2 + 512**2)
    assert count == 133_638_952
    assert round(count / 1e6) == 134
    assert shapes(written) == shapes(c)
    assert sum(parameter.numel() for parameter in lrn.parameters()) == count
    assert c.features(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 512, 7, 7)


def test_a_lrn_normalises_after_the_first_relu_only() -> None:
    network = VGG([[4, 4], [8]], [], in_channels=1, norm="lrn")
    names = [type(layer).__name__ for layer in network.features]
    assert names == [
        "Conv2d", "ReLU", "LocalResponseNorm", "Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d"
    ]  # fmt: skip
    plain = VGG([[4, 4], [8]], [], in_channels=1)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "stages (=None) and column (=None) say the same: give one of them, such as column: D."),
        ({"stages": [[4]], "column": "A"},
         "stages (=[[4]]) and column (=A) say the same: give one of them, such as column: D."),
        ({"column": "F"}, "column (=F) must be one of A, B, C, D, E."),
        ({"column": "A-LRN"}, "column (=A-LRN) must be given as column: A with norm: lrn."),
        ({"stages": [[64, "conv2-64"]]},
         "stages: 'conv2-64' must be the width of a 3x3 convolution, 1 or more, or an odd kernel size and a width such "
         "as conv1-256."),
        ({"stages": [[0]]},
         "stages: 0 must be the width of a 3x3 convolution, 1 or more, or an odd kernel size and a width such as "
         "conv1-256."),
        ({"stages": [[8, 4]], "skip": True},
         "skip (=True) pads new maps with zeros, so widths must not shrink: 8 to 4."),
        ({"column": "A", "norm": "layer"}, "norm (=layer) must be one of none, batch, lrn."),
        ({"column": "A", "init": "zero"}, "init (=zero) must be one of he, xavier, gaussian."),
        ({"column": "B", "start_from": "a.ckpt"},
         "start_from (=a.ckpt) leaves some layers to N(0, 0.01): give init: gaussian with it, not he. There is no such "
         "file either: train column A without norm first."),
        ({"column": "B", "start_from": __file__},
         f"start_from (={__file__}) leaves some layers to N(0, 0.01): give init: gaussian with it, not he."),
        ({"column": "B", "start_from": "a.ckpt", "init": "gaussian", "weights": "b.pt"},
         "start_from (=a.ckpt) and weights (=b.pt) exclude each other: leave one out."),
    ],
)  # fmt: skip
def test_what_vgg_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        VGG(**{"in_channels": 8, "hidden": [], **settings})
    assert str(refusal.value) == message


# First weights


def test_the_default_start_is_what_it_was_for_the_same_seed() -> None:
    """Drawn layer by layer by hand: He's for convolutions, N(0, 0.01) for linear layers."""
    torch.manual_seed(3)
    network = VGG([[4], [6]], [5], pooled_size=2, in_channels=1, norm="batch", num_classes=7)
    torch.manual_seed(3)
    by_hand = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(24, 5), nn.Linear(5, 7)]
    for layer in by_hand[:2]:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    for layer in by_hand[2:]:
        nn.init.normal_(layer.weight, 0, 0.01)
    found = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for ours, expected in zip(found, by_hand, strict=True):
        assert torch.equal(ours.weight, expected.weight)
        assert not ours.bias.any()


@pytest.mark.parametrize("init", ["he", "xavier", "gaussian"])
def test_first_weights_have_the_deviations_they_say(init: Any) -> None:
    torch.manual_seed(0)
    network = VGG([[64, 128]], [256], pooled_size=1, init=init)
    _, convolution, hidden, _ = (x for x in network.modules() if isinstance(x, nn.Conv2d | nn.Linear))
    expected = {
        "he": ((2 / (9 * 128)) ** 0.5, 0.01),
        "xavier": ((2 / (9 * 64 + 9 * 128)) ** 0.5, (2 / (128 + 256)) ** 0.5),
        "gaussian": (0.01, 0.01),
    }
    found = convolution.weight.std().item(), hidden.weight.std().item()
    assert found == pytest.approx(expected[init], rel=0.02)
    assert not any(parameter.any() for name, parameter in network.named_parameters() if name.endswith("bias"))


def test_vgg_16_does_not_start_from_the_papers_gaussian() -> None:
    """Section 3.1: how much images of variance 1 change the last maps. N(0, 0.01) takes its share in every layer."""
    images, spread = random_images(4, 3, 64, 64), {}
    for init in ("he", "xavier", "gaussian"):
        torch.manual_seed(0)
        network = VGG(column="D", hidden=[], pooled_size=1, init=init, num_classes=100)  # type: ignore[arg-type]
        with torch.inference_mode():
            spread[init] = network.maps(images).std(0).mean().item()
    assert spread["he"] > 5e-3
    assert spread["xavier"] > 1e-4
    assert spread["gaussian"] < 1e-7


# A start from net A


def state_of_net_a() -> dict[str, Tensor]:
    """A net A for three classes, small: its keys are those of torchvision's `vgg11`, its widths a sixteenth."""
    torch.manual_seed(1)
    network = VGG([[4], [8], [16, 16], [32, 32], [32, 32]], [12, 12], pooled_size=1, num_classes=3)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network.state_dict()


def deeper(path: Any, **settings: Any) -> VGG:
    """Column D of a sixteenth of the width, to start from the net A at `path`."""
    stages: list[list[int | str]] = [[4, 4], [8, 8], [16, 16, 16], [32, 32, 32], [32, 32, 32]]
    return VGG(stages, **{
        "hidden": [12, 12], "pooled_size": 1, "num_classes": 3, "init": "gaussian", "start_from": str(path), **settings
    })  # fmt: skip


@pytest.mark.parametrize("lightning", [False, True])
def test_seven_layers_start_from_net_a(tmp_path: Path, lightning: bool) -> None:
    """Section 3.1: conv1_1, conv2_1, conv3_1, conv3_2 and the three linear layers; the others are N(0, 0.01)."""
    net_a = state_of_net_a()
    torch.save({"state_dict": net_a} if lightning else net_a, tmp_path / "a.pt")
    network = deeper(tmp_path / "a.pt")
    network.load_weights()
    copied = {
        "features.0": "features.0", "features.5": "features.3", "features.10": "features.6",
        "features.12": "features.8", "classifier.0": "classifier.0", "classifier.3": "classifier.3",
        "classifier.6": "classifier.6",
    }  # fmt: skip
    for name, tensor in network.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if layer in copied:
            assert torch.equal(tensor, net_a[f"{copied[layer]}.{kind}"]), name
        elif kind == "bias":
            assert not tensor.any(), name
        else:
            assert tensor.std().item() == pytest.approx(0.01, rel=0.2), name
    assert sum(kind.endswith("weight") for kind in network.state_dict()) == 16


def test_files_that_are_no_net_a_are_refused(tmp_path: Path) -> None:
    def refusal(network: VGG) -> str:
        with pytest.raises(ValueError) as found:  # noqa: PT011 - the whole message is compared below
            network.load_weights()
        return str(found.value)

    path = tmp_path / "a.pt"
    assert refusal(deeper(path)) == (
        f"start_from: weights (={path}) must be a file: download it first, nothing is fetched by itself."
    )
    torch.save(state_of_net_a(), path)
    remedy = "train column A without norm, for as many classes and with the same hidden layers."
    assert refusal(deeper(path, num_classes=5)) == (
        f"start_from (={path}) must hold a net A with classifier.6.weight of shape [5, 12], it has [3, 12]: {remedy}"
    )
    assert refusal(deeper(path, hidden=[12])) == (
        f"start_from (={path}) gives four convolutions and three linear layers; stages "
        "(=[[4, 4], [8, 8], [16, 16, 16], [32, 32, 32], [32, 32, 32]]) must have a third one with two convolutions, "
        "and hidden (=[12]) two layers: use a column of the paper, or leave start_from out."
    )
    torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    assert refusal(deeper(path)) == (
        f"start_from (={path}) must hold a net A with features.0.weight of shape [4, 3, 3, 3], it has none: {remedy}"
    )


# Skips


def test_pairs_of_convolutions_have_skips_and_odd_ones_not() -> None:
    """A and C have odd stages: of one convolution there is no pair, of three the first stays alone."""
    with torch.device("meta"):
        found = {column: VGG(column=column, skip=True).skips for column in "ABCDE"}
        batch = VGG(column="B", skip=True, norm="batch").skips
    assert found["A"] == {6: 8, 11: 13, 16: 18}
    assert found["B"] == {0: 2, 5: 7, 10: 12, 15: 17, 20: 22}
    assert found["C"] == found["D"] == {0: 2, 5: 7, 12: 14, 19: 21, 26: 28}
    assert found["E"] == {0: 2, 5: 7, 10: 12, 14: 16, 19: 21, 23: 25, 28: 30, 32: 34}
    assert batch == {0: 4, 7: 11, 14: 18, 21: 25, 28: 32}


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_silent_pairs_pass_what_they_see(norm: Any) -> None:
    images = random_images(2, 3, 8, 8)
    for skip in (True, False):
        torch.manual_seed(0)
        network = VGG([[4, 4, 6], [6, 8]], [], pooled_size=1, norm=norm, skip=skip, num_classes=5).eval()
        layers = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
        for silent in (layers[2], layers[4]):  # the last of each pair
            nn.init.zeros_(silent.weight)
        first = layers[0](images)
        if norm == "batch":
            first = network.features[1](first)
        seen = F.max_pool2d(F.max_pool2d(first.relu(), 2), 2) * skip  # 4 maps, 4 of zeros
        torch.testing.assert_close(network.maps(images), F.pad(seen, (0, 0, 0, 0, 0, 4)))
        assert sum(p.numel() for p in network.parameters()) == sum(
            p.numel() for p in VGG([[4, 4, 6], [6, 8]], [], 1, norm=norm, num_classes=5).parameters()
        )


def test_with_skips_and_without_norm_pairs_start_calmed() -> None:
    """The last convolution of each of five pairs has a fifth of He's variance."""
    deviations = {}
    for skip in (False, True):
        torch.manual_seed(0)
        network = VGG([[32, 32]] * 5, [], pooled_size=1, in_channels=32, skip=skip)
        layers = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
        deviations[skip] = torch.stack([layer.weight.std() for layer in layers])
    ratios = (deviations[True] / deviations[False]).tolist()
    assert ratios == pytest.approx([1, 5**-0.5] * 5, rel=1e-4)


@pytest.mark.parametrize("norm", ["none", "batch", "lrn"])
@pytest.mark.parametrize("init", ["he", "xavier", "gaussian"])
def test_skips_train_with_every_switch(norm: Any, init: Any) -> None:
    torch.manual_seed(0)
    network = VGG([[4], [6, "conv1-6"], [6, 8, 8]], [10], 1, norm=norm, init=init, skip=True, num_classes=7)
    logits = network(random_images(4, 3, 16, 16))
    network.loss(logits, torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


# The fully convolutional form


@pytest.mark.parametrize("hidden", [[], [9, 8]])
def test_logit_maps_are_the_classifier_at_every_position(hidden: list[int]) -> None:
    """Section 3.2: the first linear layer as a convolution of the pooled size, without the pooling."""
    torch.manual_seed(0)
    network = VGG([[4], [6]], hidden, pooled_size=3, init="xavier", num_classes=5).eval()
    with torch.inference_mode():
        native, large, small = random_images(2, 3, 12, 12), random_images(2, 3, 20, 17), random_images(2, 3, 20, 8)
        torch.testing.assert_close(network.logit_maps(native)[:, :, 0, 0], network(native))
        found, maps = network.logit_maps(large), network.maps(large)
        assert found.shape == (2, 5, 3, 2)
        for i in range(3):
            for j in range(2):
                window = maps[:, :, i : i + 3, j : j + 3].flatten(1)
                torch.testing.assert_close(found[:, :, i, j], network.classifier(window))
        narrow = network.logit_maps(small)  # maps of 5 x 2, averaged to 5 x 3
        widened = F.adaptive_avg_pool2d(network.maps(small), (5, 3))
        torch.testing.assert_close(narrow[:, :, 2, 0], network.classifier(widened[:, :, 2:].flatten(1)))
