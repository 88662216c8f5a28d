"""Which levels the data are of: in which split they lie, and the one of the single-level study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from common.envs import level_splits
from common.errors import UsageError
from offline.data.store import PackedStore, count_transitions, select_episodes

# Where in the ranking of the levels the chosen one lies, in [0, 1].
RANKS = {"median": 0.5, "percentile": 0.9}


@dataclass(frozen=True)
class LevelCoverage:
    """Which level seeds the data hold.

    `known` is the number of different ones, `lowest` and `highest` their range; `training`,
    `validation` and `elsewhere` (which test levels are drawn from) divide them up.
    `episodes_outside` are of levels that are no training levels, `episodes_unknown` tell none.
    """

    known: int
    lowest: int | None
    highest: int | None
    training: int
    validation: int
    elsewhere: int
    episodes_outside: int
    episodes_unknown: int


class LevelData(NamedTuple):
    """What the data hold of one level."""

    level: int
    episodes: int
    transitions: int


def levels_in(
    stores: Sequence[PackedStore], levels: Sequence[int] | None = None
) -> list[LevelData]:
    """Every level with a known seed and at least one episode, by seed; `levels` keeps only these.

    Raises UsageError if there is none.
    """
    episodes = select_episodes(stores, levels=levels).episodes
    episodes = episodes[episodes["level_seed"] >= 0]
    if not len(episodes):
        raise UsageError(f"{stores[0].path}: no episode tells its level's seed")
    seeds, of_level, counts = np.unique(
        episodes["level_seed"], return_inverse=True, return_counts=True
    )
    transitions = np.bincount(of_level, weights=count_transitions(episodes)).astype(np.int64)
    columns = (seeds.tolist(), counts.tolist(), transitions.tolist())
    return [LevelData(*row) for row in zip(*columns, strict=True)]


def choose_level(
    levels: Sequence[LevelData],
    capacity_type: Literal["transitions", "episodes"],
    threshold_metric: Literal["median", "percentile"],
) -> LevelData:
    """The level in the middle, or at 90%, when they are ranked by how much data they have.

    Between two ranks the lower one is taken; of levels with as much, the smaller seed comes first.
    """
    ranked = sorted(levels, key=lambda level: (getattr(level, capacity_type), level.level))
    return ranked[int(RANKS[threshold_metric] * (len(ranked) - 1))]


def cover_levels(level_seeds: np.ndarray, num_levels: int) -> LevelCoverage:
    """Sort the level seeds of episodes (episodes,), -1 where unknown, into the splits."""
    known = level_seeds[level_seeds >= 0]
    levels = np.unique(known)
    _, first, count = level_splits(num_levels)["validation"]
    training, validation = levels < first, (levels >= first) & (levels < first + count)
    return LevelCoverage(
        known=len(levels),
        lowest=int(levels[0]) if len(levels) else None,
        highest=int(levels[-1]) if len(levels) else None,
        training=int(training.sum()),
        validation=int(validation.sum()),
        elsewhere=int((~training & ~validation).sum()),
        episodes_outside=int((known >= first).sum()),
        episodes_unknown=len(level_seeds) - len(known),
    )


def levels_outside(levels: LevelCoverage, num_levels: int) -> str:
    """The sentence for data that hold other levels than the training levels."""
    return (
        f"levels outside the {num_levels} training levels: "
        f"{levels.validation + levels.elsewhere} ({levels.validation} validation levels, "
        f"{levels.elsewhere} beyond), with {levels.episodes_outside} episodes; an agent that "
        "learns from them has seen what it is measured on: train with --levels, or with a "
        "larger --num_levels"
    )
