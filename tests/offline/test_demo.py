"""The main job end to end, at a tiny size: collect, train, evaluate, table, figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline import demo
from offline.data import built_in


@pytest.fixture
def small_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Built-in data of a few episodes, away from the repository's own."""
    monkeypatch.setattr(built_in, "FOLDER", tmp_path / "built-in")
    monkeypatch.setattr(built_in, "TRANSITIONS", 400)
    return tmp_path / "built-in"


def test_the_demo_goes_from_nothing_to_a_table_and_a_figure(
    small_built_in: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert demo.main([f"--save_path={out}", "--epochs=1", "--num_episodes=2"]) == 0
    printed = capfd.readouterr().out
    assert "behaviour policy" in printed and "gap (train - test)" in printed
    assert "of the behaviour policy's return on training levels" in printed
    assert (out / "coinrun.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "coinrun" / "bc" / "evaluate.csv").is_file()
    assert len(list((small_built_in / "coinrun").glob("*.npz"))) > 0
