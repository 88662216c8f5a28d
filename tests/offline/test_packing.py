from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.episodes import Episode, EpisodeError, list_episode_files
from common.errors import ToolkitError, UsageError
from offline.data.packing import open_game
from offline.data.store import PackedStore, StoreError
from tests.data_fixtures import (
    NEXT_LEVEL,
    episode_path,
    make_episode,
    raw_arrays,
    save_npy,
    save_npz,
    write_game,
)

ROOT = Path(__file__).resolve().parents[2]
EPISODES = [
    make_episode(1, [0.0, 1.0, 10.0], level_seed=5),
    make_episode(2, [2.5], level_seed=6),
    make_episode(3, [0.0, -1.5], level_seed=5),
]


def pack(dataset: Path, skip_bad_episodes: bool = False) -> PackedStore:
    return open_game(dataset, "miner", skip_bad_episodes=skip_bad_episodes, progress=False)


def hidden_files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


def assert_holds(store: PackedStore, episodes: list[Episode]) -> None:
    """The store has the frames, actions, rewards and dones of these episodes, in order."""
    for record, episode in zip(store.episodes, episodes, strict=True):
        rows = slice(record["start"], record["start"] + record["length"])
        np.testing.assert_array_equal(store.frames[rows], episode.observations[:-1])
        for name in ("actions", "rewards", "dones"):
            np.testing.assert_array_equal(getattr(store, name)[rows], getattr(episode, name))


