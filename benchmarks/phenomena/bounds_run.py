"""Bounds and measures of a network that was trained: norms of its layers as matrices, from its initial weights.

Layers that follow one another make a chain, of which theorems speak: those whose conditions it meets give bounds. A
network with shortcuts is no chain; of it there are margins, norms of its layers and measures made of them, and no
bounds. The initial weights follow from recipe and seed; batch norms of the start do nothing, as before the first step,
so that nothing there depends on the data.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.phenomena import capacity
from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, steps, untouched
from benchmarks.phenomena.bounds_numbers import BOUNDS, NUMBERS, Capacity, capacity_of, constants
from benchmarks.phenomena.capacity import LayerNorms, Sample
from benchmarks.phenomena.figures import GREY, MARKERS, OKABE_ITO, panels
from benchmarks.phenomena.finished import FinishedRun
from benchmarks.phenomena.hessian import exact_convolutions
from benchmarks.phenomena.initial_weights import initial_network
from benchmarks.phenomena.margins import margin_at, margins, share_within
from benchmarks.phenomena.options import Device, place
from benchmarks.phenomena.weight_chain import (
    NORMS,
    NoChain,
    Stage,
    biased,
    chain,
    loose_layers,
    matrix_of,
    norms_of,
    through,
)
from benchmarks.suite_cli import quiet_warnings
from benchmarks.throughput import wait_for_device
from datamodules.base import Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAVELLING = 500  # images that go through the layers in double precision, at most
PRODUCT = "product of spectral norms"
PRODUCT_IS = "measure: prod s_i / (gamma sqrt(n)); with shortcuts the network's Lipschitz constant may be larger"


@dataclass(frozen=True)
class RunSettings:
    """What is computed.

    Args:
        images: training images, of margins and norms; None for all.
        test: test images; None for all.
        quantile: of the training margins, which gamma is.
        device: cpu, cuda, or the GPU where there is one.
    """

    images: int | None
    test: int | None
    quantile: float = 0.1
    device: Device = "auto"


PRESETS = {"smoke": RunSettings(300, 200), "cpu": RunSettings(10_000, 10_000), "full": RunSettings(None, None)}


# -- the images of the run --------------------------------------------------------------------------------------------


def images_of(run: FinishedRun, split: Split) -> int:
    """How many images `split` has, of the training set without those that are held out."""
    with quiet_warnings():
        run.data.prepare_data()
        run.data.setup("test" if split == "test" else None)
    return run.data.manifest(split).count - (run.data.holdout if split == "train" else 0)


def batches(run: FinishedRun, split: Split, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` normalised images [B, C, H, W] and labels [B], a batch at a time, not augmented."""
    for batch in run.data.drawn(split, count, seed):
        yield run.data.on_after_batch_transfer(batch, 0)


@dataclass(frozen=True)
class Seen:
    """What a network made of images, and what those are.

    Args:
        margins: of each. [N]
        squares: sum of their squared norms, with the 1 that goes along with each.
        longest: largest norm, likewise.
        peaks: sum of the squares of their largest absolute pixels, likewise.
        first: the first of them, at most `TRAVELLING`. [B, C, H, W]
        logits: of those. [B, classes]
    """

    margins: Tensor
    squares: float
    longest: float
    peaks: float
    first: Tensor
    logits: Tensor

    @property
    def error(self) -> float:
        """Share of wrong predictions."""
        return share_within(self.margins, 0.0)


@torch.no_grad()
def look(network: nn.Module, found: Iterator[tuple[Tensor, Tensor]], one: float, device: torch.device) -> Seen:
    """Send images through the network, which evaluates; a batch is held at once, and the first few hundred.

    `one` goes along with each image: 1 where layers have biases, else 0.
    """
    values, kept, answers = [], [], []
    squares, longest, peaks, held = 0.0, 0.0, 0.0, 0
    network.eval()
    for images, labels in found:
        logits = network(images.to(device)).cpu()
        values.append(margins(logits.double(), labels))
        flat = images.flatten(1).double()
        norms = flat.square().sum(1) + one
        squares, longest = squares + float(norms.sum()), max(longest, float(norms.max()) ** 0.5)
        peaks += float(flat.abs().amax(1).clamp(min=one).square().sum())
        if held < TRAVELLING:
            kept.append(images[: TRAVELLING - held].clone())
            answers.append(logits[: TRAVELLING - held])
            held += len(kept[-1])
    return Seen(torch.cat(values), squares, longest, peaks, torch.cat(kept), torch.cat(answers))


# -- the study --------------------------------------------------------------------------------------------------------


