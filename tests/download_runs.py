"""Running download.py as a user would, against a server on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import download
from common.episodes import Episode
from offline.data.packing import open_game
from tests.archive_server import ArchiveServer
from tests.data_fixtures import make_episode
from tests.released_archives import released_archive

ROOT = Path(__file__).resolve().parents[1]
CATEGORY = "1M_E"
COINRUN = [
    make_episode(1, [0.0, 0.0, 10.0], level_seed=5),
    make_episode(2, [0.0], level_seed=6),
    make_episode(3, [0.0] * 9 + [10.0], level_seed=5),
]
MAZE = [make_episode(4, [0.0, 10.0], level_seed=7)]
ARCHIVE = released_archive({"coinrun": COINRUN})  # about 190 kB
PATH = "1M/expert/coinrun.tar.xz"
SECOND_PATH = "Procgen/Datasets/Compressed/1M/level_200/expert/coinrun.tar.xz"
HEAD_BYTES = 512  # of each archive, to learn its size


def arguments(server: ArchiveServer, folder: Path, *more: str, games: str = "coinrun") -> list[str]:
    """A command line that downloads `games` of `CATEGORY` from `server`; `more` comes last."""
    settings = {"download_folder": folder, "category_name": CATEGORY, "base_url": server.url}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    return [*flags, "--env_names", *games.split(), *more]


def run_here(server: ArchiveServer, folder: Path, *more: str, games: str = "coinrun") -> int:
    """The exit code of the command, run in this process."""
    return download.main(arguments(server, folder, *more, games=games))


def start(
    server: ArchiveServer, folder: Path, *more: str, limit: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """The command as a process; `limit` is called in it first."""
    return subprocess.Popen(
        [sys.executable, "download.py", *arguments(server, folder, *more)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


def run(
    server: ArchiveServer, folder: Path, *more: str, limit: Callable[[], None] | None = None
) -> tuple[int, str, str]:
    """Exit code, standard output and error of the command, run as a process to its end."""
    process = start(server, folder, *more, limit=limit)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def archive_file(folder: Path, category: str = CATEGORY, name: str = "coinrun.tar.xz") -> Path:
    """Where an archive lies once it is whole."""
    return folder / category / ".archives" / name


def assert_holds(
    folder: Path, game: str, episodes: Sequence[Episode], category: str = CATEGORY
) -> None:
    """What training would open has exactly these episodes."""
    store = open_game(folder / category, game, progress=False)
    assert store.num_rows == sum(episode.length for episode in episodes)
    for record, episode in zip(store.episodes, episodes, strict=True):
        rows = slice(record["start"], record["start"] + record["length"])
        np.testing.assert_array_equal(store.frames[rows], episode.observations[:-1])
        for name in ("actions", "rewards", "dones"):
            np.testing.assert_array_equal(getattr(store, name)[rows], getattr(episode, name))
        assert record["level_seed"] == episode.level_seed
