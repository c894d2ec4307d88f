"""Minimum-norm least squares on random Fourier features of digits: the curve of Belkin et al.

Belkin, Hsu, Ma, Mandal 2019 ("Reconciling modern machine-learning practice and the classical bias-variance trade-off",
PNAS 116(32), figure 2). They fit 10 000 digits of MNIST; here n is smaller, and the features are real: cos(<v, x> + b)
with v ~ N(0, I / bandwidth^2) and b uniform (Rahimi, Recht 2007), where theirs are exp(i <v, x>). Letters: n samples, N
features, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lstsq

from benchmarks.phenomena.analysis import Check, Outcome, steps
from benchmarks.phenomena.figures import GREY, panels, points
from benchmarks.phenomena.pixels import pixels
from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from datamodules.labels import corrupted_labels, subset
from datamodules.mnist import MNIST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
CLASSES = 10


def fourier_features(x: Floats, v: Floats, b: Floats) -> Floats:
    """cos(<v_j, x_i> + b_j). x [n, pixels], v [N, pixels], b [N] -> [n, N]"""
    return np.cos(x @ v.T + b)


def shortest_fit(z: Floats, y: Floats) -> Floats:
    """Of the a [N, K] that minimise |z a - y|, the shortest. z [n, N], y [n, K].

    By singular values, in double precision; those below 1e-12 of the largest count as 0. Near N = n nothing less will
    do: the normal equations square a condition number that is large there.
    """
    found: Floats = lstsq(z, y, cond=1e-12, lapack_driver="gelsd")[0]
    return found


@dataclass(frozen=True)
class FourierSettings:
    """What is fitted.

    Args:
        dataset: mnist or digits.
        samples: n.
        ratios: N/n.
        repetitions: draws of samples and features.
        label_noise: share of wrong training labels.
        bandwidth: of the Gaussian kernel that the features approximate, for pixels from 0 to 1.
        test: so many test images, drawn once; None for all.
    """

    dataset: str
    samples: int
    ratios: tuple[float, ...]
    repetitions: int
    label_noise: float = 0.0
    bandwidth: float = 5.0
    test: int | None = None


RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 0.95, 1.0, 1.05, 1.2, 1.5, 2.0, 3.0, 5.0, 8.0)
PRESETS = {
    "smoke": FourierSettings("digits", 200, (0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 4.0, 8.0), 3, bandwidth=2.0),
    "cpu": FourierSettings("mnist", 1000, RATIOS, 3),
    "full": FourierSettings("mnist", 10000, RATIOS, 3),
}


def study(settings: FourierSettings, seed: int) -> Outcome:
    """Fit, for every N, on several draws of samples and features."""
    counts = [max(1, round(ratio * settings.samples)) for ratio in settings.ratios]
    data: ImageDataModule = {"mnist": MNIST, "digits": Digits}[settings.dataset](batch_size=1)
    train, labels = pixels(data, "train")
    test, test_labels = pixels(data, "test", settings.test)
    x, y = train.flatten(1).double().numpy(), labels.numpy()
    test_x, test_y = test.flatten(1).double().numpy(), test_labels.numpy()
    jobs = [(draw, count) for draw in range(settings.repetitions) for count in counts]
    drawn = np.array(
        [fitted(settings, x, y, test_x, test_y, count, seed + draw) for draw, count in steps(jobs, "features")]
    ).reshape(settings.repetitions, len(counts), len(MEASURES))
    mean, spread = drawn.mean(axis=0), drawn.std(axis=0, ddof=1)

    ratios = np.array(counts) / settings.samples
    error, loss, norm = (mean[:, MEASURES.index(name)] for name in ("test error", "test loss", "norm"))
    below, above = ratios < 1, ratios > 1
    source = "Belkin et al. 2019, figure 2"
    checks = [
        Check("N/n of the largest test error", float(ratios[np.argmax(error)]), 1.0, 1.0, f"{source}: at N = n"),
        Check("N/n of the largest test loss", float(ratios[np.argmax(loss)]), 1.0, 1.0, f"{source}: at N = n"),
        Check(
            "test error at the most features / smallest at N < n",
            float(error[-1] / error[below].min()),
            None,
            1.0,
            f"{source}: the second descent goes lower",
            spread=float(np.std(drawn[:, -1, 2] / drawn[:, np.argmin(np.where(below, error, np.inf)), 2], ddof=1)),
        ),
        Check(
            "largest step up of the norm, N > n", float(np.diff(norm[above]).max()), None, 0.0, f"{source}: it falls"
        ),
        Check(
            "largest training error, N >= n",
            float(mean[ratios >= 1, MEASURES.index("train error")].max()),
            0,
            0,
            "N >= n fits all",
        ),
    ]
    numbers = {
        "dataset": settings.dataset,
        "samples n": settings.samples,
        "repetitions": settings.repetitions,
        "label noise": settings.label_noise,
        "bandwidth": settings.bandwidth,
        "test images": len(test_y),
        "smallest test error, N < n": error[below].min(),
        "its N/n": float(ratios[below][np.argmin(error[below])]),
        "test error at N = n": float(error[ratios == 1][0]),
        "test loss at N = n": float(loss[ratios == 1][0]),
        "test error at the most features": error[-1],
        "its standard deviation": spread[-1, MEASURES.index("test error")],
        "norm at N = n": float(norm[ratios == 1][0]),
        "norm at the most features": norm[-1],
    }
    table: dict[str, Any] = {"N/n": ratios, "N": counts}
    for index, name in enumerate(MEASURES):
        table |= {f"{name}: mean": mean[:, index], f"{name}: standard deviation": spread[:, index]}
    seeds = range(seed, seed + settings.repetitions)
    return Outcome(numbers, checks, table, {"curve": picture(settings, ratios, mean, spread)}, seeds)


MEASURES = ("train error", "train loss", "test error", "test loss", "norm")


def fitted(
    settings: FourierSettings,
    x: Floats,
    y: NDArray[np.int64],
    test_x: Floats,
    test_y: NDArray[np.int64],
    count: int,
    seed: int,
) -> tuple[float, ...]:
    """MEASURES of one fit: shares of wrong predictions, mean squared distances to the one-hot labels, |a|.

    With one seed, the first features of a larger fit are those of a smaller one, as in the paper's nested classes.
    """
    chosen = subset(len(x), settings.samples, seed, f"the training set of {settings.dataset}")
    noisy = corrupted_labels(y[chosen], settings.label_noise, CLASSES, seed, wrong=True)
    generator = np.random.default_rng([seed, 1])
    v = generator.standard_normal((count, x.shape[1])) / settings.bandwidth
    b = np.random.default_rng([seed, 2]).uniform(0, 2 * math.pi, count)
    z, targets = fourier_features(x[chosen], v, b), np.eye(CLASSES)[noisy]
    a = shortest_fit(z, targets)
    train, test = z @ a, fourier_features(test_x, v, b) @ a
    return (
        float((train.argmax(1) != noisy).mean()),
        float(((train - targets) ** 2).sum(1).mean()),
        float((test.argmax(1) != test_y).mean()),
        float(((test - np.eye(CLASSES)[test_y]) ** 2).sum(1).mean()),
        float(np.linalg.norm(a)),
    )


def picture(settings: FourierSettings, ratios: Floats, mean: Floats, spread: Floats) -> Figure:
    """Error, loss and norm over N/n, with the threshold N = n."""
    figure, axes = panels(rows=3, width=6.4, height=6.6)
    labels = ("errors, share of digits", "squared distance to the label", "norm of the coefficients")
    shown = ((("test", 2), ("training", 0)), (("test", 3), ("training", 1)), (("norm", 4),))
    for panel, label, series in zip(axes, labels, shown, strict=True):
        for index, (name, column) in enumerate(series):
            points(panel, ratios, mean[:, column], name, series=index, spread=spread[:, column], line=True)
        panel.axvline(1, color=GREY, linewidth=0.9, linestyle="--")
        panel.set(xscale="log", ylabel=label)
        panel.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"])
        panel.set_xticks([], minor=True)
    axes[0].legend(loc="upper right")
    axes[1].set_yscale("log")
    axes[1].set_ylim(1e-2, None)
    axes[2].set_yscale("log")
    axes[2].annotate(  # below the peak, where no curve is
        "N = n", (1, 0), xycoords=axes[2].get_xaxis_transform(), xytext=(4, 6), textcoords="offset points",
        fontsize=8, color=GREY,
    )  # fmt: skip
    axes[2].set_xlabel("random Fourier features per sample, N / n")
    axes[0].set_title(
        f"{settings.dataset}, n = {settings.samples}, mean ± standard deviation over {settings.repetitions} seeds"
    )
    return figure
