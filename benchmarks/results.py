"""Results: one JSON file per finished run, enough to say what was run, on what, and what came out."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

from benchmarks.published import Claim, Metric
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
        wandb_id: of its W&B run: entity/project/id, or the id alone of one that was not sent while it trained.
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
    write_whole(path, json.dumps(asdict(result), indent=1, sort_keys=False, default=str, allow_nan=False) + "\n")


def read_result(path: Path) -> Result:
    """Read one result file, and check that it says what a result says, in the form it is said in.

    Whether that can be true is another question, see `benchmarks.check`.

    Raises:
        ResultError: it is not JSON, of another version, lacks something, or has something of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not a result file ({error}): remove it; `fit` then writes it again") from None
    if not isinstance(content, dict):
        raise ResultError(
            f"{path} is not a result file (it holds a {type(content).__name__}, not an object): remove it"
        )
    if content.get("schema") != SCHEMA or isinstance(content["schema"], bool):
        raise ResultError(f"{path} has schema {printable(str(content.get('schema')))}, this suite reads {SCHEMA}")
    known = {one.name for one in fields(Result)}
    needed = {one.name for one in fields(Result) if one.default_factory is MISSING}
    if wrong := sorted((needed - set(content)) | (set(content) - known)):
        raise ResultError(f"{path} lacks or adds {printable(', '.join(wrong))}")
    try:
        check_values(content)
        check_kinds(content)
        for protocol, errors in content["errors"].items():
            check_errors(protocol, errors)
    except ResultError as error:
        raise ResultError(f"{path} {printable(str(error))}: remove or correct it") from None
    return Result(**content)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")  # on one line
NAME = re.compile(rf"{TEXT.pattern}/{TEXT.pattern}")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
OBJECTS = (
    "overrides", "errors", "training", "published", "settings", "resolved", "dataset", "throughput", "seconds",
    "hardware", "versions", "commit",
)  # fmt: skip


MOST = 1e300  # of any number: what is larger does not go through arithmetic with others
DEEPEST = 50  # objects and lists in one another


def check_values(content: dict[str, Any]) -> None:
    """Whatever a file holds, and wherever: what arithmetic, JSON and UTF-8 can carry.

    Raises:
        ResultError: the first that is not; the message goes on after the file's name.
    """
    left: list[tuple[Any, int]] = [(content, 0)]
    while left:
        value, depth = left.pop()
        if depth > DEEPEST:
            raise ResultError(f"has objects and lists in one another, {depth} deep, which must be at most {DEEPEST}")
        if isinstance(value, dict):
            left += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list):
            left += [(inner, depth + 1) for inner in value]
        elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _wrong("a text", value, "of whole characters, without halves of surrogate pairs")
        elif _is_count(value) and abs(value) >= MOST:
            raise ResultError(f"has a number of {len(str(value))} digits, all of which must be below {MOST:g}")
        elif isinstance(value, float) and not abs(value) < MOST:
            raise _wrong("a number", value, f"below {MOST:g}")


def printable(text: str) -> str:
    """A file's own text for a terminal: what is no letter, such as an escape sequence, is a space."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def check_kinds(content: dict[str, Any]) -> None:
    """Each field of a result must be of its kind, and what tables and pages make use of must be there.

    Raises:
        ResultError: the first that is not; the message goes on after the file's name.
    """
    for name in OBJECTS:
        if not isinstance(content[name], dict):
            raise _wrong(name, content[name], "an object")
    for name, form, kind in (
        ("recipe", NAME, "a recipe's name, dataset/network"),
        ("identity", re.compile(r"\w+"), "a hash"),
        ("finished", DATE, "a date and time such as 2026-01-31T23:59:59Z"),
    ):
        if not isinstance(content[name], str) or not form.fullmatch(content[name]):
            raise _wrong(name, content[name], kind)
    for name, least in (("seed", 0), ("parameters", 1)):
        if not _is_count(content[name]) or content[name] < least:
            raise _wrong(name, content[name], f"a whole number of at least {least}")
    for part in ("training", "seconds"):
        for name, value in content[part].items():
            if not is_number(value) or (part == "seconds" and value < 0):
                raise _wrong(f"{part}.{name}", value, "a finite number" + ", not below 0" * (part == "seconds"))
    rate = content["throughput"].get("images_per_s")
    if rate is not None and not (is_number(rate) and rate > 0):
        raise _wrong("throughput.images_per_s", rate, "a finite number above 0")
    hardware = content["hardware"]
    for name in ("device", "name"):
        if not isinstance(hardware.get(name), str) or not TEXT.fullmatch(hardware[name]):
            raise _wrong(f"hardware.{name}", hardware.get(name), "a name, on one line")
    for name in ("cores", "devices"):
        if not _is_count(hardware.get(name)) or hardware[name] < 1:
            raise _wrong(f"hardware.{name}", hardware.get(name), "a whole number of at least 1")
    if not isinstance(content.get("wandb_id"), str | None):
        raise _wrong("wandb_id", content["wandb_id"], "a text, or null")
    members = content.get("members", [])
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise _wrong("members", members, "a list of objects")
    if not content["errors"]:
        raise _wrong("errors", content["errors"], "of at least one protocol")
    for split in ("train", "test"):
        if not isinstance(content["dataset"].get(split), dict | None):
            raise _wrong(f"dataset.{split}", content["dataset"][split], "an object, or null")
    departures = content["published"].get("departures", [])
    if not isinstance(departures, list) or not all(isinstance(line, str) for line in departures):
        raise _wrong("published.departures", departures, "a list of texts")
    check_claims(content["published"].get("claims", []))


def check_claims(claims: Any) -> None:
    """`published.claims` must be a list of what `benchmarks.published.Claim` is.

    Raises:
        ResultError: as said; the message goes on after the file's name.
    """
    known = {one.name for one in fields(Claim)}
    needed = known - {"metric", "spread"}
    for claim in claims if isinstance(claims, list) else [claims]:
        if not isinstance(claim, dict) or not needed <= set(claim) <= known:
            raise _wrong("published.claims", claims, f"a list of objects with {', '.join(sorted(needed))}")
        for name in ("value", "tolerance"):
            if not is_number(claim[name]):
                raise _wrong(f"published.claims.{name}", claim[name], "a finite number")
        spread = claim.get("spread")
        if spread is not None and not (is_number(spread) and spread > 0):
            raise _wrong("published.claims.spread", spread, "a finite number above 0, or null")
        if claim.get("metric", "top1_error") not in METRICS or not isinstance(claim["protocol"], str):
            raise _wrong("published.claims.metric", claim.get("metric"), f"one of {', '.join(METRICS)}")


METRICS = get_args(Metric)


def check_errors(protocol: str, errors: Any) -> None:
    """Errors of one protocol must be counted: whole numbers of images, and their percentages.

    Raises:
        ResultError: as said; the message goes on after the file's name.
    """
    if not TEXT.fullmatch(protocol):
        raise _wrong("errors", protocol, "of protocols, whose names are on one line")
    counts = ("wrong1", "wrong5", "count")
    if not isinstance(errors, dict) or not {*METRICS, *counts} <= set(errors):
        raise ResultError(f"has no complete errors for protocol {protocol}")
    for name in counts:
        if not _is_count(errors[name]):
            raise _wrong(f"errors.{protocol}.{name}", errors[name], "a whole number")
    if not 0 <= errors["wrong5"] <= errors["wrong1"] <= errors["count"] or errors["count"] < 1:
        found = ", ".join(str(errors[name]) for name in counts)
        raise _wrong(f"errors.{protocol}: {', '.join(counts)}", found, "such that 0 <= wrong5 <= wrong1 <= count > 0")
    for metric, wrong in (("top1_error", "wrong1"), ("top5_error", "wrong5")):
        percent = 100 * errors[wrong] / errors["count"]
        if not is_number(errors[metric]) or abs(errors[metric] - percent) > 1e-6:
            raise ResultError(f"has a {metric} of {protocol} (={errors[metric]}), which is not {wrong} / count")


def _wrong(name: str, value: Any, kind: str) -> ResultError:
    said = json.dumps(value, default=str)
    return ResultError(f"has {name} (={said[:60]}{'...' if len(said) > 60 else ''}), which must be {kind}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no truth value."""
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value))


