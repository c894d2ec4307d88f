"""What every analysis shares: checks, outcomes, the list of analyses, and care for a network that it is lent.

An analysis is one module in this folder, found by being there. It has

- a docstring whose first line is the claim; the rest is the text of its card in README.md, in Markdown;
- `PAPER` and `COST`, texts for `analyze --list` and the card; and `VARIANT`, where an option chooses among experiments
  that are reported apart: the name of that option;
- pure functions: modules and arrays in, arrays out, the equation cited;
- `analyze(preset, seed, ...) -> Outcome`, whose typed keyword arguments are the options of the command, explained in
  its docstring. `run: FinishedRun | None` (`benchmarks.phenomena.finished`) is where it takes a trained network.

`analyze` draws from generators seeded with `seed`, or from the global ones, which are seeded with it before.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
Preset = Literal["smoke", "cpu", "full"]  # seconds on digits or synthetic data; minutes on two cores; a GPU
T = TypeVar("T")


class AnalysisError(ValueError):
    """An analysis that cannot be run as it was asked for; the message names the remedy."""


@dataclass(frozen=True)
class Check:
    """A number and the range it must lie in. NaN lies nowhere.

    Args:
        name: what the number is, with its unit.
        value: as measured.
        low: smallest value that is accepted; None for no bound.
        high: largest value that is accepted; None for no bound.
        source: where the range comes from: a closed form, a figure of a paper, another implementation.
        must_hold: the command fails if this check does not hold.
        published: the paper's own number, where it has one.
        spread: standard deviation of `value` over seeds, where there are several.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    source: str
    must_hold: bool = True
    published: float | None = None
    spread: float | None = None

    @property
    def held(self) -> bool:
        """Whether low <= value <= high."""
        if math.isnan(self.value):
            return False
        return (self.low is None or self.low <= self.value) and (self.high is None or self.value <= self.high)

    @property
    def accepted(self) -> str:
        """The range in words: `0.1 to 0.2`, `at least 0.1`, `at most 0.2`."""
        if self.low is None or self.high is None:
            bound = self.high if self.low is None else self.low
            return "any number" if bound is None else f"at {'most' if self.low is None else 'least'} {bound:.4g}"
        return f"{self.low:.4g}" if self.low == self.high else f"{self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class Outcome:
    """What an analysis found.

    Args:
        numbers: by name; nested dicts and lists of numbers and texts are allowed.
        checks: what must be true of them.
        table: the columns of the table behind the figure, of equal length.
        figures: by name; the first stands on the card and in README.md.
        seeds: of the networks or draws that the numbers are means of; none where there is only the one of `--seed`.
    """

    numbers: dict[str, Any]
    checks: list[Check]
    table: dict[str, Sequence[Any]]
    figures: dict[str, Figure] = field(default_factory=dict)
    seeds: Sequence[int] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.table.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of a table must be equally long, they are {lengths}: fill them with None.")

    @property
    def failed(self) -> list[Check]:
        """The checks that must hold and do not."""
        return [check for check in self.checks if check.must_hold and not check.held]


@dataclass(frozen=True)
class Analysis:
    """A module of this folder, known without importing it.

    Args:
        name: of the module.
        claim: first line of its docstring.
        text: the rest of the docstring.
        paper: where the claim is from.
        cost: seconds or minutes of the presets, and on what.
        variant: the option that chooses among its experiments; empty where there is one.
    """

    name: str
    claim: str
    text: str
    paper: str
    cost: str
    variant: str = ""

    def module(self) -> ModuleType:
        """The module itself, imported now."""
        return importlib.import_module(f"benchmarks.phenomena.{self.name}")

    def stem(self, options: dict[str, Any]) -> str:
        """Name of its files with these options: `regression-net`."""
        return f"{self.name}-{options[self.variant]}" if self.variant else self.name


def all_analyses(folder: Path = FOLDER) -> list[Analysis]:
    """Every module of `folder` that has a function `analyze`, by name."""
    return [found for path in sorted(folder.glob("*.py")) if (found := read_analysis(path)) is not None]


