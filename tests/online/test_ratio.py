"""`--ratio` plays, of every run, the archived policy whose return is closest to the share asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.errors import ToolkitError, UsageError
from online.policy_files import archived_return, checkpoint_by_ratio, find_runs
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
