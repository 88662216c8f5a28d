"""The six methods on the built-in data, three seeds each, and a report: python -m offline.study

Collects the data, writes the commands that configs/offline/study stands for, trains and evaluates
all runs on this machine, films one agent of every method and makes the report. Runs the commands a
user would type, and prints each. Everything goes to --save_path; the same command continues what
was stopped and does nothing twice.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.errors import ToolkitError, UsageError
from common.files import write_atomically
from common.flags import Flag, parse_flags, run_command
from common.interrupts import Stopped, StopRequest
from offline.arguments import ALGORITHMS, parse_training

_FLAGS = (
    Flag("save_path", str, "report", "Folder for the runs, their logs and the report."),
    Flag("only", str, (), "Methods to train; none means all.", choices=ALGORITHMS, many=True),
    Flag("num_trials", int, 3, "Seeds per method.", minimum=1),
    Flag("num_episodes", int, 100, "Episodes per split after training.", minimum=1),
    Flag("jobs", int, 2, "Runs at once.", minimum=1),
    Flag(
        "set",
        str,
        (),
        "Settings in place of those of configs/offline/study: --set epochs=1 dataset=data/mine.",
        many=True,
    ),
    Flag("show", bool, True, "Open the page in a browser where there is a display."),
)
# Flags that decide how long a study takes.
_SIZES = {"only", "num_trials", "num_episodes", "jobs", "set"}
# Settings of a run that are not for --set, and the flags that are there for them.
_STATED = {
    "algo": "only",
    "save_path": "save_path",
    "num_final_episodes": "num_episodes",
    "num_seeds": "num_trials",
}
_TRAIN, _EVALUATE = "offline.train_offline_agent", "offline.evaluate_offline_agent"
_PLACE = re.compile(r" '?--save_path=.*?(?= '?--|$)")  # of a command
_FILMED = ("train", "test")
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def _study(argv: Sequence[str] | None) -> None:
    settings = parse_flags(_FLAGS, argv, __doc__ or "")
    start = time.monotonic()
    out = Path(settings.save_path)
    training, evaluation = out / "commands" / "training.txt", out / "commands" / "evaluation.txt"
    runs = _write_commands(settings, training, evaluation)
    print(f"{len(runs)} runs in {out / 'runs'}: {', '.join(sorted({run.algo for run in runs}))}")

    _announce("1/5 data", 1, settings)
    _collect(runs[0])
    _announce("2/5 training", 14, settings)
    _run_queue(training, "offline", settings)
    _announce("3/5 evaluation", 3, settings)
    _run_queue(evaluation, "eval", settings)
    _announce("4/5 films", 1, settings)
    for first in {run.algo: run for run in reversed(runs)}.values():
        _film(first)
    _announce("5/5 report", 1, settings)
    reference = ["--reference", "ppo", "random", "behaviour"]
    _run("offline.report", [f"--save_path={out / 'runs'}", f"--out={out}", *reference])

    page = (out / "index.html").resolve()
    print(f"page: {page}\n{(time.monotonic() - start) / 60:.1f} minutes in all")
    if settings.show:
        _show(page)


def _announce(stage: str, minutes: int, settings: argparse.Namespace) -> None:
    """Print what comes, and how long it takes a study of the usual size."""
    usual = not _SIZES & settings.given
    print(f"\n{stage}{f': about {minutes} min on two cores' if usual else ''}", flush=True)


def _write_commands(
    settings: argparse.Namespace, training: Path, evaluation: Path
) -> list[argparse.Namespace]:
    """Write the two files of commands; the settings of the runs, one seed of all methods first.

    The training is told to play no episodes at its end, as the evaluation does. Raises UsageError
    for settings that make_cmd refuses, or if the files are those of another study.
    """
    for text in settings.set:
        if flag := _STATED.get(text.partition("=")[0]):
            raise UsageError(f"--set {text}: --{flag} says this")
    episodes = {training: (_TRAIN, 0), evaluation: (_EVALUATE, settings.num_episodes)}
    commands = {path: _make_commands(*what, settings) for path, what in episodes.items()}
    for path, lines in commands.items():
        there = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        # Commands lie beside their runs, whatever the folder was called when they were written.
        if {_PLACE.sub("", line) for line in there} - {_PLACE.sub("", line) for line in lines}:
            raise UsageError(
                f"--save_path {settings.save_path}: holds a study of other settings, or of more "
                "methods or seeds: give those, or name another folder"
            )
    for path, lines in commands.items():
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
    return [parse_training(shlex.split(line)[3:], "") for line in commands[training]]


def _make_commands(module: str, episodes: int, settings: argparse.Namespace) -> list[str]:
    """The commands of all runs, a line each: the first seed of every method, then the second."""
    by_method = []
    stated = [f"save_path={Path(settings.save_path) / 'runs'}", f"num_final_episodes={episodes}"]
    # The longest runs come first, so that the processors end together.
    for algo in sorted(settings.only or ALGORITHMS, reverse=True):
        flags = ["--dir=study", f"--grid_config={algo}", f"--num_trials={settings.num_trials}"]
        flags += ["--checkpoint", f"--module_name={module}", "--set", *stated, *settings.set]
        made = subprocess.run(
            [sys.executable, "-m", "train_scripts.make_cmd", *flags],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            kind = UsageError if made.returncode == UsageError.exit_code else ToolkitError
            raise kind(made.stderr.strip().removeprefix("error: "))
        by_method.append([line for line in made.stdout.splitlines() if line])
    return [line for trial in zip(*by_method, strict=True) for line in trial]


def _collect(run: argparse.Namespace) -> None:
    """Have the built-in data there, if the runs are to learn from these."""
    from offline.data.built_in import built_in_dataset

    if not run.dataset:
        built_in_dataset(run.env_name, run.distribution_mode, run.num_levels)


def _run_queue(commands: Path, module_name: str, settings: argparse.Namespace) -> None:
    flags = [f"--path={commands}", f"--module_name={module_name}", "--cluster=local"]
    flags += [f"--jobs={settings.jobs}", f"--log_dir={Path(settings.save_path) / 'logs'}"]
    _run("train_scripts.slurm", flags)


def _film(run: argparse.Namespace) -> None:
    """Film an episode on training and one on test levels, unless that is done."""
    play = Path(run.save_path) / run.env_name / run.xpid / "play"
    if all((play / f"{split}.gif").is_file() for split in _FILMED):
        return
    flags = [f"--{name}={getattr(run, name)}" for name in ("save_path", "env_name", "xpid")]
    flags += [f"--no_cuda={run.no_cuda}", "--episodes=1", "--gif_megabytes=0.5"]
    _run("offline.record", [*flags, "--split", *_FILMED])


def _run(module: str, flags: Sequence[str]) -> None:
    """Run one of our commands to its end.

    A signal is passed on, and the command waited for. Raises Stopped then, ToolkitError if the
    command fails.
    """
    print(f"$ python -m {module} {shlex.join(flags)}", flush=True)
    with StopRequest() as stop:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            # The terminal's Ctrl-C is for this process: a second one would kill what saves itself.
            start_new_session=True,
            preexec_fn=_end_with_parent,  # safe: this process has one thread
        )
        told = False
        while (code := _code(process)) is None:
            if stop.signal_number is not None and not told:
                process.send_signal(stop.signal_number)
                told = True
    if stop.signal_number is not None:
        raise Stopped("stopped; the same command continues the study", stop.signal_number)
    if code:
        raise ToolkitError(
            f"{module} failed (exit code {code}), see above; the same command continues the study"
        )


def _code(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process that ends soon; None for one that goes on."""
    try:
        return process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _show(page: Path) -> None:
    """Open the page where there is a display. Nothing waits for the browser or hears of it."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        subprocess.Popen(
            [sys.executable, "-m", "webbrowser", page.as_uri()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_study, argv)


if __name__ == "__main__":
    sys.exit(main())
