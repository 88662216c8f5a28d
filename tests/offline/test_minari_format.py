"""Minari datasets made by others, damaged, or made to harm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from common.episodes import Episode, EpisodeError
from common.errors import ToolkitError, UsageError
from offline.data.minari_format import inspect_minari, read_minari
from offline.data.minari_writing import write_minari
from offline.data.packing import open_game
from tests.data_fixtures import make_episode
from tests.offline_commands import GAME

NAMES = ["20230329T092246_7_3_5_11.00", "20230329T092246_9_2_-1_-1.50"]
EPISODES = [
    make_episode(1, [0.0, 1.0, 10.0], level_seed=5),
    make_episode(2, [0.0, -1.5], level_seed=-1, terminated=False),
]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A Minari dataset that is all right, to be spoiled."""
    folder = tmp_path / "good-v0"
    folder.mkdir()
    episodes = zip(NAMES, EPISODES, strict=True)
    write_minari(folder, episodes, dataset_id="good-v0", env_name="miner")
    return folder


def made_by_minari(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    frames: np.ndarray,
    infos: dict[str, Any] | None = None,
    frame_space: gymnasium.Space[Any] | None = None,
    num_actions: int = 15,
) -> Path:
    """A dataset of one episode written by Minari alone, as third parties do; its seed is 77."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    steps = len(frames) - 1
    buffer = EpisodeBuffer(
        seed=77,
        observations=frames,
        actions=np.arange(steps) % num_actions,
        rewards=[1.0] * steps,
        terminations=[False] * (steps - 1) + [True],
        truncations=[False] * steps,
        infos=infos,
    )
    minari.create_dataset_from_buffers(
        "others/data-v3",
        [buffer],
        observation_space=frame_space or gymnasium.spaces.Box(0, 255, frames.shape[1:], np.uint8),
        action_space=gymnasium.spaces.Discrete(num_actions),
        data_format="hdf5",
    )
    return folder / "others" / "data-v3"


@pytest.fixture
def real_frames(dataset: Path, tmp_path: Path) -> np.ndarray:
    """The first frames of a real episode (9, 64, 64, 3)."""
    return np.array(open_game(dataset, GAME, tmp_path / "packs", progress=False).frames[:9])


def only(path: Path) -> tuple[str, Episode]:
    ((name, episode),) = read_minari(path)
    return name, episode


def refusal(path: Path) -> str:
    """Why the episodes there cannot be read, in one line."""
    with pytest.raises(ToolkitError) as caught:
        list(read_minari(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def spoil(path: Path, change: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path / "data" / "main_data.hdf5", "r+") as file:
        change(file)
    return path


def replace(file: h5py.File, key: str, **contents: Any) -> None:
    del file[key]
    file.create_dataset(key, **contents)


def rewrite_metadata(path: Path, **changes: Any) -> Path:
    file = path / "data" / "metadata.json"
    contents = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in contents.items() if value != "gone"}))
    return path


def test_names_keep_timestamp_and_index(good: Path) -> None:
    assert [name for name, _ in read_minari(good)] == NAMES


def test_the_folder_of_the_data_is_as_good_as_that_of_the_id(good: Path) -> None:
    assert inspect_minari(good / "data") == inspect_minari(good)


@pytest.mark.filterwarnings("ignore")  # Minari's, about an author who is not named
def test_a_dataset_of_others_is_read_without_taking_its_seed_for_a_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_frames: np.ndarray
) -> None:
    path = made_by_minari(tmp_path, monkeypatch, real_frames.transpose(0, 3, 1, 2))
    name, episode = only(path)
    assert name == "19700101T000000_0_8_-1_8.00"
    np.testing.assert_array_equal(episode.observations, real_frames)
    assert episode.actions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert (episode.level_seed, episode.terminated) == (-1, True)
    assert inspect_minari(path)[1:] == (1, None, None)


@pytest.mark.filterwarnings("ignore")
def test_the_level_of_an_episode_is_the_first_that_procgen_tells_in_its_infos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_frames: np.ndarray
) -> None:
    infos = {"level_seed": np.array([12] * 8 + [90])}  # the last one is the next level's
    path = made_by_minari(tmp_path, monkeypatch, real_frames.transpose(0, 3, 1, 2), infos)
    assert only(path)[1].level_seed == 12


@pytest.mark.filterwarnings("ignore")
def test_frames_stored_as_jpeg_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_frames: np.ndarray
) -> None:
    path = made_by_minari(tmp_path, monkeypatch, real_frames)
    lossy = minari.load_dataset("others/data-v3")[0].observations
    assert lossy.shape == real_frames.shape
    assert (lossy != real_frames).any()  # which is why
    assert "stored as JPEG" in refusal(path)


@pytest.mark.filterwarnings("ignore")
def test_a_dataset_of_another_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_frames: np.ndarray
) -> None:
    space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    path = made_by_minari(tmp_path / "a", monkeypatch, np.zeros((3, 4), np.float32), None, space)
    assert "observation_space is ['Box', [4], 'float32'], expected a Box of" in refusal(path)
    frames = real_frames.transpose(0, 3, 1, 2)
    path = made_by_minari(tmp_path / "b", monkeypatch, frames, num_actions=4)
    assert "action_space is ['Discrete', 4, 0], expected Discrete(15)" in refusal(path)


def test_a_folder_that_is_no_minari_dataset_is_refused(tmp_path: Path, dataset: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", dataset):
        with pytest.raises(UsageError, match=f"{folder} is no Minari dataset"):
            read_minari(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data_format": "parquet"}, "data_format is 'parquet', expected hdf5"),
        ({"total_episodes": 0}, "total_episodes is 0"),
        ({"procgen": "0.10.7"}, "procgen is '0.10.7', expected an object"),
        ({"total_episodes": 3}, "episode_2: lacks episode_2"),
        ({"observation_space": {"type": "Box"}}, "observation_space is"),
        ({"observation_space": "[]"}, "observation_space is"),
        ({"action_space": "gone"}, "action_space is"),
        ({"action_space": "}"}, "metadata.json: Expecting value"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    good: Path, changes: dict[str, Any], expected: str
) -> None:
    assert expected in refusal(rewrite_metadata(good, **changes))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\0"])
def test_metadata_that_are_no_object_are_refused(good: Path, text: str) -> None:
    (good / "data" / "metadata.json").write_text(text)
    assert "metadata.json: " in refusal(good)


def test_an_environment_named_by_the_metadata_is_not_run(good: Path, tmp_path: Path) -> None:
    spec = gymnasium.envs.registration.EnvSpec(
        "harm-v0", entry_point="os:mkdir", kwargs={"path": str(tmp_path / "harm")}
    )
    gone = {"observation_space": "gone", "action_space": "gone", "env_spec": spec.to_json()}
    rewrite_metadata(good, **gone)
    assert "observation_space is" in refusal(good)
    assert not (tmp_path / "harm").exists()
    with pytest.raises(Exception):  # noqa: B017 - Minari runs it
        minari.MinariDataset(good / "data")
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("kept", [0, 10, 5_000, -1])
def test_an_hdf5_file_that_was_cut_short_is_refused(good: Path, kept: int) -> None:
    file = good / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file}: cannot be read" in refusal(good)


def test_without_its_hdf5_file_a_dataset_is_refused(good: Path) -> None:
    (good / "data" / "main_data.hdf5").unlink()
    assert "main_data.hdf5: cannot be read" in refusal(good)


def test_a_damaged_frame_is_refused_by_the_episode(good: Path) -> None:
    file = good / "data" / "main_data.hdf5"
    with h5py.File(file) as opened:
        chunk = opened["episode_1/observations"].id.get_chunk_info(0)
    contents = bytearray(file.read_bytes())
    contents[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    file.write_bytes(contents)
    episodes = read_minari(good)
    assert next(episodes)[0] == NAMES[0]
    with pytest.raises(EpisodeError, match=r"main_data\.hdf5: episode_1: "):
        next(episodes)


FRAMES = "episode_0/observations"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file.pop("episode_0"), "lacks episode_0"),
        (lambda file: file.pop("episode_0/rewards"), "episode_0: lacks rewards"),
        (lambda file: replace(file, "episode_0", data=1), "is a Dataset, expected a Group"),
        (lambda file: replace(file, FRAMES, data=np.zeros((3, 3, 64, 64), np.uint8)), "(3, 3, 64,"),
        (
            lambda file: replace(file, FRAMES, data=np.full((4, 3, 64, 64), 0.5)),
            "hold 0.5 in frame",
        ),
        (lambda file: replace(file, FRAMES, data=["jpeg"] * 4), "are of type object"),
        (lambda file: replace(file, FRAMES, data=h5py.Empty("u1")), "are of type uint8"),
        (lambda file: replace(file, "episode_0/actions", data=[0, 15, 1]), "hold 15 at step 1"),
        (lambda file: replace(file, "episode_0/actions", data=3), "no steps"),
        (
            lambda file: replace(file, "episode_0/rewards", data=[0, np.nan, 1]),
            "hold nan at step 1",
        ),
        (lambda file: replace(file, "episode_0/rewards", data=[1.0]), "rewards have shape (1,)"),
        (lambda file: replace(file, "episode_0/terminations", data=[1, 0, 0]), "done at step 0"),
        (
            lambda file: replace(file, "episode_0/truncations", data=[1, 0, 0]),
            "truncations are not",
        ),
        (lambda file: replace(file, "episode_0/truncations", data=[0]), "truncations are not"),
        (lambda file: replace(file, "episode_0/infos/level_seed", data=[2**31]), "2147483648"),
        (lambda file: replace(file, "episode_0/infos/level_seed", data=[0.5]), "[0.5]"),
    ],
)
def test_an_episode_that_cannot_be_one_is_refused(
    good: Path, change: Callable[[h5py.File], object], expected: str
) -> None:
    reason = refusal(spoil(good, change))
    assert reason.startswith(f"{good / 'data' / 'main_data.hdf5'}: episode_0: ")
    assert expected in reason


@pytest.mark.parametrize("chunks", [None, (1, 3, 64, 64)])
def test_a_small_file_that_claims_a_terabyte_is_refused_before_memory_is_taken(
    good: Path, chunks: tuple[int, ...] | None
) -> None:
    def claim(file: h5py.File) -> None:
        steps = 100_000_000
        for key in ("actions", "rewards", "terminations", "truncations"):
            replace(file, f"episode_0/{key}", shape=(steps,), dtype="u1", chunks=True)
        shape = (steps + 1, 3, 64, 64)  # 1.2 TB
        replace(file, FRAMES, shape=shape, dtype="u1", chunks=chunks)

    spoil(good, claim)
    assert (good / "data" / "main_data.hdf5").stat().st_size < 100_000
    assert "actions claim shape (100000000,) of uint8 in vain" in refusal(good)


def test_a_small_file_with_a_huge_chunk_is_refused_before_memory_is_taken(good: Path) -> None:
    def claim(file: h5py.File) -> None:
        parameters = {"chunks": (2**28,), "maxshape": (None,), "compression": "gzip"}
        replace(file, "episode_0/actions", data=np.zeros(3, np.uint8), **parameters)

    assert "actions claim shape (3,) of uint8 in vain" in refusal(spoil(good, claim))


def test_nothing_is_read_from_other_files(good: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 3 * 64 * 64))
    elsewhere = [(os.fspath(secret), 0, 4 * 3 * 64 * 64)]

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4, 3, 64, 64), "u1")
        layout[:] = h5py.VirtualSource(tmp_path / "other.hdf5", "frames", (4, 3, 64, 64))
        del file[FRAMES]
        file.create_virtual_dataset(FRAMES, layout)

    def link(file: h5py.File) -> None:
        del file[FRAMES]
        file[FRAMES] = h5py.ExternalLink(good / "data" / "main_data.hdf5", "episode_0/rewards")

    def external(file: h5py.File) -> None:
        replace(file, FRAMES, shape=(4, 3, 64, 64), dtype="u1", external=elsewhere)

    assert "observations is a link" in refusal(spoil(good, link))
    assert "observations lie in another file" in refusal(spoil(good, external))
    assert "observations lie in another file" in refusal(spoil(good, virtual))


@pytest.mark.parametrize("source", ["no episode's name", 5, ["20230329T092246_7_3_5_11.00"] * 2])
def test_a_name_outside_the_grammar_is_replaced(good: Path, source: Any) -> None:
    def rename(file: h5py.File) -> None:
        file["episode_0"].attrs["source"] = source

    name, _ = next(read_minari(spoil(good, rename)))
    assert name == "19700101T000000_0_3_5_11.00"
