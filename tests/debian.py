"""What tests need of Debian's packages, installed where that asks for no password."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence


def install(packages: Sequence[str]) -> str:
    """Install packages with apt, as root; what went wrong, or nothing."""
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=2"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*apt, "update"], env=environment, capture_output=True)
    command = [*apt, "install", "-y", "--no-install-recommends", *packages]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return f"apt-get cannot install {' '.join(packages)}: {done.stderr.strip()[-500:]}" if done.returncode else ""
