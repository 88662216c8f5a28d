"""Which runs below a folder count, what is read of them, and what is told of the others."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest

from common.evaluation import Origin, write_origin
from common.rollout import EpisodeResult
from offline.results.collected import collect
from offline.results.comparable import differences
from tests.offline_commands import GAME, FinishedRun, run
from tests.synthetic_runs import constant_returns, read_json, write_returns, write_run

RETURNS = constant_returns(9.0, 7.0, 6.0)
OTHERS = constant_returns(8.0, 5.0, 4.0)


def test_a_run_has_its_settings_returns_episodes_and_curve(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS, algo="bc", seed=5, lr=0.0005, epochs=3)
    ((run,), out) = collect([tmp_path])
    assert out == []
    assert (run.folder, run.game, run.method, run.seed) == (folder, "coinrun", "bc", 5)
    assert run.settings["lr"] == 0.0005
    told = run.evaluations["sampled"].summaries["train"]
    # Returns 8 and 10: deviation sqrt(2), error 1. coinrun: 5 .. 10.
    assert (told.mean, told.standard_error, told.normalised) == pytest.approx((9.0, 1.0, 0.8))
    assert [e.episode_return for e in run.evaluations["sampled"].episodes["test"]] == [5.0, 7.0]
    assert run.curve is not None
    assert run.curve.epochs.tolist() == [1, 2, 3]
    assert run.curve.losses[0] > run.curve.losses[2]
    assert run.curve.returns["validation"].shape == (3,)


def test_a_run_of_the_real_commands_counts(finished_copy: FinishedRun) -> None:
    save_path = finished_copy.save_path
    flags = [f"--{name}={value}" for name, value in finished_copy.settings.items()]
    evaluated = run(
        "offline.evaluate_offline_agent",
        *flags,
        f"--save_path={save_path}",
        "--deterministic=both",
    )
    assert evaluated.returncode == 0, evaluated.stderr
    ((found,), out) = collect([save_path])
    assert out == []
    assert (found.game, found.folder, found.trained_mode) == (GAME, finished_copy.folder, "sampled")
    assert set(found.evaluations) == {"sampled", "deterministic"}
    # The same checkpoint on the same levels as at the end of training.
    assert found.evaluations["sampled"].checkpoint == "final"
    for mode, stem in (("sampled", "evaluate"), ("deterministic", "evaluate_deterministic")):
        printed = (finished_copy.folder / f"{stem}.csv").read_text().splitlines()[1].split(",")
        summaries = found.evaluations[mode].summaries
        means = [summaries[split].mean for split in ("test", "train", "validation")]
        assert means == pytest.approx([float(number) for number in printed])


def test_acting_modes_are_kept_apart(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, deterministic_returns=OTHERS)
    ((run,), _) = collect([tmp_path])
    assert run.evaluations["sampled"].summaries["test"].mean == 6.0
    assert run.evaluations["deterministic"].summaries["test"].mean == 4.0
    assert run.trained_mode == "sampled"


def test_evaluate_csv_of_a_run_trained_to_be_certain_is_deterministic(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS, deterministic=True)
    write_returns(folder, "evaluate_sampled", OTHERS)
    ((run,), _) = collect([tmp_path])
    assert run.trained_mode == "deterministic"
    assert run.evaluations["deterministic"].summaries["test"].mean == 6.0
    assert run.evaluations["sampled"].summaries["test"].mean == 4.0


def test_without_random_actions_evaluate_csv_is_deterministic_unless_both_modes_were_played(
    tmp_path: Path,
) -> None:
    write_run(tmp_path / "a", RETURNS, algo="iql", eval_eps=0)
    write_run(tmp_path / "b", RETURNS, algo="iql", eval_eps=0, deterministic_returns=OTHERS)
    assert collect([tmp_path / "a"]).runs[0].trained_mode == "deterministic"
    assert collect([tmp_path / "b"]).runs[0].trained_mode == "sampled"


def test_a_single_level_run_has_one_split(tmp_path: Path) -> None:
    write_run(tmp_path, {"train": [3.0, 5.0]}, meta={"level": 40})
    ((run,), _) = collect([tmp_path])
    assert list(run.evaluations["sampled"].summaries) == ["train"]
    assert run.setting.condition.level == "40"


@pytest.mark.parametrize("end_of_training", [RETURNS, OTHERS])
def test_the_checkpoint_is_known_only_if_the_end_of_training_has_the_same_numbers(
    tmp_path: Path, end_of_training: dict[str, list[float]]
) -> None:
    folder = write_run(tmp_path, RETURNS)
    write_returns(folder, "end", end_of_training)
    (folder / "end.csv").rename(folder / "final_test_eval.csv")
    evaluation = collect([tmp_path]).runs[0].evaluations["sampled"]
    assert evaluation.checkpoint == ("final" if end_of_training is RETURNS else "unknown")


def test_the_file_beside_an_evaluation_tells_its_checkpoint_and_how_the_agent_acted(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path, RETURNS)
    results = {s: [EpisodeResult(0, r, 1) for r in values] for s, values in RETURNS.items()}
    write_origin(folder / "evaluate.json", Origin("best", "deterministic"), results)
    (run,) = collect([tmp_path]).runs
    assert run.trained_mode == "deterministic"
    assert run.evaluations["deterministic"].checkpoint == "best"


def test_the_file_beside_an_evaluation_of_other_numbers_tells_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS)
    results = {s: [EpisodeResult(0, r, 1) for r in values] for s, values in OTHERS.items()}
    write_origin(folder / "evaluate.json", Origin("best", "deterministic"), results)
    (run,) = collect([tmp_path]).runs
    assert run.trained_mode == "sampled"
    assert run.evaluations["sampled"].checkpoint == "unknown"


def test_the_latest_link_and_overlapping_paths_count_a_run_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", RETURNS)
    assert (folder.parent / "latest").is_symlink()
    (tmp_path / "runs" / "loop").symlink_to(tmp_path)
    paths = [tmp_path, tmp_path / "runs", folder, folder.parent / "latest"]
    runs, out = collect(paths)
    assert ([run.folder for run in runs], out) == ([folder], [])


def test_runs_that_are_links_to_another_place_are_found(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "disk", RETURNS)
    (tmp_path / "runs" / "coinrun").mkdir(parents=True)
    (tmp_path / "runs" / "coinrun" / "run").symlink_to(folder)
    assert len(collect([tmp_path / "runs"]).runs) == 1


def test_a_second_run_of_the_same_setting_game_and_seed_is_told_and_left_out(
    tmp_path: Path,
) -> None:
    first = write_run(tmp_path / "a", RETURNS, seed=1)
    second = write_run(tmp_path / "b", OTHERS, seed=1, xpid="again")
    runs, out = collect([tmp_path])
    assert [run.folder for run in runs] == [first]
    assert out == [(second, f"the same setting, game and seed as {first}")]


def test_only_seed_and_game_and_where_things_lie_may_differ_within_a_setting(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, RETURNS, seed=1)
    write_run(tmp_path, RETURNS, seed=2, ckpt_freq=3, resume=True, no_cuda=True)
    write_run(tmp_path, RETURNS, seed=1, env_name="miner")
    write_run(tmp_path, RETURNS, seed=3, lr=0.1)
    assert len({run.setting for run in collect([tmp_path]).runs}) == 2


def test_a_setting_that_an_older_run_does_not_know_was_at_its_default(tmp_path: Path) -> None:
    write_run(tmp_path, RETURNS, seed=1)
    folder = write_run(tmp_path, RETURNS, seed=2)
    meta = read_json(folder / "meta.json")
    del meta["settings"]["scale_pixels"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert len({run.setting for run in collect([tmp_path]).runs}) == 1


def test_settings_are_told_by_what_sets_them_apart_from_the_others_of_their_method(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, RETURNS, algo="bc", lr=0.0005, batch_size=256)
    write_run(tmp_path, RETURNS, algo="bc", lr=0.0001, batch_size=256)
    write_run(tmp_path, RETURNS, algo="bc", lr=0.0001, batch_size=512)
    write_run(tmp_path, RETURNS, algo="cql", lr=0.1)
    told = differences({run.setting for run in collect([tmp_path]).runs})
    assert sorted(told.values()) == [
        "",
        "batch_size 256, lr 0.0001",
        "batch_size 256, lr 0.0005",
        "batch_size 512, lr 0.0001",
    ]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("distribution_mode", "hard"),
        ("num_levels", 100),
        ("dataset", "data/1M_S"),
        ("dataset_size", 1000),
        ("episode_order", "best"),
    ],
)
def test_other_data_or_levels_are_another_condition_and_not_another_setting_of_the_method(
    tmp_path: Path, flag: str, value: object
) -> None:
    write_run(tmp_path, RETURNS)
    write_run(tmp_path, RETURNS, **{flag: value})
    runs = collect([tmp_path]).runs
    assert len({run.setting.condition for run in runs}) == 2
    assert set(differences({run.setting for run in runs}).values()) == {""}


def test_a_folder_of_data_is_the_same_with_a_slash_at_its_end(tmp_path: Path) -> None:
    for seed, dataset in enumerate(("data/1M_E", "data/1M_E/", "./data//1M_E")):
        write_run(tmp_path, RETURNS, seed=seed, dataset=dataset, xpid=f"run{seed}")
    (condition,) = {run.setting.condition for run in collect([tmp_path]).runs}
    assert condition.dataset == ("data/1M_E",)


def test_an_epoch_without_evaluation_is_a_gap_in_the_curve(tmp_path: Path) -> None:
    folder = write_run(tmp_path, RETURNS, epochs=1)
    with open(folder / "logs.csv", "a") as file:
        file.write("2,0.5,60,,,,,100\n")
    curve = collect([tmp_path]).runs[0].curve
    assert curve is not None
    assert np.isnan(curve.returns["test"]).tolist() == [False, True]


def test_ten_thousand_folders_are_searched_in_seconds(tmp_path: Path) -> None:
    for i in range(10_000):
        folder = tmp_path / f"game{i % 16}" / f"run{i}"
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text("{}")
    write_run(tmp_path, RETURNS)
    before = resource.getrusage(resource.RUSAGE_SELF)
    runs, out = collect([tmp_path])
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert (len(runs), len(out)) == (1, 10_000)
