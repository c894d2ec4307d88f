"""FFCV 1.0.2, frozen upstream, imported without what it does to the rest of the process.

Import FFCV from here. What is mended, so that nobody else need know:

- importing it set torch's thread count for the whole process to 1, and each loader set it again;
- importing it had numba compile a dictionary of two entries, which took every process seconds;
- each loader had numba compile a function that looks up sizes, and changed a type that numba shares with every other
  function, whose compiled code was then found no more; our kernels are told the sizes;
- each loader built dictionaries of all samples and pages, 0.5 kB a sample, that only orders of FFCV's own need;
- numba's threading layer was left to chance: `workqueue` aborts the process when two loaders run at once.
"""

from __future__ import annotations

import os

os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "tbb omp workqueue")  # read when numba is first imported

from pathlib import Path
from unittest.mock import patch

import numba
import numpy as np
import torch

TORCH_THREADS = torch.get_num_threads()

with patch("numba.typed.Dict", dict):  # of FFCV's image modes, which only Python reads
    import ffcv._libffcv as libffcv
    import ffcv.loader.loader as ffcv_loader
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.memory_managers.os_cache import OSCacheContext, OSCacheManager
    from ffcv.pipeline.compiler import Compiler
    from ffcv.reader import Reader

torch.set_num_threads(TORCH_THREADS)

__all__ = ["EpochIterator", "MendedLoader", "libffcv"]


def _set_numba_threads(cls: type[Compiler], count: int) -> None:
    """FFCV's `set_num_threads` without its change of torch's own thread count."""
    cls.num_threads = count
    numba.set_num_threads(count)


Compiler.set_num_threads = classmethod(_set_numba_threads)


class MemoryMap(OSCacheManager):
    """FFCV's memory map of a file and the sizes of what is stored at each address, without anything else."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        table = reader.alloc_table
        order = np.argsort(table["ptr"], kind="stable")
        self.ptrs, self.sizes = table["ptr"][order], table["size"][order]
        self.context = OSCacheContext(self)

    def compile_reader(self) -> None:
        """None: kernels are told where to read."""


class MendedLoader(ffcv_loader.Loader):
    """FFCV's loader of the .beton at `path` without operations of FFCV's: whoever iterates brings their own.

    FFCV's own loader, used in the same process, stays as it is.
    """

    def __init__(self, path: Path, workers: int) -> None:
        with patch.object(ffcv_loader, "OSCacheManager", MemoryMap):
            super().__init__(
                str(path),
                batch_size=1,
                num_workers=workers,
                os_cache=True,
                seed=0,
                drop_last=False,
                pipelines={"image": None, "label": None},
            )
