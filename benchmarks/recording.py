"""What it costs to film an evaluation: python -m benchmarks.recording --save_path runs/offline

Evaluates a run as `offline.evaluate_offline_agent` does and, in turn, as
`offline.record --from evaluate_episodes.csv` does: with the best, median and worst episode of each
split kept, and then drawn and encoded. Prints seconds of wall time and, since a busy machine
stretches those, of processor time; ffmpeg's own is not in the latter.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from common.flags import Flag, parse_flags, run_command
from offline.arguments import TRAIN_FLAGS

if TYPE_CHECKING:
    from offline.results.recording import RecordedEpisode
    from offline.results.recording_video import Artist

T = TypeVar("T")

FLAGS = (
    *(flag for flag in TRAIN_FLAGS if flag.name in ("save_path", "env_name", "no_cuda")),
    Flag("xpid", str, "latest", "Name of the run."),
    Flag("episodes", int, 100, "Episodes of the evaluation per split.", minimum=3),
    Flag("repeats", int, 3, "Measurements of each side; the median is shown.", minimum=1),
)


class Seconds(NamedTuple):
    """Of wall time, and of processor time of this process."""

    wall: float
    cpu: float


def timed(what: Callable[[], T]) -> tuple[Seconds, T]:
    """How long it takes, and what it gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = what()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu), result


def _encode(
    encoder: Callable[[Artist, Sequence[RecordedEpisode]], object],
    recorded: Mapping[str, Sequence[RecordedEpisode]],
) -> None:
    from offline.results.recording_video import Artist

    for split, episodes in recorded.items():
        encoder(Artist("benchmark", split), episodes)


def _benchmark(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    from common.device import choose_device
    from offline.agents import load_agent
    from offline.results.recording import best_median_and_worst, record
    from offline.results.recording_video import encode_gif, encode_mp4, moments

    run = Path(settings.save_path) / settings.env_name / settings.xpid
    agent, contents = load_agent(run / "final_model.pt", choose_device(settings.no_cuda))
    agent.eval()
    trained = contents["settings"]
    results, _ = record(agent, trained, settings.episodes, {})  # warms up
    chosen = {split: best_median_and_worst(episodes) for split, episodes in results.items()}
    times: dict[str, list[Seconds]] = {}
    pictures = 0
    for _ in range(settings.repeats):
        plain, _ = timed(lambda: record(agent, trained, settings.episodes, {}))
        kept, (_, recorded) = timed(lambda: record(agent, trained, settings.episodes, chosen))
        times.setdefault("evaluation", []).append(plain)
        times.setdefault("evaluation, episodes kept", []).append(kept)
        pictures = sum(len(moments(episodes)) for episodes in recorded.values())
        for encoder in (encode_gif, encode_mp4):
            seconds, _ = timed(functools.partial(_encode, encoder, recorded))
            times.setdefault(encoder.__name__, []).append(seconds)
    steps = sum(episode.length for episodes in results.values() for episode in episodes)
    print(
        f"{trained['algo']} with {trained['agent_model']} on {trained['env_name']}: "
        f"{len(results)} x {settings.episodes} episodes, {steps:,} steps; {pictures} pictures"
    )
    base = times["evaluation"]
    for name, measured in times.items():
        row = f"{name:28}"
        for unit in Seconds._fields:
            median = statistics.median(getattr(seconds, unit) for seconds in measured)
            share = statistics.median(
                getattr(a, unit) / getattr(b, unit) for a, b in zip(measured, base, strict=True)
            )
            row += f"{median:8.2f} s {unit} {share:5.0%}"
        print(row)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
