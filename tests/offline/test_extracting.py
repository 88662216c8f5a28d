"""From an archive to the episode files in it, as they were released."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ToolkitError
from offline.data.archives import DamagedArchiveError
from offline.data.packing import open_game
from offline.data.unpacking import extract_archive
from tests.command_runs import start_python, wait_until
from tests.data_fixtures import make_episode
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


def test_files_of_the_same_size_are_kept_and_others_written_again(
    archive: Path, dataset: Path
) -> None:
    extract_archive(archive, dataset)
    kept, short, *_ = (dataset / path for path in MEMBERS)
    before = kept.stat().st_ino
    os.truncate(short, 10)
    extract_archive(archive, dataset)
    assert kept.stat().st_ino == before
    assert short.read_bytes() == MEMBERS[str(short.relative_to(dataset))]


def test_folders_in_the_archive_are_not_made(tmp_path: Path, dataset: Path) -> None:
    path, data = next(iter(MEMBERS.items()))
    archive = tmp_path / "archive.tar"
    archive.write_bytes(archive_of({f"home/user/miner/expert/{Path(path).name}": data}))
    extract_archive(archive, dataset)
    assert list(files(dataset)) == [path]


def test_an_archive_cut_short_leaves_whole_files_only(archive: Path, dataset: Path) -> None:
    os.truncate(archive, 400_000)
    with pytest.raises(DamagedArchiveError):
        extract_archive(archive, dataset)
    there = list(files(dataset))
    assert 0 < len(there) < len(MEMBERS)
    for path in there:
        assert (dataset / path).read_bytes() == MEMBERS[path]


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
    assert line == f"cannot write {dataset / second}: File too large\n"
    assert list(files(dataset)) == [first]
    extract_archive(archive, dataset)
    assert (dataset / second).read_bytes() == MEMBERS[second]


def test_extraction_that_was_killed_goes_on(archive: Path, dataset: Path) -> None:
    process = start_python("-c", _EXTRACT, str(archive), str(dataset), "0", "0.5")
    first, *_ = MEMBERS
    wait_until((dataset / first).exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert (dataset / first).read_bytes() == MEMBERS[first]
    before = (dataset / first).stat().st_ino
    extract_archive(archive, dataset)
    assert (dataset / first).stat().st_ino == before
    assert {*MEMBERS} <= set(files(dataset))


def test_a_file_in_the_way_of_the_folder_is_told_in_one_line(archive: Path, dataset: Path) -> None:
    dataset.write_text("in the way")
    with pytest.raises(ToolkitError, match=f"^cannot write {dataset}/miner/.+: .+$"):
        extract_archive(archive, dataset)
