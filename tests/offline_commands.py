"""Running the offline commands as a user would, on data small enough to do it often."""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.envs import ProcgenVectorEnv
from common.run_logger import RunFolder
from common.seeding import seed_everything
from offline.agents import make_agent
from offline.agents.base import DatasetFacts, OfflineAgent
from offline.arguments import parse_training
from offline.data.views import View
from offline.training import Run
from online.episode_archive import EpisodeArchive

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
TRAIN = "offline.train_offline_agent"
EVALUATE = "offline.evaluate_offline_agent"
GAME = "fruitbot"  # its episodes are short, whoever plays
# A whole training run in about three seconds.
TINY = {
    "env_name": GAME,
    "batch_size": 8,
    "epochs": 3,
    "eval_freq": 1,
    "ckpt_freq": 2,
    "num_eval_episodes": 1,
    "num_final_episodes": 2,
    "no_cuda": True,
}
# In the environment of every finished run; it must not be written down.
CREDENTIAL = "a-token-that-is-nobodys-business"
TIMES = {"epoch_time", "inf_time", "samples_per_second"}


class FinishedRun(NamedTuple):
    """A run that the real command trained: its settings, the folder --save_path, its process."""

    settings: dict[str, Any]
    save_path: Path
    process: subprocess.CompletedProcess[str]

    @property
    def folder(self) -> Path:
        return run_folder(self.save_path)


def run_folder(save_path: Path) -> Path:
    """Where a run called "run" of `GAME` lies."""
    return save_path / GAME / "run"


def flags(settings: Mapping[str, Any], **changes: Any) -> list[str]:
    """Settings as they stand on a command line."""
    return [f"--{name}={value}" for name, value in {**settings, **changes}.items()]


def run(
    module: str, *arguments: str, file_size_limit: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; beyond `file_size_limit` bytes a file cannot grow."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=None if file_size_limit is None else _limit(file_size_limit),
    )


def _limit(file_size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))


def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command; `wait_for` follows what it says."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
    )


def wait_for(process: subprocess.Popen[bytes], text: str) -> None:
    """Return as soon as the process has written `text` to its standard error."""
    assert process.stderr is not None
    seen = b""
    while text.encode() not in seen:
        read = process.stderr.read(4096)
        assert read, f"ended without {text!r}: {seen.decode()}"
        seen += read


def end(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that is about to end."""
    process.communicate(timeout=60)
    return process.returncode


def lines(stderr: str) -> list[str]:
    """What a user reads on standard error, progress bars left out."""
    written = [line.strip() for line in stderr.replace("\r", "\n").split("\n")]
    return [line for line in written if line and "%|" not in line]


def error_line(process: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a command failed; nothing follows it, no traceback precedes it."""
    written = lines(process.stderr)
    assert "Traceback" not in process.stderr, process.stderr
    assert [line for line in written if line.startswith("error: ")] == written[-1:], written
    return written[-1].removeprefix("error: ")


def collect_episodes(dataset: Path, game: str = GAME, transitions: int = 600) -> Path:
    """Real episodes of a player that presses buttons at random, below `dataset`."""
    archive = EpisodeArchive(dataset / game)
    env = ProcgenVectorEnv(game, 16, seed=1)
    generator = np.random.default_rng(0)
    observations, infos = env.reset()
    archive.begin(observations, infos["level_seed"])
    while archive.transitions < transitions:
        actions = generator.integers(0, 15, 16)
        observations, rewards, dones, _, infos = env.step(actions)
        archive.step(actions, rewards, dones, observations, infos["level_seed"])
    env.close()
    return dataset


def make_run(
    view: View, save_path: Path, agent: type[OfflineAgent[Any]] | None = None, **changes: Any
) -> Run:
    """A run as the training command makes it, on a view of the caller's."""
    settings = parse_training(flags(TINY, xpid="run", save_path=save_path, **changes), "")
    seed_everything(settings.seed)
    facts = DatasetFacts(
        num_actions=15, max_return=1.0, min_return=0.0, num_samples=1, max_length=1
    )
    made = agent(vars(settings), facts, CPU) if agent else make_agent(vars(settings), facts, CPU)
    return Run(made, view, settings, RunFolder(save_path, GAME, "run"))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, read with nothing of ours."""
    contents: dict[str, Any] = torch.load(path, weights_only=True)
    return contents


def assert_same(mine: Any, theirs: Any, where: str = "") -> None:
    """Equal to the last bit, all the way down."""
    assert type(mine) is type(theirs), where
    if isinstance(mine, torch.Tensor):
        assert mine.dtype == theirs.dtype, where
        assert torch.equal(mine, theirs), where
    elif isinstance(mine, dict):
        assert list(mine) == list(theirs), where
        for key in mine:
            assert_same(mine[key], theirs[key], f"{where}/{key}")
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(theirs), where
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            assert_same(a, b, f"{where}/{i}")
    else:
        assert mine == theirs, where


def assert_same_end(mine: Path, theirs: Path) -> None:
    """Two run folders hold the same checkpoints, log and results; only times may differ."""
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in mine.iterdir()) == names
    for name in names:
        if name.endswith(".pt"):
            a, b = read_checkpoint(mine / name), read_checkpoint(theirs / name)
            for contents in (a, b):
                contents["progress"].pop("epoch_seconds")
            assert_same(a, b, name)
    rows = [read_rows(folder / "logs.csv") for folder in (mine, theirs)]
    without_times = [[{k: v for k, v in r.items() if k not in TIMES} for r in t] for t in rows]
    assert without_times[0] == without_times[1]
    results = "final_test_eval.csv"
    if results in names:
        assert (mine / results).read_bytes() == (theirs / results).read_bytes()
