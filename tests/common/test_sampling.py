"""Actions are drawn from the policy, by one stream of random numbers per environment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.sampling import ActionSampler

LOGITS = torch.tensor([1.5, 0.0, -1.0, 0.5, 0.5])


def sampler(num_envs: int, seed: int = 0, deterministic: bool = False) -> ActionSampler:
    made = ActionSampler(deterministic)
    made.reset(num_envs, seed)
    return made


def draw(made: ActionSampler, env_ids: list[int], steps: int) -> np.ndarray:
    """Actions (steps, len(env_ids)) for the same logits in every environment and step."""
    ids = np.array(env_ids)
    return np.stack([made.actions(LOGITS.expand(len(ids), -1), ids) for _ in range(steps)])


def test_frequencies_match_the_softmax() -> None:
    num_envs, steps = 500, 40
    counts = np.bincount(draw(sampler(num_envs), list(range(num_envs)), steps).ravel(), minlength=5)
    weights = np.exp([1.5, 0.0, -1.0, 0.5, 0.5])
    expected = num_envs * steps * weights / weights.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 18.47  # exceeded by chance once in a thousand, 4 degrees of freedom


def test_each_row_is_drawn_from_its_own_logits() -> None:
    logits = torch.full((3, 15), -1e9)
    logits[0, 4], logits[1, 14], logits[2, 0] = 0.0, 0.0, 0.0
    made = sampler(3)
    for _ in range(20):
        assert made.actions(logits, np.arange(3)).tolist() == [4, 14, 0]


def test_an_action_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    made = sampler(1)
    drawn = [int(made.actions(logits, np.array([0]))[0]) for _ in range(200)]
    assert set(drawn) == {0, 2}


def test_the_stream_of_an_environment_does_not_depend_on_the_batch() -> None:
    steps = 600  # more than two blocks of numbers
    together = draw(sampler(4), [0, 1, 2, 3], steps)
    alone = draw(sampler(4), [2], steps)
    np.testing.assert_array_equal(alone[:, 0], together[:, 2])


def test_the_stream_goes_on_when_others_have_left_the_batch() -> None:
    together = draw(sampler(4), [0, 1, 2, 3], 300)
    made = sampler(4)
    first = draw(made, [0, 1, 2, 3], 130)
    rest = draw(made, [1, 3], 170)
    np.testing.assert_array_equal(np.concatenate([first[:, 1], rest[:, 0]]), together[:, 1])
    np.testing.assert_array_equal(np.concatenate([first[:, 3], rest[:, 1]]), together[:, 3])


def test_the_number_of_environments_does_not_change_a_stream() -> None:
    np.testing.assert_array_equal(draw(sampler(2), [1], 50)[:, 0], draw(sampler(64), [1], 50)[:, 0])


def test_environments_and_seeds_have_different_streams() -> None:
    streams = [
        *draw(sampler(3, seed=0), [0, 1, 2], 50).T.tolist(),
        *draw(sampler(3, seed=1), [0, 1, 2], 50).T.tolist(),
    ]
    assert len({tuple(stream) for stream in streams}) == 6


def test_a_reset_starts_the_streams_again() -> None:
    made = sampler(2, seed=7)
    first = draw(made, [0, 1], 30)
    made.reset(2, 7)
    np.testing.assert_array_equal(draw(made, [0, 1], 30), first)


def test_uniform_numbers_lie_between_zero_and_one() -> None:
    made = sampler(8)
    numbers = np.stack([made.uniforms(np.arange(8)) for _ in range(1000)])
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert numbers.mean() == pytest.approx(0.5, abs=0.02)  # six standard errors


def test_deterministic_actions_are_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 1.9], [0.0, 0.0, 0.1]])
    made = sampler(3, deterministic=True)
    for _ in range(5):
        assert made.actions(logits, np.arange(3)).tolist() == [1, 0, 2]


def explore(made: ActionSampler, env_ids: list[int], steps: int, epsilon: float) -> np.ndarray:
    """Epsilon-greedy actions (steps, len(env_ids)) for the same values everywhere."""
    ids = np.array(env_ids)
    values = LOGITS.expand(len(ids), -1)
    return np.stack([made.epsilon_greedy(values, ids, epsilon) for _ in range(steps)])


def test_epsilon_greedy_takes_any_action_with_chance_epsilon() -> None:
    num_envs, steps, epsilon = 500, 40, 0.4
    actions = explore(sampler(num_envs), list(range(num_envs)), steps, epsilon)
    counts = np.bincount(actions.ravel(), minlength=5)
    shares = np.full(5, epsilon / 5)
    shares[0] += 1 - epsilon
    expected = num_envs * steps * shares
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 18.47  # exceeded by chance once in a thousand, 4 degrees of freedom


def test_epsilon_greedy_without_chance_takes_the_best() -> None:
    assert set(explore(sampler(4), [0, 1, 2, 3], 20, 0.0).ravel()) == {0}
    assert set(explore(sampler(4, deterministic=True), [0, 1, 2, 3], 20, 1.0).ravel()) == {0}


def test_exploring_does_not_depend_on_the_batch_nor_on_who_has_left_it() -> None:
    together = explore(sampler(4), [0, 1, 2, 3], 300, 0.5)
    np.testing.assert_array_equal(explore(sampler(4), [2], 300, 0.5)[:, 0], together[:, 2])
    made = sampler(4)
    first = explore(made, [0, 1, 2, 3], 130, 0.5)
    rest = explore(made, [1, 3], 170, 0.5)
    np.testing.assert_array_equal(np.concatenate([first[:, 3], rest[:, 1]]), together[:, 3])


def test_a_step_uses_as_many_numbers_whether_or_not_it_explores() -> None:
    streams = []
    for epsilon in (0.0, 0.5, 1.0):
        made = sampler(2)
        explore(made, [0, 1], 300, epsilon)
        streams.append(made.uniforms(np.arange(2)).tolist())
    assert streams[0] == streams[1] == streams[2]
