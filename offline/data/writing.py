"""Writing a packed store: one episode after the other, and in its place only when it is whole.

A store is written into a temporary folder beside its place and renamed when it is complete, so
that a reader, a crash or a full disk finds a whole store or none. A lock file lets one process
write while the others wait for its result. Only the holder of the lock writes, so any temporary
folder it finds was left by a process that died.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from common.episodes import Episode
from common.errors import ToolkitError
from common.files import sync
from common.games import FRAME_SHAPE
from offline.data.store import COLUMNS, EPISODE_FIELDS, FORMAT, FORMAT_VERSION

logger = logging.getLogger(__name__)

_HEADER_BYTES = 128


@contextlib.contextmanager
def lock_store(packed: Path) -> Iterator[None]:
    """Hold the lock of the store at `packed`, whose parent folder is made.

    The kernel frees it when the process ends, however it ends.
    """
    packed.parent.mkdir(parents=True, exist_ok=True)
    with open(packed.with_name(f".{packed.name}.lock"), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that is packing %s", packed)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cannot_pack(source: Path, packed: Path, error: OSError, place: str = "folder") -> ToolkitError:
    """The one line for a store that could not be written; `place` is what to choose otherwise."""
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = f": free some space (12.3 GB per million frames) or choose another {place}"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        hint = f": choose a {place} that can be written"
    return ToolkitError(f"cannot pack {source} into {packed}: {error.strerror or error}{hint}")


class StoreWriter:
    """The store of one game under way; a context manager, in which the caller holds its lock.

    Frames go to the disk as they come; of an episode only its columns (6 bytes per step) and its
    record stay in memory. Without `commit` nothing is left behind.
    """

    def __init__(self, packed: Path, game: str) -> None:
        self.packed = packed
        self.game = game
        self.skipped: list[dict[str, str]] = []
        self._temporary = packed.with_name(f".{packed.name}.tmp-{os.getpid()}")
        self._columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self._records: list[tuple[int, int, int, float, bool, bytes]] = []
        self._rows = 0

    def __enter__(self) -> StoreWriter:
        for stale in self.packed.parent.glob(f".{self.packed.name}.*-*"):
            shutil.rmtree(stale)
        self._temporary.mkdir()
        self._frames = open(self._temporary / "frames.npy", "wb")
        self._frames.write(_frames_header(0))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk, met again while closing
            self._frames.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def num_episodes(self) -> int:
        """Episodes written so far."""
        return len(self._records)

    def append(self, episode: Episode, source: str) -> None:
        """Add one episode; `source` is the name of the file that it came from."""
        self._frames.write(np.ascontiguousarray(episode.observations[: episode.length]).data)
        for name, dtype in COLUMNS.items():
            self._columns[name].append(getattr(episode, name).astype(dtype))
        self._records.append(
            (
                self._rows,
                episode.length,
                episode.level_seed,
                episode.episode_return,
                episode.terminated,
                os.fsencode(source),
            )
        )
        self._rows += episode.length

    def skip(self, source: str, reason: str) -> None:
        """Note in the manifest that `source` should have been an episode and is none."""
        self.skipped.append({"file": source, "reason": reason})

    def commit(self, source_fingerprint: str, procgen: Any) -> None:
        """Put the store, of at least one episode, in its place: on the disk, not in its cache.

        `source_fingerprint` tells what it was made of, `procgen` the build that drew the frames or
        None where that is not known.
        """
        self._frames.seek(0)
        self._frames.write(_frames_header(self._rows))
        _sync(self._frames)
        for name, parts in self._columns.items():
            self._save(name, np.concatenate(parts))
        source_bytes = max(len(record[-1]) for record in self._records)
        dtype = np.dtype([*EPISODE_FIELDS, ("source", f"S{source_bytes}")])
        self._save("episodes", np.array(self._records, dtype))
        manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "game": self.game,
            "rows": self._rows,
            "episodes": len(self._records),
            "skipped": self.skipped,
            "source_fingerprint": source_fingerprint,
            "procgen": procgen,
        }
        with open(self._temporary / "manifest.json", "wb") as file:
            file.write(json.dumps(manifest, indent=1).encode())
            _sync(file)
        self._rename()

    def _save(self, name: str, array: np.ndarray) -> None:
        with open(self._temporary / f"{name}.npy", "wb") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)
            _sync(file)

    def _rename(self) -> None:
        replaced = self.packed.with_name(f".{self.packed.name}.old-{os.getpid()}")
        sync(self._temporary)
        if self.packed.exists():
            self.packed.rename(replaced)
        self._temporary.rename(self.packed)
        sync(self.packed.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def _frames_header(rows: int) -> bytes:
    """A .npy header of fixed size, to be written again when the number of rows is known."""
    shape = (rows, *FRAME_SHAPE)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    prefix = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
    return prefix + text.ljust(_HEADER_BYTES - 11).encode("latin1") + b"\n"


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
