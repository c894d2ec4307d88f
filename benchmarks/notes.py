"""What a run tells the script of its job, which knows neither the hash in its folder's name nor its exit status.

srun reports the highest status of all tasks, and a task that it killed because another one failed has the highest. So
the processes note, in the file that `$ILSVRC_BENCH_NOTES` names, one `key value` a line. See `slurm/job.sh`.
"""

from __future__ import annotations

import os

VARIABLE = "ILSVRC_BENCH_NOTES"


def note(key: str, value: object) -> None:
    """Add a line to the job's notes; outside a job, nothing."""
    path = os.environ.get(VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{key} {value}\n")
