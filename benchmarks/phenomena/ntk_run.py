"""The tangent kernel of a network that was trained: how far it went from that of its initial weights.

Lazy training would leave the kernel as it was, and make the network the linear one at its initial weights. Both are
measured on images of the run's own dataset: the drift of the kernel, kernel regression with the kernel of the initial
and of the trained weights (Fort et al. 2020, "Deep learning versus kernel learning", from memory: features that were
learnt are in the latter), and what the network's linearisation at its initial weights would answer. The initial weights
follow from recipe and seed. Batch norms of the initial network get the statistics of the images at hand.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.phenomena.analysis import Check, Outcome, untouched
from benchmarks.phenomena.figures import OKABE_ITO, panels
from benchmarks.phenomena.finished import FinishedRun
from benchmarks.phenomena.initial_weights import initial_network, with_statistics
from benchmarks.phenomena.options import Device, place
from benchmarks.phenomena.tangent_kernel import (
    Outputs,
    drift,
    linearised,
    plan,
    regression,
    tangent_kernel,
    turn,
    weights_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RunSettings:
    """What is computed.

    Args:
        images: training images, of the kernel and of the regression on it.
        test: test images that it is measured on.
        outputs: of the kernel, see `tangent_kernel`.
        memory_gb: of gradients that are held at once.
        device: cpu, cuda, or the GPU where there is one.
    """

    images: int
    test: int
    outputs: Outputs = "each"
    memory_gb: float = 1.0
    device: Device = "auto"


PRESETS = {"smoke": RunSettings(40, 40), "cpu": RunSettings(200, 200), "full": RunSettings(2000, 2000, memory_gb=16)}


def study(run: FinishedRun, settings: RunSettings, seed: int) -> Outcome:
    """Kernels of initial and trained weights on the same images, and what regression on them is worth."""
    device = place(settings.device)
    initial = initial_network(run)
    train, labels = run.images("train", settings.images, seed)
    test, test_labels = run.images("test", settings.test, seed)
    order = labels.argsort(stable=True)
    train, labels = train[order], labels[order]
    start: nn.Module = with_statistics(initial, [train])
    images = torch.cat([train, test]).to(device)
    with untouched(run.network) as network:
        network.to(device)
        start = start.to(device)
        planned = plan(network, images, settings.outputs, settings.memory_gb)
        print(f"two kernels, each: {planned}", file=sys.stderr, flush=True)
        kernels = {
            "initial": tangent_kernel(start, images, settings.outputs, settings.memory_gb),
            "trained": tangent_kernel(network, images, settings.outputs, settings.memory_gb),
        }
        answers = {
            "network": answer(network, test.to(device)),
            "linearised": in_parts(lambda part: linearised(start, weights_of(network), part), test.to(device)),
        }
        moved = relative_change(weights_of(start), weights_of(network))
        faults = {
            name: off_by(one, images, kernels[name], settings.outputs)
            for name, one in (("initial", start), ("trained", network))
        }
    return conclude(run, settings, kernels, answers, labels, test_labels, moved, faults)


@torch.no_grad()
def answer(network: nn.Module, images: Tensor) -> Tensor:
    """Logits, on the CPU. [N, C]"""
    return in_parts(network.eval(), images)


def in_parts(function: Any, images: Tensor, size: int = 100) -> Tensor:
    """`function` of `size` images at a time; results joined, on the CPU."""
    return torch.cat([function(part).cpu() for part in images.split(size)])


def relative_change(start: dict[str, Tensor], now: dict[str, Tensor]) -> float:
    """|theta - theta_0| / |theta_0| over all weights."""
    moved = sum(float((now[name] - one).double().square().sum()) for name, one in start.items())
    return float((moved / sum(float(one.double().square().sum()) for one in start.values())) ** 0.5)


def off_by(network: nn.Module, images: Tensor, kernel: Tensor, outputs: Outputs) -> float:
    """Relative distance of the kernel's first entries, of two images, from the same by plain backward passes."""
    with untouched(network):
        network.eval()
        rows = []
        for image in images[:2]:
            logits = network(image[None])[0]
            heads = logits if outputs == "each" else [logits.sum() / len(logits) ** 0.5]
            weights = [p for p in network.parameters() if p.requires_grad]
            slopes = [torch.autograd.grad(head, weights, retain_graph=True) for head in heads]
            rows.append(torch.stack([torch.cat([part.flatten() for part in one]) for one in slopes]).double().cpu())
    exact = torch.stack([torch.stack([(a * b).sum(1).mean() for b in rows]) for a in rows])
    return float((kernel[:2, :2] - exact).norm() / exact.norm())


