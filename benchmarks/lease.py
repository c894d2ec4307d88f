"""A lock on a run folder that outlives no owner and is safe on NFS: a file that its owner keeps fresh.

The file is made by link(2), which is atomic on NFS too, and says who made it. Its owner touches it every few seconds.
A lease is free to take once its owner is certainly dead, which a process on the same machine and a later start of the
same SLURM job can tell at once, or once it has not been touched for `EXPIRY` seconds, by the clock of the file system.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEAT = 15.0  # seconds between touches
EXPIRY = 240.0  # seconds without one; NFS clients may see a touch a minute late
POLL = 2.0  # seconds between looks of a process that waits


class LeaseHeldError(Exception):
    """Another process holds the lease; the message says which, and how fresh its lease is."""


class Lease:
    """The lease on the file at `path`, which this process takes, keeps fresh and gives back.

    Args:
        beat: seconds between touches.
        expiry: seconds without a touch after which another process may take the lease.
    """

    def __init__(self, path: Path, beat: float = BEAT, expiry: float = EXPIRY) -> None:
        self.path = path
        self.beat = beat
        self.expiry = expiry
        self.lost = False  # another process has taken it, for this one was not heard of for too long
        self._ours = {**this_process(), "token": uuid.uuid4().hex}
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, wait: bool = False, tell: Callable[[str], None] = print) -> None:
        """Take the lease; with `wait`, stay until its owner gives it back or dies, and `tell` once who that is.

        Raises:
            LeaseHeldError: another process holds it, and `wait` is false.
            OSError: the folder cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        told = False
        while not self._try():
            holder = self.describe()
            if not wait:
                raise LeaseHeldError(holder)
            if not told:
                tell(f"waiting for {holder}")
                told = True
            time.sleep(min(POLL, self.expiry / 4))
        self._thread = threading.Thread(target=self._keep_fresh, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give it back, unless it was lost."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        if read_lease(self.path).get("token") == self._ours["token"]:
            self.path.unlink(missing_ok=True)

    def describe(self) -> str:
        """Who holds the lease: `process 812 on node3 (SLURM job 17), last heard of 4 s ago`."""
        owner = read_lease(self.path)
        job = f" (SLURM job {owner['job']})" if owner.get("job") else ""
        age = self._age()
        heard = "" if age is None else f", last heard of {max(0.0, age):.0f} s ago"
        return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}{job}{heard}"

    def _try(self) -> bool:
        """Take the lease if it is free."""
        if self._link(self.path):
            return True
        owner, age = read_lease(self.path), self._age()
        if age is None:  # given back meanwhile
            return self._link(self.path)
        if not is_dead(owner) and age < self.expiry:
            return False
        return self._take_over(owner)

    def _take_over(self, owner: dict[str, Any]) -> bool:
        """Replace the lease of a dead owner; of several that want to, the one that links a name after that lease."""
        election = self.path.with_name(f"{self.path.name}.after-{owner.get('token', 'unknown')}")
        if not self._link(election):
            if (age := self._age(election)) is not None and age > self.expiry:  # whose winner has died too
                election.unlink(missing_ok=True)
            return False
        try:
            if read_lease(self.path) != owner:
                return False
            os.replace(self._write(), self.path)
            return True
        finally:
            election.unlink(missing_ok=True)

    def _write(self) -> Path:
        """A file of this process's own that says who it is."""
        own = self.path.with_name(f"{self.path.name}.{self._ours['token']}")
        with open(own, "w", encoding="utf-8") as file:
            json.dump({**self._ours, "thread": threading.get_ident()}, file)
            file.flush()
            os.fsync(file.fileno())
        return own

    def _link(self, name: Path) -> bool:
        """Make `name` if it does not exist. A server's lost answer looks like a failure: the count of links is true."""
        own = self._write()
        try:
            os.link(own, name)
            return True
        except FileExistsError:
            return os.stat(own).st_nlink == 2
        except PermissionError:  # a file system without links
            return self._create(name, own.read_bytes())
        finally:
            own.unlink()

    def _create(self, name: Path, content: bytes) -> bool:
        try:
            file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with open(file, "wb") as opened:
            opened.write(content)
        return True

    def _age(self, path: Path | None = None) -> float | None:
        """Seconds since the lease was touched, by the clock that wrote it; None if there is none."""
        try:
            touched = (path or self.path).stat().st_mtime
            own = self._write()
        except FileNotFoundError:
            return None
        now = own.stat().st_mtime
        own.unlink()
        return now - touched

    def _keep_fresh(self) -> None:
        while not self._done.wait(self.beat):
            try:
                if read_lease(self.path).get("token") != self._ours["token"]:
                    self.lost = True
                    return
                os.utime(self.path)
            except OSError:  # a file server that is away for a while; the lease lasts `expiry` seconds
                continue


def read_lease(path: Path) -> dict[str, Any]:
    """What the owner wrote; empty if there is no lease or nothing to be read from it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def this_process() -> dict[str, Any]:
    """What tells this process from every other, on this machine and elsewhere."""
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "started": process_start(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "launch": launch(),
    }


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner is certainly gone: its process does not run here, or its SLURM job has been started again."""
    if owner.get("machine") == machine() and process_start(owner.get("pid", 0)) != owner.get("started"):
        return True
    later = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > owner.get("restart", 0)
    return bool(owner.get("job")) and owner["job"] == os.environ.get("SLURM_JOB_ID") and later


def machine() -> str:
    """This boot of this machine, and the name space in which process numbers mean something here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def process_start(pid: int) -> str:
    """When process `pid` started, so that a number used again is not taken for it; empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = re.split(r"\s+", text.rpartition(")")[2].strip())
    return "" if state in "ZX" else fields[18]


def launch() -> str:
    """What all ranks that were started together share, and no others; empty for a process that was started alone."""
    if "SLURM_PROCID" in os.environ:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")
    else:
        return ""
    return ".".join(os.environ.get(name, "") for name in names)


def wait_for_first_rank(path: Path, wait: bool, finished: Callable[[], bool], patience: float = 60.0) -> None:
    """Return once the first of the ranks started together holds the lease at `path`, or nothing is left to do.

    So that no rank looks for checkpoints while another job still writes them.

    Raises:
        LeaseHeldError: another process has held it for `patience` seconds, and `wait` is false.
    """
    started = time.monotonic()
    while read_lease(path).get("launch") != launch() and not finished():
        if not wait and path.exists() and time.monotonic() - started > patience:
            raise LeaseHeldError(Lease(path).describe())
        time.sleep(0.2)
