"""The rules that docs/architecture.md states about imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "blurface": {"blurface"},
    "verification": {"verification", "blurface"},
    "protocols": {"protocols", "verification", "blurface"},
}

VERIFICATION_MAY_USE = {"errors", "registry", "assets", "images", "files", "fingerprints", "processes"}


def imported_modules(path: Path) -> set[str]:
    """Absolute names of the modules that a file of ours imports, wherever in the file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_go_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = {name.partition(".")[0] for name in imported_modules(path)} & set(MAY_IMPORT)
        assert ours <= MAY_IMPORT[package], f"{path} imports {ours - MAY_IMPORT[package]}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    files = {}
    for path in (path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del files["blurface"]  # everybody asks it for the version; what it offers it loads when asked
    imports = {name: imported_modules(path) & set(files) - {name} for name, path in files.items()}
    assert sum(len(names) for names in imports.values()) > 200
    assert list(TopologicalSorter(imports).static_order())  # else CycleError, which names the circle


def test_verification_uses_little_of_blurface() -> None:
    for path in (ROOT / "verification").rglob("*.py"):
        used = {n.split(".")[1] for n in imported_modules(path) if n.startswith("blurface.")}
        assert used <= VERIFICATION_MAY_USE, f"{path} uses {used - VERIFICATION_MAY_USE}"


def test_command_line_starts_without_torch() -> None:
    code = "import sys; from click.testing import CliRunner; from blurface.cli import main\n"
    code += "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
    code += "heavy = {'torch', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_command_can_be_imported() -> None:
    import importlib

    from blurface.cli import COMMANDS

    for target, summary in COMMANDS.values():
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))
        assert summary.endswith(".")


def test_every_registered_name_can_be_loaded() -> None:
    from blurface.kernels import kernel_sets
    from blurface.restorers import restorers
    from protocols.datasets import protocols
    from verification.embedders import embedders

    for registry in (restorers, kernel_sets, protocols, embedders):
        for entry in registry.entries():
            assert callable(entry.load()), entry.name
            assert entry.summary
            assert entry.source
