"""The view of one run on the report's page, in a real browser."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from offline.results.page import write_page
from offline.results.reporting import make_report
from tests.browser import Browser
from tests.page_reading import (
    FILMED,
    close_run,
    open_filmed,
    opened,
)
from tests.report_pages import HOSTILE
from tests.synthetic_runs import constant_returns, write_run

pytestmark = pytest.mark.service


def test_a_run_shows_its_curves_settings_levels_and_films(reader: Browser) -> None:
    open_filmed(reader)
    assert reader.text("#run-title") == "coinrun, BC, seed 1"
    drawn = reader.run(
        "return [...document.querySelectorAll('dialog .curve')].map((e) => e.getTotalLength())"
    )
    assert len(drawn) == 4
    assert min(drawn) > 100
    assert len(reader.texts("dialog .map .cell")) == 200
    loaded = reader.run(
        "const film = document.querySelector('dialog .films img');"
        "film.scrollIntoView(); return film.decode().then(() => film.naturalWidth)"
    )
    assert loaded == 48
    width = reader.run(
        "const film = document.querySelector('dialog .films video'); return film.videoWidth ||"
        "new Promise((r) => film.addEventListener('loadeddata', () => r(film.videoWidth)))"
    )
    assert width == 64
    assert reader.text("dialog .absent > p:first-child").endswith("no PNG file")
    assert reader.complaints() == []


def test_the_settings_that_set_a_run_apart_come_first(reader: Browser) -> None:
    reader.choose("#method", "CQL")
    reader.click("#run-table tbody a")
    reader.wait_for("dialog[open]")
    rows = [row.split("\t") for row in reader.texts("dialog [aria-label=Settings] tbody tr")]
    # 5 of the 9 runs are BC's; no seed has more than 4.
    assert rows[0] == ["algo", "cql", "bc"]
    assert rows[1][:2] == ["seed", "1"]
    assert [row[0] for row in rows[2:]] == ["xpid", *sorted(row[0] for row in rows[3:])]
    assert ["batch_size", "64", "the same"] in rows


def test_curves_and_levels_are_also_there_as_tables(reader: Browser) -> None:
    open_filmed(reader)
    for summary in reader.run(
        "return [...document.querySelectorAll('dialog .body > details, .map ~ details')]"
        ".map((e) => (e.open = true, e.innerText))"
    ):
        assert summary.endswith("as a table")
    rows = "[aria-label='{}'] tbody tr"
    reader.wait_for("dialog [aria-label='Returns by training level'] td")
    assert len(reader.texts("dialog " + rows.format("Learning curves"))) == 40
    levels = reader.texts("dialog " + rows.format("Returns by training level"))
    assert sum(int(row.split()[-1]) for row in levels) == 20


def test_levels_are_told_apart_by_keyboard_and_those_not_played_are_said(reader: Browser) -> None:
    open_filmed(reader)
    labels = reader.run(
        "return [...document.querySelectorAll('dialog .map .cell')].map((e) => e.ariaLabel)"
    )
    assert [label.split(":")[0] for label in labels] == [f"Level {i}" for i in range(200)]
    unplayed = reader.run("return document.querySelectorAll('.map .unplayed').length")
    assert sum(label.endswith("not played") for label in labels) == unplayed > 0
    reader.run("document.querySelector('dialog .map .cell').focus()")
    reader.press("ArrowRight", "ArrowDown")
    assert reader.focused() == labels[1 + 40]
    assert reader.text("dialog .map ~ .readout") == labels[1 + 40]


def test_escape_closes_a_run_and_gives_the_focus_back(reader: Browser) -> None:
    open_filmed(reader)
    assert reader.run("return location.hash").startswith(FILMED)
    close_run(reader)
    assert reader.run("return [document.getElementById('run').open, location.hash]") == [False, ""]
    assert reader.focused() == "coinrun: BC, built-in data, seed 1, open the run"


def test_a_run_can_be_bookmarked_and_left_with_the_back_button(reader: Browser) -> None:
    open_filmed(reader)
    address = reader.run("return location.hash")
    reader.run("history.back()")
    reader.wait_for("dialog:not([open])")
    reader.open(opened(reader), address)
    assert reader.text("#run-title") == "coinrun, BC, seed 1"
    close_run(reader)
    assert reader.focused() == "Runs"


def test_the_neighbours_of_a_run_follow_the_table(reader: Browser) -> None:
    reader.choose("#game", "maze")
    reader.click("#run-table tbody tr:nth-child(2) a")
    reader.wait_for("dialog[open]")
    assert reader.text("#run-title") == "maze, BC, seed 2"
    assert reader.label("dialog nav a:first-of-type") == "Previous: maze, BC, seed 1"
    reader.click("dialog nav a:last-of-type")
    reader.wait_for("dialog nav a[aria-label='Next: maze, CQL, seed 2']")
    assert reader.text("#run-title") == "maze, CQL, seed 1"


def test_what_runs_are_called_is_text(reader: Browser) -> None:
    shown = 'return [window.hacked ?? null, document.querySelectorAll("img[src=x]").length]'
    assert reader.run(shown) == [None, 0]
    reader.open(opened(reader), "#run/%3C/" + quote(f"script>{HOSTILE}", safe=""))
    assert HOSTILE in reader.text("dialog .where")
    assert f"script>{HOSTILE}" in reader.text("dialog .body > .path")
    assert HOSTILE in reader.texts("dialog td")
    assert reader.run(shown) == [None, 0]
    assert reader.complaints() == []


def test_a_run_whose_name_is_no_utf8_is_listed_and_opens(window: Browser, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", constant_returns(9.0, 7.0, 6.0), xpid="caf\udce9", epochs=1)
    window.open(page_on(tmp_path))
    window.click("#run-table tbody a")
    window.wait_for("dialog[open]")
    assert window.text("dialog .body > .path") == f"{tmp_path}/runs/coinrun/caf\\udce9"
    assert window.run("return location.hash") == "#run/coinrun/caf%5Cudce9"
    assert window.complaints() == []


def test_the_only_level_of_a_run_is_not_said_to_have_others(
    window: Browser, tmp_path: Path
) -> None:
    write_run(tmp_path / "runs", {"train": [4.0]}, meta={"level": 40}, epochs=1)
    window.open(page_on(tmp_path))
    window.click("#run-table tbody a")
    window.wait_for("dialog[open]")
    assert window.text("dialog .map ~ .note") == "The evaluation played 1 of 1 training level."


def page_on(folder: Path) -> Path:
    """The page, without figures, on the runs in `folder`/runs."""
    report = make_report([folder / "runs"], (), np.random.default_rng(0))
    write_page(report, [], folder / "index.html")
    return folder / "index.html"


def test_films_do_not_start_for_those_who_want_less_motion(reader: Browser) -> None:
    reader.prefer(reduced_motion="reduce")
    reader.open(opened(reader))
    open_filmed(reader)
    film = "return document.querySelector('dialog .films details:has(img)').open"
    assert reader.run(film) is False
