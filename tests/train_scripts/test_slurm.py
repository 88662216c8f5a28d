"""Sweeps on a real Slurm: runs that are stopped, that fail, and that are never run twice."""

from __future__ import annotations

import getpass
import time
from pathlib import Path

import pytest

from tests.offline_commands import (
    GAME,
    TINY,
    TRAIN,
    assert_same_end,
    flags,
    read_checkpoint,
    run,
)
from tests.train_scripts.slurm_cluster import (
    CLOSED,
    NUM_PROCESSORS,
    PARTITION,
    SCAVENGE,
    URGENT,
    SlurmCluster,
)
from tests.train_scripts.slurm_sweeps import SWEEP, TINIEST, Sweep, give, submit, write_commands
from train_scripts import status

# Long enough to be met in the middle.
LONG = {**TINY, "epochs": 12, "eval_freq": 6, "num_final_episodes": 1}


# What is not submitted twice


@pytest.mark.service
def test_a_run_that_waits_in_the_queue_is_not_submitted_again(
    tmp_path: Path, cluster: SlurmCluster
) -> None:
    write_commands(tmp_path, *({**TINIEST, "xpid": name} for name in "abc"))
    words = ("-path", f"{SWEEP}.txt", "--partition", CLOSED)
    first = submit(cluster, tmp_path, *words)
    try:
        before = cluster.jobs()
        again = give(tmp_path, *words, environment=cluster.environment)
        assert again.stdout == "3 runs: 0 finished, 3 in the queue, nothing to submit\n"
        assert cluster.jobs() == before
        cluster.ask("scancel", first.jobs[1])
        second = submit(cluster, tmp_path, *words)
        told = f"3 runs: 0 finished, 2 in the queue, 1 submitted as job {second.jobs[-1]}\n"
        assert second.process.stdout.startswith(told)
        cluster.ask("scancel", second.jobs[-1])
    finally:
        cluster.ask("scancel", first.jobs[0].split("_")[0])


@pytest.mark.service
def test_a_run_in_the_queue_is_known_under_another_name_of_its_sweep_and_its_folder(
    tmp_path: Path, cluster: SlurmCluster
) -> None:
    path = write_commands(tmp_path, {**TINIEST, "xpid": "a"})
    words = ("-path", f"{SWEEP}.txt", "--partition", CLOSED)
    submit(cluster, tmp_path, *words)
    try:
        before = cluster.jobs()
        renamed = give(tmp_path, *words, "-name", "again", environment=cluster.environment)
        assert renamed.stdout == "1 runs: 0 finished, 1 in the queue, nothing to submit\n"
        path.write_text(path.read_text().replace("=runs", f"={tmp_path}/runs"))
        absolute = give(tmp_path, *words, environment=cluster.environment)
        assert absolute.stdout == renamed.stdout
        assert cluster.jobs() == before
    finally:
        cluster.ask("scancel", f"--user={getpass.getuser()}", "--state=PENDING")


@pytest.mark.service
@pytest.mark.parametrize("difference", ["save_path", "module"])
def test_a_run_of_the_same_name_is_another_by_its_folder_and_by_what_it_does(
    tmp_path: Path, cluster: SlurmCluster, difference: str
) -> None:
    path = write_commands(tmp_path, {**TINIEST, "xpid": "a"})
    words = ("-path", f"{SWEEP}.txt", "-name", "bc", "--partition", CLOSED)
    submit(cluster, tmp_path, *words, name="bc")
    try:
        if difference == "save_path":
            path.write_text(path.read_text().replace("=runs", "=elsewhere"))
        else:
            words = (*words, "--module_name", "eval")
        other = submit(cluster, tmp_path, *words, name="bc")
        told = f"1 runs: 0 finished, 0 in the queue, 1 submitted as job {other.jobs[1]}\n"
        assert other.process.stdout.startswith(told)
        kind = ".eval" if difference == "module" else ""
        assert f"/<env_name>/<xpid>{kind}.log\n" in other.process.stdout
    finally:
        cluster.ask("scancel", f"--user={getpass.getuser()}", "--state=PENDING")


# What clusters do to jobs


