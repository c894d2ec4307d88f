"""Copies of .beton files on a node's own disk: one a node, checked, shared by all jobs there. Standard library only.

A copy is named after the checksum of its content and appears whole or not at all, so whoever finds it may read it. What
cannot be copied is read where it is: staging makes a run faster and never stops it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "ILSVRC_BENCH_LOCAL"  # the folder of copies, set by job scripts
POLICIES = ("auto", "copy", "never")
MEMORY_SHARE = 0.5  # of the node's free memory that a .beton may take and still be read in place
ROOM_LEFT_BYTES = 1 << 30  # on the node's disk, for others


def nearest(path: Path) -> Path:
    """The whole copy of the .beton at `path` in `$ILSVRC_BENCH_LOCAL`, if there is one, else `path`."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return path
    try:
        copy = copy_of(path, Path(folder))
        whole = copy.stat().st_size == path.stat().st_size
    except (OSError, ValueError):  # no manifest, or no copy
        return path
    return copy if whole else path


def copy_of(path: Path, folder: Path) -> Path:
    """Where the copy of `path` in `folder` is.

    Raises:
        OSError: there is no manifest beside `path`.
        ValueError: the manifest names no checksum.
    """
    return folder / f"{path.stem}-{recorded_checksum(path)[:12]}.beton"


def recorded_checksum(path: Path) -> str:
    """sha256 of the .beton at `path` when it was written, from the manifest beside it."""
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("sha256"), str):
        raise ValueError(f"{path.with_suffix('.json')} names no sha256")
    return content["sha256"]


def stage(path: Path, folder: Path, policy: str) -> str:
    """Copy `path` to `folder` unless that is done, or not worth it; returns one sentence on what was done and why.

    One process of the node copies, others wait for it. `auto` leaves a file in place that fits in half of the memory
    which the node has free: after the first epoch it is read from there.
    """
    try:
        copy, size = copy_of(path, folder), path.stat().st_size
    except (OSError, ValueError) as error:
        return f"{path} is read in place: it is not converted yet ({error})"
    if policy == "never":
        return f"{path} is read in place, as asked"
    free = free_memory()
    if policy == "auto" and not copy.exists() and size <= MEMORY_SHARE * free:
        return f"{path} is read in place: {gigabytes(size)} fit in the memory of the node, {gigabytes(free)} free"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(copy.with_suffix(".lock")):
            if copy.exists():
                return f"{copy} is there already"
            room = shutil.disk_usage(folder).free
            if room < size + ROOM_LEFT_BYTES:
                return (
                    f"{path} is read in place: {folder} has {gigabytes(room)} free, the copy takes {gigabytes(size)} "
                    f"and leaves {gigabytes(ROOM_LEFT_BYTES)}; what is old there may be removed"
                )
            copy_checked(path, copy)
    except (OSError, ValueError) as error:
        return f"{path} is read in place: it could not be copied to {folder} ({error})"
    return f"{copy} is a copy of {path}, {gigabytes(size)}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, on this node's own disk; the system frees it when its process dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def copy_checked(path: Path, copy: Path) -> None:
    """Copy beside the final name, compare the checksum on the way, sync, rename.

    Raises:
        ValueError: the copied bytes are not those that were converted.
        OSError: the disk is full or cannot be written.
    """
    unfinished = copy.with_suffix(".unfinished")  # of a process that was killed, too: the lock is held
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as source, open(unfinished, "wb") as target:
            while piece := source.read(1 << 24):
                digest.update(piece)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != recorded_checksum(path):
            raise ValueError("its checksum is not that of the manifest")
        os.replace(unfinished, copy)
    finally:
        unfinished.unlink(missing_ok=True)


def free_memory() -> int:
    """Bytes that pages of files can take on this node: what is available, within the limits of this job."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) << 10
    limits = [available]
    if asked := os.environ.get("SLURM_MEM_PER_NODE", ""):  # megabytes; 0 means all
        limits += [int(asked) << 20] if asked.isdigit() and int(asked) else []
    for group in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = group.read_text().strip() if group.is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def gigabytes(size: int) -> str:
    """`1.5 GB`."""
    return f"{size / 1e9:.1f} GB"
