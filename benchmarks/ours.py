"""Our side of the benchmark: the toolkit's own classes, called as its commands call them.

A worker of `python -m benchmarks.throughput`; see `benchmarks.worker`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sizes import (
    HIDDEN_SIZE,
    LEARNING_RATE,
    METHOD_SETTINGS,
    NUM_LEVELS,
    gradient_steps,
    random_indices,
)
from benchmarks.worker import Build, Repeat, Sample, Stopwatch, serve
from common.device import choose_device, has_bf16
from common.envs import ProcgenVectorEnv, procgen_build
from common.evaluation import evaluate
from common.flags import parse_flags, run_command
from common.games import NUM_ACTIONS
from common.interrupts import StopRequest
from common.run_logger import RunFolder
from common.seeding import seed_everything
from offline.agents import agent_class, make_agent
from offline.agents.base import DatasetFacts, OfflineAgent
from offline.arguments import parse_training
from offline.data.copies import batches_in_order, copies_to
from offline.data.loading import load_data
from offline.data.views import TransitionView, WindowView
from online.arguments import TRAINER_FLAGS
from online.training import Trainer

WEIGHTS = "weights.pt"
# For agents whose networks do not depend on the data.
NO_FACTS = DatasetFacts(
    num_actions=NUM_ACTIONS, max_return=1.0, min_return=0.0, num_samples=1, max_length=1
)


def _training_settings(
    settings: argparse.Namespace, precision: str, algo: str = "bc"
) -> argparse.Namespace:
    """The paper's settings of a method, on the benchmark's data."""
    if agent_class(algo).view == "windows":
        sizes = [f"--batch_size={settings.window_batch_size}"]
        sizes += [f"--dt_context_length={settings.context_length}"]
    else:
        sizes = [f"--batch_size={settings.batch_size}"]
    return parse_training(
        [
            *(f"--algo={algo}", "--agent_model=pporesnetbase", f"--hidden_size={HIDDEN_SIZE}"),
            *(f"--{name}={value}" for name, value in METHOD_SETTINGS[algo].items()),
            *(f"--lr={LEARNING_RATE}", *sizes),
            *(f"--dataset={settings.data}", f"--env_name={settings.env_name}"),
            *(f"--seed={settings.seed}", f"--precision={precision}"),
            f"--no_cuda={settings.no_cuda}",
        ],
        "",
    )


def _view(settings: argparse.Namespace, next_observations: bool) -> TransitionView:
    kind: Any = "transitions" if next_observations else "state_actions"
    device = choose_device(settings.no_cuda)
    view = load_data(_training_settings(settings, "auto"), kind, device).view
    assert isinstance(view, TransitionView)
    return view


def _agent(
    settings: argparse.Namespace, precision: str, algo: str = "bc", facts: DatasetFacts = NO_FACTS
) -> OfflineAgent[Any]:
    """A new agent, whose weights the plain side may read from the data folder."""
    seed_everything(settings.seed)
    agent = make_agent(
        vars(_training_settings(settings, precision, algo)),
        facts,
        choose_device(settings.no_cuda),
    )
    weights = [parameter.detach().cpu().contiguous() for parameter in agent.parameters()]
    torch.save(weights, Path(settings.data) / WEIGHTS)
    return agent


def learner(
    settings: argparse.Namespace, algo: str, precision: str = "auto"
) -> tuple[TransitionView | WindowView, OfflineAgent[Any]]:
    """The data of a method and a new agent, as the training command makes them."""
    device = choose_device(settings.no_cuda)
    training = _training_settings(settings, precision, algo)
    view, summary, *_ = load_data(training, agent_class(algo).view, device)
    facts = DatasetFacts(
        num_actions=NUM_ACTIONS,
        max_return=summary.max_return,
        min_return=summary.min_return,
        num_samples=len(view),
        max_length=summary.max_length,
    )
    return view, _agent(settings, precision, algo, facts)


def training(algo: str) -> Build:
    """Training: batches from the view, gradient steps of the agent; in samples."""

    def build(settings: argparse.Namespace) -> Repeat:
        view, agent = learner(settings, algo, settings.precision)
        batch_size = agent.settings["batch_size"]
        steps = gradient_steps(settings, algo)
        copies = copies_to(agent.device)

        def train(batches: int) -> None:
            orders = (
                random_indices(settings.seed, number, len(view), batch_size)
                for number in range(batches)
            )
            for samples in batches_in_order(view, orders, copies):
                agent.update(samples)

        def repeat() -> Sample:
            with Stopwatch() as watch:
                train(steps)
            return watch.sample(steps * batch_size, precision=agent.precision)

        train(2)
        return repeat

    return build


def loss(settings: argparse.Namespace) -> Repeat:
    """The losses of a short fp32 training from fixed weights on fixed batches; in samples."""
    view = _view(settings, next_observations=False)

    def train() -> list[float]:
        agent = _agent(settings, "fp32")
        losses = []
        for number in range(settings.loss_batches):
            indices = random_indices(settings.seed, number, len(view), settings.batch_size)
            losses.append(agent.update(view.batch(indices))["loss"])
        return [float(loss) for loss in losses]

    def repeat() -> Sample:
        with Stopwatch() as watch:
            losses = train()
        return watch.sample(settings.loss_batches * settings.batch_size, losses=losses)

    train()
    return repeat


def batches(settings: argparse.Namespace) -> Repeat:
    """Random batches (s, a, r, s', done) from the view; in batches."""
    view = _view(settings, next_observations=True)

    def repeat() -> Sample:
        order = np.random.default_rng(settings.seed)
        with Stopwatch() as watch:
            for _ in range(settings.batches):
                view.batch(order.integers(len(view), size=settings.batch_size))
        return watch.sample(settings.batches)

    repeat()
    return repeat


def ppo(settings: argparse.Namespace) -> Repeat:
    """One collection and one update of `online.training.Trainer`; in environment steps."""
    names = (
        "env_name",
        "seed",
        "no_cuda",
        "precision",
        "num_processes",
        "num_steps",
        "num_mini_batch",
    )
    flags = [f"--{name}={getattr(settings, name)}" for name in (*names, "ppo_epoch")]
    flags += [f"--hidden_size={HIDDEN_SIZE}", f"--lr={LEARNING_RATE}"]
    folder = RunFolder(Path(settings.data) / "runs", settings.env_name, "ppo")
    trainer = Trainer(parse_flags(TRAINER_FLAGS, flags, ""), folder)
    stop = StopRequest()

    def repeat() -> Sample:
        with Stopwatch() as watch:
            trainer.ppo.update(trainer.collect(stop), trainer.order)
        return watch.sample(trainer.steps_per_update, precision=trainer.ppo.precision)

    repeat()
    return repeat


def environment(settings: argparse.Namespace) -> Repeat:
    """Random steps of `num_processes` environments together; in environment steps."""
    env = ProcgenVectorEnv(
        settings.env_name, settings.num_processes, num_levels=NUM_LEVELS, seed=settings.seed
    )
    env.reset()
    steps = max(1, settings.env_steps // env.num_envs)
    actions = np.random.default_rng(settings.seed).integers(NUM_ACTIONS, size=(steps, env.num_envs))

    def repeat() -> Sample:
        with Stopwatch() as watch:
            for step in range(steps):
                env.step(actions[step])
        return watch.sample(steps * env.num_envs)

    repeat()
    return repeat


def evaluation(settings: argparse.Namespace) -> Repeat:
    """`evaluate` with an untrained agent; in steps of the counted episodes."""
    agent = _agent(settings, settings.precision)
    agent.eval()

    def play(episodes: int) -> int:
        results = evaluate(
            agent,
            env_name=settings.env_name,
            distribution_mode="easy",
            num_levels=NUM_LEVELS,
            num_episodes=episodes,
            seed=settings.seed,
        )
        return sum(episode.length for split in results.values() for episode in split)

    def repeat() -> Sample:
        with Stopwatch() as watch:
            steps = play(settings.episodes)
        return watch.sample(steps)

    play(1)
    return repeat


def second_start(settings: argparse.Namespace) -> Repeat:
    """Opening, selecting and placing data that are packed already, once; in transitions."""
    device = choose_device(settings.no_cuda)

    def repeat() -> Sample:
        with Stopwatch() as watch:
            data = load_data(_training_settings(settings, "auto"), "state_actions", device)
        return watch.sample(data.summary.transitions, placement=data.placement)

    return repeat


ROWS: dict[str, Build] = {algo: training(algo) for algo in METHOD_SETTINGS} | {
    build.__name__: build for build in (loss, batches, ppo, environment, evaluation, second_start)
}


def facts(settings: argparse.Namespace) -> dict[str, Any]:
    """What the machine and the installation are, as far as speed goes."""
    device = choose_device(settings.no_cuda)
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "bf16": "yes" if has_bf16(device) else "no",
        "procgen": " ".join(procgen_build().values()),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as a worker; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(lambda flags: serve(ROWS, facts, flags, __doc__ or ""), argv)


if __name__ == "__main__":
    sys.exit(main())
