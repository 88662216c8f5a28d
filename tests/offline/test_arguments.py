from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from common.errors import UsageError
from offline.arguments import (
    ALGORITHMS,
    CHECKPOINT_FLAG,
    SINGLE_LEVEL_FLAGS,
    TRAIN_FLAGS,
    parse_evaluation,
    parse_training,
)
from offline.run_names import run_name

# As the benchmark's own commands have them.
DEFAULTS = {
    "seed": 88,
    "algo": "bc",
    "env_name": "coinrun",
    "distribution_mode": "easy",
    "num_levels": 200,
    "dataset": [],
    "dataset_size": 1_000_000,
    "episode_order": "recorded",
    "percentile": 1.0,
    "levels": [],
    "lr": 0.001,
    "batch_size": 64,
    "epochs": 10,
    "hidden_size": 64,
    "agent_model": "dqn",
    "scale_pixels": True,
    "resume": False,
    "deterministic": False,
    "eval_eps": 0.001,
    "eval_freq": 10,
    "ckpt_freq": 10,
    "num_eval_episodes": 10,
    "num_final_episodes": 100,
    "early_stop": False,
    "target_update_freq": 1000,
    "gamma": 0.99,
    "tau": 0.005,
    "perform_polyak_update": False,
    "cql_alpha": 0.1,
    "bcq_threshold": 0.1,
    "iql_temperature": 0.1,
    "iql_expectile": 0.8,
    "dt_context_length": 128,
    "dt_rtg_noise_prob": 0.0,
    "dt_eval_ret": 0,
    "lr_decay": True,
    "warmup_tokens": 10240,
    "weight_decay": 0.1,
    "grad_norm_clip": 1.0,
}
VALUE_BASED = {"bcq", "cql", "iql"}
TRANSFORMERS = {"bct", "dt"}
# Another value for every flag that can change a result, and who uses it.
CHANGES: dict[str, tuple[Any, set[str]]] = {
    "seed": (89, set(ALGORITHMS)),
    "env_name": ("miner", set(ALGORITHMS)),
    "distribution_mode": ("hard", set(ALGORITHMS)),
    "num_levels": (100, set(ALGORITHMS)),
    "dataset": (["data/1M"], set(ALGORITHMS)),
    "dataset_size": (100_000, set(ALGORITHMS)),
    "episode_order": ("best", set(ALGORITHMS)),
    "percentile": (0.1, set(ALGORITHMS)),
    "levels": ([40], set(ALGORITHMS)),
    "lr": (0.0005, set(ALGORITHMS)),
    "batch_size": (256, set(ALGORITHMS)),
    "epochs": (11, set(ALGORITHMS)),
    "hidden_size": (256, set(ALGORITHMS)),
    "agent_model": ("pporesnetbase", set(ALGORITHMS)),
    "scale_pixels": (False, set(ALGORITHMS)),
    "deterministic": (True, set(ALGORITHMS)),
    "eval_eps": (0.0, set(ALGORITHMS)),
    "eval_freq": (1, set(ALGORITHMS)),
    "num_eval_episodes": (20, set(ALGORITHMS)),
    "early_stop": (True, set(ALGORITHMS)),
    "precision": ("fp32", set(ALGORITHMS)),
    "target_update_freq": (100, VALUE_BASED),
    "gamma": (0.999, VALUE_BASED),
    "tau": (0.99, VALUE_BASED),
    "perform_polyak_update": (True, VALUE_BASED),
    "cql_alpha": (3.0, {"cql"}),
    "bcq_threshold": (0.5, {"bcq"}),
    "iql_temperature": (3.0, {"iql"}),
    "iql_expectile": (0.9, {"iql"}),
    "dt_context_length": (30, TRANSFORMERS),
    "dt_rtg_noise_prob": (0.5, {"dt"}),
    "dt_eval_ret": (5.0, {"dt"}),
    "lr_decay": (False, TRANSFORMERS),
    "warmup_tokens": (512, TRANSFORMERS),
    "weight_decay": (0.0, TRANSFORMERS),
    "grad_norm_clip": (0.5, TRANSFORMERS),
}
# Where things are and go, and what happens besides: the agent that comes out is the same.
NO_CHANGE = set(
    "algo num_seeds save_path xpid resume no_cuda compile ckpt_freq pack_dir data_device "
    "memory_budget_gb num_final_episodes skip_bad_episodes tensorboard wandb_project "
    "wandb_entity".split()
)


def parse(*arguments: str) -> argparse.Namespace:
    return parse_training(arguments, "")


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def settings(**changes: Any) -> argparse.Namespace:
    """Settings that need not be those of an algorithm that is already there."""
    return argparse.Namespace(**{**vars(parse()), **changes})


