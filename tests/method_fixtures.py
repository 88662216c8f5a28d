"""Agents of every method whose actions depend visibly on what they see, and frames to see."""

from __future__ import annotations

from typing import Any

import numpy as np

from offline.agents.base import OfflineAgent
from tests.sequence_fixtures import TINY_AGENTS, loud, make_windows
from tests.value_agents import make_value_agent

# Four environments and eight steps; noise of single pixels would look alike to every encoder.
FRAMES = make_windows([8] * 4, context_length=8, seed=7).observations.numpy()


def talkative(algo: str, **changes: Any) -> OfflineAgent[Any]:
    """An agent with the settings of a command line."""
    if algo in TINY_AGENTS:
        return loud(algo, **changes)
    agent: OfflineAgent[Any] = make_value_agent(algo, scale_pixels=False, **changes)
    return agent


def play(agent: OfflineAgent[Any], envs: list[int]) -> dict[int, list[int]]:
    """Eight steps of these of four environments; 1 leaves after five, 2 has an end after three."""
    actions: dict[int, list[int]] = {env: [] for env in envs}
    agent.reset(4, seed=9)
    for t in range(8):
        ids = np.array([env for env in envs if env != 1 or t < 5])
        if not ids.size:
            break
        taken = agent.act(FRAMES[ids, t], ids)
        assert (taken.shape, taken.dtype) == (ids.shape, np.int64)
        agent.observe(taken, (ids + t).astype(np.float32) / 4, (ids == 2) & (t == 2), ids)
        for env, action in zip(ids, taken, strict=True):
            actions[env].append(int(action))
    return actions
