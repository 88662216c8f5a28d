"""What the benchmark measures and how much of it: the flags that both sides read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np

from common.flags import Flag
from common.games import GAMES

# The methods and what the paper settles on for each, beside the network and the rate below.
METHOD_SETTINGS: Mapping[str, Mapping[str, float]] = {
    "bc": {},
    "cql": {"cql_alpha": 4.0},
    "bcq": {"bcq_threshold": 0.5},
    "iql": {"iql_temperature": 3.0, "iql_expectile": 0.8},
    "dt": {},
    "bct": {},
}
ROWS = (*METHOD_SETTINGS, "loss", "batches", "ppo", "environment", "evaluation", "second_start")

# The paper's network: IMPALA with 16/32/32 channels and 256 features.
HIDDEN_SIZE = 256
NUM_LEVELS = 200
LEARNING_RATE = 5e-4

SIZE_FLAGS = (
    Flag(
        "env_name",
        str,
        "starpilot",
        "Procgen game. Under random play starpilot's episodes are short, which keeps 3 x 100 of "
        "them affordable.",
        choices=GAMES,
    ),
    Flag("seed", int, 88, "Random seed of everything.", minimum=0, maximum=2**31 - 1),
    Flag("no_cuda", bool, False, "Stay on the CPU, both sides, even where there is a CUDA card."),
    Flag(
        "precision",
        str,
        "auto",
        "Arithmetic of our side's training; the plain side's is fp32.",
        choices=("auto", "fp32", "tf32", "bf16"),
    ),
    Flag("transitions", int, 50_000, "Transitions of the data, in whole episodes.", minimum=1),
    Flag(
        "batch_size",
        int,
        256,
        "Samples per batch of bc, cql, bcq, iql, loss and batches.",
        minimum=1,
    ),
    Flag("window_batch_size", int, 64, "Windows per batch of dt and bct.", minimum=1),
    Flag("context_length", int, 10, "Steps of a window of dt and bct.", minimum=1),
    Flag("bc_batches", int, 4, "Gradient steps per repeat of bc.", minimum=1),
    Flag("method_batches", int, 6, "Gradient steps per repeat of the other methods.", minimum=1),
    Flag("loss_batches", int, 10, "Gradient steps of the loss check.", minimum=1),
    Flag("batches", int, 50, "Batches per repeat of batches.", minimum=1),
    Flag("num_processes", int, 64, "Environments of ppo and of our environment row.", minimum=1),
    Flag("num_steps", int, 16, "Steps of each environment per PPO update.", minimum=1),
    Flag("num_mini_batch", int, 8, "Minibatches per pass of PPO.", minimum=1),
    Flag("ppo_epoch", int, 3, "Passes of PPO over the collected steps.", minimum=1),
    Flag("env_steps", int, 4096, "Environment steps per repeat of environment.", minimum=1),
    Flag("episodes", int, 100, "Our episodes per split in evaluation.", minimum=1),
    Flag("plain_episodes", int, 3, "Episodes per split of the plain evaluation.", minimum=1),
)
COMMAND_FLAGS = (
    Flag("only", str, (), "Rows to measure; none means all.", choices=ROWS, many=True),
    Flag("repeats", int, 5, "Times each side is measured, in turn.", minimum=1),
    Flag("out", str, "", "File that the table is written to as well."),
    *SIZE_FLAGS,
)
PROFILE_FLAGS = (
    Flag(
        "only",
        str,
        (),
        "Methods to measure; none means all.",
        choices=(*METHOD_SETTINGS,),
        many=True,
    ),
    Flag("repeats", int, 3, "Times each side is measured, in turn.", minimum=1),
    Flag("out", str, "", "File that the tables are written to as well."),
    *SIZE_FLAGS,
)
WORKER_FLAGS = (
    Flag("row", str, ROWS[0], "Row to measure.", choices=ROWS),
    Flag("data", str, "", "Folder that holds one folder of episodes per game."),
    *SIZE_FLAGS,
)


def gradient_steps(settings: argparse.Namespace, algo: str) -> int:
    """Gradient steps per repeat of a method's row: its own flag, else that of all others."""
    return int(vars(settings).get(f"{algo}_batches", settings.method_batches))


def random_indices(seed: int, number: int, num_samples: int, batch_size: int) -> np.ndarray:
    """The sample numbers (batch_size,) int64 of batch `number`, the same on both sides."""
    return np.random.default_rng([seed, number]).integers(num_samples, size=batch_size)
