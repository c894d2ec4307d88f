"""Loaders side by side: images per processor second, the suite's and its peers', on the same images, in alternation."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.loader_contestants import Contestant, Start, Turn, contestants, reference, serve
from benchmarks.loader_files import Files, described, prepare_array, prepare_photos
from benchmarks.results import commit, cores, now, processor, versions
from benchmarks.runs import RunError
from datamodules.files import write_whole

SCHEMA = 1
PATIENCE = 900  # seconds in which a contestant must answer; FFCV waits for ever after most errors
TURN_SECONDS = 1.0  # of wall time at least, in whole epochs
PEER_PACKAGES = ("nvidia-dali-cuda120", "nvidia-dali-cuda130", "spdl", "webdataset", "pillow", "opencv-python", "tbb")
QUICK = {"imagenet": 96, "cifar10": 2048, "mnist": 2048}  # images
TASKS = {
    "imagenet": "random resized crop to 224 pixels, flip",
    "cifar10": "moved by up to 4 pixels, flip",
    "mnist": "moved by up to 2 pixels",
}


def loader_throughput(options: argparse.Namespace) -> int:
    """`python -m benchmarks throughput --loaders`: measure, print a table, write what was asked for."""
    if options.quick:
        options.images = options.images or QUICK[options.loaders]
        options.batch_size, options.rounds = min(options.batch_size, 32), 1
    chosen, skipped = choose(contestants(options.loaders), reference(options.loaders), options.contestants)
    for name, package in skipped.items():
        print(f"skipped: {name}, which needs {package}; it is not installed")
    workers = checked_workers(options.workers)
    files = prepare(options)
    if options.batch_size > files.count:
        raise RunError(
            f"--batch-size (={options.batch_size}) must not exceed the images of an epoch (={files.count}): "
            "lower it or raise --images."
        )
    load = os.getloadavg()[0]
    seconds = 0.0 if options.quick else TURN_SECONDS
    starts, turns = measure(chosen, files, options.batch_size, workers, options.rounds, seconds)
    record = {
        "schema": SCHEMA,
        "dataset": options.loaders,
        "task": f"{TASKS[options.loaders]}, uint8",
        "batch_size": options.batch_size,
        "workers": workers,
        "reference": reference(options.loaders),
        "contestants": [
            {
                "name": one.name,
                "what": one.what,
                "ours": one.ours,
                "reads": one.reads,
                "first_epoch": asdict(starts[one.name]),
                "rounds": [asdict(turn) for turn in turns[one.name]],
            }
            for one in chosen
        ],
        "skipped": skipped,
        "files": described(files),
        "hardware": {"device": "cpu", "name": processor(), "cores": cores(), "load_before": load},
        "versions": versions() | versions(PEER_PACKAGES),
        "commit": commit(),
        "command": "python -m benchmarks " + shlex.join(options.arguments),
        "finished": now(),
    }
    print(as_table(record))
    if options.json:
        write_whole(Path(options.json), json.dumps(record, indent=1) + "\n")
    if options.plot:
        plot(record, Path(options.plot))
    return 0


def choose(
    there: Sequence[Contestant], base: str, asked: Sequence[str] | None
) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants to measure, and those that cannot be, each with the package that is missing.

    The reference is always among them.

    Raises:
        RunError: a name is unknown, or the reference cannot be measured.
    """
    names = [one.name for one in there]
    if asked is not None and (unknown := [name for name in asked if name not in names]):
        raise RunError(f"--contestants (={', '.join(unknown)}) must be of this dataset's: {', '.join(names)}.")
    wanted = [one for one in there if asked is None or one.name in asked or one.name == base]
    skipped = {one.name: one.missing() for one in wanted if one.missing()}
    if base in skipped:
        raise RunError(
            f"{base}, to which all ratios refer, needs {skipped[base]}, which is not installed: `python -m benchmarks "
            "doctor` says how to add it."
        )
    return [one for one in wanted if one.name not in skipped], skipped


def checked_workers(asked: int | None) -> int:
    """Threads or processes of each contestant; default: every core that this process may use."""
    if asked is not None and asked > cores():
        raise RunError(f"--workers (={asked}) must be at most {cores()}, the cores this process may use.")
    return asked or cores()


