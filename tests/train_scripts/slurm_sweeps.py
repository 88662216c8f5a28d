"""Giving train_scripts.slurm as a user would, with runs that are over in a moment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.command_runs import ROOT
from tests.offline_commands import GAME, TINY, TRAIN, flags
from tests.train_scripts.slurm_cluster import SlurmCluster
from train_scripts.make_cmd import as_text

SWEEP = "bc_commands"  # the sweep of the file bc_commands.txt
# A whole training run in about three seconds, most of which is the start of Python.
TINIEST = {**TINY, "epochs": 1, "num_final_episodes": 0}


class Sweep(NamedTuple):
    """Where a sweep was submitted, what the command said, and its jobs in order."""

    folder: Path
    process: subprocess.CompletedProcess[str]
    jobs: list[str]

    def run(self, xpid: str) -> Path:
        return self.folder / "runs" / GAME / xpid

    def log(self, xpid: str, name: str = SWEEP) -> str:
        path = self.folder / "logs" / name / GAME / f"{xpid}.log"
        return path.read_text() if path.exists() else ""


def give(
    folder: Path, *arguments: str, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Give the command in `folder`, where runs and logs then go."""
    return subprocess.run(
        [sys.executable, "-m", "train_scripts.slurm", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # debug runs its runs in it
    )


def submit(cluster: SlurmCluster, folder: Path, *arguments: str, name: str = SWEEP) -> Sweep:
    done = give(folder, *arguments, environment=cluster.environment)
    assert done.returncode == 0, done.stderr
    rows = (folder / "logs" / name / "jobs.csv").read_text().split()
    return Sweep(folder, done, list(dict.fromkeys(row.split(",")[0] for row in rows)))


def write_commands(folder: Path, *runs: Mapping[str, Any], name: str = SWEEP) -> Path:
    """A file of commands that train these runs, in `folder` and below its runs/."""
    path = folder / f"{name}.txt"
    commands = [["python", "-m", TRAIN, *flags(run, save_path="runs")] for run in runs]
    path.write_text("".join(as_text(command) + "\n" for command in commands))
    return path
