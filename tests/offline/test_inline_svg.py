"""SVGs that are to stand in one HTML page, on a small one written by hand."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from offline.results.inline_svg import inline_svg

WRITTEN = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="252pt" viewBox="0 0 252 180"
 xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata><date>2026-01-01</date></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <defs><path id="m1" d="M 0 3.5"/><clipPath id="p1"><rect x="34.1234567" y="7"/></clipPath></defs>
 <g id="axes_1">
  <path d="M 1.23456 -2.00049 L 3.5 100" clip-path="url(#p1)" style="fill: none"/>
  <use xlink:href="#m1" x="1.005" y="2"/>
  <text style="font: 8px 'DejaVu Sans'">id="m1" url(#p1) &lt;&amp; 1.23456</text>
 </g>
</svg>
"""


def test_ids_begin_with_the_name_and_are_found_by_what_refers_to_them() -> None:
    svg = inline_svg(WRITTEN, "scores")
    for expected in (
        '<path id="scores-m1"',
        '<clipPath id="scores-p1"',
        'clip-path="url(#scores-p1)"',
        'xlink:href="#scores-m1"',
    ):
        assert expected in svg


def test_ids_that_nothing_refers_to_are_gone() -> None:
    assert "axes_1" not in inline_svg(WRITTEN, "scores")


def test_the_stylesheet_is_that_of_this_svg_alone() -> None:
    svg = inline_svg(WRITTEN, "scores")
    assert "#scores *{stroke-linejoin: round}" in svg
    assert ElementTree.fromstring(svg).get("id") == "scores"


def test_declaration_document_type_and_metadata_are_gone() -> None:
    svg = inline_svg(WRITTEN, "scores")
    assert svg.startswith("<svg ")
    for absent in ("<?xml", "DOCTYPE", "metadata", "2026"):
        assert absent not in svg


def test_coordinates_are_rounded_to_hundredths() -> None:
    svg = inline_svg(WRITTEN, "scores")
    assert 'd="M 1.23 -2 L 3.5 100"' in svg
    assert 'x="34.12" y="7"' in svg


def test_text_stays_as_it_is_in_a_font_that_every_reader_has() -> None:
    svg = inline_svg(WRITTEN, "scores")
    assert 'id="m1" url(#p1) &lt;&amp; 1.23456</text>' in svg
    assert "font: 8px 'DejaVu Sans', Verdana, sans-serif" in svg


def test_what_is_no_xml_is_refused() -> None:
    with pytest.raises(ElementTree.ParseError):
        inline_svg("<svg><g></svg>", "scores")
