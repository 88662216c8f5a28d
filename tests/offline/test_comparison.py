"""Which runs are compared with which, on which games, and which setting stands for a method."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from offline.results.reporting import Report, make_report, write_report
from offline.results.table_files import markdown
from tests.offline_commands import read_rows, run
from tests.synthetic_runs import constant_returns, write_run

RETURNS = constant_returns(9.0, 7.0, 6.0)


def report_on(*paths: Path, references: tuple[str, ...] = ()) -> Report:
    return make_report(paths, references, np.random.default_rng(0))


# A sweep of two settings: the returns on validation and test levels rank them the other way round.
def write_sweep(save_path: Path, test_of_first: float, test_of_second: float) -> None:
    for seed in (1, 2):
        first = constant_returns(9.0, 7.0 + 0.1 * seed, test_of_first)
        second = constant_returns(9.5, 6.0 + 0.1 * seed, test_of_second)
        write_run(save_path, first, lr=0.001, seed=seed, epochs=1)
        write_run(save_path, second, lr=0.0005, seed=seed, epochs=1)


@pytest.mark.parametrize(("first", "second"), [(5.0, 10.0), (10.0, 5.0), (0.0, 0.0)])
def test_test_levels_have_no_say_in_which_setting_is_chosen(
    tmp_path: Path, first: float, second: float
) -> None:
    write_sweep(tmp_path, first, second)
    (table,) = report_on(tmp_path).tables("settings")
    rows = {row[1]: row for row in table.rows}
    assert list(rows) == ["lr 0.0005", "lr 0.001"]
    assert [rows[label][7] for label in rows] == ["", "chosen"]
    # Only the chosen one shows its test levels. coinrun: 5 .. 10.
    assert rows["lr 0.0005"][9] is None
    assert rows["lr 0.001"][9].value == pytest.approx((first - 5) / 5)


def test_validation_levels_choose_the_setting(tmp_path: Path) -> None:
    for lr, validation in ((0.001, 6.0), (0.0005, 8.0), (0.0001, 7.0)):
        for seed in (1, 2):
            returns = constant_returns(9.0, validation, 5.0)
            write_run(tmp_path, returns, lr=lr, seed=seed, epochs=1)
    report = report_on(tmp_path)
    assert report.comparisons[0].chosen["bc"].label == "lr 0.0005"
    assert (
        "- BC: lr 0.0005, the best of 3 settings on validation levels."
        in markdown(report.tables("aggregates")).splitlines()
    )


def test_a_setting_with_fewer_games_is_not_chosen(tmp_path: Path) -> None:
    for game in ("coinrun", "maze"):
        write_run(tmp_path, RETURNS, lr=0.001, env_name=game, epochs=1)
    write_run(tmp_path, constant_returns(10, 10, 10), lr=0.0005, epochs=1)
    method = report_on(tmp_path).comparisons[0].methods[0]
    assert method.chosen is not None
    assert method.chosen.label == "lr 0.001"
    assert [candidate.validation is None for candidate in method.candidates] == [True, False]


def test_settings_without_a_game_in_common_are_not_chosen_between(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, lr=0.001, env_name="coinrun", epochs=1)
    write_run(tmp_path, RETURNS, lr=0.0005, env_name="maze", epochs=1)
    report = report_on(tmp_path)
    assert report.comparisons[0].chosen == {}
    notes = report.tables("aggregates")[0].notes
    assert "No setting of BC could be chosen on validation levels." in notes


def test_acting_modes_have_tables_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, deterministic_returns=constant_returns(8, 6, 5), epochs=1)
    tables = report_on(tmp_path).tables("per_game")
    assert [table.title.split("; ")[1] for table in tables] == [
        "acting as trained (sampled)",
        "acting deterministic",
    ]
    assert [table.rows[0][3].mean for table in tables] == [9.0, 8.0]


def test_methods_trained_to_act_otherwise_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, algo="bc", epochs=1)
    write_run(tmp_path, RETURNS, algo="iql", eval_eps=0, epochs=1)
    (table,) = report_on(tmp_path).tables("aggregates")
    assert table.title.endswith("acting as trained (deterministic or sampled)")
    assert "Acting as trained: BC sampled, IQL deterministic." in table.notes


def test_seeds_evaluated_in_different_modes_are_never_in_one_number(tmp_path: Path) -> None:
    flags = {"algo": "iql", "eval_eps": 0, "epochs": 1}
    write_run(tmp_path, RETURNS, seed=1, **flags)
    write_run(tmp_path, RETURNS, seed=2, deterministic_returns=RETURNS, **flags)
    comparison = report_on(tmp_path).comparisons[0]
    runs = {c.mode: [r.seed for r in c.runs["coinrun"]] for c in comparison.methods[0].candidates}
    assert runs == {"deterministic": [1], "sampled": [2]}


def test_seeds_evaluated_from_different_checkpoints_are_never_in_one_number(tmp_path: Path) -> None:
    for seed, checkpoint, mean in ((1, "final", 6.0), (2, "final", 7.0), (3, "best", 10.0)):
        returns = constant_returns(mean, mean, mean)
        write_run(tmp_path, returns, checkpoint=checkpoint, seed=seed, epochs=1)
    report = report_on(tmp_path)
    (method,) = report.comparisons[0].methods
    # coinrun: 5 .. 10, so 6 and 7 are 0.2 and 0.4.
    told = {c.checkpoint: c.validation and c.validation.value for c in method.candidates}
    assert told == {"best": pytest.approx(1.0), "final": pytest.approx(0.3)}
    (table,) = report.tables("aggregates")
    assert table.title.endswith("acting as trained (sampled); checkpoint best")
    assert "BC: best checkpoint, the best of 2 settings on validation levels." in table.notes
    (settings,) = report.tables("settings")
    assert [row[settings.header.index("checkpoint")] for row in settings.rows] == ["best", "final"]


def test_methods_evaluated_from_different_checkpoints_are_told_apart(tmp_path: Path) -> None:
    for method, checkpoint in (("bc", "final"), ("cql", "best"), ("iql", "final")):
        write_run(tmp_path, RETURNS, checkpoint=checkpoint, algo=method, epochs=1)
    report = report_on(tmp_path)
    mixed = "best: CQL; final: BC, IQL"
    for name in ("aggregates", "per_game", "improvement"):
        (table,) = report.tables(name)
        assert table.title.endswith("; checkpoint best or final")
        assert f"Mixed checkpoints ({mixed}): evaluate all runs alike." in table.notes
    (claim,) = (verdict for verdict in report.verdicts if verdict.claim == "C3")
    assert f"evaluations of one checkpoint ({mixed})" in claim.missing


def test_runs_of_final_checkpoints_need_no_word_of_it(tmp_path: Path) -> None:
    for method in ("bc", "cql"):
        write_run(tmp_path, RETURNS, checkpoint="final", algo=method, epochs=1)
    assert "checkpoint" not in markdown(report_on(tmp_path).tables("aggregates"))


def test_hard_and_easy_runs_are_never_in_one_number(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, epochs=1)
    write_run(tmp_path, constant_returns(1, 1, 1), distribution_mode="hard", epochs=1)
    report = report_on(tmp_path, references=("ppo",))
    easy, hard = report.tables("aggregates")
    assert (easy.title.split(",")[0], hard.title.split(",")[0]) == ("easy", "hard")
    tests = [comparison.aggregates["bc", "test"].mean.value for comparison in report.comparisons]
    # coinrun, in both modes: 5 .. 10.
    assert tests == pytest.approx([0.2, -0.8])
    assert [row[0] for row in easy.rows].count("online PPO") == 2
    assert [row[0] for row in hard.rows].count("online PPO") == 0


def test_one_seed_has_no_interval_and_no_standard_error(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, epochs=1)
    report = report_on(tmp_path)
    write_report(report, tmp_path / "out")
    text = (tmp_path / "out" / "tables" / "aggregates.md").read_text()
    assert re.search(r"\| test +\| +0\.20 \[-\] \|", text)
    assert "[-]: a game with one seed leaves no interval." in text
    row = read_rows(tmp_path / "out" / "tables" / "aggregates.csv")[2]
    assert (row["IQM"], row["IQM low"], row["IQM high"]) == ("0.2", "", "")
    assert "9.00 ± n/a" in (tmp_path / "out" / "tables" / "per_game.md").read_text()


def test_aggregates_are_over_the_games_that_all_methods_have(tmp_path: Path) -> None:
    for game in ("coinrun", "maze"):
        write_run(tmp_path, RETURNS, algo="bc", env_name=game, epochs=1)
    write_run(tmp_path, RETURNS, algo="iql", env_name="maze", epochs=1)
    report = report_on(tmp_path)
    assert report.comparisons[0].games == ["maze"]
    (table,) = report.tables("aggregates")
    assert "Left out, because not every method has it: coinrun (not IQL)." in table.notes
    assert len(report.tables("per_game")[0].rows) == 3


def test_methods_with_seeds_of_different_games_score_alike_and_the_tables_say_so(
    tmp_path: Path,
) -> None:
    # Both score 0.8 on coinrun and 0.2 on maze (5 to 10), with three seeds of one and one of the
    # other: pooled, their IQMs would be 0.8 and 0.2.
    for method, seeds in (("bc", (3, 1)), ("cql", (1, 3))):
        for game, count, mean in zip(("coinrun", "maze"), seeds, (9.0, 6.0), strict=True):
            for seed in range(count):
                returns = constant_returns(mean, mean, mean)
                write_run(tmp_path, returns, algo=method, env_name=game, seed=seed, epochs=1)
    report = report_on(tmp_path)
    told = report.comparisons[0].aggregates
    assert [told[method, "test"].iqm.value for method in ("bc", "cql")] == pytest.approx([0.5, 0.5])
    for name in ("aggregates", "improvement"):
        note = "Games have 1 to 3 seeds; every game counts alike in every aggregate."
        assert note in report.tables(name)[0].notes


def test_methods_without_a_common_game_have_no_aggregate(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, algo="bc", env_name="coinrun", epochs=1)
    write_run(tmp_path, RETURNS, algo="iql", env_name="maze", epochs=1)
    done = run("offline.report", f"--save_path={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "- No aggregate: the methods have no game in common." in done.stdout.splitlines()


def test_a_single_level_study_is_told_without_unseen_levels(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path, {"train": [4.0, 6.0 + seed]}, meta={"level": 40}, seed=seed, epochs=1)
    (table,) = report_on(tmp_path).tables("per_game")
    assert "level 40 alone" in table.title
    assert table.rows[0][4:] == [None, None, None]
