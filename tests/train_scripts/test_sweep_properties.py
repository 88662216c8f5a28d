"""What holds of every sweep, whatever its values: sizes, names, quoting, and the time it takes."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from offline.arguments import TRAIN_FLAGS, parse_training
from online.arguments import TRAINER_FLAGS, parse_ppo
from train_scripts import make_cmd
from train_scripts.command_file import read_commands
from train_scripts.grid import Settings, expand, to_arguments

ALWAYS_THE_SAME = examples(derandomize=True, deadline=None)
MODULE = "offline.train_offline_agent"
MAX_CPU_SECONDS = 3.0

# Every flag that changes what is learnt or measured, with values that are near each other.
SHARED: dict[str, list[Any]] = {
    "env_name": ["coinrun", "miner"],
    "distribution_mode": ["easy", "hard"],
    "num_levels": [200, 2],
    "dataset_size": [1_000_000, 1_000, 1_001],
    "episode_order": ["recorded", "best"],
    "percentile": [1.0, 0.1, 0.25],
    "levels": [[], [3], [3, 1]],
    "dataset": [[], ["1M_E"], ["1M_E", "1M_S"]],
    "agent_model": ["dqn", "pporesnetbase", "bcqresnetbase"],
    "hidden_size": [64, 256],
    "scale_pixels": [True, False],
    "lr": [0.001, 0.0001, 0.00010000001],
    "batch_size": [64, 256],
    "epochs": [10, 100],
    "eval_freq": [10, 1],
    "deterministic": [False, True],
    "early_stop": [False, True],
    "precision": ["auto", "fp32"],
}
OWN: dict[str, dict[str, list[Any]]] = {
    "bc": {},
    "cql": {"cql_alpha": [0.1, 4.0], "tau": [0.005, 0.5], "perform_polyak_update": [False, True]},
    "bcq": {"bcq_threshold": [0.1, 0.5], "target_update_freq": [1000, 100], "gamma": [0.99, 0.9]},
    "iql": {"iql_temperature": [0.1, 3.0], "iql_expectile": [0.8, 0.7]},
    "dt": {"dt_context_length": [5, 10], "dt_eval_ret": [1.0, 5.0], "dt_rtg_noise_prob": [0.0, 1]},
}

PPO: dict[str, list[Any]] = {
    "env_name": ["coinrun", "miner"],
    "distribution_mode": ["easy", "hard"],
    "num_levels": [200, 500],
    "start_level": [0, 40],
    "num_env_steps": [25_000_000, 1_000],
    "num_processes": [64, 32],
    "num_steps": [256, 128],
    "ppo_epoch": [3, 1],
    "num_mini_batch": [8, 1],
    "lr": [5e-4, 1e-4, 1.0000001e-4],
    "eps": [1e-5, 1e-8],
    "gamma": [0.999, 0.99],
    "gae_lambda": [0.95, 1.0],
    "clip_param": [0.2, 0.1],
    "entropy_coef": [0.01, 0.0],
    "value_loss_coef": [0.5, 1.0],
    "max_grad_norm": [0.5, 5.0],
    "hidden_size": [256, 64],
    "precision": ["auto", "fp32"],
    "checkpoint_path": ["", "a.pt", "b.pt"],
}


@st.composite
def grids(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Up to five flags of one algorithm, each with some of its values in some order."""
    algo = draw(st.sampled_from([*sorted(OWN), "ppo"]))
    values = PPO if algo == "ppo" else SHARED | OWN[algo]
    names = draw(st.lists(st.sampled_from(sorted(values)), max_size=5, unique=True))
    grid = {"algo": [algo]}
    for name in names:
        choices = st.sampled_from(values[name])
        grid[name] = draw(st.lists(choices, min_size=1, max_size=3, unique_by=json.dumps))
    return grid


@ALWAYS_THE_SAME
@given(grid=grids(), num_trials=st.integers(1, 3))
def test_a_grid_has_a_run_per_combination_and_trial_and_no_two_share_a_folder(
    grid: dict[str, list[Any]], num_trials: int
) -> None:
    ppo = grid["algo"] == ["ppo"]
    runs = expand({}, grid, num_trials, TRAINER_FLAGS if ppo else TRAIN_FLAGS)
    assert len(runs) == num_trials * math.prod(len(values) for values in grid.values())
    parse = parse_ppo if ppo else parse_training
    named = [parse(to_arguments(run), "") for run in runs]
    assert len({(run.env_name, run.xpid) for run in named}) == len(runs)


# Arguments of a process hold no NUL, and no text that UTF-8 cannot.
TEXT = st.one_of(
    st.text(" '\"=$#\\\n\t*`!;&|~-x", max_size=8),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "env_name": st.sampled_from(["coinrun", "miner"]),
    "lr": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    "percentile": st.floats(min_value=0, exclude_min=True, max_value=1),
    "epochs": st.integers(min_value=1),
    "early_stop": st.booleans(),
    "levels": st.lists(st.integers(min_value=0), max_size=3),
    "dataset": st.lists(TEXT, max_size=3),
    "pack_dir": TEXT,
    "save_path": TEXT,
}


@ALWAYS_THE_SAME
@given(
    settings=st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=3),
    new_line=st.booleans(),
)
def test_commands_in_a_file_parse_back_to_the_settings(
    settings: list[Settings], new_line: bool
) -> None:
    # Their names keep them apart where their settings do not.
    runs = [run | {"xpid": f"run {i}"} for i, run in enumerate(settings)]
    words = [["python", "-m", MODULE, *to_arguments(run)] for run in runs]
    text = "".join(make_cmd.as_text(command, new_line) + "\n\n" for command in words)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "commands.txt"
        path.write_bytes(text.encode())
        commands = read_commands([path])
    assert [list(command.words) for command in commands] == words
    for command, run in zip(commands, runs, strict=True):
        assert {name: getattr(command.settings, name) for name in run} == run


def best_cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of up to three attempts; the others were disturbed."""
    seconds = math.inf
    for _ in range(3):
        start = time.process_time()
        work()
        seconds = min(seconds, time.process_time() - start)
        if seconds < MAX_CPU_SECONDS:
            break
    return seconds


@pytest.mark.parametrize("new_line", [False, True])
def test_ten_thousand_commands_are_generated_and_parsed_in_seconds(
    new_line: bool, tmp_path: Path
) -> None:
    # 2,592 combinations.
    argv = ["--grid_config=cql", "--num_trials=4"]
    settings = make_cmd.parse_flags(make_cmd.FLAGS, argv, "")
    path = tmp_path / "commands.txt"

    def generate() -> None:
        commands = make_cmd.make_commands(settings)
        path.write_text("".join(make_cmd.as_text(each, new_line) + "\n\n" for each in commands))

    def parse() -> None:
        assert len(read_commands([path])) == 2592 * 4

    assert best_cpu_seconds(generate) < MAX_CPU_SECONDS
    assert best_cpu_seconds(parse) < MAX_CPU_SECONDS
