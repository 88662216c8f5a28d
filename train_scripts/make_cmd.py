"""Turn a grid of settings into commands: python -m train_scripts.make_cmd --grid_config bc

Reads configs/<base_config>/default.json and configs/<base_config>/<dir>/<grid_config>.json and
prints one command per combination and trial, quoted for a shell, with an empty line between them.
Nothing else goes to standard output, so `>> bc_commands.txt` collects the commands of a study.
Flags may be shortened as long as they stay unique.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.errors import UsageError
from common.flags import Flag, parse_flags, run_command
from offline.arguments import SINGLE_LEVEL_FLAGS, TRAIN_FLAGS, check_tracking_flags
from online.arguments import TRAINER_FLAGS
from train_scripts.grid import Settings, expand, read_base, read_grid, replaced, to_arguments

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SINGLE_LEVEL = "offline.single_level_train_offline_agent"
# What each module understands; the first of a base is its default.
MODULES: dict[str, dict[str, Sequence[Flag]]] = {
    "offline": {
        "offline.train_offline_agent": TRAIN_FLAGS,
        "offline.evaluate_offline_agent": TRAIN_FLAGS,
        SINGLE_LEVEL: (*TRAIN_FLAGS, *SINGLE_LEVEL_FLAGS),
    },
    "online": {"online.trainer": TRAINER_FLAGS},
}
# What commands there are; make_cmd and cmd_generator share these.
GRID_FLAGS = (
    Flag("base_config", str, "offline", "Folder below configs/.", choices=tuple(MODULES)),
    Flag("dir", str, "", "Folder below that; empty takes grids, or single with --single."),
    Flag("grid_config", str, "", "Name of the grid, without .json."),
    Flag("num_trials", int, 1, "Seeds per combination, consecutive.", minimum=1),
    Flag(
        "seeds_per_run",
        int,
        1,
        "Seeds of a combination that one command trains at once, with --num_seeds.",
        minimum=1,
    ),
    Flag("start_index", int, 0, "Number of the first trial; its seed is larger by it.", minimum=0),
    Flag(
        "module_name",
        str,
        "",
        "Module that the commands run; empty takes the one that trains.",
        choices=("", *(name for modules in MODULES.values() for name in modules)),
    ),
    Flag("single", bool, False, "Commands that train on a single level."),
    Flag("checkpoint", bool, False, "Commands that continue from their checkpoint when run again."),
    Flag(
        "set",
        str,
        (),
        "Settings in place of the grid's, for every command: --set epochs=3 dataset=data/mine.",
        many=True,
    ),
    Flag("wandb_project", str, "", "Project of W&B that every run is sent to."),
    Flag("wandb_entity", str, "", "User or team of that project."),
    Flag("new_line", bool, False, "One argument per line, with a backslash at each line's end."),
)
FLAGS = (*GRID_FLAGS, Flag("count", bool, False, "Print only how many commands there are."))


def make_commands(settings: argparse.Namespace) -> list[list[str]]:
    """The commands as lists of words. Raises UsageError for anything wrong in flags or files."""
    modules = MODULES[settings.base_config]
    # The settings of dir single, run on all levels, would have the names of the final runs.
    single = settings.single or settings.dir == "single"
    module = settings.module_name or (SINGLE_LEVEL if single else next(iter(modules)))
    if module not in modules:
        raise UsageError(
            f"--module_name {module}: --base_config {settings.base_config} is for "
            f"{', '.join(modules)}"
        )
    if single and module != SINGLE_LEVEL:
        raise UsageError(f"--module_name {module}: single-level runs are of {SINGLE_LEVEL}")
    if not settings.grid_config:
        raise UsageError("--grid_config: name a grid, for instance bc")
    base_folder = CONFIGS / settings.base_config
    # Resolved for the messages: --dir may lead elsewhere.
    folder = (base_folder / (settings.dir or ("single" if single else "grids"))).resolve()
    flags = modules[module]
    base = read_base(base_folder / "default.json", flags)
    grid = read_grid(folder / f"{settings.grid_config}.json", flags)
    if settings.checkpoint:
        grid["resume"] = [True]
    grid = replaced(grid, settings.set, flags)
    if settings.seeds_per_run > 1 and "num_seeds" not in {flag.name for flag in flags}:
        raise UsageError(f"--seeds_per_run {settings.seeds_per_run}: {module} has no --num_seeds")
    if "num_seeds" in grid and (settings.seeds_per_run > 1 or settings.num_trials > 1):
        raise UsageError("the grid has num_seeds: give --num_trials and --seeds_per_run instead")
    check_tracking_flags(settings)
    for name in ("wandb_project", "wandb_entity"):
        if value := getattr(settings, name):
            grid[name] = [value]
    runs = expand(base, grid, settings.num_trials, flags)
    seed = next(flag for flag in flags if flag.name == "seed")
    for run in runs:
        run["seed"] = seed.parse(str(run["seed"] + settings.start_index))
    if settings.seeds_per_run > 1:
        runs = _share(runs, settings.num_trials, settings.seeds_per_run)
    return [["python", "-m", module, *to_arguments(run)] for run in runs]


def _share(runs: list[Settings], num_trials: int, count: int) -> list[Settings]:
    """The same runs, `count` trials of a combination, as far as there are so many, in one each."""
    shared = []
    for first in range(0, len(runs), num_trials):  # trials of a combination follow each other
        for trial in range(0, num_trials, count):
            seeds = {"num_seeds": min(count, num_trials - trial)}
            shared.append(runs[first + trial] | seeds)
    return shared


def as_text(command: Sequence[str], new_line: bool = False) -> str:
    """The command as a shell takes it, on one line or with one argument on each."""
    words = [shlex.quote(word) for word in command]
    if not new_line:
        return " ".join(words)
    return " \\\n".join([" ".join(words[:3]), *words[3:]])


def write_out(lines: Iterable[str]) -> None:
    """Print the lines. A reader that leaves early, as `| head` does, is no error."""
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left must not be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _make(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "", abbreviations=True)
    commands = make_commands(settings)
    if settings.count:
        print(len(commands))
    else:
        write_out(as_text(command, settings.new_line) + "\n" for command in commands)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_make, argv)


if __name__ == "__main__":
    sys.exit(main())
