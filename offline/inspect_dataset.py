"""What a dataset holds, game by game: python -m offline.inspect_dataset --dataset data/1M_E

Episodes, transitions, levels (and whether validation or test levels are among them), returns,
lengths, actions, levels that start alike, bytes on disk and in memory, and the Procgen build that
drew the frames. Episode files are packed on first use, as in training. --json True prints JSON and
nothing else, {"games": [...]}, with the fields of `GameReport` in offline/data/inspection.py:

game, num_levels, episodes, cut_off_episodes, transitions, frame_bytes;
levels: known, lowest, highest, training, validation, elsewhere, episodes_outside, episodes_unknown;
returns, lengths: mean, standard_error, minimum, lower_quartile, median, upper_quartile, maximum;
actions, a list: action, buttons, count, share;
first_frames: distinct, shared, example, changing, changing_example, validation_levels_seen;
sources, a list: path, store_bytes, episode_files, episode_file_bytes, skipped, build,
drawn_as_installed;
warnings, a list of sentences.

Shares are in 0..1, lengths in steps, sizes in bytes; what is not known is null.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UsageError
from common.flags import Flag, parse_flags, run_command
from common.games import GAMES
from offline.arguments import TRAIN_FLAGS

logger = logging.getLogger(__name__)

_OF_TRAINING = ("num_levels", "distribution_mode", "pack_dir", "skip_bad_episodes")
_FLAGS = (
    Flag("dataset", str, (), "Folders that hold one folder per game; several combine.", many=True),
    Flag("env_name", str, (), "Games to inspect; none: all there are.", choices=GAMES, many=True),
    Flag("json", bool, False, "Print JSON instead of tables."),
    Flag(
        "figure",
        str,
        "",
        "Also draw each game: a folder for <game>.png, or a .png file for one game. An .svg comes "
        "with each. Empty: no figure.",
    ),
    *(flag for flag in TRAIN_FLAGS if flag.name in _OF_TRAINING),
)


def _inspect(argv: Sequence[str] | None) -> None:
    settings = parse_flags(_FLAGS, argv, __doc__ or "")
    if not settings.dataset:
        raise UsageError("--dataset is needed: a folder that holds one folder per game")
    from offline.data.inspection import inspect_game, warnings_about
    from offline.data.packing import open_game
    from offline.results.dataset_figure import dataset_figure
    from offline.results.dataset_table import dataset_table, games_table

    games = _games(settings)
    reports = []
    for game, datasets in games.items():
        stores = [
            open_game(folder, game, settings.pack_dir or None, settings.skip_bad_episodes)
            for folder in datasets
        ]
        report = inspect_game(
            game, datasets, stores, settings.num_levels, settings.distribution_mode
        )
        reports.append(report)
        if not settings.json:
            print(f"{dataset_table(report)}\n", flush=True)
        if settings.figure:
            files = dataset_figure(report, stores, _figure_path(settings.figure, game))
            logger.info("figure: %s", ", ".join(map(str, files)))
    if settings.json:
        contents = [
            {**dataclasses.asdict(report), "warnings": warnings_about(report)} for report in reports
        ]
        print(json.dumps({"games": contents}, indent=1, allow_nan=False))
    elif len(reports) > 1:
        print(games_table(reports))


def _games(settings: argparse.Namespace) -> dict[str, list[Path]]:
    """The games to inspect, and the dataset folders to take each from."""
    from offline.data.inspection import games_in
    from offline.data.packing import distinct_folders

    datasets = distinct_folders(settings.dataset)
    found = games_in(datasets)
    # A named game must be in every folder, as in training: opening it tells where it is missing.
    games = dict.fromkeys(settings.env_name, datasets) or found
    if _is_file(settings.figure) and len(games) > 1:
        raise UsageError(
            f"--figure {settings.figure} is one file, for {len(games)} games: name a folder, or "
            "choose a game with --env_name"
        )
    return games


def _is_file(figure: str) -> bool:
    return Path(figure).suffix == ".png"


def _figure_path(figure: str, game: str) -> Path:
    return Path(figure) if _is_file(figure) else Path(figure) / f"{game}.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_inspect, argv)


if __name__ == "__main__":
    sys.exit(main())
