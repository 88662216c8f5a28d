"""The run folder: its table, its link, its facts."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from common.errors import ToolkitError
from common.run_logger import CsvLog, RunFolder, describe_run
from tests.command_runs import ROOT, run_python

# The folder


def test_the_folder_is_made_below_game_and_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs", "miner", "first")
    assert folder.path == tmp_path / "runs" / "miner" / "first"
    assert list(folder.path.iterdir()) == []


def test_latest_links_to_the_newest_run(tmp_path: Path) -> None:
    latest = tmp_path / "miner" / "latest"
    RunFolder(tmp_path, "miner", "first")
    assert latest.readlink() == Path("first")
    RunFolder(tmp_path, "miner", "second")
    assert latest.readlink() == Path("second")
    assert sorted(p.name for p in latest.parent.iterdir()) == ["first", "latest", "second"]


def test_latest_follows_a_run_folder_that_was_moved(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a", "miner", "first")
    (tmp_path / "a").rename(tmp_path / "b")
    assert (tmp_path / "b/miner/latest").resolve() == tmp_path / "b/miner/first"


def test_a_run_called_latest_is_left_alone(tmp_path: Path) -> None:
    RunFolder(tmp_path, "miner", "latest")
    RunFolder(tmp_path, "miner", "other")
    assert not (tmp_path / "miner/latest").is_symlink()


def test_an_unwritable_path_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ToolkitError, match=r"cannot write to .*/file/miner/first: \w"):
        RunFolder(tmp_path / "file", "miner", "first")


def test_log_lines_are_copied_to_out_log(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "miner", "first")
    with folder.session():
        logging.getLogger("common.somewhere").warning("epoch %d: done", 3)
    logging.getLogger("common.somewhere").warning("not for the file")
    lines = (folder.path / "out.log").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("epoch 3: done")


def test_the_error_that_ends_a_run_is_the_last_line_of_out_log(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "miner", "first")
    with pytest.raises(ToolkitError), folder.session():
        raise ToolkitError("the disk is 100% full")
    (line,) = (folder.path / "out.log").read_text().splitlines()
    assert line.endswith(" error: the disk is 100% full")


def test_a_second_process_is_kept_out_until_the_first_has_ended(tmp_path: Path) -> None:
    enter = "from common.run_logger import RunFolder\nwith RunFolder(*{}).session(): pass"
    code = enter.format((str(tmp_path), "miner", "first"))
    with RunFolder(tmp_path, "miner", "first").session():
        refused = run_python("-c", code)
        assert "ToolkitError: another process is at work in " in refused.stderr
        assert run_python("-c", code.replace("first", "second")).returncode == 0
    assert run_python("-c", code).returncode == 0


# The table


def test_the_header_is_written_once(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "logs.csv")
    log.append({"epoch": 1, "loss": 0.5})
    log.append({"epoch": 2, "loss": 0.25})
    assert log.path.read_text() == "epoch,loss\n1,0.5\n2,0.25\n"


def test_another_process_goes_on_with_the_table(tmp_path: Path) -> None:
    CsvLog(tmp_path / "logs.csv").append({"epoch": 1})
    CsvLog(tmp_path / "logs.csv").append({"epoch": 2})
    assert (tmp_path / "logs.csv").read_text() == "epoch\n1\n2\n"


def test_values_go_under_their_column_in_whatever_order_they_come(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "logs.csv")
    log.append({"epoch": 1, "loss": 0.5})
    log.append({"loss": 0.25, "epoch": 2})
    log.append({"loss": 0.125})
    assert log.path.read_text() == "epoch,loss\n1,0.5\n2,0.25\n,0.125\n"


def test_a_column_the_table_lacks_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "logs.csv")
    log.append({"epoch": 1})
    with pytest.raises(ValueError, match="accuracy"):
        log.append({"epoch": 2, "accuracy": 1.0})
    assert log.path.read_text() == "epoch\n1\n"


def test_floats_are_written_in_full(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "logs.csv")
    log.append({"loss": 0.1 + 0.2})
    assert float(log.path.read_text().splitlines()[1]) == 0.1 + 0.2


def test_rows_after_the_last_checkpoint_can_be_dropped(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "logs.csv")
    for epoch in (1, 2, 3):
        log.append({"epoch": epoch})
    log.keep_rows(2)
    log.append({"epoch": 30})
    assert log.path.read_text() == "epoch\n1\n2\n30\n"


def test_keeping_as_many_rows_as_there_are_changes_nothing(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "logs.csv")
    log.append({"epoch": 1})
    log.keep_rows(1)
    log.keep_rows(5)
    assert log.path.read_text() == "epoch\n1\n"


def test_keeping_no_rows_starts_the_table_anew(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "logs.csv")
    log.keep_rows(0)
    log.append({"epoch": 1})
    log.keep_rows(0)
    log.append({"loss": 2})
    assert log.path.read_text() == "loss\n2\n"


def test_a_table_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ToolkitError, match=r"cannot write .*/file/logs.csv: Not a directory"):
        CsvLog(tmp_path / "file" / "logs.csv").append({"epoch": 1})


# meta.json


def test_meta_json_holds_settings_versions_and_facts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "miner", "first")
    folder.write_json("meta.json", describe_run({"lr": 0.1, "seed": 88}, device="cpu"))
    meta = json.loads((folder.path / "meta.json").read_text())
    assert meta["settings"] == {"lr": 0.1, "seed": 88}
    assert meta["device"] == "cpu"
    assert {"python", "torch", "numpy", "gymnasium"} <= set(meta["versions"])
    assert set(meta["procgen"]) == {"package", "version", "qt"}


def test_meta_json_names_the_commit_of_the_code_wherever_it_is_run_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = describe_run({})["git_commit"]
    monkeypatch.chdir(tmp_path)
    assert describe_run({})["git_commit"] == here
    if (ROOT / ".git").exists():
        assert len(here) == 40
        int(here, 16)


def test_meta_json_holds_no_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-value")
    folder = RunFolder(tmp_path, "miner", "first")
    folder.write_json("meta.json", describe_run({"lr": 0.1}))
    text = (folder.path / "meta.json").read_text()
    assert "a-secret-value" not in text
    assert "WANDB" not in text
