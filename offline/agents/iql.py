"""Implicit Q-learning (Kostrikov et al. 2022), with a policy over discrete actions.

Loss      Each averaged over the batch, with u = min(Qbar1, Qbar2)(s,a) - V(s), a constant but in
          the first:
          V         |`iql_expectile` - 1(u < 0)| u^2: an expectile of Q over the data's actions,
                    0.5 the mean, towards 1 the largest. No action outside the data is valued.
          Q1, Q2    (Q(s,a) - y)^2 each, with y = r + `gamma` (1 - d) V(s'), a constant.
          actor     -min(exp(`iql_temperature` u), 100) log pi(a|s). The knob is an inverse
                    temperature: at 0 this is behavioural cloning, large trusts Q.
Networks  four of their own, each with its own Adam: actor, V, Q1 and Q2; an encoder
          (`agent_model`) and a linear head each. Qbar1 and Qbar2 are copies of Q1 and Q2, renewed
          every `target_update_freq` gradient steps: whole, or with `perform_polyak_update` by the
          share `tau`.
Acting    samples pi(.|s); its argmax when `deterministic` or `eval_eps` is 0.
Deviates from the paper in its networks, made for pixels, in taking the losses of a step at the
weights before it (the authors move V first and pass through it again, another forward pass for a
difference of one step), in a constant learning rate for the actor (theirs decays by a cosine), and
from the benchmark's released code in feeding pixels in [0, 1] (`scale_pixels`). Last layers run in
float32 even under bf16, which is too coarse for values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from offline.agents.base import DatasetFacts, OfflineAgent, TransitionBatch
from offline.agents.targets import (
    OutputLayer,
    TargetNetwork,
    following_frames,
    of_actions,
    one_step_targets,
)

LARGEST_WEIGHT = 100.0  # of the authors' experiments: no single action may outweigh the batch


class Agent(OfflineAgent[TransitionBatch]):
    """Implicit Q-learning."""

    view = "transitions"

    def __init__(
        self, settings: Mapping[str, Any], facts: DatasetFacts, device: torch.device
    ) -> None:
        super().__init__(settings, facts, device)
        self.actor = self._network(facts.num_actions)
        self.value = self._network(1)
        self.q1 = self._network(facts.num_actions)
        self.q2 = self._network(facts.num_actions)
        self.target_q1 = TargetNetwork(self.q1, settings)
        self.target_q2 = TargetNetwork(self.q2, settings)
        self.to(device)
        for name in ("actor", "value", "q1", "q2"):
            weights = self.get_submodule(name).parameters()
            self.optimisers[name] = self.adam(weights)

    def _network(self, outputs: int) -> nn.Module:
        encoder = self.new_encoder()
        return nn.Sequential(encoder, OutputLayer(encoder.feature_size, outputs))

    def logits(self, observations: Tensor) -> Tensor:
        """The actor's logits (B, num_actions) float32 for frames (B, 64, 64, 3) uint8."""
        with self.autocast():
            logits: Tensor = self.actor(observations)
        return logits

    def values(self, observations: Tensor) -> Tensor:
        """V(s) (B,) float32."""
        with self.autocast():
            values: Tensor = self.value(observations)
        return values.squeeze(1)

    def q_values(self, network: nn.Module, batch: TransitionBatch) -> Tensor:
        """Q(s,a) (B,) float32 of one of the Q-networks or targets, for the data's actions."""
        with self.autocast():
            values = network(batch.observations)
        return of_actions(values, batch.actions)

    @torch.no_grad()
    def smaller_target_q(self, batch: TransitionBatch) -> Tensor:
        """min(Qbar1, Qbar2)(s,a) (B,)."""
        first, second = (self.q_values(q, batch) for q in (self.target_q1, self.target_q2))
        return torch.minimum(first, second)

    @torch.no_grad()
    def targets(self, batch: TransitionBatch) -> Tensor:
        """y (B,) of both Q-networks."""
        return one_step_targets(batch, self.values(following_frames(batch)), self.settings["gamma"])

    def value_loss(self, advantages: Tensor) -> Tensor:
        """Mean expectile loss of u = `advantages` (B,)."""
        below = (advantages < 0).to(advantages.dtype)
        weights = (self.settings["iql_expectile"] - below).abs()
        return (weights * advantages.square()).mean()

    def q_loss(self, q_values: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of Q(s,a) (B,) against `targets` (B,)."""
        return functional.mse_loss(q_values, targets.to(q_values.dtype))

    def actor_weights(self, advantages: Tensor) -> Tensor:
        """How much each of the data's actions is imitated (B,), without gradient."""
        scaled = self.settings["iql_temperature"] * advantages.detach()
        return scaled.exp().clamp(max=LARGEST_WEIGHT)

    def actor_loss(self, logits: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
        """Mean negative log-likelihood of the dataset's actions, weighted by `actor_weights`."""
        surprise = functional.cross_entropy(logits, actions, reduction="none")
        return (self.actor_weights(advantages) * surprise).mean()

    def update(self, batch: TransitionBatch) -> dict[str, Tensor]:
        """One step of Adam for each network, all from the weights before, then the targets'."""
        targets = self.targets(batch)
        advantages = self.smaller_target_q(batch) - self.values(batch.observations)
        # One network after the other: the activations of one at a time are kept.
        losses = {"value": self.value_loss(advantages)}
        self.descend("value", losses["value"])
        for name in ("q1", "q2"):
            q_values = self.q_values(self.get_submodule(name), batch)
            losses[name] = self.q_loss(q_values, targets)
            self.descend(name, losses[name])
        logits = self.logits(batch.observations)
        losses["actor"] = self.actor_loss(logits, batch.actions, advantages)
        self.descend("actor", losses["actor"])
        self.target_q1.follow(self.q1)
        self.target_q2.follow(self.q2)
        metrics = {f"{name}_loss": loss.detach() for name, loss in losses.items()}
        return {"loss": torch.stack(list(metrics.values())).sum(), **metrics}

    @torch.no_grad()
    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for frames (n, 64, 64, 3) uint8."""
        return self.sampler.actions(self.logits(self.to_device(observations)), env_ids)
