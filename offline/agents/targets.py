"""What the value-based methods share: what they bootstrap from, and in which precision."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from offline.agents.base import TransitionBatch


class OutputLayer(nn.Linear):
    """A linear layer that stays in the precision of its weights under autocast.

    Values of about 8 lie 1/16 apart in bfloat16, while those of two actions may differ by less
    than 1/100. The layers below may be coarse; the one that separates the actions may not.
    """

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype))


class TargetNetwork(nn.Module):
    """A copy of an online network that follows it slowly and never learns by gradients.

    Every `target_update_freq`-th call of `follow` it becomes the online network, or with
    `perform_polyak_update` moves towards it: target <- (1 - tau) target + tau online. Weights and
    the number of calls are part of `state_dict`. It stays in evaluation mode.
    """

    def __init__(self, online: nn.Module, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = copy.deepcopy(online).requires_grad_(False).eval()
        self.every: int = settings["target_update_freq"]
        self.tau: float = settings["tau"] if settings["perform_polyak_update"] else 1.0
        # On the host, so that deciding whether to move never waits for the device.
        self.steps = 0

    def train(self, mode: bool = True) -> TargetNetwork:
        """Stay in evaluation mode, whatever the mode of the agent."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, observations: Tensor) -> Tensor:
        """What the copied network gives for frames (B, 64, 64, 3) uint8, without gradient."""
        output: Tensor = self.network(observations)
        return output

    @torch.no_grad()
    def follow(self, online: nn.Module) -> None:
        """Count one gradient step of `online` and move if it is time."""
        self.steps += 1
        if self.steps % self.every:
            return
        pairs = zip(self.network.parameters(), online.parameters(), strict=True)
        for mine, theirs in pairs:
            if self.tau == 1.0:
                mine.copy_(theirs)
            else:
                mine.lerp_(theirs, self.tau)

    def get_extra_state(self) -> Tensor:
        """The step counter as `state_dict` holds it, int64 on the host."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Undo of `get_extra_state`."""
        self.steps = int(state)


def following_frames(batch: TransitionBatch) -> Tensor:
    """The next observations (B, 64, 64, 3) uint8; ValueError for a batch without them."""
    if batch.next_observations is None:
        raise ValueError("next_observations is None: expected a batch of the view 'transitions'")
    return batch.next_observations


def one_step_targets(batch: TransitionBatch, next_values: Tensor, gamma: float) -> Tensor:
    """r + gamma (1 - d) `next_values`, all (B,): nothing is expected after the end."""
    return batch.rewards + gamma * (1.0 - batch.dones) * next_values


def of_actions(values: Tensor, actions: Tensor) -> Tensor:
    """Of `values` (B, num_actions) those of `actions` (B,) int64: (B,)."""
    return values.gather(1, actions[:, None]).squeeze(1)


def td_loss(values: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
    """Mean Huber loss, delta 1, of Q(s,a) against `targets` (B,)."""
    chosen = of_actions(values, actions)
    return functional.huber_loss(chosen, targets.to(chosen.dtype))
