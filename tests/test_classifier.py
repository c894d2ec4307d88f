"""Errors are counted exactly, over batches and over processes; losses, parameter groups and logs are what they say."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules import batches
from models.classifier import IGNORED_LABEL, Classifier, ErrorCount, plus_minus_one_mse, rank_of_label, undecayed
from models.lenet import LeNet5
from models.linear import Linear
from models.mlp import MLP
from models.resnet import ResNet
from models.vgg import VGG

NAN = math.nan


class Tiny(Classifier):
    """Four pixels, one linear layer. [B, 1, 2, 2] -> [B, num_classes]"""

    def __init__(self, num_classes: int = 7, **classifier: Any) -> None:
        super().__init__(num_classes=num_classes, **classifier)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def random_predictions(images: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [images, classes], all different, and labels [images]."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (images,), generator=generator)


# The rank of the label


@pytest.mark.parametrize("classes", [5, 6, 10, 1000])
def test_first_and_first_five_are_those_of_argmax_and_topk(classes: int) -> None:
    logits, labels = random_predictions(300, classes)
    rank = rank_of_label(logits, labels)
    assert torch.equal(rank < 1, logits.argmax(1) == labels)
    assert torch.equal(rank < 5, (logits.topk(5).indices == labels[:, None]).any(1))


def test_ties_go_to_the_lower_class() -> None:
    logits = torch.randint(3, (500, 8), generator=torch.Generator().manual_seed(0)).float()  # ties in every row
    labels = torch.arange(500) % 8
    in_order = logits.sort(dim=1, descending=True, stable=True).indices  # `topk` promises nothing about ties
    assert torch.equal(rank_of_label(logits, labels), (in_order == labels[:, None]).int().argmax(1))
    assert torch.equal(rank_of_label(logits, labels) < 1, logits.argmax(1) == labels)


def test_a_constant_network_is_right_about_class_0_only() -> None:
    assert rank_of_label(torch.zeros(8, 8), torch.arange(8)).tolist() == list(range(8))


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_fewer_than_five_classes_leave_no_room_for_a_top_5_error(classes: int) -> None:
    logits, labels = random_predictions(100, classes)
    rank = rank_of_label(logits, labels)
    assert torch.equal(rank < 1, logits.argmax(1) == labels)
    assert set(rank.tolist()) == set(range(classes))


@pytest.mark.parametrize("classes", [2, 4, 5, 10])
def test_a_network_that_gives_nan_is_wrong_in_every_count(classes: int) -> None:
    labels = torch.arange(classes)  # class 0 too, which argmax would call right
    assert (rank_of_label(torch.full((classes, classes), NAN), labels) >= 5).all()


@pytest.mark.parametrize(
    ("logits", "label", "first", "first_five"),
    [
        ([NAN, 1, 2, 3, 4, 5, 6], 0, False, False),
        ([NAN, 1, 2, 3, 4, 5, 6], 6, False, True),  # NaN stands before every number, as in argmax
        ([NAN, 1, 2, 3, 4, 5, 6], 3, False, True),
        ([NAN, 1, 2, 3, 4, 5, 6], 2, False, False),
        ([1, NAN], 0, False, True),
        ([1, NAN], 1, False, False),
        ([math.inf, 1, 2], 0, True, True),
        ([-math.inf, 1, 2, 3, 4, 5], 0, False, False),
    ],
)
def test_single_values_that_are_no_numbers(logits: list[float], label: int, first: bool, first_five: bool) -> None:
    rank = rank_of_label(torch.tensor([logits]), torch.tensor([label]))
    assert (rank.item() < 1, rank.item() < 5) == (first, first_five)


@pytest.mark.parametrize("classes", [2, 4, 5, 10])
def test_an_ignored_image_is_never_in_place(classes: int) -> None:
    logits = torch.zeros(1, classes)
    logits[0, 0] = 1.0
    assert rank_of_label(logits, torch.tensor([IGNORED_LABEL])).item() >= 5


def test_loaders_mark_the_images_that_classifiers_ignore() -> None:
    assert IGNORED_LABEL == batches.IGNORED_LABEL
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED_LABEL


# Counting


def test_errors_by_hand() -> None:
    errors = ErrorCount()
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]]).expand(4, 6)
    errors.update(logits, torch.tensor([0, 2, 5, IGNORED_LABEL]), torch.tensor(0.5))
    errors.update(logits[:1], torch.tensor([4]), torch.tensor(2.5))
    found = errors.compute()
    assert {name: found[name].item() for name in ("wrong1", "wrong5", "count")} == {
        "wrong1": 3,
        "wrong5": 1,
        "count": 4,
    }
    assert found["top1_error"].item() == 75.0
    assert found["top5_error"].item() == 25.0
    assert found["loss"].item() == (3 * 0.5 + 1 * 2.5) / 4


def test_batches_of_any_size_add_up_to_one_large_batch() -> None:
    logits, labels = random_predictions(100, 10)
    labels[[3, 50, 51, 52, 99]] = IGNORED_LABEL
    whole, parts = ErrorCount(), ErrorCount()
    whole.update(logits, labels, F.cross_entropy(logits, labels))
    for first, last in itertools.pairwise([0, 1, 38, 50, 53, 100]):  # 50 to 53: nothing but ignored images
        part = slice(first, last)
        parts.update(logits[part], labels[part], F.cross_entropy(logits[part], labels[part]))
    one, many = whole.compute(), parts.compute()
    for name in ("wrong1", "wrong5", "count", "top1_error", "top5_error"):
        assert torch.equal(one[name], many[name])
    assert many["loss"].item() == pytest.approx(one["loss"].item(), rel=1e-12)

    counted = [(row, label) for row, label in zip(logits.tolist(), labels.tolist(), strict=True) if label >= 0]
    assert one["count"].item() == len(counted) == 95
    assert one["wrong1"].item() == sum(row.index(max(row)) != label for row, label in counted)
    assert one["wrong5"].item() == sum(sorted(row)[-5] > row[label] for row, label in counted)


def test_a_batch_of_ignored_images_leaves_every_count_alone() -> None:
    errors = ErrorCount()
    errors.update(torch.zeros(3, 10), torch.full((3,), IGNORED_LABEL), torch.tensor(NAN))  # the mean over no image
    assert [value.item() for value in errors.compute().values()] == [0.0] * 6
    errors.update(torch.zeros(1, 10), torch.tensor([0]), torch.tensor(1.5))
    assert errors.compute()["loss"].item() == 1.5


def test_counts_are_whole_numbers_beyond_what_a_float_can_hold() -> None:
    errors = ErrorCount()
    errors.wrong1 += 2**24  # the first whole number whose successor is no float32
    errors.wrong5 += 2**53  # and no float64
    errors.count += 2**53
    errors.update(torch.zeros(2, 10), torch.tensor([0, 9]))
    found = errors.compute()
    assert found["wrong1"].item() == 2**24 + 1
    assert found["wrong5"].item() == 2**53 + 1
    assert found["count"].item() == 2**53 + 2


def test_counts_start_again_after_a_reset() -> None:
    errors = ErrorCount()
    errors.update(torch.zeros(2, 10), torch.tensor([0, 9]), torch.tensor(1.0))
    before = errors.compute()
    errors.reset()
    errors.update(torch.zeros(1, 10), torch.tensor([0]), torch.tensor(3.0))
    assert [value.item() for value in before.values()] == [50.0, 50.0, 1.0, 1, 1, 2]
    assert [value.item() for value in errors.compute().values()] == [0.0, 0.0, 3.0, 0, 0, 1]


def count_on_rank(rank: int, folder: str) -> None:
    """One of two processes: rank 0 sees 70 images in two batches, rank 1 sees 30 in one, and all counts are large."""
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", timedelta(seconds=60), rank=rank, world_size=2
    )
    logits, labels = random_predictions(100, 10)
    errors = ErrorCount()
    errors.wrong1 += 2**53 + rank
    for part in [slice(0, 64), slice(64, 70)] if rank == 0 else [slice(70, 100)]:
        errors.update(logits[part], labels[part], F.cross_entropy(logits[part], labels[part]))
    found = {name: value.item() for name, value in errors.compute().items()}
    Path(folder, f"{rank}.json").write_text(json.dumps(found | {"own_count": errors.count.item()}))
    torch.distributed.destroy_process_group()


def test_two_processes_count_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(count_on_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first.pop("own_count"), second.pop("own_count")) == (70, 30)
    assert first == second

    logits, labels = random_predictions(100, 10)
    assert first["count"] == 100
    assert first["wrong1"] == 2**54 + 1 + (logits.argmax(1) != labels).sum().item()
    assert first["wrong5"] == first["top5_error"] == 100 - (logits.topk(5).indices == labels[:, None]).sum().item()
    assert first["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


# Losses


def test_cross_entropy_is_the_mean_over_counted_images() -> None:
    logits, labels = random_predictions(20, 7)
    labels[[0, 7, 19]] = IGNORED_LABEL
    counted = labels != IGNORED_LABEL
    found = Tiny().loss(logits, labels)
    assert found.item() == pytest.approx(F.cross_entropy(logits[counted], labels[counted]).item(), rel=1e-12)


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    logits, labels = random_predictions(20, 7)
    labels[3] = IGNORED_LABEL
    by_hand = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        if label != IGNORED_LABEL:
            by_hand.append(0.9 * (log_sum - row[label]) + 0.1 * sum(log_sum - value for value in row) / 7)
    assert Tiny(label_smoothing=0.1).loss(logits, labels).item() == pytest.approx(sum(by_hand) / 19, rel=1e-12)


def test_plus_minus_one_mse_by_hand() -> None:
    logits = torch.tensor([[1.0, -1.0, -1.0], [0.0, 0.0, 0.0], [2.0, 0.5, -3.0], [9.0, 9.0, 9.0]], requires_grad=True)
    labels = torch.tensor([0, 2, 1, IGNORED_LABEL])
    # targets (+1 -1 -1), (-1 -1 +1), (-1 +1 -1): squared errors 0, 1 + 1 + 1, 9 + 1/4 + 4
    loss = plus_minus_one_mse(logits, labels)
    assert loss.item() == pytest.approx((0 + 3 + 13.25) / 3)
    assert Tiny(num_classes=3, loss="mse").loss(logits, labels).item() == loss.item()

    loss.backward()
    assert logits.grad is not None
    by_hand = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, -1.0], [3.0, -0.5, -2.0], [0.0, 0.0, 0.0]]) * 2 / 3
    torch.testing.assert_close(logits.grad, by_hand)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes (=1) must be at least 2: use a dataset with two classes or more."),
        ({"label_smoothing": -0.1}, "label_smoothing (=-0.1) must lie in [0, 1): use 0 for none."),
        ({"label_smoothing": 1.0}, "label_smoothing (=1.0) must lie in [0, 1): use 0 for none."),
        (
            {"label_smoothing": 0.1, "loss": "mse"},
            "label_smoothing (=0.1) needs loss: cross_entropy; set it to 0 for mse.",
        ),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        Tiny(**settings)
    assert str(refusal.value) == message


# Optimizer and parameter groups


def test_training_without_an_optimizer_is_refused() -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        Tiny().configure_optimizers()
    assert str(refusal.value) == "Tiny was built without an optimizer: give model.init_args.optimizer in the recipe."


class Motley(Classifier):
    """Every kind of parameter that the groups must tell apart, under names that say nothing of their kind."""

    def __init__(self, **classifier: Any) -> None:
        super().__init__(num_classes=2, **classifier)
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))  # as in torchvision
        self.third = nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4, affine=False))
        self.bn = nn.Linear(4, 4)  # no norm, whatever its name
        self.same = self.bn  # one layer in two places
        self.scale = nn.Parameter(torch.ones(4))


NORMS = {f"{layer}.{part}" for layer in ("second", "downsample.1", "third.0", "third.1") for part in ("weight", "bias")}
BIASES = {"first.bias", "bn.bias"}
WEIGHTS = {"first.weight", "downsample.0.weight", "bn.weight", "scale"}


@pytest.mark.parametrize(
    ("decay_norm", "decay_bias", "spared"),
    [(True, True, set()), (False, True, NORMS), (True, False, BIASES), (False, False, NORMS | BIASES)],
)
def test_every_parameter_is_in_one_group_chosen_by_its_module(
    decay_norm: bool, decay_bias: bool, spared: set[str]
) -> None:
    network = Motley(decay_norm=decay_norm, decay_bias=decay_bias)
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert set(names.values()) == NORMS | BIASES | WEIGHTS
    groups = list(network.parameter_groups())
    named = [sorted(names[parameter] for parameter in group["params"]) for group in groups]
    assert named == [sorted(set(names.values()) - spared)] + ([sorted(spared)] if spared else [])
    assert [group.get("weight_decay") for group in groups] == [None, 0.0][: len(groups)]


def test_weight_decay_shrinks_the_decayed_and_nothing_else() -> None:
    sgd = functools.partial(torch.optim.SGD, lr=0.5, weight_decay=0.1)
    network = Motley(optimizer=sgd, decay_norm=False, decay_bias=False)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = network.configure_optimizers()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        kept = 1 - 0.5 * 0.1 if name in WEIGHTS else 1.0
        torch.testing.assert_close(parameter.detach(), kept * before[name])


@pytest.mark.parametrize("name", ["resnet50", "vgg11_bn", "vit_b_16"])
def test_norms_and_biases_of_published_networks_are_their_vectors(name: str) -> None:
    """In these networks norms and biases have one dimension and all that should decay has more."""
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        network = models.get_model(name, weights=None)
    vectors = {name for name, parameter in network.named_parameters() if parameter.ndim == 1}
    vectors -= {name for name in vectors if name.endswith("in_proj_bias")}  # attention's own; not called `bias`
    spared = undecayed(network, norm=True, bias=True)
    assert {name for name, parameter in network.named_parameters() if parameter in spared} == vectors
    norms, biases = undecayed(network, norm=True, bias=False), undecayed(network, norm=False, bias=True)
    assert norms
    assert biases
    assert norms.isdisjoint(biases)
    assert norms | biases == spared


# A training step


class Batches:
    """Batches for Lightning, which would take a plain list for a list of loaders."""

    def __init__(self, *batches: tuple[Tensor, Tensor]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


def random_batch(images: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 1, 2, 2, generator=generator), torch.randint(7, (images,), generator=generator)


def errors_by_loop(predictions: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean loss and errors in percent of logits and labels, image by image."""
    losses, wrong1, wrong5 = [], 0, 0
    for logits, labels in predictions:
        for row, label in zip(logits, labels, strict=True):
            if label != IGNORED_LABEL:
                losses.append(F.cross_entropy(row, label).item())
                wrong1 += row.argmax().item() != label.item()
                wrong5 += label.item() not in row.topk(5).indices.tolist()
    count = len(losses)
    return {"loss": sum(losses) / count, "top1_error": 100 * wrong1 / count, "top5_error": 100 * wrong5 / count}


