"""What runs inside a job of a cluster: several commands at once, stopped and continued as one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from train_scripts.command_file import Command
from train_scripts.run_state import ATTEMPT

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

logger = logging.getLogger(__name__)

# One of these comes before preemption and the time limit; submitit acts on it.
_WARNINGS = {signal.SIGUSR1, signal.SIGUSR2}


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
            self._children.append(_start(command, log, share_of_machine(number, len(runs))))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WARNINGS)
        codes = [child.wait() for child in self._children]
        if self._told_to_stop and any(codes):
            if _still_running():
                # Preempted with a time of grace: a job that ends within it is not requeued by
                # Slurm, but by submitit, as after a warning.
                signal.raise_signal(signal.SIGUSR2)
            sys.exit(128 + signal.SIGTERM)
        failed = [str(log) for (_, log), code in zip(runs, codes, strict=True) if code]
        if failed:
            sys.exit(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")

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
        child = subprocess.Popen([sys.executable, *command.continuing[1:]])
        try:
            failed += child.wait() != 0
        except KeyboardInterrupt:
            child.wait()  # the terminal has told it too, and it is saving its state
            raise
    logger.info("%d of %d runs failed", failed, len(commands))
    return 1 if failed else 0


def _start(command: Command, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    words = command.continuing
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        # Until the run ends, it tells others that somebody is at work on it.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(f"{ATTEMPT}{shlex.join(words)}\n".encode())
        file.flush()
        return subprocess.Popen(
            [sys.executable, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _still_running() -> bool:
    """Whether Slurm means this job to go on: it is neither cancelled nor in the queue again."""
    job = os.environ["SLURM_JOB_ID"]
    query = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "RUNNING"
