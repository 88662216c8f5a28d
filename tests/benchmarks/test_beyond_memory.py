"""Training within a memory budget beside training in memory, at a tiny size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.beyond_memory import main
from offline.data.packing import open_game
from tests.offline_commands import GAME, collect_episodes

SIDE = re.compile(
    r"^(in memory|a tenth of it) +([\d.]+) batches/s, +(\d+)%, resident at most ([\d.]+) GB, "
    r"[\d.]+ GB read from the disk; .+$",
    re.MULTILINE,
)


@pytest.mark.slow
def test_both_sides_are_trained_and_told_with_their_placement(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = collect_episodes(tmp_path, GAME, 400)
    open_game(dataset, GAME, progress=False)
    flags = [f"--dataset={dataset}", f"--env_name={GAME}"]
    assert main([*flags, "--batches=20", "--passes=2", "--batch_size=16"]) == 0
    out = capfd.readouterr().out
    memory, tenth = SIDE.finditer(out)
    assert "20 batches of 16 transitions, 2 passes" in out
    assert "in RAM" in memory[0] and "read from disk as needed" in tenth[0]
    assert memory[3] == "100"
    assert float(memory[2]) > 0 and float(tenth[2]) > 0
    assert 0.1 < float(tenth[4]) < 5


def test_a_folder_without_a_store_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--dataset={tmp_path}"]) == 2
    assert "no packed store of coinrun" in capfd.readouterr().err
