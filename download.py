"""Download a released dataset: python download.py --category_name 1M_E --env_names coinrun

Archives are streamed into packed stores, never unpacked on the disk. The folder that results,
<download_folder>/<category_name>/, is what --dataset takes. Run again, the command goes on where
it was stopped, and downloads nothing that is there and whole.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.errors import UsageError
from common.flags import Flag, parse_flags, run_command
from common.games import GAMES
from offline.download.release import BASE_URL, CATEGORIES

FLAGS = (
    Flag("download_folder", str, "data", "Folder for the folders of the categories."),
    Flag("category_name", str, "", "Dataset to download.", choices=tuple(CATEGORIES)),
    Flag("env_names", str, (), "Games to download; without it all 16.", choices=GAMES, many=True),
    Flag("n_download_workers", int, 4, "Archives fetched at a time.", minimum=1, maximum=64),
    Flag("n_extract_workers", int, 2, "Archives unpacked at a time.", minimum=1, maximum=64),
    Flag(
        "clear_archives_after_unpacking",
        bool,
        False,
        "Remove each archive when its episodes are in the folder.",
    ),
    Flag("redownload_existing_archives", bool, False, "Start over, whatever is there already."),
    Flag("base_url", str, BASE_URL, "Address that the paths of the archives stand below."),
    Flag(
        "format",
        str,
        "packed",
        "packed: stores to train from, 12.3 GB per million transitions; episodes: the files as "
        "released, about four times as large.",
        choices=("packed", "episodes"),
    ),
    Flag("skip_bad_episodes", bool, False, "Skip and count broken episodes."),
    Flag("retries", int, 10, "Attempts in a row without a byte before giving up.", minimum=0),
    Flag("timeout", float, 60.0, "Seconds without a byte that end an attempt.", above=0),
    Flag("dry_run", bool, False, "Only print addresses, sizes and the disk that is needed."),
)


def _download(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    if not settings.category_name:
        raise UsageError(f"--category_name is needed: one of {', '.join(CATEGORIES)}")
    if not settings.base_url.startswith(("http://", "https://")):
        raise UsageError(f"--base_url {settings.base_url}: write an address with http(s)://")
    settings.env_names = list(dict.fromkeys(settings.env_names)) or list(GAMES)
    from common.interrupts import StopRequest
    from offline.download.downloading import Download

    with StopRequest() as stop:
        download = Download(settings, stop)
        if not settings.dry_run:
            print(download.run())
            return
        plan = download.plan()
    print(plan)
    plan.require_no_failures()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_download, argv)


if __name__ == "__main__":
    sys.exit(main())
