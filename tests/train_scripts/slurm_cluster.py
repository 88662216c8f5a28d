"""A real Slurm cluster of one node on loopback: its daemons run in the foreground, on free ports,
with all their files in one folder, and need no privileges.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

# Jobs of URGENT preempt those of SCAVENGE, which have a time of grace. CLOSED starts none.
PARTITION, SCAVENGE, URGENT, CLOSED = "tests", "scavenge", "urgent", "closed"
MAX_ARRAY_SIZE = 8
NUM_PROCESSORS = 8  # as Slurm counts them, whatever the machine has
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
# Daemons lie in sbin, which is not on every user's PATH.
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_START_SECONDS = 60.0


def missing_programs() -> list[str]:
    """What Slurm needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


class SlurmCluster:
    """A running cluster; `environment` is what a command needs to speak to it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)

    def ask(self, *command: str) -> str:
        """What a Slurm command says."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Slurm's word for where a job is: PENDING, RUNNING, COMPLETED, FAILED, ..."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.removeprefix("JobState=") for word in words if "JobState=" in word)

    def restarts(self, job: str) -> int:
        """How often a job was put back into the queue after it had started."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return next(int(word.removeprefix("Restarts=")) for word in words if "Restarts=" in word)

    def jobs(self) -> list[str]:
        """Every job that Slurm knows of, finished ones included, as the files of jobs name them."""
        return self.ask("squeue", "--states=all", "--array", "--noheader", "--format=%i").split()

    def wait(self, job: str, *states: str, seconds: float = 300.0) -> str:
        """The job's state, once it is one of these."""
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) not in states:
            assert time.monotonic() < deadline, f"{job} is {state}"
            time.sleep(0.2)
        return state


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """A cluster with its files in `folder`; every daemon and job has ended when the block has."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o700)
    environment = {
        **os.environ,
        "PATH": _PATH,
        "SLURM_CONF": str(folder / "slurm.conf"),
        # One thread: what a run computes then does not depend on the machine's load.
        "OMP_NUM_THREADS": "1",
    }
    key, munge_socket = folder / "munge" / "key", folder / "munge" / "socket"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    (folder / "slurm.conf").write_text(_configuration(folder, munge_socket))
    daemons = {
        "munged": [
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge_socket}"),
            *(f"--{kind}-file={folder / 'munge' / kind}" for kind in ("log", "pid", "seed")),
        ],
        "slurmctld": ["slurmctld", "-D", "-c"],
        "slurmd": ["slurmd", "-D", "-c"],
    }
    with contextlib.ExitStack() as running:
        cluster = SlurmCluster(folder, environment)
        for name, command in daemons.items():
            running.enter_context(_daemon(command, folder / f"{name}.out", environment))
        running.callback(_cancel_all, cluster)
        _wait_until_idle(cluster)
        yield cluster


def _configuration(folder: Path, munge_socket: Path) -> str:
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    control, node = _free_ports(2)
    return f"""
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# Requeued jobs wait for as long as credentials last.
AuthInfo=socket={munge_socket},cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MaxArraySize={MAX_ARRAY_SIZE}
# Tests ask about jobs long after their end.
MinJobAge=86400
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={NUM_PROCESSORS} RealMemory=4096
PartitionName={PARTITION} Nodes={host} PriorityTier=10 PreemptMode=OFF
PartitionName={SCAVENGE} Nodes={host} PriorityTier=1 GraceTime=60
PartitionName={URGENT} Nodes={host} PriorityTier=20
PartitionName={CLOSED} Nodes={host} State=DOWN
"""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as sockets:
        bound = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in bound]


@contextlib.contextmanager
def _daemon(command: list[str], output: Path, environment: Mapping[str, str]) -> Iterator[None]:
    with open(output, "wb") as file:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(cluster: SlurmCluster) -> None:
    deadline = time.monotonic() + _START_SECONDS
    said = ""
    while "idle" not in said:
        if time.monotonic() > deadline:
            outputs = [path.read_text() for path in sorted(cluster.folder.glob("*.out"))]
            raise TimeoutError("\n".join([said, *outputs]))
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            env=cluster.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        time.sleep(0.1)


def _cancel_all(cluster: SlurmCluster) -> None:
    """Cancel what is left and wait until it has ended: jobs outlive the daemon that starts them."""
    cluster.ask("scancel", f"--user={getpass.getuser()}")
    deadline = time.monotonic() + 60
    while cluster.ask("squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.2)
