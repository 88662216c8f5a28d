"""`--num_seeds` of the real commands: folders, logs and refusals of every seed are its own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from common.errors import UsageError
from offline import (
    evaluate_offline_agent,
    single_level_train_offline_agent,
    train_offline_agent,
)
from offline.arguments import parse_evaluation, parse_training
from offline.run_names import of_each_seed
from tests.offline_commands import (
    GAME,
    TINY,
    TRAIN,
    FinishedRun,
    assert_same_end,
    end,
    error_line,
    flags,
    read_checkpoint,
    read_rows,
    run,
    run_folder,
    start,
    wait_for,
)
from tests.tracking_readers import assert_tensorboard_holds

# The first of these is that of the fixtures' runs.
SEEDS = (88, 89)


def folder_of(save_path: Path, seed: int) -> Path:
    """Where the run of a seed lies, of a command with --xpid=run."""
    return save_path / GAME / f"run_{seed}"


def arguments(dataset: Path, save_path: Path, **changes: Any) -> list[str]:
    """Of a command that trains two seeds as the fixtures' runs are trained."""
    two = {**TINY, "dataset": dataset, "xpid": "run", "num_seeds": 2}
    return flags(two, save_path=save_path, **changes)


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> FinishedRun:
    """Two seeds that the real command trained, unbroken. Not to be changed."""
    save_path = tmp_path_factory.mktemp("two")
    words = arguments(dataset, save_path)
    process = run(TRAIN, *words)
    assert process.returncode == 0, process.stderr
    return FinishedRun({**TINY, "dataset": dataset}, save_path, process)


