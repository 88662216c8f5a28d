"""Reads the configurations of sweeps and expands them into the settings of single runs.

A base file is a flat object, flag -> value. A grid file is `{"grid": {flag: [value, ...]}}`: its
values, in every combination, replace those of the base. What a flag may be is stated by its `Flag`
alone, so a mistake in a file is found here, before the first of a thousand runs starts.
"""

from __future__ import annotations

import difflib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UsageError
from common.flags import Flag, short_number

Settings = dict[str, Any]  # flag -> value, typed as the flag has it; lists for flags of many values
Grid = dict[str, list[Any]]  # flag -> the values to try

# What JSON must hold for a flag of each type. Whole numbers may be written 1e6, which is a float
# to JSON, and `Flag.parse` tells it from 1.5. True is no number here, as it is to Python.
_JSON_TYPES: dict[object, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int, float), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a string"),
}
_ANY_SCALAR = ((bool, int, float, str), "one value")  # for a flag with a parser of its own


def read_base(path: Path, flags: Sequence[Flag]) -> Settings:
    """The settings that a grid starts from.

    Raises UsageError, with the file's name, for anything but an object of flags and fit values.
    """
    return {
        name: _checked(_flag(name, flags, path), value, path)
        for name, value in _read_object(path).items()
    }


def read_grid(path: Path, flags: Sequence[Flag]) -> Grid:
    """The values to try, in the file's order.

    Raises UsageError, with the file's name, for a missing "grid", a key that is no flag, and a
    list that is empty, repeats a value or holds one that does not fit the flag.
    """
    document = _read_object(path)
    if not isinstance(document.get("grid"), dict):
        raise UsageError(f'{path}: no grid: write {{"grid": {{"lr": [0.001, 0.0005]}}}}')
    for name in (name for name in document if name != "grid"):
        raise UsageError(f'{path}: {name} stands beside "grid": move it inside, as "{name}": [...]')
    grid: Grid = {}
    for name, values in document["grid"].items():
        flag = _flag(name, flags, path)
        if not isinstance(values, list):
            raise UsageError(f"{path}: {name}: write a list of values: [{json.dumps(values)}]")
        if not values:
            raise UsageError(f"{path}: {name}: the list is empty: give a value or drop the flag")
        grid[name] = [_checked(flag, value, path) for value in values]
        for i, value in enumerate(grid[name]):
            if value in grid[name][:i]:
                raise UsageError(f"{path}: {name}: {json.dumps(value)} stands there twice")
    return grid


def replaced(grid: Grid, texts: Sequence[str], flags: Sequence[Flag]) -> Grid:
    """`grid` with the one value that each text `name=value` gives a flag.

    Several texts give a flag of many values a list of them; of the others the last text counts.
    Raises UsageError for a text of another form, a name that is no flag and a value that does not
    fit.
    """
    given: Grid = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: write name=value")
        flag = _flag(name, flags, "--set")
        item = flag.parse(value)
        given[name] = [[*given.get(name, [[]])[0], item]] if flag.many else [item]
    return grid | given


def expand(base: Settings, grid: Grid, num_trials: int, flags: Sequence[Flag]) -> list[Settings]:
    """The settings of every run: each combination of the grid's values, `num_trials` seeds each.

    Trial t has the seed of its combination plus t. The order is that of nested loops over the
    grid's flags as they stand there, with the trials innermost. Flags of the base that a
    combination's algorithm does not use are left out.

    Raises UsageError if the grid asks for a flag that the algorithm does not use, if seeds grow
    beyond their range, or if trials would repeat a run or give several runs one name.
    """
    if num_trials < 1:
        raise UsageError(f"{num_trials} trials: give at least 1")
    if num_trials > 1 and len(grid.get("seed", ())) > 1:
        raise UsageError(f"the grid varies seed, and so do {num_trials} trials: keep one of them")
    known = {flag.name: flag for flag in flags}
    # A base may leave these two out, yet they decide what the commands say.
    start = {name: known[name].default for name in ("algo", "seed") if name in known} | base
    runs = []
    for values in itertools.product(*grid.values()):
        combination = dict(zip(grid, values, strict=True))
        settings = _used(start | combination, combination, flags)
        last_seed = settings["seed"] + num_trials - 1
        known["seed"].parse(str(last_seed))
        runs += [settings | {"seed": seed} for seed in range(settings["seed"], last_seed + 1)]
    folders = Counter((run.get("env_name"), run.get("xpid")) for run in runs)
    for (_, name), count in folders.items():
        if name and count > 1:
            raise UsageError(f"xpid {name} would name {count} runs: drop it, they name themselves")
    return runs


def to_arguments(settings: Mapping[str, Any]) -> list[str]:
    """The command-line arguments that parse back to `settings`: `--name=value` each, unquoted.

    A list becomes one argument per value, and an empty one none.
    """
    return [
        f"--{name}={_text(item)}"
        for name, value in settings.items()
        for item in (value if isinstance(value, list) else [value])
    ]


def _text(value: Any) -> str:
    return short_number(value) if isinstance(value, float) else str(value)


def _used(settings: Settings, combination: Settings, flags: Sequence[Flag]) -> Settings:
    """`settings` without the flags that their algorithm does not use."""
    algo = settings.get("algo")
    unused = {flag.name: flag for flag in flags if flag.algorithms and algo not in flag.algorithms}
    for name in combination.keys() & unused.keys():
        # As on the command line: the default says nothing, so it is no mistake.
        if combination[name] != unused[name].default:
            raise UsageError(
                f"{name} {_text(combination[name])} in the grid: algo {algo} does not use it "
                f"(used by {', '.join(unused[name].algorithms)})"
            )
    return {name: value for name, value in settings.items() if name not in unused}


def _read_object(path: Path) -> dict[str, Any]:
    def refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                raise UsageError(f"{path}: {name} stands there {count} times")
        return dict(pairs)

    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse_repeats)
    except FileNotFoundError:
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.json")))
        raise UsageError(f"{path}: no such file (there: {there or 'none'})") from None
    except json.JSONDecodeError as error:
        message = f"{path}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        raise UsageError(message) from None
    except ValueError as error:  # bytes that are no UTF-8, a number of thousands of digits
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: write an object: {{...}}")
    return document


def _flag(name: str, flags: Sequence[Flag], where: object) -> Flag:
    known = {flag.name: flag for flag in flags}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise UsageError(f"{where}: no flag is called {name}{hint}")
    return known[name]


def _checked(flag: Flag, value: Any, path: Path) -> Any:
    """`value` as the command line would give it; one value for a flag of many is a list of one."""
    if flag.many:
        items = value if isinstance(value, list) else [value]
        return [_checked_item(flag, item, path) for item in items]
    return _checked_item(flag, value, path)


def _checked_item(flag: Flag, value: Any, path: Path) -> Any:
    types, words = _JSON_TYPES.get(flag.type, _ANY_SCALAR)
    if type(value) not in types:
        raise UsageError(f"{path}: {flag.name}: {json.dumps(value)}: write {words}")
    try:
        return flag.parse(_text(value))
    except UsageError as error:
        raise UsageError(f"{path}: {str(error).removeprefix('--')}") from None
