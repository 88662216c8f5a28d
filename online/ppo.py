"""Proximal policy optimisation (Schulman et al. 2017) as the benchmark trains its behaviour policy.

Generalised advantage estimation (Schulman et al. 2016), clipped policy and value losses, rewards
divided by the running standard deviation of their discounted sum. Settings: Cobbe et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.device import autocast
from common.encoders import make_encoder
from common.optimisers import Adam
from common.sampling import ActionSampler


class ActorCritic(nn.Module):
    """IMPALA trunk with a policy head (num_actions logits) and a value head."""

    def __init__(self, num_actions: int, hidden_size: int) -> None:
        super().__init__()
        self.encoder = make_encoder("pporesnetbase", hidden_size)
        self.policy_head = nn.Linear(self.encoder.feature_size, num_actions)
        self.value_head = nn.Linear(self.encoder.feature_size, 1)
        # Small policy weights start the agent near the uniform policy, so it explores first.
        nn.init.orthogonal_(self.policy_head.weight, 0.01)
        nn.init.orthogonal_(self.value_head.weight, 1.0)
        for head in (self.policy_head, self.value_head):
            nn.init.zeros_(head.bias)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, num_actions) and values (batch,) of frames (batch, 64, 64, 3) uint8."""
        features = self.encoder(observations)
        return self.policy_head(features), self.value_head(features).squeeze(-1)


class PPOPolicy:
    """An `ActorCritic` as a `Policy`: samples its actions, or takes the likeliest."""

    def __init__(
        self, network: ActorCritic, device: torch.device, deterministic: bool = False
    ) -> None:
        self.network = network
        self.device = device
        self.sampler = ActionSampler(deterministic)

    def reset(self, num_envs: int, seed: int) -> None:
        """Start the random streams of `num_envs` environments."""
        self.sampler.reset(num_envs, seed)

    @torch.no_grad()
    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for frames (n, 64, 64, 3) uint8."""
        logits, _ = self.network(torch.from_numpy(observations).to(self.device))
        return self.sampler.actions(logits, env_ids)

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        """Nothing to remember: the policy sees single frames."""


class RewardScaler:
    """Divides rewards by the running standard deviation of each environment's discounted return.

    The mean is not subtracted, so signs stay; scaled rewards are clipped to [-10, 10]. Variance by
    the parallel update of Chan et al. 1979.
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self.returns = np.zeros(num_envs)
        self.count, self.mean, self.variance = 1e-4, 0.0, 1.0

    def scale(self, rewards: np.ndarray, dones: np.ndarray) -> np.ndarray:
        """Scaled rewards (num_envs,) float32 for raw `rewards` and end-of-episode flags `dones`."""
        self.returns = self.returns * self.gamma + rewards
        batch_mean, batch_variance = float(self.returns.mean()), float(self.returns.var())
        size, delta = len(rewards), batch_mean - self.mean
        total = self.count + size
        self.mean += delta * size / total
        self.variance = (
            self.variance * self.count
            + batch_variance * size
            + delta**2 * self.count * size / total
        ) / total
        self.count = total
        scaled: np.ndarray = np.clip(rewards / np.sqrt(self.variance + 1e-8), -10.0, 10.0)
        self.returns[dones] = 0.0
        return scaled.astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Everything needed to continue exactly."""
        return {
            "returns": self.returns.tolist(),
            "count": self.count,
            "mean": self.mean,
            "variance": self.variance,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Undo of `state()`."""
        self.returns = np.array(state["returns"])
        self.count, self.mean = state["count"], state["mean"]
        self.variance = state["variance"]


class RolloutBatch(NamedTuple):
    """`num_steps` (T) steps of `num_envs` (N) environments under one policy, on the device."""

    observations: Tensor  # (T, N, 64, 64, 3) uint8
    actions: Tensor  # (T, N) int64
    log_probs: Tensor  # (T, N) of the actions taken
    values: Tensor  # (T, N)
    advantages: Tensor  # (T, N), generalised advantage estimates
    returns: Tensor  # (T, N), advantages + values: the value targets


