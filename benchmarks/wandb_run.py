"""A run as W&B gets it. The files of the run folder are the record, and W&B is sent their rows, whenever it can be.

One W&B run for each run folder, that is for each recipe, settings and seed. Its id is kept in `wandb.json`, beside the
checkpoints, so that a run which goes on is the same W&B run. Rows have the optimizer's step as W&B's step, and W&B
tells the last one it has when a run is opened: only rows after that are sent, so every metric arrives once however
often a run is killed, and `python -m benchmarks sync` sends what is missing in the same way.

Nothing that W&B does ends a run or holds it up: what fails is said, and the run goes on without it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from benchmarks.published import Claim, verdict
from benchmarks.results import Result, now
from benchmarks.runs import Run
from benchmarks.tables import Row
from datamodules.files import write_whole

log = logging.getLogger("benchmarks")

PROJECT = "ilsvrc-bench"  # where `$WANDB_PROJECT` names no other
OPENING = 8.0  # seconds that the client may take to open a run at a server that has just answered
FINISHING = 10.0  # seconds that the last rows may take
FILES = ("recipe.yaml", "result.json", "metrics.csv")  # that are sent with a finished run

Status = Literal["finished", "stopped", "diverged", "failed"]


# wandb.json -----------------------------------------------------------------------------------------------------------


def read_record(run: Run) -> dict[str, Any]:
    """What wandb.json says; empty where it is not there."""
    try:
        found = json.loads(run.wandb.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_record(run: Run, record: Mapping[str, Any]) -> None:
    """Write wandb.json: id, mode, attempts, started, config, and once W&B has the run entity, project, url and sent."""
    write_whole(run.wandb, json.dumps(record, indent=1, default=str) + "\n")


def new_id(recipe: str, identity: str, seed: int) -> str:
    """`cifar10-resnet20-<hash of the settings>-s0-` and what tells two trainings of the same apart."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', recipe)[:60]}-{identity}-s{seed}-{uuid.uuid4().hex[:6]}"


