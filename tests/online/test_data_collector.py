"""`online.data_collector` end to end: what it writes and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.envs import frame_fingerprint, procgen_build
from common.episodes import Episode
from offline.data.packing import open_game
from offline.data.store import PackedStore
from offline.data.writing import StoreWriter
from online.policy_files import load_policy, save_policy
from tests.command_runs import ROOT, TIMEOUT, the_error, wait_until
from tests.data_fixtures import make_episode
from tests.online_runs import (
    CAPACITY,
    ENVIRONMENTS,
    GAME,
    HIDDEN_SIZE,
    assert_played_on_its_level,
    collect,
    read_episodes,
)


@pytest.fixture(scope="module")
def collected(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one game's episodes."""
    folder = tmp_path_factory.mktemp("collected")
    assert collect(checkpoint_path=policy, dataset_saving_dir=folder) == 0
    return folder / GAME


@pytest.fixture(scope="module")
def episodes(collected: Path) -> list[Episode]:
    return read_episodes(collected)


# What is collected


def test_whole_episodes_are_written_whose_names_agree_with_them(episodes: list[Episode]) -> None:
    assert all(episode.terminated for episode in episodes)
    assert len(episodes) >= 3


def test_the_levels_are_those_of_training(episodes: list[Episode]) -> None:
    assert all(0 <= episode.level_seed <= 199 for episode in episodes)
    assert len({episode.level_seed for episode in episodes}) > 1


def command(policy: Path, folder: Path, capacity: int) -> list[str]:
    """The command as a user gives it."""
    return [
        *(sys.executable, "-m", "online.data_collector", f"--env_name={GAME}", "--no_cuda=True"),
        *(f"--checkpoint_path={policy}", f"--dataset_saving_dir={folder}"),
        *(f"--num_processes={ENVIRONMENTS}", f"--hidden_size={HIDDEN_SIZE}"),
        f"--capacity={capacity}",
    ]


