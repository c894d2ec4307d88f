"""Pictures of a finished run, for its `figures/` and for W&B: confusions, the surest mistakes, the first kernels.

Counts and images come from the evaluation that the result is counted in (`benchmarks.mistakes`); no image is evaluated
a second time for them.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from benchmarks.mistakes import Mistake, Mistakes
from benchmarks.phenomena.figures import OKABE_ITO, panels, style
from datamodules.files import write_whole
from models.lenet1989 import UnitBiasConv2d

log = logging.getLogger("benchmarks")

DPI = 100  # for screens; a figure of 6 inches has 600 pixels
MOST_CLASSES = 100  # of a matrix whose labels can be read
NUMBERED = 20  # classes up to which every cell has its number
PAIRS = 20  # most confused pairs, of more classes
KERNELS = 256  # most that are drawn

Pixels = Callable[[Tensor], np.ndarray]


def draw(
    folder: Path,
    name: str,
    network: nn.Module,
    mistakes: Mistakes,
    classes: Sequence[str],
    pixels: Pixels,
    channels: int,
    ranks: int = 1,
) -> None:
    """Write confusion.png, mistakes.png and filters.png to `folder`; what cannot be drawn is named in the log.

    Args:
        name: what the titles call the run and the protocol.
        classes: their names, in the order of the labels.
        pixels: an image as the network gets it, [C, H, W], to grey levels or colours, see `to_pixels`.
        channels: of an image.
        ranks: over how many the test images were spread; the mistakes are of the first one's.
    """
    kernels = first_kernels(network, channels)
    whose = name if ranks == 1 else f"{name}, one in {ranks} images"
    figures: dict[str, Callable[[], Figure | None]] = {
        "confusion": lambda: confusion(mistakes.counts, classes, name),
        "mistakes": lambda: worst_mistakes(mistakes.worst, classes, pixels, whose) if mistakes.worst else None,
        "filters": lambda: filters(kernels, name) if kernels is not None else None,
    }
    folder.mkdir(exist_ok=True)
    for stem, figure in figures.items():
        try:
            with style():
                if (drawn := figure()) is not None:
                    save(drawn, folder / f"{stem}.png")
        except Exception as error:
            log.warning("%s.png was not drawn: %s: %s", stem, type(error).__name__, error)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file, which is either there whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png")
    write_whole(path, content.getvalue())


# Confusions -----------------------------------------------------------------------------------------------------------


def confusion(counts: Tensor, classes: Sequence[str], name: str) -> Figure:
    """`counts` by label and prediction, [K, K]: a matrix, or of more than 100 classes the most confused pairs."""
    table = counts.cpu().numpy()
    wrong = int(table.sum() - table.trace())
    title = f"{name}: {wrong} of {int(table.sum())} test images wrong"
    if len(table) > MOST_CLASSES:
        return confused_pairs(table, classes, title)
    return confusion_matrix(table, classes, title)


def confusion_matrix(table: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Rows are the true classes, columns the predicted ones. Only mistakes are coloured."""
    count = len(table)
    numbered = count <= NUMBERED
    side = 5.2 if numbered else 11.0
    figure, (axes,) = panels(width=side + 0.4, height=side)
    shown = np.where(np.eye(count, dtype=bool), 0, table)
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=max(1, shown.max()))
    size = 8 if numbered else min(8.0, 540 / count)
    axes.set_xticks(range(count), [short(one) for one in classes], rotation=0 if longest(classes) < 3 else 90)
    axes.set_yticks(range(count), [short(one) for one in classes])
    axes.tick_params(labelsize=size, length=2)
    axes.grid(False)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    for row, column in np.argwhere(table > 0) if numbered else ():
        dark = shown[row, column] > 0.6 * shown.max()
        colour = "#6E6E6E" if row == column else "white" if dark else "black"
        axes.text(column, row, str(table[row, column]), ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=MaxNLocator(integer=True))
    bar.set_label("test images of another class")
    return figure


def confused_pairs(table: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """How many images of one class were taken for another, for the pairs where they are most."""
    pairs = most_confused(table, PAIRS)
    figure, (axes,) = panels(width=6.4, height=1.0 + 0.2 * max(4, len(pairs)))
    labels = [f"{short(classes[label])} as {short(classes[guess])}" for label, guess, _ in pairs]
    axes.barh(range(len(pairs)), [count for _, _, count in pairs], color=OKABE_ITO[0])
    axes.set_yticks(range(len(pairs)), labels)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False, axis="y")
    axes.set(xlabel="test images", title=f"{title}\nthe most confused of {len(table)} classes")
    return figure


