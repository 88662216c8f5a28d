from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from common.errors import ToolkitError, UsageError
from common.games import NUM_ACTIONS
from offline.data import built_in
from offline.data.packing import open_game
from online.policy_files import save_policy
from online.ppo import ActorCritic
from tests.offline_commands import ROOT, lines

GAME = "dodgeball"  # some of its episodes end within a few steps
TRANSITIONS = 40


class Place(NamedTuple):
    """Where a copy of the toolkit, with a policy bundled for `GAME`, keeps its built-in data."""

    root: Path
    folder: Path
    policies: Path

    def use(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(built_in, "ROOT", self.root)
        patch.setattr(built_in, "FOLDER", self.folder)
        patch.setattr(built_in, "POLICIES", self.policies)
        patch.setattr(built_in, "TRANSITIONS", TRANSITIONS)


def make_place(root: Path) -> Place:
    """The real collector, with a policy that has learnt nothing."""
    left_out = shutil.ignore_patterns("policies", "__pycache__")
    shutil.copytree(ROOT / "online", root / "online", ignore=left_out)
    (root / "common").symlink_to(ROOT / "common")
    torch.manual_seed(0)
    policy = root / "online" / "policies" / f"{GAME}.pt"
    policy.parent.mkdir()
    network = ActorCritic(NUM_ACTIONS, 256)
    save_policy(policy, network, {"env_name": GAME, "hidden_size": 256})
    return Place(root, root / "data", policy.parent)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = make_place(tmp_path)
    made.use(monkeypatch)
    return made


class Collected(NamedTuple):
    """What two callers at once were given, and how many collections were started."""

    place: Place
    folders: list[Path]
    collections: int


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collected]:
    made = make_place(tmp_path_factory.mktemp("toolkit"))
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        made.use(patch)
        patch.setattr(built_in.logger, "level", logging.INFO)
        built_in.logger.addHandler(handler)
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(built_in.built_in_dataset, GAME, "easy", 200) for _ in range(2)]
            folders = [call.result(timeout=120) for call in calls]
        built_in.logger.removeHandler(handler)
        yield Collected(made, folders, len(records))


def test_of_two_callers_at_once_one_collects_and_both_get_the_data(collected: Collected) -> None:
    assert collected.folders == [collected.place.folder] * 2
    assert collected.collections == 1


def test_built_in_data_are_episodes_of_training_levels(collected: Collected) -> None:
    store = open_game(collected.place.folder, GAME, progress=False)
    assert store.num_rows >= TRANSITIONS
    assert store.manifest["game"] == GAME
    assert store.manifest["procgen"]["build"]["version"] == "0.10.7"
    assert set(store.episodes["level_seed"].tolist()) <= set(range(200))
    assert store.episodes["terminated"].all()


def test_a_collection_leaves_nothing_but_its_result(collected: Collected) -> None:
    names = sorted(path.name for path in collected.place.folder.iterdir())
    assert names == [f".{GAME}.lock", GAME]


def test_data_that_are_there_are_used_again(collected: Collected) -> None:
    before = collected.place.folder.stat().st_mtime_ns
    (collected.place.policies / f"{GAME}.pt").touch()
    assert built_in.built_in_dataset(GAME, "easy", 200) == collected.place.folder
    assert collected.place.folder.stat().st_mtime_ns == before


def test_data_of_another_policy_than_the_bundled_one_are_collected_anew(place: Place) -> None:
    folder = built_in.built_in_dataset(GAME, "easy", 200) / GAME
    before = {path.name for path in folder.glob("*.npz")}
    torch.manual_seed(1)
    network = ActorCritic(NUM_ACTIONS, 256)
    torch.nn.init.normal_(network.policy_head.bias, std=3)
    save_policy(place.policies / f"{GAME}.pt", network, {"env_name": GAME, "hidden_size": 256})
    built_in.built_in_dataset(GAME, "easy", 200)
    after = {path.name for path in folder.glob("*.npz")}
    assert after
    assert not before & after


