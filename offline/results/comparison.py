"""Methods beside each other: the same data and levels, the same way of acting, the same games.

Where a method was swept over settings, the one that is best on validation levels stands for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.results.aggregates import (
    Aggregates,
    Estimate,
    aggregates,
    estimate,
    iqm,
    probability_of_improvement,
)
from offline.results.comparable import NONE, Axis, Condition, Setting, data_of
from offline.results.run_files import (
    AS_TRAINED,
    DETERMINISTIC,
    FINAL,
    SAMPLED,
    UNKNOWN,
    CollectedRun,
)
from offline.results.statistics import SPLITS, TEST, TRAIN, VALIDATION, SplitSummary

GAP = "gap"  # beside the splits: training minus test levels, run by run


@dataclass(frozen=True, eq=False)
class Candidate:
    """A setting of a method, acting in one mode, SAMPLED or DETERMINISTIC, from one checkpoint.

    `label` says how it differs from the method's other settings; `runs` are by game, in order of
    seeds. `validation` is its IQM on validation levels, over the games that all rivals have; None
    where it was not among those to choose from.
    """

    setting: Setting
    label: str
    mode: str
    checkpoint: str  # as `Evaluation` has it
    runs: Mapping[str, Sequence[CollectedRun]]
    validation: Estimate | None = None

    @property
    def method(self) -> str:
        return self.setting.method

    def summaries(self, game: str) -> list[Mapping[str, SplitSummary]]:
        """What each of the game's runs reached, by split; in order of seeds."""
        played = [run.evaluations[self.mode] for run in self.runs.get(game, ())]
        return [evaluation.summaries for evaluation in played]

    def returns(self, split: str, game: str) -> NDArray[np.float64]:
        """Mean raw returns (seeds,) on a split, or the `GAP`; empty where it was not played."""
        return self._values(split, game, "mean")

    def scores(self, split: str, games: Iterable[str]) -> list[NDArray[np.float64]]:
        """Normalised returns, as `aggregates` takes them: (seeds,) for each of the games."""
        return [self._values(split, game, "normalised") for game in games]

    def _values(self, split: str, game: str, field: str) -> NDArray[np.float64]:
        runs = self.summaries(game)
        if split != GAP:
            return np.array([getattr(s[split], field) for s in runs if split in s])
        both = [s for s in runs if TRAIN in s and TEST in s]
        return np.array([getattr(s[TRAIN], field) - getattr(s[TEST], field) for s in both])


