"""Playing a trained policy: to collect episodes, and to measure it on each split of levels."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.device import choose_device
from common.envs import ProcgenVectorEnv
from common.errors import ToolkitError, UsageError
from common.files import write_atomically
from common.interrupts import Stopped, StopRequest
from common.rollout import EpisodeResult, rollout
from common.seeding import derive_seed, seed_everything
from online.episode_archive import EpisodeArchive
from online.policy_files import load_policy
from online.ppo import PPOPolicy

logger = logging.getLogger(__name__)


def open_policy(
    checkpoint: Path, settings: argparse.Namespace, deterministic: bool = False
) -> PPOPolicy:
    """The policy of a checkpoint, sampling its actions unless `deterministic`.

    Raises ToolkitError if it cannot be read, UsageError if it is of another game or size.
    """
    device = choose_device(settings.no_cuda)
    network, facts = load_policy(checkpoint, device)
    for name in ("env_name", "hidden_size"):
        if facts[name] != getattr(settings, name):
            raise UsageError(
                f"--{name} {getattr(settings, name)}: {checkpoint} was trained with {facts[name]}"
            )
    return PPOPolicy(network, device, deterministic)


def collect(checkpoint: Path, folder: Path, settings: argparse.Namespace) -> None:
    """Play the policy in `checkpoint` until `capacity` transitions are written below `folder`.

    Only whole episodes count, so up to one episode per environment is played in vain. Stops at
    `num_env_steps` steps; ToolkitError if no episode ended by then. The last file written,
    collection.json, counts episodes and transitions: where it is, the collection is finished.
    Raises Stopped after SIGTERM or SIGINT.
    """
    archive = EpisodeArchive(folder / settings.env_name)
    mark = archive.folder / "collection.json"
    if settings.save_dataset:
        archive.require_empty()
        mark.unlink(missing_ok=True)  # of episodes that are gone
    seed_everything(settings.seed)
    policy = open_policy(checkpoint, settings)
    logger.info("collecting %s with %s", settings.env_name, checkpoint)
    env = ProcgenVectorEnv(
        settings.env_name,
        settings.num_processes,
        settings.start_level,
        settings.num_levels,
        settings.distribution_mode,
        derive_seed(settings.seed, "collection", "levels"),
    )
    finished: list[EpisodeResult] = []
    bar = tqdm(
        total=settings.capacity,
        unit="transition",
        unit_scale=True,
        desc=f"collecting {settings.env_name}",
        mininterval=0.5,
    )

    transitions = 0  # not `bar.n`, which stands still where bars are off

    def note(episode: EpisodeResult) -> None:
        nonlocal transitions
        transitions += episode.length
        finished.append(episode)
        bar.update(episode.length)

    def keep_going(steps: int) -> bool:
        return transitions < settings.capacity and steps < settings.num_env_steps

    def stop_if_told() -> None:
        if stop.signal_number is not None:
            told = f"stopped after {transitions} of {settings.capacity} transitions"
            if settings.save_dataset:
                told += (
                    f", and a collection cannot be continued: remove {archive.folder} to begin anew"
                )
            raise Stopped(told, stop.signal_number)

    if settings.save_dataset:
        archive.note_build(settings.env_name, settings.distribution_mode)
    with bar, StopRequest() as stop:
        rollout(
            env,
            policy,
            seed=derive_seed(settings.seed, "collection", "actions"),
            keep_going=keep_going,
            before_step=stop_if_told,
            listener=archive if settings.save_dataset else None,
            on_episode=note,
        )
    env.close()
    if not finished:
        raise ToolkitError(f"no episode ended within --num_env_steps {settings.num_env_steps}")
    if settings.save_dataset:
        counts = {"episodes": len(finished), "transitions": transitions}
        write_atomically(mark, (json.dumps(counts, indent=2) + "\n").encode())
    returns = np.array([episode.episode_return for episode in finished])
    logger.info(
        "%d episodes, %d transitions, mean return %.2f%s",
        len(finished),
        transitions,
        returns.mean(),
        f", in {archive.folder}" if settings.save_dataset else "",
    )
