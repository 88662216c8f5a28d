"""The rules of the house that no linter knows: who imports whom, who knows an algorithm's name."""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_TRACKED_BYTES = 6 * 2**20
PACKAGES = ("common", "offline", "online", "train_scripts", "benchmarks", "docs", "tests")
OURS = (*PACKAGES, "download")

# Files in offline/agents that several algorithms share; every other file there is an algorithm.
SHARED_AGENT_FILES = {"__init__", "base", "targets", "transformer"}
# What one algorithm may take from another: BCT is DT without returns.
SIBLINGS_ALLOWED = {("bct", "dt")}
ALGORITHMS = {"bc", "bcq", "bct", "cql", "dt", "iql"}
ALGORITHMS |= {path.stem for path in ROOT.glob("offline/agents/*.py")} - SHARED_AGENT_FILES

# What a package may import of ours; packages that are not named here may import anything.
ALLOWED = {
    "common": ("common",),
    "offline": ("offline", "common"),
    "online": ("online", "common"),
    # Argument definitions, what they are written with, the one-line errors they raise, files that
    # are written whole, and what a run's folder tells.
    "train_scripts": (
        "train_scripts",
        "offline.acting",
        "offline.arguments",
        "offline.run_names",
        "online.arguments",
        "common.flags",
        "common.errors",
        "common.files",
        "common.run_logger",
    ),
}


def tracked_files() -> list[Path]:
    """What git has or would add; in a copy without git, everything that is not hidden."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(git, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        files = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        generated = {"data", "demo", "logs", "report", "runs"}
        files = [
            path
            for path in ROOT.rglob("*")
            if (parts := path.relative_to(ROOT).parts)
            and parts[0] not in generated
            and not any(part.startswith(".") or part == "__pycache__" for part in parts)
        ]
    return sorted(path for path in files if path.is_file())


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str, path: Path) -> Iterator[str]:
    """Full dotted names of everything imported anywhere in the file, functions included."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function = ast.unparse(node.func)
            target = node.args[0]
            if isinstance(target, ast.JoinedStr) and target.values:
                target = target.values[0]
            if (
                function.split(".")[-1] in {"import_module", "__import__"}
                and isinstance(target, ast.Constant)
                and isinstance(target.value, str)
            ):
                yield target.value.rstrip(".")


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def allowed_imports(path: Path) -> tuple[str, ...] | None:
    """The modules of ours that this file may import; None for any."""
    relative = path.relative_to(ROOT)
    if relative.parent != Path("offline/agents") or path.stem == "__init__":
        return ALLOWED.get(relative.parts[0])
    shared = tuple(f"offline.agents.{name}" for name in SHARED_AGENT_FILES - {"__init__"})
    if path.stem in SHARED_AGENT_FILES:
        # The contract may speak of data views; it may not know the algorithms that keep it.
        return ("common", "offline.data", "offline.arguments", "offline.acting", *shared)
    siblings = (
        f"offline.agents.{other}" for agent, other in SIBLINGS_ALLOWED if agent == path.stem
    )
    return ("common", *shared, *siblings)


def import_violations(source: str, path: Path) -> list[str]:
    allowed = allowed_imports(path)
    if allowed is None:
        return []
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for name in imported_names(source, path)
        if name.split(".")[0] in OURS and not any(is_within(name, module) for module in allowed)
    ]


