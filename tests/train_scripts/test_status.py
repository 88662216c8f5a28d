"""The table of a sweep tells of every run what its files and locks say, and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import UsageError
from common.run_logger import RunFolder
from tests.command_runs import ROOT, run_python, the_error
from train_scripts import run_state, status
from train_scripts.command_file import log_file, read_commands
from train_scripts.make_cmd import as_text
from train_scripts.run_state import Machine, last_error

HEADER = "epoch,train_loss,epoch_time,inf_time,train_rets_mean,val_rets_mean,test_rets_mean\n"
STARTED = "2026-03-01 10:00:00,123 run folder: somewhere\n"
STOPPED = "2026-03-01 10:20:00,123 error: stopped; the same command with --resume True continues\n"


class Sweep:
    """Commands of BC runs called a, b, c ... of coinrun, and what they have left so far."""

    def __init__(self, folder: Path, count: int = 1) -> None:
        self.path, self.logs = folder / "commands.txt", folder / "logs"
        flags = ["--epochs=20", "--eval_freq=2", f"--save_path={folder / 'runs'}"]
        self.write([[f"--xpid={name}", *flags] for name in "abcdefgh"[:count]])

    def write(
        self, flags: Sequence[Sequence[str]], module: str = "offline.train_offline_agent"
    ) -> None:
        words = [["python", "-m", module, *arguments] for arguments in flags]
        self.path.write_text("".join(as_text(command) + "\n\n" for command in words))
        self.commands = read_commands([self.path])

    def leave(self, number: int, name: str, text: str, age: float = 0.0) -> Path:
        """Let run `number` have written a file into its folder, `age` seconds ago."""
        return self._write(self.commands[number].folder / name, text, age)

    def print(self, number: int, text: str, age: float = 0.0, name: str = "bc") -> Path:
        """Let run `number` have printed something in the sweep called `name`."""
        return self._write(log_file(self.logs, name, self.commands[number]), text, age)

    def _write(self, path: Path, text: str, age: float) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        then = time.time() - age
        os.utime(path, (then, then))
        return path

    def states(self, name: str = "") -> list[tuple[str, str]]:
        return status.sweep_states(self.commands, self.logs, name)

    def rows(self) -> list[list[str]]:
        """The table's cells, without its header; two spaces or more are between them."""
        lines = status.table(self.commands, self.states())[1 : 1 + len(self.commands)]
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


# States


def test_a_run_that_has_left_nothing_is_waiting(sweep: Sweep) -> None:
    assert sweep.states() == [("waiting", "")]


def test_a_run_with_a_final_model_is_finished_whatever_its_logs_say(sweep: Sweep) -> None:
    sweep.leave(0, "final_model.pt", "")
    sweep.leave(0, "out.log", STARTED + STOPPED)
    assert sweep.states() == [("finished", "")]


def test_a_run_at_work_in_its_folder_is_running(sweep: Sweep) -> None:
    command = sweep.commands[0]
    folder = RunFolder(command.settings.save_path, "coinrun", "a")
    with folder.session():
        sweep.leave(0, "out.log", STARTED + STOPPED)  # of an earlier attempt
        assert sweep.states() == [("running", "")]
    assert sweep.states() == [("stopped", "")]


def test_a_run_that_has_started_but_has_no_folder_yet_is_running(sweep: Sweep) -> None:
    log = sweep.print(0, "$ python -m offline.train_offline_agent\n")
    with open(log) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert sweep.states() == [("running", "")]
    assert sweep.states() == [("waiting", "")]


def test_looking_at_a_run_never_takes_the_lock_that_it_may_want(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.leave(0, "out.log", STARTED)
    taken = []
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: taken.append(arguments))
    assert sweep.states() == [("stopped", "")]
    assert taken == []


