"""The benchmark runs, prints its rows, and its plain side computes what the toolkit computes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import ours, reference, sizes
from benchmarks.reference_data import EpisodeDataset
from benchmarks.reference_parts import ReferenceImpala, load_in_order, reference_policy
from benchmarks.rows import ROWS, Pair, ratios, table
from benchmarks.sizes import COMMAND_FLAGS
from benchmarks.worker import Sample
from common.encoders import make_encoder
from common.flags import parse_flags
from tests.data_fixtures import make_episode, write_game

ROOT = Path(__file__).parents[2]
TINY = (
    *("--transitions=120", "--repeats=2", "--batch_size=8", "--loss_batches=2"),
    *("--num_processes=4", "--env_steps=16", "--method_batches=1", "--window_batch_size=2"),
    "--context_length=3",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """What a run of the cheap rows printed, and what it wrote to --out."""
    out = tmp_path_factory.mktemp("benchmark") / "table.md"
    command = [sys.executable, "-m", "benchmarks.throughput", "--only", "loss"]
    command += ["--only=cql", "--only=dt", "--only=environment", f"--out={out}", *TINY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield done.stdout, out.read_text()


@pytest.mark.slow
def test_the_chosen_rows_are_printed_with_both_sides_and_their_ratio(run: tuple[str, str]) -> None:
    printed, _ = run
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0].strip("| ") for row in rows]
    assert names == [
        "what",
        "CQL training, batch 8",
        "DT training, batch 2, context 3",
        "the same BC losses, fp32",
        "environment steps",
    ]
    assert all(re.search(r"\| \d+\.\d\dx \| \d+\.\d\d to \d+\.\d\d \|", row) for row in rows[1:])
    assert "Machine: processor" in printed


@pytest.mark.slow
def test_out_holds_the_table_that_is_printed(run: tuple[str, str]) -> None:
    printed, written = run
    assert written.strip() == printed.strip()


@pytest.mark.slow
def test_both_sides_have_the_same_losses_in_fp32(run: tuple[str, str]) -> None:
    ours = re.search(r"largest difference (\S+) ", run[0])
    plain = re.search(r"by rounding alone (\S+) ", run[0])
    assert ours is not None and plain is not None
    assert float(ours[1]) < 1e-4
    assert float(plain[1]) < 1e-4


def test_an_out_in_a_missing_folder_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.throughput", f"--out={tmp_path / 'no' / 'a.md'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --out ")


def test_help_needs_no_torch() -> None:
    code = "import sys, benchmarks.throughput; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_the_reference_network_is_the_toolkits() -> None:
    torch.manual_seed(0)
    ours, plain = make_encoder("pporesnetbase", 256), ReferenceImpala(256)
    assert sum(p.numel() for p in plain.parameters()) == 622_144
    load_in_order(plain, list(ours.parameters()))
    frames = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    pixels = frames.permute(0, 3, 1, 2).float().contiguous() / 255
    with torch.no_grad():
        torch.testing.assert_close(plain(pixels), ours(frames), rtol=0, atol=1e-5)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="weights"):
        load_in_order(reference_policy(), list(nn.Linear(2, 3).parameters()))


def test_the_reference_data_number_transitions_as_recorded(tmp_path: Path) -> None:
    # Eleven episodes: in the order of text, number 10 would come before number 2.
    episodes = [make_episode(number, [1.0, 0.0, float(number)]) for number in range(11)]
    dataset = EpisodeDataset(write_game(tmp_path / "miner", episodes), next_observations=True)
    assert len(dataset) == 33
    observation, action, reward, following, done = dataset[3 * 10 + 1]
    first_pixels = observation[:, 0, 0] * 255, following[:, 0, 0] * 255
    np.testing.assert_allclose(torch.stack(first_pixels), [[10, 0, 1], [10, 0, 2]], atol=1e-4)
    assert observation.shape == (3, 64, 64)
    assert (action, reward, done) == (11, 0.0, 0.0)
    assert (dataset[32][2], dataset[32][4]) == (10.0, 1.0)


def test_a_ratio_compares_the_cost_of_one_unit() -> None:
    # Ours: 20 units in 2 s, 0.1 s each. Plain: 5 units in 2 s, 0.4 s each. CPU: 0.2 s and 1 s.
    pair = Pair(Sample(20, 2.0, 4.0), Sample(5, 2.0, 5.0))
    assert ratios([pair]) == [pytest.approx(4.0)]
    assert ratios([pair], cpu=True) == [pytest.approx(5.0)]


def test_the_plain_evaluation_is_scaled_to_our_steps() -> None:
    settings = parse_flags(COMMAND_FLAGS, [], "")
    pair = Pair(Sample(1000, 10.0, 10.0), Sample(50, 4.0, 4.0))
    row = table({"evaluation": [pair]}, settings, {}).splitlines()[2]
    assert "| 10.0 s (1,000 steps) | 80.0 s (scaled from 50 steps) | 8.00x |" in row


def test_both_sides_can_measure_every_row() -> None:
    assert set(ROWS) == set(sizes.ROWS) == set(ours.ROWS)
    assert {name for name, row in ROWS.items() if not row.fresh_process} == set(reference.ROWS)


def test_every_row_can_be_described() -> None:
    settings = vars(parse_flags(COMMAND_FLAGS, [], ""))
    for row in ROWS.values():
        for text in (row.what, row.ours, row.plain):
            assert text.format(**settings)
