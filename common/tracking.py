"""Live views of a run: the rows of logs.csv as scalars in TensorBoard and Weights & Biases.

Whenever a run starts or goes on, both are brought to what logs.csv holds: what a killed process did
not pass on is passed on, what is written again was dropped, and nothing is there twice.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from common.errors import ToolkitError, UsageError
from common.files import write_atomically
from common.flags import Flag

if TYPE_CHECKING:  # it imports torch, and the flags below are read for --help
    from common.run_logger import CsvLog

logger = logging.getLogger(__name__)

TRACKING_FLAGS = (
    Flag(
        "tensorboard",
        bool,
        False,
        "Write the rows of logs.csv for TensorBoard too, into the run's folder.",
    ),
    Flag(
        "wandb_project",
        str,
        "",
        "Send the rows of logs.csv to this project of Weights & Biases (W&B), under the login of "
        "`wandb login` or WANDB_API_KEY; with WANDB_MODE=offline they stay in the run's folder.",
    ),
    Flag("wandb_entity", str, "", "User or team of the project; empty takes W&B's default."),
)
UPLOAD_SECONDS = 60.0  # that the end of a run waits for W&B


def check_tracking_flags(settings: argparse.Namespace) -> None:
    """Raise UsageError if the flags of tracking do not go together."""
    if settings.wandb_entity and not settings.wandb_project:
        raise UsageError(f"--wandb_entity {settings.wandb_entity}: give --wandb_project too")
    if refused := sorted(set(settings.wandb_project) & set("/\\#?%:")):
        raise UsageError(
            f"--wandb_project {settings.wandb_project}: W&B allows no {' '.join(refused)} in a name"
        )


def require_trackers(settings: argparse.Namespace) -> None:
    """Raise ToolkitError if a package or W&B's login is missing, before any time is spent."""
    if settings.tensorboard:
        _import("torch.utils.tensorboard", "--tensorboard True", "tensorboard")
    if settings.wandb_project:
        wandb = _import("wandb", f"--wandb_project {settings.wandb_project}", "wandb")
        try:
            # Silent, W&B never asks for a key: a question would stop a job that nobody watches.
            wandb.setup(wandb.Settings(silent=True))
            wandb.login(verify=True)
        except (wandb.Error, ValueError) as error:  # the latter for a wrong WANDB_ variable
            raise ToolkitError(
                f"--wandb_project {settings.wandb_project}: {error} (WANDB_API_KEY logs in too; "
                "WANDB_MODE=offline uploads later)"
            ) from error


def _import(module: str, flag: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ToolkitError(f"{flag}: {error}: pip install {package}") from error


class Tracking:
    """While it is entered, passes rows on to the trackers that the settings switch on, if any.

    `table` is the run's logs.csv, whose rows so far are passed on first; `step` names the column
    that the rest is drawn over.
    """

    def __init__(self, settings: argparse.Namespace, table: CsvLog, step: str) -> None:
        self._settings = settings
        self._table = table
        self._step = step
        self._trackers: list[_TensorBoard | _WandB] = []

    def __enter__(self) -> Tracking:
        folder = self._table.path.parent
        if self._settings.wandb_project:
            self._trackers.append(_WandB(self._settings, folder))
        if self._settings.tensorboard:
            self._trackers.append(_TensorBoard(folder))
        if self._trackers:
            for row in self._table.rows():
                self.log(row)
        return self

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass on one row of the table; a column that is empty is left out."""
        step = int(row[self._step])
        columns = (name for name, value in row.items() if name != self._step and value != "")
        scalars = {name: float(row[name]) for name in columns}
        for tracker in self._trackers:
            tracker.log(scalars, step)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for tracker in self._trackers:
            tracker.close(failed=kind is not None)
        self._trackers = []


class _TensorBoard:
    """One event file in the run's folder, in place of those of earlier processes.

    All rows are written anew, at the times at which they first were.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from torch.utils.tensorboard import SummaryWriter

        earlier = sorted(folder.glob("events.out.tfevents.*"))
        self._times = {
            event.step: event.wall_time
            for path in earlier
            for event in EventFileLoader(str(path)).Load()
        }
        # A TensorBoard that is looking on forgets what it read in the files that go.
        self._writer = SummaryWriter(str(folder), purge_step=0)
        for path in earlier:
            path.unlink()

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        seconds = self._times.get(step, time.time())
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step, walltime=seconds)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        self._writer.close()


class _WandB:
    """A run of W&B, the same one whenever ours goes on; its files are in the run's folder.

    Where W&B fails once training is under way, it says so once and takes no more rows. Several may
    be open in one process.
    """

    _open: ClassVar[set[_WandB]] = set()
    _failed: ClassVar[bool] = False  # one of them

    def __init__(self, settings: argparse.Namespace, folder: Path) -> None:
        import wandb
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        # The last two are of its own process having died, as is OSError.
        self._failures = (wandb.Error, OSError, HandleAbandonedError, MailboxClosedError)
        self._teardown = wandb.teardown
        earlier = sorted(folder.glob("wandb/offline-run-*"))
        try:
            self._run: Any = wandb.init(
                project=settings.wandb_project,
                entity=settings.wandb_entity or None,
                id=_kept_id(folder / "wandb" / "run_id"),
                resume="allow",
                reinit="create_new",  # beside those that are open
                name=folder.name,
                group=folder.name.removesuffix(f"_{settings.seed}"),  # the runs of other seeds
                config={name: value for name, value in vars(settings).items() if name != "given"},
                dir=folder,
                settings=wandb.Settings(
                    console="off",
                    silent=True,
                    finish_timeout=UPLOAD_SECONDS,
                    finish_timeout_raises=True,
                ),
            )
        except self._failures as error:
            raise ToolkitError(
                f"--wandb_project {settings.wandb_project}: {error}: mend it, or set "
                "WANDB_MODE=offline and upload later"
            ) from error
        self._open.add(self)
        self._folder = Path(self._run.dir).parent
        self._first_step = self._run.step  # W&B has the rows before it
        offline = f"offline, `wandb sync {self._folder}` uploads"
        logger.info("W&B: %s", offline if self._run.offline else self._run.url or "disabled")
        # An upload of earlier ones would replace the whole series by what they hold of it.
        for path in () if self._run.disabled else earlier:
            shutil.rmtree(path)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        if self._run is not None and step >= self._first_step:
            try:
                self._run.log(dict(scalars), step=step, commit=True)
            except self._failures as error:
                self._give_up(error)

    def close(self, failed: bool) -> None:
        if self._run is not None:
            try:
                self._run.finish(exit_code=int(failed))
            except self._failures as error:
                self._give_up(error)
        self._open.discard(self)
        if self._failed and not self._open:
            # Else it fails again, aloud, at exit. Not before: it is the end of all that are open.
            with contextlib.suppress(*self._failures):
                self._teardown()

    def _give_up(self, error: BaseException) -> None:
        self._run = None
        _WandB._failed = True
        logger.warning(
            "W&B: %s; logs.csv has every row, and `wandb sync %s` uploads what W&B kept",
            error,
            self._folder,
        )


def _kept_id(path: Path) -> str:
    """The id of the run in W&B, drawn once and kept in the file."""
    if not path.exists():
        write_atomically(path, secrets.token_hex(8).encode())
    return path.read_text()
