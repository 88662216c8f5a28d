"""What the plain side is made of: networks in PyTorch's default layout, the device, Procgen itself.

Nothing of `common` or `offline` is used, so that the two sides check each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.sizes import HIDDEN_SIZE

NUM_ACTIONS = 15


class ReferenceBlock(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.first(functional.relu(x))
        out = self.second(functional.relu(out))
        return x + out


class ReferenceImpala(nn.Sequential):
    """IMPALA's residual network: float pixels (batch, 3, 64, 64) in [0, 1] to hidden_size features.

    Source: Espeholt et al. 2018, figure 3, right, without its LSTM.
    """

    def __init__(self, hidden_size: int, channels: tuple[int, ...] = (16, 32, 32)) -> None:
        layers: list[nn.Module] = []
        previous = 3
        for width in channels:
            layers += [nn.Conv2d(previous, width, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            layers += [ReferenceBlock(width), ReferenceBlock(width)]
            previous = width
        side = 64 // 2 ** len(channels)
        layers += [nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(previous * side * side, hidden_size), nn.ReLU()]
        super().__init__(*layers)


def reference_policy(hidden_size: int = HIDDEN_SIZE) -> nn.Sequential:
    """IMPALA and a linear head: pixels (batch, 3, 64, 64) float to logits (batch, 15)."""
    return nn.Sequential(ReferenceImpala(hidden_size), nn.Linear(hidden_size, NUM_ACTIONS))


def load_in_order(network: nn.Module, weights: Sequence[Tensor]) -> None:
    """Copy `weights`, one per parameter in the order of definition; ValueError if they misfit."""
    with torch.no_grad():
        for parameter, weight in zip(network.parameters(), weights, strict=True):
            if parameter.shape != weight.shape:
                raise ValueError(f"weights {tuple(weight.shape)}, not {tuple(parameter.shape)}")
            parameter.copy_(weight)


def reference_device(settings: argparse.Namespace) -> torch.device:
    """CUDA where there is a card and `no_cuda` does not forbid it, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not settings.no_cuda else "cpu")


def procgen(env_name: str, num: int, start_level: int, num_levels: int, seed: int) -> Any:
    """`num` Procgen environments as the package gives them."""
    import gym_notices.notices

    gym_notices.notices.notices.clear()  # Procgen imports the old `gym`, which prints a notice
    from procgen import ProcgenGym3Env

    return ProcgenGym3Env(
        num=num,
        env_name=env_name,
        start_level=start_level,
        num_levels=num_levels,
        distribution_mode="easy",
        rand_seed=seed,
    )
