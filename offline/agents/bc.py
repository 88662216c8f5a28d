"""Behavioural cloning (Pomerleau 1991): imitate the actions in the data.

Loss      -log pi(a|s), averaged over the batch.
Networks  encoder (`agent_model`), linear head with one logit per action.
Acting    samples pi(.|s); its argmax when `deterministic` or `eval_eps` is 0.
Top-x% BC is BC on the best episodes: `percentile` < 1.
Deviates from the benchmark's released code in feeding pixels in [0, 1] (`scale_pixels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from offline.agents.base import DatasetFacts, OfflineAgent, TransitionBatch


class Agent(OfflineAgent[TransitionBatch]):
    """Behavioural cloning."""

    view = "state_actions"

    def __init__(
        self, settings: Mapping[str, Any], facts: DatasetFacts, device: torch.device
    ) -> None:
        super().__init__(settings, facts, device)
        self.encoder = self.new_encoder()
        self.head = nn.Linear(self.encoder.feature_size, facts.num_actions)
        self.to(device)
        self.optimisers["policy"] = self.adam(self.parameters())

    def logits(self, observations: Tensor) -> Tensor:
        """Action logits (B, num_actions) float32 for frames (B, 64, 64, 3) uint8."""
        with self.autocast():
            logits: Tensor = self.head(self.encoder(observations))
        return logits.float()

    def loss(self, batch: TransitionBatch) -> Tensor:
        """Mean negative log-likelihood of the dataset's actions."""
        return functional.cross_entropy(self.logits(batch.observations), batch.actions)

    def update(self, batch: TransitionBatch) -> dict[str, Tensor]:
        """One step of Adam on `loss`."""
        loss = self.loss(batch)
        self.descend("policy", loss)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for frames (n, 64, 64, 3) uint8."""
        return self.sampler.actions(self.logits(self.to_device(observations)), env_ids)
