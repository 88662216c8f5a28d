from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, browser, missing_programs
from tests.offline_commands import (
    CREDENTIAL,
    TINY,
    TRAIN,
    FinishedRun,
    collect_episodes,
    end,
    flags,
    run,
    start,
    wait_for,
)
from tests.page_reading import DESKTOP
from tests.report_pages import write_page_of_study


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder with about 600 real transitions of one game; not to be changed."""
    return collect_episodes(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> FinishedRun:
    """A run trained by the real command, unbroken; its data are gone. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    data = folder / "data"
    shutil.copytree(dataset, data)
    settings = {**TINY, "dataset": data, "xpid": "run"}
    arguments = flags(settings, save_path=folder / "runs")
    process = run(TRAIN, *arguments, SOME_CREDENTIAL=CREDENTIAL)
    assert process.returncode == 0, process.stderr
    shutil.rmtree(data)
    return FinishedRun(settings, folder / "runs", process)


@pytest.fixture
def finished_copy(finished_run: FinishedRun, tmp_path: Path) -> FinishedRun:
    """The finished run, to be changed."""
    shutil.copytree(finished_run.save_path, tmp_path / "runs", symlinks=True)
    return finished_run._replace(save_path=tmp_path / "runs")


@pytest.fixture(scope="session")
def terminated_run(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> tuple[Path, int]:
    """The same run after a SIGTERM in its second epoch: its --save_path, not to be changed, and the
    exit code.
    """
    save_path = tmp_path_factory.mktemp("terminated")
    arguments = flags({**TINY, "dataset": dataset, "xpid": "run"}, save_path=save_path)
    process = start(TRAIN, *arguments)
    wait_for(process, "epoch 2/3")
    process.send_signal(signal.SIGTERM)
    return save_path, end(process)


@pytest.fixture
def unfinished_copy(terminated_run: tuple[Path, int], tmp_path: Path) -> Path:
    """The folder --save_path of an unfinished run, to be changed."""
    shutil.copytree(terminated_run[0], tmp_path / "runs", symlinks=True)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small study, as the command writes it; not to be changed."""
    return write_page_of_study(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser, or the reason why there is none."""
    if missing := missing_programs():
        pytest.skip(f"no browser is installed: no {', '.join(missing)}")
    with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def reader(window: Browser, report_page: Path) -> Browser:
    """The page, just opened on a desktop with a light theme."""
    window.screen(*DESKTOP)
    window.prefer(color_scheme="light", reduced_motion="no-preference")
    window.open(report_page)
    window.run("localStorage.clear()")
    window.open(report_page)
    return window
