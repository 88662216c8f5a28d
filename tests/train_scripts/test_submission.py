"""What train_scripts.slurm would do, what it refuses, and how runs share a machine."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tests.command_runs import the_error
from tests.offline_commands import GAME
from tests.train_scripts.slurm_cluster import CLOSED, MAX_ARRAY_SIZE, SlurmCluster
from tests.train_scripts.slurm_sweeps import SWEEP, TINIEST, give, submit, write_commands
from train_scripts import slurm
from train_scripts.jobs import share_of_machine

# What would be done


@pytest.mark.service
def test_a_dry_run_shows_the_script_that_is_submitted(
    tmp_path: Path, cluster: SlurmCluster
) -> None:
    write_commands(tmp_path, *({**TINIEST, "xpid": name} for name in "abc"))
    site = [
        *("--partition", CLOSED, "--time=1-12", "--mem=1G", "--cpus_per_task=2"),
        *("--array_parallelism=7", "--runs_per_job=2", "--setup", "module load a", "export B=1"),
    ]
    words = ("-path", f"{SWEEP}.txt", *site)
    before = cluster.jobs()
    shown = give(tmp_path, *words, "--dry_run", environment=cluster.environment)
    assert (shown.returncode, cluster.jobs()) == (0, before)
    assert [path.name for path in tmp_path.iterdir()] == [f"{SWEEP}.txt"]
    submitted = submit(cluster, tmp_path, *words)
    cluster.ask("scancel", submitted.jobs[0].split("_")[0])
    [script] = tmp_path.glob(f"logs/{SWEEP}/slurm/*/*_submission.sh")
    stamp = script.parent.name
    text = "\n".join(line for line in shown.stdout.splitlines() if not line.startswith("python "))
    shown_stamp = text.split("/slurm/")[1][: len(stamp)]
    assert text.replace(shown_stamp, stamp).startswith(script.read_text())
    for line in ("--array=0-1%2", "--mem=1G", "--time=2160", "--requeue", "--signal=USR2@90"):
        assert f"#SBATCH {line}\n" in text
    assert "\nmodule load a\nexport B=1\n" in text


def test_a_dry_run_shows_the_runs_of_each_job_and_needs_no_slurm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write_commands(tmp_path, *({**TINIEST, "xpid": name} for name in "abc"))
    log_dir = tmp_path / "logs"
    words = ["--path", str(path), "--log_dir", str(log_dir), "--runs_per_job=2", "--dry_run"]
    assert slurm.main(words) == 0
    script, first, second = capsys.readouterr().out.split("# job ")
    assert script.startswith("#!/bin/bash\n")
    shown = [[shlex.split(line)[-2:] for line in job.splitlines()[1:]] for job in (first, second)]
    resume = "--resume=True"
    written = [["--save_path=runs", resume]] * 3
    assert shown == [written[:2], written[2:]]
    assert not log_dir.exists()


# Without Slurm


@pytest.mark.slow
def test_debug_runs_all_in_turn_and_says_that_one_failed(tmp_path: Path, dataset: Path) -> None:
    bad = {**TINIEST, "dataset": tmp_path / "nowhere", "xpid": "bad"}
    write_commands(tmp_path, bad, {**TINIEST, "dataset": dataset, "xpid": "good"})
    done = give(tmp_path, "-path", f"{SWEEP}.txt", "--cluster=debug")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert (tmp_path / "runs" / GAME / "good" / "final_model.pt").exists()
    again = give(tmp_path, "-path", f"{SWEEP}.txt", "--cluster=debug", "--dry_run")
    assert "--xpid=bad" in again.stdout
    assert "--xpid=good" not in again.stdout


# What a run of several gets


def test_runs_share_the_processors_of_their_job_and_take_its_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    shares = [share_of_machine(number, 3) for number in range(3)]
    assert [share["OMP_NUM_THREADS"] for share in shares] == ["2"] * 3
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["2", "5", "2"]


def test_a_number_of_threads_that_is_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert share_of_machine(0, 3)["OMP_NUM_THREADS"] == "5"


# Bad input


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The one line with which the command refuses."""
    assert slurm.main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return the_error(captured.err)


