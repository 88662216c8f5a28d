"""Starts commands; what runs inside a job of a cluster: several at once, continued as one.

Commands end with the process that starts them, their state saved.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO

from train_scripts.cluster import ask
from train_scripts.command_file import Command
from train_scripts.run_state import ATTEMPT, note_end, signal_name

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

logger = logging.getLogger(__name__)

# One of these comes before preemption and the time limit; submitit acts on it.
_WARNINGS = {signal.SIGUSR1, signal.SIGUSR2}
# How often Slurm is asked about a job, and the time between: half a minute, as long as it leaves a
# job that is told to stop.
QUERIES, QUERY_SECONDS = 7, 5.0

# Becomes the run, once the kernel has promised it SIGTERM at its parent's end (PR_SET_PDEATHSIG). A
# process of its own asks for that: Python between fork and exec is not safe beside other threads.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class RunTogether:
    """The work of a job, as submitit calls it: `runs`, each with the file that takes its output.

    Finished runs are left alone and unfinished ones continued, so a job that goes back into the
    queue is the same job again.
    """

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self._told_to_stop = False

    def __call__(self, runs: Sequence[tuple[Command, Path]]) -> None:
        """Run all to their ends. Exits with a line that names the logs of those that failed."""
        signal.signal(signal.SIGTERM, self._note)
        runs = [(command, log) for command, log in runs if not command.finished]
        # Slurm signals every process of a job. The children inherit the block, so a warning, which
        # would kill them, only reaches this process, and not before it knows them all.
        signal.pthread_sigmask(signal.SIG_BLOCK, _WARNINGS)
        for number, (command, log) in enumerate(runs):
            environment = share_of_machine(number, len(runs))
            self._children.append(_start_locked(command, environment, log))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WARNINGS)
        codes = [child.wait() for child in self._children]
        if self._told_to_stop and any(codes):
            if _still_running():
                # Preempted with a time of grace: a job that ends within it is not requeued by
                # Slurm, but by submitit, as after a warning.
                signal.raise_signal(signal.SIGUSR2)
            sys.exit(128 + signal.SIGTERM)
        failed = {log: code for (_, log), code in zip(runs, codes, strict=True) if code}
        for log, code in failed.items():
            if signal_name(code):
                note_end(log, code)
        if failed:
            sys.exit(f"{len(failed)} of {len(runs)} runs failed: {', '.join(map(str, failed))}")

    def checkpoint(self, runs: Sequence[tuple[Command, Path]]) -> DelayedSubmission:
        """Stop the runs, each with its state saved; what the job is to do when it starts again."""
        from submitit.helpers import DelayedSubmission

        # A second SIGTERM would kill a run that is saving; Slurm's own has reached them all.
        if not self._told_to_stop:
            for child in self._children:
                # The whole group: a run may have started a process that collects its data.
                with contextlib.suppress(ProcessLookupError):
                    if child.poll() is None:
                        os.killpg(child.pid, signal.SIGTERM)
        for child in self._children:
            # Not `child.wait`: the signal may have interrupted that very call, which holds a lock.
            with contextlib.suppress(ChildProcessError):  # it ended before
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(RunTogether(), runs)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told_to_stop = True


def share_of_machine(number: int, count: int) -> dict[str, str]:
    """The environment of run `number` of `count` at once: its share of the processors, one GPU.

    OMP_NUM_THREADS is kept where it is set. Progress bars are off: logs take the output.
    """
    processors = int(os.environ.get("SLURM_CPUS_ON_NODE", len(os.sched_getaffinity(0))))
    threads = str(max(1, processors // count))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "TQDM_DISABLE": "1"}
    if gpus := os.environ.get("CUDA_VISIBLE_DEVICES", ""):
        names = gpus.split(",")
        environment["CUDA_VISIBLE_DEVICES"] = names[number % len(names)]
    return environment


def run_in_turn(commands: Sequence[Command]) -> int:
    """Run the commands in the foreground, one after the other; the exit code."""
    failed = 0
    for command in commands:
        logger.info("%s%s", ATTEMPT, shlex.join(command.continuing))
        child = start(command)
        try:
            failed += child.wait() != 0
        except KeyboardInterrupt:
            child.wait()  # the terminal has told it too, and it is saving its state
            raise
    logger.info("%d of %d runs failed", failed, len(commands))
    return 1 if failed else 0


def start(
    command: Command, environment: Mapping[str, str] | None = None, log: BinaryIO | None = None
) -> subprocess.Popen[bytes]:
    """Start the run, which gets SIGTERM if this process ends before it.

    With `log` it prints there, below a line that tells the attempt, and reads nothing.
    """
    words = command.continuing
    if log is not None:
        log.write(f"{ATTEMPT}{shlex.join(words)}\n".encode())
        log.flush()
    return subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, str(os.getpid()), *words[1:]],
        env=environment,
        stdin=None if log is None else subprocess.DEVNULL,
        stdout=log,
        stderr=None if log is None else subprocess.STDOUT,
        # A group of its own: the terminal's Ctrl-C is for this process, which passes it on.
        start_new_session=log is not None,
    )


def _start_locked(
    command: Command, environment: Mapping[str, str], path: Path
) -> subprocess.Popen[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as log:
        # Until the run ends, it tells others that somebody is at work on it.
        with contextlib.suppress(OSError):
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return start(command, environment, log)


def _still_running() -> bool:
    """Whether Slurm means this job to go on: it is neither cancelled nor in the queue again.

    Where Slurm does not answer, a job goes on: one too many is found finished, one too few is lost.
    """
    job = os.environ["SLURM_JOB_ID"]
    for number in range(QUERIES):
        if number:
            time.sleep(QUERY_SECONDS)
        done = ask("squeue", "--noheader", f"--jobs={job}", "--format=%T")
        if done is not None and done.returncode == 0:
            return done.stdout.strip() == "RUNNING"
    return True
