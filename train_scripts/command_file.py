"""Reads the commands of a sweep from the files that `train_scripts.make_cmd` writes.

Every command is parsed as its module parses it, so a mistake is found here, before the first of a
thousand runs starts.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import UsageError
from common.flags import Flag
from common.run_logger import recorded_settings
from offline.acting import results_name, ways_to_act
from offline.arguments import SINGLE_LEVEL_FLAGS, parse_evaluation, parse_training
from offline.run_names import of_each_seed
from online.arguments import parse_collection, parse_ppo
from train_scripts.shell_words import split_commands

LOG_DIR = "logs"

_PYTHON = re.compile(r"(.*/)?python[0-9.]*")


@dataclass(frozen=True)
class Command:
    """One run of a sweep, or with --num_seeds several.

    `words` is the command as a shell would split it, `settings` what its module makes of its
    flags, and `folder` where it puts what it finds: a run's folder, or a collection's. Of several
    seeds that folder is never there; `seeds` are their runs, each as a command of the same words
    that is `part_of` the other, named by its id.
    """

    words: tuple[str, ...]
    module: str
    settings: argparse.Namespace
    folder: Path
    seeds: tuple[Command, ...] = ()
    part_of: str = ""

    @property
    def run_id(self) -> str:
        """`<env_name>/<xpid>`; of a collection the last two parts of its folder."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def runs(self) -> tuple[Command, ...]:
        """The runs one by one: those of its seeds, or itself."""
        return self.seeds or (self,)

    @property
    def evaluates(self) -> bool:
        """Whether it plays what another command trains, in that one's folder."""
        return self.module == _EVALUATE

    @property
    def finished(self) -> bool:
        """Whether the folder holds what only a finished run leaves there; those of all seeds."""
        return all(_MODULES[run.module].finished(run) for run in self.runs)

    @property
    def continuing(self) -> tuple[str, ...]:
        """`words` so that they continue what an earlier attempt has left, if there is any."""
        # An evaluation starts anew, and a collection has no such flag.
        if self.evaluates or getattr(self.settings, "resume", True):
            return self.words
        return (*self.words, "--resume=True")


@dataclass(frozen=True)
class _Module:
    """How the commands of a module are understood: flags, then the folder they lead to."""

    parse: Callable[[Sequence[str]], argparse.Namespace]
    folder: Callable[[argparse.Namespace], Path]
    finished: Callable[[Command], bool]


def _parse_training(argv: Sequence[str], extra: Sequence[Flag] = ()) -> argparse.Namespace:
    return parse_training(argv, "", extra)


def _parse_single_level(argv: Sequence[str]) -> argparse.Namespace:
    return _parse_training(argv, SINGLE_LEVEL_FLAGS)


def _training_folder(settings: argparse.Namespace) -> Path:
    return Path(settings.save_path, settings.env_name, settings.xpid)


def _parse_evaluation(argv: Sequence[str]) -> argparse.Namespace:
    settings = parse_evaluation(argv, "")
    if settings.xpid == "latest":
        raise UsageError("--xpid latest: which run that is changes while a sweep goes on")
    if settings.checkpoint != "final":
        raise UsageError(
            f"--checkpoint {settings.checkpoint}: a sweep evaluates the final checkpoint, whose "
            "results have the same files: give this command by itself"
        )
    return settings


def _evaluated_folder(settings: argparse.Namespace) -> Path:
    game = Path(settings.save_path) / settings.env_name
    folders = [game / name for name in settings.xpids]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _parse_online(argv: Sequence[str]) -> argparse.Namespace:
    return parse_ppo(argv, "")


def _online_folder(settings: argparse.Namespace) -> Path:
    return Path(settings.model_saving_dir, settings.env_name, settings.xpid)


def _parse_collection(argv: Sequence[str]) -> argparse.Namespace:
    settings = parse_collection(argv, "")
    if settings.ratio:
        raise UsageError(
            f"--ratio {settings.ratio:g} makes a collection of every run it will find, and a sweep "
            "must know its folder: run the command by itself"
        )
    return settings


def _collection_folder(settings: argparse.Namespace) -> Path:
    return Path(settings.dataset_saving_dir, settings.env_name)


def _trained(command: Command) -> bool:
    return (command.folder / "final_model.pt").exists()


def _evaluated(command: Command) -> bool:
    """Whether the evaluation has left its files for every mode that it is told to act in.

    The file of another checkpoint does not count. Another number of episodes is no other
    evaluation.
    """
    # The command's own where the run does not tell.
    trained = {**vars(command.settings), **recorded_settings(command.folder)}
    names = {results_name(way, trained) for way in ways_to_act(command.settings, trained)}
    return all(_is_of_final(command.folder / f"{name}.csv") for name in names)


