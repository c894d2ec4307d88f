"""Backpropagation by the lecture's formulas, nothing else, is autograd to the last digit, and trains a network.

With features h, pre-activations z = W h + b, masks D = diag(sigma'(z)) and errors delta = dL/dz:
`delta_l = D_l W_(l+1)' delta_(l+1)`, `dL/dW_l = delta_l h_(l-1)'`, `dL/db_l = delta_l`, summed over the batch, and for
a convolution the same on its patches. Every linear layer, convolution and activation of a network is held to autograd
with the error that arrives there, its fully connected part from the logits down by the formulas alone, in single and
double precision. Without `--run` the network is 784-512-256-10, trained on MNIST by these formulas only.

Slips of the slides, which the formulas above mend:

- The slide's error of the last layer, logits - y, belongs to 1/2 ||.||^2. Of the ||.||^2 beside it, it is twice that,
  and of `nn.MSELoss`, which averages over batch B and classes C, 2 (logits - y) / (B C).
- The slides have weights only; `nn.Linear` has biases.

The objects' spectra change with training: before it the errors of a hidden layer are nearly a function of the class,
and afterwards the class means of the errors cancel, while those of the features stand out. The callback
`benchmarks.phenomena.backprop.Spectra` follows them while any recipe trains; `phenomena/mlp_spectra` is one that has
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from torch import Tensor, nn

from benchmarks.phenomena.analysis import AnalysisError, Check, Outcome, Preset, steps, untouched
from benchmarks.phenomena.figures import GREY, panels, points
from benchmarks.phenomena.finished import FinishedRun
from benchmarks.phenomena.pixels import pixels
from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from datamodules.mnist import MNIST
from models.lenet import ScaledTanh
from models.mlp import MLP

PAPER = "Rumelhart, Hinton, Williams 1986; Donoho, Papyan, Zhong 2019, STATS 385, lecture 1"
COST = "2 min on two busy cores; smoke seconds; full is not tried"

DERIVATIVES: dict[type, Callable[[Tensor, Tensor], Tensor]] = {  # of z and h = sigma(z); the diagonal of D
    nn.ReLU: lambda z, h: (z > 0).to(z.dtype),
    nn.Tanh: lambda z, h: 1 - h**2,
    nn.Sigmoid: lambda z, h: h * (1 - h),
    ScaledTanh: lambda z, h: 1.7159 * 2 / 3 * (1 - (h / 1.7159) ** 2),
}


# -- the formulas -----------------------------------------------------------------------------------------------------


def error_of_squares(logits: Tensor, targets: Tensor, loss: str) -> Tensor:
    """delta of the last layer for 1/2 ||.||^2 (`half`), ||.||^2 (`whole`), both summed, or MSELoss (`mean`). [B, C]"""
    factor = {"half": 1.0, "whole": 2.0, "mean": 2.0 / logits.numel()}[loss]
    return factor * (logits - targets)


def error_of_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """delta of the last layer for the mean cross-entropy: (softmax - y) / B. Rows sum to 0. [B, C]"""
    return (logits.softmax(1) - F.one_hot(labels, logits.shape[1])) / len(logits)


def linear_gradients(layer: nn.Linear, h: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dW = delta h', dL/db = sum of delta, dL/dh = W' delta; [..., in], [..., out]."""
    flat_h, flat = h.flatten(0, -2), delta.flatten(0, -2)
    return flat.T @ flat_h, flat.sum(0), delta @ layer.weight


