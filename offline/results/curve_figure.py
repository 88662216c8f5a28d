"""Learning curves of a comparison: a panel per game, mean returns over seeds while they trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.results.comparable import NONE
from offline.results.comparison import Comparison
from offline.results.method_styles import (
    COLUMN,
    PAGE,
    SPLIT_LINES,
    DrawnFigure,
    blank_figure,
    line_marker,
    method_handles,
    method_style,
    reference_handles,
    reference_line,
    split_handles,
)
from offline.results.notes import chosen_notes, counted, source_notes
from offline.results.references import Reference
from offline.results.run_files import CollectedRun, LearningCurve
from offline.results.statistics import TEST, TRAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 50  # of a curve: a panel is about 100 points of print wide
_LOGARITHMIC = 4  # epochs are, where one method trains this many times longer than another
_BETWEEN_MARKERS = 12


class MeanCurve(NamedTuple):
    """Mean returns (n,) over runs and their standard errors (n,); None for one run."""

    epochs: NDArray[np.float64]
    means: NDArray[np.float64]
    errors: NDArray[np.float64] | None


def mean_curve(curves: Iterable[LearningCurve], split: str) -> MeanCurve | None:
    """The mean over runs at every epoch at which one was evaluated; None without evaluations.

    It starts where all have been evaluated. Between two evaluations a run goes straight, and after
    its last it stays: a run that stopped early keeps its agent.
    """
    told = [
        (curve.epochs[known], curve.returns[split][known])
        for curve in curves
        if (known := np.isfinite(curve.returns[split])).any()
    ]
    if not told:
        return None
    epochs = np.unique(np.concatenate([own for own, _ in told]))
    epochs = epochs[epochs >= max(own[0] for own, _ in told)]
    values = np.stack([np.interp(epochs, own, returns) for own, returns in told])
    errors = values.std(0, ddof=1) / math.sqrt(len(told)) if len(told) > 1 else None
    return MeanCurve(epochs, values.mean(0), errors)


def curve_figure(comparison: Comparison, references: Sequence[Reference]) -> DrawnFigure | None:
    """Every game that a method has, in its own panel; None where no run has a log to read.

    Reference players are shown by their return on test levels.
    """
    runs = [run for c in comparison.chosen.values() for own in c.runs.values() for run in own]
    logged = [run for run in runs if run.curve]
    if not logged:
        return None
    games = sorted({run.game for run in logged})
    # A single level stands for all three splits in the log.
    splits = (TRAIN, TEST) if comparison.condition.level == NONE else (TRAIN,)
    figure, panels = _panels(len(games))
    for axes, game in zip(panels, games, strict=True):
        axes.set_title(game, pad=3)
        for i, (name, candidate) in enumerate(comparison.chosen.items()):
            curves = [run.curve for run in candidate.runs.get(game, ()) if run.curve]
            for split in splits:
                if mean := mean_curve(curves, split):
                    _draw_curve(axes, mean, name, split, 2 * i)
        for reference in references:
            if (value := reference.returns.get(game, {}).get(TEST)) is not None:
                axes.axhline(value, label=reference.name, **reference_line(reference.name))
    _set_epochs(panels, [run.curve.epochs for run in logged if run.curve])
    shown = [r for r in references if any(TEST in r.returns.get(game, {}) for game in games)]
    names = [name for name in comparison.chosen if any(run.method == name for run in logged)]
    figure.legend(
        handles=[
            *method_handles(names),
            *split_handles(splits, lines=True),
            *reference_handles(r.name for r in shown),
        ],
        loc="outside upper left",
        ncols=6 if len(games) > 1 else 3,
    )
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel("mean return per episode", fontsize="medium")
    return DrawnFigure(
        "curves",
        "Learning curves",
        _caption(comparison, runs, games, splits, shown),
        figure,
    )


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(4, math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    height = {1: 2.8, 2: 1.9, 3: 1.6, 4: 1.35}[columns]
    figure = blank_figure(PAGE if columns > 1 else COLUMN, 0.7 + height * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for unused in grid.flat[count:]:
        unused.remove()
    for above in grid.flat[: max(count - columns, 0)]:
        above.tick_params(labelbottom=False)
    return figure, list(grid.flat[:count])


def _set_epochs(panels: Sequence[Axes], logged: Sequence[NDArray[np.float64]]) -> None:
    """One epoch axis for all panels. Sharing it would set all anew with every curve."""
    ends = [epochs[-1] for epochs in logged]
    first = min(epochs[0] for epochs in logged)
    logarithmic = first > 0 and max(ends) > _LOGARITHMIC * min(ends)
    for axes in panels:
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlim(first / 1.1, 1.1 * max(ends))
        else:
            room = 0.04 * (max(ends) - first) or 0.5
            axes.set_xlim(first - room, max(ends) + room)
            axes.locator_params(axis="x", integer=True)


def _draw_curve(axes: Axes, mean: MeanCurve, name: str, split: str, first_marker: int) -> None:
    kept = np.unique(np.linspace(0, len(mean.epochs) - 1, MAX_POINTS).round().astype(int))
    style, epochs, means = method_style(name), mean.epochs[kept], mean.means[kept]
    if mean.errors is not None:
        errors = mean.errors[kept]
        axes.fill_between(
            epochs, means - errors, means + errors, color=style.colour, alpha=0.15, linewidth=0
        )
    axes.plot(
        epochs,
        means,
        color=style.colour,
        linestyle=SPLIT_LINES[split],
        linewidth=0.9,
        **line_marker(style, 4.6),
        markevery=(first_marker % len(epochs), _BETWEEN_MARKERS),
        label=f"{name} {split}",
    )


def _caption(
    comparison: Comparison,
    runs: Sequence[CollectedRun],
    games: Sequence[str],
    splits: Sequence[str],
    references: Sequence[Reference],
) -> str:
    several = any(len(c.runs[g]) > 1 for c in comparison.chosen.values() for g in c.runs)
    episodes = {run.settings["num_eval_episodes"] for run in runs}
    unread = sum(run.curve is None for run in runs)
    parts = [
        f"Mean raw return while training; {counted(comparison.chosen.values(), games)}"
        + (f", {min(episodes)} episodes per evaluation." if len(episodes) == 1 else "."),
        "Solid: training levels; dashed: unseen test levels." if TEST in splits else "",
        "Bands: ± 1 standard error over seeds." if several else "One seed: no band.",
        "A run that stopped early stays at its last value." if several else "",
        f"Runs left out because their logs.csv cannot be read: {unread}." if unread else "",
        *(f"{reference.name}: return on test levels." for reference in references),
        *chosen_notes(comparison),
        *source_notes(references),
    ]
    return " ".join(part for part in parts if part)
