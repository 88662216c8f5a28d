"""Archives packed again, after a stop, a kill, a full disk, or beside another process."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from common.episodes import Episode
from common.errors import ToolkitError, UsageError
from offline.data.archives import DamagedArchiveError
from offline.data.packing import open_game
from offline.data.store import NewerStoreError
from offline.data.unpacking import is_packed, pack_archive
from offline.data.writing import lock_store
from tests.command_runs import run_python, start_python, wait_until
from tests.data_fixtures import TIMESTAMP, make_episode, write_game
from tests.released_archives import PLAIN, released_archive, released_episode
from tests.tar_fixtures import END, header, padded

# The first member lies in the first 256 kB that are read, the others behind them.
MINER = [make_episode(1, [1.0, 2.0]), *(make_episode(n, [0.0] * 6) for n in (2, 3, 4))]
COINRUN = [make_episode(5, [10.0])]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of two games, not compressed: its bytes come as those of its members."""
    path = tmp_path / "archive.tar"
    path.write_bytes(released_archive({"miner": MINER, "coinrun": COINRUN}, PLAIN))
    return path


def inodes(dataset: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_ino for path in dataset.glob("*/packed")}


def assert_holds(dataset: Path, game: str, episodes: list[Episode]) -> None:
    """The game's store is whole, nothing lies beside it, and it has these episodes."""
    store = open_game(dataset, game, progress=False)
    assert sorted(os.listdir(dataset / game)) == [".packed.lock", "packed"]
    frames = np.concatenate([episode.observations[:-1] for episode in episodes])
    np.testing.assert_array_equal(store.frames, frames)
    assert store.episodes["length"].tolist() == [episode.length for episode in episodes]


def assert_nothing_is_left(dataset: Path) -> None:
    assert [path.name for path in dataset.glob("*/*") if path.name != ".packed.lock"] == []


# What is there already


def test_stores_of_the_same_archive_are_left_as_they_are(archive: Path, dataset: Path) -> None:
    assert pack_archive(archive, dataset, identity="1") == ["coinrun", "miner"]
    before = inodes(dataset)
    assert pack_archive(archive, dataset, identity="1") == ["coinrun", "miner"]
    assert inodes(dataset) == before


def test_stores_of_another_archive_are_refused_unless_they_are_to_be_replaced(
    archive: Path, dataset: Path
) -> None:
    pack_archive(archive, dataset, identity="1")
    before = inodes(dataset)
    archive.write_bytes(released_archive({"miner": MINER[1:]}))
    with pytest.raises(UsageError, match="packed holds episodes of another source: delete it"):
        pack_archive(archive, dataset, identity="2")
    assert_holds(dataset, "miner", MINER)
    assert pack_archive(archive, dataset, identity="2", replace=True) == ["miner"]
    assert inodes(dataset)["miner"] != before["miner"]
    assert inodes(dataset)["coinrun"] == before["coinrun"]
    assert_holds(dataset, "miner", MINER[1:])


def test_an_archive_is_not_packed_beside_episode_files(archive: Path, dataset: Path) -> None:
    write_game(dataset / "miner", MINER[:1])
    with pytest.raises(UsageError, match="miner holds episode files, which training packs"):
        pack_archive(archive, dataset, identity="1")
    assert len(open_game(dataset, "miner", progress=False).episodes) == 1


def test_only_the_games_that_are_missing_are_packed(archive: Path, dataset: Path) -> None:
    pack_archive(archive, dataset, identity="1")
    before = inodes(dataset)
    shutil.rmtree(dataset / "coinrun")
    assert pack_archive(archive, dataset, identity="1") == ["coinrun", "miner"]
    assert inodes(dataset)["miner"] == before["miner"]
    assert_holds(dataset, "coinrun", COINRUN)


@pytest.mark.parametrize("file", ["frames.npy", "episodes.npy", "actions.npy", "manifest.json"])
def test_a_truncated_store_of_the_same_archive_is_made_anew(
    archive: Path, dataset: Path, file: str
) -> None:
    pack_archive(archive, dataset, identity="1")
    path = dataset / "miner" / "packed" / file
    os.truncate(path, path.stat().st_size - 1)
    assert not is_packed(dataset, "miner", "1")
    pack_archive(archive, dataset, identity="1")
    assert is_packed(dataset, "miner", "1")
    assert_holds(dataset, "miner", MINER)


@pytest.mark.parametrize("identity", ["1", "2"])
def test_a_store_of_a_newer_version_is_not_replaced(
    archive: Path, dataset: Path, identity: str
) -> None:
    pack_archive(archive, dataset, identity="1")
    manifest = dataset / "miner" / "packed" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 2}))
    before = inodes(dataset)
    with pytest.raises(NewerStoreError, match="version 2"):
        pack_archive(archive, dataset, identity=identity)
    with pytest.raises(NewerStoreError, match="version 2"):
        is_packed(dataset, "miner", identity)
    assert inodes(dataset) == before


def test_a_refused_archive_leaves_the_stores_that_were_there(archive: Path, dataset: Path) -> None:
    pack_archive(archive, dataset, identity="1")
    before = inodes(dataset)
    os.truncate(archive, archive.stat().st_size - 10_240)
    with pytest.raises(DamagedArchiveError):
        pack_archive(archive, dataset, identity="2", replace=True)
    assert inodes(dataset) == before
    assert_holds(dataset, "miner", MINER)


