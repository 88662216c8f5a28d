"""The rows of the benchmark: what each compares, and how its numbers are read."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.worker import Sample


class Pair(NamedTuple):
    """Two measurements made one after the other. `plain` is None in rows without a plain side."""

    ours: Sample
    plain: Sample | None


Pairs = Sequence[Pair]


@dataclass(frozen=True)
class Row:
    """One row. `what`, `ours` and `plain` are sentences; {flags} of the command are filled in.

    `show` gives the two numbers as text. `at_least` is the ratio that the project demands.
    `fresh_process` starts a new process for every repeat.
    """

    what: str
    ours: str
    plain: str
    show: Callable[[Pairs, argparse.Namespace], tuple[str, str]]
    at_least: float | None = None
    fresh_process: bool = False


def rate(sample: Sample) -> float:
    """Units per second."""
    return sample.amount / sample.seconds


def ratios(pairs: Pairs, cpu: bool = False) -> list[float]:
    """How many times as fast we are, pair by pair; with `cpu`, how many times less CPU we take."""
    found = []
    for ours, plain in pairs:
        if plain is not None:
            costs = [
                (sample.cpu_seconds if cpu else sample.seconds) / sample.amount
                for sample in (ours, plain)
            ]
            found.append(costs[1] / costs[0])
    return found


def _rates(unit: str) -> Callable[[Pairs, argparse.Namespace], tuple[str, str]]:
    def show(pairs: Pairs, settings: argparse.Namespace) -> tuple[str, str]:
        ours = statistics.median(rate(pair.ours) for pair in pairs)
        plain = statistics.median(rate(pair.plain) for pair in pairs if pair.plain is not None)
        return f"{ours:,.0f} {unit}/s", f"{plain:,.0f} {unit}/s"

    return show


def _losses(pairs: Pairs, settings: argparse.Namespace) -> tuple[str, str]:
    """First and last loss; the largest difference, beside that of the plain side from itself."""
    ours, plain = (side.details for side in pairs[0] if side is not None)
    apart = _largest_difference(ours["losses"], plain["losses"])
    rounding = _largest_difference(plain["channels_last"], plain["losses"])
    return (
        f"{_ends(ours)}, largest difference {apart:.1e}",
        f"{_ends(plain)}, by rounding alone {rounding:.1e}",
    )


def _largest_difference(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _ends(details: Mapping[str, Sequence[float]]) -> str:
    return f"{details['losses'][0]:.5f} to {details['losses'][-1]:.5f}"


def _evaluation(pairs: Pairs, settings: argparse.Namespace) -> tuple[str, str]:
    """Seconds of the whole evaluation, those of the plain side scaled to our number of steps."""
    steps = statistics.median(pair.ours.amount for pair in pairs)
    ours = statistics.median(steps / rate(pair.ours) for pair in pairs)
    plain = statistics.median(steps / rate(pair.plain) for pair in pairs if pair.plain is not None)
    played = statistics.median(pair.plain.amount for pair in pairs if pair.plain is not None)
    return f"{ours:.1f} s ({steps:,.0f} steps)", f"{plain:.1f} s (scaled from {played:,.0f} steps)"


def _second_start(pairs: Pairs, settings: argparse.Namespace) -> tuple[str, str]:
    seconds = [pair.ours.seconds for pair in pairs]
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    return f"{statistics.median(seconds):.2f} s ({spread})", "-"


_TRAINING = (
    "batches of the view and `Agent.update`, {{{}}} gradient steps per repeat, "
    "precision {{precision}}"
)


def _value_based(name: str, plain: str) -> Row:
    return Row(
        f"{name} training, batch {{batch_size}}",
        _TRAINING.format("method_batches"),
        f"DataLoader as for bc, both frames; fp32 networks, a pass of its own for each: {plain}; "
        "Adam; targets are deep copies",
        _rates("samples"),
        at_least=2.0,
    )


def _sequence(name: str, tokens: str) -> Row:
    return Row(
        f"{name} training, batch {{window_batch_size}}, context {{context_length}}",
        _TRAINING.format("method_batches"),
        "DataLoader (one `__getitem__` per window, frames to float, padded with zeros, collated), "
        f"fp32, GPT of 6 layers over {tokens} with softmax attention written out, every frame "
        "encoded; AdamW",
        _rates("windows"),
        at_least=2.0,
    )


ROWS = {
    "bc": Row(
        "BC training, batch {batch_size}",
        _TRAINING.format("bc_batches"),
        "DataLoader (one `__getitem__` per sample, uint8 channels-first frame to float, collated), "
        "fp32 network, Adam",
        _rates("samples"),
        at_least=2.0,
    ),
    "cql": _value_based("CQL", "Q(s'), Qbar(s'), Q(s)"),
    "bcq": _value_based("BCQ", "Q and G of s', Qbar(s'), Q and G of s"),
    "iql": _value_based("IQL", "V(s'), two Qbar(s), V(s), two Q(s), actor(s)"),
    "dt": _sequence("DT", "(return-to-go, state, action)"),
    "bct": _sequence("BCT", "(state, action)"),
    "loss": Row(
        "the same BC losses, fp32",
        "losses of {loss_batches} gradient steps; the ratio is that of the time they take, "
        "batches included",
        "from the same weights on the same batches; rounding alone: the difference of the plain "
        "side from itself with its memory laid out channels-last, as ours is",
        _losses,
    ),
    "batches": Row(
        "batches (s, a, r, s', done) of {batch_size}",
        "`TransitionView.batch` at random indices: uint8 frames; converting them "
        "is the encoder's work and counted in bc",
        "DataLoader, shuffled, num_workers 0: `__getitem__` converts both frames to float32 in "
        "[0, 1], the default collation stacks them",
        _rates("batches"),
        at_least=5.0,
    ),
    "ppo": Row(
        "PPO, collection and update",
        "{num_processes} environments x {num_steps} steps, {num_mini_batch} minibatches, "
        "{ppo_epoch} passes, by `online.training.Trainer`, precision {precision}",
        "the same numbers and the same Procgen, float frames in storage, fp32",
        _rates("steps"),
        at_least=1.3,
    ),
    "environment": Row(
        "environment steps",
        "`ProcgenVectorEnv` with {num_processes} environments, random actions",
        "one environment, random actions",
        _rates("steps"),
    ),
    "evaluation": Row(
        "evaluation, 3 x {episodes} episodes",
        "`evaluate` with an untrained BC agent",
        "the same agent, one environment, one episode after the other: 3 x {plain_episodes} "
        "episodes were played and the seconds per step multiplied by our number of steps",
        _evaluation,
        at_least=5.0,
    ),
    "second_start": Row(
        "second start, packed data of {transitions} transitions",
        "`load_data`: open, select, place the frames, in a fresh process each time, "
        "files in the system's cache, imports not counted; the project demands less than 1 s for "
        "50,000",
        "nothing to compare with",
        _second_start,
        fresh_process=True,
    ),
}


def table(
    measured: dict[str, Pairs], settings: argparse.Namespace, facts: dict[str, object]
) -> str:
    """The rows measured as Markdown: numbers, what was done on each side, machine."""
    lines = [
        "| what | ours | plain | ratio | smallest to largest | ratio in CPU time | at least |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name, pairs in measured.items():
        row = ROWS[name]
        filled = {**vars(settings), **pairs[0].ours.details}
        ours, plain = row.show(pairs, settings)
        cells = [row.what.format(**filled), ours, plain, *_ratio_cells(row, pairs)]
        lines.append(f"| {' | '.join(cells)} |")
        notes.append(
            f"- **{name}**: ours: {row.ours.format(**filled)}; plain: {row.plain.format(**filled)}."
        )
    shown = ", ".join(f"{name} {value}" for name, value in facts.items())
    repeats = (
        f"{settings.repeats} repeats in turn (ours, plain, ours, ...), each side in its own "
        "process; the ratio is the median of those of the pairs. Rates are medians."
    )
    return "\n".join([*lines, "", repeats, "", *notes, "", f"Machine: {shown}.", ""])


def _ratio_cells(row: Row, pairs: Pairs) -> list[str]:
    wall, cpu = ratios(pairs), ratios(pairs, cpu=True)
    if not wall:
        return ["-"] * 4
    return [
        f"{statistics.median(wall):.2f}x",
        f"{min(wall):.2f} to {max(wall):.2f}",
        f"{statistics.median(cpu):.2f}x",
        f"{row.at_least:.1f}x" if row.at_least else "-",
    ]
