"""A run of `online.trainer` that was killed, stopped or finished, and what goes on from there."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from common import checkpoints
from tests.command_runs import TIMEOUT, start_python, the_error, wait_until
from tests.online_runs import (
    GAME,
    LONG,
    only,
    read_episodes,
    rows,
    run_folder,
    train,
    trainer_flags,
    tree,
    untimed,
)

NEVER_DONE = 10**9


@contextlib.contextmanager
def running(folder: Path, **changes: Any) -> Iterator[subprocess.Popen[str]]:
    process = start_python("-m", "online.trainer", *trainer_flags(folder, **changes))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def has_rows(run: Path, count: int) -> bool:
    return (run / "logs.csv").exists() and len(rows(run)) >= count


def test_a_killed_run_resumes_to_the_numbers_of_an_unbroken_one(
    unbroken: Path, tmp_path: Path
) -> None:
    run = run_folder(tmp_path)
    # Killed twice: in the first update, and a few updates later.
    with running(tmp_path, **{**LONG, "num_env_steps": NEVER_DONE}) as process:
        wait_until((run / "rolling" / "model.pt").exists, process)
        process.kill()
    assert not has_rows(run, 3)
    with running(tmp_path, **{**LONG, "num_env_steps": NEVER_DONE}, resume=True) as process:
        wait_until(lambda: has_rows(run, 3), process)
        process.kill()
    assert not has_rows(run, 10)
    assert train(tmp_path, **LONG, resume=True) == 0

    assert untimed(run) == untimed(run_folder(unbroken))
    assert float(rows(run)[-1]["mean_return"]) != 0.0, "no rewards: the test shows too little"
    final = only(run / "final", "*")
    expected = only(run_folder(unbroken) / "final", "*")
    assert final.name == expected.name
    weights, expected_weights = (checkpoints.load(p, "ppo")["network"] for p in (final, expected))
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)

    # Episodes that a kill cut short are played to their end unrecorded; none is there twice.
    episodes = read_episodes(tmp_path / "data" / GAME)
    whole = {e.observations.tobytes() for e in read_episodes(unbroken / "data" / GAME)}
    frames = [episode.observations.tobytes() for episode in episodes]
    assert len(set(frames)) == len(frames)
    assert set(frames) <= whole
    assert frames
    assert not list(run.rglob("*.tmp"))


def test_what_was_written_after_the_last_checkpoint_is_written_again_not_twice(
    unbroken: Path, tmp_path: Path
) -> None:
    run, data = run_folder(tmp_path), tmp_path / "data" / GAME
    assert train(tmp_path, **{**LONG, "num_env_steps": 5 * 64}) == 0
    shutil.rmtree(run / "final")
    ended = len(list(data.glob("*.npz")))

    # As if it had gone on after that checkpoint and been killed in the middle of two files.
    timestamp = min(data.glob("*.npz")).name.split("_")[0]
    for path in (unbroken / "data" / GAME).glob("*.npz"):
        _, index, facts = path.name.split("_", 2)
        if int(index) >= ended:
            shutil.copyfile(path, data / f"{timestamp}_{index}_{facts}")
    lines = (run_folder(unbroken) / "logs.csv").read_text().splitlines(keepends=True)
    with open(run / "logs.csv", "a", encoding="utf-8") as file:
        file.writelines(lines[6:10])
    (data / f".{timestamp}_9_60_1_0.00.npz.123.tmp").write_bytes(b"half")
    (run / "rolling" / ".model.pt.123.tmp").write_bytes(b"half")
    foreign = data / "20200101T000000_99_3_5_0.00.npz"
    foreign.write_bytes(b"not of this run")
    assert train(tmp_path, **LONG, resume=True) == 0
    assert untimed(run) == untimed(run_folder(unbroken))
    assert not list(tmp_path.rglob("*.tmp"))
    assert foreign.read_bytes() == b"not of this run"

    foreign.unlink()
    frames = [episode.observations.tobytes() for episode in read_episodes(data)]
    expected = [e.observations.tobytes() for e in read_episodes(unbroken / "data" / GAME)]
    assert 0 < ended < len(frames)
    assert frames[:ended] == expected[:ended]
    assert len(set(frames)) == len(frames)
    assert set(frames) <= set(expected)


def test_sigterm_ends_a_run_at_once_in_one_line_and_it_can_go_on(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    with running(tmp_path, num_env_steps=NEVER_DONE) as process:
        wait_until(lambda: has_rows(run, 1), process)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 128 + signal.SIGTERM
    assert stderr.splitlines()[-1] == f"error: stopped; --resume True continues {run}"
    assert "Traceback" not in stderr
    done = checkpoints.load(run / "rolling" / "model.pt", "ppo")["update"]
    assert train(tmp_path, num_env_steps=32 * (done + 1), resume=True) == 0
    assert [int(row["update"]) for row in rows(run)] == list(range(1, done + 2))


def test_a_run_goes_on_without_the_policy_that_it_began_with(
    finished: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.pt"
    shutil.copyfile(only(run_folder(finished) / "final", "*"), start)
    flags = {"checkpoint_path": start, "num_env_steps": 96}
    assert train(tmp_path, "whole", **flags) == 0
    assert train(tmp_path, **{**flags, "num_env_steps": 32}) == 0
    shutil.rmtree(run_folder(tmp_path) / "final")
    start.unlink()
    assert train(tmp_path, **flags, resume=True) == 0
    assert untimed(run_folder(tmp_path)) == untimed(run_folder(tmp_path, "whole"))


def test_resume_starts_a_run_that_is_not_there_yet(tmp_path: Path) -> None:
    assert train(tmp_path, num_env_steps=1, resume=True) == 0
    assert only(run_folder(tmp_path) / "final", "*").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_a_finished_run_says_so_and_is_left_alone(
    finished: Path, resume: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_folder(finished)
    before = tree(run)
    with caplog.at_level("INFO"):
        assert train(finished, resume=resume) == 0
    assert f"already finished: {only(run / 'final', '*')}" in caplog.text
    assert tree(run) == before


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """The finished run as it was before its final policy was written."""
    shutil.copytree(finished / "models", tmp_path / "models", symlinks=True)
    shutil.rmtree(run_folder(tmp_path) / "final")
    return tmp_path


def refused(folder: Path, code: int, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    """The line with which the run is refused; of what it holds, out.log at most tells of it."""
    before = tree(run_folder(folder))
    assert train(folder, **changes) == code
    after = tree(run_folder(folder))
    logs = [files.pop("out.log") for files in (before, after)]
    assert after == before
    line = the_error(capsys.readouterr().err)
    told = logs[1].removeprefix(logs[0]).decode()
    assert told == "" or told.endswith(f" {line}\n")
    return line


def test_a_folder_that_holds_a_run_is_refused_without_resume(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(unfinished, 2, capsys)
    assert f"{run_folder(unfinished)} holds a run: --resume True continues it" in line


@pytest.mark.parametrize(
    ("flag", "value", "was"), [("gamma", 0.9, 0.999), ("num_processes", 2, 4), ("seed", 1, 88)]
)
def test_a_changed_setting_is_refused_on_resume(
    unfinished: Path, flag: str, value: float, was: float, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(unfinished, 2, capsys, resume=True, **{flag: value})
    assert f"--{flag} {value}: the run in" in line
    assert line.endswith(f"has {flag}={was}")


def test_a_corrupt_rolling_checkpoint_is_refused(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rolling = run_folder(unfinished) / "rolling" / "model.pt"
    rolling.write_bytes(rolling.read_bytes()[:5000])
    line = refused(unfinished, 1, capsys, resume=True)
    assert f"{rolling} is no readable checkpoint" in line


def test_a_policy_in_the_place_of_the_rolling_checkpoint_is_refused(
    finished: Path, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rolling = run_folder(unfinished) / "rolling" / "model.pt"
    shutil.copyfile(only(run_folder(finished) / "final", "*"), rolling)
    assert "holds a policy only" in refused(unfinished, 2, capsys, resume=True)
