"""The report's page as a reader meets it: in a real browser, by pointer, keyboard and voice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from offline.results.page import write_page
from offline.results.reporting import make_report
from tests.browser import Browser, browser, missing_programs
from tests.report_pages import FIGURE, HOSTILE, STUDIED, write_page_of_study
from tests.synthetic_runs import constant_returns, write_run

pytestmark = pytest.mark.service

DESKTOP, PHONE = (1280, 900), (360, 740)
COUNTED = STUDIED + 1  # with the hostile one
FILMED = "#run/coinrun/coinrun-easy-200-d1M-bc-"  # seed 1, as its address begins
# Of every element with text of its own: contrast with what is behind it, and the text.
CONTRASTS = """
const channel = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255);
};
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const colour = rgba(getComputedStyle(e).backgroundColor);
    if (colour[3] === 1) return colour;
  }
  return [1, 1, 1, 1];
};
const texts = [...document.querySelectorAll(arguments[0] + " *")].filter((e) =>
  e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
return texts.map((e) => {
  const style = getComputedStyle(e);
  const ink = light(rgba(e instanceof SVGElement ? style.fill : style.color));
  const paper = light(behind(e));
  const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  return [contrast, e.textContent.trim().slice(0, 40)];
});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_page_of_study(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if missing := missing_programs():
        pytest.skip(f"no browser is installed: no {', '.join(missing)}")
    with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def reader(window: Browser, page: Path) -> Browser:
    """The page, just opened on a desktop with a light theme."""
    window.screen(*DESKTOP)
    window.prefer(color_scheme="light", reduced_motion="no-preference")
    window.open(page)
    window.run("localStorage.clear()")
    window.open(page)
    return window


def open_filmed(reader: Browser) -> None:
    reader.click(f'#run-table a[href^="{FILMED}"][href$="_1"]')
    reader.wait_for("dialog[open]")


def column(reader: Browser, name: str) -> list[str]:
    """The cells below a heading of the table of runs, top to bottom."""
    heads = [text.split("\n")[0].strip() for text in reader.texts("#run-table thead th")]
    place = heads.index(name) + 1
    return reader.texts(f"#run-table tbody tr > :nth-child({place})")


def numbers(reader: Browser, name: str) -> list[float]:
    return [float(text.replace("−", "-")) for text in column(reader, name)]


def sort_by(reader: Browser, number: int) -> None:
    reader.click(f"#run-table thead th:nth-child({number}) button")


def heading_number(reader: Browser, name: str) -> int:
    heads = [text.split("\n")[0].strip() for text in reader.texts("#run-table thead th")]
    return heads.index(name) + 1


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
    script, picture = reader.complaints()
    assert "Executing inline script violates" in script
    assert "https://example.org/x.png" in picture


def test_what_runs_are_called_is_text(reader: Browser) -> None:
    shown = 'return [window.hacked ?? null, document.querySelectorAll("img[src=x]").length]'
    assert reader.run(shown) == [None, 0]
    reader.open(reader_page(reader), "#run/%3C/" + quote(f"script>{HOSTILE}", safe=""))
    assert HOSTILE in reader.text("dialog .where")
    assert f"script>{HOSTILE}" in reader.text("dialog .body > .path")
    assert HOSTILE in reader.texts("dialog td")
    assert reader.run(shown) == [None, 0]
    assert reader.complaints() == []


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
    reader.open(reader_page(reader), "#" + address.partition("#")[2])
    row = next(row for row in reader.texts("dialog tbody tr") if row.startswith("test"))
    assert row.split("\t")[2].startswith(f"{shown} ±")


def test_scores_are_returns_on_the_scale_of_the_game(reader: Browser) -> None:
    reader.choose("#game", "coinrun")
    returns = numbers(reader, "Train")
    reader.choose("#numbers", "score")
    # coinrun: 5 counts as 0, 10 as 1.
    scores = [(mean - 5) / 5 for mean in returns]
    assert numbers(reader, "Train") == pytest.approx(scores, abs=0.006)


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
    reader.press("Escape")
    assert reader.run("return [document.getElementById('run').open, location.hash]") == [False, ""]
    assert reader.focused() == "coinrun: BC, built-in data, seed 1, open the run"


def test_a_run_can_be_bookmarked_and_left_with_the_back_button(reader: Browser) -> None:
    open_filmed(reader)
    address = reader.run("return location.hash")
    reader.run("history.back()")
    reader.wait_for("dialog:not([open])")
    reader.open(reader_page(reader), address)
    assert reader.text("#run-title") == "coinrun, BC, seed 1"


def test_the_neighbours_of_a_run_follow_the_table(reader: Browser) -> None:
    reader.choose("#game", "maze")
    reader.click("#run-table tbody tr:nth-child(2) a")
    reader.wait_for("dialog[open]")
    assert reader.text("#run-title") == "maze, BC, seed 2"
    assert reader.label("dialog nav a:first-of-type") == "Previous: maze, BC, seed 1"
    reader.click("dialog nav a:last-of-type")
    reader.wait_for("dialog nav a[aria-label='Next: maze, CQL, seed 2']")
    assert reader.text("#run-title") == "maze, CQL, seed 1"


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
    reader.press("Tab", "Tab", "Escape")
    assert reader.focused() == first


def test_every_control_has_a_name(reader: Browser) -> None:
    assert unnamed(reader, "#filters") == unnamed(reader, ".bar") == []
    open_filmed(reader)
    assert unnamed(reader, "dialog") == []


def unnamed(reader: Browser, place: str) -> list[int]:
    """Which of the controls in sight there have no name, but for all cells of a map but one."""
    mark = (
        "const all = [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()"
        "&& e.tabIndex >= 0); all.forEach((e, i) => (e.dataset.number = i)); return all.length"
    )
    count = reader.run(mark, f"{place} :is(a, button, select, input, video, summary)")
    assert count > 0
    return [i for i in range(count) if not reader.label(f"{place} [data-number='{i}']")]


def move_focus_to(reader: Browser, selector: str) -> None:
    """By the Tab key."""
    for _ in range(60):
        if reader.run(f"return document.activeElement.matches('{selector}')"):
            return
        reader.press("Tab")
    pytest.fail(f"the Tab key does not lead to {selector}")


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
    reader.run("for (const e of document.querySelectorAll('details')) e.open = true")
    found = reader.run(CONTRASTS, "body")
    open_filmed(reader)
    found += reader.run(CONTRASTS, "dialog")
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
    reader.open(reader_page(reader))
    assert reader.run(ground) == light


def test_films_do_not_start_for_those_who_want_less_motion(reader: Browser) -> None:
    reader.prefer(reduced_motion="reduce")
    reader.open(reader_page(reader))
    open_filmed(reader)
    film = "return document.querySelector('dialog .films details:has(img)').open"
    assert reader.run(film) is False


def test_a_phone_scrolls_tables_and_not_the_page(reader: Browser, tmp_path: Path) -> None:
    widths = "return [document.documentElement.scrollWidth, document.body.scrollWidth]"
    reader.run("for (const e of document.querySelectorAll('details')) e.open = true")
    reader.screen(*PHONE)
    assert reader.run(widths) == [360, 360]
    reader.photograph(tmp_path / "phone.png")
    open_filmed(reader)
    reader.run("for (const e of document.querySelectorAll('details')) e.open = true")
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
    assert window.text("#figure-iqm h3") == FIGURE.title
    assert window.label("#figure-iqm img") == FIGURE.caption
    assert window.complaints() == []


def reader_page(reader: Browser) -> Path:
    """The file that is open."""
    return Path(reader.run("return decodeURIComponent(location.pathname)"))
