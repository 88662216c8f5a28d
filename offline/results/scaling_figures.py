"""Score against the number of training levels or the size of the data, where runs vary in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from offline.results.aggregates import Estimate, estimate, iqm
from offline.results.comparable import BY_LEVELS, BY_SIZE, Axis, shared_parts
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
    reference_handles,
    reference_line,
)
from offline.results.notes import checkpoint_notes, counted, interval_note, source_notes
from offline.results.references import Reference
from offline.results.score_figures import draw_interval, reference_iqms
from offline.results.statistics import TEST, TRAIN
from offline.run_names import short_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_APART = 1.03  # methods stand this factor apart, so that none hides another


def scaling_figures(
    comparisons: Mapping[Comparison, Sequence[Reference]], generator: np.random.Generator
) -> list[DrawnFigure]:
    """One per series of comparisons that share a game; agents act as they were trained to.

    `comparisons` come with their reference players; those of a whole series are shown.
    """
    return [
        figure
        for axis in (BY_LEVELS, BY_SIZE)
        for found in series(comparisons, axis)
        if (figure := _figure(axis, {c: comparisons[c] for c in found}, generator))
    ]


def _figure(
    axis: Axis,
    found: Mapping[Comparison, Sequence[Reference]],
    generator: np.random.Generator,
) -> DrawnFigure | None:
    candidates = [candidate for c in found for candidate in c.chosen.values()]
    shared = [set(candidate.runs) for candidate in candidates]
    games = sorted(set.intersection(*shared)) if shared else []
    if not games:
        return None
    names = sorted({candidate.method for candidate in candidates})
    first, *others = found.values()
    players = [r for r in first if all(r.name in {o.name for o in other} for other in others)]
    mode = next(iter(found)).condition.distribution_mode
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
        beside = reference_iqms(players, games, mode, split)
        for name, score in beside.items():
            axes.axhline(score, label=name, **reference_line(name))
        axes.set_title(SPLIT_NAMES[split])
        axes.set_xlabel(axis.label)
        values = sorted({axis.value(c.condition) for c in found})
        axes.set_xscale("log")
        axes.set_xticks(values, [short_size(value) for value in values])
        axes.set_xticks([], minor=True)
        axes.margins(x=0.1)
    figure.axes[0].set_ylabel("normalised score (IQM)")
    shown = [player for player in players if player.name in beside]
    handles = [*method_handles(names), *reference_handles(player.name for player in shown)]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    parts = [
        f"Interquartile mean of normalised returns against --{axis.flag}, on the games that all of "
        f"these runs have: {counted(candidates, games)}.",
        "Filled, left: training levels; hollow, right: unseen test levels. Methods stand a little "
        "apart so that none hides another.",
        interval_note(certain, "Bars"),
        "Data: " + "; ".join(dict.fromkeys(c.condition.describe() for c in found)) + ".",
        *checkpoint_notes(candidates),
        *source_notes(shown),
    ]
    title = f"Score against {axis.label}: {shared_parts([c.condition for c in found])}"
    return DrawnFigure(f"by-{axis.flag}", title, " ".join(parts), figure)


def _draw_method(
    axes: Axes, name: str, split: str, points: Sequence[tuple[int, Estimate]], apart: float
) -> None:
    style = method_style(name)
    places = [value * apart for value, _ in points]
    for place, (_, told) in zip(places, points, strict=True):
        draw_interval(axes, place, told, style.colour, f"{name} {split}")
    axes.plot(
        places,
        [told.value for _, told in points],
        linestyle=SPLIT_LINES[split],
        label=f"{name} {split}",
        **point(split, style.colour, style.marker),
    )
