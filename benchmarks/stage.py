"""`python -m benchmarks stage`: copy .beton files to this node's own disk, once for all jobs there. Without torch."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from datamodules.staging import stage


def stage_files(options: argparse.Namespace) -> int:
    """Print, for each file, where this node will read it, and why."""
    node = socket.gethostname()
    for path in options.files:
        print(f"{node}: {stage(Path(path), Path(options.to), options.policy)}", flush=True)
    return 0
