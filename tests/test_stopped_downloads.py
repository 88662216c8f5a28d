"""Real processes of download.py, stopped, killed or out of disk in the middle, and what follows."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.archive_server import ArchiveServer, ServedFile
from tests.command_runs import wait_until
from tests.download_runs import (
    ARCHIVE,
    CATEGORY,
    COINRUN,
    HEAD_BYTES,
    PATH,
    ROOT,
    archive_file,
    arguments,
    assert_holds,
    run,
    run_here,
    start,
)
from tests.released_archives import released_archive

# A hundred times smaller as an archive than as a store.
BLACK = [replace(COINRUN[2], observations=np.zeros_like(COINRUN[2].observations))]
_CHUNK_BYTES = 65_536  # the least that a transfer brings


def file_size_limit(size: int) -> Callable[[], None]:
    """A disk on which no file grows beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def part_size(folder: Path) -> int:
    """Bytes of the archive that have come."""
    path = archive_file(folder, name="coinrun.tar.xz.part")
    return path.stat().st_size if path.is_file() else 0


def start_and_wait_for_a_chunk(
    server: ArchiveServer, folder: Path, file: ServedFile, *more: str
) -> subprocess.Popen[str]:
    """A download that has brought something and is slow to bring more."""
    file.pause = 0.02
    process = start(server, folder, *more)
    wait_until(lambda: part_size(folder) > 0, process)
    file.pause = 0.0
    return process


def end(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal and wait; what the process wrote to standard error."""
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return err


def test_a_download_that_was_killed_goes_on_where_it_was(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE, hangs=[150_000])
    process = start(server, tmp_path)
    wait_until(lambda: part_size(tmp_path) >= 2 * _CHUNK_BYTES, process)
    end(process, signal.SIGKILL)
    there = part_size(tmp_path)
    server.requests.clear()
    code, _, err = run(server, tmp_path)
    assert code == 0, err
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE) - there
    assert_holds(tmp_path, "coinrun", COINRUN)


def test_a_process_killed_when_the_archive_is_there_does_not_fetch_it_again(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE)
    process = start(server, tmp_path)
    wait_until(archive_file(tmp_path).exists, process)
    end(process, signal.SIGKILL)
    assert run_here(server, tmp_path) == 0
    assert server.sent(PATH) <= 2 * HEAD_BYTES + len(ARCHIVE)
    assert_holds(tmp_path, "coinrun", COINRUN)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_download_says_so_in_one_line_and_goes_on(
    server: ArchiveServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    file = server.serve(PATH, ARCHIVE)
    process = start_and_wait_for_a_chunk(server, tmp_path, file)
    *_, line = end(process, number).splitlines()
    assert process.returncode == code
    assert line.startswith("error: stopped; ")
    assert "the same command goes on" in line
    there = part_size(tmp_path)
    assert there > 0
    server.requests.clear()
    assert run_here(server, tmp_path) == 0
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE) - there
    assert_holds(tmp_path, "coinrun", COINRUN)


def test_a_server_that_hangs_does_not_keep_a_stopped_download_alive(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE, hangs=[100_000])
    process = start(server, tmp_path, "--timeout=600")
    wait_until(lambda: part_size(tmp_path) > 0, process)
    (_, line) = end(process, signal.SIGINT).splitlines()
    assert process.returncode == 130
    assert line.startswith("error: stopped; ")


def test_what_a_killed_process_was_about_to_rename_is_removed(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE)
    archives = archive_file(tmp_path).parent
    archives.mkdir(parents=True)
    (archives / ".coinrun.tar.xz.source.json.99.tmp").touch()
    (tmp_path / CATEGORY / ".download.json.99.tmp").touch()
    assert run_here(server, tmp_path, "--clear_archives_after_unpacking") == 0
    there = sorted(os.listdir(tmp_path / CATEGORY))
    assert there == [".download.lock", "coinrun", "download.json"]


def test_a_file_that_changed_while_nobody_downloaded_starts_anew(
    server: ArchiveServer, tmp_path: Path
) -> None:
    file = server.serve(PATH, ARCHIVE)
    end(start_and_wait_for_a_chunk(server, tmp_path, file), signal.SIGKILL)
    server.serve(PATH, released_archive({"coinrun": COINRUN[::-1]}))
    assert run_here(server, tmp_path) == 0
    assert_holds(tmp_path, "coinrun", COINRUN[::-1])


@pytest.mark.parametrize("there_before", [False, True])
def test_downloading_again_goes_on_with_what_has_come(
    server: ArchiveServer, tmp_path: Path, there_before: bool
) -> None:
    again = "--redownload_existing_archives"
    if there_before:
        server.serve(PATH, released_archive({"coinrun": COINRUN[::-1]}))
        assert run_here(server, tmp_path) == 0
    file = server.serve(PATH, ARCHIVE)
    end(start_and_wait_for_a_chunk(server, tmp_path, file, again), signal.SIGKILL)
    there = part_size(tmp_path)
    assert there > 0
    server.requests.clear()
    assert run_here(server, tmp_path, again) == 0
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE) - there
    assert_holds(tmp_path, "coinrun", COINRUN)


def test_a_second_download_into_the_same_folder_is_refused(
    server: ArchiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = server.serve(PATH, ARCHIVE)
    process = start_and_wait_for_a_chunk(server, tmp_path, file)
    assert run_here(server, tmp_path) == 1
    assert f"another download into {tmp_path / CATEGORY} is running" in capsys.readouterr().err
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert_holds(tmp_path, "coinrun", COINRUN)


def test_a_disk_that_fills_while_downloading_loses_nothing(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE)
    code, _, err = run(server, tmp_path, limit=file_size_limit(100_000))
    assert code == 1
    *_, line = err.splitlines()
    assert f"error: cannot write {archive_file(tmp_path)}: File too large: free some space" in line
    server.requests.clear()
    assert run_here(server, tmp_path) == 0
    assert server.sent(PATH) == HEAD_BYTES + len(ARCHIVE) - 100_000
    assert_holds(tmp_path, "coinrun", COINRUN)


def test_a_disk_that_fills_while_packing_keeps_the_archive(
    server: ArchiveServer, tmp_path: Path
) -> None:
    archive = released_archive({"coinrun": BLACK})
    server.serve(PATH, archive)
    code, _, err = run(server, tmp_path, limit=file_size_limit(50_000))
    assert code == 1
    *_, line = err.splitlines()
    assert line.startswith("error: cannot pack ")
    assert "free some space" in line
    assert not (tmp_path / CATEGORY / "coinrun" / "packed").exists()
    assert run_here(server, tmp_path) == 0
    assert server.sent(PATH) == HEAD_BYTES + len(archive)
    assert_holds(tmp_path, "coinrun", BLACK)


def test_a_terminal_shows_a_bar_for_each_file_and_one_for_all(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(PATH, ARCHIVE, pause=0.005)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "download.py", *arguments(server, tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        while read := os.read(ours, 4096):
            seen += read
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    for label in (b"all: 100%", b"coinrun.tar.xz:  ", b"unpacking coinrun.tar.xz:  "):
        assert label in seen
