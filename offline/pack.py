"""Pack episodes for training: python -m offline.pack <source> <folder>

The source is an archive (.tar, .tar.xz, .tar.gz), which is read as a stream and never unpacked; a
folder of episode files, or of one such folder per game; or a Minari dataset. The stores go to
<folder>/<game>/packed/, so <folder> is what --dataset takes. What is packed already is left as it
is, so an interrupted command is given again. A million frames take 12.3 GB.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UsageError
from common.flags import Flag, parse_flags, run_command
from common.games import GAMES

FLAGS = (
    Flag("source", str, None, "Archive, folder or Minari dataset.", positional=True),
    Flag("folder", str, None, "Dataset folder to write to.", positional=True),
    Flag(
        "env_name",
        str,
        "",
        "Game of episodes whose path does not name one; of folders of several games, the only one.",
        choices=("", *GAMES),
    ),
    Flag(
        "skip_bad_episodes",
        bool,
        False,
        "Skip and count episodes that are broken, instead of refusing the source.",
    ),
)


def _pack(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    source = Path(settings.source)
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    from offline.data.sources import pack_source

    for store in pack_source(
        source, Path(settings.folder), settings.env_name or None, settings.skip_bad_episodes
    ):
        print(f"{store.path}: {len(store.episodes):,} episodes, {store.num_rows:,} frames")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_pack, argv)


if __name__ == "__main__":
    sys.exit(main())
