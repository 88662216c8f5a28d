"""Recorded play on the page: what `offline.record` left in the runs' folders, as far as it fits."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import ToolkitError
from common.files import readable
from offline.results.run_files import CollectedRun
from offline.results.statistics import SPLITS

FOLDER = "play"
_WORDS = 400  # bytes that tell of a film, its path aside: title, reason, tags
# How a file of each kind begins, so that only what browsers show is embedded: (offset, bytes).
_BEGINNINGS = {"gif": (0, b"GIF8"), "mp4": (4, b"ftyp"), "png": (0, b"\x89PNG")}
_SPLITS = {"train": "training levels", "val": "validation levels", "test": "unseen test levels"}
_FILMS = {
    "": "",
    "_best_median_worst": ": best, median and worst episode",
    "_levels": ": first frames",
    "_best_median_worst_levels": ": first frames of the best, median and worst episode",
}


class Film(NamedTuple):
    """A file of recorded play: `data` are its bytes in base64, or "" and `reason` says why."""

    path: Path
    kind: str
    title: str
    data: str
    reason: str


def films(runs: Sequence[CollectedRun], order: Sequence[int], budget: int) -> list[list[Film]]:
    """The films of each run, embedded while they and what is said of all fit into `budget` bytes.

    Every run of `order` (indices of runs) has its first film embedded before one its second.
    """
    found = [_files(run.folder / FOLDER) for run in runs]
    budget -= sum(_WORDS + len(json.dumps(readable(path))) for paths in found for path in paths)
    told: list[dict[Path, Film]] = [{} for _ in runs]
    for rank in range(max(map(len, found), default=0)):
        for i in order:
            if rank < len(found[i]):
                path = found[i][rank]
                film = _film(path, budget)
                budget -= len(film.data)
                told[i][path] = film
    return [list(of_run.values()) for of_run in told]


def _files(folder: Path) -> list[Path]:
    """Films and pictures in order: training levels first, unseen ones last."""
    try:
        names = [name for name in os.listdir(folder) if name.rpartition(".")[2] in _BEGINNINGS]
    except OSError:
        return []  # nothing was filmed
    splits = list(_SPLITS)

    def rank(name: str) -> tuple[bool, int, str]:
        split = name.rpartition(".")[0].partition("_")[0]
        return (
            name.endswith(".png"),
            splits.index(split) if split in splits else len(SPLITS),
            name,
        )

    return [folder / name for name in sorted(names, key=rank)]


def _film(path: Path, budget: int) -> Film:
    stem, _, kind = path.name.rpartition(".")
    split, underscore, rest = stem.partition("_")
    known = split in _SPLITS and underscore + rest in _FILMS
    title = _SPLITS[split] + _FILMS[underscore + rest] if known else stem
    try:
        data, reason = _embedded(path, kind, budget), ""
    except ToolkitError as error:
        data, reason = "", str(error)
    return Film(path, kind, readable(title), data, reason)


def _embedded(path: Path, kind: str, budget: int) -> str:
    """The file in base64; ToolkitError, without its name, if it is not for the page."""
    try:
        if not path.is_file():
            raise ToolkitError("no file")
        size = path.stat().st_size
        if 4 * -(-size // 3) > budget:
            raise ToolkitError(f"{size / 1e6:.1f} MB, for which the page has no room")
        contents = path.read_bytes()
    except OSError as error:
        raise ToolkitError(f"cannot be read: {error.strerror}") from error
    offset, beginning = _BEGINNINGS[kind]
    if not contents[offset:].startswith(beginning):
        raise ToolkitError(f"no {kind.upper()} file")
    return base64.b64encode(contents).decode()
