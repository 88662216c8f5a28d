"""What the commands do with a run: train it in its folder, evaluate its checkpoint."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

from common.device import choose_device
from common.errors import ToolkitError, UsageError
from common.evaluation import evaluate, returns_by_split, write_episodes, write_evaluation
from common.games import NUM_ACTIONS
from common.run_logger import RunFolder, describe_run
from common.seeding import derive_seed, seed_everything
from offline.agents import agent_class, load_agent, make_agent
from offline.agents.base import DatasetFacts
from offline.data.loading import load_data
from offline.results.statistics import summarise
from offline.results.tables import results_table
from offline.training import Run

logger = logging.getLogger(__name__)

FINAL, BEST, ROLLING = "final_model.pt", "best_model.pt", "model.pt"


def run_path(settings: argparse.Namespace) -> Path:
    """`<save_path>/<env_name>/<xpid>/`."""
    return Path(settings.save_path) / settings.env_name / settings.xpid


def train(settings: argparse.Namespace) -> None:
    """Train the run that `settings` names, or continue it, or say that it is finished."""
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
    handler = folder.log_to_file()
    try:
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
        logger.info("run folder: %s", folder.path)
        run.fit()
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def evaluate_run(settings: argparse.Namespace) -> str:
    """Play the run's checkpoint on every split; write the two CSV files, return the table.

    Raises ToolkitError if the checkpoint is missing, corrupt or of another run.
    """
    path = run_path(settings)
    checkpoint = path / (FINAL if settings.checkpoint == "final" else BEST)
    if not path.is_dir():
        raise ToolkitError(
            f"no run at {path}: train it first with the same flags, or name it with --xpid"
        )
    if not settings.num_final_episodes:
        raise UsageError("--num_final_episodes 0: there is nothing to evaluate")
    agent, contents = load_agent(checkpoint, choose_device(settings.no_cuda), acting=vars(settings))
    agent.eval()
    trained = contents["settings"]
    compared = (
        "algo",
        "env_name",
        "distribution_mode",
        "num_levels",
        "agent_model",
        "hidden_size",
        "dt_context_length",
    )
    for name in compared:
        if trained[name] != getattr(settings, name):
            raise ToolkitError(
                f"{checkpoint} was trained with --{name} {trained[name]}, "
                f"not {getattr(settings, name)}"
            )
    results = evaluate(
        agent,
        env_name=settings.env_name,
        distribution_mode=settings.distribution_mode,
        num_levels=settings.num_levels,
        num_episodes=settings.num_final_episodes,
        seed=derive_seed(trained["seed"], "final"),
        progress=True,
    )
    write_evaluation(path / "evaluate.csv", results)
    write_episodes(path / "evaluate_episodes.csv", results)
    summaries = summarise(returns_by_split(results), settings.env_name, settings.distribution_mode)
    title = (
        f"{settings.env_name} ({settings.distribution_mode}), {settings.xpid}, "
        f"{settings.checkpoint} checkpoint, {settings.num_final_episodes} episodes per split"
    )
    return results_table({settings.algo: summaries}, title)