# Defaults


def test_the_defaults_are_those_of_the_benchmark() -> None:
    parsed = vars(parse())
    assert {name: parsed[name] for name in DEFAULTS} == DEFAULTS


def test_the_single_level_flags_have_the_defaults_of_the_benchmark() -> None:
    defaults = {flag.name: flag.default for flag in SINGLE_LEVEL_FLAGS}
    assert defaults == {
        "level": None,
        "capacity_type": "transitions",
        "threshold_metric": "median",
    }


def test_the_final_checkpoint_is_evaluated_by_default() -> None:
    assert parse_training([], "", extra=(CHECKPOINT_FLAG,)).checkpoint == "final"


# Flags of other algorithms


def test_a_dataset_is_the_same_however_its_path_is_written() -> None:
    names = {parse_training([f"--dataset={path}"], "").xpid for path in ("a/b", "a/b/", "./a//b")}
    assert len(names) == 1
    assert parse_training(["--dataset=../b"], "").xpid not in names


def test_the_newest_run_can_be_evaluated_but_none_be_called_so() -> None:
    assert parse_evaluation(["--xpid=latest"], "").xpids == ("latest",)
    with pytest.raises(UsageError, match="--xpid latest: give the name of a new folder"):
        parse_training(["--xpid=latest"], "")


@pytest.mark.parametrize("name", [name for name in CHANGES if "bc" not in CHANGES[name][1]])
def test_a_changed_flag_of_another_algorithm_is_refused_and_both_are_named(name: str) -> None:
    value, users = CHANGES[name]
    message = refusal("--algo", "bc", f"--{name}", str(value))
    assert message.startswith(f"--{name} {value}: --algo bc does not use it")
    assert all(user in message for user in users)


def test_the_default_value_of_another_algorithms_flag_is_accepted() -> None:
    assert parse("--algo", "bc", "--cql_alpha", "0.1").cql_alpha == 0.1


# Wrong values


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (("--algo", "bcc"), "Did you mean bc?"),
        (("--env_name", "coinrn"), "Did you mean coinrun?"),
        (("--agent_model", "pporesnetbas"), "Did you mean pporesnetbase?"),
        (("--batchsize", "64"), "did you mean --batch_size?"),
        (("--cql-alpha=3",), "did you mean --cql_alpha?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    arguments: tuple[str, ...], nearest: str
) -> None:
    message = refusal(*arguments)
    assert arguments[0].split("=")[0] in message
    assert nearest in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", "0"),
        ("batch_size", "-64"),
        ("batch_size", "1.5"),
        ("batch_size", "many"),
        ("epochs", "0"),
        ("lr", "0"),
        ("lr", "nan"),
        ("lr", "inf"),
        ("percentile", "0"),
        ("percentile", "1.1"),
        ("eval_eps", "-0.1"),
        ("seed", "-1"),
        ("num_levels", "0"),
        # The validation levels follow the training levels, and level seeds end at 2^31 - 1.
        ("num_levels", str(2**31 - 50)),
        ("levels", "-1"),
        ("dataset_size", "0"),
        ("distribution_mode", "memory"),
        ("early_stop", "perhaps"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_flag(name: str, value: str) -> None:
    assert refusal(f"--{name}", value).startswith(f"--{name} {value}: ")


@pytest.mark.parametrize("xpid", ["a/b", "../elsewhere", "..", ".", "/tmp"])
def test_a_run_name_that_is_a_path_is_refused(xpid: str) -> None:
    assert refusal("--xpid", xpid).startswith(f"--xpid {xpid}: ")


def test_several_dataset_folders_are_taken_in_either_spelling() -> None:
    assert parse("--dataset", "a", "b").dataset == ["a", "b"]
    assert parse("--dataset=a", "--dataset=b").dataset == ["a", "b"]


# Run names


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "coinrun-easy-200-d1M-bc-p1-lr0.001-bs64-dqn_88"),
        (
            {"env_name": "miner", "percentile": 0.1, "lr": 5e-5, "dataset_size": 100_000},
            "miner-easy-200-d100K-bc-p0.1-lr5e-05-bs64-dqn_88",
        ),
        (
            {"distribution_mode": "hard", "num_levels": 50, "dataset_size": 1234, "seed": 3},
            "coinrun-hard-50-d1234-bc-p1-lr0.001-bs64-dqn_3",
        ),
        (
            {"early_stop": True, "agent_model": "pporesnetbase", "batch_size": 256},
            "coinrun-easy-200-d1M-bc-p1-lr0.001-bs256-pporesnetbase-es_88",
        ),
        (
            {"algo": "cql", "cql_alpha": 4.0, "target_update_freq": 100},
            "coinrun-easy-200-d1M-cql-p1-lr0.001-bs64-dqn-tuf100-a4_88",
        ),
        (
            {"algo": "cql", "perform_polyak_update": True, "tau": 0.99, "early_stop": True},
            "coinrun-easy-200-d1M-cql-p1-lr0.001-bs64-dqn-tuf1000-polyak-tau0.99-a0.1-es_88",
        ),
        (
            {"algo": "bcq", "agent_model": "bcqresnetbase", "bcq_threshold": 0.5},
            "coinrun-easy-200-d1M-bcq-p1-lr0.001-bs64-bcqresnetbase-tuf1000-t0.5-res_88",
        ),
        (
            {"algo": "bcq", "agent_model": "bcq"},
            "coinrun-easy-200-d1M-bcq-p1-lr0.001-bs64-bcq-tuf1000-t0.1_88",
        ),
        (
            {"algo": "iql", "iql_temperature": 3.0},
            "coinrun-easy-200-d1M-iql-p1-lr0.001-bs64-dqn-tuf1000-t3-e0.8_88",
        ),
        (
            {"algo": "dt", "dt_context_length": 10, "dt_eval_ret": 5.0},
            "coinrun-easy-200-d1M-dt-p1-lr0.001-bs64-dqn-cl10-er5_88",
        ),
        (
            {"algo": "bct", "dt_context_length": 30},
            "coinrun-easy-200-d1M-bct-p1-lr0.001-bs64-dqn-cl30-er0_88",
        ),
    ],
)
def test_a_run_is_named_by_the_settings_that_the_grids_vary(
    changes: dict[str, Any], name: str
) -> None:
    assert run_name(settings(**changes), TRAIN_FLAGS) == name


