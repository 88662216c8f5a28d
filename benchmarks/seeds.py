"""Train seeds in one process and in one each, one after the other: python -m benchmarks.seeds

Runs the real training command with --num_seeds, then once per seed without it, on the same data of
random play. Prints of both sides seeds x samples per second, of whole commands (start, checkpoints
and one evaluation of an episode per split included) and of training alone; the time of the
processors; the largest resident memory of a process; and how far the weights are apart at the end.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.sizes import SIZE_FLAGS
from common.errors import ToolkitError
from common.flags import Flag, parse_flags, run_command
from common.games import FRAME_BYTES
from offline.arguments import TRAIN_FLAGS

logger = logging.getLogger(__name__)

# Of the training command, where its own default is another one.
_SIZES = {
    "num_seeds": 4,
    "epochs": 1,
    "batch_size": 256,
    "agent_model": "pporesnetbase",
    "hidden_size": 256,
    "dt_context_length": 10,
    "precision": "fp32",
    "data_device": "ram",  # so that frames count as memory of the process
}
_TRAINING = {flag.name: flag for flag in TRAIN_FLAGS}
FLAGS = (
    *(flag for flag in SIZE_FLAGS if flag.name in ("env_name", "seed", "no_cuda", "num_processes")),
    Flag("transitions", int, 10_000, "Transitions of the data, in whole episodes.", minimum=1),
    Flag("repeats", int, 1, "Measurements of each side, in turn; medians are shown.", minimum=1),
    _TRAINING["algo"],
    *(replace(_TRAINING[name], default=value) for name, value in _SIZES.items()),
)
_ROOT = Path(__file__).resolve().parents[1]


class Cost(NamedTuple):
    """Seconds of wall time, of processors and within epochs; bytes of the largest process."""

    wall: float
    processor: float
    training: float
    memory: float


def _train(settings: argparse.Namespace, folder: Path, seed: int, num_seeds: int) -> Cost:
    """What it costs to train `num_seeds` seeds from `seed` on by one command."""
    names = ["env_name", "no_cuda", "algo", *_SIZES]
    flags = {name: getattr(settings, name) for name in names if _is_used(name, settings.algo)}
    flags |= {"dataset": settings.data, "save_path": folder, "seed": seed, "num_seeds": num_seeds}
    flags |= {"num_eval_episodes": 1, "num_final_episodes": 0, "eval_freq": settings.epochs}
    flags["xpid"] = "run" if num_seeds > 1 else f"run_{seed}"
    command = [sys.executable, "-m", "offline.train_offline_agent"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise ToolkitError(f"training failed: {log.strip()[-300:] or process.returncode}")
    training = 0.0
    for number in range(seed, seed + num_seeds):
        rows = _folder(settings, folder, number) / "logs.csv"
        with open(rows, encoding="utf-8", newline="") as file:
            # The only row tells of the last epoch.
            training += settings.epochs * float(next(csv.DictReader(file))["epoch_time"])
    return Cost(wall, usage.ru_utime + usage.ru_stime, training, usage.ru_maxrss * 1024)


def _is_used(name: str, algo: str) -> bool:
    users = _TRAINING[name].algorithms
    return not users or algo in users


def _folder(settings: argparse.Namespace, save_path: Path, seed: int) -> Path:
    return save_path / settings.env_name / f"run_{seed}"


def _one_after_the_other(settings: argparse.Namespace, folder: Path) -> Cost:
    costs = [_train(settings, folder, seed, 1) for seed in _seeds(settings)]
    wall, processor, training, _ = (sum(column) for column in zip(*costs, strict=True))
    return Cost(wall, processor, training, max(cost.memory for cost in costs))


def _seeds(settings: argparse.Namespace) -> range:
    return range(settings.seed, settings.seed + settings.num_seeds)


def _largest_difference(settings: argparse.Namespace, sides: Sequence[Path]) -> float:
    """Between the weights of the same seed on both sides, over all seeds."""
    import torch

    largest = 0.0
    for seed in _seeds(settings):
        mine, theirs = (
            torch.load(_folder(settings, side, seed) / "final_model.pt", weights_only=True)["agent"]
            for side in sides
        )
        for name, weights in mine["weights"].items():
            apart = (weights.double() - theirs["weights"][name].double()).abs().max()
            largest = max(largest, float(apart))
    return largest


def _measure(settings: argparse.Namespace, folder: Path) -> tuple[Cost, Cost, float]:
    together = _train(settings, folder / "together", settings.seed, settings.num_seeds)
    alone = _one_after_the_other(settings, folder / "alone")
    apart = _largest_difference(settings, [folder / "together", folder / "alone"])
    logger.info("together %.1f s, one after the other %.1f s", together.wall, alone.wall)
    return together, alone, apart


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def _line(name: str, cost: Cost, base: Cost, amount: float) -> str:
    return (
        f"{name:25} {amount / cost.wall:9,.1f}/s {base.wall / cost.wall:5.2f}x "
        f"{amount / cost.training:9,.1f}/s {base.training / cost.training:5.2f}x "
        f"{cost.processor:9.1f} s {base.processor / cost.processor:5.2f}x "
        f"{cost.memory / 1e9:7.2f} GB"
    )


def _benchmark(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    from benchmarks.data import make_data
    from offline.data.packing import open_game
    from offline.data.store import select_episodes

    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        settings.data = folder / "data"
        make_data(settings.data, settings)
        selection = select_episodes([open_game(settings.data, settings.env_name)])
        measured = [_measure(settings, folder / str(repeat)) for repeat in range(settings.repeats)]
    amount = settings.num_seeds * settings.epochs * selection.num_transitions
    together = _median([ours for ours, _, _ in measured])
    alone = _median([theirs for _, theirs, _ in measured])
    print(
        f"{settings.algo}, {settings.agent_model}, batch {settings.batch_size}: "
        f"{settings.num_seeds} seeds x {settings.epochs} epochs x {selection.num_transitions:,} "
        f"samples, {selection.num_rows * FRAME_BYTES / 1e9:.2f} GB of frames; "
        "load average of this machine at the end: {:.1f} {:.1f} {:.1f}".format(*os.getloadavg())
    )
    print(
        f"{'seeds x samples':25} {'whole command':>18} {'training':>19} {'processors':>18}  memory"
    )
    print(_line("in one process", together, alone, amount))
    print(_line("one after the other", alone, alone, amount))
    print(f"largest difference of weights: {max(each[2] for each in measured):.1e}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
