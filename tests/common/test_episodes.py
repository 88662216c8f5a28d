from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.episodes import (
    Episode,
    EpisodeError,
    EpisodeName,
    EpisodeRecorder,
    format_name,
    list_episode_files,
    parse_name,
    read_episode,
    write_episode,
)
from common.errors import ToolkitError
from tests.data_fixtures import (
    TIMESTAMP,
    episode_path,
    make_episode,
    raw_arrays,
    save_npy,
    save_npz,
    save_pickle,
)

EPISODE = make_episode(7, [0.0, 2.5, -1.0], level_seed=45)
ROOT = Path(__file__).resolve().parents[2]


def assert_same(read: Episode, expected: Episode) -> None:
    for field in ("observations", "actions", "rewards", "dones"):
        mine, theirs = getattr(read, field), getattr(expected, field)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


# Names


def test_a_released_name_is_parsed() -> None:
    name = parse_name("/data/miner/20230329T092246_3161_1154_45_40.00.npy")
    assert name == EpisodeName("20230329T092246", 3161, 1154, 45, 40.0)


def test_a_name_without_extension_keeps_the_cents_of_its_return() -> None:
    name = parse_name("20230329T092246_0_10_2147483647_-1.50")
    assert name == EpisodeName("20230329T092246", 0, 10, 2**31 - 1, -1.5)


@pytest.mark.parametrize(
    "name",
    [
        "episode_1.npz",
        "20230329T092246_1_10_2147483648_1.00.npz",
        "20230329T092246_1_10_3_1.npz",
        "20230329_1_10_3_1.00.npz",
    ],
)
def test_a_name_outside_the_grammar_is_not_parsed(name: str) -> None:
    assert parse_name(name) is None


def test_a_formatted_name_is_parsed_back() -> None:
    name = format_name(TIMESTAMP, 12, 500, 2**31 - 1, -3.456)
    assert name == "20230329T092246_12_500_2147483647_-3.46"
    assert parse_name(name + ".npz") == EpisodeName(TIMESTAMP, 12, 500, 2**31 - 1, -3.46)


def test_a_name_that_could_not_be_parsed_is_not_formatted() -> None:
    with pytest.raises(ValueError, match="level seed"):
        format_name(TIMESTAMP, 0, 1, 2**31, 0.0)


# Formats


def float_frames(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**arrays, "observations": arrays["observations"].astype(np.float32)}


def flat_columns(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: a if key == "observations" else a[:, 0] for key, a in arrays.items()}


def test_npz_with_uint8_frames_loads(tmp_path: Path) -> None:
    path = save_npz(episode_path(tmp_path, EPISODE, 0, ".npz"), **raw_arrays(EPISODE))
    assert_same(read_episode(path), EPISODE)


def test_npz_with_float32_frames_loads(tmp_path: Path) -> None:
    arrays = float_frames(raw_arrays(EPISODE))
    arrays["dones"] = arrays["dones"].astype(np.float64)
    path = save_npz(episode_path(tmp_path, EPISODE, 0, ".npz"), **arrays)
    assert_same(read_episode(path), EPISODE)


def test_npy_with_a_pickled_dictionary_loads(tmp_path: Path) -> None:
    arrays = float_frames(raw_arrays(EPISODE))
    arrays["dones"] = arrays["dones"].astype(np.float32)
    path = save_npy(episode_path(tmp_path, EPISODE, 0, ".npy"), arrays)
    assert_same(read_episode(path), EPISODE)


def test_npy_with_flat_float_dones_loads(tmp_path: Path) -> None:
    arrays = raw_arrays(EPISODE)
    arrays["dones"] = arrays["dones"][:, 0].astype(np.float32)
    path = save_npy(episode_path(tmp_path, EPISODE, 0, ".npy"), arrays)
    assert_same(read_episode(path), EPISODE)


def test_npy_with_bool_dones_and_flat_columns_loads(tmp_path: Path) -> None:
    path = save_npy(episode_path(tmp_path, EPISODE, 0, ".npy"), flat_columns(raw_arrays(EPISODE)))
    assert_same(read_episode(path), EPISODE)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_of_any_protocol_loads(tmp_path: Path, protocol: int) -> None:
    path = episode_path(tmp_path, EPISODE, 0, ".npy")
    save_pickle(path, raw_arrays(EPISODE), protocol)
    assert_same(read_episode(path), EPISODE)


def test_pickled_lists_of_numbers_load(tmp_path: Path) -> None:
    arrays: dict[str, Any] = raw_arrays(EPISODE)
    arrays["actions"] = arrays["actions"].tolist()
    arrays["rewards"] = list(arrays["rewards"][:, 0])
    arrays["dones"] = list(arrays["dones"])
    path = save_npy(episode_path(tmp_path, EPISODE, 0, ".npy"), arrays)
    assert_same(read_episode(path), EPISODE)


def test_frames_in_fortran_order_load(tmp_path: Path) -> None:
    arrays = raw_arrays(EPISODE)
    arrays["observations"] = np.asfortranarray(arrays["observations"])
    assert_same(read_episode(save_npz(tmp_path / "a.npz", **arrays)), EPISODE)
    assert_same(read_episode(save_pickle(tmp_path / "b.npy", arrays)), EPISODE)


def test_arrays_named_by_numpy_1_and_by_numpy_2_load(tmp_path: Path) -> None:
    data = pickle.dumps(raw_arrays(EPISODE), protocol=0).replace(b"numpy._core.", b"numpy.core.")
    for index, core in enumerate((b"numpy.core.", b"numpy._core.")):
        path = tmp_path / f"{index}.npy"
        path.write_bytes(data.replace(b"numpy.core.", core))
        assert_same(read_episode(path), EPISODE)


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    path = save_npz(episode_path(tmp_path, EPISODE, 0, ".npy"), **raw_arrays(EPISODE))
    assert_same(read_episode(path), EPISODE)


