"""Protocols on networks whose answer is known, and evaluations that count wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks.protocols import Evaluation, MiscountError, check_evaluation, check_protocols, find_protocol
from benchmarks.recipe import RecipeError
from benchmarks.suite_cli import quiet_warnings, try_network
from datamodules.imagenet import ImageNet
from datamodules.mnist import MNIST
from models.classifier import Classifier, ErrorCount

ALL_PROTOCOLS = ["1crop", "flip", "10crop", "144crop", "dense-17", "ms-dense-16-21-30"]


class LeftPixel(nn.Module):
    """Logits 0 and the value of the left pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(images)), images[:, 0, 0, 0]], dim=1)


class Weighted(Classifier):
    """Logits are sums of the pixels, weighted at random; keeps every image it sees."""

    def __init__(self, size: int) -> None:
        super().__init__(num_classes=3)
        self.weights_of = torch.randn(3, 3 * size * size, generator=torch.Generator().manual_seed(0)) / size
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return images.flatten(1) @ self.weights_of.T


class Maps(Classifier):
    """Logit maps are 0 and the image's first channels, but for the last column, so that mirroring changes them."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.logit_maps(images).mean((2, 3))

    def logit_maps(self, images: Tensor) -> Tensor:
        shown = images[:, : self.num_classes - 1, :, :-1]
        return torch.cat([torch.zeros_like(shown[:, :1]), shown], dim=1)


def softmax(*logits: float) -> Tensor:
    return torch.tensor(logits).softmax(0)


# Scores by hand -------------------------------------------------------------------------------------------------------


def test_flip_is_the_mean_of_two_softmaxes() -> None:
    image = torch.tensor([[[[2.0, -1.0]]]])
    scores = find_protocol("flip").score(LeftPixel(), (image,), 1)
    torch.testing.assert_close(scores[0], (softmax(0.0, 2.0) + softmax(0.0, -1.0)) / 2)
    assert find_protocol("1crop").score(LeftPixel(), (image,), 1).tolist() == [[0.0, 2.0]]


def test_ten_crops_begin_at_the_left_pixels_one_can_count() -> None:
    """3 x 3 pixels and crops of 2 x 2: their upper left pixels, and the upper right ones, which mirroring brings there.

    (3 - 2) / 2 is rounded to 0, so that the central crop is the upper left one, as in torchvision.
    """
    square = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3) / 10
    scores = find_protocol("10crop").score(LeftPixel(), (square,), 2)
    left, right = [0.1, 0.2, 0.4, 0.5, 0.1], [0.2, 0.3, 0.5, 0.6, 0.2]
    expected = torch.stack([softmax(0.0, value) for value in [*left, *right]]).mean(0)
    torch.testing.assert_close(scores[0], expected)


def test_dense_is_the_mean_over_positions_then_over_mirror_images() -> None:
    image = torch.tensor([[[[1.0, 2.0, 6.0], [3.0, 4.0, 8.0]]]])
    straight = (1 + 2 + 3 + 4) / 4
    mirrored = (6 + 2 + 8 + 4) / 4
    scores = find_protocol("dense-224").score(Maps(), (image,), 2)
    torch.testing.assert_close(scores[0], (softmax(0.0, straight) + softmax(0.0, mirrored)) / 2)


def test_dense_over_scales_is_the_mean_of_each() -> None:
    images = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[5.0, 7.0, -1.0]]]])
    values = [1.0, 2.0, (5.0 + 7.0) / 2, (-1.0 + 7.0) / 2]
    scores = find_protocol("ms-dense-256-384").score(Maps(), images, 1)
    torch.testing.assert_close(scores[0], torch.stack([softmax(0.0, value) for value in values]).mean(0))
    each = [find_protocol("dense-256").score(Maps(), (image,), 1) for image in images]
    torch.testing.assert_close(scores, (each[0] + each[1]) / 2)


# From image files, against PIL and torchvision ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven smooth pictures for testing, lying, standing and square, in three classes, and one each for training."""
    root = tmp_path_factory.mktemp("photos")
    shapes = [(40, 60), (60, 40), (33, 33), (30, 71), (52, 31), (45, 44), (90, 37)]
    for number, (height, width) in enumerate(shapes):
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x / 9 + number), np.sin(y / 7 + 2 * number), np.sin((x + y) / 11 - number)]
        image = Image.fromarray(np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))
        for split in ["val"] + ["train"] * (number < 3):
            folder = root / split / f"class{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    return root


