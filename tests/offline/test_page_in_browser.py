"""The report's page as a reader meets it: in a real browser, by pointer, keyboard and voice."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from offline.results.page import write_page
from offline.results.reporting import make_report
from tests.browser import Browser
from tests.page_reading import (
    DESKTOP,
    PHONE,
    close_run,
    column,
    contrasts,
    heading_number,
    move_focus_to,
    numbers,
    open_all_details,
    open_filmed,
    opened,
    sort_by,
    unnamed,
)
from tests.report_pages import FIGURE, STUDIED
from tests.synthetic_runs import constant_returns, write_run

pytestmark = pytest.mark.service

COUNTED = STUDIED + 1  # with the hostile one


def test_it_loads_without_a_complaint_and_asks_for_nothing_but_itself(reader: Browser) -> None:
    assert reader.complaints() == []
    assert reader.requests() <= {"file", "data"}
    open_filmed(reader)
    assert reader.complaints() == []
    assert reader.requests() <= {"file", "data"}


def test_a_script_that_is_not_the_pages_own_does_not_run(reader: Browser) -> None:
    reader.run(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        "document.body.append(s); document.body.append(Object.assign(new Image(),"
        "{src: 'https://example.org/x.png'}));"
    )
    assert reader.run("return window.hacked ?? null") is None
    reader.wait_for_paint()  # the picture is asked for after the script has ended
    script, picture = reader.complaints()
    assert "Executing inline script violates" in script
    assert "https://example.org/x.png" in picture


def test_every_run_that_counts_is_listed_and_every_other_is_told(reader: Browser) -> None:
    assert reader.text("#shown").startswith(f"{COUNTED} of {COUNTED} runs")
    assert len(reader.texts("#run-table tbody tr")) == COUNTED
    told = dict(zip(reader.texts("#left-out th"), reader.texts("#left-out td"), strict=False))
    reasons = reader.texts("#left-out td")
    assert "not finished: epoch 3 of 100 is the last logged" in reasons
    assert any(reason.startswith("not evaluated") for reason in reasons)
    assert "2 runs or files do not count" in reader.text("#left-out > p")
    assert told


def test_the_table_sorts_by_number_both_ways(reader: Browser) -> None:
    unsorted = numbers(reader, "Test")
    place = heading_number(reader, "Test")
    head = f"#run-table thead th:nth-child({place})"
    sort_by(reader, place)
    assert numbers(reader, "Test") == sorted(unsorted, reverse=True)
    assert reader.run(f"return document.querySelector('{head}').ariaSort") == "descending"
    sort_by(reader, place)
    assert numbers(reader, "Test") == sorted(unsorted)
    assert reader.run(f"return document.querySelector('{head}').ariaSort") == "ascending"
    assert len(reader.texts("#run-table [aria-sort]")) == 1
    # As text it would be the first.
    assert column(reader, "Test")[-1] == "10.50"


def test_the_table_sorts_by_words(reader: Browser) -> None:
    sort_by(reader, heading_number(reader, "Method"))
    assert column(reader, "Method") == ["BC"] * 5 + ["CQL"] * 4


def test_filters_narrow_the_table_and_the_count_is_said(reader: Browser) -> None:
    reader.choose("#game", "maze")
    assert set(column(reader, "Game")) == {"maze"}
    reader.choose("#method", "CQL")
    assert column(reader, "Method") == ["CQL", "CQL"]
    assert reader.text("#shown").startswith(f"2 of {COUNTED} runs")
    assert reader.run("return document.getElementById('shown').role") == "status"
    reader.click("#filters button[type=reset]")
    reader.wait_for(f"#run-table tbody tr:nth-child({COUNTED})")
    assert len(column(reader, "Game")) == COUNTED


def test_the_search_takes_words_in_any_order(reader: Browser) -> None:
    reader.write("#search", "cql COINRUN _2")
    assert (column(reader, "Game"), column(reader, "Method")) == (["coinrun"], ["CQL"])
    reader.write("#search", " nonsense")
    assert reader.text("#shown").startswith(f"0 of {COUNTED} runs")


def test_another_acting_mode_shows_the_runs_that_have_it_with_its_numbers(reader: Browser) -> None:
    sampled = numbers(reader, "Test")
    reader.choose("#acting", "deterministic")
    assert len(column(reader, "Game")) == STUDIED
    assert numbers(reader, "Test") != sampled[:STUDIED]
    address = reader.run("return document.querySelector('#run-table tbody a').href")
    shown = column(reader, "Test")[0]
    reader.open(opened(reader), "#" + address.partition("#")[2])
    row = next(row for row in reader.texts("dialog tbody tr") if row.startswith("test"))
    assert row.split("\t")[2].startswith(f"{shown} ±")


def test_scores_are_returns_on_the_scale_of_the_game(reader: Browser) -> None:
    reader.choose("#game", "coinrun")
    returns = numbers(reader, "Train")
    reader.choose("#numbers", "score")
    # coinrun: 5 counts as 0, 10 as 1.
    scores = [(mean - 5) / 5 for mean in returns]
    assert numbers(reader, "Train") == pytest.approx(scores, abs=0.006)


def test_the_keyboard_alone_sorts_opens_and_closes(reader: Browser) -> None:
    reader.press("Tab")
    assert reader.focused() == "Skip to the results"
    move_focus_to(reader, "#run-table thead th:nth-child(2) button")
    reader.press("Enter", "Enter")
    assert column(reader, "Method")[0] == "CQL"
    move_focus_to(reader, "#run-table tbody a")
    first = reader.focused()
    assert first.endswith("open the run")
    reader.press("Enter")
    reader.wait_for("dialog[open]")
    assert reader.focused() == reader.text("#run-title")
    reader.press("Tab", "Tab")
    close_run(reader)
    assert reader.focused() == first


def test_every_control_has_a_name(reader: Browser) -> None:
    assert unnamed(reader, "#filters") == unnamed(reader, ".bar") == []
    open_filmed(reader)
    assert unnamed(reader, "dialog") == []


def test_headings_are_in_order(reader: Browser) -> None:
    open_filmed(reader)
    for place in ("main", "dialog"):
        found = f"[...document.querySelectorAll('{place} :is(h1, h2, h3, h4, h5, h6)')]"
        levels = reader.run(f"return {found}.map((e) => Number(e.tagName[1]))")
        assert levels[0] == (1 if place == "main" else 2)
        assert all(b - a <= 1 for a, b in pairwise(levels))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(reader: Browser, theme: str) -> None:
    reader.prefer(color_scheme=theme)
    open_all_details(reader)
    found = contrasts(reader, "body")
    open_filmed(reader)
    found += contrasts(reader, "dialog")
    assert len(found) > 300
    weak = [entry for entry in found if entry[0] < 4.5]
    assert weak == []


def test_it_follows_the_system_theme_until_one_is_chosen(reader: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = reader.run(ground)
    reader.prefer(color_scheme="dark")
    dark = reader.run(ground)
    assert light != dark
    assert reader.run("return document.getElementById('theme').ariaPressed") == "true"
    reader.click("#theme")
    assert reader.run(ground) == light
    reader.open(opened(reader))
    assert reader.run(ground) == light


def test_a_phone_scrolls_tables_and_not_the_page(reader: Browser, tmp_path: Path) -> None:
    widths = "return [document.documentElement.scrollWidth, document.body.scrollWidth]"
    open_all_details(reader)
    reader.screen(*PHONE)
    assert reader.run(widths) == [360, 360]
    reader.photograph(tmp_path / "phone.png")
    open_filmed(reader)
    open_all_details(reader)
    inside = "return document.querySelector('dialog .body').scrollWidth"
    assert (reader.run(widths), reader.run(inside)) == ([360, 360], 360)
    reader.photograph(tmp_path / "phone_run.png")
    assert min(path.stat().st_size for path in tmp_path.glob("*.png")) > 10_000


def test_a_desktop_shows_the_answer_at_first_sight(reader: Browser, tmp_path: Path) -> None:
    in_sight = "return document.querySelector('.answers').getBoundingClientRect().bottom"
    assert reader.run(in_sight) < DESKTOP[1]
    reader.photograph(tmp_path / "desktop.png")
    reader.photograph(tmp_path / "desktop_whole.png", whole=True)
    assert min(path.stat().st_size for path in tmp_path.glob("*.png")) > 10_000


def test_data_to_which_others_only_add_have_a_name_in_filter_and_table(
    window: Browser, tmp_path: Path
) -> None:
    for order in ("recorded", "best"):
        write_run(tmp_path, constant_returns(9.0, 7.0, 6.0), episode_order=order, epochs=1)
    write_page(make_report([tmp_path], (), np.random.default_rng(0)), [], tmp_path / "index.html")
    window.open(tmp_path / "index.html")
    plain = "easy, 200 levels, built-in data, up to 1,000,000 transitions"
    names = {plain, "best episodes first"}
    options = window.run(
        "return [...document.querySelectorAll('#data-filter option')].map((option) => option.text)"
    )
    assert sorted(options) == sorted(["all data", *names])
    assert set(column(window, "Data")) == names


def test_figures_are_shown_with_their_captions(window: Browser, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_run(runs, constant_returns(9.0, 7.0, 6.0))
    report = make_report([runs], (), np.random.default_rng(0))
    write_page(report, [FIGURE], tmp_path / "index.html")
    window.open(tmp_path / "index.html")
    assert window.run(
        "const picture = document.querySelector('#figure-iqm img'); picture.scrollIntoView();"
        "return picture.decode().then(() => picture.naturalWidth)"
    )
    # 10 points are 17.5 pixels; twice as high as wide.
    box = "const box = document.querySelector('#figure-iqm img').getBoundingClientRect();"
    assert window.run(f"{box} return [Math.round(box.width), Math.round(box.height)]") == [18, 36]
    assert window.text("#figure-iqm h3") == FIGURE.title
    assert window.label("#figure-iqm img") == FIGURE.title
    assert window.text("#figure-iqm figcaption") == FIGURE.caption
    assert window.complaints() == []