def _is_of_final(evaluation: Path) -> bool:
    """Whether the file is there, and not of another checkpoint; older versions did not tell."""
    if not evaluation.exists():
        return False
    try:
        document = json.loads(evaluation.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(document["checkpoint"] == "final")
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _trained_on_one_level(command: Command) -> bool:
    # It evaluates itself, after training.
    return _trained(command) and (_evaluated(command) or not command.settings.num_final_episodes)


def _trained_online(command: Command) -> bool:
    return any(command.folder.glob("final/model_*.pt"))


def _collected(command: Command) -> bool:
    return (command.folder / "collection.json").exists()


_TRAIN = "offline.train_offline_agent"
_EVALUATE = "offline.evaluate_offline_agent"
_SINGLE = "offline.single_level_train_offline_agent"
_ONLINE = "online.trainer"
_COLLECT = "online.data_collector"
_MODULES = {
    _TRAIN: _Module(_parse_training, _training_folder, _trained),
    _EVALUATE: _Module(_parse_evaluation, _evaluated_folder, _evaluated),
    _SINGLE: _Module(_parse_single_level, _training_folder, _trained_on_one_level),
    _ONLINE: _Module(_parse_online, _online_folder, _trained_online),
    _COLLECT: _Module(_parse_collection, _collection_folder, _collected),
}
# What --module_name says.
MODULE_NAMES = {
    "offline": _TRAIN,
    "eval": _EVALUATE,
    "single": _SINGLE,
    "online": _ONLINE,
    "data_collection": _COLLECT,
}


def read_commands(paths: Sequence[str | Path], module_name: str = "") -> list[Command]:
    """The commands of these files, in order.

    With `module_name`, a key of `MODULE_NAMES`, all of them must run that module; for `eval` they
    may be commands that train, and become those that evaluate.

    Raises UsageError, with file and line, for what is no command of a sweep, for flags that its
    module refuses, and for two commands of one run.
    """
    commands = []
    places: dict[str, str] = {}
    for path in paths:
        for line, words in split_commands(Path(path)):
            place = f"{path}: line {line}"
            try:
                command = _parse(words, module_name)
            except UsageError as error:
                raise UsageError(f"{place}: {error}") from None
            # The whole of several seeds too: its log has that name.
            for run_id in dict.fromkeys((command.run_id, *(run.run_id for run in command.runs))):
                if run_id in places:
                    raise UsageError(
                        f"{place}: {run_id} is the run of {places[run_id]} too: "
                        "delete one, or name one with --xpid"
                    )
                places[run_id] = place
            commands.append(command)
    if not commands:
        raise UsageError(
            f"no command in {', '.join(map(str, paths))}: write some with train_scripts.make_cmd"
        )
    return commands


def log_file(log_dir: str | Path, name: str, command: Command) -> Path:
    """Where a sweep called `name` keeps what a run prints: `<log_dir>/<name>/<run_id>.log`.

    An evaluation has `<run_id>.eval.log`, beside that of the training. Several seeds share one.
    """
    run_id = command.part_of or command.run_id
    return Path(log_dir) / name / f"{run_id}{'.eval' if command.evaluates else ''}.log"


def _parse(words: Sequence[str], module_name: str) -> Command:
    if len(words) < 3 or not _PYTHON.fullmatch(words[0]) or words[1] != "-m":
        raise UsageError(f"no command python -m <module>: {shlex.join(words[:3])}")
    module, wanted = words[2], MODULE_NAMES.get(module_name)
    if wanted == _EVALUATE and module == _TRAIN:
        module = _EVALUATE
    if module not in _MODULES:
        raise UsageError(f"{module} is no module of a sweep (those are {', '.join(_MODULES)})")
    if {"-h", "--help"} & set(words):
        raise UsageError("--help asks for help, and runs nothing")
    if wanted and module != wanted:
        raise UsageError(f"runs {module}, but --module_name {module_name} stands for {wanted}")
    settings = _MODULES[module].parse(words[3:])
    folder_of = _MODULES[module].folder
    whole = Command((*words[:2], module, *words[3:]), module, settings, folder_of(settings))
    count = getattr(settings, "num_seeds", 1)
    if count == 1:
        return whole
    # Other seeds of the same setting are another command, with a log of its own.
    name = f"{whole.folder.name}_{settings.seed}-{settings.seed + count - 1}"
    whole = replace(whole, folder=whole.folder.with_name(name))
    seeds = (
        replace(whole, settings=seed, folder=folder_of(seed), part_of=whole.run_id)
        for seed in of_each_seed(settings)
    )
    return replace(whole, seeds=tuple(seeds))
