"""An analysis at W&B: a run of its own with its options, numbers, checks and figures, where W&B is on.

Its files are the record, and W&B is a mirror: what it does ends no analysis. Each time the command is given is another
W&B run. An analysis within a process that has a W&B run open, such as a notebook, is logged to that run instead.
"""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import wandb_run
from benchmarks.recipe import flatten
from benchmarks.wandb_mode import Decision


def open_run() -> Any:
    """The W&B run that is open in this process; None if there is none, for which the client is not imported."""
    return getattr(sys.modules.get("wandb"), "run", None)


def row(stem: str, record: Mapping[str, Any], pictures: Mapping[str, Path]) -> dict[str, Any]:
    """What is logged, by `analysis/NAME/...`: the numbers, nested ones with dots, whether checks held, the figures."""
    import wandb

    numbers = {name: value for name, value in flatten(record["numbers"]).items() if isinstance(value, int | float)}
    parts = {**numbers, **{f"checks/{check['name']}": check["held"] for check in record["checks"]}}
    parts |= {name: wandb.Image(str(path)) for name, path in pictures.items()}
    return {f"analysis/{stem}/{name}": value for name, value in parts.items()}


def log(decision: Decision, stem: str, record: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """Send an analysis whose files are written. What became of it, to be printed; "" where there is nothing to say.

    Args:
        decision: of `benchmarks.wandb_mode.decide`.
        stem: name of its files.
        record: what its JSON file holds.
        pictures: PNG file of each figure.
    """
    try:
        if (run := open_run()) is not None:
            run.log(row(stem, record, pictures))
            return ""
        if decision.mode == "online":
            return f"W&B: {send(stem, record, pictures)}"
    except Exception as error:  # whatever it is, the files are there
        return f"W&B: did not get the analysis ({wandb_run.in_short(error)}): its files have it all"
    return f"W&B: {decision.mode}, {decision.why}" if decision.loud else ""


def send(stem: str, record: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """Make a W&B run of it and end that. Its address."""
    import wandb

    said = ("analysis", "variant", "preset", "seed", "seeds", "options", "command", "hardware", "versions", "finished")
    with tempfile.TemporaryDirectory() as folder:
        run = wandb.init(
            entity=os.environ.get("WANDB_ENTITY"),
            project=os.environ.get("WANDB_PROJECT") or wandb_run.PROJECT,
            id=f"{stem}-{record['preset']}-s{record['seed']}-{uuid.uuid4().hex[:6]}",
            name=f"{stem} {record['preset']} seed {record['seed']}",
            group=stem,
            job_type="analysis",
            tags=[record["analysis"], record["preset"]],
            dir=folder,  # of the client, which keeps nothing that is not sent
            config={name: record[name] for name in said} | {"of_run": record["run"], "commit": record["commit"]},
            mode="online",
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,  # the config has the commit
                init_timeout=wandb_run.OPENING,
                finish_timeout=wandb_run.FINISHING,
                x_skip_transaction_log=True,
            ),
        )
        try:
            run.log(row(stem, record, pictures))
            run.summary["checks_failed"] = sum(not c["held"] for c in record["checks"] if c["must_hold"])
        finally:
            run.finish()
    return str(run.url)
