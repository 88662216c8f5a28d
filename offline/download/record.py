"""download.json: what was downloaded into a dataset folder, so that it is never done twice.

    {"format": "procgen-download", "version": 1, "archives": {"coinrun.tar.xz": {
        "source": {"address": ..., "size": bytes, "etag": ..., "last_modified": ...},
        "sha256": ...,                                                # of the whole archive
        "unpacked": {"packed": {"coinrun": {"files": 5, "bytes": 12300000000}}},
        "earlier": {}}}}

An archive stands here once it is whole; `unpacked` is empty until its games are in the folder, and
`earlier` tells alike of what another archive of this name left there.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import ToolkitError
from common.files import write_atomically
from offline.download.partial_file import RemoteFile

FILE_NAME = "download.json"
_FORMAT, _VERSION = "procgen-download", 1


@dataclass(frozen=True)
class Unpacked:
    """How many files one game was unpacked to, and how many bytes they are together."""

    files: int
    bytes: int


Games = dict[str, dict[str, Unpacked]]  # by format, by game


@dataclass(frozen=True)
class ArchiveRecord:
    """An archive that was downloaded whole, and by format and game what it was unpacked to.

    `earlier` is what the archive that it replaced was unpacked to, as long as that is still there.
    """

    source: RemoteFile
    sha256: str
    unpacked: Games = field(default_factory=dict)
    earlier: Games = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What packed stores keep to tell what they were made of."""
        return f"sha256:{self.sha256}"

    def fetched_again(self, source: RemoteFile, sha256: str) -> ArchiveRecord:
        """Of the archive that came in the place of this one, which may be the same."""
        if sha256 == self.sha256:
            return replace(self, source=source)
        earlier = {
            form: {**self.earlier.get(form, {}), **self.unpacked.get(form, {})}
            for form in {*self.earlier, *self.unpacked}
        }
        return ArchiveRecord(source, sha256, earlier=earlier)

    def with_unpacked(self, form: str, there: dict[str, Unpacked]) -> ArchiveRecord:
        """With these games in the folder in this format, beside those that are there already."""
        games = {**self.unpacked.get(form, {}), **there}
        left = {g: of for g, of in self.earlier.get(form, {}).items() if g not in there}
        return replace(
            self,
            unpacked={**self.unpacked, form: games},
            earlier={**self.earlier, form: left},
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ArchiveRecord:
        unpacked, earlier = (
            {
                form: {game: Unpacked(**counts) for game, counts in games.items()}
                for form, games in values.get(key, {}).items()
            }
            for key in ("unpacked", "earlier")
        )
        return cls(RemoteFile(**values["source"]), values["sha256"], unpacked, earlier)


class DownloadRecord:
    """The records of a folder's archives, by their file names. Threads may share it.

    Raises ToolkitError for a file that is damaged, of a newer toolkit, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._lock = threading.Lock()
        self._archives = self._read()

    def _read(self) -> dict[str, ArchiveRecord]:
        if not self._path.exists():
            return {}
        try:
            contents = json.loads(self._path.read_text(encoding="utf-8"))
            if contents["format"] == _FORMAT and contents["version"] > _VERSION:
                raise ToolkitError(f"{self._path} was written by a newer toolkit: update this one")
            archives = contents["archives"].items()
            return {name: ArchiveRecord.from_json(values) for name, values in archives}
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise ToolkitError(
                f"{self._path} is damaged ({type(error).__name__}: {error}): delete it, and what "
                "it told of is downloaded again"
            ) from error

    def get(self, name: str) -> ArchiveRecord | None:
        """The record of an archive, if it has one."""
        return self._archives.get(name)

    def put(self, name: str, record: ArchiveRecord) -> None:
        """Keep the record of an archive; it is on the disk when this returns."""
        with self._lock:
            self._archives[name] = record
            archives = {name: asdict(self._archives[name]) for name in sorted(self._archives)}
            contents = {"format": _FORMAT, "version": _VERSION, "archives": archives}
            write_atomically(self._path, (json.dumps(contents, indent=1) + "\n").encode())
