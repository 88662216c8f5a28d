"""One side of one row in a process of its own, and the lines of JSON spoken with it.

glibc's memory settings and the warmth of caches belong to a process, so the two sides share none.
A worker builds its row, warms up, says its facts, then measures once per line it is sent; between
measurements it sleeps. So the sides take turns and noise of the machine meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.sizes import SIZE_FLAGS, WORKER_FLAGS
from common.errors import ToolkitError
from common.flags import parse_flags

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Sample:
    """One measurement: `amount` of the row's unit done in `seconds` of wall-clock time.

    `cpu_seconds` sums the process's threads; other programs disturb it less.
    """

    amount: float
    seconds: float
    cpu_seconds: float
    details: dict[str, Any] = field(default_factory=dict)


Repeat = Callable[[], Sample]
Build = Callable[[argparse.Namespace], Repeat]


class Stopwatch:
    """Context manager around the work; `sample` then tells how long it took.

    On a CUDA card the work is waited for, before and after.
    """

    def __enter__(self) -> Stopwatch:
        _wait_for_device()
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _wait_for_device()
        self._end = time.perf_counter(), time.process_time()

    def sample(self, amount: float, **details: Any) -> Sample:
        """The measurement of `amount` units."""
        seconds, cpu_seconds = (e - s for s, e in zip(self._start, self._end, strict=True))
        return Sample(amount, seconds, cpu_seconds, details)


def _wait_for_device() -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def serve(
    rows: Mapping[str, Build],
    facts: Callable[[argparse.Namespace], Mapping[str, Any]],
    argv: Sequence[str] | None,
    description: str,
) -> None:
    """Be a worker: the process's standard output carries JSON and nothing else from here on."""
    settings = parse_flags(WORKER_FLAGS, argv, description)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to standard error

    def answer(contents: Mapping[str, Any]) -> None:
        answers.write(json.dumps(contents) + "\n")
        answers.flush()

    with answers:
        repeat = rows[settings.row](settings)
        answer(facts(settings))
        for _ in sys.stdin:
            answer(asdict(repeat()))


class Worker:
    """A running worker. `facts` are what it said of itself once it was warm."""

    def __init__(self, module: str, row: str, data: Path, settings: argparse.Namespace) -> None:
        self._command = [sys.executable, "-m", module, f"--row={row}", f"--data={data}"]
        self._command += [f"--{flag.name}={getattr(settings, flag.name)}" for flag in SIZE_FLAGS]
        self._process = subprocess.Popen(
            self._command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.facts: dict[str, Any] = self._answer()

    def repeat(self) -> Sample:
        """Measure once. Raises ToolkitError if the worker fails."""
        assert self._process.stdin is not None
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        return Sample(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            command = " ".join(["python", *self._command[1:]])
            raise ToolkitError(f"{command} ended with exit code {code}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        if error is not None:
            self._process.kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
