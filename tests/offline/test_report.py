"""The report command as users run it, and what its tables say."""

from __future__ import annotations

import json
import os
import re
import resource
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from offline.results.statistics import SCORE_RANGES
from tests.offline_commands import error_line, lines, read_rows, run
from tests.synthetic_runs import constant_returns, write_run, write_study

COMMAND = "offline.report"
CPU_SECONDS = 30.0
RETURNS = constant_returns(9.0, 7.0, 6.0)
# Scores, gap and profiles of both acting modes; curves; the levels of six methods.
FIGURES = 2 * 3 + 1 + 6
TABLES = ("aggregates", "per_game", "improvement", "settings")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 games x 6 methods x 3 seeds; not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    assert write_study(folder / "runs") == 288
    return folder / "runs"


@pytest.fixture(scope="module")
def reported(study: Path) -> Path:
    """The folder that the command wrote about the study; not to be changed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(COMMAND, f"--save_path={study}", "--reference", "ppo", "random")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < CPU_SECONDS
    assert done.stdout.endswith(f"288 runs; report in {study / 'report'}\n")
    assert (study / "report" / "tables" / "aggregates.md").read_text() in done.stdout
    return study / "report"


def refused(code: int, *arguments: object) -> str:
    done = run(COMMAND, *map(str, arguments))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(lines(done.stderr)) == 1, done.stderr
    return error_line(done)


def test_results_have_one_row_per_run_mode_and_split(reported: Path) -> None:
    results = pd.read_csv(reported / "results.csv")
    assert len(results) == 288 * 2 * 3
    keys = ["game", "method", "setting", "seed", "mode", "split"]
    assert not results.duplicated(keys).any()
    assert set(results["episodes"]) == {100}
    assert results.loc[results["as_trained"], "mode"].unique().tolist() == ["sampled"]


def test_results_are_the_means_of_the_episodes(reported: Path) -> None:
    results = pd.read_csv(reported / "results.csv")
    episodes = pd.read_csv(reported / "episodes.csv")
    assert len(episodes) == 288 * 2 * 3 * 100
    keys = ["game", "method", "seed", "mode", "split"]
    returns = episodes.groupby(keys)["return"]
    told = results.set_index(keys).sort_index()
    pd.testing.assert_series_equal(told["return"], returns.mean(), check_names=False)
    pd.testing.assert_series_equal(told["standard_error"], returns.sem(), check_names=False)
    low, high = SCORE_RANGES["easy"]["miner"]
    miner = told.loc["miner"]
    assert ((miner["return"] - low) / (high - low)).to_numpy() == pytest.approx(
        miner["normalised"].to_numpy()
    )


def test_the_table_per_game_has_means_over_seeds_with_their_standard_errors(
    reported: Path,
) -> None:
    results = pd.read_csv(reported / "results.csv").query("mode == 'sampled'")
    by_seed = results.pivot_table(
        index=["game", "method", "seed"], columns="split", values="return"
    )
    by_seed["gap (train - test)"] = by_seed["train"] - by_seed["test"]
    groups = by_seed.groupby(["game", "method"])
    table = pd.read_csv(reported / "tables" / "per_game.csv")
    rows = table[table["comparison"].str.contains("sampled") & table["seeds"].notna()]
    rows = rows.assign(method=rows["method"].str.lower()).set_index(["game", "method"]).sort_index()
    assert len(rows) == 16 * 6
    for column in by_seed.columns:
        assert rows[column].to_numpy() == pytest.approx(groups[column].mean().to_numpy())
        errors = rows[f"{column} standard error"].to_numpy()
        assert errors == pytest.approx(groups[column].sem().to_numpy())


def test_the_iqm_of_the_table_is_scipys_of_the_results(reported: Path) -> None:
    results = pd.read_csv(reported / "results.csv")
    table = pd.read_csv(reported / "tables" / "aggregates.csv")
    for (mode, method, split), runs in results.groupby(["mode", "method", "split"]):
        chosen = table["comparison"].str.contains(mode) & (table["method"] == method.upper())
        (row,) = table[chosen & (table["levels"] == split)].to_dict("records")
        assert row["IQM"] == pytest.approx(stats.trim_mean(runs["normalised"], 0.25))
        assert row["mean"] == pytest.approx(runs["normalised"].mean())
        assert row["IQM low"] < row["IQM"] < row["IQM high"]


def test_the_matrix_of_improvement_adds_up_to_one_across_its_diagonal(reported: Path) -> None:
    table = pd.read_csv(reported / "tables" / "improvement.csv").iloc[:6].set_index("method")
    methods = list(table.index)
    assert methods == ["BC", "BCQ", "BCT", "CQL", "DT", "IQL"]
    values = table[methods].to_numpy()
    off_diagonal = ~np.eye(6, dtype=bool)
    assert (values + values.T)[off_diagonal] == pytest.approx(1.0)
    assert np.isnan(np.diag(values)).all()
    assert table.loc["BC", "CQL"] > 0.99
    low, high = (table[[f"{m} {end}" for m in methods]].to_numpy() for end in ("low", "high"))
    assert (low + high.T)[off_diagonal] == pytest.approx(1.0)


def test_the_players_asked_for_stand_in_the_tables_with_their_source(reported: Path) -> None:
    table = (reported / "tables" / "aggregates.md").read_text()
    # (4.78 - 1) / 39 and the like: the IQM of PPO's sixteen test scores.
    assert re.search(r"\| online PPO \| test +\| +0\.36 \|", table)
    assert "OpenAI's logs" in table
    per_game = (reported / "tables" / "per_game.md").read_text()
    assert re.search(r"\| bigfish +\| online PPO +\| +- \| +12\.09 \| +- \| +4\.78 \|", per_game)
    assert "behaviour policy" not in table


def test_every_latex_row_has_as_many_cells_as_the_table_has_columns(reported: Path) -> None:
    for name in TABLES:
        text = (reported / "tables" / f"{name}.tex").read_text()
        assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
        for block in text.split(r"\begin{table}")[1:]:
            columns = len(re.findall(r"\\begin{tabular}{([lr]+)}", block)[0])
            rows = [line for line in block.splitlines() if line.endswith(r"\\")]
            assert len(rows) > 1
            assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {columns}
            assert not re.search(r"(?<!\\)[_%#]", block)


def test_the_same_command_writes_the_same_files(
    study: Path, reported: Path, tmp_path: Path
) -> None:
    references = ["--reference", "ppo", "random"]
    done = run(COMMAND, f"--save_path={study}", f"--out={tmp_path / 'again'}", *references)
    assert done.returncode == 0, done.stderr
    files = sorted(path.relative_to(reported) for path in reported.rglob("*.*"))
    assert len(files) == 5 + 3 * len(TABLES) + 2 * FIGURES + 1
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (reported / file).read_bytes()


def test_what_does_not_count_is_told_and_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", RETURNS, seed=1, epochs=1)
    bare = write_run(tmp_path / "runs", None, seed=2, epochs=1)
    broken = write_run(tmp_path / "runs", RETURNS, seed=3, epochs=1)
    (broken / "evaluate.csv").write_text("\n")
    done = run(COMMAND, f"--save_path={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    told = [line for line in lines(done.stderr) if line.startswith("left out: ")]
    listed = [
        f"left out: {row['path']}: {row['reason']}"
        for row in read_rows(tmp_path / "out" / "left_out.csv")
    ]
    assert told == listed
    assert [str(bare) in told[0], str(broken) in told[1]] == [True, True]
    assert done.stdout.endswith(f"1 runs; report in {tmp_path / 'out'}\n")


def test_names_that_are_no_utf8_are_written_with_escapes(tmp_path: Path) -> None:
    runs, odd = tmp_path / "runs", "caf\udce9"  # as Python reads the name b"caf\xe9"
    write_run(runs, RETURNS, seed=1, epochs=1, xpid=odd, dataset=f"data/{odd}")
    write_run(runs, None, seed=2, epochs=1, xpid=f"{odd}2")
    done = run(COMMAND, f"--save_path={runs}", f"--out={tmp_path / odd}", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"1 runs; report in {tmp_path}/caf\\udce9\n")
    rows = read_rows(tmp_path / odd / "results.csv")
    assert {row["folder"] for row in rows} == {f"{runs}/coinrun/caf\\udce9"}
    assert {row["data"].split(", ")[2] for row in rows} == {"data/caf\\udce9"}
    (left_out,) = read_rows(tmp_path / odd / "left_out.csv")
    assert left_out["path"] == f"{runs}/coinrun/caf\\udce92"
    captions = (tmp_path / odd / "figures" / "captions.md").read_text()
    assert "(run caf\\udce9)" in captions
    page = (tmp_path / odd / "index.html").read_text()
    assert f'<th scope="row" class="text">{runs}/coinrun/caf\\udce92</th>' in page


def test_many_that_do_not_count_are_told_in_a_few_lines(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, epochs=1)
    for seed in range(20):
        write_run(tmp_path, None, seed=seed, epochs=1)
    done = run(COMMAND, f"--save_path={tmp_path}")
    told = [line for line in lines(done.stderr) if line.startswith("left out: ")]
    assert len(told) == 6
    assert told[-1] == f"left out: 15 more, see {tmp_path / 'report' / 'left_out.csv'}"


def test_the_page_of_a_large_study_has_every_run_and_is_below_15_megabytes(reported: Path) -> None:
    page = (reported / "index.html").read_text()
    assert len(page.encode()) < 15_000_000
    data = json.loads(page.split('id="report">')[1].split("</script>")[0])
    assert len(data["runs"]) == 288
    assert all(len(run["details"]["curve"]["epoch"]) == 40 for run in data["runs"])
    assert page.count("<figure ") == FIGURES
    results = pd.read_csv(reported / "results.csv").query("split == 'test' and mode == 'sampled'")
    told = {run["folder"]: run["results"]["sampled"]["test"][0] for run in data["runs"]}
    means = results.set_index("folder")["return"]
    assert told == {folder: pytest.approx(means[folder], rel=1e-3) for folder in told}


def test_an_old_report_is_replaced_and_what_else_lies_there_stays(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, epochs=1)
    out = tmp_path / "report"
    (out / "tables").mkdir(parents=True)
    (out / "claims.md").write_text("old")
    (out / "notes.txt").write_text("mine")
    assert run(COMMAND, f"--save_path={tmp_path}").returncode == 0
    assert (out / "claims.md").read_text().startswith("# What these runs say")
    assert (out / "notes.txt").read_text() == "mine"
    assert not [name for name in os.listdir(out) if name.endswith(".tmp")]


def test_no_save_path_is_refused() -> None:
    assert refused(2) == "--save_path is needed: a folder with runs"


def test_a_save_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert refused(2, "--save_path", missing) == f"--save_path {missing}: there is no such folder"
    assert os.listdir(tmp_path) == []


def test_an_unknown_player_is_refused(tmp_path: Path) -> None:
    line = refused(2, "--save_path", tmp_path, "--reference", "human")
    assert line == "--reference human: choose one of ppo, random, behaviour."


@pytest.mark.parametrize(
    ("flags", "unknown"),
    [
        ({"distribution_mode": "hard"}, ("ppo", "random", "behaviour")),
        ({"num_levels": 100}, ("ppo", "random", "behaviour")),
        ({"dataset": "data/1M_E"}, ("behaviour",)),
        ({}, ()),
    ],
)
def test_a_player_that_cannot_be_shown_is_told(
    tmp_path: Path, flags: dict[str, object], unknown: tuple[str, ...]
) -> None:
    write_run(tmp_path, RETURNS, env_name="coinrun", epochs=1, **flags)
    done = run(COMMAND, f"--save_path={tmp_path}", "--reference", "ppo", "random", "behaviour")
    assert done.returncode == 0, done.stderr
    assert [line for line in lines(done.stderr) if line.startswith("--reference")] == [
        f"--reference {name}: nothing is known of it on the games, data and levels of these runs"
        for name in unknown
    ]


def test_a_folder_without_runs_is_told_with_where_runs_lie(tmp_path: Path) -> None:
    line = refused(1, "--save_path", tmp_path)
    assert line == f"no run below {tmp_path}: a run lies at <save_path>/<env_name>/<xpid>/"
    assert os.listdir(tmp_path) == []


def test_runs_none_of_which_counts_are_told_with_a_reason(tmp_path: Path) -> None:
    first = write_run(tmp_path, None, seed=1, epochs=1)
    write_run(tmp_path, None, seed=2, epochs=1)
    line = refused(1, "--save_path", tmp_path)
    assert line.startswith(f"no run below {tmp_path} can be reported: {first}: not evaluated")
    assert line.endswith("(and 1 more)")


def test_an_out_that_is_a_file_is_told_and_kept(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, epochs=1)
    (tmp_path / "file").write_text("mine")
    line = refused(1, f"--save_path={tmp_path}", f"--out={tmp_path / 'file'}")
    assert line.startswith(f"cannot write {tmp_path / 'file' / 'results.csv'}")
    assert (tmp_path / "file").read_text() == "mine"