def test_where_the_kernel_lists_no_locks_they_are_tried(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_state, "_locked_inodes", lambda: None)
    folder = RunFolder(sweep.commands[0].settings.save_path, "coinrun", "a")
    with folder.session():
        assert sweep.states() == [("running", "")]
    assert sweep.states() == [("stopped", "")]


@pytest.mark.parametrize(("age", "expected"), [(60.0, "running"), (3600.0, "stopped")])
def test_where_locks_do_not_reach_a_run_that_wrote_lately_is_running(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, age: float, expected: str
) -> None:
    monkeypatch.setattr(Machine, "shares", lambda self, folder: True)
    sweep.leave(0, "out.log", STARTED, age=7200.0)
    sweep.leave(0, "model.pt", "", age=age)
    assert sweep.states() == [(expected, "")]


def test_a_run_that_was_killed_is_stopped_however_lately_it_wrote(sweep: Sweep) -> None:
    sweep.leave(0, "out.log", STARTED)
    sweep.leave(0, "model.pt", "")
    assert sweep.states() == [("stopped", "")]


def test_the_last_line_of_out_log_tells_why_a_run_failed(sweep: Sweep) -> None:
    line = "2026-03-01 10:00:00,123 error: the loss is not finite at step 3: try a smaller --lr\n"
    sweep.leave(0, "out.log", STARTED + line)
    error = "the loss is not finite at step 3: try a smaller --lr"
    assert sweep.states() == [("failed", error)]
    sweep.leave(0, "out.log", STARTED + line + "2026-03-01 10:00:01,000 continuing at epoch 2\n")
    assert sweep.states() == [("stopped", "")]


def test_a_run_that_failed_before_it_had_a_folder_is_told_by_the_log_of_its_sweep(
    sweep: Sweep,
) -> None:
    sweep.print(0, "$ python -m offline.train_offline_agent\nerror: --dataset x: no such folder\n")
    assert sweep.states() == [("failed", "--dataset x: no such folder")]
    assert sweep.states("bc") == sweep.states()
    assert sweep.states("another") == [("waiting", "")]


def test_of_a_traceback_the_last_line_is_the_error(sweep: Sweep) -> None:
    traceback = "Traceback (most recent call last):\n  File 'x'\nKeyError: 'a'\n"
    log = sweep.print(0, f"epoch 1: loss 2\n{traceback}")
    assert sweep.states() == [("failed", "KeyError: 'a'")]
    log.write_text(log.read_text() + "$ python -m offline.train_offline_agent\nepoch 2: loss 1\n")
    assert sweep.states() == [("waiting", "")]


