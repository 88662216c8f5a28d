"""From a downloaded archive to packed stores or episode files, in one pass over its bytes."""

from __future__ import annotations

import io
import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, closing
from pathlib import Path, PurePosixPath
from typing import Any

from common.episodes import (
    Episode,
    EpisodeError,
    is_episode_name,
    list_episode_files,
    parse_episode,
    parse_name,
)
from common.errors import ToolkitError, UsageError
from common.games import GAMES
from offline.data.ahead import map_ahead, read_ahead
from offline.data.archives import Member, read_members
from offline.data.packing import (
    BUILD_FILE,
    PACKED_FOLDER,
    is_current,
    parse_build,
    report_skipped,
    require_no_episode_files,
    require_replaceable,
)
from offline.data.store import NewerStoreError, PackedStore, StoreError
from offline.data.writing import StoreWriter, cannot_pack, lock_store

logger = logging.getLogger(__name__)

EPISODES_PART = ".episodes.part"  # in the folder of a game, what is not extracted to its end yet
_AHEAD = 2  # members decompressed before they are needed
_MAX_PARSERS = 4
_NAMED_STRANGERS = 5


def pack_archive(
    archive: Path,
    dataset_dir: Path,
    *,
    identity: str,
    game: str | None = None,
    only: Collection[str] = GAMES,
    replace: bool = False,
    skip_bad_episodes: bool = False,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Stream the episodes of an archive into `<dataset_dir>/<game>/packed/`; returns the games.

    The game of an episode is the last part of its path that names one, else `game`, else what the
    archive is called; games that are not in `only` are left out. Stores appear when the archive has
    been read to its end and found whole; a game whose store was made of the same `identity` is left
    as it is, and that of another source is refused unless it is to be replaced. Memory: a few
    episodes.

    A member that is no episode is skipped, counted and named in the log. One that is by its name
    and cannot be used is refused, or with `skip_bad_episodes` skipped and noted in the manifest.
    `on_bytes` is told of compressed bytes as they are read; what it raises ends the work.

    Raises the errors of `read_members`, EpisodeError for a bad episode, UsageError if the game
    cannot be told or its folder holds other data, ToolkitError if there is no episode or a store
    cannot be written. Nothing half-written stays.
    """
    parsers = min(_MAX_PARSERS, len(os.sched_getaffinity(0)))
    stores = _Stores(archive, dataset_dir, identity, game, only, replace, skip_bad_episodes)
    try:
        with (
            stores.resources,
            closing(read_ahead(read_members(archive, stores.wants, on_bytes), _AHEAD)) as members,
            closing(map_ahead(_parse, members, parsers)) as parsed,
        ):
            for path, contents in parsed:
                stores.add(path, contents)
            stores.commit()
    except OSError as error:
        raise cannot_pack(archive, dataset_dir, error) from error
    return _finish(archive, stores.games, stores.strangers)


def extract_archive(
    archive: Path,
    dataset_dir: Path,
    *,
    game: str | None = None,
    only: Collection[str] = GAMES,
    earlier: Mapping[str, tuple[int, int]] | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Write the episode files of an archive, as they are, to `<dataset_dir>/<game>/`; the games.

    They are collected in a hidden folder there, `EPISODES_PART`, and moved to their places when the
    archive has been read to its end and found whole. A file that is there already, in either, is
    kept if it is equal. What they hold is looked at when they are packed. `game`, `only` and
    `on_bytes` as of `pack_archive`; as there, a member that is no episode by its name is skipped.

    Episode files that are not of this archive are refused, except where the folder of a game holds
    the `earlier` number of files and bytes in all: these came from an archive before, and make way.

    Raises the errors of `read_members`, UsageError if the game cannot be told or its folder holds
    other episodes, ToolkitError if there is no episode or one cannot be written.
    """
    found: dict[str, dict[str, Path]] = {}  # by game and name of the file
    strangers = _Strangers()

    def wanted(path: str) -> bool:
        name = PurePosixPath(path).name
        if parse_name(name) is None and (
            name != BUILD_FILE or _named_game(path, archive, game) is None
        ):
            strangers.add(path)
            return False
        return _game_of(path, archive, game) in only

    with closing(read_ahead(read_members(archive, wanted, on_bytes), _AHEAD)) as members:
        for path, data in members:
            of_game, name = _game_of(path, archive, game), PurePosixPath(path).name
            folder = dataset_dir / of_game
            places = (folder / name, folder / EPISODES_PART / name)
            try:
                target = next((place for place in places if _holds(place, data)), None)
                if target is None:
                    _, target = places
                    _write(target, data)
            except OSError as error:
                raise ToolkitError(
                    f"cannot write {places[1]}: {error.strerror or error}"
                ) from error
            found.setdefault(of_game, {})[name] = target
    for of_game, files in found.items():
        _move_in(archive, dataset_dir / of_game, files, (earlier or {}).get(of_game))
    games = {of_game for of_game, files in found.items() if {*files} - {BUILD_FILE}}
    return _finish(archive, games, strangers)


def is_packed(dataset_dir: Path, game: str, identity: str) -> bool:
    """Whether a whole store of `game` stands in `dataset_dir` that was made of `identity`.

    Raises StoreError for one of a newer format, which must not be replaced.
    """
    packed = dataset_dir / game / PACKED_FOLDER
    try:
        return is_current(packed, identity) and PackedStore.open(packed).num_rows > 0
    except NewerStoreError:
        raise
    except StoreError:
        return False


class _Stores:
    """The stores of the games of one archive, begun as their episodes come."""

    def __init__(
        self,
        archive: Path,
        dataset_dir: Path,
        identity: str,
        default_game: str | None,
        only: Collection[str],
        replace: bool,
        skip_bad_episodes: bool,
    ) -> None:
        self.games: set[str] = set()  # that have their store
        self.strangers = _Strangers()
        self.resources = ExitStack()  # locks, and folders to remove
        self._archive = archive
        self._dataset_dir = dataset_dir
        self._identity = identity
        self._default_game = default_game
        self._only = only
        self._replace = replace
        self._skip_bad_episodes = skip_bad_episodes
        self._writers: dict[str, StoreWriter] = {}
        self._builds: dict[str, dict[str, Any]] = {}

    def wants(self, path: str) -> bool:
        """Whether this member is needed; asked in the thread that reads ahead."""
        if not _belongs(path):
            self.strangers.add(path)
            return False
        game = _named_game(path, self._archive, self._default_game)
        if game is None and parse_name(PurePosixPath(path).name) is None:
            self.strangers.add(path)
            return False
        game = self._game_of(path)
        if game not in self._only:
            return False
        return game in self._writers or not self._is_finished(game)

    def add(self, path: str, contents: Episode | EpisodeError | dict[str, Any]) -> None:
        """Write what a member holds to the store of its game."""
        game, name = self._game_of(path), PurePosixPath(path).name
        if isinstance(contents, dict):
            self._builds[game] = contents
        elif isinstance(contents, EpisodeError) and parse_name(name) is None:
            self.strangers.add(path)
        elif isinstance(contents, EpisodeError) and not self._skip_bad_episodes:
            raise EpisodeError(f"{self._archive}: {contents}")
        elif (writer := self._writer(game)) is None:
            pass
        elif isinstance(contents, Episode):
            writer.append(contents, name)
        else:
            writer.skip(name, str(contents).removeprefix(f"{path}: "))

    def commit(self) -> None:
        """Put all stores in their places."""
        for game, writer in self._writers.items():
            if writer.num_episodes:
                writer.commit(self._identity, self._builds.get(game))
                self.games.add(game)
        for writer in self._writers.values():
            report_skipped(self._archive, writer)

    def _is_finished(self, game: str) -> bool:
        if game not in self.games and is_packed(self._dataset_dir, game, self._identity):
            self.games.add(game)
        return game in self.games

    def _writer(self, game: str) -> StoreWriter | None:
        """The store of a game, begun where that is needed; None if another process finished it."""
        if game not in self._writers and game not in self.games:
            packed = self._dataset_dir / game / PACKED_FOLDER
            require_no_episode_files(packed.parent)
            self.resources.enter_context(lock_store(packed))
            if not self._is_finished(game):
                if not self._replace:
                    require_replaceable(packed, self._identity)
                self._writers[game] = self.resources.enter_context(StoreWriter(packed, game))
        return self._writers.get(game)

    def _game_of(self, path: str) -> str:
        return _game_of(path, self._archive, self._default_game)


class _Strangers:
    """Members that are no episodes: how many, and the paths of the first few."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # two threads find them
        self._count = 0
        self._named: list[str] = []

    def add(self, path: str) -> None:
        with self._lock:
            self._count += 1
            if self._count <= _NAMED_STRANGERS:
                self._named.append(path)

    def report(self, archive: Path) -> None:
        """One line in the log, if there are any."""
        if self._count:
            named = ", ".join(self._named) + (", ..." if self._count > _NAMED_STRANGERS else "")
            logger.warning(
                "%s: skipped %d members that are no episodes: %s", archive, self._count, named
            )


def _belongs(path: str) -> bool:
    name = PurePosixPath(path).name
    return is_episode_name(name) or name == BUILD_FILE


def _parse(member: Member) -> tuple[str, Episode | EpisodeError | dict[str, Any]]:
    if PurePosixPath(member.path).name == BUILD_FILE:
        return member.path, parse_build(member.data, member.path)
    try:
        return member.path, parse_episode(io.BytesIO(member.data), member.path)
    except EpisodeError as error:
        return member.path, error


def _game_of(path: str, archive: Path, default: str | None) -> str:
    game = _named_game(path, archive, default)
    if game is None:
        raise UsageError(f"{archive}: no folder of {path} is called like a game: give --env_name")
    return game


def _named_game(path: str, archive: Path, default: str | None) -> str | None:
    """The game of a member: from its folders or the inner archive, `default`, or the archive."""
    folders = [folder.split(".")[0] for folder in PurePosixPath(path).parts[:-1]]
    named = [folder for folder in folders if folder in GAMES]
    game = named[-1] if named else default or archive.name.split(".")[0]
    return game if game in GAMES else None


def _write(target: Path, data: bytes) -> None:
    """Whole or not at all; not synced, which would take 10 ms for each of 10,000s of files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _holds(file: Path, data: bytes) -> bool:
    return file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data


def _move_in(
    archive: Path, folder: Path, files: Mapping[str, Path], earlier: tuple[int, int] | None
) -> None:
    """Move the files of a game into its folder, and out of it those of an earlier archive.

    All of the latter go first: killed in between, the next call still finds them complete.
    """
    part = folder / EPISODES_PART
    outgoing = part / "earlier"
    try:
        outgoing.mkdir(parents=True, exist_ok=True)
        there = list_episode_files(folder)
        others = [file for file in there if file.name not in files]
        if others:
            sizes = [file.stat().st_size for file in [*there, *list_episode_files(outgoing)]]
            if (len(sizes), sum(sizes)) != earlier:
                raise UsageError(
                    f"{folder} holds episode files that are not of {archive}, as "
                    f"{others[0].name}: remove them, or choose another folder"
                )
        for file in others:
            os.replace(file, outgoing / file.name)
        for name, file in files.items():
            if file.parent == part:
                os.replace(file, folder / name)
        shutil.rmtree(part)
    except OSError as error:
        raise ToolkitError(f"cannot write into {folder}: {error.strerror or error}") from error


def _finish(archive: Path, games: set[str], strangers: _Strangers) -> list[str]:
    strangers.report(archive)
    if not games:
        raise ToolkitError(f"{archive}: holds no episode")
    return sorted(games)
