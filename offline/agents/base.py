"""The contract between agents and everything else: training loop, evaluator and checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function

from common import checkpoints
from common.device import autocast, resolve_precision
from common.encoders import PixelEncoder, make_encoder
from common.errors import ToolkitError
from common.optimisers import Adam, load_optimiser
from common.sampling import ActionSampler
from offline.acting import is_certain
from offline.data.views import TransitionBatch, ViewKind, WindowBatch

__all__ = ["DatasetFacts", "OfflineAgent", "TransitionBatch", "WindowBatch"]

# What `descend` calls its two halves to whoever profiles it.
BACKWARD, OPTIMISER = "backward", "optimiser"

Batch = TypeVar("Batch", TransitionBatch, WindowBatch, contravariant=True)


@dataclass(frozen=True)
class DatasetFacts:
    """What an agent must know of the data it was trained on; kept in its checkpoint."""

    num_actions: int
    max_return: float  # raw, undiscounted, of whole episodes
    min_return: float
    num_samples: int  # of the view: transitions or windows
    max_length: int  # steps of the longest episode


class OfflineAgent(nn.Module, ABC, Generic[Batch]):
    """A method: how it learns from a batch (`update`) and how it plays (`act`).

    Subclasses name the data view they learn from, register their networks as sub-modules and
    their optimisers in `self.optimisers`; saving and loading then need no further code. They act
    through `self.sampler`, which has a stream of random numbers per environment.
    """

    view: ClassVar[ViewKind]

    def __init__(
        self, settings: Mapping[str, Any], facts: DatasetFacts, device: torch.device
    ) -> None:
        super().__init__()
        self.settings = dict(settings)
        self.facts = facts
        self.device = device
        self.precision = resolve_precision(settings["precision"], device)
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.sampler = ActionSampler(is_certain(settings))

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step; scalar metrics stay on the device. `loss` is always among them."""

    def reset(self, num_envs: int, seed: int) -> None:
        """See `common.rollout.Policy`; agents with memory empty it too."""
        self.sampler.reset(num_envs, seed)

    @abstractmethod
    def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
        """See `common.rollout.Policy`."""

    def action_probabilities(self) -> np.ndarray:
        """The policy (n, num_actions) float64 that the last `act` followed, for who watches it."""
        return self.sampler.probabilities()

    def observe(
        self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
    ) -> None:
        """See `common.rollout.Policy`; agents without memory have nothing to do."""
        del actions, rewards, dones, env_ids

    def autocast(self) -> Any:
        """The context in which networks run, in the precision of the settings."""
        return autocast(self.device, self.precision)

    def new_encoder(self) -> PixelEncoder:
        """A fresh encoder of the settings, not yet on the device."""
        return make_encoder(
            self.settings["agent_model"],
            self.settings["hidden_size"],
            self.settings["scale_pixels"],
        )

    def adam(self, parameters: Iterable[nn.Parameter]) -> Adam:
        """Adam at the rate of the settings; one kernel updates all weights, on a CPU too."""
        return Adam(parameters, lr=self.settings["lr"], fused=True)

    def descend(self, optimiser_name: str, loss: Tensor, largest_norm: float | None = None) -> None:
        """One step of an optimiser along the gradient of `loss`, its norm clipped if asked for."""
        optimiser = self.optimisers[optimiser_name]
        optimiser.zero_grad(set_to_none=True)
        with record_function(BACKWARD):
            loss.backward()
        with record_function(OPTIMISER):
            if largest_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters(), largest_norm)
            optimiser.step()

    def to_device(self, observations: np.ndarray) -> Tensor:
        """Frames (n, 64, 64, 3) uint8 on the agent's device."""
        return torch.from_numpy(observations).to(self.device)

    def state(self) -> dict[str, Any]:
        """Everything that learning has changed: weights, targets, optimisers."""
        return {
            "weights": self.state_dict(),
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
        }

    def restore(self, state: Mapping[str, Any], path: Path) -> None:
        """Undo of `state()`; ToolkitError naming `path` for another architecture."""
        try:
            checkpoints.load_weights(self, state["weights"], path)
            for name, optimiser in self.optimisers.items():
                load_optimiser(optimiser, state["optimisers"][name])
        except (KeyError, ValueError) as error:
            raise ToolkitError(f"{path} is of another agent ({error})") from error