def read_analysis(path: Path) -> Analysis | None:
    """What the module at `path` says of itself; None if it is no analysis.

    Raises:
        AnalysisError: it has no docstring, PAPER or COST.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not any(isinstance(node, ast.FunctionDef) and node.name == "analyze" for node in tree.body):
        return None
    claim, _, text = (ast.get_docstring(tree) or "").partition("\n")
    texts = {"PAPER": "", "COST": "", "VARIANT": ""}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in texts:
            texts[node.targets[0].id] = str(ast.literal_eval(node.value))
    if missing := [name for name in ("docstring", "PAPER", "COST") if not {"docstring": claim, **texts}[name]]:
        raise AnalysisError(f"{path} lacks {', '.join(missing)}, which `analyze --list` shows: see {__file__}.")
    return Analysis(path.stem, claim, text.strip(), texts["PAPER"], texts["COST"], texts["VARIANT"])


def find_analysis(name: str) -> Analysis:
    """The analysis called `name`.

    Raises:
        AnalysisError: there is none; the message lists those there are.
    """
    analyses = {one.name: one for one in all_analyses()}
    if name in analyses:
        return analyses[name]
    close = difflib.get_close_matches(name, analyses, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(analyses)}."
    raise AnalysisError(f"analysis (={name}) does not exist: {hint} `python -m benchmarks analyze --list` says more.")


def steps(iterable: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """`iterable`, with a progress bar on terminals."""
    return iter(tqdm(iterable, desc=label, total=total, disable=None, leave=False, dynamic_ncols=True))


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """The global generators of Python, numpy and torch, on every device, come back as they were."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


HOOKS = tuple(name for name, value in vars(nn.Module()).items() if "hooks" in name and isinstance(value, dict))


@contextmanager
def untouched(network: nn.Module) -> Iterator[nn.Module]:
    """Within it, do to `network` what you like: it comes back bit for bit as it was, also after an error.

    Put back are modes, submodules, parameters and buffers (the objects, their values, device and dtype), gradients,
    requires_grad, the hooks of modules and tensors, and the global generators of random numbers.
    """
    modules = list(network.modules())
    tensors = {id(t): t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None}
    kept_modules = [(module, module_state(module)) for module in modules]
    kept_tensors = [(tensor, tensor_state(tensor)) for tensor in tensors.values()]
    with random_numbers_kept():
        try:
            yield network
        finally:
            for module, state in kept_modules:
                put_back_module(module, state)
            for tensor, kept in kept_tensors:
                put_back_tensor(tensor, kept)


def module_state(module: nn.Module) -> dict[str, Any]:
    """Mode, hooks, and which objects are its parameters, buffers and submodules."""
    copied = {name: dict(getattr(module, name)) for name in (*HOOKS, "_parameters", "_buffers", "_modules")}
    return {"training": module.training, "forward": module.__dict__.get("forward"), **copied}


def put_back_module(module: nn.Module, state: dict[str, Any]) -> None:
    """Undo what has changed since `module_state`; the dictionaries of `module` stay the same objects."""
    module.training = state["training"]
    module.__dict__.pop("forward", None)
    if state["forward"] is not None:
        module.__dict__["forward"] = state["forward"]
    for name in (*HOOKS, "_parameters", "_buffers", "_modules"):
        current = getattr(module, name)
        current.clear()
        current.update(state[name])


def tensor_state(tensor: torch.Tensor) -> dict[str, Any]:
    """Values and gradient, each with the object that holds them; requires_grad and hooks."""
    grad = tensor.grad
    return {
        "values": (tensor.data, tensor.detach().clone()),
        "grad": grad,
        "slopes": None if grad is None else (grad.data, grad.detach().clone()),
        "requires_grad": tensor.requires_grad,
        "hooks": dict(tensor._backward_hooks or {}),
    }


def put_back_tensor(tensor: torch.Tensor, state: dict[str, Any]) -> None:
    """Undo what has changed since `tensor_state`."""
    with torch.no_grad():
        tensor.grad = None  # its type and place may be others than the data's, for a moment
        data, values = state["values"]
        tensor.data = data.copy_(values)
        tensor.requires_grad_(state["requires_grad"])
        if state["grad"] is not None:
            data, values = state["slopes"]
            state["grad"].data = data.copy_(values)
            tensor.grad = state["grad"]
        if tensor._backward_hooks is not None:
            tensor._backward_hooks.clear()
            tensor._backward_hooks.update(state["hooks"])
