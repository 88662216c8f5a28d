"""The shipped configurations are the benchmark's settings, and every command they give parses."""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from common.flags import Flag
from common.games import GAMES
from offline.arguments import ALGORITHMS, SINGLE_LEVEL_FLAGS, TRAIN_FLAGS, parse_training
from offline.run_names import run_name
from train_scripts.grid import Grid, Settings, expand, read_base, read_grid, to_arguments

ROOT = Path(__file__).parent.parent.parent
OFFLINE = ROOT / "configs" / "offline"
EXTRA: dict[str, tuple[Flag, ...]] = {
    "final": (),
    "grids": (),
    "single": SINGLE_LEVEL_FLAGS,
    "study": (),
}
FILES = [(folder, algo) for folder in EXTRA for algo in ALGORITHMS]

# Runs of one trial: 16 games times the values of the benchmark's tables.
SIZES = {
    ("final", "bc"): 16,
    ("final", "bcq"): 16,
    ("final", "bct"): 16 * 2,
    ("final", "cql"): 16,
    ("final", "dt"): 16,
    ("final", "iql"): 16,
    ("grids", "bc"): 96,
    ("grids", "bcq"): 256,
    ("grids", "bct"): 288,
    ("grids", "cql"): 2592,
    ("grids", "dt"): 192,
    ("grids", "iql"): 864,
}
SIZES |= {("single", algo): SIZES["final", algo] for algo in ALGORITHMS}
SIZES |= {("study", algo): 1 for algo in ALGORITHMS}

Values = dict[str, list[Any]]


def values(**lists: list[Any]) -> Values:
    return lists


ALL = values(
    env_name=[
        *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball"),
        *("fruitbot", "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder"),
        "starpilot",
    ],
    num_levels=[200],
    eval_freq=[1],
    early_stop=[True],
    resume=[True],
)
IMPALA = values(agent_model=["pporesnetbase"], hidden_size=[256])
BCQ_IMPALA = values(agent_model=["bcqresnetbase"], hidden_size=[256])
POLYAK = values(perform_polyak_update=[True])
# `eval_eps` and the target return are left out where the method has no use for them.
FINAL = {
    "bc": IMPALA
    | values(lr=[5e-4], batch_size=[256], epochs=[100], ckpt_freq=[10], percentile=[1.0]),
    "bcq": BCQ_IMPALA
    | values(lr=[5e-4], batch_size=[512], epochs=[500], ckpt_freq=[10], bcq_threshold=[0.5])
    | POLYAK
    | values(target_update_freq=[1000], tau=[0.5], eval_eps=[0.001]),
    "bct": values(lr=[5e-4], batch_size=[512], epochs=[50], ckpt_freq=[5])
    | values(dt_context_length=[30, 10]),
    "cql": IMPALA
    | values(lr=[5e-4], batch_size=[256], epochs=[1000], ckpt_freq=[10], cql_alpha=[4.0])
    | POLYAK
    | values(target_update_freq=[1000], tau=[0.99]),
    "dt": values(lr=[5e-4], batch_size=[512], epochs=[50], ckpt_freq=[5])
    | values(dt_context_length=[10], dt_eval_ret=[5.0]),
    "iql": IMPALA
    | values(lr=[5e-4], batch_size=[512], epochs=[100], ckpt_freq=[10])
    | values(iql_temperature=[3.0], iql_expectile=[0.8], eval_eps=[0.0])
    | POLYAK
    | values(target_update_freq=[100], tau=[0.005]),
}
# What a grid has in place of the final settings.
SEARCHED = {
    "bc": values(lr=[1e-4, 5e-4, 5e-3], batch_size=[256, 512]),
    "bcq": values(batch_size=[256, 512], epochs=[2000], target_update_freq=[100], tau=[0.005])
    | values(bcq_threshold=[0.01, 0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9]),
    "bct": values(lr=[5e-4, 1e-4, 5e-3], batch_size=[256, 512], epochs=[100], ckpt_freq=[10])
    | values(dt_context_length=[5, 10, 30]),
    "cql": values(lr=[1e-4, 5e-4, 5e-3], batch_size=[256, 512], cql_alpha=[0.5, 1.0, 4.0])
    | values(target_update_freq=[1, 100, 1000], tau=[0.99, 0.5, 0.005]),
    "dt": values(lr=[5e-5, 5e-4, 1e-4], epochs=[100])
    | values(dt_context_length=[5, 10], dt_eval_ret=[1.0, 5.0]),
    "iql": values(lr=[5e-4, 1e-4, 5e-3], batch_size=[256], target_update_freq=[100, 1000])
    | values(iql_temperature=[3.0, 7.0, 10.0], iql_expectile=[0.7, 0.8, 0.9]),
}
# What the methods of the study have in common, and what is a method's own.
STUDY = (
    values(env_name=["coinrun"], num_levels=[200], dataset_size=[12_000])
    | values(agent_model=["dqn"], hidden_size=[64], lr=[5e-4], batch_size=[64])
    | values(num_eval_episodes=[10])
)
STUDIED = {
    "bc": values(epochs=[8], eval_freq=[2]),
    "bcq": values(epochs=[5], eval_freq=[1], target_update_freq=[100], bcq_threshold=[0.5]),
    "bct": values(epochs=[3], eval_freq=[1], dt_context_length=[3]),
    "cql": values(epochs=[6], eval_freq=[1], target_update_freq=[100], cql_alpha=[4.0]),
    "dt": values(epochs=[3], eval_freq=[1], dt_context_length=[3], dt_eval_ret=[1.0]),
    "iql": values(epochs=[3], eval_freq=[1], target_update_freq=[100])
    | values(iql_temperature=[3.0], iql_expectile=[0.8]),
}


