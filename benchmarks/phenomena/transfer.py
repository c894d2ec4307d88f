"""The first layers of a network are of use for other classes too, the last are not; and fine-tuned, all of them are.

Two halves of a dataset's classes, A and B. A network is trained on each. AnB takes the first n layers from the network
of A, freezes them, and trains the layers above anew on B; AnB+ trains all of them. BnB and BnB+ take them from the
network of B itself. The control takes n layers as they were initialised. AnB falls with n where features are specific
to A; BnB falls where layers that were trained together are torn apart; AnB+ is above the network of B.

Yosinski et al. split ImageNet, with as many images of A as of B. Here A has four times as many images as B, of 16 x 16
pixels (CIFAR-10), so that there is something to be gained: AnB+ wins more than their 1.6 %. The network has four
convolutions and a fully connected layer, each with batch normalisation, and its classes. Spread is over splits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, Preset, random_numbers_kept, steps, untouched
from benchmarks.phenomena.figures import GREY, panels, points
from benchmarks.phenomena.pixels import pixels
from datamodules.base import ImageDataModule
from datamodules.cifar import CIFAR10
from datamodules.digits import Digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "Yosinski, Clune, Bengio, Lipson 2014, How transferable are features in deep neural networks?"
COST = "seconds on digits; 18 minutes on one busy core with CIFAR-10"

ALL = (1, 2, 3, 4, 5)  # layers below the classes
KINDS = ("AnB", "AnB+", "BnB", "BnB+", "random, frozen")


# Taking a network apart


def chop(source: nn.Sequential, fresh: nn.Sequential, n: int) -> nn.Sequential:
    """`fresh` with the first `n` of its layers as in `source`, parameters and statistics; `source` stays as it is.

    Raises:
        AnalysisError: n is negative, or beyond the last layer below the classes, which are others.
    """
    last = len(source) - 1
    if not 0 <= n <= last:
        raise AnalysisError(
            f"--layers (={n}) must lie in [0, {last}]: the network has {last} layers below its classes; use {last} for "
            "all of them."
        )
    for place in range(n):
        fresh[place].load_state_dict(source[place].state_dict())
    return fresh


@torch.no_grad()
def frozen_features(layers: nn.Sequential, x: Tensor) -> Tensor:
    """What frozen layers make of x: in evaluation mode, or their running statistics would go on to learn."""
    with untouched(layers):
        layers.eval()
        return torch.cat([layers(part) for part in x.split(500)])


def train(
    network: nn.Sequential,
    x: Tensor,
    y: Tensor,
    epochs: int,
    lr: float,
    flip: bool,
    generator: torch.Generator,
    frozen: int = 0,
    batch_size: int = 50,
    label: str = "training",
) -> nn.Sequential:
    """SGD, momentum 0.9, decay 5e-4, one cycle of `lr`. The output of the first `frozen` layers is computed once."""
    below, above = network[:frozen], network[frozen:]
    inputs = [frozen_features(below, images) for images in ([x, x.flip(3)] if flip else [x])]
    count = epochs * (len(x) // batch_size)
    optimizer = torch.optim.SGD(above.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, count)
    above.train()
    order = torch.empty(0, dtype=torch.int64)
    for _ in steps(range(count), label):
        if len(order) < batch_size:
            order = torch.randperm(len(x), generator=generator)
        chosen, order = order[:batch_size], order[batch_size:]
        images = inputs[0][chosen]
        if flip:
            mirrored = torch.rand(batch_size, generator=generator) < 0.5
            shape = (batch_size, *[1] * (images.dim() - 1))
            images = torch.where(mirrored.view(shape), inputs[1][chosen], images)
        loss = F.cross_entropy(above(images), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def accuracy(network: nn.Sequential, x: Tensor, y: Tensor) -> float:
    """Share of images whose best logit is their label's."""
    return (frozen_features(network, x).argmax(1) == y).float().mean().item()


# Data


@dataclass(frozen=True)
class Task:
    """Images [N, C, H, W], normalised, with labels [N] from 0: half of a dataset's classes."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def halves(
    train_set: tuple[Tensor, Tensor], test_set: tuple[Tensor, Tensor], counts: tuple[int, int], seed: int
) -> tuple[Task, Task]:
    """Two random halves of the classes, with so many training images of each half."""
    generator = np.random.default_rng(seed)
    (x, y), (test_x, test_y) = train_set, test_set
    classes = generator.permutation(int(y.max()) + 1)
    tasks = []
    for chosen, count in zip((classes[: len(classes) // 2], classes[len(classes) // 2 :]), counts, strict=True):
        number = torch.full((len(classes),), -1)
        number[torch.from_numpy(np.sort(chosen))] = torch.arange(len(chosen))
        of_class = (number[y] >= 0).nonzero().flatten()
        drawn = of_class[torch.from_numpy(generator.permutation(len(of_class))[:count])]
        tested = number[test_y] >= 0
        tasks.append(Task(x[drawn], number[y[drawn]], test_x[tested], number[test_y[tested]]))
    return tasks[0], tasks[1]


# The experiment


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Args:
        data: whose classes are split.
        shrink: side of squares of pixels that are averaged into one.
        flip: mirror half of the training images.
        widths: units of the four convolutions and of the fully connected layer.
        of_a: training images of A.
        of_b: training images of B.
        epochs: of every training.
        lr: greatest learning rate.
        splits: of the classes.
        layers: numbers n of layers that are taken over.
    """

    data: Callable[[], ImageDataModule]
    shrink: int
    flip: bool
    widths: tuple[int, int, int, int, int]
    of_a: int
    of_b: int
    epochs: int
    lr: float
    splits: int
    layers: tuple[int, ...]


