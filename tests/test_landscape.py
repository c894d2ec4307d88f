"""Slices of a loss against closed forms and the suite's own losses; studies of shortcuts, starts, lines and runs."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.colors import LogNorm
from torch import Tensor, nn

from benchmarks.cli import main
from benchmarks.phenomena import landscape, landscape_run, landscape_skips, loss_ensemble, minima_between, slices
from benchmarks.phenomena.analysis import AnalysisError
from benchmarks.phenomena.batched import BatchedMLP
from benchmarks.phenomena.cards import RESULTS
from benchmarks.phenomena.digit_networks import FlatDigits, descend, evaluate, own_orders
from benchmarks.phenomena.figures import panels
from benchmarks.phenomena.finished import load_checkpoint, load_run
from benchmarks.phenomena.initial_weights import initial_network, with_statistics
from benchmarks.phenomena.slice_figures import draw_line, draw_plane, levels_within, said_of_holes, scale
from benchmarks.phenomena.slices import Sample
from models.lenet import LeNet5
from models.mlp import MLP
from models.resnet import ResNet

Bench = Callable[..., tuple[int, str, str]]
Finished = Callable[[str], Path]


# -- directions -------------------------------------------------------------------------------------------------------


def small_resnet() -> ResNet:
    torch.manual_seed(0)
    network = ResNet([1, 1], [4, 8], stem="cifar", shortcut="B", in_channels=1, num_classes=10)
    network(torch.randn(20, 1, 8, 8))  # batch norms have statistics
    return network


@pytest.mark.parametrize("make", [small_resnet, lambda: LeNet5(subsampling="trainable"), lambda: MLP((1, 8, 8), [6])])
def test_filters_of_a_direction_are_as_long_as_the_networks(make: Callable[[], nn.Module]) -> None:
    """Each by a loop over outputs; biases, scales and shifts do not move."""
    network = make()
    direction = slices.filter_direction(network, torch.Generator().manual_seed(3))
    moved = 0
    for module in network.modules():
        for key, weight in module.named_parameters(recurse=False):
            d = next(direction[name] for name, p in network.named_parameters() if p is weight)
            if isinstance(module, nn.Conv2d | nn.Linear) and key == "weight":
                for mine, theirs in zip(weight, d, strict=True):
                    assert float(theirs.norm()) == pytest.approx(float(mine.detach().norm()), rel=1e-5)
                moved += 1
            elif isinstance(module, nn.BatchNorm2d) or key == "bias":
                assert not d.any()
    assert moved >= 2
    again = slices.filter_direction(network, torch.Generator().manual_seed(3))
    assert all(torch.equal(d, again[name]) for name, d in direction.items())
    other = slices.filter_direction(network, torch.Generator().manual_seed(4))
    assert abs(slices.cosine(direction, other)) < 0.35
    assert slices.cosine(direction, direction) == pytest.approx(1)


def test_norms_do_not_move_whatever_their_shape() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.LayerNorm((2, 3)))
    direction = slices.filter_direction(network, torch.Generator().manual_seed(0))
    assert {name for name, d in direction.items() if d.any()} == {"0.weight"}


def test_a_network_without_a_direction_is_refused() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(AnalysisError, match=r"Sequential must have weights that are not 0, of convolutions or linear"):
        slices.filter_direction(network, torch.Generator())


def test_twice_the_weights_are_as_steep() -> None:
    """What filters are scaled for: a ReLU layer times 2 and the next by 2 compute the same, and are cut alike."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False)).double()
    other = copy.deepcopy(one)
    with torch.no_grad():
        other[0].weight *= 2
        other[2].weight /= 2
    sample = Sample(torch.randn(11, 5).double(), torch.randint(3, (11,)))
    found = []
    for network in (one, other):
        direction = slices.filter_direction(network, torch.Generator().manual_seed(1))
        points = slices.slice_line(slices.point_of(network), direction, [-1, -0.5, 0, 0.5, 1])
        found.append(slices.measure(network, points, [sample])[:, 0, 0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
    assert np.ptp(found[0]) > 0.01


# -- planes and lines -------------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """Answers its weights, whatever it sees: any function of them is its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.w.flatten().expand(len(images), -1)


def test_plane_of_a_quadratic_loss() -> None:
    """w^T H w / 2: values in closed form; curvatures are eigenvalues of [d H d, d H e; e H d, e H e], everywhere."""
    network = Quadratic()
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    h = h + h.T
    sample = Sample(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), batch=2)
    at = slices.coordinates(0.8, 7)
    first, second = (slices.filter_direction(network, generator) for _ in range(2))
    points = slices.slice_plane(slices.point_of(network), first, second, at)
    loss = slices.measure(network, points, [sample], lambda logits, _: ((logits @ h) * logits).sum(1).mean() / 2)
    plane = loss[:, 0, 0].reshape(7, 7)
    w, d, e = (one.detach().flatten() for one in (network.w, first["w"], second["w"]))
    for row, b in enumerate(at):
        for column, a in enumerate(at):
            v = w + a * d + b * e
            assert plane[row, column] == pytest.approx(float(v @ h @ v / 2), rel=1e-12, abs=1e-12)
    within = torch.stack([torch.stack([x @ h @ y for y in (d, e)]) for x in (d, e)])
    wanted = torch.linalg.eigvalsh(within).numpy()
    np.testing.assert_allclose(slices.curvatures(plane, at[1] - at[0]), np.broadcast_to(wanted, (5, 5, 2)), rtol=1e-9)
    assert slices.non_convex_share(plane, at[1] - at[0]) == float(wanted[0] < 0)


def test_share_that_is_bent_down_by_hand() -> None:
    """A bowl none, a saddle and a hill all; a^3 + b^2 where a < 0: two of the five columns inside a 7 x 7 plane."""
    at = slices.coordinates(1, 7)
    a, b = np.meshgrid(at, at)
    step = at[1] - at[0]
    for loss, wanted in (
        (a**2 + b**2, 0), (a**2 - b**2, 1), (-(a**2) - b**2, 1), (a**3 + b**2, 0.4), (a * b, 1), (a + 2 * b, 0),
        (a**2 - 0.08 * b**2, 0), (a**2 - 0.12 * b**2, 1),
    ):  # fmt: skip
        assert slices.non_convex_share(loss, step) == pytest.approx(wanted), wanted
    assert [slices.non_convex_share(a**2 - 0.06 * b**2, step, ratio) for ratio in (0, 0.05, 0.1)] == [1, 1, 0]
    np.testing.assert_allclose(slices.curvatures(a * b, step)[2, 2], [-1, 1])


def test_losses_that_are_not_finite_are_counted_and_bend_nothing() -> None:
    at = slices.coordinates(1, 7)
    a, b = np.meshgrid(at, at)
    loss = a**2 - b**2
    loss[0, 0], loss[6, 6] = np.nan, np.inf
    assert slices.not_finite(loss) == 2
    curvature = slices.curvatures(loss, at[1] - at[0])
    assert np.isnan(curvature).all(-1).sum() == 2  # the two corners of the inside
    assert slices.non_convex_share(loss, at[1] - at[0]) == 1
    assert math.isnan(slices.non_convex_share(np.full((5, 5), np.inf), 1))


def test_coordinates() -> None:
    assert slices.coordinates(2, 5).tolist() == [-2, -1, 0, 1, 2]
    assert slices.coordinates(0.3, 15)[7] == 0
    for points in (4, 14, 3):
        with pytest.raises(AnalysisError) as error:
            slices.coordinates(1, points)
        assert f"points (={points}) must be odd, so that one is the network itself, and at least 5" in str(error.value)


def test_line_between_two_networks() -> None:
    """Exactly the networks at the ends; halfway by hand."""
    start, end = ({"w": torch.randn(4, 3)} for _ in range(2))
    zero, half, one = slices.between(start, end, [0, 0.5, 1])
    assert torch.equal(zero["w"], start["w"])
    assert torch.equal(one["w"], end["w"])
    torch.testing.assert_close(half["w"], (start["w"] + end["w"]) / 2)


def test_rise_and_barrier() -> None:
    assert slices.rise(np.array([3.0, 2, 1])) == -1
    assert slices.rise(np.array([3.0, 1, 1.5, 2, 0])) == 1
    assert math.isnan(slices.rise(np.array([3.0, np.inf, 1])))
    assert slices.barrier(np.array([1.0, 5, 3])) == 3
    assert slices.barrier(np.array([2.0, 1, 2])) == 0


# -- the network ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sample() -> Sample:
    generator = torch.Generator().manual_seed(5)
    return Sample(torch.randn(50, 1, 8, 8, generator=generator), torch.randint(10, (50,), generator=generator))


def test_centre_is_the_networks_own_loss(sample: Sample) -> None:
    """As torch says it and as the suite counts it; error too. Batches of 7 change nothing, the last of which is one."""
    network = small_resnet().eval()
    first, second = (slices.filter_direction(network, torch.Generator().manual_seed(one)) for one in (1, 2))
    points = list(slices.slice_plane(slices.point_of(network), first, second, slices.coordinates(1, 5)))
    found = slices.measure(network, points, [sample])
    with torch.no_grad():
        logits = network(sample.images)
    assert found[12, 0, 0] == pytest.approx(float(F.cross_entropy(logits, sample.labels)), abs=1e-6)
    assert found[12, 0, 0] == pytest.approx(slices.true_loss(network, sample), abs=1e-6)
    assert found[12, 0, 1] == float((logits.argmax(1) != sample.labels).double().mean())
    in_parts = slices.measure(network, points, [Sample(sample.images, sample.labels, 7)])
    np.testing.assert_allclose(in_parts, found, rtol=2e-6)
    assert np.ptp(found[:, 0, 0]) > 0.1
    by_hand = copy.deepcopy(network)  # a corner
    with torch.no_grad():
        for name, p in by_hand.named_parameters():
            p += -first[name] + second[name]
        corner = float(F.cross_entropy(by_hand(sample.images), sample.labels))
    assert found[20, 0, 0] == pytest.approx(corner, rel=1e-6)


def test_network_comes_back_bit_for_bit_also_after_an_error(sample: Sample) -> None:
    network = small_resnet()
    network.layer1.eval()  # type: ignore[union-attr]
    modes = [module.training for module in network.modules()]
    before, numbers = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    objects = list(network.parameters())
    direction = slices.filter_direction(network, torch.Generator().manual_seed(1))

    def points() -> Iterator[slices.Point]:
        yield from slices.slice_line(slices.point_of(network), direction, [1.0])
        raise RuntimeError("halfway")

    statistics = sample.equal_parts()
    slices.measure(network, slices.slice_line(slices.point_of(network), direction, [-1.0, 1.0]), [sample])
    slices.measure(network, slices.between(slices.point_of(network), direction, [0.3]), [sample], F.cross_entropy,
                   statistics)  # fmt: skip
    slices.true_loss(network, sample)
    assert slices.seconds_for(network, sample, 1000) > 0
    with pytest.raises(RuntimeError, match="halfway"):
        slices.measure(network, points(), [sample])
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p is kept for p, kept in zip(network.parameters(), objects, strict=True))
    assert torch.equal(torch.get_rng_state(), numbers)


