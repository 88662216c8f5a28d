from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UsageError
from offline.arguments import parse_training
from offline.data.views import TransitionBatch
from tests.reference import iql
from tests.value_agents import (
    always_give,
    following,
    make_exact_agent,
    make_transitions,
    make_value_agent,
    numbers,
    targets_of,
    update_and_gradient,
    weights_of,
)

TOLERANCE = {"rtol": 1e-5, "atol": 1e-9}
NETWORKS = ("actor", "value", "q1", "q2")


def reference_inputs(agent: Any, batch: TransitionBatch) -> tuple[Any, ...]:
    """What the reference works from: the networks' outputs, in its order, and the data."""
    frames, rows = batch.observations, torch.arange(len(batch.actions))
    with torch.no_grad():
        values = [agent.value(each)[:, 0] for each in (frames, following(batch))]
        networks = (agent.q1, agent.q2, agent.target_q1.network, agent.target_q2.network)
        q_values = [network(frames)[rows, batch.actions] for network in networks]
        logits = agent.actor(frames)
    data = (batch.actions, batch.rewards, batch.dones)
    return tuple(numbers(array) for array in (*values, *q_values, logits, *data))


# Learning


@pytest.mark.parametrize(
    ("agent_model", "expectile", "temperature"),
    [("dqn", 0.5, 0.0), ("dqn", 0.8, 3.0), ("dqn", 0.9, 10.0), ("pporesnetbase", 0.8, 3.0)],
)
def test_losses_and_gradients_are_those_of_the_reference(
    agent_model: str, expectile: float, temperature: float
) -> None:
    knobs = {"gamma": 0.9, "iql_expectile": expectile, "iql_temperature": temperature}
    agent = make_exact_agent("iql", agent_model=agent_model, **knobs)
    batch = make_transitions(12)
    inputs = reference_inputs(agent, batch)
    expected = iql.loss(*inputs, gamma=0.9, tau=expectile, beta=temperature)
    modules = [agent.value, agent.q1, agent.q2, agent.actor]
    # V is passed through once to learn and once, without gradient, for the next states.
    metrics, gradients = update_and_gradient(agent, batch, *modules)
    names = ("loss", "value_loss", "q1_loss", "q2_loss", "actor_loss")
    np.testing.assert_allclose([metrics[name] for name in names], expected, **TOLERANCE)
    by = iql.gradients(*inputs, gamma=0.9, tau=expectile, beta=temperature)
    np.testing.assert_allclose(gradients[0][:, 0], by.v, **TOLERANCE)
    rows, actions = np.arange(12), inputs[7]
    for gradient, expected_gradient in zip(gradients[1:3], (by.q1, by.q2), strict=True):
        whole = np.zeros((12, 15))
        whole[rows, actions] = expected_gradient
        np.testing.assert_allclose(gradient, whole, **TOLERANCE)
    np.testing.assert_allclose(gradients[3], by.logits, **TOLERANCE)


def test_the_batches_of_these_tests_meet_both_sides_of_the_expectile_and_the_cap() -> None:
    inputs = reference_inputs(make_exact_agent("iql"), make_transitions(12))
    advantages = iql.advantages(inputs[0], inputs[4], inputs[5])
    assert advantages.min() < 0 < advantages.max()
    weights = [iql.actor_weight(u, beta=10.0) for u in advantages]
    assert min(weights) < 100.0 == max(weights)


def test_at_expectile_one_half_the_value_moves_to_the_mean() -> None:
    agent = make_exact_agent("iql", iql_expectile=0.5)
    q_values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert slope_of_value_loss(agent, q_values, 3.0) == pytest.approx(0.0)  # the mean
    assert slope_of_value_loss(agent, q_values, 2.0) < -0.1


def test_at_expectile_0_8_an_excess_counts_four_times_as_much_as_a_lack() -> None:
    agent = make_exact_agent("iql", iql_expectile=0.8)
    # 0.8 (6 - v) = 0.2 ((v - 1) + (v - 2)).
    value = 4.5
    q_values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert slope_of_value_loss(agent, q_values, value) == pytest.approx(0.0)


def slope_of_value_loss(agent: Any, q_values: torch.Tensor, value: float) -> float:
    at = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    agent.value_loss(q_values - at).backward()
    assert at.grad is not None
    return float(at.grad)


def test_the_actors_weights_are_capped_at_100_however_large_the_advantage() -> None:
    agent = make_value_agent("iql", iql_temperature=2.0)
    advantages = torch.tensor([0.0, -1.0, 1.0, 2.31, 1e4])
    expected = [1.0, np.exp(-2.0), np.exp(2.0), 100.0, 100.0]
    np.testing.assert_allclose(numbers(agent.actor_weights(advantages)), expected, rtol=1e-5)


def test_at_temperature_0_the_actor_clones() -> None:
    agent, batch = make_exact_agent("iql", iql_temperature=0), make_transitions(12)
    log_probabilities = torch.log_softmax(agent.logits(batch.observations), 1)
    expected = -log_probabilities[torch.arange(12), batch.actions].mean()
    assert float(agent.update(batch)["actor_loss"]) == pytest.approx(float(expected.detach()))


