"""What the data of a game hold, as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from common.envs import NUM_VALIDATION_LEVELS
from offline.data.inspection import GameReport, Source, Spread, warnings_about

_GAP = "   "
_ACTION_COLUMNS = 3


def dataset_table(report: GameReport) -> str:
    """One game as a block of lines, without a trailing newline."""
    facts = _aligned(_facts(report), left=2)
    spreads = _aligned(
        [
            ["", "mean ± se", "min", "25%", "50%", "75%", "max"],
            ["return", *_spread_cells(report.returns, 2)],
            ["length", *_spread_cells(report.lengths, 1)],
        ]
    )
    warnings = [f"warning: {warning}" for warning in warnings_about(report)]
    width = max(map(len, [*facts, *spreads]))
    blocks = [
        [report.game, "-" * width, *facts],
        spreads,
        ["actions (buttons, count, share)", *_action_lines(report)],
        warnings,
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def games_table(reports: Sequence[GameReport]) -> str:
    """Several games, one line each, without a trailing newline."""
    header = "game,episodes,transitions,training levels,outside,mean return,mean length,start alike"
    rows = [
        [
            report.game,
            f"{report.episodes:,}",
            f"{report.transitions:,}",
            f"{report.levels.training} of {report.num_levels}",
            f"{report.levels.validation + report.levels.elsewhere}",
            f"{report.returns.mean:.2f}",
            f"{report.lengths.mean:.1f}",
            f"{report.first_frames.shared} of {report.levels.known}",
            _size(report.frame_bytes),
        ]
        for report in reports
    ]
    head, *lines = _aligned([[*header.split(","), "frames"], *rows])
    return "\n".join([head, "-" * len(head), *lines])


def _facts(report: GameReport) -> list[list[str]]:
    levels = report.levels
    disk = sum(source.store_bytes for source in report.sources)
    files = sum(source.episode_files for source in report.sources)
    file_bytes = sum(source.episode_file_bytes for source in report.sources)
    cut_off = f", {report.cut_off_episodes:,} of them cut off before their end"
    seeds = f", seeds {levels.lowest} to {levels.highest}" if levels.known else ""
    outside = levels.validation + levels.elsewhere
    return [
        *[["data", source.path] for source in report.sources],
        ["episodes", f"{report.episodes:,}{cut_off if report.cut_off_episodes else ''}"],
        ["transitions", f"{report.transitions:,}"],
        [
            "levels",
            f"{levels.training} of the {report.num_levels} training levels, "
            f"{outside or 'none'} outside{seeds}",
        ],
        *_first_frame_facts(report),
        ["disk", f"{_size(disk)} packed, {_size(file_bytes)} in {files:,} episode files"],
        ["memory", f"{_size(report.frame_bytes)} of frames in training, on the GPU or in RAM"],
        *[["Procgen", _origin(source)] for source in report.sources],
    ]


def _first_frame_facts(report: GameReport) -> list[list[str]]:
    frames = report.first_frames
    if not report.levels.known:
        return []
    alike = "no level starts just like another"
    if frames.example:
        first, second = frames.example
        alike = f"{frames.shared} levels start just like another, as {first} and {second} do"
    facts = [["first frames", f"{frames.distinct} among {report.levels.known} levels; {alike}"]]
    if (seen := frames.validation_levels_seen) is not None:
        facts.append(["", f"{seen} of {NUM_VALIDATION_LEVELS} validation levels start with one"])
    return facts


def _origin(source: Source) -> str:
    names = ("package", "version", "qt")
    build = " ".join(str(source.build.get(name, "")) for name in names) if source.build else ""
    drawn = {
        True: "drawn as the one installed here draws",
        False: "NOT drawn as the one installed here draws",
        None: "whether the one installed here draws alike is not known",
    }[source.drawn_as_installed]
    return f"{build or 'build not noted'}; {drawn}"


def _spread_cells(spread: Spread, decimals: int) -> list[str]:
    error = "n/a" if spread.standard_error is None else f"{spread.standard_error:.{decimals}f}"
    quartiles = (
        spread.minimum,
        spread.lower_quartile,
        spread.median,
        spread.upper_quartile,
        spread.maximum,
    )
    mean = f"{spread.mean:.{decimals}f} ± {error}"
    return [mean, *(f"{value:.{decimals}f}" for value in quartiles)]


def _action_lines(report: GameReport) -> list[str]:
    cells = [
        [f"{a.action:>2} {a.buttons}", f"{a.count:,}", f"{a.share:.1%}"] for a in report.actions
    ]
    height = -(-len(cells) // _ACTION_COLUMNS)
    columns = [_aligned(cells[i : i + height]) for i in range(0, len(cells), height)]
    return [_GAP.join(line) for line in zip(*columns, strict=True)]


def _aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows as lines of equally wide cells; the first `left` columns are left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
