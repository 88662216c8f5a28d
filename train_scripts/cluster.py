"""What Slurm is asked, and the record of which of its jobs has which run.

Every submission adds its jobs to `jobs.csv` in the sweep's folder: job, module and folder of each
run. The records of all sweeps count, so a run is known whatever its sweep is called.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import ToolkitError
from train_scripts.command_file import Command

RECORD = "jobs.csv"
ANSWER_SECONDS = 30.0  # that a controller has: a busy one takes some
DEFAULT_ARRAY_SIZE = 1001  # Slurm's MaxArraySize where slurm.conf says nothing

RunIdentity = tuple[str, ...]


class Job(NamedTuple):
    """A job that has a run; `state` is Slurm's word for where it is, empty once it is gone."""

    id: str
    state: str


def identity(command: Command) -> RunIdentity:
    """What makes two commands the same run, whatever their sweeps are called."""
    return command.module, str(command.folder.resolve())


def record_jobs(folder: Path, jobs: Iterable[str], packs: Iterable[Sequence[Command]]) -> None:
    """Note in a sweep's folder which runs each job has; those of several seeds also one by one."""
    rows = [
        (job, *run)
        for job, pack in zip(jobs, packs, strict=True)
        for command in pack
        for run in dict.fromkeys(map(identity, (command, *command.seeds)))
    ]
    with open(folder / RECORD, "a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def jobs_of_runs(log_dir: Path) -> dict[RunIdentity, Job]:
    """The job of every run that sweeps below `log_dir` have submitted: one that is in the queue if
    there is any.

    Without Slurm on this machine, as in a dry run, none are known. Raises ToolkitError if it does
    not answer.
    """
    # `latest` is one of the others. The one written last comes last.
    records = [path for path in log_dir.glob(f"*/{RECORD}") if not path.parent.is_symlink()]
    records.sort(key=lambda path: path.stat().st_mtime)
    if not records or shutil.which("squeue") is None:
        return {}
    queued = queued_jobs()
    jobs: dict[RunIdentity, Job] = {}
    for record in records:
        with open(record, encoding="utf-8", newline="") as file:
            for job, *run in csv.reader(file):
                known = jobs.get(tuple(run))
                # Of jobs that are gone the one submitted last, whose logs tell the latest.
                if job in queued or not (known and known.state):
                    jobs[tuple(run)] = Job(job, queued.get(job, ""))
    return jobs


def queued_jobs() -> dict[str, str]:
    """The jobs of this user that wait or run, with Slurm's words for where they are.

    Raises ToolkitError if Slurm does not answer.
    """
    done = ask("squeue", "--me", "--array", "--noheader", "--format=%i %T")
    if done is None:
        raise ToolkitError(f"squeue: no answer within {ANSWER_SECONDS:g} s")
    if done.returncode:
        raise ToolkitError(f"squeue: {done.stderr}")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def max_array_size() -> int:
    """The most jobs that the cluster takes as one array; Slurm's default where it does not tell."""
    done = ask("scontrol", "show", "config") if shutil.which("scontrol") else None
    said = done.stdout if done else ""
    match = re.search(r"^MaxArraySize\s*=\s*([1-9]\d*)", said, re.MULTILINE)
    return int(match[1]) if match else DEFAULT_ARRAY_SIZE


def ask(*query: str) -> subprocess.CompletedProcess[str] | None:
    """A command of Slurm's, at its end; None if that does not come within `ANSWER_SECONDS`."""
    try:
        return subprocess.run(
            query, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        return None
