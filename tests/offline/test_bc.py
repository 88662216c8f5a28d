from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import ToolkitError
from offline.agents import make_agent
from offline.agents.base import DatasetFacts, OfflineAgent
from offline.agents.bc import Agent
from offline.arguments import parse_training
from offline.data.loading import load_data
from offline.data.views import TransitionBatch
from tests.data_fixtures import make_episode, write_game
from tests.offline_commands import CPU, assert_same, flags
from tests.reference import bc

FACTS = DatasetFacts(num_actions=15, max_return=10.0, min_return=0.0, num_samples=1, max_length=1)


def make_bc(seed: int = 0, **changes: Any) -> Agent:
    settings = parse_training(flags({"precision": "fp32", "hidden_size": 16}, **changes), "")
    torch.manual_seed(seed)
    agent = make_agent(vars(settings), FACTS, CPU)
    assert isinstance(agent, Agent)
    return agent


def make_batch(size: int, seed: int = 0) -> TransitionBatch:
    """Random frames and actions; BC needs nothing else."""
    generator = np.random.default_rng(seed)
    return TransitionBatch(
        observations=torch.from_numpy(generator.integers(0, 256, (size, 64, 64, 3), np.uint8)),
        actions=torch.from_numpy(generator.integers(0, 15, size)),
        rewards=torch.zeros(size),
        next_observations=None,
        dones=torch.zeros(size),
    )


def make_frames(count: int, seed: int = 0) -> np.ndarray:
    return make_batch(count, seed).observations.numpy()


def favour(agent: Agent, logits: np.ndarray) -> None:
    """Let the agent give these logits (15,) to every frame."""
    with torch.no_grad():
        agent.head.weight.zero_()
        agent.head.bias.copy_(torch.from_numpy(logits))


def weights_of(agent: OfflineAgent[Any]) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.parameters()])


# Learning


@pytest.mark.parametrize("agent_model", ["dqn", "pporesnetbase"])
def test_the_loss_is_that_of_the_reference(agent_model: str) -> None:
    agent, batch = make_bc(agent_model=agent_model, scale_pixels=False), make_batch(32)
    logits = agent.logits(batch.observations).detach().numpy()
    assert np.ptp(logits) > 0.5  # far from uniform: 0..255 pixels
    expected = bc.loss(logits, batch.actions.numpy())
    assert float(agent.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_by_the_logits_is_that_of_the_reference() -> None:
    agent, batch = make_bc(scale_pixels=False), make_batch(32)
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, logits: torch.Tensor) -> None:
        logits.retain_grad()
        seen.append(logits)

    agent.head.register_forward_hook(keep)
    agent.loss(batch).backward()
    (logits,) = seen
    assert logits.grad is not None
    expected = bc.gradient(logits.detach().numpy(), batch.actions.numpy())
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-7)


def test_the_reference_gives_the_worked_example() -> None:
    # Two actions with logits log 3 and log 1: probabilities 3/4 and 1/4.
    logits = np.log(np.array([[3.0, 1.0], [3.0, 1.0]]))
    actions = np.array([0, 1])
    assert bc.loss(logits, actions) == pytest.approx((np.log(4 / 3) + np.log(4)) / 2)
    expected = [[-0.25 / 2, 0.25 / 2], [0.75 / 2, -0.75 / 2]]
    np.testing.assert_allclose(bc.gradient(logits, actions), expected)


def test_an_update_reports_the_loss_before_it_as_a_scalar_without_graph() -> None:
    agent, batch = make_bc(), make_batch(8)
    before = float(agent.loss(batch).detach())
    metrics = agent.update(batch)
    assert set(metrics) == {"loss"}
    assert metrics["loss"].shape == ()
    assert not metrics["loss"].requires_grad
    assert float(metrics["loss"]) == before


def test_updates_lower_the_loss_of_64_transitions_to_nearly_nothing() -> None:
    agent, batch = make_bc(hidden_size=32), make_batch(64)
    for _ in range(120):
        loss = agent.update(batch)["loss"]
    assert float(loss) < 0.01
    agent.reset(64, seed=0)
    assert (agent.act(batch.observations.numpy(), np.arange(64)) == batch.actions.numpy()).all()


def test_the_first_step_of_adam_moves_weights_by_the_learning_rate() -> None:
    # The first step is lr * g / (|g| + eps), eps = 1e-8: lr for every gradient well above eps.
    for lr in (0.001, 0.01):
        agent = make_bc(lr=lr)
        before = weights_of(agent)
        agent.update(make_batch(16))
        assert float((weights_of(agent) - before).abs().max()) == pytest.approx(lr, rel=1e-3)


def test_weights_start_from_the_seed() -> None:
    assert torch.equal(weights_of(make_bc(seed=1)), weights_of(make_bc(seed=1)))
    assert not torch.equal(weights_of(make_bc(seed=1)), weights_of(make_bc(seed=2)))


# What the flags of the model do


def test_agent_model_chooses_the_encoder() -> None:
    sizes = {
        name: sum(p.numel() for p in make_bc(agent_model=name, hidden_size=256).parameters())
        for name in ("dqn", "pporesnetbase")
    }
    # dqn: 3 -> 32 (8x8), 32 -> 256 (4x4), 256 -> 64 (3x3), 1024 -> 15, each with biases.
    dqn = (3 * 64 + 1) * 32 + (32 * 16 + 1) * 256 + (256 * 9 + 1) * 64 + 1025 * 15
    # pporesnetbase: 622,144 up to its 256 features.
    assert sizes == {"dqn": dqn, "pporesnetbase": 622_144 + 257 * 15}


