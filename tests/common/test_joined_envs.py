"""Environments of several sets of levels as one batch: each plays as it would alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from common.envs import JoinedVectorEnv, ProcgenVectorEnv
from common.rollout import fair_shares, rollout

LEVELS = ((0, 200), (200, 50), (250, 0))


def make_envs() -> list[ProcgenVectorEnv]:
    return [
        ProcgenVectorEnv("fruitbot", number + 1, start, count, seed=number)
        for number, (start, count) in enumerate(LEVELS)
    ]


@pytest.fixture
def joined() -> Iterator[JoinedVectorEnv]:
    env = JoinedVectorEnv(make_envs())
    yield env
    env.close()


def test_each_environment_plays_as_it_would_alone(joined: JoinedVectorEnv) -> None:
    apart = make_envs()
    generator = np.random.default_rng(0)
    frames, infos = joined.reset()
    alone = [env.reset() for env in apart]
    ended = 0
    for _ in range(150):
        assert np.array_equal(frames, np.concatenate([step[0] for step in alone]))
        for key, values in infos.items():
            assert np.array_equal(values, np.concatenate([step[1][key] for step in alone]))
        actions = generator.integers(15, size=6)
        frames, rewards, dones, truncations, infos = joined.step(actions)
        steps = [env.step(a) for env, a in zip(apart, np.split(actions, [1, 3]), strict=True)]
        for i, mine in ((1, rewards), (2, dones), (3, truncations)):
            assert np.array_equal(mine, np.concatenate([step[i] for step in steps]))
        alone = [(step[0], step[4]) for step in steps]
        ended += dones.sum()
    assert ended > 3


def test_those_that_retired_stand_still_and_the_others_play_on(joined: JoinedVectorEnv) -> None:
    undisturbed = JoinedVectorEnv(make_envs())
    before, _ = joined.reset()
    undisturbed.reset()
    generator = np.random.default_rng(0)
    playing = np.ones(6, bool)
    ended = 0
    # One of two, then one of three; that of one; at last all but one.
    for retiring in ([1], [3], [0], [4, 2]):
        joined.retire(np.array(retiring))
        playing[retiring] = False
        for _ in range(60):
            actions = generator.integers(15, size=6)
            frames, rewards, dones, truncations, infos = joined.step(actions)
            expected = undisturbed.step(actions)
            assert np.array_equal(frames[playing], expected[0][playing])
            assert np.array_equal(frames[~playing], before[~playing])
            assert np.array_equal(rewards, np.where(playing, expected[1], 0))
            assert np.array_equal(dones, expected[2] & playing)
            assert not truncations.any()
            for key, values in infos.items():
                assert np.array_equal(values[playing], expected[4][key][playing])
            ended += dones.sum()
            before = frames
    undisturbed.close()
    assert ended > 3


def test_frames_given_out_are_the_callers_even_after_a_retirement() -> None:
    env = ProcgenVectorEnv("fruitbot", 3)
    env.reset()
    env.retire(np.array([0]))
    given = env.step(np.zeros(3, np.int64))[0]
    kept = given.copy()
    env.step(np.zeros(3, np.int64))
    assert np.array_equal(given, kept)
    env.close()


def test_after_a_reset_all_play_again_from_the_start(joined: JoinedVectorEnv) -> None:
    first, _ = joined.reset()
    joined.retire(np.arange(6))
    joined.step(np.zeros(6, np.int64))
    again, _ = joined.reset()
    assert np.array_equal(first, again)
    assert (joined.step(np.zeros(6, np.int64))[0] != again).any(axis=(1, 2, 3)).all()


class Presses:
    """Presses one button for ever and keeps the numbers of those that asked."""

    def reset(self, num_envs: int, seed: int) -> None:
        self.asked: list[np.ndarray] = []

    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        self.asked.append(env_ids)
        return np.full(len(env_ids), 7)

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        pass


def test_a_rollout_plays_the_episodes_of_each_and_no_more(joined: JoinedVectorEnv) -> None:
    policy = Presses()
    shares = np.array([2, 1, 0, 1, 3, 1])
    results = rollout(joined, policy, seed=0, num_episodes=shares)
    expected = []
    for env, part in zip(make_envs(), np.split(shares, [1, 3]), strict=True):
        expected += rollout(env, policy, seed=0, num_episodes=part)
        env.close()
    assert results == expected
    assert [result.level_seed < 200 for result in results[:2]] == [True, True]
    assert len(results) == 8


def test_shares_are_fair() -> None:
    assert fair_shares(8, 3).tolist() == [3, 3, 2]
    assert fair_shares(2, 3).tolist() == [1, 1, 0]