def test_a_progress_bar_before_the_error_does_not_hide_it(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_bytes(b"epoch 1:   0%|   | 0/88\r          \rerror: cannot write model.pt\n")
    assert last_error(log) == "cannot write model.pt"


def test_an_error_at_the_end_of_a_long_log_is_found(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("epoch 1: é\n" * 100_000 + "error: cannot write model.pt\n")
    assert last_error(log) == "cannot write model.pt"


@pytest.mark.parametrize(
    ("out_log_age", "log_age", "expected"),
    [(10.0, 20.0, ("stopped", "")), (20.0, 10.0, ("failed", "no space left"))],
)
def test_the_later_of_two_logs_is_believed(
    sweep: Sweep, out_log_age: float, log_age: float, expected: tuple[str, str]
) -> None:
    sweep.leave(0, "out.log", STARTED + STOPPED, out_log_age)
    sweep.print(0, "error: no space left\n", log_age)
    assert sweep.states() == [expected]


def test_a_run_that_was_told_to_stop_has_not_failed(sweep: Sweep) -> None:
    sweep.print(0, "error: stopped; the same command with --resume True continues x\n")
    assert sweep.states() == [("stopped", "")]


def test_an_evaluation_is_not_told_by_what_its_training_left(sweep: Sweep) -> None:
    sweep.leave(0, "final_model.pt", "")
    sweep.leave(0, "out.log", STARTED + "error: no space left\n")
    sweep.leave(0, "logs.csv", HEADER + "2,1,10,4,1,3,2\n")
    training = sweep.print(0, "error: no space left\n")
    sweep.commands = read_commands([sweep.path], "eval")
    assert sweep.states() == [("waiting", "")]
    assert sweep.rows() == [["waiting", "-", "-", "-", "-", "coinrun/a"]]
    sweep.print(0, "error: final_model.pt is no readable checkpoint\n")
    assert sweep.states() == [("failed", "final_model.pt is no readable checkpoint")]
    assert training.read_text() == "error: no space left\n"
    sweep.leave(0, "evaluate.csv", "")
    assert sweep.states() == [("finished", "")]


@pytest.mark.parametrize(
    ("trained", "told", "files"),
    [
        (False, "False", ["evaluate.csv"]),
        (True, "True", ["evaluate.csv"]),
        (False, "True", ["evaluate_deterministic.csv"]),
        (True, "False", ["evaluate_sampled.csv"]),
        (False, "both", ["evaluate.csv", "evaluate_deterministic.csv"]),
        (True, "both", ["evaluate.csv", "evaluate_sampled.csv"]),
    ],
)
def test_an_evaluation_is_finished_when_the_files_of_all_its_modes_are_there(
    sweep: Sweep, trained: bool, told: str, files: list[str]
) -> None:
    place = f"--save_path={sweep.path.parent / 'runs'}"
    words = ["--xpid=a", place, f"--deterministic={told}"]
    sweep.write([words], "offline.evaluate_offline_agent")
    sweep.leave(0, "meta.json", json.dumps({"settings": {"deterministic": trained}}))
    names = ["evaluate.csv", "evaluate_deterministic.csv", "evaluate_sampled.csv"]
    for name in sorted(names, key=files.__contains__):  # those that do not matter first
        assert sweep.states() == [("waiting", "")]
        sweep.leave(0, name, "")
    assert sweep.states() == [("finished", "")]


def test_a_sweep_does_not_evaluate_what_its_files_cannot_tell(sweep: Sweep) -> None:
    with pytest.raises(UsageError, match="line 1: --checkpoint best: a sweep evaluates the final"):
        sweep.write([["--xpid=a", "--checkpoint=best"]], "offline.evaluate_offline_agent")


# What the table tells


def test_a_row_tells_epochs_best_validation_age_and_time_left(sweep: Sweep) -> None:
    # 14 epochs to go, each 100 s of training and half an evaluation of 50 s; 10 minutes are over.
    rows = "2,1.5,90,60,1,3.25,2\n4,1.5,110,40,1,7.5,2\n6,1.5,100,50,1,-2,2\n"
    sweep.leave(0, "logs.csv", HEADER + rows, age=600.0)
    assert sweep.rows() == [["stopped", "6/20", "7.50", "10 min", "29 min", "coinrun/a"]]
    folder = RunFolder(sweep.commands[0].settings.save_path, "coinrun", "a")
    with folder.session():
        assert sweep.rows() == [["running", "6/20", "7.50", "10 min", "19 min", "coinrun/a"]]
    sweep.leave(0, "final_model.pt", "")
    assert sweep.rows() == [["finished", "6/20", "7.50", "10 min", "-", "coinrun/a"]]


def test_time_left_is_reckoned_from_the_latest_epochs(sweep: Sweep) -> None:
    slow = [f"{epoch},1,1000,0,1,1,1\n" for epoch in range(1, 5)]
    fast = [f"{epoch},1,9,2,1,1,1\n" for epoch in range(5, 25)]
    sweep.write([["--xpid=a", "--epochs=34", f"--save_path={sweep.path.parent}"]])
    sweep.leave(0, "logs.csv", HEADER + "".join(slow + fast))
    # Ten epochs of 9 s, and with eval_freq 10 a tenth of an evaluation each.
    assert sweep.rows()[0][4] == "92 s"


def test_a_row_that_is_being_written_does_not_count(sweep: Sweep) -> None:
    sweep.leave(0, "logs.csv", HEADER + "2,1,10,4,1,3,2\n4,1,10,")
    assert sweep.rows()[0][1:3] == ["2/20", "3.00"]


@pytest.mark.parametrize("text", ["", HEADER, HEADER + "2,1"])
def test_a_log_without_a_whole_row_tells_nothing(sweep: Sweep, text: str) -> None:
    sweep.leave(0, "logs.csv", text)
    assert sweep.rows() == [["stopped", "-", "-", "-", "-", "coinrun/a"]]


def test_a_policys_row_tells_its_updates(sweep: Sweep) -> None:
    # 10,000 steps in updates of 4 x 250 are 10 updates; 3 took 60 s.
    sizes = ["--num_env_steps=10000", "--num_processes=4", "--num_steps=250"]
    place = f"--model_saving_dir={sweep.path.parent / 'runs'}"
    sweep.write([["--xpid=p", *sizes, place]], "online.trainer")
    rows = "update,steps,mean_return,elapsed_seconds\n2,2000,0,30\n3,3000,0,60.0\n"
    sweep.leave(0, "logs.csv", rows, age=5.0)
    assert sweep.rows() == [["stopped", "3/10", "-", "5 s", "2 min", "coinrun/p"]]
    sweep.leave(0, "final/model_7.50.pt", "")
    assert sweep.states() == [("finished", "")]


def test_the_last_line_counts_the_states(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, 4)
    sweep.leave(1, "final_model.pt", "")
    sweep.print(2, "error: no space left\n")
    lines = status.table(sweep.commands, sweep.states())
    assert lines[-1] == "4 runs: 1 finished, 2 waiting, 1 failed (no queue is at work)"
    assert lines[0].split("  ")[-1] == "error"
    assert lines[3].endswith("coinrun/c  no space left")


def test_a_run_that_waits_while_another_runs_has_a_queue_at_work(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, 2)
    with RunFolder(sweep.commands[0].settings.save_path, "coinrun", "a").session():
        lines = status.table(sweep.commands, sweep.states())
    assert lines[-1] == "2 runs: 1 running, 1 waiting"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (99.4, "99 s"),
        (100.0, "2 min"),
        (5940.0, "99 min"),
        (12_240.0, "3.4 h"),
        (432_000.0, "5.0 d"),
    ],
)
def test_durations_are_told_in_the_unit_that_keeps_them_short(seconds: float, text: str) -> None:
    assert status.duration(seconds) == text


