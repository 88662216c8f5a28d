"""Stopping politely: SIGTERM and Ctrl-C set a flag that loops look at between batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

from common.errors import ToolkitError

T = TypeVar("T")


class Stopped(ToolkitError):
    """The user or the cluster asked the run to stop; its state has been written."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Context manager; `signal_number` is set once SIGTERM or SIGINT has arrived.

    A second signal acts at once, as it would without this. Outside the main thread, to which alone
    Python gives signals, none is noted.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def watch(self, items: Iterable[T], message: str) -> Iterator[T]:
        """The items; raises Stopped with `message` before the next one once a signal has arrived.

        For work by several threads: KeyboardInterrupt may strike while a thread is being started,
        which then goes on alone.
        """
        for item in items:
            if self.signal_number is not None:
                raise Stopped(message, self.signal_number)
            yield item

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
