"""What the inspection says of data whose every number is worked out by hand."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from procgen import ProcgenGym3Env

from common.envs import frame_fingerprint, procgen_build
from common.games import ACTION_BUTTONS
from offline.arguments import parse_training
from offline.data.first_frames import compare_first_frames, first_frame_hashes
from offline.data.inspection import warnings_about
from offline.data.loading import load_data, open_stores
from offline.data.packing import BUILD_FILE, open_game
from offline.data.provenance import drawn_as_installed, drawn_differently
from offline.data.store import StoreError, select_episodes
from offline.results.dataset_table import dataset_table, games_table
from tests.data_fixtures import make_episode, write_game
from tests.inspection_fixtures import EPISODES, report_on
from tests.offline_commands import GAME

SAME_BUILD = {"build": procgen_build()}
OTHER_BUILD = {"build": {"package": "procgen", "version": "0.9", "qt": "4"}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset folder with the episodes above."""
    write_game(tmp_path / "data" / GAME, EPISODES)
    return tmp_path / "data"


def note_build(dataset: Path, **noted: Any) -> Path:
    (dataset / GAME / BUILD_FILE).write_text(json.dumps(noted))
    return dataset


# Numbers


def test_the_last_row_of_a_cut_off_episode_is_no_transition_and_no_action(data: Path) -> None:
    report = report_on(data)
    assert (report.episodes, report.cut_off_episodes, report.transitions) == (6, 1, 13)
    # Actions 123, 123, 2, 456 (and 7, that leads nowhere), 56, 6.
    assert [a.count for a in report.actions] == [0, 2, 3, 2, 1, 2, 3, *[0] * 8]
    assert [a.share for a in report.actions] == pytest.approx(
        [0, 2 / 13, 3 / 13, 2 / 13, 1 / 13, 2 / 13, 3 / 13, *[0] * 8]
    )


def test_returns_and_lengths_are_summarised_over_episodes(data: Path) -> None:
    report = report_on(data)
    # Returns 1 1 3 3 4 10, of mean 11/3: squared deviations 2 * 64/9 + 2 * 4/9 + 1/9 + 361/9.
    returns = report.returns
    assert returns.mean == pytest.approx(11 / 3)
    assert returns.standard_error == pytest.approx(math.sqrt(498 / 9 / 5 / 6))
    assert (returns.minimum, returns.maximum) == (1.0, 10.0)
    assert (returns.lower_quartile, returns.median, returns.upper_quartile) == (1.5, 3.0, 3.75)
    # Lengths 1 1 2 3 3 4.
    lengths = report.lengths
    assert lengths.mean == pytest.approx(14 / 6)
    assert (lengths.minimum, lengths.maximum) == (1.0, 4.0)
    assert (lengths.lower_quartile, lengths.median, lengths.upper_quartile) == (1.25, 2.5, 3.0)


def test_levels_outside_training_are_counted_by_split_and_warned_about(data: Path) -> None:
    report = report_on(data)
    levels = report.levels
    assert (levels.known, levels.lowest, levels.highest) == (4, 3, 7000)
    assert (levels.training, levels.validation, levels.elsewhere) == (2, 1, 1)
    assert (levels.episodes_outside, levels.episodes_unknown) == (2, 1)
    outside, unknown = warnings_about(report)[:2]
    assert outside.startswith(
        "levels outside the 200 training levels: 2 (1 validation levels, 1 beyond), with 2 episodes"
    )
    assert unknown.startswith("episodes that do not tell their level's seed: 1;")


def test_more_training_levels_leave_fewer_outside(data: Path) -> None:
    levels = report_on(data, num_levels=202).levels
    assert (levels.training, levels.validation, levels.elsewhere) == (3, 0, 1)


def test_levels_that_start_alike_or_in_several_ways_are_found(data: Path) -> None:
    report = report_on(data)
    frames = report.first_frames
    # Frames 1 and 2 start level 3, frame 1 level 5, frames 4 and 5 the other two.
    assert (frames.distinct, frames.shared, frames.example) == (4, 2, (3, 5))
    assert (frames.changing, frames.changing_example) == (1, 3)
    assert warnings_about(report)[2].startswith(
        "levels that start with more than one frame: 1, such as 3;"
    )


