"""The offline methods, one file each. `make_agent` finds the file by the algorithm's name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common import checkpoints
from common.errors import ToolkitError
from offline.agents.base import DatasetFacts, OfflineAgent

KIND = "offline"


# How and where an agent plays; these may differ between training and evaluation.
ACTING_SETTINGS = ("deterministic", "eval_eps", "dt_eval_ret", "precision")


def agent_class(algo: str) -> type[OfflineAgent[Any]]:
    """The class that implements `algo`."""
    agent: type[OfflineAgent[Any]] = importlib.import_module(f"offline.agents.{algo}").Agent
    return agent


def make_agent(
    settings: Mapping[str, Any], facts: DatasetFacts, device: torch.device
) -> OfflineAgent[Any]:
    """A new agent of `settings["algo"]` on `device`, its weights drawn from torch's generator."""
    return agent_class(settings["algo"])(settings, facts, device)


def trained_settings(path: Path) -> dict[str, Any]:
    """What the agent of a checkpoint was trained with; ToolkitError as of `load_agent`."""
    contents = checkpoints.load(path, KIND)
    if not isinstance(contents.get("settings"), dict):
        raise ToolkitError(f"{path} lacks what an agent is rebuilt from ('settings')")
    return dict(contents["settings"])


def load_agent(
    path: Path, device: torch.device, acting: Mapping[str, Any] | None = None
) -> tuple[OfflineAgent[Any], dict[str, Any]]:
    """Rebuild the agent of a checkpoint from that file alone; also gives the file's contents.

    `acting` may hold other values of `ACTING_SETTINGS` than the agent was trained with. Raises
    ToolkitError naming the file if it is missing, corrupt or of another architecture.
    """
    contents = checkpoints.load(path, KIND, device)
    try:
        settings = dict(contents["settings"])
        settings.update({k: v for k, v in (acting or {}).items() if k in ACTING_SETTINGS})
        agent = make_agent(settings, DatasetFacts(**contents["facts"]), device)
        state = contents["agent"]
    except (AttributeError, KeyError, TypeError, ModuleNotFoundError) as error:
        raise ToolkitError(f"{path} lacks what an agent is rebuilt from ({error})") from error
    agent.restore(state, path)
    return agent, contents
