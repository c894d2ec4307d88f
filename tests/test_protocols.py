"""Protocols on networks whose answer is known, and evaluations that count wrongly."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks.protocols import (
    Evaluation,
    MeanScores,
    MiscountError,
    check_evaluation,
    check_protocols,
    find_protocol,
    networks_of,
    parts_of,
)
from benchmarks.recipe import RecipeError
from benchmarks.suite_cli import quiet_warnings, try_network
from datamodules.imagenet import ImageNet
from datamodules.mnist import MNIST
from models.classifier import Classifier, ErrorCount

ALL_PROTOCOLS = ["1crop", "flip", "10crop", "144crop", "150crop", "dense-17", "ms-dense-16-21-30"]


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


def test_144_crops_begin_at_pixels_one_can_count() -> None:
    """One square of 3 x 3 pixels and crops of 2 x 2: the five, and the square shrunk to 2 x 2.

    A pixel of the shrunk square is 1.5 wide; its left one lies around 0.75, and PIL's triangle, 1.5 wide to each side,
    weighs the pixels at 0.5, 1.5 and 2.5 with 5/6, 1/2 and 0, that is 5/8 and 3/8; the right one the other way round.
    """
    pixels = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]]
    scores = find_protocol("144crop").score(LeftPixel(), (torch.tensor([[pixels]]),), 2)
    upper_left = (25 * 0.1 + 15 * 0.2 + 15 * 0.4 + 9 * 0.5) / 64
    upper_right = (25 * 0.3 + 15 * 0.2 + 15 * 0.6 + 9 * 0.5) / 64
    left, right = [0.1, 0.2, 0.4, 0.5, 0.1, upper_left], [0.2, 0.3, 0.5, 0.6, 0.2, upper_right]
    expected = torch.stack([softmax(0.0, value) for value in [*left, *right]]).mean(0)
    torch.testing.assert_close(scores[0], expected)


def test_150_crops_are_a_grid_from_edge_to_edge() -> None:
    """Crops of 2 x 2 pixels of 6 x 10: their tops are 0 to 4, one by one, their lefts 0, 2, 4, 6 and 8."""
    image = torch.arange(60.0).reshape(1, 1, 6, 10) / 60
    scores = find_protocol("150crop").score(LeftPixel(), (image,), 2)
    left = [(10 * top + left) / 60 for top in range(5) for left in (0, 2, 4, 6, 8)]
    right = [value + 1 / 60 for value in left]
    expected = torch.stack([softmax(0.0, value) for value in [*left, *right]]).mean(0)
    torch.testing.assert_close(scores[0], expected)
    doubled = find_protocol("150crop").score(LeftPixel(), (torch.cat([image, 2 * image]), torch.cat([image, image])), 2)
    torch.testing.assert_close(doubled[0], expected)
    twice = torch.stack([softmax(0.0, 2 * value) for value in [*left, *right]]).mean(0)
    torch.testing.assert_close(doubled[1], (twice + expected) / 2)


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
    return pictures(tmp_path_factory.mktemp("photos"), 7)


def pictures(root: Path, count: int) -> Path:
    """The folder `root` with so many pictures."""
    shapes = [(40, 60), (60, 40), (33, 33), (30, 71), (52, 31), (45, 44), (90, 37)]
    for number, (height, width) in enumerate((shapes + shapes)[:count]):
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


def test_one_crop_of_real_photos_is_torchvisions(data_root: Path, tmp_path: Path) -> None:
    """73 ImageNet photos in their original sizes: Resize(256) and CenterCrop(224) of PIL's image, to 1 grey level.

    On average over each photo, through the whole data module; what PIL makes of the file is read here by PIL alone.
    """
    originals = data_root / "imagenet-originals"
    files = sorted(originals.rglob("*.JPEG")) or pytest.skip(f"no photos in {originals}")
    assert len(files) == 73
    for split in ("train", "val"):
        for file in files:
            folder = tmp_path / split / file.stem.split("_")[0]
            folder.mkdir(parents=True)
            (folder / file.name).symlink_to(file)
    data = ImageNet(batch_size=1, num_classes=73, eval_batch_size=10, root=str(tmp_path), loader="torch", workers=1)
    data.prepare_data()
    data.setup("test")
    reference = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    images = torch.cat([images for images, _ in batches])
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(73))  # the folders in order
    mean, std = (255 * torch.tensor(value)[:, None, None] for value in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    differences = []
    for image, file in zip(images, sorted(files, key=lambda file: file.parent.name), strict=True):
        expected = reference(Image.open(file).convert("RGB")).float()
        differences.append((image * std + mean - expected).abs())
    assert max(difference.mean().item() for difference in differences) < 1.0
    assert torch.stack(differences).mean() < 0.1


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


class Mirrored(Maps):
    """Another network, for an ensemble."""

    def logit_maps(self, images: Tensor) -> Tensor:
        return super().logit_maps(images.flip(-1)) / 2


def evaluations(root: Path, ranks: int) -> dict[str, dict[str, float | int]]:
    """Errors under every protocol and of an ensemble, on so many ranks, this process being one of them."""
    strategy = "ddp" if ranks > 1 else "auto"
    plugins = [LightningEnvironment()] if ranks > 1 else []
    data = dataset(root)
    found: dict[str, dict[str, float | int]] = {}
    mean = MeanScores(len(ALL_PROTOCOLS) + 1)
    for network, protocol in [*((Maps(3), protocol) for protocol in ALL_PROTOCOLS), (Mirrored(3), "1crop")]:
        evaluation = Evaluation(network, protocol, data.eval_size, means=[mean])
        with quiet_warnings(), data.viewed_as(find_protocol(protocol).view):
            runner = pl.Trainer(
                accelerator="cpu",
                devices=ranks,
                strategy=strategy,
                plugins=plugins,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            runner.test(evaluation, datamodule=data, verbose=False)
        found[f"{type(network).__name__} {protocol}"] = evaluation.errors
    return found | {"all": mean.errors}


def evaluate_on_rank(rank: int, folder: str) -> None:
    """One of three processes: evaluates every folder of pictures as one of three ranks, then as one of two."""
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, or each would import everything
    for ranks in (3, 2) if rank < 2 else (3,):
        os.environ.update(LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
        meeting = f"file://{folder}/meeting{ranks}"
        torch.distributed.init_process_group("gloo", meeting, timedelta(seconds=60), rank=rank, world_size=ranks)
        for count in COUNTS:
            found = evaluations(Path(folder, f"pictures{count}"), ranks)
            Path(folder, f"{count}-on-{ranks}-rank{rank}.json").write_text(json.dumps(found))
        torch.distributed.destroy_process_group()


COUNTS = (7, 10, 11)  # none is divided by 2 and 3, nor by batches of 3


def test_every_protocol_counts_every_image_once_on_real_ranks(tmp_path: Path) -> None:
    """Three processes with gloo, forked from one that has imported everything; the errors of one rank, to the image."""
    for count in COUNTS:
        pictures(tmp_path / f"pictures{count}", count)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_protocols", __name__])
    processes = [context.Process(target=evaluate_on_rank, args=(rank, str(tmp_path))) for rank in range(3)]
    for process in processes:
        process.start()
    alone = {count: evaluations(tmp_path / f"pictures{count}", 1) for count in COUNTS}
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    for count, expected in alone.items():
        assert {errors["count"] for errors in expected.values()} == {count}
        for ranks in (2, 3):
            for rank in range(ranks):
                found = json.loads((tmp_path / f"{count}-on-{ranks}-rank{rank}.json").read_text())
                assert found == expected
    assert len({errors["wrong1"] for errors in alone[11].values()}) > 1


@pytest.mark.parametrize("protocol", ["10crop", "144crop", "ms-dense-17-21"])
def test_a_trainer_evaluates_several_views(photos: Path, protocol: str) -> None:
    data, network = dataset(photos, eval_batch_size=500), Maps(3)
    check_evaluation([protocol], network, data)
    expected = scored(data, protocol, network)
    labels = torch.tensor(data.originals("test").labels)
    evaluation = Evaluation(network, protocol, data.eval_size)
    with quiet_warnings(), data.viewed_as(find_protocol(protocol).view):
        trainer().test(evaluation, datamodule=data, verbose=False)
    wrong = int((expected.argmax(1) != labels).sum())
    assert (evaluation.errors["wrong1"], evaluation.errors["count"]) == (wrong, 7)
    assert 0 < wrong < 7


def test_networks_are_averaged_by_their_softmaxes() -> None:
    """Three networks of two classes, odds of 4 : 1, 3 : 2 and 1 : 7 for the first: 4/5, 3/5 and 1/8, mean 61/120."""
    logits = [torch.tensor([[odds, 1.0]]).log() for odds in (4.0, 1.5, 1 / 7)]
    mean = MeanScores(3)
    for scores in logits:
        mean.start(2)
        mean.add(find_protocol("1crop").probabilities(scores), torch.tensor([0]))
        mean.add(find_protocol("1crop").probabilities(scores), torch.tensor([1]))
        mean.finish()
    assert mean.complete
    assert mean.sum is not None
    torch.testing.assert_close(mean.sum / 3, torch.tensor([[61 / 120, 59 / 120]] * 2).double())
    assert mean.counts().tolist() == [1, 0, 2]  # the mean of the logits, log(6/7) / 3 < 0, would choose the second


def test_a_sum_of_protocols_is_the_mean_of_both(photos: Path) -> None:
    """By two evaluations of different batches, against the scores of each."""
    data, network = dataset(photos), Maps(3)
    labels = torch.tensor(data.originals("test").labels)
    softmaxes = [scored(data, "1crop", network).softmax(1), scored(data, "10crop", network)]
    wrong = int(((softmaxes[0] + softmaxes[1]).argmax(1) != labels).sum())
    mean = MeanScores(2)
    for part in parts_of("1crop+10crop"):
        evaluation = Evaluation(network, part, data.eval_size, means=[mean])
        with quiet_warnings(), data.viewed_as(find_protocol(part).view):
            trainer().test(evaluation, datamodule=data, verbose=False)
    assert (mean.errors["wrong1"], mean.errors["count"]) == (wrong, 7)
    assert 0 < wrong < 7


def test_what_is_averaged_must_go_over_the_same_images() -> None:
    def add(mean: MeanScores, labels: list[int], images: int = 2) -> None:
        mean.start(images)
        mean.add(torch.full((len(labels), 2), 0.5), torch.tensor(labels))
        mean.finish()

    mean = MeanScores(2)
    add(mean, [0, 1, -100])
    with pytest.raises(MiscountError, match="image 0 or one behind it has another label than in the evaluation before"):
        add(mean, [1, 1])
    with pytest.raises(MiscountError, match="an evaluation went over 1 of this rank's 2 images"):
        add(MeanScores(2), [0])
    with pytest.raises(MiscountError, match="or there are more images"):
        add(MeanScores(2), [0, 1, 1])


def trainer() -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)


def evaluate(expected: int) -> Evaluation:
    images = torch.tensor([1.0, -1.0, 1.0, 3.0, -2.0]).reshape(5, 1, 1, 1)
    labels = torch.tensor([1, 0, 0, 1, -100])  # the third is wrong, the last only fills up the batch
    evaluation = Evaluation(LeftPixel(), "1crop", 1, expected)
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
    check_protocols([*ALL_PROTOCOLS, "dense-384", "ms-dense-224-256", "150crop+ms-dense-256-384-512"])
    check_protocols(["ens-5", "ens-5-10crop", "ens-5-1crop+flip"], networks=5)
    assert [networks_of(name) for name in ("10crop", "1crop+flip", "ens-5", "ens-12-10crop")] == [1, 1, 5, 12]
    assert parts_of("ens-2-150crop+ms-dense-256-384") == ("150crop", "ms-dense-256-384")
    assert (parts_of("ens-5"), parts_of("ms-dense-256-384")) == ((), ("ms-dense-256-384",))
    assert find_protocol("ms-dense-256-384-512").view.short_sides == (256, 384, 512)


@pytest.mark.parametrize(
    "name",
    [
        *("12crop", "", "dense", "dense-", "dense-abc", "dense-0", "dense-384px", "Dense-384", "dense-256-384"),
        *("ms-dense", "ms-dense-256", "ms-dense-256-256", "ms-dense-256-", "ens-1crop", "ens-0-1crop", "ens-"),
    ],
)
def test_unknown_protocols_are_refused(name: str) -> None:
    with pytest.raises(RecipeError) as raised:
        check_protocols(["1crop", name])
    assert str(raised.value) == (
        f"protocol (={name}) must be one of 1crop, flip, 10crop, 144crop, 150crop, dense-Q such as dense-384, or "
        "ms-dense-Q1-Q2 such as ms-dense-256-384-512 with different short sides in pixels; a sum of them, A+B; or, of "
        "N networks, ens-N-A or ens-N: correct the recipe's claims."
    )


@pytest.mark.parametrize(
    ("name", "networks", "message"),
    [
        ("1crop+1crop", 1, "protocol (=1crop+1crop) names 1crop more than once: leave the others out."),
        (
            "ens-5-10crop",
            1,
            "protocol (=ens-5-10crop) averages 5 networks, the recipe has 1: claims of this recipe must have none with "
            "ens-. An ensemble is a recipe with `members`.",
        ),
        (
            "10crop",
            5,
            "protocol (=10crop) averages 1 network, the recipe has 5: claims of this recipe must have ens-5-A or "
            "ens-5. An ensemble is a recipe with `members`.",
        ),
    ],
)
def test_sums_and_ensembles_that_do_not_fit_are_refused(name: str, networks: int, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        check_protocols([name], networks)
    assert str(raised.value) == message


def test_parts_of_a_sum_are_checked(photos: Path) -> None:
    with pytest.raises(RecipeError, match=r"protocol \(=12crop\) must be one of"):
        check_protocols(["1crop+12crop"])
    with pytest.raises(RecipeError, match=r"protocol \(=dense-20\) of the recipe's claims: Weighted has no fully"):
        check_evaluation(["1crop+dense-20"], Weighted(16), imagenet())


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
