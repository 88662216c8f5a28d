"""A sweep on one machine: every run finishes once, whatever is killed and whoever else works."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.run_logger import RunFolder
from tests.command_runs import ROOT
from tests.offline_commands import GAME, TINY, TRAIN, collect_episodes, flags, lines, read_rows
from train_scripts import make_cmd
from train_scripts.command_file import Command, log_file, read_commands
from train_scripts.local_queue import _environments
from train_scripts.make_cmd import as_text

GAMES = ["fruitbot", "leaper"]
TIMEOUT = 100.0
SWEEP_TIMEOUT = 600.0  # of a whole one, on a machine that is busy with something else
# A run that ends some seconds after its start, mostly Python's.
SMALL = {**TINY, "epochs": 3, "num_final_episodes": 0, "dataset_size": 150}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for game in GAMES:
        collect_episodes(folder, game, transitions=150)
    return folder


class Queue:
    """A sweep in a folder of its own, and the real command that runs it here."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "sweep.txt"
        self.started: list[subprocess.Popen[str]] = []

    def write(self, *runs: dict[str, Any]) -> None:
        """One run per dict of settings; their names are their numbers."""
        commands = [
            flags(SMALL, save_path=self.folder / "runs", xpid=number, **settings)
            for number, settings in enumerate(runs)
        ]
        words = [["python", "-m", TRAIN, *arguments] for arguments in commands]
        self.path.write_text("".join(as_text(command) + "\n" for command in words))

    @property
    def commands(self) -> list[Command]:
        return read_commands([self.path])

    def log(self, command: Command) -> str:
        path = log_file(self.folder / "logs", "bc", command)
        return path.read_text() if path.exists() else ""

    def start(self, jobs: int = 2, module_name: str = "offline") -> subprocess.Popen[str]:
        words = f"-path {self.path} -name bc --cluster local --jobs {jobs}".split()
        words += ["--module_name", module_name]
        process = subprocess.Popen(
            [sys.executable, "-m", "train_scripts.slurm", *words, f"--log_dir={self.folder}/logs"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], seconds: float = TIMEOUT) -> list[str]:
        """What the queue said until it ended."""
        _, err = process.communicate(timeout=seconds)
        return lines(err)

    def attempts(self, command: Command) -> int:
        return self.log(command).count("$ python -m ")


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def wait_until(holds: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """Wait until `holds()` is true; what it then is."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def children(process: subprocess.Popen[str]) -> list[int]:
    """The runs that a queue has under way."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(word) for word in text.split() if TRAIN in command_line(int(word))]


def command_line(pid: int) -> str:
    """The words of a process, each with a NUL behind it; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_for_run(process: subprocess.Popen[str]) -> int:
    """Wait until the queue has a run under way; the run's process."""
    pids: list[int] = wait_until(lambda: children(process))
    return pids[0]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_sweep_that_is_killed_half_way_and_started_again_finishes_every_run_once(
    queue: Queue, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The paper's grid of BC on two games with three trials, at the size of a toy."""
    document = json.loads((ROOT / "configs" / "offline" / "grids" / "bc.json").read_text())
    small = {**SMALL, "dataset": [str(dataset)], "save_path": str(queue.folder / "runs")}
    grid = document["grid"] | {"env_name": GAMES}
    grid |= {name: [small[name]] for name in ("dataset_size", "epochs")}
    grid |= {"agent_model": ["dqn"], "hidden_size": [16]}
    (queue.folder / "offline" / "grids").mkdir(parents=True)
    (queue.folder / "offline" / "default.json").write_text(json.dumps(small))
    (queue.folder / "offline" / "grids" / "bc.json").write_text(json.dumps({"grid": grid}))
    monkeypatch.setattr(make_cmd, "CONFIGS", queue.folder)
    assert make_cmd.main(["--grid_config=bc", "--num_trials=3"]) == 0
    queue.path.write_text(capsys.readouterr().out)
    commands = queue.commands
    assert len(commands) == 36

    def finished() -> list[Path]:
        return sorted((queue.folder / "runs").glob("*/*-*/final_model.pt"))

    def begun() -> list[Command]:
        """Those that have something to lose."""
        return [c for c in commands if (c.folder / "logs.csv").exists() and not c.finished]

    first = queue.start()
    wait_until(lambda: len(finished()) >= 18 and begun(), SWEEP_TIMEOUT)
    # No run starts behind our back. Those under way end in both ways: at once, and as they do when
    # they hear of the queue's end.
    first.send_signal(signal.SIGSTOP)
    under_way = children(first)
    first.kill()
    os.kill(under_way[0], signal.SIGKILL)
    first.communicate()
    wait_until(lambda: not any(map(is_alive, under_way)))
    before = {path: path.stat().st_mtime_ns for path in finished()}
    interrupted = begun()
    assert 18 <= len(before) < 36
    assert interrupted

    second = queue.start()
    said = queue.finish(second, SWEEP_TIMEOUT)
    assert second.returncode == 0, said
    assert said[0] == f"36 runs: {len(before)} finished"
    assert said[-1] == "36 of 36 runs are finished"
    assert len(finished()) == 36
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for command in commands:
        rows = read_rows(command.folder / "logs.csv")
        assert [row["epoch"] for row in rows] == ["1", "2", "3"]
        if command.folder / "final_model.pt" in before:
            assert queue.attempts(command) == 1
    for command in interrupted:
        assert queue.attempts(command) == 2
        assert "continuing at epoch" in queue.log(command)
    attempts = sum(map(queue.attempts, commands))
    assert attempts <= 36 + len(under_way)

    third = queue.start()
    assert queue.finish(third) == [
        "36 runs: 36 finished",
        "36 of 36 runs are finished",
    ]
    assert third.returncode == 0
    assert sum(map(queue.attempts, commands)) == attempts


def test_runs_end_with_their_queue_however_it_ends(queue: Queue, dataset: Path) -> None:
    queue.write({"dataset": dataset})
    process = queue.start()
    pid = wait_for_run(process)
    wait_until(lambda: command_line(pid).startswith(f"{sys.executable}\0-m\0{TRAIN}\0"))
    process.kill()
    wait_until(lambda: not is_alive(pid))


def test_ctrl_c_lets_the_runs_save_their_state_and_starts_no_more(
    queue: Queue, dataset: Path
) -> None:
    queue.write({"dataset": dataset, "epochs": 10_000}, {"dataset": dataset})
    process = queue.start(jobs=1)
    first, second = queue.commands
    wait_until(lambda: (first.folder / "best_model.pt").exists())
    (pid,) = children(process)
    process.send_signal(signal.SIGINT)
    said = queue.finish(process)
    assert process.returncode == 130
    assert said[-2:] == [
        "waiting for 1 runs to save their state",
        "stopped: the same command continues bc",
    ]
    assert not is_alive(pid)
    assert "error: stopped; " in queue.log(first).splitlines()[-1]
    assert queue.attempts(second) == 0


def test_sigterm_stops_the_queue_too(queue: Queue, dataset: Path) -> None:
    queue.write({"dataset": dataset})
    process = queue.start()
    pid = wait_for_run(process)
    process.send_signal(signal.SIGTERM)
    assert queue.finish(process)[-1] == "stopped: the same command continues bc"
    assert process.returncode == 143
    assert not is_alive(pid)


def test_a_second_ctrl_c_kills_what_does_not_stop(queue: Queue, dataset: Path) -> None:
    queue.write({"dataset": dataset})
    process = queue.start()
    pid = wait_for_run(process)
    os.kill(pid, signal.SIGSTOP)  # it will not hear of a SIGTERM
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    queue.finish(process)
    assert process.returncode == 130
    assert not is_alive(pid)


def test_an_evaluation_does_not_wait_for_the_log_of_its_training(
    queue: Queue, dataset: Path
) -> None:
    queue.write({"dataset": dataset, "num_final_episodes": 1})
    (training,) = queue.commands
    (evaluation,) = read_commands([queue.path], "eval")
    log = log_file(queue.folder / "logs", "bc", training)
    log.parent.mkdir(parents=True)
    with open(log, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = queue.start(module_name="eval")
        said = queue.finish(process)
    assert said[-1] == "0 of 1 runs are finished"
    assert "no run at" in queue.log(evaluation)
    assert log.read_text() == ""


def test_a_command_of_several_seeds_is_one_run_of_the_queue(queue: Queue, dataset: Path) -> None:
    queue.write({"dataset": dataset, "num_seeds": 2, "epochs": 1})
    (command,) = queue.commands
    with RunFolder(queue.folder / "runs", GAME, "0_89").session():
        process = queue.start()
        assert process.stderr is not None
        waiting = f"at work elsewhere, waiting for it: {GAME}/0"
        assert next(line for line in process.stderr if waiting in line)
    said = queue.finish(process)
    assert process.returncode == 0
    assert said[-1] == "1 of 1 runs are finished"
    assert queue.attempts(command) == 1
    assert all((run.folder / "final_model.pt").exists() for run in command.runs)


def test_a_failed_run_does_not_stop_the_others(queue: Queue, dataset: Path) -> None:
    queue.write({"dataset": dataset / "none"}, {"dataset": dataset})
    process = queue.start(jobs=1)
    failing, other = queue.commands
    wait_for_run(process)
    # So that it need not be trained to be finished.
    other.folder.mkdir(parents=True)
    (other.folder / "final_model.pt").touch()
    said = queue.finish(process)
    assert process.returncode == 1
    error = queue.log(failing).splitlines()[-1].removeprefix("error: ")
    assert str(dataset / "none") in error
    log = log_file(queue.folder / "logs", "bc", failing)
    assert said[-2:] == [f"failed: {GAME}/0: {error} ({log})", "1 of 2 runs are finished"]


def test_a_run_that_is_killed_is_continued_twice_and_then_has_failed(
    queue: Queue, dataset: Path
) -> None:
    queue.write({"dataset": dataset})
    process = queue.start()
    killed: set[int] = set()
    while len(killed) < 3:
        pid = wait_for_run(process)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    said = queue.finish(process)
    assert process.returncode == 1
    error = "ended by SIGKILL 3 times with exit code -9"
    assert said.count(f"ended by SIGKILL, to be continued: {GAME}/0") == 2
    assert f"failed: {GAME}/0: {error}" in said
    assert queue.log(queue.commands[0]).splitlines()[-1] == f"error: {error}"


def test_a_run_that_another_process_is_at_work_on_is_waited_for(
    queue: Queue, dataset: Path
) -> None:
    queue.write({"dataset": dataset})
    (command,) = queue.commands
    folder = RunFolder(queue.folder / "runs", GAME, "0")
    with folder.session():
        process = queue.start()
        assert process.stderr is not None
        waiting = f"at work elsewhere, waiting for it: {GAME}/0"
        said = next(line for line in process.stderr if waiting in line)
        assert said
        (command.folder / "final_model.pt").touch()
    said_last = queue.finish(process)[-1]
    assert (process.returncode, said_last) == (0, "1 of 1 runs are finished")
    assert queue.attempts(command) == 0


def test_two_queues_never_work_on_the_same_run(queue: Queue, dataset: Path) -> None:
    queue.write({"dataset": dataset})
    both = [queue.start(), queue.start()]
    said = [queue.finish(process) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(f"at work elsewhere, waiting for it: {GAME}/0" in each for each in said) == 1
    assert {each[-1] for each in said} == {"1 of 1 runs are finished"}
    assert queue.attempts(queue.commands[0]) == 1


def test_processors_and_gpus_are_divided_among_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A'\necho '  MIG 1g.5gb: B'\necho 'GPU 1: A'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)))
    environments = _environments(3)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == ["0", "1", "0"]
    assert {each["OMP_NUM_THREADS"] for each in environments} == {"2"}
    assert {each["OMP_NUM_THREADS"] for each in _environments(9)} == {"1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    environments = _environments(3)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == ["4", "6", "4"]
    assert {each["OMP_NUM_THREADS"] for each in environments} == {"5"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert {each["CUDA_VISIBLE_DEVICES"] for each in _environments(2)} == {""}


def test_without_the_tool_of_the_gpus_none_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "CUDA_VISIBLE_DEVICES" not in _environments(1)[0]
