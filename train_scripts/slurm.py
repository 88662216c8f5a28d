"""Run the commands of a sweep: python -m train_scripts.slurm -path bc_commands.txt -name "bc"

Takes the files that train_scripts.make_cmd writes and submits their runs to Slurm as job arrays, or
with --cluster local runs them on this machine. Finished runs and runs that are in the queue
already, of whatever sweep in --log_dir, are left out, so the same command may be given again at any
time. A job that is preempted or reaches its time limit saves the state of its runs, goes back into
the queue and continues them. What a run prints goes to <log_dir>/<name>/<env_name>/<xpid>.log, what
its evaluation prints to <xpid>.eval.log.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from common.errors import ToolkitError, UsageError
from common.flags import Flag, parse_flags, run_command
from train_scripts.cluster import identity, jobs_of_runs, max_array_size, record_jobs
from train_scripts.command_file import (
    LOG_DIR,
    MODULE_NAMES,
    Command,
    log_file,
    read_commands,
)
from train_scripts.jobs import RunTogether, run_in_turn
from train_scripts.make_cmd import write_out

# A run may need many times the time limit, and every job brings it further: no end to requeueing.
MAX_TIMEOUTS = 10_000

_T = TypeVar("_T")


def minutes(text: str) -> int:
    """Slurm's ways to write a time, in whole minutes: 90, 1:30:00, 2-12, 2-12:30:00."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise UsageError(f"--time {text}: write minutes, hours:minutes:seconds or days-hours")
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    # Two parts alone are minutes and seconds; behind days they start with hours.
    hours, rest = (*parts, 0)[:2] if days or len(parts) == 3 else (0, parts[0])
    return (int(days or 0) * 24 + hours) * 60 + rest


SLURM_FLAGS = (
    Flag("partition", str, "", "Partition to submit to; empty takes the cluster's default."),
    Flag(
        "time",
        minutes,
        240,
        "Time limit of a job, in minutes or as Slurm writes it (1-12:00:00), at most what the "
        "partition allows. Runs may take longer: their job goes back into the queue and continues "
        "them.",
        minimum=3,  # the warning comes 90 seconds before the end
    ),
    Flag("mem", str, "", "Memory of a job, as Slurm writes it (16G); empty takes the default."),
    Flag("cpus_per_task", int, 0, "Processors of a job; 0 takes the cluster's default.", minimum=0),
    Flag("gpus_per_node", str, "", "GPUs of a job, as Slurm writes them (1, a100:1); empty: none."),
    Flag("constraint", str, "", "Features that nodes must have."),
    Flag("account", str, "", "Account to charge."),
    Flag("qos", str, "", "Quality of service."),
    Flag("array_parallelism", int, 256, "Most jobs of an array at once.", minimum=1),
    Flag("setup", str, (), "Lines for the shell before a job's work: module load cuda.", many=True),
    Flag("runs_per_job", int, 1, "Runs that share one job, and its GPU, at once.", minimum=1),
)
FLAGS = (
    Flag("path", str, (), "Files of commands; several make one sweep.", many=True),
    Flag("name", str, "", "Name of the sweep; empty takes that of the file."),
    Flag(
        "module_name",
        str,
        "offline",
        "What the commands run; eval evaluates what the commands train.",
        choices=tuple(MODULE_NAMES),
    ),
    Flag(
        "cluster",
        str,
        "slurm",
        "slurm submits; local runs on this machine, --jobs at once; debug one after the other, in "
        "the foreground.",
        choices=("slurm", "local", "debug"),
    ),
    Flag("jobs", int, 1, "Runs at once with --cluster local.", minimum=1),
    Flag("log_dir", str, LOG_DIR, "Folder for logs."),
    Flag("dry_run", bool, False, "Print what would be submitted and run, and do nothing."),
    *SLURM_FLAGS,
)


def _slurm(argv: Sequence[str] | None) -> int:
    settings = _parse(argv)
    commands = read_commands(settings.path, settings.module_name)
    if settings.cluster == "slurm":
        return _submit(commands, settings)
    unfinished = [command for command in commands if not command.finished]
    if settings.dry_run:
        write_out(_lines(unfinished))
        return 0
    if settings.cluster == "debug":
        return run_in_turn(unfinished)
    folder = Path(settings.log_dir) / settings.name
    _prepare_logs(folder)
    _link_latest(folder)
    from train_scripts.local_queue import run_queue

    return run_queue(commands, settings.jobs, Path(settings.log_dir), settings.name)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    words = sys.argv[1:] if argv is None else argv
    # The paper writes -path and -name.
    words = [re.sub(r"^-(?=(path|name)(=|$))", "--", word) for word in words]
    settings = parse_flags(FLAGS, words, __doc__ or "")
    if not settings.path:
        raise UsageError("--path: name a file of commands, as train_scripts.make_cmd writes them")
    unused = set() if settings.cluster == "slurm" else {flag.name for flag in SLURM_FLAGS}
    unused |= set() if settings.cluster == "local" else {"jobs"}
    unused |= {"log_dir", "name"} if settings.cluster == "debug" else set()
    for name in sorted(unused & settings.given):
        raise UsageError(f"--{name}: --cluster {settings.cluster} does not use it")
    settings.name = settings.name or "-".join(Path(path).stem for path in settings.path)
    if settings.name in (".", "..", "latest") or "/" in settings.name:
        raise UsageError(f"--name {settings.name}: give the name of a folder, not a path")
    return settings


