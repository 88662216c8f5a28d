"""Commands as users run them: real processes, their exit codes and what they print."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 120.0


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A finished Python process, started in the repository's root."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def start_python(*arguments: str) -> subprocess.Popen[str]:
    """A running Python process, started in the repository's root; its output is captured."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until `holds()`; fails if the process ends first."""
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def the_error(stderr: str) -> str:
    """The one line that a refused command prints to stderr."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: "), stderr
    return lines[0]
