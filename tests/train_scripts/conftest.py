from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.offline_commands import collect_episodes
from tests.train_scripts.slurm_cluster import SlurmCluster, missing_programs, slurm_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if missing := missing_programs():
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)}")
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect_episodes(tmp_path_factory.mktemp("dataset"))