def load_results(folders: Iterable[Path]) -> tuple[list[Result], list[str]]:
    """Every result below `folders`, the newest of each run, and a line for each file that is left out.

    Seeds that are of other images than most of a recipe's are left out too: their mean would be of neither.
    """
    newest: dict[tuple[str, str, int], tuple[Path, Result]] = {}
    said = []
    seen: set[Path] = set()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*.json") if is_result_file(p)):
            if path.resolve() in seen:  # one folder may lie in another
                continue
            seen.add(path.resolve())
            try:
                result = read_result(path)
            except ResultError as error:
                said.append(f"skipped: {error}")
                continue
            if result.key not in newest:
                newest[result.key] = path, result
                continue
            (older_path, older), (newer_path, newer) = sorted(
                [newest[result.key], (path, result)], key=lambda one: one[1].finished
            )
            newest[result.key] = newer_path, newer
            if replace(older, wandb_id=None) != replace(newer, wandb_id=None):  # a copy is no other result
                said.append(
                    f"skipped: {older_path} (finished {older.finished}) is of the same run as {newer_path} "
                    f"({newer.finished}), which is newer"
                    if older.finished < newer.finished
                    else f"skipped: {older_path} is of the same run as {newer_path}, and finished at the same time "
                    f"({newer.finished}), but they differ: remove the wrong one"
                )
    strange = of_other_images(newest.values())
    said += [
        f"skipped: {path} is of other images (checksums {images_of(result)}) than most seeds of {result.recipe}: train "
        "it again on theirs."
        for path, result in strange
    ]
    left_out = {result.key for _, result in strange}
    return sorted((one for _, one in newest.values() if one.key not in left_out), key=lambda one: one.key), said


def of_other_images(found: Iterable[tuple[Path, Result]]) -> list[tuple[Path, Result]]:
    """Those whose images are not those of most seeds of the same settings, or of the newest where numbers are equal."""
    groups: dict[tuple[str, str], dict[str, list[tuple[Path, Result]]]] = {}
    for path, result in found:
        if images := images_of(result):
            groups.setdefault((result.recipe, result.identity), {}).setdefault(images, []).append((path, result))
    strange = []
    for by_images in groups.values():
        usual = max(by_images.values(), key=lambda some: (len(some), max(result.finished for _, result in some)))
        strange += [one for some in by_images.values() if some is not usual for one in some]
    return strange


def images_of(result: Result) -> str:
    """The first letters of the checksums of training and test images; empty where it does not say."""
    parts = [result.dataset.get(split) for split in ("train", "test")]
    return " ".join(str(part["content"])[:12] for part in parts if isinstance(part, dict) and part.get("content"))


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
    """The command line of the suite with `arguments`, `without_folders`."""
    return "python -m benchmarks " + shlex.join(without_folders(arguments))


def without_folders(arguments: Iterable[str]) -> list[str]:
    """The arguments with absolute paths, which are one machine's, by their last name: `--root=/a/b` as `--root=b`."""
    found = []
    for argument in arguments:
        before, equals, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
        found.append(before + equals + (Path(value).name if value.startswith("/") else value))
    return found


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