def test_the_actor_learns_the_actions_of_large_advantage() -> None:
    agent = make_value_agent("iql", iql_temperature=1.0, hidden_size=32)
    batch = make_transitions(2)
    # One frame, two actions: the first is worth more by 3, so exp(3) = 20 times the weight.
    frames = batch.observations[:1].expand(2, -1, -1, -1)
    actions = torch.tensor([4, 11])
    advantages = torch.tensor([1.5, -1.5])
    for _ in range(100):
        agent.zero_grad()
        agent.actor_loss(agent.logits(frames), actions, advantages).backward()
        agent.optimisers["actor"].step()
    probabilities = torch.softmax(agent.logits(frames[:1]), 1)[0]
    share = np.exp(1.5) / (np.exp(1.5) + np.exp(-1.5))
    assert float(probabilities[4].detach()) == pytest.approx(share, abs=0.02)


def test_the_bootstrap_is_the_value_of_the_next_state_and_stops_at_done() -> None:
    agent, batch = make_exact_agent("iql", gamma=0.5), make_transitions(6)
    always_give(agent.value[-1], [8.0])
    going_on = 1.0 - numbers(batch.dones)
    np.testing.assert_allclose(
        numbers(agent.targets(batch)), numbers(batch.rewards) + 4.0 * going_on
    )


def test_the_smaller_target_counts() -> None:
    agent, batch = make_exact_agent("iql"), make_transitions(4)
    always_give(agent.target_q1.network[-1], np.full(15, 3.0))
    always_give(agent.target_q2.network[-1], np.arange(15.0))
    expected = np.minimum(3.0, numbers(batch.actions))
    np.testing.assert_allclose(numbers(agent.smaller_target_q(batch)), expected)


# Networks and metrics


def test_the_four_networks_share_no_weights_and_start_apart() -> None:
    agent = make_value_agent("iql")
    owned = [{id(p) for p in agent.get_submodule(name).parameters()} for name in NETWORKS]
    assert sum(len(ids) for ids in owned) == len(set().union(*owned))
    assert not torch.equal(weights_of(agent.q1), weights_of(agent.q2))


def test_each_network_is_moved_by_an_optimiser_of_its_own() -> None:
    agent = make_value_agent("iql")
    assert set(agent.optimisers) == set(NETWORKS)
    for name, optimiser in agent.optimisers.items():
        held = {id(p) for group in optimiser.param_groups for p in group["params"]}
        assert held == {id(p) for p in agent.get_submodule(name).parameters()}


def test_an_update_moves_every_network_and_no_target() -> None:
    agent = make_value_agent("iql", target_update_freq=1000)
    networks = [agent.get_submodule(name) for name in NETWORKS]
    before = [weights_of(module) for module in (*networks, *targets_of(agent))]
    agent.update(make_transitions(8))
    after = [weights_of(module) for module in (*networks, *targets_of(agent))]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [True] * 4 + [False] * 2


def test_metrics_are_scalars_without_graph() -> None:
    metrics = make_value_agent("iql").update(make_transitions(4))
    assert set(metrics) == {"loss", "value_loss", "q1_loss", "q2_loss", "actor_loss"}
    assert all(m.shape == () and not m.requires_grad for m in metrics.values())


# Acting


def test_actions_are_drawn_from_the_policy() -> None:
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    logits = np.full(15, -np.inf)
    logits[[0, 3, 7, 14]] = np.log(probabilities)
    agent = make_value_agent("iql")
    always_give(agent.actor[-1], logits)
    agent.reset(100, seed=4)
    frames = np.zeros((100, 64, 64, 3), np.uint8)
    actions = np.concatenate([agent.act(frames, np.arange(100)) for _ in range(20)])
    shares = np.bincount(actions, minlength=15) / actions.size
    # The standard deviation of a share of 2,000 draws is at most 0.011.
    np.testing.assert_allclose(shares[[0, 3, 7, 14]], probabilities, atol=0.05)


@pytest.mark.parametrize("changes", [{"deterministic": True}, {"eval_eps": 0}])
def test_without_chance_the_likeliest_action_is_taken(changes: dict[str, Any]) -> None:
    agent = make_value_agent("iql", scale_pixels=False, **changes)
    frames = make_transitions(8).observations
    agent.reset(8, seed=0)
    likeliest = agent.logits(frames).argmax(1).numpy()
    for _ in range(3):
        assert (agent.act(frames.numpy(), np.arange(8)) == likeliest).all()


# Bad input


@pytest.mark.parametrize("expectile", ["0", "1", "1.2"])
def test_an_expectile_out_of_range_is_refused_by_name(expectile: str) -> None:
    with pytest.raises(UsageError, match=f"--iql_expectile {expectile}: must be"):
        parse_training(["--algo", "iql", "--iql_expectile", expectile], "")


def test_a_negative_temperature_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"--iql_temperature -1: must be at least 0"):
        parse_training(["--algo", "iql", "--iql_temperature=-1"], "")
