"""A file that exists is whole: written beside its name, synced, renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Put `content` at `path` in one step: a reader, or a later run after a crash, sees the old file or the new one.

    Text is written as UTF-8.

    Raises:
        OSError: the folder cannot be written or the disk is full; `path` is then as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
