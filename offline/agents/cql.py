"""Conservative Q-learning (Kumar et al. 2020), for discrete actions, on Double DQN.

Loss      huber(Q(s,a) - y) + `cql_alpha` * (logsumexp_a' Q(s,a') - Q(s,a)), averaged over the
          batch, with y = r + `gamma` (1 - d) Qbar(s', argmax_a' Q(s',a')), a constant, and Huber's
          delta 1. The second term is CQL(H), equation 4 of the paper: it pushes down what the data
          do not contain. With `cql_alpha` 0 this is Double DQN (van Hasselt et al. 2016).
Networks  encoder (`agent_model`), linear head with one Q-value per action; Qbar is a copy of both,
          renewed every `target_update_freq` gradient steps: whole, or with `perform_polyak_update`
          by the share `tau`.
Acting    epsilon-greedy in Q with `eval_eps`; greedy when `deterministic`.
Deviates from the paper in using the mean Q instead of a distributional one (QR-DQN), as the
benchmark does, and from the benchmark's released code in feeding pixels in [0, 1]
(`scale_pixels`). Q's last layer runs in float32 even under bf16, which is too coarse for it.
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
    td_loss,
)


class Agent(OfflineAgent[TransitionBatch]):
    """Conservative Q-learning."""

    view = "transitions"

    def __init__(
        self, settings: Mapping[str, Any], facts: DatasetFacts, device: torch.device
    ) -> None:
        super().__init__(settings, facts, device)
        encoder = self.new_encoder()
        head = OutputLayer(encoder.feature_size, facts.num_actions)
        self.q_network = nn.Sequential(encoder, head)
        self.target = TargetNetwork(self.q_network, settings)
        self.to(device)
        self.optimisers["q"] = self.adam(self.q_network.parameters())

    def q_values(self, observations: Tensor) -> Tensor:
        """Q-values (B, num_actions) float32 for frames (B, 64, 64, 3) uint8."""
        with self.autocast():
            values: Tensor = self.q_network(observations)
        return values

    @torch.no_grad()
    def targets(self, batch: TransitionBatch) -> Tensor:
        """Double DQN's y (B,): the online network chooses the action, the target values it."""
        frames = following_frames(batch)
        best = self.q_values(frames).argmax(1)
        with self.autocast():
            values = self.target(frames)
        return one_step_targets(batch, of_actions(values, best), self.settings["gamma"])

    def conservative_loss(self, q_values: Tensor, actions: Tensor) -> Tensor:
        """Mean of logsumexp_a' Q(s,a') - Q(s,a): the cross-entropy of softmax(Q) and the data."""
        return functional.cross_entropy(q_values, actions)

    def update(self, batch: TransitionBatch) -> dict[str, Tensor]:
        """One step of Adam on the loss above, then the target network's step."""
        targets = self.targets(batch)
        # Not one pass over s and s' together: its backward pass would visit s' for nothing.
        q_values = self.q_values(batch.observations)
        bellman_loss = td_loss(q_values, batch.actions, targets)
        conservative_loss = self.conservative_loss(q_values, batch.actions)
        loss = bellman_loss + self.settings["cql_alpha"] * conservative_loss
        self.descend("q", loss)
        self.target.follow(self.q_network)
        return {
            "loss": loss.detach(),
            "td_loss": bellman_loss.detach(),
            "conservative_loss": conservative_loss.detach(),
        }

    @torch.no_grad()
    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for frames (n, 64, 64, 3) uint8."""
        values = self.q_values(self.to_device(observations))
        return self.sampler.epsilon_greedy(values, env_ids, self.settings["eval_eps"])
