"""The parts of PPO against slow NumPy versions of the same equations, and against known cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from common.seeding import seed_everything
from online.ppo import (
    PPO,
    ActorCritic,
    PPOPolicy,
    RolloutBatch,
    generalised_advantages,
)
from tests.reference import ppo as reference

CLIP = 0.2
CPU = torch.device("cpu")


def make_network() -> ActorCritic:
    seed_everything(3)
    network = ActorCritic(15, 16)
    with torch.no_grad():  # a policy that is not uniform
        network.policy_head.weight.mul_(100.0)
    return network


def make_ppo(network: ActorCritic, **changes: Any) -> PPO:
    settings: dict[str, Any] = {
        "lr": 5e-4,
        "eps": 1e-5,
        "clip_param": CLIP,
        "ppo_epoch": 1,
        "num_mini_batch": 1,
        "value_loss_coef": 0.5,
        "entropy_coef": 0.01,
        "max_grad_norm": 0.5,
    }
    return PPO(network, **{**settings, **changes})


def frames(count: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


# Advantages


def random_rollout(steps: int, num_envs: int) -> dict[str, np.ndarray]:
    """Rewards, values and dones with episodes that end in the middle, at once and at the end."""
    generator = np.random.default_rng(1)
    dones = generator.random((steps, num_envs)) < 0.2
    dones[3:5, 0] = True
    dones[-1] = [True, False, *dones[-1, 2:]]
    dones[:, 2] = False
    return {
        "rewards": generator.normal(size=(steps, num_envs)),
        "values": generator.normal(size=(steps, num_envs)),
        "dones": dones.astype(np.float64),
        "last_values": generator.normal(size=num_envs),
    }


@pytest.mark.parametrize(("gamma", "lam"), [(0.999, 0.95), (0.9, 0.5), (1.0, 1.0), (0.9, 0.0)])
def test_advantages_agree_with_the_sum_of_their_definition(gamma: float, lam: float) -> None:
    arrays = random_rollout(20, 4)
    got = generalised_advantages(
        **{name: torch.from_numpy(array) for name, array in arrays.items()}, gamma=gamma, lam=lam
    )
    expected = reference.generalised_advantages(**arrays, gamma=gamma, lam=lam)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_advantages_of_two_episodes_worked_by_hand() -> None:
    # One environment, gamma 0.5, lambda 0.5. Deltas: 1+0-2 = -1 (ends), 0+2-4 = -2, 2+3-4 = 1.
    got = generalised_advantages(
        torch.tensor([[1.0], [0.0], [2.0]]),
        torch.tensor([[2.0], [4.0], [4.0]]),
        torch.tensor([[1.0], [0.0], [0.0]]),
        torch.tensor([6.0]),
        0.5,
        0.5,
    )
    assert got[:, 0].tolist() == [-1.0, -2.0 + 0.25 * 1.0, 1.0]


# Loss


def random_batch(network: ActorCritic, size: int = 48) -> RolloutBatch:
    """A batch whose ratios and values lie on both sides of the clipping range."""
    generator = np.random.default_rng(2)
    observations = frames(size)
    with torch.no_grad():
        logits, values = network(observations)
    actions = torch.from_numpy(generator.integers(0, 15, size))
    log_probs = torch.log_softmax(logits, -1).gather(-1, actions[:, None]).squeeze(-1)

    def noise(scale: float) -> torch.Tensor:
        return torch.from_numpy(generator.normal(scale=scale, size=size)).float()

    return RolloutBatch(
        observations,
        actions,
        log_probs + noise(0.4),
        values + noise(0.4),
        noise(1.0),
        values + noise(1.0),
    )


def test_the_loss_agrees_with_the_equations() -> None:
    network = make_network()
    batch = random_batch(network)
    total, parts = make_ppo(network, value_loss_coef=0.7, entropy_coef=0.03).loss(batch)
    with torch.no_grad():
        logits, values = network(batch.observations)
    expected = reference.loss(
        logits=logits.double().numpy(),
        values=values.double().numpy(),
        actions=batch.actions.numpy(),
        old_log_probs=batch.log_probs.double().numpy(),
        old_values=batch.values.double().numpy(),
        advantages=batch.advantages.double().numpy(),
        returns=batch.returns.double().numpy(),
        clip=CLIP,
    )
    for name, value in expected._asdict().items():
        assert parts[name].item() == pytest.approx(value, rel=1e-5, abs=1e-5), name
    whole = expected.policy_loss + 0.7 * expected.value_loss - 0.03 * expected.entropy
    assert total.item() == pytest.approx(whole, rel=1e-5, abs=1e-5)


def test_the_batch_of_that_test_reaches_both_sides_of_every_clip() -> None:
    network = make_network()
    batch = random_batch(network)
    with torch.no_grad():
        logits, values = network(batch.observations)
    log_probs = torch.log_softmax(logits, -1).gather(-1, batch.actions[:, None]).squeeze(-1)
    ratios = (log_probs - batch.log_probs).exp()
    moves = values - batch.values
    for low, high in ((ratios < 1 - CLIP, ratios > 1 + CLIP), (moves < -CLIP, moves > CLIP)):
        for side in (low, high, ~(low | high)):
            assert (side & (batch.advantages > 0)).any()
            assert (side & (batch.advantages < 0)).any()


def clipped_gradient(advantage: float, old_shift: float) -> float:
    """Size of the policy's gradient where the ratio is exp(-old_shift) for every sample."""
    network = make_network()
    batch = random_batch(network, 8)
    with torch.no_grad():
        logits, values = network(batch.observations)
    log_probs = torch.log_softmax(logits, -1).gather(-1, batch.actions[:, None]).squeeze(-1)
    batch = batch._replace(
        log_probs=log_probs + old_shift,
        advantages=torch.full((8,), advantage),
        values=values,
        returns=values,
    )
    total, _ = make_ppo(network, entropy_coef=0.0).loss(batch)
    total.backward()
    gradient = network.policy_head.bias.grad
    assert gradient is not None
    return float(gradient.norm())