def algorithm_tests(source: str, names: Collection[str] = ALGORITHMS) -> list[str]:
    """Comparisons with, and `case`s of, a string that is one of `names`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            for operand in list(operands):
                if isinstance(operand, ast.Tuple | ast.List | ast.Set):
                    operands += operand.elts
        elif isinstance(node, ast.MatchValue):
            operands = [node.value]
        else:
            continue
        if any(isinstance(o, ast.Constant) and o.value in names for o in operands):
            found.append(ast.unparse(node))
    return found


def test_packages_import_only_what_the_design_allows() -> None:
    violations = [v for path in python_files() for v in import_violations(path.read_text(), path)]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("common/a.py", "import offline.training"),
        ("common/a.py", "from online import ppo"),
        ("offline/a.py", "def f():\n    from online.ppo import PPO"),
        ("offline/a.py", "import importlib\nimportlib.import_module('online.ppo')"),
        ("offline/a.py", "import download"),
        ("online/a.py", "def f():\n    def g():\n        import offline.data.store as store"),
        ("online/a.py", "import importlib\nimportlib.import_module(f'offline.{name}')"),
        ("train_scripts/a.py", "from offline.training import fit"),
        ("train_scripts/a.py", "from offline import training"),
        ("train_scripts/a.py", "from common import envs"),
        ("offline/agents/cql.py", "from offline.agents.bc import BC"),
        ("offline/agents/cql.py", "from offline.agents import bc"),
        ("offline/agents/cql.py", "from . import bc"),
        ("offline/agents/cql.py", "from .bc import BC"),
        ("offline/agents/cql.py", "from ..training import fit"),
        ("offline/agents/dt.py", "from offline.agents.bct import BCT"),
        ("offline/agents/transformer.py", "from offline.agents.dt import DT"),
        ("offline/agents/base.py", "from offline.training import fit"),
    ],
)
def test_a_planted_forbidden_import_is_caught(path: str, source: str) -> None:
    assert len(import_violations(source, ROOT / path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("common/a.py", "import numpy\nfrom common.errors import ToolkitError\nfrom . import envs"),
        ("offline/a.py", "from offline.agents import bc\nfrom common import envs"),
        ("offline/agents/__init__.py", "from offline.agents import bc, cql"),
        ("offline/agents/bct.py", "from offline.agents.dt import DT\nfrom .base import Agent"),
        ("offline/agents/iql.py", "from offline.agents.targets import TargetNetwork\nimport torch"),
        ("train_scripts/a.py", "from online.arguments import parser\nfrom . import grid"),
        ("benchmarks/a.py", "import online.ppo, offline.training"),
    ],
)
def test_an_allowed_import_passes(path: str, source: str) -> None:
    assert import_violations(source, ROOT / path) == []


def test_only_agents_arguments_names_and_configs_test_an_algorithms_name() -> None:
    exempt = {"offline/arguments.py", "offline/run_names.py"}
    violations = []
    for path in python_files():
        relative = path.relative_to(ROOT).as_posix()
        if relative in exempt or relative.startswith(("offline/agents/", "tests/")):
            continue
        # Among the encoders, "bcq" is the name of an encoder: --agent_model bcq.
        names = ALGORITHMS - {"bcq"} if relative == "common/encoders.py" else ALGORITHMS
        violations += [f"{relative}: {test}" for test in algorithm_tests(path.read_text(), names)]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    "source",
    [
        "if algo == 'bc': pass",
        "x = 'iql' != settings.algo",
        "def f(algo):\n    return algo in ('dt', 'bct')",
        "flag = algo not in {'cql'}",
        "match algo:\n    case 'bcq':\n        pass",
    ],
)
def test_a_planted_test_of_an_algorithms_name_is_caught(source: str) -> None:
    assert len(algorithm_tests(source)) == 1


def test_naming_an_algorithm_without_testing_it_passes() -> None:
    assert algorithm_tests("run('offline.demo', algo='bc')\nif mode == 'easy': pass") == []


def test_no_file_is_called_utils() -> None:
    assert [path for path in python_files() if "utils" in module_name(path)] == []


def test_no_tracked_file_is_large() -> None:
    large = [path for path in tracked_files() if path.stat().st_size > MAX_TRACKED_BYTES]
    assert large == []


def test_every_json_in_configs_is_an_object_without_repeated_keys() -> None:
    def without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"repeated key among {keys}"
        return dict(pairs)

    for path in sorted((ROOT / "configs").rglob("*.json")):
        settings = json.loads(path.read_text(), object_pairs_hook=without_repeats)
        assert isinstance(settings, dict), path
