"""Whatever holds episodes into packed stores: archives, folders, Minari datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from common.episodes import list_episode_files
from common.errors import UsageError
from common.games import GAMES
from offline.data.minari_format import DATA_FILE, inspect_minari, is_minari, read_minari
from offline.data.packing import (
    PACKED_FOLDER,
    pack_folder,
    require_no_episode_files,
    require_replaceable,
)
from offline.data.store import PackedStore
from offline.data.unpacking import is_packed, pack_archive
from offline.data.writing import StoreWriter, cannot_pack, lock_store


def pack_source(
    source: Path, dataset_dir: Path, game: str | None = None, skip_bad_episodes: bool = False
) -> Iterator[PackedStore]:
    """Pack what `source` holds into `<dataset_dir>/<game>/packed/`, and give each store when done.

    `game` says whose the episodes are where their folder or archive does not; of a folder with
    several games it takes that one alone. Stores that hold this source already are left as they
    are. Raises UsageError if there are no episodes, and the errors of packing.
    """
    if source.is_file():
        yield from _pack_archive(source, dataset_dir, game, skip_bad_episodes)
        return
    if is_minari(source):
        if skip_bad_episodes:
            raise UsageError(f"--skip_bad_episodes: {source} is taken whole or not at all")
        yield _pack_minari(source, dataset_dir, game)
        return
    folders = {name: source / name for name in GAMES if _has_episodes(source / name)}
    if _has_episodes(source):
        folders = {game or source.resolve().name: source}
        if not folders.keys() <= set(GAMES):
            raise UsageError(f"{source} is not called like a game: give --env_name")
    elif game is not None:
        folders = {name: folder for name, folder in folders.items() if name == game}
    if not folders:
        raise UsageError(f"{source}: no episode files there, nor in a folder called like a game")
    for name, folder in folders.items():
        packed = dataset_dir / name / PACKED_FOLDER
        own = folder.resolve() == packed.parent.resolve()
        if not own:
            require_no_episode_files(packed.parent)
        yield pack_folder(folder, packed, name, skip_bad_episodes, replace=own)


def _pack_archive(
    archive: Path, dataset_dir: Path, game: str | None, skip_bad_episodes: bool
) -> Iterator[PackedStore]:
    status = archive.stat()
    with tqdm(
        desc=f"packing {archive.name}",
        total=status.st_size,
        unit="B",
        unit_scale=True,
        mininterval=0.5,
    ) as bar:
        games = pack_archive(
            archive,
            dataset_dir,
            identity=f"{archive.name} {status.st_size} {status.st_mtime_ns}",
            game=game,
            skip_bad_episodes=skip_bad_episodes,
            on_bytes=bar.update,
        )
    for name in games:
        yield PackedStore.open(dataset_dir / name / PACKED_FOLDER)


def _pack_minari(source: Path, dataset_dir: Path, game: str | None) -> PackedStore:
    facts = inspect_minari(source)
    name = game or facts.env_name
    if name is None:
        raise UsageError(f"{source} does not tell its game: give --env_name")
    packed = dataset_dir / name / PACKED_FOLDER
    status = (facts.data / DATA_FILE).stat()
    identity = f"{source.resolve().name} {status.st_size} {status.st_mtime_ns}"
    require_no_episode_files(packed.parent)
    try:
        with lock_store(packed):
            if not is_packed(dataset_dir, name, identity):
                require_replaceable(packed, identity)
                with StoreWriter(packed, name) as writer:
                    episodes = read_minari(source)
                    for source_name, episode in tqdm(
                        episodes, f"packing {name}", facts.episodes, unit="episode"
                    ):
                        writer.append(episode, source_name)
                    writer.commit(identity, facts.procgen)
    except OSError as error:
        raise cannot_pack(source, packed, error) from error
    return PackedStore.open(packed)


def _has_episodes(folder: Path) -> bool:
    return folder.is_dir() and bool(list_episode_files(folder))