def test_statistics_are_computed_anew_where_they_are_asked_for(sample: Sample) -> None:
    network = small_resnet().eval()
    small = Sample(sample.images, sample.labels, 20)
    assert [len(part) for part in small.equal_parts()] == [20, 20]
    renewed = with_statistics(network, small.equal_parts())
    point = [slices.point_of(network)]
    new = slices.measure(network, point, [small], statistics=small.equal_parts())[0, 0, 0]
    old = slices.measure(network, point, [small])[0, 0, 0]
    assert new == pytest.approx(slices.true_loss(renewed, small), abs=1e-7)
    assert abs(new - old) > 1e-3


def test_a_loss_that_is_no_number_is_kept_as_such(sample: Sample) -> None:
    """Weights so large that logits overflow, and such as are none: there every answer is wrong."""
    network = MLP((1, 8, 8), [6])
    huge, none = ({name: w * by for name, w in slices.point_of(network).items()} for by in (1e30, math.nan))
    found = slices.measure(network, [slices.point_of(network), huge, none], [sample])[:, 0]
    assert np.isfinite(found[0]).all()
    assert not np.isfinite(found[1:, 0]).any()
    assert found[2, 1] == 1
    assert slices.not_finite(found[:, 0]) == 2


def test_holes_are_drawn_hatched() -> None:
    at = slices.coordinates(1, 5)
    a, b = np.meshgrid(at, at)
    loss = 1 + a**2 + b**2
    loss[0, 1] = np.nan
    norm = scale([loss, np.full((5, 5), np.inf)])
    assert (norm.vmin, norm.vmax) == (1, 3)
    figure, (left, right) = panels(1, 2)
    shown = draw_plane(left, at, loss, norm)
    assert shown.get_array().mask.sum() == 1
    assert left.patch.get_hatch()
    assert said_of_holes(loss) == "\n1 point not finite (hatched)"
    assert said_of_holes(a) == ""
    draw_line(right, at, np.array([1, 2, np.inf, 2, 1]), color="black")
    assert len(right.patches) == 1
    assert np.isnan(right.lines[0].get_ydata()).sum() == 1
    draw_plane(right, at, np.zeros((5, 5)), scale([np.zeros((5, 5))]))
    draw_plane(right, at, np.full((5, 5), np.nan), scale([np.full((5, 5), np.nan)]))
    figure.canvas.draw()
    assert isinstance(norm, LogNorm)
    np.testing.assert_allclose(levels_within(np.ma.masked_invalid([[1.0, 10.0]])), 10 ** (np.arange(5) / 4))


