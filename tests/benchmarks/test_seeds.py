"""The comparison of seeds together and one after the other, at a tiny size."""

from __future__ import annotations

import pytest

from benchmarks.seeds import Cost, _line, _median, main


def test_a_line_tells_rates_and_how_many_times_they_are_those_of_the_base() -> None:
    base = Cost(wall=200.0, processor=80.0, training=100.0, memory=1.5e9)
    mine = Cost(wall=50.0, processor=40.0, training=80.0, memory=2e9)
    words = _line("in one process", mine, base, 1000.0).split()
    # 1,000 samples in 50 s, and in 80 s of training; 200 / 50, 100 / 80 and 80 / 40.
    assert words[3:] == "20.0/s 4.00x 12.5/s 1.25x 40.0 s 2.00x 2.00 GB".split()


def test_the_median_is_taken_column_by_column() -> None:
    costs = [Cost(1.0, 5.0, 0.0, 9.0), Cost(2.0, 4.0, 0.0, 7.0), Cost(9.0, 6.0, 0.0, 8.0)]
    assert _median(costs) == Cost(2.0, 5.0, 0.0, 8.0)


@pytest.mark.slow
def test_the_command_measures_both_sides_and_compares_the_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = "--num_seeds=2 --transitions=300 --batch_size=64 --agent_model=dqn --hidden_size=8"
    assert main([*sizes.split(), "--no_cuda=True", "--num_processes=8"]) == 0
    first, header, together, alone, apart = capsys.readouterr().out.splitlines()
    assert first.startswith("bc, dqn, batch 64: 2 seeds x 1 epochs x ")
    assert header.startswith("seeds x samples")
    assert together.startswith("in one process ")
    assert alone.startswith("one after the other ")
    assert apart == "largest difference of weights: 0.0e+00"