def test_the_level_seed_comes_from_the_name(tmp_path: Path) -> None:
    path = save_npz(episode_path(tmp_path, EPISODE, 0, ".npz"), **raw_arrays(EPISODE))
    assert read_episode(path).level_seed == 45


def test_a_name_that_does_not_fit_leaves_the_level_unknown(tmp_path: Path) -> None:
    episode = read_episode(save_npz(tmp_path / "mine.npz", **raw_arrays(EPISODE)))
    assert (episode.level_seed, episode.length, episode.episode_return) == (-1, 3, 1.5)


def test_an_episode_cut_off_before_its_end_is_not_terminated(tmp_path: Path) -> None:
    cut_off = make_episode(1, [1.0, 1.0], terminated=False)
    episode = read_episode(save_npz(tmp_path / "a.npz", **raw_arrays(cut_off)))
    assert not episode.terminated
    assert read_episode(save_npz(tmp_path / "b.npz", **raw_arrays(EPISODE))).terminated


def test_a_written_episode_reads_back_the_same(tmp_path: Path) -> None:
    path = write_episode(tmp_path / "miner", EPISODE, 3, TIMESTAMP)
    assert path.name == "20230329T092246_3_3_45_1.50.npz"
    read = read_episode(path)
    assert_same(read, EPISODE)
    assert read.level_seed == 45


def test_a_written_episode_holds_the_released_layout(tmp_path: Path) -> None:
    path = write_episode(tmp_path, EPISODE, 0, TIMESTAMP)
    with np.load(path) as arrays:
        layout = {key: (arrays[key].shape, arrays[key].dtype.name) for key in arrays.files}
    assert layout == {
        "observations": ((4, 3, 64, 64), "uint8"),
        "actions": ((3, 1), "int64"),
        "rewards": ((3, 1), "float32"),
        "dones": ((3, 1), "bool"),
    }


def test_files_are_listed_as_recorded_without_temporary_ones(tmp_path: Path) -> None:
    names = [
        "20230329T092246_2_5_1_0.00.npz",
        "20230329T092246_10_5_1_0.00.npy",
        "20230330T000000_1_5_1_0.00",
        "another.npz",
    ]
    for name in [*reversed(names), ".20230329T092246_3_5_1_0.00.npz.12.tmp", "build.json"]:
        (tmp_path / name).touch()
    (tmp_path / "20230329T092246_1_5_1_0.00.npz").mkdir()
    assert [path.name for path in list_episode_files(tmp_path)] == names


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from common.episodes import write_episode
from common.errors import ToolkitError
from tests.data_fixtures import make_episode
episode = make_episode(1, [0.0] * 20)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_episode(Path({str(tmp_path)!r}), episode, 0, {TIMESTAMP!r})
except ToolkitError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


# Recorder


def test_the_recorder_gives_whole_episodes_of_parallel_environments() -> None:
    frames = np.arange(2 * 5, dtype=np.uint8).reshape(5, 2, 1, 1, 1)
    frames = np.broadcast_to(frames, (5, 2, 64, 64, 3))  # time x environment
    recorder = EpisodeRecorder()
    recorder.begin(frames[0], np.array([11, 21]))
    quiet, zeros = np.array([False, False]), np.zeros(2, np.float32)
    assert recorder.step(np.array([1, 2]), zeros, quiet, frames[1], np.array([11, 21])) == []
    first = recorder.step(
        np.array([3, 4]),
        np.array([0.5, 0.0], np.float32),
        np.array([True, False]),
        frames[2],
        np.array([12, 21]),
    )
    second = recorder.step(
        np.array([5, 6]),
        np.array([1.0, 10.0], np.float32),
        np.array([True, True]),
        frames[3],
        np.array([13, 22]),
    )
    assert [(e.level_seed, e.actions.tolist(), e.rewards.tolist()) for e in [*first, *second]] == [
        (11, [1, 3], [0.0, 0.5]),
        (12, [5], [1.0]),
        (21, [2, 4, 6], [0.0, 0.0, 10.0]),
    ]
    pixels = [e.observations[:, 0, 0, 0].tolist() for e in [*first, *second]]
    assert pixels == [[0, 2, 4], [4, 6], [1, 3, 5, 7]]
    assert all(e.terminated and not e.dones[:-1].any() for e in [*first, *second])


def test_the_recorder_copies_frames() -> None:
    buffer = np.full((1, 64, 64, 3), 7, np.uint8)
    recorder = EpisodeRecorder()
    recorder.begin(buffer, np.array([0]))
    buffer[:] = 9
    done = np.array([True])
    (episode,) = recorder.step(np.array([0]), np.zeros(1, np.float32), done, buffer, np.array([1]))
    buffer[:] = 0
    assert episode.observations[:, 0, 0, 0].tolist() == [7, 9]


def test_the_recorder_refuses_another_number_of_environments() -> None:
    recorder = EpisodeRecorder()
    recorder.begin(np.zeros((2, 64, 64, 3), np.uint8), np.array([0, 1]))
    one = np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="2 environments"):
        recorder.step(one, one, one, np.zeros((1, 64, 64, 3), np.uint8), one)


def test_the_errors_are_the_toolkits_own() -> None:
    assert issubclass(EpisodeError, ToolkitError)
