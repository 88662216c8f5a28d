"""Print, save or submit the commands of a grid: python -m train_scripts.cmd_generator

Makes the commands as train_scripts.make_cmd does. --action SAVE writes them to a file, and SLURM
submits that file as train_scripts.slurm does, whose flags it takes. Flags may be shortened as long
as they stay unique.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.errors import UsageError
from common.files import write_atomically
from common.flags import Flag, parse_flags, run_command
from train_scripts import slurm
from train_scripts.command_file import MODULE_NAMES
from train_scripts.grid import to_arguments
from train_scripts.make_cmd import GRID_FLAGS, as_text, make_commands, write_out

logger = logging.getLogger(__name__)

# The file is --out, and the module is that of the commands.
SUBMIT_FLAGS = tuple(flag for flag in slurm.FLAGS if flag.name not in ("path", "module_name"))
FLAGS = (
    *GRID_FLAGS,
    Flag(
        "action", str, "PRINT", "What to do with the commands.", choices=("PRINT", "SAVE", "SLURM")
    ),
    Flag("out", str, "", "File of commands; empty takes <grid_config>_commands.txt."),
    *SUBMIT_FLAGS,
)


def _generate(argv: Sequence[str] | None) -> int:
    settings = parse_flags(FLAGS, argv, __doc__ or "", abbreviations=True)
    submits = settings.action == "SLURM"
    for flag in () if submits else SUBMIT_FLAGS:
        if flag.name in settings.given:
            raise UsageError(f"--{flag.name}: --action {settings.action} submits nothing")
    if settings.action == "PRINT" and "out" in settings.given:
        raise UsageError(f"--out {settings.out}: --action SAVE writes a file")
    commands = make_commands(settings)
    lines = [as_text(command, settings.new_line) + "\n" for command in commands]
    if settings.action == "PRINT":
        write_out(lines)
        return 0
    path = Path(settings.out or f"{settings.grid_config}_commands.txt")
    text = "".join(f"{line}\n" for line in lines)
    _require_free(path, text)
    module = commands[0][2]
    if settings.dry_run:  # of a submission, which reads a file: one that does not stay
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / path.name
            write_atomically(path, text.encode())
            return slurm.main(_submission(path, module, settings))
    if not path.exists():
        write_atomically(path, text.encode())
    logger.info("%d commands in %s", len(commands), path)
    return slurm.main(_submission(path, module, settings)) if submits else 0


def _require_free(path: Path, text: str) -> None:
    """UsageError if the file holds something else."""
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        raise UsageError(f"{path} holds something else: delete it, or give --out")


def _submission(path: Path, module: str, settings: argparse.Namespace) -> list[str]:
    """The arguments of train_scripts.slurm."""
    short = next(name for name, full in MODULE_NAMES.items() if full == module)
    names = [flag.name for flag in SUBMIT_FLAGS if flag.name in settings.given]
    passed = {name: getattr(settings, name) for name in names}
    return to_arguments({"path": [str(path)], "module_name": short} | passed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_generate, argv)


if __name__ == "__main__":
    sys.exit(main())
