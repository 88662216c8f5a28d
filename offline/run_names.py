"""Which runs a command of an offline method is about, and how they are named without --xpid."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePath

from common.errors import ToolkitError, UsageError
from common.flags import Flag, short_number, unnamed_settings_hash

LAST_SEED = 2**31 - 1
# Flags that say where things are or go and cannot change a result, so no run is named by them.
NOT_IN_NAME = frozenset(
    "save_path xpid num_seeds resume no_cuda compile ckpt_freq pack_dir data_device "
    "memory_budget_gb checkpoint num_final_episodes skip_bad_episodes tensorboard "
    "wandb_project wandb_entity given".split()
)


def run_name(settings: argparse.Namespace, flags: Sequence[Flag]) -> str:
    """The run's name: that of its setting, and its seed."""
    return f"{setting_name(settings, flags)}_{settings.seed}"


def setting_name(settings: argparse.Namespace, flags: Sequence[Flag]) -> str:
    """What the names of a setting's runs begin with, from the settings that the paper's grids vary.

    Other settings of `flags` that can change the result and are not at their defaults add a short
    hash, so two different settings never share a name.
    """
    s = settings
    parts = [
        f"{s.env_name}-{s.distribution_mode}-{s.num_levels}-d{short_size(s.dataset_size)}",
        f"{s.algo}-p{short_number(s.percentile)}-lr{short_number(s.lr)}-bs{s.batch_size}-{s.agent_model}",
    ]
    named = set(
        "env_name distribution_mode num_levels dataset_size algo percentile lr batch_size "
        "agent_model seed early_stop".split()
    )
    if s.algo in ("bcq", "cql", "iql"):
        parts.append(f"tuf{s.target_update_freq}")
        named.add("target_update_freq")
        if s.perform_polyak_update:
            parts.append(f"polyak-tau{short_number(s.tau)}")
            named |= {"perform_polyak_update", "tau"}
    own = {
        "cql": (f"a{short_number(s.cql_alpha)}", ("cql_alpha",)),
        "bcq": (
            f"t{short_number(s.bcq_threshold)}"
            + ("-res" if s.agent_model == "bcqresnetbase" else ""),
            ("bcq_threshold",),
        ),
        "iql": (
            f"t{short_number(s.iql_temperature)}-e{short_number(s.iql_expectile)}",
            ("iql_temperature", "iql_expectile"),
        ),
    }
    for name in ("bct", "dt"):
        own[name] = (
            f"cl{s.dt_context_length}-er{short_number(s.dt_eval_ret)}",
            ("dt_context_length", "dt_eval_ret"),
        )
    if s.algo in own:
        text, names = own[s.algo]
        parts.append(text)
        named |= set(names)
    if s.early_stop:
        parts.append("es")
    if "threshold_metric" in s:
        chosen = f"{s.capacity_type[0]}-{s.threshold_metric}"
        parts.append(f"single-{chosen if s.level is None else f'level{s.level}'}")
    # As it is written shortest: `data/1M_E/` is no other dataset than `data/1M_E`.
    dataset = [str(PurePath(path)) for path in s.dataset]
    same = argparse.Namespace(**{**vars(s), "dataset": dataset})
    rest = unnamed_settings_hash(flags, same, named | NOT_IN_NAME)
    if rest:
        parts.append(rest)
    return "-".join(parts)


def checkpoint_in(run: Path, which: str) -> Path:
    """The checkpoint `which` (final or best) of a run's folder.

    Raises ToolkitError if the run is not there, or not that far.
    """
    if not run.is_dir():
        raise ToolkitError(f"no run at {run}: name it by --save_path, --env_name and --xpid")
    path = run / f"{which}_model.pt"
    finished = (run / "final_model.pt").exists()
    if not path.exists() and not finished and (run / "model.pt").exists():
        raise ToolkitError(
            f"no {path.name} in {run}, a run that is not finished: its training command with "
            "--resume True goes on"
        )
    return path


def check_seeds(settings: argparse.Namespace) -> None:
    """Raise UsageError if there are not so many seeds, or if they cannot share their data."""
    count = settings.num_seeds
    if settings.seed + count - 1 > LAST_SEED:
        raise UsageError(
            f"--num_seeds {count}: from --seed {settings.seed} on they exceed 2^31 - 1"
        )
    if count > 1 and settings.episode_order == "random":
        raise UsageError(
            "--episode_order random: every seed draws other episodes, and --num_seeds "
            f"{count} is for seeds that learn from the same: give one command per seed"
        )


def of_each_seed(settings: argparse.Namespace) -> list[argparse.Namespace]:
    """The settings of the runs of a command: with --num_seeds several, each as if it were alone."""
    if settings.num_seeds == 1:
        return [settings]
    runs = []
    for seed in range(settings.seed, settings.seed + settings.num_seeds):
        run = argparse.Namespace(**vars(settings))
        run.seed, run.num_seeds = seed, 1
        run.xpid = f"{settings.xpid}_{seed}"
        if "xpids" in run:
            run.xpids = tuple(f"{name}_{seed}" for name in settings.xpids)
        runs.append(run)
    return runs


def short_size(number: int) -> str:
    """Such as 1M, 100K or 1234."""
    for size, letter in ((1_000_000, "M"), (1000, "K")):
        if number % size == 0:
            return f"{number // size}{letter}"
    return str(number)
