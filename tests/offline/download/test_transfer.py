from __future__ import annotations

import os
import random
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from offline.download.partial_file import PartialFile, RemoteFile
from offline.download.side_by_side import Cancelled
from offline.download.transfer import Client, NotFoundError, TransferError
from tests.archive_server import ArchiveServer, Request

NAME = "coinrun.tar.xz"
XZ_MAGIC = b"\xfd7zXZ\x00"
DATA = XZ_MAGIC + random.Random(1).randbytes(300_000)
OTHER = XZ_MAGIC + random.Random(2).randbytes(300_000)
MODIFIED = "Wed, 29 Mar 2023 09:22:46 GMT"
LOGIN_PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>" * 20


def client(retries: int = 3, timeout: float = 10.0) -> Client:
    return Client(retries, timeout, threading.Event())


def fetch(server: ArchiveServer, folder: Path, retries: int = 3, timeout: float = 10.0) -> Path:
    """Describe and fetch the file as the command does; the requests of the fetch are kept."""
    asked = client(retries, timeout)
    remote = asked.describe(f"{server.url}/{NAME}")
    server.requests.clear()
    asked.fetch(remote, folder / NAME)
    return folder / NAME


def fetch_some(server: ArchiveServer, folder: Path, count: int) -> int:
    """Fetch until `count` bytes are there, and stop; how many are there then."""
    cancelled = threading.Event()
    asked = Client(3, 10.0, cancelled)
    there = 0

    def on_bytes(more: int) -> None:
        nonlocal there
        there += more
        if there >= count:
            cancelled.set()

    with pytest.raises(Cancelled):
        asked.fetch(asked.describe(f"{server.url}/{NAME}"), folder / NAME, on_bytes)
    assert count <= there < len(DATA)
    assert PartialFile(folder / NAME).size == there
    return there


def ranges(requests: list[Request]) -> list[str | None]:
    return [request.headers.get("Range") for request in requests]


def test_a_file_arrives_whole_in_one_request(server: ArchiveServer, tmp_path: Path) -> None:
    server.serve(NAME, DATA)
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert sorted(os.listdir(tmp_path)) == [NAME, f"{NAME}.source.json"]
    (request,) = server.requests
    assert (request.status, request.sent) == (200, len(DATA))
    assert request.headers["Accept-Encoding"] == "identity"


def test_a_file_is_described_by_its_head_alone(server: ArchiveServer) -> None:
    file = server.serve(NAME, DATA)
    address = f"{server.url}/{NAME}"
    described = client().describe(address)
    assert described == RemoteFile(address, 300_006, file.validators()["ETag"], MODIFIED)
    assert server.sent(NAME) == 512


@pytest.mark.parametrize("seed", range(5))
def test_breaks_at_random_bytes_cost_no_byte_twice(
    server: ArchiveServer, tmp_path: Path, seed: int
) -> None:
    breaks = [random.Random(seed).randint(1, 60_000) for _ in range(10)]
    server.serve(NAME, DATA, breaks=breaks)
    assert fetch(server, tmp_path, retries=0).read_bytes() == DATA
    assert len(server.requests) >= 6
    assert sum(request.sent for request in server.requests) == len(DATA)


def test_a_later_call_goes_on_where_the_first_was_stopped(
    server: ArchiveServer, tmp_path: Path
) -> None:
    file = server.serve(NAME, DATA)
    there = fetch_some(server, tmp_path, 100_000)
    assert fetch(server, tmp_path).read_bytes() == DATA
    (request,) = server.requests
    assert request.headers["Range"] == f"bytes={there}-"
    assert request.headers["If-Range"] == file.validators()["ETag"]
    assert (request.status, request.sent) == (206, len(DATA) - there)


@pytest.mark.parametrize("etag", ["weak", "none"])
def test_without_a_strong_etag_the_time_of_the_last_change_is_the_condition(
    server: ArchiveServer, tmp_path: Path, etag: str
) -> None:
    server.serve(NAME, DATA, etag=etag)
    there = fetch_some(server, tmp_path, 100_000)
    assert fetch(server, tmp_path).read_bytes() == DATA
    (request,) = server.requests
    assert request.headers["Range"] == f"bytes={there}-"
    assert request.headers["If-Range"] == MODIFIED