def note_start(run: Run, mode: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run that starts or goes on; `facts` are those of a `Result` that are known by then."""
    before = read_record(run)
    attempts = before.get("attempts", 0) + 1
    name = before.get("id") or new_id(facts["recipe"], facts["identity"], facts["seed"])
    record = before | {"id": name, "mode": mode, "attempts": attempts, "started": before.get("started") or now()}
    record["config"] = config_of(facts) | {"attempt": attempts, "slurm_job": os.environ.get("SLURM_JOB_ID")}
    write_record(run, record)
    return record


def place(record: Mapping[str, Any]) -> str:
    """`entity/project/id`, or the id alone of a run that W&B does not have."""
    return "/".join(str(record[key]) for key in ("entity", "project", "id") if record.get(key))


# What W&B is told of it -----------------------------------------------------------------------------------------------


def config_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved recipe as it is nested, and where the run comes from. Names that tables sort by are identifiers."""
    resolved: dict[str, Any] = nest(facts["resolved"])
    network = (resolved.get("model") or {}).get("class_path")
    commit, published = facts["commit"], facts["published"]
    return resolved | {
        "recipe": facts["recipe"],
        "dataset": facts["recipe"].split("/")[0],
        "network": network.rpartition(".")[2] if network else None,
        "identity": facts["identity"],
        "seed": facts["seed"],
        "overrides": [f"{key}={value}" for key, value in facts["overrides"].items()],
        "protocols": list(dict.fromkeys(claim["protocol"] for claim in published.get("claims", []))),
        "paper": published.get("paper"),
        "paper_url": published.get("url"),
        "parameters": facts["parameters"],
        "hardware": facts["hardware"],
        "versions": facts["versions"],
        "commit": commit["id"],
        "clean": commit["clean"],
    }


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return nested


def summary_of(result: Result) -> dict[str, Any]:
    """Errors, verdicts and throughput of a finished run, by names that W&B's tables can sort by.

    `error`, `published`, `delta` and `verdict` are those of the first claim, of this seed alone; each protocol has its
    own errors, and each claim its own verdict, under names that end in `_<protocol>`.
    """
    claims = [Claim(**claim) for claim in result.published.get("claims", [])]
    claims = [claim for claim in claims if claim.protocol in result.errors]
    found: dict[str, Any] = {"status": "finished", "finished": result.finished, "parameters": result.parameters}
    for protocol, errors in result.errors.items():
        for metric in ("top1_error", "top5_error"):
            found[f"{metric}_{identifier(protocol)}"] = errors[metric]
    for claim in reversed(claims):  # the first one last, so that its values stay
        error = result.errors[claim.protocol][claim.metric]
        judged = verdict(claim, [error]) if not result.overrides else "changed recipe"
        ours = {"error": error, "published": claim.value, "delta": error - claim.value, "verdict": judged}
        own = f"{claim.metric}_{identifier(claim.protocol)}"
        found |= ours | {f"published_{own}": claim.value, f"verdict_{own}": judged}
    if not claims:
        first = next(iter(result.errors.values()))
        found |= {"error": first["top1_error"], "verdict": "nothing claimed"}
    if rate := result.throughput.get("images_per_s"):
        found |= {"images_per_s": rate, "images_per_s_per_device": rate / result.hardware["devices"]}
    if train := result.seconds.get("train"):
        found |= {"train_hours": train / 3600, "data_wait_share": result.seconds.get("data_wait", 0.0) / train}
    found["hours"] = result.seconds["total"] / 3600
    found |= {name: result.training[name] for name in ("epochs", "steps") if name in result.training}
    return found | {"devices": result.hardware["devices"], "device": result.hardware["name"]}


def images_of(run: Run) -> dict[str, Path]:
    """The figures that the run has drawn, by their names."""
    return {path.stem: path for path in sorted(run.figures.glob("*.png"))}


def identifier(name: str) -> str:
    """`ms-dense-256-384` as `ms_dense_256_384`."""
    return re.sub(r"\W", "_", name)


# The client -----------------------------------------------------------------------------------------------------------


class WandbRun:
    """The W&B run of a run folder while it is open; where there is none, or no longer one, every call does nothing.

    Args:
        record: what wandb.json says; None for a run that W&B gets nothing of.
    """

    def __init__(self, run: Run, record: dict[str, Any] | None = None) -> None:
        self.run = run
        self.record = record or {}
        self.client: Any = None
        self.lost: Any = None  # the client that failed
        self.last = -1  # step of the last row that W&B has
        self.fault = ""

    def open(self) -> None:
        """Begin the W&B run or go on with it; see `fault` where that was not to be."""
        with self._trying("could not be opened"):
            self._open()

    def _open(self) -> None:
        import wandb

        config = self.record["config"]
        settings = wandb.Settings(
            silent=True,
            console="off",  # log.txt has it
            save_code=False,
            disable_git=True,  # the config has the commit
            init_timeout=OPENING,
            finish_timeout=FINISHING,
            finish_timeout_raises=True,
            x_skip_transaction_log=True,  # what it does not get rid of is sent again from the run's own files
        )
        self.client = wandb.init(
            entity=self.record.get("entity") or os.environ.get("WANDB_ENTITY"),  # where it was begun it goes on
            project=self.record.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT,
            id=self.record["id"],
            name=f"{config['recipe']} seed {config['seed']}",
            group=config["recipe"],
            job_type="ensemble" if config["network"] is None else "train",
            tags=[tag for tag in (config["dataset"], config["network"], *config["protocols"]) if tag],
            config=config,
            dir=self.run.folder,
            resume="allow",
            mode="online",
            settings=settings,
        )
        self.last = self.client.starting_step - 1
        self.client.define_metric("epoch", hidden=True)
        for part in ("train/*", "val/*", "perf/*"):
            self.client.define_metric(part, step_metric="epoch")
        self.record |= {"entity": self.client.entity, "project": self.client.project, "url": self.client.url}
        self.record.pop("sent", None)
        write_record(self.run, self.record)

    def log_all(self, rows: Iterable[Row]) -> None:
        """Send the rows that W&B does not have yet, each at its own step."""
        with self._trying("took no more rows"):
            for step, at, values in rows:
                if self.client is not None and step > self.last:
                    self.client.log(values if at is None else values | {"_timestamp": at}, step=step)
                    self.last = step

    def log_images(self, images: Mapping[str, Path], step: int) -> None:
        """Send PNG files, once, in the row after the run's last one, `step`."""
        with self._trying("took no images"):
            if self.client is not None and images and step + 1 > self.last:
                import wandb

                row = {f"figures/{name}": wandb.Image(str(path)) for name, path in images.items()}
                self.client.log(row, step=step + 1)
                self.last = step + 1

    def finish(self, status: Status, result: Result | None = None, confirm: bool = True) -> None:
        """Say how the run ended, with its result if it has one; wait some seconds for what is still on its way.

        With `confirm`, the server is asked what it has, and noted if that is everything.
        """
        if self.client is not None:
            self._finish(status, result)
            if confirm and not self.fault:
                self._confirm(result)
        if self.fault:
            leave(self.lost)

    def _finish(self, status: Status, result: Result | None) -> None:
        with self._trying("did not get everything"):
            self.client.summary.update(summary_of(result) if result else {"status": status})
            if result is not None:
                for name in FILES:
                    if (self.run.folder / name).is_file():
                        self.client.save(self.run.folder / name, base_path=self.run.folder, policy="now")
            elif status == "stopped":
                self.client.mark_preempting()
            try:
                self.client.finish(exit_code=0 if status == "finished" else 1)
            except TimeoutError:
                raise TimeoutError(f"it did not take the last rows within {FINISHING:.0f} s") from None
        self.client = None

    def _confirm(self, result: Result | None) -> None:
        """Note in wandb.json what the server says it has, if that is all that was sent."""
        for pause in (0.0, 1.0, 2.0):  # it may tell of what it got a moment later
            time.sleep(pause)
            with self._trying("did not say what it has"):
                if has_all(self.record, self.last, result):
                    note_sent(self.run, self.record, self.last, result)
                    return
            if self.fault:
                return
        self.fault = "did not get everything"

    @contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        """Whatever goes wrong within it is noted and said, and ends W&B's part in the run, and nothing else."""
        try:
            yield
        except Exception as error:
            self.fault = f"{what} ({in_short(error)})"
            self.client, self.lost = None, self.client


def leave(client: Any) -> None:
    """Rid this process of a client that failed: its threads end, and the next run opened is not taken for it."""
    import wandb

    with suppress(Exception):  # its own process may be gone
        client.finish(exit_code=1)
    with suppress(Exception, SystemExit):  # it may pass on that process's exit status
        wandb.teardown(exit_code=1)


def in_short(error: BaseException) -> str:
    """The first line of its message, or its type."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def has_all(record: Mapping[str, Any], last: int, result: Result | None) -> bool:
    """Whether the server has the run up to the step `last`, and the summary of `result`."""
    import wandb

    try:
        found = wandb.Api(timeout=int(FINISHING)).run(place(record))
    except (ValueError, wandb.errors.CommError) as error:
        if "ould not find" in str(error) or "not found" in str(error):
            return False
        raise
    return found.lastHistoryStep >= last and (result is None or found.summary.get("finished") == result.finished)


def note_sent(run: Run, record: dict[str, Any], last: int, result: Result | None) -> None:
    """Note in wandb.json that the server has what `has_all` asks it for."""
    record["sent"] = {"step": last, "finished": result.finished if result else None, "at": now()}
    write_record(run, record)