def conclude(
    run: FinishedRun,
    settings: RunSettings,
    kernels: dict[str, Tensor],
    answers: dict[str, Tensor],
    labels: Tensor,
    test_labels: Tensor,
    moved: float,
    faults: dict[str, float],
) -> Outcome:
    """Numbers, checks, table and figure."""
    n, classes = settings.images, answers["network"].shape[1]
    targets = torch.nn.functional.one_hot(labels, classes).double() - 1 / classes
    before, after = kernels["initial"], kernels["trained"]
    answers = answers | {
        name: regression(one[:n, :n], one[n:, :n], targets) for name, one in kernels.items()
    }  # by the kernel of ... weights
    right = {name: 100 * float((one.argmax(1) == test_labels).double().mean()) for name, one in answers.items()}
    smallest = min(float(torch.linalg.eigvalsh(one)[0] / one.diagonal().mean()) for one in kernels.values())
    gap = float((answers["linearised"] - answers["network"]).norm() / answers["network"].norm())
    source = "the same by backward passes"
    checks = [
        Check("initial kernel, of two images: relative distance", faults["initial"], 0, 1e-3, source),
        Check("trained kernel, of two images: relative distance", faults["trained"], 0, 1e-3, source),
        Check("smallest eigenvalue / mean of the diagonal", smallest, -1e-4, None, "a kernel has none below 0"),
        Check("relative change of the weights", moved, 1e-9, None, "the run was trained"),
        Check("trained less initial kernel's accuracy, points", right["trained"] - right["initial"], 0, None,
              "Fort et al. 2020 (from memory): features are learnt", False),
        Check("relative drift of the kernel", drift(before, after), 0.1, None,
              "Fort et al. 2020 (from memory): networks of the usual width are not lazy", False),
    ]  # fmt: skip
    numbers = {
        "recipe": run.recipe,
        "training images": n,
        "test images": settings.test,
        "kernel": settings.outputs,
        "logits": classes,
        "relative drift of the kernel": drift(before, after),
        "1 - cosine of the kernels": turn(before, after),
        "norm of the trained kernel / the initial": float(after.norm() / before.norm()),
        "relative change of the weights": moved,
        "linearised less network, relative": gap,
        "accuracy, %": right,
        "standard error of an accuracy, points": {name: chance(one, settings.test) for name, one in right.items()},
    }
    spectra = {name: torch.linalg.eigvalsh(one[:n, :n]).flip(0).numpy() for name, one in kernels.items()}
    table: dict[str, Any] = {"index": np.arange(1, n + 1)}
    table |= {f"eigenvalue, {name}": values for name, values in spectra.items()}
    return Outcome(numbers, checks, table, {"kernels": picture(settings, kernels, right, labels)})


def chance(percent: float, count: int) -> float:
    """Standard error, in points, of a share in percent that was counted on `count` images."""
    return (percent * (100 - percent) / count) ** 0.5


def picture(settings: RunSettings, kernels: dict[str, Tensor], right: dict[str, float], labels: Tensor) -> Figure:
    """The two kernels on the training images, sorted by class and each divided by its diagonal; accuracies."""
    figure, axes = panels(1, 3, width=10.0, height=3.4)
    n = settings.images
    starts = [int((labels < c).sum()) for c in range(1, int(labels.max()) + 1)]
    for ax, (name, kernel) in zip(axes, kernels.items(), strict=False):
        size = kernel[:n, :n].diagonal().sqrt()
        # "none": resampled, its noise would make the files three times as large
        cosines = (kernel[:n, :n] / size[:, None] / size).numpy()
        shown = ax.imshow(cosines, cmap="viridis", vmin=0, vmax=1, interpolation="none")
        for start in starts:
            ax.axhline(start - 0.5, color="white", linewidth=0.3)
            ax.axvline(start - 0.5, color="white", linewidth=0.3)
        ax.grid(False)
        ax.set(xticks=[], yticks=[], title=f"kernel of the {name} weights")
        ax.set_xlabel(f"{n} training images, sorted by class")
        figure.colorbar(shown, ax=ax, shrink=0.8, label="cosine of the gradients")
    names = {
        "network": "network",
        "linearised": "its linearisation\nat the start",
        "initial": "regression,\ninitial kernel",
        "trained": "regression,\ntrained kernel",
    }
    bars = axes[2]
    values = [right[name] for name in names]
    errors = [chance(value, settings.test) for value in values]
    bars.bar(range(len(names)), values, yerr=errors, capsize=3, color=OKABE_ITO[: len(names)], width=0.7)
    bars.set_xticks(range(len(names)), list(names.values()), fontsize=6.5)
    bars.set(ylim=(0, 105), ylabel="accuracy, %", title=f"{settings.test} test images ± standard error")
    return figure