def test_without_slurm_the_local_queue_is_named(tmp_path: Path) -> None:
    write_commands(tmp_path, TINIEST)
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = give(tmp_path, "--path", f"{SWEEP}.txt", environment=environment)
    assert done.returncode == 1
    said = the_error(done.stderr)
    assert said.startswith("error: no Slurm on this machine")
    assert "--cluster local" in said
    assert [path.name for path in tmp_path.iterdir()] == [f"{SWEEP}.txt"]


@pytest.mark.service
def test_an_unknown_partition_is_refused_in_slurms_words_and_nothing_is_left(
    tmp_path: Path, cluster: SlurmCluster
) -> None:
    write_commands(tmp_path, *({**TINIEST, "xpid": name} for name in "ab"))
    words = ("-path", f"{SWEEP}.txt", "--partition", "nowhere")
    before = cluster.jobs()
    done = give(tmp_path, *words, environment=cluster.environment)
    assert (done.returncode, done.stdout) == (1, "")
    said = the_error(done.stderr)
    assert said.startswith("error: Slurm refuses the jobs: sbatch: error: ")
    assert "invalid partition specified: nowhere" in said
    assert cluster.jobs() == before
    assert list((tmp_path / "logs" / SWEEP / "slurm").iterdir()) == []


@pytest.mark.service
def test_more_jobs_than_an_array_takes_are_refused_with_a_way_out(
    tmp_path: Path, cluster: SlurmCluster
) -> None:
    write_commands(tmp_path, *({**TINIEST, "xpid": f"run{i}"} for i in range(MAX_ARRAY_SIZE + 1)))
    words = ("-path", f"{SWEEP}.txt", "--partition", CLOSED)
    done = give(tmp_path, *words, environment=cluster.environment)
    assert done.returncode == 1
    said = the_error(done.stderr)
    assert "Invalid job array specification" in said
    assert said.endswith(": --runs_per_job makes fewer jobs")
    packed = submit(cluster, tmp_path, *words, "--runs_per_job=2")
    cluster.ask("scancel", packed.jobs[0].split("_")[0])
    assert len(packed.jobs) == (MAX_ARRAY_SIZE + 2) // 2


@pytest.mark.parametrize(
    "cluster_name", ["local", pytest.param("slurm", marks=pytest.mark.service)]
)
def test_a_folder_for_logs_that_cannot_be_written_is_named(
    tmp_path: Path, request: pytest.FixtureRequest, cluster_name: str
) -> None:
    environment = dict(os.environ)
    if cluster_name == "slurm":
        environment = request.getfixturevalue("cluster").environment
    write_commands(tmp_path, TINIEST)
    (tmp_path / "file").touch()
    words = ("--path", f"{SWEEP}.txt", "--log_dir=file/logs", f"--cluster={cluster_name}")
    done = give(tmp_path, *words, environment=environment)
    assert done.returncode == 1
    assert the_error(done.stderr) == (
        f"error: cannot write logs to file/logs/{SWEEP}: Not a directory: "
        "--log_dir names another folder"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time=soon"], "--time soon: write minutes, hours:minutes:seconds or days-hours"),
        (["--time=1"], "--time 1: must be at least 3"),
        (["--module_name=offlin"], "Did you mean offline?"),
        (["--module_name=online"], "runs offline.train_offline_agent, but --module_name online"),
        (["--cluster=local", "--partition=p"], "--partition: --cluster local does not use it"),
        (["--jobs=2"], "--jobs: --cluster slurm does not use it"),
        (["--name=a/b"], "--name a/b: give the name of a folder, not a path"),
        (["--name=latest"], "--name latest: give the name of a folder, not a path"),
        (["-nam=bc"], "unexpected argument '-nam=bc'"),
        (["--partitions=p"], "unknown flag --partitions: did you mean --partition?"),
    ],
)
def test_what_cannot_be_submitted_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    path = write_commands(tmp_path, TINIEST)
    assert message in refused(capsys, 2, "--path", str(path), *arguments)


def test_a_sweep_without_a_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--path: name a file of commands" in refused(capsys, 2)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:30", 90),
        ("1:30:00", 90),
        ("2-12", 60 * 60),
        ("2-12:30", 60 * 60 + 30),
        ("2-12:30:00", 60 * 60 + 30),
    ],
)
def test_times_are_written_as_slurm_writes_them(text: str, minutes: int) -> None:
    assert slurm.minutes(text) == minutes