def test_a_setting_that_the_name_does_not_show_adds_a_short_hash() -> None:
    name = run_name(settings(epochs=11), TRAIN_FLAGS)
    assert re.fullmatch(r"coinrun-easy-200-d1M-bc-p1-lr0\.001-bs64-dqn-[0-9a-f]{6}_88", name)


def test_every_flag_is_known_to_change_results_or_not() -> None:
    assert {flag.name for flag in TRAIN_FLAGS} == set(CHANGES) | NO_CHANGE


def test_two_settings_that_differ_in_one_flag_never_share_a_name() -> None:
    names = {}
    for algo in ALGORITHMS:
        names[(algo, "")] = run_name(settings(algo=algo), TRAIN_FLAGS)
        for flag, (value, users) in CHANGES.items():
            if algo in users:
                names[(algo, flag)] = run_name(settings(algo=algo, **{flag: value}), TRAIN_FLAGS)
    # Without Polyak updates tau has no effect, and yet the settings differ.
    assert len(set(names.values())) == len(names)


def test_numbers_that_differ_in_a_late_digit_get_different_names() -> None:
    values = [0.00012345678, 0.00012345679, 0.000123456]
    assert len({run_name(settings(lr=value), TRAIN_FLAGS) for value in values}) == 3
    sizes = [999_999, 1_000_000, 1_000_001, 1000, 1_000_000_000]
    assert len({run_name(settings(dataset_size=size), TRAIN_FLAGS) for size in sizes}) == 5


@pytest.mark.parametrize("name", sorted(NO_CHANGE - {"algo", "num_seeds", "xpid"}))
def test_where_things_are_does_not_change_the_name(name: str) -> None:
    other = {"save_path": "elsewhere", "pack_dir": "packs", "data_device": "mmap"}
    other |= {"ckpt_freq": "3", "num_final_episodes": "3", "memory_budget_gb": "2"}
    other |= {"compile": "on"}
    needed = ("--wandb_project=procgen",) if name == "wandb_entity" else ()
    assert parse(f"--{name}", other.get(name, "True"), *needed).xpid == parse().xpid


def test_the_same_settings_have_the_same_name_however_they_are_written() -> None:
    names = {
        parse("--lr=0.0005", "--epochs=100", "--dataset_size=1000000").xpid,
        parse("--epochs", "100", "--dataset_size", "1e6", "--lr", "5e-4").xpid,
        parse("--lr=5e-04", "--epochs=1e2", "--percentile=1", "--cql_alpha=0.1").xpid,
    }
    assert len(names) == 1


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_name_is_a_folder_name_even_with_every_flag_changed(algo: str) -> None:
    changes = {flag: value for flag, (value, users) in CHANGES.items() if algo in users}
    changes["dataset"] = ["/some/where with spaces/data", "../other"]
    name = run_name(settings(algo=algo, **changes), TRAIN_FLAGS)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
    assert len(name) < 200


def test_a_given_name_is_kept() -> None:
    assert parse("--xpid", "mine", "--lr", "1").xpid == "mine"
