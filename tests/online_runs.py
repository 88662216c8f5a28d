"""Tiny PPO runs and checks of the episodes they write, for the tests of the online commands."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from common.envs import ProcgenVectorEnv
from common.episodes import Episode, list_episode_files, parse_name, read_episode
from online import data_collector, trainer

# Random play lasts a few dozen steps and earns rewards; and an episode follows from its level and
# actions alone, while dodgeball, for one, carries a little over from the episode before.
GAME = "starpilot"
HIDDEN_SIZE = 16
CAPACITY, ENVIRONMENTS = 500, 8  # of a collection
TIMES = ("elapsed_seconds", "steps_per_second")
# Ten updates of 64 steps.
LONG: dict[str, Any] = {"num_steps": 16, "num_env_steps": 640, "save_dataset": True}


def trainer_flags(folder: Path, xpid: str = "run", **changes: Any) -> list[str]:
    """The command line of a run of three updates below `folder`; `changes` replace its flags."""
    flags: dict[str, object] = {
        "env_name": GAME,
        "num_processes": 4,
        "num_steps": 8,
        "num_env_steps": 96,
        "num_mini_batch": 2,
        "ppo_epoch": 1,
        "hidden_size": HIDDEN_SIZE,
        "precision": "fp32",
        "no_cuda": True,
        "model_saving_dir": folder / "models",
        "dataset_saving_dir": folder / "data",
        "xpid": xpid,
    }
    return [f"--{name}={value}" for name, value in {**flags, **changes}.items()]


def run_folder(folder: Path, xpid: str = "run") -> Path:
    """Where a run of `trainer_flags` lies."""
    return folder / "models" / GAME / xpid


def train(folder: Path, xpid: str = "run", **changes: Any) -> int:
    """Run the trainer in this process; its exit code."""
    return trainer.main(trainer_flags(folder, xpid, **changes))


def collect(*flags: object, **changes: Any) -> int:
    """Run the collector in this process; its exit code."""
    settings: dict[str, object] = {
        "env_name": GAME,
        "hidden_size": HIDDEN_SIZE,
        "num_processes": ENVIRONMENTS,
        "capacity": CAPACITY,
        "no_cuda": True,
    }
    named = [f"--{name}={value}" for name, value in {**settings, **changes}.items()]
    return data_collector.main([*map(str, flags), *named])


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of logs.csv."""
    with open(run / "logs.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def untimed(run: Path) -> list[dict[str, str]]:
    """The rows of logs.csv without what differs from one execution to the next."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows(run)]


def only(folder: Path, pattern: str) -> Path:
    """The one file that fits the pattern."""
    (path,) = folder.glob(pattern)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` and its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_episodes(folder: Path) -> list[Episode]:
    """The episodes of a folder in the order of their indices, 0, 1, 2 and so on.

    Fails if a name disagrees with its file, an index is missing or used twice, or a rest of an
    unfinished file lies about.
    """
    paths = list_episode_files(folder)
    names = [parse_name(path) for path in paths]
    assert [name.index for name in names if name] == list(range(len(paths)))
    episodes = [read_episode(path) for path in paths]
    for name, episode in zip(names, episodes, strict=True):
        assert name is not None
        assert name.length == episode.length
        assert name.level_seed == episode.level_seed
        assert name.episode_return == round(episode.episode_return, 2)
    others = {path.name for path in folder.iterdir()} - {path.name for path in paths}
    assert others - {"collection.json"} == {"build.json", ".owner"}
    return episodes


def assert_played_on_its_level(episode: Episode) -> None:
    """Play the episode's actions on its level: the same frames and raw rewards, and its end."""
    env = ProcgenVectorEnv(GAME, 1, start_level=episode.level_seed, num_levels=1)
    frame = env.reset()[0][0]
    for t in range(episode.length):
        np.testing.assert_array_equal(episode.observations[t], frame)
        observations, rewards, terminations, _, _ = env.step(episode.actions[t : t + 1])
        assert episode.rewards[t] == rewards[0]
        assert episode.dones[t] == terminations[0] == (t == episode.length - 1)
        frame = observations[0]
    env.close()
