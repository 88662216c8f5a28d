"""The README's sweep, given as it is written there: on the built-in data, but with small runs."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.sweep import Given, copy_toolkit, main, readme_commands, table
from tests.command_runs import ROOT, the_error

# What makes the runs of a copy small; the commands stay as they are.
SMALL = ("dataset_size=300", "num_eval_episodes=1", "num_final_episodes=2", "hidden_size=16")


class Sweep(NamedTuple):
    """What the benchmark printed, and the copy of the toolkit in which it gave the commands."""

    printed: list[str]
    folder: Path

    @property
    def runs(self) -> list[Path]:
        return sorted(self.folder.glob("runs/offline/coinrun/*_8[89]"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, built_in_data: Path) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep") / "toolkit"
    command = [sys.executable, "-m", "benchmarks.sweep", f"--folder={folder}", "--set", *SMALL]
    command.append(f"--built_in_data={built_in_data}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Sweep(done.stdout.splitlines(), folder)


def test_the_readme_tells_a_sweep_in_five_commands_and_two_more_for_slurm() -> None:
    words = [command.split() for command in readme_commands(ROOT / "README.md")]
    assert [each[2] for each in words] == [
        "train_scripts.make_cmd",
        "train_scripts.slurm",
        "train_scripts.status",
        "train_scripts.slurm",
        "offline.report",
        "train_scripts.slurm",
        "train_scripts.slurm",
    ]
    assert ["local" in each for each in words] == [False, True, False, True, False, False, False]


@pytest.mark.slow
def test_the_sweep_of_the_readme_trains_and_evaluates_every_run_on_the_built_in_data(
    sweep: Sweep,
) -> None:
    assert len(sweep.runs) == 4
    for run in sweep.runs:
        meta = json.loads((run / "meta.json").read_text())
        assert meta["dataset"]["sources"] == [f"{sweep.folder}/data/built-in/coinrun/packed"]
        assert meta["settings"]["dataset_size"] == 300
        assert (run / "final_model.pt").exists()
        with open(run / "evaluate_episodes.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 6


@pytest.mark.slow
def test_the_sweep_of_the_readme_ends_in_a_table_over_its_seeds(sweep: Sweep) -> None:
    report = sweep.folder / "runs" / "offline" / "report"
    with open(report / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3  # three splits
    assert {row["seed"] for row in rows} == {"88", "89"}
    assert "- BC: lr 0.0" in (report / "tables" / "aggregates.md").read_text()


@pytest.mark.slow
def test_the_benchmark_prints_how_the_sweep_stood_and_what_each_command_took(sweep: Sweep) -> None:
    header = sweep.printed.index("minutes  processor  command")
    assert re.fullmatch(r"4 runs: .*[1-4] finished.*", sweep.printed[header - 2])
    lines = [line.split(maxsplit=2) for line in sweep.printed[header + 1 :]]
    assert [line[2] for line in lines] == [*readme_commands(ROOT / "README.md")[:5], "in all"]
    minutes = [float(line[0]) for line in lines]
    assert 0.0 < minutes[1] < minutes[-1]


def test_the_time_of_all_leaves_out_the_command_that_was_given_beside_another() -> None:
    names = ("a", "b", "train_scripts.status", "c")
    given = [Given(name, 60.0 * 2**i, 30.0, "") for i, name in enumerate(names)]
    assert table(given).splitlines()[-1].split() == ["11.00", "2.00", "in", "all"]


def test_a_copy_of_the_toolkit_has_the_defaults_that_it_is_given(tmp_path: Path) -> None:
    copy_toolkit(tmp_path / "copy", defaults={"lr": 0.5})
    default = Path("configs", "offline", "default.json")
    expected = json.loads((ROOT / default).read_text()) | {"lr": 0.5}
    assert json.loads((tmp_path / "copy" / default).read_text()) == expected


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--set=epoch=3", "--set epoch=3: write <name>=<value>, for a flag of training"),
        ("--set=epochs=no", "--epochs no: write a whole number"),
        ("--built_in_data=nowhere", "--built_in_data nowhere: no such folder"),
        ("--folder=.", "--folder . is there already: name a new one"),
    ],
)
def test_a_sweep_that_cannot_be_measured_is_one_line(
    capsys: pytest.CaptureFixture[str], flag: str, message: str
) -> None:
    assert main([flag]) == 2
    assert the_error(capsys.readouterr().err) == f"error: {message}"
