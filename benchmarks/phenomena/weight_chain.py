"""A network as a chain of matrices with fixed maps between them: what bounds of its capacity are stated for.

Batch norms of the network as it evaluates are folded into the layer before them: its weights times scale over the root
of variance + eps, per output channel. Convolutions, tables of connections and sub-sampling are matrices whose every
entry is a weight or 0, so that sums over a row are what the layer gives with its weights squared (or their absolute
values) for an image of ones; padding, stride and groups are in it. Biases are one column more, see `capacity`.

Which module follows which is seen in one image's pass: by the storage of tensors, and by their version, which tells
that nothing was added in place. Letters: B images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.phenomena.analysis import HOOKS, AnalysisError, untouched
from benchmarks.phenomena.capacity import LayerNorms
from benchmarks.phenomena.operator_norm import operator_norm
from models.lenet import ScaledTanh, TableConv2d, TrainableSubsampling

WEIGHTS = (nn.Linear, nn.Conv2d, TableConv2d, TrainableSubsampling)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)  # as the network evaluates
STEEPEST = {nn.ReLU: 1.0, nn.Tanh: 1.0, ScaledTanh: 1.7159 * 2 / 3}  # Lipschitz constants
NAMES = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    ScaledTanh: "tanh",
    nn.MaxPool2d: "maximum",
    nn.AvgPool2d: "average",
    nn.AdaptiveAvgPool2d: "average",
}
KNOWN = (*WEIGHTS, *NORMS, *NOTHING, *NAMES)


@dataclass(frozen=True)
class Fixed:
    """A map without weights, and the shape of one image's input."""

    module: nn.Module
    given: torch.Size


@dataclass(frozen=True)
class Stage:
    """A layer with weights, in double precision, and the fixed maps behind it.

    Args:
        name: of the layer in its network.
        layer: as trained, a batch norm behind it folded in.
        start: the same of the initial network.
        given: shape of one image's input.
        made: shape of one image's output.
        maps: behind it, in order.
    """

    name: str
    layer: nn.Module
    start: nn.Module
    given: torch.Size
    made: torch.Size
    maps: tuple[Fixed, ...]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.layer.parameters()).device

    def ones(self) -> Tensor:
        """An input of ones. [1, ...]"""
        return torch.ones(1, *self.given, dtype=torch.float64, device=self.device)


class NoChain(AnalysisError):
    """The modules of a network do not follow one another: shortcuts, branches, functions that are no module."""


# -- what follows what ------------------------------------------------------------------------------------------------


@dataclass
class Call:
    """One module's part in a pass.

    Args:
        name: of the module.
        module: itself.
        given: its input.
        made: its output.
        version: of the output when it was made.
        source: the call whose output it was given, unchanged; None where there is none.
    """

    name: str
    module: nn.Module
    given: Tensor
    made: Tensor
    version: int
    source: int | None


def calls(network: nn.Module, image: Tensor) -> tuple[list[Call], bool]:
    """Every module without submodules in the order of their calls; whether the logits are what the last one made.

    image [1, C, H, W]; the network evaluates, and comes back as it was.
    """
    found: list[Call] = []
    names = {module: name for name, module in network.named_modules()}
    sources: list[int | None] = []

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        sources.append(source_of(inputs[0], found))

    def after(module: nn.Module, inputs: tuple[Any, ...], made: Tensor) -> None:
        if not isinstance(made, Tensor):
            raise AnalysisError(
                f"{names[module]} ({type(module).__name__}) gives a {type(made).__name__}, which is no layer's output: "
                "give a network whose modules give one tensor each."
            )
        found.append(Call(names[module], module, inputs[0], made, made._version, sources.pop()))

    with untouched(network), torch.no_grad():
        network.eval()
        for module in network.modules():
            if not any(True for _ in module.children()):
                module.register_forward_pre_hook(before)
                module.register_forward_hook(after)
        logits = network(image.clone())
    return found, bool(found) and source_of(logits, found) == len(found) - 1


