"""Bad input to the real commands: one line, the right exit code, nothing lost or half-written."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.episodes import Episode
from offline.data.store import PackedStore
from tests.data_fixtures import (
    episode_path,
    make_episode,
    raw_arrays,
    save_npy,
    save_npz,
    write_game,
)
from tests.offline_commands import (
    EVALUATE,
    GAME,
    ROOT,
    TINY,
    TRAIN,
    FinishedRun,
    assert_same_end,
    error_line,
    flags,
    lines,
    read_checkpoint,
    run,
    run_folder,
    start,
    wait_for,
)

FULL_DISK = "File too large"  # what the system says beyond the limit of a file's size
EPISODES = [make_episode(1, [0.0, 1.0, 10.0], level_seed=5), make_episode(2, [2.5], level_seed=6)]


class Shell:
    """Unpickling this would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A dataset folder that is all right, to be spoiled."""
    write_game(tmp_path / "data" / GAME, EPISODES)
    return tmp_path / "data"


def refused_data(dataset: Path, code: int) -> str:
    """The line with which training on `dataset` fails; no run and no store is left of it."""
    save_path = dataset.parent / "runs"
    done = run(TRAIN, *flags(TINY, dataset=dataset, save_path=save_path))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert not save_path.exists()
    assert not list(dataset.rglob("packed*"))
    assert not list(dataset.rglob("*.tmp*"))
    assert len(lines(done.stderr)) == 1, done.stderr
    return error_line(done)


def spoil(dataset: Path, episode: Episode, **changes: Any) -> Path:
    """Add an episode file with other arrays than it should have."""
    path = episode_path(dataset / GAME, episode, 2, ".npz")
    return save_npz(path, **{**raw_arrays(episode), **changes})


# Mistakes on the command line


@pytest.mark.parametrize("module", [TRAIN, EVALUATE])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--env_name", "conrun"], "--env_name conrun: choose one of bigfish, bossfight"),
        (["--agent_model", "resnet"], "--agent_model resnet: choose one of dqn, bcq, ppores"),
        (["--batchsize=64"], "unknown flag --batchsize: did you mean --batch_size?"),
        (["--cql_alpha", "3", "--algo", "bc"], "--cql_alpha 3.0: --algo bc does not use it"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_that_names_the_flag(
    module: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = run(module, *arguments, f"--save_path={tmp_path / 'runs'}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_a_dataset_that_does_not_exist_is_named(tmp_path: Path) -> None:
    line = refused_data(tmp_path / "nowhere", code=2)
    assert str(tmp_path / "nowhere") in line


def test_a_dataset_without_the_game_is_named_with_the_games_it_has(tmp_path: Path) -> None:
    write_game(tmp_path / "data" / "miner", EPISODES)
    line = refused_data(tmp_path / "data", code=2)
    assert f"{tmp_path / 'data'} has no folder {GAME}; games there: miner" in line


# Broken episodes


def test_a_truncated_npz_is_named(good: Path) -> None:
    path = spoil(good, make_episode(3, [1.0, 2.0]))
    os.truncate(path, path.stat().st_size // 2)
    assert str(path) in refused_data(good, code=1)


def test_a_pickle_that_calls_os_system_is_refused_and_does_not_run(
    good: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    path = good / GAME / "20230329T092246_9_1_5_1.00.npy"
    save_npy(path, {**raw_arrays(EPISODES[1]), "rewards": Shell(f"touch {ran}")})
    assert np.load(path, allow_pickle=True) is not None  # as others read it, it runs
    assert ran.exists()
    ran.unlink()
    line = refused_data(good, code=1)
    assert str(path) in line
    assert "system" in line
    assert not ran.exists()


def test_actions_out_of_range_are_named_with_their_step(good: Path) -> None:
    path = spoil(good, make_episode(3, [1.0, 2.0]), actions=np.array([[3], [15]]))
    line = refused_data(good, code=1)
    assert line.startswith(f"{path}: actions hold 15 at step 1")


def test_observations_of_the_wrong_shape_are_named(good: Path) -> None:
    path = spoil(good, make_episode(3, [1.0, 2.0]), observations=np.zeros((3, 3, 64, 32), np.uint8))
    line = refused_data(good, code=1)
    assert str(path) in line
    assert "(3, 3, 64, 32)" in line


# Broken checkpoints


def test_training_goes_on_from_no_checkpoint_of_another_architecture(
    unfinished_copy: Path, dataset: Path
) -> None:
    path = run_folder(unfinished_copy) / "model.pt"
    before = path.read_bytes()
    arguments = flags(TINY, dataset=dataset, xpid="run", resume=True, agent_model="pporesnetbase")
    done = run(TRAIN, *arguments, f"--save_path={unfinished_copy}")
    assert done.returncode == 1
    assert error_line(done) == (
        f"--agent_model pporesnetbase: the run in {path} was started with dqn"
    )
    assert path.read_bytes() == before


def test_training_goes_on_from_no_corrupt_checkpoint_and_leaves_it(
    unfinished_copy: Path, dataset: Path
) -> None:
    path = run_folder(unfinished_copy) / "model.pt"
    os.truncate(path, 5000)
    before = path.read_bytes()
    arguments = flags(TINY, dataset=dataset, xpid="run", resume=True)
    done = run(TRAIN, *arguments, f"--save_path={unfinished_copy}")
    assert done.returncode == 1
    assert f"{path} is no readable checkpoint" in error_line(done)
    assert path.read_bytes() == before


def test_a_checkpoint_that_calls_os_system_is_refused_and_does_not_run(
    finished_copy: FinishedRun, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    path = finished_copy.folder / "final_model.pt"
    torch.save({**read_checkpoint(path), "extra": Shell(f"touch {ran}")}, path)
    done = run(EVALUATE, *flags(finished_copy.settings, save_path=finished_copy.save_path))
    assert done.returncode == 1
    assert str(path) in error_line(done)
    assert not ran.exists()
    assert not (finished_copy.folder / "evaluate.csv").exists()


# Places that cannot be written


def refused_place(save_path: Path, dataset: Path) -> str:
    done = run(TRAIN, *flags(TINY, dataset=dataset, save_path=save_path, xpid="run"))
    assert done.returncode == 1
    return error_line(done)


def test_a_save_path_that_is_a_file_is_named(dataset: Path, tmp_path: Path) -> None:
    save_path = tmp_path / "file"
    save_path.write_text("mine")
    line = refused_place(save_path, dataset)
    assert line == f"cannot write to {save_path / GAME / 'run'}: Not a directory"
    assert save_path.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_save_path_is_named(dataset: Path, tmp_path: Path) -> None:
    save_path = tmp_path / "runs"
    save_path.mkdir(mode=0o555)
    line = refused_place(save_path, dataset)
    assert line == f"cannot write to {save_path / GAME / 'run'}: Permission denied"


def test_a_full_disk_while_packing_leaves_no_store_and_no_run(
    dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(
        dataset / GAME, tmp_path / "data" / GAME, ignore=shutil.ignore_patterns("packed")
    )
    save_path = tmp_path / "runs"
    done = run(
        TRAIN,
        *flags(TINY, dataset=tmp_path / "data", save_path=save_path),
        file_size_limit=1_000_000,  # the frames take seven times as much
    )
    assert done.returncode == 1
    line = error_line(done)
    assert f"cannot pack {tmp_path / 'data' / GAME}" in line
    assert FULL_DISK in line
    assert not save_path.exists()
    hidden = [p.name for p in (tmp_path / "data" / GAME).iterdir() if p.suffix != ".npz"]
    assert set(hidden) <= {".packed.lock"}


def test_a_full_disk_while_saving_leaves_the_previous_checkpoint(
    unfinished_copy: Path, dataset: Path
) -> None:
    folder = run_folder(unfinished_copy)
    before = {path.name: path.read_bytes() for path in folder.glob("*.pt")}
    done = run(
        TRAIN,
        *flags(TINY, dataset=dataset, xpid="run", resume=True, save_path=unfinished_copy),
        file_size_limit=300_000,  # a checkpoint takes four times as much
    )
    assert done.returncode == 1
    assert error_line(done) == f"cannot write {folder / 'model.pt'}: {FULL_DISK}"
    assert {path.name: path.read_bytes() for path in folder.glob("*.pt")} == before
    assert not list(folder.glob(".*"))


# The rest


@pytest.mark.slow
def test_two_processes_that_pack_the_same_game_at_once_both_train(
    dataset: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data" / GAME
    shutil.copytree(dataset / GAME, data, ignore=shutil.ignore_patterns("packed"))
    settings = {**TINY, "dataset": data.parent, "xpid": "run", "epochs": 1, "batch_size": 100}
    settings["num_final_episodes"] = 0
    save_paths = [tmp_path / "one", tmp_path / "two"]
    with open(data / ".packed.lock", "wb") as lock:
        # As if a third process were packing, until both have come to the same point.
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [start(TRAIN, *flags(settings, save_path=path)) for path in save_paths]
        for process in processes:
            wait_for(process, "waiting for another process")
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert sum(f"packing {GAME}" in error for error in errors) == 1
    assert PackedStore.open(data / "packed").num_rows >= 600
    assert_same_end(*(run_folder(path) for path in save_paths))


def test_a_loss_that_is_not_finite_is_one_line_that_names_the_step(
    dataset: Path, tmp_path: Path
) -> None:
    done = run(TRAIN, *flags(TINY, dataset=dataset, save_path=tmp_path, xpid="run", lr=1e30))
    assert done.returncode == 1
    assert error_line(done).startswith("the loss is not finite at step 2 of epoch 1: ")
    assert not list(run_folder(tmp_path).glob("*.pt"))


def test_no_dataset_and_no_bundled_policy_for_the_game_is_a_mistake_on_the_command_line(
    tmp_path: Path,
) -> None:
    done = run(TRAIN, "--env_name=plunder", f"--save_path={tmp_path / 'runs'}")
    assert done.returncode == 2
    assert lines(done.stderr) == [f"error: {error_line(done)}"]
    assert "not plunder: give --dataset" in error_line(done)
    assert not (tmp_path / "runs").exists()
    assert not (ROOT / "data" / "built-in" / "plunder").exists()
