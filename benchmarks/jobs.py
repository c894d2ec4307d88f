"""Jobs: a template of `slurm/` filled in, checked and handed to sbatch, and the record of it. Standard library only.

What a user types never becomes shell. Options of sbatch are held to the characters that their values can have;
everything else is quoted in the script, word by word, and passed to programs as a list.

A submission is a folder, `runs/jobs/<date>-<time>-<four digits>/`, with the scripts as they were submitted, the jobs'
logs, `submission.json` (commit, jobs, runs), the changes since the commit where there are any, and later report.md.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.runs import RunError, runs_root

CHECKOUT = Path(__file__).parent.parent
TEMPLATES = CHECKOUT / "slurm"
RECORD = "submission.json"
OWN_VARIABLES = ("ILSVRC_BENCH_RUNS", "ILSVRC_BENCH_DATA", "ILSVRC_BENCH_CACHE")

SIGNAL_LEAD_SECONDS = 180  # between the signal and the time limit; as in the templates
SIGNAL_EARLY_SECONDS = 60  # the signal may come this much earlier (man sbatch)
START_UP_SECONDS = 120  # imports, compilation and the first batch

OPTIONS_MARK, BEGIN_MARK, END_MARK = "# submit: options", "# submit: begin", "# submit: end"

# The characters that a value may have. None of them ends a line or a word of a directive.
VALUES = {
    "partition": r"[\w.,+-]+",
    "account": r"[\w.@+-]+",
    "qos": r"[\w.,+-]+",
    "constraint": r"[\w.,:&|*()\[\]-]+",
    "reservation": r"[\w.,+-]+",
    "exclude": r"[\w.,\[\]-]+",
    "mem": r"\d+[KMGT]?",
    "time": r"[\d:-]+",
}
COUNTS = ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task")


@dataclass(frozen=True)
class Resources:
    """What each run asks for, by the names of sbatch's options; None leaves it to the template and the site.

    Args:
        options: values by name: those of `VALUES`, as text, and of `COUNTS`, as numbers.
        array_limit: so many runs at a time.
        extra: further options of sbatch, as they are.
    """

    options: dict[str, str | int] = field(default_factory=dict)
    array_limit: int | None = None
    extra: Sequence[str] = ()

    @property
    def nodes(self) -> int:
        """Nodes of each run."""
        return int(self.options.get("nodes", 1))

    @property
    def tasks_per_node(self) -> int:
        """Ranks on each node."""
        return int(self.options.get("ntasks-per-node", 1))

    @property
    def ranks(self) -> int:
        """Ranks of each run."""
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True)
class Task:
    """One run.

    Args:
        recipe: what `fit --config` is given.
        seed: its seed.
        settings: further arguments of `fit`.
        folder: the run's folder.
        epochs: it trains for; None where steps are counted.
        beton: files that it reads and that may be copied to the nodes.
    """

    recipe: str
    seed: int
    settings: list[str]
    folder: Path
    epochs: int | None = None
    beton: Sequence[Path] = ()

    @property
    def words(self) -> list[str]:
        """The arguments of the template."""
        return [self.recipe, str(self.seed), *self.settings]


# Values ---------------------------------------------------------------------------------------------------------------


def check_resources(options: dict[str, Any]) -> dict[str, str | int]:
    """The options that are given, with one task per GPU, where all of them can be options of sbatch.

    Raises:
        RunError: naming the value, what it must be, and the remedy.
    """
    found: dict[str, str | int] = {}
    for name, pattern in VALUES.items():
        value = options.get(name)
        if value is None:
            continue
        if not re.fullmatch(pattern, value):
            raise RunError(f"--{name} (={value!r}) must be of the form {pattern}, as sbatch takes it: correct it.")
        found[name] = value
    for name in COUNTS:
        if options.get(name) is not None:
            found[name] = int(options[name])
    gpus = found.get("gpus-per-node")
    if found.setdefault("ntasks-per-node", gpus or 1) != (gpus or found["ntasks-per-node"]):
        raise RunError(
            f"--ntasks-per-node (={found['ntasks-per-node']}) must be --gpus-per-node (={gpus}), one task for each "
            "GPU: leave it out."
        )
    if "time" in found:
        check_time(str(found["time"]))
    return found


def check_time(text: str) -> None:
    """The limit must leave time to start and to answer the signal before it.

    Raises:
        RunError: it does not, or is no time.
    """
    seconds = read_time(text)
    least = SIGNAL_LEAD_SECONDS + SIGNAL_EARLY_SECONDS + START_UP_SECONDS
    if seconds <= least:
        raise RunError(
            f"--time (={text}) must be more than {least // 60} minutes: the signal to write a checkpoint comes up to "
            f"{SIGNAL_LEAD_SECONDS + SIGNAL_EARLY_SECONDS} s before the limit, and a start takes up to "
            f"{START_UP_SECONDS} s. Ask for more; a run that needs longer than its limit comes back by itself."
        )


def read_time(text: str) -> int:
    """Seconds of a time as sbatch reads it: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S.

    Raises:
        RunError: it is none.
    """
    days, dash, rest = text.partition("-") if "-" in text else ("0", "", text)
    parts = rest.split(":")
    if not days.isdigit() or not all(part.isdigit() for part in parts) or len(parts) > 3:
        raise RunError(f"--time (={text}) must be a time as sbatch reads it: 90 (minutes), 4:00:00, or 1-12:00:00.")
    numbers = [int(part) for part in parts]
    units = (3600, 60, 1) if dash else {1: (60, 0, 0), 2: (60, 1, 0), 3: (3600, 60, 1)}[len(parts)]
    return 86400 * int(days) + sum(number * unit for number, unit in zip(numbers, units, strict=False))


def check_words(words: Sequence[str]) -> None:
    """No program can be given a word with a zero byte.

    Raises:
        RunError: one has it.
    """
    for word in words:
        if "\0" in word:
            raise RunError(f"{word!r} has a zero byte, which no program can be given: correct it.")


# Scripts --------------------------------------------------------------------------------------------------------------


def render(template: Path, options: dict[str, Any], body: Sequence[str]) -> str:
    """The template with sbatch's options and, in place of what reads the arguments, the lines of `body`.

    Raises:
        RunError: it has not the marks, or a value could end its line.
    """
    try:
        lines = template.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RunError(f"{template} cannot be read ({error.strerror}): restore it, git checkout slurm.") from None
    marks = (OPTIONS_MARK, BEGIN_MARK, END_MARK)
    if not lines or not lines[0].startswith("#!") or any(lines.count(mark) != 1 for mark in marks):
        raise RunError(f"{template} must begin with #! and have each of these lines once: {', '.join(marks)}.")
    after, begin, end = (lines.index(mark) for mark in marks)
    commands = [number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")]
    if not after < commands[0] <= begin < end:
        raise RunError(f"{template}: `{OPTIONS_MARK}` must be before the first command, the other two behind it.")
    directives = []
    for name, value in options.items():
        if re.search(r"[\s\"'\\#]", str(value)):  # sbatch takes a directive apart at these
            raise RunError(f"--{name} (={str(value)!r}) must have no space, quote, backslash or #: name another.")
        directives.append(f"#SBATCH --{name}={value}" if value != "" else f"#SBATCH --{name}")
    return "\n".join([*lines[:after], *directives, *lines[after + 1 : begin], *body, *lines[end + 1 :], ""])


def surroundings() -> list[str]:
    """The folders of the suite and the commit as lines of a script: what was checked is what the job uses."""
    lines = [f"export {name}={shlex.quote(os.environ[name])}" for name in OWN_VARIABLES if os.environ.get(name)]
    return [*lines, f"commit={shlex.quote(git('rev-parse', 'HEAD').strip())}"]


def arguments_of(task: Task) -> list[str]:
    """A task as lines of a script."""
    check_words(task.words)
    return [f"beton=({shlex.join(map(str, task.beton))})", f"set -- {shlex.join(task.words)}"]


def train_script(tasks: Sequence[Task], resources: Resources, log: Path) -> str:
    """The script that trains all `tasks`: train.sbatch for one, array.sbatch for several."""
    options: dict[str, Any] = dict(resources.options)
    options["job-name"] = "ilsvrc-bench-" + re.sub(r"[^\w.-]+", "-", tasks[0].recipe.removesuffix(".yaml"))[-40:]
    if len(tasks) == 1:
        options["output"] = log_path(log, "%x-%j.log")
        return render(TEMPLATES / "train.sbatch", options, [*surroundings(), *arguments_of(tasks[0])])
    options["job-name"] = "ilsvrc-bench" if len({task.recipe for task in tasks}) > 1 else options["job-name"]
    options["output"] = log_path(log, "%x-%A_%a.log")
    limit = f"%{resources.array_limit}" if resources.array_limit else ""
    numbers = [number_of(task, tasks) for task in tasks]
    options["array"] = ranges(numbers) + limit
    cases = []
    for number, task in zip(numbers, tasks, strict=True):
        beton, words = arguments_of(task)
        cases += [f"    {number})", f"        {beton}", f"        {words}", "        ;;"]
    body = [*surroundings(), 'case "$task" in', *cases, '    *) echo "no run $task" >&2 && exit 2 ;;', "esac"]
    return render(TEMPLATES / "array.sbatch", options, body)


def number_of(task: Task, tasks: Sequence[Task]) -> int:
    """The number of a task in its array: its seed where these differ, else its place."""
    seeds = [one.seed for one in tasks]
    return task.seed if len(set(seeds)) == len(seeds) and max(seeds) < 1000 else tasks.index(task)


def task_numbers(tasks: Sequence[Task]) -> list[str]:
    """What follows a job's id in the name of each task: `_3`; nothing where there is but one."""
    return [f"_{number_of(task, tasks)}" for task in tasks] if len(tasks) > 1 else [""]


def ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] as `0-2,5`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def check_folder(folder: Path) -> None:
    """sbatch must be able to name the folder of logs, and this user to write there.

    Raises:
        RunError: one of them cannot.
    """
    if not re.fullmatch(r"[\w./%+,:@=-]+", str(folder)):
        raise RunError(
            f"the log folder (={str(folder)!r}) must have no spaces or quotes, which options in a script cannot have: "
            "name another folder of runs with --runs, or ILSVRC_BENCH_RUNS."
        )
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise RunError(
            f"the log folder {folder} cannot be written, since {there} cannot: name another folder of runs with "
            "--runs, or ILSVRC_BENCH_RUNS."
        )


def log_path(folder: Path, name: str) -> str:
    """A value of --output; sbatch replaces %, so that one in the folder's own name is doubled."""
    return f"{str(folder).replace('%', '%%')}/{name}"


# The cluster ----------------------------------------------------------------------------------------------------------


def site_environment() -> dict[str, str]:
    """What the environment is after `slurm/site.sh`, or the file that `$ILSVRC_BENCH_SITE` names.

    Raises:
        RunError: bash cannot read it.
    """
    site = Path(os.environ.get("ILSVRC_BENCH_SITE") or TEMPLATES / "site.sh")
    command = ["bash", "-c", 'set -eu; source "$1" >&2; env -0', "-", str(site)]
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    except OSError as error:
        raise RunError(f"{site} cannot be read: bash does not start ({error.strerror}). Put it on the path.") from None
    if done.returncode:
        raise RunError(f"{site} cannot be read by bash ({done.stderr.strip()}): correct it.")
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line)


