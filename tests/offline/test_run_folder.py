from __future__ import annotations

import json
import logging
import platform
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from offline.train_offline_agent import main
from tests.data_fixtures import make_episode, write_game
from tests.offline_commands import (
    CREDENTIAL,
    GAME,
    TINY,
    FinishedRun,
    flags,
    lines,
    read_rows,
    run_folder,
)

COLUMNS = (
    "epoch train_loss epoch_time inf_time train_rets_mean val_rets_mean test_rets_mean "
    "samples_per_second"
)


# What the real command leaves


def test_a_finished_run_leaves_the_promised_files(finished_run: FinishedRun) -> None:
    # Evaluated every epoch; ckpt_freq 2 of 3 epochs.
    assert sorted(path.name for path in finished_run.folder.iterdir()) == [
        "best_model.pt",
        "final_model.pt",
        "final_test_eval.csv",
        "logs.csv",
        "meta.json",
        "model.pt",
        "model_2.pt",
        "out.log",
    ]


def test_latest_links_to_the_run(finished_run: FinishedRun) -> None:
    assert (finished_run.folder.parent / "latest").resolve() == finished_run.folder.resolve()


def test_the_log_has_one_row_per_evaluation_with_the_promised_columns(
    finished_run: FinishedRun,
) -> None:
    rows = read_rows(finished_run.folder / "logs.csv")
    assert [list(row) for row in rows] == [COLUMNS.split()] * 3
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())


def test_the_final_evaluation_has_the_promised_columns(finished_run: FinishedRun) -> None:
    (row,) = read_rows(finished_run.folder / "final_test_eval.csv")
    assert list(row) == ["final_test_ret", "final_train_ret", "final_val_ret"]


def test_the_log_file_holds_a_line_per_epoch(finished_run: FinishedRun) -> None:
    text = (finished_run.folder / "out.log").read_text()
    assert [f"epoch {epoch}: loss" in text for epoch in (1, 2, 3, 4)] == [True] * 3 + [False]


def test_meta_json_says_how_the_run_was_made(finished_run: FinishedRun) -> None:
    meta = json.loads((finished_run.folder / "meta.json").read_text())
    assert meta["settings"]["batch_size"] == 8
    assert meta["settings"]["gamma"] == 0.99
    assert meta["versions"]["torch"] == torch.__version__
    assert meta["versions"]["python"] == platform.python_version()
    assert meta["device"] == "cpu"
    assert meta["procgen"]["version"] == "0.10.7"
    assert meta["dataset"]["transitions"] >= 600
    assert re.fullmatch("[0-9a-f]{40}|unknown", meta["git_commit"])


def test_no_environment_variable_is_written_down(finished_run: FinishedRun) -> None:
    files = [path for path in finished_run.save_path.rglob("*") if path.is_file()]
    assert len(files) == 8
    assert not [path for path in files if CREDENTIAL.encode() in path.read_bytes()]


def test_the_command_prints_nothing_but_its_log(finished_run: FinishedRun) -> None:
    assert finished_run.process.stdout == ""
    written = lines(finished_run.process.stderr)
    assert len(written) == 6, written  # data, folder, three epochs, final evaluation
    assert written[0].startswith("data: ")


def test_a_run_without_a_name_is_named_by_its_settings(tmp_path: Path, dataset: Path) -> None:
    settings = {**TINY, "epochs": 1, "batch_size": 500, "num_final_episodes": 0}
    assert main(flags(settings, dataset=dataset, save_path=tmp_path)) == 0
    names = [path.name for path in (tmp_path / GAME).iterdir() if not path.is_symlink()]
    assert len(names) == 1
    expected = rf"{GAME}-easy-200-d1M-bc-p1-lr0\.001-bs500-dqn-[0-9a-f]{{6}}_88"
    assert re.fullmatch(expected, names[0])


# Starting on a folder that is not empty


def test_a_finished_run_of_other_settings_is_refused(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(finished_copy.settings, save_path=finished_copy.save_path, lr=0.1)
    assert main(given) == 2
    assert capsys.readouterr().err == (
        f"error: --lr 0.1: the finished run in {finished_copy.folder} has lr=0.001: "
        "--xpid names another\n"
    )


def test_a_finished_run_is_not_trained_again(
    finished_copy: FinishedRun, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = {path: path.stat().st_mtime_ns for path in finished_copy.folder.iterdir()}
    for resume in (False, True):
        arguments = flags(finished_copy.settings, save_path=finished_copy.save_path, resume=resume)
        assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in finished_copy.folder.iterdir()} == before
    assert caplog.text.count("already finished") == 2


def test_an_unfinished_run_is_not_touched_without_resume(
    unfinished_copy: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_folder(unfinished_copy) / "model.pt").read_bytes()
    assert main(flags(TINY, dataset=dataset, xpid="run", save_path=unfinished_copy)) == 2
    assert "--resume True continues it" in capsys.readouterr().err
    assert (run_folder(unfinished_copy) / "model.pt").read_bytes() == before


@pytest.mark.parametrize(("name", "value"), [("lr", 0.1), ("batch_size", 9), ("seed", 1)])
def test_a_run_is_not_continued_with_other_settings(
    unfinished_copy: Path,
    dataset: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: float,
) -> None:
    changed = {**TINY, "dataset": dataset, "xpid": "run", "resume": True, name: value}
    assert main(flags(changed, save_path=unfinished_copy)) == 1
    message = capsys.readouterr().err
    started_with = {"lr": 0.001, "batch_size": 8, "seed": 88}[name]
    assert f"--{name} {value}: the run in" in message
    assert f"was started with {started_with}" in message


def test_a_run_is_not_continued_with_other_data(
    unfinished_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_game(tmp_path / "other" / GAME, [make_episode(1, [0.0] * 12)])
    arguments = flags(TINY, dataset=tmp_path / "other", xpid="run", resume=True)
    assert main([*arguments, f"--save_path={unfinished_copy}"]) == 1
    assert "the data hold 12 samples" in capsys.readouterr().err


def test_what_a_killed_process_was_saving_is_removed(unfinished_copy: Path, dataset: Path) -> None:
    leftover = run_folder(unfinished_copy) / ".model.pt.123.tmp"
    leftover.write_bytes(b"half")
    arguments = flags(TINY, dataset=dataset, xpid="run", resume=True, num_final_episodes=0)
    assert main([*arguments, f"--save_path={unfinished_copy}"]) == 0
    assert not leftover.exists()
