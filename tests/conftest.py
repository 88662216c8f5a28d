from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.archive_server import ArchiveServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    """A file server of this test, asked directly whatever proxy there is."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ArchiveServer() as server:
        yield server
