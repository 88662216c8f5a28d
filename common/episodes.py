"""The episode file: one episode of one Procgen level, as released with the paper and as we write.

A file is told apart by its content, never by its extension. `.npz` archives and pickled
dictionaries (bare, or wrapped by `np.save`) hold the same four arrays, of an episode of T steps:

    observations (T+1, 3, 64, 64)  0..255 as uint8 or float; the last one, which the environment
                                   returned on the final step, already shows the next level
    actions      (T, 1) or (T,)    0..14
    rewards      (T, 1) or (T,)    raw, undiscounted
    dones        (T, 1) or (T,)    set on the last step only; not even there if it was cut off

Files are downloaded, so nothing in them is trusted: no code runs, and no memory is taken before the
sizes they claim are checked.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.episode_formats import MalformedError, read_arrays, require_frames
from common.errors import ToolkitError
from common.games import FRAME_SHAPE, NUM_ACTIONS
from common.safe_pickle import PickleRefusedError

UNKNOWN_LEVEL = -1
MAX_LEVEL_SEED = 2**31 - 1
_CHUNK = 64  # frames converted at a time: they stay in the processor's cache
_SUFFIXES = (".npz", ".npy", ".pickle", ".pkl")
_NAME = re.compile(r"(\d{8}T\d{6})_(\d+)_(\d+)_(-1|\d+)_(-?\d+\.\d{2})(?:\.[A-Za-z]\w*)?")


class EpisodeError(ToolkitError):
    """An episode file that cannot be used: names the file, what is wrong and the value."""


@dataclass(frozen=True)
class EpisodeName:
    """What the name of an episode file tells. `level_seed` is -1 where it is unknown."""

    timestamp: str
    index: int
    length: int
    level_seed: int
    episode_return: float


def parse_name(path: str | Path) -> EpisodeName | None:
    """The facts in a file name, or None if it does not fit the released grammar."""
    match = _NAME.fullmatch(Path(path).name)
    if match is None or int(match[4]) > MAX_LEVEL_SEED:
        return None
    return EpisodeName(match[1], int(match[2]), int(match[3]), int(match[4]), float(match[5]))


def format_name(
    timestamp: str, index: int, length: int, level_seed: int, episode_return: float
) -> str:
    """`{timestamp}_{index}_{length}_{level seed}_{return:.2f}`, without an extension.

    `timestamp` is like 20230329T092246. Raises ValueError if the name could not be parsed again.
    """
    name = f"{timestamp}_{index}_{length}_{level_seed}_{episode_return:.2f}"
    if parse_name(name) is None:
        raise ValueError(f"{name!r} is no episode name: check timestamp and level seed")
    return name


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode of T steps.

    observations (T+1, 64, 64, 3) uint8, the last one not of this level if `terminated`;
    actions (T,) int64; rewards (T,) float32; dones (T,) bool; level_seed -1 if unknown.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    level_seed: int = UNKNOWN_LEVEL

    @property
    def length(self) -> int:
        return len(self.actions)

    @property
    def episode_return(self) -> float:
        """Undiscounted sum of raw rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    @property
    def terminated(self) -> bool:
        """False if the episode was cut off before its end."""
        return bool(self.dones[-1])


def is_episode_name(name: str) -> bool:
    """Whether a file of this name counts as an episode: by the grammar, or by its extension."""
    return not name.startswith(".") and (parse_name(name) is not None or name.endswith(_SUFFIXES))


def list_episode_files(folder: Path) -> list[Path]:
    """Episode files directly in `folder`, in the order recorded: timestamp, index, name.

    A file counts if its name fits the grammar or ends in .npz, .npy, .pkl or .pickle; names that do
    not fit the grammar come last. Hidden files, temporary files and sub-folders are left out.
    """
    keyed = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_episode_name(entry.name) and entry.is_file():
                name = parse_name(entry.name)
                order = (0, name.timestamp, name.index) if name else (1, "", 0)
                keyed.append((order, entry.name))
    return [Path(folder) / name for _, name in sorted(keyed)]


