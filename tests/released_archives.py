"""Archives in the layout of the release: `.tar.xz` of pickled `.npy` files with float32 frames."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence

import numpy as np

from common.episodes import Episode, format_name
from tests.data_fixtures import TIMESTAMP, raw_arrays

XZ, PLAIN = "w:xz", "w"
Games = Mapping[str, Sequence[Episode]]


def released_episode(episode: Episode) -> bytes:
    """A released file: a pickled dict wrapped by `np.save`, frames (T+1, 3, 64, 64) float32."""
    arrays = raw_arrays(episode)
    arrays["observations"] = arrays["observations"].astype(np.float32)
    file = io.BytesIO()
    np.save(file, arrays, allow_pickle=True)  # type: ignore[arg-type]
    return file.getvalue()


def released_members(games: Games) -> dict[str, bytes]:
    """Paths in the archive and what stands there."""
    return {
        f"{game}/{_name(episode, index)}.npy": released_episode(episode)
        for game, episodes in games.items()
        for index, episode in enumerate(episodes)
    }


def _name(episode: Episode, index: int) -> str:
    return format_name(TIMESTAMP, index, episode.length, episode.level_seed, episode.episode_return)


def released_archive(games: Games, mode: str = XZ) -> bytes:
    """One archive of these games' episodes, compressed or PLAIN."""
    return archive_of(released_members(games), mode)


def archive_of(members: Mapping[str, bytes], mode: str = XZ) -> bytes:
    """An archive of these files, by path."""
    file = io.BytesIO()
    options = {"preset": 0} if mode == XZ else {}
    with tarfile.open(fileobj=file, mode=mode, **options) as archive:  # type: ignore[call-overload]
        for path, data in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()