def study(run: FinishedRun, settings: RunSettings, seed: int) -> Outcome:
    """Margins, norms, and what follows of them."""
    device = place(settings.device)
    initial = initial_network(run)
    total = images_of(run, "train")
    count = min(settings.images or total, total)
    tested = min(settings.test or 10**9, images_of(run, "test"))
    with untouched(run.network) as network, exact_convolutions():  # folded layers are compared to 1e-4
        network.to(device)
        image = next(batches(run, "train", 1, seed))[0].to(device)
        why = ""
        try:
            stages = chain(network, initial.to(device), image)
        except NoChain as reason:
            stages, why = loose_layers(network, initial.to(device), image), str(reason)
        print(plan(network, stages, image, count + tested), file=sys.stderr, flush=True)
        one = 1.0 if biased(stages) else 0.0
        train = look(network, steps(batches(run, "train", count, seed), "training images"), one, device)
        test = look(network, steps(batches(run, "test", tested, seed), "test images"), one, device)
        sample = sample_of(train, total, margin_at(train.margins, settings.quantile))
        parameters = sum(p.numel() for p in network.parameters())
        if why:
            found = loose(stages, sample, parameters)
            fault = off_by(replaced(network, stages)(image.double()), network(image))
        else:
            found = capacity_of(stages, sample, list(train.first.split(50)), parameters)
            fault = off_by(through(stages, train.first[:50].to(device)), train.logits[:50])
    return conclude(run, settings, found, stages, sample, train, test, fault, why)


def sample_of(train: Seen, total: int, gamma: float) -> Sample:
    """Of all `total` training images, estimated from those that were looked at."""
    share = total / len(train.margins)
    return Sample(total, train.logits.shape[1], gamma, share * train.squares, train.longest, share * train.peaks)


def loose(stages: list[Stage], sample: Sample, parameters: int) -> Capacity:
    """Of a network that is no chain: norms of its layers, and two measures."""
    layers = norms_of(stages)
    values = {
        PRODUCT: capacity.per_margin(capacity.product([layer.spectral for layer in layers]), sample),
        "parameters / n": parameters / sample.images,
    }
    return Capacity(values, layers, None, math.nan)