SIZES: dict[Preset, Size] = {
    "smoke": Size(lambda: Digits(batch_size=1), 1, False, (8, 8, 16, 16, 32), 700, 50, 40, 0.05, 1, (1, 3, 5)),
    "cpu": Size(lambda: CIFAR10(batch_size=1), 2, True, (16, 16, 32, 32, 64), 10_000, 2_500, 8, 0.1, 2, ALL),
    "full": Size(lambda: CIFAR10(batch_size=1), 1, True, (64, 64, 128, 128, 256), 25_000, 25_000, 60, 0.1, 5, ALL),
}


def new_network(channels: int, side: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    """Four convolutions 3 x 3, /2 after the second and fourth, a fully connected layer, classes: six layers in all."""
    layers: list[nn.Module] = []
    for place in range(4):
        below = channels if place == 0 else widths[place - 1]
        parts: list[nn.Module] = [
            nn.Conv2d(below, widths[place], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[place]),
            nn.ReLU(),
        ]
        layers.append(nn.Sequential(*parts, nn.MaxPool2d(2)) if place % 2 else nn.Sequential(*parts))
    units = widths[3] * (side // 4) ** 2
    full = [nn.Flatten(), nn.Linear(units, widths[4], bias=False), nn.BatchNorm1d(widths[4]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Sequential(*full), nn.Linear(widths[4], classes))


def analyze(preset: Preset = "cpu", seed: int = 0, layers: list[int] | None = None) -> Outcome:
    """Train networks on halves of the classes and take them apart.

    Args:
        preset: smoke is on digits; cpu and full on CIFAR-10.
        seed: of the first split, initial weights and order of images; further splits count on from it.
        layers: numbers n of layers to take over; default: 1 to 5 (smoke: 1, 3, 5).

    Raises:
        AnalysisError: one of `layers` is beyond the last layer.
    """
    size = SIZES[preset]
    chosen = tuple(sorted(set(layers))) if layers is not None else size.layers
    check_layers(chosen, 5)
    data = size.data()
    sets = [prepared(*pixels(data, split), size.shrink) for split in ("train", "test")]
    mean, std = sets[0][0].mean((0, 2, 3), keepdim=True), sets[0][0].std((0, 2, 3), keepdim=True)
    train_set, test_set = [((x - mean) / std, y) for x, y in sets]
    rows: list[Row] = []
    for split in range(seed, seed + size.splits):
        a, b = halves(train_set, test_set, (size.of_a, size.of_b), split)
        rows += one_split(a, b, size, split, chosen)
    checks, figures = check(rows, chosen, preset), {"transfer": draw(rows, chosen, size)}
    return Outcome(numbers(rows, chosen, size), checks, table(rows), figures, range(seed, seed + size.splits))


def check_layers(layers: Sequence[int], last: int) -> None:
    """Refuse layers that are not there, before anything trains.

    Raises:
        AnalysisError: as said.
    """
    for n in layers or (0,):
        if not 1 <= n <= last:
            raise AnalysisError(
                f"--layers (={n}) must lie in [1, {last}]: the network has {last} layers below its classes; use {last} "
                "for all of them."
            )


def prepared(x: Tensor, y: Tensor, shrink: int) -> tuple[Tensor, Tensor]:
    """Images with squares of `shrink` pixels averaged."""
    return (F.avg_pool2d(x, shrink) if shrink > 1 else x), y


@dataclass(frozen=True)
class Row:
    """Test accuracy on B, in percent, of one network; n is 0 for those that take nothing over."""

    split: int
    kind: str
    n: int
    accuracy: float


def one_split(a: Task, b: Task, size: Size, split: int, layers: Sequence[int]) -> list[Row]:
    """Both bases, then every kind of network at every n."""
    channels, side, classes = b.x.shape[1], b.x.shape[2], int(b.y.max()) + 1

    def fresh(draw: int) -> nn.Sequential:
        with random_numbers_kept():
            torch.manual_seed(1000 * split + draw)
            return new_network(channels, side, size.widths, classes)

    def trained(network: nn.Sequential, task: Task, frozen: int, label: str) -> nn.Sequential:
        generator = torch.Generator().manual_seed(split)
        return train(
            network, task.x, task.y, size.epochs, size.lr, size.flip, generator, frozen, label=f"{label}, split {split}"
        )

    base_a, base_b = trained(fresh(1), a, 0, "base A"), trained(fresh(2), b, 0, "base B")
    rows = [
        Row(split, "base A", 0, 100 * accuracy(base_a, a.test_x, a.test_y)),
        Row(split, "base B", 0, 100 * accuracy(base_b, b.test_x, b.test_y)),
    ]
    for n in layers:
        for kind in KINDS:
            source = {"A": base_a, "B": base_b}.get(kind[0], fresh(3))
            network = chop(source, fresh(10 + n), n)
            trained(network, b, 0 if kind.endswith("+") else n, f"{kind}, n = {n}")
            rows.append(Row(split, kind, n, 100 * accuracy(network, b.test_x, b.test_y)))
    return rows


def table(rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
    """The rows as columns."""
    return {
        "split": [row.split for row in rows],
        "network": [row.kind for row in rows],
        "n": [row.n for row in rows],
        "test accuracy, %": [row.accuracy for row in rows],
    }


def mean(rows: Sequence[Row], kind: str, n: int = 0) -> tuple[float, float]:
    """Mean over splits in percent, and the standard deviation (0 for one split)."""
    found = [row.accuracy for row in rows if (row.kind, row.n) == (kind, n)]
    return float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def over_base(rows: Sequence[Row], kind: str, n: int) -> tuple[float, float]:
    """Accuracy less that of base B of the same split: mean over splits in points, and the standard deviation."""
    base = {row.split: row.accuracy for row in rows if row.kind == "base B"}
    found = [row.accuracy - base[row.split] for row in rows if (row.kind, row.n) == (kind, n)]
    return float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def numbers(rows: Sequence[Row], layers: Sequence[int], size: Size) -> dict[str, Any]:
    """Means over splits, with their standard deviations."""
    bases = {f"{kind}, %": mean(rows, kind)[0] for kind in ("base A", "base B")}
    points_ = {kind: {str(n): over_base(rows, kind, n)[0] for n in layers} for kind in KINDS}
    spread = {kind: {str(n): over_base(rows, kind, n)[1] for n in layers} for kind in KINDS}
    return {
        "training images of A": size.of_a, "training images of B": size.of_b, "splits": size.splits, **bases,
        "over base B, points": points_, "standard deviation over splits, points": spread,
    }  # fmt: skip


def check(rows: Sequence[Row], layers: Sequence[int], preset: Preset) -> list[Check]:
    """Specific at the top, useful when fine-tuned, better than chance filters from the third layer on."""
    paper, last = "Yosinski et al. 2014, Figure 2", layers[-1]
    deep = [n for n in layers if n >= 3]
    usual, small = last == 5, preset == "smoke"
    specific, spread = over_base(rows, "AnB", last)
    found = [
        Check(
            f"AnB at n = {last} less base B, points", specific, None, 0.0 if small else -5.0,
            paper, must_hold=usual, published=-8.5, spread=spread,
        )
    ]  # fmt: skip
    if deep:
        gain, spread = min(over_base(rows, "AnB+", n) for n in deep)
        control = max(mean(rows, "random, frozen", n)[0] - mean(rows, "AnB", n)[0] for n in deep)
        found += [
            Check(
                "AnB+ less base B, least from n = 3 on, points",
                gain, 0.0 if small else 2.0, None, paper, must_hold=not small, published=1.6, spread=spread,
            ),
            Check(
                "random, frozen less AnB, most from n = 3 on, points",
                control, None, 0.0, "Yosinski et al. 2014, Figure 3",
            ),
        ]  # fmt: skip
    return found


def draw(rows: Sequence[Row], layers: Sequence[int], size: Size) -> Figure:
    """Accuracy on B less that of base B, over the number of layers that were taken over; the control apart."""
    figure, (left, right) = panels(1, 2, 7.6, 3.4)
    for axes, kinds in ((left, KINDS[:-1]), (right, ("AnB", KINDS[-1]))):
        axes.axhline(0, color=GREY, linewidth=2.2, alpha=0.8, zorder=1, label="base B")
        for kind in kinds:
            means, spreads = zip(*[over_base(rows, kind, n) for n in layers], strict=True)
            points(axes, layers, means, kind, KINDS.index(kind), spread=spreads if any(spreads) else None, line=True)
        axes.set(xlabel="n, layers taken over", xticks=list(layers))
        axes.legend(loc="lower left")
    left.set(ylabel="test accuracy on B less base B, points")
    left.set_title(f"base B: {mean(rows, 'base B')[0]:.1f} %")
    right.set_title("with the control")
    if size.splits > 1:
        figure.suptitle(f"mean ± standard deviation over {size.splits} splits of the classes", fontsize=9)
    return figure
