"""What the commands do with a run: train it in its folder, evaluate its checkpoint."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

from common.device import choose_device
from common.errors import ToolkitError, UsageError
from common.evaluation import (
    Results,
    evaluate,
    returns_by_split,
    write_csv,
    write_episodes,
    write_evaluation,
)
from common.games import NUM_ACTIONS
from common.run_logger import RunFolder, describe_run
from common.seeding import derive_seed, seed_everything
from offline.agents import agent_class, load_agent, make_agent
from offline.agents.base import DatasetFacts
from offline.arguments import DEFAULT_EVAL_EPS
from offline.data.levels import LevelData, choose_level, levels_in
from offline.data.loading import load_data, open_stores
from offline.results.statistics import summarise
from offline.results.tables import results_table
from offline.training import Run

logger = logging.getLogger(__name__)

FINAL, BEST, ROLLING = "final_model.pt", "best_model.pt", "model.pt"
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
    """Train the run that `settings` names, or continue it, or say that it is finished.

    `level` is what data_info.csv tells, where training is on one level.
    """
    path = run_path(settings)
    if (path / FINAL).exists():
        logger.info("already finished: %s", path / FINAL)
        return
    unfinished = (path / ROLLING).exists()
    if unfinished and not settings.resume:
        raise UsageError(
            f"{path} holds an unfinished run: --resume True continues it, --xpid names another"
        )
    device = choose_device(settings.no_cuda)
    # Data and agent come first: if they cannot be made, no folder is.
    data = load_data(settings, agent_class(settings.algo).view, device)
    seed_everything(settings.seed)
    facts = DatasetFacts(
        num_actions=NUM_ACTIONS,
        max_return=data.summary.max_return,
        min_return=data.summary.min_return,
        num_samples=len(data.view),
        max_length=data.summary.max_length,
    )
    agent = make_agent(vars(settings), facts, device)
    folder = RunFolder(settings.save_path, settings.env_name, settings.xpid)
    with folder.session():
        for leftover in path.glob(".*.pt.*.tmp"):  # of a process killed while it saved
            leftover.unlink()
        run = Run(agent, data.view, settings, folder)
        if unfinished:
            run.restore()
        shown = {name: value for name, value in vars(settings).items() if name != "given"}
        folder.write_json(
            "meta.json",
            describe_run(
                shown,
                device=str(device),
                precision=run.agent.precision,
                dataset={
                    **asdict(data.summary),
                    "sources": data.sources,
                    "placement": data.placement,
                },
            ),
        )
        if level is not None:
            write_csv(path / "data_info.csv", list(level._fields), [list(level)])
        logger.info("run folder: %s", folder.path)
        run.fit()


def train_on_one_level(settings: argparse.Namespace) -> str:
    """Choose the level, train on its episodes alone and evaluate on it; the table, if any."""
    if (run_path(settings) / FINAL).exists():
        train(settings)  # says that it is finished, and needs no data
    else:
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
    settings.acting_modes = (settings.deterministic,)
    return evaluate_run(settings)


def evaluate_run(settings: argparse.Namespace) -> str:
    """Play the run's checkpoint on every split in every mode of `acting_modes`.

    Writes two CSV files per mode into the run's folder and returns the table. Raises ToolkitError
    if the checkpoint is missing, corrupt or of another run.
    """
    if not settings.num_final_episodes:
        raise UsageError("--num_final_episodes 0: there is nothing to evaluate")
    path = _find_run(settings)
    checkpoint = path / (FINAL if settings.checkpoint == "final" else BEST)
    rows = {}
    for deterministic in settings.acting_modes:
        results = _evaluate_mode(checkpoint, settings, deterministic)
        second = deterministic and len(settings.acting_modes) > 1
        name = "evaluate_deterministic" if second else "evaluate"
        write_evaluation(path / f"{name}.csv", results)
        write_episodes(path / f"{name}_episodes.csv", results)
        label = settings.algo
        if len(settings.acting_modes) > 1:
            label += ", deterministic" if deterministic else ", sampled"
        rows[label] = summarise(
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
            return game / name
    raise ToolkitError(
        f"no run at {game / settings.xpids[0]}: train it first with the same flags, "
        "or name it with --xpid"
    )


def _evaluate_mode(checkpoint: Path, settings: argparse.Namespace, deterministic: bool) -> Results:
    """Results by split of the checkpoint's agent, acting as told."""
    acting = {**vars(settings), "deterministic": deterministic}
    if len(settings.acting_modes) > 1 and not deterministic and not settings.eval_eps:
        acting["eval_eps"] = DEFAULT_EVAL_EPS
    agent, contents = load_agent(checkpoint, choose_device(settings.no_cuda), acting=acting)
    agent.eval()
    trained = contents["settings"]
    for name in COMPARED:
        if trained[name] != getattr(settings, name):
            raise ToolkitError(
                f"{checkpoint} was trained with --{name} {trained[name]}, "
                f"not {getattr(settings, name)}"
            )
    return evaluate(
        agent,
        env_name=settings.env_name,
        distribution_mode=settings.distribution_mode,
        num_levels=settings.num_levels,
        only_level=trained["level"],
        num_episodes=settings.num_final_episodes,
        seed=derive_seed(trained["seed"], "final"),
        progress=True,
    )
