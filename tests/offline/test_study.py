"""The study at a tiny size: from data to a report, whatever stops it on the way."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UsageError
from common.flags import parse_flags
from offline import study
from offline.arguments import parse_training
from tests.command_runs import start_python, the_error
from tests.offline_commands import GAME, collect_episodes, lines, read_rows, run

TIMEOUT = 300.0
SPLITS = {"train", "validation", "test"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect_episodes(tmp_path_factory.mktemp("data"), transitions=150)


def flags(out: Path, dataset: Path, *sizes: str, **settings: object) -> list[str]:
    """The study's flags with runs that end some seconds after their start."""
    tiny = {"env_name": GAME, "dataset": dataset, "epochs": 1, "eval_freq": 1, "hidden_size": 4}
    tiny |= {"num_eval_episodes": 1, "batch_size": 8, "no_cuda": True, **settings}
    shrunk = [f"--save_path={out}", "--num_episodes=2", "--show=False", *sizes]
    return [*shrunk, "--set", *(f"{name}={value}" for name, value in tiny.items())]


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def at_work(out: Path) -> list[int]:
    """The processes that were told to work in the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(out).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended
    return found


def written(out: Path, *names: str) -> dict[Path, int]:
    """When the files of these names in the runs' folders were written."""
    found = [path for name in names for path in (out / "runs" / GAME).glob(f"{GAME}-*/{name}")]
    return {path: path.stat().st_mtime_ns for path in found}


def attempts(log: Path) -> int:
    return log.read_text().count("$ python -m ")


@pytest.mark.slow
def test_a_study_that_is_killed_and_given_again_ends_in_its_report_with_nothing_done_twice(
    tmp_path: Path, dataset: Path
) -> None:
    out = tmp_path / "report"
    command = ("offline.study", *flags(out, dataset, "--only", "bc", "cql", "--num_trials=2"))
    killed = start_python("-m", *command)
    wait_until(lambda: written(out, "final_model.pt"))
    killed.kill()
    killed.communicate()
    wait_until(lambda: not at_work(out))
    before = written(out, "final_model.pt")
    assert 1 <= len(before) < 4

    second = run(*command)
    assert second.returncode == 0, second.stderr
    trained = written(out, "final_model.pt")
    assert len(trained) == 4
    assert before.items() <= trained.items()
    for path in before:
        assert attempts(out / "logs" / "training" / GAME / f"{path.parent.name}.log") == 1
    for path in trained:
        rows = read_rows(path.parent / "evaluate_episodes.csv")
        assert sorted(row["split"] for row in rows) == sorted([*SPLITS, *SPLITS])
    commands = (out / "commands" / "training.txt").read_text().splitlines()
    runs = [parse_training(line.split()[3:], "") for line in commands]
    # All methods have their first seed before one has its second.
    assert [(r.algo, r.seed) for r in runs] == [("cql", 88), ("bc", 88), ("cql", 89), ("bc", 89)]
    films = written(out, "play/*.gif")
    expected = [(r.xpid, split) for r in runs[:2] for split in ("test.gif", "train.gif")]
    assert sorted((p.parents[1].name, p.name) for p in films) == sorted(expected)
    assert {row["method"] for row in read_rows(out / "results.csv")} == {"bc", "cql"}
    assert (out / "index.html").is_file()
    printed = second.stdout.splitlines()
    assert "4 runs; report in" in second.stdout
    assert printed[-2:-1] == [f"page: {out / 'index.html'}"]

    done = written(out, "final_model.pt", "evaluate.csv", "play/*.gif")
    third = run(*command)
    assert third.returncode == 0, third.stderr
    assert written(out, "final_model.pt", "evaluate.csv", "play/*.gif") == done
    assert "offline.record" not in third.stdout


