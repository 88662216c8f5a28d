"""What a comparison comes to: a point per method with its 95% interval, and the generalisation gap.

Each function gives None where the comparison has nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from offline.results.aggregates import Estimate, iqm
from offline.results.comparison import GAP, Comparison
from offline.results.method_styles import (
    COLUMN,
    GREY,
    SPLIT_LINES,
    SPLIT_NAMES,
    DrawnFigure,
    blank_figure,
    method_style,
    point,
    split_handles,
)
from offline.results.notes import (
    chosen_notes,
    counted,
    interval_note,
    left_out_notes,
    source_notes,
)
from offline.results.references import Reference
from offline.results.statistics import TEST, TRAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Estimates = Mapping[str, Mapping[str, Estimate]]  # by split and method
_OFFSETS = {TRAIN: -0.17, TEST: 0.17}  # of a method's place on the axis
_INCHES, _INCHES_OF_PLAYERS = 0.42, 0.58  # per place; the names of players are longer
_HEIGHT = 2.5


def score_figure(comparison: Comparison, references: Sequence[Reference]) -> DrawnFigure | None:
    """IQM on training and on test levels, side by side for each method."""
    told = _estimates(comparison, (TRAIN, TEST))
    if not told:
        return None
    beside = _of_references(comparison, references, told)
    figure = _draw(told, beside)
    axes = figure.axes[0]
    axes.set_ylabel("normalised score (IQM)")
    if len(told) > 1:
        figure.legend(
            handles=split_handles(told, lines=False), loc="outside upper left", ncols=len(told)
        )
    marks = "Filled: training levels; hollow: unseen test levels." if TEST in told else ""
    where = " and ".join(SPLIT_NAMES[split] for split in told)
    what = f"Interquartile mean of normalised returns on {where}"
    caption = _caption(what, marks, comparison, told, beside, references)
    return DrawnFigure("scores", "Scores", caption, figure)


def gap_figure(comparison: Comparison, references: Sequence[Reference]) -> DrawnFigure | None:
    """IQM over runs of training minus test score."""
    told = _estimates(comparison, (GAP,))
    if not told:
        return None
    beside = _of_references(comparison, references, told)
    figure = _draw(told, beside)
    figure.axes[0].set_ylabel("training − test score (IQM)")
    what = (
        "Generalisation gap: interquartile mean over runs of the normalised return on training "
        "levels minus that on unseen test levels"
    )
    caption = _caption(what, "", comparison, told, beside, references)
    return DrawnFigure("gap", "Generalisation gap", caption, figure)


def reference_iqms(
    references: Sequence[Reference], games: Sequence[str], distribution_mode: str, split: str
) -> dict[str, float]:
    """IQM over `games` on a split, or of the `GAP`, by the reference's name.

    Without references that lack one of the games.
    """
    found = {}
    for reference in references:
        parts = (TRAIN, TEST) if split == GAP else (split,)
        scores = [np.array(reference.scores(part, games, distribution_mode)) for part in parts]
        if games and all(part.size == len(games) for part in scores):
            found[reference.name] = float(
                iqm([scores[0] - scores[1] if split == GAP else scores[0]])
            )
    return found


def draw_interval(axes: Axes, x: float, estimate: Estimate, colour: str, of: str) -> None:
    """The interval as a bar with ends, labelled by whose it is; nothing where there is none."""
    if estimate.low is not None and estimate.high is not None:
        ends = [estimate.low, estimate.high]
        axes.plot([x, x], ends, color=colour, marker="_", markersize=5.0, label=f"interval of {of}")


def _estimates(comparison: Comparison, splits: Sequence[str]) -> Estimates:
    """IQMs by split and method, without splits that no method has."""
    told = {
        split: {m: told.iqm for (m, s), told in comparison.aggregates.items() if s == split}
        for split in splits
    }
    return {split: values for split, values in told.items() if values}


def _of_references(
    comparison: Comparison, references: Sequence[Reference], splits: Sequence[str] | Estimates
) -> dict[str, dict[str, float]]:
    mode = comparison.condition.distribution_mode
    return {split: reference_iqms(references, comparison.games, mode, split) for split in splits}


def _draw(told: Estimates, beside: Mapping[str, Mapping[str, float]]) -> Figure:
    """A place on the axis per method, then one per reference player, whose lines go across."""
    methods = list(dict.fromkeys(name for values in told.values() for name in values))
    players = list(dict.fromkeys(name for values in beside.values() for name in values))
    places = {name: float(place) for place, name in enumerate([*methods, *players])}
    inches = (_INCHES_OF_PLAYERS if players else _INCHES) * len(places)
    figure = blank_figure(max(COLUMN, 0.7 + inches), _HEIGHT)
    axes = figure.add_subplot()
    axes.axhline(0.0, color="#BBBBBB", linewidth=0.8, zorder=0.5, label="zero")
    for split, values in told.items():
        offset = _OFFSETS[split] if len(told) > 1 else 0.0
        line = SPLIT_LINES.get(split, "solid")
        for name, estimate in values.items():
            style = method_style(name)
            draw_interval(axes, places[name] + offset, estimate, style.colour, f"{name} {split}")
            marks = point(split, style.colour, style.marker)
            axes.plot(places[name] + offset, estimate.value, label=f"{name} {split}", **marks)
        for name, score in beside[split].items():
            axes.axhline(score, color="#999999", linewidth=0.8, linestyle=line, zorder=1)
            axes.plot(
                places[name] + offset, score, label=f"{name} {split}", **point(split, GREY, "*")
            )
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xticks(
        list(places.values()),
        [*(m.upper() for m in methods), *(p.replace(" ", "\n") for p in players)],
    )
    axes.tick_params(axis="x", length=0)
    return figure


def _caption(
    what: str,
    marks: str,
    comparison: Comparison,
    told: Estimates,
    beside: Mapping[str, Mapping[str, float]],
    references: Sequence[Reference],
) -> str:
    shown = {name for values in beside.values() for name in values}
    certain = [e.low is not None for values in told.values() for e in values.values()]
    values = []
    for split, estimates in told.items():
        points = {name.upper(): estimate.value for name, estimate in estimates.items()}
        points |= beside[split]
        listed = ", ".join(f"{name} {value:.2f}" for name, value in points.items())
        values.append(f"{SPLIT_NAMES.get(split, 'Gap').capitalize()}: {listed}.")
    parts = [
        f"{what}; {counted(comparison.chosen.values(), comparison.games)}.",
        marks,
        interval_note(certain, "Bars"),
        *values,
        *left_out_notes(comparison),
        *chosen_notes(comparison),
        *source_notes(reference for reference in references if reference.name in shown),
    ]
    return " ".join(part for part in parts if part)
