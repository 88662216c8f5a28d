"""Tracking of runs: its flags, its packages, and TensorBoard; W&B is in test_wandb.py."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import UsageError
from common.run_logger import CsvLog
from common.tracking import TRACKING_FLAGS, Tracking, check_tracking_flags
from tests.tracking_readers import ROWS, assert_tensorboard_holds, tensorboard_series

ROOT = Path(__file__).resolve().parents[2]
OFF = {flag.name: flag.default for flag in TRACKING_FLAGS} | {"seed": 3}


def settings(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(given=frozenset(changes), **{**OFF, **changes})


@pytest.fixture
def table(tmp_path: Path) -> CsvLog:
    """An empty logs.csv in the folder of a run with seed 3."""
    folder = tmp_path / "coinrun-bc_3"
    folder.mkdir()
    return CsvLog(folder / "logs.csv")


def train(table: CsvLog, rows: list[dict[str, float]], **changes: Any) -> None:
    """Write rows as a run does, from entering to leaving its loop."""
    with Tracking(settings(**changes), table, step="epoch") as tracking:
        for row in rows:
            table.append(row)
            tracking.log(row)


# TensorBoard


def test_tensorboard_reads_the_values_of_the_table(table: CsvLog) -> None:
    train(table, ROWS, tensorboard=True)
    assert_tensorboard_holds(table.path.parent, table.rows(), "epoch")
    assert tensorboard_series(table.path.parent)["rets"] == [(2, 20), (4, 40), (6, 60), (7, 70)]


def test_tensorboard_can_be_looked_at_after_every_row(table: CsvLog) -> None:
    with Tracking(settings(tensorboard=True), table, step="epoch") as tracking:
        for row in ROWS[:2]:
            table.append(row)
            tracking.log(row)
            assert_tensorboard_holds(table.path.parent, table.rows(), "epoch")


def test_a_run_that_goes_on_adds_its_rows_to_those_before(table: CsvLog) -> None:
    train(table, ROWS[:2], tensorboard=True)
    train(table, ROWS[2:], tensorboard=True)
    assert_tensorboard_holds(table.path.parent, table.rows(), "epoch")
    assert len(table.rows()) == 4


def test_a_row_that_the_table_lost_is_purged(table: CsvLog) -> None:
    train(table, [*ROWS[:2], {"epoch": 6, "loss": 99.0, "rets": 99.0}], tensorboard=True)
    table.keep_rows(1)
    train(table, [ROWS[2]], tensorboard=True)
    assert tensorboard_series(table.path.parent)["rets"] == [(2, 20), (6, 60)]
    assert_tensorboard_holds(table.path.parent, table.rows(), "epoch")


def test_switched_on_late_tensorboard_has_the_rows_before(table: CsvLog) -> None:
    train(table, ROWS[:3])
    assert [path.name for path in table.path.parent.iterdir()] == ["logs.csv"]
    train(table, ROWS[3:], tensorboard=True)
    assert_tensorboard_holds(table.path.parent, table.rows(), "epoch")


def test_a_row_keeps_the_time_at_which_it_was_first_written(table: CsvLog) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def times() -> dict[int, float]:
        read = EventAccumulator(str(table.path.parent))
        read.Reload()
        return {event.step: event.wall_time for event in read.Scalars("loss")}

    train(table, ROWS[:2], tensorboard=True)
    first = times()
    train(table, ROWS[2:], tensorboard=True)
    assert {step: times()[step] for step in first} == first
    assert first[2] < first[4] < times()[6] < times()[7]


def test_an_event_file_that_was_cut_short_is_replaced(table: CsvLog) -> None:
    train(table, ROWS[:3], tensorboard=True)
    (events,) = table.path.parent.glob("events*")
    events.write_bytes(events.read_bytes()[:-7])
    train(table, ROWS[3:], tensorboard=True)
    assert_tensorboard_holds(table.path.parent, table.rows(), "epoch")


def test_an_empty_cell_is_left_out(table: CsvLog) -> None:
    train(table, ROWS[:1])
    table.append({"epoch": 4, "rets": 5.0})
    train(table, [], tensorboard=True)
    assert tensorboard_series(table.path.parent) == {"loss": [(2, 0.5)], "rets": [(2, 20), (4, 5)]}


# Flags


def test_an_entity_without_a_project_is_refused() -> None:
    with pytest.raises(UsageError, match="--wandb_entity team: give --wandb_project too"):
        check_tracking_flags(settings(wandb_entity="team"))


def test_a_project_that_wandb_could_not_name_is_refused() -> None:
    with pytest.raises(UsageError, match="--wandb_project a/b#: W&B allows no # / in a name"):
        check_tracking_flags(settings(wandb_project="a/b#"))


def test_good_flags_pass() -> None:
    check_tracking_flags(settings())
    check_tracking_flags(settings(wandb_project="procgen", wandb_entity="team", tensorboard=True))


# Packages


@pytest.mark.parametrize(
    ("setting", "package"), [("tensorboard=True", "tensorboard"), ("wandb_project='p'", "wandb")]
)
def test_a_package_that_is_missing_is_named(setting: str, package: str) -> None:
    script = (
        f"import argparse, sys; sys.modules[{package!r}] = None\n"
        "from common.tracking import require_trackers\n"
        "flags = {'tensorboard': False, 'wandb_project': ''}\n"
        f"require_trackers(argparse.Namespace(**flags | dict({setting})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].startswith("common.errors.ToolkitError: --")
    assert done.stderr.splitlines()[-1].endswith(f": pip install {package}")


def test_neither_is_imported_unless_it_is_on(table: CsvLog) -> None:
    script = (
        "import sys; from tests.common.test_tracking import *\n"
        "from common.tracking import require_trackers\n"
        "require_trackers(settings())\n"
        "train(CsvLog(Path(sys.argv[1])), ROWS)\n"
        "print({'wandb', 'tensorboard', 'torch.utils.tensorboard'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(table.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "set()\n", done.stderr
    assert [path.name for path in table.path.parent.iterdir()] == ["logs.csv"]
