"""What the table of a sweep tells of runs that were submitted to Slurm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.train_scripts.slurm_cluster import CLOSED, SlurmCluster
from tests.train_scripts.slurm_sweeps import SWEEP, TINIEST, submit, write_commands
from tests.train_scripts.test_status import STARTED, STOPPED, Sweep
from train_scripts import cluster as asking
from train_scripts import status
from train_scripts.cluster import identity, record_jobs

ERROR = STARTED + "2026-03-01 10:20:00,123 error: no space left\n"
GONE = ("lost", "job 7 has left Slurm's queue")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """One run, which was submitted as job 7."""
    made = Sweep(tmp_path)
    (made.logs / "bc").mkdir(parents=True)
    record_jobs(made.logs / "bc", ["7"], [made.commands])
    return made


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command that says which jobs are in the queue, to be written."""
    tool = tmp_path / "bin" / "squeue"
    tool.parent.mkdir()
    tool.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return tool


@pytest.mark.parametrize(
    ("said", "left", "expected"),
    [
        ("7 PENDING", {}, ("waiting", "")),
        ("7 PENDING", {"out.log": STARTED + STOPPED}, ("waiting", "")),  # preempted
        ("7 PENDING", {"out.log": ERROR}, ("waiting", "")),  # given once more
        ("7 RUNNING", {}, ("running", "")),  # on a node whose locks are not seen here
        ("7 COMPLETING", {"out.log": STARTED}, ("running", "")),
        ("7 RUNNING", {"out.log": ERROR}, ("failed", "no space left")),
        ("8 RUNNING", {}, GONE),
        ("", {"out.log": STARTED}, GONE),
        ("", {"out.log": STARTED + STOPPED}, ("stopped", "")),  # cancelled
        ("", {"out.log": ERROR}, ("failed", "no space left")),
        ("", {"out.log": STARTED, "final_model.pt": ""}, ("finished", "")),
    ],
)
def test_a_run_is_told_by_its_files_and_by_its_job(
    sweep: Sweep, squeue: Path, said: str, left: dict[str, str], expected: tuple[str, str]
) -> None:
    squeue.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    for name, text in left.items():
        sweep.leave(0, name, text)
    jobs = asking.jobs_of_runs(sweep.logs)
    assert status.sweep_states(sweep.commands, sweep.logs, "", jobs) == [expected]


def test_of_two_jobs_of_a_run_the_one_in_the_queue_counts(sweep: Sweep, squeue: Path) -> None:
    (sweep.logs / "again").mkdir()
    record_jobs(sweep.logs / "again", ["8"], [sweep.commands])
    for queued in ("7", "8"):
        squeue.write_text(f"#!/bin/sh\necho {queued} PENDING\n")
        assert list(asking.jobs_of_runs(sweep.logs).values()) == [(queued, "PENDING")]


def test_of_two_jobs_of_a_run_that_are_gone_the_later_one_is_told(
    sweep: Sweep, squeue: Path
) -> None:
    squeue.write_text("#!/bin/sh\n")
    record_jobs(sweep.logs / "bc", ["8"], [sweep.commands])
    assert list(asking.jobs_of_runs(sweep.logs).values()) == [("8", "")]


def test_every_seed_of_a_command_is_told_by_its_job(tmp_path: Path, squeue: Path) -> None:
    squeue.write_text("#!/bin/sh\necho 7 PENDING\n")
    sweep = Sweep(tmp_path)
    sweep.write([[*sweep.commands[0].words[3:], "--num_seeds=2"]])
    (sweep.logs / "bc").mkdir(parents=True)
    record_jobs(sweep.logs / "bc", ["7"], [sweep.commands])
    jobs = asking.jobs_of_runs(sweep.logs)
    (command,) = sweep.commands
    assert [jobs[identity(run)].id for run in (command, *command.seeds)] == ["7"] * 3
    runs = list(command.runs)
    assert status.table(runs, status.sweep_states(runs, sweep.logs, "", jobs), jobs)[-1] == (
        "2 runs: 2 waiting"
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no controller >&2\nexit 1", "squeue: no controller: told by the files alone"),
        ("exec sleep 60", "squeue: no answer within 0.2 s: told by the files alone"),
    ],
)
def test_where_slurm_does_not_answer_a_line_says_so_and_the_files_tell(
    sweep: Sweep,
    squeue: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    script: str,
    message: str,
) -> None:
    squeue.write_text(f"#!/bin/sh\n{script}\n")
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.2)
    assert status.main(["--path", str(sweep.path), f"--log_dir={sweep.logs}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 runs: 1 waiting (no queue is at work)"
    assert caplog.messages == [message]


def test_failed_prints_the_commands_of_lost_runs_too(
    sweep: Sweep, squeue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    squeue.write_text("#!/bin/sh\n")
    assert status.main(["--path", str(sweep.path), f"--log_dir={sweep.logs}", "--failed"]) == 0
    assert capsys.readouterr().out == sweep.path.read_text()


@pytest.mark.service
def test_a_job_that_waits_in_slurm_is_waiting_and_one_that_is_cancelled_there_lost(
    tmp_path: Path,
    cluster: SlurmCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_commands(tmp_path, *({**TINIEST, "xpid": name} for name in "ab"))
    submitted = submit(cluster, tmp_path, "-path", f"{SWEEP}.txt", "--partition", CLOSED)
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    monkeypatch.chdir(tmp_path)
    try:
        cluster.ask("scancel", submitted.jobs[1])
        assert status.main(["--path", f"{SWEEP}.txt"]) == 0
    finally:
        cluster.ask("scancel", submitted.jobs[0].split("_")[0])
    _, first, second, _, counts = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "waiting"
    assert second.split()[0] == "lost"
    assert second.endswith(f"job {submitted.jobs[1]} has left Slurm's queue")
    assert counts == "2 runs: 1 waiting, 1 lost"
