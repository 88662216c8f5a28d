"""What the scripts of the page are given of the runs, as JSON small enough for hundreds of them.

Every run has a row in the table of runs. Its details (learning curve, levels, settings) are most of
the bytes: where those of all runs would not fit, the runs of the chosen settings have them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from common.files import readable
from common.rollout import EpisodeResult
from offline.results.comparable import NONE, setting_text
from offline.results.page_html import script_json
from offline.results.reporting import Report
from offline.results.run_files import CollectedRun, Evaluation, LearningCurve
from offline.results.statistics import SPLITS, TRAIN, score_range

MAX_POINTS = 250  # of a curve: more than a screen can show apart
MAX_CELLS = 2_000  # of a level map; of more levels only those that were played are shown
_DIGITS = 5  # of returns and losses


def page_data(report: Report, budget: int) -> dict[str, Any]:
    """Runs in the order of the collection, and what they share: `budget` bytes, if that is enough.

    Where it is not, runs are told without details.
    """
    runs = report.collection.runs
    conditions = list(dict.fromkeys(run.setting.condition for run in runs))
    common = common_settings(runs)
    names = unique_names(runs)
    told = []
    for run, name in zip(runs, names, strict=True):
        mode = run.setting.condition.distribution_mode
        told.append(
            {
                "id": name,
                "game": run.game,
                "method": run.method.upper(),
                "label": report.labels[run.setting],
                "data": conditions.index(run.setting.condition),
                "seed": run.seed,
                "trained": run.trained_mode,
                "folder": readable(run.folder),
                "range": score_range(run.game, mode),
                "results": {mode: _result(e) for mode, e in run.evaluations.items()},
            }
        )
    data = {
        "splits": SPLITS,
        "conditions": [condition.describe() for condition in conditions],
        "common": common,
        "runs": told,
    }
    budget -= len(script_json(data))
    for i in important_first(report):
        details = _details(runs[i], common)
        budget -= len(script_json({"details": details}))
        if budget < 0:
            break
        told[i]["details"] = details
    return data


def important_first(report: Report) -> list[int]:
    """Indices of all runs: first those of the settings that stand for their method."""
    chosen = {
        candidate.setting
        for comparison in report.comparisons
        for candidate in comparison.chosen.values()
    }
    runs = report.collection.runs
    return sorted(range(len(runs)), key=lambda i: runs[i].setting not in chosen)


def unique_names(runs: Sequence[CollectedRun]) -> list[str]:
    """`<env_name>/<xpid>` of each, or the whole folder where several runs share it.

    It stays the same when the report is made again, so that a link to a run goes on working.
    """
    short = [readable("/".join(run.folder.parts[-2:])) for run in runs]
    counts = Counter(short)
    pairs = zip(short, runs, strict=True)
    return [name if counts[name] == 1 else readable(run.folder) for name, run in pairs]


def common_settings(runs: Sequence[CollectedRun]) -> dict[str, str | int]:
    """By flag, in order, the value that more than half of the runs have, as text.

    Where no value is that common, the number of values.
    """
    common: dict[str, str | int] = {}
    for flag in sorted({flag for run in runs for flag in run.settings}):
        counts = Counter(setting_text(run.settings.get(flag)) for run in runs)
        value, count = counts.most_common(1)[0]
        common[flag] = value if 2 * count > len(runs) else len(counts)
    return common


def _result(evaluation: Evaluation) -> dict[str, Any]:
    """By split mean raw return, standard error (None for one episode) and episodes."""
    return {
        "checkpoint": evaluation.checkpoint,
        **{
            split: [_number(s.mean), _number(s.standard_error), s.episodes]
            for split, s in evaluation.summaries.items()
        },
    }


def _details(run: CollectedRun, common: Mapping[str, str | int]) -> dict[str, Any]:
    texts = {flag: setting_text(value) for flag, value in run.settings.items()}
    level = run.setting.condition.level
    count = run.setting.condition.num_levels
    return {
        # Settings that are as common[flag] says are left out; None is a flag that it has not.
        "settings": {
            flag: texts.get(flag) for flag, text in common.items() if texts.get(flag) != text
        },
        "curve": _curve(run.curve) if run.curve else None,
        "broken": dict(run.broken),
        "levels": {
            "count": count if level == NONE else 1,
            "cells": level == NONE and count <= MAX_CELLS,
            "played": {
                mode: _levels(evaluation.episodes[TRAIN])
                for mode, evaluation in run.evaluations.items()
                if TRAIN in evaluation.episodes
            },
        },
    }


def _curve(curve: LearningCurve) -> dict[str, Any]:
    """At most MAX_POINTS rows, evenly spread, the first and the last among them."""
    count = len(curve.epochs)
    kept = np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(int))
    return {
        "rows": count,
        "epoch": _numbers(curve.epochs[kept]),
        "loss": _numbers(curve.losses[kept]),
        **{split: _numbers(curve.returns[split][kept]) for split in SPLITS},
    }


def _levels(episodes: Sequence[EpisodeResult]) -> list[list[Any]]:
    """Levels in order, the mean raw return on each, and the number of its episodes."""
    by_level: dict[int, list[float]] = {}
    for episode in episodes:
        by_level.setdefault(episode.level_seed, []).append(episode.episode_return)
    levels = sorted(by_level)
    means = _numbers(float(np.mean(by_level[level])) for level in levels)
    return [levels, means, [len(by_level[level]) for level in levels]]


def _numbers(values: Iterable[float]) -> list[float | int | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | int | None:
    """To as many digits as are shown; JSON knows neither nan nor infinity."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded
