"""Networks of torchvision and timm: logits, counts, options; auxiliary losses by hand; weights of either form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from models.zoo import Zoo, main_and_auxiliary


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SMALL = {"name": "squeezenet1_1", "num_classes": 7}  # torchvision's smallest without norms: 0.7 M parameters
QUICK = {"init_weights": False}  # torch's own initialisation instead of torchvision's slow one


# Counts


@pytest.mark.parametrize(
    ("name", "library", "options", "count"),
    [
        ("googlenet", "torchvision", QUICK, 13_004_888),
        ("googlenet", "torchvision", {**QUICK, "aux_logits": False}, 6_624_904),  # torchvision's published count
        (
            "inception_v3",
            "torchvision",
            QUICK,
            27_161_264,
        ),  # torchvision's published count, with the auxiliary classifier
        ("legacy_senet154", "timm", {}, 115_088_984),  # Hu et al. 2018: 115.1 M
        ("resnet50", "timm", {}, 25_557_032),
    ],
)
def test_networks_have_the_published_parameters(name: str, library: Any, options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        network = Zoo(name, library, options)
    assert parameters(network) == count


def test_published_counts_are_torchvisions_own() -> None:
    weights = torchvision.models.get_model_weights
    assert weights("googlenet").IMAGENET1K_V1.meta["num_params"] == 6_624_904
    assert weights("inception_v3").IMAGENET1K_V1.meta["num_params"] == 27_161_264


def test_torchvisions_own_initialisation_is_the_default() -> None:
    """Truncated normal numbers of standard deviation 0.01 in GoogLeNet (its `init_weights`), at most 2 of them away."""
    torch.manual_seed(0)
    kernel = Zoo("googlenet", num_classes=2, options={"aux_logits": False}).network.conv3.conv.weight
    assert kernel.std().item() == pytest.approx(0.01, rel=0.02)


# Logits and losses


def test_googlenet_gives_torchvisions_logits() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(weights=None, init_weights=False).eval()
    ours = Zoo("googlenet", options=QUICK).eval()
    ours.network.load_state_dict(theirs.state_dict())
    images = random_images(2, 3, 224, 224)
    with torch.inference_mode():
        expected = theirs(images)
        assert torch.equal(ours(images), expected)
    assert expected.shape == (2, 1000)


def test_timm_gives_its_own_logits() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=7).eval()
    ours = Zoo("resnet18", "timm", num_classes=7).eval()
    ours.network.load_state_dict(theirs.state_dict())
    images = random_images(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


class ThreeHeads(nn.Module):
    """What GoogLeNet returns in training: three linear classifiers of the mean colour, of which one may be missing."""

    def __init__(self, middle: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(3, 7) for _ in range(3))
        self.middle = middle

    def forward(self, x: Tensor) -> Any:
        main, two, one = (head(x.mean((2, 3))) for head in self.heads)
        if not self.training:
            return main
        return torchvision.models.GoogLeNetOutputs(main, two if self.middle else None, one)


@pytest.mark.parametrize("middle", [True, False])
@pytest.mark.parametrize("weight", [0.3, 0.0])
def test_auxiliary_losses_are_added_with_their_weight(middle: bool, weight: float) -> None:
    """Szegedy et al. 2015, section 5: 0.3 of each; the errors that are counted are the main classifier's."""
    torch.manual_seed(0)
    network = Zoo(**SMALL, auxiliary_weight=weight)
    network.network = ThreeHeads(middle)
    images, labels = random_images(5, 3, 4, 4), torch.arange(5)
    main, *others = (F.cross_entropy(head(images.mean((2, 3))), labels) for head in network.network.heads)
    by_hand = main + weight * (others[1] + (others[0] if middle else 0))
    torch.testing.assert_close(network.training_step((images, labels), 0), by_hand)
    counted = network.train_errors.compute()
    assert counted["loss"].item() == pytest.approx(main.item(), rel=1e-6)
    assert counted["wrong1"].item() == (network(images).argmax(1) != labels).sum().item()


def test_googlenets_training_step_has_three_losses() -> None:
    torch.manual_seed(0)
    network = Zoo("googlenet", num_classes=5, options={**QUICK, "dropout": 0.0, "dropout_aux": 0.0})
    images, labels = random_images(2, 3, 224, 224), torch.tensor([0, 4])
    with torch.no_grad():
        loss = network.training_step((images, labels), 0)
        main, two, one = (F.cross_entropy(logits, labels) for logits in network.network(images))
    torch.testing.assert_close(loss, main + 0.3 * two + 0.3 * one, rtol=1e-4, atol=1e-4)
    assert not torch.isclose(two, one)


def test_output_of_either_form_is_taken_apart() -> None:
    logits, one = torch.zeros(1, 2), torch.ones(1, 2)
    assert main_and_auxiliary(logits) == (logits, [])
    assert main_and_auxiliary((logits, None, one)) == (logits, [one])


# Options


