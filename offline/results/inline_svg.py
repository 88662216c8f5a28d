"""SVGs as matplotlib writes them, made fit to stand beside each other in one HTML page.

In a page the ids of all SVGs are in one namespace, a stylesheet holds for the whole document, and
XML declarations are not allowed.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_HREF = f"{{{_XLINK}}}href"
_URL = re.compile(r"url\(#([^)]+)\)")
_GEOMETRY = frozenset({"d", "x", "y", "transform"})
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")  # of a point, 1/72 inch: two are as fine as print
_FONT = "'DejaVu Sans'"
_FONTS = f"{_FONT}, Verdana, sans-serif"  # the second is as wide as the first


def inline_svg(svg: str, name: str) -> str:
    """`svg` without declaration and metadata; every id that is left begins with `name`.

    Coordinates are rounded to 0.01 points, which halves the size.

    Ids that nothing refers to go, and the stylesheet is that of this SVG alone. `name` must be an
    XML name. Raises xml.etree.ElementTree.ParseError if `svg` is no XML.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    used = {target for element in root.iter() for target in _targets(element.attrib)}
    for element in root.iter():
        attributes = element.attrib
        if attributes.get("id") in used:
            attributes["id"] = f"{name}-{attributes['id']}"
        else:
            attributes.pop("id", None)
        for key, value in attributes.items():
            if key == _HREF:
                attributes[key] = value.replace("#", f"#{name}-", 1)
            elif key in _GEOMETRY:
                attributes[key] = _DECIMALS.sub(_rounded, value)
            else:
                attributes[key] = _URL.sub(rf"url(#{name}-\1)", value).replace(_FONT, _FONTS)
        if element.tag == f"{{{_SVG}}}style" and element.text:
            element.text = element.text.replace("*{", f"#{name} *{{")
    root.set("id", name)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _targets(attributes: dict[str, str]) -> list[str]:
    found = [target for value in attributes.values() for target in _URL.findall(value)]
    if _HREF in attributes:
        found.append(attributes[_HREF].removeprefix("#"))
    return found
