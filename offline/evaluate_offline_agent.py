"""Evaluate a trained agent on training, validation and test levels.

Takes the flags of the training command, finds that run's folder by them and plays
--num_final_episodes episodes per split. The data are not needed. Writes evaluate.csv and
evaluate_episodes.csv into the run's folder and prints a table. A run that was trained by other
flags, or on a single level, is named by --xpid. With --num_seeds the run of each seed is evaluated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.flags import run_command
from offline.arguments import parse_evaluation


def _evaluate(argv: Sequence[str] | None) -> None:
    settings = parse_evaluation(argv, __doc__ or "")
    from offline.runs import evaluate_runs

    print(evaluate_runs(settings))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
