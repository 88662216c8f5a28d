"""The plain PPO: the paper's settings in one fp32 loop over float frames, channels first."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.reference_parts import NUM_ACTIONS, ReferenceImpala, procgen, reference_device
from benchmarks.sizes import HIDDEN_SIZE, LEARNING_RATE, NUM_LEVELS
from benchmarks.worker import Repeat, Sample, Stopwatch

GAMMA, LAMBDA, CLIP = 0.999, 0.95, 0.2
VALUE_COEFFICIENT, ENTROPY_COEFFICIENT, MAX_GRAD_NORM = 0.5, 0.01, 0.5


class ReferenceActorCritic(nn.Module):
    """IMPALA with a policy and a value head, for float pixels (batch, 3, 64, 64) in [0, 1]."""

    def __init__(self, hidden_size: int = HIDDEN_SIZE) -> None:
        super().__init__()
        self.trunk = ReferenceImpala(hidden_size)
        self.policy = nn.Linear(hidden_size, NUM_ACTIONS)
        self.value = nn.Linear(hidden_size, 1)

    def forward(self, pixels: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        features = self.trunk(pixels)
        distribution = torch.distributions.Categorical(logits=self.policy(features))
        return distribution, self.value(features).squeeze(-1)


class ReferencePPO:
    """Environments, network and storage of one run."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.device = reference_device(settings)
        self.env = procgen(settings.env_name, settings.num_processes, 0, NUM_LEVELS, settings.seed)
        self.network = ReferenceActorCritic().to(self.device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), LEARNING_RATE, eps=1e-5)
        shape = (settings.num_steps, settings.num_processes)
        self.pixels = torch.zeros(*shape, 3, 64, 64, device=self.device)
        self.actions = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self.log_probs, self.values, self.rewards, self.dones = (
            torch.zeros(shape, device=self.device) for _ in range(4)
        )
        # Rewards are divided by the running standard deviation of their discounted sum.
        self.discounted = np.zeros(settings.num_processes)
        self.count, self.mean, self.variance = 1e-4, 0.0, 1.0

    def observe(self) -> tuple[np.ndarray, Tensor, np.ndarray]:
        """Rewards, float pixels (num_processes, 3, 64, 64) and whether a new episode begins."""
        rewards, observations, firsts = self.env.observe()
        frames = observations["rgb"].transpose(0, 3, 1, 2).astype(np.float32) / 255.0
        return rewards, torch.from_numpy(frames).to(self.device), firsts

    def scale(self, rewards: np.ndarray, dones: np.ndarray) -> np.ndarray:
        """Rewards over the running standard deviation of their discounted sum."""
        self.discounted = self.discounted * GAMMA + rewards
        size, delta = len(rewards), self.discounted.mean() - self.mean
        total = self.count + size
        squares = self.variance * self.count + self.discounted.var() * size
        self.variance = (squares + delta**2 * self.count * size / total) / total
        self.mean += delta * size / total
        self.count = total
        self.discounted[dones] = 0.0
        scaled: np.ndarray = np.clip(rewards / np.sqrt(self.variance + 1e-8), -10.0, 10.0)
        return scaled

    @torch.no_grad()
    def collect(self) -> Tensor:
        """Fill the storage; the advantages (num_steps, num_processes)."""
        _, pixels, _ = self.observe()
        for step in range(self.settings.num_steps):
            self.pixels[step] = pixels
            distribution, self.values[step] = self.network(self.pixels[step])
            self.actions[step] = distribution.sample()
            self.log_probs[step] = distribution.log_prob(self.actions[step])
            self.env.act(self.actions[step].cpu().numpy())
            rewards, pixels, dones = self.observe()
            self.rewards[step] = torch.from_numpy(self.scale(rewards, dones))
            self.dones[step] = torch.from_numpy(dones)
        _, next_values = self.network(pixels)
        advantages = torch.zeros_like(self.rewards)
        running = torch.zeros_like(next_values)
        for step in reversed(range(self.settings.num_steps)):
            alive = 1.0 - self.dones[step]
            delta = self.rewards[step] + GAMMA * alive * next_values - self.values[step]
            running = delta + GAMMA * LAMBDA * alive * running
            advantages[step] = running
            next_values = self.values[step]
        return advantages

    def update(self, advantages: Tensor) -> float:
        """Clipped policy and value losses over shuffled minibatches; the sum of the losses."""
        size = advantages.numel()
        pixels = self.pixels.view(size, 3, 64, 64)
        actions, old_log_probs = self.actions.view(size), self.log_probs.view(size)
        old_values = self.values.view(size)
        advantages = advantages.view(size)
        returns = advantages + old_values
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-5)
        summed = 0.0
        for _ in range(self.settings.ppo_epoch):
            for batch in torch.randperm(size).chunk(self.settings.num_mini_batch):
                batch = batch.to(self.device)
                distribution, values = self.network(pixels[batch])
                ratio = (distribution.log_prob(actions[batch]) - old_log_probs[batch]).exp()
                clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
                policy_loss = -torch.min(
                    ratio * advantages[batch], clipped * advantages[batch]
                ).mean()
                change = (values - old_values[batch]).clamp(-CLIP, CLIP)
                value_loss = torch.max(
                    (values - returns[batch]) ** 2,
                    (old_values[batch] + change - returns[batch]) ** 2,
                ).mean()
                loss = policy_loss + VALUE_COEFFICIENT * 0.5 * value_loss
                loss = loss - ENTROPY_COEFFICIENT * distribution.entropy().mean()
                self.optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRAD_NORM)
                self.optimiser.step()
                summed += loss.item()
        return summed


def ppo(settings: argparse.Namespace) -> Repeat:
    """One collection and one update; in environment steps."""
    run = ReferencePPO(settings)

    def repeat() -> Sample:
        with Stopwatch() as watch:
            run.update(run.collect())
        return watch.sample(settings.num_steps * settings.num_processes)

    repeat()
    return repeat
