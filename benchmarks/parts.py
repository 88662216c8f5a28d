"""What it gains to take batches in parts, one per core: python -m benchmarks.parts

Gradient steps of BC on random frames with the batch whole and, in turn, in parts
(`common.parts`), first with nothing else to do and then beside a process that keeps one core busy.
Prints samples per second of wall time: medians, and the median of the ratios of neighbours.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from common.flags import Flag, parse_flags, run_command
from offline.arguments import TRAIN_FLAGS, parse_training

FLAGS = (
    *(flag for flag in TRAIN_FLAGS if flag.name == "precision"),
    Flag("batch_size", int, 256, "Samples per gradient step.", minimum=1),
    Flag("repeats", int, 7, "Measurements of each side, in turn.", minimum=1),
    Flag("steps", int, 2, "Gradient steps per measurement.", minimum=1),
)
_BUSY = "while True: pass"


@contextlib.contextmanager
def _busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _steps(batch_size: int, precision: str) -> Callable[[], object]:
    """A gradient step of BC with the paper's network."""
    import torch

    from common.device import choose_device
    from common.games import FRAME_SHAPE, NUM_ACTIONS
    from offline.agents import make_agent
    from offline.agents.base import DatasetFacts
    from offline.data.views import TransitionBatch

    device = choose_device(no_cuda=True)
    argv = ["--agent_model=pporesnetbase", f"--precision={precision}"]
    facts = DatasetFacts(
        num_actions=NUM_ACTIONS, max_return=1.0, min_return=0.0, num_samples=1, max_length=1
    )
    agent = make_agent(vars(parse_training(argv, "")), facts, device)
    frames = torch.randint(0, 256, (batch_size, *FRAME_SHAPE), dtype=torch.uint8)
    actions = torch.randint(0, NUM_ACTIONS, (batch_size,))
    nothing = torch.zeros(batch_size)
    batch = TransitionBatch(frames, actions, nothing, None, nothing)
    return lambda: agent.update(batch)


def _benchmark(argv: Sequence[str] | None) -> None:
    settings = parse_flags(FLAGS, argv, __doc__ or "")
    import torch

    from common.parts import whole_batches

    step = _steps(settings.batch_size, settings.precision)

    def rate(how: contextlib.AbstractContextManager[None]) -> float:
        with how:
            start = time.perf_counter()
            for _ in range(settings.steps):
                step()
            return float(settings.steps * settings.batch_size / (time.perf_counter() - start))

    print(f"threads {torch.get_num_threads()}, batch {settings.batch_size}, torch", end=" ")
    print(torch.__version__)
    print("| | whole | in parts | ratio | smallest to largest |\n|---|---|---|---|---|")
    surroundings: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
        "nothing else running": contextlib.nullcontext,
        "one core busy": _busy_core,
    }
    for name, surrounding in surroundings.items():
        with surrounding():
            pairs = [
                (rate(whole_batches()), rate(contextlib.nullcontext()))
                for _ in range(settings.repeats + 1)
            ][1:]  # the first warms up
        whole, parts = map(statistics.median, zip(*pairs, strict=True))
        ratios = [mine / other for other, mine in pairs]
        print(
            f"| {name} | {whole:.0f} samples/s | {parts:.0f} samples/s "
            f"| {statistics.median(ratios):.2f}x | {min(ratios):.2f} to {max(ratios):.2f} |",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 done, 1 failed, 2 bad arguments."""
    return run_command(_benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
