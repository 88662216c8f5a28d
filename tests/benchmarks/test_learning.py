"""The comparison of the methods at tiny sizes, and how its table reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.learning import BUNDLED, FLAGS, RANDOM, Measured, main, table
from common.flags import parse_flags
from tests.offline_commands import collect_episodes


def line(text: str, start: str) -> list[str]:
    (found,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def returns(train: list[float]) -> dict[str, list[float]]:
    return {"train": train, "validation": [2.0, 4.0], "test": [0.0, 0.0]}


def test_the_table_tells_means_errors_and_distances() -> None:
    settings = parse_flags(FLAGS, ["--num_episodes=2"], "")
    measured = [
        Measured("bc", "sampled", returns([6.0, 10.0]), 90.0),
        Measured(BUNDLED, "sampled", returns([10.0, 10.0])),
        Measured(RANDOM, "sampled", returns([0.0, 4.0])),
    ]
    text = table(measured, settings)
    # Standard errors 2 and 2: the difference of 6 is 6 / sqrt(8) of its own.
    assert line(text, "BC") == [
        *("BC", "sampled", "8.00 ± 2.00", "3.00 ± 1.00", "0.00 ± 0.00", "2.1", "80%", "1.5")
    ]
    assert line(text, RANDOM)[-3:] == ["-", "20%", "-"]
    assert line(text, BUNDLED)[-3:] == ["4.0", "100%", "-"]


@pytest.mark.slow
def test_the_command_trains_measures_and_keeps_what_is_finished(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = collect_episodes(tmp_path / "data", "coinrun", 400)
    flags = ["--only", "bc", f"--dataset={dataset}", f"--save_path={tmp_path / 'runs'}"]
    flags += ["--epochs=1", "--num_episodes=2", "--no_cuda=True", f"--out={tmp_path / 'table.md'}"]
    assert main(flags) == 0
    first = (tmp_path / "table.md").read_text()
    assert capfd.readouterr().out.endswith(first + "\n")
    players = [row.split("|")[1].strip() for row in first.splitlines()[2:7]]
    assert players == ["BC", "BC", BUNDLED, BUNDLED, RANDOM]
    assert main(flags) == 0
    assert (tmp_path / "table.md").read_text() == first
    assert "already finished" in capfd.readouterr().err
    runs = tmp_path / "runs" / "coinrun"
    (before,) = runs.glob("coinrun-*")
    assert main([*flags, "--seed=5"]) == 0
    assert {before} < set(runs.glob("coinrun-*"))
    assert "one seed (5)" in (tmp_path / "table.md").read_text()


def test_a_game_without_a_bundled_policy_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--env_name=miner", f"--save_path={tmp_path / 'runs'}"]) == 2
    assert "--env_name miner: no policy is bundled to compare with" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
