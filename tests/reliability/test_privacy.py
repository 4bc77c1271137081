"""Faces are biometric data: where they are kept, how they go, and that nothing is sent anywhere."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reliability_support import encoded, run
from runner_support import draw_crops

from blurface.assets import CACHE_PARTS

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def verify(root: Path, out: Path) -> None:
    result = run(
        *("verify", "--pairs", f"folder-aligned:{root}", "--verifier", "thumbnails", "--jobs", 1),
        *("--restorer", "brighter", "--kernels", "linear:5,0", "--out", out, "--quiet"),
    )
    assert result.exit_code == 0, result.output


def test_clear_removes_every_face_and_embedding_of_a_run(tmp_path: Path, cache: Path) -> None:
    verify(draw_crops(tmp_path / "crops", people=4, pictures=2), tmp_path / "out")
    (cache / "data" / "lfw").mkdir(parents=True)
    (cache / "data" / "lfw" / "a.jpg").write_bytes(b"a download")
    (cache / "runs").mkdir()
    (cache / "runs" / "checkpoint.pt").write_bytes(b"the user's own")
    kept = {path.name for path in cache.iterdir()}
    assert {"cells", "faces"} <= kept
    assert kept - {"runs"} <= CACHE_PARTS.keys()  # nothing lies where clear would not look
    result = run("data", "clear", "--yes")
    assert result.exit_code == 0
    for part in ("cells", "faces"):
        assert str(cache / part) in result.stdout
        assert CACHE_PARTS[part] in result.stderr  # what they hold is said before they go
    assert {path.name for path in cache.iterdir()} == {"data", "runs"}
    assert run("data", "clear", "--all", "--yes").exit_code == 0
    assert {path.name for path in cache.iterdir()} == {"runs"}
    assert "Nothing to remove" in run("data", "clear", "--yes").stderr


def test_nothing_is_sent_anywhere_and_a_page_without_images_holds_no_face(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"a connection was opened: {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    verify(draw_crops(tmp_path / "crops", people=4, pictures=2), tmp_path / "out")
    out = tmp_path / "out"
    # What a run writes: scores and names, no picture and no embedding.
    assert {path.suffix for path in out.rglob("*") if path.is_file()} <= {
        ".csv",
        ".json",
        ".parquet",
        ".md",
        ".tex",
    }
    scores = pd.read_parquet(out / "scores" / "thumbnails.parquet")
    assert all(scores[column].map(pd.api.types.is_scalar).all() for column in scores)
    assert run("report", out, "--quiet").exit_code == 0
    assert "data:image/" in (out / "report.html").read_text()
    assert run("report", out, "--quiet", "--no-images").exit_code == 0
    assert "data:image/" not in (out / "report.html").read_text()
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    assert run("restore", tmp_path / "a.png", "--model", "invert-toy").exit_code == 0
    assert run("data", "list").exit_code == 0
    assert run("doctor").exit_code in (0, 1)
