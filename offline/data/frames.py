"""The frames of a selection, wherever they live: a batch is one gather of whole rows.

In one tensor (ResidentFrames), in files that the memory can hold (MappedFrames) or in files that it
cannot (FileFrames). Frames are all but a thousandth of the bytes; wherever they are, the batch is
the same.
"""

from __future__ import annotations

import os
import warnings
import weakref
from typing import Protocol

import numpy as np
import torch

from common.errors import ToolkitError
from common.games import FRAME_BYTES, FRAME_SHAPE
from offline.data.store import PackedStore, Selection, damaged


class Frames(Protocol):
    """The frames of a selection.

    `device` is where row numbers are wanted and gathered frames come out, `description` one line
    that says where the frames are and why. Batches are best made `batches_ahead` of use, by
    another thread: 0 unless a gather may wait for a disk.
    """

    device: torch.device
    description: str
    batches_ahead: int

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Frames (n, 64, 64, 3) uint8 of rows (n,) int64, numbered as in the selection."""


class ResidentFrames:
    """All selected frames in one tensor, in RAM or on the GPU."""

    batches_ahead = 0

    def __init__(self, frames: torch.Tensor, description: str, pin_memory: bool = False) -> None:
        self.device = frames.device
        self.description = description
        self._frames = frames
        self._pin_memory = pin_memory

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        # index_select, not frames[rows]: on a CPU that is ten times slower (uint8, element-wise).
        return _select_rows(self._frames, rows, self._pin_memory)


class MappedFrames:
    """Frames that fit into memory, left in the stores' files, which are read ahead as a whole.

    The operating system then has them in RAM, in the background and once for all processes; a copy
    of them would cost seconds at every start and the memory twice.
    """

    batches_ahead = 0

    def __init__(self, selection: Selection, description: str) -> None:
        self.device = torch.device("cpu")
        self.description = description
        self._rows = _RowsInStores(selection)
        self._frames = [_as_tensor(store.frames) for store in selection.stores]
        files = [_FrameFile(store) for store in selection.stores]
        for store, start, end in selection.runs():
            files[store].announce(start, end - start)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        stores, store_rows = self._rows.find(rows.numpy())
        if (stores == stores[0]).all():
            return self._frames[stores[0]].index_select(0, torch.from_numpy(store_rows))
        gathered = torch.empty((len(rows), *FRAME_SHAPE), dtype=torch.uint8)
        for store in np.unique(stores):
            here = np.flatnonzero(stores == store)
            frames = self._frames[store].index_select(0, torch.from_numpy(store_rows[here]))
            gathered.index_copy_(0, torch.from_numpy(here), frames)
        return gathered


class FileFrames:
    """Frames that do not fit into memory, read from the stores' files as they are needed.

    Not through a memory map: every touched page brings its neighbours into the process, up to 2 MB
    of them for a frame of 12 KB, and they would stay. Only a batch is held here; the page cache may
    hold more, which the system takes back where memory is short.
    """

    batches_ahead = 2

    def __init__(self, selection: Selection, description: str, pin_memory: bool = False) -> None:
        self.device = torch.device("cpu")
        self.description = description
        self._pin_memory = pin_memory
        self._rows = _RowsInStores(selection)
        self._files = [_FrameFile(store) for store in selection.stores]

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        unique, places = np.unique(rows.numpy(), return_inverse=True)
        stores, store_rows = self._rows.find(unique)
        # A row and its next state, and what else lies side by side, is one read.
        breaks = (np.diff(store_rows) != 1) | (np.diff(stores) != 0)
        heads = np.flatnonzero(np.append(True, breaks))
        ends = np.append(heads[1:], len(unique))
        columns = (stores[heads], store_rows[heads], heads, ends)
        stretches = list(zip(*(column.tolist() for column in columns), strict=True))
        for store, first, head, end in stretches:
            self._files[store].announce(first, end - head)
        frames = np.empty((len(unique), *FRAME_SHAPE), np.uint8)
        for store, first, head, end in stretches:
            self._files[store].read(first, frames[head:end])
        return _select_rows(torch.from_numpy(frames), torch.from_numpy(places), self._pin_memory)


class _RowsInStores:
    """Where the rows of a selection, numbered from 0, lie in its stores."""

    def __init__(self, selection: Selection) -> None:
        self._store, starts, ends = np.array(list(selection.runs()), np.int64).T
        self._ends = np.cumsum(ends - starts)
        self._shift = ends - self._ends

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store and row in it, (n,) int64 each, of rows (n,)."""
        run = np.searchsorted(self._ends, rows, side="right")
        return self._store[run], rows + self._shift[run]


class _FrameFile:
    """The file of a store's frames, open for reading; closed when it is forgotten."""

    def __init__(self, store: PackedStore) -> None:
        self._store = store
        self._path = store.path / "frames.npy"
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
            self._start = os.fstat(self._descriptor).st_size - store.frames.nbytes
        except OSError as error:
            raise self._unreadable(error) from error

    def announce(self, first: int, count: int) -> None:
        """Let the kernel fetch these rows, beside others: one by one takes 8 times as long."""
        if hasattr(os, "posix_fadvise"):
            start, size = self._start + first * FRAME_BYTES, count * FRAME_BYTES
            os.posix_fadvise(self._descriptor, start, size, os.POSIX_FADV_WILLNEED)

    def read(self, first: int, frames: np.ndarray) -> None:
        """Fill `frames` (n, 64, 64, 3) with the rows from `first` on."""
        rest, position = frames.data.cast("B"), self._start + first * FRAME_BYTES
        try:
            while rest:  # the kernel reads 2 GB at a time at most
                count = os.preadv(self._descriptor, [rest], position)
                if count == 0:
                    raise damaged(self._store.path, f"{self._path.name} is shorter than it was")
                rest, position = rest[count:], position + count
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> ToolkitError:
        return ToolkitError(f"cannot read {self._path}: {error.strerror or error}")


def read_frames(store: PackedStore, first: int, frames: np.ndarray) -> None:
    """Fill `frames` (n, 64, 64, 3) uint8 with the store's rows from `first` on, past its map.

    Raises ToolkitError if the file cannot be read or is shorter than it was.
    """
    _FrameFile(store).read(first, frames)


def _as_tensor(frames: np.ndarray) -> torch.Tensor:
    """Share read-only frames with PyTorch; it warns that they must not be written, and none are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
        return torch.from_numpy(frames)


def _select_rows(frames: torch.Tensor, rows: torch.Tensor, pin_memory: bool) -> torch.Tensor:
    if not pin_memory:
        return frames.index_select(0, rows)
    pinned = torch.empty((len(rows), *FRAME_SHAPE), dtype=torch.uint8, pin_memory=True)
    return torch.index_select(frames, 0, rows, out=pinned)
