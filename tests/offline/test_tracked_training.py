"""`--tensorboard` and `--wandb_project` of the commands that train offline."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offline import single_level_train_offline_agent, train_offline_agent
from tests.offline_commands import (
    GAME,
    ROOT,
    TIMES,
    TINY,
    TRAIN,
    FinishedRun,
    assert_same,
    end,
    error_line,
    flags,
    read_checkpoint,
    read_rows,
    run,
    run_folder,
    start,
    wait_for,
)
from tests.tracking_readers import (
    assert_tensorboard_holds,
    offline_wandb,
    series_of,
    wandb_config,
    without_login,
)
from tests.wandb_server import KEY

TRACKED = {"tensorboard": True, "wandb_project": "procgen", "wandb_entity": "team"}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """The folder of a run that was tracked, stopped by SIGTERM in its second epoch and resumed."""
    home = tmp_path_factory.mktemp("home")
    save_path = tmp_path_factory.mktemp("tracked")
    arguments = flags({**TINY, **TRACKED, "dataset": dataset, "xpid": "run"}, save_path=save_path)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in without_login(home, WANDB_MODE="offline", WANDB_API_KEY=KEY).items():
            patch.setenv(name, value)
        process = start(TRAIN, *arguments)
        wait_for(process, "epoch 2/3")
        process.send_signal(signal.SIGTERM)
        assert end(process) == 128 + signal.SIGTERM
        resumed = run(TRAIN, *arguments, "--resume=True")
    assert resumed.returncode == 0, resumed.stderr
    return run_folder(save_path)


def test_tensorboard_holds_the_rows_of_a_stopped_and_resumed_run(tracked: Path) -> None:
    rows = read_rows(tracked / "logs.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert_tensorboard_holds(tracked, rows, "epoch")


def test_wandb_holds_the_rows_of_a_stopped_and_resumed_run(tracked: Path) -> None:
    _, series = offline_wandb(tracked)
    assert series == series_of(read_rows(tracked / "logs.csv"), "epoch")


def test_wandb_knows_the_run_by_its_name_and_its_settings(tracked: Path) -> None:
    recorded, _ = offline_wandb(tracked)
    assert (recorded.project, recorded.entity) == ("procgen", "team")
    assert recorded.display_name == "run"
    assert wandb_config(recorded) == json.loads((tracked / "meta.json").read_text())["settings"]


def test_tracking_changes_no_result(tracked: Path, finished_run: FinishedRun) -> None:
    mine, theirs = (read_rows(folder / "logs.csv") for folder in (tracked, finished_run.folder))
    for row in (*mine, *theirs):
        for name in TIMES:
            del row[name]
    assert mine == theirs
    weights = [
        read_checkpoint(folder / "final_model.pt")["agent"]["weights"]
        for folder in (tracked, finished_run.folder)
    ]
    assert_same(*weights)


def test_no_file_of_a_tracked_run_holds_the_credentials(tracked: Path) -> None:
    files = [path for path in tracked.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_the_folder_of_the_command_is_left_alone(tracked: Path) -> None:
    assert (tracked / "wandb").is_dir()
    assert not (ROOT / "wandb").exists()
    assert not list(ROOT.glob("events.out.tfevents.*"))


def test_a_single_level_run_is_tracked_too(dataset: Path, tmp_path: Path) -> None:
    settings = {**TINY, "dataset": dataset, "xpid": "run", "epochs": 2, "num_final_episodes": 0}
    arguments = flags(settings, save_path=tmp_path, tensorboard=True)
    assert single_level_train_offline_agent.main(arguments) == 0
    folder = run_folder(tmp_path)
    rows = read_rows(folder / "logs.csv")
    assert len(rows) == 2
    assert_tensorboard_holds(folder, rows, "epoch")


def test_a_run_that_is_not_tracked_imports_neither_package(dataset: Path, tmp_path: Path) -> None:
    settings = {**TINY, "dataset": dataset, "epochs": 1, "num_final_episodes": 0}
    script = (
        f"import sys; from {TRAIN} import main\n"
        f"code = main({flags(settings, save_path=tmp_path)!r})\n"
        "print(code, {'wandb', 'tensorboard', 'torch.utils.tensorboard'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "0 set()\n", done.stderr


def test_a_tracked_run_has_the_name_of_one_that_is_not(tmp_path: Path) -> None:
    from offline.arguments import parse_training

    assert parse_training(flags(TRACKED), "").xpid == parse_training([], "").xpid


# Refused before any time is spent


def test_an_entity_without_a_project_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(TINY, save_path=tmp_path / "runs", wandb_entity="team")
    assert train_offline_agent.main(arguments) == 2
    assert capsys.readouterr().err == "error: --wandb_entity team: give --wandb_project too\n"


@pytest.mark.parametrize("module", [TRAIN, "offline.single_level_train_offline_agent"])
def test_who_is_not_logged_in_is_told_before_the_data_are_read(module: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**TINY, "dataset": tmp_path, "wandb_project": "procgen"}
    arguments = flags(settings, save_path=tmp_path / "runs")
    refused = run(
        module, *arguments, **without_login(tmp_path, WANDB_MODE="online", WANDB_API_KEY="")
    )
    assert refused.returncode == 1
    assert "No API key configured" in error_line(refused)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flag", "package"), [("tensorboard=True", "tensorboard"), ("wandb_project=p", "wandb")]
)
def test_a_missing_package_is_named_before_the_data_are_read(
    flag: str, package: str, tmp_path: Path
) -> None:
    arguments = flags(TINY, dataset=tmp_path, save_path=tmp_path / "runs")
    script = (
        f"import sys; sys.modules[{package!r}] = None; from {TRAIN} import main; "
        f"sys.exit(main({[*arguments, '--' + flag]!r}))"
    )
    refused = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert error_line(refused).endswith(f"pip install {package}")
    assert not (tmp_path / "runs" / GAME).exists()


def test_a_run_that_is_finished_asks_for_no_login(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    arguments = flags(finished_run.settings, save_path=finished_run.save_path, wandb_project="p")
    done = run(TRAIN, *arguments, **without_login(tmp_path, WANDB_MODE="online", WANDB_API_KEY=""))
    assert done.returncode == 0, done.stderr
    assert "already finished" in done.stderr
