"""Write chosen episodes out again: python -m offline.export_dataset --to minari --out exported

Takes the episodes that training would take with the same data flags, and writes all that it learns
from, with their level seeds, as a Minari dataset into <out>/<dataset_id>/ or as one released-format
`.npz` per episode into <out>/<env_name>/.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UsageError
from common.flags import Flag, parse_flags, run_command
from offline.arguments import DATA_FLAGS, EXPERIMENT_FLAGS

logger = logging.getLogger(__name__)

# All that chooses data: what is left out concerns their use.
_CHOICE_FLAGS = tuple(
    flag
    for flag in (*EXPERIMENT_FLAGS, *DATA_FLAGS)
    if flag.name not in ("algo", "num_seeds", "data_device", "memory_budget_gb")
)
_DATASET_ID = re.compile(r"[\w-]+(/[\w-]+)*-v\d+", re.ASCII)
_FLAGS = (
    Flag("to", str, "", "Format to write.", choices=("minari", "episodes")),
    Flag("out", str, "", "Folder to write into; what is there already is never replaced."),
    Flag(
        "dataset_id",
        str,
        "",
        "Name of the Minari dataset, (namespace/)name-v(version); empty: procgen/<env_name>-v0.",
    ),
    *_CHOICE_FLAGS,
)


def _export(argv: Sequence[str] | None) -> None:
    settings = parse_flags(_FLAGS, argv, __doc__ or "")
    target = _target(settings)
    from offline.data.exporting import (
        common_build,
        new_folder,
        require_new,
        selected_episodes,
        write_episodes,
    )
    from offline.data.minari_writing import require_minari, write_minari

    require_new(target)
    if settings.to == "minari":
        require_minari()
    from tqdm import tqdm

    from common.interrupts import StopRequest
    from offline.data.loading import open_selection

    selection = open_selection(settings)
    procgen = common_build(selection)
    count = len(selection.episodes)
    with StopRequest() as stop, new_folder(target) as folder:
        chosen = stop.watch(selected_episodes(selection), f"stopped; {target} was not written")
        episodes = tqdm(chosen, "exporting", count, unit="episode")
        if settings.to == "minari":
            write_minari(
                folder,
                episodes,
                dataset_id=settings.dataset_id,
                env_name=settings.env_name,
                procgen=procgen,
            )
        else:
            write_episodes(folder, episodes, procgen)
    there = sum(len(store.episodes) for store in selection.stores)
    logger.info("%d of %d episodes are in %s", count, there, target)


def _target(settings: argparse.Namespace) -> Path:
    """The folder to make; UsageError if the flags do not say where or in which format."""
    for name in ("to", "out"):
        if not getattr(settings, name):
            raise UsageError(f"--{name} is needed")
    if settings.to != "minari":
        if settings.dataset_id:
            raise UsageError("--dataset_id belongs to --to minari")
        return Path(settings.out) / settings.env_name
    settings.dataset_id = settings.dataset_id or f"procgen/{settings.env_name}-v0"
    if not _DATASET_ID.fullmatch(settings.dataset_id):
        raise UsageError(
            f"--dataset_id {settings.dataset_id}: expected (namespace/)name-v(version), "
            "such as procgen/coinrun-v0"
        )
    return Path(settings.out) / settings.dataset_id


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_export, argv)


if __name__ == "__main__":
    sys.exit(main())
