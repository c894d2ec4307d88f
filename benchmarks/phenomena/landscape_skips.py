"""The loss around deep networks, with shortcuts and without: they keep it smooth.

Li, Xu, Taylor, Studer, Goldstein 2018, figures 1, 5 and 7: without shortcuts the plane around a network of 56 layers is
chaotic, with them it is a bowl. Here networks of CIFAR's form, 6 n + 2 layers of three stages of n blocks (He et al.
2015, section 4.2), but of 8 channels throughout, learn digits of 8 x 8 pixels. With one seed the two have the same
initial weights, see the same images in the same order, and are cut along the same draws, each scaled to their own
filters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, random_numbers_kept, steps
from benchmarks.phenomena.figures import panels, points
from benchmarks.phenomena.pixels import pixels
from benchmarks.phenomena.slice_figures import colour_bar, draw_plane, said_of_holes, scale
from benchmarks.phenomena.slices import (
    BENT,
    Floats,
    Sample,
    coordinates,
    cosine,
    filter_direction,
    loss_and_error,
    measure,
    non_convex_share,
    not_finite,
    point_of,
    slice_plane,
    true_loss,
)
from datamodules.digits import Digits
from models.resnet import ResNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANNELS = 8
FITTED = 0.1  # training loss above which a network is said to be at no minimum
RATIOS = (0.0, 0.01, 0.05, 0.2, 0.5)  # beside BENT, to see how far the share depends on it
NAMES = {True: "with shortcuts", False: "without shortcuts"}


@dataclass(frozen=True)
class SkipSettings:
    """What is trained, and the plane that is looked at.

    Args:
        depths: layers, ascending; each 6 n + 2.
        networks: seeds, each of which gives a network with shortcuts and one without.
        epochs: of SGD with momentum 0.9 and decay 5e-4, whose rate falls along a cosine from 0.1 to 0.
        images: training images that the loss on the plane is the mean over.
        points: of each side of the plane; odd.
        radius: of the plane, in lengths of the filters.
        batch: images of a step.
        smooth: largest share of points that are bent down, deepest network with shortcuts.
        chaotic: smallest share, deepest network without.
        worse: smallest ratio of the test errors of the deepest networks, without shortcuts and with.
    """

    depths: tuple[int, ...]
    networks: int
    epochs: int
    images: int
    points: int = 15
    radius: float = 1.0
    batch: int = 64
    smooth: float = 0.1
    chaotic: float = 0.4
    worse: float = 10.0


PRESETS = {
    "smoke": SkipSettings((8, 32), 1, 4, 50, points=7, smooth=0.5, chaotic=0.0, worse=1.5),
    "cpu": SkipSettings((8, 20, 56), 3, 25, 200),
    "full": SkipSettings((8, 20, 32, 56, 110), 10, 60, 1400, points=51),
}


@dataclass(frozen=True)
class Found:
    """A network and the plane around it.

    Args:
        depth: layers.
        skip: whether it has shortcuts.
        seed: of its weights, the order of images and the directions.
        at: coordinates of the plane's rows, and of its columns.
        plane: loss at each point. [points, points]
        centre: the loss of the network itself on the same images, counted apart.
        train: loss and share of wrong predictions on all training images.
        test: the same on the test images.
        angle: cosine of the two directions.
    """

    depth: int
    skip: bool
    seed: int
    at: Floats
    plane: Floats
    centre: float
    train: tuple[float, float]
    test: tuple[float, float]
    angle: float

    @property
    def middle(self) -> float:
        """The loss of the network as the plane has it."""
        half = len(self.at) // 2
        return float(self.plane[half, half])

    def share(self, ratio: float = BENT) -> float:
        """Share of the plane that is bent down."""
        return non_convex_share(self.plane, self.at[1] - self.at[0], ratio)


def read() -> tuple[Sample, Sample]:
    """All training images and all test images of digits, normalised."""
    data = Digits(batch_size=1)
    mean, std = data.mean[:, None, None] / 255, data.std[:, None, None] / 255
    train, test = (pixels(data, split) for split in ("train", "test"))
    return Sample((train[0] - mean) / std, train[1]), Sample((test[0] - mean) / std, test[1])


def new_network(depth: int, skip: bool, seed: int) -> ResNet:
    """`depth` layers of CHANNELS channels: a convolution, three stages of (depth - 2) / 6 blocks, classes."""
    with random_numbers_kept():
        torch.manual_seed(seed)
        return ResNet(
            [(depth - 2) // 6] * 3, [CHANNELS] * 3, stem="cifar", shortcut="A", skip=skip, in_channels=1, num_classes=10
        )


def train(network: nn.Module, x: Tensor, y: Tensor, settings: SkipSettings, seed: int) -> None:
    """Train `network` on images x with labels y; the last few of an epoch are left."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    in_epoch = len(x) // settings.batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * in_epoch)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for _ in range(settings.epochs):
        order = torch.randperm(len(x), generator=generator)
        for chosen in order[: in_epoch * settings.batch].split(settings.batch):
            optimizer.zero_grad()
            F.cross_entropy(network(x[chosen]), y[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def look_at(settings: SkipSettings, data: tuple[Sample, Sample], depth: int, skip: bool, seed: int) -> Found:
    """Train one network and measure the plane around it."""
    train_set, test_set = data
    network = new_network(depth, skip, seed)
    train(network, train_set.images, train_set.labels, settings, seed)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train_set.labels), generator=generator)[: settings.images]
    sample = Sample(train_set.images[chosen], train_set.labels[chosen])
    first, second = (filter_direction(network, generator) for _ in range(2))
    at = coordinates(settings.radius, settings.points)
    plane = measure(network, slice_plane(point_of(network), first, second, at), [sample])[:, 0, 0]
    return Found(
        depth,
        skip,
        seed,
        at,
        plane.reshape(len(at), len(at)),
        true_loss(network, sample),
        loss_and_error(network, train_set),
        loss_and_error(network, test_set),
        cosine(first, second),
    )


