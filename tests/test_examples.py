"""Every script of examples/ runs, from the command line, on pictures that are always there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blurface.weights import list_models

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if "def main" in path.read_text())


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_runs(script: Path, tmp_path: Path) -> None:
    if "fast" not in list_models():
        pytest.skip("the package holds no weights of 'fast' yet")
    done = run(script)
    if done.stderr.startswith("Skipped: "):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_similarities_are_printed_as_an_illustration() -> None:
    """One photograph is no benchmark, and the script says so; ``none`` changes nothing."""
    done = run(ROOT / "examples" / "torchvision_transform.py", "--model", "none")
    assert done.returncode == 0, done.stderr
    blurry, restored = (line.split()[-1] for line in done.stdout.splitlines()[-2:])
    assert blurry == restored
