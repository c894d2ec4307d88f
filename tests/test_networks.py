"""All networks side by side: exact counts, the three switches on every family, sizes of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.alexnet import AlexNet, AlexNetOWT
from models.classifier import NORM_LAYERS, Classifier
from models.cuda_convnet import CudaConvNet
from models.highway import HighwayNet
from models.inception import BNInception
from models.lenet import LeNet1, LeNet4, LeNet5
from models.lenet1989 import LeNet1989
from models.mlp import MLP
from models.nin import NiN
from models.prelu_net import PReLUNet
from models.preresnet import PreResNet
from models.resnet import ResNet
from models.vgg import VGG
from models.zfnet import ZFNet
from models.zoo import Zoo

WIDTHS = [64, 128, 256, 512]
CIFAR = {"widths": [16, 32, 64], "stem": "cifar", "shortcut": "A", "num_classes": 10}
BOTTLENECK = {"widths": WIDTHS, "block": "bottleneck"}
PAPER_LENET5 = {"c3": "table", "subsampling": "trainable", "activation": "scaled_tanh"}


def pre(layers: int, unit: str, **settings: Any) -> Callable[[], Classifier]:
    """A CIFAR network of units in some order, full pre-activation unless said."""
    blocks = (layers - 2) // {"single": 3, "basic": 6, "bottleneck": 9}[unit]
    return lambda: PreResNet([blocks] * 3, [16, 32, 64], unit=unit, num_classes=10, **settings)  # type: ignore[arg-type]


def zoo(name: str, library: str = "torchvision") -> Callable[[], Classifier]:
    return lambda: Zoo(name, library)  # type: ignore[arg-type]


# Trainable parameters, and where the number comes from: a paper's own count, or the network that a library ships. What
# neither has is by hand in the network's own test.
COUNTS: dict[str, tuple[Callable[[], Classifier], int, str]] = {
    "LeNet of 1989": (LeNet1989, 9_760, "LeCun et al. 1989"),
    "LeNet-5": (lambda: LeNet5(**PAPER_LENET5), 60_000 + 850, "LeCun et al. 1998: 60 000, and a linear output"),
    "LeNet-5, dense C3": (LeNet5, 61_706, "its usual modern form"),
    "AlexNet": (AlexNet, 60_965_224, "Krizhevsky et al. 2012: 60 million; Caffe's network without its file"),
    "AlexNet of 2014": (AlexNetOWT, 61_100_840, "torchvision"),
    "VGG-11": (lambda: VGG(column="A"), 132_863_336, "torchvision"),
    "VGG-13": (lambda: VGG(column="B"), 133_047_848, "torchvision"),
    "VGG-16": (lambda: VGG(column="D"), 138_357_544, "torchvision"),
    "VGG-19": (lambda: VGG(column="E"), 143_667_240, "torchvision"),
    "VGG-11 BN": (lambda: VGG(column="A", norm="batch"), 132_868_840, "torchvision"),
    "VGG-13 BN": (lambda: VGG(column="B", norm="batch"), 133_053_736, "torchvision"),
    "VGG-16 BN": (lambda: VGG(column="D", norm="batch"), 138_365_992, "torchvision"),
    "VGG-19 BN": (lambda: VGG(column="E", norm="batch"), 143_678_248, "torchvision"),
    "BN-Inception": (BNInception, 11_295_240 - 10_016, "the released network, without biases before norms"),
    "Network in Network": (NiN, 966_986, "the authors' file, by hand in its test"),
    "PReLU-net C": (
        lambda: PReLUNet([384, 768, 896], depth=6), 330_623_944, "others count 330.62 M; by hand in its test",
    ),
    "SE-BN-Inception": (lambda: BNInception(se_reduction=16), 11_931_622, "the released file's 46 MB, as BN-Inception"),
    "GoogLeNet": (zoo("googlenet"), 13_004_888, "torchvision, with auxiliary classifiers"),
    "ResNet-18": (lambda: ResNet([2, 2, 2, 2], WIDTHS), 11_689_512, "torchvision"),
    "ResNet-34": (lambda: ResNet([3, 4, 6, 3], WIDTHS), 21_797_672, "torchvision"),
    "ResNet-50": (lambda: ResNet([3, 4, 6, 3], **BOTTLENECK), 25_557_032, "torchvision"),
    "ResNet-50 v1": (lambda: ResNet([3, 4, 6, 3], stride_on="1x1", **BOTTLENECK), 25_557_032, "stride moves no weight"),
    "ResNet-101": (lambda: ResNet([3, 4, 23, 3], **BOTTLENECK), 44_549_160, "torchvision"),
    "ResNet-152": (lambda: ResNet([3, 8, 36, 3], **BOTTLENECK), 60_192_808, "torchvision"),
    "ResNeXt-50 32x4d": (
        lambda: ResNet([3, 4, 6, 3], groups=32, group_width=4, **BOTTLENECK), 25_028_904, "torchvision",
    ),
    "ResNeXt-101 32x8d": (
        lambda: ResNet([3, 4, 23, 3], groups=32, group_width=8, **BOTTLENECK), 88_791_336, "torchvision",
    ),
    "SE-ResNet-50": (lambda: ResNet([3, 4, 6, 3], se_reduction=16, **BOTTLENECK), 28_088_024, "timm"),
    "SENet-154": (zoo("legacy_senet154", "timm"), 115_088_984, "timm"),
    "CIFAR ResNet-20": (lambda: ResNet([3] * 3, **CIFAR), 269_722, "He et al. 2015: 0.27 M"),
    "CIFAR ResNet-32": (lambda: ResNet([5] * 3, **CIFAR), 464_154, "He et al. 2015: 0.46 M"),
    "CIFAR ResNet-44": (lambda: ResNet([7] * 3, **CIFAR), 658_586, "He et al. 2015: 0.66 M"),
    "CIFAR ResNet-56": (lambda: ResNet([9] * 3, **CIFAR), 853_018, "He et al. 2015: 0.85 M"),
    "CIFAR ResNet-110": (lambda: ResNet([18] * 3, **CIFAR), 1_727_962, "He et al. 2015: 1.7 M"),
    "CIFAR ResNet-1202": (lambda: ResNet([200] * 3, **CIFAR), 19_421_274, "He et al. 2015: 19.4 M"),
    "pre-activation ResNet-164": (pre(164, "bottleneck", shortcut="B"), 1_703_258, "He et al. 2016: 1.7 M"),
    "pre-activation ResNet-1001": (pre(1001, "bottleneck", shortcut="B"), 10_327_706, "He et al. 2016: 10.2 M"),
}  # fmt: skip


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters(name: str) -> None:
    build, count, _ = COUNTS[name]
    with torch.device("meta"):
        assert parameters(build()) == count


TORCHVISION = {
    "AlexNet of 2014": "alexnet", "VGG-11": "vgg11", "VGG-13": "vgg13", "VGG-16": "vgg16", "VGG-19": "vgg19",
    "VGG-11 BN": "vgg11_bn", "VGG-13 BN": "vgg13_bn", "VGG-16 BN": "vgg16_bn", "VGG-19 BN": "vgg19_bn",
    "GoogLeNet": "googlenet", "ResNet-18": "resnet18", "ResNet-34": "resnet34", "ResNet-50": "resnet50",
    "ResNet-101": "resnet101", "ResNet-152": "resnet152", "ResNeXt-50 32x4d": "resnext50_32x4d",
    "ResNeXt-101 32x8d": "resnext101_32x8d",
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_of_weights_are_torchvisions(name: str) -> None:
    import torchvision

    arguments = {"init_weights": True} if name == "GoogLeNet" else {}
    with torch.device("meta"):
        ours = COUNTS[name][0]()
        theirs = torchvision.models.get_model(TORCHVISION[name], weights=None, **arguments)
    state = ours.network.state_dict() if isinstance(ours, Zoo) else ours.state_dict()
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in theirs.state_dict().items()}


# Small networks of every family that has the switches, with the shape of an image.
FAMILIES: dict[str, tuple[Callable[..., Classifier], tuple[int, int, int]]] = {
    "MLP": (lambda **s: MLP((1, 8, 8), [12, 12], **s), (1, 8, 8)),
    "LeNet of 1989": (lambda **s: LeNet1989(squash_output=False, **s), (1, 16, 16)),
    "LeNet-1": (lambda **s: LeNet1(**s), (1, 28, 28)),
    "LeNet-4": (lambda **s: LeNet4(**s), (1, 32, 32)),
    "LeNet-5": (lambda **s: LeNet5(**s), (1, 32, 32)),
    "AlexNet": (lambda **s: AlexNet(widths=[8, 12, 16, 16, 8], hidden=16, num_classes=10, **s), (3, 67, 67)),
    "AlexNet of 2014": (lambda **s: AlexNetOWT(widths=[8, 12, 16, 8, 8], hidden=16, num_classes=10, **s), (3, 67, 67)),
    "ZFNet": (lambda **s: ZFNet(widths=[8, 12, 16, 16, 8], hidden=16, num_classes=10, **s), (3, 64, 64)),
    "cuda-convnet": (lambda **s: CudaConvNet(image_size=16, **s), (3, 16, 16)),
    "VGG": (lambda **s: VGG([[8, 8], [16, 16, 16]], [16], 2, num_classes=10, **s), (3, 16, 16)),
    "PReLU-net": (lambda **s: PReLUNet([96] * 3, depth=3, hidden=[16], num_classes=10, **s), (3, 32, 32)),
    "Network in Network": (lambda **s: NiN([8, 8, 8, 8, 8, 8, 8, 8], **s), (3, 16, 16)),
    "Highway": (lambda **s: HighwayNet([[8, 8], [12, 12, 12]], hidden=16, **s), (3, 16, 16)),
    "BN-Inception": (lambda **s: BNInception(num_classes=10, **s), (3, 48, 48)),
    "ResNet": (lambda **s: ResNet([1, 2], [8, 12], shortcut="A", num_classes=10, **s), (3, 32, 32)),
    "ResNet of bottlenecks": (
        lambda **s: ResNet([1, 2], [8, 12], block="bottleneck", shortcut="A", num_classes=10, **s), (3, 32, 32),
    ),
    "pre-activation ResNet": (lambda **s: PreResNet([1, 2], [8, 12], **s), (3, 16, 16)),
}  # fmt: skip

NORMS = [(name, norm) for name in FAMILIES for norm in ("none", "batch")]
NORMS += [(name, "lrn") for name in ("AlexNet", "AlexNet of 2014", "ZFNet", "cuda-convnet", "VGG")]


WITH_CHANNELS = [name for name in FAMILIES if name not in ("MLP", "LeNet of 1989", "LeNet-1", "LeNet-4", "LeNet-5")]


@pytest.mark.parametrize("name", WITH_CHANNELS)
def test_images_without_channels_are_refused(name: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        FAMILIES[name][0](in_channels=0)
    assert str(refusal.value) == "in_channels (=0) must be at least 1: 3 for colour images, 1 for gray ones."


def images(shape: tuple[int, int, int], count: int = 4) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_skip_has_no_parameters_and_matters(name: str) -> None:
    """The same weights, under the same names, and another function: identity paths without parameters."""
    build, shape = FAMILIES[name]
    torch.manual_seed(0)
    with_skip, without = build(skip=True).eval(), build(skip=False).eval()
    assert with_skip.state_dict().keys() == without.state_dict().keys()
    without.load_state_dict(with_skip.state_dict())
    with torch.no_grad():
        assert not torch.equal(with_skip(images(shape)), without(images(shape)))


@pytest.mark.parametrize(("name", "norm"), NORMS)
def test_every_norm_trains(name: str, norm: str) -> None:
    """Gradients reach every weight, with and without skips, and norms add nothing but their own parameters."""
    build, shape = FAMILIES[name]
    for skip in (True, False):
        torch.manual_seed(0)
        network = build(norm=norm, skip=skip)
        logits = network(images(shape))
        assert logits.shape == (4, 10)
        network.loss(logits, torch.arange(4)).backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
    weights = {key for key, parameter in network.named_parameters() if parameter.ndim > 1}
    plain = {key for key, parameter in build(norm="none").named_parameters() if parameter.ndim > 1}
    assert len(weights) == len(plain)  # the layers with weights are the same
    has_batch_norms = any(isinstance(module, NORM_LAYERS) for module in network.modules())
    assert has_batch_norms == (norm == "batch")


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_has_no_parameters_and_acts_in_training_only(name: str) -> None:
    build, shape = FAMILIES[name]
    torch.manual_seed(0)
    network = build(dropout=0.5)
    assert parameters(network) == parameters(build(dropout=0.0))
    with torch.no_grad():
        assert not torch.equal(network(images(shape)), network(images(shape)))
        network.eval()
        assert torch.equal(network(images(shape)), network(images(shape)))


ANY_SIZE = [name for name in FAMILIES if name not in ("MLP", "LeNet of 1989", "LeNet-1", "LeNet-4", "LeNet-5")]


@pytest.mark.parametrize("name", [name for name in ANY_SIZE if name != "cuda-convnet"])
def test_other_sizes_of_images(name: str) -> None:
    build, (channels, height, width) = FAMILIES[name]
    network = build().eval()
    with torch.no_grad():
        assert network(images((channels, height + 5, width + 12))).shape == (4, 10)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ANY_SIZE or name == "cuda-convnet"])
def test_the_one_size_of_images(name: str) -> None:
    """Networks that end in a fully connected layer of the whole map say what they need."""
    build, (channels, height, width) = FAMILIES[name]
    network = build().eval()
    error = RuntimeError if name == "MLP" else ValueError  # the MLP has no map: torch compares the numbers of pixels
    with torch.no_grad(), pytest.raises(error, match=r"needs \d+ x \d+ pixels, got|shapes cannot be multiplied"):
        network(images((channels, height + 5, width)))
