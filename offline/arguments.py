"""Every hyperparameter of the offline commands, once: name, type, default, help, who uses it."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from common.errors import UsageError
from common.flags import Flag, check_xpid, parse_flags
from common.games import DISTRIBUTION_MODES, GAMES
from common.tracking import TRACKING_FLAGS, check_tracking_flags
from offline.run_names import LAST_SEED, check_seeds, run_name, setting_name

ALGORITHMS = ("bc", "bcq", "bct", "cql", "dt", "iql")
# An algorithm is there when its file is; reading the folder keeps `--help` free of torch.
AVAILABLE = tuple(
    name for name in ALGORITHMS if (Path(__file__).parent / "agents" / f"{name}.py").is_file()
)
DEFAULT_EVAL_EPS = 0.001
_VALUE_BASED = ("bcq", "cql", "iql")
_TRANSFORMERS = ("bct", "dt")
_AGENT_MODELS = ("dqn", "bcq", "pporesnetbase", "bcqresnetbase", "pporesnet20")


def acting_modes(text: str) -> bool | str:
    """The value of `--deterministic True|False|both`; other text as it is, for the error line."""
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)


EXPERIMENT_FLAGS = (
    Flag("algo", str, "bc", "Offline method.", choices=AVAILABLE),
    Flag("env_name", str, "coinrun", "Procgen game.", choices=GAMES),
    Flag("distribution_mode", str, "easy", "Procgen difficulty.", choices=DISTRIBUTION_MODES),
    Flag(
        "num_levels",
        int,
        200,
        "Number of training levels, seeds 0 and up.",
        minimum=1,
        maximum=2**31 - 51,  # the 50 validation levels follow; seeds end at 2^31 - 1
    ),
    Flag("seed", int, 88, "Random seed of everything.", minimum=0, maximum=LAST_SEED),
    Flag(
        "num_seeds",
        int,
        1,
        "Runs to train, or evaluate, in one process over the same data: those of this many seeds, "
        "from --seed on. Each is what it would be alone; --xpid names it <xpid>_<seed>.",
        minimum=1,
    ),
)

DATA_FLAGS = (
    Flag(
        "dataset",
        str,
        (),
        "Folders that hold one folder of episode files per game; several combine. None: the "
        "built-in data, collected with the bundled policy on first use (50,000 transitions).",
        many=True,
    ),
    Flag("dataset_size", int, 1_000_000, "Transitions to take, in whole episodes.", minimum=1),
    Flag(
        "episode_order",
        str,
        "recorded",
        "Which episodes dataset_size takes first.",
        choices=("recorded", "best", "random"),
    ),
    Flag(
        "percentile",
        float,
        1.0,
        "Of the episodes taken, keep the best ones up to this share of their transitions.",
        above=0,
        maximum=1,
    ),
    Flag("levels", int, (), "Use episodes of these level seeds only.", many=True, minimum=0),
    Flag(
        "skip_bad_episodes",
        bool,
        False,
        "Skip and count episode files that are broken, instead of refusing the data.",
    ),
    Flag("pack_dir", str, "", "Folder for packed data; empty packs beside the episode files."),
    Flag(
        "data_device",
        str,
        "auto",
        "Where frames live while training: on the GPU, in RAM, or (mmap) in their files, read as "
        "needed; auto takes the first that fits.",
        choices=("auto", "cuda", "ram", "mmap"),
    ),
    Flag(
        "memory_budget_gb",
        float,
        0.0,
        "Most host memory for frames, in GB; 0 means 60% of what is free.",
        minimum=0,
    ),
)

MODEL_FLAGS = (
    Flag("agent_model", str, "dqn", "Encoder of the frames.", choices=_AGENT_MODELS),
    Flag(
        "hidden_size",
        int,
        64,
        "Channels of dqn's second convolution; features of the IMPALA encoders.",
        minimum=1,
    ),
    Flag("scale_pixels", bool, True, "Feed pixels in [0, 1]; False feeds 0..255."),
)

OPTIMISATION_FLAGS = (
    Flag("lr", float, 1e-3, "Learning rate.", above=0),
    Flag("batch_size", int, 64, "Samples per gradient step.", minimum=1),
    Flag("epochs", int, 10, "Passes over the data.", minimum=1),
    Flag("gamma", float, 0.99, "Discount.", minimum=0, maximum=1, algorithms=_VALUE_BASED),
    Flag(
        "target_update_freq",
        int,
        1000,
        "Gradient steps between updates of the target networks.",
        minimum=1,
        algorithms=_VALUE_BASED,
    ),
    Flag(
        "perform_polyak_update",
        bool,
        False,
        "Move targets by tau instead of copying.",
        algorithms=_VALUE_BASED,
    ),
    Flag("tau", float, 0.005, "Polyak step.", above=0, maximum=1, algorithms=_VALUE_BASED),
    Flag("cql_alpha", float, 0.1, "Weight of CQL's penalty.", minimum=0, algorithms=("cql",)),
    Flag(
        "bcq_threshold",
        float,
        0.1,
        "BCQ allows actions at least this likely, relative to the likeliest.",
        minimum=0,
        maximum=1,
        algorithms=("bcq",),
    ),
    Flag(
        "iql_temperature",
        float,
        0.1,
        "Inverse temperature of IQL's advantage weights; small behaves like BC.",
        minimum=0,
        algorithms=("iql",),
    ),
    Flag(
        "iql_expectile",
        float,
        0.8,
        "Expectile of IQL's value; 0.5 is the mean, towards 1 the maximum over actions.",
        above=0,
        below=1,
        algorithms=("iql",),
    ),
    Flag(
        "dt_context_length",
        int,
        128,
        "Steps that the transformer sees.",
        minimum=1,
        algorithms=_TRANSFORMERS,
    ),
    Flag(
        "dt_rtg_noise_prob",
        float,
        0.0,
        "Chance that a return-to-go is replaced by a uniform draw.",
        minimum=0,
        maximum=1,
        algorithms=("dt",),
    ),
    Flag(
        "dt_eval_ret",
        float,
        0,
        "Target return at evaluation, in multiples of the largest return in the data.",
        algorithms=("dt",),
    ),
    Flag("lr_decay", bool, True, "Decay the rate by a cosine.", algorithms=_TRANSFORMERS),
    Flag(
        "warmup_tokens",
        int,
        10240,
        "Tokens of linear warm-up.",
        minimum=0,
        algorithms=_TRANSFORMERS,
    ),
    Flag("weight_decay", float, 0.1, "AdamW decay.", minimum=0, algorithms=_TRANSFORMERS),
    Flag("grad_norm_clip", float, 1.0, "Largest gradient norm.", above=0, algorithms=_TRANSFORMERS),
)

EVALUATION_FLAGS = (
    Flag("eval_freq", int, 10, "Epochs between evaluations.", minimum=1),
    Flag("num_eval_episodes", int, 10, "Episodes per split and evaluation.", minimum=1),
    Flag(
        "num_final_episodes",
        int,
        100,
        "Episodes per split after training (final_test_eval.csv, evaluate.csv); 0 skips it.",
        minimum=0,
    ),
    Flag("deterministic", bool, False, "Take the likeliest action instead of sampling."),
    Flag(
        "eval_eps",
        float,
        DEFAULT_EVAL_EPS,
        "Chance of a random action for value-based methods; 0 makes these, and bc, deterministic.",
        minimum=0,
        maximum=1,
        algorithms=("bc", "bcq", "cql", "iql"),
    ),
    Flag(
        "early_stop",
        bool,
        False,
        "Stop after 10 evaluations in which validation return did not rise by 0.1.",
    ),
)

RUN_FLAGS = (
    Flag("save_path", str, "runs/offline", "Runs go to <save_path>/<env_name>/<xpid>/."),
    Flag("xpid", str, "", "Name of the run; made from the settings when empty."),
    Flag("resume", bool, False, "Continue from model.pt, exactly."),
    Flag("ckpt_freq", int, 10, "Epochs between kept checkpoints model_<epoch>.pt.", minimum=1),
    Flag("no_cuda", bool, False, "Stay on the CPU even where there is a CUDA card."),
    Flag(
        "precision",
        str,
        "auto",
        "Arithmetic of training; auto is bf16 where the hardware has it, else fp32. tf32 is fp32 "
        "whose products a card rounds to 10 bits (not measured on a card yet).",
        choices=("auto", "fp32", "tf32", "bf16"),
    ),
    Flag(
        "compile",
        str,
        "auto",
        "Train with encoders compiled by torch.compile, half a minute or more for each size of "
        "batch; results are equal to rounding. auto is off: slower on a CPU, not measured on a "
        "card yet.",
        choices=("auto", "off", "on"),
    ),
    *TRACKING_FLAGS,
)

TRAIN_FLAGS = (
    EXPERIMENT_FLAGS + DATA_FLAGS + MODEL_FLAGS + OPTIMISATION_FLAGS + EVALUATION_FLAGS + RUN_FLAGS
)

# Of offline.evaluate_offline_agent, beside those of training.
CHECKPOINT_FLAG = Flag(
    "checkpoint", str, "final", "Which checkpoint to evaluate.", choices=("final", "best")
)
# There in place of the flag of training.
ACTING_MODES_FLAG = Flag(
    "deterministic",
    acting_modes,
    None,
    "True takes the likeliest action, False samples; both does one after the other (with "
    "--eval_eps 0, which is certain by itself, it then samples as by default); none: as the run "
    "was trained to. What it was not trained to do goes to evaluate_deterministic.csv or "
    "evaluate_sampled.csv.",
    choices=(True, False, "both"),
)

# Of offline.single_level_train_offline_agent, beside those of training.
SINGLE_LEVEL_FLAGS = (
    Flag(
        "level",
        int,
        None,
        "Seed of the level; none: the only one of the data, else chosen by the two flags below.",
        minimum=0,
        maximum=2**31 - 2,
    ),
    Flag(
        "capacity_type",
        str,
        "transitions",
        "What the levels are ranked by, most last.",
        choices=("transitions", "episodes"),
    ),
    Flag(
        "threshold_metric",
        str,
        "median",
        "Which level of the ranking: the median one or that at the 90th percentile.",
        choices=("median", "percentile"),
    ),
)


def parse_training(
    argv: Sequence[str] | None, description: str, extra: Sequence[Flag] = ()
) -> argparse.Namespace:
    """Parse the flags of a training command; `xpid` is filled in, with several seeds without them.

    Raises UsageError for anything wrong, a flag of another algorithm with a value that is not its
    default included.
    """
    settings = _parse((*TRAIN_FLAGS, *extra), argv, description)
    check_xpid(settings.xpid)
    settings.xpid = settings.xpid or _name(settings)
    return settings


def parse_evaluation(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Parse the flags of the evaluation command: those of training, and how to act.

    `acting_modes` holds the values of `deterministic` to evaluate with. `xpids` holds the names
    that the run may have, likeliest first: the flags may be those that it was trained with, or
    others only in how to act, which belong to its name if they are not at their defaults.
    """
    flags = (ACTING_MODES_FLAG if f.name == "deterministic" else f for f in TRAIN_FLAGS)
    settings = _parse((*flags, CHECKPOINT_FLAG), argv, description)
    if settings.xpid != "latest":  # the link to the newest run
        check_xpid(settings.xpid)
    both = settings.deterministic == "both"
    settings.acting_modes = (False, True) if both else (bool(settings.deterministic),)
    settings.deterministic = settings.acting_modes[0]
    acted = itertools.product(
        (settings.deterministic, not settings.deterministic), (settings.eval_eps, DEFAULT_EVAL_EPS)
    )
    mine = vars(settings)
    names = (
        _name(argparse.Namespace(**{**mine, "deterministic": mode, "eval_eps": eps}))
        for mode, eps in acted
    )
    settings.xpids = (settings.xpid,) if settings.xpid else tuple(dict.fromkeys(names))
    return settings


def _name(settings: argparse.Namespace) -> str:
    """Of the run; of several seeds what their names begin with, as `of_each_seed` takes it."""
    return (run_name if settings.num_seeds == 1 else setting_name)(settings, TRAIN_FLAGS)


def _parse(
    flags: Sequence[Flag], argv: Sequence[str] | None, description: str
) -> argparse.Namespace:
    settings = parse_flags(flags, argv, description)
    settings.level = getattr(settings, "level", None)
    for flag in flags:
        if not flag.algorithms or settings.algo in flag.algorithms:
            continue
        value = getattr(settings, flag.name)
        if value != flag.default:
            raise UsageError(
                f"--{flag.name} {value}: --algo {settings.algo} does not use it "
                f"(used by {', '.join(flag.algorithms)})"
            )
    check_tracking_flags(settings)
    check_seeds(settings)
    return settings