def convolution_gradients(layer: nn.Conv2d, h: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a convolution, whose h are the patches [B, group, in k k, positions] that the kernel sees."""
    groups, (outs, ins, *kernel) = layer.groups, layer.weight.shape
    shape: dict[str, Any] = {
        "kernel_size": tuple(kernel), "dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride
    }  # fmt: skip
    patches = F.unfold(h, **shape).unflatten(1, (groups, ins * kernel[0] * kernel[1]))
    errors = delta.flatten(2).unflatten(1, (groups, outs // groups))
    weight = layer.weight.view(groups, outs // groups, -1)
    slope = torch.einsum("bgol,bgil->goi", errors, patches).reshape(layer.weight.shape)
    below = torch.einsum("goi,bgol->bgil", weight, errors).flatten(1, 2)
    return slope, delta.sum((0, 2, 3)), F.fold(below, h.shape[2:], **shape)


@dataclass
class Call:
    """One use of a layer in a forward pass, and what autograd said of it.

    Args:
        name: of the layer.
        layer: the module.
        h: what went in.
        z: what came out.
        delta: dL/dz, by autograd.
        below: dL/dh of this use, by autograd; None where nothing asks for it.
    """

    name: str
    layer: nn.Module
    h: Tensor
    z: Tensor
    delta: Tensor | None = None
    below: Tensor | None = None

    def by_formula(self, delta: Tensor) -> dict[str, Tensor]:
        """Gradients of weight and bias, and of what went in, when `delta` arrives."""
        if isinstance(self.layer, nn.Linear | nn.Conv2d):
            formula: Any = linear_gradients if isinstance(self.layer, nn.Linear) else convolution_gradients
            weight, bias, below = formula(self.layer, self.h, delta)
            return {"weight": weight, "bias": bias, "below": below}
        return {"below": DERIVATIVES[type(self.layer)](self.h, self.z) * delta}


def is_covered(layer: nn.Module) -> bool:
    """Whether there is a formula: plain linear layers and convolutions (zero padding, in pixels), four activations."""
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear or type(layer) in DERIVATIVES


@contextmanager
def captured(network: nn.Module) -> Iterator[list[Call]]:
    """Within it, forward passes of `network` list their uses of covered layers, and backward passes fill in errors."""
    calls: list[Call] = []
    handles = []
    in_place = [module for module in network.modules() if getattr(module, "inplace", False)]

    def forward(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: calls.append(Call(name, layer, inputs[0].detach(), output.detach()))

    def backward(layer: nn.Module, below: tuple[Tensor | None, ...], delta: tuple[Tensor | None, ...]) -> None:
        call = next(call for call in reversed(calls) if call.layer is layer and call.delta is None)
        call.delta, call.below = delta[0], below[0]

    for name, module in network.named_modules():
        if is_covered(module):
            handles += [module.register_forward_hook(forward(name)), module.register_full_backward_hook(backward)]
    for module in in_place:  # or the pre-activations would be overwritten
        module.inplace = False  # type: ignore[assignment]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]


def connected_part(calls: list[Call]) -> list[Call]:
    """The last linear layers with the activations between them, as long as each takes just what the one before gave."""
    part: list[Call] = []
    for call in reversed(calls):
        after = part[0] if part else None
        if isinstance(call.layer, nn.Conv2d) or (after and not torch.equal(call.z.flatten(1), after.h.flatten(1))):
            break
        part.insert(0, call)
    while part and not isinstance(part[0].layer, nn.Linear):
        part.pop(0)
    return part


def distance(ours: Tensor, theirs: Tensor) -> float:
    """||ours - theirs|| / ||theirs||, in double precision; 0 for equal zeros."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    gap, size = (ours - theirs).norm(), theirs.norm()
    return float(gap / size) if size > 0 else float(gap)


@dataclass
class Agreement:
    """Relative distances between the formulas and autograd.

    Args:
        layers: for each covered layer: the largest over weight, bias, and what goes below.
        chain: for each linear layer of the fully connected part: of its error, by the formulas from the logits on.
    """

    layers: dict[str, float] = field(default_factory=dict)
    chain: dict[str, float] = field(default_factory=dict)

    @property
    def connected(self) -> float:
        """The largest of the fully connected part: of its linear layers' gradients, and of the chain."""
        return max([*(self.layers[name] for name in self.chain), *self.chain.values()])

    @property
    def worst(self) -> float:
        """The largest of all."""
        return max([*self.layers.values(), *self.chain.values()])


def compare(network: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype) -> tuple[Agreement, list[Call]]:
    """The formulas against autograd, for the mean cross-entropy of `images`; and every use of a layer.

    Raises:
        AnalysisError: the last layer is none that the formulas cover.
    """
    with untouched(network), captured(network) as calls:
        network.to(dtype).eval().requires_grad_(True)
        for parameter in network.parameters():
            parameter.grad = None
        logits = network(images.to(dtype).requires_grad_(True))
        F.cross_entropy(logits, labels).backward()
        part = connected_part(calls)
        check_end(network, part, logits)
        return Agreement(compare_layers(calls), compare_chain(part, labels)), calls


def check_end(network: nn.Module, part: list[Call], logits: Tensor) -> None:
    """Refuse a network whose last layer is none that the formulas cover.

    Raises:
        AnalysisError: as said.
    """
    if not part or not torch.equal(part[-1].z, logits.detach()):
        raise AnalysisError(
            f"{type(network).__name__} must end in a linear layer for the lecture's formulas, it ends in another: "
            "use another network."
        )


def compare_layers(calls: list[Call]) -> dict[str, float]:
    """Each use of a layer with the error that autograd brings there; weights' gradients summed over uses."""
    found: dict[str, float] = {}
    sums: dict[tuple[str, str], Tensor] = {}
    parameters = {call.name: dict(call.layer.named_parameters(recurse=False)) for call in calls}
    for call in calls:
        assert call.delta is not None
        ours = call.by_formula(call.delta)
        if call.below is not None:
            found[call.name] = max(found.get(call.name, 0.0), distance(ours["below"], call.below))
        for which in parameters[call.name]:
            sums[call.name, which] = sums.get((call.name, which), 0) + ours[which]
    for (name, which), ours_sum in sums.items():
        grad = parameters[name][which].grad
        assert grad is not None
        found[name] = max(found.get(name, 0.0), distance(ours_sum, grad))
    return found


def compare_chain(part: list[Call], labels: Tensor) -> dict[str, float]:
    """delta of each linear layer by the formulas alone, from the logits down, against autograd's."""
    found = {}
    delta = error_of_cross_entropy(part[-1].z, labels)
    for call in reversed(part):
        assert call.delta is not None
        if isinstance(call.layer, nn.Linear):
            found[call.name] = distance(delta, call.delta)
        delta = call.by_formula(delta)["below"]
    return dict(reversed(found.items()))


def slide_factors(batch: int, classes: int) -> dict[str, float]:
    """MSELoss' error over the slide's, by autograd, and how far three losses' errors are from autograd's."""
    source = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, batch, classes, generator=source, dtype=torch.float64)
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "half": lambda x: (x - targets).square().sum() / 2,
        "whole": lambda x: (x - targets).square().sum(),
        "mean": lambda x: F.mse_loss(x, targets),
    }
    found = {}
    for name, loss in losses.items():
        x = logits.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(loss(x), x)
        found[name] = distance(error_of_squares(logits, targets, name), slope)
        if name == "mean":
            found["MSELoss over slide"] = float((slope * (logits - targets)).sum() / (logits - targets).square().sum())
    return found


