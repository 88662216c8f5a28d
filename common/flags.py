"""Command-line flags as data, and the one way a command ends: an exit code and at most one line.

A flag is written `--name=value` or `--name value`, booleans as True/False. A `Flag` states its
type, default, range and help once; parsing, `--help` and the checks all read that one statement.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import hashlib
import json
import logging
import math
import operator
import re
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from common.errors import ToolkitError, UsageError

MAX_HELP_WIDTH = 100
# An indented line, or one with a gap between its words.
_COLUMNS = re.compile(r"^ +\S|\S {2,}\S", re.MULTILINE)


@dataclass(frozen=True, eq=False)  # each is itself alone, and quick to find in a cache
class Flag:
    """One setting of a command.

    `minimum` and `maximum` are inclusive; `above` and `below` are exclusive bounds. `many` takes
    several values, as `--f a b` and as `--f a --f b`. `algorithms` names those that use the flag;
    empty means all of them. `positional` makes it an argument, which must be given.
    """

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    many: bool = False
    algorithms: tuple[str, ...] = ()
    positional: bool = False

    def parse(self, text: str) -> Any:
        """The value that `text` stands for; UsageError names the flag, the value and the range."""
        if self.type is bool:
            return self._parse_bool(text)
        try:
            value = self.type(text)
        except ValueError:
            value = self._parse_integral_float(text)
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(str(value), [str(c) for c in self.choices], n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            allowed = ", ".join(str(c) for c in self.choices)
            raise UsageError(f"--{self.name} {text}: choose one of {allowed}.{hint}")
        self._check_range(value, text)
        return value

    def _parse_bool(self, text: str) -> bool:
        words = {"true": True, "false": False, "1": True, "0": False}
        if text.lower() not in words:
            raise UsageError(f"--{self.name} {text}: write True or False")
        return words[text.lower()]

    def _parse_integral_float(self, text: str) -> int:
        """Whole numbers written 1e6 are accepted for integers, as researchers write them."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if self.type is not int or not number.is_integer():
            kinds: dict[object, str] = {int: "a whole number", float: "a number"}
            kind = kinds.get(self.type, "a value")
            raise UsageError(f"--{self.name} {text}: write {kind}")
        return int(number)

    def _check_range(self, value: Any, text: str) -> None:
        if not isinstance(value, int | float):
            return
        bounds = (
            (self.minimum, "at least", operator.ge),
            (self.maximum, "at most", operator.le),
            (self.above, "above", operator.gt),
            (self.below, "below", operator.lt),
        )
        for bound, words, holds in bounds:
            if bound is not None and not holds(value, bound):
                raise UsageError(f"--{self.name} {text}: must be {words} {bound:g}")
        # Only floats: a whole number of any length is finite, but may not fit into a float.
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{self.name} {text}: must be a finite number")

    def describe(self) -> str:
        """The help line: text, algorithms that use the flag, choices and default."""
        parts = [self.help.replace("%", "%%")]
        if self.algorithms:
            parts.append(f"[{', '.join(self.algorithms)}]")
        if self.choices and self.type is not bool:
            named = (str(choice) for choice in self.choices if choice != "")
            parts.append(f"One of: {', '.join(named)}.")
        if not self.positional:
            shown = self.default if self.default not in (None, "", (), []) else "none"
            parts.append(f"(default: {shown})")
        return " ".join(parts)


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps the paragraphs of a command's docstring, and its lines that are set in columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns, MAX_HELP_WIDTH) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = text.strip().split("\n\n")
        return "\n\n".join(p if _COLUMNS.search(p) else fill(p, width, indent) for p in parts)


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing usage and exiting: the line belongs to `run_command`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def parse_flags(
    flags: Sequence[Flag],
    argv: Sequence[str] | None,
    description: str,
    abbreviations: bool = False,
) -> argparse.Namespace:
    """Parse `argv` (default: the process's) into a namespace with one attribute per flag.

    Raises UsageError for an unknown flag (the nearest known one is named) or a bad value. The
    attribute `given` holds the names that stood on the command line. With `abbreviations` the
    beginning of a flag stands for it where no other begins so.
    """
    arguments = sys.argv[1:] if argv is None else argv
    given = _read_plain(tuple(flags), arguments)
    if given is None:
        given = _read_any(flags, arguments, description, abbreviations)
    values = {flag.name: list(flag.default) if flag.many else flag.default for flag in flags}
    for flag, text in given.items():
        many = flag.many
        values[flag.name] = [_parsed(flag, t) for t in text] if many else _parsed(flag, text)
    settings = argparse.Namespace(given=frozenset(flag.name for flag in given))
    vars(settings).update(values)
    return settings


