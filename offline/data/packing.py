"""From a folder of episode files to a packed store: once, whole or not at all.

A store is written into a temporary folder beside its place and renamed when it is complete, so
that a reader, a crash or a full disk finds a whole store or none. A lock file lets one process pack
while the others wait for its result. Only the holder of the lock writes, so any temporary folder it
finds was left by a process that died.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from common.episodes import Episode, EpisodeError, list_episode_files, read_episode
from common.errors import ToolkitError, UsageError
from common.games import FRAME_SHAPE
from offline.data.store import (
    COLUMNS,
    EPISODE_FIELDS,
    FORMAT,
    FORMAT_VERSION,
    PackedStore,
    read_manifest,
)

logger = logging.getLogger(__name__)

PACKED_FOLDER = "packed"
BUILD_FILE = "build.json"
_HEADER_BYTES = 128


def open_game(
    dataset_dir: str | Path,
    game: str,
    pack_dir: str | Path | None = None,
    skip_bad_episodes: bool = False,
    progress: bool = True,
) -> PackedStore:
    """Open the episodes in `<dataset_dir>/<game>/`, packing them first where that is needed.

    The store goes to `<dataset_dir>/<game>/packed/`, or below `pack_dir` into a folder named after
    the dataset and a hash of its absolute path. It is made anew when the names, sizes or times of
    the source files change, and used as it is where the source files are gone.

    Raises UsageError for a folder that is missing or holds no episodes, EpisodeError for a bad
    episode file (with `skip_bad_episodes` these are left out, counted and logged instead), and
    ToolkitError when the store cannot be written; nothing half-written stays behind.
    """
    source = _game_folder(Path(dataset_dir), game)
    packed = source / PACKED_FOLDER
    if pack_dir is not None:
        digest = hashlib.sha256(str(source.parent.resolve()).encode()).hexdigest()[:12]
        packed = Path(pack_dir) / f"{source.parent.resolve().name}-{digest}" / game
    files = list_episode_files(source)
    if not files:
        for candidate in (packed, source / PACKED_FOLDER):
            if (candidate / "manifest.json").is_file():
                return PackedStore.open(candidate)
        raise UsageError(f"{source}: no episode files and no packed store there")
    fingerprint = _fingerprint(source, files)
    if not _is_current(packed, fingerprint):
        try:
            packed.parent.mkdir(parents=True, exist_ok=True)
            with _lock(packed):
                if not _is_current(packed, fingerprint):
                    _pack(source, files, packed, fingerprint, skip_bad_episodes, progress)
        except OSError as error:
            raise _cannot_pack(source, packed, error) from error
    store = PackedStore.open(packed)
    skipped = store.manifest["skipped"]
    if skipped and not skip_bad_episodes:
        raise EpisodeError(
            f"{source / skipped[0]['file']}: {skipped[0]['reason']} ({len(skipped)} bad episode "
            "files in all: replace them, or pass --skip_bad_episodes True)"
        )
    return store


def _game_folder(dataset_dir: Path, game: str) -> Path:
    if not dataset_dir.is_dir():
        raise UsageError(f"dataset folder {dataset_dir} does not exist")
    folder = dataset_dir / game
    if not folder.is_dir():
        games = [
            entry.name
            for entry in dataset_dir.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        ]
        there = f"games there: {', '.join(sorted(games))}" if games else "no game folders there"
        raise UsageError(f"{dataset_dir} has no folder {game}; {there}")
    return folder


def _fingerprint(source: Path, files: Sequence[Path]) -> str:
    """Changes with the names, sizes or modification times of the sources. Contents are not read."""
    digest = hashlib.sha256(f"{FORMAT} {FORMAT_VERSION}".encode())
    build = source / BUILD_FILE
    for file in [*files, build] if build.is_file() else files:
        status = os.stat(file)
        digest.update(os.fsencode(file.name))
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _is_current(packed: Path, fingerprint: str) -> bool:
    if not (packed / "manifest.json").is_file():
        return False
    return bool(read_manifest(packed).get("source_fingerprint") == fingerprint)


def _cannot_pack(source: Path, packed: Path, error: OSError) -> ToolkitError:
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = ": free some space (12.3 GB per million frames) or choose another --pack_dir"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        hint = ": choose a folder that can be written with --pack_dir"
    return ToolkitError(f"cannot pack {source} into {packed}: {error.strerror or error}{hint}")


@contextlib.contextmanager
def _lock(packed: Path) -> Iterator[None]:
    """Hold the lock of this store; the kernel frees it when the process ends, however it ends."""
    with open(packed.with_name(f".{packed.name}.lock"), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that is packing %s", packed)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pack(
    source: Path,
    files: Sequence[Path],
    packed: Path,
    fingerprint: str,
    skip_bad_episodes: bool,
    progress: bool,
) -> None:
    temporary = packed.with_name(f".{packed.name}.tmp-{os.getpid()}")
    replaced = packed.with_name(f".{packed.name}.old-{os.getpid()}")
    for stale in packed.parent.glob(f".{packed.name}.*-*"):
        shutil.rmtree(stale)
    try:
        temporary.mkdir()
        manifest = _write_arrays(source, files, temporary, skip_bad_episodes, progress)
        manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "game": source.name,
            **manifest,
            "source_fingerprint": fingerprint,
            "procgen": _read_build(source),
        }
        with _durable(temporary / "manifest.json") as file:
            file.write(json.dumps(manifest, indent=1).encode())
        _sync_folder(temporary)
        if packed.exists():
            packed.rename(replaced)
        temporary.rename(packed)
        _sync_folder(packed.parent)
    finally:
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_arrays(
    source: Path,
    files: Sequence[Path],
    folder: Path,
    skip_bad_episodes: bool,
    progress: bool,
) -> dict[str, Any]:
    """Stream the frames to disk one episode at a time; returns counts for the manifest."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    records: list[tuple[int, int, int, float, bool, bytes]] = []
    skipped: list[dict[str, str]] = []
    rows = 0
    with _durable(folder / "frames.npy") as frames:
        frames.write(_frames_header(0))
        for file in tqdm(files, f"packing {source.name}", unit="episode", disable=not progress):
            try:
                episode = read_episode(file)
            except EpisodeError as error:
                if not skip_bad_episodes:
                    raise
                skipped.append({"file": file.name, "reason": str(error).removeprefix(f"{file}: ")})
                continue
            frames.write(np.ascontiguousarray(episode.observations[: episode.length]).data)
            for name in COLUMNS:
                columns[name].append(getattr(episode, name).astype(COLUMNS[name]))
            records.append(_record(episode, rows, file))
            rows += episode.length
        frames.seek(0)
        frames.write(_frames_header(rows))
    if skipped:
        _report_skipped(source, skipped, len(files))
    for name, parts in columns.items():
        _save(folder / f"{name}.npy", np.concatenate(parts))
    source_bytes = max(len(record[-1]) for record in records)
    dtype = np.dtype([*EPISODE_FIELDS, ("source", f"S{source_bytes}")])
    _save(folder / "episodes.npy", np.array(records, dtype))
    return {"rows": rows, "episodes": len(records), "skipped": skipped}


