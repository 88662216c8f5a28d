"""Collect a dataset with a trained policy: python -m online.data_collector --env_name=coinrun

Plays sampled actions on the training levels and writes whole episodes, one `.npz` each, to
<dataset_saving_dir>/<env_name>/. With --ratio it does so for every run below ratio_checkpoint_dir,
with the archived policy whose return is closest to that share of the final one's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UsageError
from common.flags import parse_flags, run_command
from online.arguments import COLLECTOR_FLAGS


def _collect(argv: Sequence[str] | None) -> None:
    settings = parse_flags(COLLECTOR_FLAGS, argv, __doc__ or "")
    _check(settings)
    from online.collection import collect
    from online.policy_files import checkpoint_by_ratio, find_runs, named_or_bundled

    if settings.ratio:
        runs = find_runs(Path(settings.ratio_checkpoint_dir), settings.env_name)
        # Chosen before the first is played: an unfinished run is not found out hours later.
        chosen = [(run.name, checkpoint_by_ratio(run, settings.ratio)) for run in runs]
        for name, policy in chosen:
            collect(policy, Path(settings.ratio_dataset_dir) / name, settings)
        return
    policy = named_or_bundled(settings.checkpoint_path, settings.env_name)
    collect(policy, Path(settings.dataset_saving_dir), settings)


def _check(settings: argparse.Namespace) -> None:
    if settings.ratio:
        if settings.checkpoint_path:
            raise UsageError("--ratio chooses the checkpoint itself: leave --checkpoint_path out")
        if "dataset_saving_dir" in settings.given:
            raise UsageError("--ratio writes to --ratio_dataset_dir: drop --dataset_saving_dir")
        for name in ("ratio_checkpoint_dir", "ratio_dataset_dir"):
            if not getattr(settings, name):
                raise UsageError(f"--ratio {settings.ratio:g} needs --{name}")
    elif settings.ratio_checkpoint_dir or settings.ratio_dataset_dir:
        raise UsageError("--ratio_checkpoint_dir and --ratio_dataset_dir belong to --ratio")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_collect, argv)


if __name__ == "__main__":
    sys.exit(main())
