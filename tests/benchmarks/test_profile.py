"""The profile counts a step's work rightly, divides its time completely and prints both."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.profiler import record_function

from benchmarks.counting import ByteCounter, count_work
from benchmarks.limits import measure_limits
from benchmarks.phases import PHASES, ROWS, profile_steps
from benchmarks.profile_tables import profile_tables
from benchmarks.rows import Pair
from benchmarks.sizes import METHOD_SETTINGS, PROFILE_FLAGS
from benchmarks.worker import Sample
from common.flags import parse_flags
from offline.agents import make_agent
from offline.agents.base import DatasetFacts, TransitionBatch
from offline.arguments import parse_training

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


# Work


def test_the_operations_of_a_bc_step_are_those_worked_out_by_hand() -> None:
    facts = DatasetFacts(15, max_return=1.0, min_return=0.0, num_samples=1, max_length=1)
    flags = ["--agent_model=pporesnetbase", "--hidden_size=256", "--precision=fp32"]
    agent = make_agent(vars(parse_training(flags, "")), facts, CPU)
    frames = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    zeros = torch.zeros(2)
    batch = TransitionBatch(frames, zeros.long(), zeros, None, zeros)
    # Outputs x inputs to each x 2, of one frame: 3x3 convolutions, then two matrices.
    first = 64 * 64 * 16 * (3 * 9) * 2
    convolutions = (
        first
        + 4 * 32 * 32 * 16 * (16 * 9) * 2
        + 32 * 32 * 32 * (16 * 9) * 2
        + 4 * 16 * 16 * 32 * (32 * 9) * 2
        + 16 * 16 * 32 * (32 * 9) * 2
        + 4 * 8 * 8 * 32 * (32 * 9) * 2
    )
    matrices = 2048 * 256 * 2 + 256 * 15 * 2
    # The backward pass does each twice, for inputs and weights; pixels need no gradient.
    per_frame = 3 * (convolutions + matrices) - first
    assert per_frame == 180_115_968
    assert count_work(lambda: agent.update(batch)).operations == 2 * per_frame


def test_an_operation_moves_what_it_reads_and_writes_and_a_view_nothing() -> None:
    a, b = torch.zeros(10, 100), torch.zeros(10, 100)
    with ByteCounter() as traffic:
        a + b  # 2 x 1000 numbers of 4 bytes read, 1000 written
    assert traffic.bytes == 12_000
    with ByteCounter() as traffic:
        a.t()[3:].unsqueeze(0)
    assert traffic.bytes == 0
    with ByteCounter() as traffic:
        a + b[:1].expand(10, 100)  # the second operand is one row, kept in memory once
    assert traffic.bytes == 12_000
    with ByteCounter() as traffic:
        a.add_(1)  # in place: read and written
    assert traffic.bytes == 8_000


def test_limits_are_rates_that_this_machine_can_have() -> None:
    limits = measure_limits(CPU, "fp32", repeats=1)
    assert all(1e7 < limit < 1e14 for limit in limits)


# Time


def _matrix_product() -> None:
    left = torch.ones(600, 600)
    left @ left


def test_the_shares_of_the_phases_add_up_to_one() -> None:
    def steps() -> None:
        for name in ("data", "forward"):
            with record_function(name):
                _matrix_product()

    shares = profile_steps(steps, CPU).shares
    assert tuple(shares) == PHASES
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(share >= 0 for share in shares.values())
    assert shares["data"] > 0 and shares["forward"] > 0
    assert shares["backward"] == shares["optimiser"] == 0


def test_what_happens_within_the_backward_pass_is_not_counted_as_forward() -> None:
    def steps() -> None:
        with record_function("forward"):
            functional.relu(torch.ones(4))
            with record_function("backward"):
                _matrix_product()

    profiled = profile_steps(steps, CPU)
    assert profiled.shares["backward"] > profiled.shares["forward"]
    assert "aten::mm" in [name for name, _, _ in profiled.operators]


def test_time_in_which_nothing_is_computed_is_the_hosts() -> None:
    def steps() -> None:
        with record_function("forward"):
            functional.relu(torch.ones(4))
            time.sleep(0.3)

    assert profile_steps(steps, CPU).shares["host"] > 0.5


# The tables


def _sample(device: str, seconds: float, cpu_seconds: float) -> Sample:
    return Sample(
        amount=40,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        details={
            "precision": "fp32",
            "device": device,
            "steps": 4,
            "memory": {"host": 2_000_000_000},
            "work": {"operations": 100, "bytes": 30},
            "limits": {"matrix_product": 400.0, "convolution": 200.0, "bandwidth": 600.0},
            "shares": dict.fromkeys(PHASES, 0.2),
            "operators": [("aten::mm", 6, 0.25)],
        },
    )


@pytest.mark.parametrize(
    ("device", "seconds", "cpu_seconds"), [("cuda", 2.0, 1.0), ("cpu", 4.0, 2.0)]
)
def test_rates_stand_over_their_limits(device: str, seconds: float, cpu_seconds: float) -> None:
    settings = parse_flags(PROFILE_FLAGS, [], "")
    ours, plain = _sample(device, seconds, cpu_seconds), _sample(device, 8.0, 3.0)
    text = profile_tables({"bc": [Pair(ours, plain)]}, settings, {"cores": 2})
    assert f"| BC | 10 | {40 / seconds:.0f} | {8 / seconds:.2f}x | {3 / cpu_seconds:.2f}x |" in text
    assert "| 20.0% | 20.0% | 20.0% | 20.0% | 20.0% | host 2.00 GB | 0.00 G |" in text
    # 4 steps in the 2 s that count: 200 operations and 60 bytes a second.
    assert "| 0.00 G | 50% | 100% | 10% |" in text
    assert "| `aten::mm` | 3 | 25.0% |" in text  # 6 calls in 2 profiled steps
    assert "Machine: cores 2." in text


def test_every_method_can_be_profiled() -> None:
    assert set(ROWS) == set(METHOD_SETTINGS)


@pytest.mark.slow
def test_the_command_prints_what_it_writes(tmp_path: Path) -> None:
    out = tmp_path / "profile.md"
    command = [sys.executable, "-m", "benchmarks.profile", "--only=bc", "--repeats=1"]
    command += ["--transitions=60", "--batch_size=4", "--bc_batches=2", "--num_processes=4"]
    done = subprocess.run([*command, f"--out={out}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.read_text().strip() == done.stdout.strip()
    assert re.search(r"\| BC \| 4 \| \d+ \| \d+\.\d\dx \|", done.stdout)
    assert "aten::convolution_backward" in done.stdout


def test_help_needs_no_torch() -> None:
    code = "import sys, benchmarks.profile; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"
