"""The command that inspects a dataset, run as a user would, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from offline.data.packing import open_game
from offline.data.store import FORMAT_VERSION
from tests.data_fixtures import episode_path, make_episode, raw_arrays, save_npz, write_game
from tests.inspection_fixtures import EPISODES, report_on
from tests.offline_commands import GAME, error_line, lines, run

COMMAND = "offline.inspect_dataset"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset folder with the episodes above."""
    write_game(tmp_path / "data" / GAME, EPISODES)
    return tmp_path / "data"


def inspect(*arguments: object) -> dict[str, Any]:
    """The report on the only game, as the command prints it in JSON."""
    done = run(COMMAND, "--json=True", *map(str, arguments))
    assert done.returncode == 0, done.stderr
    (game,) = json.loads(done.stdout)["games"]
    return dict(game)


def refused(code: int, *arguments: object) -> str:
    done = run(COMMAND, *map(str, arguments))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(lines(done.stderr)) == 1, done.stderr
    return error_line(done)


def test_json_has_the_numbers_and_nothing_else_is_on_standard_output(data: Path) -> None:
    game = inspect("--dataset", data)
    assert (game["game"], game["episodes"], game["transitions"]) == (GAME, 6, 13)
    assert game["levels"]["elsewhere"] == 1
    assert game["returns"]["median"] == 3.0
    assert game["actions"][6] == {
        "action": 6,
        "buttons": "right+down",
        "count": 3,
        "share": pytest.approx(3 / 13),
    }
    assert game["first_frames"]["example"] == [3, 5]
    assert game["first_frames"]["validation_levels_seen"] is None
    assert game["sources"][0]["skipped"] == []
    assert len(game["warnings"]) == 4


def test_a_packed_store_without_its_episode_files_gives_the_same_numbers(data: Path) -> None:
    before = inspect("--dataset", data)
    for file in (data / GAME).glob("*.npz"):
        file.unlink()
    after = inspect("--dataset", data)
    assert after["sources"][0].pop("episode_files") == 0
    assert after["sources"][0].pop("episode_file_bytes") == 0
    assert before["sources"][0].pop("episode_files") == 6
    assert before["sources"][0].pop("episode_file_bytes") > 0
    assert after == before


def test_all_games_are_inspected_unless_some_are_named(data: Path, tmp_path: Path) -> None:
    write_game(tmp_path / "more" / "miner", EPISODES[:2])
    write_game(tmp_path / "more" / GAME, EPISODES[:1])
    (tmp_path / "more" / "notes").mkdir()
    folders = ["--dataset", str(data), str(tmp_path / "more")]
    done = run(COMMAND, *folders, f"--pack_dir={tmp_path / 'packs'}")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("packed"))
    blocks = [line for line in done.stdout.splitlines() if line in (GAME, "miner")]
    assert blocks == [GAME, "miner"]
    last = [line.split()[:2] for line in done.stdout.splitlines()[-2:]]
    assert last == [[GAME, "7"], ["miner", "2"]]
    named = run(COMMAND, "--json", f"--dataset={tmp_path / 'more'}", "--env_name=miner")
    assert [game["game"] for game in json.loads(named.stdout)["games"]] == ["miner"]


def test_the_figure_is_a_png_and_an_svg_with_levels_and_histograms(
    dataset: Path, tmp_path: Path
) -> None:
    done = run(COMMAND, f"--dataset={dataset}", f"--figure={tmp_path / 'new' / 'look'}")
    assert done.returncode == 0, done.stderr
    png, svg = (tmp_path / "new" / "look" / f"{GAME}.{kind}" for kind in ("png", "svg"))
    assert f"figure: {png}, {svg}" in lines(done.stderr)
    height, width, _ = imread(png).shape
    assert width == 1440
    assert 1000 < height < 2000
    text = svg.read_text()
    labels = ("return per episode", "steps per episode", "episodes per level", "right+down", GAME)
    assert [label for label in labels if f"<!-- {label}" not in text] == []
    assert text.count("<!-- level ") == min(24, report_on(dataset).levels.known)


def test_the_figure_of_few_levels_and_unknown_ones_goes_to_the_file_named(data: Path) -> None:
    inspect("--dataset", data, "--figure", data / "look.png")
    text = (data / "look.svg").read_text()
    assert text.count("<!-- level ") == 4
    assert text.count("<!-- unknown level ") == 1
    assert (data / "look.png").is_file()


def test_bad_episode_files_are_refused_or_skipped_and_named(data: Path) -> None:
    path = episode_path(data / GAME, make_episode(7, [1.0, 2.0]), 9, ".npz")
    save_npz(path, **{**raw_arrays(EPISODES[0]), "actions": np.array([[1], [15], [2]])})
    assert str(path) in refused(1, "--dataset", data)
    game = inspect("--dataset", data, "--skip_bad_episodes", True)
    assert game["episodes"] == 6
    (skipped,) = game["sources"][0]["skipped"]
    assert skipped["file"] == path.name
    assert any(warning.startswith("bad episode files left out") for warning in game["warnings"])


# Bad input


def test_a_dataset_is_needed() -> None:
    assert refused(2).startswith("--dataset is needed")


def test_a_dataset_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    line = refused(2, "--dataset", tmp_path / "nowhere")
    assert line == f"dataset folder {tmp_path / 'nowhere'} does not exist"


def test_a_game_that_is_not_there_is_named_with_those_that_are(data: Path) -> None:
    line = refused(2, "--dataset", data, "--env_name", "miner")
    assert line == f"{data} has no folder miner; games there: {GAME}"


def test_a_game_folder_in_place_of_its_dataset_is_refused_with_the_remedy(data: Path) -> None:
    line = refused(2, "--dataset", data / GAME)
    assert line.endswith(f"no folder that is named after a Procgen game: give {data}")


def test_a_store_of_a_newer_version_is_named_and_left_as_it_is(data: Path) -> None:
    store = open_game(data, GAME, progress=False)
    manifest = store.path / "manifest.json"
    newer = json.dumps({**store.manifest, "version": FORMAT_VERSION + 1})
    manifest.write_text(newer)
    line = refused(1, "--dataset", data)
    assert f"{store.path} is a store of version {FORMAT_VERSION + 1}" in line
    assert manifest.read_text() == newer


def test_a_store_whose_frames_were_truncated_is_named(data: Path) -> None:
    frames = open_game(data, GAME, progress=False).path / "frames.npy"
    os.truncate(frames, frames.stat().st_size - 1)
    line = refused(1, "--dataset", data)
    assert f"{frames.parent} is damaged (frames.npy" in line


def test_a_figure_that_cannot_be_written_is_named_after_the_numbers(data: Path) -> None:
    blocker = data / "file"
    blocker.write_text("mine")
    done = run(COMMAND, "--dataset", str(data), "--figure", str(blocker / "look.png"))
    assert done.returncode == 1
    assert error_line(done) == f"{blocker / 'look.png'}: cannot be written (File exists)"
    assert done.stdout.startswith(f"{GAME}\n")
    assert blocker.read_text() == "mine"


def test_one_file_for_the_figures_of_two_games_is_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / GAME, data / "miner")
    line = refused(2, "--dataset", data, "--figure", tmp_path / "look.png")
    assert line.startswith(f"--figure {tmp_path / 'look.png'} is one file, for 2 games")
