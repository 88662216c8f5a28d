"""From packed data back to episodes, and into a new folder: whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.episodes import Episode, format_name, parse_name, write_episode
from common.errors import ToolkitError, UsageError
from common.files import sync, write_atomically
from common.games import FRAME_SHAPE
from offline.data.ahead import map_ahead
from offline.data.frames import read_frames
from offline.data.packing import BUILD_FILE
from offline.data.store import Selection

logger = logging.getLogger(__name__)

_MAX_WRITERS = 8


def selected_episodes(selection: Selection) -> Iterator[tuple[str, Episode]]:
    """The chosen episodes in their order, each with its name by the released grammar.

    One is held in memory at a time. The store has no frame after the last step, so the episode's
    own last frame stands there once more: no learner may use it as a next state, and packing drops
    it again. Names keep the timestamp and index of the source, unless packed again in the order of
    their names the episodes would change places, as those of several datasets may: then all are
    numbered anew.
    """
    rows = zip(_names(selection), selection.store_of, selection.episodes, strict=True)
    for name, store_index, record in rows:
        store = selection.stores[store_index]
        start, end = record["start"], record["start"] + record["length"]
        # Past the memory map, whose pages would add up to the whole store.
        observations = np.empty((end - start + 1, *FRAME_SHAPE), np.uint8)
        read_frames(store, start, observations[:-1])
        observations[-1] = observations[-2]
        yield (
            name,
            Episode(
                observations=observations,
                actions=store.actions[start:end].astype(np.int64),
                rewards=np.array(store.rewards[start:end]),
                dones=np.array(store.dones[start:end]),
                level_seed=int(record["level_seed"]),
            ),
        )


def _names(selection: Selection) -> list[str]:
    now = time.strftime("%Y%m%dT%H%M%S")
    anew = [(now, i) for i in range(len(selection.episodes))]
    sources = [parse_name(source) for source in _sources(selection)]
    kept = [
        (name.timestamp, name.index) if name else new
        for name, new in zip(sources, anew, strict=True)
    ]
    in_order = all(before < after for before, after in itertools.pairwise(kept))
    facts = selection.episodes[["length", "level_seed", "return"]]
    return [
        format_name(*key, *fact.item())
        for key, fact in zip(kept if in_order else anew, facts, strict=True)
    ]


def _sources(selection: Selection) -> list[str]:
    """The names of the files that the episodes were packed from."""
    sources = np.empty(len(selection.episodes), object)
    for index, store in enumerate(selection.stores):
        mine = selection.store_of == index
        records = np.searchsorted(store.episodes["start"], selection.episodes["start"][mine])
        sources[mine] = store.episodes["source"][records]
    return [os.fsdecode(source) for source in sources]


def common_build(selection: Selection) -> Any:
    """The Procgen build that drew the frames, as build.json notes it; None if it is unknown or
    differs between the datasets, which is warned about.
    """
    builds = [store.manifest["procgen"] for store in selection.stores]
    fullest = max(builds, key=lambda build: len(build or {}))  # older notes tell less
    if any(not _agree(build, fullest) for build in builds):
        logger.warning("the datasets were made by different Procgen builds: none is noted")
        return None
    return fullest


def _agree(a: dict[str, Any] | None, b: dict[str, Any] | None) -> bool:
    if a is None or b is None:
        return a is b
    return all(a[key] == b[key] for key in a.keys() & b.keys())


def write_episodes(folder: Path, episodes: Iterable[tuple[str, Episode]], procgen: Any) -> None:
    """Write one `.npz` per episode and, where the Procgen build is known, build.json.

    One episode more than there are threads at work is held in memory. Raises ToolkitError if a file
    cannot be written, ValueError for a name outside the grammar.
    """

    def write(named: tuple[str, Episode]) -> None:
        name = parse_name(named[0])
        if name is None:
            raise ValueError(f"{named[0]!r} is no episode name")
        write_episode(folder, named[1], name.index, name.timestamp)

    writers = min(_MAX_WRITERS, len(os.sched_getaffinity(0)))
    # Closed, so that no thread is still writing when an interrupted export is cleared away.
    with contextlib.closing(map_ahead(write, episodes, writers)) as written:
        for _ in written:
            pass
    if procgen is not None:
        text = json.dumps(procgen, indent=2) + "\n"
        write_atomically(folder / BUILD_FILE, text.encode())


def require_new(target: Path) -> None:
    """UsageError if there is something at `target` already."""
    if os.path.lexists(target):
        raise UsageError(
            f"{target} exists already, and an export overwrites nothing: name another place, or "
            "delete it"
        )


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, hidden beside `target`; it becomes `target` at the end, or vanishes.

    What a process that was killed left there is removed first. Raises UsageError if `target`
    exists, ToolkitError if it cannot be made or another process is making it.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise ToolkitError(f"cannot write {target}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        require_new(target)  # now that nobody else can make it
        try:
            _clear(partial)
            yield partial
            _sync(partial)
            partial.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except BlockingIOError as error:
        raise ToolkitError(f"another process is writing {target}: wait for it") from error
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync(folder: Path) -> None:
    """Bring all that is in the folder to the disk: only then may it bear its name."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)
