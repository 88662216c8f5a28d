"""How a run of a sweep is doing, from the files that it leaves and the locks that it holds."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train_scripts.cluster import Job
from train_scripts.command_file import Command

STATES = "finished running waiting stopped lost failed".split()
FINISHED, RUNNING, WAITING, STOPPED, LOST, FAILED = STATES
# On a file system whose locks other machines do not see, a run that wrote this lately is running.
# Every run writes something at least every five minutes: its checkpoint.
RECENT_SECONDS = 600.0
PENDING = "PENDING"  # Slurm's word for a job that waits
# What a queue writes into a run's log before an attempt.
ATTEMPT = "$ "

_TAIL_BYTES = 16_384
_RECENT_ROWS = 20  # of logs.csv: what the time left is reckoned from
_NETWORK_FILE_SYSTEMS = re.compile(
    r"nfs|cifs|smb|9p|afs|lustre|gpfs|beegfs|ceph|gluster|pvfs|panfs|weka|fuse"
)
# In out.log a line starts with the time.
_ERROR = re.compile(r"(?:\d{4}-\d\d-\d\d [\d:,]+ )?error: (.*)")


class Machine:
    """What is locked here, and where locks reach no further than here."""

    def __init__(self) -> None:
        self._locked = _locked_inodes()
        self._network = _network_devices()

    def holds(self, path: Path) -> bool:
        """Whether a process of this machine has locked the file or folder.

        A lock is tried only where the kernel lists one: to take it, for however short a time, could
        refuse it to a run that starts just then.
        """
        try:
            if self._locked is not None and path.stat().st_ino not in self._locked:
                return False
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # a network file system that cannot lock
        finally:
            os.close(descriptor)
        return False

    def shares(self, folder: Path) -> bool:
        """Whether other machines write to the folder, whose locks are not known here."""
        with contextlib.suppress(OSError):
            return folder.stat().st_dev in self._network
        return False


def _locked_inodes() -> set[int] | None:
    """Numbers of the inodes that are locked, on whatever device; None if the kernel does not tell.

    The devices it names are not everywhere those that `stat` names.
    """
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  WRITE 16322 fe:00:2277448 0 EOF
    fields = [line.split() for line in lines if " FLOCK " in line]
    return {int(words[-3].rpartition(":")[2]) for words in fields}


def _network_devices() -> set[int]:
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return set()
    devices = set()
    for line in lines:
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        mount, _, system = line.partition(" - ")
        if _NETWORK_FILE_SYSTEMS.match(system):
            major, minor = mount.split()[2].split(":")
            devices.add(os.makedev(int(major), int(minor)))
    return devices


def state(
    command: Command, logs: Sequence[Path], machine: Machine, job: Job | None = None
) -> tuple[str, str]:
    """One of `STATES`, and of a failed or lost run the error.

    `logs` are those of its sweeps, and `job` the one that Slurm has or had for it.
    """
    if command.finished:
        return FINISHED, ""
    folder = command.folder
    if command.evaluates:
        started, own = False, []  # the folder is that of the training, and tells nothing
    else:
        started = folder.is_dir()
        own = [folder / "out.log"]
    if any(machine.holds(path) for path in ([folder, *logs] if started else logs)):
        return RUNNING, ""
    # Of an error that two logs tell, the later one knows whether it still holds.
    error = last_error(max([*logs, *own], key=modified)) if own or logs else ""
    stopped = error.startswith("stopped")
    if job and job.state == PENDING:  # for the first time, or once more
        return WAITING, ""
    if error and not stopped:
        return FAILED, error
    if job and job.state:
        return RUNNING, ""
    if stopped:
        return STOPPED, ""
    if started and machine.shares(folder) and _is_recent(folder):
        return RUNNING, ""
    if job:
        return LOST, f"job {job.id} has left Slurm's queue"
    return (STOPPED if started else WAITING), ""


def _is_recent(folder: Path) -> bool:
    names = ("out.log", "logs.csv", "model.pt", "rolling/model.pt")
    return time.time() - max(modified(folder / name) for name in names) < RECENT_SECONDS


def modified(path: Path) -> float:
    """When the file was last written, in seconds of the epoch; 0 if it is not there."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def last_error(log: Path) -> str:
    """The error that ended the last attempt, without "error: "; empty if none did.

    Of a traceback it is the last line.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    if not lines:
        return ""
    if match := _ERROR.fullmatch(lines[-1]):
        return match[1]
    for line in reversed(lines):
        if line.startswith(ATTEMPT):
            break
        if line.startswith("Traceback (most recent call last)"):
            return lines[-1]
    return ""


def signal_name(code: int) -> str:
    """Of the signal that ended a process, or that it ended itself for; empty if none did."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else ""


def note_end(log: Path, code: int, attempts: int = 1) -> str:
    """The error of a run that failed with exit code `code`; the log's last line tells it then."""
    name = signal_name(code)
    error = "" if name else last_error(log)
    if not error:  # the run could not tell
        times = f" {attempts} times" if attempts > 1 else ""
        error = f"ended {f'by {name}{times}' if name else 'early'} with exit code {code}"
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"error: {error}\n")
    return error


@dataclass(frozen=True)
class Progress:
    """How far a run's logs.csv has come.

    `done` of `total` epochs, or updates of PPO; the best mean validation return, if it is measured;
    when the last row was written, in seconds of the epoch; seconds to the last epoch at the latest
    speed, early stopping aside.
    """

    done: int
    total: int
    best_validation: float | None
    last_row: float
    seconds_left: float


def progress(command: Command) -> Progress | None:
    """What logs.csv tells; None if there is no row yet, or if it is another command's."""
    if command.evaluates:
        return None
    path = command.folder / "logs.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError):
        return None
    # The last one may be on its way to the disk.
    rows = [row for row in rows if len(row) == len(header)]
    if not rows:
        return None
    settings = command.settings
    validation = None
    if "epoch" in header:
        done, total = int(rows[-1][header.index("epoch")]), settings.epochs
        validation = max(_column(header, rows, "val_rets_mean"))
        recent = rows[-_RECENT_ROWS:]
        training, playing = (
            sum(_column(header, recent, name)) / len(recent) for name in ("epoch_time", "inf_time")
        )
        seconds = training + playing / settings.eval_freq
    else:
        done = int(rows[-1][header.index("update")])
        total = -(-settings.num_env_steps // (settings.num_steps * settings.num_processes))
        seconds = _column(header, rows[-1:], "elapsed_seconds")[0] / done
    return Progress(done, total, validation, modified(path), (total - done) * seconds)


def _column(header: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> list[float]:
    index = header.index(name)
    return [float(row[index]) for row in rows]
