"""The README's sweep on a real Slurm, by its own commands, on the built-in data."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.sweep import copy_toolkit, python_first, readme_commands
from tests.offline_commands import assert_same, read_checkpoint
from tests.train_scripts.slurm_cluster import PARTITION, SlurmCluster

pytestmark = [pytest.mark.service, pytest.mark.slow]

# Small runs, but with enough batches to be met between the first epoch and the last.
SMALL = {
    "dataset_size": 2000,
    "batch_size": 8,
    "hidden_size": 16,
    "num_eval_episodes": 1,
    "num_final_episodes": 1,
}


class Submitted(NamedTuple):
    """What a command of the README said, and its jobs with the run of each, in order."""

    said: list[str]
    runs: dict[str, Path]


class Sweep(NamedTuple):
    """The sweep in its copy of the toolkit. The first job of the training was put back into the
    queue in its middle; all jobs have ended.
    """

    folder: Path
    training: Submitted
    evaluation: Submitted


class Toolkit:
    """A copy of the toolkit, in which the README's commands are given."""

    def __init__(self, folder: Path, cluster: SlurmCluster) -> None:
        self.folder, self.cluster = folder, cluster

    def give(self, command: str) -> list[str]:
        """What the command says, `<name>` being a partition's."""
        done = subprocess.run(
            command.replace("<name>", PARTITION),
            shell=True,
            cwd=self.folder,
            env=python_first(self.cluster.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def submit(self, command: str) -> Submitted:
        before = self._record()
        said = self.give(command)
        new = self._record()[len(before) :]
        return Submitted(said, {job: Path(folder) for job, _, folder in new})

    def _record(self) -> list[list[str]]:
        path = self.folder / "logs" / "small" / "jobs.csv"
        if not path.exists():
            return []
        with open(path, newline="") as file:
            return list(csv.reader(file))

    def log(self, run: Path) -> str:
        path = self.folder / "logs" / "small" / "coinrun" / f"{run.name}.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def sweep(
    tmp_path_factory: pytest.TempPathFactory, built_in_data: Path, cluster: SlurmCluster
) -> Sweep:
    toolkit = Toolkit(tmp_path_factory.mktemp("readme") / "toolkit", cluster)
    copy_toolkit(toolkit.folder, built_in_data, SMALL)
    make, *_, training, evaluation = readme_commands(toolkit.folder / "README.md")
    toolkit.give(make)
    trained = toolkit.submit(training)
    job, run = next(iter(trained.runs.items()))
    deadline = time.monotonic() + 300
    while "epoch 1:" not in toolkit.log(run):
        assert time.monotonic() < deadline, cluster.state(job)
        time.sleep(0.05)
    cluster.ask("scontrol", "requeue", job)
    for job in trained.runs:
        cluster.wait(job, "COMPLETED", "FAILED")
    evaluated = toolkit.submit(evaluation)
    for job in evaluated.runs:
        cluster.wait(job, "COMPLETED", "FAILED")
    return Sweep(toolkit.folder, trained, evaluated)


def test_the_commands_of_the_readme_train_and_evaluate_an_array_of_runs(
    sweep: Sweep, cluster: SlurmCluster
) -> None:
    for submitted in (sweep.training, sweep.evaluation):
        jobs = list(submitted.runs)
        assert jobs == [f"{jobs[0].split('_')[0]}_{i}" for i in range(4)]
        assert [cluster.state(job) for job in jobs] == ["COMPLETED"] * 4
        assert len(set(submitted.runs.values())) == 4
    for run in sweep.training.runs.values():
        meta = json.loads((run / "meta.json").read_text())
        assert meta["dataset"]["sources"] == [f"{sweep.folder}/data/built-in/coinrun/packed"]
        assert (run / "final_model.pt").exists()
        assert (run / "evaluate.csv").exists()


def test_a_run_of_the_readme_that_is_preempted_ends_with_the_weights_of_an_undisturbed_one(
    sweep: Sweep, cluster: SlurmCluster, tmp_path: Path
) -> None:
    job, run = next(iter(sweep.training.runs.items()))
    assert cluster.restarts(job) == 1
    log = Toolkit(sweep.folder, cluster).log(run)
    assert "continuing at epoch" in log
    words = shlex.split(log.splitlines()[0].removeprefix("$ python -m "))
    subprocess.run(
        [sys.executable, "-m", *words, f"--save_path={tmp_path}"],
        cwd=sweep.folder,
        env=cluster.environment,
        capture_output=True,
        check=True,
    )
    ends = [
        read_checkpoint(folder / "final_model.pt")
        for folder in (run, tmp_path / "coinrun" / run.name)
    ]
    for end in ends:
        end["progress"].pop("epoch_seconds")
    assert_same(ends[0], ends[1])


def test_the_jobs_and_the_logs_are_told_and_linked(sweep: Sweep) -> None:
    logs = sweep.folder / "logs"
    folders = sorted((logs / "small" / "slurm").iterdir())
    submissions = (sweep.training, sweep.evaluation)
    for submitted, folder, kind in zip(submissions, folders, ("", ".eval"), strict=True):
        first, *_, last = submitted.runs
        assert submitted.said == [
            f"4 runs: 0 finished, 0 in the queue, 4 submitted as jobs {first} to {last}",
            f"logs of the runs: logs/small/<env_name>/<xpid>{kind}.log",
            f"logs of the jobs: {folder.relative_to(sweep.folder)}",
        ]
    assert (logs / "latest").readlink() == Path("small")
    for run in sweep.training.runs.values():
        assert "epoch 3: loss" in (logs / "small" / "coinrun" / f"{run.name}.log").read_text()
        assert (logs / "small" / "coinrun" / f"{run.name}.eval.log").exists()


def test_the_same_command_again_submits_nothing(sweep: Sweep, cluster: SlurmCluster) -> None:
    before = cluster.jobs()
    toolkit = Toolkit(sweep.folder, cluster)
    for command in readme_commands(sweep.folder / "README.md")[-2:]:
        told = "4 runs: 4 finished, 0 in the queue, nothing to submit"
        assert toolkit.give(command) == [told]
    assert cluster.jobs() == before
