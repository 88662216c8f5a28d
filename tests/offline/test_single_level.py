"""Training on one level, by the command and by the choice of the level behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from offline import train_offline_agent
from offline.arguments import SINGLE_LEVEL_FLAGS, parse_training
from offline.data.levels import LevelData, choose_level, levels_in
from offline.data.packing import open_game
from offline.single_level_train_offline_agent import main
from tests.data_fixtures import make_episode, write_game
from tests.offline_commands import GAME, TINY, flags, read_checkpoint, read_rows, run_folder

# level seed -> lengths of its episodes: transitions rank the levels 9, 4, 7; episodes 7, 9, 4
LENGTHS = {4: (3, 3, 3), 7: (20,), 9: (2, 3)}


def write_levels(dataset: Path, lengths: dict[int, Sequence[int]]) -> Path:
    episodes = [
        make_episode(number, [1.0] * length, level_seed=level)
        for number, (level, length) in enumerate(
            (level, length) for level, every in lengths.items() for length in every
        )
    ]
    write_game(dataset / GAME, episodes)
    return dataset


def train(dataset: Path, save_path: Path, **changes: Any) -> int:
    settings = {**TINY, "epochs": 1, "dataset": dataset, "save_path": save_path, "xpid": "run"}
    return main(flags(settings, **changes))


def ranked(*transitions: int) -> list[LevelData]:
    return [LevelData(level, 1, count) for level, count in enumerate(transitions)]


def test_the_data_of_every_level_are_counted(tmp_path: Path) -> None:
    stores = [open_game(write_levels(tmp_path, LENGTHS), GAME)]
    assert levels_in(stores) == [LevelData(4, 3, 9), LevelData(7, 1, 20), LevelData(9, 2, 5)]
    assert levels_in(stores, [7]) == [LevelData(7, 1, 20)]


def test_a_level_of_two_folders_is_counted_once(tmp_path: Path) -> None:
    folders = [
        write_levels(tmp_path / name, {4: (3,), level: (2,)})
        for name, level in (("a", 5), ("b", 6))
    ]
    stores = [open_game(folder, GAME) for folder in folders]
    assert levels_in(stores) == [LevelData(4, 2, 6), LevelData(5, 1, 2), LevelData(6, 1, 2)]


@pytest.mark.parametrize(("capacity_type", "level"), [("transitions", 4), ("episodes", 9)])
def test_the_median_level_is_that_of_the_ranking_asked_for(
    tmp_path: Path, capacity_type: Any, level: int
) -> None:
    stores = [open_game(write_levels(tmp_path, LENGTHS), GAME)]
    assert choose_level(levels_in(stores), capacity_type, "median").level == level


def test_the_percentile_level_has_nine_tenths_of_the_levels_below_it() -> None:
    levels = ranked(*range(11))
    assert choose_level(levels, "transitions", "percentile").level == 9
    assert choose_level(levels[::-1], "transitions", "percentile").level == 9


def test_between_two_ranks_the_lower_one_is_taken() -> None:
    assert choose_level(ranked(10, 20, 30, 40), "transitions", "median").level == 1


def test_of_levels_with_as_much_data_the_smaller_seed_comes_first() -> None:
    assert choose_level(ranked(10, 10, 10)[::-1], "transitions", "median").level == 1


def test_the_command_trains_and_evaluates_on_the_chosen_level_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(write_levels(tmp_path / "data", LENGTHS), tmp_path / "runs") == 0
    folder = run_folder(tmp_path / "runs")
    assert read_rows(folder / "data_info.csv") == [
        {"level": "4", "episodes": "3", "transitions": "9"}
    ]
    assert read_checkpoint(folder / "final_model.pt")["samples"] == 9
    episodes = read_rows(folder / "evaluate_episodes.csv")
    assert [(row["split"], row["level_seed"]) for row in episodes] == [("train", "4")] * 2
    mean = sum(float(row["return"]) for row in episodes) / 2
    columns = {"final_test_ret", "final_train_ret", "final_val_ret"}
    (results,) = read_rows(folder / "evaluate.csv")
    assert {name: float(value) for name, value in results.items()} == dict.fromkeys(columns, mean)
    (logged,) = read_rows(folder / "logs.csv")
    assert logged["train_rets_mean"] == logged["val_rets_mean"] == logged["test_rets_mean"]
    assert capsys.readouterr().out.splitlines()[4].startswith("bc ")


def test_the_only_level_of_the_data_needs_no_flag(tmp_path: Path) -> None:
    dataset = write_levels(tmp_path / "data", {40: (5, 6)})
    assert train(dataset, tmp_path / "runs", num_final_episodes=0) == 0
    (info,) = read_rows(run_folder(tmp_path / "runs") / "data_info.csv")
    assert info == {"level": "40", "episodes": "2", "transitions": "11"}


def test_the_level_may_be_named(tmp_path: Path) -> None:
    dataset = write_levels(tmp_path / "data", LENGTHS)
    assert train(dataset, tmp_path / "runs", level=7, num_final_episodes=0) == 0
    (info,) = read_rows(run_folder(tmp_path / "runs") / "data_info.csv")
    assert info == {"level": "7", "episodes": "1", "transitions": "20"}


def test_a_level_that_the_data_lack_is_one_line_that_tells_what_they_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_levels(tmp_path / "data", LENGTHS)
    assert train(dataset, tmp_path / "runs", level=8) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: no episode of levels 8: the data hold 3 levels from 4 to 9"
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_is_not_trained_again_and_needs_no_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_levels(tmp_path / "data", LENGTHS)
    assert train(dataset, tmp_path / "runs", num_final_episodes=0) == 0
    checkpoint = run_folder(tmp_path / "runs") / "final_model.pt"
    before = checkpoint.stat().st_mtime_ns
    caplog.set_level("INFO")
    assert train(tmp_path / "gone", tmp_path / "runs", num_final_episodes=2) == 0
    assert "already finished" in caplog.text
    assert checkpoint.stat().st_mtime_ns == before
    assert (run_folder(tmp_path / "runs") / "evaluate.csv").exists()


def test_a_run_on_one_level_and_one_on_many_are_not_taken_for_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_levels(tmp_path / "data", LENGTHS)
    assert train(dataset, tmp_path / "runs", level=7, num_final_episodes=0) == 0
    assert train(dataset, tmp_path / "runs", num_final_episodes=0) == 0  # of whichever level
    folder = run_folder(tmp_path / "runs")
    plain = flags(TINY, dataset=dataset, save_path=tmp_path / "runs", xpid="run")
    capsys.readouterr()
    assert train_offline_agent.main(plain) == 2
    assert capsys.readouterr().err == (
        f"error: {folder} is a finished run on one level alone: --xpid names another\n"
    )
    meta = json.loads((folder / "meta.json").read_text())
    meta["settings"]["level"] = None  # as a run on many levels has it
    (folder / "meta.json").write_text(json.dumps(meta))
    assert train(dataset, tmp_path / "runs") == 2
    assert "is a finished run not on one level alone" in capsys.readouterr().err


def test_a_finished_run_of_another_level_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_levels(tmp_path / "data", LENGTHS)
    assert train(dataset, tmp_path / "runs", level=7, num_final_episodes=0) == 0
    assert train(dataset, tmp_path / "runs", level=9) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: --level 9: the finished run in {run_folder(tmp_path / 'runs')}")
    assert line.endswith(" has level=7: --xpid names another")


@pytest.mark.parametrize(
    "flag", ["--levels=7", "--capacity_type=episodes", "--threshold_metric=median"]
)
def test_a_named_level_leaves_nothing_to_choose(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert main(["--level=7", flag]) == 2
    name = flag.split("=")[0]
    assert capsys.readouterr().err == f"error: {name}: --level 7 leaves nothing to choose\n"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ([], "coinrun-easy-200-d1M-bc-p1-lr0.001-bs64-dqn-single-t-median_88"),
        (
            ["--capacity_type=episodes", "--threshold_metric=percentile", "--early_stop=True"],
            "coinrun-easy-200-d1M-bc-p1-lr0.001-bs64-dqn-es-single-e-percentile_88",
        ),
        (["--level=40"], "coinrun-easy-200-d1M-bc-p1-lr0.001-bs64-dqn-single-level40_88"),
    ],
)
def test_a_run_is_named_by_how_its_level_is_chosen(given: list[str], name: str) -> None:
    assert parse_training(given, "", extra=SINGLE_LEVEL_FLAGS).xpid == name
