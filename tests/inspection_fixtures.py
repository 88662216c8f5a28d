"""Episodes whose every statistic is worked out by hand in the tests of the inspection."""

from __future__ import annotations

from pathlib import Path

from offline.data.inspection import GameReport, inspect_game
from offline.data.packing import open_game
from tests.data_fixtures import make_episode
from tests.offline_commands import GAME

# The number decides on the frames and the first action: the first two start alike, and level 3
# starts in two ways. Levels 201 and 7000 are a validation and a test level.
EPISODES = [
    make_episode(1, [0.0, 1.0, 2.0], level_seed=3),
    make_episode(1, [0.0, 1.0, 2.0], level_seed=5),
    make_episode(2, [10.0], level_seed=3),
    make_episode(4, [0.0, 0.0, 1.0, 0.0], level_seed=201, terminated=False),
    make_episode(5, [2.0, 2.0], level_seed=7000),
    make_episode(6, [1.0], level_seed=-1),
]


def report_on(*datasets: Path, num_levels: int = 200) -> GameReport:
    stores = [open_game(dataset, GAME, progress=False) for dataset in datasets]
    return inspect_game(GAME, datasets, stores, num_levels, progress=False)
