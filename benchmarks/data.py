"""The data of the benchmark: real Procgen episodes under random play, recorded and packed."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.sizes import NUM_LEVELS
from common.envs import ProcgenVectorEnv
from common.games import NUM_ACTIONS
from common.rollout import EpisodeResult, rollout
from common.seeding import derive_seed
from offline.data.packing import open_game
from online.episode_archive import EpisodeArchive

logger = logging.getLogger(__name__)


class RandomPolicy:
    """Uniform actions: a `Policy` that costs nothing."""

    def reset(self, num_envs: int, seed: int) -> None:
        """Start the one stream of random numbers."""
        self._generator = np.random.default_rng(seed)

    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """Actions (n,) int64."""
        return self._generator.integers(NUM_ACTIONS, size=len(env_ids))

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        """Nothing to remember."""


def make_data(folder: Path, settings: argparse.Namespace) -> None:
    """Record `transitions` transitions in `<folder>/<env_name>/` and pack them, with a bar each."""
    start = time.perf_counter()
    archive = EpisodeArchive(folder / settings.env_name)
    archive.note_build(settings.env_name, "easy")
    env = ProcgenVectorEnv(
        settings.env_name,
        settings.num_processes,
        num_levels=NUM_LEVELS,
        seed=derive_seed(settings.seed, "benchmark", "levels"),
    )
    bar = tqdm(total=settings.transitions, unit="transition", desc="playing at random")

    def note(episode: EpisodeResult) -> None:
        bar.update(episode.length)

    with bar:
        rollout(
            env,
            RandomPolicy(),
            seed=derive_seed(settings.seed, "benchmark", "actions"),
            keep_going=lambda _: archive.transitions < settings.transitions,
            listener=archive,
            on_episode=note,
        )
    env.close()
    recorded = time.perf_counter()
    store = open_game(folder, settings.env_name)
    logger.info(
        "%d transitions of %s recorded in %.1f s, packed in %.1f s",
        store.num_rows,
        settings.env_name,
        recorded - start,
        time.perf_counter() - recorded,
    )