# -- objects and their spectra ----------------------------------------------------------------------------------------


def spectrum(x: Tensor, labels: Tensor) -> dict[str, float]:
    """Of the rows [n, d] of an object, one per image, less their mean.

    `top` is the share of energy in C - 1 singular vectors, `between` the share of the class means (tr S_B / tr S_T),
    `rank` the effective rank (sum of s^2)^2 / sum of s^4, and `norm` the root of the mean squared length of a row.
    """
    x = x.flatten(1).double()
    classes = int(labels.max()) + 1
    centred = x - x.mean(0)
    gram = centred.T @ centred if x.shape[1] <= len(x) else centred @ centred.T
    energy = torch.linalg.eigvalsh(gram).clamp(min=0)
    total = energy.sum()
    if total == 0:
        return {"top": 0.0, "between": 0.0, "rank": 0.0, "norm": float(x.square().sum(1).mean().sqrt())}
    means = torch.stack([centred[labels == c].mean(0) for c in range(classes) if (labels == c).any()])
    counts = torch.stack([(labels == c).sum() for c in range(classes) if (labels == c).any()])
    return {
        "top": float(energy[-(classes - 1) :].sum() / total),
        "between": float((counts[:, None] * means.square()).sum() / total),
        "rank": float(total**2 / energy.square().sum()),
        "norm": float(x.square().sum(1).mean().sqrt()),
    }