def study(settings: SkipSettings, seed: int) -> Outcome:
    """Networks of every depth, with shortcuts and without, for every seed.

    Raises:
        AnalysisError: there are not so many images.
    """
    data = read()
    if settings.images > len(data[0].labels):
        raise AnalysisError(
            f"--images (={settings.images}) must not exceed the {len(data[0].labels)} training images of digits: use "
            "fewer."
        )
    seeds = range(seed, seed + settings.networks)
    jobs = list(itertools.product(settings.depths, (True, False), seeds))
    return conclude(settings, [look_at(settings, data, *job) for job in steps(jobs, "networks")], seeds)


def conclude(settings: SkipSettings, found: list[Found], seeds: range) -> Outcome:
    """Numbers, checks, table and figures."""
    numbers: dict[str, Any] = {
        "dataset": "digits",
        "channels": CHANNELS,
        "epochs": settings.epochs,
        "images of the plane": settings.images,
        "points of a side": settings.points,
        "radius, lengths of a filter": settings.radius,
        "networks of each kind": settings.networks,
        "bent down": f"smaller curvature within the plane below -{BENT} of the larger one's size",
        "largest cosine of two directions": max(abs(one.angle) for one in found),
    }
    for depth, skip in itertools.product(settings.depths, (True, False)):
        numbers[f"{depth} layers, {NAMES[skip]}"] = summary(of(found, depth, skip))
    pair = [one for one in found if one.depth == settings.depths[-1] and one.seed == seeds[0]]
    figures = {"planes": draw_pair(settings, pair), "depths": draw_depths(settings, found)}
    return Outcome(numbers, checks_of(settings, found), table_of(found), figures, seeds)


def of(found: list[Found], depth: int, skip: bool) -> list[Found]:
    """Those of one kind, a network for each seed."""
    return [one for one in found if (one.depth, one.skip) == (depth, skip)]


def checks_of(settings: SkipSettings, found: list[Found]) -> list[Check]:
    """That planes go through their networks, and what the deepest show."""
    deepest = settings.depths[-1]
    with_, without = of(found, deepest, True), of(found, deepest, False)
    smooth, chaotic = (np.array([one.share() for one in kind]) for kind in (with_, without))
    worse = np.mean([one.test[1] for one in without]) / np.mean([one.test[1] for one in with_])
    off = max(abs(one.middle - one.centre) / max(1.0, one.centre) for one in found)
    source = "Li et al. 2018, figures 5 and 7: a bowl, and chaos"
    return [
        Check("loss at the centre less the network's own, largest, of the larger of it and 1", off, 0, 1e-6,
              "the suite's own count of a loss"),
        Check(f"{deepest} layers with shortcuts: share of the plane that is bent down", float(smooth.mean()), None,
              settings.smooth, source, spread=spread(smooth)),
        Check(f"{deepest} layers without: share of the plane that is bent down", float(chaotic.mean()),
              settings.chaotic, None, source, spread=spread(chaotic)),
        Check(f"{deepest} layers: test error without shortcuts / with", float(worse), settings.worse, None,
              "He et al. 2015, figure 6: deep plain networks are hard to train; how hard is of this data"),
    ]  # fmt: skip