def test_a_game_without_a_bundled_policy_is_refused_with_the_games_that_have_one(
    place: Place,
) -> None:
    with pytest.raises(UsageError, match=f"exist for {GAME} only, not miner: give --dataset"):
        built_in.built_in_dataset("miner", "easy", 200)
    assert not place.folder.exists()


@pytest.mark.parametrize(("mode", "num_levels"), [("hard", 200), ("easy", 100), ("easy", 500)])
def test_data_of_other_levels_are_not_built_in(place: Place, mode: str, num_levels: int) -> None:
    with pytest.raises(UsageError, match=f"--distribution_mode {mode} --num_levels {num_levels}"):
        built_in.built_in_dataset(GAME, mode, num_levels)
    assert not place.folder.exists()


def test_a_collection_that_fails_leaves_nothing(place: Place) -> None:
    (place.policies / f"{GAME}.pt").write_bytes(b"no policy")
    with pytest.raises(ToolkitError, match=f"collecting the built-in data of {GAME} failed"):
        built_in.built_in_dataset(GAME, "easy", 200)
    assert [path.name for path in place.folder.iterdir()] == [f".{GAME}.lock"]


_ENDLESS = """
import sys
from pathlib import Path
from common.flags import run_command
from offline.data import built_in
built_in.ROOT, built_in.FOLDER, built_in.POLICIES = {root!r}, Path({folder!r}), Path({policies!r})
built_in.TRANSITIONS = 100_000_000
collect = lambda _: built_in.built_in_dataset({game!r}, "easy", 200)
sys.exit(run_command(collect, []))
"""


def start_endless(place: Place) -> subprocess.Popen[bytes]:
    """A process that collects for hours, together with its collector in a group of its own."""
    root, folder, policies = map(str, place)
    script = _ENDLESS.format(root=root, folder=folder, policies=policies, game=GAME)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_episodes(folder: Path) -> None:
    """Return as soon as an episode has been written below `folder`."""
    deadline = time.monotonic() + 120
    while not list(folder.rglob("*.npz")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_locked(path: Path) -> bool:
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.slow
def test_after_a_kill_the_next_collection_waits_for_the_collector_and_starts_anew(
    place: Place,
) -> None:
    lock = place.folder / f".{GAME}.lock"
    process = start_endless(place)
    try:
        wait_for_episodes(place.folder)
        process.kill()
        process.wait()
        assert not (place.folder / GAME).exists()
        assert is_locked(lock)  # the collector has outlived its starter and still writes
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    while is_locked(lock):  # until the collector too has gone
        time.sleep(0.05)
    assert [path.name for path in place.folder.glob(".partial*")] == [f".partial-{GAME}"]
    assert built_in.built_in_dataset(GAME, "easy", 200) == place.folder
    assert sorted(path.name for path in place.folder.iterdir()) == [lock.name, GAME]
    assert TRANSITIONS <= open_game(place.folder, GAME, progress=False).num_rows < 5000


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_collector_with_the_command_and_leaves_nothing(
    place: Place, number: signal.Signals
) -> None:
    lock = place.folder / f".{GAME}.lock"
    process = start_endless(place)
    try:
        wait_for_episodes(place.folder)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number
    assert lines(err.decode())[-1].startswith(
        f"error: stopped, and no built-in data of {GAME} kept: "
    )
    assert not is_locked(lock)  # the collector has gone
    assert [path.name for path in place.folder.iterdir()] == [lock.name]


@pytest.mark.slow
@pytest.mark.skipif(
    not (built_in.POLICIES / "coinrun.pt").is_file(), reason="no policy is bundled for coinrun"
)
def test_the_bundled_policy_collects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Place(ROOT, tmp_path, ROOT / "online" / "policies").use(monkeypatch)
    store = open_game(built_in.built_in_dataset("coinrun", "easy", 200), "coinrun", progress=False)
    assert store.num_rows >= TRANSITIONS