@pytest.fixture(scope="session")
def stopped(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path, cluster: SlurmCluster
) -> Sweep:
    """Runs whose jobs were warned (a and b, in one job), requeued (c), preempted (d) and cancelled
    (e) in their middle, and then left in peace. The commands do not say --resume.
    """
    folder = tmp_path_factory.mktemp("stopped")
    many = str(NUM_PROCESSORS - 3)
    arguments = {
        "ab": ("--partition", PARTITION, "--runs_per_job=2"),
        "c": ("--partition", PARTITION),
        "d": ("--partition", SCAVENGE, "--cpus_per_task", many),
        "e": ("--partition", PARTITION),
    }
    for names, words in arguments.items():
        runs = ({**LONG, "dataset": dataset, "xpid": name} for name in names)
        write_commands(folder, *runs, name=names)
        sweep = submit(cluster, folder, "-path", f"{names}.txt", "-name", SWEEP, *words)
    urgent = ["sbatch", "--partition", URGENT, "--cpus-per-task", many, "--wrap=true"]
    disturbances = {
        "ab": ["scancel", "--signal=USR2", sweep.jobs[0]],
        "c": ["scontrol", "requeue", sweep.jobs[1]],
        "d": [*urgent, f"--output={folder / 'urgent.out'}"],
        "e": ["scancel", sweep.jobs[3]],
    }
    deadline = time.monotonic() + 300
    while disturbances:
        assert time.monotonic() < deadline, disturbances
        for names in list(disturbances):
            if all("epoch 1:" in sweep.log(name) for name in names):
                cluster.ask(*disturbances.pop(names))
        time.sleep(0.05)
    for job in sweep.jobs:
        cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED")
    return sweep


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """The folder of the same run, trained by the plain command."""
    save_path = tmp_path_factory.mktemp("undisturbed")
    arguments = flags(LONG, dataset=dataset, save_path=save_path, xpid="run")
    done = run(TRAIN, *arguments, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return save_path / GAME / "run"


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_a_run_that_its_cluster_stops_ends_with_the_weights_of_an_undisturbed_one(
    stopped: Sweep, undisturbed: Path, name: str
) -> None:
    assert "continuing at epoch" in stopped.log(name)
    assert_same_end(stopped.run(name), undisturbed)


@pytest.mark.service
@pytest.mark.slow
def test_a_stopped_job_goes_back_into_the_queue_once_and_ends_well(
    stopped: Sweep, cluster: SlurmCluster
) -> None:
    assert [cluster.state(job) for job in stopped.jobs[:3]] == ["COMPLETED"] * 3
    assert [cluster.restarts(job) for job in stopped.jobs[:3]] == [1, 1, 1]


@pytest.mark.service
@pytest.mark.slow
def test_a_cancelled_job_saves_its_run_and_stays_out_of_the_queue(
    stopped: Sweep, cluster: SlurmCluster
) -> None:
    assert (cluster.state(stopped.jobs[3]), cluster.restarts(stopped.jobs[3])) == ("CANCELLED", 0)
    assert read_checkpoint(stopped.run("e") / "model.pt")["progress"]["batch"] > 0


# Failure


@pytest.fixture(scope="session")
def failed(tmp_path_factory: pytest.TempPathFactory, dataset: Path, cluster: SlurmCluster) -> Sweep:
    """Two runs of one job, of which the first cannot find its data; the job has ended."""
    folder = tmp_path_factory.mktemp("failed")
    bad = {**TINIEST, "dataset": folder / "nowhere", "xpid": "bad"}
    write_commands(folder, bad, {**TINIEST, "dataset": dataset, "xpid": "good"})
    words = ("-path", f"{SWEEP}.txt", "--partition", PARTITION, "--runs_per_job=2")
    submitted = submit(cluster, folder, *words)
    cluster.wait(submitted.jobs[0], "COMPLETED", "FAILED")
    return submitted


@pytest.mark.service
@pytest.mark.slow
def test_a_failing_run_fails_its_job_but_not_the_other_run_in_it(
    failed: Sweep, cluster: SlurmCluster
) -> None:
    assert cluster.state(failed.jobs[0]) == "FAILED"
    last = failed.log("bad").splitlines()[-1]
    assert last.startswith("error: ")
    assert "nowhere" in last
    assert (failed.run("good") / "final_model.pt").exists()
    [job_log] = failed.folder.glob(f"logs/{SWEEP}/slurm/*/*.err")
    assert f"1 of 2 runs failed: logs/{SWEEP}/{GAME}/bad.log" in job_log.read_text()


@pytest.mark.service
@pytest.mark.slow
def test_the_status_tells_what_failed_and_why(
    failed: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(failed.folder)
    assert status.main(["--path", f"{SWEEP}.txt"]) == 0
    _, bad, good, _, counts = capsys.readouterr().out.splitlines()
    assert bad.split()[0] == "failed"
    assert "nowhere" in bad
    assert good.split()[0] == "finished"
    assert counts == "2 runs: 1 finished, 1 failed"


@pytest.mark.service
@pytest.mark.slow
def test_only_what_failed_is_submitted_again(failed: Sweep, cluster: SlurmCluster) -> None:
    words = ("-path", f"{SWEEP}.txt", "--partition", PARTITION, "--dry_run")
    again = give(failed.folder, *words, environment=cluster.environment)
    commands = [line for line in again.stdout.splitlines() if line.startswith("python ")]
    assert ["--xpid=bad" in command for command in commands] == [True]
