"""One file over HTTP: gone on with where it broke, and never joined from two files.

The rest of a file is asked for under the condition that it is still the same (`Range` with
`If-Range`, RFC 9110). Where it is not, or where that cannot be told, the transfer starts anew.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

import requests
import urllib3

from common.errors import ToolkitError
from offline.data.archives import is_archive
from offline.download.partial_file import PartialFile, RemoteFile
from offline.download.side_by_side import Cancelled

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_HEAD_BYTES = 512  # a tar header; xz and gzip are known by less
_CONNECT_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 60.0  # seconds
_LONGEST_RETRY_AFTER = 600.0
_OK, _PARTIAL, _NOT_THAT_RANGE = 200, 206, 416
# Object stores answer 403 for what is not there when they may not be listed.
_MISSING = (403, 404)
_BUSY = (408, 425, 429)

Result = TypeVar("Result")


class TransferError(ToolkitError):
    """A file that cannot be fetched: names its address and what the server did."""


class NotFoundError(TransferError):
    """The server does not have this file."""


class _PassingError(TransferError):
    """Worth another attempt, in `wait` seconds at the earliest if the server said so."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class Client:
    """Fetches files. It may be used by several threads; setting `cancelled` stops them all.

    An attempt fails after `timeout` seconds without a byte. After `retries` more that brought
    nothing either, the client gives up; attempts that bring something may be many.
    """

    def __init__(self, retries: int, timeout: float, cancelled: threading.Event) -> None:
        self._retries = retries
        self._timeout = timeout
        self._cancelled = cancelled

    def describe(self, address: str) -> RemoteFile:
        """Length and validators of the archive at `address`, of which only the head is read.

        Raises NotFoundError, TransferError for what is no archive or cannot be had, or Cancelled.
        """

        def attempt() -> RemoteFile:
            with self._get(address, {"Range": f"bytes=0-{_HEAD_BYTES - 1}"}) as response:
                remote = _remote_file(address, response)
                _require_archive(address, response, next(self._chunks(response), b""))
                return remote

        return self._persist(attempt, lambda: 0)

    def fetch(
        self, remote: RemoteFile, path: Path, on_bytes: Callable[[int], None] = lambda count: None
    ) -> RemoteFile:
        """Fetch `remote` into `path`, going on from what an earlier call left.

        Returns what the server had in the end: not `remote` if the file changed meanwhile.
        `on_bytes` is told how many bytes more are there, or fewer when it has to start anew.
        Raises NotFoundError, TransferError or Cancelled; what has come stays, for the next call.
        """
        partial = PartialFile(path)
        try:
            if partial.is_finished(remote):
                on_bytes(remote.size)
                return remote
            if partial.source != remote or partial.size > remote.size:
                partial.begin(remote)
            on_bytes(partial.size)
            if partial.size < remote.size:
                remote = self._persist(
                    lambda: self._receive(partial, on_bytes), lambda: partial.size
                )
            partial.finish()
        except OSError as error:
            raise _cannot_write(path, error) from error
        return remote

    def _receive(self, partial: PartialFile, on_bytes: Callable[[int], None]) -> RemoteFile:
        """One connection: the rest of the file or all of it; _PassingError if that fell short."""
        source, start = partial.source, partial.size
        assert source is not None
        condition = {}
        if start and source.validator is not None:
            condition = {"Range": f"bytes={start}-", "If-Range": source.validator}
        with self._get(source.address, condition) as response:
            chunks = self._chunks(response)
            if response.status_code == _OK:
                source, first = _remote_file(source.address, response), next(chunks, b"")
                # Before anything is dropped: a login page must not cost what has come so far.
                _require_archive(source.address, response, first)
                _start_anew(partial, source, on_bytes)
                chunks = itertools.chain([first], chunks)
            elif not _continues(source, start, response):
                _start_anew(partial, source, on_bytes)
                raise _PassingError(f"{source.address}: the server does not go on at byte {start}")
            with partial.append() as file:
                for chunk in chunks:
                    file.write(chunk)
                    on_bytes(len(chunk))
        if partial.size > source.size:
            _start_anew(partial, source, on_bytes)
        if partial.size != source.size:
            raise _PassingError(f"{source.address}: what came has not the length announced")
        return source

    @contextlib.contextmanager
    def _get(self, address: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """The answer to one request, of status 200, 206 or 416; its body is not read yet."""
        try:
            response = requests.get(
                address,
                headers={"Accept-Encoding": "identity", **headers},
                stream=True,
                timeout=(min(_CONNECT_SECONDS, self._timeout), self._timeout),
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _PassingError(f"{address}: {_reason(error)}") from error
        except requests.RequestException as error:
            raise TransferError(f"{address} cannot be asked for: {error}") from error
        with response:
            status = response.status_code
            said = f"{address}: the server answers {status} {response.reason}"
            if status in _MISSING:
                raise NotFoundError(said)
            if status in _BUSY or status >= 500:
                raise _PassingError(said, _retry_after(response))
            if status not in (_OK, _PARTIAL, _NOT_THAT_RANGE):
                raise TransferError(said)
            yield response

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The bytes of the body as they are sent, whatever encoding the server claims."""
        try:
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                self._raise_if_cancelled()
                yield chunk
        except urllib3.exceptions.HTTPError as error:
            raise _PassingError(f"{response.url}: the connection broke ({error})") from error

    def _persist(self, attempt: Callable[[], Result], there: Callable[[], int]) -> Result:
        """Attempt until it succeeds; failures count only while `there` does not grow."""
        failures, furthest = 0, there()
        while True:
            self._raise_if_cancelled()
            try:
                return attempt()
            except _PassingError as error:
                if there() > furthest:
                    failures, furthest = 0, there()
                elif failures == self._retries:
                    raise TransferError(
                        f"{error}; attempt {failures + 1} without progress: check the network, "
                        "then run the same command to go on from here"
                    ) from error
                self._wait(error, failures)
                failures += 1

    def _wait(self, error: _PassingError, failures: int) -> None:
        # With jitter, so that transfers that broke together do not come back together.
        backoff = min(_FIRST_WAIT * 2**failures, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
        seconds = max(backoff, error.wait)
        if seconds >= 1:
            logger.warning("%s: trying again in %.0f s", error, seconds)
        self._cancelled.wait(seconds)

    def _raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("stopped")


def _start_anew(partial: PartialFile, source: RemoteFile, on_bytes: Callable[[int], None]) -> None:
    on_bytes(-partial.size)
    partial.begin(source)


def _remote_file(address: str, response: requests.Response) -> RemoteFile:
    """What an answer says of the file, whose length must be known to find it whole."""
    if response.status_code == _NOT_THAT_RANGE:
        raise _PassingError(f"{address}: the server answers 416 {response.reason}")
    headers = response.headers
    size = headers.get("Content-Length", "")
    if response.status_code == _PARTIAL:
        _, size = _content_range(response)
    if not size.isdecimal():
        raise TransferError(f"{address}: the server does not tell the length of the file")
    return RemoteFile(address, int(size), headers.get("ETag"), headers.get("Last-Modified"))


def _continues(source: RemoteFile, start: int, response: requests.Response) -> bool:
    """Whether an answer goes on at byte `start` of the same file."""
    # Of the two validators, an answer to a condition has to repeat the ETag only.
    modified = response.headers.get("Last-Modified", source.last_modified)
    return (
        response.status_code == _PARTIAL
        and _content_range(response) == (str(start), str(source.size))
        and (response.headers.get("ETag"), modified) == (source.etag, source.last_modified)
    )


def _content_range(response: requests.Response) -> tuple[str, str]:
    """First byte and length of the whole; empty where the answer does not tell."""
    match = re.match(r"bytes (\d+)-\d+/(\d+)$", response.headers.get("Content-Range", ""))
    return (match[1], match[2]) if match else ("", "")


def _require_archive(address: str, response: requests.Response, head: bytes) -> None:
    """Refuse what is no .tar, .tar.xz or .tar.gz, such as the page of a proxy or a login."""
    if not is_archive(head):
        kind = response.headers.get("Content-Type", "unknown content").partition(";")[0]
        raise TransferError(
            f"{address} answers with {kind}, which is no archive: does a proxy or a login page "
            "stand in between? Open the address in a browser"
        )


def _retry_after(response: requests.Response) -> float:
    """The seconds that a server asks to wait, as a number or a date; 0 if it does not."""
    text = response.headers.get("Retry-After", "0")
    try:
        seconds = (
            float(text)
            if text.isdecimal()
            else parsedate_to_datetime(text).timestamp() - time.time()
        )
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


def _reason(error: requests.RequestException) -> str:
    """The innermost words of an error that wraps others."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner)).rpartition(": ")[2]


def _cannot_write(path: Path, error: OSError) -> TransferError:
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = ": free some space, then run the same command to go on from here"
    return TransferError(f"cannot write {path}: {error.strerror or error}{hint}")