def objects(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """h, D and delta of every layer of the fully connected part, one row per image; h_0 is what comes in."""
    with untouched(network), captured(network) as calls:
        network.eval().requires_grad_(False)  # the errors alone are wanted, which begin at the images
        logits = network(images.clone().requires_grad_(True))
        F.cross_entropy(logits, labels).backward()
        part = connected_part(calls)
    check_end(network, part, logits)
    found: dict[str, Tensor] = {}
    index = 0
    for call in part:
        assert call.delta is not None
        if isinstance(call.layer, nn.Linear):
            found[f"h{index}"] = call.h
            index += 1
            found[f"δ{index}"] = call.delta
        elif index:
            found[f"D{index}"] = DERIVATIVES[type(call.layer)](call.h, call.z)
    return found


class Spectra(Callback):
    """Watches h, D and delta of the fully connected part while a recipe trains: `watch/...` in metrics.csv and at W&B.

    `--trainer.callbacks+=benchmarks.phenomena.backprop.Spectra`. At the end of each epoch the same training images, not
    augmented, go through the network as it evaluates, in single precision; training goes on as if it were not there.
    Columns are `watch/h1/top`, `watch/D1/between`, `watch/delta2/rank`, see `spectrum`; h_0 is left out, which training
    leaves as it is where it is the image. Over several ranks the first one's share of the images counts.

    Args:
        images: how many training images are looked at.
    """

    def __init__(self, images: int = 1000) -> None:
        if images < 2:
            raise AnalysisError(f"images (={images}) of Spectra must be at least 2: use 1000.")
        self.images = images
        self.batch: tuple[Tensor, Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the images, with seed 0 in every run, and refuse a network without such a part before it is trained."""
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        parts = []
        for batch in data.drawn("train", self.images, 0):
            images, *others = (one.to(pl_module.device) for one in batch)
            parts.append(data.on_after_batch_transfer((images, *others), 0))
        self.batch = torch.cat([images.float() for images, _ in parts]), torch.cat([labels for _, labels in parts])
        objects(pl_module, *self.batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the spectra."""
        assert self.batch is not None
        found = objects(pl_module, *self.batch)
        for name, rows in found.items():
            if name != "h0":
                values = spectrum(rows, self.batch[1]).items()
                logged = {f"watch/{name.replace('δ', 'delta')}/{key}": torch.tensor(one) for key, one in values}
                pl_module.log_dict(logged, rank_zero_only=True)


# -- a network trained by the formulas alone --------------------------------------------------------------------------


def manual_step(network: MLP, images: Tensor, labels: Tensor, lr: float) -> None:
    """One step of SGD on the mean cross-entropy, its gradients written out; `network` has ReLU and no norm."""
    layers = [layer for layer in [*network.hidden, network.fc] if isinstance(layer, nn.Linear)]
    h, masks = [images.flatten(1)], []
    for layer in layers[:-1]:
        z = h[-1] @ layer.weight.T + layer.bias
        masks.append((z > 0).to(z.dtype))
        h.append(masks[-1] * z)
    delta = error_of_cross_entropy(h[-1] @ layers[-1].weight.T + layers[-1].bias, labels)
    for index in reversed(range(len(layers))):
        layer, below = layers[index], delta @ layers[index].weight
        layer.weight.sub_(lr * delta.T @ h[index])
        layer.bias.sub_(lr * delta.sum(0))
        if index:
            delta = masks[index - 1] * below


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    return 100.0 * float((network(images).argmax(1) == labels).double().mean())


@dataclass(frozen=True)
class Size:
    """What a preset trains and looks at.

    Args:
        data: the dataset.
        side: of an image in pixels.
        hidden: units of the hidden layers.
        steps: of training, 64 images each, lr 0.1.
        images: with which spectra are taken.
        accuracy: in percent, that the network must reach.
    """

    data: Callable[[], ImageDataModule]
    side: int
    hidden: tuple[int, ...]
    steps: int
    images: int
    accuracy: float


SIZES = {
    "smoke": Size(lambda: Digits(batch_size=64), 8, (64, 32), 1_200, 1_000, 90.0),
    "cpu": Size(lambda: MNIST(batch_size=64), 28, (512, 256), 2_350, 4_000, 97.0),
    "full": Size(lambda: MNIST(batch_size=64), 28, (512, 256), 18_800, 10_000, 98.0),
}


def analyze(run: FinishedRun | None = None, images: int = 64, preset: Preset = "cpu", seed: int = 0) -> Outcome:
    """Hold the lecture's formulas to autograd, and say what training does to features, masks and errors.

    Args:
        images: in the batch whose gradients are compared.
        preset: smoke trains on digits, cpu two and a half epochs of MNIST, full twenty.
        seed: of initial weights, order and images.
    """
    if images < 2:
        raise AnalysisError(f"--images (={images}) must be at least 2.")
    return analyze_run(run, images, preset, seed) if run is not None else analyze_own(images, preset, seed)


def analyze_run(run: FinishedRun, count: int, preset: Preset, seed: int) -> Outcome:
    """Any trained network: every layer against autograd, spectra of its fully connected part."""
    x, labels = run.images("test", count, seed)
    outcome = agreement(run.network, x, labels)
    many, classes = run.images("test", min(SIZES[preset].images, run.data.manifest("test").count), seed)
    spectra = {name: spectrum(one, classes) for name, one in objects(run.network, many, classes).items()}
    return conclude(*outcome, {"trained": spectra}, {}, [])


def analyze_own(count: int, preset: Preset, seed: int) -> Outcome:
    """A network trained by the formulas alone."""
    size = SIZES[preset]
    data = size.data()
    (x, labels), (tests, test_labels) = pixels(data, "train"), pixels(data, "test")
    mean, std = data.mean[:, None, None] / 255, data.std[:, None, None] / 255
    x, tests = (x - mean) / std, (tests - mean) / std
    network = MLP((1, size.side, size.side), list(size.hidden))
    source = torch.Generator().manual_seed(seed)
    few = torch.randperm(len(x), generator=source)[: size.images]
    before = {name: spectrum(one, labels[few]) for name, one in objects(network, x[few], labels[few]).items()}
    order = torch.cat([torch.randperm(len(x), generator=source) for _ in range(64 * size.steps // len(x) + 1)])
    with torch.no_grad():
        for chosen in steps(order[: 64 * size.steps].view(-1, 64), "training by the formulas"):
            manual_step(network, x[chosen], labels[chosen], lr=0.1)
    reached = accuracy(network, tests, test_labels)
    found = objects(network, x[few], labels[few])
    after = {name: spectrum(one, labels[few]) for name, one in found.items()}
    last = len(size.hidden) + 1
    energy = torch.linalg.svdvals(found[f"δ{last}"].double()).square()
    beyond = float(energy[-1] / energy.sum())
    h, d = f"h{last - 1}", f"δ{last - 1}"
    rise = after[h]["top"] - before[h]["top"]
    checks = [
        Check("accuracy after training by the formulas, percent", reached, size.accuracy, None, "any such network"),
        Check(f"energy of δ{last} beyond rank C - 1", beyond, 0, 1e-9, "rows sum to 0"),
        Check(f"share of C - 1 directions in {h}: rise", rise, 0, None, "features gather about class means"),
        Check(f"class means' share of {d} at the start", before[d]["between"], 0.5, None, "0.73 measured before"),
        Check(f"class means' share of {d} after training", after[d]["between"], None, 0.2, "0.05 measured before"),
    ]
    compared = agreement(network, tests[:count], test_labels[:count])
    return conclude(*compared, {"initial": before, "trained": after}, {"accuracy": reached}, checks)


def agreement(network: nn.Module, x: Tensor, labels: Tensor) -> tuple[dict[str, Agreement], list[Call]]:
    """In single and in double precision; the uses of layers are those in single precision."""
    single, calls = compare(network, x, labels, torch.float32)
    double, _ = compare(network, x, labels, torch.float64)
    return {"float32": single, "float64": double}, calls


def conclude(
    agreements: dict[str, Agreement],
    calls: list[Call],
    spectra: dict[str, dict[str, dict[str, float]]],
    numbers: dict[str, Any],
    checks: list[Check],
) -> Outcome:
    """Checks, table and figure of what was found."""
    factors = slide_factors(128, 10)
    mean, exact = factors["MSELoss over slide"], 2 / 1280
    off = max(factors[name] for name in ("half", "whole", "mean"))
    near = exact * 1e-12
    own = [
        Check("fully connected part against autograd, float32", agreements["float32"].connected, 0, 1e-6, "autograd"),
        Check("every layer against autograd, float32", agreements["float32"].worst, 0, 1e-5, "autograd's own rounding"),
        Check("every layer against autograd, float64", agreements["float64"].worst, 0, 1e-12, "autograd"),
        Check(
            "MSELoss' δ over the slide's, B = 128, C = 10", mean, exact - near, exact + near, "2 / (B C)", published=1
        ),
        Check("δ of ½‖·‖², ‖·‖², MSELoss against autograd", off, 0, 1e-12, "autograd"),
    ]
    layers = {
        f"{call.name or 'the network'}, use {index}": {
            "h": float(call.h.norm()),
            "z": float(call.z.norm()),
            "delta": float(call.delta.norm()) if call.delta is not None else None,
        }
        for index, call in enumerate(calls)
    }
    numbers = numbers | {
        "agreement": {name: {"layers": one.layers, "chain": one.chain} for name, one in agreements.items()},
        "norms of the batch": layers,
        "slide factors": factors,
        "spectra": spectra,
    }
    rows = [(stage, name, *one.values()) for stage, found in spectra.items() for name, one in found.items()]
    columns = ("stage", "object", "top", "between", "rank", "norm")
    table: dict[str, Any] = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
    return Outcome(numbers, [*own, *checks], table, {"spectra": draw(agreements, spectra)})


def draw(agreements: dict[str, Agreement], spectra: dict[str, dict[str, dict[str, float]]]) -> Any:
    """Relative distances by layer, and two shares of each object before and after training."""
    figure, (left, middle, right) = panels(1, 3, width=10.0, height=3.4)
    names = list(agreements["float64"].layers)
    for series, (dtype, one) in enumerate(agreements.items()):
        places = [names.index(name) + 1 for name in one.chain]
        layers, chain = ([max(e, 1e-17) for e in found.values()] for found in (one.layers, one.chain))
        shift = 0.2 * series - 0.1  # side by side: some are equal
        points(left, np.arange(1, len(names) + 1) + shift, layers, f"{dtype}, layer by layer", series)
        points(left, np.array(places) + shift, chain, f"{dtype}, δ from the logits down", series + 2)
    left.axhline(1e-6, color=GREY, linestyle="--", label="accepted of each")
    left.axhline(1e-12, color=GREY, linestyle="--")
    left.set(yscale="log", ylim=(3e-18, 1e4), xlabel="layer, from the input", ylabel="relative distance (0 at 1e-17)")
    left.set_title("formulas against autograd")
    left.legend(fontsize=7, loc="upper left")
    for ax, key, title in ((middle, "top", "energy in C − 1 directions"), (right, "between", "class means' share")):
        for series, (stage, found) in enumerate(spectra.items()):
            shift = 0.2 * series - 0.1 if len(spectra) > 1 else 0.0
            points(ax, np.arange(len(found)) + shift, [one[key] for one in found.values()], stage, series)
            ax.set_xticks(np.arange(len(found)), list(found), rotation=0 if len(found) < 10 else 60)
        ax.set(ylim=(0, 1.05), xlabel="object", ylabel="share of the variance", title=title)
        ax.legend()
    return figure
