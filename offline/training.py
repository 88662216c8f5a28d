"""What a run does: epochs, evaluation, checkpoints, early stopping. Knows no algorithm.

`offline.lockstep` says when.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from common import checkpoints
from common.compiling import uncompiled
from common.errors import ToolkitError
from common.evaluation import Results, evaluate, mean_returns, write_evaluation
from common.run_logger import CsvLog, RunFolder
from common.seeding import derive_seed, restore_torch_random_state, torch_random_state
from common.tracking import Tracking
from offline.agents import KIND
from offline.agents.base import OfflineAgent
from offline.data.ahead import read_ahead
from offline.data.copies import batches_in_order, copies_to
from offline.data.views import View, epoch_batches
from offline.progress import FiniteCheck, Progress, not_finite, what_is_kept

logger = logging.getLogger(__name__)

ROLLING = "model.pt"
PATIENCE = 10  # evaluations without improvement before early stopping
MINIMUM_IMPROVEMENT = 0.1  # of the raw mean validation return
CHECK_EVERY = 50  # batches between looks at whether the loss is still finite
SAVE_SECONDS = 300.0  # between checkpoints inside an epoch


class Run:
    """One training run in its folder.

    What it does is called within its `turn`; only `restore` takes that itself. `ending` holds what
    ends with the run: trackers, open data and, where the caller puts it there, the session of its
    folder. `title` names the run in the log where it is one of several.
    """

    def __init__(
        self,
        agent: OfflineAgent[Any],
        view: View,
        settings: argparse.Namespace,
        folder: RunFolder,
        title: str = "",
    ) -> None:
        self.agent = agent
        self.view = view
        self.settings = settings
        self.title = title
        self.path = folder.path
        self.log = CsvLog(folder.path / "logs.csv")
        self.tracking = Tracking(settings, self.log, step="epoch")
        self.progress = Progress()
        self.rolling = self.path / ROLLING
        self.ending = ExitStack()
        self.folder = folder
        self._prefix = f"{title}: " if title else ""
        # What torch's generators are set to at the next turn.
        self._random: dict[str, Any] | None = torch_random_state()
        self._stream: torch.cuda.Stream | None = None
        self._copies = copies_to(agent.device)
        self._batches: Generator[Any, None, None] = read_ahead((), 0)
        self._kept = True  # whether model.pt holds all that was learned

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The time in which this run is at work: torch's generators and the log are its own."""
        if self._random is not None:
            restore_torch_random_state(self._random)
        with self.folder.speaking(), self._on_stream():
            try:
                yield
            finally:
                # Of a run alone nobody else draws from them meanwhile.
                self._random = torch_random_state() if self.title else None

    def use_own_stream(self) -> None:
        """On a CUDA card, let what this run computes overlap with what others do."""
        if self.agent.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.agent.device)
            # What is there so far, frames and weights, was made on another one.
            self._stream.wait_stream(torch.cuda.current_stream(self.agent.device))

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

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
        with self.turn():
            restore_torch_random_state(contents["random"])
            progress = self.progress
            self._tell("continuing at epoch %d, batch %d", progress.epoch, progress.batch)

    def _tell(self, message: str, *values: object) -> None:
        logger.info("%s" + message, self._prefix, *values)

    def save(self, name: str = ROLLING) -> None:
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
        self._kept = self._kept or name == ROLLING

    def keep(self) -> None:
        """Write model.pt if there is anything new; ToolkitError if that is not finite."""
        if not self._kept:
            self._demand_finite()
            self.save()
        self._last_save = time.monotonic()

    def begin(self) -> None:
        """Bring logs.csv to what model.pt knows of it, and the trackers to logs.csv."""
        self.log.keep_rows(self.progress.rows)
        if self.view.leave_gpu and not self.rolling.exists():
            self.save()  # what a run that meets a full GPU goes back to
        self.ending.enter_context(self.tracking)
        self.ending.callback(lambda: self._batches.close())

    def begin_epoch(self) -> None:
        """Make ready to train on the batches of this epoch that are left."""
        self.agent.train()
        self._finite = FiniteCheck(self.agent.device)
        self._last_save = time.monotonic()
        self._batches = self._remaining_batches()

    def train_batch(self) -> int:
        """One gradient step; the number of samples in it, 0 if the epoch has no more batches.

        Where the GPU runs out of memory, the frames leave it and the run goes back to model.pt.
        """
        on_gpu = False
        try:
            return self._train_batch()
        except torch.cuda.OutOfMemoryError:
            on_gpu = True
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # what PyTorch says of a host's
                raise
        # Out of the handler: the error holds the tensors of the broken step.
        if not on_gpu:
            raise ToolkitError(
                f"out of memory in epoch {self.progress.epoch}: try a smaller --batch_size; "
                f"{what_is_kept(self.rolling)}"
            )
        self._leave_gpu()
        # Not with the batch at hand: an update that was broken off may have moved some networks.
        self.restore()
        self.begin_epoch()
        return self.train_batch()

    def _leave_gpu(self) -> None:
        """Free the GPU of the frames; ToolkitError if none are there."""
        self._batches.close()
        if self.view.leave_gpu is None:
            raise ToolkitError(
                f"the GPU is out of memory in epoch {self.progress.epoch}: give it to this run "
                f"alone or try a smaller --batch_size; {what_is_kept(self.rolling)}"
            )
        if self.agent.device.type == "cuda":
            torch.cuda.synchronize(self.agent.device)  # other runs may still read them
        placement = self.view.leave_gpu()
        self.view.leave_gpu = None
        torch.cuda.empty_cache()
        with tqdm.external_write_mode():
            logger.warning("%sthe GPU is out of memory: going on with %s", self._prefix, placement)

    def _train_batch(self) -> int:
        progress = self.progress
        start = time.monotonic()
        batch = next(self._batches, None)
        if batch is None:
            return 0
        metrics = self.agent.update(batch)
        self._kept = False
        self._finite.note(metrics["loss"], progress.batch + 1)
        progress.add(metrics)
        progress.batch += 1
        if progress.batch % CHECK_EVERY == 0:
            self._finite.demand(progress.epoch, self.rolling)
        progress.epoch_seconds += time.monotonic() - start
        if time.monotonic() - self._last_save > SAVE_SECONDS:
            self.keep()
        return len(batch.actions)

    def end_batches(self) -> None:
        """Wait for the gradient steps of the epoch, and keep them if an evaluation follows."""
        start = time.monotonic()
        self._demand_finite()
        if self.agent.device.type == "cuda":
            torch.cuda.current_stream(self.agent.device).synchronize()
        self.progress.epoch_seconds += time.monotonic() - start
        if self._evaluates:
            # So that a stop during the evaluation loses nothing.
            self.save()

    def _demand_finite(self) -> None:
        """Raise before a bad state is saved: a finite loss may leave weights that are not."""
        progress = self.progress
        self._finite.demand(progress.epoch, self.rolling)
        if not all(bool(weights.isfinite().all()) for weights in self.agent.parameters()):
            what = "the weights are not finite after"
            raise not_finite(what, progress.batch, progress.epoch, self.rolling)

    def _remaining_batches(self) -> Generator[Any, None, None]:
        orders = epoch_batches(
            len(self.view),
            self.settings.batch_size,
            derive_seed(self.settings.seed, "batches"),
            self.progress.epoch,
            self.progress.batch,
        )
        return batches_in_order(self.view, orders, self._copies)

    @property
    def _evaluates(self) -> bool:
        """Whether an evaluation ends this epoch."""
        epoch, settings = self.progress.epoch, self.settings
        return epoch % settings.eval_freq == 0 or epoch == settings.epochs

    def end_epoch(self, heed: Callable[[], None]) -> None:
        """Log, evaluate if it is time, keep checkpoints, decide whether to go on.

        `heed` is called at every step of an evaluation, and may raise to end it.
        """
        progress, settings = self.progress, self.settings
        means = progress.means()
        rate = len(self.view) / max(progress.epoch_seconds, 1e-9)
        is_last = progress.epoch == settings.epochs
        if self._evaluates:
            start = time.monotonic()
            results = self._evaluate(settings.num_eval_episodes, heed, "training")
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
            self._tell("epoch %d: loss %.4f, %.0f samples/s", progress.epoch, means["loss"], rate)
        if progress.epoch % settings.ckpt_freq == 0:
            self.save(f"model_{progress.epoch}.pt")
        if is_last:
            progress.finished = True
            if progress.epoch < settings.epochs:
                self._tell("early stop after epoch %d", progress.epoch)
        else:
            progress.epoch += 1
            progress.batch, progress.epoch_seconds, progress.sums = 0, 0.0, {}
        self.save()

    def finish(self, heed: Callable[[], None]) -> bool:
        """Evaluate, and leave final_model.pt as the mark of a finished run; True once it is."""
        episodes = self.settings.num_final_episodes
        if episodes:
            self._tell("final evaluation: %d episodes per split", episodes)
            results = self._evaluate(episodes, heed, "final")
            write_evaluation(self.path / "final_test_eval.csv", results)
        self.save("final_model.pt")
        return True

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
        self._tell(
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

    def _evaluate(self, num_episodes: int, heed: Callable[[], None], purpose: str) -> Results:
        self.agent.eval()
        with suppress(torch.cuda.OutOfMemoryError):
            return self._play(num_episodes, heed, purpose)
        self._leave_gpu()
        return self._evaluate(num_episodes, heed, purpose)

    def _play(self, num_episodes: int, heed: Callable[[], None], purpose: str) -> Results:
        with uncompiled(self.agent):
            return evaluate(
                self.agent,
                env_name=self.settings.env_name,
                distribution_mode=self.settings.distribution_mode,
                num_levels=self.settings.num_levels,
                only_level=self.settings.level,
                num_episodes=num_episodes,
                seed=derive_seed(self.settings.seed, purpose),
                before_step=heed,
                progress=True,
            )


# A run may be continued with other values of these.
_FREE_TO_CHANGE = frozenset(
    "save_path xpid num_seeds resume no_cuda compile pack_dir data_device memory_budget_gb "
    "num_final_episodes ckpt_freq skip_bad_episodes checkpoint tensorboard wandb_project "
    "wandb_entity given dataset".split()
)


def shaping_settings(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings that make the run what it is, as its checkpoints keep them."""
    return {k: v for k, v in vars(settings).items() if k not in _FREE_TO_CHANGE}