def test_each_frame_is_stored_once_and_none_of_the_next_level(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    store = pack(tmp_path)
    assert store.frames.shape == (6, 64, 64, 3)
    assert store.frames.dtype == np.uint8
    assert store.frames[:, 0, 0, [0, 2]].tolist() == [
        [1, 0],
        [1, 1],
        [1, 2],
        [2, 0],
        [3, 0],
        [3, 1],
    ]
    assert not (store.frames == NEXT_LEVEL).any()
    assert_holds(store, EPISODES)


def test_the_index_holds_one_record_per_episode(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    store = pack(tmp_path)
    assert store.episodes["start"].tolist() == [0, 3, 4]
    assert store.episodes["length"].tolist() == [3, 1, 2]
    assert store.episodes["level_seed"].tolist() == [5, 6, 5]
    assert store.episodes["return"].tolist() == [11.0, 2.5, -1.5]
    assert store.episodes["terminated"].tolist() == [True, True, True]
    names = [path.name.encode() for path in list_episode_files(tmp_path / "miner")]
    assert store.episodes["source"].tolist() == names


def test_a_folder_that_mixes_formats_packs_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "miner"
    first = raw_arrays(EPISODES[0])
    first["observations"] = first["observations"].astype(np.float32)
    save_npz(episode_path(folder, EPISODES[0], 0, ".npz"), **first)
    save_npy(episode_path(folder, EPISODES[1], 1, ".npy"), raw_arrays(EPISODES[1]))
    save_npz(folder / "a name that does not fit.npz", **raw_arrays(EPISODES[2]))
    store = pack(tmp_path)
    assert_holds(store, EPISODES)
    assert store.episodes["level_seed"].tolist() == [5, 6, -1]


def test_an_episode_cut_off_keeps_all_its_rows(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", [make_episode(4, [1.0, 2.0], terminated=False)])
    store = pack(tmp_path)
    assert store.frames[:, 0, 0, 2].tolist() == [0, 1]
    assert store.episodes["terminated"].tolist() == [False]


def test_a_second_start_uses_the_store_that_is_there(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    pack(tmp_path)
    before = (tmp_path / "miner" / "packed").stat().st_ino
    assert_holds(pack(tmp_path), EPISODES)
    assert (tmp_path / "miner" / "packed").stat().st_ino == before


def test_a_new_source_file_makes_the_store_anew(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES[:2])
    assert_holds(pack(tmp_path), EPISODES[:2])
    write_game(tmp_path / "miner", EPISODES)
    assert_holds(pack(tmp_path), EPISODES)
    assert hidden_files(tmp_path / "miner") == [".packed.lock"]


def test_a_source_file_whose_contents_changed_makes_the_store_anew(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    pack(tmp_path)
    changed = make_episode(9, [0.0, 1.0, 10.0], level_seed=5)
    write_game(tmp_path / "miner", [changed, *EPISODES[1:]])
    assert_holds(pack(tmp_path), [changed, *EPISODES[1:]])


def test_packed_data_without_their_sources_are_used_as_they_are(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    pack(tmp_path)
    for path in list_episode_files(tmp_path / "miner"):
        path.unlink()
    assert_holds(pack(tmp_path), EPISODES)


def test_two_datasets_share_a_pack_folder_and_stay_apart(tmp_path: Path) -> None:
    datasets = [tmp_path / "one" / "data", tmp_path / "two" / "data"]
    write_game(datasets[0] / "miner", EPISODES[:1])
    write_game(datasets[1] / "miner", EPISODES[1:])
    first, second = (
        open_game(path, "miner", pack_dir=tmp_path / "packs", progress=False) for path in datasets
    )
    assert_holds(first, EPISODES[:1])
    assert_holds(second, EPISODES[1:])
    assert first.path.name == "miner"
    assert first.path.parent.name.startswith("data-")
    assert not (datasets[0] / "miner" / "packed").exists()


def test_the_procgen_build_of_the_collector_is_kept(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    build = {"build": {"package": "procgen", "version": "0.10.7"}, "fingerprint": "abc"}
    (tmp_path / "miner" / "build.json").write_text(json.dumps(build))
    assert pack(tmp_path).manifest["procgen"] == build


def test_a_bad_episode_stops_packing_and_leaves_nothing(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    (tmp_path / "miner" / "broken.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(EpisodeError, match=r"broken\.npz"):
        pack(tmp_path)
    assert not (tmp_path / "miner" / "packed").exists()
    assert hidden_files(tmp_path / "miner") == [".packed.lock"]


def test_bad_episodes_are_skipped_counted_and_logged_once_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_game(tmp_path / "miner", EPISODES)
    for name in ("broken.npz", "empty.npy"):
        (tmp_path / "miner" / name).touch()
    store = pack(tmp_path, skip_bad_episodes=True)
    assert_holds(store, EPISODES)
    assert store.manifest["skipped"] == [
        {"file": "broken.npz", "reason": "empty file"},
        {"file": "empty.npy", "reason": "empty file"},
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "skipped 2 of 5" in caplog.text


def test_a_store_packed_with_skipping_is_refused_without(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    (tmp_path / "miner" / "empty.npy").touch()
    pack(tmp_path, skip_bad_episodes=True)
    with pytest.raises(EpisodeError, match=r"empty\.npy: empty file"):
        pack(tmp_path)


def test_a_folder_of_bad_episodes_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "miner").mkdir()
    (tmp_path / "miner" / "empty.npy").touch()
    with pytest.raises(ToolkitError, match="none of 1 episode files can be used"):
        pack(tmp_path, skip_bad_episodes=True)


def test_missing_data_are_named_with_the_games_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "coinrun").mkdir()
    with pytest.raises(UsageError, match="nowhere does not exist"):
        pack(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no folder miner; games there: coinrun"):
        pack(tmp_path)
    with pytest.raises(UsageError, match="no episode files"):
        open_game(tmp_path, "coinrun")


def test_a_truncated_store_says_to_delete_it(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    frames = pack(tmp_path).path / "frames.npy"
    os.truncate(frames, frames.stat().st_size - 1)
    with pytest.raises(StoreError, match="delete the folder and pack again") as caught:
        pack(tmp_path)
    assert str(frames.parent) in str(caught.value)


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    manifest = pack(tmp_path).path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 2}))
    with pytest.raises(StoreError, match="version 2"):
        pack(tmp_path)


# Other processes, real ones

_PACK = f"""
import logging, resource, sys
sys.path.insert(0, {str(ROOT)!r})
from common.errors import ToolkitError
from offline.data import packing
logging.basicConfig(level=logging.INFO, format="%(message)s")
dataset, limit, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
read = packing.read_episode
def slowly(path):
    import time
    time.sleep(pause)
    print("read\\n", end="", flush=True)  # at once: several threads read
    return read(path)
packing.read_episode = slowly
try:
    packing.open_game(dataset, "miner", progress=False)
except ToolkitError as error:
    print("ERROR", error)
"""


def start_packing(dataset: Path, limit: int = 0, pause: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PACK, str(dataset), str(limit), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_pack_at_once_leave_one_right_store(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    processes = [start_packing(tmp_path, pause=0.3) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(out.count("read") for out, _ in outputs) == [0, 3]
    assert sum(err.count("waiting for another process") for _, err in outputs) == 1
    assert_holds(pack(tmp_path), EPISODES)


def test_packing_that_was_killed_starts_again(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    process = start_packing(tmp_path, pause=0.3)
    assert process.stdout is not None
    assert process.stdout.readline() == "read\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    process.communicate()
    folder = tmp_path / "miner"
    assert not (folder / "packed").exists()
    assert [name for name in hidden_files(folder) if ".tmp-" in name]
    assert_holds(pack(tmp_path), EPISODES)
    assert hidden_files(folder) == [".packed.lock"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    out, _ = start_packing(tmp_path, limit=40_000).communicate(timeout=60)
    (line,) = [line for line in out.splitlines() if line.startswith("ERROR")]
    assert "cannot pack" in line
    assert "File too large: free some space" in line
    assert not (tmp_path / "miner" / "packed").exists()
    assert hidden_files(tmp_path / "miner") == [".packed.lock"]


def test_a_full_disk_leaves_the_store_that_was_there(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES[:2])
    pack(tmp_path)
    write_game(tmp_path / "miner", EPISODES)
    start_packing(tmp_path, limit=40_000).communicate(timeout=60)
    assert_holds(PackedStore.open(tmp_path / "miner" / "packed"), EPISODES[:2])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_dataset_points_to_pack_dir(tmp_path: Path) -> None:
    write_game(tmp_path / "miner", EPISODES)
    (tmp_path / "miner").chmod(0o555)
    try:
        with pytest.raises(ToolkitError, match="--pack_dir"):
            pack(tmp_path)
    finally:
        (tmp_path / "miner").chmod(0o755)