def test_collecting_ends_without_a_progress_bar(policy: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(policy, tmp_path, 50),
        cwd=ROOT,
        env={**os.environ, "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    assert read_episodes(tmp_path / GAME)


def test_a_signal_ends_the_collection_with_one_line(policy: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(policy, tmp_path, 100_000_000), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: bool(list(tmp_path.rglob("*.npz"))), process)
        process.terminate()
        _, err = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == 143
    last = err.splitlines()[-1]
    assert re.fullmatch(
        r"error: stopped after \d+ of 100000000 transitions, and a collection cannot be continued: "
        f"remove {tmp_path / GAME} to begin anew",
        last,
    )
    assert not (tmp_path / GAME / "collection.json").exists()


def test_collecting_ends_when_the_capacity_is_reached(episodes: list[Episode]) -> None:
    lengths = [episode.length for episode in episodes]
    assert sum(lengths) >= CAPACITY
    # At most one episode per environment can end in the step that reaches it.
    assert sum(lengths) - sum(sorted(lengths)[-ENVIRONMENTS:]) < CAPACITY


def test_frames_and_rewards_are_those_of_the_game(episodes: list[Episode]) -> None:
    assert any(episode.rewards.any() for episode in episodes), "the test shows too little"
    for episode in episodes[:4]:
        assert_played_on_its_level(episode)


def test_actions_are_sampled_from_the_policy(policy: Path, episodes: list[Episode]) -> None:
    network, _ = load_policy(policy, torch.device("cpu"))
    observations = np.concatenate([e.observations[:-1] for e in episodes])
    actions = torch.from_numpy(np.concatenate([e.actions for e in episodes]))
    with torch.no_grad():
        log_policy = network(torch.from_numpy(observations))[0].log_softmax(-1)
    probabilities = log_policy.exp()
    # How often the likeliest action was taken, against the mean and deviation of a fair draw.
    top = probabilities.max(-1).values
    taken = (actions == probabilities.argmax(-1)).float()
    deviation = (top * (1 - top)).sum().sqrt()
    assert abs(float(taken.sum() - top.sum())) < 4 * float(deviation)
    assert set(actions.tolist()) == set(range(15))


def test_the_build_and_its_fingerprint_are_noted(collected: Path) -> None:
    noted = json.loads((collected / "build.json").read_text())
    assert noted == {
        "build": procgen_build(),
        "distribution_mode": "easy",
        "fingerprint": frame_fingerprint(GAME),
    }


def test_a_finished_collection_counts_what_it_holds(
    collected: Path, episodes: list[Episode]
) -> None:
    counts = {"episodes": len(episodes), "transitions": sum(e.length for e in episodes)}
    told = json.loads((collected / "collection.json").read_text())
    assert {name: told[name] for name in counts} == counts


def test_a_finished_collection_tells_how_it_was_made(policy: Path, collected: Path) -> None:
    told = json.loads((collected / "collection.json").read_text())
    assert told["settings"] == {
        "env_name": GAME,
        "distribution_mode": "easy",
        "num_levels": 200,
        "start_level": 0,
        "seed": 88,
        "capacity": CAPACITY,
        "num_env_steps": 100_000_000,
        "num_processes": ENVIRONMENTS,
    }
    assert told["policy"] == {
        "checkpoint_path": str(policy),
        "distribution_mode": "easy",
        "num_levels": 200,
        "start_level": 0,
        "steps": 32,
    }


def test_what_a_policy_does_not_tell_is_left_out(policy: Path, tmp_path: Path) -> None:
    network, _ = load_policy(policy, torch.device("cpu"))
    bare = tmp_path / "bare.pt"
    save_policy(bare, network, {"env_name": GAME, "hidden_size": HIDDEN_SIZE})
    assert collect(checkpoint_path=bare, dataset_saving_dir=tmp_path, capacity=1) == 0
    told = json.loads((tmp_path / GAME / "collection.json").read_text())
    assert told["policy"] == {"checkpoint_path": str(bare)}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_a_policy_of_other_levels_is_warned_about_in_one_line(
    policy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = {"dataset_saving_dir": tmp_path, "capacity": 1}
    other = {"distribution_mode": "hard", "num_levels": 5}
    assert collect(checkpoint_path=policy, **flags, **other) == 0
    assert warnings(caplog) == [
        f"{policy} was trained with --distribution_mode easy --num_levels 200, "
        "and plays with --distribution_mode hard --num_levels 5"
    ]


def test_running_out_of_steps_is_warned_about(
    policy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = {"dataset_saving_dir": tmp_path, "capacity": 10**9, "num_env_steps": 1500}
    assert collect(checkpoint_path=policy, **flags) == 0
    transitions = json.loads((tmp_path / GAME / "collection.json").read_text())["transitions"]
    assert warnings(caplog) == [
        f"{transitions} of 1000000000 transitions: --num_env_steps 1500 reached"
    ]


def test_a_collection_as_it_should_be_warns_of_nothing(
    policy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert collect(checkpoint_path=policy, dataset_saving_dir=tmp_path, capacity=1) == 0
    assert warnings(caplog) == []


def test_readers_of_episodes_see_episodes_only(
    collected: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    shutil.copytree(collected, tmp_path / GAME)
    store = open_game(tmp_path, GAME, progress=False)
    assert len(store.episodes) == len(episodes)
    assert not store.manifest["skipped"]


def test_a_collection_that_runs_out_of_steps_is_finished_too(policy: Path, tmp_path: Path) -> None:
    flags = {"checkpoint_path": policy, "capacity": 10**9, "num_env_steps": 1500}
    assert collect(dataset_saving_dir=tmp_path, **flags) == 0
    counts = json.loads((tmp_path / GAME / "collection.json").read_text())
    assert counts["episodes"] == len(read_episodes(tmp_path / GAME))


def test_the_mark_of_episodes_that_are_gone_does_not_outlive_them(
    policy: Path, tmp_path: Path
) -> None:
    mark = tmp_path / GAME / "collection.json"
    mark.parent.mkdir()
    mark.touch()
    flags = {"checkpoint_path": policy, "num_env_steps": 3}
    assert collect(dataset_saving_dir=tmp_path, **flags) == 1  # no episode ended by then
    assert not mark.exists()


def contents(folder: Path) -> list[tuple[str, bytes, bytes, bytes]]:
    """Names without their timestamps, and what is in the files."""
    names = [path.name.split("_", 1)[1] for path in sorted(folder.glob("*.npz"), key=by_index)]
    arrays = [
        (e.observations.tobytes(), e.actions.tobytes(), e.rewards.tobytes())
        for e in read_episodes(folder)
    ]
    return [(name, *array) for name, array in zip(names, arrays, strict=True)]


def by_index(path: Path) -> int:
    return int(path.name.split("_")[1])


def test_the_same_seed_collects_the_same_data(
    policy: Path, collected: Path, tmp_path: Path
) -> None:
    assert collect(checkpoint_path=policy, dataset_saving_dir=tmp_path) == 0
    assert contents(tmp_path / GAME) == contents(collected)


def test_another_seed_collects_other_data(policy: Path, collected: Path, tmp_path: Path) -> None:
    assert collect(checkpoint_path=policy, dataset_saving_dir=tmp_path, capacity=1, seed=1) == 0
    first, second = read_episodes(tmp_path / GAME)[0], read_episodes(collected)[0]
    assert not np.array_equal(first.observations[0], second.observations[0])


def test_other_levels_can_be_asked_for(policy: Path, tmp_path: Path) -> None:
    flags = {"start_level": 40, "num_levels": 1, "capacity": 1}
    assert collect(checkpoint_path=policy, dataset_saving_dir=tmp_path, **flags) == 0
    assert {episode.level_seed for episode in read_episodes(tmp_path / GAME)} == {40}


def test_nothing_is_written_when_only_returns_are_asked_for(
    policy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    with caplog.at_level("INFO"):
        code = collect(
            checkpoint_path=policy, dataset_saving_dir=folder, capacity=1, save_dataset=False
        )
    assert code == 0
    assert "mean return" in caplog.text
    assert not folder.exists()


def test_too_few_steps_for_an_episode_are_an_error(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"dataset_saving_dir": tmp_path, "num_env_steps": 3}
    assert collect(checkpoint_path=policy, **flags) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "error: no episode ended within --num_env_steps 3"


# Refusals


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ratio=0.75"], "--ratio 0.75 needs --ratio_checkpoint_dir"),
        (["--ratio=0.75", "--ratio_checkpoint_dir=x"], "needs --ratio_dataset_dir"),
        (["--ratio=0.75", "--checkpoint_path=x.pt"], "leave --checkpoint_path out"),
        (["--ratio=0.75", "--dataset_saving_dir=x"], "drop --dataset_saving_dir"),
        (["--ratio_dataset_dir=x"], "belong to --ratio"),
        (["--ratio=1.5"], "--ratio 1.5: must be at most 1"),
        (["--num_levels=0", "--start_level=7"], "--start_level 7: --num_levels 0 draws from all"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collect(*flags) == 2
    assert words in the_error(capsys.readouterr().err)


def refused(folder: Path, code: int, capsys: pytest.CaptureFixture[str], **changes: object) -> str:
    """The line with which a collection into `folder` is refused; nothing is written."""
    assert collect(dataset_saving_dir=folder, **changes) == code
    assert not folder.exists()
    return the_error(capsys.readouterr().err)


@pytest.mark.parametrize("kept", [0, 3000])
def test_a_corrupt_checkpoint_is_an_error_never_a_random_policy(
    kept: int, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(policy.read_bytes()[:kept])
    line = refused(tmp_path / "data", 1, capsys, checkpoint_path=broken)
    assert f"{broken} is no readable checkpoint" in line


def test_a_checkpoint_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.pt"
    line = refused(tmp_path / "data", 2, capsys, checkpoint_path=missing)
    assert line == f"error: no checkpoint at {missing}"


def test_the_policy_of_another_game_is_refused(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(tmp_path / "data", 2, capsys, checkpoint_path=policy, env_name="maze")
    assert line == f"error: --env_name maze: {policy} was trained with {GAME}"


def test_a_policy_of_another_size_is_refused(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(tmp_path / "data", 2, capsys, checkpoint_path=policy, hidden_size=64)
    assert line == f"error: --hidden_size 64: {policy} was trained with {HIDDEN_SIZE}"


def test_a_game_without_a_bundled_policy_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(tmp_path / "data", 2, capsys, env_name="heist")
    assert "no policy is bundled for heist" in line


def test_a_folder_that_holds_episodes_is_refused(
    policy: Path, collected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in collected.iterdir())
    assert collect(checkpoint_path=policy, dataset_saving_dir=collected.parent) == 2
    assert f"{collected} holds" in the_error(capsys.readouterr().err)
    after = sorted((path.name, path.stat().st_mtime_ns) for path in collected.iterdir())
    assert after == before


def test_a_folder_that_holds_a_packed_store_is_refused(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As downloaded: no episode files beside it.
    (tmp_path / GAME).mkdir()
    with StoreWriter(tmp_path / GAME / "packed", GAME) as writer:
        writer.append(make_episode(1, [0.0, 1.0]), "one")
        writer.commit("an archive", None)
    assert collect(checkpoint_path=policy, dataset_saving_dir=tmp_path) == 2
    line = the_error(capsys.readouterr().err)
    assert line.startswith(f"error: {tmp_path / GAME / 'packed'} holds episodes already")
    assert len(PackedStore.open(tmp_path / GAME / "packed").episodes) == 1
    assert [path.name for path in (tmp_path / GAME).iterdir()] == ["packed"]
