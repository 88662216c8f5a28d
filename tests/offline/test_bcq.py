from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UsageError
from offline.arguments import parse_training
from offline.data.views import TransitionBatch
from tests.reference import bcq, cql
from tests.value_agents import (
    always_give,
    following,
    make_exact_agent,
    make_transitions,
    make_value_agent,
    numbers,
    targets_of,
    update_and_gradient,
)

TOLERANCE = {"rtol": 1e-5, "atol": 1e-9}


def reference_inputs(agent: Any, batch: TransitionBatch) -> tuple[Any, ...]:
    """What the reference works from: the networks' outputs at s and s', and the data."""
    with torch.no_grad():
        q_values, logits = agent.outputs(batch.observations)
        next_q_values, next_logits = agent.outputs(following(batch))
        target_q_values = agent.target.network(following(batch))
    values = (q_values, logits, next_q_values, target_q_values, next_logits)
    data = (batch.actions, batch.rewards, batch.dones)
    return tuple(numbers(array) for array in (*values, *data))


def last_layer(head: nn.Module) -> nn.Module:
    return head[-1] if isinstance(head, nn.Sequential) else head


def test_loss_and_gradients_are_those_of_the_reference_on_both_kinds_of_trunk() -> None:
    for agent_model in ("bcq", "bcqresnetbase"):
        agent = make_exact_agent("bcq", agent_model=agent_model, bcq_threshold=0.5, gamma=0.9)
        check_against_reference(agent, threshold=0.5)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.9])
def test_loss_and_gradients_are_those_of_the_reference(threshold: float) -> None:
    check_against_reference(make_exact_agent("bcq", bcq_threshold=threshold, gamma=0.9), threshold)


def check_against_reference(agent: Any, threshold: float) -> None:
    batch = make_transitions(12)
    inputs = reference_inputs(agent, batch)
    expected = bcq.loss(*inputs, gamma=0.9, threshold=threshold)
    metrics, gradients = update_and_gradient(agent, batch, agent.q_head, agent.imitation_head)
    names = ("loss", "td_loss", "imitation_loss", "logit_penalty")
    np.testing.assert_allclose([metrics[name] for name in names], expected, **TOLERANCE)
    by_q, by_logits = bcq.gradients(*inputs, gamma=0.9, threshold=threshold)
    np.testing.assert_allclose(gradients[0], by_q, **TOLERANCE)
    np.testing.assert_allclose(gradients[1], by_logits, **TOLERANCE)


def test_the_threshold_of_these_tests_changes_the_action_that_is_chosen() -> None:
    agent, batch = make_exact_agent("bcq"), make_transitions(12)
    inputs = reference_inputs(agent, batch)
    chosen = [
        bcq.constrained_argmax(inputs[2], bcq.allowed_actions(inputs[4], threshold)).tolist()
        for threshold in (0.0, 0.5, 0.9)
    ]
    assert len({tuple(actions) for actions in chosen}) == 3


# The constraint


def allowed(logits: list[float], **changes: Any) -> list[int]:
    """Which of these actions the agent allows."""
    agent = make_exact_agent("bcq", **changes)
    values = torch.zeros(1, len(logits), dtype=torch.float64)
    kept = agent.allowed_values(values, torch.tensor([logits], dtype=torch.float64))
    found: list[int] = kept[0].isfinite().nonzero().flatten().tolist()
    return found


def test_allowed_are_actions_more_likely_than_the_threshold_beside_the_likeliest() -> None:
    # Probabilities 0.5, 0.3, 0.2: beside the likeliest 1, 0.6, 0.4.
    logits = np.log([0.5, 0.3, 0.2]).tolist()
    assert allowed(logits, bcq_threshold=0.3) == [0, 1, 2]
    assert allowed(logits, bcq_threshold=0.5) == [0, 1]
    assert allowed(logits, bcq_threshold=0.7) == [0]


def test_threshold_0_allows_actions_whose_probability_is_too_small_for_a_number() -> None:
    assert allowed([0.0, -2000.0, 5.0], bcq_threshold=0) == [0, 1, 2]


def test_threshold_1_allows_the_likeliest_action_alone() -> None:
    assert allowed([1.0, 3.0, 2.999], bcq_threshold=1) == [1]


def test_with_threshold_0_the_targets_are_those_of_double_dqn() -> None:
    agent, batch = make_exact_agent("bcq", bcq_threshold=0), make_transitions(12)
    inputs = reference_inputs(agent, batch)
    expected = cql.double_dqn_targets(inputs[2], inputs[3], inputs[6], inputs[7], 0.99)
    np.testing.assert_allclose(numbers(agent.targets(batch)), expected, **TOLERANCE)


def test_with_a_threshold_close_to_1_it_takes_the_imitated_action() -> None:
    agent = make_value_agent("bcq", bcq_threshold=0.999, deterministic=True, scale_pixels=False)
    frames = make_transitions(16).observations
    agent.reset(16, seed=0)
    with torch.no_grad():
        q_values, logits = agent.outputs(frames)
    actions = agent.act(frames.numpy(), np.arange(16))
    assert (actions == logits.argmax(1).numpy()).all()
    assert (actions != q_values.argmax(1).numpy()).any()


