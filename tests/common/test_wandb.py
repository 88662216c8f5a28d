"""Rows in W&B: all of those in logs.csv, each once, whatever happened before.

In processes of their own, for W&B keeps to the first environment that a process shows it.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from common.run_logger import CsvLog
from tests.command_runs import ROOT
from tests.tracking_readers import (
    ROWS,
    offline_wandb,
    series_of,
    wandb_config,
    wandb_series,
    without_login,
)
from tests.wandb_server import serving

SETTINGS = {"seed": 3, "lr": 0.5, "tensorboard": False}
SCRIPT = """
import argparse, logging, os, signal, sys
from pathlib import Path

import common.tracking as tracking
from common.errors import ToolkitError
from common.run_logger import CsvLog

logging.basicConfig(level=logging.INFO, format="%(message)s")
tracking.UPLOAD_SECONDS = 3.0
table, rows = CsvLog(Path(sys.argv[1])), {rows}
settings = argparse.Namespace(**{settings}, given=(), wandb_project="procgen", wandb_entity="me")
try:
    tracking.require_trackers(settings)
    with tracking.Tracking(settings, table, step="epoch") as trackers:
        for row in rows:
            table.append(row)
            trackers.log(row)
            {after_row}
except ToolkitError as error:
    sys.exit(f"error: {{error}}")
