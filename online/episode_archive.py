"""Episodes into files while they are played: by the collector, and by PPO as it learns."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.envs import frame_fingerprint, procgen_build
from common.episodes import EpisodeRecorder, list_episode_files, parse_name, write_episode
from common.errors import UsageError
from common.files import write_atomically


class EpisodeArchive:
    """Writes whole episodes to `folder`, numbered in the order in which they end.

    A `StepListener`: raw rewards, uint8 frames, level seeds in the names. `transitions` counts
    what has been written. `build.json` notes which Procgen drew the frames. `flag` is the one that
    names the folder, for errors.
    """

    def __init__(self, folder: Path, flag: str = "dataset_saving_dir") -> None:
        self.folder = folder
        self.recorder = EpisodeRecorder()
        self.next_index = 0
        self.transitions = 0
        self._flag = flag
        self._timestamp = time.strftime("%Y%m%dT%H%M%S")

    def require_empty(self) -> None:
        """UsageError if the folder holds episodes already: two collections are never mixed."""
        there = len(list_episode_files(self.folder)) if self.folder.is_dir() else 0
        if there:
            raise UsageError(
                f"{self.folder} holds {there} episodes already: name another --{self._flag}, "
                "or remove it to begin anew"
            )

    def note_build(self, env_name: str, distribution_mode: str) -> None:
        """Write build.json: package, version and Qt of Procgen, and its fingerprint of frames."""
        contents = {
            "build": procgen_build(),
            "fingerprint": frame_fingerprint(env_name, distribution_mode),
        }
        text = json.dumps(contents, indent=2) + "\n"
        write_atomically(self.folder / "build.json", text.encode())

    def state(self) -> dict[str, Any]:
        """What `restart` needs: where the numbering is, and the timestamp that marks our files."""
        return {"next_index": self.next_index, "timestamp": self._timestamp}

    def restart(self, state: Mapping[str, Any], num_envs: int) -> None:
        """Go on after an interruption: remove our files written after the last checkpoint.

        The episodes that were under way are played to their end but not recorded.
        """
        self.next_index, self._timestamp = state["next_index"], state["timestamp"]
        for path in self.folder.glob("*.npz"):
            name = parse_name(path)
            ours = name is not None and name.timestamp == self._timestamp
            if name is not None and ours and name.index >= self.next_index:
                path.unlink()
        for path in self.folder.glob(f".{self._timestamp}_*.tmp"):  # cut off while being written
            path.unlink()
        self.recorder.begin_under_way(num_envs)

    def begin(self, observations: np.ndarray, level_seeds: np.ndarray) -> None:
        """The environments' first frames; see `EpisodeRecorder.begin`."""
        self.recorder.begin(observations, level_seeds)

    def step(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        next_observations: np.ndarray,
        level_seeds: np.ndarray,
    ) -> None:
        """Record one step of every environment and write the episodes that ended with it."""
        ended = self.recorder.step(actions, rewards, dones, next_observations, level_seeds)
        for episode in ended:
            write_episode(self.folder, episode, self.next_index, self._timestamp)
            self.next_index += 1
            self.transitions += episode.length
