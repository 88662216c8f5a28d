"""From a folder of episode files to a packed store, on first use."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.episodes import Episode, EpisodeError, list_episode_files, read_episode
from common.errors import ToolkitError, UsageError
from offline.data.ahead import map_ahead
from offline.data.store import (
    FORMAT,
    FORMAT_VERSION,
    NewerStoreError,
    PackedStore,
    StoreError,
    read_manifest,
)
from offline.data.writing import StoreWriter, cannot_pack, lock_store

logger = logging.getLogger(__name__)

PACKED_FOLDER = "packed"
BUILD_FILE = "build.json"
_MAX_READERS = 8
_MAX_BUILD_BYTES = 1 << 20


def distinct_folders(datasets: Sequence[str]) -> list[Path]:
    """The dataset folders in order, without those that another of them is, by whatever path."""
    folders: dict[Path, Path] = {}
    for folder in map(Path, datasets):
        first = folders.setdefault(folder.resolve(), folder)
        if first is not folder:
            logger.warning("--dataset %s is the folder %s: its episodes count once", folder, first)
    return list(folders.values())


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
    the source files change, and used as it is where there are none: downloaded data have none.

    Raises UsageError for a folder that is missing, holds no episodes, or holds episode files beside
    a store that was downloaded or made of an archive; EpisodeError for a bad
    episode file (with `skip_bad_episodes` these are left out, counted and logged instead), and
    ToolkitError when the store cannot be written; nothing half-written stays behind.
    """
    source = _game_folder(Path(dataset_dir), game)
    packed = source / PACKED_FOLDER
    if pack_dir is not None:
        digest = hashlib.sha256(str(source.parent.resolve()).encode()).hexdigest()[:12]
        packed = Path(pack_dir) / f"{source.parent.resolve().name}-{digest}" / game
    files = list_episode_files(source)
    if files:
        store = pack_folder(source, packed, game, skip_bad_episodes, progress, "--pack_dir")
    else:
        places = (packed, source / PACKED_FOLDER)
        whole = [place for place in places if (place / "manifest.json").is_file()]
        if not whole:
            raise UsageError(f"{source}: no episode files and no packed store there")
        store = PackedStore.open(whole[0])
    skipped = store.manifest["skipped"]
    if skipped and not skip_bad_episodes:
        raise EpisodeError(
            f"{source / skipped[0]['file']}: {skipped[0]['reason']} ({len(skipped)} bad episode "
            "files in all: replace them, or pass --skip_bad_episodes True)"
        )
    return store


def pack_folder(
    source: Path,
    packed: Path,
    game: str,
    skip_bad_episodes: bool = False,
    progress: bool = True,
    place: str = "folder",
    replace: bool = True,
) -> PackedStore:
    """The store at `packed` of the episode files in `source`, made if it is not that already.

    One that was made of other files is replaced, or without `replace` refused; what was downloaded
    or made of an archive is never replaced. Errors as of `open_game`; `place` is what to choose
    otherwise when `packed` cannot be written.
    """
    files = list_episode_files(source)
    fingerprint = _fingerprint(source, files)
    if not is_current(packed, fingerprint):
        try:
            with lock_store(packed):
                if not is_current(packed, fingerprint):
                    if is_of_archive(packed):
                        raise UsageError(
                            f"{source} holds episode files, and {packed} a store that was made of "
                            "none of them: move one of the two into another dataset folder"
                        )
                    if not replace:
                        require_replaceable(packed, fingerprint)
                    _pack(source, files, packed, game, fingerprint, skip_bad_episodes, progress)
        except OSError as error:
            raise cannot_pack(source, packed, error, place) from error
    return PackedStore.open(packed)


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


def is_current(packed: Path, fingerprint: str) -> bool:
    """Whether a store stands at `packed` and was made of what `fingerprint` tells."""
    if not (packed / "manifest.json").is_file():
        return False
    return bool(read_manifest(packed).get("source_fingerprint") == fingerprint)


def is_of_archive(packed: Path) -> bool:
    """Whether a store stands at `packed` that was not made of a folder of episode files."""
    if not (packed / "manifest.json").is_file():
        return False
    # One that was has a bare SHA-256 there.
    made_of = str(read_manifest(packed)["source_fingerprint"])
    return re.fullmatch("[0-9a-f]{64}", made_of) is None


def require_replaceable(packed: Path, fingerprint: str) -> None:
    """UsageError if a whole store stands at `packed` that was made of something else."""
    try:
        other = read_manifest(packed)["source_fingerprint"] != fingerprint
    except NewerStoreError:
        raise
    except StoreError:  # none, or damaged
        return
    if other:
        raise UsageError(
            f"{packed} holds episodes of another source: delete it, or choose another folder"
        )


def require_no_episode_files(folder: Path) -> None:
    """UsageError if `folder` has episode files: training would pack them over its store."""
    if folder.is_dir() and list_episode_files(folder):
        raise UsageError(
            f"{folder} holds episode files, which training packs by itself: choose another folder"
        )


def _pack(
    source: Path,
    files: Sequence[Path],
    packed: Path,
    game: str,
    fingerprint: str,
    skip_bad_episodes: bool,
    progress: bool,
) -> None:
    def read(file: Path) -> tuple[Path, Episode | EpisodeError]:
        try:
            return file, read_episode(file)
        except EpisodeError as error:
            return file, error

    readers = min(_MAX_READERS, len(os.sched_getaffinity(0)))
    with StoreWriter(packed, game) as writer:
        episodes = map_ahead(read, files, readers)
        off = {} if progress else {"disable": True}  # not False: that would overrule TQDM_DISABLE
        bar = tqdm(episodes, f"packing {game}", len(files), unit="episode", **off)
        for file, episode in bar:
            if isinstance(episode, Episode):
                writer.append(episode, file.name)
            elif skip_bad_episodes:
                writer.skip(file.name, str(episode).removeprefix(f"{file}: "))
            else:
                raise episode
        report_skipped(source, writer)
        writer.commit(fingerprint, _read_build(source))


def report_skipped(source: Path, writer: StoreWriter) -> None:
    """Log how many of the episode files in `source` were left out; ToolkitError if all were."""
    if not writer.skipped:
        return
    first = "{file}: {reason}".format(**writer.skipped[0])
    bad, total = len(writer.skipped), len(writer.skipped) + writer.num_episodes
    if not writer.num_episodes:
        raise ToolkitError(f"{source}: none of {total} episode files can be used; first {first}")
    logger.warning("%s: skipped %d of %d episode files; first %s", source, bad, total, first)


def _read_build(source: Path) -> dict[str, Any] | None:
    file = source / BUILD_FILE
    return parse_build(file.read_bytes(), str(file)) if file.is_file() else None


def parse_build(data: bytes, path: str) -> dict[str, Any]:
    """What the collector noted of the Procgen build that drew the frames, from the file `path`."""
    try:
        if len(data) > _MAX_BUILD_BYTES:
            raise ValueError(f"{len(data)} bytes")
        build = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ToolkitError(f"{path} is not valid JSON ({error}): repair or delete it") from error
    if not isinstance(build, dict):
        raise ToolkitError(f"{path} holds no JSON object: repair or delete it")
    return build
