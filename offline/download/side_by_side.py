"""Work on several files at a time: a thread and a progress bar for each, and one way to stop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from common.errors import ToolkitError
from common.interrupts import StopRequest

_SECONDS_TO_STOP = 5.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class Cancelled(ToolkitError):
    """Raised in the threads when all work is to end; what has been done stays."""


class Outcome(threading.Thread, Generic[Item, Result]):
    """The thread that works on one item, and how it went: `failure` is None or one line."""

    result: Result

    def __init__(self, work: Callable[[Item], Result], item: Item) -> None:
        # Daemon: a thread that waits for the network must not keep a stopped process alive.
        super().__init__(daemon=True)
        self.item = item
        self.failure: str | None = "a bug of ours, see the traceback above"
        self._work = work

    def run(self) -> None:
        try:
            self.result = self._work(self.item)
            self.failure = None
        except ToolkitError as error:
            self.failure = str(error)
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            self.failure = f"{name}{error.strerror or error}"


def side_by_side(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    stop: StopRequest,
    cancelled: threading.Event,
) -> list[Outcome[Item, Result]]:
    """Do `work` on each item in a thread of its own and wait; the failure of one stops no other.

    When `stop` is set, `cancelled` is, and the call returns once the threads have ended; one that
    hangs in a call to the network is left to itself after five seconds.
    """
    outcomes = [Outcome(work, item) for item in items]
    for outcome in outcomes:
        outcome.start()
    deadline = float("inf")
    for outcome in outcomes:
        while outcome.is_alive() and time.monotonic() < deadline:
            outcome.join(0.1)
            if stop.signal_number is not None and not cancelled.is_set():
                cancelled.set()
                deadline = time.monotonic() + _SECONDS_TO_STOP
    return outcomes


class Bars:
    """One progress bar per file that is being worked on, and one over all; none without a terminal.

    Where a bar is told of progress, the thread ends with Cancelled if all work is to end.
    """

    def __init__(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled
        self._overall: tqdm[Any] | None = None

    @contextlib.contextmanager
    def overall(self, total: int) -> Iterator[None]:
        """Inside, every progress counts in one more bar, of `total` bytes."""
        with _bar("all", total) as self._overall:
            yield
        self._overall = None

    @contextlib.contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of `total` bytes, as the function to call with the bytes that were added to it."""
        with _bar(label, total, leave=False) as bar:

            def advance(count: int) -> None:
                if self._cancelled.is_set():
                    raise Cancelled("stopped")
                with tqdm.get_lock():  # the overall bar belongs to all threads
                    bar.update(count)
                    if self._overall is not None:
                        self._overall.update(count)

            yield advance


def _bar(label: str, total: int, leave: bool = True) -> tqdm[Any]:
    return tqdm(
        total=total, desc=label, unit="B", unit_scale=True, leave=leave, disable=None, smoothing=0.1
    )
