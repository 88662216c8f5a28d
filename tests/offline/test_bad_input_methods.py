"""Bad and extreme input to the methods: one line and the right exit code, or it works."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline import evaluate_offline_agent, train_offline_agent
from offline.arguments import ALGORITHMS
from tests.data_fixtures import episode_path, make_episode, raw_arrays, save_npz, write_game
from tests.offline_commands import (
    EVALUATE,
    GAME,
    TINY,
    TRAIN,
    flags,
    lines,
    read_checkpoint,
    run,
    run_folder,
)

SMALL = {**TINY, "hidden_size": 4, "epochs": 1, "num_final_episodes": 0, "xpid": "run"}
CONTEXT: dict[str, dict[str, Any]] = {algo: {"dt_context_length": 3} for algo in ("bct", "dt")}


def train(save_path: Path, dataset: Path, algo: str, **changes: Any) -> int:
    """The training command, here in this process."""
    settings = {**SMALL, **CONTEXT.get(algo, {}), "algo": algo, "dataset": dataset, **changes}
    return train_offline_agent.main(flags(settings, save_path=save_path))


# On the command line


@pytest.mark.parametrize("module", [TRAIN, EVALUATE])
@pytest.mark.parametrize(
    ("algo", "flag", "value", "bound"),
    [
        ("bcq", "bcq_threshold", "1.5", "at most 1"),
        ("iql", "iql_expectile", "0", "above 0"),
        ("dt", "dt_context_length", "0", "at least 1"),
    ],
)
def test_a_value_that_a_method_cannot_have_is_one_line_that_names_it(
    module: str, algo: str, flag: str, value: str, bound: str, tmp_path: Path
) -> None:
    save_path = tmp_path / "runs"
    done = run(module, f"--algo={algo}", f"--{flag}", value, f"--save_path={save_path}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --{flag} {value}")
    assert bound in line
    assert done.stdout == ""
    assert not save_path.exists()


# In the data


def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[Path, str]:
    """An episode file with such arrays, and the one line with which training on it fails."""
    episode = make_episode(3, [1.0, 2.0, 3.0])
    write_game(tmp_path / "data" / GAME, [make_episode(1, [1.0, 2.0])])
    path = episode_path(tmp_path / "data" / GAME, episode, 1, ".npz")
    save_npz(path, **{**raw_arrays(episode), **changes})
    assert train(tmp_path / "runs", tmp_path / "data", "bc") == 1
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "data" / GAME / "packed").exists()
    return path, error_of(capsys)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    (line,) = (line for line in lines(captured.err) if line.startswith("error: "))
    return line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rewards_that_are_no_numbers_are_refused_with_file_and_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    rewards = np.array([[1.0], [value], [3.0]], np.float32)
    path, line = refusal(tmp_path, capsys, rewards=rewards)
    assert line.startswith(f"error: {path}: rewards hold {value} at step 1")


# 259 would be 3 in a byte, in which actions are packed.
@pytest.mark.parametrize("value", [15, 259, -1])
def test_actions_that_the_game_does_not_have_are_refused_with_file_and_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: int
) -> None:
    path, line = refusal(tmp_path, capsys, actions=np.array([[0], [14], [value]]))
    assert line.startswith(f"error: {path}: actions hold {value} at step 2")


# Little data


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with one episode, of three steps."""
    folder = tmp_path_factory.mktemp("single")
    write_game(folder / GAME, [make_episode(1, [0.0, 2.0, 0.0])])
    return folder


@pytest.fixture(scope="module")
def trained(single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder --save_path of a run of BCT on three steps. Not to be changed."""
    save_path = tmp_path_factory.mktemp("bct")
    assert train(save_path, single, "bct") == 0
    return save_path


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_single_episode_is_enough(single: Path, tmp_path: Path, algo: str) -> None:
    assert train(tmp_path, single, algo) == 0
    contents = read_checkpoint(run_folder(tmp_path) / "final_model.pt")
    assert contents["samples"] == 3
    assert all(weights.isfinite().all() for weights in contents["agent"]["weights"].values())


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_single_step_is_enough(tmp_path: Path, algo: str) -> None:
    write_game(tmp_path / "data" / GAME, [make_episode(1, [0.0])])
    # Nor is there a largest return to scale by, and noise is drawn between 0 and 0.
    changes = {"dt_rtg_noise_prob": 0.5, "dt_eval_ret": 5} if algo == "dt" else {}
    assert train(tmp_path / "runs", tmp_path / "data", algo, **changes) == 0
    contents = read_checkpoint(run_folder(tmp_path / "runs") / "final_model.pt")
    assert contents["samples"] == 1
    assert all(weights.isfinite().all() for weights in contents["agent"]["weights"].values())


@pytest.mark.parametrize("algo", ["dt", "bct"])
def test_a_context_longer_than_any_episode_trains_with_exactly_one_warning(
    single: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, algo: str
) -> None:
    assert train(tmp_path, single, algo, dt_context_length=5) == 0
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    # The other one is right too: the made-up frames of this data are not Procgen's.
    (message,) = (text for text in warnings if "made by a Procgen build" not in text)
    assert "--dt_context_length 5 is longer than the longest episode of the data (3 " in message
    assert read_checkpoint(run_folder(tmp_path) / "final_model.pt")["facts"]["max_length"] == 3


# At evaluation


def test_another_context_length_at_evaluation_is_refused_with_both_values(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SMALL, "algo": "bct", "save_path": trained, "num_final_episodes": 1}
    assert evaluate_offline_agent.main(flags(settings, dt_context_length=4)) == 1
    path = run_folder(trained) / "final_model.pt"
    assert error_of(capsys) == f"error: {path} was trained with --dt_context_length 3, not 4"


def test_a_checkpoint_of_another_method_is_refused_with_both_names(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SMALL, "algo": "dt", "save_path": trained, "num_final_episodes": 1}
    assert evaluate_offline_agent.main(flags(settings, dt_context_length=3)) == 1
    path = run_folder(trained) / "final_model.pt"
    assert error_of(capsys) == f"error: {path} was trained with --algo bct, not dt"
