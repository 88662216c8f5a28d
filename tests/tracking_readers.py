"""What TensorBoard and W&B hold of a run, read back from their files, to compare with logs.csv."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROWS = [
    {"epoch": epoch, "loss": 1 / epoch, "rets": 10.0 * epoch} for epoch in (2, 4, 6, 7)
]  # of a small logs.csv
# By column: the step and the value of every row, in order.
Series = dict[str, list[tuple[int, float]]]

BLOCK_BYTES = 32768  # of a .wandb file, which is a log of LevelDB's format behind a header
FILE_HEADER, RECORD_HEADER = struct.Struct("<4sHB"), struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def series_of(rows: Sequence[Mapping[str, str]], step: str, dtype: type = float) -> Series:
    """The rows of logs.csv as series over the column `step`, rounded to `dtype`."""
    return {
        name: [(int(row[step]), float(dtype(row[name]))) for row in rows]
        for name in rows[0]
        if name != step
    }


def tensorboard_series(folder: Path, purge: bool = True) -> Series:
    """Every scalar below `folder` as TensorBoard reads it; without `purge`, as it was written."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    read = EventAccumulator(str(folder), {SCALARS: 0}, purge_orphaned_data=purge)
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()[SCALARS]
    }


def assert_tensorboard_holds(folder: Path, rows: Sequence[Mapping[str, str]], step: str) -> None:
    """The event files of `folder` hold these rows, as 32-bit floats, and each of them once."""
    expected = series_of(rows, step, np.float32)
    assert tensorboard_series(folder) == expected
    assert tensorboard_series(folder, purge=False) == expected


def _payloads(path: Path) -> Iterator[bytes]:
    contents = path.read_bytes()
    assert contents[:4] == b":W&B"
    position, parts = FILE_HEADER.size, b""
    while position + RECORD_HEADER.size <= len(contents):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < RECORD_HEADER.size:  # the rest of the block is padding
            position += left
            continue
        _, length, kind = RECORD_HEADER.unpack_from(contents, position)
        position += RECORD_HEADER.size
        parts += contents[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield parts
            parts = b""


def wandb_records(path: Path) -> list[Any]:
    """The records of a .wandb file, as W&B's own messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(payload) for payload in _payloads(path)]


def wandb_series(rows: Sequence[Mapping[str, Any]]) -> Series:
    """Rows of W&B's history as series; what W&B adds of its own begins with an underscore."""
    series: Series = {}
    for row in rows:
        for name, value in row.items():
            if not name.startswith("_"):
                series.setdefault(name, []).append((int(row["_step"]), value))
    return series


def offline_wandb(run_folder: Path) -> tuple[Any, Series]:
    """The run record and the history of the one offline run that the folder holds."""
    (path,) = run_folder.glob("wandb/offline-run-*/run-*.wandb")
    records = wandb_records(path)
    (run,) = (record.run for record in records if record.HasField("run"))
    history = [
        {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records
        if record.HasField("history")
    ]
    return run, wandb_series(history)


def wandb_config(run: Any) -> dict[str, Any]:
    """The settings that a run record carries."""
    return {
        item.key: json.loads(item.value_json)
        for item in run.config.update
        if not item.key.startswith("_")
    }


def without_login(home: Path, **variables: str) -> dict[str, str]:
    """The environment of somebody who never logged in to W&B; `variables` are added."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, "HOME": str(home), "NETRC": str(home / "netrc"), **variables}
