"""Windows with padding, and transformer agents small enough to train in a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from offline.agents import bct, dt
from offline.agents.base import DatasetFacts, WindowBatch
from offline.agents.transformer import Sizes
from offline.arguments import parse_training
from tests.offline_commands import CPU, flags

FACTS = DatasetFacts(
    num_actions=15, max_return=10.0, min_return=-2.0, num_samples=100, max_length=20
)
BASE = {"precision": "fp32", "hidden_size": 2, "dt_context_length": 3, "warmup_tokens": 0}


class TinyDT(dt.Agent):
    """Decision Transformer with two layers of width 16."""

    sizes = Sizes(layers=2, heads=2, width=16)


class TinyBCT(bct.Agent):
    """The same without returns."""

    sizes = Sizes(layers=2, heads=2, width=16)


TINY_AGENTS: dict[str, type[dt.Agent]] = {"dt": TinyDT, "bct": TinyBCT}


def tiny_agent(
    algo: str = "dt", seed: int = 0, facts: DatasetFacts = FACTS, **changes: Any
) -> dt.Agent:
    """A tiny agent with the settings of a command line; its weights follow the seed."""
    settings = parse_training(flags({**BASE, "algo": algo}, **changes), "")
    torch.manual_seed(seed)
    return TINY_AGENTS[algo](vars(settings), facts, CPU)


def make_windows(real_steps: Sequence[int], context_length: int = 3, seed: int = 0) -> WindowBatch:
    """Random windows with this many real steps each, padded as `WindowView` pads them."""
    generator = np.random.default_rng(seed)
    shape = (len(real_steps), context_length)
    mask = torch.arange(context_length) < torch.tensor(real_steps)[:, None]
    first = torch.from_numpy(generator.integers(0, 9, (len(real_steps), 1)))
    # Coarse, so that an encoder tells frames apart: fine noise looks alike everywhere.
    coarse = generator.integers(0, 256, (*shape, 4, 4, 3), np.uint8)
    frames = torch.from_numpy(coarse.repeat(16, axis=2).repeat(16, axis=3))
    for window, real in enumerate(real_steps):
        frames[window, real:] = frames[window, real - 1]
    return WindowBatch(
        returns_to_go=torch.from_numpy(generator.uniform(0, 10, shape).astype(np.float32)) * mask,
        observations=frames,
        actions=torch.from_numpy(generator.integers(0, 15, shape)) * mask,
        time_steps=(first + torch.arange(context_length)) * mask,
        mask=mask,
    )


def with_other_padding(batch: WindowBatch, seed: int = 99) -> WindowBatch:
    """The same real steps; frames, actions, times and returns of the padding are others."""
    other = make_windows([batch.mask.shape[1]] * len(batch.mask), batch.mask.shape[1], seed)
    real = batch.mask
    frames = torch.where(real[..., None, None, None], batch.observations, other.observations)
    return WindowBatch(
        returns_to_go=torch.where(real, batch.returns_to_go, other.returns_to_go),
        observations=frames,
        actions=torch.where(real, batch.actions, other.actions),
        time_steps=torch.where(real, batch.time_steps, other.time_steps),
        mask=real,
    )


def gradients(agent: dt.Agent, batch: WindowBatch, seed: int = 0) -> dict[str, torch.Tensor]:
    """The gradient of the loss by every parameter, with the dropout of this seed."""
    torch.manual_seed(seed)
    agent.zero_grad()
    agent.loss(batch).backward()
    found = {}
    for name, parameter in agent.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.clone()
    return found


def weights(agent: dt.Agent) -> torch.Tensor:
    """All parameters, one after the other."""
    return torch.cat([p.detach().flatten() for p in agent.parameters()])


BATCH = make_windows([1, 2, 3, 3])


def loud(algo: str = "dt", **changes: Any) -> dt.Agent:
    """An agent whose answers depend visibly on everything it sees, and favour no action."""
    agent = tiny_agent(algo, **changes).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in agent.named_parameters():
            if "embed_state" in name:
                parameter.mul_(100.0)  # an untrained encoder answers faintly
            elif "encoder" not in name and parameter.ndim > 1:
                parameter.copy_(0.5 * torch.randn_like(parameter))
        agent.model.head.bias.sub_(agent.logits(BATCH)[BATCH.mask].mean(0))
    return agent