def most_confused(table: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Label, prediction and images of up to `count` pairs with mistakes, most first, equal ones in order of classes."""
    off = np.where(np.eye(len(table), dtype=bool), 0, table)
    order = np.argsort(-off, axis=None, kind="stable")[:count]
    cells = [(int(place // len(table)), int(place % len(table))) for place in order]
    return [(label, guess, int(off[label, guess])) for label, guess in cells if off[label, guess] > 0]


def short(name: str, length: int = 18) -> str:
    """A class's name, cut where it is long."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def longest(names: Sequence[str]) -> int:
    """Letters of the longest name."""
    return max(map(len, names))


# Mistakes -------------------------------------------------------------------------------------------------------------


def worst_mistakes(worst: Sequence[Mistake], classes: Sequence[str], pixels: Pixels, name: str) -> Figure:
    """The images, surest first, each with its class, the predicted one and that one's probability."""
    columns = min(4, len(worst))
    rows = math.ceil(len(worst) / columns)
    figure, axes = panels(rows, columns, width=1.6 * max(columns, 3), height=0.5 + 1.75 * rows)
    for place in axes:
        place.set_axis_off()
    for place, one in zip(axes, worst, strict=False):
        place.imshow(pixels(one.image), vmin=0, vmax=255)
        text = f"{short(classes[one.label])} as {short(classes[one.predicted])}\n{percent(one.probability)}"
        place.set_title(text, fontsize=8)
    figure.suptitle(f"{name}: surest mistakes,\ntrue as predicted class, probability", fontsize=9)
    return figure


def percent(probability: float) -> str:
    """Never rounded up to certainty."""
    return f"{math.floor(1000 * probability) / 10:.1f} %" if probability < 1 else "100 %"


def to_pixels(image: Tensor, mean: Tensor, std: Tensor) -> np.ndarray:
    """What was normalised, [C, H, W], as it was: grey levels [H, W], or colours [H, W, 3], in uint8.

    `mean` and `std` [C] are in grey levels. Images of other than 1 or 3 channels are averaged over them.
    """
    back = (image.float().permute(1, 2, 0) * std.cpu() + mean.cpu()).round().clamp(0, 255)
    return (back if back.shape[2] == 3 else back.mean(2)).to(torch.uint8).numpy()


# Filters --------------------------------------------------------------------------------------------------------------


def first_kernels(network: nn.Module, channels: int) -> Tensor | None:
    """Weights [D, C, h, w] of the first convolution over images of so many channels; None where there is none."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == channels:
            return layer.weight.detach().float().cpu()
        if isinstance(layer, UnitBiasConv2d) and layer.planes == channels:
            return layer.weight.detach().float().cpu()
    return None


def filters(kernels: Tensor, name: str) -> Figure:
    """One tile for each of the kernels [D, C, h, w], in reading order."""
    shown = kernels[:KERNELS]
    number, channels, height, width = kernels.shape
    tiles = kernel_tiles(shown)
    kind = {1: "grey", 3: "red, green, blue"}.get(channels, f"mean over {channels} channels")
    which = f"the {number}" if len(shown) == number else f"{len(shown)} of the {number}"
    columns = math.ceil(math.sqrt(1.5 * len(tiles)))
    image = mosaic(tiles, columns)
    figure, (axes,) = panels(width=5.4, height=0.6 + 5.2 * image.shape[0] / image.shape[1])
    axes.imshow(image, vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(
        f"{name.partition(',')[0]}: {which} kernels of {height} x {width} of the first convolution\n"
        f"{kind}; each scaled by its largest weight, zero is mid-grey"
    )
    return figure


def kernel_tiles(kernels: Tensor) -> np.ndarray:
    """[D, C, h, w] -> [D, h, w, 3] in 0 to 1: 0.5 for a weight of 0, 0 or 1 for the kernel's largest, by its sign.

    Three channels are red, green and blue; other numbers are averaged first.
    """
    if kernels.shape[1] != 3:
        kernels = kernels.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    largest = kernels.abs().amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (0.5 + 0.5 * kernels / largest).permute(0, 2, 3, 1).numpy()


def mosaic(tiles: np.ndarray, columns: int, scale: int = 6) -> np.ndarray:
    """Tiles [D, h, w, 3] side by side, white lines between them, every value `scale` x `scale` pixels."""
    tiles = tiles.repeat(scale, 1).repeat(scale, 2)
    _, height, width, _ = tiles.shape
    rows, gap = math.ceil(len(tiles) / columns), 3
    image = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for place, tile in enumerate(tiles):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        image[top : top + height, left : left + width] = tile
    return image
