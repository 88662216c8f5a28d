"""Measuring a policy on training, validation and test levels, and the files with the results."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.envs import JoinedVectorEnv, ProcgenVectorEnv, level_splits
from common.files import write_atomically
from common.rollout import EpisodeResult, Policy, fair_shares, rollout
from common.seeding import derive_seed

# Per split. More environments than this no longer make a batch faster on any device.
MAX_ENVS = 128

Results = dict[str, list[EpisodeResult]]


def evaluate(
    policy: Policy,
    *,
    env_name: str,
    distribution_mode: str,
    num_levels: int,
    num_episodes: int,
    seed: int,
    only_level: int | None = None,
    before_step: Callable[[], None] | None = None,
    progress: bool = False,
) -> Results:
    """Play `num_episodes` whole episodes on each split of `level_splits`; results by split.

    Levels and random choices follow `seed` alone: the same policy gives the same results. Every
    environment plays a fixed share, so short episodes are not counted more often. The splits are
    played side by side: large batches are fast, and the longest episodes of all are waited for
    once.
    """
    splits = level_splits(num_levels, only_level)
    num_envs = min(num_episodes, MAX_ENVS)
    env = JoinedVectorEnv(
        [
            ProcgenVectorEnv(
                env_name,
                num_envs,
                split.start_level,
                split.num_levels,
                distribution_mode,
                derive_seed(seed, "evaluation", name, "levels"),
            )
            for name, split in splits.items()
        ]
    )
    bar = tqdm(
        total=len(splits) * num_episodes,
        unit="episode",
        desc="evaluating",
        # Not False, which would overrule TQDM_DISABLE.
        **({} if progress else {"disable": True}),
        leave=False,
    )
    with bar, contextlib.closing(env):
        episodes = rollout(
            env,
            policy,
            seed=derive_seed(seed, "evaluation", "actions"),
            num_episodes=np.tile(fair_shares(num_episodes, num_envs), len(splits)),
            before_step=before_step,
            on_episode=lambda _: bar.update() and None,
        )
    return {
        name: episodes[i * num_episodes : (i + 1) * num_episodes] for i, name in enumerate(splits)
    }


def mean_returns(results: Results) -> dict[str, float]:
    """Mean raw return by split; that of a single level stands for all three, as in the paper."""
    means = {
        split: sum(e.episode_return for e in episodes) / len(episodes)
        for split, episodes in results.items()
    }
    return means if len(means) > 1 else dict.fromkeys(level_splits(0), means["train"])


def write_evaluation(path: Path, results: Results) -> None:
    """`final_test_ret,final_train_ret,final_val_ret` (mean raw returns): one row."""
    means = mean_returns(results)
    write_csv(
        path,
        ["final_test_ret", "final_train_ret", "final_val_ret"],
        [[means["test"], means["train"], means["validation"]]],
    )


def write_episodes(path: Path, results: Results) -> None:
    """One row per episode: split, level_seed, return, length."""
    rows = [
        [split, e.level_seed, e.episode_return, e.length]
        for split, episodes in results.items()
        for e in episodes
    ]
    write_csv(path, ["split", "level_seed", "return", "length"], rows)


def read_episodes(path: Path) -> Results:
    """What `write_episodes` wrote."""
    results: Results = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            episode = EpisodeResult(
                int(row["level_seed"]), float(row["return"]), int(row["length"])
            )
            results.setdefault(row["split"], []).append(episode)
    return results


class Origin(NamedTuple):
    """What an evaluation is of: the checkpoint, `final` or `best`, and how its agent acted."""

    checkpoint: str
    acting: str  # "sampled" or "deterministic"


def write_origin(path: Path, origin: Origin, results: Results) -> None:
    """A JSON object with the origin, and the means by which it is known to be that of a summary."""
    document = {**origin._asdict(), "mean_returns": mean_returns(results)}
    write_atomically(path, (json.dumps(document, indent=2) + "\n").encode())


def read_origin(path: Path, means: Mapping[str, float]) -> Origin | None:
    """What `write_origin` wrote; None if it did not, or of results with other means."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["mean_returns"] != means:
            return None
        return Origin(str(document["checkpoint"]), str(document["acting"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def returns_by_split(results: Results) -> Mapping[str, list[float]]:
    """Raw returns by split, as the statistics take them."""
    return {split: [e.episode_return for e in episodes] for split, episodes in results.items()}


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    """A small table, written whole or not at all."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())