def read_episode(path: str | Path) -> Episode:
    """Read one episode file in any of the released formats.

    Raises EpisodeError, one line, if the file is unreadable, truncated, holds anything but the four
    arrays, disagrees with itself or with its name, or carries values an episode cannot have.
    """
    try:
        with open(path, "rb") as file:
            return parse_episode(file, path)
    except OSError as error:
        raise EpisodeError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_episode(file: BinaryIO, path: str | Path) -> Episode:
    """The episode in an open, seekable file that is called `path`; errors as of `read_episode`."""
    try:
        return checked_episode(read_arrays(file), parse_name(path))
    except PickleRefusedError as error:
        raise EpisodeError(f"{path}: refused pickle: it holds {_printable(error)}") from error
    except MalformedError as error:
        raise EpisodeError(f"{path}: {_printable(error)}") from error


def _printable(error: ValueError) -> str:
    """One line, whatever names and keys a file brings into the message."""
    return "".join(c if c.isprintable() else "?" for c in str(error)[:300])


def checked_episode(arrays: Mapping[str, np.ndarray], name: EpisodeName | None) -> Episode:
    """The episode that the four arrays of a file hold and its name tells.

    Raises MalformedError if they disagree with each other or with the name, or hold values that an
    episode cannot have.
    """
    require_frames(arrays["observations"].shape, arrays["actions"].shape)
    length = len(arrays["actions"])
    if name is not None and name.length != length:
        raise MalformedError(f"its name says {name.length} steps, it holds {length}")
    actions = _column(arrays, "actions", length)
    valid = (actions == np.floor(actions)) & (actions >= 0) & (actions < NUM_ACTIONS)
    _require(valid, actions, "actions", f"expected integers 0..{NUM_ACTIONS - 1}")
    raw_rewards = _column(arrays, "rewards", length)
    with np.errstate(over="ignore"):
        rewards = raw_rewards.astype(np.float32)
    _require(np.isfinite(rewards), raw_rewards, "rewards", "expected finite float32 values")
    dones = _column(arrays, "dones", length)
    _require((dones == 0) | (dones == 1), dones, "dones", "expected 0 or 1")
    if dones[:-1].any():
        raise MalformedError(f"done at step {int(np.argmax(dones))} of {length}, before the last")
    return Episode(
        observations=_to_frames(arrays["observations"]),
        actions=actions.astype(np.int64),
        rewards=rewards,
        dones=dones.astype(bool),
        level_seed=UNKNOWN_LEVEL if name is None else name.level_seed,
    )


def _column(arrays: Mapping[str, np.ndarray], key: str, length: int) -> np.ndarray:
    array = arrays[key]
    if array.shape not in ((length,), (length, 1)):
        raise MalformedError(f"{key} have shape {array.shape}, expected ({length}, 1)")
    if array.dtype.kind not in ("biuf" if key == "dones" else "iuf"):
        raise MalformedError(f"{key} are of type {array.dtype}, expected numbers")
    return array.reshape(length)


def _require(valid: np.ndarray, values: np.ndarray, key: str, expected: str) -> None:
    if not valid.all():
        step = int(np.argmin(valid))
        raise MalformedError(f"{key} hold {values[step]} at step {step}, {expected}")


def _to_frames(observations: np.ndarray) -> np.ndarray:
    """(N, 3, 64, 64) of any number type -> (N, 64, 64, 3) uint8; refuses values not in 0..255."""
    if observations.dtype.kind not in "iuf":
        raise MalformedError(f"observations are of type {observations.dtype}, expected numbers")
    frames = np.empty((len(observations), *FRAME_SHAPE), np.uint8)
    for start in range(0, len(observations), _CHUNK):
        chunk = observations[start : start + _CHUNK]
        with np.errstate(invalid="ignore"):  # NaN: found by the comparison
            as_bytes = chunk.astype(np.uint8)
        if chunk.dtype != np.uint8 and not np.array_equal(as_bytes, chunk):
            frame, *pixel = np.unravel_index(np.argmax(as_bytes != chunk), chunk.shape)
            value = chunk[(frame, *pixel)]
            raise MalformedError(
                f"observations hold {value} in frame {start + frame}, expected integers 0..255"
            )
        for channel in range(FRAME_SHAPE[2]):  # in one go NumPy loops over 3 bytes: far slower
            frames[start : start + _CHUNK, ..., channel] = as_bytes[:, channel]
    return frames


