"""docs/reliability.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
DOCUMENT = TESTS.parent / "docs" / "reliability.md"


def test_every_promise_is_held_by_a_test_that_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", DOCUMENT.read_text(encoding="utf-8"))
    assert len(named) > 60
    for file in {file for file, _ in named}:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        missing = {name for path, name in named if path == file} - there
        assert not missing, (file, missing)


def test_every_row_of_a_promise_names_a_test() -> None:
    for section in DOCUMENT.read_text(encoding="utf-8").split("\n## "):
        if "| promise | test |" not in section:
            continue
        table = section.partition("| promise | test |\n|---|---|\n")[2].partition("\n\n")[0]
        for row in table.strip().splitlines():
            assert ".py::test_" in row, row
