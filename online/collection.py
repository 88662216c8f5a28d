"""Playing a trained policy: to collect episodes, and to measure it on each split of levels."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from common.device import choose_device
from common.envs import ProcgenVectorEnv
from common.episodes import list_episode_files
from common.errors import ToolkitError, UsageError
from common.files import write_atomically
from common.interrupts import Stopped, StopRequest
from common.rollout import EpisodeResult, rollout
from common.seeding import derive_seed, seed_everything
from online.episode_archive import EpisodeArchive
from online.policy_files import checkpoint_by_ratio, find_runs, load_policy
from online.ppo import PPOPolicy

logger = logging.getLogger(__name__)

MARK = "collection.json"
# What a collection follows from, its policy aside.
_SETTINGS = (
    "env_name distribution_mode num_levels start_level seed capacity num_env_steps num_processes"
).split()
_LEVELS = ("distribution_mode", "num_levels", "start_level")


class Player(NamedTuple):
    """A policy, the file it is from, and what that tells of its training."""

    checkpoint: Path
    policy: PPOPolicy
    facts: dict[str, Any]


def open_player(
    checkpoint: Path, settings: argparse.Namespace, deterministic: bool = False
) -> Player:
    """The policy of a checkpoint, sampling its actions unless `deterministic`.

    Raises ToolkitError if it cannot be read, UsageError if it is of another game or size.
    """
    device = choose_device(settings.no_cuda)
    network, facts = load_policy(checkpoint, device)
    require_trained_with(("env_name", "hidden_size"), facts, checkpoint, settings)
    return Player(checkpoint, PPOPolicy(network, device, deterministic), facts)


def require_trained_with(
    names: Iterable[str],
    facts: Mapping[str, Any],
    checkpoint: Path,
    settings: argparse.Namespace,
) -> None:
    """UsageError if one of these flags is another than the policy tells of its training."""
    for name in names:
        if facts[name] != getattr(settings, name):
            raise UsageError(
                f"--{name} {getattr(settings, name)}: {checkpoint} was trained with {facts[name]}"
            )


def collect(checkpoint: Path, folder: Path, settings: argparse.Namespace) -> None:
    """Play the policy in `checkpoint` until `capacity` transitions are written below `folder`.

    Only whole episodes count, so up to one episode per environment is played in vain. Stops at
    `num_env_steps` steps; ToolkitError if no episode ended by then. The last file written,
    collection.json, counts episodes and transitions and tells how they were made: where it is, the
    collection is finished. Raises UsageError if the folder is not free, Stopped after SIGTERM or
    SIGINT.
    """
    archive = EpisodeArchive(folder / settings.env_name)
    _collect([(checkpoint, archive)], settings)


def collect_by_ratio(settings: argparse.Namespace) -> None:
    """Collect with the policy that `ratio` chooses of every run below `ratio_checkpoint_dir`.

    Goes to <ratio_dataset_dir>/<xpid>/<env_name>/. A collection that is finished, and was made as
    this one would be, is left alone: after a stop the same command goes on. Policies are read and
    folders claimed before the first is played: nothing is found out hours later.

    Raises UsageError if a folder is not free or would be that of two runs; else as `collect`.
    """
    runs = find_runs(Path(settings.ratio_checkpoint_dir), settings.env_name)
    chosen = [(run, checkpoint_by_ratio(run, settings.ratio)) for run in runs]
    seen: dict[str, Path] = {}
    todo = []
    for run, checkpoint in chosen:
        folder = Path(settings.ratio_dataset_dir, run.name, settings.env_name)
        if settings.save_dataset:
            twin = seen.setdefault(run.name, run)
            if twin != run:
                raise UsageError(
                    f"{twin} and {run} would both be collected into {folder}: "
                    "give a --ratio_checkpoint_dir that holds one of them"
                )
            if _is_collected(folder, checkpoint, settings):
                logger.info("already collected: %s", folder)
                continue
        todo.append((checkpoint, EpisodeArchive(folder, "ratio_dataset_dir")))
    _collect(todo, settings)


def _collect(todo: list[tuple[Path, EpisodeArchive]], settings: argparse.Namespace) -> None:
    """Fill each archive with the policy of its checkpoint, all read before any folder is made."""
    players = [open_player(checkpoint, settings) for checkpoint, _ in todo]
    archives = [archive for _, archive in todo]
    with contextlib.ExitStack() as claimed:
        for archive in archives if settings.save_dataset else ():
            claimed.callback(archive.close)
            archive.claim()
        for player, archive in zip(players, archives, strict=True):
            _play(player, archive, settings)


def _is_collected(folder: Path, checkpoint: Path, settings: argparse.Namespace) -> bool:
    """Whether the collection in `folder` is finished; UsageError if it was made in another way."""
    mark = folder / MARK
    if not mark.exists() or not list_episode_files(folder):
        return False
    another = "name another --ratio_dataset_dir"
    try:
        document = json.loads(mark.read_text(encoding="utf-8"))
        was = {**document["settings"], "checkpoint_path": document["policy"]["checkpoint_path"]}
    except (ValueError, LookupError, TypeError):
        raise UsageError(f"{mark} does not tell how it was collected: {another}") from None
    for name, value in {**_made_with(settings), "checkpoint_path": str(checkpoint)}.items():
        if was.get(name) != value:
            raise UsageError(
                f"{folder} was collected with {name} {was.get(name)}, not {value}: {another}"
            )
    return True


def _made_with(settings: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in _SETTINGS}


def _warn_of_other_levels(player: Player, settings: argparse.Namespace) -> None:
    """One line if the policy was not trained on what it is about to play, as far as it tells."""
    plays = {name: getattr(settings, name) for name in _LEVELS}
    other = [name for name in _LEVELS if player.facts.get(name, plays[name]) != plays[name]]
    if other:
        logger.warning(
            "%s was trained with %s, and plays with %s",
            player.checkpoint,
            " ".join(f"--{name} {player.facts[name]}" for name in other),
            " ".join(f"--{name} {plays[name]}" for name in other),
        )


def _play(player: Player, archive: EpisodeArchive, settings: argparse.Namespace) -> None:
    """Fill an archive, as `collect` tells; it is claimed if anything is to be written."""
    mark = archive.folder / MARK
    if settings.save_dataset:
        mark.unlink(missing_ok=True)  # of episodes that are gone
    seed_everything(settings.seed)
    _warn_of_other_levels(player, settings)
    logger.info("collecting %s with %s", settings.env_name, player.checkpoint)
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
            player.policy,
            seed=derive_seed(settings.seed, "collection", "actions"),
            keep_going=keep_going,
            before_step=stop_if_told,
            listener=archive if settings.save_dataset else None,
            on_episode=note,
        )
    env.close()
    if not finished:
        raise ToolkitError(f"no episode ended within --num_env_steps {settings.num_env_steps}")
    if transitions < settings.capacity:
        logger.warning(
            "%d of %d transitions: --num_env_steps %d reached",
            transitions,
            settings.capacity,
            settings.num_env_steps,
        )
    if settings.save_dataset:
        told = {n: player.facts[n] for n in (*_LEVELS, "steps") if n in player.facts}
        document = {
            "episodes": len(finished),
            "transitions": transitions,
            "settings": _made_with(settings),
            "policy": {"checkpoint_path": str(player.checkpoint), **told},
        }
        write_atomically(mark, (json.dumps(document, indent=2) + "\n").encode())
    returns = np.array([episode.episode_return for episode in finished])
    logger.info(
        "%d episodes, %d transitions, mean return %.2f%s",
        len(finished),
        transitions,
        returns.mean(),
        f", in {archive.folder}" if settings.save_dataset else "",
    )
