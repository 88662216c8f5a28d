"""Rewards are scaled for learning by the history of returns, and the scaling can be continued."""

from __future__ import annotations

import numpy as np

from online.ppo import RewardScaler
from tests.reference import ppo as reference


def sparse_rewards(steps: int, num_envs: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    rewards = 10.0 * (generator.random((steps, num_envs)) < 0.1) - 0.5
    rewards[0, 0] = 9.5  # the deviation is never zero
    return rewards, generator.random((steps, num_envs)) < 0.05


def test_rewards_are_divided_by_the_deviation_of_the_whole_history() -> None:
    rewards, dones = sparse_rewards(200, 4)
    scaler = RewardScaler(4, 0.99)
    got = np.stack([scaler.scale(r, d) for r, d in zip(rewards, dones, strict=True)])
    expected = reference.scaled_rewards(rewards, dones, 0.99)
    assert got.dtype == np.float32
    # The running estimate starts with a pseudo-count of 1e-4, which the first steps still feel.
    np.testing.assert_allclose(got[20:], expected[20:], rtol=1e-4)


def test_the_signs_of_rewards_stay() -> None:
    rewards, dones = sparse_rewards(50, 4)
    scaler = RewardScaler(4, 0.99)
    for r, d in zip(rewards, dones, strict=True):
        np.testing.assert_array_equal(np.sign(scaler.scale(r, d)), np.sign(r))


def test_scaled_rewards_are_cut_at_ten() -> None:
    rewards = np.zeros(1000)
    rewards[:2] = 5.0, -5.0  # the variance is 2 * 25 / 1000, so each is 22 deviations
    scaled = RewardScaler(1000, 0.99).scale(rewards, np.zeros(1000, bool))
    assert (scaled.max(), scaled.min()) == (10.0, -10.0)


def test_the_raw_rewards_given_to_the_scaler_are_left_alone() -> None:
    rewards = np.array([3.0, 4.0], np.float32)
    RewardScaler(2, 0.99).scale(rewards, np.array([True, False]))
    assert rewards.tolist() == [3.0, 4.0]


def test_a_restored_scaler_goes_on_exactly() -> None:
    rewards, dones = sparse_rewards(60, 4)
    scaler = RewardScaler(4, 0.99)
    for r, d in zip(rewards[:30], dones[:30], strict=True):
        scaler.scale(r, d)
    restored = RewardScaler(4, 0.99)
    restored.restore(scaler.state())
    for r, d in zip(rewards[30:], dones[30:], strict=True):
        np.testing.assert_array_equal(restored.scale(r, d), scaler.scale(r, d))


def test_a_saved_state_is_not_changed_by_what_follows() -> None:
    scaler = RewardScaler(2, 0.99)
    scaler.scale(np.array([1.0, 2.0]), np.array([False, False]))
    state = scaler.state()
    assert state["returns"] == [1.0, 2.0]
    scaler.scale(np.array([1.0, 2.0]), np.array([True, False]))
    assert state["returns"] == [1.0, 2.0]
