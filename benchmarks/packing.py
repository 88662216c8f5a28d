"""Stream an archive of a whole category into the store: python -m benchmarks.packing

Makes one game's archive in the released layout (a pickled dictionary per episode, .tar.xz) from
real Procgen frames under random play, unless it is there, then times `xz -dc | wc -c` and
`python -m offline.pack` on it in turn, and prints both rates, the largest resident memory of the
packer and the most disk that the store took while it was made. A million transitions need 13 GB of
disk; making the archive takes most of the time.
"""

from __future__ import annotations

import argparse
import io
import logging
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from common.errors import ToolkitError
from common.flags import Flag, parse_flags, run_command
from common.games import FRAME_BYTES, GAMES

logger = logging.getLogger(__name__)

FLAGS = (
    Flag("folder", str, "data/benchmark-packing", "Folder for the archive and the store."),
    Flag("env_name", str, "coinrun", "Procgen game.", choices=GAMES),
    Flag("transitions", int, 1_000_000, "Transitions in the archive, at least.", minimum=1),
    Flag("float32", bool, False, "Frames as float32, four times the bytes; else uint8."),
    Flag("preset", int, 2, "Level of xz: 6, its own default, takes hours.", minimum=0, maximum=9),
    Flag("num_processes", int, 64, "Environments played together.", minimum=1),
    Flag("repeats", int, 1, "Measurements of each side; the median is shown.", minimum=1),
    Flag("keep", bool, False, "Leave the store where it is, for benchmarks.beyond_memory."),
    Flag("seed", int, 88, "Random seed of levels and actions.", minimum=0),
)
_ROOT = Path(__file__).resolve().parents[1]
_TIMESTAMP = "20230329T092246"


class Measurement(NamedTuple):
    """Seconds of wall time, the largest resident memory and the most disk, in bytes."""

    seconds: float
    memory: float = 0.0
    disk: float = 0.0


class _TarRecorder:
    """A `StepListener` that adds every finished episode to a tar stream."""

    def __init__(self, file: IO[bytes], game: str, dtype: type[np.generic]) -> None:
        from common.episodes import EpisodeRecorder

        self.transitions = 0
        self.tar = tarfile.open(fileobj=file, mode="w|")  # noqa: SIM115  # closed by its user
        self._recorder = EpisodeRecorder()
        self.begin = self._recorder.begin
        self._game, self._dtype, self._index = game, dtype, 0

    def step(self, *columns: np.ndarray) -> None:
        """One step of every environment."""
        from common.episodes import format_name

        for episode in self._recorder.step(*columns):
            buffer = io.BytesIO()
            contents = {
                "observations": episode.observations.transpose(0, 3, 1, 2).astype(self._dtype),
                "actions": episode.actions[:, None],
                "rewards": episode.rewards[:, None],
                "dones": episode.dones[:, None],
            }
            np.save(buffer, np.array(contents, dtype=object), allow_pickle=True)
            facts = (episode.length, episode.level_seed, episode.episode_return)
            name = format_name(_TIMESTAMP, self._index, *facts)
            info = tarfile.TarInfo(f"{self._game}/{name}.npy")
            info.size = buffer.tell()
            buffer.seek(0)
            self.tar.addfile(info, buffer)
            self._index += 1
            self.transitions += episode.length


def make_archive(path: Path, settings: argparse.Namespace) -> None:
    """Play at random and write `path` through `xz`; whole or not at all."""
    from tqdm import tqdm

    from benchmarks.data import RandomPolicy
    from benchmarks.sizes import NUM_LEVELS
    from common.envs import ProcgenVectorEnv
    from common.rollout import EpisodeResult, rollout
    from common.seeding import derive_seed

    partial = path.with_name(f".{path.name}.part")
    env = ProcgenVectorEnv(
        settings.env_name,
        settings.num_processes,
        num_levels=NUM_LEVELS,
        seed=derive_seed(settings.seed, "benchmark", "levels"),
    )

    def note(episode: EpisodeResult) -> None:
        bar.update(episode.length)

    bar = tqdm(total=settings.transitions, unit="transition", unit_scale=True, desc=path.name)
    with open(partial, "wb") as out, bar:
        xz = subprocess.Popen(
            ["xz", f"-{settings.preset}", "-T1", "-c"], stdin=subprocess.PIPE, stdout=out
        )
        assert xz.stdin is not None
        recorder = _TarRecorder(xz.stdin, settings.env_name, _dtype(settings))
        rollout(
            env,
            RandomPolicy(),
            seed=derive_seed(settings.seed, "benchmark", "actions"),
            keep_going=lambda _: recorder.transitions < settings.transitions,
            listener=recorder,
            on_episode=note,
        )
        recorder.tar.close()
        xz.stdin.close()
        if xz.wait() != 0:
            raise ToolkitError(f"xz failed on {partial}")
    env.close()
    partial.rename(path)


