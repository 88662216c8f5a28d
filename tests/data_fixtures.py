"""Episodes whose every frame can be told from every other, and writers of the released formats."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.episodes import Episode, format_name, write_episode

TIMESTAMP = "20230329T092246"
NEXT_LEVEL = 255  # every pixel of the frame after the end


def make_episode(
    number: int,
    rewards: Sequence[float],
    level_seed: int = 0,
    terminated: bool = True,
) -> Episode:
    """An episode of len(rewards) steps; pixel (0, 0) of frame t is (number, t // 200, t % 200).

    The other pixels are random in 0..99; the action at step t is (number + t) % 15.
    """
    length = len(rewards)
    generator = np.random.default_rng(number)
    observations = generator.integers(0, 100, (length + 1, 64, 64, 3), dtype=np.uint8)
    for step in range(length):
        observations[step, 0, 0] = number, step // 200, step % 200
    observations[length] = NEXT_LEVEL
    dones = np.zeros(length, bool)
    dones[-1] = terminated
    return Episode(
        observations=observations,
        actions=(number + np.arange(length)) % 15,
        rewards=np.asarray(rewards, np.float32),
        dones=dones,
        level_seed=level_seed,
    )


def raw_arrays(episode: Episode) -> dict[str, np.ndarray]:
    """The arrays of an episode file as released: CHW frames and columns of shape (T, 1)."""
    return {
        "observations": episode.observations.transpose(0, 3, 1, 2).copy(),
        "actions": episode.actions[:, None].astype(np.int64),
        "rewards": episode.rewards[:, None],
        "dones": episode.dones[:, None],
    }


def episode_path(folder: Path, episode: Episode, index: int, suffix: str) -> Path:
    """Where an episode belongs by the released grammar."""
    folder.mkdir(parents=True, exist_ok=True)
    name = format_name(TIMESTAMP, index, episode.length, episode.level_seed, episode.episode_return)
    return folder / f"{name}{suffix}"


def save_npz(path: Path, **arrays: Any) -> Path:
    """An archive as the paper's collector writes it, at exactly this path."""
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def save_npy(path: Path, contents: Any) -> Path:
    """A dictionary wrapped by `np.save`, as released, at exactly this path."""
    with open(path, "wb") as file:
        np.save(file, contents, allow_pickle=True)
    return path


def save_pickle(path: Path, contents: Any, protocol: int = 4) -> Path:
    """A bare pickle."""
    path.write_bytes(pickle.dumps(contents, protocol=protocol))
    return path


def write_game(folder: Path, episodes: Sequence[Episode]) -> Path:
    """A game folder with these episodes, in order."""
    for index, episode in enumerate(episodes):
        write_episode(folder, episode, index, TIMESTAMP)
    return folder