def adopt_site() -> dict[str, str]:
    """Take over the folders that the site names, as whole paths, and return sbatch's variables: {"partition": ...}."""
    found = site_environment()
    for name in OWN_VARIABLES:
        if found.get(name):
            base = Path.cwd() if os.environ.get(name) else CHECKOUT
            os.environ[name] = str((base / found[name]).resolve())
    names = {"SBATCH_TIMELIMIT": "time", "SBATCH_MEM_PER_NODE": "mem"}
    names |= {f"SBATCH_{name.upper()}": name for name in VALUES}
    return {names[name]: value for name, value in found.items() if name in names and value}


def check_cluster(resources: Resources) -> None:
    """There must be sbatch, and the partition that is asked for.

    Raises:
        RunError: there is not.
    """
    if shutil.which("sbatch") is None:
        raise RunError(
            "sbatch is not on the path: submit on a login node of the cluster. --dry-run prints the script anywhere."
        )
    wanted = resources.options.get("partition")
    known = sorted(set(ask("sinfo", "--noheader", "--all", "--format=%R").split()))
    for name in str(wanted).split(",") if wanted else []:
        if known and name not in known:
            raise RunError(f"--partition (={name}) is not one of this cluster's, {', '.join(known)}: name one of them.")


def ask(*command: str) -> str:
    """Standard output of a command of Slurm; nothing where it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def sbatch(script: Path, *options: str) -> str:
    """Submit a script, and return the id of its job; with --test-only, nothing is queued and there is none.

    The script holds all options, so sbatch's variables of the environment, which would win over it, are left out.

    Raises:
        RunError: sbatch refuses it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SBATCH_")}
    command = ["sbatch", "--parsable", *options, str(script)]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RunError(
            f"sbatch refuses {script.name} ({done.stderr.strip()}): change what was asked for, or, where it does not "
            "reach Slurm's controller, submit again when `sinfo` does."
        )
    return done.stdout.strip().split(";")[0]


# Submissions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepare:
    """A dataset to convert first: its name and the arguments of `prepare`."""

    dataset: str
    words: list[str]


