"""claims.md: the verdicts, the interval that decides each, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from offline.results.claims import CLAIMS, FAR, SAME, Verdict
from offline.results.table_files import Cell, Table, markdown

NOTES = (
    "Differences of IQMs of normalised returns, with 95% stratified bootstrap intervals; "
    "settings were chosen on validation levels.",
    "Supported: every interval that the claim needs lies where it is wanted. Contradicted: "
    "one lies wholly elsewhere. Undecided: neither, or no interval.",
    f'"Far" is taken for {FAR:g} of normalised score, "flat" and "does not help" for a change '
    f"of less than {SAME:g}.",
)


def claims_markdown(verdicts: Sequence[Verdict]) -> str:
    """A table of all verdicts, then each with its evidence."""
    rows: list[list[Cell]] = []
    for verdict in verdicts:
        decides = verdict.deciding
        rows.append(
            [
                verdict.claim,
                verdict.outcome,
                decides.estimate if decides else None,
                f"{decides.what}: wanted {decides.wanted}" if decides else "-",
                verdict.where,
            ]
        )
    header = ["claim", "these runs say", "decides", "what it is of", "runs"]
    summary = Table("All claims", header, rows, NOTES)
    return "\n".join(
        [
            "# What these runs say about the claims",
            "",
            markdown([summary]),
            *map(_details, verdicts),
        ]
    )


def _details(verdict: Verdict) -> str:
    title = f"{verdict.claim} {verdict.outcome}: {CLAIMS[verdict.claim]}"
    rows: list[list[Cell]] = [[e.what, e.estimate, e.wanted, e.outcome] for e in verdict.evidence]
    notes = [f"Runs: {verdict.where}."]
    if verdict.missing:
        notes.append(f"Missing: {'; '.join(verdict.missing)}.")
    if rows:
        header = ["difference", "IQM", "wanted", "outcome"]
        return markdown([Table(title, header, rows, notes)])
    return "\n".join([f"## {title}", "", *(f"- {note}" for note in notes), ""])