# Stopped


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ToolkitError("stopped")])
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_packing_that_was_stopped_leaves_no_store_and_the_next_is_right(
    archive: Path, dataset: Path, chunk: int, error: BaseException
) -> None:
    chunks = []

    def stop(count: int) -> None:
        chunks.append(count)
        if len(chunks) == chunk:
            raise error

    with pytest.raises(type(error)) as caught:
        pack_archive(archive, dataset, identity="1", on_bytes=stop)
    assert caught.value is error
    assert len(chunks) == chunk
    assert_nothing_is_left(dataset)
    pack_archive(archive, dataset, identity="1")
    assert_holds(dataset, "miner", MINER)


_PACK = """
import logging, resource, sys, time
from pathlib import Path
from common.errors import ToolkitError
from offline.data.unpacking import pack_archive
archive, dataset, limit, pause = sys.argv[1:]
logging.basicConfig(level=logging.INFO, format="%(message)s")
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    games = pack_archive(
        Path(archive), Path(dataset), identity="1", on_bytes=lambda count: time.sleep(float(pause))
    )
except ToolkitError as error:
    sys.exit(str(error))
# Of this program alone: ru_maxrss would count the memory of the process that started it.
peak_kb = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(*games, int(peak_kb) * 1024)
"""


def start_packing(
    archive: Path, dataset: Path, limit: int = 0, pause: float = 0.0
) -> subprocess.Popen[str]:
    return start_python("-c", _PACK, str(archive), str(dataset), str(limit), str(pause))


def begun(dataset: Path) -> list[Path]:
    return list(dataset.glob("miner/.packed.tmp-*"))


def test_packing_that_was_killed_leaves_no_store_and_the_next_is_right(
    archive: Path, dataset: Path
) -> None:
    process = start_packing(archive, dataset, pause=0.3)
    wait_until(lambda: bool(begun(dataset)), process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert begun(dataset)
    assert inodes(dataset) == {}
    pack_archive(archive, dataset, identity="1")
    assert_holds(dataset, "miner", MINER)
    assert_holds(dataset, "coinrun", COINRUN)


def test_a_full_disk_is_told_in_one_line_and_the_next_is_right(
    archive: Path, dataset: Path
) -> None:
    process = start_packing(archive, dataset, limit=100_000)
    _, line = process.communicate(timeout=60)
    assert process.returncode == 1
    assert line == (
        f"cannot pack {archive} into {dataset}: File too large: free some space (12.3 GB per "
        "million frames) or choose another folder\n"
    )
    assert_nothing_is_left(dataset)
    pack_archive(archive, dataset, identity="1")
    assert_holds(dataset, "miner", MINER)


def test_a_file_in_the_way_of_the_folder_is_told_in_one_line(archive: Path, dataset: Path) -> None:
    dataset.write_text("in the way")
    with pytest.raises(ToolkitError, match=f"^cannot pack {archive} into {dataset}: .+$"):
        pack_archive(archive, dataset, identity="1")
    assert dataset.read_text() == "in the way"


# Beside another process


def test_the_second_of_two_processes_takes_what_the_first_made(
    archive: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = start_packing(archive, dataset, pause=0.2)
    wait_until(lambda: bool(begun(dataset)), first)
    made = begun(dataset)[0].stat().st_ino
    assert pack_archive(archive, dataset, identity="1") == ["coinrun", "miner"]
    assert "waiting for another process" in caplog.text
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert inodes(dataset)["miner"] == made
    assert_holds(dataset, "miner", MINER)


def test_a_game_that_another_process_finishes_meanwhile_is_kept_whole(
    archive: Path, dataset: Path, tmp_path: Path
) -> None:
    pack_archive(archive, tmp_path / "elsewhere", identity="1")
    packed = dataset / "miner" / "packed"
    other = ExitStack()
    other.enter_context(lock_store(packed))
    chunks = []

    def finish_elsewhere(count: int) -> None:
        chunks.append(count)
        if len(chunks) == 2:
            shutil.copytree(tmp_path / "elsewhere" / "miner" / "packed", packed)
            other.close()

    assert pack_archive(archive, dataset, identity="1", on_bytes=finish_elsewhere) == [
        "coinrun",
        "miner",
    ]
    assert_holds(dataset, "miner", MINER)


# Memory


def test_memory_is_bounded_by_a_few_episodes(tmp_path: Path, dataset: Path) -> None:
    episodes, steps = 60, 300
    observations = np.zeros((steps + 1, 64, 64, 3), np.uint8)
    dones = np.arange(1, steps + 1) == steps
    rewards = np.zeros(steps, np.float32)
    data = released_episode(Episode(observations, np.zeros(steps, np.int64), rewards, dones))
    archive = tmp_path / "miner.tar.gz"
    compressed = gzip.compress(padded(data), compresslevel=1)
    with open(archive, "wb") as file:  # in gzip's members: the episode is compressed once
        for index in range(episodes):
            name = f"{TIMESTAMP}_{index}_{steps}_0_0.00.npy".encode()
            file.write(gzip.compress(header(name, len(data))) + compressed)
        file.write(gzip.compress(END))
    done = run_python("-c", _PACK, str(archive), str(dataset), "0", "0")
    assert done.returncode == 0, done.stderr
    game, peak = done.stdout.split()
    assert game == "miner"
    assert len(open_game(dataset, "miner", progress=False).episodes) == episodes
    shutil.rmtree(dataset)
    assert episodes * len(data) > 800e6
    assert int(peak) < 300e6
