"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from offline.results.aggregates import Estimate


class MeanError(NamedTuple):
    """A mean and its standard error; nan for that of one value."""

    mean: float
    error: float


Cell = str | int | float | MeanError | Estimate | None


class Table(NamedTuple):
    """`rows` have one cell per heading; None is a number that is not there."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str]


def markdown(tables: Sequence[Table]) -> str:
    """Each table under its title, in columns that line up as plain text too."""
    return "\n".join(_markdown(table) for table in tables)


def latex(tables: Sequence[Table]) -> str:
    r"""Each as a `table` with a caption; needs \usepackage{booktabs}."""
    return "\n".join(_latex(table) for table in tables)


def as_csv(tables: Sequence[Table]) -> str:
    """All rows below one header; numbers in full, errors and intervals in columns of their own.

    The first column says which table a row is of. A column that a table lacks stays empty.
    """
    rows = [row for table in tables for row in _records(table)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


WRITERS: Mapping[str, Callable[[Sequence[Table]], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": as_csv,
}


def cell_text(cell: Cell) -> str:
    """As people read it: 7.50 ± 0.25, or 0.50 [0.45, 0.55]."""
    if cell is None:
        return "-"
    if isinstance(cell, MeanError):
        return f"{cell.mean:.2f} ± {'n/a' if math.isnan(cell.error) else f'{cell.error:.2f}'}"
    if isinstance(cell, Estimate):
        value, low, high = cell
        ends = "-" if low is None or high is None else f"{low:.2f}, {high:.2f}"
        return f"{value:.2f} [{ends}]"
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def is_text(table: Table, column: int) -> bool:
    """Whether the column holds words alone, which are read from the left."""
    return all(isinstance(row[column], str) for row in table.rows)


def _markdown(table: Table) -> str:
    lines = [
        [text.replace("|", r"\|") for text in row]
        for row in (table.header, *([cell_text(cell) for cell in row] for row in table.rows))
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [is_text(table, i) for i in range(len(widths))]
    rule = [
        "-" * width if is_left else "-" * (width - 1) + ":"
        for width, is_left in zip(widths, left, strict=True)
    ]
    padded = [
        [
            f"{text:<{width}}" if is_left else f"{text:>{width}}"
            for text, width, is_left in zip(line, widths, left, strict=True)
        ]
        for line in lines
    ]
    body = [f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:])]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"## {table.title}", "", *body, "", *notes, ""])


def _latex(table: Table) -> str:
    alignment = "".join("l" if is_text(table, i) else "r" for i in range(len(table.header)))
    rows = [
        " & ".join(map(_escaped, row)) + r" \\"
        for row in (table.header, *([cell_text(cell) for cell in row] for row in table.rows))
    ]
    caption = " ".join([f"{table.title}.", *table.notes])
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(caption)}}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def _escaped(text: str) -> str:
    # A row that starts with a bracket would be taken for an option of the line break before it.
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped


def _records(table: Table) -> list[dict[str, object]]:
    """One dict per row, a key per number; a table without rows has none."""
    records = []
    for row in table.rows:
        record: dict[str, object] = {"comparison": table.title}
        for heading, cell in zip(table.header, row, strict=True):
            if isinstance(cell, MeanError):
                error = "" if math.isnan(cell.error) else cell.error
                record |= {heading: cell.mean, f"{heading} standard error": error}
            elif isinstance(cell, Estimate):
                record |= {
                    heading: cell.value,
                    f"{heading} low": cell.low,
                    f"{heading} high": cell.high,
                }
            else:
                record[heading] = "" if cell is None else cell
        records.append(record)
    return records