def time_xz(archive: Path) -> tuple[Measurement, int]:
    """`xz -dc | wc -c`, and the number that it counts."""
    start = time.perf_counter()
    with subprocess.Popen(["xz", "-dc", str(archive)], stdout=subprocess.PIPE) as xz:
        counted = subprocess.run(["wc", "-c"], stdin=xz.stdout, capture_output=True, check=True)
    return Measurement(time.perf_counter() - start), int(counted.stdout)


def time_packing(archive: Path, store: Path) -> Measurement:
    """`python -m offline.pack`, into a folder that is empty before."""
    shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-m", "offline.pack", str(archive), str(store)]
    start = time.perf_counter()
    packer = subprocess.Popen(command, cwd=_ROOT)
    disk = 0
    while True:
        pid, status, usage = os.wait4(packer.pid, os.WNOHANG)
        if pid:
            break
        disk = max(disk, _disk_use(store))
        time.sleep(0.2)
    packer.returncode = os.waitstatus_to_exitcode(status)
    if packer.returncode != 0:
        raise ToolkitError(f"packing failed with exit code {packer.returncode}")
    seconds = time.perf_counter() - start
    return Measurement(seconds, usage.ru_maxrss * 1024, max(disk, _disk_use(store)))


def _disk_use(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:  # renamed while we look
            continue
    return total


def _dtype(settings: argparse.Namespace) -> type[np.generic]:
    return np.float32 if settings.float32 else np.uint8


def _benchmark(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    folder = Path(settings.folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem = (
        f"{settings.env_name}.{settings.transitions}.{_dtype(settings).__name__}.{settings.preset}"
    )
    archive, store = (folder / f"{stem}.tar.xz").resolve(), (folder / f"{stem}.store").resolve()
    if not archive.exists():
        # In a process of its own: a command's largest memory counts that of who started it, too.
        maker = multiprocessing.get_context("spawn").Process(
            target=make_archive, args=(archive, settings)
        )
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            raise ToolkitError(f"{archive} could not be made: exit code {maker.exitcode}")
    plain, ours, size = [], [], 0
    for _ in range(settings.repeats):
        measurement, size = time_xz(archive)
        plain.append(measurement)
        ours.append(time_packing(archive, store))
        logger.info("xz %.1f s, packing %.1f s", plain[-1].seconds, ours[-1].seconds)
    rates = [size / 1e6 / statistics.median(m.seconds for m in side) for side in (plain, ours)]
    rows = np.load(store / settings.env_name / "packed" / "actions.npy", mmap_mode="r").size
    frames = rows * FRAME_BYTES
    disk = max(m.disk for m in ours)
    print(
        f"archive            {archive.stat().st_size / 1e6:,.0f} MB, {size / 1e9:.2f} GB unpacked"
    )
    print(f"stored             {rows:,} transitions, {frames / 1e9:.2f} GB of frames")
    print(f"xz -dc | wc -c     {rates[0]:,.0f} MB/s")
    print(f"offline.pack       {rates[1]:,.0f} MB/s, {rates[1] / rates[0]:.0%} of it")
    print(f"largest memory     {max(m.memory for m in ours) / 1e9:.2f} GB")
    print(f"most disk          {disk / 1e9:.2f} GB, {disk / frames:.3f} of the frames")
    if settings.keep:
        print(f"store              {store}")
    else:
        shutil.rmtree(store)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
