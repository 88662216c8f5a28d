"""Tell how a sweep is doing: python -m train_scripts.status --path bc_commands.txt

One row per run: finished, running, waiting, stopped (the same commands continue it), lost (its job
is gone, and nothing tells why) or failed, with the error; its epochs, its best mean validation
return, how long ago it wrote its last row of logs.csv, and how long it will take to its last epoch.
Where runs were submitted to Slurm, it is asked for their jobs. With --failed prints the commands of
failed and lost runs instead, to be given again.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from common.errors import ToolkitError, UsageError
from common.flags import Flag, parse_flags, run_command
from train_scripts.cluster import Job, RunIdentity, identity, jobs_of_runs
from train_scripts.command_file import LOG_DIR, MODULE_NAMES, Command, log_file, read_commands
from train_scripts.make_cmd import as_text, write_out
from train_scripts.run_state import (
    FAILED,
    FINISHED,
    LOST,
    RUNNING,
    STATES,
    STOPPED,
    WAITING,
    Machine,
    progress,
    state,
)

logger = logging.getLogger(__name__)

WATCH_SECONDS = 5.0
ASK_SECONDS = 30.0  # between questions to Slurm, which many users ask
ENDED = (FINISHED, FAILED, LOST)
CLEAR = "\x1b[H\x1b[2J"
FLAGS = (
    Flag("path", str, (), "Files of commands; several make one sweep.", many=True),
    Flag("name", str, "", "Name of the sweep; empty looks at the logs of every sweep."),
    Flag("log_dir", str, LOG_DIR, "Folder of the sweeps' logs."),
    Flag(
        "module_name",
        str,
        "",
        "What the commands run, where that is to be checked; eval tells of the evaluations.",
        choices=("", *MODULE_NAMES),
    ),
    Flag("failed", bool, False, "Print only the commands of failed and lost runs."),
    Flag(
        "watch",
        bool,
        False,
        "Draw the table anew every 5 seconds until every run is finished, failed or lost.",
    ),
)


class Row(NamedTuple):
    """What the table tells of a run, as text."""

    state: str
    epoch: str
    validation: str
    last_row: str
    left: str
    run: str
    error: str


HEADER = Row("state", "epoch", "validation", "last row", "left", "run", "error")


def sweep_states(
    commands: Sequence[Command],
    log_dir: Path,
    name: str,
    jobs: Mapping[RunIdentity, Job] = MappingProxyType({}),
) -> list[tuple[str, str]]:
    """State and error of every run, by the logs of the sweep called `name`, or of all sweeps, and
    by the jobs that Slurm has or had for them.
    """
    machine = Machine()
    names = [name] if name else _sweeps(log_dir)
    states = []
    for command in commands:
        logs = [log_file(log_dir, each, command) for each in names]
        logs = [log for log in logs if log.exists()]
        job = jobs.get(identity(command)) if jobs else None
        states.append(state(command, logs, machine, job))
    return states


def _sweeps(log_dir: Path) -> list[str]:
    if not log_dir.is_dir():
        return []
    # `latest` is one of the others.
    return [each.name for each in os.scandir(log_dir) if each.is_dir(follow_symlinks=False)]


def table(
    commands: Sequence[Command],
    states: Sequence[tuple[str, str]],
    jobs: Mapping[RunIdentity, Job] = MappingProxyType({}),
) -> list[str]:
    """The lines of the table, and one that counts the states and says if nobody is at work."""
    rows = [_row(c, *each) for c, each in zip(commands, states, strict=True)]
    header = HEADER if any(row.error for row in rows) else HEADER._replace(error="")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    counts = Counter(name for name, _ in states)
    told = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    return [
        *("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows)),
        "",
        f"{len(rows)} runs: {told}{_nobody(commands, counts, jobs)}",
    ]


def _nobody(
    commands: Sequence[Command], counts: Mapping[str, int], jobs: Mapping[RunIdentity, Job]
) -> str:
    """What is to be said where runs wait, but no queue would ever start them."""
    # A local queue that has runs to start is never without one that runs.
    if not counts[WAITING] + counts[STOPPED] or counts[RUNNING]:
        return ""
    if jobs and any(jobs[run].state for run in map(identity, commands) if run in jobs):
        return ""
    return " (no queue is at work)"


def _jobs(log_dir: Path) -> dict[RunIdentity, Job]:
    """The jobs of the runs; none where Slurm does not answer, which a line then tells."""
    try:
        return jobs_of_runs(log_dir)
    except ToolkitError as error:
        logger.warning("%s: told by the files alone", " ".join(str(error).split()))
        return {}


def _row(command: Command, name: str, error: str) -> Row:
    made = progress(command)
    if made is None:
        return Row(name, "-", "-", "-", "-", command.run_id, error)
    age = time.time() - made.last_row
    left = "-"
    if name != FINISHED:
        left = duration(max(0.0, made.seconds_left - (age if name == RUNNING else 0.0)))
    return Row(
        name,
        f"{made.done}/{made.total}",
        "-" if made.best_validation is None else f"{made.best_validation:.2f}",
        duration(age),
        left,
        command.run_id,
        error,
    )


def duration(seconds: float) -> str:
    """In the unit that leaves a number below about a hundred: 45 s, 12 min, 3.4 h, 2.1 d."""
    for size, unit, most in ((1, "s", 100), (60, "min", 6000), (3600, "h", 360_000)):
        if seconds < most:
            return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def _status(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    if not settings.path:
        raise UsageError("--path: name a file of commands, as train_scripts.make_cmd writes them")
    if settings.failed and settings.watch:
        raise UsageError("--failed prints once: drop --watch")
    runs = [run for c in read_commands(settings.path, settings.module_name) for run in c.runs]
    if settings.watch:
        _watch(runs, settings)
        return
    log_dir = Path(settings.log_dir)
    # Slurm first: a run that ends just then is found finished, and not lost.
    jobs = _jobs(log_dir)
    states = sweep_states(runs, log_dir, settings.name, jobs)
    if settings.failed:
        pairs = zip(runs, states, strict=True)
        # Once, however many of a command's seeds failed.
        words = dict.fromkeys(run.words for run, (name, _) in pairs if name in (FAILED, LOST))
        write_out(as_text(command) + "\n" for command in words)
    else:
        write_out(table(runs, states, jobs))


def _watch(commands: Sequence[Command], settings: argparse.Namespace) -> None:
    log_dir = Path(settings.log_dir)
    asked = -math.inf
    settled = False  # at the last draw; a queue starts its next run a moment after one has ended
    try:
        while True:
            if time.monotonic() - asked > ASK_SECONDS:
                jobs, asked = _jobs(log_dir), time.monotonic()
            states = sweep_states(commands, log_dir, settings.name, jobs)
            start = [CLEAR] if sys.stdout.isatty() else []
            print(*start, *table(commands, states, jobs), sep="\n", flush=True)
            before, settled = settled, all(name in ENDED for name, _ in states)
            if settled and (before or all(name == FINISHED for name, _ in states)):
                return
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return  # it is how to end it
    except BrokenPipeError:
        write_out(())  # nobody reads any more: throws away what is still to be written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_status, argv)


if __name__ == "__main__":
    sys.exit(main())
