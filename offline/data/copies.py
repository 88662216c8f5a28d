"""Batches on their way from the host to a CUDA card while the card computes the step before."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any

import numpy as np
import torch

from offline.data.ahead import read_ahead
from offline.data.views import Batch, View, move_batch


def copies_to(device: torch.device) -> CopiesAhead | None:
    """What brings batches to a card; nothing does to a CPU."""
    return CopiesAhead(device) if device.type == "cuda" else None


def batches_in_order(
    view: View, orders: Iterable[np.ndarray], copies: CopiesAhead | None
) -> Generator[Any, None, None]:
    """The batches of these samples on the view's device, made ahead of use where that takes time.

    `copies` serve a card that has not got the frames itself.
    """
    if copies is None or view.leave_gpu is not None:
        return read_ahead(map(view.batch, orders), view.batches_ahead)
    return copies.of(read_ahead(map(view.gather, orders), view.batches_ahead))


class CopiesAhead:
    """Copies batches to `device` on a stream of their own, one ahead of use.

    On the stream of the steps a copy would start only when the step before it has ended. One
    object serves a whole run: PyTorch keeps freed memory for the stream that it was taken on.
    Batches whose tensors are on the card already pass through it unchanged.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def of(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        """The batches in their order, each ready for the stream that is current when it is asked.

        Closing it closes `batches`.
        """
        with closing(batches):
            waiting: tuple[Batch, torch.cuda.Event] | None = None
            for batch in batches:
                started = self._start(batch)
                if waiting is not None:
                    yield self._ready(*waiting)
                waiting = started
            if waiting is not None:
                yield self._ready(*waiting)

    def _start(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """The batch as it will be on the card, and what happens once it is there."""
        # What batches before were is free for this one, but the steps that read them may not have
        # run yet. The step that this copy is to run beside is not in the queue yet.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            moved = move_batch(_pinned(batch), self._device)
        return moved, self._stream.record_event()

    def _ready(self, batch: Batch, copied: torch.cuda.Event) -> Batch:
        torch.cuda.current_stream(self._device).wait_event(copied)
        return batch


def _pinned(batch: Batch) -> Batch:
    """The batch in memory that the card reads by itself: the host waits for copies of other."""
    fields: list[Any] = [
        f if f is None or f.is_cuda or f.is_pinned() else f.pin_memory() for f in batch
    ]
    return type(batch)(*fields)
