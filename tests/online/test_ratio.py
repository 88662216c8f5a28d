"""`--ratio` plays, of every run, the archived policy whose return is closest to the share asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from common.errors import ToolkitError, UsageError
from online.policy_files import archived_return, checkpoint_by_ratio, find_runs
from tests.command_runs import the_error
from tests.online_runs import GAME, collect, read_episodes


def make_run(folder: Path, final: str, archived: list[str], good: str, policy: Path) -> Path:
    """A run folder in which only the archived policy of return `good` can be read."""
    for part in ("final", "checkpoint", "rolling"):
        (folder / part).mkdir(parents=True)
    (folder / "final" / f"model_{final}.pt").write_bytes(b"broken")
    for i, value in enumerate(archived):
        (folder / "checkpoint" / f"model_{50 * (i + 1)}_{value}.pt").write_bytes(b"broken")
    (path,) = (folder / "checkpoint").glob(f"model_*_{good}.pt")
    shutil.copyfile(policy, path)
    return folder


def test_every_run_gives_data_of_its_archived_policy_closest_to_the_ratio(
    policy: Path, tmp_path: Path
) -> None:
    game = tmp_path / "models" / GAME
    make_run(game / "first", "10.00", ["2.00", "7.40", "7.80"], "7.40", policy)
    make_run(game / "second", "4.00", ["1.00", "3.10", "3.90"], "3.10", policy)
    make_run(tmp_path / "models" / "maze" / "other", "10.00", ["7.50"], "7.50", policy)
    (game / "latest").symlink_to("second")
    flags = {"ratio_checkpoint_dir": tmp_path / "models", "ratio_dataset_dir": tmp_path / "data"}
    assert collect(ratio=0.75, capacity=1, **flags) == 0
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["first", "second"]
    for run in ("first", "second"):
        assert read_episodes(tmp_path / "data" / run / GAME)


@pytest.fixture
def runs(policy: Path, tmp_path: Path) -> dict[str, Any]:
    """Flags to collect from two runs, `first` and `second`, into `data`."""
    for name in ("first", "second"):
        make_run(tmp_path / "models" / GAME / name, "4.00", ["3.10", "3.90"], "3.10", policy)
    return {
        "ratio": 0.75,
        "capacity": 1,
        "ratio_checkpoint_dir": tmp_path / "models",
        "ratio_dataset_dir": tmp_path / "data",
    }


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_same_command_goes_on_after_a_stop(
    runs: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert collect(**runs) == 0
    first, second = (tmp_path / "data" / name / GAME for name in ("first", "second"))
    before = times(first)
    shutil.rmtree(second)
    with caplog.at_level("INFO"):
        assert collect(**runs) == 0
    assert caplog.messages.count(f"already collected: {first}") == 1
    assert times(first) == before
    assert len(read_episodes(second)) == len(read_episodes(first))


def test_a_collection_that_was_cut_short_is_refused_before_any_is_played(
    runs: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collect(**runs) == 0
    (tmp_path / "data" / "second" / GAME / "collection.json").unlink()
    shutil.rmtree(tmp_path / "data" / "first")
    capsys.readouterr()
    assert collect(**runs) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path / 'data' / 'second' / GAME} holds" in line
    assert "name another --ratio_dataset_dir" in line
    assert "--dataset_saving_dir" not in line
    assert not list((tmp_path / "data" / "first").rglob("*.npz"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "was collected with seed 88, not 1"),
        ({"capacity": 2}, "was collected with capacity 1, not 2"),
        ({"ratio": 0.97}, "model_50_3.10.pt, not "),
    ],
)
def test_collections_made_in_another_way_are_refused_before_any_is_played(
    runs: dict[str, Any],
    tmp_path: Path,
    changes: dict[str, Any],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert collect(**runs) == 0
    shutil.rmtree(tmp_path / "data" / "first")
    capsys.readouterr()
    assert collect(**{**runs, **changes}) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert words in line
    assert line.startswith(f"error: {tmp_path / 'data' / 'second' / GAME} ")
    assert line.endswith("name another --ratio_dataset_dir")
    assert not (tmp_path / "data" / "first").exists()


def test_a_collection_that_does_not_tell_how_it_was_made_is_refused(
    runs: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collect(**runs) == 0
    mark = tmp_path / "data" / "second" / GAME / "collection.json"
    mark.write_text('{"episodes": 3, "transitions": 100}\n')
    capsys.readouterr()
    assert collect(**runs) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{mark} does not tell how it was collected" in line


def test_two_runs_that_would_meet_in_one_folder_are_refused_before_any_is_played(
    runs: dict[str, Any], policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = tmp_path / "models" / "later" / GAME / "second"
    make_run(twin, "4.00", ["3.10"], "3.10", policy)
    assert collect(**runs) == 2
    line = the_error(capsys.readouterr().err)
    assert str(twin) in line
    assert str(tmp_path / "models" / GAME / "second") in line
    assert not (tmp_path / "data").exists()
    assert collect(**runs, save_dataset=False) == 0  # nothing is written where they could meet


def test_a_policy_that_cannot_be_read_is_found_out_before_any_is_played(
    runs: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "models" / GAME / "second" / "checkpoint" / "model_50_3.10.pt"
    broken.write_bytes(b"broken")
    assert collect(**runs) == 1
    assert f"{broken} is no readable checkpoint" in the_error(capsys.readouterr().err)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("final", "archived", "ratio", "chosen"),
    [
        ("10.00", ["2.00", "7.40", "7.80"], 0.75, "7.40"),
        ("10.00", ["2.00", "7.40", "7.80"], 1.0, "7.80"),
        ("10.00", ["2.00", "7.40", "7.80"], 0.1, "2.00"),
        ("-2.00", ["-3.00", "-1.40", "5.00"], 0.75, "-1.40"),
    ],
)
def test_the_closest_return_is_chosen(
    final: str, archived: list[str], ratio: float, chosen: str, policy: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", final, archived, chosen, policy)
    assert checkpoint_by_ratio(run, ratio).name.endswith(f"_{chosen}.pt")


def test_of_equally_close_policies_the_earliest_is_chosen(policy: Path, tmp_path: Path) -> None:
    # Update 100 comes after update 50, though its name sorts before.
    run = make_run(tmp_path / "run", "10.00", ["7.00", "8.00"], "7.00", policy)
    assert checkpoint_by_ratio(run, 0.75).name == "model_50_7.00.pt"


def test_the_return_stands_in_the_name() -> None:
    assert archived_return(Path("checkpoint/model_50_-1.50.pt")) == -1.5
    assert archived_return(Path("final/model_12.25.pt")) == 12.25
    with pytest.raises(ToolkitError, match=r"final/model\.pt: no return in the name"):
        archived_return(Path("final/model.pt"))


def test_an_unfinished_run_is_an_error_that_names_it(policy: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "10.00", ["7.50"], "7.50", policy)
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(ToolkitError, match=r"run has no checkpoint/"):
        checkpoint_by_ratio(run, 0.75)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no finished run on {GAME}"):
        find_runs(tmp_path, GAME)
    with pytest.raises(UsageError, match="no such folder"):
        find_runs(tmp_path / "nowhere", GAME)