def _record(episode: Episode, start: int, file: Path) -> tuple[int, int, int, float, bool, bytes]:
    return (
        start,
        episode.length,
        episode.level_seed,
        episode.episode_return,
        episode.terminated,
        os.fsencode(file.name),
    )


def _report_skipped(source: Path, skipped: Sequence[dict[str, str]], total: int) -> None:
    first = f"{skipped[0]['file']}: {skipped[0]['reason']}"
    if len(skipped) == total:
        raise ToolkitError(f"{source}: none of {total} episode files can be used; first {first}")
    logger.warning(
        "%s: skipped %d of %d episode files; first %s", source, len(skipped), total, first
    )


def _read_build(source: Path) -> Any:
    """The Procgen build that drew the frames, where the collector noted it, else None."""
    file = source / BUILD_FILE
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ToolkitError(f"{file} is not valid JSON ({error}): repair or delete it") from error


def _frames_header(rows: int) -> bytes:
    """A .npy header of fixed size, to be written again when the number of rows is known."""
    shape = (rows, *FRAME_SHAPE)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    prefix = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
    return prefix + text.ljust(_HEADER_BYTES - 11).encode("latin1") + b"\n"


def _save(path: Path, array: np.ndarray) -> None:
    with _durable(path) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


@contextlib.contextmanager
def _durable(path: Path) -> Iterator[BinaryIO]:
    """A file for writing whose bytes are on the disk, not only in the cache, when it closes."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
