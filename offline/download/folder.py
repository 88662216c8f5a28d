"""A dataset folder that is being downloaded into: where things lie, and what is there already.

<folder>/<game>/packed/       stores; or the episode files in <folder>/<game>/, all or none of them
<folder>/download.json        what was downloaded (record.py)
<folder>/.archives/           the archives, and those still coming (partial_file.py)
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from common.episodes import list_episode_files
from common.errors import ToolkitError
from offline.data.packing import PACKED_FOLDER, is_of_archive
from offline.data.unpacking import EPISODES_PART, is_packed
from offline.download.partial_file import PartialFile, RemoteFile
from offline.download.record import ArchiveRecord, Unpacked
from offline.download.release import Archive

PACKED, EPISODES = "packed", "episodes"
# Bytes per transition on the disk. Episode files hold float32 frames, with one more per episode.
_TRANSITION_BYTES = {PACKED: 12_300, EPISODES: 51_000}
_MOST_EXPANSION = 7_000  # times its size is the most that xz makes of an archive


class DownloadFolder:
    """The folder at `path`, for data in the format PACKED or EPISODES."""

    def __init__(self, path: Path, form: str) -> None:
        self.path = path
        self.form = form

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other downloads out of it, as long as this process lives.

        What a process that was killed was about to rename is removed.
        Raises ToolkitError if another one is at work or the folder cannot be written.
        """
        try:
            (self.path / ".archives").mkdir(parents=True, exist_ok=True)
            (self.path / ".download.lock").touch()
        except OSError as error:
            raise ToolkitError(
                f"cannot write into {self.path}: {error.strerror or error}: choose another "
                "--download_folder"
            ) from error
        with open(self.path / ".download.lock", "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ToolkitError(
                    f"another download into {self.path} is running: wait for its end"
                ) from error
            for stale in (*self.path.glob(".*.tmp"), *self.path.glob(".archives/.*.tmp")):
                stale.unlink()
            yield

    def archive(self, archive: Archive) -> Path:
        """Where the archive stands once it is whole."""
        return self.path / ".archives" / archive.name

    def clear(self) -> None:
        """Remove the folder of the archives if none is left in it."""
        with contextlib.suppress(OSError):
            (self.path / ".archives").rmdir()

    def is_unpacked(self, archive: Archive, record: ArchiveRecord) -> bool:
        """Whether the wanted games of the archive of this record are there, and unchanged."""
        if self.form == PACKED:
            return all(is_packed(self.path, game, record.identity) for game in archive.games)
        there = record.unpacked.get(self.form, {})
        return all(there.get(game) == self.measure(game) for game in archive.games)

    def measure(self, game: str) -> Unpacked:
        """The files of a game's data in this format."""
        return _measure(self.path / game / (PACKED_FOLDER if self.form == PACKED else ""))

    def other_format(self, game: str) -> str | None:
        """One line if the game is there in the other format, which training would mix up."""
        folder = self.path / game
        packed = folder / PACKED_FOLDER
        if self.form == PACKED and _measure(folder).files:
            there, found = EPISODES, f"{folder} holds episode files"
        elif self.form == EPISODES and is_of_archive(packed):
            there, found = PACKED, f"{packed} holds the store of an archive"
        else:
            return None
        return (
            f"{found}: take --format {there}, remove what is there, or choose another "
            "--download_folder"
        )

    def bytes_to_fetch(self, archive: Archive, source: RemoteFile) -> int:
        """What is still to come of an archive."""
        partial = PartialFile(self.archive(archive))
        return source.size - (partial.size if partial.source == source else 0)

    def bytes_to_unpack(
        self, archive: Archive, source: RemoteFile, record: ArchiveRecord | None
    ) -> int:
        """What unpacking takes at most, beyond what is there already of just this archive."""
        most = min(
            _TRANSITION_BYTES[self.form] * archive.transitions, _MOST_EXPANSION * source.size
        )
        noted = record.unpacked.get(self.form, {}) if record else {}
        return max(most - sum(self._bytes_left(game, game in noted) for game in archive.games), 0)

    def _bytes_left(self, game: str, noted: bool) -> int:
        if self.form == EPISODES:  # kept by the next unpacking
            extracted = _measure(self.path / game / EPISODES_PART).bytes
            return extracted + (self.measure(game).bytes if noted else 0)
        unfinished = (self.path / game).glob(f".{PACKED_FOLDER}.tmp-*/*")  # removed by the next
        return sum(file.stat().st_size for file in unfinished)

    def free_bytes(self) -> int:
        """What the disk has left; the folder need not exist yet."""
        place = self.path.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


def _measure(folder: Path) -> Unpacked:
    if not folder.is_dir():
        return Unpacked(0, 0)
    files = list_episode_files(folder)  # those of a store have such names, too
    return Unpacked(len(files), sum(file.stat().st_size for file in files))