# The command


def tell(sweep: Sweep, *flags: str) -> subprocess.CompletedProcess[str]:
    logs = f"--log_dir={sweep.logs}"
    return run_python("-m", "train_scripts.status", f"--path={sweep.path}", logs, *flags)


def test_the_command_prints_the_table(sweep: Sweep) -> None:
    done = tell(sweep)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "state    epoch  validation  last row  left  run",
        "waiting  -      -           -         -     coinrun/a",
        "",
        "1 runs: 1 waiting (no queue is at work)",
    ]


def test_failed_prints_only_the_commands_that_failed_as_a_file_of_commands(
    tmp_path: Path,
) -> None:
    sweep = Sweep(tmp_path, 4)
    sweep.write([[*c.words[3:], "--pack_dir=it's a $b\n#c"] for c in sweep.commands])
    for number in (1, 3):
        sweep.print(number, "error: no space left\n")
    done = tell(sweep, "--failed")
    assert (done.returncode, done.stderr) == (0, "")
    again = tmp_path / "again.txt"
    again.write_text(done.stdout)
    words = [command.words for command in read_commands([again])]
    assert words == [sweep.commands[1].words, sweep.commands[3].words]


def test_of_a_command_with_several_seeds_each_has_its_row(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.write([[*sweep.commands[0].words[3:], "--num_seeds=3"]])
    finished, failed, waiting = (run.folder for run in sweep.commands[0].runs)
    for folder, name, text in (
        (finished, "final_model.pt", ""),
        (failed, "out.log", "2026-03-01 10:20:00,123 error: the loss is not finite\n"),
    ):
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
    done = tell(sweep)
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()[1:4]]
    assert [(row[0], row[5]) for row in rows] == [
        ("finished", "coinrun/a_88"),
        ("failed", "coinrun/a_89"),
        ("waiting", "coinrun/a_90"),
    ]
    assert not waiting.exists()