# -- shortcuts --------------------------------------------------------------------------------------------------------


def test_networks_with_and_without_shortcuts_begin_alike() -> None:
    for depth in (8, 56):
        one, other = (landscape_skips.new_network(depth, skip, seed=1) for skip in (True, False))
        layers = [module for module in one.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
        images = torch.randn(3, 1, 8, 8)
        assert not torch.allclose(one(images), other(images))


def test_what_is_said_of_a_network() -> None:
    at = slices.coordinates(1, 7)
    a, b = np.meshgrid(at, at)
    plane = 1.5 + a**3 + b**2
    plane[0, 6] = np.inf  # whose neighbour is not bent: 10 of the 24 points that are left are
    bad = landscape_skips.Found(56, False, 0, at, plane, 1.5, (1.57, 0.6), (1.6, 0.617), 0.0)
    assert bad.middle == 1.5
    assert landscape_skips.title_of(bad) == (
        "56 layers, without shortcuts\ntraining loss 1.6: at no minimum, test error 61.7 %\n"
        "42 % of the points bent down (dots)\n1 point not finite (hatched)"
    )
    good = landscape_skips.Found(56, True, 0, at, a**2 + b**2, 0.0, (0.001, 0.0), (0.1, 0.025), 0.0)
    assert landscape_skips.title_of(good) == (
        "56 layers, with shortcuts\ntraining loss 0.001, test error 2.5 %\n0 % of the points bent down (dots)"
    )
    said = landscape_skips.summary([bad, good])
    assert said["losses on the planes that are not finite"] == 1
    assert said["largest loss on the plane, of each"] == [None, 2.0]
    assert said["lowest loss on the plane less the centre's, of each"] == pytest.approx([-1, 0])
    checks = landscape_skips.checks_of(landscape_skips.SkipSettings((56,), 1, 1, 1), [bad, good])
    assert [check.held for check in checks] == [True, True, True, True]
    assert checks[3].value == pytest.approx(61.7 / 2.5)


# -- many starts ------------------------------------------------------------------------------------------------------


def test_spread_of_losses_by_hand() -> None:
    loss = np.array([[1.0, 1, 1, 5], [2, 4, 2, 4]])
    np.testing.assert_allclose(loss_ensemble.variation(loss), [1, math.sqrt(4 / 3) / 3])
    np.testing.assert_allclose(loss_ensemble.bad_share(loss), [0.25, 0])
    assert loss_ensemble.correlation(loss[1], -loss[1]) == pytest.approx(-1)


def separate(networks: BatchedMLP, index: int) -> nn.Sequential:
    """One network of a batch as a module."""
    layers: list[nn.Module] = []
    for weight, bias in zip(networks.weights, networks.biases, strict=True):
        layer = nn.Linear(*weight.shape[1:])
        with torch.no_grad():
            layer.weight.copy_(weight[index].T)
            layer.bias.copy_(bias[index, 0])
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def random_digits() -> FlatDigits:
    generator = torch.Generator().manual_seed(0)
    x, test_x = (torch.randn(n, 64, generator=generator) for n in (70, 30))
    y, test_y = (torch.randint(10, (n,), generator=generator) for n in (70, 30))
    return FlatDigits(x, y, test_x, test_y)


def test_networks_that_descend_together_are_separate_networks() -> None:
    """Against SGD of one, whose order of images is its own."""
    data = random_digits()
    networks = BatchedMLP(3, (64, 9, 10), torch.Generator().manual_seed(1))
    order = own_orders(3, 70, seed=4)
    assert not torch.equal(order(0)[0], order(0)[1])
    assert not torch.equal(order(0), order(1))
    assert torch.equal(order(1), own_orders(3, 70, seed=4)(1))
    alone = separate(networks, 2)
    descend(networks, data.x, data.y, order, epochs=2, batch=32, rate=0.1)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 4)
        chosen = order(step // 2)[2, 32 * (step % 2) :][:32]
        optimizer.zero_grad()
        F.cross_entropy(alone(data.x[chosen]), data.y[chosen]).backward()
        optimizer.step()
    torch.testing.assert_close(separate(networks, 2)(data.x), alone(data.x))
    found = evaluate(networks, data.x, data.y, size=20)[:, 2]
    logits = alone(data.x)
    assert float(found[0]) == pytest.approx(float(F.cross_entropy(logits, data.y).detach()), rel=1e-5)
    assert float(found[1]) == pytest.approx(float((logits.argmax(1) != data.y).double().mean()))


# -- between minima ---------------------------------------------------------------------------------------------------


SMALL = minima_between.BetweenSettings(2, 9, 3, (0, 1))


def test_twins_are_one_until_they_part() -> None:
    data = random_digits()
    start = minima_between.start_of(SMALL, 1)
    before = copy.deepcopy(start.state_dict())
    one = minima_between.trained(SMALL, data, start, order=0)
    for fork, equal in ((3, True), (2, False), (0, False)):
        twin = minima_between.trained(SMALL, data, start, order=1, fork=fork, first=0)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), twin.parameters(), strict=True)) == equal
    assert all(torch.equal(value, before[key]) for key, value in start.state_dict().items())


