"""Filters that a network learns for photographs look like those that a sparse code of photographs finds, and like V1's.

Each filter is fitted by a Gabor function, a wave under a Gaussian, as neurons of the visual cortex are (Jones, Palmer
1987). R² says how much of the filter that explains, orientation selectivity how narrow its range of orientations is,
the participation ratio which share of its pixels carries its energy. Beside the first convolution of a network, before
and after training, stand the atoms of a sparse code of whitened patches (Olshausen, Field 1996) and the principal
components of the same patches, which are no Gabor functions of any place: their envelope fills the patch. Colour
filters are fitted in the direction of colour in which they vary most.

The photographs are the two that come with scikit-learn, Olshausen and Field took ten. The network has 32 filters of
9 x 9 pixels and is trained on 20 000 images of CIFAR-10. The 96 filters of AlexNet itself take `--run` with a trained
AlexNet. Spread is over filters: the boxes are quartiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, Preset, random_numbers_kept, steps
from benchmarks.phenomena.figures import GREY, OKABE_ITO, panels
from benchmarks.phenomena.pixels import pixels
from datamodules.base import ImageDataModule
from datamodules.cifar import CIFAR10
from datamodules.digits import Digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchmarks.phenomena.finished import FinishedRun

PAPER = (
    "Olshausen, Field 1996, Emergence of simple-cell receptive field properties; "
    "Krizhevsky, Sutskever, Hinton 2012, Figure 3"
)
COST = "seconds on digits and two photographs; 6 minutes on one core with CIFAR-10"

LEAST_SIDE = 7  # of a kernel: a Gabor function has eight parameters, 25 pixels are too few to refute one
Array = NDArray[np.float64]


# What a filter is like


@dataclass(frozen=True)
class Gabor:
    """The Gabor function nearest to a filter: Jones, Palmer 1987, equation 1.

    a exp(-u²/2 s_u² - v²/2 s_v²) cos(2 pi f u + phase), where u lies along the wave and v along its crests.

    Args:
        r2: share of the filter's variance that it explains.
        x: of its centre, in pixels right of the filter's.
        y: of its centre, in pixels below the filter's.
        sigma_u: width of the envelope along the wave, in pixels.
        sigma_v: width of the envelope along the crests, in pixels.
        orientation: of the wave, radians from right to down.
        frequency: f, cycles per pixel.
        amplitude: a.
        phase: radians.
    """

    r2: float
    x: float
    y: float
    sigma_u: float
    sigma_v: float
    orientation: float
    frequency: float
    amplitude: float
    phase: float

    @property
    def envelope(self) -> float:
        """Geometric mean of the two widths, in pixels."""
        return float(np.sqrt(self.sigma_u * self.sigma_v))

    def drawn(self, height: int, width: int) -> Array:
        """The function on a filter's pixels. [height, width]"""
        y, x = grid(height, width)
        even, odd = waves(
            (self.x, self.y, np.log(self.sigma_u), np.log(self.sigma_v), self.orientation, self.frequency), x, y
        )
        return self.amplitude * (np.cos(self.phase) * even - np.sin(self.phase) * odd)  # fmt: skip


def grid(height: int, width: int) -> tuple[Array, Array]:
    """Rows and columns of pixels, counted from the middle."""
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return np.asarray(y, dtype=np.float64), np.asarray(x, dtype=np.float64)


