"""Train a behaviour policy with PPO: `python -m online.trainer --env_name=miner`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from common.errors import UsageError
from common.flags import parse_flags, run_command
from common.tracking import check_tracking_flags
from online.arguments import TRAINER_FLAGS


def _train(argv: Sequence[str] | None) -> None:
    settings: argparse.Namespace = parse_flags(TRAINER_FLAGS, argv, __doc__ or "")
    check_tracking_flags(settings)
    samples = settings.num_steps * settings.num_processes
    if settings.num_mini_batch > samples:
        raise UsageError(
            f"--num_mini_batch {settings.num_mini_batch}: more than the {samples} steps of an "
            "update (num_steps x num_processes)"
        )
    from online.training import train

    train(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_train, argv)


if __name__ == "__main__":
    sys.exit(main())
