"""Files that a measurement is written to: refused before it begins where they could not be written after it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.runs import RunError

PICTURES = (".png", ".svg", ".pdf")


def check_target(option: str, path: str | Path | None, endings: tuple[str, ...] = ()) -> None:
    """Refuse a file that `option` names and that could not be written; None is not asked for.

    Raises:
        RunError: it does not end in one of `endings`, is a folder, or its folder is not there or cannot be written.
    """
    if path is None:
        return
    path = Path(path)
    if endings and path.suffix.lower() not in endings:
        raise RunError(f"{option} (={path}) must end in {', '.join(endings[:-1])} or {endings[-1]}: name another file.")
    if path.is_dir():
        raise RunError(f"{option} (={path}) must be a file, it is a folder: add a name, such as {path / 'measured'}.")
    if not path.parent.is_dir():
        raise RunError(f"{option} (={path}) must be in a folder that exists, {path.parent} does not: make it.")
    if reason := why_not_writable(path.parent):
        raise RunError(
            f"{option} (={path}) must be in a folder that can be written, {path.parent} cannot ({reason}): change it."
        )


def why_not_writable(folder: Path) -> str | None:
    """What the system says against a file in `folder`, or, where that is not there, in the nearest that is; else None.

    Tried, since permissions do not say all: a disk may be read-only or full. Nothing is left behind.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        return error.strerror or str(error)
    return None