def waves(parameters: Sequence[float] | Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Cosine and sine under the envelope; any amplitude and phase is a sum of the two.

    `parameters`: x, y, log sigma_u, log sigma_v, orientation, frequency.
    """
    x0, y0, log_u, log_v, orientation, frequency = parameters
    cos, sin = np.cos(orientation), np.sin(orientation)
    u, v = (x - x0) * cos + (y - y0) * sin, (y - y0) * cos - (x - x0) * sin
    envelope = np.exp(-0.5 * ((u / np.exp(log_u)) ** 2 + (v / np.exp(log_v)) ** 2))
    turns = 2 * np.pi * frequency * u
    return np.asarray(envelope * np.cos(turns)), np.asarray(envelope * np.sin(turns))


def fit_gabor(filter_: Array) -> Gabor:
    """The Gabor function nearest to `filter_` [H, W] in squares, from four starts.

    Amplitude and phase are solved for exactly at each step, so that six parameters are searched (Golub, Pereyra 1973).
    """
    from scipy.optimize import least_squares

    height, width = filter_.shape
    y, x = grid(height, width)
    target: Array = np.asarray(filter_.ravel() / np.linalg.norm(filter_), dtype=np.float64)

    def solved(parameters: Array) -> tuple[Array, Array]:
        both = np.stack([wave.ravel() for wave in waves(parameters, x, y)], 1)
        weights = np.asarray(np.linalg.solve(both.T @ both + 1e-9 * np.eye(2), both.T @ target), dtype=np.float64)
        return weights, target - both @ weights

    side = max(height, width)
    low = [-width / 2, -height / 2, np.log(0.5), np.log(0.5), -np.inf, 0.0]
    high = [width / 2, height / 2, np.log(side), np.log(side), np.inf, 0.5]
    scale = [1, 1, 0.3, 0.3, 0.3, 0.05]
    found = [
        least_squares(lambda p: solved(p)[1], start, bounds=(low, high), x_scale=scale, max_nfev=60)
        for start in starts(filter_)
    ]
    best = min(found, key=lambda one: one.cost)
    (cosine, sine), rest = solved(best.x)
    x0, y0, log_u, log_v, orientation, frequency = best.x
    if np.floor(orientation / np.pi) % 2:  # turned by pi, a wave runs backwards
        sine = -sine
    variance = np.square(target - target.mean()).sum()
    return Gabor(
        r2=float(1 - np.square(rest).sum() / variance) if variance > 0 else 0.0,
        x=x0, y=y0, sigma_u=float(np.exp(log_u)), sigma_v=float(np.exp(log_v)),
        orientation=float(orientation % np.pi), frequency=float(frequency),
        amplitude=float(np.hypot(cosine, sine) * np.linalg.norm(filter_)), phase=float(np.arctan2(-sine, cosine)),
    )  # fmt: skip


def starts(filter_: Array) -> list[Array]:
    """Where a fit begins: two strongest waves of the spectrum, each with a narrow and a wide envelope."""
    height, width = filter_.shape
    y, x = grid(height, width)
    energy = np.square(filter_) / np.square(filter_).sum()
    x0, y0 = float((energy * x).sum()), float((energy * y).sum())
    power, across, down = spectrum(filter_)
    chosen: list[Array] = []
    for _ in range(2):
        peak = int(power.argmax())
        fx, fy = across.flat[peak], down.flat[peak]
        frequency, orientation = min(np.hypot(fx, fy), 0.49), np.arctan2(fy, fx)
        for share in (8, 4):
            sigma = np.log(max(height, width) / share)
            chosen.append(np.array([x0, y0, sigma, sigma, orientation, frequency]))
        near = np.minimum(np.hypot(across - fx, down - fy), np.hypot(across + fx, down + fy)) < 1.5 / max(height, width)
        power = np.where(near, 0, power)
    return chosen


def spectrum(filter_: Array) -> tuple[Array, Array, Array]:
    """Power of the filter's waves, and their cycles per pixel to the right and down; without that of frequency 0."""
    power = np.square(np.abs(np.fft.fft2(filter_, s=(64, 64))))
    power[0, 0] = 0
    down, across = np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij")
    return power, across, down


def orientation_selectivity(filter_: Array) -> float:
    """1 for a filter that answers to waves of one orientation, 0 for one that answers to all: 1 - circular variance.

    |sum of power exp(2 i orientation)| / sum of power, over all waves (Ringach, Shapley, Hawken 2002, equation 1).
    """
    power, across, down = spectrum(filter_)
    return float(np.abs((power * np.exp(2j * np.arctan2(down, across))).sum()) / power.sum())


def participation_ratio(filter_: Array) -> float:
    """(sum k²)² / (n sum k⁴): 1 if all n pixels carry equal energy, 1/n if one carries all, 1/3 for Gaussian noise."""
    squares = np.square(filter_)
    return float(squares.sum() ** 2 / (filter_.size * np.square(squares).sum()))


def gray_filters(weights: Array) -> tuple[Array, Array, Array]:
    """Filters [K, C, H, W] in the direction of colour in which each varies most: its first singular vector.

    Returns [K, H, W]; the share of each filter's squares that they hold [K]; and the share of that direction which is
    gray, the same in all channels [K].
    """
    count, channels, height, width = weights.shape
    left, values, right = np.linalg.svd(weights.reshape(count, channels, height * width), full_matrices=False)
    colour = left[:, :, 0]
    sign = np.where(colour.sum(1) < 0, -1.0, 1.0)
    filters = (sign * values[:, 0])[:, None] * right[:, 0]
    share = np.square(values[:, 0]) / np.square(values).sum(1)
    return filters.reshape(count, height, width), share, np.square(colour.sum(1)) / channels


@dataclass(frozen=True)
class FilterSet:
    """Filters [K, H, W] of one origin, and what each is like."""

    name: str
    filters: Array
    gabors: list[Gabor]
    selectivity: list[float]
    participation: list[float]

    @classmethod
    def of(cls, name: str, filters: Array) -> FilterSet:
        """Fit them all. Filters that are 0 throughout are left out: there is nothing to fit."""
        alive = np.array([one for one in filters if np.abs(one).max() > 0])
        gabors = [fit_gabor(one) for one in steps(alive, f"fitting {name}")]
        return cls(
            name, alive, gabors, [orientation_selectivity(f) for f in alive], [participation_ratio(f) for f in alive]
        )

    @property
    def r2(self) -> Array:
        """R² of each."""
        return np.array([gabor.r2 for gabor in self.gabors])

    @property
    def envelope(self) -> float:
        """Median width of the envelopes, in pixels."""
        return float(np.median([gabor.envelope for gabor in self.gabors]))

    def summary(self) -> dict[str, Any]:
        """Numbers of the set: medians, and quartiles of R²."""
        low, middle, high = np.percentile(self.r2, [25, 50, 75])
        return {
            "filters": len(self.filters),
            "median R²": middle,
            "quartiles of R²": [low, high],
            "share with R² above 0.5, %": 100 * float((self.r2 > 0.5).mean()),
            "median orientation selectivity": float(np.median(self.selectivity)),
            "median participation ratio": float(np.median(self.participation)),
            "median envelope, pixels": self.envelope,
        }


# Photographs


def photographs() -> list[Array]:
    """The two photographs of scikit-learn in gray, 0 to 1. [427, 640] each"""
    from sklearn.datasets import load_sample_images

    return [np.asarray(image, dtype=np.float64) @ [0.299, 0.587, 0.114] / 255 for image in load_sample_images().images]


def whiten(image: Array, cutoff: float = 200 / 512) -> Array:
    """Waves of frequency f times f exp(-(f / cutoff)⁴), `cutoff` in cycles per pixel; standard deviation 1.

    Olshausen, Field 1996, Methods: 200 cycles in pictures of 512 pixels. Photographs have amplitudes like 1/f.
    """
    down, across = np.meshgrid(np.fft.fftfreq(image.shape[0]), np.fft.fftfreq(image.shape[1]), indexing="ij")
    frequency = np.hypot(down, across)
    whitened = np.fft.ifft2(np.fft.fft2(image) * frequency * np.exp(-((frequency / cutoff) ** 4))).real
    return np.asarray(whitened / whitened.std())


def draw_patches(images: Sequence[Array], side: int, count: int, generator: np.random.Generator) -> Array:
    """`count` patches of `side` x `side` pixels, as many of each image, each without its mean. [count, side * side]"""
    patches = []
    for place in range(count):
        image = images[place % len(images)]
        top, left = (int(generator.integers(0, size - side + 1)) for size in image.shape)
        patches.append(image[top : top + side, left : left + side].ravel())
    found = np.array(patches)
    return np.asarray(found - found.mean(1, keepdims=True))


def principal_components(patches: Array, count: int) -> Array:
    """The `count` directions of greatest variance of `patches` [N, P], that of greatest first. [count, P]"""
    _, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    return np.asarray(vectors[:, ::-1][:, :count].T)


def sparse_code(patches: Array, atoms: int, alpha: float, epochs: int, seed: int) -> Array:
    """Atoms [atoms, P] that minimise 1/2 |patch - code atoms|² + `alpha` |code|_1 (Olshausen, Field 1996, equation 2).

    By Mairal et al. 2009's online method, in scikit-learn.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning

    start = np.random.default_rng(seed).standard_normal((atoms, patches.shape[1]))
    model = MiniBatchDictionaryLearning(
        n_components=atoms,
        alpha=alpha,
        fit_algorithm="cd",  # least angles, the default, take ten times as long to the same atoms
        batch_size=256,
        max_iter=epochs,
        max_no_improvement=None,
        tol=0,
        random_state=seed,
        dict_init=start / np.linalg.norm(start, axis=1, keepdims=True),  # its own start, components, is hard to leave
    )
    with random_numbers_kept():  # scikit-learn draws from numpy's, and needs none of it
        return np.asarray(model.fit(patches).components_)


# The network


def first_convolution(network: nn.Module) -> nn.Conv2d:
    """The convolution that sees the image.

    Raises:
        AnalysisError: there is none, or its kernels are too small.
    """
    found = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if found is None:
        raise AnalysisError(
            f"{type(network).__name__} must have a convolution, it has none: give the --run of a convolutional "
            "network, such as imagenet/alexnet."
        )
    height, width = found.kernel_size
    if min(height, width) < LEAST_SIDE:
        raise AnalysisError(
            f"the first convolution's kernels (={height}x{width}) must be at least {LEAST_SIDE}x{LEAST_SIDE}, or any "
            "pattern in them would pass for a Gabor function: give the --run of a network such as imagenet/alexnet "
            "(11x11) or imagenet/resnet50 (7x7)."
        )
    return found


def new_network(channels: int, classes: int, filters: int, side: int, stride: int) -> nn.Sequential:
    """Convolution of `side` pixels, two of 3, each with batch normalisation, ReLU, /2; classes. [B, C, 32, 32]"""
    widths = [channels, filters, 2 * filters, 2 * filters]
    layers: list[nn.Module] = []
    for place in range(3):
        kernel, step, border = (side, stride, 0) if place == 0 else (3, 1, 1)
        layers += [
            nn.Conv2d(widths[place], widths[place + 1], kernel, step, border),
            nn.BatchNorm2d(widths[place + 1]),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    left = ((32 - side) // stride + 1) // 8
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * left**2, classes))


def train(network: nn.Module, x: Tensor, y: Tensor, epochs: int, flip: bool, generator: torch.Generator) -> None:
    """SGD of momentum 0.9 and decay 5e-4, batches of 64, learning rate up to 0.05 and down to 0 in one cycle."""
    count = epochs * (len(x) // 64)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, count)
    network.train()
    order = torch.empty(0, dtype=torch.int64)
    for _ in steps(range(count), "training"):
        if len(order) < 64:
            order = torch.randperm(len(x), generator=generator)
        chosen, order = order[:64], order[64:]
        images = x[chosen]
        if flip:
            mirrored = torch.rand(64, 1, 1, 1, generator=generator) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        loss = F.cross_entropy(network(images), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


# The experiment


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Args:
        data: what the network is trained on, images of 32 x 32 pixels.
        images: how many of its training images.
        epochs: of training.
        flip: mirror half of the images.
        filters: of the network's first convolution, 9 x 9 pixels each.
        stride: of that convolution.
        side: of patches, in pixels.
        patches: how many.
        atoms: of the sparse code.
        passes: over the patches, to learn it.
        components: principal components that are fitted.
        noise: filters of Gaussian noise that are fitted.
    """

    data: Callable[[], ImageDataModule]
    images: int
    epochs: int
    flip: bool
    filters: int
    stride: int
    side: int
    patches: int
    atoms: int
    passes: int
    components: int
    noise: int


SIZES: dict[Preset, Size] = {
    "smoke": Size(lambda: Digits(batch_size=1, image_size=32), 1437, 6, False, 8, 2, 8, 4_000, 64, 8, 32, 16),
    "cpu": Size(lambda: CIFAR10(batch_size=1), 20_000, 10, True, 32, 1, 12, 30_000, 144, 5, 100, 50),
    "full": Size(lambda: CIFAR10(batch_size=1), 50_000, 50, True, 96, 1, 16, 200_000, 192, 10, 192, 100),
}
ALPHA = 2.0  # weight of the code's absolute values, for patches of standard deviation 1 per pixel


def analyze(preset: Preset = "cpu", seed: int = 0, run: FinishedRun | None = None) -> Outcome:
    """Fit Gabor functions to a network's first filters, to a sparse code and to principal components of photographs.

    Args:
        preset: smoke trains on digits; cpu and full on CIFAR-10.
        seed: of initial weights, of the order of images, of patches and of the sparse code.
        run: take the first convolution of this network instead of training one.

    Raises:
        AnalysisError: the network of `run` has no convolution, or one of too small kernels.
    """
    size = SIZES[preset]
    numbers: dict[str, Any] = {}
    if run is None:
        before, after, numbers["test error of the network, %"] = trained_filters(size, seed)
    else:
        after = first_convolution(run.network).weight.detach().double().cpu().numpy()
        before = np.random.default_rng(seed).standard_normal(after.shape)
    sets, weights = [], {"before": before, "after": after}
    names = {"before": "network, initial" if run is None else "noise like the network's", "after": "network, trained"}
    for when in ("before", "after"):
        filters, share, gray = gray_filters(weights[when])
        sets.append(FilterSet.of(names[when], filters))
        numbers[f"{names[when]}: median share of one colour direction"] = float(np.median(share))
        numbers[f"{names[when]}: median share of gray in it"] = float(np.median(gray))
    sets += natural_sets(size, seed)
    numbers |= {one.name: one.summary() for one in sets}
    figures = {"fits": draw_fits(sets), "sheets": draw_sheets(sets, after)}
    return Outcome(numbers, checks({one.name: one for one in sets}, names, preset, run is None), table(sets), figures)


def trained_filters(size: Size, seed: int) -> tuple[Array, Array, float]:
    """First filters [K, C, 9, 9] before and after training, and the network's test error in percent."""
    data = size.data()
    (x, y), (test_x, test_y) = pixels(data, "train", size.images, seed), pixels(data, "test")
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    network = new_network(x.shape[1], 10, size.filters, 9, size.stride)
    convolution = first_convolution(network)
    before = convolution.weight.detach().double().numpy().copy()
    train(network, (x - mean) / std, y, size.epochs, size.flip, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        answers = torch.cat([network((part - mean) / std).argmax(1) for part in test_x.split(500)])
    error = 100 * (answers != test_y).float().mean().item()
    return before, convolution.weight.detach().double().numpy(), error


def natural_sets(size: Size, seed: int) -> list[FilterSet]:
    """Sparse code and principal components of the same whitened patches, and noise."""
    generator = np.random.default_rng(seed)
    side = size.side
    patches = draw_patches([whiten(image) for image in photographs()], side, size.patches, generator)
    learned = {
        "sparse code": sparse_code(patches, size.atoms, ALPHA, size.passes, seed),
        "principal components": principal_components(patches, size.components),
        "noise": generator.standard_normal((size.noise, side * side)),
    }
    return [FilterSet.of(name, filters.reshape(-1, side, side)) for name, filters in learned.items()]


def checks(sets: dict[str, FilterSet], names: dict[str, str], preset: Preset, own: bool) -> list[Check]:
    """What must hold of the medians; of a network that was lent, nothing must."""
    median = {name: float(np.median(one.r2)) for name, one in sets.items()}
    wider = sets["principal components"].envelope / sets["sparse code"].envelope
    before, after, code = median[names["before"]], median[names["after"]], median["sparse code"]
    small = preset == "smoke"
    lecture = "the lecture: the same filters as a sparse code's"
    shape = "Olshausen, Field 1996, Figure 4: localised, oriented, bandpass"
    return [
        Check("network, trained: median R²", after, 0.3 if small else 0.8, None, lecture, must_hold=own),
        Check(f"{names['before']}: median R²", before, None, 0.3, "no structure", must_hold=own),
        Check("sparse code: median R²", code, 0.6 if small else 0.8, None, shape),
        Check("noise: median R²", median["noise"], None, 0.4 if small else 0.2, "8 parameters for 64 pixels or more"),
        Check(
            "envelope of principal components over that of the sparse code, medians",
            wider, 1.0 if small else 3.0, None, "Olshausen, Field 1996, Figure 1: components are not localised",
        ),
    ]  # fmt: skip


def table(sets: Sequence[FilterSet]) -> dict[str, Sequence[Any]]:
    """One row for each filter."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("set", "filter", "R²", "orientation selectivity", "participation ratio", "envelope, pixels",
                     "frequency, cycles per pixel", "orientation, radians")
    }  # fmt: skip
    for one in sets:
        for index, gabor in enumerate(one.gabors):
            row = (one.name, index, gabor.r2, one.selectivity[index], one.participation[index], gabor.envelope,
                   gabor.frequency, gabor.orientation)  # fmt: skip
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return dict(columns)


# Figures


def draw_fits(sets: Sequence[FilterSet]) -> Figure:
    """Every filter's R² and orientation selectivity, with quartiles, by set."""
    figure, axes = panels(1, 2, 7.2, 3.0)
    values = ([one.r2 for one in sets], [np.array(one.selectivity) for one in sets])
    for axis, columns, label in zip(axes, values, ("R² of the Gabor fit", "orientation selectivity"), strict=True):
        places = np.arange(len(sets))[::-1]
        for place, column, colour in zip(places, columns, OKABE_ITO, strict=False):
            spread = np.random.default_rng(0).uniform(-0.28, 0.28, len(column))
            axis.plot(column, place + spread, ".", color=colour, markersize=3, alpha=0.6)
        axis.boxplot(
            columns, positions=places, orientation="horizontal", widths=0.7, showfliers=False, whis=0.0, showcaps=False,
            medianprops={"color": "black", "linewidth": 1.8}, boxprops={"color": GREY}, whiskerprops={"linewidth": 0},
        )  # fmt: skip
        axis.set(xlabel=label, xlim=(0, 1.02), yticks=places)
        axis.set_yticklabels([one.name for one in sets] if axis is axes[0] else [])
    return figure


def draw_sheets(sets: Sequence[FilterSet], weights: Array) -> Figure:
    """Pictures of the filters, best fitted first: the network's in colour, then the other sets in gray."""
    shown = [one for one in sets if one.name != "noise"]
    figure, axes = panels(1, len(shown), 7.2, 2.35)
    for axis, one in zip(axes, shown, strict=True):
        order = np.argsort(-one.r2)[:36]
        filters = one.filters[order][:, None]
        if one.name == "network, trained" and weights.shape[1] == 3 and len(weights) == len(one.filters):
            filters = weights[order]
        axis.imshow(sheet(filters), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(one.name)
        axis.axis("off")
    return figure


def sheet(filters: Array) -> Array:
    """Filters [K, C, H, W] in six columns, 0 as medium gray, each with a range of its own. [h, w(, 3)]"""
    count, channels, height, width = filters.shape
    rows, columns = -(-count // 6), min(count, 6)
    picture = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, channels))
    for index, one in enumerate(filters):
        top, left = index // 6 * (height + 1), index % 6 * (width + 1)
        scaled = 0.5 + 0.5 * one / np.abs(one).max()
        picture[top : top + height, left : left + width] = scaled.transpose(1, 2, 0)
    return picture.squeeze(-1) if channels == 1 else picture