def dataset(root: Path, **settings: Any) -> ImageNet:
    settings = {"image_size": 16, "eval_resize": 21, "eval_batch_size": 3, "num_classes": 3, **settings}
    data = ImageNet(batch_size=1, root=str(root), loader="torch", workers=1, **settings)
    data.prepare_data()
    data.setup()
    return data


def normalised(image: Image.Image) -> Tensor:
    """As torchvision does it. [1, 3, H, W]"""
    pixels = functional.to_tensor(image)
    return functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).unsqueeze(0)


def scored(data: ImageNet, protocol: str, network: Any) -> Tensor:
    """Scores of every test image, in order."""
    found = find_protocol(protocol)
    scores = []
    with data.viewed_as(found.view):
        for batch in data.test_dataloader():
            images, _ = data.on_after_batch_transfer(batch, 0)
            cuts = images if isinstance(images, tuple) else (images,)
            scores.append(found.score(network, cuts, data.eval_size))
    return torch.cat(scores)


def photo(data: ImageNet, number: int) -> Image.Image:
    return Image.fromarray(data.originals("test").decode(number))  # type: ignore[union-attr]


def test_ten_crops_are_those_of_torchvision(photos: Path) -> None:
    data, network = dataset(photos, eval_resize=22), Weighted(16)  # torchvision's centre is even: 22 - 16 is, too
    scores = scored(data, "10crop", network)
    assert scores.shape == (7, 3)
    square = transforms.Compose([transforms.Resize(22), transforms.CenterCrop(22)])
    for number, score in enumerate(scores):
        crops = functional.ten_crop(square(photo(data, number)), [16, 16])
        expected = torch.cat([network(normalised(crop)).softmax(1) for crop in crops]).mean(0)
        torch.testing.assert_close(score, expected, rtol=0, atol=1e-5)


def squares_by_hand(image: Image.Image, short_side: int) -> list[Image.Image]:
    resized = transforms.Resize(short_side)(image)
    width, height = resized.size
    assert min(width, height) == short_side
    if width >= height:
        places = [(0, 0), (round((width - height) / 2), 0), (width - height, 0)]
    else:
        places = [(0, 0), (0, round((height - width) / 2)), (0, height - width)]
    return [resized.crop((left, top, left + short_side, top + short_side)) for left, top in places]


def test_144_crops_are_cut_as_the_paper_says(photos: Path) -> None:
    """With PIL, one photo after the other: 4 short sides x 3 squares x 6 crops x 2."""
    data, network = dataset(photos, image_size=224, eval_resize=256), Weighted(224)
    scores = scored(data, "144crop", network)
    seen = [sum(len(images) for images in network.seen), {tuple(images.shape[1:]) for images in network.seen}]
    assert seen == [7 * 144, {(3, 224, 224)}]
    for number in (0, 4):  # one that lies, one that stands
        crops: list[Image.Image] = []
        for short_side in (256, 288, 320, 352):
            for square in squares_by_hand(photo(data, number), short_side):
                crops += functional.five_crop(square, [224, 224])
                crops.append(square.resize((224, 224), Image.Resampling.BILINEAR))
        crops += [functional.hflip(crop) for crop in crops]
        assert len(crops) == 144
        expected = torch.cat([network(normalised(crop)).softmax(1) for crop in crops]).mean(0)
        # PIL rounds the resized squares, a sixth of the crops, to whole grey levels.
        torch.testing.assert_close(scores[number], expected, rtol=0, atol=1e-3)


def test_dense_sees_whole_photos_of_each_short_side(photos: Path) -> None:
    data = dataset(photos)
    scores = scored(data, "ms-dense-16-30", Maps())
    for number, score in enumerate(scores):
        values = []
        for short_side in (16, 30):
            pixels = normalised(transforms.Resize(short_side)(photo(data, number)))[0, 0]
            values += [pixels[:, :-1].mean().item(), pixels[:, 1:].mean().item()]
        expected = torch.stack([softmax(0.0, value) for value in values]).mean(0)
        torch.testing.assert_close(score, expected, rtol=0, atol=1e-5)


