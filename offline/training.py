"""The one training loop: epochs, evaluation, checkpoints, early stopping. Knows no algorithm."""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common import checkpoints
from common.errors import ToolkitError
from common.evaluation import evaluate, mean_returns, write_evaluation
from common.interrupts import Stopped, StopRequest
from common.run_logger import CsvLog, RunFolder
from common.seeding import derive_seed, restore_torch_random_state, torch_random_state
from common.tracking import Tracking
from offline.agents import KIND
from offline.agents.base import OfflineAgent
from offline.data.ahead import read_ahead
from offline.data.copies import CopiesAhead
from offline.data.views import View, epoch_batches

logger = logging.getLogger(__name__)

PATIENCE = 10  # evaluations without improvement before early stopping
MINIMUM_IMPROVEMENT = 0.1  # of the raw mean validation return
CHECK_EVERY = 50  # batches between looks at whether the loss is still finite
SAVE_SECONDS = 300.0  # between checkpoints inside an epoch


@dataclass
class Progress:
    """Where a run is: all that `model.pt` keeps beside the agent and the random state."""

    epoch: int = 1  # the epoch under way, from 1
    batch: int = 0  # batches of it that are done
    rows: int = 0  # rows in logs.csv
    epoch_seconds: float = 0.0
    best_validation: float = -math.inf
    stop_reference: float = -math.inf  # validation return that early stopping compares with
    evaluations_without_improvement: int = 0
    finished: bool = False  # training is over, the final evaluation may still be missing
    sums: dict[str, Tensor] = field(default_factory=dict)  # metrics of this epoch, on the device

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add one batch's metrics without looking at them."""
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def means(self) -> dict[str, float]:
        """Metrics of the epoch, averaged over its batches; the one host synchronisation."""
        return {name: float(total) / max(self.batch, 1) for name, total in self.sums.items()}


class FiniteCheck:
    """Remembers on the device at which gradient step a loss first was not finite."""

    def __init__(self, device: torch.device) -> None:
        self._first_bad = torch.tensor(-1, device=device)

    def note(self, loss: Tensor, step: int) -> None:
        """Look at one loss, without waiting for it."""
        bad = ~torch.isfinite(loss) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)

    def demand(self, epoch: int, kept: Path) -> None:
        """Raise ToolkitError naming the step if any loss was not finite."""
        step = int(self._first_bad)
        if step >= 0:
            raise _not_finite("the loss is not finite at", step, epoch, kept)


def _not_finite(what: str, step: int, epoch: int, kept: Path) -> ToolkitError:
    return ToolkitError(f"{what} step {step} of epoch {epoch}: try a smaller --lr; {_kept(kept)}")


def _kept(path: Path) -> str:
    return f"{path} keeps the last good state" if path.exists() else "nothing was saved yet"