def source_of(tensor: Tensor, found: list[Call]) -> int | None:
    """The last call whose output lies in the same memory and was not changed since."""
    for place in range(len(found) - 1, -1, -1):
        made = found[place].made
        if made.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
            same = made.numel() == tensor.numel() and found[place].version == tensor._version
            return place if same else None
    return None


def has_weights(module: nn.Module) -> bool:
    """Whether it has parameters."""
    return next(module.parameters(), None) is not None


def check_known(found: list[Call]) -> None:
    """Refuse modules whose matrix or Lipschitz constant is not known here.

    Raises:
        AnalysisError: naming the module, and its type.
    """
    for call in found:
        if type(call.module) not in KNOWN:
            raise AnalysisError(
                f"{call.name} is a {type(call.module).__name__}, whose matrix or Lipschitz constant is not known here: "
                "give a network of linear layers, convolutions, batch norm, ReLU, tanh and pooling."
            )
        if isinstance(call.module, nn.Conv2d) and call.module.padding_mode != "zeros":
            raise AnalysisError(
                f"{call.name} has padding_mode (={call.module.padding_mode}), it must be zeros: sums over its rows are "
                "not known otherwise."
            )
        if isinstance(call.module, NORMS) and call.module.running_mean is None:
            raise AnalysisError(
                f"{call.name} has no running statistics (track_running_stats is False) and is no fixed map: give a "
                "network whose batch norms keep them."
            )
    twice = [call.name for call in found if isinstance(call.module, WEIGHTS)]
    shared = sorted({name for name in twice if twice.count(name) > 1})
    if shared:
        raise AnalysisError(f"{shared[0]} is used more than once in a pass: give a network whose layers are used once.")


def check_covered(network: nn.Module, found: list[Call]) -> None:
    """Refuse networks with weights that no known module holds.

    Raises:
        AnalysisError: naming the first.
    """
    held = {id(p) for call in found for p in call.module.parameters(recurse=False)}
    missing = [name for name, p in network.named_parameters() if id(p) not in held]
    if missing:
        raise AnalysisError(
            f"{missing[0]} ({len(missing)} such) belongs to no module that an image came through, so that no norm "
            "would see it: give a network whose weights are all in its layers."
        )


def check_chain(found: list[Call], whole: bool) -> None:
    """Refuse networks whose modules do not follow one another.

    Raises:
        NoChain: naming the place.
    """
    for place, call in enumerate(found):
        if place and call.source != place - 1:
            raise NoChain(
                f"between {found[place - 1].name} and {call.name} the network computes with what is no module (a "
                "shortcut, a mean): a bound is of layers that follow one another, give a network with skip: false."
            )
    if not whole:
        raise NoChain(
            f"the logits must be what {found[-1].name if found else 'a module'} makes, they are computed from it: a "
            "bound is of layers that follow one another, give a network whose last module is a layer."
        )


# -- the chain --------------------------------------------------------------------------------------------------------


def chain(network: nn.Module, initial: nn.Module, image: Tensor) -> list[Stage]:
    """The stages of `network`, first to last; `initial` is the same network at its start. image [1, C, H, W]

    Raises:
        AnalysisError: there is a module that is not known, weights outside of modules, or a batch norm behind no layer.
        NoChain: modules do not follow one another.
    """
    found, whole = calls(network, image)
    check_known([call for call in found if has_weights(call.module)])
    check_covered(network, found)
    check_chain(found, whole)
    check_known(found)
    first = next((place for place, call in enumerate(found) if isinstance(call.module, WEIGHTS)), len(found))
    if early := [call for call in found[:first] if not isinstance(call.module, NOTHING)]:
        raise NoChain(
            f"{early[0].name} ({type(early[0].module).__name__}) comes before the first layer with weights: give a "
            "network that begins with a layer."
        )
    return stages_of(found, initial, with_maps=True)