@functools.lru_cache(maxsize=10_000)
def _parsed(flag: Flag, text: str) -> Any:
    """`flag.parse(text)`: the thousands of commands of a sweep have few values between them."""
    return flag.parse(text)


def _read_plain(flags: tuple[Flag, ...], argv: Sequence[str]) -> dict[Flag, Any] | None:
    """The texts by flag if every argument is `--name=value`; None for any other way to write.

    So are the commands of sweeps, and a sweep has them by the thousand: this reads one fifty times
    as fast as argparse, which is built anew for each.
    """
    options = _options(flags)
    if options is None:
        return None
    given: dict[Flag, Any] = {}
    for argument in argv:
        option, equals, text = argument.partition("=")
        flag = options.get(option)
        if flag is None or not equals:
            return None
        if flag.many:
            given.setdefault(flag, []).append(text)
        else:
            given[flag] = text
    return given


@functools.lru_cache(maxsize=32)
def _options(flags: tuple[Flag, ...]) -> dict[str, Flag] | None:
    """The flags by how they are written; None if one is not written like the others."""
    if any(flag.positional for flag in flags):
        return None
    return {f"--{flag.name}": flag for flag in flags}


def _read_any(
    flags: Sequence[Flag], argv: Sequence[str], description: str, abbreviations: bool
) -> dict[Flag, Any]:
    """The texts by flag; UsageError for an unknown flag and for one without its value."""
    parser = _Parser(
        prog=_program(),
        description=description,
        allow_abbrev=abbreviations,
        formatter_class=_HelpFormatter,
    )
    for flag in flags:
        if flag.positional:
            parser.add_argument(flag.name, metavar=f"<{flag.name}>", help=flag.describe())
            continue
        options: dict[str, Any] = {"help": flag.describe(), "default": argparse.SUPPRESS}
        metavars: dict[object, str] = {bool: "True|False", int: "N", float: "X"}
        options["metavar"] = metavars.get(flag.type, "TEXT")
        if flag.many:
            options.update(nargs="+", action="extend")
        elif flag.type is bool or any(choice is True for choice in flag.choices):
            # A bare `--resume` means `--resume True`.
            options.update(nargs="?", const="True")
        parser.add_argument(f"--{flag.name}", **options)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(_unknown_message(unknown[0], flags))
    return {flag: getattr(parsed, flag.name) for flag in flags if flag.name in parsed}


def _program() -> str | None:
    """How this command is given, if it is a module; its file alone would not run."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else None


def _unknown_message(argument: str, flags: Sequence[Flag]) -> str:
    if not argument.startswith("--"):
        return f"unexpected argument {argument!r}: flags are written --name=value (see --help)"
    name = argument[2:].split("=")[0]
    known = [flag.name for flag in flags if not flag.positional]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean --{near[0]}?" if near else "see --help"
    return f"unknown flag --{name}: {hint}"


def check_xpid(xpid: str) -> None:
    """Raise UsageError for a run's name that cannot be that of its folder."""
    if xpid in (".", "..", "latest") or "/" in xpid:
        raise UsageError(f"--xpid {xpid}: give the name of a new folder, not a path")


def short_number(value: float) -> str:
    """`value` in the fewest digits that still name it alone: 0.0003, 5e-05, 1."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def unnamed_settings_hash(
    flags: Sequence[Flag], settings: argparse.Namespace, named: Collection[str]
) -> str:
    """A short hash of the settings that are neither in `named` nor at their defaults; "" for none.

    Added to a run's name, it keeps two different settings from sharing one.
    """
    others = {
        flag.name: getattr(settings, flag.name)
        for flag in flags
        if flag.name not in named
        and getattr(settings, flag.name) != (list(flag.default) if flag.many else flag.default)
    }
    if not others:
        return ""
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:6]


def run_command(
    body: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None
) -> int:
    """Run a command's body and turn what the user can mend into one line and an exit code.

    0 done, 1 failed, 2 bad arguments, 130 stopped by Ctrl-C. An `OSError` is the world's fault,
    never a bug of ours, so it too is one line.
    """
    # A log that cannot be written must not hide the error that ends the command.
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return body(argv) or 0
    except ToolkitError as error:
        message, code = str(error), error.exit_code
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        message, code = f"{name}{error.strerror or error}", 1
    except KeyboardInterrupt:
        message, code = "stopped by Ctrl-C", 130
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
