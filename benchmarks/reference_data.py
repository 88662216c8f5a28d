"""The data of the plain side: episode files in memory, one Python call per sample, a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Sample = tuple[Any, ...]


def _load_episodes(folder: Path) -> list[dict[str, np.ndarray]]:
    """The arrays of a folder of episode files, in the order of recording."""
    episodes = []
    for path in sorted(folder.glob("*.npz"), key=lambda path: int(path.stem.split("_")[1])):
        with np.load(path) as file:
            episodes.append({key: file[key] for key in file.files})
    return episodes


def _pixels(frames: np.ndarray) -> np.ndarray:
    return frames.astype(np.float32) / 255.0


class EpisodeDataset(Dataset[Sample]):
    """Transitions of a folder of episode files, kept as channels-first uint8 in memory.

    `dataset[i]` converts its frames to float pixels in [0, 1]: (s, a), or (s, a, r, s', done).
    """

    def __init__(self, folder: Path, next_observations: bool) -> None:
        self.next_observations = next_observations
        self.samples = [
            (episode, step)
            for episode in _load_episodes(folder)
            for step in range(len(episode["actions"]))
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        episode, step = self.samples[index]
        observation = torch.from_numpy(_pixels(episode["observations"][step]))
        action = int(episode["actions"][step, 0])
        if not self.next_observations:
            return observation, action
        reward = float(episode["rewards"][step, 0])
        following = torch.from_numpy(_pixels(episode["observations"][step + 1]))
        return observation, action, reward, following, float(episode["dones"][step, 0])


class WindowDataset(Dataset[Sample]):
    """For each transition of a folder, the window of the last `context_length` steps up to it.

    `dataset[i]` converts the frames of its window to float pixels in [0, 1] and pads it with zeros
    at the end: (returns-to-go, frames, actions, time steps, mask), the mask True at real steps.
    """

    def __init__(self, folder: Path, context_length: int) -> None:
        self.context_length = context_length
        episodes = _load_episodes(folder)
        for episode in episodes:
            rewards = episode["rewards"][:, 0]
            episode["returns_to_go"] = np.cumsum(rewards[::-1])[::-1].astype(np.float32)
        self.max_length = max(len(episode["actions"]) for episode in episodes)
        self.largest_return = max(abs(float(episode["returns_to_go"][0])) for episode in episodes)
        self.samples = [
            (episode, step) for episode in episodes for step in range(len(episode["actions"]))
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        episode, last = self.samples[index]
        steps = slice(max(0, last - self.context_length + 1), last + 1)
        return (
            self._padded(episode["returns_to_go"][steps]),
            self._padded(_pixels(episode["observations"][steps])),
            self._padded(episode["actions"][steps, 0].astype(np.int64)),
            self._padded(np.arange(steps.start, steps.stop)),
            self._padded(np.ones(steps.stop - steps.start, bool)),
        )

    def _padded(self, values: np.ndarray) -> Tensor:
        padded = np.zeros((self.context_length, *values.shape[1:]), values.dtype)
        padded[: len(values)] = values
        return torch.from_numpy(padded)


def forever(dataset: Dataset[Sample], batch_size: int) -> Iterator[list[Tensor]]:
    """Shuffled batches, one pass over the data after the other."""
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=0, drop_last=True)
    while True:
        yield from loader
