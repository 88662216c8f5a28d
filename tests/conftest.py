from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline.data.built_in import built_in_dataset
from tests.archive_server import ArchiveServer


def pytest_configure() -> None:
    """Behind a shell's & SIGINT is ignored, also by commands that tests start and stop by it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    """A file server of this test, asked directly whatever proxy there is."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ArchiveServer() as server:
        yield server


@pytest.fixture(scope="session")
def built_in_data() -> Path:
    """The real built-in data, not to be changed: the repository's own, which the first session that
    needs them collects in a minute or two. Of several at once, one collects and the others wait.
    """
    return built_in_dataset("coinrun", "easy", 200)
