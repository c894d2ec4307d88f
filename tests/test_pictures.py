"""The pictures of a finished run, and the counts and images that they are drawn from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix
from torch import nn

from benchmarks import pictures
from benchmarks.mistakes import Mistakes
from models.classifier import ErrorCount
from models.lenet1989 import LeNet1989

Bench = Callable[..., tuple[int, str, str]]

COMMAND = ("fit", "--config", "digits/lenet5", "--seed_everything", "0", "--data.loader", "torch")
COMMAND += ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--pictures", "true")


# What an evaluation notes ---------------------------------------------------------------------------------------------


def test_counts_are_those_of_scikit_learn_and_of_the_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(4, (500, 7), generator=generator).float()  # many ties
    labels = torch.randint(7, (500,), generator=generator)
    noted, errors = Mistakes(7), ErrorCount()
    for rows in (slice(0, 200), slice(200, 203), slice(203, 500)):
        filled = torch.cat([labels[rows], torch.tensor([-100])])  # an image that only fills up the batch
        padded = torch.cat([scores[rows], torch.zeros(1, 7)])
        noted.add(padded, padded.softmax(1), filled, torch.zeros(len(filled), 1, 2, 2))
        errors.update(padded, filled)
    assert np.array_equal(noted.counts.numpy(), confusion_matrix(labels, scores.argmax(1), labels=range(7)))
    assert int(noted.counts.sum() - noted.counts.trace()) == int(errors.wrong1)


def test_surest_mistakes_are_kept_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.95, 0.05], [0.3, 0.7], [0.1, 0.9]])
    labels = torch.tensor([1, 0, 1, 1, 0, -100])  # wrong: 0 (0.9), 1 (0.6), 3 (0.95), 4 (0.7); the last fills up
    images = torch.arange(6.0).reshape(6, 1, 1, 1)
    for batch in (6, 2, 1):
        noted = Mistakes(2, kept=3)
        for start in range(0, 6, batch):
            rows = slice(start, start + batch)
            loaded = images[rows].clone()
            noted.add(probabilities[rows], probabilities[rows], labels[rows], loaded)
            loaded.zero_()  # as a loader does that uses its memory again
        assert [int(one.image) for one in noted.worst] == [3, 0, 4]
        assert [round(one.probability, 2) for one in noted.worst] == [0.95, 0.9, 0.7]
        assert [(one.label, one.predicted) for one in noted.worst] == [(1, 0), (1, 0), (0, 1)]
        assert noted.counts.tolist() == [[0, 2], [2, 1]]


# Pictures of it -------------------------------------------------------------------------------------------------------


def test_matrix_shows_every_count_and_colours_mistakes_only() -> None:
    with pictures.style():
        figure = pictures.confusion(torch.tensor([[5, 2], [0, 7]]), ["cat", "dog"], "a run")
    axes = figure.axes[0]
    assert axes.get_title() == "a run: 2 of 14 test images wrong"
    assert {(*text.get_position(), text.get_text()) for text in axes.texts} == {(0, 0, "5"), (1, 0, "2"), (1, 1, "7")}
    assert axes.images[0].get_array().tolist() == [[0, 2], [0, 0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_of_many_classes_the_most_confused_pairs_are_shown() -> None:
    table = torch.diag(torch.full((101,), 50))
    table[3, 4], table[100, 0], table[0, 100] = 2, 9, 2
    assert pictures.most_confused(table.numpy(), 2) == [(100, 0, 9), (0, 100, 2)]
    with pictures.style():
        axes = pictures.confusion(table, [f"c{number}" for number in range(101)], "a run").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c100 as c0", "c0 as c100", "c3 as c4"]
    assert [bar.get_width() for bar in axes.patches] == [9, 2, 2]


def test_images_are_shown_as_they_were_stored() -> None:
    stored = torch.randint(256, (4, 5, 3), dtype=torch.uint8)
    mean, std = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 50.0, 70.0])
    image = ((stored - mean) / std).permute(2, 0, 1)
    assert np.array_equal(pictures.to_pixels(image, mean, std), stored.numpy())
    assert pictures.to_pixels(image[:1], mean[:1], std[:1]).shape == (4, 5)
    assert [pictures.percent(value) for value in (0.99999, 1.0, 0.5)] == ["99.9 %", "100 %", "50.0 %"]


def test_tiles_are_scaled_each_by_its_largest_weight() -> None:
    kernels = torch.tensor([[[[1.0, -2.0]]], [[[0.0, 0.5]]], [[[0.0, 0.0]]]])  # [3, 1, 1, 2]
    tiles = pictures.kernel_tiles(kernels)
    assert tiles[..., 0].tolist() == [[[0.75, 0.0]], [[0.5, 1.0]], [[0.5, 0.5]]]
    colour = pictures.kernel_tiles(torch.tensor([4.0, -4.0, 2.0]).reshape(1, 3, 1, 1))
    assert colour.tolist() == [[[[1.0, 0.0, 0.75]]]]
    assert pictures.kernel_tiles(torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)).tolist() == [[[[1.0, 1.0, 1.0]]]]
    image = pictures.mosaic(tiles, columns=2, scale=1)
    assert image.shape == (5, 7, 3)  # two rows of 1 and two columns of 2, 3 between them
    assert image[0, 5:, 0].tolist() == [0.5, 1.0]
    assert image[4, :2, 0].tolist() == [0.5, 0.5]
    assert (image[1:4] == 1).all()


def test_first_kernels_are_those_over_the_image() -> None:
    network = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Conv2d(3, 4, 5), nn.Conv2d(3, 2, 3))
    found = pictures.first_kernels(network, 3)
    assert found is not None
    assert torch.equal(found, network[1].weight)
    assert pictures.first_kernels(nn.Linear(3, 2), 3) is None
    own = pictures.first_kernels(LeNet1989(), 1)
    assert own is not None
    assert own.shape == (12, 1, 5, 5)


# Of a run -------------------------------------------------------------------------------------------------------------


def test_fit_draws_once(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench(*COMMAND)[0] == 0
    (folder,) = tmp_path.glob("runs/digits/lenet5/*/seed-0/figures")
    drawn = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(drawn) == {"confusion.png", "mistakes.png", "filters.png"}
    assert all(content.startswith(b"\x89PNG") and len(content) < 150_000 for content in drawn.values())

    monkeypatch.setattr(pictures, "save", lambda *_: pytest.fail("drawn again"))
    status, out, _ = bench(*COMMAND)
    assert (status, out.startswith("finished: ")) == (0, True)


def test_what_cannot_be_drawn_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    noted, save = Mistakes(2), pictures.save
    noted.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.3, 0.7]]), torch.tensor([0]), torch.zeros(1, 1, 2, 2))

    def fail(figure: Figure, path: Path) -> None:
        if path.name == "mistakes.png":
            raise OSError("no space left")
        save(figure, path)

    monkeypatch.setattr(pictures, "save", fail)
    network = nn.Conv2d(1, 2, 3)
    pictures.draw(tmp_path / "figures", "a run", network, noted, ["a", "b"], lambda image: image[0].numpy(), channels=1)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"confusion.png", "filters.png"}
    assert caplog.messages == ["mistakes.png was not drawn: OSError: no space left"]