def write_episode(folder: Path, episode: Episode, index: int, timestamp: str) -> Path:
    """Write one episode as a compressed `.npz` named after its facts; whole or not at all.

    Raises ToolkitError, leaving nothing behind, if the file cannot be written.
    """
    name = format_name(timestamp, index, episode.length, episode.level_seed, episode.episode_return)
    path = Path(folder) / f"{name}.npz"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    contents = io.BytesIO()  # not the file: on a full disk NumPy leaves a zip file that complains
    np.savez_compressed(
        contents,
        observations=episode.observations.transpose(0, 3, 1, 2).astype(np.uint8),
        actions=episode.actions.astype(np.int64)[:, None],
        rewards=episode.rewards.astype(np.float32)[:, None],
        dones=episode.dones.astype(bool)[:, None],
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(contents.getbuffer())
        os.replace(temporary, path)
    except OSError as error:
        raise ToolkitError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


class EpisodeRecorder:
    """Collects the steps of N parallel environments and gives whole episodes only.

    Frames are copied, and only those of running episodes are held: N times the longest episode.
    """

    def __init__(self) -> None:
        self._running: list[_RunningEpisode | None] = []

    def begin(self, observations: np.ndarray, level_seeds: np.ndarray) -> None:
        """First frames (N, 64, 64, 3) uint8 and level seeds (N,); running episodes are dropped."""
        self._running = [
            _RunningEpisode(frame, seed)
            for frame, seed in zip(observations, level_seeds, strict=True)
        ]

    def begin_under_way(self, num_envs: int) -> None:
        """Start in the middle of episodes: each environment is recorded from its next one on."""
        self._running = [None] * num_envs

    def step(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        next_observations: np.ndarray,
        level_seeds: np.ndarray,
    ) -> list[Episode]:
        """Add one step of each environment and return the episodes it finished, in their order.

        Takes actions (N,) int, rewards (N,) float, dones (N,) bool, next_observations
        (N, 64, 64, 3) uint8 and level_seeds (N,), the levels being played after the step. Where
        done, the next observation is the first frame of the next level and ends the episode as in
        the released data. Raises ValueError if N differs from that of `begin`.
        """
        finished = []
        columns = (self._running, actions, rewards, dones, next_observations, level_seeds)
        if len({len(column) for column in columns}) != 1:
            raise ValueError(f"expected {len(self._running)} environments, got {len(actions)}")
        for i, running in enumerate(self._running):
            if running is not None:
                running.add(int(actions[i]), float(rewards[i]), next_observations[i])
            if dones[i]:
                if running is not None:
                    finished.append(running.finish())
                self._running[i] = _RunningEpisode(next_observations[i], level_seeds[i])
        return finished


class _RunningEpisode:
    def __init__(self, first_frame: np.ndarray, level_seed: int) -> None:
        self.frames = [np.array(first_frame, np.uint8)]
        self.actions: list[int] = []
        self.rewards: list[float] = []
        self.level_seed = int(level_seed)

    def add(self, action: int, reward: float, next_frame: np.ndarray) -> None:
        self.actions.append(action)
        self.rewards.append(reward)
        self.frames.append(np.array(next_frame, np.uint8))

    def finish(self) -> Episode:
        dones = np.zeros(len(self.actions), bool)
        dones[-1] = True
        return Episode(
            observations=np.stack(self.frames),
            actions=np.array(self.actions, np.int64),
            rewards=np.array(self.rewards, np.float32),
            dones=dones,
            level_seed=self.level_seed,
        )
