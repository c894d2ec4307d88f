"""What a conversion has written so far, so that one that was stopped or killed goes on where it was.

Beside the unfinished file stands a journal: a checksum of what is being written, then one record per image, in order,
each with its own checksum. A record is written after the bytes it tells of, and both are checked when they are read
again; from the first one on that is torn, or tells of other bytes or another original, everything is written anew.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype(
    [
        ("original", "<u4"),  # crc32 of its name, size and label, as listed
        ("position", "<u8"),  # in bytes, of the encoded image in the file
        ("size", "<u8"),  # in bytes; 0 for an image that cannot be decoded
        ("height", "<u2"),
        ("width", "<u2"),
        ("mode", "u1"),
        ("content", "<u4"),  # crc32 of the encoded image
        ("record", "<u4"),  # crc32 of all this and of the number of the image
    ]
)
HEAD = 32  # bytes of a SHA-256
FLUSH_BYTES = 8 << 20  # of images between two writes of the journal


class Journal:
    """The journal of the unfinished `file`, which begins at byte `start` with its first image.

    Args:
        path: of the journal.
        file: of the images; both are made if they are not there.
        identity: whatever decides the bytes of the images other than the originals; another one begins anew.
        count: of all images.
        start: byte at which the first image stands.
    """

    def __init__(self, path: Path, file: Path, identity: str, count: int, start: int) -> None:
        self.records = np.zeros(count, RECORD)
        self.done = 0  # images that are written or found broken
        self.end = start  # of the images in the file
        self._flushed = 0
        self._flushed_end = start
        self._head = hashlib.sha256(identity.encode()).digest()
        self._images = open(file, "r+b" if file.exists() else "w+b")  # noqa: SIM115
        self._journal = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115

    def read(
        self, original: Callable[[int], int], place: Callable[[int, int], int], broken: Callable[[int], bool]
    ) -> None:
        """Take over what an earlier process wrote.

        Args:
            original: crc32 of the name, size and label of an image, by its number.
            place: where an image of so many bytes stands, after the byte at which the last one ended.
            broken: whether an image still cannot be decoded, by its number.
        """
        found = self._journal.read()
        if found[:HEAD] == self._head:
            body = found[HEAD : HEAD + len(self.records) * RECORD.itemsize]
            rows = np.frombuffer(body[: len(body) - len(body) % RECORD.itemsize], RECORD)
            for number, record in enumerate(rows):
                if record["record"] != checksum(record, number) or record["original"] != original(number):
                    break
                size = int(record["size"])
                if size == 0:
                    if not broken(number):
                        break
                elif record["position"] != place(self.end, size) or not self._holds(record):
                    break
                else:
                    self.end = int(record["position"]) + size
                self.records[number] = record
                self.done = number + 1
        self._flushed, self._flushed_end = self.done, self.end
        self._images.truncate(self.end if self.done else 0)
        self._journal.truncate(HEAD + self.done * RECORD.itemsize if self.done else 0)
        self._journal.seek(0)
        self._journal.write(self._head)
        self._journal.seek(0, os.SEEK_END)

    def _holds(self, record: NDArray[np.void]) -> bool:
        self._images.seek(int(record["position"]))
        return zlib.crc32(self._images.read(int(record["size"]))) == record["content"]

    def add(self, original: int, position: int, height: int, width: int, mode: int, data: NDArray[np.uint8]) -> None:
        """Write the next image at `position`."""
        self._images.seek(position)
        self._images.write(data.data)
        self.end = position + data.nbytes
        self._note(original, position, data.nbytes, height, width, mode, zlib.crc32(data.data))

    def add_broken(self, original: int) -> None:
        """Note that the next image cannot be decoded."""
        self._note(original, 0, 0, 0, 0, 0, 0)

    def _note(self, *values: int) -> None:
        record = self.records[self.done : self.done + 1]
        record[0] = (*values, 0)
        record["record"] = checksum(record[0], self.done)
        self.done += 1
        if self.end - self._flushed_end > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Let the images reach the file, then their records the journal."""
        self._images.flush()
        self._journal.write(self.records[self._flushed : self.done].tobytes())
        self._journal.flush()
        self._flushed, self._flushed_end = self.done, self.end

    def finish(self, head: bytes, tail_at: int, tail: bytes) -> None:
        """Write what stands before and after the images, and let everything reach the disk."""
        self.flush()
        self._images.seek(tail_at)
        self._images.write(tail)
        self._images.truncate()
        self._images.seek(0)
        self._images.write(head)
        self._images.flush()
        os.fsync(self._images.fileno())

    def close(self) -> None:
        """Note what was added since the last flush, and close both files.

        Raises:
            OSError: the disk is full; the journal then tells of less.
        """
        try:
            self.flush()
        finally:
            for file in (self._images, self._journal):
                with suppress(OSError):  # what could not be written before cannot be now
                    file.close()


def checksum(record: NDArray[np.void], number: int) -> int:
    """crc32 of a record without its own checksum, and of the number of its image."""
    return zlib.crc32(record.tobytes()[: RECORD.itemsize - 4], number)
