"""A file server on this machine that can be told to behave as badly as the internet does."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

_CHUNK_BYTES = 4096


@dataclass
class ServedFile:
    """A file and how it is served. Lists are used up from the front.

    `statuses` are answered instead of the file, with `error_headers`. `breaks`, `hangs` and `flips`
    concern the next body that reaches the byte they name: it ends there, or comes to a halt, or
    has a wrong bit. After a break the file is the next of `versions`. `pause` seconds pass after
    each 4,096 bytes. `length` is told instead of the true one; 0 leaves it out.
    """

    data: bytes
    statuses: list[int] = field(default_factory=list)
    error_headers: dict[str, str] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    hangs: list[int] = field(default_factory=list)
    flips: list[int] = field(default_factory=list)
    versions: list[bytes] = field(default_factory=list)
    pause: float = 0.0
    length: int | None = None
    ranges: bool = True
    honours_if_range: bool = True
    etag: Literal["strong", "weak", "none"] = "strong"
    last_modified: str | None = "Wed, 29 Mar 2023 09:22:46 GMT"
    content_type: str = "application/x-xz"

    def validators(self) -> dict[str, str]:
        """The headers that tell this version of the file from another."""
        found = {}
        if self.etag != "none":
            prefix = "W/" if self.etag == "weak" else ""
            found["ETag"] = f'{prefix}"{hashlib.md5(self.data).hexdigest()}"'
        if self.last_modified is not None:
            found["Last-Modified"] = self.last_modified
        return found


@dataclass
class Request:
    """What was asked for and what was sent: the status, and bytes of the body."""

    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class ArchiveServer:
    """Serves `files`, by path, from a port of its own until the context ends."""

    def __init__(self) -> None:
        self.files: dict[str, ServedFile] = {}
        self.requests: list[Request] = []
        self.ending = threading.Event()
        self.bodies_now = 0
        self.most_bodies = 0  # sent at a time, heads and errors aside
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/DGRL"

    def __enter__(self) -> ArchiveServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ending.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def serve(self, path: str, data: bytes, **behaviour: Any) -> ServedFile:
        """Put a file at `path`, below `url`."""
        self.files[path] = ServedFile(data, **behaviour)
        return self.files[path]

    def count(self, more: int) -> None:
        """Note that so many more bodies are being sent."""
        with self._lock:
            self.bodies_now += more
            self.most_bodies = max(self.most_bodies, self.bodies_now)

    def requests_of(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def sent(self, path: str) -> int:
        """Bytes of bodies sent for `path`, all requests together."""
        return sum(request.sent for request in self.requests_of(path))


def _handler(server: ArchiveServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            path = self.path.removeprefix("/DGRL/")
            request = Request(path, dict(self.headers))
            server.requests.append(request)
            self._answer(server.files.get(path), request)

        def _answer(self, file: ServedFile | None, request: Request) -> None:
            if file is None:
                self._send(request, 404, {}, b"no such file")
            elif file.statuses:
                self._send(request, file.statuses.pop(0), file.error_headers, b"not now")
            else:
                self._send_file(file, request)

        def _send_file(self, file: ServedFile, request: Request) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            condition = self.headers.get("If-Range")
            if file.honours_if_range and condition not in (None, *file.validators().values()):
                asked = None
            headers = {"Content-Type": file.content_type, **file.validators()}
            size = len(file.data) if file.length is None else file.length
            first, last, status = 0, size - 1, 200
            if asked is not None and file.ranges:
                first, last = int(asked[1]), min(int(asked[2] or last), last)
                headers["Content-Range"] = f"bytes {first}-{last}/{size}"
                status = 206
            if first >= len(file.data):
                self._send(request, 416, {"Content-Range": f"bytes */{size}"}, b"")
                return
            if size:
                headers["Content-Length"] = str(last + 1 - first)
            body = bytearray(file.data[first : last + 1])
            if file.flips and first <= file.flips[0] < first + len(body):
                body[file.flips.pop(0) - first] ^= 1
            self._send(request, status, headers, bytes(body), file)

        def _send(
            self,
            request: Request,
            status: int,
            headers: dict[str, str],
            body: bytes,
            file: ServedFile | None = None,
        ) -> None:
            request.status = status
            self.send_response(status)
            if file is None:
                headers = {**headers, "Content-Length": str(len(body))}
            for name, value in {**headers, "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            file = file or ServedFile(body)
            broken = bool(file.breaks) and file.breaks[0] < len(body)
            hangs = bool(file.hangs) and file.hangs[0] < len(body)
            end = file.breaks.pop(0) if broken else file.hangs.pop(0) if hangs else len(body)
            counted = len(body) > _CHUNK_BYTES
            server.count(counted)
            try:
                self._send_body(request, body[:end], file.pause)
            except OSError:
                return  # the client has gone
            finally:
                server.count(-counted)
            if broken and file.versions:
                file.data = file.versions.pop(0)
            if hangs:
                server.ending.wait()

        def _send_body(self, request: Request, body: bytes, pause: float) -> None:
            for start in range(0, len(body), _CHUNK_BYTES):
                chunk = body[start : start + _CHUNK_BYTES]
                request.sent += len(chunk)  # first: the client may look as soon as it has all
                self.wfile.write(chunk)
                if pause and server.ending.wait(pause):
                    return

    return Handler
