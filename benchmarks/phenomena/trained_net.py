"""Networks whose weights are all trained, over their width: with wrong labels, double descent.

Belkin et al. 2019 (PNAS 116(32)) train networks of one hidden layer on digits by squared loss and find the peak where
they have as many weights as there are numbers to fit, n K. Nakkiran et al. 2020 ("Deep double descent", ICLR) find that
wrong labels make it. Here both are seen on digits of 8 x 8 pixels: the same networks learn labels of which a share is
wrong, and, as the control, the true ones. Letters: n samples, K classes, P weights and biases, E networks trained at
once, D pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.batched import BatchedMLP, errors
from benchmarks.phenomena.figures import GREY, panels, points
from benchmarks.phenomena.memorising_runs import Images
from benchmarks.phenomena.pixels import pixels
from datamodules.digits import Digits
from datamodules.labels import corrupted_labels, subset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
PIXELS, CLASSES = 64, 10
MEASURES = ("train error", "train loss", "test error", "test loss")
FITTED = 1e-6  # squared loss below which nothing is left to learn
PEAK = (0.7, 2.0)  # P / (n K) between which the peak must be


def width_of(ratio: float, samples: int) -> int:
    """Hidden units with which P = (D + 1 + K) width + K is nearest to `ratio` n K; at least 1."""
    return max(1, round((ratio * samples * CLASSES - CLASSES) / (PIXELS + 1 + CLASSES)))


@dataclass(frozen=True)
class TrainedNetSettings:
    """What is trained: Adam on the squared loss of the whole training set, its rate falling to 0 along a cosine.

    Args:
        samples: n.
        ratios: P / (n K); widths are the nearest to them.
        repetitions: E; each network has images, wrong labels and initial weights of its own.
        label_noise: share of wrong training labels.
        steps: of Adam, at most.
        lr: its first rate.
    """

    samples: int
    ratios: tuple[float, ...]
    repetitions: int
    label_noise: float = 0.2
    steps: int = 6000
    lr: float = 1e-3


RATIOS = (0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0)
PRESETS = {
    "smoke": TrainedNetSettings(200, (0.5, 1.5, 6.0), 3, steps=1000, lr=2e-3),
    "cpu": TrainedNetSettings(500, RATIOS, 4),
    "full": TrainedNetSettings(500, (*RATIOS, 16.0, 32.0), 40, steps=20_000),
}


def read() -> Images:
    """Digits less the mean training image."""
    data = Digits(batch_size=1)
    (x, y), (test_x, test_y) = pixels(data, "train"), pixels(data, "test")
    mean = x.mean(0)
    return Images("digits", (x - mean).flatten(1), y, (test_x - mean).flatten(1), test_y)


def squared_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Squared distance to the one-hot label, mean over samples. outputs [E, B, K], labels [E, B] -> [E]"""
    return (outputs - F.one_hot(labels, CLASSES)).square().sum(2).mean(1)