def loose_layers(network: nn.Module, initial: nn.Module, image: Tensor) -> list[Stage]:
    """The layers of a network that is no chain, each by itself, without the maps behind them. image [1, C, H, W]

    Raises:
        AnalysisError: there is a module with weights that is not known, weights outside of modules, or a batch norm
            behind no layer.
    """
    found, _ = calls(network, image)
    check_known([call for call in found if has_weights(call.module)])
    check_covered(network, found)
    return stages_of(found, initial, with_maps=False)


def stages_of(found: list[Call], initial: nn.Module, with_maps: bool) -> list[Stage]:
    """Layers with their batch norms folded in and, if wanted, the maps up to the next layer."""
    norms = {call.source: call for call in found if isinstance(call.module, NORMS)}
    for call in norms.values():
        if call.source is None or not isinstance(found[call.source].module, WEIGHTS):
            raise AnalysisError(
                f"{call.name} ({type(call.module).__name__}) must follow a layer with weights, to be folded into it: "
                "give a network that normalises right after its layers."
            )
    at_start = dict(initial.named_modules())
    places = [place for place, call in enumerate(found) if isinstance(call.module, WEIGHTS)]
    stages = []
    for place, end in zip(places, [*places[1:], len(found)], strict=True):
        call, norm = found[place], norms.get(place)
        start = at_start[norm.name] if norm else None
        maps = [one for one in found[place + 1 : end] if type(one.module) in NAMES] if with_maps else []
        stages.append(
            Stage(
                call.name,
                folded(call.module, norm.module if norm else None),
                folded(at_start[call.name], start),
                call.given.shape[1:],
                call.made.shape[1:],
                tuple(Fixed(alone(one.module), one.given.shape[1:]) for one in maps),
            )
        )
    return stages


def alone(module: nn.Module) -> nn.Module:
    """A copy in double precision that evaluates, without the hooks and gradients of the module."""
    other = copy.deepcopy(module)
    for name in HOOKS:
        getattr(other, name).clear()
    return other.double().eval().requires_grad_(False)


def folded(layer: nn.Module, norm: nn.Module | None) -> nn.Module:
    """A copy of the layer, in double precision, that does what layer and batch norm do."""
    other: Any = alone(layer)  # modules do not tell types of their parameters
    if norm is None:
        return other
    known: Any = alone(norm)
    scale = (known.running_var + known.eps).rsqrt()
    scale = scale if known.weight is None else scale * known.weight
    shift = (0 if known.bias is None else known.bias) - known.running_mean * scale
    if isinstance(other, TableConv2d):
        other.weight.mul_(scale[other.outs][:, None, None])
    else:
        other.weight.mul_(scale.view(-1, *[1] * (other.weight.dim() - 1)))
    old = 0 if other.bias is None else other.bias * scale
    other.bias = nn.Parameter(old + shift, requires_grad=False)
    return other


