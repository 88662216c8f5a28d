"""Runs that are unfinished, not evaluated or broken: told with the reason, and left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.errors import UsageError
from offline.results.collected import Collection, collect
from tests.synthetic_runs import constant_returns, write_returns, write_run

RETURNS = constant_returns(9.0, 7.0, 6.0)
OTHERS = constant_returns(8.0, 5.0, 4.0)


def left_out(collection: Collection) -> dict[str, str]:
    """Reasons by name of folder or file."""
    return {path.name: reason for path, reason in collection.left_out}


def reason_alone(folder: Path) -> str:
    """Why the only run does not count."""
    runs, out = collect([folder])
    assert runs == []
    assert len(out) == 1
    return out[0].reason


def test_a_run_that_is_not_finished_is_told_with_its_last_epoch(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS, epochs=3, meta={"epochs": 100})
    (folder / "final_model.pt").unlink()
    assert reason_alone(tmp_path) == "not finished: epoch 3 of 100 is the last logged"


def test_a_finished_run_whose_weights_were_deleted_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS)
    (folder / "final_model.pt").unlink()
    assert len(collect([tmp_path]).runs) == 1


def test_a_run_without_evaluate_csv_is_told_with_the_remedy(tmp_path: Path) -> None:
    write_run(tmp_path, None)
    assert reason_alone(tmp_path).startswith("not evaluated: give its flags to offline.evaluate_")


def test_a_folder_with_results_and_no_settings_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "coinrun" / "behaviour_policy"
    folder.mkdir(parents=True)
    write_returns(folder, "evaluate", RETURNS)
    assert reason_alone(tmp_path) == "no meta.json, so nothing tells its settings"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "meta.json is broken: Expecting"),
        ("\xff\xfe", "meta.json is broken: 'utf-8'"),
        ("[]", "meta.json is broken: it holds no settings"),
        ('{"settings": {"ppo_epoch": 3}}', "no run of an offline method"),
        ('{"settings": {"algo": "bc"}}', "its settings have no usable --env_name: None"),
    ],
)
def test_a_broken_meta_json_is_told(tmp_path: Path, text: str, reason: str) -> None:
    folder = write_run(tmp_path, RETURNS)
    (folder / "meta.json").write_bytes(text.encode("latin-1"))
    assert reason_alone(tmp_path).startswith(reason)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("env_name", "pong", "no score range for game 'pong'"),
        ("distribution_mode", "memory", "no score range for distribution mode 'memory'"),
        ("seed", "one", "its settings have no usable --seed: 'one'"),
        ("num_levels", None, "its settings have no usable --num_levels: None"),
    ],
)
def test_settings_that_nobody_can_use_are_told(
    tmp_path: Path, name: str, value: object, reason: str
) -> None:
    write_run(tmp_path, RETURNS, meta={name: value})
    assert reason_alone(tmp_path).startswith(reason)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("evaluate.csv", "", "evaluate.csv has no row"),
        (
            "evaluate.csv",
            "final_test_ret,final_train_ret\n1,2\n",
            "evaluate.csv lacks the column final_val_ret",
        ),
        (
            "evaluate.csv",
            "final_test_ret,final_train_ret,final_val_ret\n6.0,9.0",
            "evaluate.csv is cut off in row 1",
        ),
        (
            "evaluate.csv",
            "final_test_ret,final_train_ret,final_val_ret\n6.0,nine,7.0\n",
            "evaluate.csv is broken in row 1: could not convert",
        ),
        (
            "evaluate_episodes.csv",
            "split,level_seed,return,length\ntrain,3,9.0",
            "evaluate_episodes.csv has a broken row",
        ),
        (
            "evaluate_episodes.csv",
            "split,level_seed,return,length\ntrain,3,\x00,5\n",
            "evaluate_episodes.csv has a broken row",
        ),
        (
            "evaluate_episodes.csv",
            "split,level_seed,return,length\n",
            "evaluate_episodes.csv has no row",
        ),
        (
            "evaluate_episodes.csv",
            "split,level_seed,return,length\ntrial,3,9.0,50\n",
            "evaluate_episodes.csv has no row, or one of an unknown split",
        ),
        (
            "evaluate_episodes.csv",
            "split,level_seed,return,length\ntrain,3,nan,50\n",
            "evaluate.csv and evaluate_episodes.csv are of two evaluations",
        ),
        (
            "evaluate_episodes.csv",
            "split,level_seed,return,length\ntrain,3,8.0,50\n",
            "evaluate.csv and evaluate_episodes.csv are of two evaluations",
        ),
    ],
)
def test_a_broken_evaluation_is_told(tmp_path: Path, name: str, text: str, reason: str) -> None:
    folder = write_run(tmp_path, RETURNS)
    (folder / name).write_text(text)
    assert reason_alone(tmp_path).startswith(reason)


def test_an_evaluation_that_lacks_a_split_is_told(tmp_path: Path) -> None:
    episodes = write_run(tmp_path, RETURNS) / "evaluate_episodes.csv"
    rows = episodes.read_text().splitlines(keepends=True)
    episodes.write_text("".join(row for row in rows if not row.startswith("test")))
    assert reason_alone(tmp_path) == (
        "evaluate_episodes.csv has no episode on test levels: evaluate the run again"
    )


def test_an_evaluation_without_its_episodes_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS)
    (folder / "evaluate_episodes.csv").unlink()
    assert reason_alone(tmp_path).startswith("evaluate_episodes.csv is missing")


def test_a_broken_second_mode_is_told_and_the_first_still_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS, deterministic_returns=OTHERS)
    (folder / "evaluate_deterministic.csv").write_text("final_test_ret\n1.0\n")
    collection = collect([tmp_path])
    assert list(collection.runs[0].evaluations) == ["sampled"]
    assert left_out(collection) == {
        "evaluate_deterministic.csv": "evaluate_deterministic.csv lacks the column final_train_ret"
    }


def test_a_broken_log_is_told_and_the_returns_still_count(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS)
    with open(folder / "logs.csv", "a") as file:
        file.write("41,0.5,x")
    collection = collect([tmp_path])
    assert collection.runs[0].curve is None
    assert left_out(collection) == {"logs.csv": "logs.csv is cut off in row 41"}


def test_the_runs_of_a_broken_neighbour_still_count(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, RETURNS, seed=seed) for seed in (1, 2, 3)]
    (folders[1] / "meta.json").write_text("")
    runs, out = collect([tmp_path])
    assert ([run.seed for run in runs], [path for path, _ in out]) == ([1, 3], [folders[1]])


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--save_path .*nowhere: there is no such folder"):
        collect([tmp_path, tmp_path / "nowhere"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    runs, out = collect([tmp_path])
    closed.chmod(0o700)
    assert (len(runs), out) == (1, [(closed, "cannot be listed")])
