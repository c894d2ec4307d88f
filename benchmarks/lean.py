"""Lightning's loop without what it does for nobody, and a heap that keeps its memory: the same bits, sooner.

For a network whose step takes a few milliseconds, Lightning calls more hooks than there are operations. What none of
the suite's callbacks asked for is left out through the ways that Lightning has for it: a profiler of one's own, and
hooks that cannot be called. `python -m benchmarks overhead` measures what is left.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler

STEP_HOOKS = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
)  # fmt: skip

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
KEEP = 2**31 - 1  # bytes, the most that M_TRIM_THRESHOLD takes


class NoProfiler(PassThroughProfiler):
    """Times nothing, in a tenth of the time: Lightning's own builds a generator for each of 70 sections of a step."""

    NOTHING = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """A context that does nothing."""
        return self.NOTHING


def skip_empty_hooks(trainer: pl.Trainer, network: pl.LightningModule) -> None:
    """Make the hooks of a step that nobody has filled None, which Lightning does not call; see `trainer/call.py`.

    Call it once the trainer has all its callbacks. Hooks that are filled, on whatever object, stay as they are.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        _skip(callback, pl.Callback)
    _skip(network, pl.LightningModule)


def _skip(one: Any, base: type) -> None:
    for name in STEP_HOOKS:
        if name not in vars(one) and getattr(type(one), name) is getattr(base, name):
            object.__setattr__(one, name, None)


def keep_freed_memory() -> bool:
    """Let the heap keep what tensors free, for the next step; tells whether it does.

    glibc gives large blocks back to the kernel when they are freed, and the kernel clears them when they are asked for
    again: thousands of page faults in a training step on a CPU. The process then holds on to the most it has ever used
    of ordinary memory, which a training run needs again anyway. Does nothing where malloc is another one (musl, macOS,
    jemalloc), or where the environment sets glibc's own variables.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    if "GLIBC_TUNABLES" in os.environ or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, KEEP) == 1
