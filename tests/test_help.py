"""Every command answers `--help` at once: nothing heavy is imported before there is work."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_CPU_SECONDS = 2.0


def commands() -> list[str]:
    """Modules with a top-level `main`, private files aside."""
    files = [ROOT / "download.py"]
    for package in ("offline", "online", "train_scripts"):
        files += sorted((ROOT / package).rglob("*.py"))
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files
        if path.exists() and not path.name.startswith("_") and _has_main(path)
    ]


def _has_main(path: Path) -> bool:
    statements = ast.parse(path.read_text()).body
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in statements)


def _run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run Python; the finished process and the CPU seconds (user and system) it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_main_commands_are_found() -> None:
    assert {
        "offline.demo",
        "offline.train_offline_agent",
        "offline.evaluate_offline_agent",
        "online.trainer",
        "online.data_collector",
    } <= set(commands())


@pytest.mark.parametrize("module", commands())
def test_help_is_answered_in_two_seconds(module: str) -> None:
    seconds = float("inf")
    for _ in range(3):
        done, took = _run("-m", module, "--help")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: python -m {module} ")
        seconds = min(seconds, took)
        if seconds < MAX_CPU_SECONDS:
            break
    assert seconds < MAX_CPU_SECONDS


@pytest.mark.parametrize("module", commands())
def test_importing_a_command_imports_no_torch(module: str) -> None:
    done, _ = _run("-c", f"import sys, {module}; print('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")
