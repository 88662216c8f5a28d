"""The built-in data: episodes of the bundled policy, collected on first use and kept."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from common.errors import ToolkitError, UsageError
from common.interrupts import Stopped, StopRequest

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data" / "built-in"
POLICIES = ROOT / "online" / "policies"
POLICY_MARK = "policy.sha256"
TRANSITIONS = 50_000
NUM_LEVELS = 200
SEED = 88
POLL_SECONDS, GRACE_SECONDS = 0.1, 2.0


def built_in_dataset(env_name: str, distribution_mode: str, num_levels: int) -> Path:
    """The dataset folder that holds the built-in episodes of `env_name`, collected if need be.

    `python -m online.data_collector` does the work in a process of its own. A collection that is
    cut short leaves nothing behind; of two processes the second waits for the first.

    Raises UsageError if no policy is bundled for the game or the built-in data are of other
    levels, ToolkitError if the collection fails or is stopped.
    """
    if not (POLICIES / f"{env_name}.pt").is_file():
        have = ", ".join(sorted(path.stem for path in POLICIES.glob("*.pt"))) or "no game"
        raise UsageError(
            f"no --dataset given, and built-in data exist for {have} only, not {env_name}: "
            "give --dataset, or collect episodes with online.data_collector"
        )
    if distribution_mode != "easy" or num_levels != NUM_LEVELS:
        raise UsageError(
            f"the built-in data hold {NUM_LEVELS} easy levels: give --dataset for "
            f"--distribution_mode {distribution_mode} --num_levels {num_levels}"
        )
    target = FOLDER / env_name
    if _is_current(target):
        return FOLDER
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / f".{env_name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current(target):
            if target.is_dir():
                logger.info("the built-in data of %s are of another policy: once more", env_name)
                shutil.rmtree(target)
            _collect(env_name, target, lock.fileno())
    return FOLDER


def _is_current(target: Path) -> bool:
    """Whether the episodes are there, and of the policy that is bundled now."""
    mark = target / POLICY_MARK
    return mark.is_file() and mark.read_text(encoding="utf-8").strip() == _policy_hash(target.name)


def _policy_hash(env_name: str) -> str:
    return hashlib.sha256((POLICIES / f"{env_name}.pt").read_bytes()).hexdigest()


def _collect(env_name: str, target: Path, lock: int) -> None:
    """Collect into a hidden folder and rename it when it is whole.

    Raises Stopped after SIGTERM or SIGINT, when the collector has ended too.
    """
    partial = FOLDER / f".partial-{env_name}"
    shutil.rmtree(partial, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "online.data_collector", f"--env_name={env_name}"),
        *(f"--capacity={TRANSITIONS}", f"--seed={SEED}", f"--dataset_saving_dir={partial}"),
    ]
    logger.info("collecting the built-in data (once): %s", " ".join(["python", *command[1:]]))
    with StopRequest() as stop:
        try:
            code = _run(command, lock, stop)
            if stop.signal_number is not None:
                raise Stopped(
                    f"stopped, and no built-in data of {env_name} kept: the same command collects "
                    "them from the beginning",
                    stop.signal_number,
                )
            if code != 0:
                raise ToolkitError(
                    f"collecting the built-in data of {env_name} failed (exit code {code})"
                )
            mark = partial / env_name / POLICY_MARK
            mark.write_text(_policy_hash(env_name) + "\n", encoding="utf-8")
            os.rename(partial / env_name, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _run(command: list[str], lock: int, stop: StopRequest) -> int:
    """The exit code of a command, which is ended by a stop."""
    # The collector holds the lock too: if it outlives this process, the next one waits for it.
    with subprocess.Popen(command, cwd=ROOT, pass_fds=(lock,)) as collector:
        while stop.signal_number is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return collector.wait(POLL_SECONDS)
        # Who stops a whole group has told the collector too, which a second signal would kill.
        with contextlib.suppress(subprocess.TimeoutExpired):
            return collector.wait(GRACE_SECONDS)
        collector.terminate()
    return collector.returncode
