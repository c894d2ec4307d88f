"""Networks learn any labels by heart, and images of noise too: that they can does not decide whether they generalise.

- `corruptions`: the same network, trained in the same way, makes no error on a training set with its true labels, with
  random labels, with shuffled or random pixels and with Gaussian noise for images.
- `label_noise`: with more and more labels replaced, it still fits them all, takes longer, and its test error goes from
  that of the true labels to chance.
- `construct`: the network of 2n + d weights that fits n points in d dimensions exactly, written down without training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, Preset, steps
from benchmarks.phenomena.figures import GREY, MARKERS, OKABE_ITO, panels, points, theory_line
from benchmarks.phenomena.memorising import condition, memorise
from benchmarks.phenomena.memorising_runs import (
    CORRUPTIONS,
    Corruption,
    Fitted,
    Images,
    Training,
    mean_and_spread,
    memorise_all,
    spoil,
    with_label_noise,
)
from benchmarks.phenomena.pixels import pixels
from datamodules.base import ImageDataModule
from datamodules.cifar import CIFAR10
from datamodules.digits import Digits
from datamodules.labels import random_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = (
    "Zhang, Bengio, Hardt, Recht, Vinyals 2017, Understanding deep learning requires rethinking generalization (ICLR)"
)
COST = "smoke 1 to 10 s on digits; cpu up to 10 minutes, `corruptions` on 5 000 images of CIFAR-10"
VARIANT = "study"

Study = Literal["corruptions", "label_noise", "construct"]
Dataset = Literal["digits", "cifar10"]
ZHANG = "Zhang et al. 2017"
ALL_IMAGES = {"digits": 1437, "cifar10": 50_000}
RATES = {"digits": 0.1, "cifar10": 0.01}  # of SGD; the paper's 0.1 diverges on CIFAR's 2 352 pixels here


@dataclass(frozen=True)
class Settings:
    """What is trained.

    Args:
        dataset: digits, or the middle 28 x 28 pixels of CIFAR-10, as in Zhang et al.
        samples: training images; for `construct`, points.
        networks: seeds; each draws its images, its corruption, its weights and its order.
        shares: of corrupted labels, for `label_noise`.
        training: how.
    """

    dataset: Dataset
    samples: int
    networks: int
    shares: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    training: Training = Training()  # noqa: RUF009  (frozen)


PRESETS: dict[Study, dict[Preset, Settings]] = {
    "corruptions": {
        "smoke": Settings("digits", 500, 3, training=Training(width=256)),
        "cpu": Settings("cifar10", 5000, 4),
        "full": Settings("cifar10", 50_000, 3),
    },
    "label_noise": {
        "smoke": Settings("digits", 500, 3, (0.0, 0.5, 1.0), Training(width=256)),
        "cpu": Settings("digits", 1437, 5),
        "full": Settings("cifar10", 50_000, 3),
    },
    "construct": {
        "smoke": Settings("digits", 50, 3),
        "cpu": Settings("digits", 200, 20),
        "full": Settings("digits", 400, 100),
    },
}


def analyze(
    study: Study = "corruptions",
    dataset: Dataset | None = None,
    samples: int | None = None,
    networks: int | None = None,
    width: int | None = None,
    label_noise: list[float] | None = None,
    preset: Preset = "cpu",
    seed: int = 0,
) -> Outcome:
    """Fit a training set that was spoilt. Options that are not given are the preset's.

    Args:
        study: corruptions, label_noise or construct.
        dataset: digits or cifar10; not for construct.
        samples: training images, or points of construct.
        networks: networks trained for each condition, each with its own draws.
        width: hidden units; not for construct.
        label_noise: shares of corrupted labels, ascending, from 0 to 1; for label_noise.
        preset: smoke, cpu or full.
        seed: of the first network.
    """
    settings = PRESETS[study][preset]
    check_options(study, dataset, networks, width, label_noise)
    given = {"dataset": dataset, "networks": networks, "shares": None if label_noise is None else tuple(label_noise)}
    settings = dataclasses.replace(settings, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    if dataset is not None and samples is None:
        settings = dataclasses.replace(settings, samples=min(settings.samples, ALL_IMAGES[dataset]))
    training = dataclasses.replace(settings.training, lr=RATES[settings.dataset])
    if width is not None:
        training = dataclasses.replace(training, width=width)
    settings = dataclasses.replace(settings, training=training)
    if samples is not None:
        check_samples(study, settings.dataset, samples)
        settings = dataclasses.replace(settings, samples=samples)
    return {"corruptions": corruptions, "label_noise": label_noises, "construct": construct}[study](settings, seed)


def check_options(
    study: Study, dataset: str | None, networks: int | None, width: int | None, label_noise: list[float] | None
) -> None:
    """Refuse values that cannot be run.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    if study == "construct" and not (dataset is None and width is None):
        raise AnalysisError("construct takes no --dataset and no --width: it draws points, and has n hidden units.")
    if networks is not None and networks < 1:
        raise AnalysisError(f"--networks (={networks}) must be at least 1: 3 show a spread.")
    if width is not None and width < 1:
        raise AnalysisError(f"--width (={width}) must be at least 1: the paper has 512 hidden units.")
    if label_noise is None:
        return
    if study != "label_noise":
        raise AnalysisError(f"--label_noise (={label_noise}) is for --study label_noise, not {study}: leave it out.")
    if not all(0 <= share <= 1 for share in label_noise):
        raise AnalysisError(f"--label_noise (={label_noise}) must lie in [0, 1], they are shares: use [0,0.5,1].")
    if len(label_noise) < 2 or sorted(set(label_noise)) != label_noise:
        raise AnalysisError(f"--label_noise (={label_noise}) must be two shares or more, ascending: use [0,0.5,1].")


