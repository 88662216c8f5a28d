"""Episodes into files while they are played: by the collector, and by PPO as it learns.

A folder holds the episodes of one run. Its hidden file `.owner` keeps it so: it is locked while
somebody writes to the folder, and holds the token of the run whose episodes these are. (Not
build.json: datasets of one build are told by its being the same.)
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.envs import frame_fingerprint, procgen_build
from common.episodes import EpisodeRecorder, list_episode_files, parse_name, write_episode
from common.errors import ToolkitError, UsageError
from common.files import lock_alone, sync, write_atomically

logger = logging.getLogger(__name__)


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
        # A name, not a draw: it must differ between runs of one seed.
        self._owner = secrets.token_hex(8)
        self._lock: int | None = None

    def claim(self) -> None:
        """Make the folder that of a new run, and keep other processes out of it until `close`.

        Raises UsageError if it holds episodes already, as files or packed, or another process
        writes to it: two runs are never mixed. What a run left there that ended before its first
        episode is no hindrance.
        """
        new = not self._owner_file.exists()
        self._keep_others_out()
        try:
            self._require_free()
        except UsageError:
            if new:  # somebody's data stay as they were
                self._owner_file.unlink()
            raise
        self._write_owner()

    def _require_free(self) -> None:
        there = self.holds()
        if there:
            raise UsageError(
                f"{self.folder} holds {there} episodes already: name another --{self._flag}, "
                "or remove the folder if they are of no use"
            )
        packed = self.folder / "packed"
        if (packed / "manifest.json").is_file():  # training would find both
            raise UsageError(f"{packed} holds episodes already: name another --{self._flag}")

    def close(self) -> None:
        """Let other processes write to the folder; whoever claimed it, or tried to, calls this."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def holds(self) -> int:
        """Number of episodes in the folder, which is there."""
        return len(list_episode_files(self.folder))

    @property
    def _owner_file(self) -> Path:
        return self.folder / ".owner"

    def _keep_others_out(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._owner_file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ToolkitError(f"cannot write to {self.folder}: {error.strerror}") from error
        if not lock_alone(self._lock):
            raise UsageError(
                f"another process is writing to {self.folder}: name another --{self._flag}"
            )

    def _write_owner(self) -> None:
        try:
            self._owner_file.write_text(self._owner, encoding="utf-8")  # in place: it is locked
            sync(self._owner_file)
        except OSError as error:
            raise ToolkitError(f"cannot write {self._owner_file}: {error.strerror}") from error

    def note_build(self, env_name: str, distribution_mode: str) -> None:
        """Write build.json: package, version and Qt of Procgen, mode, and fingerprint of frames."""
        contents = {
            "build": procgen_build(),
            "distribution_mode": distribution_mode,
            "fingerprint": frame_fingerprint(env_name, distribution_mode),
        }
        text = json.dumps(contents, indent=2) + "\n"
        write_atomically(self.folder / "build.json", text.encode())

    def state(self) -> dict[str, Any]:
        """What `restart` needs: where the numbering is, and what marks our files and our folder."""
        return {
            "next_index": self.next_index,
            "timestamp": self._timestamp,
            "owner": self._owner,
        }

    def restart(self, state: Mapping[str, Any], num_envs: int) -> None:
        """Go on after an interruption: remove our files written after the last checkpoint.

        The episodes that were under way are played to their end but not recorded. Like `claim` it
        keeps other processes out until `close`. Raises UsageError, and removes nothing, if one is
        writing or the episodes in the folder are those of another run.
        """
        self._keep_others_out()
        self.next_index, self._timestamp = state["next_index"], state["timestamp"]
        # Older versions named no owner, neither here nor in the folder.
        self._owner = state.get("owner", self._timestamp)
        noted = self._owner_file.read_text(encoding="utf-8", errors="replace")
        there = self.holds()
        if there and noted != self._owner and (noted or "owner" in state):
            raise UsageError(
                f"{self.folder} holds episodes of another run: give the --{self._flag} that this "
                "one began with, or a new one"
            )
        if self.next_index and not there:
            logger.warning(
                "%s holds none of the %d episodes before: it begins with the next",
                self.folder,
                self.next_index,
            )
        if noted != self._owner:
            self._write_owner()
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