# Lightning warns where a GPU stands idle; this test needs none. It also makes a LeafSpec, which newer torch deprecates.
@pytest.mark.filterwarnings(
    "ignore:GPU available but not used", r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"
)
@pytest.mark.parametrize(("lr_interval", "lrs"), [("step", [0.8, 0.4, 0.2, 0.1]), ("epoch", [0.8, 0.8, 0.4, 0.4])])
def test_two_epochs_of_two_steps_are_those_of_a_plain_loop(lr_interval: Any, lrs: list[float], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Tiny(
        optimizer=functools.partial(torch.optim.SGD, lr=0.8),
        lr_scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
        lr_interval=lr_interval,
    )
    plain = nn.Linear(4, 7)
    plain.load_state_dict(network.fc.state_dict())
    train = [random_batch(16, seed=1), random_batch(5, seed=2)]
    val = [random_batch(8, seed=3), random_batch(8, seed=4)]
    val[1][1][3:] = IGNORED_LABEL

    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(network, Batches(*train), Batches(*val))

    seen: list[tuple[Tensor, Tensor]] = []
    for lr, (images, labels) in zip(lrs, train + train, strict=True):
        logits = plain(images.flatten(1))
        seen.append((logits.detach(), labels))
        weight, bias = torch.autograd.grad(F.cross_entropy(logits, labels), [plain.weight, plain.bias])
        with torch.no_grad():
            plain.weight -= lr * weight
            plain.bias -= lr * bias
    torch.testing.assert_close(network.fc.weight, plain.weight)

    with torch.no_grad():
        expected = {f"train/{name}": value for name, value in errors_by_loop(seen[2:]).items()}  # of the last epoch
        last = [(plain(images.flatten(1)), labels) for images, labels in val]
        expected |= {f"val/{name}": value for name, value in errors_by_loop(last).items()}
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged == pytest.approx(expected, rel=1e-5)


def test_counts_are_not_part_of_a_checkpoint() -> None:
    network = Tiny()
    network.train_errors.update(torch.zeros(1, 7), torch.tensor([0]))
    assert set(network.state_dict()) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(image_shape=(1, 4, 4), hidden=[3], norm="bath"), r"norm \(=bath\) must be one of none, batch"),
        (lambda: MLP(image_shape=(1, 4, 4), hidden=[3], activation="sine"), r"activation \(=sine\)"),
        (lambda: LeNet5(c3="tabel"), r"c3 \(=tabel\) must be one of table, full"),
        (lambda: LeNet5(subsampling="avg"), r"subsampling \(=avg\)"),
        (lambda: VGG(stages=[[4]], hidden=[4], norm="layer"), r"norm \(=layer\)"),
        (lambda: ResNet(depths=[1], widths=[4], stem="mnist"), r"stem \(=mnist\)"),
        (lambda: ResNet(depths=[1], widths=[4], shortcut="D"), r"shortcut \(=D\)"),
        (lambda: ResNet(depths=[1, 0], widths=[4, 8]), r"depths \(=\[1, 0\]\) must be at least 1 block"),
        (lambda: Linear(image_shape=(1, 4, 4), loss="mes"), r"loss \(=mes\) must be one of cross_entropy, mse"),
    ],
)
def test_switch_in_no_position_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# Weights from a file


