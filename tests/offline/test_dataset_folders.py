"""Several folders of data together: each counts once, by whatever path it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.arguments import parse_training
from offline.data.loading import open_selection
from offline.data.packing import distinct_folders
from tests.data_fixtures import make_episode, write_game


def test_a_folder_that_is_given_twice_counts_once_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, name in enumerate("ab", 1):
        write_game(tmp_path / name / "miner", [make_episode(number, [1.0, 2.0])])
    a, b = tmp_path / "a", tmp_path / "b"
    flags = ["--env_name=miner", f"--dataset={a}", f"--dataset={b}", f"--dataset={b}/../a/"]
    selection = open_selection(parse_training(flags, ""))
    assert [store.path.parent.parent for store in selection.stores] == [a, b]
    assert selection.num_transitions == 4
    said = [text for text in caplog.messages if "--dataset" in text]
    assert said == [f"--dataset {b}/../a is the folder {a}: its episodes count once"]


def test_a_link_to_a_folder_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    folders = [str(tmp_path / name) for name in ("link", "a", "none")]
    assert distinct_folders(folders) == [tmp_path / "link", tmp_path / "none"]
