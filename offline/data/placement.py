"""Where the frames live while training: on the GPU if they fit, else in RAM, else on disk.

Frames are all but a thousandth of the bytes. Wherever they are, a batch is one gather of whole rows
of 12,288 bytes, and it is the same batch.
"""

from __future__ import annotations

import mmap
import os
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from common.errors import ToolkitError, UsageError
from common.games import FRAME_BYTES, FRAME_SHAPE
from offline.data.store import PackedStore, Selection, damaged

DataDevice = Literal["auto", "cuda", "ram", "mmap"]
GPU_MARGIN_BYTES = 4e9
GPU_MARGIN_SHARE = 0.1
RAM_SHARE = 0.6
_CHUNK_ROWS = 4096
# A row read through a map may bring this much into the process: Linux maps what the page cache has
# of the 64 KB around a touched page, and a frame may lie on two such stretches.
_MAPPED_BYTES = 2 * 65536
_BATCHES_AHEAD = 2


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
    """Frames left in the stores' files; the operating system keeps the recent ones in RAM.

    At most `budget` bytes of them belong to this process at a time; the page cache, which the
    system takes back where memory is short, may hold more. Without a budget the files are read
    ahead as a whole, once, in the background: for frames that fit into memory, since a copy of
    them would cost seconds at every start and the memory twice.
    """

    def __init__(
        self,
        selection: Selection,
        description: str,
        pin_memory: bool = False,
        budget: float | None = None,
    ) -> None:
        self._budget = budget
        self._mapped = 0
        self.batches_ahead = 0 if budget is None else _BATCHES_AHEAD
        self.device = torch.device("cpu")
        self.description = description
        self._pin_memory = pin_memory
        self._frames = [_as_tensor(store.frames) for store in selection.stores]
        store_of, starts, ends = np.array(list(selection.runs()), np.int64).T
        self._run_ends = np.cumsum(ends - starts)
        self._run_shift = ends - self._run_ends  # from the selection's numbering to the store's
        self._run_store = store_of
        self._files = [_open_frames(self, store) for store in selection.stores]
        self._maps = [_mapping(store.frames) for store in selection.stores]
        if budget is None:
            for store, start, end in selection.runs():
                self._announce(store, np.arange(start, end))

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        numbers = rows.numpy()
        run = np.searchsorted(self._run_ends, numbers, side="right")
        store_rows = torch.from_numpy(numbers + self._run_shift[run])
        stores = self._run_store[run]
        if self._budget is not None:
            self._keep_within(self._budget, len(rows))
            for store in np.unique(stores):
                self._announce(store, store_rows.numpy()[stores == store])
        if stores.size and (stores == stores[0]).all():
            return _select_rows(self._frames[stores[0]], store_rows, self._pin_memory)
        gathered = torch.empty((len(rows), *FRAME_SHAPE), dtype=torch.uint8)
        for store in np.unique(stores):
            here = torch.from_numpy(np.flatnonzero(stores == store))
            gathered.index_copy_(0, here, self._frames[store].index_select(0, store_rows[here]))
        return gathered.pin_memory() if self._pin_memory else gathered

    def _keep_within(self, budget: float, rows: int) -> None:
        """Hand back the mapped pages before `rows` more could be too many."""
        self._mapped += rows * _MAPPED_BYTES
        if self._mapped > budget:
            for frames in self._maps:
                frames.madvise(mmap.MADV_DONTNEED)
            self._mapped = rows * _MAPPED_BYTES

    def _announce(self, store: int, rows: np.ndarray) -> None:
        """Let the kernel fetch all rows at once: page fault by page fault takes 8 times as long."""
        if not hasattr(os, "posix_fadvise"):
            return
        descriptor, offset = self._files[store]
        rows = np.unique(rows)
        heads = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        counts = np.diff(heads, append=len(rows))
        for first, count in zip(rows[heads].tolist(), counts.tolist(), strict=True):
            start, size = offset + first * FRAME_BYTES, count * FRAME_BYTES
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_WILLNEED)


def _open_frames(owner: object, store: PackedStore) -> tuple[int, int]:
    """A descriptor of the frames' file, closed with its owner, and where in it the frames start."""
    descriptor = os.open(store.path / "frames.npy", os.O_RDONLY)
    weakref.finalize(owner, os.close, descriptor)
    return descriptor, os.fstat(descriptor).st_size - store.frames.nbytes


def _mapping(frames: np.ndarray) -> mmap.mmap:
    """The memory map that an array shows."""
    base: Any = frames
    while not isinstance(base, mmap.mmap):
        base = base.base
    return base


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


