"""Minari datasets, the Farama Foundation's standard for offline data: the format, and reading it.

A dataset is a folder with `data/metadata.json` (counts, spaces) and `data/main_data.hdf5`, which
holds one group per episode of T steps:

    episode_0/  observations  (T+1, 3, 64, 64) uint8     terminations  (T,) bool, ended by the game
                actions       (T,) int64                 truncations   (T,) bool, cut off
                rewards       (T,) float32, raw          infos/level_seed  (T+1,) int64
                attributes    id, total_steps, seed (the level's); ours: return, source

Channels come first because of how Minari stores images. What looks like one to it, height x width x
channel, becomes a JPEG, whose pixels are no longer the game's; anything else is kept as it is.

A dataset may come from anyone, so it is read without Minari, which would `gym.make` whatever
environment the metadata name. Nothing is run, no link is followed out of the file, and no memory is
taken before the sizes that are claimed are checked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from common.episode_formats import MAX_EPISODE_BYTES, MalformedError, require_frames
from common.episodes import (
    MAX_LEVEL_SEED,
    UNKNOWN_LEVEL,
    Episode,
    EpisodeError,
    EpisodeName,
    checked_episode,
    format_name,
    parse_name,
)
from common.errors import ToolkitError, UsageError
from common.games import FRAME_SHAPE, GAMES, NUM_ACTIONS

UNKNOWN_TIME = "19700101T000000"  # in the names of episodes whose time of recording is not told
DATA_FILE = "main_data.hdf5"
CHW = (FRAME_SHAPE[2], FRAME_SHAPE[0], FRAME_SHAPE[1])
_MAX_DEFLATE_RATIO = 1032  # of zlib: a larger claim is a lie
_MAX_COLUMN_BYTES = 64 * 2**20
_MAX_NAME_BYTES = 1024


class MinariFacts(NamedTuple):
    """What the metadata of a dataset tell. `env_name` and `procgen`, the build that drew the frames
    as build.json notes it, are None in datasets that `write_minari` did not make.
    """

    data: Path
    episodes: int
    env_name: str | None
    procgen: Any


def is_minari(path: Path) -> bool:
    """Whether the folder looks like a Minari dataset, sound or not."""
    return _data_folder(path) is not None


def _data_folder(path: Path) -> Path | None:
    places = (path / "data", path)
    return next((place for place in places if (place / "metadata.json").is_file()), None)


def inspect_minari(path: str | Path) -> MinariFacts:
    """What the metadata of the dataset in the folder `path`, named by its id, tell.

    Raises UsageError if there is no Minari dataset, ToolkitError if its metadata are broken, it is
    not of Procgen, it is not stored as HDF5, or its frames are stored as JPEG.
    """
    data = _data_folder(Path(path))
    if data is None:
        raise UsageError(f"{path} is no Minari dataset: there is no data/metadata.json")
    try:
        metadata = json.loads((data / "metadata.json").read_bytes())
        _require_procgen(metadata)
    except RecursionError as error:
        raise ToolkitError(f"{data / 'metadata.json'}: nested too deeply") from error
    except ValueError as error:  # also text that is no JSON
        raise ToolkitError(f"{data / 'metadata.json'}: {error}") from error
    env_name = metadata.get("env_name")
    return MinariFacts(
        data=data,
        episodes=metadata["total_episodes"],
        env_name=env_name if env_name in GAMES else None,
        procgen=metadata.get("procgen"),
    )


def _require_procgen(metadata: Any) -> None:
    """MalformedError if the dataset cannot hold Procgen episodes with the frames of the game."""
    if not isinstance(metadata, dict):
        raise MalformedError("expected an object")
    if metadata.get("data_format") != "hdf5":
        raise MalformedError(f"data_format is {metadata.get('data_format')!r:.40}, expected hdf5")
    if not isinstance(metadata.get("procgen"), dict | None):
        raise MalformedError(f"procgen is {metadata['procgen']!r:.40}, expected an object")
    episodes = metadata.get("total_episodes")
    if not isinstance(episodes, int) or episodes < 1:
        raise MalformedError(f"total_episodes is {episodes!r:.40}, expected at least 1")
    frames = _space(metadata, "observation_space", "shape", "dtype")
    if frames == ["Box", list(FRAME_SHAPE), "uint8"]:
        raise MalformedError(
            "its frames are stored as JPEG, as Minari does unless channels come first: their "
            f"pixels are not the game's. Write it again from arrays of frames of shape {CHW}"
        )
    if frames[:2] != ["Box", list(CHW)]:
        raise MalformedError(f"observation_space is {frames!r:.80}, expected a Box of {CHW}")
    actions = _space(metadata, "action_space", "n", "start")
    if actions != ["Discrete", NUM_ACTIONS, 0]:
        raise MalformedError(f"action_space is {actions!r:.80}, expected Discrete({NUM_ACTIONS})")


def _space(metadata: dict[str, Any], key: str, *facts: str) -> list[Any]:
    """The type of a space and these facts of it, None for those that are not told."""
    text = metadata.get(key)
    space = json.loads(text) if isinstance(text, str) else None
    return [space.get(fact) for fact in ("type", *facts)] if isinstance(space, dict) else [None]


def read_minari(path: str | Path) -> Iterator[tuple[str, Episode]]:
    """The episodes of a Minari dataset in their order, each with its name by the released grammar.

    Names keep what `write_minari` noted; other episodes are numbered in their order from a time
    that sorts first, 1970. The level seed is that of the infos, as Procgen tells it, else -1: the
    seed of an episode alone is a number that Minari drew for `reset`, which does not choose a level
    of Procgen. An episode that is not terminated was cut off.

    Raises at once what `inspect_minari` does, and ToolkitError if h5py is missing; EpisodeError,
    when its turn comes, for an episode that is broken: none can be read after it.
    """
    facts = inspect_minari(path)
    path = facts.data / DATA_FILE
    try:
        import h5py

        return _read_episodes(h5py.File(path, "r"), facts.episodes)
    except ImportError as error:
        raise not_installed(error) from error
    except OSError as error:  # none of HDF5, or cut short
        raise ToolkitError(f"{path}: cannot be read: {error}") from error


def _read_episodes(file: Any, count: int) -> Iterator[tuple[str, Episode]]:
    with file:
        for index in range(count):
            try:
                yield _read_episode(_member(file, f"episode_{index}", "Group"), index)
            # All but the first are h5py's, for files that are damaged or made to be.
            except (
                MalformedError,
                KeyError,
                OSError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                reason = " ".join(str(error).split())[:300]
                raise EpisodeError(f"{file.filename}: episode_{index}: {reason}") from error


def _read_episode(group: Any, index: int) -> tuple[str, Episode]:
    keys = ("actions", "rewards", "terminations", "truncations")
    columns = {key: _member(group, key, "Dataset")[()] for key in keys}
    frames = _member(group, "observations", "Dataset")
    require_frames(frames.shape, columns["actions"].shape)
    arrays = {**columns, "observations": frames[()], "dones": columns["terminations"]}
    episode = dataclasses.replace(checked_episode(arrays, None), level_seed=_level_seed(group))
    truncations = columns["truncations"]
    if truncations.shape != columns["terminations"].shape or truncations[:-1].any():
        raise MalformedError("truncations are not those of one episode")
    source = _source(group)
    timestamp, number = (source.timestamp, source.index) if source else (UNKNOWN_TIME, index)
    facts = (episode.length, episode.level_seed, episode.episode_return)
    return format_name(timestamp, number, *facts), episode


def _member(group: Any, name: str, kind: Literal["Group", "Dataset"]) -> Any:
    """A group, or an array of numbers that may be read: it lies in this very file, and its size is
    one that the bytes there can unfold to.
    """
    import h5py

    if name not in group:
        raise MalformedError(f"lacks {name}")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise MalformedError(f"{name} is a link")
    member = group[name]
    if not isinstance(member, getattr(h5py, kind)):
        raise MalformedError(f"{name} is a {type(member).__name__}, expected a {kind}")
    if kind == "Dataset":
        _require_plain(member, name)
    return member


def _require_plain(dataset: Any, name: str) -> None:
    if dataset.external or dataset.is_virtual:
        raise MalformedError(f"{name} lie in another file")
    if dataset.shape is None or dataset.dtype.kind not in "biuf":
        raise MalformedError(f"{name} are of type {dataset.dtype}, expected numbers")
    # A chunk may be larger than what is filled of it, and is unfolded whole.
    largest = max(math.prod(dataset.shape), math.prod(dataset.chunks or (0,)))
    there = min(dataset.id.get_storage_size(), os.stat(dataset.file.filename).st_size)
    limit = MAX_EPISODE_BYTES if name == "observations" else _MAX_COLUMN_BYTES
    if largest * dataset.dtype.itemsize > min(limit, there * _MAX_DEFLATE_RATIO + 1024):
        raise MalformedError(f"{name} claim shape {dataset.shape} of {dataset.dtype} in vain")


def _level_seed(group: Any) -> int:
    """That of the first step: the last infos of an episode may be of the next level."""
    if "infos" not in group:
        return UNKNOWN_LEVEL
    infos = _member(group, "infos", "Group")
    if "level_seed" not in infos:
        return UNKNOWN_LEVEL
    seeds = _member(infos, "level_seed", "Dataset")[()].ravel()
    if not seeds.size or not UNKNOWN_LEVEL <= seeds[0] <= MAX_LEVEL_SEED or seeds[0] % 1:
        raise MalformedError(f"infos/level_seed holds {seeds[:1]}, expected -1..{MAX_LEVEL_SEED}")
    return int(seeds[0])


def _source(group: Any) -> EpisodeName | None:
    """The name that the episode had, where it is one by the released grammar."""
    if "source" not in group.attrs:
        return None
    attribute = group.attrs.get_id("source")
    if attribute.shape != () or attribute.get_storage_size() > _MAX_NAME_BYTES:
        return None
    return parse_name(str(group.attrs["source"]))


def not_installed(error: ImportError) -> ToolkitError:
    """The error for a package that is missing, with what to install."""
    return ToolkitError(
        f"Minari datasets need a package that is missing ({error}): pip install 'minari[hdf5]'"
    )
