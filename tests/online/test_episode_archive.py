"""A folder holds the episodes of one run: who may write there, and who may go on."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common import checkpoints
from common.envs import frame_fingerprint, procgen_build
from common.episodes import list_episode_files, parse_name
from tests.command_runs import TIMEOUT, start_python, the_error, wait_until
from tests.online_runs import (
    ENVIRONMENTS,
    GAME,
    HIDDEN_SIZE,
    LONG,
    collect,
    read_episodes,
    run_folder,
    train,
    trainer_flags,
    tree,
)

NEVER_DONE = 10**9
SHORT: dict[str, Any] = {**LONG, "num_env_steps": 5 * 64}  # of LONG, the first five updates


@contextlib.contextmanager
def running(module: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the module, killed in the end."""
    process = start_python("-m", module, *flags)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def collecting(policy: Path, folder: Path) -> contextlib.AbstractContextManager[Any]:
    """A collection that does not end."""
    return running(
        "online.data_collector",
        *(f"--env_name={GAME}", f"--checkpoint_path={policy}", f"--dataset_saving_dir={folder}"),
        *(f"--hidden_size={HIDDEN_SIZE}", f"--num_processes={ENVIRONMENTS}", "--no_cuda=True"),
        f"--capacity={NEVER_DONE}",
    )


def owned(data: Path) -> bool:
    owner = data / GAME / ".owner"
    return owner.exists() and owner.stat().st_size > 0


# Two at once