def place_frames(
    selection: Selection,
    device: torch.device,
    data_device: DataDevice = "auto",
    memory_budget_gb: float | None = None,
) -> Frames:
    """Put the selected frames where `device` gets at them fastest.

    `auto` takes the GPU if `device` is one and the frames leave a tenth of its memory, at least
    4 GB, free; else RAM if they fit into `memory_budget_gb` (default: 60% of the memory available
    to this process): copied and pinned for a GPU, the files' own pages for a CPU; else the files
    are read as needed. Frames of episodes not selected are not loaded.

    Raises UsageError if the place asked for does not exist or is too small.
    """
    if data_device not in get_args(DataDevice):
        choices = ", ".join(get_args(DataDevice))
        raise UsageError(f"data_device {data_device!r}: choose one of {choices}")
    if memory_budget_gb is not None and memory_budget_gb < 0:
        raise UsageError(f"memory_budget_gb {memory_budget_gb}: expected 0 or more")
    size = selection.num_rows * FRAME_BYTES
    on_gpu = device.type == "cuda"
    what = f"{size / 1e9:.1f} GB of frames"
    reasons = []
    if data_device in ("auto", "cuda") and on_gpu:
        free, total = torch.cuda.mem_get_info(device)
        room = free - max(GPU_MARGIN_BYTES, GPU_MARGIN_SHARE * total)
        if size <= room:
            return _load(selection, device, f"{what} on the GPU ({free / 1e9:.1f} GB free)")
        reasons.append(f"the GPU has room for {max(room, 0) / 1e9:.1f} GB")
    if data_device == "cuda":
        reason = reasons[0] if reasons else f"training runs on the {device.type}"
        raise UsageError(f"data_device cuda: {what} cannot go there: {reason}; choose auto")
    budget = _ram_budget(memory_budget_gb)
    if data_device in ("auto", "ram"):
        if size <= budget:
            reasons.append(f"the budget is {budget / 1e9:.1f} GB")
            description = f"{what} in RAM ({'; '.join(reasons)})"
            if data_device == "auto" and not on_gpu:
                return MappedFrames(selection, description)
            return _load(selection, torch.device("cpu"), description, pin_memory=on_gpu)
        reasons.append(f"the RAM budget is {budget / 1e9:.1f} GB")
    if data_device == "ram":
        raise UsageError(
            f"data_device ram: {what}, but {reasons[-1]}; choose auto or a larger memory_budget_gb"
        )
    reasons = reasons or ["as asked"]
    description = f"{what} read from disk as needed ({'; '.join(reasons)})"
    return MappedFrames(selection, description, pin_memory=on_gpu, budget=budget)


def _load(
    selection: Selection, device: torch.device, description: str, pin_memory: bool = False
) -> ResidentFrames:
    """Read the selected frames into one tensor, past the memory maps.

    Reading into NumPy's memory, which comes in huge pages where the system has them, takes a
    quarter of the time of copying from a map into memory of PyTorch's, and is gathered from faster.
    """
    on_gpu = device.type == "cuda"
    size = _CHUNK_ROWS if on_gpu else selection.num_rows
    memory = np.empty((size, *FRAME_SHAPE), np.uint8)
    shape = (selection.num_rows, *FRAME_SHAPE)
    frames = torch.empty(shape, dtype=torch.uint8, device=device) if on_gpu else None
    row = 0
    for store, first, end in _chunks(selection):
        count = end - first
        chunk = memory[:count] if on_gpu else memory[row : row + count]
        read_frames(store, first, chunk)
        if frames is not None:
            frames[row : row + count].copy_(torch.from_numpy(chunk))
        row += count
    resident = torch.from_numpy(memory) if frames is None else frames
    return ResidentFrames(resident, description, pin_memory)


def _chunks(selection: Selection) -> Iterator[tuple[PackedStore, int, int]]:
    for store, start, end in selection.runs():
        for first in range(start, end, _CHUNK_ROWS):
            yield selection.stores[store], first, min(first + _CHUNK_ROWS, end)


def read_frames(store: PackedStore, first: int, chunk: np.ndarray) -> None:
    """Fill `chunk` (n, 64, 64, 3) with the store's rows from `first` on."""
    path = store.path / "frames.npy"
    try:
        with open(path, "rb", buffering=0) as file:
            header = os.fstat(file.fileno()).st_size - store.frames.nbytes
            file.seek(header + first * FRAME_BYTES)
            if file.readinto(chunk.data.cast("B")) != chunk.nbytes:
                raise damaged(store.path, f"{path.name} is shorter than it was")
    except OSError as error:
        raise ToolkitError(f"cannot read {path}: {error.strerror or error}") from error


def _ram_budget(memory_budget_gb: float | None) -> float:
    if memory_budget_gb is not None:
        return memory_budget_gb * 1e9
    return RAM_SHARE * available_memory()


def available_memory() -> int:
    """Bytes this process can still take: of the machine, or of its control group if less."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    machine = Path("/proc/meminfo")
    if machine.is_file():
        for line in machine.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    for group in _control_groups():
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            statistics = (group / "memory.stat").read_text().split()
        except (OSError, ValueError):  # no such controller, or "max": no limit here
            continue
        cached = int(statistics[statistics.index("inactive_file") + 1])
        available = min(available, limit - used + cached)
    return max(available, 0)


def _control_groups() -> Iterator[Path]:
    """The version 2 control group of this process and its parents: Slurm sets limits there."""
    root = Path("/sys/fs/cgroup")
    membership = Path("/proc/self/cgroup")
    if not membership.is_file():
        return
    for line in membership.read_text().splitlines():
        if line.startswith("0::"):
            group = root / line[3:].lstrip("/")
            yield group
            yield from (parent for parent in group.parents if parent.is_relative_to(root))