@pytest.fixture
def copied(two_seeds: FinishedRun, tmp_path: Path) -> Path:
    """Their --save_path, to be changed."""
    shutil.copytree(two_seeds.save_path, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


# What they leave


def test_a_seed_among_others_leaves_what_it_leaves_alone(
    two_seeds: FinishedRun, finished_run: FinishedRun
) -> None:
    assert_same_end(folder_of(two_seeds.save_path, 88), finished_run.folder)


def test_meta_json_says_what_the_run_alone_would_say(
    two_seeds: FinishedRun, finished_run: FinishedRun
) -> None:
    alone = json.loads((finished_run.folder / "meta.json").read_text())["settings"]
    for seed in SEEDS:
        mine = json.loads((folder_of(two_seeds.save_path, seed) / "meta.json").read_text())
        own = {"seed": seed, "xpid": f"run_{seed}", "num_seeds": 1}
        own |= {name: mine["settings"][name] for name in ("dataset", "save_path")}
        assert mine["settings"] == {**alone, **own}


def test_out_log_holds_the_lines_of_its_own_seed(two_seeds: FinishedRun) -> None:
    for seed, other in (SEEDS, SEEDS[::-1]):
        text = (folder_of(two_seeds.save_path, seed) / "out.log").read_text()
        assert [f"epoch {epoch}: loss" in text for epoch in (1, 2, 3, 4)] == [True] * 3 + [False]
        assert f"run_{seed}" in text
        assert f"seed {other}" not in text
        assert f"run_{other}" not in text


def test_frames_are_placed_once(two_seeds: FinishedRun) -> None:
    assert two_seeds.process.stderr.count("data: ") == 1


def test_the_terminal_tells_of_which_seed_it_speaks(two_seeds: FinishedRun) -> None:
    for seed in SEEDS:
        for epoch in (1, 2, 3):
            assert f"seed {seed}: epoch {epoch}: loss" in two_seeds.process.stderr
    assert "epoch 2/3, 2 seeds" in two_seeds.process.stderr


def test_seeds_are_named_as_their_runs_alone_are() -> None:
    together = of_each_seed(parse_training(["--lr=0.5", "--num_seeds=3", "--seed=5"], ""))
    alone = [parse_training(["--lr=0.5", f"--seed={seed}"], "") for seed in (5, 6, 7)]
    assert [one.xpid for one in together] == [one.xpid for one in alone]
    ignored = {"given", "num_seeds"}
    for mine, theirs in zip(together, alone, strict=True):
        assert {k: v for k, v in vars(mine).items() if k not in ignored} == {
            k: v for k, v in vars(theirs).items() if k not in ignored
        }


def test_a_name_that_is_given_gets_the_seed_where_there_are_several() -> None:
    def names(*words: str) -> list[str]:
        return [one.xpid for one in of_each_seed(parse_training(["--xpid=mine", *words], ""))]

    assert names("--num_seeds=2") == ["mine_88", "mine_89"]
    assert names("--num_seeds=1") == ["mine"]


def test_an_evaluation_looks_for_the_names_of_each_seed() -> None:
    together = of_each_seed(parse_evaluation(["--deterministic=both", "--num_seeds=2"], ""))
    alone = [parse_evaluation(["--deterministic=both", f"--seed={seed}"], "") for seed in SEEDS]
    assert [one.xpids for one in together] == [one.xpids for one in alone]


# Continued


def test_a_run_started_alone_is_continued_among_others(
    unfinished_copy: Path, dataset: Path, two_seeds: FinishedRun
) -> None:
    run_folder(unfinished_copy).rename(folder_of(unfinished_copy, 88))
    assert train_offline_agent.main(arguments(dataset, unfinished_copy, resume=True)) == 0
    for seed in SEEDS:
        assert_same_end(folder_of(unfinished_copy, seed), folder_of(two_seeds.save_path, seed))


def test_seeds_that_sigterm_stopped_are_continued_alone(
    dataset: Path, tmp_path: Path, two_seeds: FinishedRun
) -> None:
    process = start(TRAIN, *arguments(dataset, tmp_path))
    wait_for(process, "epoch 2/3, 2 seeds")
    process.send_signal(signal.SIGTERM)
    assert end(process) == 128 + signal.SIGTERM
    progress = [read_checkpoint(folder_of(tmp_path, s) / "model.pt")["progress"] for s in SEEDS]
    assert [each["epoch"] for each in progress] == [2, 2]
    assert progress[0]["batch"] - progress[1]["batch"] in (0, 1)
    for seed in SEEDS:
        log = (folder_of(tmp_path, seed) / "out.log").read_text()
        assert "error: stopped; the same command with --resume True" in log.splitlines()[-1]
        alone = {**TINY, "dataset": dataset, "xpid": f"run_{seed}", "seed": seed, "resume": True}
        assert train_offline_agent.main(flags(alone, save_path=tmp_path)) == 0
        assert_same_end(folder_of(tmp_path, seed), folder_of(two_seeds.save_path, seed))


@pytest.mark.slow
def test_seeds_that_are_killed_again_and_again_end_as_unbroken_ones(
    dataset: Path, tmp_path: Path, two_seeds: FinishedRun
) -> None:
    words = arguments(dataset, tmp_path, resume=True)
    moments = [
        ("epoch 1/3, 2 seeds", 0.02),  # before anything was saved
        ("seed 88: epoch 1", 0.0),  # in the evaluation of the second
        ("epoch 3/3, 2 seeds", 0.05),
        ("seed 89: final evaluation", 0.0),  # the first is finished
    ]
    for text, seconds in moments:
        process = start(TRAIN, *words)
        wait_for(process, text)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        assert end(process) == -signal.SIGKILL
    assert (folder_of(tmp_path, 88) / "final_model.pt").exists()
    assert not (folder_of(tmp_path, 89) / "final_model.pt").exists()
    done = run(TRAIN, *words)
    assert done.returncode == 0, done.stderr
    for seed in SEEDS:
        assert_same_end(folder_of(tmp_path, seed), folder_of(two_seeds.save_path, seed))


def test_a_seed_that_is_finished_is_left_alone_and_the_others_are_trained(
    copied: Path, dataset: Path, two_seeds: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = folder_of(copied, 88)
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    shutil.rmtree(folder_of(copied, 89))
    done = run(TRAIN, *arguments(dataset, copied))
    assert done.returncode == 0, done.stderr
    assert f"already finished: {finished}" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    assert_same_end(folder_of(copied, 89), folder_of(two_seeds.save_path, 89))


def test_seeds_that_are_all_finished_need_no_data(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert train_offline_agent.main(arguments(tmp_path / "nowhere", copied)) == 0
    assert caplog.text.count("already finished") == 2


# Other commands and trackers


def test_every_seed_is_evaluated(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = flags({**TINY, "xpid": "run", "num_seeds": 2}, save_path=copied)
    assert evaluate_offline_agent.main(words) == 0
    printed = capsys.readouterr().out
    for seed in SEEDS:
        folder = folder_of(copied, seed)
        at_the_end = (folder / "final_test_eval.csv").read_bytes()
        assert (folder / "evaluate.csv").read_bytes() == at_the_end
        assert f"{GAME} (easy), run_{seed}, final checkpoint" in printed


def test_nothing_is_evaluated_where_a_seed_is_missing(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags({**TINY, "xpid": "run", "num_seeds": 3}, save_path=copied)
    assert evaluate_offline_agent.main(words) == 1
    assert f"no run at {folder_of(copied, 90)}" in capsys.readouterr().err
    assert not list(copied.rglob("evaluate.csv"))


def test_seeds_of_a_single_level_are_trained_and_evaluated(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(dataset, tmp_path, epochs=1, num_final_episodes=1, tensorboard=True)
    assert single_level_train_offline_agent.main(words) == 0
    levels = set()
    for seed in SEEDS:
        folder = folder_of(tmp_path, seed)
        (row,) = read_rows(folder / "evaluate.csv")
        assert len(set(row.values())) == 1
        levels.add((folder / "data_info.csv").read_text())
        assert_tensorboard_holds(folder, read_rows(folder / "logs.csv"), "epoch")
    assert len(levels) == 1
    assert single_level_train_offline_agent.main(words) == 0  # finished: evaluated again


# Refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_seeds=0"], "--num_seeds 0: must be at least 1"),
        (["--num_seeds=1.5"], "--num_seeds 1.5: write a whole number"),
        (
            ["--num_seeds=3", "--seed=2147483646"],
            "--num_seeds 3: from --seed 2147483646 on they exceed 2^31 - 1",
        ),
        (
            ["--num_seeds=2", "--episode_order=random"],
            "--episode_order random: every seed draws other episodes",
        ),
    ],
)
def test_seeds_that_cannot_be_are_refused(words: list[str], message: str) -> None:
    for parse in (parse_training, parse_evaluation):
        with pytest.raises(UsageError) as refused:
            parse(words, "")
        assert str(refused.value).startswith(message)


def test_an_unfinished_seed_is_not_touched_without_resume(
    unfinished_copy: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(unfinished_copy).rename(folder_of(unfinished_copy, 89))
    assert train_offline_agent.main(arguments(dataset, unfinished_copy)) == 2
    message = capsys.readouterr().err
    assert f"{folder_of(unfinished_copy, 89)} holds an unfinished run: --resume True" in message
    assert not folder_of(unfinished_copy, 88).exists()


def test_a_seed_is_not_continued_with_other_settings(
    unfinished_copy: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(unfinished_copy).rename(folder_of(unfinished_copy, 88))
    before = (folder_of(unfinished_copy, 88) / "model.pt").read_bytes()
    assert train_offline_agent.main(arguments(dataset, unfinished_copy, resume=True, lr=0.1)) == 1
    assert "--lr 0.1: the run in " in capsys.readouterr().err
    assert (folder_of(unfinished_copy, 88) / "model.pt").read_bytes() == before
    assert not list(unfinished_copy.rglob("run_89/*.pt"))


def test_seeds_wait_for_nobody_who_is_at_work_in_a_folder(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = folder_of(tmp_path, 89)
    busy.mkdir(parents=True)
    descriptor = os.open(busy, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert train_offline_agent.main(arguments(dataset, tmp_path)) == 1
    finally:
        os.close(descriptor)
    assert f"error: another process is at work in {busy}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt"))
    assert not (busy / "out.log").exists()


def test_seeds_that_fail_are_named_with_their_errors(dataset: Path, tmp_path: Path) -> None:
    done = run(TRAIN, *arguments(dataset, tmp_path, lr=1e30))
    assert done.returncode == 1
    line = error_line(done)
    assert line.startswith("2 of 2 runs failed: seed 88: the loss is not finite at step 2 of epo")
    assert "; seed 89: the loss is not finite at step 2" in line
    for seed in SEEDS:
        log = (folder_of(tmp_path, seed) / "out.log").read_text().splitlines()
        assert "error: the loss is not finite at step 2 of epoch 1: " in log[-1]
