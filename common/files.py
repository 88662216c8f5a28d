"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from common.errors import ToolkitError


def readable(text: object) -> str:
    r"""Its text, with escapes such as \udce9 in place of bytes of a name that are no UTF-8.

    Python keeps such bytes of a file's name as lone surrogates, which no file, terminal or URL
    takes.
    """
    return str(text).encode("utf-8", "backslashreplace").decode()


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk and not only to its cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_alone(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; False if another process holds the lock.

    The kernel frees it when the process ends, however it ends. A network file system that cannot
    lock keeps nobody out.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data`: a reader, a crash or a full disk finds old or new, never half.

    Raises ToolkitError naming the file if it cannot be written; the previous file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ToolkitError(f"cannot write {path}: {error.strerror or error}") from error