def test_lines_of_many_pairs_are_those_of_each() -> None:
    """Against `slices`, of one network as a module."""
    data = random_digits()
    start, end = (minima_between.start_of(SMALL, seed) for seed in (1, 2))
    found = minima_between.along(start, end, data)
    assert found.shape == (4, 31, 2)
    one, other = separate(start, 1), separate(end, 1)
    samples = [Sample(data.x, data.y, 20), Sample(data.test_x, data.test_y)]
    points = slices.between(slices.point_of(one), slices.point_of(other), minima_between.AT)
    wanted = slices.measure(one, points, samples)
    np.testing.assert_allclose(found[:, :, 1], wanted.reshape(31, 4).T, rtol=1e-5)
    assert minima_between.AT[minima_between.WITHIN][[0, -1]].tolist() == [0, 1]
    assert minima_between.barriers(found)[1] == pytest.approx(slices.barrier(wanted[5:26, 0, 0]), rel=1e-4)


# -- a finished run ---------------------------------------------------------------------------------------------------


QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1")
RUNS: dict[str, tuple[str, ...]] = {
    "mlp": ("digits/mlp", "--seed_everything", "3"),
    "mlp, seed 4": ("digits/mlp", "--seed_everything", "4"),
    "mlp, narrower": ("digits/mlp", "--seed_everything", "3", "--model.init_args.hidden", "[32]"),
    "linear": ("digits/linear", "--seed_everything", "3"),
    "resnet": ("digits/resnet", "--seed_everything", "3"),
    "resnet, seed 4": ("digits/resnet", "--seed_everything", "4"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The folder of one of RUNS, trained when it is first asked for; tests may write to its folder phenomena/ only."""
    root = tmp_path_factory.mktemp("landscape")
    found: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in found:
            recipe, *options = RUNS[name]
            runs = root / str(len(found))
            assert main(["fit", "--config", recipe, *QUIET, "--runs", str(runs), *options]) == 0
            (found[name],) = runs.glob("digits/*/*/seed-*")
        return found[name]

    return folder


def of_centre(run: Any, images: int, seed: int = 0) -> float:
    """The network's own loss, by torch alone."""
    x, y = run.images("train", images, seed)
    with torch.no_grad():
        return float(run.network.loss(run.network(x), y))


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_slices_of_a_run_which_comes_back_as_it_was(bench: Bench, finished: Finished, name: str) -> None:
    folder, other = finished(name), finished(f"{name}, seed 4")
    options = ("--study", "run", "--smoke", "--images", "60", "--batch", "25")
    status, out, err = bench("analyze", "landscape", *options, "--run", folder, "--other", other)
    assert status == 0, out + err
    again = name == "resnet"
    assert f"loss at 92 points, {25 * 60 + 15 * 160 + 2 * 26 * (160 + 60 * again)} images through the network" in err
    record = json.loads((folder / "phenomena/landscape-run/smoke/seed-0/landscape-run.json").read_text())
    held = {check["name"]: check["held"] for check in record["checks"] if check["must_hold"]}
    assert len(held) == 4
    assert all(held.values())
    numbers = record["numbers"]
    run = load_run(str(folder))
    assert numbers["training loss"] == pytest.approx(of_centre(run, 60), abs=1e-6)
    assert numbers["losses on the plane that are not finite"] == 0
    assert numbers["line, other"]["barrier of the training loss"] > 0

    before, random = copy.deepcopy(run.network.state_dict()), torch.get_rng_state()
    run.network.train()
    outcome = landscape.analyze(study="run", run=run, preset="smoke", images=60, batch=1000)
    assert run.network.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in run.network.state_dict().items())
    losses = {
        key: np.array([loss for one, loss in zip(outcome.table["slice"], outcome.table["training loss"], strict=True)
                       if one == key])
        for key in ("plane", "line, start")
    }  # fmt: skip
    assert losses["plane"].shape == (25,)
    start = initial_network(run)
    x, y = run.images("train", 60, 0)
    with torch.no_grad():
        wanted = float(run.network.loss(with_statistics(start, [x])(x), y))
    assert losses["line, start"][0] == pytest.approx(wanted, rel=1e-5)
    assert losses["line, start"].argmin() != 0


def test_a_checkpoint_of_which_no_start_is_known(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "some.ckpt"
    elsewhere.write_bytes((finished("mlp") / "checkpoints/last.ckpt").read_bytes())
    run = load_checkpoint(str(elsewhere), "digits/mlp")
    outcome = landscape.analyze(study="run", run=run, preset="smoke", images=20, test=20)
    assert outcome.numbers["line, start"] == "left out: the initial weights are not known"
    assert "there will be no line from the start: some.ckpt must lie in the folder seed-N" in capsys.readouterr().err
    assert set(outcome.table["slice"]) == {"plane", "first direction"}
    assert not outcome.failed


def test_other_runs_that_are_refused(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished("mlp")
    run = load_run(str(folder))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    linear, narrower = finished("linear"), finished("mlp, narrower")
    for options, message in (
        ({"other": str(folder)}, "must be another run than --run: give one of another seed."),
        ({"other": str(linear)}, "must be a run of digits/mlp, as --run is, it is of digits/linear: give one of that"),
        (
            {"other": str(narrower)},
            "must have parameters of the names and shapes of --run, 3 differ (fc.weight,",
        ),
        (
            {"other": str(tmp_path)},
            f"--other (={tmp_path}) must hold a finished run, it has no recipe.yaml: give the folder seed-N",
        ),
        ({"device": "cuda"}, "--device (=cuda) must be there, torch sees no GPU: use --device cpu, or auto."),
        ({"test": 3}, "--test (=3) must be at least 10: leave it out for the preset's."),
        ({"batch": 0}, "--batch (=0) must be at least 1: leave it out for the preset's."),
        ({"epochs": 3}, "--epochs (=3) is for skips and ensemble and between, not run: leave it out."),
        ({"study": "skips"}, "is for --study run, skips trains networks of its own: add --study run."),
    ):
        with pytest.raises(AnalysisError) as error:
            landscape.analyze(**{"study": "run", "run": run, "preset": "smoke"} | options)  # type: ignore[arg-type]
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": "run"}, "--study (=run) needs a trained network: --run with the folder seed-N of a finished run."),
        ({"other": "runs/x"}, "--other (=runs/x) is for run, not skips: leave it out."),
        ({"points": 8}, "--points (=8) must be odd, so that one is the network itself: use 9."),
        ({"images": 1500}, "--images (=1500) must not exceed the 1437 training images of digits: use fewer."),
        ({"points": 3}, "--points (=3) must be at least 5: leave it out for the preset's."),
        ({"radius": 0.0}, "--radius (=0) must be above 0: use 1, the length of each filter."),
        ({"study": "ensemble", "networks": 1}, "--networks (=1) must be at least 2: leave it out for the preset's."),
        ({"study": "ensemble", "points": 9}, "--points (=9) is for skips and run, not ensemble: leave it out."),
        (
            {"study": "between", "epochs": 4},
            "--epochs (=4) must be more than 5, which the two networks of a pair share",
        ),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError) as error:
        landscape.analyze(**options, preset="smoke")  # type: ignore[arg-type]
    assert message in str(error.value)


def test_lines_are_finer_than_planes_and_go_through_the_network() -> None:
    at = slices.coordinates(2, 5)
    assert landscape_run.finer(at)[[0, 7, -1]].tolist() == [-2, 0, 2]
    assert len(landscape_run.finer(at)) == 15
    assert landscape_run.ALONG[[0, landscape_run.PARTS]].tolist() == [0, 1]


# -- committed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["skips", "ensemble", "between", "run"])
def test_committed_results_are_of_the_full_check_and_hold(study: str) -> None:
    record = json.loads((RESULTS / f"landscape-{study}.json").read_text())
    assert (record["preset"], record["seed"], record["commit"]["clean"]) == ("cpu", 0, True)
    assert record["checks"]
    assert all(check["held"] for check in record["checks"] if check["must_hold"])
    assert (record["run"] is not None) == (study == "run")