def test_options_reach_the_library() -> None:
    with torch.device("meta"):
        network = Zoo("resnet18", "timm", {"drop_rate": 0.25})
    assert network.network.drop_rate == 0.25
    plain = Zoo(**SMALL, options={"dropout": 0.125})
    assert [layer.p for layer in plain.modules() if isinstance(layer, nn.Dropout)] == [0.125]


TORCHVISIONS = len(torchvision.models.list_models(module=torchvision.models))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet50", "library": "hub"}, "library (=hub) must be one of torchvision, timm."),
        (
            {"name": "googlnet"},
            "name (=googlnet) must be a network of torchvision: did you mean googlenet or ",
        ),
        (
            {"name": "legacy_senet155", "library": "timm"},
            "name (=legacy_senet155) must be a network of timm: did you mean legacy_senet154 or ",
        ),
        (
            {"name": "#"},
            f"name (=#) must be a network of torchvision: torchvision has {TORCHVISIONS} others.",
        ),
        (
            {"name": "resnet18", "options": {"drop_rat": 0.5}},
            "options (={'drop_rat': 0.5}) must be what torchvision takes for resnet18 (",
        ),
        (
            {"name": "resnet18", "library": "timm", "options": {"drop_rat": 0.5}},
            "options (={'drop_rat': 0.5}) must be what timm takes for resnet18 (",
        ),
        (
            {"name": "resnet18", "options": {"num_classes": 5}},
            "options (={'num_classes': 5}) must not have num_classes: it comes from the dataset. Remove it.",
        ),
        (
            {"name": "resnet18", "auxiliary_weight": -0.3},
            "auxiliary_weight (=-0.3) must not be negative; 0 ignores such classifiers.",
        ),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the message is compared below
        Zoo(**settings)
    found = str(refusal.value)
    assert found.startswith(message)
    if message.endswith("("):  # then the library's own words
        assert "drop_rat" in found or "pretrained" in found
        assert found.endswith("): remove or correct what it refuses.")


# Weights


def test_weights_of_torchvisions_and_of_our_own_form_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.squeezenet1_1(weights=None, num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = {f"network.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": ours, "epoch": 3}, tmp_path / "ours.ckpt")
    images = random_images(2, 3, 64, 64)
    for file in ("theirs.pth", "ours.ckpt"):
        network = Zoo(**SMALL, weights=str(tmp_path / file)).eval()
        assert not torch.allclose(network(images), theirs(images))
        network.load_weights()
        assert torch.equal(network(images), theirs(images))


def test_without_a_file_the_weights_stay() -> None:
    network = Zoo(**SMALL)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_weights()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"must fit SqueezeNet name by name: 52 missing .*; 1 unknown \(fc.weight\)"):
        Zoo(**SMALL, weights=str(path)).load_weights()


def test_options_that_a_library_only_asserts_are_refused_in_one_message() -> None:
    with pytest.raises(ValueError, match=r"options .* must be what timm takes for resnet18 \(.*\): remove or correct"):
        Zoo("resnet18", library="timm", options={"global_pool": "nonsense"})


@pytest.mark.parametrize("option", ["pretrained", "weights", "checkpoint_path"])
def test_nothing_is_downloaded(option: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        Zoo("resnet18", options={option: True})
    assert str(refusal.value) == (
        f"options (={{'{option}': True}}) must not ask for weights, nothing is downloaded: give a file of them as "
        "model.init_args.weights."
    )


# Stems for CIFAR


@pytest.mark.parametrize(
    ("name", "options", "millions", "size"),
    [
        ("densenet121", {}, 6.956, 2),
        ("densenet169", {}, 12.493, 2),
        ("googlenet", {**QUICK, "aux_logits": False}, 5.491, 8),
        ("inception_v3", {**QUICK, "aux_logits": False}, 21.640, 7),
    ],
)
def test_cifar_stems_give_the_sources_counts_and_maps(
    name: str, options: dict[str, Any], millions: float, size: int
) -> None:
    """Millions are from the README of huyvnphan/PyTorch_CIFAR10, of Inception to the last digit; sizes are by hand."""
    sizes = []
    with torch.device("meta"):
        network = Zoo(name, options=options, stem="cifar", num_classes=10).eval()
        last = {"densenet121": "features", "densenet169": "features", "googlenet": "inception5b"}.get(name, "Mixed_7c")
        getattr(network.network, last).register_forward_hook(lambda *passed: sizes.append(passed[2].shape[-1]))
        assert network(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.0011)
    assert sizes == [size]


def test_a_cifar_stem_is_refused_where_it_is_not_known() -> None:
    for name, library in (("resnet18", "torchvision"), ("densenet121", "timm")):
        with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
            Zoo(name, library, stem="cifar")  # type: ignore[arg-type]
        assert str(refusal.value) == (
            f"stem (=cifar) is known of torchvision's googlenet, inception_v3 and densenets, not of {library}'s "
            f"{name}: set it to library."
        )
