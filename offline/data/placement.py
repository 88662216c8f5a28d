"""Where the frames live while training: on the GPU if they fit, else in RAM, else on disk.

Frames are all but a thousandth of the bytes. Wherever they are, a batch is one gather of whole rows
of 12,288 bytes, and it is the same batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from common.errors import UsageError
from common.games import FRAME_BYTES, FRAME_SHAPE
from offline.data.frames import FileFrames, Frames, MappedFrames, ResidentFrames, read_frames
from offline.data.store import PackedStore, Selection

DataDevice = Literal["auto", "cuda", "ram", "mmap"]
GPU_MARGIN_BYTES = 4e9
GPU_MARGIN_SHARE = 0.1
RAM_SHARE = 0.6
_CHUNK_ROWS = 4096
_GPU_IS_FULL = "the GPU ran out of memory with them"


def place_frames(
    selection: Selection,
    device: torch.device,
    data_device: DataDevice = "auto",
    memory_budget_gb: float | None = None,
    gpu_is_full: bool = False,
) -> Frames:
    """Put the selected frames where `device` gets at them fastest.

    `auto` takes the GPU if `device` is one and the frames leave a tenth of its memory, at least
    4 GB, free; else RAM if they fit into `memory_budget_gb` (default: 60% of the memory available
    to this process): copied and pinned for a GPU, the files' own pages for a CPU; else the files
    are read as needed. Frames of episodes not selected are not loaded. Where the GPU runs out of
    memory while they are copied to it, or has done so before (`gpu_is_full`), they go to the next
    place, though `cuda` was asked for.

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
    if on_gpu and gpu_is_full and data_device in ("auto", "cuda"):
        data_device = "auto"
        reasons.append(_GPU_IS_FULL)
    elif data_device in ("auto", "cuda") and on_gpu:
        free, total = torch.cuda.mem_get_info(device)
        room = free - max(GPU_MARGIN_BYTES, GPU_MARGIN_SHARE * total)
        if size <= room:
            description = f"{what} on the GPU ({free / 1e9:.1f} GB free)"
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                return _load(selection, device, description)
            torch.cuda.empty_cache()  # gives back the part that had found room
            return place_frames(selection, device, data_device, memory_budget_gb, True)
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
    return FileFrames(selection, description, pin_memory=on_gpu)


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
