"""Watching an agent play: an evaluation once more, and this time chosen episodes are kept.

Nothing plays here: `evaluate` does, with a `Recorder` in the agent's place. So what is recorded is
what was evaluated, levels and actions alike.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.envs import level_splits
from common.errors import ToolkitError
from common.evaluation import MAX_ENVS, Results, evaluate, read_episodes
from common.rollout import EpisodeResult, fair_shares
from common.seeding import derive_seed
from offline.agents.base import OfflineAgent

Place = tuple[int, int]  # environment of the evaluation, and which of its episodes, from 0


class Play(NamedTuple):
    """What an agent saw, thought, did and got, step by step: T entries each."""

    frames: list[np.ndarray]  # (64, 64, 3) uint8
    probabilities: list[np.ndarray]  # (num_actions,) float64
    actions: list[int]
    rewards: list[float]


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """An episode with its level, and words on why it is shown."""

    caption: str
    level_seed: int
    play: Play


class Recorder:
    """A `common.rollout.Policy` that plays as `agent` does and keeps the episodes at `places`."""

    def __init__(self, agent: OfflineAgent[Any], places: Collection[Place]) -> None:
        self.plays = {place: Play([], [], [], []) for place in places}
        self._agent = agent

    def reset(self, num_envs: int, seed: int) -> None:
        """See `common.rollout.Policy`."""
        self._agent.reset(num_envs, seed)
        self._episode = np.zeros(num_envs, np.int64)  # which one is under way
        self._watched = np.array([(env, 0) in self.plays for env in range(num_envs)])

    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """See `common.rollout.Policy`."""
        actions = self._agent.act(observations, env_ids)
        rows = np.flatnonzero(self._watched[env_ids])
        if rows.size:
            probabilities = self._agent.action_probabilities()
            for row in rows:
                play = self._play(env_ids[row])
                # Copies: a row would keep the frames of all environments.
                play.frames.append(observations[row].copy())
                play.probabilities.append(probabilities[row].copy())
                play.actions.append(int(actions[row]))
        return actions

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        """See `common.rollout.Policy`."""
        self._agent.observe(actions, rewards, dones, env_ids)
        for row in np.flatnonzero(self._watched[env_ids]):
            self._play(env_ids[row]).rewards.append(float(rewards[row]))
        for env in env_ids[dones]:
            self._episode[env] += 1
            self._watched[env] = (int(env), int(self._episode[env])) in self.plays

    def _play(self, env: np.int64) -> Play:
        return self.plays[int(env), int(self._episode[env])]


def record(
    agent: OfflineAgent[Any],
    trained: Mapping[str, Any],
    num_episodes: int,
    chosen: Mapping[str, Mapping[int, str]],
    *,
    progress: bool = False,
) -> tuple[Results, dict[str, list[RecordedEpisode]]]:
    """Evaluate an agent as `offline.evaluate_offline_agent` does, and keep chosen episodes.

    `trained` are the settings in its checkpoint. `chosen` gives by split the captions of episodes
    by their index among the `num_episodes` of that split. Returns all results and, by split, the
    chosen episodes in the order of `chosen`.
    """
    num_envs = min(num_episodes, MAX_ENVS)
    splits = evaluated_splits(trained)
    places = {
        split: [_place(index, num_episodes, splits.index(split) * num_envs) for index in captions]
        for split, captions in chosen.items()
    }
    recorder = Recorder(agent, [place for of_split in places.values() for place in of_split])
    results = evaluate(
        recorder,
        env_name=trained["env_name"],
        distribution_mode=trained["distribution_mode"],
        num_levels=trained["num_levels"],
        only_level=trained.get("level"),
        num_episodes=num_episodes,
        seed=derive_seed(trained["seed"], "final"),
        progress=progress,
    )
    recorded = {
        split: [
            RecordedEpisode(caption, results[split][index].level_seed, recorder.plays[place])
            for (index, caption), place in zip(captions.items(), places[split], strict=True)
        ]
        for split, captions in chosen.items()
    }
    return results, recorded


def _place(index: int, num_episodes: int, first_env: int) -> Place:
    """Where the evaluation plays what its results list at `index` of a split."""
    shares = fair_shares(num_episodes, min(num_episodes, MAX_ENVS))
    ends = np.cumsum(shares)
    env = int(np.searchsorted(ends, index, side="right"))
    return first_env + env, index - int(ends[env] - shares[env])


def evaluated_splits(trained: Mapping[str, Any]) -> list[str]:
    """The splits that an agent with these settings is evaluated on, in order."""
    return list(level_splits(trained["num_levels"], trained.get("level")))


def best_median_and_worst(episodes: Sequence[EpisodeResult]) -> dict[int, str]:
    """Captions, such as "best of 100", by the indices of these episodes, ranked by return.

    Of several with the same return the first ranks highest; of two in the middle the lower one is
    the median. In one or two episodes some are the same.
    """
    count = len(episodes)
    ranked = sorted(range(count), key=lambda index: -episodes[index].episode_return)
    words: dict[int, list[str]] = {}
    for word, rank in (("best", 0), ("median", count // 2), ("worst", count - 1)):
        words.setdefault(ranked[rank], []).append(word)
    return {index: f"{' and '.join(found)} of {count}" for index, found in words.items()}


def read_evaluation(path: Path, splits: Collection[str]) -> Results:
    """The episodes of an evaluation on these splits; ToolkitError naming the file if it has none.

    How many there are is the same for all splits.
    """
    try:
        results = read_episodes(path)
    except FileNotFoundError as error:
        raise ToolkitError(
            f"no evaluation at {path}: python -m offline.evaluate_offline_agent makes one"
        ) from error
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ToolkitError(f"{path} is no list of evaluated episodes ({error})") from error
    counts = {len(episodes) for episodes in results.values()}
    if set(results) != set(splits) or len(counts) != 1:
        raise ToolkitError(
            f"{path} is not of this run, or cut off: expected as many episodes of each of "
            f"{', '.join(splits)}"
        )
    return results


def require_same(evaluated: Results, replayed: Results, path: Path) -> None:
    """ToolkitError naming `path` and the first episode that did not come out as it says."""
    for split, episodes in evaluated.items():
        for number, (then, now) in enumerate(zip(episodes, replayed[split], strict=True), 1):
            if then != now:
                raise ToolkitError(
                    f"{path} is of another run, checkpoint or way of acting (--checkpoint, "
                    f"--deterministic, --no_cuda): {split} episode {number} was {_words(then)}, is "
                    f"{_words(now)} when played again"
                )


def _words(episode: EpisodeResult) -> str:
    return (
        f"level {episode.level_seed} with return {episode.episode_return:g} "
        f"in {episode.length} steps"
    )
