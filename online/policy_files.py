"""Policies as files: what the trainer archives and what the collector plays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common import checkpoints
from common.errors import ToolkitError, UsageError
from common.games import NUM_ACTIONS
from online.ppo import ActorCritic

KIND = "ppo"
BUNDLED = Path(__file__).resolve().parent / "policies"


def save_policy(path: Path, network: ActorCritic, facts: dict[str, Any]) -> None:
    """Write the weights of `network` with `facts` (env_name, hidden_size, steps, mean_return)."""
    checkpoints.save(path, KIND, {"network": network.state_dict(), **facts})


def load_policy(path: Path, device: torch.device) -> tuple[ActorCritic, dict[str, Any]]:
    """The network of a trainer's checkpoint (rolling, archived, final or bundled) and its facts.

    Raises UsageError if there is no such file, ToolkitError if it cannot be read or holds another
    architecture: a policy that cannot be loaded is never replaced by a random one.
    """
    if not path.exists():
        raise UsageError(f"no checkpoint at {path}")
    facts = checkpoints.load(path, KIND, device)
    weights = facts.pop("network")
    network = ActorCritic(NUM_ACTIONS, int(facts["hidden_size"])).to(device)
    checkpoints.load_weights(network, weights, path)
    network.eval()
    return network, facts


def named_or_bundled(checkpoint_path: str, env_name: str) -> Path:
    """The checkpoint a command names, else the policy of `env_name` that ships with the repository.

    Raises UsageError if neither is there.
    """
    if checkpoint_path:
        return Path(checkpoint_path)
    path = BUNDLED / f"{env_name}.pt"
    if not path.is_file():
        have = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.pt"))) or "none"
        raise UsageError(
            f"no policy is bundled for {env_name} (bundled: {have}): "
            f"train one with `python -m online.trainer --env_name={env_name}`"
        )
    return path


def archived_return(path: Path) -> float:
    """The return written into a file name `model_<update>_<return>.pt` or `model_<return>.pt`."""
    try:
        return float(path.stem.rsplit("_", 1)[1])
    except (IndexError, ValueError) as error:
        raise ToolkitError(f"{path}: no return in the name (model_<update>_<return>.pt)") from error


def checkpoint_by_ratio(run: Path, ratio: float) -> Path:
    """The archived checkpoint of a run whose return is closest to `ratio` x the final one's.

    Of equally close ones the earliest. Raises ToolkitError if the run is not finished.
    """
    finals = sorted((run / "final").glob("model_*.pt"))
    archived = sorted(
        (run / "checkpoint").glob("model_*_*.pt"), key=lambda path: int(path.stem.split("_")[1])
    )
    if not finals or not archived:
        missing = "final/model_<return>.pt" if not finals else "checkpoint/model_*.pt"
        raise ToolkitError(f"{run} has no {missing}: is its training finished?")
    target = ratio * archived_return(finals[-1])
    return min(archived, key=lambda path: abs(archived_return(path) - target))


def find_runs(folder: Path, env_name: str) -> list[Path]:
    """Every finished run of online.trainer on `env_name` below `folder`, sorted.

    Raises UsageError if there is none.
    """
    if not folder.is_dir():
        raise UsageError(f"--ratio_checkpoint_dir {folder}: no such folder")
    runs = {path.parent.parent for path in folder.rglob("final/model_*.pt")}
    # `latest` is a link to a run that is found under its own name.
    mine = sorted(run for run in runs if not run.is_symlink() and run.parent.name == env_name)
    if not mine:
        raise UsageError(f"--ratio_checkpoint_dir {folder}: no finished run on {env_name} below")
    return mine