def test_a_file_that_cannot_be_told_from_another_is_not_continued(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(NAME, DATA, etag="none", last_modified=None, breaks=[100_000])
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert ranges(server.requests) == [None, None]


def test_a_file_that_changed_since_the_last_call_starts_anew(
    server: ArchiveServer, tmp_path: Path
) -> None:
    file = server.serve(NAME, DATA)
    fetch_some(server, tmp_path, 100_000)
    file.data = OTHER
    assert fetch(server, tmp_path).read_bytes() == OTHER
    assert ranges(server.requests) == [None]


@pytest.mark.parametrize("honours_if_range", [True, False])
@pytest.mark.parametrize("after", [OTHER, OTHER + b"longer", OTHER[:150_000]])
def test_a_file_that_changes_during_a_break_starts_anew(
    server: ArchiveServer, tmp_path: Path, honours_if_range: bool, after: bytes
) -> None:
    server.serve(NAME, DATA, breaks=[200_000], versions=[after], honours_if_range=honours_if_range)
    asked = client()
    remote = asked.describe(f"{server.url}/{NAME}")
    fetched = asked.fetch(remote, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == after
    assert fetched.size == len(after)
    assert fetched.etag == server.files[NAME].validators()["ETag"] != remote.etag


def test_a_server_without_ranges_sends_the_file_again(
    server: ArchiveServer, tmp_path: Path
) -> None:
    file = server.serve(NAME, DATA, ranges=False)
    asked = client()
    remote = asked.describe(f"{server.url}/{NAME}")
    server.requests.clear()
    file.breaks = [200_000]
    asked.fetch(remote, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert [request.status for request in server.requests] == [200, 200]


def test_a_refused_range_starts_anew(server: ArchiveServer, tmp_path: Path) -> None:
    file = server.serve(NAME, DATA)
    there = fetch_some(server, tmp_path, 100_000)
    asked = client()
    remote = asked.describe(f"{server.url}/{NAME}")
    server.requests.clear()
    file.statuses = [416]
    asked.fetch(remote, tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert ranges(server.requests) == [f"bytes={there}-", None]


def test_progress_adds_up_to_the_file_even_when_it_starts_anew(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(NAME, DATA, breaks=[200_000], versions=[OTHER[:150_000]])
    asked = client()
    steps: list[int] = []
    asked.fetch(asked.describe(f"{server.url}/{NAME}"), tmp_path / NAME, steps.append)
    assert sum(steps) == 150_000
    assert min(steps) == -200_000


def test_errors_of_a_busy_server_are_waited_out(server: ArchiveServer, tmp_path: Path) -> None:
    server.serve(NAME, DATA, statuses=[500, 429, 503])
    assert fetch(server, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("as_date", [False, True])
def test_the_time_that_a_server_asks_for_is_waited(server: ArchiveServer, as_date: bool) -> None:
    # A date has whole seconds: two from now are at least one.
    text = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    server.serve(NAME, DATA, statuses=[429], error_headers={"Retry-After": text})
    start = time.monotonic()
    client().describe(f"{server.url}/{NAME}")
    assert 0.9 < time.monotonic() - start < 5


def test_failures_in_a_row_end_the_transfer(server: ArchiveServer) -> None:
    server.serve(NAME, DATA, statuses=[503] * 9)
    with pytest.raises(TransferError, match=r"503 Service Unavailable; attempt 3 without progress"):
        client(retries=2).describe(f"{server.url}/{NAME}")
    assert len(server.requests) == 3


def test_a_connection_that_stalls_is_broken_off_and_continued(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(NAME, DATA, hangs=[200_000])
    assert fetch(server, tmp_path, timeout=0.3).read_bytes() == DATA
    (first, second) = server.requests
    assert (first.status, first.sent) == (200, 200_000)
    assert second.headers["Range"] == f"bytes={len(DATA) - second.sent}-"


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_file_is_told_from_other_failures(server: ArchiveServer, status: int) -> None:
    server.serve(NAME, DATA, statuses=[status])
    with pytest.raises(NotFoundError, match=str(status)):
        client().describe(f"{server.url}/{NAME}")


def test_a_refusal_is_not_tried_again(server: ArchiveServer) -> None:
    server.serve(NAME, DATA, statuses=[401])
    with pytest.raises(TransferError, match="401 Unauthorized"):
        client().describe(f"{server.url}/{NAME}")
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_named(server: ArchiveServer) -> None:
    with ArchiveServer() as gone:
        address = f"{gone.url}/{NAME}"
    with pytest.raises(TransferError, match=rf"{address}: .*Connection refused"):
        client(retries=0).describe(address)


def test_a_web_page_is_refused(server: ArchiveServer, tmp_path: Path) -> None:
    server.serve(NAME, LOGIN_PAGE, content_type="text/html; charset=utf-8")
    with pytest.raises(TransferError, match="answers with text/html, which is no archive"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_web_page_in_the_middle_costs_nothing_that_has_come(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(NAME, DATA, breaks=[100_000], versions=[LOGIN_PAGE])
    with pytest.raises(TransferError, match="which is no archive"):
        fetch(server, tmp_path)
    server.serve(NAME, DATA)
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert ranges(server.requests) == ["bytes=100000-"]


def test_a_file_shorter_than_announced_is_not_taken_for_whole(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(NAME, DATA, length=len(DATA) + 1)
    with pytest.raises(TransferError, match="without progress"):
        fetch(server, tmp_path, retries=1)
    assert not (tmp_path / NAME).exists()


def test_a_file_of_unknown_length_is_refused(server: ArchiveServer) -> None:
    server.serve(NAME, DATA, length=0, ranges=False)
    with pytest.raises(TransferError, match="does not tell the length"):
        client().describe(f"{server.url}/{NAME}")


def test_a_whole_part_of_a_killed_process_needs_no_request(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.serve(NAME, DATA)
    asked = client()
    remote = asked.describe(f"{server.url}/{NAME}")
    server.requests.clear()
    partial = PartialFile(tmp_path / NAME)
    partial.begin(remote)
    with partial.append() as file:
        file.write(DATA)
    for _ in range(2):  # and neither does the finished file
        asked.fetch(remote, tmp_path / NAME)
        assert (tmp_path / NAME).read_bytes() == DATA
    assert server.requests == []


def test_a_part_of_an_unknown_file_is_dropped(server: ArchiveServer, tmp_path: Path) -> None:
    server.serve(NAME, DATA)
    fetch_some(server, tmp_path, 100_000)
    (tmp_path / f"{NAME}.source.json").write_text("{")
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert ranges(server.requests) == [None]


def test_waiting_for_a_server_can_be_cancelled(server: ArchiveServer) -> None:
    server.serve(NAME, DATA, statuses=[503], error_headers={"Retry-After": "300"})
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        Client(3, 10.0, cancelled).describe(f"{server.url}/{NAME}")
    assert time.monotonic() - start < 10
