"""An epoch that is left at any step and gone on with, by the same ranks or by others: every image once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.suite_cli import quiet_warnings
from datamodules.batches import IGNORED_LABEL, REMEDIES, Batches, Reading
from datamodules.distort import DistortedBatches, Distortion
from datamodules.loaders import ArrayBatches, FileBatches
from datamodules.originals import DataError, ImageArray, ImageFiles


class Numbers(Batches):
    """Batches whose labels are the samples' numbers."""

    def read(self, batches: list[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        for samples in batches:
            yield torch.zeros(len(samples), 1, 1, 1, dtype=torch.uint8), torch.from_numpy(samples.copy())


def a_reading(count: int, **changes: Any) -> Reading:
    return replace(Reading(np.arange(count), 4, shuffle=True, seed=3), **changes)


def by_ranks(reading: Reading, ranks: int) -> list[Batches]:
    """The loaders of `ranks` ranks, that together take steps of as many images as `reading` alone."""
    parts = reading.batch_size // ranks
    return [Numbers(replace(reading, batch_size=parts, rank=rank, world_size=ranks)) for rank in range(ranks)]


def flat(parts: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(parts))


def counted(batch: tuple[Tensor, ...]) -> list[int]:
    return [label for label in batch[1].tolist() if label != IGNORED_LABEL]


def test_at_100_random_kill_points_the_rest_of_the_epoch_is_what_was_not_seen() -> None:
    generator = np.random.default_rng(0)
    reading = a_reading(120)
    for _ in range(100):
        epoch, stop = int(generator.integers(5)), int(generator.integers(1, 30))
        killed = Numbers(reading)
        killed.sampler.set_epoch(epoch)
        iterator = iter(killed)
        seen = [next(iterator)[1].tolist() for _ in range(stop)]
        state = json.loads(json.dumps(killed.state_dict()))  # nothing that a checkpoint cannot hold
        resumed = Numbers(reading)
        resumed.load_state_dict(state)
        again = iter(resumed)  # before the epoch is set, as Lightning does
        resumed.sampler.set_epoch(epoch)
        seen += [labels.tolist() for _, labels in again]
        assert sorted(flat(seen)) == list(range(120))
        whole = Numbers(reading)
        whole.sampler.set_epoch(epoch)
        assert seen == [labels.tolist() for _, labels in whole]


@pytest.mark.parametrize("count", [120, 131])
def test_killed_again_and_again_with_other_ranks_the_steps_are_the_same(count: int) -> None:
    """Steps of 12 images by 1, 2, 3, 4, 6 or 12 ranks in turn; a step is the same set of images whoever takes it."""
    generator = np.random.default_rng(1)
    reading = a_reading(count, batch_size=12)
    whole = [sorted(labels.tolist()) for _, labels in Numbers(reading)]
    for _ in range(100):
        state: dict[str, Any] | None = None
        steps: list[list[int]] = []
        while len(steps) < len(whole):
            loaders = by_ranks(reading, int(generator.choice([1, 2, 3, 4, 6, 12])))
            if state:
                for loader in loaders:
                    loader.load_state_dict(state)
            iterators = [iter(loader) for loader in loaders]
            for _ in range(min(int(generator.integers(1, 6)), len(whole) - len(steps))):
                steps.append(sorted(flat(next(iterator)[1].tolist() for iterator in iterators)))
            states = [loader.state_dict() for loader in loaders]
            assert all(other == states[0] for other in states)
            state = states[0]
        assert steps == whole
        assert (state["epoch"], state["position"]) == (1, 0)


def test_accumulated_batches_are_gone_on_with_by_others() -> None:
    """24 images a step: by one rank in 6 batches of 4, then by two ranks in 2 batches of 6 each, then by three in 1."""
    reading = a_reading(240, batch_size=24)
    whole = [sorted(labels.tolist()) for _, labels in Numbers(reading)]
    state = None
    steps = []
    for ranks, accumulate, count in ((1, 6, 3), (2, 2, 4), (3, 1, 3)):
        parts = 24 // ranks // accumulate
        loaders = [
            Numbers(replace(reading, batch_size=parts, rank=rank, world_size=ranks, accumulate=accumulate))
            for rank in range(ranks)
        ]
        for loader in loaders:
            if state:
                loader.load_state_dict(state)
        iterators = [iter(loader) for loader in loaders]
        for _ in range(count):
            labels = [next(iterator)[1].tolist() for _ in range(accumulate) for iterator in iterators]
            steps.append(sorted(flat(labels)))
        state = loaders[0].state_dict()
    assert steps == whole


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("second", [1, 2, 3])
def test_evaluation_too_counts_every_image_once(first: int, second: int) -> None:
    reading = a_reading(67, shuffle=False, batch_size=6)
    for stop in range(12):
        seen: list[int] = []
        begun = by_ranks(reading, first)
        for loader in begun:
            iterator = iter(loader)
            for _ in range(min(stop, len(loader))):
                seen += counted(next(iterator))
        state = begun[0].state_dict()
        if state["epoch"] == 0:
            for loader in by_ranks(reading, second):
                loader.load_state_dict(state)
                for batch in loader:
                    seen += counted(batch)
        assert sorted(seen) == list(range(67))


def test_after_the_last_batch_the_state_is_the_next_epoch_from_its_start() -> None:
    reading = a_reading(20)
    loader = Numbers(reading)
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)  # the generator still waits at its last `yield`, as in Lightning
    state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 0)
    resumed = Numbers(reading)
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(1)
    assert [len(labels) for _, labels in resumed] == [4] * 5


