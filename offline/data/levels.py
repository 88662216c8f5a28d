"""Choosing the level of the single-level study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from common.errors import UsageError
from offline.data.store import PackedStore, count_transitions, select_episodes

# Where in the ranking of the levels the chosen one lies, in [0, 1].
RANKS = {"median": 0.5, "percentile": 0.9}


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
