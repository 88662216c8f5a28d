"""What was released with the paper, and where: the categories, their archives, two layouts.

The same data are in public use at two sets of paths below one base address. An `Archive` of the
first layout carries those of the second that hold the same games, for a server without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BASE_URL = "https://dl.fbaipublicfiles.com/DGRL/"
_SECOND_LAYOUT = "Procgen/Datasets/Compressed"


@dataclass(frozen=True)
class Category:
    """One released dataset: `transitions` per game, and the paths of its archives.

    A first path without `{game}` is one archive for all games.
    """

    transitions: int
    first_path: str
    second_folder: str


CATEGORIES = {
    "1M_E": Category(1_000_000, "1M/expert/{game}.tar.xz", "1M/level_200/expert"),
    "1M_S": Category(1_000_000, "1M/suboptimal/{game}.tar.xz", "1M/level_200/suboptimal"),
    "10M": Category(10_000_000, "10M/{game}.tar.xz", "10M/level_200/expert"),
    "25M": Category(25_000_000, "25M/{game}.tar.xz", "25M/level_200/expert"),
    "level_1_E": Category(100_000, "100k_procgen_dataset_1.tar", "100k/level_1/expert"),
    "level_1_S": Category(
        100_000, "100k_procgen_dataset_1_suboptimal.tar", "100k/level_1/suboptimal"
    ),
    "level_40_E": Category(100_000, "100k_procgen_dataset_40.tar", "100k/level_40/expert"),
    "level_40_S": Category(
        100_000, "100k_procgen_dataset_40_suboptimal.tar", "100k/level_40/suboptimal"
    ),
}


@dataclass(frozen=True)
class Archive:
    """One file of the release.

    `games` are those wanted of it and `transitions` what these have in all; `otherwise` are the
    archives to take in its stead where the server does not have it.
    """

    path: str
    games: tuple[str, ...]
    transitions: int
    otherwise: tuple[Archive, ...] = ()

    @property
    def name(self) -> str:
        """What the file is called on the disk."""
        return self.path.rpartition("/")[2]

    @property
    def game(self) -> str | None:
        """The only game in it; None for an archive of all games."""
        return self.name.partition(".")[0] if self.path.endswith(".tar.xz") else None

    def address(self, base_url: str) -> str:
        """Where it is below `base_url`, which may end in a slash or not."""
        return f"{base_url.rstrip('/')}/{self.path}"


def archives(category: str, games: Sequence[str]) -> list[Archive]:
    """The archives that hold these games of a category, in the first layout."""
    facts = CATEGORIES[category]
    second = [
        Archive(f"{_SECOND_LAYOUT}/{facts.second_folder}/{game}.tar.xz", (game,), facts.transitions)
        for game in games
    ]
    if "{game}" not in facts.first_path:
        of_all = facts.transitions * len(games)
        return [Archive(facts.first_path, tuple(games), of_all, tuple(second))]
    return [
        Archive(facts.first_path.format(game=game), (game,), facts.transitions, (other,))
        for game, other in zip(games, second, strict=True)
    ]
