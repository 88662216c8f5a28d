"""Evaluating one run as it samples, as it is certain, or both."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common.errors import UsageError
from offline import evaluate_offline_agent, runs, train_offline_agent
from offline.acting import ways_to_act
from offline.arguments import parse_evaluation, parse_training
from tests.offline_commands import TINY, FinishedRun, flags, read_rows

MODES = ("evaluate_episodes.csv", "evaluate_deterministic_episodes.csv")


def evaluate(finished: FinishedRun, **changes: Any) -> int:
    changes = {"num_final_episodes": 6, **changes}
    return evaluate_offline_agent.main(
        flags(finished.settings, save_path=finished.save_path, **changes)
    )


def played(finished: FinishedRun, name: str) -> list[dict[str, str]]:
    return read_rows(finished.folder / name)


def test_both_modes_are_written_each_to_its_files_and_shown_in_one_table(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(finished_copy, deterministic="both") == 0
    table = capsys.readouterr().out
    both = [played(finished_copy, name) for name in MODES]
    assert both[0] != both[1]
    for episodes, name, label in zip(
        both, ("evaluate", "evaluate_deterministic"), ("sampled", "deterministic"), strict=True
    ):
        returns = [float(row["return"]) for row in episodes if row["split"] == "test"]
        mean = sum(returns) / len(returns)
        (means,) = read_rows(finished_copy.folder / f"{name}.csv")
        assert float(means["final_test_ret"]) == pytest.approx(mean)
        told = json.loads((finished_copy.folder / f"{name}.json").read_text())
        assert (told["checkpoint"], told["acting"]) == ("final", label)
        assert told["mean_returns"]["test"] == float(means["final_test_ret"])
        (line,) = (line for line in table.splitlines() if line.startswith(f"bc, {label} "))
        assert f" {mean:.2f} ± " in line


def test_each_mode_gives_what_it_gives_alone(finished_copy: FinishedRun) -> None:
    assert evaluate(finished_copy, deterministic="both") == 0
    both = [played(finished_copy, name) for name in MODES]
    for name in MODES:
        (finished_copy.folder / name).unlink()
    for mode, name in zip((False, True), MODES, strict=True):
        assert evaluate(finished_copy, deterministic=mode) == 0
        assert (finished_copy.folder / name).exists()
    assert [played(finished_copy, name) for name in MODES] == both


def test_the_other_mode_alone_leaves_the_results_of_the_runs_own_and_says_so(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(finished_copy) == 0
    own = played(finished_copy, MODES[0])
    assert "\nbc   " in capsys.readouterr().out
    assert evaluate(finished_copy, deterministic=True) == 0
    assert "\nbc, deterministic   " in capsys.readouterr().out
    assert played(finished_copy, MODES[0]) == own


def test_where_eval_eps_is_zero_both_still_samples_once(finished_copy: FinishedRun) -> None:
    assert evaluate(finished_copy, deterministic="both") == 0
    expected = [played(finished_copy, name) for name in MODES]
    assert evaluate(finished_copy, deterministic="both", eval_eps=0.0) == 0
    assert [played(finished_copy, name) for name in MODES] == expected


def test_a_run_that_samples_has_results_of_its_own_where_it_is_evaluated_with_eval_eps_zero(
    finished_copy: FinishedRun,
) -> None:
    assert evaluate(finished_copy, deterministic=True) == 0
    expected = played(finished_copy, MODES[1])
    (finished_copy.folder / MODES[1]).unlink()
    assert evaluate(finished_copy, eval_eps=0.0) == 0
    assert played(finished_copy, MODES[1]) == expected
    assert not (finished_copy.folder / "evaluate.csv").exists()


def test_what_is_not_said_of_acting_is_as_the_run_was_trained(certain_run: FinishedRun) -> None:
    assert evaluate(certain_run) == 0  # by its name alone
    told = json.loads((certain_run.folder / "evaluate.json").read_text())
    assert told["acting"] == "deterministic"
    # Those at the end of training were played by the same agent on the same levels.
    trained = read_rows(certain_run.folder / "final_test_eval.csv")
    assert read_rows(certain_run.folder / "evaluate.csv") == trained


def test_a_run_that_is_certain_samples_where_it_is_told_to(certain_run: FinishedRun) -> None:
    assert evaluate(certain_run, deterministic=False) == 0
    told = json.loads((certain_run.folder / "evaluate_sampled.json").read_text())
    assert told["acting"] == "sampled"
    assert not (certain_run.folder / "evaluate.csv").exists()
    # The flags that it was trained with stand for what it was trained to do.
    assert evaluate(certain_run, deterministic=False, eval_eps=0) == 0
    told = json.loads((certain_run.folder / "evaluate.json").read_text())
    assert told["acting"] == "deterministic"


def test_a_run_trained_to_be_certain_is_evaluated_so_unless_told_otherwise() -> None:
    trained = vars(parse_training(["--deterministic=True"], ""))
    for given, modes in (([], [True]), (["--deterministic=False"], [False])):
        ways = ways_to_act(parse_evaluation(["--xpid=run", *given], ""), trained)
        assert [way["deterministic"] for way in ways] == modes


def test_the_newest_run_is_evaluated_in_its_own_folder_whatever_begins_meanwhile(
    finished_copy: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = finished_copy.folder.with_name("latest")
    link.unlink(missing_ok=True)
    link.symlink_to("run")
    play = runs.evaluate

    def play_while_another_begins(*args: Any, **kwargs: Any) -> Any:
        results = play(*args, **kwargs)
        (finished_copy.folder.with_name("newer")).mkdir()
        link.unlink()
        link.symlink_to("newer")
        return results

    monkeypatch.setattr(runs, "evaluate", play_while_another_begins)
    assert evaluate(finished_copy, xpid="latest") == 0
    assert (finished_copy.folder / "evaluate.csv").exists()
    assert list(link.iterdir()) == []


def test_both_modes_of_a_run_that_eval_eps_makes_certain_are_told_apart(
    certain_run: FinishedRun,
) -> None:
    assert evaluate(certain_run, deterministic="both") == 0
    acting = {
        name: json.loads((certain_run.folder / f"{name}.json").read_text())["acting"]
        for name in ("evaluate", "evaluate_sampled")
    }
    assert acting == {"evaluate": "deterministic", "evaluate_sampled": "sampled"}
    assert not (certain_run.folder / "evaluate_deterministic.csv").exists()


@pytest.fixture
def certain_run(dataset: Path, tmp_path: Path) -> FinishedRun:
    """Trained with --eval_eps 0; its settings are those that --xpid alone would find it by."""
    settings = {**TINY, "dataset": dataset, "xpid": "run", "epochs": 1, "num_final_episodes": 6}
    trained = [*flags(settings, save_path=tmp_path, eval_eps=0)]
    assert train_offline_agent.main(trained) == 0
    done = subprocess.CompletedProcess(trained, 0, "", "")
    return FinishedRun(settings, tmp_path, done)


@pytest.mark.parametrize("trained", [[], ["--deterministic=True"], ["--eval_eps=0"]])
@pytest.mark.parametrize("evaluated", ["False", "True", "both"])
def test_a_run_is_found_by_its_flags_however_it_is_to_act(
    trained: list[str], evaluated: str
) -> None:
    others = [flag for flag in trained if "deterministic" not in flag]
    name = parse_training(trained, "").xpid
    assert name in parse_evaluation([*others, f"--deterministic={evaluated}"], "").xpids


def test_the_run_that_was_trained_with_exactly_these_flags_comes_first() -> None:
    given = ["--deterministic=True", "--eval_eps=0.5"]
    assert parse_evaluation(given, "").xpids[0] == parse_training(given, "").xpid


def test_a_mode_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate_offline_agent.main(["--deterministic=bth"]) == 2
    assert capsys.readouterr().err == (
        "error: --deterministic bth: choose one of True, False, both. Did you mean both?\n"
    )


def test_training_knows_no_both() -> None:
    with pytest.raises(UsageError, match="deterministic both: write True or False"):
        parse_training(["--deterministic=both"], "")
