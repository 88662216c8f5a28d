"""`online.evaluate_policy` end to end: which levels it plays and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from common import checkpoints
from online import evaluate_policy
from online.policy_files import KIND
from tests.command_runs import the_error
from tests.online_runs import GAME, HIDDEN_SIZE


def test_a_policy_is_measured_on_every_split_the_same_each_time(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in ("a", "b"):
        flags = [
            *(f"--env_name={GAME}", f"--checkpoint_path={policy}", f"--hidden_size={HIDDEN_SIZE}"),
            *("--num_episodes=2", "--no_cuda=True", f"--out={tmp_path / out}"),
        ]
        assert evaluate_policy.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["train", "validation", "test"] * 2
    assert all(line.endswith("(2 episodes)") for line in lines)
    for name in ("evaluate.csv", "evaluate_episodes.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len((tmp_path / "a" / "evaluate_episodes.csv").read_text().splitlines()) == 1 + 3 * 2


def measure(checkpoint: Path, *flags: str) -> int:
    """Run the command on two episodes per split; its exit code."""
    common = (f"--env_name={GAME}", f"--hidden_size={HIDDEN_SIZE}", "--no_cuda=True")
    return evaluate_policy.main(
        [*common, f"--checkpoint_path={checkpoint}", "--num_episodes=2", *flags]
    )


def other_policy(policy: Path, folder: Path, **facts: object) -> Path:
    """The same policy, of another training."""
    contents = checkpoints.load(policy, KIND, torch.device("cpu"))
    kept = {k: v for k, v in contents.items() if k not in ("kind", "format_version")}
    checkpoints.save(folder / "other.pt", KIND, {**kept, **facts})
    return folder / "other.pt"


def test_the_training_levels_of_a_measured_policy_are_those_it_was_trained_on(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = other_policy(policy, tmp_path, num_levels=3, distribution_mode="hard")
    assert measure(other, f"--out={tmp_path}", "--num_levels=3") == 0
    with open(tmp_path / "evaluate_episodes.csv", newline="") as file:
        seeds = [(row["split"], int(row["level_seed"])) for row in csv.DictReader(file)]
    assert all(seed < 3 for split, seed in seeds if split == "train")
    assert all(3 <= seed < 53 for split, seed in seeds if split == "validation")
    capsys.readouterr()
    for flag, trained in (("--num_levels=200", "3"), ("--distribution_mode=easy", "hard")):
        assert measure(other, flag) == 2
        line = the_error(capsys.readouterr().err)
        said = flag.replace("=", " ")
        assert line == f"error: {said}: {other} was trained with {trained}"


def test_a_policy_whose_levels_no_split_fits_is_refused_or_told(
    policy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = other_policy(policy, tmp_path, start_level=100)
    assert measure(other) == 2
    assert "was trained on levels from 100 on" in the_error(capsys.readouterr().err)
    assert measure(other_policy(policy, tmp_path, num_levels=0)) == 0
    assert "was trained on all levels: no split holds unseen ones" in caplog.text
