"""What the commands do with a run: train it in its folder, evaluate its checkpoint."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from common.compiling import compile_encoders, compiles, require_compiler
from common.device import choose_device
from common.errors import ToolkitError, UsageError
from common.evaluation import (
    Origin,
    Results,
    evaluate,
    returns_by_split,
    write_csv,
    write_episodes,
    write_evaluation,
    write_origin,
)
from common.games import NUM_ACTIONS
from common.run_logger import RunFolder, describe_run, recorded_settings, require_settings
from common.seeding import derive_seed, seed_everything
from common.tracking import require_trackers
from offline.acting import OWN_RESULTS, is_certain, results_name, ways_to_act
from offline.agents import agent_class, load_agent, make_agent, trained_settings
from offline.agents.base import DatasetFacts
from offline.data.levels import LevelData, choose_level, levels_in
from offline.data.loading import LoadedData, load_data, open_stores
from offline.lockstep import fit
from offline.results.statistics import summarise
from offline.results.tables import results_table
from offline.run_names import checkpoint_in, of_each_seed
from offline.training import ROLLING, Run, shaping_settings

logger = logging.getLogger(__name__)

FINAL, BEST = "final_model.pt", "best_model.pt"
# Settings that the flags of an evaluation and its checkpoint must agree in.
COMPARED = (
    "algo",
    "env_name",
    "distribution_mode",
    "num_levels",
    "agent_model",
    "hidden_size",
    "dt_context_length",
)


def run_path(settings: argparse.Namespace) -> Path:
    """`<save_path>/<env_name>/<xpid>/`."""
    return Path(settings.save_path) / settings.env_name / settings.xpid


def train(settings: argparse.Namespace, level: LevelData | None = None) -> None:
    """Train the runs that `settings` names, or continue them, or say that they are finished.

    Those of several seeds share process and data, and are otherwise what each would be alone.
    `level` is what data_info.csv tells, where training is on one level.
    """
    left = [run for run in of_each_seed(settings) if not _is_finished(run)]
    for run in left:
        if _is_unfinished(run) and not run.resume:
            raise UsageError(
                f"{run_path(run)} holds an unfinished run: --resume True continues it, "
                "--xpid names another"
            )
    if not left:
        return
    device = choose_device(settings.no_cuda)
    _require_packages(settings, device)
    # Data and the first agent come first: if they cannot be made, no folder is.
    data = load_data(settings, agent_class(settings.algo).view, device)
    with ExitStack() as opened:
        runs = []
        for run in left:
            title = f"seed {run.seed}" if len(left) > 1 else ""
            runs.append(_open_run(run, data, device, level, opened, title))
        fit(runs)


def _require_packages(settings: argparse.Namespace, device: torch.device) -> None:
    """UsageError if anything is missing that the settings need; before minutes of other work."""
    require_trackers(settings)
    require_compiler(settings.compile, device)


def _is_finished(settings: argparse.Namespace) -> bool:
    """Whether this run, of one seed, is; then a line says so.

    Raises UsageError if it was trained with other settings.
    """
    final = run_path(settings) / FINAL
    if not final.exists():
        return False
    path, recorded = run_path(settings), recorded_settings(run_path(settings))
    on_one_level = "threshold_metric" in settings
    if recorded and on_one_level != (recorded.get("level") is not None):
        other = "not on one level alone" if on_one_level else "on one level alone"
        raise UsageError(f"{path} is a finished run {other}: --xpid names another")
    shaping = shaping_settings(settings)
    if on_one_level:
        del shaping["levels"]  # by now they are the level alone,
        if settings.level is None:
            del shaping["level"]  # which the data may have chosen
    require_settings(path, shaping)
    logger.info("already finished: %s", final)
    return True


def _is_unfinished(settings: argparse.Namespace) -> bool:
    return (run_path(settings) / ROLLING).exists()


def _open_run(
    settings: argparse.Namespace,
    data: LoadedData,
    device: torch.device,
    level: LevelData | None,
    opened: ExitStack,
    title: str,
) -> Run:
    """The run of one seed, new or restored, in a session of its folder that `opened` ends at last.

    Raises ToolkitError if another process is at work there, or if the run has other settings.
    """
    path, unfinished = run_path(settings), _is_unfinished(settings)
    seed_everything(settings.seed)
    facts = DatasetFacts(
        num_actions=NUM_ACTIONS,
        max_return=data.summary.max_return,
        min_return=data.summary.min_return,
        num_samples=len(data.view),
        max_length=data.summary.max_length,
    )
    agent = make_agent(vars(settings), facts, device)
    if compiles(settings.compile):
        compile_encoders(agent)
    folder = RunFolder(settings.save_path, settings.env_name, settings.xpid)
    run = Run(agent, data.view, settings, folder, title)
    opened.enter_context(run.ending).enter_context(folder.session())
    if (path / FINAL).exists() or _is_unfinished(settings) != unfinished:
        raise ToolkitError(f"another process was at work in {path}: give the command again")
    for leftover in path.glob(".*.pt.*.tmp"):  # of a process killed while it saved
        leftover.unlink()
    if unfinished:
        run.restore()
    shown = {name: value for name, value in vars(settings).items() if name != "given"}
    folder.write_json(
        "meta.json",
        describe_run(
            shown,
            device=str(device),
            precision=agent.precision,
            dataset={
                **asdict(data.summary),
                "episodes_outside_training_levels": data.levels.episodes_outside,
                "validation_levels": data.levels.validation,
                "sources": data.sources,
                "placement": data.placement,
            },
        ),
    )
    if level is not None:
        write_csv(path / "data_info.csv", list(level._fields), [list(level)])
    with folder.speaking():
        logger.info("run folder: %s", path)
    return run


def train_on_one_level(settings: argparse.Namespace) -> str:
    """Choose the level, train on its episodes alone and evaluate on it; the table, if any."""
    if settings.level is not None:
        for name in ("levels", "capacity_type", "threshold_metric"):
            if name in settings.given:
                raise UsageError(f"--{name}: --level {settings.level} leaves nothing to choose")
    if all((run_path(run) / FINAL).exists() for run in of_each_seed(settings)):
        train(settings)  # says that it is finished, and needs no data
    else:
        _require_packages(settings, choose_device(settings.no_cuda))
        stores = open_stores(settings)
        allowed = [settings.level] if settings.level is not None else settings.levels or None
        chosen = choose_level(
            levels_in(stores, allowed), settings.capacity_type, settings.threshold_metric
        )
        logger.info(
            "level %d: %d episodes, %d transitions",
            chosen.level,
            chosen.episodes,
            chosen.transitions,
        )
        settings.level, settings.levels = chosen.level, [chosen.level]
        train(settings, chosen)
    if not settings.num_final_episodes:
        return ""
    settings.xpids, settings.checkpoint = (settings.xpid,), "final"
    return evaluate_runs(settings)


def evaluate_runs(settings: argparse.Namespace) -> str:
    """`evaluate_run` of every seed, in turn; the tables. Before the first all must be there."""
    runs = of_each_seed(settings)
    for run in runs:
        _find_run(run)
    return "\n\n".join(evaluate_run(run) for run in runs)


def evaluate_run(settings: argparse.Namespace) -> str:
    """Play the run's checkpoint on every split in every mode of `acting_modes`.

    Writes two CSV files per mode into the run's folder, and a JSON file that tells checkpoint and
    mode, and returns the table: evaluate.csv, evaluate_episodes.csv and evaluate.json where it acts
    as it was trained to, else files that have the mode in their names. What the flags do not say of
    acting is as the run was trained.

    Raises ToolkitError if the checkpoint is missing, corrupt or of another run.
    """
    if not settings.num_final_episodes:
        raise UsageError("--num_final_episodes 0: there is nothing to evaluate")
    path = _find_run(settings).resolve()  # `latest` may name another run before this is done
    checkpoint = checkpoint_in(path, settings.checkpoint)
    trained = _trained_settings(checkpoint, settings)
    rows = {}
    ways = ways_to_act(settings, trained)
    for way in ways:
        results, mode = _play(checkpoint, way, settings)
        name = results_name(way, trained)
        write_episodes(path / f"{name}_episodes.csv", results)
        write_origin(path / f"{name}.json", Origin(settings.checkpoint, mode), results)
        # Last, as the mark of an evaluation that is whole.
        write_evaluation(path / f"{name}.csv", results)
        alone = name == OWN_RESULTS and len(ways) == 1
        rows[settings.algo if alone else f"{settings.algo}, {mode}"] = summarise(
            returns_by_split(results), settings.env_name, settings.distribution_mode
        )
    title = (
        f"{settings.env_name} ({settings.distribution_mode}), {path.name}, "
        f"{settings.checkpoint} checkpoint, {settings.num_final_episodes} episodes per split"
    )
    return results_table(rows, title)


def _find_run(settings: argparse.Namespace) -> Path:
    """The folder of the run, under the first of the names it may have that is there."""
    game = Path(settings.save_path) / settings.env_name
    for name in settings.xpids:
        if (game / name).is_dir():
            if name != settings.xpids[0]:
                logger.info(
                    "no run %s: taking %s, trained to act otherwise", settings.xpids[0], name
                )
            return game / name
    raise ToolkitError(
        f"no run at {game / settings.xpids[0]}: train it first with the same flags, "
        "or name it with --xpid"
    )


def _trained_settings(checkpoint: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """Those of the checkpoint; ToolkitError if the flags name another run."""
    trained = trained_settings(checkpoint)
    level = trained.get("level")
    if settings.level not in (None, level):
        raise ToolkitError(f"{checkpoint} was trained on level {level}, not {settings.level}")
    for name in COMPARED:
        if trained[name] != getattr(settings, name):
            raise ToolkitError(
                f"{checkpoint} was trained with --{name} {trained[name]}, "
                f"not {getattr(settings, name)}"
            )
    return trained


def _play(
    checkpoint: Path, way: Mapping[str, Any], settings: argparse.Namespace
) -> tuple[Results, str]:
    """Results by split of the agent acting in this way, and whether it sampled or was certain."""
    agent, _ = load_agent(checkpoint, choose_device(settings.no_cuda), way)
    agent.eval()
    results = evaluate(
        agent,
        env_name=way["env_name"],
        distribution_mode=way["distribution_mode"],
        num_levels=way["num_levels"],
        only_level=way.get("level"),
        num_episodes=settings.num_final_episodes,
        seed=derive_seed(way["seed"], "final"),
        progress=True,
    )
    return results, "deterministic" if is_certain(way) else "sampled"
