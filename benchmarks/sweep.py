"""Give the README's sweep from its grid to its table, and time it: python -m benchmarks.sweep

Copies the toolkit into a folder of its own, gives the five commands there exactly as README.md
writes them, and prints the time of each. The third tells how the second is doing, so it is given
as soon as a first run has finished. The built-in data are collected there anew, by the first run
that needs them, unless --built_in_data names a folder that has them.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import ToolkitError, UsageError
from common.flags import Flag, parse_flags, run_command
from offline.arguments import TRAIN_FLAGS

FLAGS = (
    Flag("folder", str, "", "New folder for the copy, which stays; empty takes a temporary one."),
    Flag("built_in_data", str, "", "Built-in data to use, data/built-in; empty collects them."),
    Flag(
        "set",
        str,
        (),
        "Other defaults of the runs, for a small sweep: num_final_episodes=2.",
        many=True,
    ),
)
DEFAULTS = Path("configs", "offline", "default.json")
_ROOT = Path(__file__).resolve().parents[1]
# What the commands of a sweep need.
_PARTS = ("common", "offline", "online", "train_scripts", "configs", "README.md")
_POLL_SECONDS = 0.2


class Given(NamedTuple):
    """A command that was given, the seconds it took, of clock and of processors, and its output."""

    command: str
    seconds: float
    processor_seconds: float
    output: str


def readme_commands(readme: Path) -> list[str]:
    """The commands of the README's section on sweeps, as written there: those that run here, then
    those for a Slurm cluster.
    """
    section = readme.read_text(encoding="utf-8").split("\n## Sweeps\n")[1].split("\n## ")[0]
    return re.findall(r"^    (python -m .*)$", section, re.MULTILINE)


def copy_toolkit(
    folder: Path, built_in_data: Path | None = None, defaults: Mapping[str, object] | None = None
) -> None:
    """The toolkit in a new folder, with these built-in data and other `defaults` of the runs."""
    folder.mkdir(parents=True)
    left_out = shutil.ignore_patterns("__pycache__")
    for name in _PARTS:
        if (_ROOT / name).is_dir():
            shutil.copytree(_ROOT / name, folder / name, ignore=left_out)
        else:
            shutil.copy(_ROOT / name, folder / name)
    if built_in_data is not None:
        (folder / "data").mkdir()
        (folder / "data" / "built-in").symlink_to(built_in_data.resolve())
    settings = json.loads((folder / DEFAULTS).read_text(encoding="utf-8")) | dict(defaults or {})
    (folder / DEFAULTS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def python_first(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which `python` is the one that runs this."""
    path = environment.get("PATH", os.defpath)
    return {**environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{path}"}


def give_sweep(folder: Path) -> list[Given]:
    """Give the five commands in a copy of the toolkit. Raises ToolkitError if one fails."""
    make, run, status, evaluate, report = readme_commands(folder / "README.md")[:5]
    given = [_give(make, folder)]
    before, start = _processor_seconds(), time.monotonic()
    running = _start(run, folder)
    try:
        while running.poll() is None and not list(folder.glob("runs/offline/*/*/final_model.pt")):
            time.sleep(_POLL_SECONDS)
        told = _give(status, folder)
        running.communicate()
    finally:
        running.terminate()  # nothing, where it has ended
    _demand_success(run, running.wait())
    seconds = time.monotonic() - start
    used = _processor_seconds() - before - told.processor_seconds
    given += [Given(run, seconds, used, ""), told]
    return [*given, _give(evaluate, folder), _give(report, folder)]


def _give(command: str, folder: Path) -> Given:
    before, start = _processor_seconds(), time.monotonic()
    process = _start(command, folder)
    output, _ = process.communicate()
    _demand_success(command, process.returncode)
    return Given(command, time.monotonic() - start, _processor_seconds() - before, output)


def _start(command: str, folder: Path) -> subprocess.Popen[str]:
    # A shell, as the user's: the first command appends to a file.
    return subprocess.Popen(
        command,
        shell=True,
        cwd=folder,
        env=python_first(os.environ),
        stdout=subprocess.PIPE,
        text=True,
    )


def _demand_success(command: str, code: int) -> None:
    if code:
        raise ToolkitError(f"exit code {code}: {command}")


def _processor_seconds() -> float:
    """Of all that this process has started and waited for, and of what those have."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def table(given: Sequence[Given]) -> str:
    """One line per command, with its minutes, and one for all of them."""
    rows = [(g.seconds, g.processor_seconds, g.command) for g in given]
    # The third ran beside the second.
    status = next(g.seconds for g in given if "train_scripts.status" in g.command)
    total = sum(g.seconds for g in given) - status
    rows.append((total, sum(g.processor_seconds for g in given), "in all"))
    lines = [f"{a / 60:7.2f}  {b / 60:9.2f}  {name}" for a, b, name in rows]
    return "\n".join(["minutes  processor  command", *lines])


def _settings(words: Sequence[str]) -> dict[str, object]:
    """`name=value` each, as a flag of training takes it."""
    known = {flag.name: flag for flag in TRAIN_FLAGS}
    settings = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in known:
            raise UsageError(f"--set {word}: write <name>=<value>, for a flag of training")
        settings[name] = known[name].parse(text)
    return settings


def _sweep(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    defaults = _settings(settings.set)
    data = Path(settings.built_in_data) if settings.built_in_data else None
    if data is not None and not data.is_dir():
        raise UsageError(f"--built_in_data {data}: no such folder")
    if settings.folder and Path(settings.folder).exists():
        raise UsageError(f"--folder {settings.folder} is there already: name a new one")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(settings.folder or f"{temporary}/toolkit")
        copy_toolkit(folder, data, defaults)
        given = give_sweep(folder)
        print(next(g.output for g in given if "train_scripts.status" in g.command))
        print(table(given))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_sweep, argv)


if __name__ == "__main__":
    sys.exit(main())
