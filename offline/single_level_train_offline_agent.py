"""Train an agent offline on one level, and measure it on that level.

The level is --level, else the only one of the data, else the one that --capacity_type and
--threshold_metric choose. Everything goes to <save_path>/<env_name>/<xpid>/: data_info.csv says
which level it was and what the data hold of it, and evaluate.csv carries its return in all three
columns. Otherwise as offline.train_offline_agent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.flags import run_command
from offline.arguments import SINGLE_LEVEL_FLAGS, parse_training


def _train(argv: Sequence[str] | None) -> None:
    settings = parse_training(argv, __doc__ or "", extra=SINGLE_LEVEL_FLAGS)
    from offline.runs import train_on_one_level

    table = train_on_one_level(settings)
    if table:
        print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_train, argv)


if __name__ == "__main__":
    sys.exit(main())