def with_weights(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy whose weights and biases are changed."""
    other = copy.deepcopy(layer)
    for parameter in other.parameters():
        parameter.data = change(parameter.data)
    return other


def less_start(stage: Stage) -> nn.Module:
    """The layer whose weights and biases are those of training less those of the start."""
    other = copy.deepcopy(stage.layer)
    for name, parameter in other.named_parameters():
        first = getattr(stage.start, name)
        parameter.data = parameter.data - first.data
    return other


@torch.no_grad()
def through(stages: list[Stage], images: Tensor) -> Tensor:
    """Logits by the stages. [B, C, H, W] -> [B, classes], in double precision"""
    x = images.double()
    for stage in stages:
        x = stage.layer(x.reshape(len(x), *stage.given))
        x = mapped(stage, x)
    return x.flatten(1)


def mapped(stage: Stage, z: Tensor) -> Tensor:
    """What the fixed maps behind a layer make of its outputs z [B, ...], which stay as they are."""
    for one in stage.maps:
        z = one.module(z.reshape(len(z), *one.given).clone())
    return z


def biased(stages: list[Stage]) -> bool:
    """Whether a 1 must be carried along, because a layer has biases."""
    return any(stage.layer.bias is not None for stage in stages)


# -- norms ------------------------------------------------------------------------------------------------------------


def norms_of(stages: list[Stage]) -> list[LayerNorms]:
    """Of the matrix of every layer, with the column of its biases and the 1 that it carries on."""
    carry = biased(stages)
    return [norms_of_one(stage, carry, carry and stage is not stages[-1]) for stage in stages]


@torch.no_grad()
def norms_of_one(stage: Stage, column: bool, row: bool) -> LayerNorms:
    """Of [[A, b], [0, 1]]: `column` is b's, `row` the last."""
    ones = stage.ones()
    squares = with_weights(stage.layer, torch.square)(ones).flatten()
    moved = with_weights(less_start(stage), torch.square)(ones).flatten()
    sizes = with_weights(stage.layer, torch.abs)(ones).flatten()
    steepest, in_sup_norm = product_of_slopes(stage), product_of_sup_slopes(stage)
    return LayerNorms(
        inputs=math.prod(stage.given) + column,
        outputs=math.prod(stage.made) + row,
        spectral=operator_norm(matrix_of(stage, column, row), math.prod(stage.given) + column, stage.device),
        frobenius=math.sqrt(float(squares.sum()) + row),
        largest_row=max(float(sizes.max()), float(row)),
        rows=float(squares.sqrt().sum()) + row,
        rows_from_start=float(moved.sqrt().sum()),
        from_start=math.sqrt(float(moved.sum())),
        lipschitz=max(steepest, 1.0) if row else steepest,  # the 1 that is carried on keeps its size
        maps=frozenset(NAMES[type(one.module)] for one in stage.maps),
        sup_lipschitz=max(in_sup_norm, 1.0) if row else in_sup_norm,
    )


def matrix_of(stage: Stage, column: bool, row: bool) -> Callable[[Tensor], Tensor]:
    """v -> [[A, b], [0, 1]] v, flat; without b's column and the last row where there are none."""
    with torch.no_grad():
        b = stage.layer(torch.zeros_like(stage.ones())).flatten()

    def apply(v: Tensor) -> Tensor:
        x, one = (v[:-1], v[-1:]) if column else (v, v[:0])
        made = stage.layer(x.reshape(1, *stage.given)).flatten() - b
        if column:
            made = made + b * one
        return torch.cat([made, one]) if row else made

    return apply


def product_of_slopes(stage: Stage) -> float:
    """Lipschitz constant of the maps behind a layer, at most: the product of theirs."""
    return math.prod(slope(one) for one in stage.maps)


def product_of_sup_slopes(stage: Stage) -> float:
    """The same in the sup norm: of the activations alone, for no average or maximum is above its largest input."""
    return math.prod(STEEPEST.get(type(one.module), 1.0) for one in stage.maps)


def slope(one: Fixed) -> float:
    """l2 Lipschitz constant of a fixed map: of activations their steepest slope, of averages their operator norm.

    A maximum is taken of each pixel at most as often as windows overlap there; the root of that is its constant.
    """
    module = one.module
    if isinstance(module, nn.MaxPool2d):
        sizes, strides = pair(module.kernel_size), pair(module.stride)
        return math.sqrt(math.prod(-(-size // stride) for size, stride in zip(sizes, strides, strict=True)))
    if isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        shape = one.given[-2:]
        return operator_norm(lambda v: module(v.reshape(1, 1, *shape)), math.prod(shape))
    return STEEPEST[type(module)]


def pair(value: Any) -> tuple[int, int]:
    """A size that is given as one number or as two."""
    return (value, value) if isinstance(value, int) else tuple(value)


@torch.no_grad()
def path_norm(stages: list[Stage]) -> float:
    """Root of the sum, over all paths from an input or a bias to a logit, of the product of their squared weights.

    Neyshabur, Salakhutdinov, Srebro 2015, "Path-SGD", equation 4, p = 2: the network with squared weights, of ones. Of
    maxima the largest is taken, as in the code of its authors.
    """
    x = stages[0].ones()
    for stage in stages:
        x = with_weights(stage.layer, torch.square)(x.reshape(1, *stage.given))
        for one in stage.maps:
            x = squared_map(one, x.reshape(1, *one.given))
    return math.sqrt(float(x.sum()))


def squared_map(one: Fixed, x: Tensor) -> Tensor:
    """What a fixed map does to sums of squared paths: averages square their weights, activations are left out.

    Raises:
        AnalysisError: an average whose windows have different sizes.
    """
    module = one.module
    if isinstance(module, nn.MaxPool2d):
        return module(x)
    if isinstance(module, nn.AvgPool2d):
        if module.ceil_mode or pair(module.padding) != (0, 0):
            raise AnalysisError(
                f"AvgPool2d with ceil_mode (={module.ceil_mode}) and padding (={module.padding}) takes averages of "
                "different windows, whose weights are not known here: use ceil_mode False and no padding."
            )
        return module(x) / math.prod(pair(module.kernel_size))
    if isinstance(module, nn.AdaptiveAvgPool2d):
        made = module(x)
        high, wide = (a / b for a, b in zip(x.shape[-2:], made.shape[-2:], strict=True))
        if high % 1 or wide % 1:
            raise AnalysisError(
                f"AdaptiveAvgPool2d from {list(x.shape[-2:])} to {list(made.shape[-2:])} takes averages of different "
                "windows, whose weights are not known here: use images of which the sizes are multiples."
            )
        return made / (high * wide)
    return x


# -- along the training images ----------------------------------------------------------------------------------------


@dataclass
class Travelled:
    """What the layers did to some images.

    Args:
        cushions: least |A x| / (|A|_F |x|) of each layer, Arora et al. 2018, definition 4.
        stretches: largest |A x| / |x| of each layer.
        contraction: largest |z| / |phi(z)| of what the layers but the last gave; 1 where there is no map.
        largest_logits: largest norm of the logits.
        initial_squares: mean of the squared norm of what the first layer gave at the start.
    """

    cushions: list[float]
    stretches: list[float]
    contraction: float
    largest_logits: float
    initial_squares: float


@torch.no_grad()
def travel(stages: list[Stage], norms: list[LayerNorms], batches: list[Tensor]) -> Travelled:
    """Send images through the layers, and see how they grow and shrink. batches of [B, C, H, W]"""
    carry = 1.0 if biased(stages) else 0.0
    least, most = [math.inf] * len(stages), [0.0] * len(stages)
    contraction, largest, initial, count = 1.0, 0.0, 0.0, 0
    for images in batches:
        x = images.to(stages[0].device).double()
        first = stages[0].start(x.reshape(len(x), *stages[0].given)).flatten(1)
        initial += float(first.square().sum()) + carry * len(x)
        count += len(x)
        for place, stage in enumerate(stages):
            last = place == len(stages) - 1
            z = stage.layer(x.reshape(len(x), *stage.given))
            ratio = length(z, 0.0 if last else carry) / length(x, carry)
            least[place] = min(least[place], float(ratio.min()) / norms[place].frobenius)
            most[place] = max(most[place], float(ratio.max()))
            x = mapped(stage, z)
            if not last:
                contraction = max(contraction, float((length(z, carry) / length(x, carry)).max()))
        largest = max(largest, float(x.flatten(1).norm(dim=1).max()))
    return Travelled(least, most, contraction, largest, initial / count)


def length(x: Tensor, carried: float) -> Tensor:
    """Norm of each image's numbers, and of the 1 that is carried with them. [B, ...] -> [B]"""
    return (x.flatten(1).square().sum(1) + carried).sqrt()
