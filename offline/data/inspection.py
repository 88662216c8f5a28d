"""What the data of one game hold: counts, levels, returns, actions, first frames, bytes, origin.

Of the frames only the first one of each episode is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.envs import level_splits
from common.episodes import list_episode_files
from common.errors import UsageError
from common.games import ACTION_BUTTONS, FRAME_BYTES, GAMES
from offline.data.first_frames import (
    FirstFrames,
    compare_first_frames,
    first_frame_hashes,
    frame_hash,
)
from offline.data.levels import LevelCoverage, cover_levels, levels_outside
from offline.data.packing import PACKED_FOLDER
from offline.data.provenance import draw_first_frame, drawn_as_installed, drawn_differently
from offline.data.store import PackedStore, select_episodes
from offline.results.statistics import standard_error

_CHUNK_ROWS = 1 << 20


@dataclass(frozen=True)
class Spread:
    """One number per episode, summarised; a single episode has no standard error."""

    mean: float
    standard_error: float | None
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float


@dataclass(frozen=True)
class ActionCount:
    """How often an action was taken; `share` is that of all transitions."""

    action: int
    buttons: str
    count: int
    share: float


@dataclass(frozen=True)
class Source:
    """One packed store: its bytes, those of the episode files beside it, and its origin.

    `skipped` names the bad episode files that were left out, and why. `build` is what was noted of
    the Procgen that drew the frames; `drawn_as_installed` is None where nothing tells.
    """

    path: str
    store_bytes: int
    episode_files: int
    episode_file_bytes: int
    skipped: list[dict[str, str]]
    build: dict[str, Any] | None
    drawn_as_installed: bool | None


@dataclass(frozen=True)
class GameReport:
    """All stores of a game together, measured against `num_levels` training levels.

    `cut_off_episodes` stop before their end. `frame_bytes` are in memory when all is trained on.
    """

    game: str
    num_levels: int
    episodes: int
    cut_off_episodes: int
    transitions: int
    levels: LevelCoverage
    returns: Spread
    lengths: Spread
    actions: list[ActionCount]
    first_frames: FirstFrames
    frame_bytes: int
    sources: list[Source]


def games_in(datasets: Sequence[Path]) -> dict[str, list[Path]]:
    """Each game with a folder in one of the dataset folders, and which of these have it.

    Raises UsageError for a dataset folder that is missing or has no game.
    """
    found: dict[str, list[Path]] = {}
    for dataset in datasets:
        if not dataset.is_dir():
            raise UsageError(f"dataset folder {dataset} does not exist")
        games = [game for game in GAMES if _holds_data(dataset / game)]
        if not games:
            hint = f": give {dataset.parent}" if dataset.name in GAMES else ""
            raise UsageError(f"{dataset} has no folder that is named after a Procgen game{hint}")
        for game in games:
            found.setdefault(game, []).append(dataset)
    return {game: found[game] for game in GAMES if game in found}


def _holds_data(folder: Path) -> bool:
    """Not so what a failed download leaves: a folder with a lock in it."""
    packed = folder / PACKED_FOLDER / "manifest.json"
    return packed.is_file() or (folder.is_dir() and bool(list_episode_files(folder)))


def inspect_game(
    game: str,
    datasets: Sequence[Path],
    stores: Sequence[PackedStore],
    num_levels: int = 200,
    distribution_mode: str = "easy",
    progress: bool = True,
) -> GameReport:
    """The report on `stores`, the packed data of the game in each of the folders `datasets`.

    Raises StoreError for frames that cannot be read.
    """
    selection = select_episodes(stores)
    episodes = selection.episodes
    sources = [
        _source(dataset / game, store, drawn_as_installed(store, game, distribution_mode))
        for dataset, store in zip(datasets, stores, strict=True)
    ]
    validation_hashes = None
    if all(source.drawn_as_installed for source in sources):
        validation_hashes = _validation_hashes(game, distribution_mode, num_levels)
    hashes = first_frame_hashes(selection, f"first frames of {game}", progress)
    return GameReport(
        game=game,
        num_levels=num_levels,
        episodes=len(episodes),
        cut_off_episodes=int((~episodes["terminated"]).sum()),
        transitions=selection.num_transitions,
        levels=cover_levels(episodes["level_seed"], num_levels),
        returns=spread(episodes["return"]),
        lengths=spread(episodes["length"]),
        actions=count_actions(stores),
        first_frames=compare_first_frames(episodes["level_seed"], hashes, validation_hashes),
        frame_bytes=selection.num_rows * FRAME_BYTES,
        sources=sources,
    )


def _validation_hashes(game: str, distribution_mode: str, num_levels: int) -> list[int]:
    _, first, count = level_splits(num_levels)["validation"]
    return [
        frame_hash(draw_first_frame(game, distribution_mode, level).tobytes())
        for level in range(first, first + count)
    ]


def spread(values: np.ndarray) -> Spread:
    """Mean, standard error, and quartiles by linear interpolation, of values (n,)."""
    quartiles = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    error = standard_error(values) if len(values) > 1 else None
    return Spread(float(values.mean()), error, *quartiles)


def count_actions(stores: Sequence[PackedStore]) -> list[ActionCount]:
    """How often each action was taken; the last row of a cut-off episode is no transition."""
    counts = np.zeros(len(ACTION_BUTTONS), np.int64)
    for store in stores:
        for row in range(0, store.num_rows, _CHUNK_ROWS):
            chunk = store.actions[row : row + _CHUNK_ROWS]
            counts += np.bincount(chunk, minlength=len(counts))
        cut_off = store.episodes[~store.episodes["terminated"]]
        last_rows = cut_off["start"] + cut_off["length"] - 1
        counts -= np.bincount(store.actions[last_rows], minlength=len(counts))
    shares = counts / counts.sum()
    columns = (ACTION_BUTTONS, counts.tolist(), shares.tolist())
    return [ActionCount(i, *row) for i, row in enumerate(zip(*columns, strict=True))]


def _source(folder: Path, store: PackedStore, drawn_alike: bool | None) -> Source:
    files = list_episode_files(folder)
    return Source(
        path=str(store.path),
        store_bytes=sum(file.stat().st_size for file in store.path.iterdir()),
        episode_files=len(files),
        episode_file_bytes=sum(file.stat().st_size for file in files),
        skipped=store.manifest["skipped"],
        build=(store.manifest["procgen"] or {}).get("build"),
        drawn_as_installed=drawn_alike,
    )


def warnings_about(report: GameReport) -> list[str]:
    """What a user should know before training on the data, one sentence each."""
    levels, first_frames = report.levels, report.first_frames
    warnings = []
    if levels.episodes_outside:
        warnings.append(levels_outside(levels, report.num_levels))
    if levels.episodes_unknown:
        warnings.append(
            f"episodes that do not tell their level's seed: {levels.episodes_unknown}; whether "
            "these are of training levels is not known"
        )
    if first_frames.changing:
        warnings.append(
            f"levels that start with more than one frame: {first_frames.changing}, such as "
            f"{first_frames.changing_example}; their seeds are wrong, or several builds of Procgen "
            "drew them"
        )
    for source in report.sources:
        if source.skipped:
            warnings.append(
                f"bad episode files left out of {source.path}: {len(source.skipped)}; first "
                "{file}: {reason}".format(**source.skipped[0])
            )
        if source.drawn_as_installed is False:
            warnings.append(drawn_differently(source.path, report.game, source.build))
    return warnings