def prepare(options: argparse.Namespace) -> Files:
    """The files of the measurement that the command line asks for."""
    if options.loaders == "imagenet":
        return prepare_photos(options.photos, options.root, options.images)
    if options.photos is not None:
        raise RunError(f"--photos (={options.photos}) needs --loaders imagenet: leave it out.")
    return prepare_array(options.loaders, options.root, options.images)


# Measuring ------------------------------------------------------------------------------------------------------------


def measure(
    chosen: Sequence[Contestant], files: Files, batch_size: int, workers: int, rounds: int, seconds: float
) -> tuple[dict[str, Start], dict[str, list[Turn]]]:
    """Every contestant in a process of its own; a turn of each in every round, every second round backward.

    The processes live on while others have their turn, waiting. Their first epochs, in which they compile and fill the
    page cache, are not timed.

    Raises:
        RunError: a contestant failed, did not answer, or gave other batches than it should.
    """
    from tqdm import tqdm

    starts: dict[str, Start] = {}
    turns: dict[str, list[Turn]] = {one.name: [] for one in chosen}
    with ExitStack() as stack:
        progress = stack.enter_context(tqdm(total=len(chosen) * (rounds + 1), unit=" turns", leave=False))
        running = {}
        for one in chosen:
            progress.set_description(f"first epoch of {one.name}")
            running[one.name] = stack.enter_context(Running(one, files, batch_size, workers))
            starts[one.name] = running[one.name].answer(Start)
            check_start(one.name, starts[one.name], files, batch_size)
            progress.update()
        epoch = 1
        for number in range(rounds):
            for one in chosen if number % 2 == 0 else chosen[::-1]:
                progress.set_description(f"round {number + 1} of {rounds}, {one.name}")
                running[one.name].ask((epoch, seconds))
                turns[one.name].append(running[one.name].answer(Turn))
                progress.update()
            epoch += 1000  # more than a turn has: no epoch is read twice
    return starts, turns


class Running:
    """A contestant's process, ended with the `with` block."""

    def __init__(self, contestant: Contestant, files: Files, batch_size: int, workers: int) -> None:
        spawn = get_context("spawn")  # nothing of this process is in it
        self.name = contestant.name
        self.connection, other = spawn.Pipe()
        self.process = spawn.Process(
            target=serve, args=(files.dataset, contestant.name, files, batch_size, workers, other)
        )
        self.process.start()
        other.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()
        self.process.join(0 if error[0] else 10)
        if self.process.exitcode is None:
            self.process.terminate()
            self.process.join(10)
        if self.process.exitcode is None:
            self.process.kill()

    def ask(self, message: object) -> None:
        """Send what it waits for."""
        self.connection.send(message)

    def answer(self, kind: type) -> Any:
        """What it sends back.

        Raises:
            RunError: it failed, ended or keeps silent.
        """
        remedy = "leave it out with --contestants"
        try:
            if not self.connection.poll(PATIENCE):
                raise RunError(f"contestant {self.name} did not answer in {PATIENCE} s: {remedy}.")
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(10)
            raise RunError(
                f"contestant {self.name} ended with status {self.process.exitcode}: {remedy}; its output is above."
            ) from None
        if not isinstance(message, kind):
            raise RunError(f"contestant {self.name} failed: {remedy}.\n{message}")
        return message


def check_start(name: str, start: Start, files: Files, batch_size: int) -> None:
    """Refuse a contestant that does not do the others' work: every image but an incomplete last batch, as uint8.

    Raises:
        RunError: it does not.
    """
    size = {"imagenet": 224, "cifar10": 32, "mnist": 28}[files.dataset]
    channels = 1 if files.dataset == "mnist" else 3
    shapes = [[batch_size, size, size, channels], [batch_size, channels, size, size]]
    if start.shape not in shapes or start.dtype != "uint8":
        raise RunError(f"contestant {name} gave {start.dtype} {start.shape}, it must be uint8 and one of {shapes}.")
    if not 0.5 * files.count < start.images <= files.count:
        raise RunError(f"contestant {name} read {start.images} of {files.count} images in an epoch.")


