"""What agents say of how they choose: the numbers that a recording shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offline.agents.base import OfflineAgent
from offline.arguments import ALGORITHMS
from tests.method_fixtures import FRAMES, talkative

DRAWS = 600
VALUE_BASED = ("bcq", "cql")
EXPLORING: dict[str, dict[str, Any]] = {
    algo: {"eval_eps": 0.5} if algo in VALUE_BASED else {} for algo in ALGORITHMS
}
every_method = pytest.mark.parametrize("algo", ALGORITHMS)


def act_often(agent: OfflineAgent[Any], frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions (DRAWS,) of as many environments that see the same, and their probabilities."""
    env_ids = np.arange(DRAWS)
    agent.reset(DRAWS, seed=3)
    actions = agent.act(np.broadcast_to(frame, (DRAWS, *frame.shape)).copy(), env_ids)
    return actions, agent.action_probabilities()


@every_method
def test_sampled_actions_follow_the_probabilities(algo: str) -> None:
    actions, probabilities = act_often(talkative(algo, **EXPLORING[algo]), FRAMES[0, 0])
    assert (probabilities.shape, probabilities.dtype) == ((DRAWS, 15), np.float64)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-12)
    expected = DRAWS * probabilities[0]
    counts = np.bincount(actions, minlength=15)
    assert len(set(actions)) > 1
    # Rare actions are counted together.
    rare = expected < 5
    pairs = [*zip(counts[~rare], expected[~rare], strict=True)]
    if expected[rare].sum() >= 5:
        pairs.append((counts[rare].sum(), expected[rare].sum()))
    chi_square = sum((count - mean) ** 2 / mean for count, mean in pairs)
    assert chi_square < 36.12  # exceeded by chance once in a thousand, 14 degrees of freedom
    assert counts[probabilities[0] == 0].sum() == 0


@every_method
def test_a_certain_action_is_the_likeliest(algo: str) -> None:
    agent = talkative(algo, deterministic=True)
    for step in range(4):
        actions, probabilities = act_often(agent, FRAMES[1, step])
        np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-12)
        assert actions.tolist() == probabilities.argmax(1).tolist()
        # A policy stays what it is; values say nothing but which action is best.
        assert (probabilities.max() == 1.0) == (algo in VALUE_BASED)


@pytest.mark.parametrize("algo", VALUE_BASED)
def test_chance_is_spread_over_all_actions_beside_the_best(algo: str) -> None:
    _, probabilities = act_often(talkative(algo, eval_eps=0.3), FRAMES[0, 0])
    assert sorted(probabilities[0]) == pytest.approx([0.3 / 15] * 14 + [0.7 + 0.3 / 15])


@every_method
def test_each_row_is_of_its_own_environment(algo: str) -> None:
    agent = talkative(algo, **EXPLORING[algo])
    env_ids = np.array([0, 1, 2, 3])

    def probabilities(envs: list[int]) -> np.ndarray:
        agent.reset(4, seed=0)
        agent.act(FRAMES[envs, 0], env_ids[envs])
        return agent.action_probabilities()

    together = probabilities([0, 1, 2, 3])
    assert len(np.unique(together.round(6), axis=0)) > 1
    for env in env_ids:
        np.testing.assert_allclose(probabilities([env])[0], together[env], atol=1e-5)


@every_method
def test_asking_for_probabilities_changes_no_action(algo: str) -> None:
    agent = talkative(algo, **EXPLORING[algo])
    env_ids = np.array([0, 1, 2, 3])
    played = []
    for asks in (False, True):
        agent.reset(4, seed=5)
        actions = []
        for step in range(6):
            actions.append(agent.act(FRAMES[:, step], env_ids))
            if asks:
                agent.action_probabilities()
            agent.observe(actions[-1], np.zeros(4, np.float32), np.zeros(4, bool), env_ids)
        played.append(np.stack(actions))
    np.testing.assert_array_equal(*played)
