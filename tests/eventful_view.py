"""A view during which something happens, for tests of runs that are interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np

from offline.data.views import View


class Eventful:
    """A view that passes batches on; while it makes number `when` (from 1), something happens."""

    batches_ahead = 0
    leave_gpu: Callable[[], str] | None = None

    def __init__(self, view: View, when: int, event: Callable[[], object]) -> None:
        self.view = view
        self.when = when
        self.event = event
        self.made = 0

    def __len__(self) -> int:
        return len(self.view)

    def gather(self, indices: np.ndarray) -> Any:
        raise AssertionError("batches are wanted on a CPU")

    def batch(self, indices: np.ndarray) -> Any:
        self.made += 1
        if self.made == self.when:
            self.event()
        return self.view.batch(indices)


def be_terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
