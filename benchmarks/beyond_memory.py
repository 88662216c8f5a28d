"""Train from a store ten times larger than the memory for it: python -m benchmarks.beyond_memory

Runs the real training command twice on the same data: with the frames in RAM, and with a memory
budget of a tenth of them, which leaves them on the disk. Prints the speed of both, the largest
resident memory of each process, and how much it read from the disk itself: before each run its part
of the store is read once, so that the page cache is warm, but the kernel may take pages back.
More `passes` over fewer frames come back to each page sooner. `python -m benchmarks.packing --keep
True` leaves a store to use.
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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import ToolkitError, UsageError
from common.flags import Flag, parse_flags, run_command
from common.games import FRAME_BYTES, GAMES

logger = logging.getLogger(__name__)

FLAGS = (
    Flag("dataset", str, "", "Dataset folder with a packed store of the game."),
    Flag("env_name", str, "coinrun", "Procgen game.", choices=GAMES),
    Flag("batches", int, 2000, "Gradient steps of each run.", minimum=1),
    Flag("passes", int, 1, "Over the frames, in all these steps.", minimum=1),
    Flag("batch_size", int, 256, "Transitions per batch.", minimum=1),
    Flag("repeats", int, 1, "Runs of each side, in turn; medians are shown.", minimum=1),
    Flag("algo", str, "bc", "Offline method.", choices=("bc", "bcq", "cql", "iql")),
)
_ROOT = Path(__file__).resolve().parents[1]
_READ_BYTES = 1 << 24


class Measurement(NamedTuple):
    """Speed of one run, its largest resident memory and what the disk gave it, in bytes.

    `placement` is where it said its frames are.
    """

    batches_per_second: float
    memory: float
    from_disk: float
    placement: str


def _train(settings: argparse.Namespace, folder: Path, flags: Sequence[str]) -> Measurement:
    """Train for `batches` batches in `passes` epochs and read what the run folder says."""
    command = [
        *(sys.executable, "-m", "offline.train_offline_agent", f"--algo={settings.algo}"),
        *(f"--env_name={settings.env_name}", f"--dataset={settings.dataset}", "--no_cuda=True"),
        *(f"--batch_size={settings.batch_size}", f"--epochs={settings.passes}"),
        *(f"--save_path={folder}", "--xpid=run", "--num_final_episodes=0", "--skip_bad_episodes"),
        *("--eval_freq=1", "--num_eval_episodes=1", f"--dataset_size={_transitions(settings)}"),
        *flags,
    ]
    process = subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise ToolkitError(f"training failed: {log.strip()[-300:] or process.returncode}")
    with open(folder / settings.env_name / "run" / "logs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (placement,) = [line.split("; ", 1)[1] for line in log.splitlines() if line[:6] == "data: "]
    seconds = sum(float(row["epoch_time"]) for row in rows)
    samples = sum(float(row["epoch_time"]) * float(row["samples_per_second"]) for row in rows)
    rate = samples / seconds / settings.batch_size
    return Measurement(rate, usage.ru_maxrss * 1024, usage.ru_inblock * 512, placement)


def _transitions(settings: argparse.Namespace) -> int:
    """How many a pass goes over."""
    transitions: int = settings.batches * settings.batch_size // settings.passes
    return transitions


def _warm(frames: Path, size: int) -> None:
    """Have the first `size` bytes in the page cache."""
    with open(frames, "rb", buffering=0) as file:
        while file.tell() < size and file.read(_READ_BYTES):
            pass


def _benchmark(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    frames = Path(settings.dataset) / settings.env_name / "packed" / "frames.npy"
    if not settings.dataset or not frames.is_file():
        raise UsageError(f"--dataset {settings.dataset}: no packed store of {settings.env_name}")
    settings.dataset = str(Path(settings.dataset).resolve())
    # What a run takes of the store, from its start.
    size = min(frames.stat().st_size, _transitions(settings) * FRAME_BYTES)
    # The last episode is taken whole: one of Procgen's has 1,000 steps at most.
    enough = 1.05 * size + 1000 * FRAME_BYTES
    sides = {
        "in memory": ["--data_device=ram", f"--memory_budget_gb={enough / 1e9:.6f}"],
        "a tenth of it": ["--data_device=auto", f"--memory_budget_gb={0.1 * size / 1e9:.6f}"],
    }
    measured: dict[str, list[Measurement]] = {name: [] for name in sides}
    for _ in range(settings.repeats):
        for name, flags in sides.items():
            _warm(frames, size)
            with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
                measured[name].append(_train(settings, Path(folder), flags))
            logger.info("%s: %.2f batches/s", name, measured[name][-1].batches_per_second)
    print(
        f"{size / 1e9:.2f} GB of frames, {settings.batches:,} batches of {settings.batch_size} "
        f"transitions, {settings.passes} passes, {settings.algo}, budget {0.1 * size / 1e9:.2f} GB"
    )
    rates = {
        name: statistics.median(m.batches_per_second for m in runs)
        for name, runs in measured.items()
    }
    for name, runs in measured.items():
        memory = max(run.memory for run in runs) / 1e9
        from_disk = statistics.median(run.from_disk for run in runs) / 1e9
        print(
            f"{name:14} {rates[name]:7.2f} batches/s, {rates[name] / rates['in memory']:4.0%}, "
            f"resident at most {memory:.2f} GB, {from_disk:.2f} GB read from the disk; "
            f"{runs[0].placement}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
