"""Runs of `online.trainer` that several tests look at; they are not to be changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.online_runs import LONG, only, run_folder, train


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that kept every policy; the folder above `models`."""
    folder = tmp_path_factory.mktemp("finished")
    assert train(folder, archive_interval=1) == 0
    return folder


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten updates that recorded its episodes and was never stopped."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert train(folder, **LONG) == 0
    return folder


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The final policy of a run of one update."""
    folder = tmp_path_factory.mktemp("policy")
    assert train(folder, num_env_steps=1) == 0
    return only(run_folder(folder) / "final", "*")
