"""The run folder: logs.csv, out.log, meta.json and the `latest` link."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from common.errors import ToolkitError, UsageError
from common.files import lock_alone, write_atomically

logger = logging.getLogger(__name__)


class RunFolder:
    """`<save_path>/<env_name>/<xpid>/`, created on construction.

    Raises ToolkitError naming the path if it cannot be made or written.
    """

    def __init__(self, save_path: str | Path, env_name: str, xpid: str) -> None:
        self.path = Path(save_path) / env_name / xpid
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ToolkitError(f"cannot write to {self.path}: {error.strerror}") from error
        self._link_latest()

    def _link_latest(self) -> None:
        link = self.path.parent / "latest"
        temporary = link.with_name(f".latest.{os.getpid()}")
        if link.exists() and not link.is_symlink():
            return  # somebody's run is called "latest"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.path.name)
        os.replace(temporary, link)

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Work in the folder alone; log lines, and the error that ends it, go to out.log.

        All lines do but those of other runs: see `speaking`.

        Raises ToolkitError if another process is at work in it.
        """
        with self._lock(), open(self.path / "out.log", "a", encoding="utf-8") as file:
            handler = logging.StreamHandler(file)
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            handler.addFilter(lambda record: _speaker.get() in (None, self))
            logging.getLogger().addHandler(handler)
            try:
                yield
            except (ToolkitError, OSError) as error:
                # To the file alone: the terminal is told by `run_command`.
                handler.emit(logging.makeLogRecord({"msg": "error: %s", "args": (error,)}))
                raise
            finally:
                logging.getLogger().removeHandler(handler)

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """What is logged meanwhile is of this run: it goes to no other run's out.log."""
        token = _speaker.set(self)
        try:
            yield
        finally:
            _speaker.reset(token)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        # On the folder itself: no file is left behind, and the lock ends with the process.
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            if not lock_alone(descriptor):
                raise ToolkitError(
                    f"another process is at work in {self.path}: wait for it, or give --xpid"
                )
            yield
        finally:
            os.close(descriptor)

    def write_json(self, name: str, contents: Mapping[str, Any]) -> None:
        """Write `contents` as indented JSON to the file `name` of the folder."""
        text = json.dumps(contents, indent=2, sort_keys=True, default=str)
        write_atomically(self.path / name, (text + "\n").encode())


# Whose work is being done, where several runs are in sessions; None if it is that of all.
_speaker: ContextVar[RunFolder | None] = ContextVar("speaker", default=None)


class CsvLog:
    """An append-only table whose columns are those of its first row."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row; the header is written first where the file is new.

        Raises ValueError for a column that the header lacks; a column that the row lacks is empty.
        """
        buffer = io.StringIO()
        try:
            columns = self._columns()
            writer = csv.DictWriter(buffer, columns or list(row))
            if not columns:
                writer.writeheader()
            writer.writerow(row)
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(buffer.getvalue())
        except OSError as error:
            raise ToolkitError(f"cannot write {self.path}: {error.strerror}") from error

    def _columns(self) -> list[str]:
        if not self.path.exists():
            return []
        with open(self.path, encoding="utf-8", newline="") as file:
            return next(csv.reader(file), [])

    def rows(self) -> list[dict[str, str]]:
        """Every row, as text by column."""
        if not self.path.exists():
            return []
        with open(self.path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def keep_rows(self, count: int) -> None:
        """Drop every row after the first `count`: an interrupted run will write them again."""
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8", newline="") as file:
            lines = file.read().splitlines(keepends=True)
        if count == 0:
            self.path.unlink()
        elif len(lines) > count + 1:
            write_atomically(self.path, "".join(lines[: count + 1]).encode())


def recorded_settings(run: Path) -> dict[str, Any]:
    """The settings in the meta.json of a run's folder; empty if it is not there, or broken."""
    try:
        settings = json.loads((run / "meta.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}


def require_settings(run: Path, settings: Mapping[str, Any]) -> None:
    """UsageError if the run, which is finished, has recorded other values of these settings."""
    recorded = recorded_settings(run)
    for name, value in settings.items():
        if name in recorded and recorded[name] != value:
            raise UsageError(
                f"--{name} {value}: the finished run in {run} has {name}={recorded[name]}: "
                "--xpid names another"
            )


def describe_run(settings: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """What meta.json holds: settings, versions, git commit, machine, Procgen build and `facts`.

    Never the environment variables: they hold credentials.
    """
    import gymnasium
    import numpy
    import torch

    from common.envs import procgen_build

    return {
        "settings": dict(settings),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "gymnasium": gymnasium.__version__,
        },
        "git_commit": _git_commit(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "procgen": procgen_build(),
        **facts,
    }


def _git_commit() -> str:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
