"""Decision Transformer (Chen et al. 2021): predict the action that goes with a wanted return.

Loss      -log pi(a_t | R_t, s_t and all earlier tokens of the window), averaged over the real
          steps of the batch; AdamW, gradient norm clipped.
Networks  GPT: 6 layers, 8 heads, width 128, dropout 0.1 while training; tokens (return-to-go,
          state, action) per step; the encoder (`agent_model`) embeds each frame.
Acting    samples pi of the window of the last `dt_context_length` steps, its argmax when
          `deterministic`. The first return-to-go is `dt_eval_ret` times the largest return in the
          data; each reward lowers it.
Returns-to-go are undiscounted sums of raw rewards, divided by the largest |return| in the data
(by 1 where all are 0) before they are embedded, so that the tanh tells them apart in every game.
Where no return is positive, a multiple of the largest above 1 asks for less than the data hold.
`dt_rtg_noise_prob` replaces each one, alone, by a uniform draw between 0 and the largest return.
The schedule counts every token that is fed, padding included: its end, 2 * windows * context * 3,
counts full windows too, and the host knows the number without waiting for the device. The cosine
ends after two passes over the data (BCT, with two tokens per step: three) and stays at 10%.
Deviates from the benchmark's released code in showing the returns to the transformer: there they
cannot be switched on, which makes DT and BCT one model. Deviates from the paper in scaling returns
so that one rate suits games whose returns differ tenfold.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.errors import ToolkitError
from common.optimisers import AdamW
from offline.agents.base import DatasetFacts, OfflineAgent, WindowBatch
from offline.agents.transformer import (
    Sizes,
    WindowMemory,
    WindowTransformer,
    learning_rate,
    parameter_groups,
    total_tokens,
)

logger = logging.getLogger(__name__)

PADDING = -100  # the target that cross_entropy leaves out


class Agent(OfflineAgent[WindowBatch]):
    """Decision Transformer."""

    view = "windows"
    conditioned: ClassVar[bool] = True  # whether the transformer sees returns
    sizes: ClassVar[Sizes] = Sizes()

    def __init__(
        self, settings: Mapping[str, Any], facts: DatasetFacts, device: torch.device
    ) -> None:
        super().__init__(settings, facts, device)
        self.context_length: int = settings["dt_context_length"]
        self.model = WindowTransformer(
            self.new_encoder(),
            facts.num_actions,
            self.context_length,
            facts.max_length,
            self.conditioned,
            self.sizes,
        )
        self.to(device)
        self.optimisers["policy"] = AdamW(
            parameter_groups(self, settings["weight_decay"]),
            lr=settings["lr"],
            betas=(0.9, 0.95),
            fused=True,
        )
        self.tokens = 0  # fed so far
        self.return_scale = max(abs(facts.max_return), abs(facts.min_return)) or 1.0
        self.target_return = settings["dt_eval_ret"] * facts.max_return
        if self.context_length > facts.max_length:
            logger.warning(
                "--dt_context_length %d is longer than the longest episode of the data (%d steps):"
                " every window is padded",
                self.context_length,
                facts.max_length,
            )

    def logits(self, batch: WindowBatch) -> Tensor:
        """Action logits (B, K, num_actions) float32; what they say in padding means nothing."""
        with self.autocast():
            states = self.model.embed_windows(batch.observations, batch.mask)
            logits: Tensor = self.model(
                states, batch.actions, batch.time_steps, self.scaled(batch.returns_to_go)
            )
        return logits.float()

    def scaled(self, returns_to_go: Tensor) -> Tensor | None:
        """Returns-to-go as they are embedded; None for a transformer that sees none."""
        return returns_to_go / self.return_scale if self.conditioned else None

    def loss(self, batch: WindowBatch) -> Tensor:
        """Mean negative log-likelihood of the dataset's actions over the real steps."""
        targets = batch.actions.masked_fill(~batch.mask, PADDING)
        return functional.cross_entropy(
            self.logits(batch).flatten(0, 1), targets.flatten(), ignore_index=PADDING
        )

    def with_noise(self, batch: WindowBatch) -> WindowBatch:
        """The batch with some returns-to-go drawn anew, from torch's generator of the device."""
        chance = self.settings["dt_rtg_noise_prob"]
        if not chance:
            return batch
        choices, draws = torch.rand(2, *batch.mask.shape, device=self.device)
        drawn = draws * self.facts.max_return
        return batch._replace(
            returns_to_go=torch.where(choices < chance, drawn, batch.returns_to_go)
        )

    def update(self, batch: WindowBatch) -> dict[str, Tensor]:
        """One step of AdamW on `loss`, at the rate of the schedule."""
        self.tokens += batch.mask.numel() * self.model.tokens_per_step
        for group in self.optimisers["policy"].param_groups:
            group["lr"] = self.learning_rate()
        loss = self.loss(self.with_noise(batch))
        self.descend("policy", loss, self.settings["grad_norm_clip"])
        return {"loss": loss.detach()}

    def learning_rate(self) -> float:
        """The rate of the schedule after the tokens fed so far."""
        return learning_rate(
            self.settings["lr"],
            self.tokens,
            self.settings["warmup_tokens"],
            total_tokens(self.facts.num_samples, self.context_length),
            self.settings["lr_decay"],
        )

    def reset(self, num_envs: int, seed: int) -> None:
        """Forget all steps; start the random streams of `num_envs` environments."""
        super().reset(num_envs, seed)
        self.memory = WindowMemory(
            num_envs, self.context_length, self.sizes.width, self.target_return, self.device
        )

    @torch.no_grad()
    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """Actions (n,) int64 for frames (n, 64, 64, 3) uint8, given the steps before them."""
        training = self.training
        if training:
            self.eval()  # no dropout, whoever asks
        with self.autocast():
            states = self.model.embed_frames(self.to_device(observations))
            self.memory.begin_step(states, env_ids)
            window = self.memory.windows(env_ids)
            logits = self.model(
                window.states,
                window.actions,
                window.time_steps,
                self.scaled(window.returns_to_go),
            )
        current = logits[torch.arange(len(env_ids), device=self.device), window.last]
        if training:
            self.train()
        return self.sampler.actions(current.float(), env_ids)

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        """Remember the actions; where an episode ended, only that environment starts anew."""
        self.memory.end_step(actions, rewards, dones, env_ids)

    def state(self) -> dict[str, Any]:
        """Weights, optimiser, and how far the schedule has come."""
        return {**super().state(), "tokens": self.tokens}

    def restore(self, state: Mapping[str, Any], path: Path) -> None:
        """Undo of `state()`; ToolkitError naming `path` for another architecture."""
        super().restore(state, path)
        if "tokens" not in state:
            raise ToolkitError(f"{path} is of another agent (it counts no tokens)")
        self.tokens = state["tokens"]
