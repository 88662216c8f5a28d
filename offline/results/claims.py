"""What a set of runs says about the claims C1 to C6 of the benchmark.

A claim is about differences of IQMs of normalised returns. It is supported where every 95% interval
that it needs lies on its side of the bound, contradicted where one lies wholly on the other side,
and undecided otherwise: for want of runs, or because an interval holds the bound (evidence.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.games import GAMES
from offline.arguments import ALGORITHMS
from offline.results.aggregates import Estimate, iqm, iqm_above, iqm_difference
from offline.results.comparable import BY_LEVELS, BY_SIZE, NONE, is_suboptimal
from offline.results.comparison import Candidate, Comparison, series
from offline.results.evidence import (
    SUPPORTED,
    UNDECIDED,
    Evidence,
    above,
    all_of,
    any_of,
    below,
    within,
)
from offline.results.notes import mixed_checkpoints
from offline.results.references import ppo
from offline.results.run_files import AS_TRAINED
from offline.results.statistics import TEST, TRAIN

# Normalised score. What "far" means in C3, and what "flat" and "does not help" mean in C4 to C6: an
# interval cannot show that there is no difference, only that there is none of this size.
FAR, SAME = 0.1, 0.05
CLAIMS = {
    "C1": "offline methods score below online PPO on training and test levels",
    "C2": "BC is the best offline method on test levels when data come from many levels",
    "C3": "CQL is far below BC",
    "C4": "on suboptimal data offline RL beats BC on training levels only",
    "C5": "more training levels at the same size: training flat, test up",
    "C6": "more data on the same levels does not help on test levels",
}
_VARIED_LEVELS = "runs that differ in --num_levels at the same --dataset_size, one --dataset each"
_VARIED_SIZE = "runs that differ in --dataset_size on the same levels, one --dataset each"
_BC, _CQL, _OFFLINE_RL = "bc", "cql", ("bcq", "cql", "iql")


class Verdict(NamedTuple):
    """What the runs under `where` say about a claim, and what is missing to say more."""

    claim: str
    where: str
    outcome: str
    evidence: Sequence[Evidence]
    missing: Sequence[str]

    @property
    def deciding(self) -> Evidence | None:
        """The first piece of evidence that by itself says what the verdict says."""
        return next((e for e in self.evidence if e.outcome == self.outcome), None)


def judge(comparisons: Sequence[Comparison], generator: np.random.Generator) -> list[Verdict]:
    """At least one verdict per claim, in order of claims; several where conditions differ.

    Agents act as they were trained to; runs on a single level say nothing about generalisation.
    """
    trained = [c for c in comparisons if c.acting == AS_TRAINED and c.condition.level == NONE]
    verdicts = []
    for claim, judged in (("C1", _below_ppo), ("C2", _bc_is_best), ("C3", _cql_is_far_below)):
        verdicts += [judged(comparison, generator) for comparison in trained] or [
            _undecided(claim, "runs on more than one level")
        ]
    verdicts += [
        _rl_beats_bc_in_training(comparison, generator)
        for comparison in trained
        if is_suboptimal(comparison.condition)
    ] or [_undecided("C4", "runs on suboptimal data: a --dataset named *_S or *suboptimal*")]
    verdicts += [
        _more_levels(few, many, generator) for few, many in _ends(series(comparisons, BY_LEVELS))
    ] or [_undecided("C5", _VARIED_LEVELS)]
    verdicts += [
        _more_data(less, more, generator) for less, more in _ends(series(comparisons, BY_SIZE))
    ] or [_undecided("C6", _VARIED_SIZE)]
    return verdicts


def _below_ppo(comparison: Comparison, generator: np.random.Generator) -> Verdict:
    reference, condition = ppo(comparison.condition), comparison.condition
    if reference is None:
        missing = "returns of online PPO on these levels: those published are of 200 easy ones"
        return _undecided("C1", missing, comparison.describe())
    evidence = []
    for name, candidate in comparison.chosen.items():
        for split in (TRAIN, TEST):
            games = sorted(candidate.runs)
            bar = iqm([np.array(reference.scores(split, games, condition.distribution_mode))])
            difference = iqm_above(candidate.scores(split, games), float(bar), generator)
            what = f"{name.upper()} minus online PPO, {split} levels, {_games(games)}"
            evidence.append(below(what, difference))
    return _verdict("C1", [comparison], evidence)


def _bc_is_best(comparison: Comparison, generator: np.random.Generator) -> Verdict:
    chosen = comparison.chosen
    rivals = [name for name in ALGORITHMS if name in chosen and name != _BC]
    evidence = [
        above(*_difference(chosen[_BC], chosen[name], TEST, generator))
        for name in rivals
        if _BC in chosen and _shared(chosen[_BC], chosen[name])
    ]
    return _verdict("C2", [comparison], evidence, ALGORITHMS)


def _cql_is_far_below(comparison: Comparison, generator: np.random.Generator) -> Verdict:
    chosen = comparison.chosen
    evidence = []
    if {_BC, _CQL} <= set(chosen) and _shared(chosen[_BC], chosen[_CQL]):
        evidence = [
            above(*_difference(chosen[_BC], chosen[_CQL], split, generator), FAR)
            for split in (TRAIN, TEST)
        ]
    return _verdict("C3", [comparison], evidence, (_BC, _CQL))


def _rl_beats_bc_in_training(comparison: Comparison, generator: np.random.Generator) -> Verdict:
    chosen = comparison.chosen
    rivals = [
        chosen[name]
        for name in _OFFLINE_RL
        if {_BC, name} <= set(chosen) and _shared(chosen[_BC], chosen[name])
    ]
    training, test = (
        [_difference(rival, chosen[_BC], split, generator) for rival in rivals]
        for split in (TRAIN, TEST)
    )
    beats = [above(*each) for each in training]
    does_not = [below(*each, SAME) for each in test]
    outcome = all_of([any_of(e.outcome for e in beats), *(e.outcome for e in does_not)])
    return _verdict("C4", [comparison], [*beats, *does_not], (_BC, *_OFFLINE_RL), outcome)


def _more_levels(few: Comparison, many: Comparison, generator: np.random.Generator) -> Verdict:
    evidence = []
    for name, a, b in _in_both(few, many):
        what, change = _difference(b, a, TRAIN, generator, _change(name, few, many, "num_levels"))
        evidence.append(within(what, change, SAME))
        what, change = _difference(b, a, TEST, generator, _change(name, few, many, "num_levels"))
        evidence.append(above(what, change))
    return _verdict("C5", [few, many], evidence)


def _more_data(less: Comparison, more: Comparison, generator: np.random.Generator) -> Verdict:
    evidence = []
    for name, a, b in _in_both(less, more):
        named = _change(name, less, more, "dataset_size")
        evidence.append(below(*_difference(b, a, TEST, generator, named), SAME))
    return _verdict("C6", [less, more], evidence)


def _difference(
    a: Candidate, b: Candidate, split: str, generator: np.random.Generator, named: str = ""
) -> tuple[str, Estimate]:
    """What is compared, in words, and the IQM of `a` minus that of `b` on the games of both."""
    games = _shared(a, b)
    named = named or f"{a.method.upper()} minus {b.method.upper()}"
    difference = iqm_difference(a.scores(split, games), b.scores(split, games), generator)
    return f"{named}, {split} levels, {_games(games)}", difference


def _shared(a: Candidate, b: Candidate) -> list[str]:
    return sorted(set(a.runs) & set(b.runs))


def _games(games: Sequence[str]) -> str:
    return f"{len(games)} games" if len(games) > 1 else games[0]


def _in_both(a: Comparison, b: Comparison) -> list[tuple[str, Candidate, Candidate]]:
    both = [(name, a.chosen[name], b.chosen[name]) for name in a.chosen if name in b.chosen]
    return [(name, x, y) for name, x, y in both if _shared(x, y)]


def _change(name: str, a: Comparison, b: Comparison, field: str) -> str:
    before, after = (getattr(c.condition, field) for c in (a, b))
    return f"{name.upper()} with {field} {after:,} minus {before:,}"


def _ends(found: Sequence[Sequence[Comparison]]) -> list[tuple[Comparison, Comparison]]:
    """The least and the most of what varies."""
    return [(group[0], group[-1]) for group in found]


def _undecided(claim: str, missing: str, where: str = "all runs") -> Verdict:
    return Verdict(claim, where, UNDECIDED, (), (missing,))


def _verdict(
    claim: str,
    comparisons: Sequence[Comparison],
    evidence: Sequence[Evidence],
    methods: Sequence[str] = (),
    outcome: str | None = None,
) -> Verdict:
    """All evidence together; without one of `methods` a claim cannot be supported."""
    outcome = outcome or all_of(e.outcome for e in evidence)
    absent = [m.upper() for m in methods if any(m not in c.chosen for c in comparisons)]
    if absent and outcome == SUPPORTED:
        outcome = UNDECIDED
    missing = [f"runs of {', '.join(absent)}"] if absent else []
    if not evidence and not absent:
        missing.append("games that were played on both sides")
    if any(e.estimate.low is None for e in evidence):
        missing.append("a second seed of every game: one seed has no interval")
    games = {
        game for c in comparisons for candidate in c.chosen.values() for game in candidate.runs
    }
    if mixed := mixed_checkpoints(c for each in comparisons for c in each.chosen.values()):
        missing.append(f"evaluations of one checkpoint ({mixed})")
    if len(games) < len(GAMES):
        missing.append(f"{len(GAMES) - len(games)} of the {len(GAMES)} games")
    return Verdict(claim, " / ".join(c.describe() for c in comparisons), outcome, evidence, missing)
