"""Train a behaviour policy with PPO: `python -m online.trainer --env_name=miner`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.flags import run_command
from online.arguments import parse_ppo


def _train(argv: Sequence[str] | None) -> None:
    settings = parse_ppo(argv, __doc__ or "")
    from online.training import train

    train(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_train, argv)


if __name__ == "__main__":
    sys.exit(main())
