"""The first frame of each episode: all that an agent knows of a level before it moves.

Levels that start alike overlap, and so may training and test levels. To the last pixel that is so
in three games: of the 200 easy training levels, 2 of coinrun, 8 of maze and 10 of ninja start just
like another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from common.games import FRAME_BYTES
from offline.data.store import Selection, damaged


@dataclass(frozen=True)
class FirstFrames:
    """First frames compared across levels; Procgen always starts a level with the same one.

    `distinct` frames start the levels with a known seed. `shared` of these levels start like
    another one, as the two of `example` do. `changing` levels start with several frames, the level
    `changing_example` among them: their seeds are wrong, or several builds drew them.
    `validation_levels_seen` is how many validation levels start with a frame of the data; None if
    that is not known, since the installed Procgen cannot draw them as the data are.
    """

    distinct: int
    shared: int
    example: tuple[int, int] | None
    changing: int
    changing_example: int | None
    validation_levels_seen: int | None


def frame_hash(frame: bytes) -> int:
    """64 bits: two of a million different frames collide once in 40 million data sets."""
    return int.from_bytes(hashlib.blake2b(frame, digest_size=8).digest(), "little")


def first_frame_hashes(selection: Selection, title: str, progress: bool = True) -> np.ndarray:
    """The hash of each episode's first frame (episodes,) uint64.

    Read past the memory maps: where episodes are as short as in coinrun, their read-ahead fetches
    the whole file. Raises StoreError for a file that has become shorter.
    """
    hashes = np.empty(len(selection.episodes), np.uint64)
    paths = [store.path / "frames.npy" for store in selection.stores]
    for path, store in zip(paths, selection.stores, strict=True):
        if path.stat().st_size < store.frames.nbytes:
            raise damaged(store.path, f"{path.name} is shorter than it was")
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb", buffering=0)) for path in paths]
        rows = zip(selection.store_of.tolist(), selection.episodes["start"].tolist(), strict=True)
        off = {} if progress else {"disable": True}  # not False: that would overrule TQDM_DISABLE
        bar = tqdm(rows, title, len(hashes), unit="episode", delay=1, **off)
        for i, (store, row) in enumerate(bar):
            files[store].seek(FRAME_BYTES * (row - selection.stores[store].num_rows), os.SEEK_END)
            hashes[i] = frame_hash(files[store].read(FRAME_BYTES))
    return hashes


def compare_first_frames(
    level_seeds: np.ndarray, hashes: np.ndarray, validation_hashes: Iterable[int] | None
) -> FirstFrames:
    """Compare episodes by level seed (episodes,), -1 where unknown, and first frame (episodes,).

    `validation_hashes` are of the first frames of the validation levels, None if not known.
    """
    known = level_seeds >= 0
    starts = np.stack([level_seeds[known].astype(np.uint64), hashes[known]], axis=1)
    levels, frames = np.unique(starts, axis=0).T  # each level with each of its first frames
    different, frame, levels_with = np.unique(frames, return_inverse=True, return_counts=True)
    shared = levels_with[frame] > 1
    example = None
    if shared.any():
        first, second = levels[frame == frame[np.argmax(shared)]][:2]
        example = int(first), int(second)
    seeds, frames_of = np.unique(levels, return_counts=True)
    changing = seeds[frames_of > 1]
    seen = None
    if validation_hashes is not None:
        seen = int(np.isin(np.array(list(validation_hashes), np.uint64), hashes).sum())
    return FirstFrames(
        distinct=len(different),
        shared=len(np.unique(levels[shared])),
        example=example,
        changing=len(changing),
        changing_example=int(changing[0]) if len(changing) else None,
        validation_levels_seen=seen,
    )