def test_a_state_is_for_its_epoch_alone_and_for_once() -> None:
    reading = a_reading(20)
    loader = Numbers(reading)
    next(iter(loader))
    state = loader.state_dict()
    later = Numbers(reading)
    later.load_state_dict(state)
    assert later.state_dict() == state  # not yet begun
    later.sampler.set_epoch(2)
    assert later.state_dict()["position"] == 0
    assert len(list(later)) == 5
    same = Numbers(reading)
    same.load_state_dict(state)
    assert [len(list(same)), len(list(same))] == [4, 5]
    assert len(same) == 5


OTHERS: dict[str, Callable[[Reading], Reading]] = {
    "seed": lambda reading: replace(reading, seed=4),
    "dataset": lambda reading: replace(reading, dataset="5c0f"),
    "images": lambda reading: replace(reading, samples=reading.samples[1:]),
    "samples": lambda reading: replace(reading, samples=reading.samples + 1),
    "images_per_step": lambda reading: replace(reading, batch_size=8),
    "shuffle": lambda reading: replace(reading, shuffle=False),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_of_another_run_is_refused(name: str) -> None:
    assert OTHERS.keys() == REMEDIES.keys()
    reading = a_reading(40, dataset="a7e3")
    state = Numbers(reading).state_dict()
    other = OTHERS[name](reading)
    with pytest.raises(DataError) as refused:
        Numbers(other).load_state_dict(state)
    assert f"{name} (={reading.identity()[name]}), this run has {name} (={other.identity()[name]})" in str(
        refused.value
    )
    assert REMEDIES[name] in str(refused.value)


def test_a_state_within_a_step_is_refused() -> None:
    loader = Numbers(a_reading(40, accumulate=2))
    next(iter(loader))
    with pytest.raises(DataError, match=r"position \(=4 images\) must be a multiple of images_per_step \(=8\)"):
        Numbers(a_reading(40, accumulate=2)).load_state_dict(loader.state_dict())


# Real loaders and Lightning -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays() -> ImageArray:
    images = np.random.default_rng(0).integers(0, 256, (53, 9, 7, 1), np.uint8)
    return ImageArray(images, np.arange(53), tuple(map(str, range(53))), {"random": "0"})


class Colours(ImageFiles):
    """Image files that need no files: each a colour of its own."""

    def __init__(self) -> None:
        self.labels = np.arange(53)

    def decode(self, index: int) -> NDArray[np.uint8]:
        return np.full((10, 12, 3), index, np.uint8)


@pytest.mark.parametrize("kind", ["array", "distorted", "files", "files by two workers"])
def test_every_loader_goes_on_to_the_bit(arrays: ImageArray, kind: str) -> None:
    reading = Reading(np.arange(53), 5, shuffle=True, seed=1)

    def loader() -> Batches:
        if kind == "array":
            return ArrayBatches(reading, arrays)
        if kind == "distorted":
            return DistortedBatches(ArrayBatches(reading, arrays), Distortion(9, translate=2.0, scale=0.2))
        return FileBatches(replace(reading, shuffle=False), Colours(), 8, 8, 2 if "two" in kind else 0)

    whole = loader()
    whole.sampler.set_epoch(1)
    expected = list(whole)
    for stop in (1, 4, 9):
        begun = loader()
        begun.sampler.set_epoch(1)
        iterator = iter(begun)
        found = [next(iterator) for _ in range(stop)]
        resumed = loader()
        resumed.load_state_dict(begun.state_dict())
        resumed.sampler.set_epoch(1)
        found += list(resumed)
        assert len(found) == len(expected)
        for (images, labels), (same_images, same_labels) in zip(found, expected, strict=True):
            assert torch.equal(images, same_images)
            assert torch.equal(labels, same_labels)


class Watching(pl.LightningModule):
    """Notes which samples it sees, and may save after a batch."""

    def __init__(self, save_after: int, path: Path) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.save_after = save_after
        self.path = path
        self.seen: list[list[int]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch[1].tolist())
        return self.layer(batch[0].float().flatten(1)).sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if len(self.seen) == self.save_after:
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("save_after", [2, 4, 8, 10, 14, 18, 28])
@pytest.mark.parametrize(("accumulate", "val_check_interval"), [(1, 1.0), (2, 1.0), (2, 0.3)])
def test_lightning_saves_what_was_trained_on_and_goes_on_after_it(
    tmp_path: Path, save_after: int, accumulate: int, val_check_interval: float
) -> None:
    """Three epochs of 10 batches; loaders with a length are not read ahead, so a state is that of the last step."""

    def trained(save_after: int, checkpoint: Path | None) -> list[list[int]]:
        module = Watching(save_after, tmp_path / "a.ckpt")
        with quiet_warnings():
            trainer = pl.Trainer(
                max_epochs=3,
                accelerator="cpu",
                accumulate_grad_batches=accumulate,
                val_check_interval=val_check_interval,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            training = Numbers(a_reading(41, accumulate=accumulate))
            validation = Numbers(a_reading(7, shuffle=False))
            trainer.fit(module, training, validation, ckpt_path=checkpoint, weights_only=True)
        return module.seen

    whole = trained(save_after, None)
    assert len(whole) == 30
    assert trained(0, tmp_path / "a.ckpt") == whole[save_after:]
