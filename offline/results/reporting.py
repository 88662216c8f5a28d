"""All that a report tells of the runs below some folders: tables, figures and page draw on it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import ToolkitError
from common.files import readable, write_atomically
from offline.results.claims import Verdict, judge
from offline.results.claims_file import claims_markdown
from offline.results.collected import Collection, collect
from offline.results.comparable import Setting, differences
from offline.results.comparison import Comparison, compare_all
from offline.results.references import REFERENCES, Reference
from offline.results.report_tables import TABLES
from offline.results.run_tables import write_episodes, write_results
from offline.results.table_files import WRITERS, Table


@dataclass(frozen=True, eq=False)
class Report:
    """The runs that count and what was made of them.

    `labels` say how settings differ, `references` belong to the comparisons, in the same order.
    """

    collection: Collection
    labels: Mapping[Setting, str]
    comparisons: Sequence[Comparison]
    references: Sequence[Sequence[Reference]]
    verdicts: Sequence[Verdict]

    def tables(self, name: str) -> list[Table]:
        """The tables of that name in `TABLES`, one per comparison."""
        pairs = zip(self.comparisons, self.references, strict=True)
        return [TABLES[name](comparison, references) for comparison, references in pairs]


def make_report(
    paths: Sequence[Path],
    reference_names: Sequence[str],
    generator: np.random.Generator,
    progress: bool = False,
) -> Report:
    """Read the runs below `paths` and compare them.

    `reference_names` are keys of `REFERENCES`. Raises UsageError for a path that is no folder,
    ToolkitError if no run counts.
    """
    collection = collect(paths, progress)
    if not collection.runs:
        raise ToolkitError(_nothing_counts(paths, collection))
    labels = differences({run.setting for run in collection.runs})
    comparisons = compare_all(collection.runs, labels, generator)
    references = [
        [
            reference
            for name in dict.fromkeys(reference_names)
            if (reference := REFERENCES[name](comparison.condition))
        ]
        for comparison in comparisons
    ]
    verdicts = judge(comparisons, generator)
    return Report(collection, labels, comparisons, references, verdicts)


def write_report(report: Report, out: Path) -> None:
    """Write every file into the folder `out`, each whole or not at all; those there are replaced.

    Raises ToolkitError naming a file that cannot be written.
    """
    runs, left_out = report.collection
    write_results(out / "results.csv", runs, report.labels)
    write_episodes(out / "episodes.csv", runs, report.labels)
    _write_text(out / "left_out.csv", _rows_as_csv([("path", "reason"), *left_out]))
    for name in TABLES:
        tables = report.tables(name)
        for suffix, writer in WRITERS.items():
            _write_text(out / "tables" / f"{name}.{suffix}", writer(tables))
    _write_text(out / "claims.md", claims_markdown(report.verdicts))


def _nothing_counts(paths: Sequence[Path], collection: Collection) -> str:
    where = ", ".join(map(str, paths))
    if not collection.left_out:
        return f"no run below {where}: a run lies at <save_path>/<env_name>/<xpid>/"
    (path, reason), *others = collection.left_out
    more = f" (and {len(others)} more)" if others else ""
    return f"no run below {where} can be reported: {path}: {reason}{more}"


def _rows_as_csv(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, readable(text).encode())