def test_a_policy_that_has_moved_far_enough_is_pushed_no_further() -> None:
    assert clipped_gradient(advantage=1.0, old_shift=-0.5) == 0.0  # ratio 1.65, still good
    assert clipped_gradient(advantage=-1.0, old_shift=0.5) == 0.0  # ratio 0.61, still bad


def test_a_policy_that_has_moved_the_wrong_way_is_pushed_back() -> None:
    assert clipped_gradient(advantage=-1.0, old_shift=-0.5) > 0.0
    assert clipped_gradient(advantage=1.0, old_shift=0.5) > 0.0


def test_a_new_policy_is_nearly_uniform() -> None:
    seed_everything(0)
    logits, values = ActorCritic(15, 256)(frames(8))
    assert (logits.shape, values.shape) == ((8, 15), (8,))
    probabilities = logits.softmax(-1)
    assert probabilities.min() > 0.9 / 15
    assert probabilities.max() < 1.1 / 15


# Updates


def rollout_that_favours(good: int, bad: int, network: ActorCritic) -> RolloutBatch:
    """(T, N) = (8, 2): action `good` always had advantage 1, action `bad` always -1."""
    observations = frames(16)
    with torch.no_grad():
        logits, values = network(observations)
    actions = torch.tensor([good, bad] * 8)
    log_probs = torch.log_softmax(logits, -1).gather(-1, actions[:, None]).squeeze(-1)
    advantages = torch.where(actions == good, 1.0, -1.0)
    flat = RolloutBatch(observations, actions, log_probs, values, advantages, values + 1.0)
    return RolloutBatch(*(field.unflatten(0, (8, 2)) for field in flat))


def test_an_update_raises_what_did_well_and_lowers_what_did_badly() -> None:
    seed_everything(0)
    network = ActorCritic(15, 16)
    rollout = rollout_that_favours(3, 7, network)
    observations = rollout.observations.flatten(0, 1)
    with torch.no_grad():
        before, values_before = network(observations)
    ppo = make_ppo(network, ppo_epoch=4, num_mini_batch=2)
    ppo.update(rollout, np.random.default_rng(0))
    with torch.no_grad():
        after, values_after = network(observations)
    assert (after.softmax(-1)[:, 3] > before.softmax(-1)[:, 3]).all()
    assert (after.softmax(-1)[:, 7] < before.softmax(-1)[:, 7]).all()
    assert values_after.mean() > values_before.mean()  # the targets lie one above


def test_advantages_are_taken_relative_to_their_mean() -> None:
    results = []
    for offset in (0.0, 100.0):
        seed_everything(0)
        network = ActorCritic(15, 16)
        rollout = rollout_that_favours(3, 7, network)
        rollout = rollout._replace(advantages=rollout.advantages * 5 + offset)
        make_ppo(network, lr=1e-3).update(rollout, np.random.default_rng(0))
        results.append(network.policy_head.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-5)


def test_the_gradient_is_cut_to_its_largest_norm() -> None:
    network = make_network()
    rollout = rollout_that_favours(3, 7, network)
    rollout = rollout._replace(returns=rollout.returns + 1000.0)
    make_ppo(network, max_grad_norm=0.25).update(rollout, np.random.default_rng(0))
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    assert float(torch.cat(gradients).norm()) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("num_mini_batch", [1, 3, 5, 16])
def test_every_epoch_has_the_number_of_minibatches_asked_for(num_mini_batch: int) -> None:
    network, batches = make_network(), []
    make_ppo(network, ppo_epoch=2, num_mini_batch=num_mini_batch).update(
        rollout_that_favours(3, 7, network),
        np.random.default_rng(0),
        before_batch=lambda: batches.append(1),
    )
    assert len(batches) == 2 * num_mini_batch


def test_an_update_can_be_left_between_minibatches() -> None:
    network = make_network()

    def before_batch() -> None:
        raise InterruptedError

    weights = network.policy_head.weight.detach().clone()
    with pytest.raises(InterruptedError):
        make_ppo(network).update(
            rollout_that_favours(3, 7, network), np.random.default_rng(0), before_batch
        )
    assert torch.equal(network.policy_head.weight, weights)


def test_the_same_order_of_minibatches_gives_the_same_weights() -> None:
    results = []
    for order_seed in (0, 0, 1):
        network = make_network()
        rollout = rollout_that_favours(3, 7, network)
        make_ppo(network, num_mini_batch=4).update(rollout, np.random.default_rng(order_seed))
        results.append(network.policy_head.weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


# Acting


def test_the_actions_of_an_environment_do_not_depend_on_the_batch() -> None:
    policy, observations = PPOPolicy(make_network(), CPU), frames(6).numpy()
    policy.reset(6, seed=1)
    together = [policy.act(observations, np.arange(6)) for _ in range(10)]
    policy.reset(6, seed=1)
    alone = [policy.act(observations[4:5], np.array([4])) for _ in range(10)]
    assert [actions[4] for actions in together] == [actions[0] for actions in alone]


def test_a_policy_samples_or_takes_the_likeliest() -> None:
    network, observations = make_network(), frames(6)
    with torch.no_grad():
        likeliest = network(observations)[0].argmax(-1).numpy()
    for deterministic in (True, False):
        policy = PPOPolicy(network, CPU, deterministic)
        policy.reset(6, seed=1)
        drawn = np.stack([policy.act(observations.numpy(), np.arange(6)) for _ in range(30)])
        assert (drawn == likeliest).all() == deterministic
