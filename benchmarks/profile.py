"""Tell where each method's training time goes and how far it is from what the machine can do:
python -m benchmarks.profile

For each method, in one run and beside the plain code of `benchmarks.throughput`: samples per
second, the share of the time in data, forward pass, backward pass, optimiser and host, memory, and
the operations and bytes of a step over what this machine reaches at its best.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.profile_tables import profile_tables
from benchmarks.rows import Pair, rate, ratios
from benchmarks.sizes import METHOD_SETTINGS, PROFILE_FLAGS
from benchmarks.throughput import check_out, processor
from benchmarks.worker import Worker
from common.files import write_atomically
from common.flags import parse_flags, run_command

logger = logging.getLogger(__name__)

PHASES, PLAIN = "benchmarks.phases", "benchmarks.reference"


def _measure(
    algo: str, data: Path, settings: argparse.Namespace
) -> tuple[list[Pair], dict[str, object]]:
    """The pairs of one method, and the facts that our side says of the machine."""
    with (
        Worker(PHASES, algo, data, settings) as ours,
        Worker(PLAIN, algo, data, settings) as plain,
    ):
        pairs = []
        for _ in range(settings.repeats):
            pair = Pair(ours.repeat(), plain.repeat())
            pairs.append(pair)
            logger.info("%s: %.1f/s, %.2fx", algo, rate(pair.ours), ratios([pair])[0])
        return pairs, ours.facts


def _profile(argv: Sequence[str] | None) -> None:
    settings = parse_flags(PROFILE_FLAGS, argv, __doc__ or "")
    out = check_out(settings.out)
    from benchmarks.data import make_data

    measured: dict[str, Sequence[Pair]] = {}
    facts: dict[str, object] = {"processor": processor()}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        make_data(Path(folder), settings)
        for algo in METHOD_SETTINGS:
            if not settings.only or algo in settings.only:
                measured[algo], said = _measure(algo, Path(folder), settings)
                facts.update(said)
    text = profile_tables(measured, settings, facts)
    print(text)
    if out is not None:
        write_atomically(out, text.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_profile, argv)


if __name__ == "__main__":
    sys.exit(main())
