"""Score against the number of training levels or the size of the data, where runs vary in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from offline.results.aggregates import Estimate, estimate, iqm
from offline.results.comparable import Condition, of_one_size, of_the_same_levels
from offline.results.comparison import Comparison, series
from offline.results.method_styles import (
    PAGE,
    SPLIT_LINES,
    SPLIT_NAMES,
    DrawnFigure,
    blank_figure,
    method_handles,
    method_style,
    point,
)
from offline.results.notes import interval_note
from offline.results.score_figures import draw_interval
from offline.results.statistics import TEST, TRAIN
from offline.run_names import short_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class _Axis(NamedTuple):
    flag: str
    label: str
    value: Callable[[Condition], int]
    alike: Callable[[Condition], Any]


_AXES = (
    _Axis("num_levels", "number of training levels", lambda c: c.num_levels, of_one_size),
    _Axis("dataset_size", "transitions of data", lambda c: c.dataset_size, of_the_same_levels),
)
_APART = 1.03  # methods stand this factor apart, so that none hides another


def scaling_figures(
    comparisons: Sequence[Comparison], generator: np.random.Generator
) -> list[DrawnFigure]:
    """One per series of comparisons that share a game; agents act as they were trained to."""
    return [
        figure
        for axis in _AXES
        for found in series(comparisons, axis.value, axis.alike)
        if (figure := _figure(axis, found, generator))
    ]


def _figure(
    axis: _Axis, found: Sequence[Comparison], generator: np.random.Generator
) -> DrawnFigure | None:
    candidates = [candidate for c in found for candidate in c.chosen.values()]
    shared = [set(candidate.runs) for candidate in candidates]
    games = sorted(set.intersection(*shared)) if shared else []
    if not games:
        return None
    names = sorted({candidate.method for candidate in candidates})
    figure = blank_figure(PAGE, 2.7)
    certain = []
    for axes, split in zip(figure.subplots(1, 2, sharey=True), (TRAIN, TEST), strict=True):
        for i, name in enumerate(names):
            points = [
                (
                    axis.value(c.condition),
                    estimate(iqm, c.chosen[name].scores(split, games), generator),
                )
                for c in found
                if name in c.chosen
            ]
            certain += [told.low is not None for _, told in points]
            _draw_method(axes, name, split, points, _APART ** (i - (len(names) - 1) / 2))
        axes.set_title(SPLIT_NAMES[split])
        axes.set_xlabel(axis.label)
        values = sorted({axis.value(c.condition) for c in found})
        axes.set_xscale("log")
        axes.set_xticks(values, [short_size(value) for value in values])
        axes.set_xticks([], minor=True)
        axes.margins(x=0.1)
    figure.axes[0].set_ylabel("normalised score (IQM)")
    figure.legend(handles=method_handles(names), loc="outside upper left", ncols=len(names))
    seeds = {len(c.runs[game]) for c in candidates for game in games}
    parts = [
        f"Interquartile mean of normalised returns against --{axis.flag}, on the games that all of "
        f"these runs have: {', '.join(games)}; {min(seeds)} to {max(seeds)} seeds each.",
        "Filled, left: training levels; hollow, right: unseen test levels. Methods stand a little "
        "apart so that none hides another.",
        interval_note(certain, "Bars"),
        "Data: " + "; ".join(dict.fromkeys(c.condition.describe() for c in found)) + ".",
    ]
    return DrawnFigure(axis.flag, f"Score against {axis.label}", " ".join(parts), figure)


def _draw_method(
    axes: Axes, name: str, split: str, points: Sequence[tuple[int, Estimate]], apart: float
) -> None:
    style = method_style(name)
    places = [value * apart for value, _ in points]
    for place, (_, told) in zip(places, points, strict=True):
        draw_interval(axes, place, told, style.colour)
    axes.plot(
        places,
        [told.value for _, told in points],
        linestyle=SPLIT_LINES[split],
        label=f"{name} {split}",
        **point(split, style.colour, style.marker),
    )
