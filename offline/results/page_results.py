"""The sections of the page that are read in order: the answer, comparisons, claims, omissions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from offline.results.aggregates import Estimate
from offline.results.claims import CLAIMS, Verdict
from offline.results.claims_file import NOTES as CLAIM_NOTES
from offline.results.collected import LeftOut
from offline.results.comparison import Comparison
from offline.results.evidence import CONTRADICTED, SUPPORTED, UNDECIDED
from offline.results.page_html import (
    Markup,
    element,
    join,
    notes,
    scrolling,
    section,
    table,
    unfolding,
    with_flags,
)
from offline.results.reporting import Report
from offline.results.run_files import AS_TRAINED
from offline.results.statistics import SPLITS, TEST, TRAIN
from offline.results.table_files import Cell, Table, cell_text

_IQM = "IQM"
_MOST_LEFT_OUT = 1_000  # rows; left_out.csv has all
_MARKS = {SUPPORTED: "✓", CONTRADICTED: "✕", UNDECIDED: "?"}
_MORE = {
    "aggregates": "All aggregates: median, mean and optimality gap",
    "per_game": "Every game",
    "improvement": "Which method beats which",
    "settings": "Settings, and how they were chosen",
}


def answers(report: Report) -> Markup:
    """A sentence per condition: which method generalises, by how much, how sure."""
    trained = [c for c in report.comparisons if c.acting == AS_TRAINED]
    lines = []
    for comparison in trained:
        if len(trained) > 1:
            lines.append(element("p", comparison.condition.describe(), class_="where"))
        lines.append(element("p", *_answer(comparison)))
    return element("div", *lines, class_="answers")


def _answer(comparison: Comparison) -> list[str]:
    test = {
        name: told.iqm for (name, split), told in comparison.aggregates.items() if split == TEST
    }
    if not test:
        return ["No method has a score on test levels that could be aggregated."]
    first, *others = sorted(test, key=lambda name: -test[name].value)
    said: list[str] = ["On unseen levels ", element("strong", first.upper())]
    said += [" scores highest: " if others else " scores ", _estimate(test[first])]
    if (first, TRAIN) in comparison.aggregates:
        said += [", where 1 is perfect play, and on training levels "]
        said.append(_estimate(comparison.aggregates[first, TRAIN].iqm))
    said.append(". ")
    if others:
        second = others[0]
        said += [f"Next comes {second.upper()} with ", _estimate(test[second]), ". "]
        if wins := comparison.improvement.get((first, second)):
            said += [f"A run of {first.upper()} beats one of {second.upper()} with probability "]
            said.append(_estimate(wins))
            undecided = (
                wins.low is not None and wins.high is not None and wins.low < 0.5 < wins.high
            )
            said.append(", which does not tell the two apart. " if undecided else ". ")
    if test[first].low is None:
        said.append("One seed only: nothing tells how other seeds would do, so no interval. ")
    return said


def comparisons(report: Report) -> list[Markup]:
    """Each comparison with its tables; the first is open."""
    names = list(_MORE)
    tables = zip(*(report.tables(name) for name in names), strict=True)
    sections: list[Markup] = []
    for told in tables:
        by_name = dict(zip(names, told, strict=True))
        title = by_name["aggregates"].title
        shown = [_summary(by_name["aggregates"])]
        shown += [
            unfolding(_MORE[name], table(t, _MORE[name])) for name, t in by_name.items() if t.rows
        ]
        sections.append(
            element(
                "details",
                element("summary", element("h3", title)),
                *shown,
                class_="comparison",
                open=not sections,
            )
        )
    return sections


def _summary(aggregates: Table) -> Markup:
    """The IQMs of a table of aggregates: a row per method, best on test levels first."""
    iqm = list(aggregates.header).index(_IQM)
    cells: dict[str, dict[str, Cell]] = {}
    for row in aggregates.rows:
        cells.setdefault(str(row[0]), {})[str(row[1])] = row[iqm]
    splits = list(dict.fromkeys(str(row[1]) for row in aggregates.rows))
    ranked = sorted(cells, key=lambda name: -_value(cells[name].get(TEST), -1e9))
    low, high = _limits(cells)
    head = [
        element("th", "Method", scope="col", class_="text"),
        *(element("th", split, scope="col", class_="number") for split in splits),
        element("th", f"Score from {low:.1f} to {high:.1f}", scope="col", class_="text"),
    ]
    rows = [
        element(
            "tr",
            element("th", name, scope="row", class_="text"),
            *(element("td", *_parts(cells[name].get(split)), class_="number") for split in splits),
            element("td", _plot(cells[name], low, high), class_="plot"),
        )
        for name in ranked
    ]
    body = element("table", element("thead", element("tr", *head)), element("tbody", *rows))
    key = element(
        "p",
        "Interquartile mean (IQM) of normalised scores: 0 is an agent that sees nothing, 1 a "
        "perfect one. ",
        *(element("span", split, class_=f"key {split}") for split in SPLITS if split in splits),
        class_="legend",
    )
    return join([key, scrolling("Score per method", body), notes(aggregates.notes)])


def _parts(cell: Cell) -> list[str]:
    """A number, and its interval in small print."""
    if not isinstance(cell, Estimate):
        return [cell_text(cell)]
    value, _, interval = cell_text(cell).partition(" ")
    known = cell.low is not None
    return [value, " ", element("span", interval if known else "no interval", class_="interval")]


def _value(cell: Cell, otherwise: float) -> float:
    number = cell.value if isinstance(cell, Estimate) else cell
    return float(number) if isinstance(number, int | float) else otherwise


def _limits(cells: Mapping[str, Mapping[str, Cell]]) -> tuple[float, float]:
    """Ends of the axis of scores: tenths that hold every number and interval, 0 among them."""
    ends = [0.0]
    for by_split in cells.values():
        for split, cell in by_split.items():
            if split in SPLITS:
                ends += _ends(cell)
    return min(_floor_tenth(min(ends)), 0.0), max(-_floor_tenth(-max(ends)), 0.1)


def _ends(cell: Cell) -> list[float]:
    value = _value(cell, 0.0)
    if isinstance(cell, Estimate) and cell.low is not None and cell.high is not None:
        return [cell.low, value, cell.high]
    return [value]


def _floor_tenth(value: float) -> float:
    return float(10 * value // 1 / 10)


def _plot(by_split: Mapping[str, Cell], low: float, high: float) -> Markup:
    """Dots with intervals on the axis of scores; the numbers beside it say the same in words."""
    width, height = 240, 26

    def x(value: float) -> str:
        return f"{6 + (width - 12) * (value - low) / (high - low):.1f}"

    drawn = [element("line", x1=x(0), x2=x(0), y1=0, y2=height, class_="zero")]
    for i, split in enumerate(SPLITS):
        if (cell := by_split.get(split)) is None:
            continue
        y = 6 + 7 * i
        ends = _ends(cell)
        drawn.append(element("line", x1=x(ends[0]), x2=x(ends[-1]), y1=y, y2=y, class_=split))
        drawn.append(element("circle", cx=x(_value(cell, 0.0)), cy=y, r=3, class_=split))
    return element("svg", *drawn, viewBox=f"0 0 {width} {height}", aria_hidden="true")


def claims(verdicts: Sequence[Verdict]) -> Markup:
    """Every verdict with the interval that decides it, what is missing and all its evidence."""
    cards = [_claim(verdict) for verdict in verdicts]
    return join([element("ol", *cards, class_="claims"), notes(CLAIM_NOTES)])


def _claim(verdict: Verdict) -> Markup:
    mark = element("span", _MARKS[verdict.outcome], aria_hidden="true")
    said: list[str] = [
        element("p", mark, verdict.outcome, class_=f"verdict {verdict.outcome}"),
        element("h3", f"{verdict.claim}: {CLAIMS[verdict.claim]}"),
        element("p", verdict.where, class_="where"),
    ]
    if decides := verdict.deciding:
        words = [f"{decides.what}: ", _estimate(decides.estimate), f", wanted {decides.wanted}."]
        said.append(element("p", *words))
    if verdict.missing:
        missing = with_flags(f"Missing: {'; '.join(verdict.missing)}.")
        said.append(element("p", missing, class_="missing"))
    if verdict.evidence:
        rows: list[list[Cell]] = [
            [e.what, e.estimate, e.wanted, e.outcome] for e in verdict.evidence
        ]
        evidence = Table("", ["difference", "IQM", "wanted", "outcome"], rows, [])
        label = f"Evidence for {verdict.claim}"
        said.append(unfolding(f"Evidence ({len(rows)})", table(evidence, label)))
    return element("li", *said)


def left_out(omissions: Sequence[LeftOut]) -> Markup:
    """Every run or file that does not count, with the reason; nothing where all count."""
    if not omissions:
        return Markup()
    rows = [[str(path), reason] for path, reason in omissions[:_MOST_LEFT_OUT]]
    more = [f"{len(omissions) - len(rows):,} more are in left_out.csv."]
    told = Table("", ["folder or file", "reason"], rows, more if len(rows) < len(omissions) else [])
    count = len(omissions)
    number = "1 run or file does" if count == 1 else f"{count:,} runs or files do"
    return section(
        "left-out",
        "Left out",
        element("p", f"{number} not count in anything above."),
        table(told, "Left out"),
    )


def _estimate(estimate: Estimate) -> Markup:
    """Such as 0.42 [0.40, 0.45]; without brackets where there is no interval."""
    value, _, interval = cell_text(estimate).partition(" ")
    if estimate.low is None:
        return element("strong", value)
    return join([element("strong", value), " ", element("span", interval, class_="interval")])
