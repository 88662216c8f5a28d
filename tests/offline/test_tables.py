from __future__ import annotations

from offline.results.statistics import SplitSummary
from offline.results.tables import results_table

NAN = float("nan")
ROWS = {
    "PPO": {
        "train": SplitSummary("train", 100, 29.5, 0.3, 0.914),
        "validation": SplitSummary("validation", 100, 26.0, 0.5, 0.811),
        "test": SplitSummary("test", 100, 25.5, 0.4, 0.796),
    },
    "BC": {
        "train": SplitSummary("train", 100, 9.0, 1.25, 0.31),
        "validation": SplitSummary("validation", 100, -1.5, 10.0, 0.0),
        "test": SplitSummary("test", 100, 8.0, 0.0, 0.28),
    },
}


def test_the_table_has_a_row_per_method_with_splits_and_gap_in_aligned_columns() -> None:
    # Gaps by hand: 29.5 - 25.5 with sqrt(.09 + .16) = .5, and 9 - 8 with 1.25.
    assert results_table(ROWS, "fruitbot, easy").splitlines() == [
        "fruitbot, easy",
        "",
        "method   train                 validation             test"
        "                  gap (train - test)",
        "-" * 94,
        "PPO      29.50 ± 0.30 (0.91)   26.00 ±  0.50 (0.81)   25.50 ± 0.40 (0.80)"
        "   4.00 ± 0.50 (0.12)",
        "BC        9.00 ± 1.25 (0.31)   -1.50 ± 10.00 (0.00)    8.00 ± 0.00 (0.28)"
        "   1.00 ± 1.25 (0.03)",
        "",
        "mean raw return ± standard error (normalised score); 100 episodes per split",
    ]


def test_the_standard_error_of_a_single_episode_reads_not_available() -> None:
    one = {"test": SplitSummary("test", 1, 10.0, NAN, 1.0)}
    assert "10.00 ± n/a (1.00)" in results_table({"BC": one})


def test_a_split_that_was_not_evaluated_stays_empty_and_has_no_gap() -> None:
    table = results_table({"BC": {"train": SplitSummary("train", 10, 2.0, 0.5, 0.25)}})
    row = table.splitlines()[2]
    assert row == "BC       2.00 ± 0.50 (0.25)"


def test_different_numbers_of_episodes_are_told_as_a_range() -> None:
    rows = {
        "A": {"train": SplitSummary("train", 10, 2.0, 0.5, 0.25)},
        "B": {"train": SplitSummary("train", 100, 2.0, 0.5, 0.25)},
    }
    assert results_table(rows).endswith("10 to 100 episodes per split")
