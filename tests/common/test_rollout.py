"""The one loop that plays episodes gives every environment its share and reports what happened."""

from __future__ import annotations

import numpy as np
import pytest

from common.envs import ProcgenVectorEnv
from common.rollout import EpisodeResult, rollout

GAME = "dodgeball"  # random play ends within a few dozen steps
ENV_SEED = 4


class DiaryPolicy:
    """Acts at random, each environment by its own generator, and writes down what it is shown."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.episodes: dict[int, list[list[float]]] = {}

    def reset(self, num_envs: int, seed: int) -> None:
        self.generators = [np.random.default_rng([seed, i]) for i in range(num_envs)]
        self.batches = []
        self.episodes = {i: [[]] for i in range(num_envs)}

    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        assert observations.shape == (len(env_ids), 64, 64, 3)
        assert observations.dtype == np.uint8
        self.batches.append(env_ids.tolist())
        return np.array([self.generators[i].integers(15) for i in env_ids])

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        for reward, done, i in zip(rewards, dones, env_ids, strict=True):
            self.episodes[i][-1].append(float(reward))
            if done:
                self.episodes[i].append([])

    def finished(self, env_id: int) -> list[list[float]]:
        """The rewards of the episodes that ended in one environment."""
        return self.episodes[env_id][:-1]


def make_env(num_envs: int) -> ProcgenVectorEnv:
    return ProcgenVectorEnv(GAME, num_envs, seed=ENV_SEED)


def play(
    num_envs: int, num_episodes: int, policy: DiaryPolicy | None = None
) -> list[EpisodeResult]:
    env = make_env(num_envs)
    results = rollout(env, policy or DiaryPolicy(), seed=1, num_episodes=num_episodes)
    env.close()
    return results


def test_each_environment_plays_its_share() -> None:
    policy = DiaryPolicy()
    results = play(4, 10, policy)
    assert [len(policy.finished(i)) for i in range(4)] == [3, 3, 2, 2]
    assert len(results) == 10


def test_an_environment_that_has_played_its_share_leaves_the_batch() -> None:
    policy = DiaryPolicy()
    play(4, 10, policy)
    for env_id in range(4):
        shown = [env_id in batch for batch in policy.batches]
        steps = sum(len(rewards) for rewards in policy.finished(env_id))
        assert shown == [True] * steps + [False] * (len(shown) - steps)
        assert policy.episodes[env_id][-1] == []


def test_fewer_episodes_than_environments_leave_some_out_from_the_start() -> None:
    policy = DiaryPolicy()
    assert len(play(4, 2, policy)) == 2
    assert policy.batches[0] == [0, 1]


def test_returns_and_lengths_are_those_of_the_raw_rewards() -> None:
    policy = DiaryPolicy()
    results = play(4, 10, policy)
    expected = [rewards for i in range(4) for rewards in policy.finished(i)]
    assert [r.length for r in results] == [len(rewards) for rewards in expected]
    assert [r.episode_return for r in results] == pytest.approx([sum(r) for r in expected])
    assert any(r.episode_return for r in results), "no reward at all: the test shows too little"


def test_results_name_the_levels_in_the_order_in_which_they_are_played() -> None:
    env = make_env(2)
    _, infos = env.reset()
    levels = [[int(seed)] for seed in infos["level_seed"]]
    while min(len(played) for played in levels) < 3:
        _, _, dones, _, infos = env.step(np.array([1, 8]))
        for i in np.flatnonzero(dones):
            levels[i].append(int(infos["level_seed"][i]))
    env.close()
    results = play(2, 6)
    assert [r.level_seed for r in results] == levels[0][:3] + levels[1][:3]


def test_the_results_of_an_environment_do_not_depend_on_the_others() -> None:
    assert play(2, 4) == play(5, 10)[:4]


def test_playing_twice_in_the_same_environments_gives_the_same_results() -> None:
    env = make_env(3)
    first = rollout(env, DiaryPolicy(), seed=1, num_episodes=6)
    second = rollout(env, DiaryPolicy(), seed=1, num_episodes=6)
    env.close()
    assert first == second


def test_the_seed_reaches_the_policy() -> None:
    env = make_env(3)
    first = rollout(env, DiaryPolicy(), seed=1, num_episodes=6)
    second = rollout(env, DiaryPolicy(), seed=2, num_episodes=6)
    env.close()
    assert first != second


def test_without_a_number_of_episodes_all_play_as_long_as_asked() -> None:
    env, policy, asked = make_env(4), DiaryPolicy(), []

    def keep_going(steps: int) -> bool:
        asked.append(steps)
        return steps < 400

    results = rollout(env, policy, seed=1, keep_going=keep_going)
    env.close()
    assert asked == list(range(0, 404, 4))
    assert policy.batches == [[0, 1, 2, 3]] * 100
    finished = [rewards for i in range(4) for rewards in policy.finished(i)]
    assert [r.length for r in results] == [len(rewards) for rewards in finished]
    assert len(results) >= 4


def test_each_episode_is_announced_when_it_ends() -> None:
    announced: list[EpisodeResult] = []
    env = make_env(3)
    results = rollout(env, DiaryPolicy(), seed=1, num_episodes=6, on_episode=announced.append)
    env.close()
    assert sorted(announced) == sorted(results)


def test_a_rollout_can_be_left_early() -> None:
    calls: list[int] = []
    env = make_env(2)

    def before_step() -> None:
        calls.append(len(calls))
        if len(calls) == 3:
            raise InterruptedError

    policy = DiaryPolicy()
    with pytest.raises(InterruptedError):
        rollout(env, policy, seed=1, num_episodes=2, before_step=before_step)
    env.close()
    assert len(policy.batches) == 2


class DiaryListener:
    def begin(self, observations: np.ndarray, level_seeds: np.ndarray) -> None:
        self.begun = observations, level_seeds
        self.steps: list[tuple[np.ndarray, ...]] = []

    def step(self, *columns: np.ndarray) -> None:
        self.steps.append(tuple(column.copy() for column in columns))


def test_a_listener_sees_every_step_of_every_environment() -> None:
    env, policy, listener = make_env(3), DiaryPolicy(), DiaryListener()
    rollout(env, policy, seed=1, keep_going=lambda steps: steps < 150, listener=listener)
    again = make_env(3)
    observations, infos = again.reset()
    np.testing.assert_array_equal(listener.begun[0], observations)
    np.testing.assert_array_equal(listener.begun[1], infos["level_seed"])
    assert len(listener.steps) == 50
    for actions, *seen in listener.steps:
        observations, rewards, dones, _, infos = again.step(actions)
        for column, expected in zip(
            seen, (rewards, dones, observations, infos["level_seed"]), strict=True
        ):
            np.testing.assert_array_equal(column, expected)
    env.close()
    again.close()


def test_one_end_must_be_given_and_only_one() -> None:
    env = make_env(1)
    with pytest.raises(ValueError, match="num_episodes or keep_going"):
        rollout(env, DiaryPolicy(), seed=1)
    with pytest.raises(ValueError, match="num_episodes or keep_going"):
        rollout(env, DiaryPolicy(), seed=1, num_episodes=1, keep_going=lambda _: False)
    env.close()