def test_hidden_size_sets_the_width_of_the_impala_encoder() -> None:
    assert make_bc(agent_model="pporesnetbase", hidden_size=100).head.in_features == 100


def test_without_scaling_the_encoder_sees_pixels_255_times_as_large() -> None:
    frames = torch.from_numpy(make_frames(4))
    scaled, raw = make_bc(seed=3), make_bc(seed=3, scale_pixels=False)
    assert torch.equal(weights_of(scaled), weights_of(raw))
    assert not torch.allclose(scaled.logits(frames), raw.logits(frames), rtol=0.1)
    first = next(module for module in raw.modules() if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        first.weight /= 255.0
    torch.testing.assert_close(raw.logits(frames), scaled.logits(frames), rtol=1e-4, atol=1e-5)


def test_percentile_leaves_the_best_episodes_to_learn_from(tmp_path: Path) -> None:
    # Returns 1, 9, 3, 0, each of 4 steps; half of 16 transitions are the best two.
    episodes = [make_episode(i, [0, 0, 0, r], level_seed=i) for i, r in enumerate((1, 9, 3, 0))]
    write_game(tmp_path / "miner", episodes)
    wanted = flags({"env_name": "miner", "dataset": tmp_path, "percentile": 0.5})
    data = load_data(parse_training(wanted, ""), Agent.view, CPU)
    numbers = data.view.batch(np.arange(len(data.view))).observations[:, 0, 0, 0]
    assert numbers.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert data.summary.mean_return == 6.0


# Acting


@pytest.mark.parametrize("changes", [{"deterministic": True}, {"eval_eps": 0}])
def test_without_chance_the_likeliest_action_is_taken(changes: dict[str, Any]) -> None:
    agent, frames = make_bc(scale_pixels=False, **changes), make_frames(8)
    agent.reset(8, seed=0)
    likeliest = agent.logits(torch.from_numpy(frames)).argmax(-1).numpy()
    for _ in range(3):
        assert (agent.act(frames, np.arange(8)) == likeliest).all()


def test_actions_are_drawn_from_the_policy() -> None:
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    logits = np.full(15, -np.inf)
    logits[[0, 3, 7, 14]] = np.log(probabilities)
    agent = make_bc()
    favour(agent, logits)
    agent.reset(100, seed=4)
    frames, draws = np.zeros((100, 64, 64, 3), np.uint8), 20
    actions = np.concatenate([agent.act(frames, np.arange(100)) for _ in range(draws)])
    shares = np.bincount(actions, minlength=15) / actions.size
    # The standard deviation of a share of 2,000 draws is at most 0.011.
    np.testing.assert_allclose(shares[[0, 3, 7, 14]], probabilities, atol=0.05)
    assert shares[[0, 3, 7, 14]].sum() == 1.0


def test_actions_have_the_promised_type() -> None:
    for deterministic in (True, False):
        agent = make_bc(deterministic=deterministic)
        agent.reset(3, seed=0)
        actions = agent.act(make_frames(2), np.array([0, 2]))
        assert (actions.shape, actions.dtype) == ((2,), np.int64)


def test_acting_in_a_batch_gives_the_actions_of_acting_alone() -> None:
    agent, steps = make_bc(), [make_frames(4, seed) for seed in range(6)]
    # Environment 1 is done after three steps and leaves the batch.
    playing = [np.arange(4)] * 3 + [np.array([0, 2, 3])] * 3
    agent.reset(4, seed=9)
    together = [agent.act(frames[ids], ids) for frames, ids in zip(steps, playing, strict=True)]
    for env in range(4):
        agent.reset(4, seed=9)
        ids = np.array([env])
        for frames, actions, there in zip(steps, together, playing, strict=True):
            if env in there:
                assert agent.act(frames[ids], ids) == actions[there == env]


def test_the_seed_of_a_reset_decides_the_actions() -> None:
    agent, frames = make_bc(), make_frames(64)
    drawn = []
    for seed in (1, 1, 2):
        agent.reset(64, seed)
        drawn.append(agent.act(frames, np.arange(64)).tolist())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


# Saving


def test_a_restored_agent_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    saved, restored = make_bc(seed=1), make_bc(seed=2)
    for i in range(3):
        saved.update(make_batch(8, i))
    path = tmp_path / "state.pt"
    torch.save(saved.state(), path)
    restored.restore(torch.load(path, weights_only=True), path)
    for i in range(3):  # Adam's moments too are as they were
        assert torch.equal(*(a.update(make_batch(8, 9 + i))["loss"] for a in (saved, restored)))
    assert_same(restored.state(), saved.state())


def test_weights_of_another_architecture_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"model\.pt holds another architecture"):
        make_bc(hidden_size=16).restore(make_bc(hidden_size=8).state(), tmp_path / "model.pt")


def test_a_state_without_its_optimiser_is_refused_by_name(tmp_path: Path) -> None:
    agent = make_bc()
    state = {**agent.state(), "optimisers": {}}
    with pytest.raises(ToolkitError, match=r"model\.pt is of another agent"):
        agent.restore(state, tmp_path / "model.pt")
