from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from offline.data.views import TransitionBatch
from tests.reference import cql
from tests.value_agents import (
    always_give,
    following,
    make_exact_agent,
    make_transitions,
    make_value_agent,
    numbers,
    update_and_gradient,
)

TOLERANCE = {"rtol": 1e-5, "atol": 1e-9}


def reference_inputs(agent: Any, batch: TransitionBatch) -> tuple[Any, ...]:
    """What the reference works from: the networks' values at s and s', and the data."""
    with torch.no_grad():
        values = (
            agent.q_network(batch.observations),
            agent.q_network(following(batch)),
            agent.target.network(following(batch)),
        )
    data = (batch.actions, batch.rewards, batch.dones)
    return tuple(numbers(array) for array in (*values, *data))


# Learning


@pytest.mark.parametrize(
    ("agent_model", "alpha"), [("dqn", 0.0), ("dqn", 0.1), ("dqn", 4.0), ("pporesnetbase", 4.0)]
)
def test_loss_and_gradient_by_q_are_those_of_the_reference(agent_model: str, alpha: float) -> None:
    agent = make_exact_agent("cql", agent_model=agent_model, cql_alpha=alpha, gamma=0.9)
    batch = make_transitions(12)
    inputs = reference_inputs(agent, batch)
    expected = cql.loss(*inputs, gamma=0.9, alpha=alpha)
    metrics, (gradient,) = update_and_gradient(agent, batch, agent.q_network)
    found = (metrics["loss"], metrics["td_loss"], metrics["conservative_loss"])
    np.testing.assert_allclose(found, expected, **TOLERANCE)
    np.testing.assert_allclose(gradient, cql.gradient(*inputs, gamma=0.9, alpha=alpha), **TOLERANCE)


def test_the_batches_of_these_tests_meet_both_arms_of_the_huber_loss() -> None:
    agent, batch = make_exact_agent("cql"), make_transitions(12)
    inputs = reference_inputs(agent, batch)
    targets = cql.double_dqn_targets(*inputs[1:3], *inputs[4:], 0.99)
    errors = abs(inputs[0][np.arange(12), inputs[3]] - targets)
    assert errors.min() < 1.0 < errors.max()


def test_the_online_network_chooses_the_action_and_the_target_values_it() -> None:
    agent, batch = make_exact_agent("cql", gamma=0.5), make_transitions(6)
    online, target = np.zeros(15), np.zeros(15)
    online[3] = 1.0  # chosen, though
    target[3], target[8] = 4.0, 9.0  # the target would choose 8
    always_give(agent.q_network[-1], online)
    always_give(agent.target.network[-1], target)
    going_on = 1.0 - numbers(batch.dones)
    np.testing.assert_allclose(
        numbers(agent.targets(batch)), numbers(batch.rewards) + 0.5 * 4.0 * going_on
    )


def test_the_bootstrap_stops_at_done() -> None:
    agent, batch = make_exact_agent("cql"), make_transitions(6)
    done = batch.dones == 1
    targets = agent.targets(batch)
    other = agent.targets(batch._replace(next_observations=255 - following(batch)))
    assert torch.equal(targets[done], batch.rewards[done].double())
    assert torch.equal(other[done], targets[done])
    assert not torch.isclose(other[~done], targets[~done]).any()


def test_with_alpha_0_it_is_double_dqn() -> None:
    agent, batch = make_exact_agent("cql", cql_alpha=0), make_transitions(12)
    inputs = reference_inputs(agent, batch)
    targets = cql.double_dqn_targets(*inputs[1:3], *inputs[4:], 0.99)
    rows, actions = np.arange(12), inputs[3]
    errors = inputs[0][rows, actions] - targets
    metrics, (gradient,) = update_and_gradient(agent, batch, agent.q_network)
    assert metrics["loss"] == metrics["td_loss"]
    expected = np.zeros((12, 15))
    expected[rows, actions] = np.clip(errors, -1, 1) / 12
    np.testing.assert_allclose(gradient, expected, **TOLERANCE)


def test_a_large_alpha_values_the_actions_of_the_data_above_all_others() -> None:
    agent, batch = make_value_agent("cql", cql_alpha=10, hidden_size=32), make_transitions(24)
    for _ in range(80):
        agent.update(batch)
    assert torch.equal(agent.q_values(batch.observations).argmax(1), batch.actions)


def test_updates_lower_the_error_against_a_fixed_target() -> None:
    agent = make_value_agent("cql", cql_alpha=0, hidden_size=32)
    batch = make_transitions(24)
    losses = [float(agent.update(batch)["td_loss"]) for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]


def test_metrics_are_scalars_without_graph() -> None:
    metrics = make_value_agent("cql").update(make_transitions(4))
    assert set(metrics) == {"loss", "td_loss", "conservative_loss"}
    assert all(m.shape == () and not m.requires_grad for m in metrics.values())


# Acting


def test_the_action_of_largest_q_is_taken_but_for_a_share_of_eval_eps() -> None:
    agent = make_value_agent("cql", eval_eps=0.3)
    values = np.zeros(15)
    values[6] = 1.0
    always_give(agent.q_network[-1], values)
    agent.reset(100, seed=4)
    frames = np.zeros((100, 64, 64, 3), np.uint8)
    actions = np.concatenate([agent.act(frames, np.arange(100)) for _ in range(20)])
    shares = np.bincount(actions, minlength=15) / actions.size
    # A random action is the best one with chance 1/15. Standard deviations of shares of 2,000
    # draws: 0.010 and 0.003.
    assert shares[6] == pytest.approx(0.7 + 0.3 / 15, abs=0.05)
    np.testing.assert_allclose(np.delete(shares, 6), 0.3 / 15, atol=0.015)


@pytest.mark.parametrize("changes", [{"deterministic": True, "eval_eps": 1}, {"eval_eps": 0}])
def test_without_chance_the_action_of_largest_q_is_always_taken(changes: dict[str, Any]) -> None:
    agent = make_value_agent("cql", scale_pixels=False, **changes)
    frames = make_transitions(8).observations
    agent.reset(8, seed=0)
    best = agent.q_values(frames).argmax(1).numpy()
    for _ in range(3):
        assert (agent.act(frames.numpy(), np.arange(8)) == best).all()
