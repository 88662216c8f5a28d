"""A file that is still coming, and what it is of: all that a later process needs to go on.

While `<name>` is fetched, its bytes stand in `<name>.part`. `<name>.source.json`, written before
the first of them, says which file of the server they belong to: its address, length and validators.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from common.files import write_atomically


@dataclass(frozen=True)
class RemoteFile:
    """A file as the server describes it; `size` in bytes."""

    address: str
    size: int
    etag: str | None = None
    last_modified: str | None = None

    @property
    def validator(self) -> str | None:
        """What a condition may name: a strong ETag, else the time of the last change, if any."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


class PartialFile:
    """The bytes of `path` that have come so far, and the file of the server they are of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._sidecar = path.with_name(f"{path.name}.source.json")

    @property
    def source(self) -> RemoteFile | None:
        """None if nothing has been begun, or it cannot be told what."""
        try:
            return RemoteFile(**json.loads(self._sidecar.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self._part.stat().st_size if self._part.is_file() else 0

    def begin(self, source: RemoteFile) -> None:
        """Drop what is there: the bytes to come are of `source`."""
        self._part.unlink(missing_ok=True)
        write_atomically(self._sidecar, json.dumps(asdict(source), indent=1).encode())

    def append(self) -> BinaryIO:
        """A file to write the next bytes to."""
        return open(self._part, "ab")

    def finish(self) -> None:
        """Give the whole file its name, once its bytes are on the disk and not in its cache."""
        with open(self._part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self._part, self.path)

    def is_finished(self, source: RemoteFile) -> bool:
        """Whether `path` is all of `source`: only a whole file gets its name."""
        return (
            self.source == source
            and self.path.is_file()
            and self.path.stat().st_size == source.size
            and not self._part.exists()
        )

    def discard(self) -> None:
        """Remove the file, finished or not, and what is known of it."""
        for file in (self._part, self.path, self._sidecar):
            file.unlink(missing_ok=True)


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """The SHA-256 of a file, in hexadecimal; `on_bytes` is told of bytes as they are read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()
