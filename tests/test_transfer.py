"""Networks taken apart: what is copied, what is frozen, and what holds on digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.phenomena import transfer
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.transfer import accuracy, chop, frozen_features, halves, new_network, train


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return new_network(1, 8, (2, 2, 3, 3, 4), 5)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(60, 1, 8, 8, generator=generator), torch.randint(5, (60,), generator=generator)


def test_chop_takes_the_first_layers_and_no_other(images: Any) -> None:
    source, fresh = network(1), network(2)
    source.train()
    source(images[0])  # its statistics are no longer the initial ones
    before, untrained = state(source), state(fresh)
    chopped = chop(source, fresh, 2)
    assert same(before, state(source))
    for place in range(6):
        expected = before if place < 2 else untrained
        own = {name: value for name, value in state(chopped).items() if name.startswith(f"{place}.")}
        assert own
        assert same(own, expected)
    assert chopped[0][0].weight is not source[0][0].weight


@pytest.mark.parametrize("n", [-1, 6])
def test_layers_that_are_not_there(n: int) -> None:
    message = (
        rf"--layers \(={n}\) must lie in \[\d, 5\]: the network has 5 layers below its classes; use 5 for all of them\."
    )
    with pytest.raises(AnalysisError, match=message):
        chop(network(), network(), n)
    with pytest.raises(AnalysisError, match=message):
        transfer.analyze("smoke", layers=[1, n])


def test_frozen_layers_stay_bit_for_bit_as_they_were(images: Any) -> None:
    trained = network()
    trained.train()
    before = state(trained)
    train(trained, *images, 2, 0.1, True, torch.Generator().manual_seed(0), frozen=3, batch_size=20)
    after = state(trained)
    for place in range(6):
        changed = [not torch.equal(before[name], after[name]) for name in before if name.startswith(f"{place}.")]
        assert any(changed) == (place >= 3)
    assert "3.1.running_mean" in before  # statistics are among them


def test_frozen_features_are_those_of_evaluation(images: Any) -> None:
    layers = network()[:3]
    layers.train()
    before = state(layers)
    found = frozen_features(layers, images[0])
    assert layers.training
    assert same(before, state(layers))
    layers.eval()
    assert torch.equal(found, layers(images[0]))


def test_training_all_layers_with_frozen_at_0_is_ordinary_training(images: Any) -> None:
    ours = train(network(), *images, 1, 0.1, False, torch.Generator().manual_seed(3), batch_size=20)
    theirs = network().train()
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 3)
    for chosen in torch.randperm(60, generator=torch.Generator().manual_seed(3)).split(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(images[0][chosen]), images[1][chosen]).backward()
        optimizer.step()
        schedule.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_accuracy_counts() -> None:
    found = accuracy(nn.Sequential(nn.Identity()), torch.eye(4), torch.tensor([0, 1, 2, 0]))
    assert found == 0.75


def test_halves_share_no_class_and_count_from_0() -> None:
    y = torch.arange(10).repeat(20)
    x = y.float().view(-1, 1, 1, 1)
    a, b = halves((x, y), (x, y), (50, 30), seed=0)
    assert (len(a.x), len(b.x), len(a.test_x)) == (50, 30, 100)
    seen = [
        {(int(value), int(label)) for value, label in zip(t.test_x.flatten(), t.test_y, strict=True)} for t in (a, b)
    ]
    classes = [sorted(value for value, _ in pairs) for pairs in seen]
    assert sorted(classes[0] + classes[1]) == list(range(10))
    assert all([label for _, label in sorted(pairs)] == [0, 1, 2, 3, 4] for pairs in seen)
    again, _ = halves((x, y), (x, y), (50, 30), seed=0)
    other, _ = halves((x, y), (x, y), (50, 30), seed=1)
    assert torch.equal(again.x, a.x)
    assert not torch.equal(other.x, a.x)


def test_layers_beyond_the_last_on_the_command_line(bench: Callable[..., tuple[int, str, str]]) -> None:
    status, _, err = bench("analyze", "transfer", "--smoke", "--layers", "[6]")
    assert status == 2
    assert "--layers (=6) must lie in [1, 5]: the network has 5 layers below its classes; use 5 for all of them" in err
