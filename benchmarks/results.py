"""Results: one JSON file per finished run, enough to say what was run, on what, and what came out."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from datamodules.files import write_whole

SCHEMA = 1
COMMITTED = Path(__file__).parent / "results"
PACKAGES = (
    "torch", "torchvision", "pytorch-lightning", "jsonargparse", "numpy", "ffcv", "numba", "timm", "scikit-learn",
    "wandb",
)  # fmt: skip


class ResultError(ValueError):
    """A file that is not a whole result of this suite; the message says why."""


@dataclass(frozen=True)
class Result:
    """What one finished run says of itself.

    Args:
        schema: version of this format.
        recipe: name of the recipe, dataset/network.
        identity: hash of the settings, see `benchmarks.recipe.identity`.
        overrides: settings that the command line changed, as a flat dict; empty for the recipe as it stands.
        seed: the seed of initialisation, order and augmentation.
        errors: for each protocol: top1_error and top5_error in percent, wrong1, wrong5 and count as integers.
        training: last epoch's train/ and val/ loss and errors, epochs and optimizer steps.
        parameters: trainable parameters.
        published: the recipe's `published` part when the run finished.
        settings: what `identity` is the hash of.
        resolved: every setting, defaults included.
        dataset: name, and for each split: count, content hash, sources.
        throughput: images_per_s (training, median over epochs), its spread, and how it was taken.
        seconds: wall-clock split: train, data_wait (a part of it), evaluation, setup (where the run was not resumed),
            and their total.
        hardware: device, processor, cores, nodes, devices.
        versions: of Python and the packages.
        commit: of the suite, and whether its working tree was clean; None where git does not know.
        finished: date and time, UTC.
        wandb_id: of the W&B run, if there was one.
        members: of an ensemble, each network: its recipe, identity, seed or weights, its errors as measured here, and
            the date of its own result. An ensemble has no training and no throughput of its own, `seed` counts its
            repetitions with other members, and `parameters` are those of all members.
    """

    schema: int
    recipe: str
    identity: str
    overrides: dict[str, Any]
    seed: int
    errors: dict[str, dict[str, float]]
    training: dict[str, float]
    parameters: int
    published: dict[str, Any]
    settings: dict[str, Any]
    resolved: dict[str, Any]
    dataset: dict[str, Any]
    throughput: dict[str, Any]
    seconds: dict[str, float]
    hardware: dict[str, Any]
    versions: dict[str, str]
    commit: dict[str, Any]
    finished: str
    wandb_id: str | None = None
    members: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, int]:
        """Two results with the same key are of the same run."""
        return self.recipe, self.identity, self.seed


def write_result(path: Path, result: Result) -> None:
    """Write `result` to `path`, whole or not at all."""
    write_whole(path, json.dumps(asdict(result), indent=1, sort_keys=False, default=str) + "\n")


def read_result(path: Path) -> Result:
    """Read and check one result file.

    Raises:
        ResultError: it is not JSON, of another version, or lacks something.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} is not a result file ({error}): remove it; `fit` then writes it again") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise ResultError(f"{path} has schema {found}, this suite reads {SCHEMA}")
    known = {one.name for one in fields(Result)}
    needed = {one.name for one in fields(Result) if one.default_factory is MISSING}
    if wrong := sorted((needed - set(content)) | (set(content) - known)):
        raise ResultError(f"{path} lacks or adds {', '.join(wrong)}")
    for protocol, errors in content["errors"].items():
        if not {"top1_error", "top5_error", "wrong1", "wrong5", "count"} <= set(errors):
            raise ResultError(f"{path} has no complete errors for protocol {protocol}")
        if abs(errors["top1_error"] - 100 * errors["wrong1"] / errors["count"]) > 1e-6:
            raise ResultError(f"{path}: top1_error of {protocol} is not wrong1 / count")
    return Result(**content)


def load_results(folders: Iterable[Path]) -> tuple[list[Result], list[str]]:
    """Every result below `folders`, the newest of each run, and a line for each file that is not whole."""
    newest: dict[tuple[str, str, int], Result] = {}
    faults = []
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*.json") if is_result_file(p)):
            try:
                result = read_result(path)
            except ResultError as error:
                faults.append(f"skipped: {error}")
                continue
            other = newest.get(result.key)
            if other is None or other.finished <= result.finished:
                newest[result.key] = result
    return sorted(newest.values(), key=lambda result: result.key), faults


def is_result_file(path: Path) -> bool:
    """`seed-N/result.json` of a run folder, or `seed-N.json` among the committed results."""
    return re.fullmatch(r"seed-\d+", path.stem if path.name != "result.json" else path.parent.name) is not None


def now() -> str:
    """Date and time, UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of those packages that are installed; default: the ones that decide a result."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any]:
    """The commit of the checkout and whether its code is as committed, with no file added; None if git cannot tell."""
    checkout = Path(__file__).parent.parent
    try:
        head = _git(checkout, "rev-parse", "HEAD")
        code = ("benchmarks", "datamodules", "models", "setup.py")
        changed = _git(checkout, "status", "--porcelain", "--", *code)
    except (OSError, subprocess.CalledProcessError):
        return {"id": None, "clean": None}
    return {"id": head.strip(), "clean": not changed.strip()}


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), "-c", f"safe.directory={checkout}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def as_command(arguments: Iterable[str]) -> str:
    """The command line of the suite with `arguments`; absolute paths, which are one machine's, by their last name."""
    return "python -m benchmarks " + shlex.join(Path(a).name if a.startswith("/") else a for a in arguments)


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