def check_samples(study: Study, dataset: Dataset, samples: int) -> None:
    """Refuse more images than there are, or none.

    Raises:
        AnalysisError: naming the value, the rule and the remedy.
    """
    most, of = (2000, "double precision carries") if study == "construct" else (ALL_IMAGES[dataset], f"{dataset} has")
    if not 10 <= samples <= most:
        raise AnalysisError(f"--samples (={samples}) must be 10 to {most}, which {of}: use a number between.")


def read(dataset: Dataset, pool: int) -> Images:
    """`pool` training images and all test images, standardised by one mean and one standard deviation.

    Of CIFAR-10 the middle 28 x 28 pixels, as in Zhang et al.
    """
    data: ImageDataModule = Digits(batch_size=1) if dataset == "digits" else CIFAR10(batch_size=1)
    (x, y), (test_x, test_y) = pixels(data, "train", pool), pixels(data, "test")
    if dataset == "cifar10":
        x, test_x = (part[:, :, 2:30, 2:30] for part in (x, test_x))
    x, test_x = x.flatten(1), test_x.flatten(1)
    mean, std = x.mean(), x.std()
    return Images(dataset, (x - mean) / std, y, (test_x - mean) / std, test_y)


# -- corruptions -------------------------------------------------------------------------------------------------------

TABLE_1 = {"true labels": 1 - 0.5051, "random labels": 1 - 0.1061}  # test errors of MLP 1x512 on all of CIFAR-10


def corruptions(settings: Settings, seed: int) -> Outcome:
    """Train on each of the five."""
    images = read(settings.dataset, min(ALL_IMAGES[settings.dataset], 4 * settings.samples))
    seeds = range(seed, seed + settings.networks)
    found = {
        corruption: memorise_all(
            [spoil(images, corruption, settings.samples, one) for one in seeds],
            settings.training,
            images.classes,
            seed,
        )
        for corruption in steps(CORRUPTIONS, "corruptions")
    }
    tested = {c: mean_and_spread([one.test_error for one in fits]) for c, fits in found.items()}
    epochs = {c: mean_and_spread(epochs_of(fits, settings)) for c, fits in found.items()}
    fits_all = max(fit.train_error for fits in found.values() for fit in fits)
    slower = min(epochs["random labels"][0] - epochs[c][0] for c in CORRUPTIONS if c != "random labels")
    chance = 0.02 if len(images.test_y) >= 10_000 else 0.05
    checks = [
        Check("largest training error of all networks", fits_all, 0, 0, f"{ZHANG}, figure 1a", published=0.0),
        Check(
            "random labels: test error, share",
            tested["random labels"][0],
            0.9 - chance,
            0.9 + chance,
            "chance among ten classes; theirs from table 1",
            published=TABLE_1["random labels"] if settings.dataset == "cifar10" else None,
            spread=tested["random labels"][1],
        ),
        Check("epochs to fit: random labels - next slowest", slower, 0, None, f"{ZHANG}, figure 1a: they come last"),
        Check(
            "random labels: epochs to fit / true labels'",
            ratio(epochs),
            1.2,
            None,
            f"{ZHANG}, figure 1b: up to 2 for an MLP",
            must_hold=settings.dataset == "digits",  # until the last of 5 000 photos is learnt, seeds differ as much
        ),
    ]
    numbers = common(settings, images) | {
        f"{corruption}: {name}": value
        for corruption in CORRUPTIONS
        for name, value in (
            ("test error", tested[corruption][0]),
            ("test error, standard deviation", tested[corruption][1]),
            ("epochs to fit", epochs[corruption][0]),
            ("epochs to fit, standard deviation", epochs[corruption][1]),
        )
    }
    curves = [
        (corruption, seed + index, epoch + 1, error)
        for corruption, fits in found.items()
        for index, fit in enumerate(fits)
        for epoch, error in enumerate(fit.curve)
    ]
    table: dict[str, Any] = dict(
        zip(("corruption", "seed", "epoch", "training error"), zip(*curves, strict=True), strict=True)
    )
    return Outcome(numbers, checks, table, {"fit": picture_of_corruptions(settings, found, tested, epochs)}, seeds)


