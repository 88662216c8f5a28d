"""The containers an episode comes in: from an untrusted file to four named arrays, unchecked.

`.npz` archives, pickled dictionaries and dictionaries wrapped by `np.save` are told apart by their
first bytes. No code runs, and no memory is taken before the sizes a header claims are compared with
the bytes that are there.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from common.games import FRAME_SHAPE
from common.safe_pickle import load_plain

MAX_EPISODE_BYTES = 2**30  # 6000 steps, the longest of any game, are 0.6 GB as float64
_MAX_COLUMN_BYTES = 64 * 2**20
_MAX_DEFLATE_RATIO = 1032  # of zlib: a larger claim is a lie
_MAX_HEADER_BYTES = 10_000
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?[A-Za-z]\d*)', 'fortran_order': (True|False), "
    r"'shape': \(([\dL, ]*)\),? *\}\s*"
)
_KEYS = ("actions", "rewards", "dones", "observations")
_CHW = (FRAME_SHAPE[2], FRAME_SHAPE[0], FRAME_SHAPE[1])


class MalformedError(ValueError):
    """What is wrong with an episode file, before its name is added."""


def read_arrays(file: BinaryIO) -> Mapping[str, np.ndarray]:
    """The arrays `observations`, `actions`, `rewards` and `dones` of an open episode file.

    Raises MalformedError, or PickleRefusedError for a pickle that holds more than plain values.
    """
    magic = file.read(6)
    file.seek(0)
    if not magic:
        raise MalformedError("empty file")
    if magic[:2] == b"PK":
        return _read_npz(file)
    if magic == b"\x93NUMPY":
        _, _, dtype = _read_header(file)
        if not dtype.hasobject:
            raise MalformedError(f"a bare {dtype} array, expected a dictionary of {list(_KEYS)}")
    contents = load_plain(file)
    if not isinstance(contents, dict):
        raise MalformedError(f"holds a {type(contents).__name__}, expected a dictionary")
    _require_keys(contents)
    return {key: _as_array(key, contents[key]) for key in _KEYS}


def _as_array(key: str, value: object) -> np.ndarray:
    if isinstance(value, list) and key != "observations":
        try:
            return np.asarray(value)
        except ValueError as error:
            raise MalformedError(f"{key} is a ragged list") from error
    if not isinstance(value, np.ndarray):
        raise MalformedError(f"{key} is a {type(value).__name__}, expected an array")
    return value


def _require_keys(contents: Mapping[Any, object]) -> None:
    missing = [key for key in _KEYS if key not in contents]
    if missing:
        raise MalformedError(f"lacks {', '.join(missing)}; it holds {sorted(map(str, contents))}")


def _read_npz(file: BinaryIO) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            _require_keys(members)
            end = file.seek(0, io.SEEK_END)
            arrays: dict[str, np.ndarray] = {}
            for key in _KEYS:  # the short ones first: they bound the frames
                if members[key].compress_size > end:
                    raise MalformedError(f"{key} claims more bytes than the file has")
                arrays[key] = _read_member(archive, members[key], key, arrays)
            return arrays
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        RuntimeError,
        UnicodeDecodeError,
    ) as error:
        raise MalformedError(f"truncated or broken archive ({error})") from error


def _read_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, before: Mapping[str, np.ndarray]
) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise MalformedError(f"{key} is compressed by method {info.compress_type}, not as by NumPy")
    with archive.open(info) as member:
        shape, fortran, dtype = _read_header(member)
        if dtype.hasobject or dtype.kind not in "biuf":
            raise MalformedError(f"{key} is an array of {dtype}, expected numbers")
        size = math.prod(shape) * dtype.itemsize
        limit = MAX_EPISODE_BYTES if key == "observations" else _MAX_COLUMN_BYTES
        plausible = info.compress_size * _MAX_DEFLATE_RATIO + 1024
        if size > min(limit, plausible) or size + member.tell() != info.file_size:
            raise MalformedError(f"{key} claims shape {shape} of {dtype}, {size} bytes, in vain")
        if key == "observations":
            require_frames(shape, before["actions"].shape)
        data = bytearray(size)
        filled = 0
        while filled < size:
            part = member.read(min(size - filled, 1 << 20))
            if not part:
                raise MalformedError(f"{key} ends after {filled} of {size} bytes")
            data[filled : filled + len(part)] = part
            filled += len(part)
        member.read(1)  # reaching the end is what verifies the checksum
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of the array that starts at the file's position.

    NumPy's own reader evaluates the header as Python, and lets its parser's errors through.
    """
    prefix = file.read(8)
    size_bytes = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}.get(prefix)
    if size_bytes is None:
        raise MalformedError(f"an array starts with {prefix!r}, expected format 1.0 or 2.0")
    size = int.from_bytes(file.read(size_bytes), "little")
    header = file.read(min(size, _MAX_HEADER_BYTES)).decode("latin1")
    match = _HEADER.fullmatch(header)
    try:
        if match is None or len(header) != size:
            raise ValueError(header)
        dtype = np.dtype(match[1])
        shape = tuple(int(n.rstrip("L ")) for n in match[3].split(",") if n.strip())
    except (TypeError, ValueError) as error:
        raise MalformedError(f"broken array header {header[:80]!r}") from error
    return shape, match[2] == "True", dtype


def require_frames(shape: tuple[int, ...], actions_shape: tuple[int, ...]) -> None:
    """Refuse observations that are not one CHW frame more than there are actions."""
    if not actions_shape or actions_shape[0] == 0:
        raise MalformedError(f"no steps: actions have shape {actions_shape}")
    expected = (actions_shape[0] + 1, *_CHW)
    if shape != expected:
        raise MalformedError(
            f"observations have shape {shape}, expected {expected} for {actions_shape[0]} actions"
        )
