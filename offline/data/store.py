"""The packed store of one game, and the choice of episodes to learn from.

A store is a folder of plain NumPy files, one row per time step, one episode after the other:

    frames.npy    uint8 (rows, 64, 64, 3), height x width x channel
    actions.npy   uint8 (rows,)      rewards.npy  float32 (rows,)      dones.npy  bool (rows,)
    episodes.npy  one record per episode: start, length, level_seed, return, terminated, source
    manifest.json format and version, counts, fingerprint of the source files, Procgen build

An episode of T steps takes T rows, so each frame is stored once: the next state of row i is row
i + 1. The observation that follows a terminal step shows the next level and is not stored; the
terminal row has no next state. The last row of an episode that was cut off before its end serves as
next state only: it is a row, but no transition.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from common.episodes import parse_name
from common.errors import ToolkitError, UsageError
from common.games import FRAME_SHAPE

FORMAT = "procgen-packed-episodes"
FORMAT_VERSION = 1
COLUMNS: dict[str, type[np.generic]] = {
    "actions": np.uint8,
    "rewards": np.float32,
    "dones": np.bool_,
}
EPISODE_FIELDS = [
    ("start", np.int64),
    ("length", np.int64),
    ("level_seed", np.int64),
    ("return", np.float64),
    ("terminated", np.bool_),
]
EpisodeOrder = Literal["recorded", "best", "random"]
Column = Literal["actions", "rewards", "dones"]


class StoreError(ToolkitError):
    """A packed folder that cannot be used: names it and says what to do."""


class NewerStoreError(StoreError):
    """A store of a format that this toolkit does not know yet: whole, and not to be replaced."""


@dataclass(frozen=True, eq=False)
class PackedStore:
    """One game's packed episodes, memory-mapped and read-only.

    frames uint8 (rows, 64, 64, 3); actions uint8, rewards float32, dones bool (rows,);
    episodes, a structured array (episodes,) with the fields of the module's description.
    """

    path: Path
    manifest: dict[str, Any]
    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    episodes: np.ndarray

    @classmethod
    def open(cls, path: Path) -> PackedStore:
        """Map the store at `path`; StoreError if it is damaged, incomplete or of a newer format."""
        path = Path(path)
        manifest = read_manifest(path)
        rows = manifest["rows"]
        arrays = {"frames": _map(path, "frames", (rows, *FRAME_SHAPE), np.dtype(np.uint8))}
        for name, kind in COLUMNS.items():
            arrays[name] = _map(path, name, (rows,), np.dtype(kind))
        episodes = _map(path, "episodes", (manifest["episodes"],), None)
        ends = np.cumsum(episodes["length"])
        if not np.array_equal(episodes["start"][1:], ends[:-1]) or ends[-1] != rows:
            raise damaged(path, "its episodes do not cover its rows")
        return cls(path=path, manifest=manifest, episodes=episodes, **arrays)

    @property
    def num_rows(self) -> int:
        return len(self.actions)


def damaged(path: Path, reason: str) -> StoreError:
    """The error for a packed folder that must be made anew."""
    return StoreError(f"{path} is damaged ({reason}): delete the folder and pack again")


def read_manifest(path: Path) -> dict[str, Any]:
    """The checked manifest of the store at `path`."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise damaged(path, f"manifest.json: {error.strerror or error}") from error
    except ValueError as error:
        raise damaged(path, f"manifest.json: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise damaged(path, f"manifest.json does not say format {FORMAT}")
    version = manifest.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise NewerStoreError(
            f"{path} is a store of version {version}, this toolkit reads up to {FORMAT_VERSION}: "
            "update the toolkit, or delete the folder and pack again"
        )
    for key in ("skipped", "source_fingerprint", "procgen"):
        if key not in manifest:
            raise damaged(path, f"manifest.json lacks {key}")
    if not isinstance(manifest["procgen"], dict | None):
        raise damaged(path, f"manifest.json says procgen = {manifest['procgen']!r}")
    for key in ("rows", "episodes"):
        if not isinstance(manifest.get(key), int) or manifest[key] < 1:
            raise damaged(path, f"manifest.json says {key} = {manifest.get(key)}")
    return manifest


def _map(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None) -> np.ndarray:
    file = path / f"{name}.npy"
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise damaged(path, f"{file.name}: {error.strerror or error}") from error
    except ValueError as error:  # also a file shorter than its header says
        raise damaged(path, f"{file.name}: {error}") from error
    fields = [field for field, _ in EPISODE_FIELDS]
    wrong_type = array.dtype != dtype if dtype else array.dtype.names != (*fields, "source")
    if array.shape != shape or wrong_type:
        raise damaged(
            path, f"{file.name} is {array.dtype} {array.shape}, the manifest says {shape}"
        )
    return np.asarray(array)


@dataclass(frozen=True, eq=False)
class Selection:
    """Episodes chosen from one or more stores, and their rows, numbered 0 .. num_rows - 1.

    Rows follow the order of stores and, within one, of recording, whatever order chose them.
    `store_of` (episodes,) int64 indexes `stores`; `episodes` (episodes,) has the store's records
    without `source`; its `start` counts in the rows of that store.
    """

    stores: tuple[PackedStore, ...]
    store_of: np.ndarray
    episodes: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Rows per episode (episodes,) int64."""
        return np.asarray(self.episodes["length"])

    @property
    def starts(self) -> np.ndarray:
        """First row of each episode (episodes,) int64, in the numbering of the selection."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def num_rows(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_transitions(self) -> int:
        return int(count_transitions(self.episodes).sum())

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """The rows as stretches (store index, first row, end row), adjacent episodes joined."""
        first = np.asarray(self.episodes["start"])
        ends = first + self.lengths
        breaks = (first[1:] != ends[:-1]) | (self.store_of[1:] != self.store_of[:-1])
        heads = np.flatnonzero(np.append(True, breaks))
        tails = np.append(heads[1:], len(first)) - 1
        for head, tail in zip(heads, tails, strict=True):
            yield int(self.store_of[head]), int(first[head]), int(ends[tail])

    def column(self, name: Column) -> np.ndarray:
        """`actions`, `rewards` or `dones` of all selected rows (num_rows,), copied."""
        return np.concatenate(
            [getattr(self.stores[store], name)[start:end] for store, start, end in self.runs()]
        )


def count_transitions(episodes: np.ndarray) -> np.ndarray:
    """Transitions per episode (episodes,) int64: the last row of a cut-off one is none."""
    return np.asarray(episodes["length"] - ~episodes["terminated"])


def select_episodes(
    stores: Sequence[PackedStore],
    *,
    dataset_size: int | None = None,
    percentile: float = 1.0,
    episode_order: EpisodeOrder = "recorded",
    levels: Sequence[int] | None = None,
    seed: int = 0,
) -> Selection:
    """Choose whole episodes from `stores` taken together; no frame is read.

    1. `levels` keeps the episodes of these level seeds.
    2. `episode_order` arranges them: `recorded` (store by store, by timestamp and index), `best`
       (highest return first, ties as recorded) or `random` (drawn with `seed`).
    3. Episodes are taken in this order until `dataset_size` transitions are reached or passed: the
       episode that passes is included, as in the released loader. None takes all.
    4. `percentile` p < 1 keeps, of those taken, the ones of highest return (ties as taken) until
       p x min(dataset_size, transitions taken) is reached or passed, again including the episode
       that passes. p = 1 keeps all that were taken.

    Raises UsageError for a value out of range, for levels without an episode and for a choice that
    leaves no transition.
    """
    if dataset_size is not None and dataset_size < 1:
        raise UsageError(f"dataset_size {dataset_size}: expected at least 1 transition")
    if not 0.0 < percentile <= 1.0:
        raise UsageError(f"percentile {percentile}: expected a number in (0, 1]")
    if episode_order not in get_args(EpisodeOrder):
        raise UsageError(
            f"episode_order {episode_order!r}: choose one of {', '.join(get_args(EpisodeOrder))}"
        )
    fields = [field for field, _ in EPISODE_FIELDS]
    episodes = np.concatenate(
        [np.asarray(store.episodes[fields]).astype(EPISODE_FIELDS) for store in stores]
    )
    store_of = np.repeat(np.arange(len(stores)), [len(store.episodes) for store in stores])
    first = np.cumsum([0, *(len(store.episodes) for store in stores)])[:-1]
    recorded = np.concatenate(
        [start + _recorded_order(store) for start, store in zip(first, stores, strict=True)]
    )
    candidates = recorded[np.isin(recorded, _on_levels(episodes, levels))]
    if episode_order == "best":
        candidates = candidates[_best_first(episodes[candidates])]
    elif episode_order == "random":
        candidates = np.random.default_rng(seed).permutation(candidates)
    size = np.iinfo(np.int64).max if dataset_size is None else dataset_size
    taken = candidates[: _until(episodes[candidates], size)]
    if percentile < 1.0:
        there = int(count_transitions(episodes[taken]).sum())
        ranked = taken[_best_first(episodes[taken])]
        taken = ranked[: _until(episodes[ranked], percentile * min(size, there))]
    taken = np.sort(taken)
    selection = Selection(tuple(stores), store_of[taken], episodes[taken])
    if selection.num_transitions == 0:
        raise UsageError(f"{stores[0].path}: the chosen episodes hold no transition")
    return selection


def _recorded_order(store: PackedStore) -> np.ndarray:
    """Indices (episodes,) int64 by timestamp and index, whatever order an archive had them in.

    Those whose names do not tell come last, as they stand in the store.
    """
    names = [parse_name(os.fsdecode(source)) for source in store.episodes["source"]]
    keys = [(0, name.timestamp, name.index) if name else (1, "", 0) for name in names]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _on_levels(episodes: np.ndarray, levels: Sequence[int] | None) -> np.ndarray:
    if levels is None:
        return np.arange(len(episodes))
    found = np.flatnonzero(np.isin(episodes["level_seed"], np.asarray(levels, np.int64)))
    if not found.size:
        there = np.unique(episodes["level_seed"])
        raise UsageError(
            f"no episode of levels {', '.join(map(str, levels))}: "
            f"the data hold {len(there)} levels from {there[0]} to {there[-1]}"
        )
    return found


def _best_first(episodes: np.ndarray) -> np.ndarray:
    return np.argsort(-episodes["return"], kind="stable")


def _until(episodes: np.ndarray, transitions: float) -> int:
    """How many episodes, in order, reach or pass this many transitions (all, if they do not)."""
    total = np.cumsum(count_transitions(episodes))
    return int(np.searchsorted(total, transitions, side="left")) + 1


@dataclass(frozen=True)
class DatasetSummary:
    """What a selection holds; returns are raw and undiscounted.

    `levels` counts known level seeds; `max_return` is the largest return, which Decision
    Transformer scales its target by.
    """

    episodes: int
    transitions: int
    levels: int
    mean_return: float
    min_return: float
    max_return: float
    mean_length: float
    max_length: int


def describe(selection: Selection) -> DatasetSummary:
    """Count and average the episodes of a selection; no frame is read."""
    episodes = selection.episodes
    return DatasetSummary(
        episodes=len(episodes),
        transitions=selection.num_transitions,
        levels=int(np.unique(episodes["level_seed"][episodes["level_seed"] >= 0]).size),
        mean_return=float(episodes["return"].mean()),
        min_return=float(episodes["return"].min()),
        max_return=float(episodes["return"].max()),
        mean_length=float(episodes["length"].mean()),
        max_length=int(episodes["length"].max()),
    )