def ratio(epochs: Mapping[Corruption, tuple[float, float]]) -> float:
    """Epochs that random labels take, over those of the true ones."""
    return epochs["random labels"][0] / epochs["true labels"][0]


def epochs_of(fits: list[Fitted], settings: Settings) -> list[float]:
    """Epochs until no training error was left; for a network that was not done, all there were."""
    return [float(fit.epochs or settings.training.epochs) for fit in fits]


def common(settings: Settings, images: Images) -> dict[str, object]:
    """What is said of every training."""
    width = settings.training.width
    inputs = images.x.shape[1]
    return {
        "dataset": settings.dataset,
        "training images": settings.samples,
        "test images": len(images.test_y),
        "networks of each condition": settings.networks,
        "hidden units": width,
        "learning rate": settings.training.lr,
        "weights": inputs * width + width + width * images.classes + images.classes,
    }


def picture_of_corruptions(
    settings: Settings,
    found: dict[Corruption, list[Fitted]],
    tested: dict[Corruption, tuple[float, float]],
    epochs: dict[Corruption, tuple[float, float]],
) -> Figure:
    """Training error over epochs, a line for each network; test errors beside them."""
    figure, (left, right) = panels(columns=2, width=8.2, height=3.6)
    for index, (corruption, fits) in enumerate(found.items()):
        look: dict[str, Any] = {
            "color": OKABE_ITO[index],
            "marker": MARKERS[index],
            "markersize": 3.5,
            "linewidth": 1.0,
        }
        for number, fit in enumerate(fits):
            marked = {round(epoch) - 1 for epoch in np.geomspace(1, len(fit.curve), 7)}  # evenly on the axis
            left.plot(
                range(1, len(fit.curve) + 1), fit.curve, **look, markevery=sorted(marked),
                label=None if number else corruption,
            )  # fmt: skip
        mean, spread = tested[corruption]
        right.errorbar(
            mean, index, xerr=spread, color=look["color"], marker=look["marker"], capsize=2, linestyle="none"
        )
        steps_taken = f"{epochs[corruption][0]:.0f} ± {epochs[corruption][1]:.0f} epochs"
        right.annotate(
            steps_taken, (mean, index), xytext=(-8, 0), textcoords="offset points", fontsize=8, ha="right", va="center"
        )
    left.set(xscale="log", xlabel="epoch", ylabel="training error, share of images")
    left.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    left.set_xticks([], minor=True)
    left.legend()
    right.axvline(0.9, color=GREY, linewidth=0.9, linestyle="--")
    right.annotate(
        "chance", (0.9, -0.45), xytext=(-3, 0), textcoords="offset points", ha="right", fontsize=8, color=GREY
    )
    right.set_yticks(range(len(found)), list(found))
    right.set(xlim=(0, 1), ylim=(-0.6, len(found) - 0.4), xlabel="test error when the training error is 0")
    left.set_title(f"{settings.dataset}, n = {settings.samples}, one hidden layer of {settings.training.width}")
    right.set_title(f"{settings.networks} networks: mean ± standard deviation")
    return figure


# -- label noise -------------------------------------------------------------------------------------------------------


