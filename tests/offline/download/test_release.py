from __future__ import annotations

import pytest

from common.games import GAMES
from offline.download.release import BASE_URL, CATEGORIES, archives

SECOND = "Procgen/Datasets/Compressed"


@pytest.mark.parametrize(
    ("category", "first", "second"),
    [
        ("1M_E", "1M/expert/miner.tar.xz", "1M/level_200/expert/miner.tar.xz"),
        ("1M_S", "1M/suboptimal/miner.tar.xz", "1M/level_200/suboptimal/miner.tar.xz"),
        ("10M", "10M/miner.tar.xz", "10M/level_200/expert/miner.tar.xz"),
        ("25M", "25M/miner.tar.xz", "25M/level_200/expert/miner.tar.xz"),
    ],
)
def test_a_category_with_an_archive_per_game_has_two_addresses(
    category: str, first: str, second: str
) -> None:
    (archive,) = archives(category, ["miner"])
    assert (archive.path, archive.game, archive.games) == (first, "miner", ("miner",))
    (other,) = archive.otherwise
    assert (other.path, other.game, other.games) == (f"{SECOND}/{second}", "miner", ("miner",))
    assert other.otherwise == ()


@pytest.mark.parametrize(
    ("category", "first", "folder"),
    [
        ("level_1_E", "100k_procgen_dataset_1.tar", "100k/level_1/expert"),
        ("level_1_S", "100k_procgen_dataset_1_suboptimal.tar", "100k/level_1/suboptimal"),
        ("level_40_E", "100k_procgen_dataset_40.tar", "100k/level_40/expert"),
        ("level_40_S", "100k_procgen_dataset_40_suboptimal.tar", "100k/level_40/suboptimal"),
    ],
)
def test_a_category_with_one_archive_for_all_games_has_one_per_game_otherwise(
    category: str, first: str, folder: str
) -> None:
    (archive,) = archives(category, ["miner", "maze"])
    assert (archive.path, archive.game, archive.games) == (first, None, ("miner", "maze"))
    assert [(other.path, other.games) for other in archive.otherwise] == [
        (f"{SECOND}/{folder}/miner.tar.xz", ("miner",)),
        (f"{SECOND}/{folder}/maze.tar.xz", ("maze",)),
    ]


def test_the_transitions_of_an_archive_are_those_of_the_games_wanted() -> None:
    assert archives("10M", ["miner"])[0].transitions == 10_000_000
    everything = archives("level_40_E", ["miner", "maze"])[0]
    assert everything.transitions == 200_000
    assert everything.otherwise[0].transitions == 100_000


def test_all_games_of_the_largest_category_are_16_archives_with_names_of_their_own() -> None:
    names = {archive.name for archive in archives("25M", GAMES)}
    assert names == {f"{game}.tar.xz" for game in GAMES}
    assert len(names) == 16


@pytest.mark.parametrize("base_url", [BASE_URL, BASE_URL.rstrip("/")])
def test_an_address_has_one_slash_between_base_and_path(base_url: str) -> None:
    (archive,) = archives("1M_E", ["coinrun"])
    address = "https://dl.fbaipublicfiles.com/DGRL/1M/expert/coinrun.tar.xz"
    assert archive.address(base_url) == address


def test_the_categories_are_those_of_the_paper() -> None:
    names = "1M_E 1M_S 10M 25M level_1_E level_1_S level_40_E level_40_S"
    assert list(CATEGORIES) == names.split()
