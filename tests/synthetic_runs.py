"""Run folders as training and evaluation leave them, without the training: numbers are drawn."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.evaluation import Origin, write_episodes, write_evaluation, write_origin
from common.games import GAMES
from common.rollout import EpisodeResult
from common.run_logger import RunFolder
from offline.arguments import ALGORITHMS, parse_training
from offline.results.statistics import score_range

SPLIT_LEVELS = {"train": (0, 200), "validation": (200, 250), "test": (0, 2**31 - 1)}
EVALUATIONS = 40  # rows of logs.csv
# Normalised scores on train, validation and test levels: no method's real ones.
METHOD_SCORES = {
    "bc": (0.60, 0.45, 0.42),
    "bcq": (0.50, 0.36, 0.33),
    "bct": (0.58, 0.41, 0.38),
    "cql": (0.25, 0.17, 0.15),
    "dt": (0.55, 0.40, 0.36),
    "iql": (0.52, 0.38, 0.35),
}


def write_run(
    save_path: Path,
    returns: Mapping[str, Sequence[float]] | None,
    *,
    deterministic_returns: Mapping[str, Sequence[float]] | None = None,
    checkpoint: str | None = None,
    meta: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A run folder; `returns` are those of the episodes of evaluate.csv by split.

    None leaves a finished run that was not evaluated; without a `checkpoint` nothing says which was
    evaluated. `settings` are flags of the training
    command, `meta` changes them behind its back.
    """
    given = {"epochs": EVALUATIONS, "eval_freq": 1, **settings}
    parsed = parse_training([f"--{name}={value}" for name, value in given.items()], "")
    folder = RunFolder(save_path, parsed.env_name, parsed.xpid)
    told = {name: value for name, value in vars(parsed).items() if name != "given"}
    folder.write_json("meta.json", {"settings": {**told, **(meta or {})}})
    (folder.path / "final_model.pt").touch()
    _write_logs(folder.path / "logs.csv", parsed.epochs, parsed.seed)
    if returns:
        write_returns(folder.path, "evaluate", returns, checkpoint)
    if deterministic_returns:
        write_returns(folder.path, "evaluate_deterministic", deterministic_returns)
    return folder.path


def write_returns(
    folder: Path,
    stem: str,
    returns: Mapping[str, Sequence[float]],
    checkpoint: str | None = None,
) -> None:
    """`<stem>.csv` and `<stem>_episodes.csv`, as an evaluation writes them.

    With a `checkpoint` also `<stem>.json`, of actions that were sampled.
    """
    generator = np.random.default_rng(0)
    results = {
        split: [
            EpisodeResult(int(generator.integers(*SPLIT_LEVELS[split])), float(one), 50 + i)
            for i, one in enumerate(episodes)
        ]
        for split, episodes in returns.items()
    }
    write_evaluation(folder / f"{stem}.csv", results)
    write_episodes(folder / f"{stem}_episodes.csv", results)
    if checkpoint:
        write_origin(folder / f"{stem}.json", Origin(checkpoint, "sampled"), results)


def constant_returns(train: float, validation: float, test: float) -> dict[str, list[float]]:
    """Two episodes per split around these means."""
    means = {"train": train, "validation": validation, "test": test}
    return {split: [mean - 1, mean + 1] for split, mean in means.items()}


def write_study(
    save_path: Path,
    *,
    games: Sequence[str] = GAMES,
    methods: Sequence[str] = ALGORITHMS,
    seeds: Sequence[int] = (1, 2, 3),
    episodes: int = 100,
) -> int:
    """One run per game, method and seed, evaluated in both modes; how many there are."""
    generator = np.random.default_rng(0)
    for game in games:
        low, high = score_range(game)
        for method in methods:
            for seed in seeds:
                sampled, certain = (
                    {
                        split: np.round(generator.normal(mean, 0.3 * (high - low), episodes), 2)
                        for split, mean in zip(
                            SPLIT_LEVELS,
                            low + (high - low) * generator.normal(METHOD_SCORES[method], 0.05),
                            strict=True,
                        )
                    }
                    for _ in range(2)
                )
                write_run(
                    save_path,
                    sampled,
                    deterministic_returns=certain,
                    env_name=game,
                    algo=method,
                    seed=seed,
                )
    return len(games) * len(methods) * len(seeds)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    contents: dict[str, Any] = json.loads(path.read_text())
    return contents


def _write_logs(path: Path, epochs: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    header = "epoch train_loss epoch_time inf_time train_rets_mean val_rets_mean test_rets_mean"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header.split(), "samples_per_second"])
        for epoch in range(1, epochs + 1):
            learnt = 1 - np.exp(-epoch / 10)
            returns = generator.normal([8 * learnt, 6 * learnt, 5 * learnt], 0.5)
            writer.writerow([epoch, 2.7 - 2 * learnt, 61.5, 12.25, *returns, 4100.5])