def table_of(found: list[Found]) -> dict[str, Sequence[Any]]:
    """A row for each point of each plane."""
    rows = [
        (one.depth, one.skip, one.seed, a, b, one.plane[row, column])
        for one in found
        for row, b in enumerate(one.at)
        for column, a in enumerate(one.at)
    ]
    names = ("layers", "shortcuts", "seed", "first direction", "second direction", "loss")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def spread(values: Floats) -> float | None:
    """Standard deviation over seeds; None of one."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def summary(found: list[Found]) -> dict[str, Any]:
    """Numbers of networks that differ in their seed alone: means over seeds, and each seed's where it tells more."""
    return {
        "test error, %": 100 * float(np.mean([one.test[1] for one in found])),
        "test error of each, %": [100 * one.test[1] for one in found],
        "training loss of each": [one.train[0] for one in found],
        "share bent down, of each": [one.share() for one in found],
        "mean share for other ratios": {str(r): float(np.mean([one.share(r) for one in found])) for r in RATIOS},
        "largest loss on the plane, of each": [finite_or_none(one.plane.max()) for one in found],
        "lowest loss on the plane less the centre's, of each": [
            finite_or_none(np.nanmin(one.plane) - one.middle) for one in found
        ],
        "losses on the planes that are not finite": sum(not_finite(one.plane) for one in found),
    }


def finite_or_none(value: float) -> float | None:
    """The number; None for what is none, which JSON has no word for."""
    return float(value) if np.isfinite(value) else None


def draw_pair(settings: SkipSettings, pair: list[Found]) -> Figure:
    """The planes of the deepest networks, which Li et al. show as surfaces."""
    figure, axes = panels(1, 2, 8.4, 4.5)
    norm = scale([one.plane for one in pair])
    for ax, one in zip(axes, pair, strict=True):
        shown = draw_plane(ax, one.at, one.plane, norm)
        ax.set_title(title_of(one))
        ax.set_xlabel("first direction, lengths of a filter")
    axes[0].set_ylabel("second direction")
    colour_bar(figure, shown, axes, f"loss on {settings.images} training digits")
    return figure


def title_of(one: Found) -> str:
    """What the network is, whether it is at a minimum, and how much of the plane is bent down."""
    loss = one.train[0]
    place = f"training loss {loss:.2g}" + ("" if loss <= FITTED else ": at no minimum")
    return (
        f"{one.depth} layers, {NAMES[one.skip]}\n{place}, test error {100 * one.test[1]:.1f} %\n"
        f"{100 * one.share():.0f} % of the points bent down (dots){said_of_holes(one.plane)}"
    )


def draw_depths(settings: SkipSettings, found: list[Found]) -> Figure:
    """Test error and share that is bent down, over depth."""
    figure, axes = panels(1, 2, 7.6, 3.2)
    for series, skip in enumerate((True, False)):
        kinds = [of(found, depth, skip) for depth in settings.depths]
        errors = [np.array([100 * one.test[1] for one in kind]) for kind in kinds]
        shares = [np.array([100 * one.share() for one in kind]) for kind in kinds]
        for ax, values in zip(axes, (errors, shares), strict=True):
            means, spreads = [value.mean() for value in values], [spread(value) or 0.0 for value in values]
            points(ax, settings.depths, means, NAMES[skip], series, spreads if any(spreads) else None, line=True)
    for ax, label in zip(axes, ("test error, %", "share of the plane that is bent down, %"), strict=True):
        ax.set(xlabel="layers", ylabel=label, ylim=(0, None), xticks=settings.depths)
    axes[0].legend(loc="upper left")
    if settings.networks > 1:
        figure.suptitle(f"digits, mean ± standard deviation over {settings.networks} seeds", fontsize=9)
    return figure
