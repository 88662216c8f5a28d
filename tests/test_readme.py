"""What the READMEs tell a user to type exists and is understood."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READMES = (
    "README.md",
    "online/README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "data",
            "learning",
            "methods",
            "profile",
            "seeds",
            "speed",
            "sweeps",
            "throughput",
        )
    ),
)
_COMMAND = re.compile(r"python -m (?P<module>[\w.]+)(?P<rest>[^`\n\\]*(?:\\\n[^`\n\\]*)*)")


def commands() -> list[tuple[str, str, str]]:
    """(README, module, flags as written) of every `python -m ...` in the READMEs."""
    return [
        (name, match["module"], match["rest"].replace("\\\n", " "))
        for name in READMES
        for match in _COMMAND.finditer((ROOT / name).read_text(encoding="utf-8"))
    ]


def flags_in(text: str) -> set[str]:
    """Names of the flags in a command's text, without values."""
    words = shlex.split(re.sub(r"<[^>]*>", "", text))
    return {word.split("=")[0] for word in words if word.startswith("--")}


def test_the_readmes_name_commands() -> None:
    assert {"offline.train_offline_agent", "online.trainer"} <= {c[1] for c in commands()}


@pytest.mark.parametrize("module", sorted({c[1] for c in commands()}))
def test_every_command_in_the_readmes_takes_the_flags_shown_with_it(module: str) -> None:
    assert importlib.util.find_spec(module) is not None, (
        f"README names {module}, which is not there"
    )
    shown = set().union(*(flags_in(rest) for _, name, rest in commands() if name == module))
    if not shown:
        return
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    known = set(re.findall(r"--\w+", done.stdout))
    assert shown <= known, f"{module} does not take {', '.join(sorted(shown - known))}"


@pytest.mark.parametrize("target", ["demo", "report", "test", "check"])
def test_the_make_targets_of_the_readme_are_there(target: str) -> None:
    assert f"make {target}" in (ROOT / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("readme", READMES)
def test_no_readme_keeps_a_placeholder(readme: str) -> None:
    text = re.sub(r"`[^`]*`", "", (ROOT / readme).read_text(encoding="utf-8"))
    assert not re.findall(r"\b[A-Z]{2,}_[A-Z_]+\b|^[A-Z]{3,}$|TODO|FIXME|XXX", text, re.MULTILINE)


@pytest.mark.parametrize("readme", READMES)
def test_every_picture_and_path_of_the_readmes_exists(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert ((ROOT / readme).parent / picture).is_file(), picture
