"""What a sweep found, as tables: python -m offline.report --save_path runs/offline

Reads every run at or below the folders and writes into --out:

results.csv       one row per run, acting mode and split
episodes.csv      one row per episode
tables/           per game, aggregates, probability of improvement, settings: .md, .tex and .csv
figures/          scores, generalisation gap, performance profiles, learning curves, the levels of
                  each method's best run, score against levels or data: .svg, .png, captions.md
claims.md         what the runs say about the claims of the benchmark
index.html        all of it as one page, with a view of every run; open it from the disk
left_out.csv      runs and files that do not count, and why

Aggregates are of normalised returns over games and seeds, with 95% stratified bootstrap intervals.
Runs on other data or levels, and acting modes, are kept apart. Where a method has several settings,
the best on validation levels stands for it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UsageError
from common.files import readable
from common.flags import Flag, parse_flags, run_command

if TYPE_CHECKING:
    from offline.results.reporting import Report

logger = logging.getLogger(__name__)

_SHOWN = 5  # of what is left out
_FLAGS = (
    Flag("save_path", str, (), "Folders to search for runs, links followed.", many=True),
    Flag("out", str, "", "Folder to write into; empty: report/ in the first --save_path."),
    Flag(
        "reference",
        str,
        (),
        "Players to show beside the runs: ppo, online PPO after 25M steps as published; random, "
        "every button equally likely; behaviour, the bundled policy where it made the data.",
        choices=("ppo", "random", "behaviour"),
        many=True,
    ),
    Flag("seed", int, 0, "Random seed of the bootstrap.", minimum=0),
)


def _report(argv: Sequence[str] | None) -> None:
    settings = parse_flags(_FLAGS, argv, __doc__ or "")
    if not settings.save_path:
        raise UsageError("--save_path is needed: a folder with runs")
    import numpy as np

    from offline.results.page import write_page
    from offline.results.report_figures import write_figures
    from offline.results.reporting import make_report, write_report
    from offline.results.table_files import markdown

    paths = [Path(path) for path in settings.save_path]
    out = Path(settings.out) if settings.out else paths[0] / "report"
    generator = np.random.default_rng(settings.seed)
    report = make_report(paths, settings.reference, generator, progress=True)
    write_report(report, out)
    figures = write_figures(report, out, progress=True, seed=settings.seed)
    write_page(report, figures, out / "index.html")
    for name in _not_shown(report, settings.reference):
        logger.info(
            "--reference %s: nothing is known of it on the games, data and levels of these runs",
            name,
        )
    left_out = report.collection.left_out
    for path, reason in left_out[:_SHOWN]:
        logger.info("left out: %s: %s", path, reason)
    if len(left_out) > _SHOWN:
        logger.info("left out: %d more, see %s", len(left_out) - _SHOWN, out / "left_out.csv")
    print(markdown(report.tables("aggregates")))
    print(f"{len(report.collection.runs)} runs; report in {readable(out)}")


def _not_shown(report: Report, names: Sequence[str]) -> list[str]:
    """Reference players that no table can show; a flag that does nothing must not be silent."""
    from offline.results.references import REFERENCES

    def known(name: str) -> bool:
        players = ((c, REFERENCES[name](c.condition)) for c in report.comparisons)
        return any(
            game in player.returns
            for comparison, player in players
            if player
            for candidate in comparison.chosen.values()
            for game in candidate.runs
        )

    return [name for name in dict.fromkeys(names) if not known(name)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_report, argv)


if __name__ == "__main__":
    sys.exit(main())
