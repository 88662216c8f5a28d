"""`online.trainer` end to end: its files, the data it records, its refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import checkpoints
from tests.command_runs import the_error
from tests.online_runs import (
    GAME,
    assert_played_on_its_level,
    only,
    read_episodes,
    rows,
    run_folder,
    train,
    tree,
    untimed,
)

# What a run leaves behind


def test_a_run_leaves_the_folders_and_names_of_the_design(finished: Path) -> None:
    run = run_folder(finished)
    assert {path.name for path in run.iterdir()} == {
        "rolling",
        "checkpoint",
        "final",
        "logs.csv",
        "out.log",
        "meta.json",
    }
    assert [path.name for path in (run / "rolling").iterdir()] == ["model.pt"]
    archived = sorted(path.name for path in (run / "checkpoint").iterdir())
    assert [re.sub(r"_-?\d+\.\d\d\.pt$", "", name) for name in archived] == [
        "model_1",
        "model_2",
        "model_3",
    ]
    assert re.fullmatch(r"model_-?\d+\.\d\d\.pt", only(run / "final", "*").name)
    assert (run.parent / "latest").resolve() == run.resolve()


def test_a_finished_run_of_other_settings_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(finished) == 0  # the same settings: there is nothing to do
    assert train(finished, lr=0.1) == 2
    line = the_error(capsys.readouterr().err)
    assert line.startswith(f"error: --lr 0.1: the finished run in {run_folder(finished)} has lr=")
    assert train(finished, num_env_steps=10**6) == 2
    assert "--num_env_steps 1000000: the finished run in" in the_error(capsys.readouterr().err)


def test_the_table_has_one_row_per_update(finished: Path) -> None:
    table = rows(run_folder(finished))
    assert list(table[0]) == [
        "update",
        "steps",
        "episodes",
        "mean_return",
        "policy_loss",
        "value_loss",
        "entropy",
        "elapsed_seconds",
        "steps_per_second",
    ]
    assert [row["update"] for row in table] == ["1", "2", "3"]
    assert [row["steps"] for row in table] == ["32", "64", "96"]
    assert all(0 < float(row["entropy"]) <= np.log(15) + 1e-6 for row in table)


def test_rows_can_be_written_less_often_but_the_last_one_is(tmp_path: Path) -> None:
    assert train(tmp_path, log_interval=2) == 0
    assert [row["update"] for row in rows(run_folder(tmp_path))] == ["2", "3"]


def test_the_last_update_completes_the_steps_asked_for(tmp_path: Path) -> None:
    assert train(tmp_path, num_env_steps=33) == 0
    assert [row["steps"] for row in rows(run_folder(tmp_path))] == ["32", "64"]


def test_checkpoints_carry_the_facts_that_name_them(finished: Path) -> None:
    run = run_folder(finished)
    last = rows(run)[-1]
    contents = checkpoints.load(only(run / "final", "*"), "ppo")
    assert contents["env_name"] == GAME
    assert (contents["update"], contents["steps"]) == (3, 96)
    assert contents["mean_return"] == float(last["mean_return"])
    assert only(run / "final", "*").name == f"model_{float(last['mean_return']):.2f}.pt"


def test_the_rolling_checkpoint_ends_with_the_final_weights(finished: Path) -> None:
    run = run_folder(finished)
    rolling = checkpoints.load(run / "rolling" / "model.pt", "ppo")["network"]
    final = checkpoints.load(only(run / "final", "*"), "ppo")["network"]
    assert all(torch.equal(rolling[name], final[name]) for name in final)
    first = checkpoints.load(only(run / "checkpoint", "model_1_*"), "ppo")["network"]
    assert any(not torch.equal(first[name], final[name]) for name in final)


def test_meta_json_holds_the_settings(finished: Path) -> None:
    meta = json.loads((run_folder(finished) / "meta.json").read_text())
    assert meta["settings"]["num_env_steps"] == 96
    assert meta["settings"]["gamma"] == 0.999
    assert meta["procgen"]["package"].startswith("procgen")


def test_a_run_is_named_after_its_settings_when_no_name_is_given(tmp_path: Path) -> None:
    assert train(tmp_path, xpid="", num_env_steps=1) == 0
    # The tiny sizes are no defaults and not in the name, so a hash of them is.
    name = f"{GAME}-easy-200-ppo-lr0.0005-epoch1-mb2-v0.5-ha0.01-??????_88"
    only(tmp_path / "models" / GAME, name)


def test_a_setting_that_the_name_does_not_show_gives_another_name(tmp_path: Path) -> None:
    assert train(tmp_path, xpid="", num_env_steps=1) == 0
    assert train(tmp_path, xpid="", num_env_steps=1, gamma=0.9) == 0
    assert len(list((tmp_path / "models" / GAME).glob("*_88"))) == 2


def test_the_same_seed_gives_the_same_run_and_another_does_not(
    finished: Path, tmp_path: Path
) -> None:
    assert train(tmp_path, "again") == 0
    assert untimed(run_folder(tmp_path, "again")) == untimed(run_folder(finished))
    assert train(tmp_path, "other", seed=89) == 0
    assert untimed(run_folder(tmp_path, "other")) != untimed(run_folder(finished))


def test_a_run_can_start_from_the_weights_of_another(finished: Path, tmp_path: Path) -> None:
    start = only(run_folder(finished) / "final", "*")
    assert train(tmp_path, checkpoint_path=start, num_env_steps=1, lr=1e-30) == 0
    expected = checkpoints.load(start, "ppo")["network"]
    weights = checkpoints.load(only(run_folder(tmp_path) / "final", "*"), "ppo")["network"]
    assert all(torch.allclose(weights[name], expected[name]) for name in expected)


# The training log as a dataset


def test_every_episode_that_ended_is_recorded(unbroken: Path) -> None:
    episodes = read_episodes(unbroken / "data" / GAME)
    assert len(episodes) == int(rows(run_folder(unbroken))[-1]["episodes"])
    assert len(episodes) >= 4
    assert all(0 <= episode.level_seed <= 199 for episode in episodes)


def test_recorded_frames_and_rewards_are_raw(unbroken: Path) -> None:
    episodes = read_episodes(unbroken / "data" / GAME)
    assert any(episode.rewards.any() for episode in episodes), "the test shows too little"
    for episode in episodes:
        assert_played_on_its_level(episode)


def test_the_files_hold_uint8_frames_channels_first(unbroken: Path) -> None:
    path = next((unbroken / "data" / GAME).glob("*.npz"))
    with np.load(path) as arrays:
        length = len(arrays["actions"])
        assert arrays["observations"].dtype == np.uint8
        assert arrays["observations"].shape == (length + 1, 3, 64, 64)
        assert arrays["observations"].max() > 1
        assert (arrays["actions"].dtype, arrays["actions"].shape) == (np.int64, (length, 1))
        assert arrays["rewards"].shape == arrays["dones"].shape == (length, 1)


def test_the_mean_return_is_that_of_the_recorded_episodes(unbroken: Path) -> None:
    returns = [e.episode_return for e in read_episodes(unbroken / "data" / GAME)]
    table = rows(run_folder(unbroken))
    assert float(table[-1]["mean_return"]) == pytest.approx(np.mean(returns))


def test_episodes_of_another_run_are_never_mixed_in(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(unbroken / "data", data)
    before = tree(data)
    assert train(tmp_path, save_dataset=True) == 2
    assert f"{data / GAME} holds" in the_error(capsys.readouterr().err)
    assert tree(data) == before


# Refusals


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, lr=1e30) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    rolling = run_folder(tmp_path) / "rolling" / "model.pt"
    assert line.startswith("error: the loss is not finite in update 1: ")
    assert str(rolling) in line
    weights = checkpoints.load(rolling, "ppo")["network"]
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    assert not (run_folder(tmp_path) / "final").exists()


def test_weights_broken_by_the_last_minibatch_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With one minibatch the loss is computed before the step that ruins the weights.
    assert train(tmp_path, lr=1e30, num_mini_batch=1) == 1
    assert "not finite in update 1" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"checkpoint_path": "nowhere.pt"}, 2, "no checkpoint at nowhere.pt"),
        ({"num_mini_batch": 33}, 2, "--num_mini_batch 33: more than the 32 steps"),
        ({"start_level": 2**31 - 1}, 2, "start_level 2147483647, num_levels 200"),
        ({"start_level": 7, "num_levels": 0}, 2, "--start_level 7: --num_levels 0 draws from all"),
        ({"xpid": "../../etc"}, 2, "--xpid ../../etc: give the name of a new folder, not a path"),
        ({"xpid": "latest"}, 2, "--xpid latest: give the name of a new folder, not a path"),
        ({"env_name": "pong"}, 2, "--env_name pong: choose one of"),
        ({"num_env_steps": 0}, 2, "--num_env_steps 0: must be at least 1"),
        ({"lr": "nan"}, 2, "--lr nan: must be"),
    ],
)
def test_bad_settings_are_refused_in_one_line(
    tmp_path: Path,
    changes: dict[str, Any],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(tmp_path, **changes) == code
    assert words in the_error(capsys.readouterr().err)


def test_weights_of_another_size_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = only(run_folder(finished) / "final", "*")
    assert train(tmp_path, checkpoint_path=start, hidden_size=8) == 1
    line = the_error(capsys.readouterr().err)
    assert f"{start} holds another architecture" in line


def test_a_path_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").write_text("not a folder")
    assert train(tmp_path) == 1
    assert f"cannot write to {run_folder(tmp_path)}" in the_error(capsys.readouterr().err)