def small_resnet(**settings: Any) -> ResNet:
    return ResNet(**{"depths": [1, 1], "widths": [4, 8], "stem": "cifar", "num_classes": 7, **settings})


def refusal_of(network: Classifier) -> str:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - callers compare the whole message
        network.load_weights()
    return str(refusal.value)


def test_torchvisions_file_gives_torchvisions_logits(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = ResNet([2, 2, 2, 2], [64, 128, 256, 512], weights=str(tmp_path / "resnet18.pth")).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert not torch.allclose(ours(images), theirs(images))  # the constructor reads no file
        ours.load_weights()
        torch.testing.assert_close(ours(images), theirs(images))


def test_a_checkpoint_of_lightning_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = small_resnet()
    torch.save({"state_dict": trained.state_dict(), "epoch": 4, "optimizer_states": [{}]}, tmp_path / "last.ckpt")
    network = small_resnet(weights=str(tmp_path / "last.ckpt"))
    network.load_weights()
    assert trained.state_dict().keys() == network.state_dict().keys()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_files_from_before_batches_were_counted_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    old = {
        name: tensor for name, tensor in small_resnet().state_dict().items() if not name.endswith("num_batches_tracked")
    }
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    network = small_resnet(weights=str(tmp_path / "old.pth"))
    assert len(network.state_dict()) > len(old)
    network.load_weights()
    for name, tensor in old.items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_without_a_file_the_weights_stay() -> None:
    network = small_resnet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_weights()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_missing_file_of_weights_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.pth", tmp_path):
        assert refusal_of(Tiny(weights=str(path))) == (
            f"weights (={path}) must be a file: download it first, nothing is fetched by itself."
        )


class Stranger:
    """What only a pickle that may run anything can restore."""


def test_a_file_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_text("<html>Not found</html>")
    message = (
        f"weights (={path}) must be a whole file of tensors that torch.save wrote, it cannot be read as one (%s): "
        "download it again, or save its state dict alone."
    )
    assert refusal_of(Tiny(weights=str(path))) == message % "UnpicklingError"
    torch.save({"state_dict": Tiny().state_dict(), "network": Stranger()}, path)
    assert refusal_of(Tiny(weights=str(path))) == message % "UnpicklingError"
    torch.save({"fc.weight": torch.zeros(7, 4)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal_of(Tiny(weights=str(path))) == message % "RuntimeError"


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {}, {"epoch": 3}, {"state_dict": {}}, 5])
def test_a_file_without_a_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "content.pth"
    torch.save(content, path)
    assert refusal_of(Tiny(weights=str(path))) == (
        f"weights (={path}) must hold a state dict, names and tensors; it holds something else."
    )


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(7, 4), "head.bias": torch.zeros(7), "head.weight": torch.zeros(7, 4)}, path)
    assert refusal_of(Tiny(weights=str(path))) == (
        f"weights (={path}) must fit Tiny name by name: 1 missing (fc.bias); 2 unknown (head.bias, head.weight). Take "
        "the file of this very network, or change the network's settings to it."
    )
    network = Tiny(weights=str(path))
    before = network.fc.weight.clone()
    refusal_of(network)
    assert torch.equal(network.fc.weight, before)  # nothing of an unfit file is loaded


