"""As much of a W&B server as a run needs that is online: it keeps the history of every run."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.tracking_readers import without_login

KEY = "0123456789abcdef0123456789abcdef01234567"


class WandBServer(ThreadingHTTPServer):
    """`histories` holds the rows sent, by run id; `runs` the variables that created each run.

    It knows the user unless `known` is False, and answers nothing more once /stop is asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.known = True
        self.stopped = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def login(self, home: Path) -> dict[str, str]:
        """The environment of somebody who is logged in here."""
        return without_login(home, WANDB_BASE_URL=self.url, WANDB_API_KEY=KEY)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed leaves in the middle of a request."""

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data with which one of W&B's operations is answered; {} for one not needed."""
        answer = getattr(self, f"_{operation}", None)
        return answer(variables) if answer else {}

    def _Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - W&B's names
        if not self.known:
            return {"viewer": None}
        return {"viewer": {"id": "1", "entity": "me", "flags": "{}", "teams": {"edges": []}}}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        history = self.histories.get(variables["name"])
        if not history:
            return {"model": {"bucket": None}}
        bucket = {
            "id": "bucket",
            "name": variables["name"],
            "historyLineCount": len(history),
            "historyTail": json.dumps([json.dumps(history[-1])]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "config": "{}",
            "summaryMetrics": "{}",
            "wandbConfig": '{"t": 1}',
        }
        return {"model": {"id": "project", "name": variables["project"], "bucket": bucket}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        if variables.get("name"):
            self.runs[variables["name"]] = variables
        project = {"id": "project", "name": variables.get("project"), "entity": {"name": "me"}}
        bucket = {"id": "bucket", "name": variables.get("name"), "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/file"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": files}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandBServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.server.stopped:
            raise ConnectionError
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, contents: dict[str, Any]) -> None:
        data = json.dumps(contents).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_GET(self) -> None:
        self._answer({})
        self.server.stopped = self.server.stopped or self.path == "/stop"

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            request = json.loads(body)
            data = self.server.graphql(request["operationName"], request.get("variables") or {})
            self._answer({"data": data})
        elif self.path.endswith("/file_stream"):
            self._keep_history(self.path.split("/")[-2], json.loads(body))
            self._answer({"limits": {}})
        else:
            self._answer({})

    def _keep_history(self, run_id: str, request: dict[str, Any]) -> None:
        chunk = (request.get("files") or {}).get("wandb-history.jsonl")
        if chunk:
            history = self.server.histories.setdefault(run_id, [])
            history[chunk["offset"] :] = [json.loads(line) for line in chunk["content"]]


@contextlib.contextmanager
def serving() -> Iterator[WandBServer]:
    """A server that answers until the block ends."""
    server = WandBServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