def generalised_advantages(
    rewards: Tensor, values: Tensor, dones: Tensor, last_values: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimates (T, N); equation 16 of Schulman et al. 2016.

    `dones[t]` (T, N) says that the episode ended with step t, so nothing after t counts for it;
    `last_values` (N,) are the values of the observations after the last step.
    """
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(last_values)
    next_values = last_values
    for t in reversed(range(len(rewards))):
        alive = 1.0 - dones[t]
        delta = rewards[t] + gamma * alive * next_values - values[t]
        running = delta + gamma * lam * alive * running
        advantages[t] = running
        next_values = values[t]
    return advantages


class PPO:
    """The learner: network, optimiser and the clipped update."""

    def __init__(
        self,
        network: ActorCritic,
        *,
        lr: float,
        eps: float,
        clip_param: float,
        ppo_epoch: int,
        num_mini_batch: int,
        value_loss_coef: float,
        entropy_coef: float,
        max_grad_norm: float,
        precision: str = "fp32",
    ) -> None:
        self.network = network
        self.device = next(network.parameters()).device
        self.optimiser = Adam(network.parameters(), lr=lr, eps=eps, fused=True)
        self.clip_param = clip_param
        self.ppo_epoch = ppo_epoch
        self.num_mini_batch = num_mini_batch
        self.value_loss_coef = value_loss_coef
        self.entropy_coef = entropy_coef
        self.max_grad_norm = max_grad_norm
        self.precision = precision

    def loss(
        self,
        batch: RolloutBatch,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts for a flat batch: every field of `batch` has leading size (B,)."""
        with autocast(self.device, self.precision):
            logits, values = self.network(batch.observations)
        log_policy = functional.log_softmax(logits.float(), -1)  # (B, num_actions)
        values = values.float()
        log_probs = log_policy.gather(-1, batch.actions[:, None]).squeeze(-1)
        ratio = (log_probs - batch.log_probs).exp()
        clipped_ratio = ratio.clamp(1.0 - self.clip_param, 1.0 + self.clip_param)
        policy_loss = -torch.min(ratio * batch.advantages, clipped_ratio * batch.advantages).mean()
        clipped_values = batch.values + (values - batch.values).clamp(
            -self.clip_param, self.clip_param
        )
        value_loss = (
            0.5
            * torch.max(
                (values - batch.returns).square(), (clipped_values - batch.returns).square()
            ).mean()
        )
        entropy = -(log_policy.exp() * log_policy).sum(-1).mean()
        total = policy_loss + self.value_loss_coef * value_loss - self.entropy_coef * entropy
        parts = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        return total, {name: part.detach() for name, part in parts.items()}

    def update(
        self,
        rollout: RolloutBatch,
        generator: np.random.Generator,
        before_batch: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """`ppo_epoch` passes over the rollout in shuffled minibatches; means of the loss parts.

        Advantages are normalised over the whole rollout. `before_batch` may raise to leave early.
        """
        advantages = (rollout.advantages - rollout.advantages.mean()) / (
            rollout.advantages.std() + 1e-5
        )
        flat = RolloutBatch(
            *(field.flatten(0, 1) for field in rollout._replace(advantages=advantages))
        )
        sums: dict[str, Tensor] = {}
        steps = 0
        for indices in self._mini_batches(len(flat.actions), generator):
            if before_batch is not None:
                before_batch()
            total, parts = self.loss(RolloutBatch(*(field[indices] for field in flat)))
            self.optimiser.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
            self.optimiser.step()
            for name, part in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part
            steps += 1
        return {name: float(value) / steps for name, value in sums.items()}

    def _mini_batches(self, size: int, generator: np.random.Generator) -> Iterator[Tensor]:
        for _ in range(self.ppo_epoch):
            order = torch.from_numpy(generator.permutation(size)).to(self.device)
            # Not chunk(), which gives fewer minibatches where their number does not divide.
            yield from order.tensor_split(self.num_mini_batch)
