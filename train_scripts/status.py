"""Tell how a sweep is doing: python -m train_scripts.status --path bc_commands.txt

One row per run: finished, running, waiting, stopped (the same commands continue it) or failed, with
the error; its epochs, its best mean validation return, how long ago it wrote its last row of
logs.csv, and how long it will take to its last epoch. With --failed prints the commands of the
failed runs instead, to be given again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import UsageError
from common.flags import Flag, parse_flags, run_command
from train_scripts.command_file import LOG_DIR, MODULE_NAMES, Command, log_file, read_commands
from train_scripts.make_cmd import as_text, write_out
from train_scripts.run_state import FAILED, FINISHED, RUNNING, STATES, Machine, progress, state

WATCH_SECONDS = 5.0
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
    Flag("failed", bool, False, "Print only the commands of the failed runs."),
    Flag("watch", bool, False, "Draw the table anew every 5 seconds until all runs are finished."),
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


def sweep_states(commands: Sequence[Command], log_dir: Path, name: str) -> list[tuple[str, str]]:
    """State and error of every run, by the logs of the sweep called `name`, or of all sweeps."""
    machine = Machine()
    names = [name] if name else _sweeps(log_dir)
    states = []
    for command in commands:
        logs = [log_file(log_dir, each, command) for each in names]
        states.append(state(command, [log for log in logs if log.exists()], machine))
    return states


def _sweeps(log_dir: Path) -> list[str]:
    if not log_dir.is_dir():
        return []
    # `latest` is one of the others.
    return [each.name for each in os.scandir(log_dir) if each.is_dir(follow_symlinks=False)]


def table(commands: Sequence[Command], states: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of the table, and one that counts the states."""
    rows = [_row(c, *each) for c, each in zip(commands, states, strict=True)]
    header = HEADER if any(row.error for row in rows) else HEADER._replace(error="")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    counts = Counter(name for name, _ in states)
    told = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    return [
        *("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows)),
        "",
        f"{len(rows)} runs: {told}",
    ]


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
    states = sweep_states(runs, Path(settings.log_dir), settings.name)
    if settings.failed:
        pairs = zip(runs, states, strict=True)
        # Once, however many of a command's seeds failed.
        words = dict.fromkeys(run.words for run, (name, _) in pairs if name == FAILED)
        write_out(as_text(command) + "\n" for command in words)
    else:
        write_out(table(runs, states))


def _watch(commands: Sequence[Command], settings: argparse.Namespace) -> None:
    try:
        while True:
            states = sweep_states(commands, Path(settings.log_dir), settings.name)
            start = [CLEAR] if sys.stdout.isatty() else []
            print(*start, *table(commands, states), sep="\n", flush=True)
            if all(name == FINISHED for name, _ in states):
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