def load(folder: str, algo: str) -> Grid:
    return read_grid(OFFLINE / folder / f"{algo}.json", TRAIN_FLAGS)


@cache
def default() -> Settings:
    return read_base(OFFLINE / "default.json", TRAIN_FLAGS)


def test_every_configuration_of_offline_is_tested_here() -> None:
    there = {path.relative_to(OFFLINE).as_posix() for path in OFFLINE.rglob("*") if path.is_file()}
    files = {f"{folder}/{algo}.json" for folder, algo in FILES}
    assert there == {"default.json", "grids/small.json", *files}


def test_the_default_configuration_states_every_flag_at_its_default() -> None:
    in_code = {flag.name: list(flag.default) if flag.many else flag.default for flag in TRAIN_FLAGS}
    written = json.loads((OFFLINE / "default.json").read_text())
    assert list(written.items()) == list(in_code.items())
    assert default() == in_code


def test_the_small_grid_of_the_readme_is_two_short_runs() -> None:
    grid = load("grids", "small")
    assert grid == {"algo": ["bc"], "lr": [0.0005, 0.001], "epochs": [3], "eval_freq": [1]}
    assert f"    {json.dumps({'grid': grid})}\n" in (ROOT / "README.md").read_text()


def test_all_means_every_game() -> None:
    assert ALL["env_name"] == list(GAMES)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_final_settings_are_those_of_the_benchmark(algo: str) -> None:
    assert load("final", algo) == {"algo": [algo], "dataset_size": [1_000_000]} | ALL | FINAL[algo]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_single_level_settings_are_the_final_ones_without_a_dataset_size(algo: str) -> None:
    assert load("single", algo) == {"algo": [algo]} | ALL | FINAL[algo]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_grid_searches_what_the_benchmark_searched_and_fixes_the_rest(algo: str) -> None:
    fixed = {"algo": [algo], "dataset_size": [1_000_000]} | ALL | FINAL[algo]
    assert load("grids", algo) == fixed | SEARCHED[algo]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_methods_of_the_study_differ_in_their_own_settings_and_passes_alone(algo: str) -> None:
    assert load("study", algo) == {"algo": [algo]} | STUDY | STUDIED[algo]


@pytest.mark.parametrize(("folder", "algo"), FILES)
def test_flags_stand_in_the_order_of_the_command(folder: str, algo: str) -> None:
    grid = load(folder, algo)
    assert list(grid) == [flag.name for flag in TRAIN_FLAGS if flag.name in grid]


@pytest.mark.parametrize(("folder", "algo"), FILES)
def test_every_flag_of_a_configuration_is_one_that_the_algorithm_uses(
    folder: str, algo: str
) -> None:
    users = {flag.name: flag.algorithms or ALGORITHMS for flag in TRAIN_FLAGS}
    assert [name for name in load(folder, algo) if algo not in users[name]] == []


@pytest.mark.parametrize(("folder", "algo"), FILES)
def test_every_run_has_a_command_that_parses_and_a_name_of_its_own(folder: str, algo: str) -> None:
    runs = expand(default(), load(folder, algo), 1, TRAIN_FLAGS)
    assert len(runs) == SIZES[folder, algo]
    names = set()
    for run in runs:
        settings = parse_training(to_arguments(run), "", EXTRA[folder])
        assert run == {name: getattr(settings, name) for name in run} | {"xpid": ""}
        names.add(settings.xpid)
    assert len(names) == len(runs)


@pytest.mark.parametrize(("folder", "algo"), FILES)
def test_trials_multiply_the_runs_and_never_share_a_name(folder: str, algo: str) -> None:
    runs = expand(default(), load(folder, algo), 3, TRAIN_FLAGS)
    assert len(runs) == 3 * SIZES[folder, algo]
    assert [run["seed"] for run in runs[:4]] == [88, 89, 90, 88][: len(runs)]
    others = vars(parse_training([], ""))
    names = {run_name(argparse.Namespace(**others | run), TRAIN_FLAGS) for run in runs}
    assert len(names) == len(runs)
