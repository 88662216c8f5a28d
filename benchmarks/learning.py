"""Train the six methods on the same data and measure each: python -m benchmarks.learning

Runs the commands a user would type, on the built-in data unless --dataset says otherwise, and
prints one table: return on training, validation and test levels, each method as it samples and as
it is certain, beside the bundled policy, which made the built-in data, and one that presses buttons
at random. What is finished is kept: the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import logging
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import ToolkitError, UsageError
from common.flags import Flag, parse_flags, run_command
from common.games import GAMES
from offline.arguments import ALGORITHMS, parse_training

logger = logging.getLogger(__name__)

COMMON = "--agent_model=dqn --hidden_size=64 --lr=0.0005 --batch_size=128".split()


class Recipe(NamedTuple):
    """How a method is trained: its own flags, and its passes over the data as a share of all."""

    flags: list[str]
    passes: float = 1.0


# The measurement that counts follows training; the one at its end may be small.
SMALL = ["--resume=True", "--num_eval_episodes=1", "--num_final_episodes=0"]
# A pass over windows of 5 steps sees every transition 5 times.
WINDOW_PASSES = 0.25
# The knobs of each method are those of the paper's final settings but for the transformers', whose
# windows are shorter and who are asked for the largest return, not for five times as much, which no
# episode ever showed them, and for the targets: copied every 100 steps, as so short a training
# would hardly move the paper's.
RECIPES = {
    "bc": Recipe([]),
    "bcq": Recipe(["--bcq_threshold=0.5", "--target_update_freq=100"]),
    "cql": Recipe(["--cql_alpha=4", "--target_update_freq=100"]),
    "iql": Recipe(["--iql_temperature=3", "--iql_expectile=0.8", "--target_update_freq=100"]),
    "bct": Recipe(["--dt_context_length=5"], WINDOW_PASSES),
    "dt": Recipe(["--dt_context_length=5", "--dt_eval_ret=1"], WINDOW_PASSES),
}
BUNDLED, RANDOM = "bundled policy", "uniform random"
MODES = {"sampled": "evaluate_episodes.csv", "deterministic": "evaluate_deterministic_episodes.csv"}
_ROOT = Path(__file__).resolve().parents[1]

FLAGS = (
    Flag("env_name", str, "coinrun", "Procgen game with a bundled policy.", choices=GAMES),
    Flag("dataset", str, "", "Dataset folder; empty takes the built-in data."),
    Flag("save_path", str, "runs/learning", "Folder of the runs."),
    Flag("only", str, (), "Methods to train; none means all.", choices=ALGORITHMS, many=True),
    Flag(
        "epochs",
        int,
        8,
        "Passes over the transitions; bct and dt make a quarter as many over windows of 5 steps.",
        minimum=1,
    ),
    Flag("num_episodes", int, 200, "Episodes per split and acting mode.", minimum=2),
    Flag("seed", int, 88, "Random seed of every run.", minimum=0, maximum=2**31 - 1),
    Flag("no_cuda", bool, False, "Stay on the CPU even where there is a CUDA card."),
    Flag("out", str, "", "File that the table is written to as well."),
)


class Measured(NamedTuple):
    """One line of the table: raw episode returns by split, and seconds of training if any."""

    player: str
    mode: str
    returns: Mapping[str, Sequence[float]]
    seconds: float | None = None


def _command(module: str, flags: Sequence[str]) -> None:
    """Run one of our commands in a process of its own; ToolkitError if it fails."""
    logger.info("$ python -m %s %s", module, " ".join(flags))
    done = subprocess.run([sys.executable, "-m", module, *flags], cwd=_ROOT, check=False)
    if done.returncode:
        raise ToolkitError(f"{module} failed (exit code {done.returncode}); see above")


def train_and_measure(algo: str, settings: argparse.Namespace) -> list[Measured]:
    """Train one method, unless that is done, and play it in both modes."""
    recipe = RECIPES[algo]
    epochs = math.ceil(settings.epochs * recipe.passes)
    flags = [f"--{name}={getattr(settings, name)}" for name in ("env_name", "seed", "no_cuda")]
    flags += [f"--algo={algo}", *COMMON, *recipe.flags, f"--epochs={epochs}"]
    flags += [f"--eval_freq={epochs}", f"--save_path={settings.save_path}"]
    if settings.dataset:
        flags.append(f"--dataset={settings.dataset}")
    # A name of its settings and data: what was measured with others is never taken for this.
    name = parse_training([*flags, *SMALL], "").xpid
    flags.append(f"--xpid={name if settings.dataset else f'{name}-{bundled_weights(settings)}'}")
    _command("offline.train_offline_agent", [*flags, *SMALL])
    folder = Path(settings.save_path) / settings.env_name / flags[-1].removeprefix("--xpid=")
    if not all(_has_episodes(folder / name, settings.num_episodes) for name in MODES.values()):
        episodes = f"--num_final_episodes={settings.num_episodes}"
        _command("offline.evaluate_offline_agent", [*flags, episodes, "--deterministic=both"])
    seconds = _training_seconds(folder)
    return [_read(algo, mode, folder / name, seconds) for mode, name in MODES.items()]


def _has_episodes(path: Path, count: int) -> bool:
    """Whether the file is there and holds `count` episodes per split."""
    from common.evaluation import read_episodes

    return path.exists() and all(len(split) == count for split in read_episodes(path).values())


def _training_seconds(folder: Path) -> float:
    """Seconds of all epochs at the speed of the last one, the only one with a row."""
    with open(folder / "logs.csv", encoding="utf-8", newline="") as file:
        *_, last = csv.DictReader(file)
    return float(last["epoch_time"]) * int(last["epoch"])


def bundled_weights(settings: argparse.Namespace) -> str:
    """A short hash of the game's bundled policy; UsageError if there is none."""
    policy = _ROOT / "online" / "policies" / f"{settings.env_name}.pt"
    if not policy.is_file():
        raise UsageError(f"--env_name {settings.env_name}: no policy is bundled to compare with")
    return hashlib.sha256(policy.read_bytes()).hexdigest()[:8]


