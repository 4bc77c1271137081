"""Every script of examples/ runs on pictures that are always there."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from blurface.weights import list_models

FOLDER = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "def main" in path.read_text(encoding="utf-8"))


def run(script: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """As ``python examples/SCRIPT.py ARGUMENTS``, but in this process: torch is imported once."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    try:
        runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str) and end.code.startswith("Skipped: "):
            pytest.skip(end.code)
        raise


@pytest.mark.parametrize("script", SCRIPTS)
def test_example_runs(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "fast" not in list_models():
        pytest.skip("the package holds no weights of 'fast'")
    run(script, monkeypatch)
    assert capsys.readouterr().out.strip()


def test_without_restoration_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("torchvision_transform", monkeypatch, "--model", "none")
    blurry, restored = (line.split()[-1] for line in capsys.readouterr().out.splitlines()[-2:])
    assert blurry == restored


def test_every_example_has_its_page() -> None:
    pages = "".join(
        path.read_text(encoding="utf-8") for path in (FOLDER.parent / "docs" / "recognisers").glob("*.md")
    )
    for script in SCRIPTS:
        assert f"examples/{script}.py" in pages
