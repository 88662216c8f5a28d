"""From an archive to the episode files in it, as they were released."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.episodes import list_episode_files
from common.errors import ToolkitError, UsageError
from offline.data.archives import DamagedArchiveError
from offline.data.packing import open_game
from offline.data.unpacking import EPISODES_PART, extract_archive
from tests.command_runs import start_python, wait_until
from tests.data_fixtures import make_episode, write_game
from tests.released_archives import PLAIN, archive_of, released_members

MINER = [make_episode(1, [1.0, 2.0]), *(make_episode(n, [0.0] * 6) for n in (2, 3))]
MEMBERS = released_members({"miner": MINER, "coinrun": [make_episode(4, [10.0])]})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of two games, with a stranger, and the note of a build for one of them."""
    path = tmp_path / "archive.tar"
    build = json.dumps({"fingerprint": "abc"}).encode()
    path.write_bytes(archive_of({"a.txt": b"?", **MEMBERS, "miner/build.json": build}, PLAIN))
    return path


def files(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_files_are_those_of_the_archive_byte_for_byte(
    archive: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert extract_archive(archive, dataset) == ["coinrun", "miner"]
    assert set(files(dataset)) == {*MEMBERS, "miner/build.json"}
    for path, data in MEMBERS.items():
        assert (dataset / path).read_bytes() == data
    assert "skipped 1 members that are no episodes: a.txt" in caplog.text


def test_what_was_extracted_is_packed_like_any_folder(archive: Path, dataset: Path) -> None:
    extract_archive(archive, dataset)
    store = open_game(dataset, "miner", progress=False)
    assert store.episodes["length"].tolist() == [2, 6, 6]
    assert store.manifest["procgen"] == {"fingerprint": "abc"}


def test_files_that_are_equal_are_kept_and_others_written_again(
    archive: Path, dataset: Path
) -> None:
    extract_archive(archive, dataset)
    kept, short, other, *_ = (dataset / path for path in MEMBERS)
    before = kept.stat().st_ino
    os.truncate(short, 10)
    other.write_bytes(bytes(other.stat().st_size))
    extract_archive(archive, dataset)
    assert kept.stat().st_ino == before
    for path in (short, other):
        assert path.read_bytes() == MEMBERS[str(path.relative_to(dataset))]


def test_members_that_only_end_like_an_episode_are_skipped_counted_and_named(
    tmp_path: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = tmp_path / "archive.tar"
    strangers = {"miner/notes.npy": b"?", "weights.pkl": b"?", "build.json": b"{}"}
    archive.write_bytes(archive_of({**strangers, **MEMBERS}, PLAIN))
    extract_archive(archive, dataset)
    assert set(files(dataset)) == set(MEMBERS)
    assert "skipped 3 members that are no episodes: miner/notes.npy, weights.pkl" in caplog.text


def test_episodes_of_an_earlier_archive_make_way(archive: Path, dataset: Path) -> None:
    extract_archive(archive, dataset)
    paths = list(MEMBERS)
    changed = {path: MEMBERS[path] for path in paths[1:]} | {paths[1]: MEMBERS[paths[2]][::-1]}
    archive.write_bytes(archive_of(changed, PLAIN))
    sizes = [len(MEMBERS[path]) for path in paths if path.startswith("miner/")]
    extract_archive(archive, dataset, earlier={"miner": (len(sizes), sum(sizes))})
    assert set(files(dataset)) == {*changed, "miner/build.json"}
    for path, data in changed.items():
        assert (dataset / path).read_bytes() == data


@pytest.mark.parametrize("earlier", [None, {"miner": (1, 147_000)}])
def test_episodes_that_came_from_elsewhere_are_refused_and_stay(
    archive: Path, dataset: Path, earlier: dict[str, tuple[int, int]] | None
) -> None:
    write_game(dataset / "miner", [make_episode(9, [3.0])])
    (mine,) = list_episode_files(dataset / "miner")
    before = mine.read_bytes()
    with pytest.raises(UsageError, match=f"^{dataset}/miner holds .*{mine.name}: remove them"):
        extract_archive(archive, dataset, earlier=earlier)
    assert list_episode_files(dataset / "miner") == [mine]
    assert mine.read_bytes() == before


def test_a_move_that_was_killed_half_way_is_brought_to_its_end(
    archive: Path, dataset: Path
) -> None:
    extract_archive(archive, dataset)
    first, second, *rest = (path for path in MEMBERS if path.startswith("miner/"))
    sizes = [len(MEMBERS[path]) for path in (first, second, *rest)]
    outgoing = dataset / "miner" / EPISODES_PART / "earlier"
    outgoing.mkdir(parents=True)
    os.replace(dataset / first, outgoing / Path(first).name)
    archive.write_bytes(archive_of({path: MEMBERS[path] for path in rest}, PLAIN))
    extract_archive(archive, dataset, earlier={"miner": (len(sizes), sum(sizes))})
    there = list_episode_files(dataset / "miner")
    assert [f"miner/{file.name}" for file in there] == rest
    assert not (dataset / "miner" / EPISODES_PART).exists()


def test_folders_in_the_archive_are_not_made(tmp_path: Path, dataset: Path) -> None:
    path, data = next(iter(MEMBERS.items()))
    archive = tmp_path / "archive.tar"
    archive.write_bytes(archive_of({f"home/user/miner/expert/{Path(path).name}": data}))
    extract_archive(archive, dataset)
    assert list(files(dataset)) == [path]


def in_part(dataset: Path, path: str) -> Path:
    """Where a member waits until its archive has been read to its end."""
    game, name = path.split("/")
    return dataset / game / EPISODES_PART / name


def test_an_archive_cut_short_leaves_nothing_to_train_on_and_is_gone_on_with(
    archive: Path, dataset: Path
) -> None:
    whole = archive.read_bytes()
    os.truncate(archive, 400_000)
    with pytest.raises(DamagedArchiveError):
        extract_archive(archive, dataset)
    first, *_ = MEMBERS
    assert list_episode_files(dataset / "miner") == []
    before = in_part(dataset, first).stat().st_ino
    archive.write_bytes(whole)
    extract_archive(archive, dataset)
    assert (dataset / first).stat().st_ino == before
    assert set(files(dataset)) == {*MEMBERS, "miner/build.json"}


_EXTRACT = """
import resource, sys, time
from pathlib import Path
from common.errors import ToolkitError
from offline.data.unpacking import extract_archive
archive, dataset, limit, pause = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    extract_archive(
        Path(archive), Path(dataset), on_bytes=lambda count: time.sleep(float(pause))
    )
except ToolkitError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_is_told_in_one_line_and_the_next_is_right(
    archive: Path, dataset: Path
) -> None:
    process = start_python("-c", _EXTRACT, str(archive), str(dataset), "200000", "0")
    _, line = process.communicate(timeout=60)
    assert process.returncode == 1
    first, second, *_ = MEMBERS  # of 147 and 344 kB
    assert line == f"cannot write {in_part(dataset, second)}: File too large\n"
    assert [dataset / path for path in files(dataset)] == [in_part(dataset, first)]
    extract_archive(archive, dataset)
    assert (dataset / second).read_bytes() == MEMBERS[second]


def test_extraction_that_was_killed_goes_on(archive: Path, dataset: Path) -> None:
    process = start_python("-c", _EXTRACT, str(archive), str(dataset), "0", "0.5")
    first, *_ = MEMBERS
    wait_until(in_part(dataset, first).exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert list_episode_files(dataset / "miner") == []
    before = in_part(dataset, first).stat().st_ino
    extract_archive(archive, dataset)
    assert (dataset / first).stat().st_ino == before
    assert {*MEMBERS} <= set(files(dataset))


def test_a_file_in_the_way_of_the_folder_is_told_in_one_line(archive: Path, dataset: Path) -> None:
    dataset.write_text("in the way")
    with pytest.raises(ToolkitError, match=f"^cannot write {dataset}/miner/.+: .+$"):
        extract_archive(archive, dataset)
