"""The figures of a report as files, and what holds for all of them together."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex

from common.errors import ToolkitError
from offline.arguments import ALGORITHMS
from offline.results.figure_files import FigureFile
from offline.results.method_styles import DrawnFigure, method_style
from offline.results.report_figures import write_figures
from tests.drawn_figures import drawn, report_on
from tests.synthetic_runs import constant_returns, write_run, write_study

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
RETURNS = constant_returns(9.0, 7.0, 6.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two methods on three games, and of one with more levels; not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    games = ["bigfish", "coinrun", "miner"]
    write_study(folder, games=games, methods=["bc", "cql"], seeds=(1, 2), episodes=20)
    for game in games:
        write_run(
            folder, RETURNS, env_name=game, algo="bc", seed=1, num_levels=500, dataset="data/500"
        )
    return folder


@pytest.fixture(scope="module")
def figures(study: Path) -> dict[str, DrawnFigure]:
    return drawn(report_on(study, ["ppo", "random"]))


@pytest.fixture(scope="module")
def written(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[FigureFile]]:
    """The folder of the figures, and the figures; not to be changed."""
    out = tmp_path_factory.mktemp("report")
    return out / "figures", write_figures(report_on(study, ["ppo", "random"]), out)


def test_every_figure_is_written_as_svg_and_png(written: tuple[Path, list[FigureFile]]) -> None:
    folder, files = written
    names = [file.name for file in files]
    assert names == [
        "scores-easy-200-d1M",
        "gap-easy-200-d1M",
        "profiles-easy-200-d1M",
        "curves-easy-200-d1M",
        "levels-bc-easy-200-d1M",
        "levels-cql-easy-200-d1M",
        "scores-easy-200-d1M-deterministic",
        "gap-easy-200-d1M-deterministic",
        "profiles-easy-200-d1M-deterministic",
        "scores-easy-500-d1M-500",
        "gap-easy-500-d1M-500",
        "profiles-easy-500-d1M-500",
        "curves-easy-500-d1M-500",
        "levels-bc-easy-500-d1M-500",
        "by-num_levels",
    ]
    expected = {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == {*expected, "captions.md"}
    for file in files:
        assert (folder / f"{file.name}.svg").read_text() == file.svg
        assert (folder / f"{file.name}.png").read_bytes().startswith(b"\x89PNG")


def test_titles_tell_figures_apart_and_captions_are_written_down(
    written: tuple[Path, list[FigureFile]],
) -> None:
    folder, files = written
    assert len({file.title for file in files}) == len(files)
    text = (folder / "captions.md").read_text()
    for file in files:
        assert f"## {file.name}\n\n**{file.title}.** {file.caption}\n" in text


def test_ids_are_unique_across_all_figures_and_all_that_is_referred_to_is_there(
    written: tuple[Path, list[FigureFile]],
) -> None:
    every: list[str] = []
    for file in written[1]:
        elements = list(ElementTree.fromstring(file.svg).iter())
        own = [element.attrib["id"] for element in elements if "id" in element.attrib]
        targets = set(re.findall(r"url\(#([^)]+)\)", file.svg))
        targets |= {e.attrib[f"{XLINK}href"][1:] for e in elements if f"{XLINK}href" in e.attrib}
        assert targets <= set(own)
        every += own
    assert len(every) == len(set(every))


def test_an_svg_is_drawn_in_lines_and_text_alone(written: tuple[Path, list[FigureFile]]) -> None:
    for file in written[1]:
        root = ElementTree.fromstring(file.svg)
        assert root.tag == f"{SVG}svg"
        assert not list(root.iter(f"{SVG}image"))
        texts = {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
        assert texts & {"BC", "CQL", "mean return"}, file.name
        assert len(file.svg) < 200_000


def test_a_method_looks_the_same_in_every_figure(figures: dict[str, DrawnFigure]) -> None:
    seen: dict[str, set[tuple[str, object]]] = {"bc": set(), "cql": set()}
    for figure in figures.values():
        for axes in figure.figure.axes:
            for line in axes.lines:
                name = str(line.get_label()).split()[0]
                if name in seen:
                    seen[name].add((to_hex(line.get_color()), line.get_marker()))
        for handle in (h for legend in figure.figure.legends for h in legend.legend_handles):
            name = str(handle.get_label()).lower()
            if name in seen:
                seen[name].add((to_hex(handle.get_color()), handle.get_marker()))
    for name, looks in seen.items():
        style = method_style(name)
        assert looks == {(style.colour.lower(), style.marker)}


def test_no_two_methods_share_a_colour_or_a_marker() -> None:
    styles = [method_style(name) for name in ALGORITHMS]
    assert len({style.colour for style in styles}) == len(ALGORITHMS)
    assert len({style.marker for style in styles}) == len(ALGORITHMS)


def test_the_same_report_gives_the_same_files(
    study: Path, written: tuple[Path, list[FigureFile]], tmp_path: Path
) -> None:
    again = write_figures(report_on(study, ["ppo", "random"]), tmp_path)
    assert again == written[1]
    for file in written[0].iterdir():
        assert (tmp_path / "figures" / file.name).read_bytes() == file.read_bytes()


def test_figures_of_data_in_folders_of_one_name_have_names_of_their_own(tmp_path: Path) -> None:
    for parent in ("mine", "theirs"):
        write_run(tmp_path, RETURNS, seed=1, dataset=f"{parent}/1M E", xpid=parent)
    names = [name for name in drawn(report_on(tmp_path)) if name.startswith("scores")]
    assert names == ["scores-easy-200-d1M-1M_E", "scores-easy-200-d1M-1M_E-2"]


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", RETURNS, seed=1)
    (tmp_path / "figures").write_text("mine")
    with pytest.raises(ToolkitError, match=r"^cannot write .*scores-easy-200-d1M\.png"):
        write_figures(report_on(tmp_path / "runs"), tmp_path)
    assert (tmp_path / "figures").read_text() == "mine"


def test_old_figures_are_replaced_and_what_else_lies_there_stays(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", RETURNS, seed=1)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "scores-easy-200-d1M.svg").write_text("old")
    (tmp_path / "figures" / "mine.svg").write_text("mine")
    write_figures(report_on(tmp_path / "runs"), tmp_path)
    assert (tmp_path / "figures" / "scores-easy-200-d1M.svg").read_text().startswith("<svg")
    assert (tmp_path / "figures" / "mine.svg").read_text() == "mine"