print("trained to the end")
"""


@pytest.fixture
def table(tmp_path: Path) -> CsvLog:
    """An empty logs.csv in the folder of a run with seed 3."""
    folder = tmp_path / "coinrun-bc_3"
    folder.mkdir()
    return CsvLog(folder / "logs.csv")


def process(
    table: CsvLog, rows: list[dict[str, float]], after_row: str = "pass", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Write rows as a run does that W&B follows; `after_row` is done after every row."""
    script = SCRIPT.format(settings=SETTINGS, rows=rows, after_row=after_row)
    return subprocess.run(
        [sys.executable, "-c", script, str(table.path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    return without_login(tmp_path, WANDB_MODE="offline")


def test_offline_wandb_keeps_the_values_in_the_runs_folder(
    table: CsvLog, offline: dict[str, str]
) -> None:
    done = process(table, ROWS, **offline)
    assert done.returncode == 0, done.stderr
    run, series = offline_wandb(table.path.parent)
    assert series == series_of(table.rows(), "epoch")
    names = (run.project, run.entity, run.display_name, run.run_group)
    assert names == ("procgen", "me", "coinrun-bc_3", "coinrun-bc")
    assert wandb_config(run) == {**SETTINGS, "wandb_project": "procgen", "wandb_entity": "me"}
    (said,) = done.stderr.splitlines()
    (folder,) = table.path.parent.glob("wandb/offline-run-*")
    assert said == f"W&B: offline, `wandb sync {folder}` uploads"


def test_an_offline_run_that_goes_on_is_one_run_with_every_row_once(
    table: CsvLog, offline: dict[str, str]
) -> None:
    process(table, [*ROWS[:2], {"epoch": 6, "loss": 99.0, "rets": 99.0}], **offline)
    first, series = offline_wandb(table.path.parent)
    assert series["rets"] == [(2, 20), (4, 40), (6, 99)]
    table.keep_rows(2)
    assert process(table, ROWS[2:], **offline).returncode == 0
    second, series = offline_wandb(table.path.parent)
    assert second.run_id == first.run_id
    assert series == series_of(table.rows(), "epoch")
    assert len(table.rows()) == 4


def test_an_online_run_that_was_killed_goes_on_and_every_row_is_there_once(
    table: CsvLog, tmp_path: Path
) -> None:
    with serving() as server:
        login = server.login(tmp_path)
        killed = process(table, ROWS[:3], "row is rows[-1] and os.kill(os.getpid(), 9)", **login)
        assert killed.returncode == -9
        # One row of those that W&B may have; it is written again with what it was.
        table.keep_rows(2)
        done = process(table, ROWS[2:], **login)
        assert done.returncode == 0, done.stderr
        ((run_id, history),) = server.histories.items()
        assert wandb_series(history) == series_of(table.rows(), "epoch")
        assert done.stderr == f"W&B: {server.url}/me/procgen/runs/{run_id}\n"
        created = server.runs[run_id]
        assert (created["project"], created["entity"]) == ("procgen", "me")


def test_rows_that_wandb_never_got_are_sent_when_the_run_goes_on(
    table: CsvLog, tmp_path: Path, offline: dict[str, str]
) -> None:
    assert process(table, ROWS[:2], **offline).returncode == 0
    with serving() as server:
        done = process(table, ROWS[2:], **server.login(tmp_path))
        assert done.returncode == 0, done.stderr
        (history,) = server.histories.values()
        assert wandb_series(history) == series_of(table.rows(), "epoch")
    assert not list(table.path.parent.glob("wandb/offline-run-*"))


def test_a_server_that_goes_away_costs_a_warning_and_no_training(
    table: CsvLog, tmp_path: Path
) -> None:
    with serving() as server:
        gone = f"__import__('urllib.request').request.urlopen('{server.url}/stop')"
        done = process(table, ROWS, f"row is rows[0] and {gone}", **server.login(tmp_path))
    assert (done.returncode, done.stdout) == (0, "trained to the end\n"), done.stderr
    assert len(table.rows()) == 4
    _, warning = done.stderr.splitlines()
    (folder,) = table.path.parent.glob("wandb/run-*")
    assert warning.startswith("W&B: ")
    assert warning.endswith(
        f"; logs.csv has every row, and `wandb sync {folder}` uploads what W&B kept"
    )


def test_wandbs_own_process_dying_costs_a_warning_and_no_training(
    table: CsvLog, offline: dict[str, str]
) -> None:
    die = (
        "row is rows[1] and [os.kill(int(pid), signal.SIGKILL) for pid in "
        "Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()]"
    )
    done = process(table, ROWS, die, **offline)
    assert (done.returncode, done.stdout) == (0, "trained to the end\n"), done.stderr
    assert len(table.rows()) == 4
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert "logs.csv has every row" in done.stderr.splitlines()[1]
    # And going on mends it.
    assert process(table, [], **offline).returncode == 0
    assert offline_wandb(table.path.parent)[1] == series_of(table.rows(), "epoch")


# Several runs in one process

SEVERAL = """
import argparse, contextlib, logging, os, signal, sys
from pathlib import Path

from common.run_logger import CsvLog
from common.tracking import Tracking, require_trackers

logging.basicConfig(level=logging.INFO, format="%(message)s")
tables = [CsvLog(Path(path)) for path in sys.argv[1:]]
settings = argparse.Namespace(**{settings}, given=(), wandb_project="procgen", wandb_entity="me")
require_trackers(settings)
with contextlib.ExitStack() as stack:
    trackings = [stack.enter_context(Tracking(settings, table, step="epoch")) for table in tables]
    for row in {rows}:
        for number, (table, tracking) in enumerate(zip(tables, trackings)):
            own = {{**row, "loss": row["loss"] + number}}
            table.append(own)
            tracking.log(own)
        {after_row}
print("trained to the end")
"""


def several(
    folder: Path, after_row: str, **environment: str
) -> tuple[list[CsvLog], subprocess.CompletedProcess[str]]:
    """Two runs in turn, as those of two seeds; `after_row` is done after every row of both."""
    tables = [CsvLog(folder / name / "logs.csv") for name in ("coinrun-bc_3", "coinrun-bc_4")]
    for table in tables:
        table.path.parent.mkdir()
    script = SEVERAL.format(settings=SETTINGS, rows=ROWS, after_row=after_row)
    done = subprocess.run(
        [sys.executable, "-c", script, *(str(table.path) for table in tables)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return tables, done


def test_runs_that_are_open_at_once_are_two_with_rows_of_their_own(
    tmp_path: Path, offline: dict[str, str]
) -> None:
    tables, done = several(tmp_path, "pass", **offline)
    assert done.returncode == 0, done.stderr
    runs = [offline_wandb(table.path.parent) for table in tables]
    assert [run.display_name for run, _ in runs] == ["coinrun-bc_3", "coinrun-bc_4"]
    assert len({run.run_id for run, _ in runs}) == 2
    for table, (_, series) in zip(tables, runs, strict=True):
        assert series == series_of(table.rows(), "epoch")


def test_wandbs_own_process_dying_costs_runs_that_are_open_at_once_a_warning_each(
    tmp_path: Path, offline: dict[str, str]
) -> None:
    die = (
        "row['epoch'] == 4 and [os.kill(int(pid), signal.SIGKILL) for pid in "
        "Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()]"
    )
    tables, done = several(tmp_path, die, **offline)
    assert (done.returncode, done.stdout) == (0, "trained to the end\n"), done.stderr
    assert [len(table.rows()) for table in tables] == [4, 4]
    assert len(done.stderr.splitlines()) == 4, done.stderr  # of each where it is, and the warning
    assert done.stderr.count("logs.csv has every row") == 2


# Let be


def test_wandb_that_is_disabled_is_let_be(table: CsvLog, tmp_path: Path) -> None:
    earlier = table.path.parent / "wandb" / "offline-run-1" / "run-1.wandb"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"not uploaded yet")
    done = process(table, ROWS, **without_login(tmp_path, WANDB_MODE="disabled"))
    assert (done.returncode, done.stderr) == (0, "W&B: disabled\n")
    assert earlier.exists()


# Before training


def test_without_a_login_one_line_says_what_to_do(table: CsvLog, tmp_path: Path) -> None:
    done = process(table, ROWS, **without_login(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        "error: --wandb_project procgen: No API key configured. Use `wandb login` to log in. "
        "(WANDB_API_KEY logs in too; WANDB_MODE=offline uploads later)\n"
    )
    assert not table.path.exists()


def test_on_a_terminal_too_nobody_is_asked_for_a_key(table: CsvLog, tmp_path: Path) -> None:
    terminal, its_end = pty.openpty()
    script = SCRIPT.format(settings=SETTINGS, rows=ROWS, after_row="pass")
    done = subprocess.run(
        [sys.executable, "-c", script, str(table.path)],
        cwd=ROOT,
        env=without_login(tmp_path, TERM="xterm"),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        check=False,
        timeout=60,
    )
    os.close(its_end)
    said = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert done.returncode == 1
    assert said.splitlines()[0].startswith("error: --wandb_project procgen: No API key configured")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WANDB_API_KEY", "tooshort", "WANDB_API_KEY invalid: API key must have 40+ characters"),
        ("WANDB_MODE", "onlin", "Input should be 'online', 'offline'"),
    ],
)
def test_a_variable_of_wandb_that_is_wrong_is_named(
    table: CsvLog, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    done = process(table, ROWS, **without_login(tmp_path, **{variable: value}))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert said in done.stderr
    assert value not in done.stderr or variable == "WANDB_MODE"


def test_a_key_that_the_server_does_not_know_is_refused(table: CsvLog, tmp_path: Path) -> None:
    with serving() as server:
        server.known = False
        done = process(table, ROWS, **server.login(tmp_path))
    assert done.returncode == 1
    assert f"Failed to authenticate with {server.url}: invalid credentials" in done.stderr
    assert len(done.stderr.splitlines()) == 1
