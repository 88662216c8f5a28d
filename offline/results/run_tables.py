"""results.csv and episodes.csv: every number of a report's runs, for any other tool to read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.files import write_atomically
from offline.results.comparable import Setting
from offline.results.run_files import CollectedRun

_OF_RUN = ("game", "method", "setting", "data", "seed", "mode", "as_trained", "split")
RESULT_COLUMNS = (
    *_OF_RUN,
    "return",
    "standard_error",
    "normalised",
    "episodes",
    "checkpoint",
    "folder",
)
EPISODE_COLUMNS = (*_OF_RUN, "level_seed", "return", "length")


def write_results(path: Path, runs: Sequence[CollectedRun], labels: Mapping[Setting, str]) -> None:
    """One row per run, acting mode and split; `labels` say how settings differ.

    `return` is the mean raw return with its standard error over episodes (nan for one episode);
    `as_trained` marks the mode that the run was trained to act in.
    """
    rows = (
        [
            *_facts(run, mode, labels),
            split,
            summary.mean,
            summary.standard_error,
            summary.normalised,
            summary.episodes,
            evaluation.checkpoint,
            run.folder,
        ]
        for run in runs
        for mode, evaluation in run.evaluations.items()
        for split, summary in evaluation.summaries.items()
    )
    _write(path, RESULT_COLUMNS, rows)


def write_episodes(path: Path, runs: Sequence[CollectedRun], labels: Mapping[Setting, str]) -> None:
    """One row per episode: the level's seed, raw return and length in steps."""
    rows = (
        [*facts, split, *episode]
        for run in runs
        for mode, evaluation in run.evaluations.items()
        for facts in [_facts(run, mode, labels)]
        for split, episodes in evaluation.episodes.items()
        for episode in episodes
    )
    _write(path, EPISODE_COLUMNS, rows)


def _facts(run: CollectedRun, mode: str, labels: Mapping[Setting, str]) -> list[object]:
    data = run.setting.condition.describe()
    setting = labels[run.setting] or "the only one"
    return [run.game, run.method, setting, data, run.seed, mode, mode == run.trained_mode]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    buffer = io.BytesIO()
    # A folder's name need not be UTF-8.
    text = io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    text.flush()
    write_atomically(path, buffer.getbuffer())