def test_validation_levels_that_start_with_a_frame_of_the_data_are_counted() -> None:
    seeds, hashes = np.array([0, 1, -1]), np.array([11, 12, 13], np.uint64)
    frames = compare_first_frames(seeds, hashes, [13, 14, 11])
    assert frames.validation_levels_seen == 2
    assert (frames.shared, frames.example, frames.changing_example) == (0, None, None)
    assert compare_first_frames(seeds, hashes, None).validation_levels_seen is None


def test_episodes_that_tell_no_level_share_no_first_frame() -> None:
    frames = compare_first_frames(np.array([-1, -1]), np.array([11, 11], np.uint64), None)
    assert (frames.distinct, frames.shared, frames.changing) == (0, 0, 0)


def test_several_folders_are_counted_together(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_game(other / GAME, [make_episode(5, [4.0], level_seed=8), EPISODES[3]])
    report = report_on(data, other)
    assert (report.episodes, report.cut_off_episodes, report.transitions) == (8, 2, 13 + 4)
    assert [a.count for a in report.actions][4:8] == [2, 4, 4, 0]
    # Levels 8 and 7000 start alike now, and level 201 as it did.
    assert (report.first_frames.distinct, report.first_frames.shared) == (4, 4)
    assert [Path(source.path).parts[-3] for source in report.sources] == ["data", "other"]


def test_bytes_are_those_of_the_files_and_of_all_frames(data: Path) -> None:
    report = report_on(data)
    (source,) = report.sources
    assert report.frame_bytes == 14 * 64 * 64 * 3
    files = list((data / GAME).glob("*.npz"))
    assert (source.episode_files, source.episode_file_bytes) == (
        6,
        sum(file.stat().st_size for file in files),
    )
    packed = (data / GAME / "packed").iterdir()
    assert source.store_bytes == sum(file.stat().st_size for file in packed) > report.frame_bytes


def test_the_buttons_are_those_that_procgen_combines_into_actions() -> None:
    env = ProcgenGym3Env(num=1, env_name="coinrun")
    combos = ["+".join(combo) or "none" for combo in env.get_combos()]
    env.close()
    assert [b if len(b) == 1 or b == "none" else b.upper() for b in ACTION_BUTTONS] == combos


def test_first_frames_of_a_store_that_became_shorter_are_refused(data: Path) -> None:
    store = open_game(data, GAME, progress=False)
    os.truncate(store.path / "frames.npy", 12288)
    with pytest.raises(StoreError, match=r"packed is damaged \(frames.npy is shorter"):
        first_frame_hashes(select_episodes([store]), "", progress=False)


# Which Procgen drew the frames


def test_real_data_that_note_nothing_are_recognised_by_their_first_frames(dataset: Path) -> None:
    report = report_on(dataset)
    assert report.sources[0].build is None
    assert report.sources[0].drawn_as_installed is True
    # Every level of fruitbot starts in its own way, and always in the same.
    frames = report.first_frames
    assert (frames.shared, frames.changing, frames.validation_levels_seen) == (0, 0, 0)
    assert frames.distinct == report.levels.known > 1
    assert warnings_about(report) == []


def test_a_validation_level_among_the_data_is_recognised_when_it_is_redrawn(
    dataset: Path,
) -> None:
    # With fewer training levels, the 50 that follow are validation levels: some are in the data.
    report = report_on(dataset, num_levels=100)
    assert report.levels.validation > 0
    assert report.first_frames.validation_levels_seen == report.levels.validation


@pytest.mark.parametrize(
    ("noted", "alike"),
    [
        (SAME_BUILD, True),
        ({**OTHER_BUILD, "fingerprint": frame_fingerprint(GAME)}, True),
        ({**OTHER_BUILD, "fingerprint": "0123456789abcdef"}, False),
        # Collected here, but in the other distribution mode.
        ({**SAME_BUILD, "distribution_mode": "hard"}, False),
        ({**SAME_BUILD, "fingerprint": frame_fingerprint(GAME, "hard")}, False),
        (OTHER_BUILD, False),  # then the frames tell, and these are noise
    ],
)
def test_the_noted_build_and_fingerprint_tell_whether_frames_are_drawn_alike(
    data: Path, noted: dict[str, Any], alike: bool
) -> None:
    store = open_game(note_build(data, **noted), GAME, progress=False)
    assert drawn_as_installed(store, GAME, "easy") is alike


def test_frames_of_unknown_levels_do_not_tell_who_drew_them(tmp_path: Path) -> None:
    write_game(tmp_path / GAME, [EPISODES[5]])
    store = open_game(tmp_path, GAME, progress=False)
    assert drawn_as_installed(store, GAME, "easy") is None


def test_another_distribution_mode_is_noticed(dataset: Path) -> None:
    store = open_game(dataset, GAME, progress=False)
    assert drawn_as_installed(store, GAME, "hard") is False


def test_training_on_other_levels_than_the_training_levels_is_told(
    dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["--env_name", GAME, "--dataset", str(dataset)]
    load_data(parse_training(flags, ""), "state_actions", torch.device("cpu"))
    assert caplog.records == []
    settings = parse_training([*flags, "--num_levels=100"], "")
    data = load_data(settings, "state_actions", torch.device("cpu"))
    # With fewer training levels, the 50 that follow are validation levels: some are in the data.
    assert data.levels.validation > 0
    (message,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("levels outside the 100 training levels: ")
    assert f"({data.levels.validation} validation levels, " in message
    settings.level = 7  # what it is trained on is what it is measured on
    caplog.clear()
    load_data(settings, "state_actions", torch.device("cpu"))
    assert caplog.records == []


def test_data_of_another_build_are_warned_about(data: Path) -> None:
    report = report_on(note_build(data, **OTHER_BUILD, fingerprint="0123456789abcdef"))
    assert report.first_frames.validation_levels_seen is None
    warning = warnings_about(report)[-1]
    assert f"{data / GAME / 'packed'} was made by a Procgen build" in warning
    assert '"version": "0.9"' in warning


def test_training_warns_about_data_of_another_build(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = parse_training(["--env_name", GAME, "--dataset", str(data)], "")
    open_stores(settings)
    (message,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert message == drawn_differently(str(data / GAME / "packed"), GAME, None)


def test_training_does_not_warn_about_data_of_the_installed_build(
    dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_stores(parse_training(["--env_name", GAME, "--dataset", str(dataset)], ""))
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


# The table


def test_the_table_says_it_in_words(data: Path) -> None:
    text = dataset_table(report_on(note_build(data, **OTHER_BUILD, fingerprint="0")))
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows[0] == GAME
    for row in (
        f"data {data / GAME / 'packed'}",
        "episodes 6, 1 of them cut off before their end",
        "transitions 13",
        "levels 2 of the 200 training levels, 2 outside, seeds 3 to 7000",
        "first frames 4 among 4 levels; 2 levels start just like another, as 3 and 5 do",
        "memory 0.2 MB of frames in training, on the GPU or in RAM",
        "Procgen procgen 0.9 4; NOT drawn as the one installed here draws",
        "return 3.67 ± 1.36 1.00 1.50 3.00 3.75 10.00",
        "length 2.3 ± 0.5 1.0 1.2 2.5 3.0 4.0",
        "1 left 2 15.4% 6 right+down 3 23.1% 11 W 0 0.0%",
    ):
        assert row in rows
    assert sum(row.startswith("warning: ") for row in rows) == 4


def test_one_episode_has_no_standard_error(tmp_path: Path) -> None:
    write_game(tmp_path / GAME, EPISODES[:1])
    report = report_on(tmp_path)
    assert report.returns.standard_error is None
    assert "3.00 ± n/a" in dataset_table(report)


def test_several_games_have_a_line_each(data: Path) -> None:
    head, rule, line = games_table([report_on(data)]).splitlines()
    assert head.split()[:3] == ["game", "episodes", "transitions"]
    assert set(rule) == {"-"}
    assert line.split() == [
        *(GAME, "6", "13", "2", "of", "200", "2", "3.67", "2.3", "2", "of", "4", "0.2", "MB")
    ]