@dataclass
class Submission:
    """A folder with scripts that are ready to be queued: first prepare, then train, then report."""

    folder: Path
    tasks: Sequence[Task]
    resources: Resources
    prepare: Sequence[Prepare] = ()
    report: bool = True

    def scripts(self) -> dict[str, str]:
        """Every script by the name of its file, in the order in which they run."""
        asked = {name: self.resources.options[name] for name in ASKED_BY_ALL if name in self.resources.options}
        found = {}
        for one in self.prepare:
            options = asked | {"output": log_path(self.folder, "%x-%j.log")}
            body = [*surroundings(), f"set -- {shlex.join(one.words)}"]
            found[f"prepare-{one.dataset}.sbatch"] = render(TEMPLATES / "prepare.sbatch", options, body)
        found["train.sbatch"] = train_script(self.tasks, self.resources, self.folder)
        if self.report:
            options = asked | {"output": log_path(self.folder, "%x-%j.log")}
            words = [str(self.folder / "report.md"), str(self.folder)]
            body = [*surroundings(), f"set -- {shlex.join(words)}"]
            found["report.sbatch"] = render(TEMPLATES / "report.sbatch", options, body)
        return found

    def write(self) -> None:
        """Make the folder with the scripts.

        Raises:
            RunError: it cannot be written; nothing is left of it.
        """
        scripts = self.scripts()
        try:
            self.folder.mkdir(parents=True)
            with self.taken_back():
                for name, text in scripts.items():
                    (self.folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"the log folder {self.folder} cannot be written ({error.strerror}): name another folder of runs with "
                "--runs, or ILSVRC_BENCH_RUNS."
            ) from None

    @contextmanager
    def taken_back(self) -> Iterator[None]:
        """Remove what was written where something fails; only logs of jobs that had begun stay."""
        try:
            yield
        except BaseException:
            for written in (
                *self.folder.glob("*.sbatch"),
                self.folder / "changes.diff",
                self.folder / f".{RECORD}.tmp",
            ):
                written.unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()
            raise

    def test(self) -> None:
        """Have sbatch check every script; nothing is queued.

        Raises:
            RunError: sbatch refuses one; the folder is removed.
        """
        with self.taken_back():
            for name in self.scripts():
                sbatch(self.folder / name, "--test-only", *(self.resources.extra if name == "train.sbatch" else ()))

    def queue(self) -> dict[str, str]:
        """Queue the scripts, each after those it needs, and record it. Returns the ids by the scripts' names.

        A run starts when its data is prepared, and is cancelled where that fails; the report comes whatever the runs
        come to, since it names those that are missing.

        Raises:
            RunError: sbatch refuses one; those before it are cancelled, and the folder is removed.
        """
        ids: dict[str, str] = {}
        with self.taken_back():
            try:
                for name in self.scripts():
                    waits: list[str] = []
                    prepared = [job for script, job in ids.items() if script.startswith("prepare-")]
                    if name == "train.sbatch" and prepared:
                        waits = [f"--dependency=afterok:{':'.join(prepared)}", "--kill-on-invalid-dep=yes"]
                    if name == "report.sbatch":
                        waits = [f"--dependency=afterany:{ids['train.sbatch']}"]
                    extra = self.resources.extra if name == "train.sbatch" else ()
                    ids[name] = sbatch(self.folder / name, *waits, *extra)
                self.record(ids)
            except BaseException:
                if ids:
                    subprocess.run(["scancel", *ids.values()], capture_output=True)
                raise
        return ids

    def record(self, ids: dict[str, str]) -> None:
        """Write submission.json, and the changes since the commit beside it.

        Raises:
            RunError: they cannot be written.
        """
        changes = git("diff", "HEAD")
        record = {
            "schema": 1,
            "submitted": datetime.now().astimezone().isoformat(timespec="seconds"),
            "commit": git("rev-parse", "HEAD").strip() or None,
            "clean": not changes,
            "jobs": {name.removesuffix(".sbatch"): job for name, job in ids.items()},
            "options": dict(self.resources.options) | {"extra": list(self.resources.extra)},
            "runs": [
                {
                    "job": ids["train.sbatch"] + number,
                    "recipe": task.recipe,
                    "seed": task.seed,
                    "settings": task.settings,
                    "folder": str(task.folder),
                    "epochs": task.epochs,
                }
                for task, number in zip(self.tasks, task_numbers(self.tasks), strict=True)
            ],
        }
        unfinished = self.folder / f".{RECORD}.tmp"
        try:
            if changes:
                (self.folder / "changes.diff").write_text(changes, encoding="utf-8")
            unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            unfinished.replace(self.folder / RECORD)
        except OSError as error:
            raise RunError(
                f"{self.folder / RECORD} cannot be written ({error.strerror}), and the jobs are cancelled: make room, "
                "or name another folder of runs with --runs."
            ) from None


ASKED_BY_ALL = ("partition", "account", "qos", "reservation")  # also by the jobs without GPU


def new_folder(root: str | None) -> Path:
    """The folder of a submission that starts now, not made yet."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return runs_root(root).resolve() / "jobs" / f"{stamp}-{secrets.token_hex(2)}"


def git(*arguments: str) -> str:
    """What git says of the checkout; nothing where it cannot."""
    command = ["git", "-C", str(CHECKOUT), "-c", f"safe.directory={CHECKOUT}", *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
