"""Bringing archives of the release into a dataset folder: fetch, check, unpack, remember.

Each archive has a thread of its own that takes it through all steps; how many fetch and how many
unpack at a time is bounded. A process that is stopped or killed at any point leaves nothing that
the next one would take for more than it is.
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from common.errors import ToolkitError
from common.interrupts import Stopped, StopRequest
from offline.data.archives import DamagedArchiveError
from offline.data.unpacking import extract_archive, pack_archive
from offline.download.folder import PACKED, DownloadFolder
from offline.download.partial_file import PartialFile, RemoteFile, sha256_of
from offline.download.record import ArchiveRecord, DownloadRecord
from offline.download.release import Archive, archives
from offline.download.side_by_side import Bars, side_by_side
from offline.download.transfer import Client, NotFoundError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is to be done about an archive; without `record` it must be fetched."""

    archive: Archive
    source: RemoteFile
    record: ArchiveRecord | None
    unpacked: bool

    @property
    def state(self) -> str:
        """What there is of it, in a word."""
        if self.unpacked:
            return "done"
        return "to fetch" if self.record is None else "to unpack"


@dataclass(frozen=True)
class Plan:
    """What there is to do, and by archive the one line that says why nothing can be done.

    Disk in bytes: still to come as archives, at most to come from unpacking them, and free.
    """

    tasks: list[Task]
    failures: dict[str, str]
    to_fetch: int
    to_unpack: int
    free: int

    @property
    def disk(self) -> str:
        """The need of disk, in words."""
        return (
            f"{in_bytes(self.to_fetch + self.to_unpack)} of disk needed: {in_bytes(self.to_fetch)} "
            f"for archives, at most {in_bytes(self.to_unpack)} to unpack them; "
            f"{in_bytes(self.free)} free"
        )

    def __str__(self) -> str:
        lines = [
            f"{task.state:<10}{in_bytes(task.source.size):>9}  {task.source.address}"
            for task in self.tasks
        ]
        total = in_bytes(sum(task.source.size for task in self.tasks))
        return "\n".join([*lines, f"{'total':<10}{total:>9}", self.disk])

    def require_disk(self) -> None:
        """Raise ToolkitError if there is less disk than is needed."""
        if self.to_fetch + self.to_unpack > self.free:
            raise ToolkitError(
                f"{self.disk}: free some space, take fewer --env_names, or choose another "
                "--download_folder"
            )

    def require_no_failures(self) -> None:
        """Raise ToolkitError for what went wrong, in one line; several causes go to the log."""
        names = ", ".join(self.failures)
        _require_none(
            self.failures,
            f"{len(self.failures)} archives are missing ({names}), for the reasons above: when "
            "they are mended, the same command brings them",
        )