def test_ctrl_c_waits_for_the_runs_to_save_their_state(tmp_path: Path, dataset: Path) -> None:
    out = tmp_path / "report"
    sizes = ("--only=bc", "--num_trials=1")
    process = start_python("-m", "offline.study", *flags(out, dataset, *sizes, epochs=100_000))
    wait_until(lambda: written(out, "best_model.pt"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, err
    said = lines(err)
    assert said[-2:] == [
        "stopped: the same command continues training",
        "error: stopped; the same command continues the study",
    ]
    assert at_work(out) == []
    (log,) = (out / "logs" / "training" / GAME).glob("*.log")
    assert "error: stopped; " in log.read_text().splitlines()[-1]


def test_a_run_that_fails_is_told_and_nothing_is_evaluated(tmp_path: Path, dataset: Path) -> None:
    out, nowhere = tmp_path / "report", tmp_path / "nowhere"
    done = run("offline.study", *flags(out, nowhere, "--only=bc", "--num_trials=1"))
    assert done.returncode == 1
    said = lines(done.stderr)
    assert said[-1] == (
        "error: train_scripts.slurm failed (exit code 1), see above; "
        "the same command continues the study"
    )
    (failed,) = (line for line in said if line.startswith(f"failed: {GAME}/") and ".log)" in line)
    assert str(nowhere) in failed
    assert not (out / "logs" / "evaluation").exists()


def test_a_folder_with_a_study_of_other_settings_is_refused(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = tmp_path / "commands" / "evaluation.txt"
    commands.parent.mkdir()
    commands.write_text("python -m offline.evaluate_offline_agent --epochs=7\n")
    assert study.main(flags(tmp_path, dataset, "--only=bc")) == 2
    assert the_error(capsys.readouterr().err) == (
        f"error: --save_path {tmp_path}: holds a study of other settings, or of more methods or "
        "seeds: give those, or name another folder"
    )
    assert sorted(path.name for path in commands.parent.iterdir()) == ["evaluation.txt"]


def test_a_folder_may_be_named_otherwise_and_given_more_seeds_but_not_fewer(
    tmp_path: Path, dataset: Path
) -> None:
    out = tmp_path / "my report"
    write_commands(out, dataset, 1)
    otherwise = Path(os.path.relpath(out))
    runs = write_commands(otherwise, dataset, 2)
    assert [(run.save_path, run.seed) for run in runs] == [
        (str(otherwise / "runs"), 88),
        (str(otherwise / "runs"), 89),
    ]
    with pytest.raises(UsageError, match="more methods or seeds"):
        write_commands(out, dataset, 1)


def write_commands(out: Path, dataset: Path, num_trials: int) -> list[argparse.Namespace]:
    given = flags(out, dataset, "--only=bc", f"--num_trials={num_trials}")
    files = (out / "commands" / f"{kind}.txt" for kind in ("training", "evaluation"))
    return study._write_commands(parse_flags(study._FLAGS, given, ""), *files)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("save_path=x", "save_path"),
        ("algo=bc", "only"),
        ("num_final_episodes=3", "num_episodes"),
        ("num_seeds=3", "num_trials"),
    ],
)
def test_a_setting_that_has_a_flag_of_its_own_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, flag: str
) -> None:
    assert study.main([f"--save_path={tmp_path / 'report'}", "--set", text]) == 2
    assert the_error(capsys.readouterr().err) == f"error: --set {text}: --{flag} says this"


def test_a_setting_that_make_cmd_refuses_is_refused_in_its_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.main([f"--save_path={tmp_path / 'report'}", "--set", "epoch=3"]) == 2
    said = the_error(capsys.readouterr().err)
    assert said.startswith("error: --set: no flag is called epoch: did you mean epochs?")
    assert not (tmp_path / "report").exists()


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the user's browser, a program of this test, writes the address into."""
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    return opened


def test_the_page_is_opened_where_there_is_a_display(
    tmp_path: Path, opened: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    study._show(tmp_path / "index.html")
    wait_until(opened.exists)
    assert opened.read_text() == f"file://{tmp_path}/index.html\n"


def test_no_browser_is_started_without_a_display(
    tmp_path: Path, opened: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text()
    study._show(tmp_path / "index.html")
    assert children.read_text() == before