def label_noises(settings: Settings, seed: int) -> Outcome:
    """Train with every share of corrupted labels."""
    images = read(settings.dataset, min(ALL_IMAGES[settings.dataset], 4 * settings.samples))
    seeds = range(seed, seed + settings.networks)
    found = [
        memorise_all(
            [with_label_noise(images, share, settings.samples, one) for one in seeds],
            settings.training,
            images.classes,
            seed,
        )
        for share in steps(settings.shares, "label noise")
    ]
    tested = np.array([mean_and_spread([fit.test_error for fit in fits]) for fits in found])
    epochs = np.array([mean_and_spread(epochs_of(fits, settings)) for fits in found])
    fits_all = max(fit.train_error for fits in found for fit in fits)
    chance = 0.02 if len(images.test_y) >= 10_000 else 0.05
    checks = [
        Check("largest training error of all networks", fits_all, 0, 0, f"{ZHANG}, figure 1b"),
        Check(
            "smallest step of the test error, share to share",
            float(np.diff(tested[:, 0]).min()),
            0,
            None,
            f"{ZHANG}, figure 1c",
        ),
        Check(
            "epochs to fit at the most noise / at the least",
            float(epochs[-1, 0] / epochs[0, 0]),
            1.2,
            None,
            f"{ZHANG}, figure 1b",
        ),
    ]
    if settings.shares[-1] == 1:
        name = "test error with all labels corrupted, share"
        mean, spread = tested[-1].tolist()
        checks.append(Check(name, mean, 0.9 - chance, 0.9 + chance, "chance among ten classes", spread=spread))
    numbers = common(settings, images) | {
        "shares of corrupted labels": settings.shares,
        "test error": tested[:, 0],
        "test error, standard deviation": tested[:, 1],
        "epochs to fit": epochs[:, 0],
        "epochs to fit, standard deviation": epochs[:, 1],
    }
    table: dict[str, Any] = {
        "share of corrupted labels": settings.shares,
        "test error: mean": tested[:, 0],
        "test error: standard deviation": tested[:, 1],
        "epochs to fit: mean": epochs[:, 0],
        "epochs to fit: standard deviation": epochs[:, 1],
    }
    figure, (left, right) = panels(columns=2, width=7.6, height=3.2)
    points(left, settings.shares, tested[:, 0], "network", spread=tested[:, 1], line=True)
    theory_line(left, (0, 1), (0.9, 0.9), "chance", linestyle="--", linewidth=1.0)
    points(right, settings.shares, epochs[:, 0], "network", spread=epochs[:, 1], series=1, line=True)
    left.set(xlabel="share of corrupted labels", ylabel="test error, share of images", ylim=(0, 1))
    right.set(xlabel="share of corrupted labels", ylabel="epochs until no training error is left", ylim=(0, None))
    left.legend(loc="lower right")
    left.set_title(f"{settings.dataset}, n = {settings.samples}")
    right.set_title(f"{settings.networks} networks: mean ± standard deviation")
    return Outcome(numbers, checks, table, {"noise": figure}, seeds)


# -- the construction --------------------------------------------------------------------------------------------------

DIMENSION = 64


def construct(settings: Settings, seed: int) -> Outcome:
    """Write networks down for random points, with real and with random ten-class labels as what is to be fitted."""
    n, rows = settings.samples, []
    for one in steps(range(seed, seed + settings.networks), "networks"):
        generator = np.random.default_rng(one)
        x, y = generator.standard_normal((n, DIMENSION)), random_labels(n, 10, one).astype(float)
        network = memorise(x, y, one)
        rows.append((one, float(np.abs(network(x) - y).max()), condition(network, x), network.weights))
    seeds, errors, conditions, weights = (list(column) for column in zip(*rows, strict=True))
    checks = [
        Check(
            "largest absolute error, of any network", max(errors), None, 1e-6, f"{ZHANG}, theorem 1: none but rounding"
        ),
        Check("weights", weights[0], 2 * n + DIMENSION, 2 * n + DIMENSION, f"{ZHANG}, theorem 1: 2n + d"),
    ]
    numbers = {
        "points n": n,
        "dimension d": DIMENSION,
        "weights": weights[0],
        "networks": settings.networks,
        "largest error": max(errors),
        "median error": float(np.median(errors)),
        "largest condition number": max(conditions),
    }
    table: dict[str, Any] = {
        "seed": seeds,
        "largest absolute error": errors,
        "condition number": conditions,
        "weights": weights,
    }
    figure, (axes,) = panels(width=5.2, height=3.4)
    points(axes, conditions, errors, f"a network of {weights[0]} weights, n = {n}, d = {DIMENSION}")
    span = np.array([min(conditions), max(conditions)])
    theory_line(axes, span, 2.0**-52 * span, "condition number × 2⁻⁵²")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="condition number of the triangular matrix",
        ylabel="largest error, labels 0 to 9",
    )
    axes.legend()
    return Outcome(numbers, checks, table, {"error": figure}, seeds)
