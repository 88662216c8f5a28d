"""Results as an aligned plain-text table, for the terminal and for `out.log`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from offline.results.statistics import SPLITS, TEST, TRAIN, SplitSummary, generalisation_gap

# One table cell: the mean, its standard error, the normalised score.
_Cell = tuple[str, str, str]
_EMPTY: _Cell = ("", "", "")
_COLUMN_GAP = "   "


def results_table(rows: Mapping[str, Mapping[str, SplitSummary]], title: str = "") -> str:
    """Methods down, splits and the generalisation gap across; each cell `mean ± se (score)`.

    `rows` maps a method's name to its summaries by split. A split that a method lacks stays empty,
    a standard error of one episode reads `n/a`. Returns lines without a trailing newline.
    """
    table = {method: [*_split_cells(s), _gap_cell(s)] for method, s in rows.items()}
    headings = [*SPLITS, "gap (train - test)"]
    columns = [_aligned([cells[i] for cells in table.values()]) for i in range(len(headings))]
    widths = [
        max(len(heading), *map(len, column), 0)
        for heading, column in zip(headings, columns, strict=True)
    ]
    method_width = max(map(len, ["method", *table]))
    lines = [_line("method", headings, method_width, widths)]
    lines.append("-" * (method_width + sum(len(_COLUMN_GAP) + width for width in widths)))
    for i, method in enumerate(table):
        lines.append(_line(method, [column[i] for column in columns], method_width, widths))
    head = [title, ""] if title else []
    return "\n".join([*head, *lines, "", _caption(rows)])


def _split_cells(summaries: Mapping[str, SplitSummary]) -> list[_Cell]:
    return [
        _cell(s.mean, s.standard_error, s.normalised) if (s := summaries.get(split)) else _EMPTY
        for split in SPLITS
    ]


def _gap_cell(summaries: Mapping[str, SplitSummary]) -> _Cell:
    if TRAIN not in summaries or TEST not in summaries:
        return _EMPTY
    return _cell(*generalisation_gap(summaries))


def _cell(mean: float, error: float, score: float) -> _Cell:
    return f"{mean:.2f}", "n/a" if math.isnan(error) else f"{error:.2f}", f"({score:.2f})"


def _aligned(cells: list[_Cell]) -> list[str]:
    """Right-align mean, error and score on their own, so that points stand below each other."""
    widths = [max((len(cell[i]) for cell in cells), default=0) for i in range(3)]
    return [
        f"{cell[0]:>{widths[0]}} ± {cell[1]:>{widths[1]}} {cell[2]:>{widths[2]}}"
        if cell != _EMPTY
        else ""
        for cell in cells
    ]


def _line(method: str, cells: list[str], method_width: int, widths: list[int]) -> str:
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)]
    return _COLUMN_GAP.join([f"{method:<{method_width}}", *padded]).rstrip()


def _caption(rows: Mapping[str, Mapping[str, SplitSummary]]) -> str:
    counts = sorted({s.episodes for summaries in rows.values() for s in summaries.values()})
    episodes = " to ".join(str(count) for count in dict.fromkeys([*counts[:1], *counts[-1:]]))
    return (
        "mean raw return ± standard error (normalised score); "
        f"{episodes or 'no'} episodes per split"
    )
