"""The runs below some folders, as tables, claims, figures and the page take them.

A run counts when it is finished and evaluated and its files hold together. What does not count is
told with the reason: a report must not hide what it leaves out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from common.errors import ToolkitError, UsageError
from offline.results.comparable import Setting
from offline.results.run_files import CollectedRun, read_run

# Any of these makes a folder that of a run.
_MARKS = frozenset({"meta.json", "logs.csv", "evaluate.csv"})


class LeftOut(NamedTuple):
    """A run's folder, or a file in it, that does not count, and why."""

    path: Path
    reason: str


class Collection(NamedTuple):
    """What counts, ordered by setting, game and seed, and what does not."""

    runs: list[CollectedRun]
    left_out: list[LeftOut]


def collect(paths: Sequence[Path], progress: bool = False) -> Collection:
    """Read every run at or below `paths`, each once.

    Raises UsageError for a path that is no folder.
    """
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"--save_path {path}: there is no such folder")
    runs: dict[tuple[Setting, str, int], CollectedRun] = {}
    left_out = []
    shown: Any = {"unit": " runs", "leave": False, "delay": 0.5, "disable": not progress}
    found = list(tqdm(run_folders(paths), "looking for runs", **shown))
    for folder, names in tqdm(found, "reading runs", **shown):
        try:
            if not names:
                raise ToolkitError("cannot be listed")
            run = read_run(folder, names)
        except ToolkitError as error:
            left_out.append(LeftOut(folder, str(error)))
            continue
        except OSError as error:
            left_out.append(LeftOut(folder, f"cannot be read: {error.strerror}"))
            continue
        left_out += [LeftOut(folder / name, reason) for name, reason in run.broken.items()]
        # A second run of the same setting and seed says nothing that the first did not.
        first = runs.setdefault((run.setting, run.game, run.seed), run)
        if first is not run:
            left_out.append(LeftOut(folder, f"the same setting, game and seed as {first.folder}"))
    ordered = sorted(runs.values(), key=lambda run: (run.setting, run.game, run.seed))
    return Collection(ordered, left_out)


def run_folders(paths: Sequence[Path]) -> Iterator[tuple[Path, frozenset[str]]]:
    """Every folder with the files of a run, and the names of all that is in it.

    Nothing is looked for inside a run's folder or a hidden one. Links are followed, and every
    folder is visited once, so links such as `latest` and overlapping paths do no harm. A folder
    that cannot be listed comes without names.
    """
    seen = set()
    waiting = [*reversed(paths)]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            with os.scandir(folder) as listing:
                # Links last: what they lead to is known by its own name where it has one here.
                entries = sorted(listing, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError:
            yield folder, frozenset()
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        names = frozenset(entry.name for entry in entries)
        if names & _MARKS:
            yield folder, names
        else:
            below = [Path(e) for e in entries if not e.name.startswith(".") and os.path.isdir(e)]
            waiting += reversed(below)
