"""A lock that outlives no owner: one owner at a time, whoever dies, however many want it."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lease import Lease, LeaseHeldError, read_lease, this_process, wait_for_first_rank


def held_by(path: Path, **changes: Any) -> None:
    """A lease of another process, which lives unless `changes` say otherwise."""
    path.write_text(json.dumps({**this_process(), "token": "theirs", **changes}))


def test_a_lease_is_held_by_one_and_names_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "folder" / ".lock"
    lease = Lease(path)
    lease.acquire()
    with pytest.raises(
        LeaseHeldError, match=rf"process {os.getpid()} on {socket.gethostname()}, last heard of 0 s ago"
    ):
        Lease(path).acquire()
    lease.release()
    assert list(path.parent.iterdir()) == []
    again = Lease(path)
    again.acquire()
    again.release()


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    held_by(path, pid=child, started="1")
    Lease(path).acquire()
    held_by(path, started="another process has got the number since")
    Lease(path).acquire()


def test_a_lease_of_elsewhere_lasts_until_it_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    held_by(path, machine="another", host="node7", job="17")
    with pytest.raises(LeaseHeldError, match=r"on node7 \(SLURM job 17\), last heard of 0 s ago"):
        Lease(path).acquire()
    os.utime(path, (time.time() - 300, time.time() - 300))
    lease = Lease(path)
    lease.acquire()
    assert read_lease(path)["token"] != "theirs"
    lease.release()
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_was_started_again_takes_its_own_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    held_by(path, machine="a node that is gone", restart=0)
    with pytest.raises(LeaseHeldError):
        Lease(path).acquire()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    Lease(path).acquire()


def test_an_owner_that_was_thought_dead_learns_that_it_lost(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lease = Lease(path, beat=0.02)
    lease.acquire()
    held_by(path, machine="another")
    deadline = time.monotonic() + 30
    while not lease.lost:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lease.release()
    assert read_lease(path)["token"] == "theirs"


def test_an_owner_keeps_its_lease_fresh_and_another_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    first, second = Lease(path, beat=0.05, expiry=2.0), Lease(path, beat=0.05, expiry=2.0)
    first.acquire()
    told: list[str] = []
    waiter = threading.Thread(target=second.acquire, args=(True, told.append))
    waiter.start()
    waiter.join(3)  # longer than a lease lasts that is not kept fresh
    assert waiter.is_alive()
    assert len(told) == 1
    assert told[0].startswith(f"waiting for process {os.getpid()}")
    first.release()
    waiter.join(30)
    assert not waiter.is_alive()
    second.release()


def take(path: Path, taken: Any, start: Any) -> None:
    start.wait()
    lease = Lease(path)
    try:
        lease.acquire()
    except LeaseHeldError:
        return
    taken.put(os.getpid())
    time.sleep(1.0)  # nobody has it while another holds it


@pytest.mark.parametrize("dead", [False, True])
def test_of_ten_that_want_it_at_once_one_gets_it(tmp_path: Path, dead: bool) -> None:
    """A free lease, and one of a dead owner."""
    path = tmp_path / ".lock"
    if dead:
        held_by(path, started="long gone")
    context = multiprocessing.get_context("fork")
    taken, start = context.Queue(), context.Event()
    processes = [context.Process(target=take, args=(path, taken, start)) for _ in range(10)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert taken.get(timeout=10)
    assert taken.empty()


def test_other_ranks_wait_until_the_first_of_their_own_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    for name, value in {"SLURM_PROCID": "1", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    held_by(path, launch="16.0.")
    with pytest.raises(LeaseHeldError):
        wait_for_first_rank(path, False, lambda: False, patience=0.1)
    wait_for_first_rank(path, False, lambda: True)
    waiter = threading.Thread(target=wait_for_first_rank, args=(path, True, lambda: False))
    waiter.start()
    waiter.join(0.5)
    assert waiter.is_alive()
    path.unlink()
    Lease(path).acquire()
    waiter.join(30)
    assert not waiter.is_alive()
