"""Runs a sweep on this machine, several runs at once: train_scripts.slurm --cluster local.

A run saves its state and ends when the queue does, however the queue ends, so nothing is left
behind and the same command continues the sweep. A run's log is locked as long as anything writes to
it: several queues may work on the same commands, and each run is with one of them at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from train_scripts.command_file import Command, log_file
from train_scripts.jobs import share_of_machine, start
from train_scripts.run_state import Machine, note_end, signal_name

logger = logging.getLogger(__name__)

MAX_RESTARTS = 2  # of a run that was killed
POLL_SECONDS = 0.2
SHOW_SECONDS = 10.0  # between pictures of a bar in which nothing happens
LOOK_AGAIN_SECONDS = 2.0  # at a run that another process is at work on


@dataclass
class _Run:
    """One run of the sweep, and how it fares."""

    command: Command
    log: Path
    restarts: int = 0
    elsewhere: bool = False  # another process was at work on it when last looked at
    look_at: float = 0.0  # not before this time, in monotonic seconds


class _Queue:
    """The runs that are left, and those under way, by the slot that they take."""

    def __init__(self, runs: Sequence[_Run], finished: int, jobs: int) -> None:
        self.waiting = deque(runs)
        self.running: dict[int, tuple[_Run, subprocess.Popen[bytes]]] = {}
        self.failed: list[tuple[_Run, str]] = []
        self.finished = finished
        self.environments = _environments(jobs)
        self._shown: tuple[int, ...] = ()
        self._shown_at = 0.0

    def start(self) -> None:
        """Fill the free slots, as far as there are runs that nobody else is at work on."""
        for slot, environment in enumerate(self.environments):
            if slot in self.running:
                continue
            for _ in range(len(self.waiting)):
                run = self.waiting.popleft()
                if run.look_at > time.monotonic():
                    self.waiting.append(run)
                elif process := self._start(run, environment):
                    self.running[slot] = run, process
                    break

    def _start(self, run: _Run, environment: dict[str, str]) -> subprocess.Popen[bytes] | None:
        with _claim(run) as log:
            if log is None:
                self._leave_to_others(run)
                return None
            if run.command.finished:  # by another process, since it came into the line
                self.finished += 1
                return None
            run.elsewhere = False
            return start(run.command, environment, log)

    def _leave_to_others(self, run: _Run) -> None:
        if not run.elsewhere:
            logger.info("at work elsewhere, waiting for it: %s", run.command.run_id)
        run.elsewhere, run.look_at = True, time.monotonic() + LOOK_AGAIN_SECONDS
        self.waiting.append(run)

    def reap(self) -> None:
        """Take note of the runs that have ended; those that were killed go back into the line."""
        for slot, (run, process) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[slot]
            if run.command.finished:
                self.finished += 1
            elif _is_at_work_on(run):
                self._leave_to_others(run)
            elif (name := signal_name(code)) and run.restarts < MAX_RESTARTS:
                run.restarts += 1
                logger.warning("ended by %s, to be continued: %s", name, run.command.run_id)
                self.waiting.append(run)
            else:
                error = note_end(run.log, code, 1 + run.restarts)
                logger.warning("failed: %s: %s", run.command.run_id, error)
                self.failed.append((run, error))

    def show(self, bar: tqdm) -> None:
        """Draw the bar anew if there is something to tell, or to show that the queue lives."""
        counts = (self.finished, len(self.failed), len(self.running))
        if counts == self._shown and time.monotonic() < self._shown_at + SHOW_SECONDS:
            return
        self._shown, self._shown_at = counts, time.monotonic()
        bar.n = self.finished
        bar.set_postfix(failed=len(self.failed), running=len(self.running))

    def stop(self, signals: list[int]) -> None:
        """Let the runs save their state and end; a further signal kills them."""
        if self.running:
            logger.info("waiting for %d runs to save their state", len(self.running))
        self._signal(signal.SIGTERM)
        for _, process in self.running.values():
            while process.poll() is None:
                if len(signals) > 1:
                    self._signal(signal.SIGKILL)
                time.sleep(POLL_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        for _, process in self.running.values():
            # The whole group: a run may have started a process that collects its data.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def run_queue(commands: Sequence[Command], jobs: int, log_dir: str | Path, name: str) -> int:
    """Keep `jobs` runs going until all that are not finished have run; the exit code.

    0 if all are finished, 1 if some failed, 128 + n after signal n. What a run prints goes to its
    `log_file`. Raises OSError if a log cannot be written.
    """
    runs = [_Run(c, log_file(log_dir, name, c)) for c in commands if not c.finished]
    finished = len(commands) - len(runs)
    logger.info("%d runs: %d finished", len(commands), finished)
    with (
        _noted_signals() as signals,
        logging_redirect_tqdm(),
        tqdm(total=len(commands), initial=finished, desc=name, unit="run") as bar,
    ):
        queue = _Queue(runs, finished, min(jobs, max(1, len(runs))))
        try:
            while (queue.waiting or queue.running) and not signals:
                queue.start()
                queue.show(bar)
                time.sleep(POLL_SECONDS)
                queue.reap()
        finally:
            queue.stop(signals)
            queue.show(bar)
    if signals:
        logger.info("stopped: the same command continues %s", name)
        return 128 + signals[0]
    for run, error in queue.failed:
        logger.info("failed: %s: %s (%s)", run.command.run_id, error, run.log)
    logger.info("%d of %d runs are finished", queue.finished, len(commands))
    return 1 if queue.failed else 0


@contextlib.contextmanager
def _claim(run: _Run) -> Iterator[BinaryIO | None]:
    """The run's log, locked; None if another process is at work on the run.

    The lock passes on to the process that gets the log for its output, and ends with it.
    """
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with open(run.log, "ab", buffering=0) as log:
        yield log if _lock(log) and not _is_at_work_on(run) else None


def _is_at_work_on(run: _Run) -> bool:
    """Whether a process of this machine is, with one of its seeds if it has several."""
    machine = Machine()
    return any(machine.holds(each.folder) for each in run.command.runs)


def _lock(log: BinaryIO) -> bool:
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a network file system that cannot lock
    return True


def _environments(jobs: int) -> list[dict[str, str]]:
    """The environment of each of `jobs` runs: its share of the processors, and one GPU."""
    environments = [share_of_machine(slot, jobs) for slot in range(jobs)]
    gpus = _count_gpus() if "CUDA_VISIBLE_DEVICES" not in os.environ else 0
    if gpus:
        for slot, environment in enumerate(environments):
            environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    return environments


def _count_gpus() -> int:
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    # Indented lines tell the parts of a card.
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """The numbers of the SIGINTs and SIGTERMs that have come, for as long as the context lasts."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    previous = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