def test_weights_of_another_shape_are_refused_with_both_shapes(tmp_path: Path) -> None:
    path = tmp_path / "wider.pth"
    torch.save(Tiny(num_classes=9).state_dict(), path)
    assert refusal_of(Tiny(weights=str(path))) == (
        f"weights (={path}) must fit Tiny name by name: 2 of another shape (fc.weight [9, 4] instead of [7, 4], "
        "fc.bias [9] instead of [7]). Take the file of this very network, or change the network's settings to it."
    )


def test_many_faults_are_counted_and_three_are_named(tmp_path: Path) -> None:
    path = tmp_path / "two.pth"
    torch.save(small_resnet().state_dict(), path)
    message = refusal_of(small_resnet(depths=[2, 1], weights=str(path)))
    assert message == (
        f"weights (={path}) must fit ResNet name by name: 10 missing (layer1.1.bn1.bias, layer1.1.bn1.running_mean, "
        "layer1.1.bn1.running_var). Take the file of this very network, or change the network's settings to it."
    )


# The fully convolutional form


def test_a_network_without_a_fully_convolutional_form_says_so() -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        Tiny().logit_maps(torch.zeros(1, 1, 4, 4))
    assert str(refusal.value) == (
        "Tiny has no fully convolutional form, which dense evaluation needs: use 1crop or 10crop."
    )


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = ResNet([1], [4], stem="cifar", num_classes=3)
    state = network.state_dict()
    state["fc.bias"] = torch.tensor([0.0, float("nan"), 1.0])
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    network.weights = str(path)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        network.load_weights()
    assert str(refusal.value) == (
        f"weights (={path}) must fit ResNet name by name: 1 with NaN or infinity (fc.bias). Take the file of this very "
        "network, or change the network's settings to it."
    )