class Run:
    """One training run in its folder."""

    def __init__(
        self, agent: OfflineAgent[Any], view: View, settings: argparse.Namespace, folder: RunFolder
    ) -> None:
        self.agent = agent
        self.view = view
        self.settings = settings
        self.path = folder.path
        self.log = CsvLog(folder.path / "logs.csv")
        self.tracking = Tracking(settings, self.log, step="epoch")
        self.progress = Progress()
        self.rolling = self.path / "model.pt"
        self.copies = CopiesAhead(agent.device) if agent.device.type == "cuda" else None
        self.batches_per_epoch = -(-len(view) // settings.batch_size)

    def restore(self) -> None:
        """Continue from model.pt; on the CPU the run then ends bit for bit as an unbroken one."""
        contents = checkpoints.load(self.rolling, KIND, self.agent.device)
        mine = shaping_settings(self.settings)
        for name, value in contents["settings"].items():
            if name in mine and mine[name] != value:
                raise ToolkitError(
                    f"--{name} {mine[name]}: the run in {self.rolling} was started with {value}"
                )
        if contents["samples"] != len(self.view):
            raise ToolkitError(
                f"the data hold {len(self.view)} samples; the run in {self.rolling} was started "
                f"with {contents['samples']}: give the same data, or another --xpid"
            )
        self.agent.restore(contents["agent"], self.rolling)
        self.progress = Progress(**contents["progress"])
        restore_torch_random_state(contents["random"])
        logger.info("continuing at epoch %d, batch %d", self.progress.epoch, self.progress.batch)

    def save(self, name: str = "model.pt") -> None:
        """Write the whole state of the run to `name` in its folder."""
        contents = {
            "settings": shaping_settings(self.settings),
            "facts": asdict(self.agent.facts),
            "samples": len(self.view),
            "agent": self.agent.state(),
            # Not asdict: it would copy the tensors one by one.
            "progress": dict(vars(self.progress)),
            "random": torch_random_state(),
        }
        checkpoints.save(self.path / name, KIND, contents)

    def fit(self) -> None:
        """Train to the end, evaluate, and leave final_model.pt as the mark of a finished run."""
        self.log.keep_rows(self.progress.rows)
        with self.tracking, StopRequest() as stop:
            if self.view.leave_gpu and not self.rolling.exists():
                self.save()  # what a run that meets a full GPU goes back to
            while not self.progress.finished:
                try:
                    self._train_epoch(stop)
                    self._end_epoch(stop)
                    continue
                except torch.cuda.OutOfMemoryError as error:
                    if self.view.leave_gpu is None:
                        raise self._out_of_memory() from error
                self._leave_gpu(self.view.leave_gpu)
            if self.settings.num_final_episodes:
                logger.info(
                    "final evaluation: %d episodes per split", self.settings.num_final_episodes
                )
                results = self._evaluate(self.settings.num_final_episodes, stop, "final")
                write_evaluation(self.path / "final_test_eval.csv", results)
            self.save("final_model.pt")

    def _train_epoch(self, stop: StopRequest) -> None:
        progress, settings = self.progress, self.settings
        self.agent.train()
        finite = FiniteCheck(self.agent.device)
        last_save = time.monotonic()
        bar = tqdm(
            total=len(self.view),
            initial=min(progress.batch * settings.batch_size, len(self.view)),
            unit="sample",
            unit_scale=True,
            desc=f"epoch {progress.epoch}/{settings.epochs}",
            leave=False,
            mininterval=0.5,
        )
        start = time.monotonic()
        with bar, closing(self._remaining_batches()) as batches:
            for batch in batches:
                metrics = self.agent.update(batch)
                finite.note(metrics["loss"], progress.batch + 1)
                progress.add(metrics)
                progress.batch += 1
                bar.update(len(batch.actions))
                if progress.batch % CHECK_EVERY == 0:
                    finite.demand(progress.epoch, self.rolling)
                stopping = stop.signal_number is not None
                if stopping or time.monotonic() - last_save > SAVE_SECONDS:
                    self._demand_finite(finite)
                    progress.epoch_seconds += time.monotonic() - start
                    start = last_save = time.monotonic()
                    self.save()
                # Not a second look at the signal: one that arrives just now has saved nothing yet.
                if stopping:
                    self._raise_if(stop)
        self._demand_finite(finite)
        if self.agent.device.type == "cuda":
            torch.cuda.synchronize()
        progress.epoch_seconds += time.monotonic() - start

    def _out_of_memory(self) -> ToolkitError:
        return ToolkitError(
            f"the GPU is out of memory in epoch {self.progress.epoch}: give it to this run alone "
            f"or try a smaller --batch_size; {_kept(self.rolling)}"
        )

    def _leave_gpu(self, leave_gpu: Callable[[], str]) -> None:
        """Free the GPU of the frames and continue from model.pt.

        Not with the batch at hand: an update that was broken off may have moved some networks.
        """
        placement = leave_gpu()
        torch.cuda.empty_cache()
        logger.warning("the GPU is out of memory: going on with %s", placement)
        self.view.leave_gpu = None
        self.restore()
        self.log.keep_rows(self.progress.rows)

    def _demand_finite(self, finite: FiniteCheck) -> None:
        """Raise before a bad state is saved: a finite loss may leave weights that are not."""
        progress = self.progress
        finite.demand(progress.epoch, self.rolling)
        if not all(bool(weights.isfinite().all()) for weights in self.agent.parameters()):
            what = "the weights are not finite after"
            raise _not_finite(what, progress.batch, progress.epoch, self.rolling)

    def _remaining_batches(self) -> Generator[Any, None, None]:
        orders = epoch_batches(
            len(self.view),
            self.settings.batch_size,
            derive_seed(self.settings.seed, "batches"),
            self.progress.epoch,
            self.progress.batch,
        )
        if self.copies is None:
            return read_ahead(map(self.view.batch, orders), self.view.batches_ahead)
        return self.copies.of(read_ahead(map(self.view.gather, orders), self.view.batches_ahead))

    def _raise_if(self, stop: StopRequest) -> None:
        if stop.signal_number is not None:
            raise Stopped(
                f"stopped; the same command with --resume True continues {self.path}",
                stop.signal_number,
            )

    def _end_epoch(self, stop: StopRequest) -> None:
        """Log, evaluate if it is time, keep checkpoints, decide whether to go on."""
        progress, settings = self.progress, self.settings
        means = progress.means()
        rate = len(self.view) / max(progress.epoch_seconds, 1e-9)
        is_last = progress.epoch == settings.epochs
        if progress.epoch % settings.eval_freq == 0 or is_last:
            # So that a stop during the evaluation loses nothing.
            self.save()
            start = time.monotonic()
            results = self._evaluate(settings.num_eval_episodes, stop, "training")
            returns = mean_returns(results)
            self._log_row(means, returns, time.monotonic() - start, rate)
            improved = returns["validation"] > progress.best_validation
            self._track(returns["validation"])
            if improved:
                self.save("best_model.pt")
            is_last = is_last or (
                settings.early_stop and progress.evaluations_without_improvement >= PATIENCE
            )
        else:
            logger.info("epoch %d: loss %.4f, %.0f samples/s", progress.epoch, means["loss"], rate)
        if progress.epoch % settings.ckpt_freq == 0:
            self.save(f"model_{progress.epoch}.pt")
        if is_last:
            progress.finished = True
            if progress.epoch < settings.epochs:
                logger.info("early stop after epoch %d", progress.epoch)
        else:
            progress.epoch += 1
            progress.batch, progress.epoch_seconds, progress.sums = 0, 0.0, {}
        self.save()

    def _log_row(
        self, means: dict[str, float], returns: dict[str, float], seconds: float, rate: float
    ) -> None:
        progress = self.progress
        losses = {name: value for name, value in means.items() if name != "loss"}
        row = {
            "epoch": progress.epoch,
            "train_loss": means["loss"],
            "epoch_time": round(progress.epoch_seconds, 3),
            "inf_time": round(seconds, 3),
            "train_rets_mean": returns["train"],
            "val_rets_mean": returns["validation"],
            "test_rets_mean": returns["test"],
            **losses,
            "samples_per_second": round(rate, 1),
        }
        self.log.append(row)
        self.tracking.log(row)
        progress.rows += 1
        logger.info(
            "epoch %d: loss %.4f, return train %.2f validation %.2f test %.2f, %.0f samples/s",
            progress.epoch,
            means["loss"],
            returns["train"],
            returns["validation"],
            returns["test"],
            rate,
        )

    def _track(self, validation: float) -> None:
        """Best model: any rise. Early stopping: a rise of at least `MINIMUM_IMPROVEMENT`."""
        progress = self.progress
        progress.best_validation = max(progress.best_validation, validation)
        if validation >= progress.stop_reference + MINIMUM_IMPROVEMENT:
            progress.stop_reference = validation
            progress.evaluations_without_improvement = 0
        else:
            progress.evaluations_without_improvement += 1

    def _evaluate(self, num_episodes: int, stop: StopRequest, purpose: str) -> Any:
        self.agent.eval()
        return evaluate(
            self.agent,
            env_name=self.settings.env_name,
            distribution_mode=self.settings.distribution_mode,
            num_levels=self.settings.num_levels,
            only_level=self.settings.level,
            num_episodes=num_episodes,
            seed=derive_seed(self.settings.seed, purpose),
            before_step=lambda: self._raise_if(stop),
            progress=True,
        )


# A run may be continued with other values of these.
_FREE_TO_CHANGE = frozenset(
    "save_path xpid resume no_cuda pack_dir data_device memory_budget_gb num_final_episodes "
    "ckpt_freq skip_bad_episodes checkpoint tensorboard wandb_project wandb_entity given "
    "dataset".split()
)


def shaping_settings(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings that make the run what it is, as its checkpoints keep them."""
    return {k: v for k, v in vars(settings).items() if k not in _FREE_TO_CHANGE}
