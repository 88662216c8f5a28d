"""PPO from the first frame to the final policy: rollouts, updates, logs, checkpoints, resume."""

from __future__ import annotations

import argparse
import collections
import contextlib
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common import checkpoints
from common.compiling import compile_encoders, compiles, require_compiler
from common.device import choose_device, resolve_precision
from common.envs import ProcgenVectorEnv
from common.errors import ToolkitError, UsageError
from common.games import NUM_ACTIONS
from common.interrupts import Stopped, StopRequest
from common.optimisers import load_optimiser
from common.run_logger import CsvLog, RunFolder, describe_run, require_settings
from common.seeding import (
    derive_seed,
    restore_torch_random_state,
    seed_everything,
    torch_random_state,
)
from common.tracking import Tracking, require_trackers
from online.arguments import ppo_xpid
from online.episode_archive import EpisodeArchive
from online.policy_files import KIND, load_policy, save_policy
from online.ppo import PPO, ActorCritic, RewardScaler, RolloutBatch, generalised_advantages

logger = logging.getLogger(__name__)


class Trainer:
    """One PPO run: everything that `rolling/model.pt` keeps, and the loop over updates."""

    def __init__(self, settings: argparse.Namespace, folder: RunFolder) -> None:
        self.settings = settings
        self.folder = folder
        self.rolling = folder.path / "rolling" / "model.pt"
        self.device = choose_device(settings.no_cuda)
        seed_everything(settings.seed)
        network = ActorCritic(NUM_ACTIONS, settings.hidden_size).to(self.device)
        if compiles(settings.compile):
            compile_encoders(network)
        self.ppo = PPO(
            network,
            lr=settings.lr,
            eps=settings.eps,
            clip_param=settings.clip_param,
            ppo_epoch=settings.ppo_epoch,
            num_mini_batch=settings.num_mini_batch,
            value_loss_coef=settings.value_loss_coef,
            entropy_coef=settings.entropy_coef,
            max_grad_norm=settings.max_grad_norm,
            precision=resolve_precision(settings.precision, self.device),
        )
        self.env = ProcgenVectorEnv(
            settings.env_name,
            settings.num_processes,
            settings.start_level,
            settings.num_levels,
            settings.distribution_mode,
            derive_seed(settings.seed, "ppo", "levels"),
        )
        self.scaler = RewardScaler(settings.num_processes, settings.gamma)
        self.order = np.random.default_rng(derive_seed(settings.seed, "ppo", "minibatches"))
        self.observations, infos = self.env.reset()
        self.update = 0
        self.rows = 0
        self.elapsed = 0.0
        self.episodes = 0
        self.episode_returns = np.zeros(settings.num_processes)
        self.recent: collections.deque[float] = collections.deque(maxlen=100)
        self.archive: EpisodeArchive | None = None
        if settings.save_dataset:
            self.archive = EpisodeArchive(Path(settings.dataset_saving_dir) / settings.env_name)
            self.archive.begin(self.observations, infos["level_seed"])

    @property
    def steps_per_update(self) -> int:
        """Environment steps between two updates, over all environments."""
        return int(self.settings.num_steps * self.settings.num_processes)

    @property
    def mean_return(self) -> float:
        """Mean raw return of the last 100 episodes; 0 before the first one ends."""
        return float(np.mean(self.recent)) if self.recent else 0.0

    def collect(self, stop: StopRequest) -> RolloutBatch:
        """Play `num_steps` steps in every environment with the present policy."""
        shape = (self.settings.num_steps, self.settings.num_processes)
        observations = torch.empty((*shape, 64, 64, 3), dtype=torch.uint8, device=self.device)
        actions = torch.empty(shape, dtype=torch.int64, device=self.device)
        log_probs, values, rewards, dones = (
            torch.empty(shape, device=self.device) for _ in range(4)
        )
        for t in range(shape[0]):
            self._raise_if(stop)
            observations[t] = torch.from_numpy(self.observations).to(self.device)
            with torch.no_grad():
                logits, values[t] = self.ppo.network(observations[t])
                log_policy = torch.log_softmax(logits, -1)
                actions[t] = torch.multinomial(log_policy.exp(), 1).squeeze(-1)
                log_probs[t] = log_policy.gather(-1, actions[t][:, None]).squeeze(-1)
            played = actions[t].cpu().numpy()
            next_observations, raw_rewards, ended, _, infos = self.env.step(played)
            if self.archive is not None:
                self.archive.step(
                    played, raw_rewards, ended, next_observations, infos["level_seed"]
                )
            self._count(raw_rewards, ended)
            rewards[t] = torch.from_numpy(self.scaler.scale(raw_rewards, ended)).to(self.device)
            dones[t] = torch.from_numpy(ended).to(self.device)
            self.observations = next_observations
        with torch.no_grad():
            _, last_values = self.ppo.network(torch.from_numpy(self.observations).to(self.device))
        advantages = generalised_advantages(
            rewards, values, dones, last_values, self.settings.gamma, self.settings.gae_lambda
        )
        return RolloutBatch(
            observations, actions, log_probs, values, advantages, advantages + values
        )

    def _raise_if(self, stop: StopRequest) -> None:
        if stop.signal_number is not None:
            raise Stopped(
                f"stopped; --resume True continues {self.folder.path}", stop.signal_number
            )

    @torch.no_grad()
    def _demand_finite(self, parts: dict[str, float]) -> None:
        logits, values = self.ppo.network(torch.from_numpy(self.observations).to(self.device))
        finite = bool(logits.isfinite().all() and values.isfinite().all())
        if not finite or not all(math.isfinite(part) for part in parts.values()):
            raise ToolkitError(
                f"the loss is not finite in update {self.update + 1}: try a smaller --lr; "
                f"{self.rolling} keeps the last good state"
            )

    def _count(self, rewards: np.ndarray, ended: np.ndarray) -> None:
        self.episode_returns += rewards
        self.recent.extend(self.episode_returns[ended].tolist())
        self.episodes += int(ended.sum())
        self.episode_returns[ended] = 0.0

    def run(self) -> None:
        """Train to `num_env_steps`, then write the final policy."""
        updates = -(-self.settings.num_env_steps // self.steps_per_update)
        log = CsvLog(self.folder.path / "logs.csv")
        log.keep_rows(self.rows)
        tracking = Tracking(self.settings, log, step="steps")
        bar = tqdm(
            total=updates * self.steps_per_update,
            initial=self.update * self.steps_per_update,
            unit="step",
            unit_scale=True,
            desc=f"PPO {self.settings.env_name}",
            mininterval=1.0,
        )
        with tracking, StopRequest() as stop, bar:
            while self.update < updates:
                start = time.perf_counter()
                rollout = self.collect(stop)
                parts = self.ppo.update(rollout, self.order, lambda: self._raise_if(stop))
                self._demand_finite(parts)
                self.update += 1
                seconds = time.perf_counter() - start
                self.elapsed += seconds
                bar.update(self.steps_per_update)
                bar.set_postfix(episode_return=f"{self.mean_return:.2f}", refresh=False)
                if self.update % self.settings.log_interval == 0 or self.update == updates:
                    row = self._row(parts, seconds)
                    log.append(row)
                    tracking.log(row)
                    self.rows += 1
                self._save_rolling()
                if self.update % self.settings.archive_interval == 0:
                    name = f"model_{self.update}_{self.mean_return:.2f}.pt"
                    self._save_policy(self.folder.path / "checkpoint" / name)
        final = self.folder.path / "final" / f"model_{self.mean_return:.2f}.pt"
        self._save_policy(final)
        logger.info("final policy: %s", final)

    def _row(self, parts: dict[str, float], seconds: float) -> dict[str, Any]:
        return {
            "update": self.update,
            "steps": self.update * self.steps_per_update,
            "episodes": self.episodes,
            "mean_return": self.mean_return,
            **parts,
            "elapsed_seconds": round(self.elapsed, 1),
            "steps_per_second": round(self.steps_per_update / seconds, 1),
        }

    def _facts(self) -> dict[str, Any]:
        names = "env_name distribution_mode num_levels start_level hidden_size seed".split()
        return {
            **{name: getattr(self.settings, name) for name in names},
            "update": self.update,
            "steps": self.update * self.steps_per_update,
            "mean_return": self.mean_return,
        }

    def _save_policy(self, path: Path) -> None:
        save_policy(path, self.ppo.network, self._facts())

    def _save_rolling(self) -> None:
        training = {
            "optimiser": self.ppo.optimiser.state_dict(),
            "scaler": self.scaler.state(),
            "random": torch_random_state(),
            "order": self.order.bit_generator.state,
            "env": [
                torch.frombuffer(bytearray(s), dtype=torch.uint8) for s in self.env.save_state()
            ],
            "observations": torch.from_numpy(self.observations),
            "episode_returns": self.episode_returns.tolist(),
            "recent": list(self.recent),
            "episodes": self.episodes,
            "rows": self.rows,
            "elapsed": self.elapsed,
            "archive": self.archive.state() if self.archive else None,
            "settings": _settings_that_shape(self.settings),
        }
        contents = {"network": self.ppo.network.state_dict(), **self._facts(), "training": training}
        checkpoints.save(self.rolling, KIND, contents)

    def begin(self) -> None:
        """Start anew, resumable from now on.

        Raises UsageError if episodes of another run are there or it is still writing, and for a
        start policy that is not; ToolkitError for one that cannot be used.
        """
        if self.settings.checkpoint_path:
            start = Path(self.settings.checkpoint_path)
            network, _ = load_policy(start, self.device)
            checkpoints.load_weights(self.ppo.network, network.state_dict(), start)
        if self.archive is not None:
            self.archive.claim()
            self._note_build(self.archive)
        self._save_rolling()

    def _note_build(self, archive: EpisodeArchive) -> None:
        archive.note_build(self.settings.env_name, self.settings.distribution_mode)

    def close(self) -> None:
        """Close the environments, and let other processes write to the folder of the episodes."""
        self.env.close()
        if self.archive is not None:
            self.archive.close()

    def restore(self) -> None:
        """Continue from a rolling checkpoint: the same numbers as an unbroken run on the CPU.

        Episodes that were under way when the run was stopped are played on but not recorded.
        """
        path = self.rolling
        contents = checkpoints.load(path, KIND, self.device)
        if "training" not in contents:
            raise UsageError(
                f"{path} holds a policy only; --checkpoint_path starts from its weights"
            )
        training = contents["training"]
        mine = _settings_that_shape(self.settings)
        for name, value in training["settings"].items():
            if mine[name] != value:
                raise UsageError(f"--{name} {mine[name]}: the run in {path} has {name}={value}")
        checkpoints.load_weights(self.ppo.network, contents["network"], path)
        load_optimiser(self.ppo.optimiser, training["optimiser"])
        self.scaler.restore(training["scaler"])
        self.order.bit_generator.state = training["order"]
        self.env.restore_state([bytes(state.cpu().numpy()) for state in training["env"]])
        self.observations = training["observations"].cpu().numpy()
        self.episode_returns = np.array(training["episode_returns"])
        self.recent.extend(training["recent"])
        self.update, self.episodes = contents["update"], training["episodes"]
        self.rows, self.elapsed = training["rows"], training["elapsed"]
        if self.archive is not None:
            self.archive.restart(training["archive"], self.settings.num_processes)
            if not self.archive.holds():  # it may be another folder than before
                self._note_build(self.archive)
        restore_torch_random_state(training["random"])
        logger.info("continuing after update %d", self.update)


_FREE_TO_CHANGE = frozenset(
    "resume no_cuda compile num_env_steps model_saving_dir xpid log_interval archive_interval "
    "dataset_saving_dir tensorboard wandb_project wandb_entity given".split()
)


def _settings_that_shape(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings that a resumed run may not change."""
    return {k: v for k, v in vars(settings).items() if k not in _FREE_TO_CHANGE}


def train(settings: argparse.Namespace) -> None:
    """Run `online.trainer` with parsed settings; a finished run says so and is left alone.

    Raises UsageError if a run of that name has other settings.
    """
    xpid = settings.xpid or ppo_xpid(settings)
    path = Path(settings.model_saving_dir) / settings.env_name / xpid
    finished = sorted((path / "final").glob("model_*.pt"))
    rolling = path / "rolling" / "model.pt"
    if finished:
        shaping = {**_settings_that_shape(settings), "num_env_steps": settings.num_env_steps}
        require_settings(path, shaping)
        logger.info("already finished: %s", finished[-1])
        return
    if rolling.exists() and not settings.resume:
        raise UsageError(f"{path} holds a run: --resume True continues it, --xpid names another")
    require_trackers(settings)
    require_compiler(settings.compile, choose_device(settings.no_cuda))
    folder = RunFolder(settings.model_saving_dir, settings.env_name, xpid)
    with folder.session():
        for leftover in folder.path.glob("*/.*.pt.*.tmp"):  # of a process killed while it saved
            leftover.unlink()
        with contextlib.closing(Trainer(settings, folder)) as trainer:
            if rolling.exists():
                trainer.restore()
            else:
                trainer.begin()
            folder.write_json(
                "meta.json", describe_run({k: v for k, v in vars(settings).items() if k != "given"})
            )
            trainer.run()
