"""What tests of the report's page do with it, as a reader would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import Browser

DESKTOP, PHONE = (1280, 900), (360, 740)
FILMED = "#run/coinrun/coinrun-easy-200-d1M-bc-"  # seed 1, as its address begins
# Of every element with text of its own: contrast with what is behind it, and the text.
_CONTRASTS = """
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


def open_filmed(reader: Browser) -> None:
    reader.click(f'#run-table a[href^="{FILMED}"][href$="_1"]')
    reader.wait_for("dialog[open]")


def close_run(reader: Browser) -> None:
    """By the Escape key. The browser tells the page only after it has closed the view."""
    reader.press("Escape")
    reader.wait_for("#run:empty")


def open_all_details(reader: Browser) -> None:
    """Unfold everything, and wait for what the page makes only then."""
    reader.run("for (const e of document.querySelectorAll('details')) e.open = true")
    reader.wait_for_paint()


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


def contrasts(reader: Browser, place: str) -> list[tuple[float, str]]:
    """Of every text in sight there, its contrast with its ground and how it begins."""
    return [(contrast, text) for contrast, text in reader.run(_CONTRASTS, place)]


def opened(reader: Browser) -> Path:
    """The file that is open."""
    return Path(reader.run("return decodeURIComponent(location.pathname)"))
