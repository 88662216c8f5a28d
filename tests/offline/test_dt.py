"""Decision Transformer's loss and learning; what BCT shares with it is tested for both."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from offline.agents.base import WindowBatch
from tests.reference import sequence_models as reference
from tests.sequence_fixtures import (
    BATCH,
    FACTS,
    gradients,
    loud,
    make_windows,
    tiny_agent,
    weights,
    with_other_padding,
)

both = pytest.mark.parametrize("algo", ["dt", "bct"])
FRAMES = make_windows([8] * 4, context_length=8, seed=7).observations.numpy()  # 4 envs, 8 steps


# The loss


@both
def test_the_loss_is_that_of_the_reference(algo: str) -> None:
    agent = loud(algo)
    logits = agent.logits(BATCH).detach().numpy()
    assert np.ptp(logits) > 1.0
    expected = reference.loss(logits, BATCH.actions.numpy(), BATCH.mask.numpy())
    assert float(agent.loss(BATCH).detach()) == pytest.approx(expected, rel=1e-5)


@both
def test_the_gradient_by_the_logits_is_that_of_the_reference(algo: str) -> None:
    agent = loud(algo)
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, logits: torch.Tensor) -> None:
        logits.retain_grad()
        seen.append(logits)

    agent.model.register_forward_hook(keep)
    agent.loss(BATCH).backward()
    (logits,) = seen
    assert logits.grad is not None
    expected = reference.gradient(
        logits.detach().numpy(), BATCH.actions.numpy(), BATCH.mask.numpy()
    )
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-7)


@both
def test_padding_changes_no_answer_and_no_gradient(algo: str) -> None:
    agent, other = loud(algo), with_other_padding(BATCH)
    assert not torch.equal(other.observations, BATCH.observations)
    real = BATCH.mask
    assert torch.equal(agent.logits(other)[real], agent.logits(BATCH)[real])
    agent.train()  # the same dropout falls on both
    mine, theirs = gradients(agent, BATCH), gradients(agent, other)
    assert len(mine) == len(list(agent.parameters()))
    for name, gradient in mine.items():
        assert torch.equal(gradient, theirs[name]), name


@both
def test_frames_encoded_as_on_a_gpu_give_the_same_loss(algo: str) -> None:
    agent = loud(algo)
    everything = agent.model.embed_frames(BATCH.observations.flatten(0, 1)).unflatten(0, (4, 3))
    left_out = agent.model.embed_windows(BATCH.observations, BATCH.mask)
    torch.testing.assert_close(everything[BATCH.mask], left_out[BATCH.mask])


def test_the_answer_depends_on_the_return_that_is_wanted() -> None:
    agent = loud()
    lower = BATCH._replace(returns_to_go=BATCH.returns_to_go / 2)
    assert not torch.allclose(agent.logits(BATCH), agent.logits(lower), atol=0.1)


@pytest.mark.parametrize(
    ("highest", "lowest", "scale"),
    [(10.0, -2.0, 10.0), (1.0, -8.0, 8.0), (-3.0, -4.0, 4.0), (0.0, 0.0, 1.0)],
)
def test_returns_are_scaled_by_the_largest_size_of_one(
    highest: float, lowest: float, scale: float
) -> None:
    facts = dataclasses.replace(FACTS, max_return=highest, min_return=lowest)
    agent = loud(facts=facts, dt_eval_ret=2, dt_rtg_noise_prob=0.5)
    scaled = agent.scaled(BATCH.returns_to_go)
    assert scaled is not None
    torch.testing.assert_close(scaled * scale, BATCH.returns_to_go)
    assert agent.target_return == 2 * highest
    assert torch.isfinite(agent.update(BATCH)["loss"])


# Learning


def return_task(number: int, seed: int) -> WindowBatch:
    """Two steps; the action is 2 where the return-to-go is 10 and 7 where it is 0."""
    batch = make_windows([2] * number, context_length=2, seed=seed)
    high = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, batch.mask.shape))
    return batch._replace(returns_to_go=high * 10.0, actions=torch.where(high > 0, 2, 7))


def test_a_transformer_for_which_the_return_decides_obeys_its_target() -> None:
    agent = tiny_agent(
        dt_context_length=2, lr=0.01, lr_decay=False, deterministic=True, dt_eval_ret=1
    )
    for step in range(60):
        loss = agent.update(return_task(16, seed=step))["loss"]
    assert float(loss) < 0.1
    agent.eval()
    ids = np.arange(4)
    agent.reset(4, seed=0)
    assert agent.act(FRAMES[:, 0], ids).tolist() == [2, 2, 2, 2]
    # Who has had the return it was to reach wants no more of it.
    rewards = np.array([10.0, 0.0, 10.0, 0.0], np.float32)
    agent.observe(np.full(4, 2), rewards, np.zeros(4, bool), ids)
    assert agent.act(FRAMES[:, 1], ids).tolist() == [7, 2, 7, 2]
    agent.target_return = 0.0
    agent.reset(4, seed=0)
    assert agent.act(FRAMES[:, 0], ids).tolist() == [7, 7, 7, 7]


@both
def test_an_update_reports_the_loss_as_a_scalar_without_graph(algo: str) -> None:
    metrics = tiny_agent(algo).update(BATCH)
    assert set(metrics) == {"loss"}
    assert metrics["loss"].shape == ()
    assert not metrics["loss"].requires_grad


@both
def test_the_rate_follows_the_schedule_counting_padding(algo: str) -> None:
    agent = tiny_agent(algo, lr=0.01, warmup_tokens=50)
    per_step = {"dt": 3, "bct": 2}[algo]
    final = reference.total_tokens(FACTS.num_samples, 3)
    for step in range(1, 61):
        agent.update(BATCH)
        tokens = step * 4 * 3 * per_step
        expected = reference.learning_rate(0.01, tokens, 50, final)
        groups = agent.optimisers["policy"].param_groups
        assert [group["lr"] for group in groups] == pytest.approx([expected] * 2)
    # 60 batches of 4 windows are 2.4 passes over 100: the end for three tokens per step.
    assert (expected == pytest.approx(0.001)) == (algo == "dt")


def test_weight_decay_shrinks_matrices_and_nothing_else() -> None:
    # AdamW: w <- w - lr * decay * w - lr * step; only the second term differs between the two.
    plain, decaying = (tiny_agent(lr=0.01, lr_decay=False, weight_decay=d) for d in (0.0, 0.5))
    before = {name: p.detach().clone() for name, p in plain.named_parameters()}
    for agent in (plain, decaying):
        torch.manual_seed(1)
        agent.update(BATCH)
    found = dict(decaying.named_parameters())
    for name, parameter in plain.named_parameters():
        shrinks = parameter.ndim > 1 and name.split(".")[1] not in {
            "embed_action",
            "embed_position",
            "embed_time",
        }
        expected = 0.01 * 0.5 * before[name] if shrinks else torch.zeros_like(before[name])
        torch.testing.assert_close(parameter - found[name], expected, rtol=1e-3, atol=1e-6)


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    for norm in (0.01, 0.1):
        agent = tiny_agent(grad_norm_clip=norm)
        agent.update(BATCH)
        found = [p.grad.norm() for p in agent.parameters() if p.grad is not None]
        assert float(torch.stack(found).norm()) == pytest.approx(norm, rel=1e-3)


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.002),
        ("lr_decay", False),
        ("warmup_tokens", 1000),
        ("weight_decay", 0.5),
        ("grad_norm_clip", 0.1),
        ("scale_pixels", False),
    ],
)
def test_every_flag_of_learning_changes_the_weights(algo: str, name: str, value: Any) -> None:
    results = []
    for settings in ({}, {}, {name: value}):
        agent = tiny_agent(algo, **settings)
        torch.manual_seed(2)
        for seed in range(2):
            agent.update(make_windows([1, 2, 3], seed=seed))
        results.append(weights(agent))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_context_length_and_the_encoder_change_the_network() -> None:
    assert tiny_agent(dt_context_length=5).model.embed_position.num_embeddings == 15
    assert tiny_agent("bct", dt_context_length=5).model.embed_position.num_embeddings == 10
    for name, features in (("dqn", 1024), ("pporesnetbase", 2)):
        assert tiny_agent(agent_model=name).model.embed_state.in_features == features


def test_noise_replaces_the_wanted_share_of_returns_by_uniform_draws() -> None:
    batch = make_windows([3] * 4)
    many = batch._replace(
        returns_to_go=torch.full((1000, 3), 50.0), mask=torch.ones(1000, 3, dtype=torch.bool)
    )
    assert tiny_agent().with_noise(many) is many
    agent = tiny_agent(dt_rtg_noise_prob=0.25)
    noisy = [agent.with_noise(many).returns_to_go for _ in range(2)]
    assert not torch.equal(*noisy)
    drawn = noisy[0] != 50.0
    # The standard deviation of the share of 3,000 is 0.008; of a mean of 750 uniforms 0.11.
    assert float(drawn.float().mean()) == pytest.approx(0.25, abs=0.04)
    assert 0.0 <= float(noisy[0][drawn].min()) < 0.5
    assert 9.5 < float(noisy[0][drawn].max()) < 10.0
    assert float(noisy[0][drawn].mean()) == pytest.approx(5.0, abs=0.5)
    # Step by step, not window by window.
    per_window = drawn.sum(1)
    assert ((per_window > 0) & (per_window < 3)).any()


def test_noise_is_drawn_from_torchs_generator_and_reaches_the_loss() -> None:
    losses = []
    for chance, seed in ((0.9, 1), (0.9, 1), (0.9, 2), (0.0, 1)):
        agent = loud(dt_rtg_noise_prob=chance)
        torch.manual_seed(seed)
        losses.append(float(agent.update(BATCH)["loss"]))
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
