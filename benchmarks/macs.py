"""How many multiply-accumulates a network needs for one image: counted, not estimated, and without computing any.

Counting takes seconds for the deepest networks, so the counts of the suite's recipes are kept in macs.json, known by
the settings that decide them; `python -m benchmarks.macs` writes it again. What is not there is counted when asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.recipe import Recipe, all_recipes
from datamodules.files import write_whole

KEPT = Path(__file__).parent / "macs.json"

# Settings of training: they decide nothing of what is computed for an image, and some name files.
TRAINING = frozenset(
    (
        "optimizer", "lr_scheduler", "lr_interval", "loss", "label_smoothing", "decay_norm", "decay_bias", "weights",
        "start_from",
    )
)  # fmt: skip
DATA = frozenset(["class_path", "image_size", "eval_size", "num_classes"])  # settings of data that count


class UncountableError(ValueError):
    """Settings from which no network could be built; the message says why."""


def macs(settings: dict[str, Any]) -> int:
    """Multiply-accumulates for one image of the network that flat `settings` describe: kept ones, or counted now.

    Raises:
        UncountableError: no network can be built from the settings.
    """
    found = kept().get(key(settings))
    return count_macs(settings) if found is None else found


def key(settings: dict[str, Any]) -> str:
    """Hash of the settings that decide the count."""
    counted = {}
    for name, value in settings.items():
        part, _, rest = name.partition(".")
        first = rest.removeprefix("init_args.").split(".")[0]
        if (part == "model" and first not in TRAINING) or (part == "data" and first in DATA):
            counted[name] = value
    return hashlib.sha256(json.dumps(counted, sort_keys=True, default=str).encode()).hexdigest()[:12]


@cache
def kept() -> dict[str, int]:
    """The counts in macs.json, by `key`."""
    return {entry["key"]: entry["macs"] for entry in json.loads(KEPT.read_text(encoding="utf-8")).values()}


def count_macs(settings: dict[str, Any]) -> int:
    """Multiply-accumulates of the network that flat `settings` describe, for one image at its size in evaluation.

    Those of convolutions and matrix products, as papers count them: no bias, norm or activation. The network is built
    and run on torch's meta device, where tensors have shapes and no memory.

    Raises:
        UncountableError: the classes that the settings name do not exist, are none of the suite's, or refuse them.
    """
    import torch

    try:
        data = build(settings, "data.", "datamodules.")
        with torch.device("meta"):
            network = build(settings, "model.", "models.", num_classes=data.num_classes).eval()
        image = torch.empty(1, len(data.mean), data.eval_size, data.eval_size, device="meta")
        with torch.no_grad():
            return macs_of(network, image)
    except Exception as error:  # whatever a constructor of today makes of another day's settings
        raise UncountableError(f"{type(error).__name__}: {error}") from error


def macs_of(network: Any, images: Any) -> int:
    """Multiply-accumulates of one forward pass of `network` over `images` [B, C, H, W]: torch's own formulas, halved.

    `torch.utils.flop_counter.FlopCounterMode` counts the same; it also follows the modules, which takes longer.
    """
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        flops = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            formula = flop_registry.get(func._overloadpacket)
            if formula is not None:
                self.flops += formula(*args, **(kwargs or {}), out_val=out)
            return out

    with Counter() as counter:
        network(images)
    return counter.flops // 2


def build(settings: dict[str, Any], part: str, package: str, **more: Any) -> Any:
    """The object that the flat settings of a `part`, such as `data.`, describe: a class of `package`, and no other.

    A result file from elsewhere must not decide what is imported and called.
    """
    name = str(settings[f"{part}class_path"])
    module, _, class_name = name.rpartition(".")
    if not name.startswith(package):
        raise ValueError(f"{part}class_path (={name}) is not in {package.rstrip('.')}")
    arguments = nested(settings, f"{part}init_args.")
    kept = {key: value for key, value in arguments.items() if part != "model." or key not in TRAINING}
    found = getattr(importlib.import_module(module), class_name)
    if not isinstance(found, type) or found.__module__ != module:
        raise ValueError(f"{part}class_path (={name}) is no class of {module}")
    return found(**kept, **more)


def nested(settings: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The flat settings below `prefix`, as nested mappings: {"a.b": 1} -> {"a": {"b": 1}}."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name.startswith(prefix):
            *parents, last = name[len(prefix) :].split(".")
            level = found
            for parent in parents:
                level = level.setdefault(parent, {})
            level[last] = value
    return found


def count_all(recipes: Iterable[Recipe]) -> dict[str, dict[str, Any]]:
    """Name, `key` and multiply-accumulates of every recipe that trains a network, counted anew."""
    return {
        recipe.name: {"key": key(recipe.settings), "macs": count_macs(recipe.settings)}
        for recipe in recipes
        if not recipe.members
    }


if __name__ == "__main__":
    lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in count_all(all_recipes()).items()]
    write_whole(KEPT, "{\n" + ",\n".join(lines) + "\n}\n")
