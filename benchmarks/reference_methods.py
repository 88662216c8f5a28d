"""The plain side's BC, CQL, BCQ and IQL, written down from their equations.

Batches are as `EpisodeDataset` is collated: (s, a), or (s, a, r, s', done), pixels in [0, 1].
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.reference_parts import NUM_ACTIONS, ReferenceImpala, reference_policy
from benchmarks.sizes import HIDDEN_SIZE, LEARNING_RATE, METHOD_SETTINGS

GAMMA = 0.99
TARGET_UPDATE_FREQ = 1000  # gradient steps
CQL_ALPHA = METHOD_SETTINGS["cql"]["cql_alpha"]
BCQ_THRESHOLD = METHOD_SETTINGS["bcq"]["bcq_threshold"]
LOGIT_PENALTY = 0.01
IQL_TEMPERATURE = METHOD_SETTINGS["iql"]["iql_temperature"]
IQL_EXPECTILE = METHOD_SETTINGS["iql"]["iql_expectile"]
LARGEST_WEIGHT = 100.0


class PlainMethod(nn.Module, ABC):
    """Networks and their optimisers. Targets are defined last, so parameters are in our order."""

    @abstractmethod
    def update(self, batch: Sequence[Tensor]) -> float:
        """One gradient step; the loss before it."""


def adam(network: nn.Module) -> torch.optim.Adam:
    """Adam with the settings of the paper, otherwise PyTorch's."""
    return torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    """One step along the gradient of `loss`; its value."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def of_actions(values: Tensor, actions: Tensor) -> Tensor:
    """Of (B, 15) the values of `actions` (B,)."""
    return values.gather(1, actions.unsqueeze(1)).squeeze(1)


def bellman(rewards: Tensor, dones: Tensor, next_values: Tensor) -> Tensor:
    """r + gamma (1 - d) times the value of the next state, all (B,)."""
    return rewards.float() + GAMMA * (1.0 - dones.float()) * next_values


class PlainBC(PlainMethod):
    """-log pi(a|s)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.optimiser = adam(network)

    def update(self, batch: Sequence[Tensor]) -> float:
        pixels, actions = batch
        return descend(self.optimiser, functional.cross_entropy(self.network(pixels), actions))


class TargetMethod(PlainMethod):
    """Counts gradient steps and renews target networks by hard copies."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def renew(self, *pairs: tuple[nn.Module, nn.Module]) -> None:
        """Count a step; copy each (target, online) pair's weights if it is time."""
        self.steps += 1
        if self.steps % TARGET_UPDATE_FREQ == 0:
            for target, online in pairs:
                target.load_state_dict(online.state_dict())


class PlainCQL(TargetMethod):
    """huber(Q(s,a), r + gamma (1-d) Qbar(s', argmax Q(s'))) + alpha (logsumexp Q(s) - Q(s,a))."""

    def __init__(self) -> None:
        super().__init__()
        self.q_network = reference_policy()
        self.target = copy.deepcopy(self.q_network)
        self.optimiser = adam(self.q_network)

    def update(self, batch: Sequence[Tensor]) -> float:
        observations, actions, rewards, next_observations, dones = batch
        with torch.no_grad():
            best = self.q_network(next_observations).argmax(1)
            next_values = of_actions(self.target(next_observations), best)
            targets = bellman(rewards, dones, next_values)
        values = self.q_network(observations)
        chosen = of_actions(values, actions)
        penalty = (torch.logsumexp(values, 1) - chosen).mean()
        loss = functional.huber_loss(chosen, targets) + CQL_ALPHA * penalty
        value = descend(self.optimiser, loss)
        self.renew((self.target, self.q_network))
        return value


class PlainBCQ(TargetMethod):
    """CQL's first term, the argmax over actions with G / max G > threshold; - log G + 0.01 i^2."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ReferenceImpala(HIDDEN_SIZE)
        self.q_head = nn.Linear(HIDDEN_SIZE, NUM_ACTIONS)
        self.imitation_head = nn.Linear(HIDDEN_SIZE, NUM_ACTIONS)
        self.optimiser = adam(self)
        self.target = copy.deepcopy(nn.Sequential(self.trunk, self.q_head))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Q-values and imitation logits (B, 15)."""
        features = self.trunk(observations)
        return self.q_head(features), self.imitation_head(features)

    def update(self, batch: Sequence[Tensor]) -> float:
        observations, actions, rewards, next_observations, dones = batch
        with torch.no_grad():
            values, logits = self(next_observations)
            likelihoods = functional.softmax(logits, 1)
            ratios = likelihoods / likelihoods.max(1, keepdim=True).values
            values[ratios <= BCQ_THRESHOLD] = -torch.inf
            next_values = of_actions(self.target(next_observations), values.argmax(1))
            targets = bellman(rewards, dones, next_values)
        values, logits = self(observations)
        loss = (
            functional.huber_loss(of_actions(values, actions), targets)
            + functional.cross_entropy(logits, actions)
            + LOGIT_PENALTY * (logits**2).mean()
        )
        value = descend(self.optimiser, loss)
        self.renew((self.target, nn.Sequential(self.trunk, self.q_head)))
        return value


class PlainIQL(TargetMethod):
    """V by expectiles of min Qbar(s,a), Q1 and Q2 towards V(s'), an advantage-weighted actor."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = reference_policy()
        self.value = nn.Sequential(ReferenceImpala(HIDDEN_SIZE), nn.Linear(HIDDEN_SIZE, 1))
        self.q1 = reference_policy()
        self.q2 = reference_policy()
        self.target1 = copy.deepcopy(self.q1)
        self.target2 = copy.deepcopy(self.q2)
        self.actor_optimiser = adam(self.actor)
        self.value_optimiser = adam(self.value)
        self.q1_optimiser = adam(self.q1)
        self.q2_optimiser = adam(self.q2)

    def update(self, batch: Sequence[Tensor]) -> float:
        observations, actions, rewards, next_observations, dones = batch
        with torch.no_grad():
            targets = bellman(rewards, dones, self.value(next_observations).squeeze(1))
            smaller = torch.minimum(
                of_actions(self.target1(observations), actions),
                of_actions(self.target2(observations), actions),
            )
        advantages = smaller - self.value(observations).squeeze(1)
        weights = torch.where(advantages < 0, 1.0 - IQL_EXPECTILE, IQL_EXPECTILE)
        total = descend(self.value_optimiser, (weights * advantages**2).mean())
        for network, optimiser in ((self.q1, self.q1_optimiser), (self.q2, self.q2_optimiser)):
            chosen = of_actions(network(observations), actions)
            total += descend(optimiser, functional.mse_loss(chosen, targets))
        surprise = functional.cross_entropy(self.actor(observations), actions, reduction="none")
        weights = torch.exp(IQL_TEMPERATURE * advantages.detach()).clamp(max=LARGEST_WEIGHT)
        total += descend(self.actor_optimiser, (weights * surprise).mean())
        self.renew((self.target1, self.q1), (self.target2, self.q2))
        return total
