"""The one training loop: runs over the same data, batch by batch in turn, each as if it were alone.

One run is the simplest case. Turns are as short as a batch: what one run waits for, a disk or its
kernels on a card, then happens while the others are at work, and a signal finds all of them at most
a batch from where they can be saved. Epochs are kept together: the runs take their turns at one
epoch each, then evaluate one after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from common.errors import ToolkitError
from common.interrupts import Stopped, StopRequest
from offline.training import Run

logger = logging.getLogger(__name__)

T = TypeVar("T")


def fit(runs: Sequence[Run]) -> None:
    """Train the runs to their ends, evaluate them, and leave final_model.pt in their folders.

    A run that fails ends alone. Raises its ToolkitError or OSError if there is no other, else a
    ToolkitError that names those that failed, once the others have ended; Stopped after a signal,
    once all are saved.
    """
    crew = _Crew(runs)
    with crew, StopRequest() as stop:

        def heed() -> None:
            if stop.signal_number is not None and crew.at_work:
                raise Stopped(
                    f"stopped; the same command with --resume True continues {crew.where}",
                    stop.signal_number,
                )

        try:
            crew.each(Run.begin)
            while crew.at_work:
                for run in crew.at_work:
                    if run.progress.finished and crew.let(run, lambda run: run.finish(heed)):
                        crew.end(run)
                _train_epoch(crew, heed)
                crew.each(lambda run: run.end_epoch(heed))
        except Stopped:
            crew.each(Run.keep)
            heed()  # which now tells of those that are left
    crew.raise_failures()


def _train_epoch(crew: _Crew, heed: Callable[[], None]) -> None:
    """Let every run do what is left of its epoch."""
    crew.each(Run.begin_epoch)
    training = crew.at_work
    if not training:
        return
    with _bar(training) as bar:
        while training:
            for run in training.copy():
                samples = crew.let(run, Run.train_batch)
                if samples:
                    bar.update(samples)
                else:
                    training.remove(run)
                heed()
    crew.each(Run.end_batches)


def _bar(runs: Sequence[Run]) -> tqdm:
    """One bar over the epochs that the runs are in."""
    epochs = [run.progress.epoch for run in runs]
    first, last = min(epochs), max(epochs)
    span = f"{first}" if first == last else f"{first}-{last}"
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
    done = (run.progress.batch * run.settings.batch_size for run in runs)
    return tqdm(
        total=sum(len(run.view) for run in runs),
        initial=sum(min(count, len(run.view)) for count, run in zip(done, runs, strict=True)),
        unit="sample",
        unit_scale=True,
        desc=f"epoch {span}/{runs[0].settings.epochs}{seeds}",
        leave=False,
        mininterval=0.5,
    )


class _Crew:
    """The runs that are at work. On exit those that still are end with the error, if any."""

    def __init__(self, runs: Sequence[Run]) -> None:
        if len(runs) > 1 and not all(run.title for run in runs):
            raise ValueError("several runs need titles: by them each keeps its random state")
        self._count = len(runs)
        self._at_work = list(runs)
        self._failed: list[tuple[Run, Exception]] = []

    @property
    def at_work(self) -> list[Run]:
        return self._at_work.copy()

    @property
    def where(self) -> str:
        """What a command would continue, for a message."""
        first = self._at_work[0].path
        return f"{first}" if self._count == 1 else f"{len(self._at_work)} runs in {first.parent}"

    def __enter__(self) -> _Crew:
        if self._count > 1:
            for run in self._at_work:
                run.use_own_stream()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for run in self.at_work:
            self.end(run, error)

    def let(self, run: Run, work: Callable[[Run], T]) -> T | None:
        """What comes of the run doing this in its turn; None if it fails, which ends it."""
        try:
            with run.turn():
                return work(run)
        except Stopped:
            raise
        except (ToolkitError, OSError) as error:
            self.end(run, error)
            self._failed.append((run, error))
            if self._at_work:
                with tqdm.external_write_mode(), run.folder.speaking():
                    logger.warning("%s failed: %s; the others go on", run.title, error)
            return None

    def each(self, work: Callable[[Run], object]) -> None:
        """Let every run do this, one after the other."""
        for run in self.at_work:
            self.let(run, work)

    def end(self, run: Run, error: BaseException | None = None) -> None:
        """Close what ends with the run, which has failed if there is an error."""
        self._at_work.remove(run)
        if error is None:
            run.ending.close()
        else:
            run.ending.__exit__(type(error), error, error.__traceback__)

    def raise_failures(self) -> None:
        """Raise the errors of the runs that failed, as one."""
        if self._failed and self._count == 1:
            raise self._failed[0][1]
        if self._failed:
            told = "; ".join(f"{run.title}: {error}" for run, error in self._failed)
            raise ToolkitError(f"{len(self._failed)} of {self._count} runs failed: {told}")