class Method(NamedTuple):
    """All settings of a method, and the one chosen; None where validation levels cannot choose."""

    name: str
    candidates: Sequence[Candidate]
    chosen: Candidate | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods on one condition, acting in one way.

    `games` are those that every method has; `left_out` are the others, with the methods that lack
    them. `aggregates` are by method and split, `improvement` by (A, B): how likely A beats B on
    test levels. Both are empty without a common game.
    """

    condition: Condition
    acting: str
    methods: Sequence[Method]
    games: Sequence[str]
    left_out: Mapping[str, Sequence[str]]
    aggregates: Mapping[tuple[str, str], Aggregates]
    improvement: Mapping[tuple[str, str], Estimate]

    @property
    def chosen(self) -> dict[str, Candidate]:
        """By method, the setting that stands for it."""
        return {method.name: method.chosen for method in self.methods if method.chosen}

    def describe(self) -> str:
        """Condition and acting mode in one line, and the checkpoints unless all are the final ones.

        Nothing is said of checkpoints where none is known.
        """
        modes = sorted({candidate.mode for candidate in self.chosen.values()})
        acting = (
            f"{self.acting} ({' or '.join(modes)})" if self.acting == AS_TRAINED else self.acting
        )
        checkpoints = sorted({candidate.checkpoint for candidate in self.chosen.values()})
        unsaid = checkpoints in ([], [FINAL], [UNKNOWN])
        of = "" if unsaid else f"; checkpoint {' or '.join(checkpoints)}"
        return f"{self.condition.describe()}; acting {acting}{of}"


def compare_all(
    runs: Sequence[CollectedRun], labels: Mapping[Setting, str], generator: np.random.Generator
) -> list[Comparison]:
    """One comparison per condition and way of acting, in order of conditions.

    First as the runs were trained to act, then sampled and deterministic, each where some run has
    it beside the mode that it was trained in.
    """
    comparisons = []
    by_condition = sorted(runs, key=lambda run: run.setting.condition)
    for _, same in groupby(by_condition, key=lambda run: run.setting.condition):
        members = list(same)
        comparisons.append(compare(members, AS_TRAINED, labels, generator))
        for mode in (SAMPLED, DETERMINISTIC):
            playing = [run for run in members if mode in run.evaluations]
            if any(run.trained_mode != mode for run in playing):
                comparisons.append(compare(playing, mode, labels, generator))
    return comparisons


def series(comparisons: Iterable[Comparison], axis: Axis) -> list[list[Comparison]]:
    """Where conditions differ in the value of an axis, and not in what must be alike: in its order.

    Where that leaves several for one value, those on the same data are series of their own, but
    for an axis whose every value has its own: which of the others to compare would be arbitrary.
    Agents act as they were trained to; runs on a
    single level say nothing about generalisation.
    """
    several = [c for c in comparisons if c.acting == AS_TRAINED and c.condition.level == NONE]
    ordered = sorted(several, key=lambda c: (axis.alike(c.condition), axis.value(c.condition)))
    groups = [list(g) for _, g in groupby(ordered, key=lambda c: axis.alike(c.condition))]
    lines = [line for group in groups for line in _one_per_value(group, axis)]
    return [
        line
        for line in lines
        if len(line) > 1
        and not (axis.own_data and len({data_of(c.condition) for c in line}) < len(line))
    ]


def _one_per_value(group: list[Comparison], axis: Axis) -> list[list[Comparison]]:
    """The group, or, where a value comes twice, its parts that are on the same data."""
    if len({axis.value(c.condition) for c in group}) == len(group):
        return [group]

    def data(comparison: Comparison) -> tuple[tuple[str, ...], str]:
        return data_of(comparison.condition)

    return [list(same) for _, same in groupby(sorted(group, key=data), key=data)]


def compare(
    runs: Sequence[CollectedRun],
    acting: str,
    labels: Mapping[Setting, str],
    generator: np.random.Generator,
) -> Comparison:
    """Compare runs of one condition, all of which have an evaluation in the mode `acting`.

    Runs of one setting that were trained to act alike may have been evaluated otherwise
    (`CollectedRun`), or from another checkpoint: they are two candidates.
    """

    def played(run: CollectedRun) -> tuple[str, str]:
        mode = run.trained_mode if acting == AS_TRAINED else acting
        return mode, run.evaluations[mode].checkpoint

    candidates: dict[str, list[Candidate]] = {}
    ordered = sorted(runs, key=lambda run: (run.setting, played(run), run.game, run.seed))
    for (setting, how), same in groupby(ordered, key=lambda run: (run.setting, played(run))):
        by_game = {game: list(seeds) for game, seeds in groupby(same, key=lambda run: run.game)}
        candidate = Candidate(setting, labels[setting], *how, by_game)
        candidates.setdefault(setting.method, []).append(candidate)
    methods = [choose(settings, generator) for settings in candidates.values()]
    chosen = [method.chosen for method in methods if method.chosen]
    every = sorted({game for candidate in chosen for game in candidate.runs})
    lacking = {g: [c.method for c in chosen if g not in c.runs] for g in every}
    games = [game for game in every if not lacking[game]]
    told = {
        (candidate.method, split): aggregates(scores, generator)
        for candidate in chosen
        for split in (*SPLITS, GAP)
        if games and _complete(scores := candidate.scores(split, games))
    }
    return Comparison(
        condition=runs[0].setting.condition,
        acting=acting,
        methods=methods,
        games=games,
        left_out={game: absent for game, absent in lacking.items() if absent},
        aggregates=told,
        improvement=_improvement(chosen, games, generator),
    )


def choose(candidates: Sequence[Candidate], generator: np.random.Generator) -> Method:
    """The method's setting with the best IQM on validation levels; test levels have no say.

    Settings compete that have as many games as any other, on the games that all of these have: one
    that was run on an easy game alone must not win. Of equals the first is taken. None is chosen if
    they have no game or no validation levels in common; a setting without a rival needs neither.
    """
    most = max(len(candidate.runs) for candidate in candidates)
    rivals = [candidate for candidate in candidates if len(candidate.runs) == most]
    games = sorted(set.intersection(*(set(candidate.runs) for candidate in rivals)))
    if games and all(_complete(rival.scores(VALIDATION, games)) for rival in rivals):
        candidates = [
            replace(c, validation=estimate(iqm, c.scores(VALIDATION, games), generator))
            if c in rivals
            else c
            for c in candidates
        ]
    measured = {c: c.validation.value for c in candidates if c.validation}
    best = max(measured, key=lambda c: measured[c], default=None)
    chosen = candidates[0] if len(candidates) == 1 else best
    return Method(candidates[0].method, candidates, chosen)


def _improvement(
    chosen: Sequence[Candidate], games: Sequence[str], generator: np.random.Generator
) -> dict[tuple[str, str], Estimate]:
    found = {}
    for a, b in combinations(chosen, 2):
        mine, theirs = a.scores(TEST, games), b.scores(TEST, games)
        if games and _complete(mine) and _complete(theirs):
            wins = probability_of_improvement(mine, theirs, generator)
            ends = (None if end is None else 1 - end for end in (wins.high, wins.low))
            found[a.method, b.method] = wins
            found[b.method, a.method] = Estimate(1 - wins.value, *ends)
    return found


def _complete(scores: Sequence[NDArray[np.float64]]) -> bool:
    """Whether every game was played on the split; single-level runs have no test levels."""
    return all(game.size for game in scores)
