"""The shape of the tree: file sizes, what may import what, and that the pieces named in it exist."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("dlcomp", "schedules", "vta_targets", "tests", "benchmarks", "tutorials")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

# What `schedules/` may import; the rest of the layers is import-linter's (it reads dlcomp/ alone).
BELOW_SCHEDULES = (
    "schedules",
    "compress",
    "graph",
    "frontend",
    "model",
    "target",
    "target_data",
    "detect",
    "errors",
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """The modules that a file imports at run time."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "dlcomp":
            found |= {f"dlcomp.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", [p for p in FILES if p.stat().st_size], ids=name)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", [p for p in FILES if "schedules" in p.parts[-3:]], ids=name)
def test_schedules_import_downwards(path: Path) -> None:
    ours = {module.split(".")[1] for module in imports(path) if module.startswith("dlcomp.")}
    assert ours <= set(BELOW_SCHEDULES)


def test_only_the_target_spells_a_target_for_tvm() -> None:
    """``target_data`` asks LLVM what it knows; nobody else names a TVM target."""
    allowed = {"dlcomp/target.py", "dlcomp/target_data.py"}
    spelled = {
        name(path) for path in FILES if "tests" not in path.parts and "target.Target(" in path.read_text()
    }
    assert spelled <= allowed


def test_packages_list_is_complete() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for path in ROOT.glob("dlcomp/**/__init__.py"):
        assert f'"{".".join(path.parent.relative_to(ROOT).parts)}"' in text


def test_makefile_has_what_the_documents_promise() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("setup", "demo", "test", "lint", "bench", "nightly"):
        assert f"\n{target}:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert subprocess.run(["test", "-x", ROOT / ".ci" / "run"], check=False).returncode == 0
