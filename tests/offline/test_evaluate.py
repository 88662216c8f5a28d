from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from offline.agents import load_agent
from offline.evaluate_offline_agent import main
from tests.offline_commands import (
    CPU,
    EVALUATE,
    GAME,
    FinishedRun,
    flags,
    read_checkpoint,
    read_rows,
    run,
)

EPISODES = 6


def evaluate(finished: FinishedRun, **changes: Any) -> int:
    """The flags of the training command, here in this process."""
    changes = {"num_final_episodes": EPISODES, **changes}
    return main(flags(finished.settings, save_path=finished.save_path, **changes))


def refusal(
    finished: FinishedRun, capsys: pytest.CaptureFixture[str], code: int = 1, **changes: Any
) -> str:
    """The one line with which an evaluation fails; it writes nothing."""
    before = sorted(finished.folder.iterdir())
    assert evaluate(finished, **changes) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(finished.folder.iterdir()) == before
    (line,) = captured.err.splitlines()
    return line


def rewrite(path: Path, **changes: Any) -> None:
    """Replace entries of a checkpoint."""
    torch.save({**read_checkpoint(path), **changes}, path)


def test_an_evaluation_that_could_not_be_written_whole_leaves_no_mark_of_one(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sweeps take evaluate.csv for that mark, so it comes after the episodes."""
    (finished_copy.folder / "evaluate_episodes.csv").mkdir()
    assert evaluate(finished_copy) == 1
    assert "evaluate_episodes.csv" in capsys.readouterr().err
    assert not (finished_copy.folder / "evaluate.csv").exists()


def test_the_command_works_with_the_training_flags_after_the_data_are_gone(
    finished_copy: FinishedRun,
) -> None:
    assert not Path(finished_copy.settings["dataset"]).exists()
    arguments = flags(finished_copy.settings, save_path=finished_copy.save_path)
    done = run(EVALUATE, *arguments)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in finished_copy.folder.iterdir()}
    assert written >= {"evaluate.csv", "evaluate_episodes.csv"}
    table = done.stdout.splitlines()
    assert table[0] == f"{GAME} (easy), run, final checkpoint, 2 episodes per split"
    assert [word for word in ("train", "validation", "test", "gap") if word in table[2]] == [
        "train",
        "validation",
        "test",
        "gap",
    ]
    (row,) = (line for line in table if line.startswith("bc "))
    (means,) = read_rows(finished_copy.folder / "evaluate.csv")
    order = ("final_train_ret", "final_val_ret", "final_test_ret")
    assert [cell.split()[0] for cell in row.removeprefix("bc").split(")")[:3]] == [
        f"{float(means[name]):.2f}" for name in order
    ]


def test_evaluating_the_final_checkpoint_repeats_the_evaluation_at_the_end_of_training(
    finished_copy: FinishedRun,
) -> None:
    assert evaluate(finished_copy, num_final_episodes=2) == 0
    folder = finished_copy.folder
    assert (folder / "evaluate.csv").read_bytes() == (folder / "final_test_eval.csv").read_bytes()


def test_evaluating_twice_gives_the_same_results(finished_copy: FinishedRun) -> None:
    results = []
    for _ in range(2):
        assert evaluate(finished_copy) == 0
        files = ("evaluate.csv", "evaluate_episodes.csv")
        results.append([(finished_copy.folder / name).read_bytes() for name in files])
    assert results[0] == results[1]


def test_a_checkpoint_gives_the_same_results_whatever_seed_is_named(
    finished_copy: FinishedRun,
) -> None:
    results = []
    for seed in (88, 5):
        assert evaluate(finished_copy, seed=seed) == 0
        results.append((finished_copy.folder / "evaluate_episodes.csv").read_bytes())
    assert results[0] == results[1]


def test_the_means_are_those_of_the_episodes(finished_copy: FinishedRun) -> None:
    assert evaluate(finished_copy) == 0
    episodes = read_rows(finished_copy.folder / "evaluate_episodes.csv")
    (means,) = read_rows(finished_copy.folder / "evaluate.csv")
    assert list(means) == ["final_test_ret", "final_train_ret", "final_val_ret"]
    columns = {"train": "train", "validation": "val", "test": "test"}
    for split, short in columns.items():
        returns = [float(row["return"]) for row in episodes if row["split"] == split]
        assert float(means[f"final_{short}_ret"]) == pytest.approx(statistics.mean(returns))


def test_every_split_plays_its_own_levels(finished_copy: FinishedRun) -> None:
    assert evaluate(finished_copy) == 0
    rows = read_rows(finished_copy.folder / "evaluate_episodes.csv")
    assert [list(row) for row in rows[:1]] == [["split", "level_seed", "return", "length"]]
    seeds: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        seeds[row["split"]].append(int(row["level_seed"]))
        assert int(row["length"]) > 0
    assert [len(played) for played in seeds.values()] == [EPISODES] * 3
    assert set(seeds["train"]) <= set(range(200))
    assert set(seeds["validation"]) <= set(range(200, 250))
    # All 2^31 levels: one of the first 250 comes once in ten million draws.
    assert min(seeds["test"]) >= 250
    assert max(seeds["test"]) < 2**31
    assert all(len(set(played)) > 1 for played in seeds.values())


def test_the_best_checkpoint_is_evaluated_when_asked_for(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished_copy.folder / "final_model.pt").unlink()
    assert evaluate(finished_copy, checkpoint="best") == 0
    assert "best checkpoint" in capsys.readouterr().out
    told = json.loads((finished_copy.folder / "evaluate.json").read_text())
    assert (told["checkpoint"], told["acting"]) == ("best", "sampled")


def test_deterministic_may_be_chosen_at_evaluation(finished_copy: FinishedRun) -> None:
    path = finished_copy.folder / "final_model.pt"
    agents = [load_agent(path, CPU)[0], load_agent(path, CPU, acting={"deterministic": True})[0]]
    assert [agent.sampler.deterministic for agent in agents] == [False, True]


# What cannot be evaluated


def test_a_run_that_is_not_there_is_named(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(finished_copy, capsys, xpid="other")
    assert line.startswith(f"error: no run at {finished_copy.save_path / GAME / 'other'}")


def test_a_checkpoint_that_is_not_there_is_named(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_copy.folder / "best_model.pt"
    path.unlink()
    assert refusal(finished_copy, capsys, checkpoint="best") == f"error: no checkpoint at {path}"


@pytest.mark.parametrize("checkpoint", ["final", "best"])
def test_a_run_that_is_not_finished_is_refused_with_the_way_to_go_on(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    # What a run has before its end and its first evaluation: model.pt.
    for name in ("final", "best"):
        (finished_copy.folder / f"{name}_model.pt").unlink()
    line = refusal(finished_copy, capsys, checkpoint=checkpoint)
    assert line.startswith(f"error: no {checkpoint}_model.pt in {finished_copy.folder}, a run that")
    assert line.endswith("not finished: its training command with --resume True goes on")


@pytest.mark.parametrize(
    ("name", "value", "trained"),
    [
        ("hidden_size", 32, 64),
        ("agent_model", "pporesnetbase", "dqn"),
        ("distribution_mode", "hard", "easy"),
        # Other levels would be called training levels.
        ("num_levels", 100, 200),
    ],
)
def test_a_checkpoint_trained_with_other_settings_is_refused_with_both_values(
    finished_copy: FinishedRun,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: Any,
    trained: Any,
) -> None:
    line = refusal(finished_copy, capsys, **{name: value})
    path = finished_copy.folder / "final_model.pt"
    assert line == f"error: {path} was trained with --{name} {trained}, not {value}"


def test_weights_of_another_architecture_are_refused(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_copy.folder / "final_model.pt"
    settings = {**read_checkpoint(path)["settings"], "hidden_size": 32}
    rewrite(path, settings=settings)
    line = refusal(finished_copy, capsys, hidden_size=32)
    assert f"{path} holds another architecture" in line


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_truncated_checkpoint_is_refused(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    path = finished_copy.folder / "final_model.pt"
    contents = path.read_bytes()
    path.write_bytes(contents[: int(len(contents) * share)])
    assert f"{path} is no readable checkpoint" in refusal(finished_copy, capsys)


@pytest.mark.parametrize("missing", ["settings", "facts", "agent"])
def test_a_checkpoint_that_lacks_a_part_is_refused(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    path = finished_copy.folder / "final_model.pt"
    contents = read_checkpoint(path)
    del contents[missing]
    torch.save(contents, path)
    assert f"{path} lacks what an agent is rebuilt from" in refusal(finished_copy, capsys)


def test_a_checkpoint_of_another_command_is_refused(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_copy.folder / "final_model.pt"
    rewrite(path, kind="ppo")
    assert f"{path} is not a checkpoint of kind 'offline'" in refusal(finished_copy, capsys)


def test_no_episodes_to_evaluate_is_a_mistake_on_the_command_line(
    finished_copy: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(finished_copy, capsys, code=2, num_final_episodes=0)
    assert line.startswith("error: --num_final_episodes 0: ")