def test_of_two_runs_that_would_write_to_one_folder_the_second_is_refused(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    line = (
        f"error: another process is writing to {data / GAME}: name another --dataset_saving_dir\n"
    )
    with collecting(policy, data) as first:
        # From before its first episode on.
        wait_until(lambda: owned(data), first)
        assert collect(checkpoint_path=policy, dataset_saving_dir=data) == 2
        assert capsys.readouterr().err == line
        wait_until(lambda: bool(list_episode_files(data / GAME)), first)
        assert train(tmp_path, save_dataset=True) == 2
        assert capsys.readouterr().err == line
        assert not (run_folder(tmp_path) / "rolling").exists()
        first.terminate()
        first.communicate(timeout=TIMEOUT)
    read_episodes(data / GAME)  # those of one run, from index 0 on


def test_a_training_keeps_others_out_as_long_as_it_records(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    endless = trainer_flags(tmp_path, **{**LONG, "num_env_steps": NEVER_DONE})
    with running("online.trainer", *endless) as first:
        wait_until((run_folder(tmp_path) / "rolling" / "model.pt").exists, first)
        assert collect(checkpoint_path=policy, dataset_saving_dir=data) == 2
        assert f"another process is writing to {data / GAME}" in the_error(capsys.readouterr().err)
    with running("online.trainer", *endless, "--resume=True") as first:
        wait_until(lambda: bool(list_episode_files(data / GAME)), first)
        assert collect(checkpoint_path=policy, dataset_saving_dir=data) == 2
        assert f"another process is writing to {data / GAME}" in the_error(capsys.readouterr().err)


@pytest.mark.parametrize("ending", ["done", "no episode"])
def test_a_run_that_has_ended_keeps_nobody_out(ending: str, tmp_path: Path, policy: Path) -> None:
    flags = {"checkpoint_path": policy, "dataset_saving_dir": tmp_path, "capacity": 1}
    steps = {"done": 10_000, "no episode": 3}[ending]
    assert collect(**flags, num_env_steps=steps) == (0 if ending == "done" else 1)
    for path in list_episode_files(tmp_path / GAME):
        path.unlink()
    assert collect(**flags) == 0


def test_a_collection_killed_before_its_first_episode_can_be_begun_anew(
    policy: Path, tmp_path: Path
) -> None:
    with collecting(policy, tmp_path) as process:
        wait_until(lambda: owned(tmp_path), process)
        process.kill()
        process.communicate()
    assert not list_episode_files(tmp_path / GAME)
    (tmp_path / GAME / "build.json").write_text("{}")  # of another build
    assert collect(checkpoint_path=policy, dataset_saving_dir=tmp_path, capacity=1) == 0
    assert list_episode_files(tmp_path / GAME)
    noted = json.loads((tmp_path / GAME / "build.json").read_text())
    assert noted["build"] == procgen_build()


# One after the other


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording run of five updates, not to be changed; the folder above `models` and `data`."""
    folder = tmp_path_factory.mktemp("trained")
    assert train(folder, **SHORT) == 0
    shutil.rmtree(run_folder(folder) / "final")
    return folder


@pytest.fixture
def stopped(trained: Path, tmp_path: Path) -> Path:
    """That run as if it had been stopped."""
    shutil.copytree(trained, tmp_path / "stopped", symlinks=True)
    return tmp_path / "stopped"


def rolling(folder: Path) -> dict[str, Any]:
    return checkpoints.load(run_folder(folder) / "rolling" / "model.pt", "ppo")


def forget_the_owner(folder: Path) -> None:
    """Make the checkpoint one of an older version."""
    contents = rolling(folder)
    del contents["training"]["archive"]["owner"]
    checkpoints.save(run_folder(folder) / "rolling" / "model.pt", "ppo", contents)


def put_others_in_its_place(data: Path) -> None:
    """Episodes of another run that began in the same second, in the place of these."""
    timestamp = parse_name(list_episode_files(data / GAME)[0]).timestamp  # type: ignore[union-attr]
    shutil.rmtree(data)
    assert train(data.parent, "other", **LONG, seed=89) == 0
    for path in list_episode_files(data / GAME):
        path.rename(path.with_name(f"{timestamp}_{path.name.split('_', 1)[1]}"))


@pytest.mark.parametrize("has_token", [True, False])
def test_a_run_does_not_go_on_among_the_episodes_of_another(
    has_token: bool, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_others_in_its_place(stopped / "data")
    if not has_token:
        forget_the_owner(stopped)
    before = tree(stopped / "data")
    assert len(before) > rolling(stopped)["training"]["archive"]["next_index"]
    capsys.readouterr()
    assert train(stopped, **LONG, resume=True) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {stopped / 'data' / GAME} holds episodes of another run: ")
    assert "--dataset_saving_dir" in line
    assert tree(stopped / "data") == before


def test_a_run_does_not_go_on_among_episodes_that_nobody_owns(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / "data" / GAME / ".owner").unlink()
    assert train(stopped, **LONG, resume=True) == 2
    assert "holds episodes of another run" in capsys.readouterr().err.splitlines()[-1]


def test_a_run_of_an_older_version_goes_on_and_then_owns_its_folder(
    stopped: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = stopped / "data" / GAME
    forget_the_owner(stopped)
    (data / ".owner").unlink()
    old = (run_folder(stopped) / "rolling" / "model.pt").read_bytes()
    ended = len(list_episode_files(data))
    for _ in range(2):
        assert train(stopped, **LONG, resume=True) == 0
        assert len(read_episodes(data)) > ended
        # And once more, as if it had been killed before it could write a checkpoint.
        shutil.rmtree(run_folder(stopped) / "final")
        (run_folder(stopped) / "rolling" / "model.pt").write_bytes(old)


def test_a_run_that_goes_on_in_a_new_folder_says_what_is_not_there(
    stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = rolling(stopped)["training"]["archive"]["next_index"]
    assert index > 0
    new = stopped / "new"
    before = tree(stopped / "data")
    assert train(stopped, **LONG, resume=True, dataset_saving_dir=new) == 0
    assert f"{new / GAME} holds none of the {index} episodes before: it begins with the next" in (
        caplog.messages
    )
    names = [parse_name(path) for path in list_episode_files(new / GAME)]
    assert next(name.index for name in names if name) == index
    noted = json.loads((new / GAME / "build.json").read_text())
    assert noted == {
        "build": procgen_build(),
        "distribution_mode": "easy",
        "fingerprint": frame_fingerprint(GAME),
    }
    assert tree(stopped / "data") == before


def test_a_new_run_does_not_take_the_place_of_one_that_was_stopped(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(stopped / "data")
    assert train(stopped, "other", **LONG) == 2
    line = the_error(capsys.readouterr().err)
    assert f"{stopped / 'data' / GAME} holds {len(before) - 2} episodes already" in line
    assert "name another --dataset_saving_dir" in line
    assert tree(stopped / "data") == before