# Statistics -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A contestant over all rounds.

    Args:
        name: as on the command line.
        what: in words.
        ours: whether it is of this suite.
        rate: images per processor second, over all processes and threads; median over rounds.
        lowest: of the rounds' rates.
        highest: of the rounds' rates.
        ratio: to the reference's rate of the same round, median over rounds.
        lowest_ratio: of the rounds' ratios.
        highest_ratio: of the rounds' ratios.
        wall: images per second, median over rounds.
        first_batch: processor seconds from the start of the process to its first batch.
    """

    name: str
    what: str
    ours: bool
    rate: float
    lowest: float
    highest: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    wall: float
    first_batch: float


def rows(record: dict[str, Any]) -> list[Row]:
    """All contestants of a measurement, fastest first."""

    def rates(one: dict[str, Any]) -> list[float]:
        return [turn["images"] / turn["cpu_seconds"] for turn in one["rounds"]]

    (base,) = (rates(one) for one in record["contestants"] if one["name"] == record["reference"])
    found = []
    for one in record["contestants"]:
        mine = rates(one)
        ratios = [rate / other for rate, other in zip(mine, base, strict=True)]
        found.append(
            Row(
                name=one["name"],
                what=one["what"],
                ours=one["ours"],
                rate=statistics.median(mine),
                lowest=min(mine),
                highest=max(mine),
                ratio=statistics.median(ratios),
                lowest_ratio=min(ratios),
                highest_ratio=max(ratios),
                wall=statistics.median(turn["images"] / turn["wall_seconds"] for turn in one["rounds"]),
                first_batch=one["first_epoch"]["first_batch_cpu_seconds"],
            )
        )
    return sorted(found, key=lambda row: -row.ratio)


# Showing --------------------------------------------------------------------------------------------------------------

HEADERS = ("loader", "", "images/s/core", "rounds", "ratio", "rounds", "images/s", "first batch, CPU s")


def cells(row: Row) -> list[str]:
    """The row as text, one cell per header."""
    return [
        row.name,
        row.what,
        rounded(row.rate),
        f"{rounded(row.lowest)} to {rounded(row.highest)}",
        f"{row.ratio:.2f}",
        f"{row.lowest_ratio:.2f} to {row.highest_ratio:.2f}",
        rounded(row.wall),
        f"{row.first_batch:.1f}",
    ]


def rounded(rate: float) -> str:
    """A rate to three digits, 12345 as `12 300`."""
    digits = 3 - len(str(int(rate)))
    return f"{round(rate, min(digits, 0)):,.0f}".replace(",", " ")


def heading(record: dict[str, Any]) -> str:
    """What was measured, on what, in a sentence or two."""
    files = record["files"]
    copies = (
        f", {files['count']} images of which {files['distinct']} different"
        if files["count"] > files["distinct"]
        else f", {files['count']} images"
    )
    rounds = len(record["contestants"][0]["rounds"])
    return (
        f"{files['source']}{copies}; {record['task']}, batch {record['batch_size']}, {record['workers']} workers; "
        f"{rounds} {'rounds' if rounds > 1 else 'round'} in alternation on {record['hardware']['cores']} cores of "
        f"{record['hardware']['name']}"
    )


def footnote(record: dict[str, Any]) -> str:
    """What the columns mean."""
    return (
        "images/s/core: images per processor second of all its processes and threads, median over rounds; ratio: to "
        f"{record['reference']} in the same round, median; images/s: by the clock on the wall."
    )


def as_table(record: dict[str, Any]) -> str:
    """The table for a terminal."""
    from tabulate import tabulate

    columns = ("left", "left", "right", "right", "right", "right", "right", "right")
    table = tabulate(map(cells, rows(record)), HEADERS, tablefmt="simple", disable_numparse=True, colalign=columns)
    return f"{heading(record)}\n\n{table}\n\n{footnote(record)}"


def plot(record: dict[str, Any], path: Path) -> None:
    """Bars of images per processor second, with the rounds' spread and the ratio to the reference."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = rows(record)[::-1]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.4 * len(shown)), layout="constrained")
    rates = [row.rate for row in shown]
    spread = [[row.rate - row.lowest for row in shown], [row.highest - row.rate for row in shown]]
    colours = ["tab:blue" if row.ours else "tab:gray" for row in shown]
    axes.barh([row.what for row in shown], rates, xerr=spread, color=colours, ecolor="black", capsize=2)
    for place, row in enumerate(shown):
        axes.annotate(f"{row.ratio:.2f} x", (row.highest, place), (5, 0), textcoords="offset points", va="center")
    axes.margins(x=0.12)
    axes.set_xlabel("images per processor second")
    axes.set_title(f"{record['dataset']}: {record['task']}", fontsize="medium")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
