"""What must be said beside a table or a figure so that nobody reads more into it than is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offline.results.comparison import Candidate, Comparison, Method
from offline.results.references import Reference


def left_out_notes(comparison: Comparison) -> list[str]:
    """Games that do not count for aggregates, and which method lacks them."""
    notes = [
        f"Left out, because not every method has it: {game} (not {', '.join(absent).upper()})."
        for game, absent in comparison.left_out.items()
    ]
    if not comparison.games:
        notes.append("No aggregate: the methods have no game in common.")
    return notes


def seeds_notes(comparison: Comparison) -> list[str]:
    """That games count alike, where they have different numbers of seeds."""
    seeds = {len(c.runs[game]) for c in comparison.chosen.values() for game in comparison.games}
    if len(seeds) < 2:
        return []
    told = f"Games have {min(seeds)} to {max(seeds)} seeds"
    return [f"{told}; every game counts alike in every aggregate."]


def chosen_notes(comparison: Comparison) -> list[str]:
    """Which setting stands for a method that has several, and how agents act where that differs."""
    several = [method for method in comparison.methods if len(method.candidates) > 1]
    notes = [
        f"{method.name.upper()}: {_told_apart(method, method.chosen)}, the best of "
        f"{len(method.candidates)} settings on validation levels."
        for method in several
        if method.chosen
    ]
    modes = {name: candidate.mode for name, candidate in comparison.chosen.items()}
    if len(set(modes.values())) > 1:
        acting = ", ".join(f"{name.upper()} {mode}" for name, mode in modes.items())
        notes.append(f"Acting as trained: {acting}.")
    unchosen = [method.name.upper() for method in several if not method.chosen]
    if unchosen:
        notes.append(f"No setting of {', '.join(unchosen)} could be chosen on validation levels.")
    return [*notes, *checkpoint_notes(comparison.chosen.values())]


def checkpoint_notes(candidates: Iterable[Candidate]) -> list[str]:
    """Whose evaluations are of which checkpoint, where that differs."""
    told = mixed_checkpoints(candidates)
    return [f"Mixed checkpoints ({told}): evaluate all runs alike."] if told else []


def mixed_checkpoints(candidates: Iterable[Candidate]) -> str:
    """Such as `best: CQL; final: BC, IQL`; empty where all are alike."""
    methods: dict[str, set[str]] = {}
    for candidate in candidates:
        methods.setdefault(candidate.checkpoint, set()).add(candidate.method.upper())
    if len(methods) < 2:
        return ""
    return "; ".join(f"{name}: {', '.join(sorted(methods[name]))}" for name in sorted(methods))


def _told_apart(method: Method, candidate: Candidate) -> str:
    """How a candidate differs from the method's others."""
    parts = [candidate.label]
    if len({c.mode for c in method.candidates}) > 1:
        parts.append(f"acting {candidate.mode}")
    if len({c.checkpoint for c in method.candidates}) > 1:
        parts.append(f"{candidate.checkpoint} checkpoint")
    return ", ".join(part for part in parts if part)


def source_notes(references: Iterable[Reference]) -> list[str]:
    """Where the figures of reference players come from, each once."""
    return list(dict.fromkeys(f"{reference.name}: {reference.source}." for reference in references))


def counted(candidates: Iterable[Candidate], games: Sequence[str]) -> str:
    """Such as `16 games, 3 seeds each` or `coinrun, 1 to 3 seeds each`."""
    seeds = {len(c.runs[game]) for c in candidates for game in games if game in c.runs}
    named = games[0] if len(games) == 1 else f"{len(games)} games"
    number = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return f"{named}, {number} {'seed' if seeds == {1} else 'seeds'} each"


def interval_note(certain: Iterable[bool], mark: str) -> str:
    """What a `mark` of the figure stands for, or why there is none; `certain` where there is."""
    known = list(certain)
    told = f"{mark}: 95% stratified bootstrap intervals over seeds"
    if all(known):
        return f"{told}."
    if any(known):
        return f"{told}; none where a game has one seed."
    return "No interval: a game has one seed."