def test_a_command_whose_seeds_failed_is_to_be_given_again_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.write([[*sweep.commands[0].words[3:], "--num_seeds=3"]])
    sweep.print(0, "error: no space left\n")
    assert tell(sweep, "--failed").stdout == as_text(sweep.commands[0].words) + "\n\n"


def test_failed_prints_nothing_where_none_failed(sweep: Sweep) -> None:
    done = tell(sweep, "--failed")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def start_watching(sweep: Sweep) -> subprocess.Popen[str]:
    arguments = [f"--path={sweep.path}", f"--log_dir={sweep.logs}", "--watch"]
    watcher = subprocess.Popen(
        [sys.executable, "-u", "-m", "train_scripts.status", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdout is not None
    for line in watcher.stdout:
        if line.startswith("1 runs"):
            break
    return watcher


@pytest.mark.parametrize(
    ("file", "text", "state"),
    [
        ("final_model.pt", "", "finished"),
        ("out.log", "2026-03-01 10:20:00,123 error: the loss is not finite\n", "failed"),
    ],
)
def test_watch_draws_until_nothing_will_change(
    sweep: Sweep, file: str, text: str, state: str
) -> None:
    watcher = start_watching(sweep)
    sweep.leave(0, file, text)
    out, err = watcher.communicate(timeout=60)
    assert (watcher.returncode, err) == (0, "")
    assert out.splitlines()[-1] == f"1 runs: 1 {state}"


def test_watch_ends_when_nobody_reads(sweep: Sweep) -> None:
    watcher = start_watching(sweep)
    assert watcher.stdout is not None
    assert watcher.stderr is not None
    watcher.stdout.close()
    assert (watcher.wait(timeout=60), watcher.stderr.read()) == (0, "")


def test_watch_ends_with_ctrl_c(sweep: Sweep) -> None:
    watcher = start_watching(sweep)
    watcher.send_signal(signal.SIGINT)
    _, err = watcher.communicate(timeout=60)
    assert (watcher.returncode, err) == (0, "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--path: name a file of commands"),
        (["--path=none.txt"], "none.txt: No such file"),
        (["--path={file}", "--module_name=online"], "--module_name online"),
        (["--path={file}", "--failed", "--watch"], "--failed prints once: drop --watch"),
        (["--path={file}", "--module_name=trainer"], "--module_name trainer: choose one of"),
    ],
)
def test_bad_arguments_are_one_line(
    sweep: Sweep, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main([flag.format(file=sweep.path) for flag in flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in the_error(captured.err)


def test_three_thousand_runs_take_a_few_seconds(sweep: Sweep) -> None:
    place = f"--save_path={sweep.path.parent / 'runs'}"
    sweep.write([[f"--xpid={number}", place] for number in range(3000)])
    rows = HEADER + "".join(f"{epoch},1,10,4,1,3,2\n" for epoch in range(1, 31))
    for number in range(3000):
        sweep.leave(number, "logs.csv", rows)
        sweep.leave(number, "out.log", STARTED)
        sweep.print(number, "epoch 1: loss 2.0\n")
    seconds = []
    for _ in range(3):  # the machine may be busy with something else
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = tell(sweep)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.stdout.splitlines()[-1] == "3000 runs: 3000 stopped (no queue is at work)"
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 5.0
