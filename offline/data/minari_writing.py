"""Writing a Minari dataset: losslessly, compressed, one episode in memory at a time."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.episodes import UNKNOWN_LEVEL, Episode
from common.errors import ToolkitError
from common.games import NUM_ACTIONS
from offline.data.minari_format import CHW, DATA_FILE, not_installed

_FRAMES_PER_CHUNK = 32
_GZIP_LEVEL = 4  # coinrun shrinks sevenfold, fruitbot twofold; higher levels hardly gain


def require_minari() -> None:
    """ToolkitError, saying what to install, if Minari or h5py is not there."""
    try:
        import h5py  # noqa: F401
        import minari  # noqa: F401
    except ImportError as error:
        raise not_installed(error) from error


def write_minari(
    folder: Path,
    episodes: Iterable[tuple[str, Episode]],
    *,
    dataset_id: str,
    env_name: str,
    procgen: Any = None,
) -> None:
    """Write named episodes as a Minari dataset into `folder`; frames are compressed without loss.

    One episode is held in memory at a time. `env_name` and `procgen` go to the metadata, the level
    seed of an episode to its `seed` and, for every step, to its infos. Raises ToolkitError if
    Minari is not installed or a file cannot be written; what was written by then is left there.
    """
    require_minari()
    import h5py
    import minari
    from gymnasium.spaces import Box, Discrete
    from minari.dataset.minari_storage import MinariStorage

    frames, actions = Box(0, 255, CHW, np.uint8), Discrete(NUM_ACTIONS)
    count = steps = 0
    data = folder / "data"
    try:
        storage = MinariStorage.new(data, observation_space=frames, action_space=actions)
        with _KeptErrors(data / DATA_FILE, "w+b") as target:
            with h5py.File(target, "w") as file:
                for name, episode in episodes:
                    _write_episode(file.create_group(f"episode_{count}"), count, name, episode)
                    target.raise_error()
                    count, steps = count + 1, steps + episode.length
            target.raise_error()
        storage.update_metadata(
            {
                "dataset_id": dataset_id,
                "minari_version": minari.__version__,
                "description": f"Procgen {env_name}; the seed of an episode is that of its level.",
                "env_name": env_name,
                "procgen": procgen,
                "total_episodes": count,
                "total_steps": steps,
                "dataset_size": round(storage.get_size(), 1),
            }
        )
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = ": free some space, or choose another folder" if full else ""
        raise ToolkitError(f"cannot write {data}: {error.strerror or error}{hint}") from error


class _KeptErrors(io.FileIO):
    """A file that keeps its first error instead of raising it: HDF5 ends the process with a
    segmentation fault when it cannot write.
    """

    _error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and not self._error:
                left = left[super().write(left) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def raise_error(self) -> None:
        if self._error:
            raise self._error


def _write_episode(group: Any, index: int, name: str, episode: Episode) -> None:
    group.attrs.update(
        {"id": index, "total_steps": episode.length, "return": episode.episode_return}
    )
    group.attrs["source"] = name
    if episode.level_seed != UNKNOWN_LEVEL:
        group.attrs["seed"] = episode.level_seed
    # Minari's own writer would not compress them.
    group.create_dataset(
        "observations",
        data=episode.observations.transpose(0, 3, 1, 2),
        chunks=(min(_FRAMES_PER_CHUNK, episode.length + 1), *CHW),
        compression="gzip",
        compression_opts=_GZIP_LEVEL,
    )
    truncations = np.zeros(episode.length, bool)
    truncations[-1] = not episode.terminated
    columns = {
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": episode.dones,
        "truncations": truncations,
        "infos/level_seed": np.full(episode.length + 1, episode.level_seed, np.int64),
    }
    for key, values in columns.items():
        group.create_dataset(key, data=values)