def test_several_views_make_smaller_batches(photos: Path) -> None:
    """A batch has at most the pixels of `eval_batch_size` central crops; whole photos come one by one."""
    data = dataset(photos, eval_batch_size=7)

    def sizes(protocol: str) -> list[int]:
        with data.viewed_as(find_protocol(protocol).view):
            return [len(labels) for _, labels in data.test_dataloader()]

    assert sizes("1crop") == [7]
    assert sizes("10crop") == [4, 3]  # 7 x 16^2 / 21^2 = 4.06
    assert sizes("dense-20") == [1] * 7
    assert sizes("144crop") == [1] * 7
    assert sizes("flip") == [7]  # nothing is left of the views before


# Counting -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ALL_PROTOCOLS)
def test_every_image_counts_once_on_any_number_of_ranks(photos: Path, protocol: str) -> None:
    """Seven photos on 1, 2 and 3 ranks; the wrong ones are the same, too."""
    data, network, found = dataset(photos), Maps(3), find_protocol(protocol)
    counted = []
    for ranks in (1, 2, 3):
        counter = ErrorCount()
        lengths = set()
        for rank in range(ranks):
            data.trainer = SimpleNamespace(  # type: ignore[assignment]
                global_rank=rank,
                world_size=ranks,
                num_devices=1,
                accumulate_grad_batches=1,
                precision_plugin=SimpleNamespace(convert_input=lambda images: images),
            )
            with data.viewed_as(found.view):
                batches = data.test_dataloader()
            lengths.add(len(batches))
            for batch in batches:
                images, labels = data.on_after_batch_transfer(batch, 0)
                cuts = images if isinstance(images, tuple) else (images,)
                counter.update(found.score(network, cuts, 16), labels)
        assert len(lengths) == 1  # or a rank would wait for ever for the others
        errors = counter.compute()
        counted.append((int(errors["count"]), int(errors["wrong1"])))
    assert counted == [(7, counted[0][1])] * 3


@pytest.mark.parametrize("protocol", ["10crop", "144crop", "ms-dense-17-21"])
def test_a_trainer_evaluates_several_views(photos: Path, protocol: str) -> None:
    data, network = dataset(photos, eval_batch_size=500), Maps(3)
    check_evaluation([protocol], network, data)
    expected = scored(data, protocol, network)
    labels = torch.tensor(data.originals("test").labels)
    evaluation = Evaluation(network, protocol, 7, data.eval_size)
    with quiet_warnings(), data.viewed_as(find_protocol(protocol).view):
        trainer().test(evaluation, datamodule=data, verbose=False)
    wrong = int((expected.argmax(1) != labels).sum())
    assert (evaluation.errors["wrong1"], evaluation.errors["count"]) == (wrong, 7)
    assert 0 < wrong < 7


def trainer() -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)


def evaluate(expected: int) -> Evaluation:
    images = torch.tensor([1.0, -1.0, 1.0, 3.0, -2.0]).reshape(5, 1, 1, 1)
    labels = torch.tensor([1, 0, 0, 1, -100])  # the third is wrong, the last only fills up the batch
    evaluation = Evaluation(LeftPixel(), "1crop", expected, 1)
    with quiet_warnings():
        loader = DataLoader([(images[:3], labels[:3]), (images[3:], labels[3:])], batch_size=None)  # type: ignore[arg-type]
        trainer().test(evaluation, loader, verbose=False)
    return evaluation


def test_evaluation_counts_every_image() -> None:
    errors = evaluate(expected=4).errors
    assert errors == {"top1_error": 25.0, "top5_error": 0.0, "wrong1": 1, "wrong5": 0, "count": 4}


def test_wrong_count_is_an_error() -> None:
    with pytest.raises(MiscountError, match="counted 4 images, the dataset has 5"):
        evaluate(expected=5)


# What is refused ------------------------------------------------------------------------------------------------------


def test_known_protocols_are_let_through() -> None:
    check_protocols([*ALL_PROTOCOLS, "dense-384", "ms-dense-224-256"])
    assert find_protocol("ms-dense-256-384-512").view.short_sides == (256, 384, 512)


