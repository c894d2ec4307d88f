"""Signals that ask a run to stop. They are only noted here; the run stops where it can be gone on with.

`python -m benchmarks fit` and `ensemble` call `listen` before anything slow is imported, because a scheduler may send
its signal in the first seconds. Nothing else is done in a handler: one that saves, or talks to other ranks, can do so
in the middle of anything and then waits for ever.

SIGUSR1 and SIGUSR2 say that time is nearly up: a run that stops for them leaves with status 75, EX_TEMPFAIL of
sysexits.h, and wants to go on. SIGTERM leaves with 143 and Ctrl-C with 130, as shells report them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WANTS_TO_GO_ON = 75
STATUS = {signal.SIGUSR1: WANTS_TO_GO_ON, signal.SIGUSR2: WANTS_TO_GO_ON, signal.SIGTERM: 143, signal.SIGINT: 130}

SCHEDULERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)

_asked = 0  # the first signal received
_listener = 0  # the process that listens; others have inherited its handlers, such as workers that load data
_at_once = False


class RunStopped(SystemExit):
    """A run was asked to stop and has saved what it needs to go on; `code` is the exit status."""

    def __init__(self, signum: int) -> None:
        super().__init__(STATUS[signal.Signals(signum)])
        self.signal = signal.Signals(signum).name


def listen() -> None:
    """Note SIGUSR1, SIGUSR2 and SIGTERM from now on, instead of being ended by them."""
    global _listener
    _listener = os.getpid()
    for signum in SCHEDULERS:
        signal.signal(signum, _note)


def _note(signum: int, frame: Any) -> None:
    global _asked
    if os.getpid() != _listener:
        return
    if signum == signal.SIGINT and _asked:
        raise KeyboardInterrupt
    if signum == signal.SIGINT:
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once.\n")
    _asked = _asked or signum
    if _at_once:
        raise RunStopped(_asked)


def asked() -> int:
    """The signal that asked this process to stop; 0 for none."""
    return _asked


def stop_at_once() -> None:
    """From now on a signal stops the run wherever it is, as nothing needs to be saved: data are converted, or a
    network is only evaluated.

    Raises:
        RunStopped: now, if a signal was noted before, or when one comes.
    """
    global _at_once
    _at_once = True
    if _asked:
        raise RunStopped(_asked)


def stop_after_step() -> None:
    """From now on signals are noted again, the first Ctrl-C too, and the training loop looks at `asked`."""
    global _at_once
    _at_once = False
    if _listening():
        signal.signal(signal.SIGINT, _note)


def _listening() -> bool:
    return _listener == os.getpid() and threading.current_thread() is threading.main_thread()


@contextmanager
def listening() -> Iterator[None]:
    """`listen` within it; afterwards signals do what they did before, and what was noted is forgotten.

    Python gives handlers to the main thread only; elsewhere this does nothing.
    """
    global _asked, _at_once
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in (*SCHEDULERS, signal.SIGINT)}
    listen()
    try:
        yield
    finally:
        _asked, _at_once = 0, False
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is _note else handler)
