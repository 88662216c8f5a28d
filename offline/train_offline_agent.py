"""Train an agent offline: python -m offline.train_offline_agent --algo bc --env_name coinrun

Episodes come from --dataset (one folder per game below it) or, without it, from the built-in data.
The agent is evaluated on training, validation and test levels while it trains and at the end;
everything goes to <save_path>/<env_name>/<xpid>/. --num_seeds trains several seeds at once, each to
the end that it would have alone, in a folder of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.flags import run_command
from offline.arguments import parse_training


def _train(argv: Sequence[str] | None) -> None:
    settings = parse_training(argv, __doc__ or "")
    from offline.runs import train

    train(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_train, argv)


if __name__ == "__main__":
    sys.exit(main())