def replaced(network: nn.Module, stages: list[Stage]) -> nn.Module:
    """A copy, in double precision, whose layers are those of the stages and whose batch norms do nothing."""
    other = copy.deepcopy(network).double().eval()
    for name, module in list(other.named_modules()):
        if isinstance(module, NORMS):
            put(other, name, nn.Identity())
    for stage in stages:
        put(other, stage.name, stage.layer)
    return other


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Make `module` what `network` has as `name`."""
    above, _, last = name.rpartition(".")
    setattr(network.get_submodule(above), last, module)


def off_by(found: Tensor, exact: Tensor) -> float:
    """Relative distance of logits."""
    exact = exact.detach().double().cpu()
    return float((found.detach().cpu() - exact).norm() / exact.norm())


def plan(network: nn.Module, stages: list[Stage], image: Tensor, count: int) -> str:
    """What there is to do, and about how long it will take: one pass of ten images and of each matrix are timed."""
    with torch.no_grad():
        few = image.expand(10, *image.shape[1:]).contiguous()
        network(few)
        passes = timed(lambda: network(few), image.device) / 10 * count
    norms = 0.0
    for stage in stages:
        apply = matrix_of(stage, False, False)
        v = torch.ones(math.prod(stage.given), dtype=torch.float64, device=stage.device)
        norms += (
            4 * timed(lambda apply=apply, v=v: apply(v), stage.device) * 100
        )  # forward, backward, vectors, 100 times
    return (
        f"margins of {count} images, about {passes:.0f} s, and norms of {len(stages)} layers, about {norms:.1f} s, on "
        f"{image.device}"
    )


def timed(function: Any, device: torch.device) -> float:
    """Seconds of a call, after the device has done what it was asked before."""
    wait_for_device(device)
    started = time.perf_counter()
    function()
    wait_for_device(device)
    return time.perf_counter() - started


# -- what was found ---------------------------------------------------------------------------------------------------


def conclude(
    run: FinishedRun,
    settings: RunSettings,
    found: Capacity,
    stages: list[Stage],
    sample: Sample,
    train: Seen,
    test: Seen,
    fault: float,
    why: str,
) -> Outcome:
    """Numbers, checks, table and figure."""
    gap = test.error - train.error
    bounds = {name: value for name, value in found.values.items() if name in BOUNDS}
    largest = max(layer.spectral / layer.frobenius for layer in found.layers)
    checks = [
        Check("logits of the folded layers: relative distance", fault, 0, 1e-4, "those of the network"),
        Check("largest spectral / Frobenius norm of a layer", largest, 0, 1 + 1e-9, "linear algebra"),
        Check("least change of a layer from its start, |A - M|", min(one.from_start for one in found.layers), 1e-9,
              None, "the run was trained"),
    ]  # fmt: skip
    if bounds:
        checks.append(
            Check("smallest bound less the gap", min(bounds.values()) - gap, 0, None, "a theorem, with its constants")
        )
    if found.travelled is not None:
        stretch = max(most / one.spectral for most, one in zip(found.travelled.stretches, found.layers, strict=True))
        name = f"largest |A x| / (s |x|) of {len(train.first)} training images"
        checks.append(Check(name, stretch, 0, 1 + 1e-6, "s is the largest there is"))
    numbers: dict[str, Any] = {
        "recipe": run.recipe,
        "training images n": sample.images,
        "of them looked at": len(train.margins),
        "test images": len(test.margins),
        "training error": train.error,
        "test error": test.error,
        "gap": gap,
        "gamma": sample.margin,
        "gamma is the quantile": settings.quantile,
        "layers": len(stages),
        "no bounds, because": why or None,
        "bounds whose theorem is not of such networks": [] if why else [n for n in BOUNDS if n not in found.values],
        "numbers": found.values,
        "what they are": {name: constants().get(name, PRODUCT_IS) for name in found.values},
        "distance from the start": found.distance,
    }
    if found.travelled is not None:
        reach = math.sqrt(sample.squares) / sample.images
        numbers |= {
            "training images for cushions, contraction, largest logits and |U_0 X|": len(train.first),
            "spectral complexity R_A": found.complexity,
            "normalised margin, at gamma": sample.margin / (found.complexity * reach),
            "activation contraction": found.travelled.contraction,
        }
    return Outcome(numbers, checks, table_of(stages, found), {"bounds": picture(run, found, sample, train, test, gap)})


def table_of(stages: list[Stage], found: Capacity) -> dict[str, Any]:
    """The norms of every layer."""
    layers: list[LayerNorms] = found.layers
    table: dict[str, Any] = {
        "layer": [stage.name for stage in stages],
        "module": [type(stage.layer).__name__ for stage in stages],
        "inputs": [layer.inputs for layer in layers],
        "outputs": [layer.outputs for layer in layers],
        "spectral norm": [layer.spectral for layer in layers],
        "Frobenius norm": [layer.frobenius for layer in layers],
        "largest l1 norm of a row": [layer.largest_row for layer in layers],
        "from the start, Frobenius": [layer.from_start for layer in layers],
        "from the start, l2,1": [layer.rows_from_start for layer in layers],
        "Lipschitz constant behind": [layer.lipschitz for layer in layers],
    }
    if found.travelled is not None:
        table["layer cushion"] = found.travelled.cushions
    return table


def picture(run: FinishedRun, found: Capacity, sample: Sample, train: Seen, test: Seen, gap: float) -> Figure:
    """Margins of training and test images; spectral norms and distances of the layers; the numbers beside the gap."""
    figure, axes = panels(1, 3, width=11.0, height=3.8)
    for index, (name, seen) in enumerate((("training", train), ("test", test))):
        ordered = np.sort(seen.margins.numpy())
        axes[0].plot(
            ordered, np.arange(1, len(ordered) + 1) / len(ordered), color=OKABE_ITO[index], marker=MARKERS[index],
            markevery=max(1, len(ordered) // 8), label=f"{len(ordered)} {name} images",
        )  # fmt: skip
    axes[0].axvline(sample.margin, color=GREY, linewidth=0.9, linestyle="--", label="gamma")
    axes[0].set(xlabel="margin", ylabel="share of images below", title=f"margins, {run.recipe}")
    axes[0].legend()
    order = range(1, len(found.layers) + 1)
    for index, (name, values) in enumerate(
        (
            ("spectral norm", [one.spectral for one in found.layers]),
            ("Frobenius norm", [one.frobenius for one in found.layers]),
            ("distance from the start", [one.from_start for one in found.layers]),
        )
    ):
        axes[1].plot(order, values, color=OKABE_ITO[index], marker=MARKERS[index], label=name)
    axes[1].set(yscale="log", xlabel="layer with weights, first to last", title="norms of the layers as matrices")
    axes[1].legend()
    names = sorted(found.values, key=lambda name: found.values[name])
    shown = [max(found.values[name], 1e-12) for name in names]
    for index, (name, value) in enumerate(zip(names, shown, strict=True)):
        series = 1 if name in BOUNDS else 0
        axes[2].plot(value, index, color=OKABE_ITO[series], marker=MARKERS[series], markersize=7)
    axes[2].set(xscale="log", ylim=(-0.6, len(names) - 0.4), xlabel="value")
    axes[2].set_yticks(range(len(names)), [f"{name} ({kind_of(name)})" for name in names], fontsize=7)
    if gap > 0:
        axes[2].axvline(gap, color=GREY, linewidth=1.2, linestyle="--")
    axes[2].set_title(f"the gap{' (dashed)' if gap > 0 else ''} is {100 * gap:.2f} points")
    return figure


def kind_of(name: str) -> str:
    """Bound or measure."""
    return NUMBERS[name].kind if name in NUMBERS else "measure"


def check_quantile(quantile: float) -> None:
    """Refuse a quantile of the margins that is none.

    Raises:
        AnalysisError: as said.
    """
    if not 0 < quantile < 1:
        raise AnalysisError(
            f"--quantile (={quantile:g}) must lie between 0 and 1, it is a share of training images: use 0.1."
        )
