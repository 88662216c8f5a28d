"""Damaged archives, servers that serve something else, disks and command lines that do not do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import download
from tests.archive_server import ArchiveServer
from tests.download_runs import (
    ARCHIVE,
    CATEGORY,
    COINRUN,
    HEAD_BYTES,
    MAZE,
    PATH,
    SECOND_PATH,
    archive_file,
    assert_holds,
    run_here,
)
from tests.released_archives import (
    PLAIN,
    archive_of,
    released_archive,
    released_episode,
    released_members,
)


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command failed; the log may stand before it."""
    *log, line = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in (*log, line)] == [False] * len(log) + [True]
    return line


# Damage


def test_a_byte_that_changed_on_the_disk_is_found_and_the_archive_fetched_again(
    server: ArchiveServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path) == 0
    archive = archive_file(tmp_path)
    damaged = bytearray(ARCHIVE)
    damaged[len(damaged) // 2] ^= 1
    archive.write_bytes(damaged)
    assert run_here(server, tmp_path) == 0
    assert f"{archive} is not what was downloaded" in caplog.text
    assert archive.read_bytes() == ARCHIVE
    assert server.sent(PATH) == 2 * (HEAD_BYTES + len(ARCHIVE))
    assert "once more" not in caplog.text  # it was not unpacked to find out
    assert_holds(tmp_path, "coinrun", COINRUN)


def test_a_byte_that_changed_on_the_way_is_found_and_the_archive_fetched_again(
    server: ArchiveServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.serve(PATH, ARCHIVE, flips=[len(ARCHIVE) // 2])
    assert run_here(server, tmp_path) == 0
    assert "fetching it once more" in caplog.text
    assert_holds(tmp_path, "coinrun", COINRUN)
    assert server.sent(PATH) == HEAD_BYTES + 2 * len(ARCHIVE)


def test_an_archive_cut_short_is_refused_and_the_others_are_brought(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(PATH, ARCHIVE)
    server.serve("1M/expert/maze.tar.xz", released_archive({"maze": MAZE})[:-5_000])
    assert run_here(server, tmp_path, games="maze coinrun") == 1
    line = the_error(capsys)
    assert str(archive_file(tmp_path, name="maze.tar.xz")) in line
    assert "fetched twice" in line
    assert_holds(tmp_path, "coinrun", COINRUN)
    assert not (tmp_path / CATEGORY / "maze" / "packed").exists()
    assert not archive_file(tmp_path, name="maze.tar.xz").exists()


def test_a_web_page_instead_of_an_archive_is_refused_in_one_line_and_not_kept(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(PATH, b"<html>Log in to the proxy</html>" * 99, content_type="text/html")
    assert run_here(server, tmp_path) == 1
    line = the_error(capsys)
    assert f"{server.url}/{PATH} answers with text/html, which is no archive" in line
    assert os.listdir(archive_file(tmp_path).parent) == []
    assert not (tmp_path / CATEGORY / "coinrun").exists()


def test_a_game_that_the_server_does_not_have_stops_no_other(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path, games="maze coinrun") == 1
    assert "maze.tar.xz: the server answers 404" in the_error(capsys)
    assert_holds(tmp_path, "coinrun", COINRUN)


def test_several_failures_are_listed(
    server: ArchiveServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert run_here(server, tmp_path, games="maze coinrun") == 1
    assert "2 archives are missing (maze.tar.xz, coinrun.tar.xz)" in the_error(capsys)
    assert caplog.text.count("the server answers 404") == 2


def test_a_bad_episode_is_refused_by_name_and_can_be_skipped_without_a_download(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = released_members({"coinrun": COINRUN})
    bad = next(iter(members))
    server.serve(PATH, archive_of({**members, bad: b"no episode"}))
    assert run_here(server, tmp_path) == 1
    assert Path(bad).name in the_error(capsys)
    sent = server.sent(PATH)
    assert run_here(server, tmp_path, "--skip_bad_episodes=True") == 0
    assert server.sent(PATH) == sent


def test_a_wanted_game_that_the_archive_does_not_hold_is_named(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve("100k_procgen_dataset_1.tar", released_archive({"maze": MAZE}, PLAIN))
    assert run_here(server, tmp_path, "--category_name=level_1_E", games="maze miner") == 1
    assert "holds no episode of miner" in the_error(capsys)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ("{", "is damaged"),
        ('{"format": "procgen-download", "version": 2, "archives": {}}', "newer toolkit"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(
    server: ArchiveServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    contents: str,
    words: str,
) -> None:
    record = tmp_path / CATEGORY / "download.json"
    record.parent.mkdir()
    record.write_text(contents)
    assert run_here(server, tmp_path) == 1
    line = the_error(capsys)
    assert str(record) in line
    assert words in line
    assert record.read_text() == contents


@pytest.mark.parametrize(
    ("there", "wanted", "words"),
    [
        ("packed", "episodes", "coinrun/packed holds the store of an archive"),
        ("episodes", "packed", "coinrun holds episode files"),
    ],
)
def test_a_game_that_is_there_in_the_other_format_is_refused_before_anything_is_fetched(
    server: ArchiveServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    there: str,
    wanted: str,
    words: str,
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path, f"--format={there}") == 0
    server.requests.clear()
    for flags in ((), ("--redownload_existing_archives",)):
        assert run_here(server, tmp_path, f"--format={wanted}", *flags) == 1
        line = the_error(capsys)
        assert f"{tmp_path / CATEGORY}/{words}: take --format {there}" in line
    assert server.requests == []
    assert_holds(tmp_path, "coinrun", COINRUN)


def test_several_games_in_the_other_format_have_a_line_each(
    server: ArchiveServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.serve(PATH, ARCHIVE)
    server.serve("1M/expert/maze.tar.xz", released_archive({"maze": MAZE}))
    assert run_here(server, tmp_path, "--format=episodes", games="coinrun maze") == 0
    assert run_here(server, tmp_path, games="coinrun maze") == 1
    assert "coinrun, maze are there in the other format" in the_error(capsys)
    assert caplog.text.count("holds episode files: take --format episodes") == 2


def test_a_changed_archive_does_not_replace_episodes_that_were_added_by_hand(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, tmp_path, "--format=episodes") == 0
    mine = tmp_path / CATEGORY / "coinrun" / "20250101T000000_0_1_6_0.00.npy"
    mine.write_bytes(released_episode(COINRUN[1]))
    server.serve(PATH, released_archive({"coinrun": COINRUN[2:]}))
    again = ("--format=episodes", "--redownload_existing_archives")
    assert run_here(server, tmp_path, *again) == 1
    assert f"{mine.parent} holds episode files that are not of " in the_error(capsys)
    assert_holds(tmp_path, "coinrun", [*COINRUN, COINRUN[1]])


# The disk


def test_an_archive_that_grows_3000_times_is_not_refused_by_too_low_a_bound(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(PATH, ARCHIVE, length=10_000)  # 3,137 times for a level where nothing moves
    assert run_here(server, tmp_path, "--dry_run=True") == 0
    assert "at most 70.0 MB to unpack" in capsys.readouterr().out
    server.serve(PATH, ARCHIVE, length=10_000_000)
    assert run_here(server, tmp_path, "--dry_run=True", "--format=episodes") == 0
    assert "at most 51.0 GB to unpack" in capsys.readouterr().out


def test_a_disk_that_is_too_small_is_told_before_anything_is_downloaded(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(PATH, ARCHIVE, length=10**15)
    assert run_here(server, tmp_path) == 1
    # 1,000,000 transitions of 12,300 bytes are less than 7,000 times the archive.
    need = r"1000012.3 GB of disk needed: 1000000.0 GB for archives, at most 12.3 GB to unpack"
    assert need in the_error(capsys)
    assert server.sent(PATH) == HEAD_BYTES


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("root may write to every folder, and may not mount one here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder_is_refused(
    server: ArchiveServer, read_only_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(PATH, ARCHIVE)
    assert run_here(server, read_only_folder) == 1
    line = the_error(capsys)
    assert f"cannot write into {read_only_folder / CATEGORY}" in line
    assert "--download_folder" in line
    assert server.requests == []


def test_a_file_in_the_place_of_the_folder_is_refused(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / CATEGORY).touch()
    assert run_here(server, tmp_path) == 1
    assert f"cannot write into {tmp_path / CATEGORY}" in the_error(capsys)


# The command line


def test_a_dry_run_prints_addresses_and_sizes_and_writes_nothing(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve(PATH, bytes(ARCHIVE[:150_000]))
    second = SECOND_PATH.replace("coinrun", "maze")
    server.serve(second, bytes(ARCHIVE[:50_000]))
    assert run_here(server, tmp_path / "new", "--dry_run=True", games="coinrun maze") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["to", "fetch", "150.0", "kB", f"{server.url}/{PATH}"]
    assert lines[1].split() == ["to", "fetch", "50.0", "kB", f"{server.url}/{second}"]
    assert lines[2].split() == ["total", "200.0", "kB"]
    assert lines[3].startswith("1.4 GB of disk needed: 200.0 kB for archives, at most 1.4 GB")
    assert os.listdir(tmp_path) == []
    assert server.sent(PATH) == server.sent(second) == HEAD_BYTES


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--category_name=1M_X"], "--category_name 1M_X: choose one of"),
        (["--category_name=levl_40_S"], "Did you mean level_40_S?"),
        (["--env_names", "coinrum"], "Did you mean coinrun?"),
        (["--category_name="], "--category_name"),
        (["--format=zip"], "--format zip: choose one of packed, episodes"),
        (["--base_url=ftp://example.org"], "--base_url ftp://example.org"),
        (["--n_download_workers=0"], "--n_download_workers 0: must be at least 1"),
        (["--n_extract_workers=0"], "--n_extract_workers 0: must be at least 1"),
        (["--timeout=0"], "--timeout 0: must be above 0"),
        (["--download_dir=x"], "unknown flag --download_dir"),
    ],
)
def test_a_wrong_command_line_is_refused(
    server: ArchiveServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    assert run_here(server, tmp_path, *flags) == 2
    assert words in the_error(capsys)
    assert server.requests == []


def test_a_category_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert download.main([]) == 2
    assert "--category_name is needed: one of 1M_E, " in the_error(capsys)
