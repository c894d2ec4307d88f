"""A file that exists is whole: written beside its name, synced, renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str) -> None:
    """Put `content` at `path` in one step: a reader, or a later run after a crash, sees the old file or the new one.

    Raises:
        OSError: the folder cannot be written or the disk is full; `path` is then as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
