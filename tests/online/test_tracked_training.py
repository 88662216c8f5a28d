"""`--tensorboard` and `--wandb_project` of `online.trainer`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_runs import ROOT, TIMEOUT, the_error
from tests.online_runs import GAME, rows, run_folder, train, trainer_flags, untimed
from tests.tracking_readers import (
    assert_tensorboard_holds,
    offline_wandb,
    series_of,
    wandb_config,
    without_login,
)


def command(
    home: Path, folder: Path, mode: str, **changes: Any
) -> subprocess.CompletedProcess[str]:
    """The trainer in a process of its own, where W&B is in `mode`."""
    return subprocess.run(
        [sys.executable, "-m", "online.trainer", *trainer_flags(folder, **changes)],
        cwd=ROOT,
        env=without_login(home, WANDB_MODE=mode),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_a_resumed_run_is_in_tensorboard_and_wandb_over_environment_steps(
    tmp_path: Path, finished: Path
) -> None:
    run = run_folder(tmp_path)
    tracked = {"tensorboard": True, "wandb_project": "procgen"}
    for steps in (64, 96):
        done = command(tmp_path, tmp_path, "offline", **tracked, num_env_steps=steps, resume=True)
        assert done.returncode == 0, done.stderr
        table = rows(run)
        assert_tensorboard_holds(run, table, "steps")
        recorded, series = offline_wandb(run)
        assert series == series_of(table, "steps")
        assert wandb_config(recorded) == json.loads((run / "meta.json").read_text())["settings"]
        shutil.rmtree(run / "final")  # as if it had been stopped just before its end
    assert [row["steps"] for row in table] == ["32", "64", "96"]
    assert untimed(run) == untimed(run_folder(finished))


def test_a_row_that_was_lost_is_in_tensorboard_once(tmp_path: Path) -> None:
    assert train(tmp_path, num_env_steps=64, tensorboard=True) == 0
    run = run_folder(tmp_path)
    shutil.rmtree(run / "final")
    header, *lines = (run / "logs.csv").read_text().splitlines(keepends=True)
    lost = lines[-1].replace("2,64,", "3,96,", 1)
    (run / "logs.csv").write_text(header + "".join(lines) + lost)
    assert train(tmp_path, num_env_steps=96, tensorboard=True, resume=True) == 0
    assert len(rows(run)) == 3
    assert_tensorboard_holds(run, rows(run), "steps")


def test_an_entity_without_a_project_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, wandb_entity="team") == 2
    assert the_error(capsys.readouterr().err) == (
        "error: --wandb_entity team: give --wandb_project too"
    )


def test_who_is_not_logged_in_is_told_before_training(tmp_path: Path) -> None:
    done = command(tmp_path, tmp_path, "online", wandb_project="procgen")
    assert done.returncode == 1
    assert "No API key configured" in the_error(done.stderr)
    assert not list((tmp_path / "models").rglob("*.pt"))


def test_tracking_does_not_change_the_name_of_a_run(tmp_path: Path) -> None:
    assert train(tmp_path, xpid="", num_env_steps=1) == 0
    assert train(tmp_path, xpid="", num_env_steps=1, tensorboard=True) == 0
    assert len(list((tmp_path / "models" / GAME).glob("*_88"))) == 1
