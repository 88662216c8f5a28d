"""Checkpoint files: written whole or not at all, read without trust."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from common.errors import ToolkitError
from common.files import write_atomically

FORMAT_VERSION = 1

# What zipfile and torch raise on damaged or hostile bytes.
_READ_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def save(path: Path, kind: str, contents: dict[str, Any]) -> None:
    """Write `contents` (tensors, numbers, text, lists, dicts) as a checkpoint of this `kind`."""
    buffer = io.BytesIO()
    torch.save({"kind": kind, "format_version": FORMAT_VERSION, **contents}, buffer)
    write_atomically(path, buffer.getbuffer())


def load(path: Path, kind: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of this `kind` without running code from it.

    Raises ToolkitError naming the file if it is missing, corrupt, of another kind or newer.
    """
    if not path.is_file():
        raise ToolkitError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch reads on past wrong checksums
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        contents = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ToolkitError(
            f"{path} is refused: it holds more than tensors, numbers, text and containers of them"
        ) from error
    except _READ_ERRORS as error:
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        raise ToolkitError(f"{path} is no readable checkpoint ({reason})") from error
    if not isinstance(contents, dict) or contents.get("kind") != kind:
        found = contents.get("kind") if isinstance(contents, dict) else type(contents).__name__
        raise ToolkitError(f"{path} is not a checkpoint of kind {kind!r} (found {found!r})")
    version = contents.get("format_version")
    if not isinstance(version, int):
        raise ToolkitError(f"{path} is no readable checkpoint (format version {version!r})")
    if version > FORMAT_VERSION:
        raise ToolkitError(f"{path} was written by a newer version of this toolkit")
    return contents


def load_weights(module: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Put `weights` into `module`; ToolkitError if they are those of another architecture."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ToolkitError(f"{path} holds another architecture ({reason})") from error