def train(networks: BatchedMLP, x: Tensor, y: Tensor, count: int, lr: float) -> None:
    """`count` steps on all samples of each network, x [E, n, D], y [E, n]; less if every loss is below FITTED before.

    The sum of the networks' losses is minimised, of which each weight sees that of its own network alone.
    """
    optimizer = torch.optim.Adam(networks.parameters(), lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
    for _ in range(count):
        optimizer.zero_grad()
        losses = squared_loss(networks(x), y)
        if losses.max() < FITTED:
            break
        losses.sum().backward()
        optimizer.step()
        schedule.step()


def trained(settings: TrainedNetSettings, data: Images, width: int, share: float, seed: int) -> Floats:
    """MEASURES of each of the E networks of `width`, `share` of whose labels are wrong. [E, measures]

    With one seed they begin with equal weights and see equal images, whatever the share.
    """
    seeds = range(seed, seed + settings.repetitions)
    chosen = [subset(len(data.x), settings.samples, one, "the training set of digits") for one in seeds]
    labels = [
        torch.from_numpy(corrupted_labels(data.y[those].numpy(), share, CLASSES, one, wrong=True))
        for one, those in zip(seeds, chosen, strict=True)
    ]
    x, y = torch.stack([data.x[those] for those in chosen]), torch.stack(labels)
    networks = BatchedMLP(len(seeds), (PIXELS, width, CLASSES), torch.Generator().manual_seed(seed))
    train(networks, x, y, settings.steps, settings.lr)
    test_x, test_y = (part.expand(len(seeds), *part.shape) for part in (data.test_x, data.test_y))
    with torch.no_grad():
        found = [(networks(images), targets) for images, targets in ((x, y), (test_x, test_y))]
    return np.stack([measure(*pair).double().numpy() for pair in found for measure in (errors, squared_loss)], axis=1)


def study(settings: TrainedNetSettings, seed: int) -> Outcome:
    """Train networks of every width, with wrong labels and with the true ones."""
    data = read()
    widths = list(dict.fromkeys(width_of(ratio, settings.samples) for ratio in settings.ratios))
    shares = (settings.label_noise, 0.0)
    jobs = [(share, width) for share in shares for width in widths]
    drawn = np.array([trained(settings, data, width, share, seed) for share, width in steps(jobs, "widths")]).reshape(
        len(shares), len(widths), settings.repetitions, len(MEASURES)
    )
    mean, spread = drawn.mean(axis=2), drawn.std(axis=2, ddof=1)  # [share, width, measure]
    ratios = np.array([weights_of(width) for width in widths]) / (settings.samples * CLASSES)
    error, loss = (mean[0, :, MEASURES.index(name)] for name in ("test error", "test loss"))
    first, peak = turns(ratios, error)
    control = mean[1, :, MEASURES.index("test error")]
    each = drawn[0, :, :, MEASURES.index("test error")]  # [width, network]

    wrong = f"{100 * settings.label_noise:.3g} % wrong labels"
    usual = settings.label_noise >= 0.2  # with less, the peak may be lower
    where = "Belkin et al. 2019: as many weights as numbers to fit"
    checks = [
        Check(f"{wrong}: P/(nK) of the largest test error past the first minimum", ratios[peak], *PEAK, where, usual),
        Check(f"{wrong}: P/(nK) of the largest test loss", ratios[turns(ratios, loss)[1]], *PEAK, where, usual),
        Check(
            f"{wrong}: largest test error less first minimum", error[peak] - error[first],
            0.08 if settings.samples >= 500 else 0.0, None, "Nakkiran et al. 2020: label noise makes the peak", usual,
            spread=float(np.std(each[peak] - each[first], ddof=1)),
        ),
        Check(
            f"{wrong}: test error at the most weights less first minimum", error[-1] - error[first], None, 0.01,
            "Belkin et al. 2019: the second descent goes as low", usual,
            spread=float(np.std(each[-1] - each[first], ddof=1)),
        ),
        Check(
            "true labels: largest rise of the test error from a width to a greater one", rise(control), None, 0.02,
            "Nakkiran et al. 2020: without label noise there is no peak, or hardly one",
        ),
    ]  # fmt: skip
    numbers = {
        "dataset": data.name,
        "samples n": settings.samples,
        "test images": len(data.test_y),
        "networks of each width": settings.repetitions,
        "steps": settings.steps,
        "label noise": settings.label_noise,
        "first minimum of the test error": error[first],
        "its P/(nK)": ratios[first],
        "largest test error past it": error[peak],
        "test loss there": loss[peak],
        "test error at the most weights": error[-1],
        "its standard deviation": spread[0, -1, MEASURES.index("test error")],
        "true labels: test error at each width": control,
        "true labels: largest test loss at P/(nK) of 0.7 to 2": mean[
            1, inside(ratios), MEASURES.index("test loss")
        ].max(),
    }
    table: dict[str, Any] = {"wrong labels": np.repeat(shares, len(widths)), "width": widths * 2}
    table["P/(nK)"] = np.tile(ratios, 2)
    for index, name in enumerate(MEASURES):
        table |= {f"{name}: mean": mean[..., index].ravel(), f"{name}: standard deviation": spread[..., index].ravel()}
    seeds = range(seed, seed + settings.repetitions)
    return Outcome(numbers, checks, table, {"widths": picture(settings, ratios, mean, spread)}, seeds)


def weights_of(width: int) -> int:
    """P, weights and biases of a network with so many hidden units."""
    return (PIXELS + 1 + CLASSES) * width + CLASSES


def inside(ratios: Floats) -> NDArray[np.bool_]:
    """Which of `ratios` are where the peak must be."""
    return (ratios >= PEAK[0]) & (ratios <= PEAK[1])


def turns(ratios: Floats, curve: Floats) -> tuple[int, int]:
    """Numbers of the first minimum, before the peak may begin, and of the largest value past it."""
    first = int(np.argmin(np.where(ratios < PEAK[0], curve, np.inf)))
    return first, first + int(np.argmax(curve[first:]))


def rise(curve: Floats) -> float:
    """The most by which a value exceeds one before it; 0 or less for a curve that only falls."""
    return float(max(curve[later] - curve[:later].min() for later in range(1, len(curve))))


def picture(settings: TrainedNetSettings, ratios: Floats, mean: Floats, spread: Floats) -> Figure:
    """Error and loss over P/(nK), with wrong and with true labels, and the threshold P = n K."""
    figure, (above, below) = panels(rows=2, width=6.4, height=5.6)
    wrong = f"{100 * settings.label_noise:.3g} % wrong labels"
    for panel, kind in ((above, "error"), (below, "loss")):
        shown = ((0, "test", f"test, {wrong}"), (0, "train", f"training, {wrong}"), (1, "test", "test, true labels"))
        for series, (share, split, label) in enumerate(shown):
            column = MEASURES.index(f"{split} {kind}")
            points(panel, ratios, mean[share, :, column], label, series, spread[share, :, column], line=True)
        panel.axvline(1, color=GREY, linewidth=0.9, linestyle="--")
        panel.set(xscale="log", ylim=(0, None))
        panel.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
        panel.set_xticks([], minor=True)
    above.set(ylabel="error, share of digits")
    below.set(ylabel="squared distance to the label", xlabel="weights for each number to fit, P / (n K)")
    below.annotate(
        "P = n K", (1, 0), xycoords=below.get_xaxis_transform(), xytext=(4, 6), textcoords="offset points",
        fontsize=8, color=GREY,
    )  # fmt: skip
    below.legend(loc="upper left")  # above its curves, and beside their peak
    above.set_title(
        f"digits, n = {settings.samples}, one hidden layer: mean ± standard deviation over {settings.repetitions} seeds"
    )
    return figure