class Download:
    """One run of the command into `<download_folder>/<category_name>/`.

    `settings` has an attribute per flag of download.py. Raises Stopped once `stop` is set.
    """

    def __init__(self, settings: argparse.Namespace, stop: StopRequest) -> None:
        path = Path(settings.download_folder) / settings.category_name
        self._settings = settings
        self._folder = DownloadFolder(path, settings.format)
        self._stop = stop
        self._cancelled = threading.Event()
        self._client = Client(settings.retries, settings.timeout, self._cancelled)
        self._bars = Bars(self._cancelled)
        self._fetching = threading.Semaphore(settings.n_download_workers)
        self._unpacking = threading.Semaphore(settings.n_extract_workers)

    def run(self) -> str:
        """Bring everything that is not there yet; the line that says what there is now.

        Raises ToolkitError if the folder cannot be written, the disk is too small, or, after all
        else is done, if an archive failed.
        """
        with self._folder.locked(), logging_redirect_tqdm():
            plan = self.plan()
            plan.require_disk()
            if plan.to_fetch + plan.to_unpack:
                logger.info(plan.disk)
            to_fetch = sum(task.source.size for task in plan.tasks if task.record is None)
            to_unpack = sum(task.source.size for task in plan.tasks if not task.unpacked)
            with self._bars.overall(to_fetch + to_unpack):
                outcomes = side_by_side(self._bring, plan.tasks, self._stop, self._cancelled)
            self._raise_if_stopped()
            for outcome in outcomes:
                if outcome.failure is not None:
                    plan.failures[outcome.item.archive.name] = outcome.failure
            if self._settings.clear_archives_after_unpacking:
                self._folder.clear()
            plan.require_no_failures()
        there = "there already" if all(task.unpacked for task in plan.tasks) else "done"
        games = ", ".join(self._settings.env_names)
        return f"{there}: {games}; train with --dataset {self._folder.path}"

    def plan(self) -> Plan:
        """Compare what is there with what is wanted; asks the server for sizes, writes nothing.

        Raises ToolkitError for games that are there in the other format.
        """
        lines = {game: self._folder.other_format(game) for game in self._settings.env_names}
        mixed = {game: line for game, line in lines.items() if line is not None}
        _require_none(mixed, f"{', '.join(mixed)} are there in the other format, as told above")
        self._record = DownloadRecord(self._folder.path)
        wanted = archives(self._settings.category_name, self._settings.env_names)
        outcomes = side_by_side(self._plan, wanted, self._stop, self._cancelled)
        self._raise_if_stopped()
        tasks = [task for o in outcomes if o.failure is None for task in o.result]
        folder = self._folder
        return Plan(
            tasks,
            failures={o.item.name: o.failure for o in outcomes if o.failure is not None},
            to_fetch=sum(
                folder.bytes_to_fetch(t.archive, t.source) for t in tasks if t.record is None
            ),
            to_unpack=sum(
                folder.bytes_to_unpack(t.archive, t.source, t.record)
                for t in tasks
                if not t.unpacked
            ),
            free=folder.free_bytes(),
        )

    def _plan(self, archive: Archive) -> list[Task]:
        """The task of an archive, or those of the archives that stand in for it."""
        record = self._recorded(archive)
        if record is not None:
            path = self._folder.archive(archive)
            unpacked = self._folder.is_unpacked(archive, record)
            # Where all is unpacked, the archive may have been cleared.
            if (unpacked and not path.exists()) or self._is_intact(path, record):
                return [Task(archive, record.source, record, unpacked)]
        elif archive.otherwise and all(map(self._recorded, archive.otherwise)):
            return [task for other in archive.otherwise for task in self._plan(other)]
        try:
            source = self._client.describe(archive.address(self._settings.base_url))
        except NotFoundError as error:
            if not archive.otherwise:
                raise NotFoundError(
                    f"{error}, as at its other address: check --base_url"
                ) from error
            return [task for other in archive.otherwise for task in self._plan(other)]
        return [Task(archive, source, record=None, unpacked=False)]

    def _bring(self, task: Task) -> None:
        """Everything that is to be done about an archive, once more if it proves damaged."""
        archive, record = task.archive, task.record
        for last in (False, True):
            try:
                record = record or self._fetch(task)
                if not task.unpacked:
                    self._unpack(archive, record)
                break
            except DamagedArchiveError as error:
                PartialFile(self._folder.archive(archive)).discard()
                record = None
                if last:
                    raise ToolkitError(
                        f"{error}; it was fetched twice, so the server's own copy seems damaged: "
                        "try later, or another --base_url"
                    ) from error
                logger.warning("%s; fetching it once more", error)
        if self._settings.clear_archives_after_unpacking:
            PartialFile(self._folder.archive(archive)).discard()

    def _fetch(self, task: Task) -> ArchiveRecord:
        path, name = self._folder.archive(task.archive), task.archive.name
        with self._fetching, self._bars.bar(name, task.source.size) as on_bytes:
            known = self._record.get(name)
            # A whole archive that is fetched all the same is damaged or not wanted any more.
            if path.exists() and (self._redownload or known is not None):
                PartialFile(path).discard()
            started = time.monotonic()
            source = self._client.fetch(task.source, path, on_bytes)
            seconds = time.monotonic() - started
            sha256 = sha256_of(path, lambda count: on_bytes(0))
        record = known.fetched_again(source, sha256) if known else ArchiveRecord(source, sha256)
        self._record.put(name, record)
        logger.info("%s: fetched %s in %.0f s", name, in_bytes(source.size), seconds)
        return record

    def _unpack(self, archive: Archive, record: ArchiveRecord) -> None:
        path, form = self._folder.archive(archive), self._folder.form
        label = f"unpacking {archive.name}"
        with self._unpacking, self._bars.bar(label, record.source.size) as on_bytes:
            if form == PACKED:
                games = pack_archive(
                    path,
                    self._folder.path,
                    identity=record.identity,
                    game=archive.game,
                    only=archive.games,
                    replace=True,
                    skip_bad_episodes=self._settings.skip_bad_episodes,
                    on_bytes=on_bytes,
                )
            else:
                games = extract_archive(
                    path,
                    self._folder.path,
                    game=archive.game,
                    only=archive.games,
                    earlier={
                        game: (files.files, files.bytes)
                        for game, files in record.earlier.get(form, {}).items()
                    },
                    on_bytes=on_bytes,
                )
        there = {game: self._folder.measure(game) for game in games}
        self._record.put(archive.name, record.with_unpacked(form, there))
        total = in_bytes(sum(measured.bytes for measured in there.values()))
        logger.info("%s: %s, %s", archive.name, form, total)
        if missing := sorted(set(archive.games) - set(games)):
            raise ToolkitError(f"{path} holds no episode of {', '.join(missing)}")

    def _recorded(self, archive: Archive) -> ArchiveRecord | None:
        return None if self._redownload else self._record.get(archive.name)

    def _is_intact(self, path: Path, record: ArchiveRecord) -> bool:
        """Whether the archive is there as it was downloaded."""
        if not path.is_file():
            return False
        size = path.stat().st_size
        if size == record.source.size:
            with self._fetching, self._bars.bar(f"checking {path.name}", size) as on_bytes:
                if sha256_of(path, on_bytes) == record.sha256:
                    return True
        logger.warning("%s is not what was downloaded: fetching it again", path)
        return False

    @property
    def _redownload(self) -> bool:
        return bool(self._settings.redownload_existing_archives)

    def _raise_if_stopped(self) -> None:
        if self._stop.signal_number is not None:
            raise Stopped(
                f"stopped; {self._folder.path} keeps what has come, the same command goes on",
                self._stop.signal_number,
            )


def _require_none(failures: dict[str, str], summary: str) -> None:
    if len(failures) == 1:
        raise ToolkitError(*failures.values())
    for name, failure in failures.items():
        logger.error("%s: %s", name, failure)
    if failures:
        raise ToolkitError(summary)


def in_bytes(count: int) -> str:
    """A number of bytes as people read it: 12.3 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