def measure_bundled(settings: argparse.Namespace) -> list[Measured]:
    """Play the bundled policy in both modes."""
    measured = []
    for mode in MODES:
        name = f"bundled_policy_{bundled_weights(settings)}_{mode}_{settings.seed}"
        out = Path(settings.save_path) / settings.env_name / name
        if not _has_episodes(out / MODES["sampled"], settings.num_episodes):
            flags = [f"--{name}={getattr(settings, name)}" for name in ("env_name", "num_episodes")]
            flags += [f"--seed={settings.seed}", f"--no_cuda={settings.no_cuda}", f"--out={out}"]
            _command(
                "online.evaluate_policy", [*flags, f"--deterministic={mode == 'deterministic'}"]
            )
        measured.append(_read(BUNDLED, mode, out / MODES["sampled"]))
    return measured


def measure_random(settings: argparse.Namespace) -> Measured:
    """Play with every button equally likely."""
    import numpy as np
    import torch

    from common.evaluation import evaluate, returns_by_split
    from common.games import NUM_ACTIONS
    from common.sampling import ActionSampler
    from common.seeding import derive_seed

    class Uniform:
        """The same logit for every action."""

        def __init__(self) -> None:
            self.sampler = ActionSampler()

        def reset(self, num_envs: int, seed: int) -> None:
            self.sampler.reset(num_envs, seed)

        def act(self, observations: np.ndarray, env_ids: np.ndarray) -> np.ndarray:
            return self.sampler.actions(torch.zeros(len(env_ids), NUM_ACTIONS), env_ids)

        def observe(
            self, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, env_ids: np.ndarray
        ) -> None:
            del actions, rewards, dones, env_ids

    results = evaluate(
        Uniform(),
        env_name=settings.env_name,
        distribution_mode="easy",
        num_levels=200,
        num_episodes=settings.num_episodes,
        seed=derive_seed(settings.seed, "final"),
        progress=True,
    )
    return Measured(RANDOM, "sampled", returns_by_split(results))


def _read(player: str, mode: str, path: Path, seconds: float | None = None) -> Measured:
    from common.evaluation import read_episodes, returns_by_split

    return Measured(player, mode, returns_by_split(read_episodes(path)), seconds)


def table(measured: Sequence[Measured], settings: argparse.Namespace) -> str:
    """Markdown: one line per player and mode, then what was done.

    "above random" is the difference on training levels in standard errors of the difference, "of
    bundled" the share of the bundled policy's return on training levels, as it samples.
    """
    from offline.results.statistics import SPLITS, TRAIN, summarise

    summaries = [summarise(m.returns, settings.env_name) for m in measured]
    by_player = {(m.player, m.mode): s for m, s in zip(measured, summaries, strict=True)}
    random, bundled = (by_player[player, "sampled"][TRAIN] for player in (RANDOM, BUNDLED))
    lines = [
        f"| player | acts | {' | '.join(SPLITS)} | above random | of bundled | minutes |",
        f"|---|---|{'---|' * len(SPLITS)}---|---|---|",
    ]
    for m, summary in zip(measured, summaries, strict=True):
        train = summary[TRAIN]
        noise = math.hypot(train.standard_error, random.standard_error)
        cells = [
            m.player.upper() if m.player in ALGORITHMS else m.player,
            m.mode,
            *(f"{summary[s].mean:.2f} ± {summary[s].standard_error:.2f}" for s in SPLITS),
            "-" if m.player == RANDOM or not noise else f"{(train.mean - random.mean) / noise:.1f}",
            f"{train.mean / bundled.mean:.0%}" if bundled.mean > 0 else "-",
            "-" if m.seconds is None else f"{m.seconds / 60:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"{settings.env_name}, easy, mean raw return ± standard error over {settings.num_episodes} "
        f"episodes per split, one seed ({settings.seed}). above random: difference on training "
        "levels in standard errors. minutes: training, all passes at the speed of the last. "
        f"{settings.epochs} passes over the transitions, of bct and dt "
        f"{math.ceil(settings.epochs * WINDOW_PASSES)} over windows of 5 steps. "
        f"All: `{' '.join(COMMON)}`. "
        + " ".join(f"{algo.upper()}: `{' '.join(f)}`." for algo, (f, _) in RECIPES.items() if f),
        "",
    ]
    return "\n".join(lines)


def _benchmark(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    start = time.monotonic()
    # Those that need no training first: if they cannot be measured, no hour is lost.
    compared_with = [*measure_bundled(settings), measure_random(settings)]
    measured = []
    for algo in settings.only or ALGORITHMS:
        measured += train_and_measure(algo, settings)
    text = table([*measured, *compared_with], settings)
    print(text)
    if settings.out:
        Path(settings.out).write_text(text, encoding="utf-8")
    logger.info("done in %.1f minutes", (time.monotonic() - start) / 60)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