@pytest.mark.parametrize(
    "name",
    [
        *("12crop", "", "dense", "dense-", "dense-abc", "dense-0", "dense-384px", "Dense-384", "dense-256-384"),
        *("ms-dense", "ms-dense-256", "ms-dense-256-256", "ms-dense-256-"),
    ],
)
def test_unknown_protocols_are_refused(name: str) -> None:
    with pytest.raises(RecipeError) as raised:
        check_protocols(["1crop", name])
    assert str(raised.value) == (
        f"protocol (={name}) must be one of 1crop, flip, 10crop, 144crop, dense-Q such as dense-384, or ms-dense-Q1-Q2 "
        "such as ms-dense-256-384-512 with different short sides in pixels: correct the recipe's claims."
    )


class Large(Maps):
    """Takes no image below 30 pixels."""

    def logit_maps(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, torch.ones(2, 3, 30, 30))


class Flat(Maps):
    def logit_maps(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def imagenet() -> ImageNet:
    return ImageNet(batch_size=1, image_size=16, eval_resize=21)


@pytest.mark.parametrize(
    ("names", "network", "data", "message"),
    [
        (
            ["1crop", "10crop"],
            Maps,
            lambda: MNIST(batch_size=1),
            "protocol (=10crop) of the recipe's claims: images of mnist (28 pixels) must be image files to be "
            "evaluated by several crops or densely: there is no larger picture to cut from. Use the protocols 1crop or "
            "flip.",
        ),
        (
            ["dense-32"],
            Maps,
            lambda: MNIST(batch_size=1),
            "protocol (=dense-32) of the recipe's claims: images of mnist (28 pixels) must be image files to be "
            "evaluated by several crops or densely: there is no larger picture to cut from. Use the protocols 1crop or "
            "flip.",
        ),
        (
            ["ms-dense-20-15"],
            Maps,
            imagenet,
            "protocol (=ms-dense-20-15) of the recipe's claims: a short side (=15) must be at least "
            "data.init_args.eval_size (=16), the size of a crop in evaluation: use another protocol, or a smaller "
            "eval_size.",
        ),
        (
            ["144crop"],
            Maps,
            lambda: ImageNet(batch_size=1, image_size=288, eval_resize=320),
            "protocol (=144crop) of the recipe's claims: a short side (=256) must be at least data.init_args.eval_size "
            "(=288), the size of a crop in evaluation: use another protocol, or a smaller eval_size.",
        ),
        (
            ["dense-20"],
            lambda: Weighted(16),
            imagenet,
            "protocol (=dense-20) of the recipe's claims: Weighted has no fully convolutional form, which dense "
            "evaluation needs: use 1crop or 10crop.",
        ),
        (
            ["dense-20"],
            Large,
            imagenet,
            "protocol (=dense-20) of the recipe's claims: the network must take images of 20 x 20 pixels, it does "
            "not: ",
        ),
        (
            ["dense-20"],
            Flat,
            imagenet,
            "protocol (=dense-20) of the recipe's claims: logit_maps must give [1, 2, h, w], it gives [1, 3].",
        ),
    ],
)
def test_protocols_that_do_not_fit_are_refused(
    names: list[str], network: Callable[[], Classifier], data: Callable[[], Any], message: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        check_evaluation(names, network(), data())
    assert str(raised.value).startswith(message)
    assert message.endswith(": ") or str(raised.value) == message


def test_a_network_is_tried_at_every_size_of_training_and_evaluation() -> None:
    """A network for 16 pixels only, where crops begin smaller, or are larger in evaluation."""
    sizes: dict[str, Any] = {"batch_size": 1, "image_size": 16, "num_classes": 3}
    try_network(Weighted(16), ImageNet(**sizes))
    for size, more in [(8, {"grow_from": 8, "grow_epochs": [0, 1]}), (21, {"eval_size": 21})]:
        with pytest.raises(ValueError, match=rf"the network does not take images of shape \[3, {size}, {size}\]: "):
            try_network(Weighted(16), ImageNet(**sizes, **more))


def test_trying_leaves_the_network_as_it_was() -> None:
    for training in (True, False):
        network = Maps(3).train(training)
        check_evaluation(["1crop", "flip", "10crop", "dense-16", "ms-dense-16-20"], network, imagenet())
        assert network.training is training
