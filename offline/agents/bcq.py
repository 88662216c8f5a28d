"""Discrete batch-constrained Q-learning (Fujimoto et al. 2019, arXiv 1910.01708).

Loss      huber(Q(s,a) - y) - log G(a|s) + 0.01 i^2, averaged over the batch (the last term over
          the actions too), with G the softmax of the imitation logits i, Huber's delta 1, and
          y = r + `gamma` (1 - d) Qbar(s', argmax Q(s',a')), a constant, where the argmax runs over
          the allowed actions: those with G(a'|s') / max G(.|s') > `bcq_threshold`.
Networks  encoder (`agent_model`) with two heads, Q and G. On the encoder of `dqn` a head is
          1024-512-actions; on the IMPALA encoders, which end in a fully connected layer of their
          own, it is linear. Qbar is a copy of the encoder and the Q head, renewed every
          `target_update_freq` gradient steps: whole, or with `perform_polyak_update` by the share
          `tau`.
Acting    epsilon-greedy with `eval_eps`: a uniformly random action, else the one of largest Q among
          the allowed ones; without the former when `deterministic`.
Deviates from the paper in always allowing the likeliest action, so that `bcq_threshold` 1 imitates
instead of allowing nothing, and in comparing log G, so that 0 allows every action however small its
probability. Deviates from the benchmark's released code in feeding pixels in [0, 1]
(`scale_pixels`). The heads' last layers run in float32 even under bf16, too coarse for Q-values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.encoders import NatureEncoder, PixelEncoder
from offline.agents.base import DatasetFacts, OfflineAgent, TransitionBatch
from offline.agents.targets import (
    OutputLayer,
    TargetNetwork,
    following_frames,
    of_actions,
    one_step_targets,
    td_loss,
)

LOGIT_PENALTY = 0.01  # weight of mean(i^2), fixed in the benchmark


def make_head(encoder: PixelEncoder, num_actions: int) -> nn.Module:
    """From the encoder's features to one number per action."""
    if not isinstance(encoder, NatureEncoder):
        return OutputLayer(encoder.feature_size, num_actions)
    return nn.Sequential(
        nn.Linear(encoder.feature_size, 512), nn.ReLU(), OutputLayer(512, num_actions)
    )


class Agent(OfflineAgent[TransitionBatch]):
    """Discrete batch-constrained Q-learning."""

    view = "transitions"

    def __init__(
        self, settings: Mapping[str, Any], facts: DatasetFacts, device: torch.device
    ) -> None:
        super().__init__(settings, facts, device)
        self.encoder = self.new_encoder()
        self.q_head = make_head(self.encoder, facts.num_actions)
        self.imitation_head = make_head(self.encoder, facts.num_actions)
        learning = list(self.parameters())
        # No imitation head: the constraint is the online network's.
        self.target = TargetNetwork(self._q_network(), settings)
        self.to(device)
        self.optimisers["q"] = self.adam(learning)
        threshold = settings["bcq_threshold"]
        self.log_threshold = math.log(threshold) if threshold > 0 else -math.inf

    def _q_network(self) -> nn.Module:
        return nn.Sequential(self.encoder, self.q_head)

    def outputs(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Q-values and imitation logits, both (B, num_actions) float32, for frames uint8."""
        with self.autocast():
            features = self.encoder(observations)
            q_values: Tensor = self.q_head(features)
            imitation_logits: Tensor = self.imitation_head(features)
        return q_values, imitation_logits

    def allowed_values(self, q_values: Tensor, imitation_logits: Tensor) -> Tensor:
        """Q-values (B, num_actions), minus infinity for actions that are not allowed."""
        # log(G / max G): the softmax's denominator cancels. Zero for the likeliest action.
        log_ratios = imitation_logits - imitation_logits.amax(1, keepdim=True)
        allowed = (log_ratios > self.log_threshold) | (log_ratios == 0)
        return q_values.masked_fill(~allowed, -math.inf)

    @torch.no_grad()
    def targets(self, batch: TransitionBatch) -> Tensor:
        """y (B,): the online network chooses among the allowed actions, the target values it."""
        frames = following_frames(batch)
        best = self.allowed_values(*self.outputs(frames)).argmax(1)
        with self.autocast():
            values = self.target(frames)
        return one_step_targets(batch, of_actions(values, best), self.settings["gamma"])

    def imitation_loss(self, imitation_logits: Tensor, actions: Tensor) -> Tensor:
        """Mean negative log-likelihood of the dataset's actions."""
        return functional.cross_entropy(imitation_logits, actions)

    def logit_penalty(self, imitation_logits: Tensor) -> Tensor:
        """Mean square of the logits: keeps the imitation from becoming certain."""
        return imitation_logits.square().mean()

    def update(self, batch: TransitionBatch) -> dict[str, Tensor]:
        """One step of Adam on the loss above, then the target network's step."""
        targets = self.targets(batch)
        # Not one pass over s and s' together: its backward pass would visit s' for nothing.
        q_values, imitation_logits = self.outputs(batch.observations)
        bellman_loss = td_loss(q_values, batch.actions, targets)
        imitation_loss = self.imitation_loss(imitation_logits, batch.actions)
        logit_penalty = self.logit_penalty(imitation_logits)
        loss = bellman_loss + imitation_loss + LOGIT_PENALTY * logit_penalty
        self.descend("q", loss)
        self.target.follow(self._q_network())
        return {
            "loss": loss.detach(),
            "td_loss": bellman_loss.detach(),
            "imitation_loss": imitation_loss.detach(),
            "logit_penalty": logit_penalty.detach(),
        }

    @torch.no_grad()
    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for frames (n, 64, 64, 3) uint8."""
        values = self.allowed_values(*self.outputs(self.to_device(observations)))
        return self.sampler.epsilon_greedy(values, env_ids, self.settings["eval_eps"])
