"""Collect a dataset with a trained policy: python -m online.data_collector --env_name=coinrun

Plays sampled actions on the training levels and writes whole episodes, one `.npz` each, to
<dataset_saving_dir>/<env_name>/. With --ratio it does so for every run below ratio_checkpoint_dir,
with the archived policy whose return is closest to that share of the final one's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.flags import run_command
from online.arguments import parse_collection


def _collect(argv: Sequence[str] | None) -> None:
    settings = parse_collection(argv, __doc__ or "")
    from online.collection import collect, collect_by_ratio
    from online.policy_files import named_or_bundled

    if settings.ratio:
        collect_by_ratio(settings)
        return
    policy = named_or_bundled(settings.checkpoint_path, settings.env_name)
    collect(policy, Path(settings.dataset_saving_dir), settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_collect, argv)


if __name__ == "__main__":
    sys.exit(main())
