"""What train_scripts.slurm would do, what it refuses, and how runs share a machine."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_runs import ROOT, the_error
from tests.offline_commands import GAME
from tests.train_scripts.slurm_cluster import CLOSED, MAX_ARRAY_SIZE, SlurmCluster
from tests.train_scripts.slurm_sweeps import SWEEP, TINIEST, give, submit, write_commands
from tests.train_scripts.test_local_queue import wait_until
from train_scripts import jobs, slurm
from train_scripts.cluster import RECORD
from train_scripts.command_file import log_file, read_commands
from train_scripts.jobs import RunTogether, share_of_machine
from train_scripts.run_state import Machine, state

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
    assert "wckey" not in text


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


def test_a_dry_run_without_slurm_does_not_ask_what_is_in_the_queue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write_commands(tmp_path, {**TINIEST, "xpid": "a"})
    (tmp_path / "logs" / SWEEP).mkdir(parents=True)
    (tmp_path / "logs" / SWEEP / RECORD).write_text("1,module,folder\n")
    words = ["--path", str(path), "--log_dir", str(tmp_path / "logs"), "--dry_run"]
    assert slurm.main(words) == 0
    assert "--xpid=a" in capsys.readouterr().out


def test_a_dry_run_whose_reader_leaves_is_no_error(tmp_path: Path) -> None:
    write_commands(tmp_path, *({**TINIEST, "xpid": f"run{i}"} for i in range(300)))
    words = ["-path", f"{SWEEP}.txt", "--cluster=debug", "--dry_run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "train_scripts.slurm", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


# Without Slurm


def test_a_run_ends_with_the_debug_command_that_started_it(tmp_path: Path, dataset: Path) -> None:
    path = write_commands(tmp_path, {**TINIEST, "dataset": dataset, "xpid": "a", "epochs": 10_000})
    process = subprocess.Popen(
        [sys.executable, "-m", "train_scripts.slurm", f"--path={path}", "--cluster=debug"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    folder = tmp_path / "runs" / GAME / "a"
    try:
        wait_until(lambda: (folder / "logs.csv").exists())
    finally:
        process.terminate()
        process.wait()
    wait_until(lambda: not Machine().holds(folder))
    assert "error: stopped; " in (folder / "out.log").read_text().splitlines()[-1]


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


# What a job does


def test_a_run_that_a_signal_ends_is_told_by_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = read_commands([write_commands(tmp_path, {**TINIEST, "xpid": "a"})])
    log = log_file("logs", "bc", command)
    # What ends it is a module that its Python imports first.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '-m' in sys.orig_argv: os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match="1 of 1 runs failed"):
            RunTogether()([(command, log)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert log.read_text().splitlines()[-1] == "error: ended by SIGKILL with exit code -9"
    assert state(command, [log], Machine()) == (
        "failed",
        "ended by SIGKILL with exit code -9",
    )


@pytest.mark.parametrize(
    ("failures", "said", "expected"),
    [(2, "RUNNING", True), (2, "PENDING", False), (2, "", False), (99, "", True)],
)
def test_a_job_is_given_up_only_when_slurm_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, said: str, expected: bool
) -> None:
    tool = tmp_path / "squeue"
    tool.write_text(
        f"#!/bin/sh\necho >> {tmp_path}/asked\n"
        f"test $(wc -l < {tmp_path}/asked) -gt {failures} && echo {said}\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(jobs, "QUERY_SECONDS", 0.01)
    assert jobs._still_running() is expected
    asked = len((tmp_path / "asked").read_text())
    assert asked == min(failures + 1, jobs.QUERIES)


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
    assert not os.path.lexists(tmp_path / "logs" / "latest")


@pytest.mark.service
def test_more_jobs_than_an_array_takes_are_submitted_as_several(
    tmp_path: Path, cluster: SlurmCluster
) -> None:
    count = 2 * MAX_ARRAY_SIZE + 1
    write_commands(tmp_path, *({**TINIEST, "xpid": f"run{i}"} for i in range(count)))
    words = ("-path", f"{SWEEP}.txt", "--partition", CLOSED)
    shown = give(tmp_path, *words, "--dry_run", environment=cluster.environment).stdout
    assert shown.count(f"#SBATCH --array=0-{MAX_ARRAY_SIZE - 1}%") == 2
    assert shown.count("#!/bin/bash") == 3
    submitted = submit(cluster, tmp_path, *words)
    arrays = dict.fromkeys(job.split("_")[0] for job in submitted.jobs)
    first, second, last = arrays
    try:
        assert submitted.jobs == [
            *(f"{first}_{i}" for i in range(MAX_ARRAY_SIZE)),
            *(f"{second}_{i}" for i in range(MAX_ARRAY_SIZE)),
            last,
        ]
        end = MAX_ARRAY_SIZE - 1
        assert submitted.process.stdout.splitlines()[0] == (
            f"{count} runs: 0 finished, 0 in the queue, {count} submitted as jobs "
            f"{first}_0 to {first}_{end}, {second}_0 to {second}_{end}, {last}"
        )
        again = give(tmp_path, *words, environment=cluster.environment)
        assert f"{count} in the queue, nothing to submit" in again.stdout
    finally:
        cluster.ask("scancel", *arrays)


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
        (["--cluster=debug", "--log_dir=l"], "--log_dir: --cluster debug does not use it"),
        (["--cluster=debug", "--name=bc"], "--name: --cluster debug does not use it"),
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