def test_with_a_threshold_close_to_1_it_learns_to_act_as_the_data_do() -> None:
    changes = {"bcq_threshold": 0.999, "deterministic": True, "hidden_size": 32}
    agent, batch = make_value_agent("bcq", **changes), make_transitions(24)
    for _ in range(60):
        agent.update(batch)
    agent.reset(24, seed=0)
    actions = agent.act(batch.observations.numpy(), np.arange(24))
    assert (actions == batch.actions.numpy()).all()


def test_the_online_network_chooses_among_the_allowed_and_the_target_values_it() -> None:
    agent = make_exact_agent("bcq", gamma=0.5, bcq_threshold=0.5)
    batch = make_transitions(6)
    online, target, logits = np.zeros(15), np.zeros(15), np.zeros(15)
    online[3], online[5] = 1.0, 2.0
    logits[5] = -3.0  # so 5 is not allowed and 3 is chosen
    target[3], target[5], target[8] = 4.0, 7.0, 9.0
    always_give(last_layer(agent.q_head), online)
    always_give(last_layer(agent.imitation_head), logits)
    always_give(last_layer(agent.target.network[1]), target)
    going_on = 1.0 - numbers(batch.dones)
    np.testing.assert_allclose(
        numbers(agent.targets(batch)), numbers(batch.rewards) + 0.5 * 4.0 * going_on
    )


def test_the_bootstrap_stops_at_done() -> None:
    agent, batch = make_exact_agent("bcq"), make_transitions(6)
    done = batch.dones == 1
    assert torch.equal(agent.targets(batch)[done], batch.rewards[done].double())


# Networks and metrics


def test_both_heads_of_the_dqn_trunk_have_a_hidden_layer_and_those_of_impala_none() -> None:
    for agent_model, sizes in (("dqn", [1024, 512]), ("pporesnetbase", [8])):
        agent = make_value_agent("bcq", agent_model=agent_model)
        for head in (agent.q_head, agent.imitation_head):
            layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
            assert [layer.in_features for layer in layers] == sizes
            assert layers[-1].out_features == 15


def test_both_heads_teach_the_same_trunk() -> None:
    agent, batch = make_value_agent("bcq"), make_transitions(4)
    for part in (0, 1):
        agent.zero_grad()
        agent.outputs(batch.observations)[part].sum().backward()
        assert all(weights.grad is not None for weights in agent.encoder.parameters())


def test_the_target_copies_the_trunk_and_the_q_head_alone() -> None:
    agent = make_value_agent("bcq")
    (target,) = targets_of(agent)
    online = [*agent.encoder.parameters(), *agent.q_head.parameters()]
    assert [p.shape for p in target.parameters()] == [p.shape for p in online]


def test_metrics_are_scalars_without_graph() -> None:
    metrics = make_value_agent("bcq").update(make_transitions(4))
    assert set(metrics) == {"loss", "td_loss", "imitation_loss", "logit_penalty"}
    assert all(m.shape == () and not m.requires_grad for m in metrics.values())


# Acting


def test_it_takes_the_best_allowed_action_but_for_a_share_of_eval_eps() -> None:
    agent = make_value_agent("bcq", eval_eps=0.3, bcq_threshold=0.5)
    q_values, logits = np.zeros(15), np.zeros(15)
    q_values[6], q_values[9], logits[9] = 1.0, 2.0, -5.0  # 9 is not allowed
    always_give(last_layer(agent.q_head), q_values)
    always_give(last_layer(agent.imitation_head), logits)
    agent.reset(100, seed=4)
    frames = np.zeros((100, 64, 64, 3), np.uint8)
    actions = np.concatenate([agent.act(frames, np.arange(100)) for _ in range(20)])
    shares = np.bincount(actions, minlength=15) / actions.size
    # A random action may be any of the 15. Standard deviations of shares of 2,000 draws: 0.010
    # and 0.003.
    assert shares[6] == pytest.approx(0.7 + 0.3 / 15, abs=0.05)
    np.testing.assert_allclose(np.delete(shares, 6), 0.3 / 15, atol=0.015)


@pytest.mark.parametrize("changes", [{"deterministic": True, "eval_eps": 1}, {"eval_eps": 0}])
def test_without_chance_the_best_allowed_action_is_always_taken(changes: dict[str, Any]) -> None:
    agent = make_value_agent("bcq", scale_pixels=False, bcq_threshold=0.5, **changes)
    frames = make_transitions(8).observations
    with torch.no_grad():
        q_values, logits = (numbers(output) for output in agent.outputs(frames))
    best = bcq.constrained_argmax(q_values, bcq.allowed_actions(logits, 0.5))
    agent.reset(8, seed=0)
    for _ in range(3):
        assert (agent.act(frames.numpy(), np.arange(8)) == best).all()


# Bad input


@pytest.mark.parametrize("threshold", ["1.5", "-0.1"])
def test_a_threshold_out_of_range_is_refused_by_name(threshold: str) -> None:
    with pytest.raises(UsageError, match=f"--bcq_threshold {threshold}: must be at"):
        parse_training(["--algo", "bcq", "--bcq_threshold", threshold], "")
