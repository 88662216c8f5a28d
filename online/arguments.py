"""Every flag of the online commands, once: name, type, default, range and help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from common.errors import UsageError
from common.flags import Flag, check_xpid, parse_flags, short_number, unnamed_settings_hash
from common.games import DISTRIBUTION_MODES, GAMES
from common.tracking import TRACKING_FLAGS, check_tracking_flags

_ENV_NAME = Flag("env_name", str, "coinrun", "Procgen game.", choices=GAMES)
_MODE = Flag("distribution_mode", str, "easy", "Procgen difficulty.", choices=DISTRIBUTION_MODES)
_NUM_LEVELS = Flag(
    "num_levels", int, 200, "Number of training levels; 0 draws from all of them.", minimum=0
)
_START_LEVEL = Flag("start_level", int, 0, "Seed of the first training level.", minimum=0)
_SEED = Flag("seed", int, 88, "Random seed of everything.", minimum=0, maximum=2**31 - 1)
_NO_CUDA = Flag("no_cuda", bool, False, "Stay on the CPU even where there is a CUDA card.")
_HIDDEN = Flag("hidden_size", int, 256, "Features of the IMPALA trunk.", minimum=1)
_PROCESSES = Flag("num_processes", int, 64, "Environments stepped together.", minimum=1)
_DATA_DIR = Flag(
    "dataset_saving_dir", str, "data/ppo", "Folder for episode files; <dir>/<env_name>/ is made."
)
_SAVE_DATASET = "Record the episodes: raw rewards, uint8 frames, whole episodes."

TRAINER_FLAGS = (
    Flag("algo", str, "ppo", "Learning algorithm.", choices=("ppo",)),
    _ENV_NAME,
    _MODE,
    _NUM_LEVELS,
    _START_LEVEL,
    _SEED,
    _NO_CUDA,
    Flag("num_env_steps", int, 25_000_000, "Environment steps to train for.", minimum=1),
    _PROCESSES,
    Flag("num_steps", int, 256, "Steps of each environment between updates.", minimum=1),
    Flag("ppo_epoch", int, 3, "Passes over the collected steps per update.", minimum=1),
    Flag("num_mini_batch", int, 8, "Minibatches per pass.", minimum=1),
    Flag("lr", float, 5e-4, "Learning rate of Adam.", above=0),
    Flag("eps", float, 1e-5, "Epsilon of Adam.", above=0),
    Flag("gamma", float, 0.999, "Discount per step.", minimum=0, maximum=1),
    Flag("gae_lambda", float, 0.95, "Lambda of the advantage estimate.", minimum=0, maximum=1),
    Flag("clip_param", float, 0.2, "Clipping range of ratio and value.", above=0),
    Flag("entropy_coef", float, 0.01, "Weight of the entropy bonus.", minimum=0),
    Flag("value_loss_coef", float, 0.5, "Weight of the value loss.", minimum=0),
    Flag("max_grad_norm", float, 0.5, "Largest gradient norm.", above=0),
    _HIDDEN,
    Flag(
        "precision",
        str,
        "auto",
        "Arithmetic of the update; as in offline training.",
        choices=("auto", "fp32", "tf32", "bf16"),
    ),
    Flag(
        "compile",
        str,
        "auto",
        "Play and learn with an encoder compiled by torch.compile; as in offline training.",
        choices=("auto", "off", "on"),
    ),
    Flag("model_saving_dir", str, "runs/online", "Runs go to <dir>/<env_name>/<xpid>/."),
    Flag("xpid", str, "", "Name of the run; made from the settings when empty."),
    Flag("checkpoint_path", str, "", "Start from the weights of this checkpoint."),
    Flag("resume", bool, False, "Continue from rolling/model.pt, exactly."),
    Flag("log_interval", int, 1, "Updates between rows of logs.csv.", minimum=1),
    Flag("archive_interval", int, 50, "Updates between archived checkpoints.", minimum=1),
    Flag("save_dataset", bool, False, _SAVE_DATASET),
    _DATA_DIR,
    *TRACKING_FLAGS,
)

COLLECTOR_FLAGS = (
    _ENV_NAME,
    _MODE,
    _NUM_LEVELS,
    _START_LEVEL,
    _SEED,
    _NO_CUDA,
    _HIDDEN,
    _PROCESSES,
    Flag("checkpoint_path", str, "", "Policy to play; empty takes the bundled one of the game."),
    Flag("num_env_steps", int, 100_000_000, "Most environment steps to play.", minimum=1),
    Flag("capacity", int, 1_000_000, "Transitions to collect, in whole episodes.", minimum=1),
    Flag(
        "ratio",
        float,
        0.0,
        "Instead of checkpoint_path: in every run below ratio_checkpoint_dir, the archived policy "
        "whose return is closest to this share of the final one's; 0 is off.",
        minimum=0,
        maximum=1,
    ),
    Flag("ratio_checkpoint_dir", str, "", "Folder searched for runs of online.trainer."),
    Flag("ratio_dataset_dir", str, "", "Folder for episodes of --ratio; <dir>/<xpid>/<env_name>/."),
    Flag("save_dataset", bool, True, _SAVE_DATASET + " False only plays and reports returns."),
    Flag(_DATA_DIR.name, str, "data/collected", _DATA_DIR.help),
)

EVALUATION_FLAGS = (
    _ENV_NAME,
    Flag(
        "distribution_mode",
        str,
        "",
        "Procgen difficulty; none: that of the policy's training, and another is refused.",
        choices=("", *DISTRIBUTION_MODES),
    ),
    Flag(
        "num_levels",
        int,
        None,
        "Number of training levels; none: that of the policy's training, and another is refused.",
        minimum=0,
    ),
    _SEED,
    _NO_CUDA,
    _HIDDEN,
    Flag("checkpoint_path", str, "", "Policy to play; empty takes the bundled one of the game."),
    Flag("num_episodes", int, 200, "Episodes per split.", minimum=1),
    Flag("deterministic", bool, False, "Take the likeliest action instead of sampling."),
    Flag("out", str, "", "Folder for evaluate.csv and evaluate_episodes.csv; empty writes none."),
)


# Flags that the name shows, or that cannot change what is learnt.
_NOT_IN_HASH = frozenset(
    "env_name distribution_mode num_levels lr ppo_epoch num_mini_batch value_loss_coef "
    "entropy_coef seed algo xpid resume no_cuda compile model_saving_dir log_interval "
    "archive_interval save_dataset dataset_saving_dir tensorboard wandb_project "
    "wandb_entity".split()
)


def ppo_xpid(settings: argparse.Namespace) -> str:
    """The name of a PPO run, made from the settings that the paper's grids vary.

    Other settings that are not at their defaults add a short hash.
    """
    s = settings
    rest = unnamed_settings_hash(TRAINER_FLAGS, s, _NOT_IN_HASH)
    return (
        f"{s.env_name}-{s.distribution_mode}-{s.num_levels}-ppo"
        f"-lr{short_number(s.lr)}-epoch{s.ppo_epoch}-mb{s.num_mini_batch}"
        f"-v{short_number(s.value_loss_coef)}-ha{short_number(s.entropy_coef)}"
        f"{'-' + rest if rest else ''}_{s.seed}"
    )


def _check_levels(settings: argparse.Namespace) -> None:
    """UsageError for a first level that Procgen ignores."""
    if settings.start_level and not settings.num_levels:
        raise UsageError(
            f"--start_level {settings.start_level}: --num_levels 0 draws from all levels, wherever "
            "they start: drop one"
        )


def parse_ppo(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Parse the flags of the training command; `xpid` is filled in.

    Raises UsageError for anything wrong, flags that do not fit together included.
    """
    settings = parse_flags(TRAINER_FLAGS, argv, description)
    check_tracking_flags(settings)
    _check_levels(settings)
    samples = settings.num_steps * settings.num_processes
    if settings.num_mini_batch > samples:
        raise UsageError(
            f"--num_mini_batch {settings.num_mini_batch}: more than the {samples} steps of an "
            "update (num_steps x num_processes)"
        )
    check_xpid(settings.xpid)
    settings.xpid = settings.xpid or ppo_xpid(settings)
    return settings


def parse_collection(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Parse the flags of the collecting command.

    Raises UsageError for anything wrong, flags that do not fit together included.
    """
    settings = parse_flags(COLLECTOR_FLAGS, argv, description)
    _check_levels(settings)
    if settings.ratio:
        if settings.checkpoint_path:
            raise UsageError("--ratio chooses the checkpoint itself: leave --checkpoint_path out")
        if "dataset_saving_dir" in settings.given:
            raise UsageError("--ratio writes to --ratio_dataset_dir: drop --dataset_saving_dir")
        for name in ("ratio_checkpoint_dir", "ratio_dataset_dir"):
            if not getattr(settings, name):
                raise UsageError(f"--ratio {settings.ratio:g} needs --{name}")
    elif settings.ratio_checkpoint_dir or settings.ratio_dataset_dir:
        raise UsageError("--ratio_checkpoint_dir and --ratio_dataset_dir belong to --ratio")
    return settings
