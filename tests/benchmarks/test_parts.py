"""The benchmark of batches in parts runs and prints both sides."""

from __future__ import annotations

import re

import pytest

from benchmarks.parts import main


def test_both_sides_are_printed_alone_and_beside_a_busy_core(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--batch_size=8", "--repeats=1", "--steps=1"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0] for row in rows] == ["| nothing else running", "| one core busy"]
    pattern = r"\| \d+ samples/s \| \d+ samples/s \| \d+\.\d\dx \| \d+\.\d\d to \d+\.\d\d \|"
    assert all(re.search(pattern, row) for row in rows)


def test_a_batch_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--batch_size=0"]) == 2
    assert "--batch_size 0: must be at least 1" in capsys.readouterr().err
