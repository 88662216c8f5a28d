"""Agents that learn from transitions, and batches for them, small enough for float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offline.agents import make_agent
from offline.agents.base import DatasetFacts, OfflineAgent
from offline.agents.targets import OutputLayer, TargetNetwork
from offline.arguments import parse_training
from offline.data.views import TransitionBatch
from tests.offline_commands import CPU, flags

FACTS = DatasetFacts(num_actions=15, max_return=10.0, min_return=0.0, num_samples=1, max_length=1)
SMALL = {"precision": "fp32", "hidden_size": 8}


def make_value_agent(algo: str, seed: int = 0, **changes: Any) -> Any:
    """An agent as the training command makes it; the test knows its class."""
    settings = parse_training(flags({**SMALL, "algo": algo}, **changes), "")
    torch.manual_seed(seed)
    return make_agent(vars(settings), FACTS, CPU)


def make_exact_agent(algo: str, seed: int = 0, **changes: Any) -> Any:
    """An agent in float64 whose values are far apart and whose targets differ from it.

    Pixels of 0..255 spread what it gives, and the scale of its output layers brings that to a few
    units, so that every branch of a loss is met.
    """
    agent = make_value_agent(algo, seed, scale_pixels=False, **changes).double()
    generator = torch.Generator().manual_seed(seed)
    scale = 0.3 if agent.settings["agent_model"] in ("dqn", "bcq") else 0.02
    with torch.no_grad():
        for module in agent.modules():
            if isinstance(module, OutputLayer):
                module.weight.mul_(scale)
                module.bias.mul_(scale)
        for target in targets_of(agent):
            for weights in target.parameters():
                noise = torch.randn(weights.shape, generator=generator, dtype=weights.dtype)
                weights.add_(0.3 * weights.std() * noise)
    return agent


def make_transitions(size: int, seed: int = 0) -> TransitionBatch:
    """Random transitions; every third one is the last of its episode."""
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 256, (2, size, 64, 64, 3), np.uint8)
    return TransitionBatch(
        observations=torch.from_numpy(frames[0]),
        actions=torch.from_numpy(generator.integers(0, 15, size)),
        rewards=torch.from_numpy(generator.normal(0, 2, size).astype(np.float32)),
        next_observations=torch.from_numpy(frames[1]),
        dones=torch.from_numpy((np.arange(size) % 3 == 2).astype(np.float32)),
    )


def following(batch: TransitionBatch) -> Tensor:
    assert batch.next_observations is not None
    return batch.next_observations


def numbers(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().numpy()
    return array


def targets_of(agent: OfflineAgent[Any]) -> list[TargetNetwork]:
    return [module for module in agent.modules() if isinstance(module, TargetNetwork)]


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([weights.detach().flatten() for weights in module.parameters()])


def update_and_gradient(agent: Any, batch: TransitionBatch, *modules: nn.Module) -> Any:
    """Update once: the metrics, and the gradient by each module's output in the learning pass."""
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            assert module not in outputs, "a second learning pass through the same network"
            output.retain_grad()
            outputs[module] = output

    hooks = [module.register_forward_hook(keep) for module in modules]
    metrics = agent.update(batch)
    for hook in hooks:
        hook.remove()
    gradients = []
    for module in modules:
        gradient = outputs[module].grad
        assert gradient is not None
        gradients.append(gradient.numpy())
    return {name: float(value) for name, value in metrics.items()}, gradients


def always_give(layer: nn.Module, values: Any) -> None:
    """Let an output layer give these numbers to every frame."""
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.as_tensor(values))