def _submit(commands: Sequence[Command], settings: argparse.Namespace) -> int:
    """Submit the runs that are neither finished nor in the queue, as job arrays."""
    if shutil.which("sbatch") is None and not settings.dry_run:
        raise ToolkitError(
            "no Slurm on this machine (no sbatch): --cluster local runs the commands here"
        )
    folder = Path(settings.log_dir) / settings.name
    unfinished = [command for command in commands if not command.finished]
    queued = {run for run, job in jobs_of_runs(Path(settings.log_dir)).items() if job.state}
    left = [c for c in unfinished if queued.isdisjoint(map(identity, (c, *c.seeds)))]
    told = (
        f"{len(commands)} runs: {len(commands) - len(unfinished)} finished, "
        f"{len(unfinished) - len(left)} in the queue"
    )
    if not left:
        write_out([f"{told}, nothing to submit"])
        return 0
    packs = _cut(left, settings.runs_per_job)
    arrays = _cut(packs, max_array_size())
    job_folder = folder / "slurm" / f"{datetime.now():%Y%m%dT%H%M%S%f}"
    if settings.dry_run:
        for array in arrays:
            jobs = [[f"# job {i}", *_lines(pack)] for i, pack in enumerate(array)]
            write_out([_script(job_folder, len(array), settings), *itertools.chain(*jobs)])
        return 0
    _prepare_logs(folder)
    ids = _submit_arrays(job_folder, arrays, settings)
    what = f"jobs {ids}" if len(packs) > 1 else f"job {ids}"
    kind = ".eval" if left[0].evaluates else ""
    write_out(
        [
            f"{told}, {len(left)} submitted as {what}",
            f"logs of the runs: {folder}/<env_name>/<xpid>{kind}.log",
            f"logs of the jobs: {job_folder}",
        ]
    )
    _link_latest(folder)  # last, as it may be refused: the ids of the jobs are told
    return 0


def _cut(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _lines(commands: Sequence[Command]) -> list[str]:
    return [shlex.join(command.continuing) for command in commands]


def _submit_arrays(
    folder: Path, arrays: Sequence[Sequence[Sequence[Command]]], settings: argparse.Namespace
) -> str:
    """Submit each array of packs of runs, and record its jobs; their ids, as a line tells them.

    Raises ToolkitError with what Slurm says against one; those before it are submitted.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    folder.mkdir(parents=True)
    executor = submitit.SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS)
    executor.update_parameters(**_parameters(settings))
    told: list[str] = []
    for array in arrays:
        runs = [
            [(command, log_file(settings.log_dir, settings.name, command)) for command in pack]
            for pack in array
        ]
        try:
            # submitit repeats on standard error what it raises.
            with contextlib.redirect_stderr(io.StringIO()):
                jobs = [job.job_id for job in executor.map_array(RunTogether(), runs)]
        except FailedJobError as error:
            if told:
                raise ToolkitError(
                    f"Slurm has taken {', '.join(told)} and refuses the jobs that are left: {error}"
                ) from None
            shutil.rmtree(folder)
            raise ToolkitError(f"Slurm refuses the jobs: {error}") from None
        record_jobs(folder.parents[1], jobs, array)
        told.append(jobs[0] if len(jobs) == 1 else f"{jobs[0]} to {jobs[-1]}")
    return ", ".join(told)


def _parameters(settings: argparse.Namespace) -> dict[str, Any]:
    """The flags as submitit takes them; what is empty is left to the cluster."""
    names = "partition time cpus_per_task gpus_per_node constraint account qos setup".split()
    given = {name: getattr(settings, name) for name in (*names, "array_parallelism")}
    if settings.cpus_per_task:
        # Since Slurm 22.05, srun does not take this from the job.
        given["srun_args"] = [f"--cpus-per-task={settings.cpus_per_task}"]
    more = {"requeue": True, "mem": settings.mem}
    return {
        "job_name": settings.name,
        **{name: value for name, value in given.items() if value},
        "wckey": None,  # submitit's own would be charged, or refused, where a cluster counts them
        "additional_parameters": {name: value for name, value in more.items() if value},
    }


def _script(folder: Path, jobs: int, settings: argparse.Namespace) -> str:
    """What submitit would hand to sbatch; its own way to it wants a machine with Slurm."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = [sys.executable, "-u", "-m", "submitit.core._submit", str(folder.absolute())]
    script: str = _make_sbatch_string(
        command=shlex.join(command),
        folder=folder,
        map_count=jobs if jobs > 1 else None,
        **_parameters(settings),
    )
    return script


def _prepare_logs(folder: Path) -> None:
    """Make the sweep's folder, and see that it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ToolkitError(
            f"cannot write logs to {folder}: {error.strerror}: --log_dir names another folder"
        ) from None


def _link_latest(folder: Path) -> None:
    """Let `latest` beside the sweep's folder link to it."""
    link = folder.with_name(f".latest.{os.getpid()}")
    link.symlink_to(folder.name)
    link.replace(folder.with_name("latest"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_slurm, argv)


if __name__ == "__main__":
    sys.exit(main())