def test_batches_counted_together_give_the_same_to_the_last_bit() -> None:
    """Noted batches are counted many at once, equal or not, read at any time, copied and reset."""
    draw = torch.Generator().manual_seed(3)
    batches = []
    for size in (8, 8, 8, 5, 8, 8):
        labels = torch.randint(0, 7, (size,), generator=draw)
        labels[0] = IGNORED_LABEL
        batches.append((torch.randn(size, 7, generator=draw), labels, torch.rand((), generator=draw)))
    at_once, later = ErrorCount(), ErrorCount()
    for batch in batches:
        at_once.update(*batch)
        later.note(*batch)
    assert int(later.count) == 8 * 3 + 5 - 4  # the last two of 8 are only noted so far
    later = copy.deepcopy(later)
    assert {name: float(value) for name, value in later.metric_state.items()} == {
        name: float(value) for name, value in at_once.metric_state.items()
    }
    assert {name: float(value) for name, value in later.compute().items()} == {
        name: float(value) for name, value in at_once.compute().items()
    }
    later.note(*batches[0])
    later.reset()
    later.note(*batches[3])
    assert int(later.compute()["count"]) == 4


def test_many_noted_logits_are_counted_soon() -> None:
    errors = ErrorCount()
    for _ in range(ErrorCount.NOTED // 700):
        errors.note(torch.zeros(100, 7), torch.zeros(100, dtype=torch.long), torch.tensor(1.0))
    assert int(errors.count) == 0
    errors.note(torch.zeros(100, 7), torch.zeros(100, dtype=torch.long), torch.tensor(1.0))
    assert int(errors.count) == 100 * (ErrorCount.NOTED // 700 + 1)
