"""The tables of a report, as data; `table_files.py` writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from offline.results.aggregates import iqm, mean, median, optimality_gap
from offline.results.comparison import GAP, Comparison
from offline.results.notes import (
    checkpoint_notes,
    chosen_notes,
    left_out_notes,
    seeds_notes,
    source_notes,
)
from offline.results.references import Reference
from offline.results.statistics import SPLITS, TEST, TRAIN, standard_error
from offline.results.table_files import Cell, MeanError, Table

_HEADINGS = {**{split: split for split in SPLITS}, GAP: "gap (train - test)"}
_RAW = "Mean raw return over seeds ± its standard error."
_INTERVALS = "Normalised score with 95% stratified bootstrap interval over seeds."


def per_game(comparison: Comparison, references: Sequence[Reference]) -> Table:
    """Mean raw return over seeds with its standard error: a row per game and method."""
    every = sorted({game for c in comparison.chosen.values() for game in c.runs})
    references = [reference for reference in references if set(every) & set(reference.returns)]
    rows: list[list[Cell]] = []
    for game in every:
        for name, candidate in comparison.chosen.items():
            if game in candidate.runs:
                values = [candidate.returns(split, game) for split in _HEADINGS]
                cells = [MeanError(v.mean(), standard_error(v)) if v.size else None for v in values]
                rows.append([game, name.upper(), len(candidate.runs[game]), *cells])
        for reference in references:
            if returns := reference.returns.get(game):
                told = {**returns, **_gap(returns)}
                rows.append([game, reference.name, None, *_certain(told)])
    return Table(
        comparison.describe(),
        ["game", "method", "seeds", *_HEADINGS.values()],
        rows,
        [_RAW, *chosen_notes(comparison), *source_notes(references)],
    )


def aggregate(comparison: Comparison, references: Sequence[Reference]) -> Table:
    """IQM, median, mean and optimality gap over games and seeds: a row per method and split."""
    rows: list[list[Cell]] = []
    for (name, split), told in comparison.aggregates.items():
        gap = None if split == GAP else told.optimality_gap
        rows.append([name.upper(), _HEADINGS[split], told.iqm, told.median, told.mean, gap])
    shown = []
    for reference in references:
        for split in SPLITS:
            mode = comparison.condition.distribution_mode
            scores = [np.array([s]) for s in reference.scores(split, comparison.games, mode)]
            if scores and len(scores) == len(comparison.games):
                certain = [float(f(scores)) for f in (iqm, median, mean, optimality_gap)]
                rows.append([reference.name, _HEADINGS[split], *certain])
                shown.append(reference)
    notes = [
        f"{_INTERVALS} Games that all methods have: {', '.join(comparison.games) or 'none'}.",
        *_games_note(comparison),
        *chosen_notes(comparison),
        *source_notes(shown),
    ]
    header = ["method", "levels", "IQM", "median", "mean", "optimality gap"]
    return Table(comparison.describe(), header, rows, notes)


def improvement(comparison: Comparison) -> Table:
    """How likely the row's method beats the column's on test levels."""
    names = sorted({a for a, _ in comparison.improvement})
    rows: list[list[Cell]] = [
        [a.upper(), *(comparison.improvement.get((a, b)) for b in names)] for a in names
    ]
    notes = [
        "Probability that a run of the row's method beats one of the column's on test levels, "
        "averaged over games, with 95% stratified bootstrap interval; where all runs of one beat "
        "all of the other, that of Clopper and Pearson.",
        *_games_note(comparison),
        *checkpoint_notes(comparison.chosen.values()),
    ]
    return Table(comparison.describe(), ["method", *(b.upper() for b in names)], rows, notes)


def settings(comparison: Comparison) -> Table:
    """Every setting of a sweep by its validation levels; test numbers of the chosen ones alone."""
    rows: list[list[Cell]] = []
    for method in comparison.methods:
        for candidate in method.candidates:
            chosen = candidate is method.chosen
            told = {
                split: comparison.aggregates[method.name, split].iqm
                for split in (TRAIN, TEST)
                if chosen and (method.name, split) in comparison.aggregates
            }
            rows.append(
                [
                    method.name.upper(),
                    candidate.label or "the only one",
                    candidate.mode,
                    candidate.checkpoint,
                    len(candidate.runs),
                    sum(map(len, candidate.runs.values())),
                    candidate.validation,
                    "chosen" if chosen else "",
                    told.get(TRAIN),
                    told.get(TEST),
                ]
            )
    header = (
        "method,setting,acts,checkpoint,games,runs,validation IQM,choice,train IQM,test IQM".split(
            ","
        )
    )
    notes = [
        f"{_INTERVALS} Chosen on validation levels alone, among the settings with the most games; "
        "train and test are shown of the chosen one, on the games that all methods have.",
    ]
    return Table(comparison.describe(), header, rows, notes)


TABLES: Mapping[str, Callable[[Comparison, Sequence[Reference]], Table]] = {
    "aggregates": aggregate,
    "per_game": per_game,
    "improvement": lambda comparison, _: improvement(comparison),
    "settings": lambda comparison, _: settings(comparison),
}


def _gap(returns: Mapping[str, float]) -> dict[str, float]:
    both = TRAIN in returns and TEST in returns
    return {GAP: returns[TRAIN] - returns[TEST]} if both else {}


def _certain(returns: Mapping[str, float]) -> list[Cell]:
    return [returns.get(split) for split in _HEADINGS]


def _games_note(comparison: Comparison) -> list[str]:
    notes = [*left_out_notes(comparison), *seeds_notes(comparison)]
    if any(told.iqm.low is None for told in comparison.aggregates.values()):
        notes.append("[-]: a game with one seed leaves no interval.")
    return notes
