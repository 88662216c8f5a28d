"""Performance profiles: of each method, how large a share of its runs beats any given score."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offline.results.aggregates import performance_profile
from offline.results.comparison import Comparison
from offline.results.method_styles import (
    COLUMN,
    DrawnFigure,
    blank_figure,
    line_marker,
    method_handles,
    method_style,
    reference_handles,
    reference_line,
)
from offline.results.notes import chosen_notes, counted, interval_note, left_out_notes, source_notes
from offline.results.references import Reference
from offline.results.statistics import TEST

_THRESHOLDS = 101


def profile_figure(
    comparison: Comparison, references: Sequence[Reference], generator: np.random.Generator
) -> DrawnFigure | None:
    """Profiles on test levels (Agarwal et al. 2021); None where no method played them.

    Reference players have one score per game, so their steps are shares of games.
    """
    games, mode = comparison.games, comparison.condition.distribution_mode
    scores = {
        name: candidate.scores(TEST, games)
        for name, candidate in comparison.chosen.items()
        if (name, TEST) in comparison.aggregates
    }
    if not scores:
        return None
    players = [r for r in references if len(r.scores(TEST, games, mode)) == len(games)]
    every = np.concatenate([runs for by_game in scores.values() for runs in by_game])
    low, high = (math.floor(10 * min(0.0, every.min())) / 10, math.ceil(10 * every.max()) / 10)
    high = max(high, low + 0.1)  # where all runs score the same, 0 or below
    thresholds = np.linspace(low, high, _THRESHOLDS)
    figure = blank_figure(COLUMN, 2.9)
    axes = figure.add_subplot()
    certain = []
    for i, (name, by_game) in enumerate(scores.items()):
        style = method_style(name)
        profile = performance_profile(by_game, thresholds, generator)
        certain.append(profile.low is not None)
        if profile.low is not None and profile.high is not None:
            axes.fill_between(
                thresholds, profile.low, profile.high, color=style.colour, alpha=0.15, linewidth=0
            )
        axes.plot(
            thresholds,
            profile.shares,
            color=style.colour,
            **line_marker(style, 5.5),
            markevery=_marks(profile.shares, i, len(scores)),
            label=name,
        )
    for player in players:
        reached = np.sort(player.scores(TEST, games, mode))
        shares = 1 - np.searchsorted(reached, thresholds, side="right") / len(reached)
        axes.plot(thresholds, shares, label=player.name, **reference_line(player.name))
    axes.set_ylim(0.0, 1.04)
    axes.set_xlim(low, high)
    axes.set_xlabel("normalised score τ on test levels")
    axes.set_ylabel("share of runs above τ")
    figure.legend(
        handles=[*method_handles(scores), *reference_handles(p.name for p in players)],
        loc="outside upper left",
        ncols=3,
    )
    parts = [
        "Performance profiles: the share of runs whose normalised return on unseen test levels is "
        f"above τ, every game counting alike; {counted(comparison.chosen.values(), games)}.",
        interval_note(certain, "Bands, pointwise"),
        *left_out_notes(comparison),
        *chosen_notes(comparison),
        *source_notes(players),
    ]
    return DrawnFigure("profiles", "Performance profiles on test levels", " ".join(parts), figure)


def _marks(shares: NDArray[np.float64], place: int, places: int) -> list[int]:
    """Where a profile is marked: at two heights that are its own, so that none hides another."""
    heights = ((place + 0.5) / places, ((place + places / 2) % places + 0.5) / places)
    return sorted({int((shares >= height).sum()) - 1 for height in heights} - {-1})
