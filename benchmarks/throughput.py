"""Measure the toolkit beside plain code that does the same: python -m benchmarks.throughput

Records real Procgen episodes into a temporary folder, measures each row on both sides in turn and
prints a table with the ratios. All rows take about twenty minutes on two cores; --only takes some.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.rows import ROWS, Pair, Row, rate, ratios, table
from benchmarks.sizes import COMMAND_FLAGS
from benchmarks.worker import Worker
from common.errors import UsageError
from common.flags import parse_flags, run_command

logger = logging.getLogger(__name__)

OURS, PLAIN = "benchmarks.ours", "benchmarks.reference"


def _measure(
    name: str, row: Row, data: Path, settings: argparse.Namespace
) -> tuple[list[Pair], dict[str, object]]:
    """The pairs of one row, and the facts that our side says of the machine."""
    logger.info("%s: %s", name, row.what.format(**vars(settings)))
    if row.fresh_process:
        pairs = []
        for _ in range(settings.repeats):
            with Worker(OURS, name, data, settings) as ours:
                pairs.append(Pair(ours.repeat(), None))
                logger.info("  %.2f s", pairs[-1].ours.seconds)
        return pairs, ours.facts
    with ExitStack() as stack:
        # Ours first: it writes the weights that the plain side starts from.
        ours = stack.enter_context(Worker(OURS, name, data, settings))
        plain = stack.enter_context(Worker(PLAIN, name, data, settings))
        pairs = []
        for _ in range(settings.repeats):
            pair = Pair(ours.repeat(), plain.repeat())
            pairs.append(pair)
            assert pair.plain is not None
            logger.info(
                "  ours %.1f/s, plain %.1f/s, %.2fx",
                rate(pair.ours),
                rate(pair.plain),
                ratios([pair])[0],
            )
        return pairs, {**ours.facts, "threads of the plain side": plain.facts["threads"]}


def processor() -> str:
    """The processor's name, as Linux tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def check_out(out: str) -> Path | None:
    """The file of `--out`, None if there is none; UsageError where it cannot be written."""
    path = Path(out) if out else None
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}")
    return path


def _benchmark(argv: Sequence[str] | None) -> None:
    settings = parse_flags(COMMAND_FLAGS, argv, __doc__ or "")
    out = check_out(settings.out)
    from benchmarks.data import make_data

    start = time.perf_counter()
    measured: dict[str, Sequence[Pair]] = {}
    facts: dict[str, object] = {"processor": processor()}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        data = Path(folder)
        make_data(data, settings)
        for name, row in ROWS.items():
            if not settings.only or name in settings.only:
                measured[name], said = _measure(name, row, data, settings)
                facts.update(said)
    text = table(measured, settings, facts)
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    logger.info("done in %.0f s", time.perf_counter() - start)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
