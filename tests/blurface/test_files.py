"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blurface.files import replacing, write_atomic


def test_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_text_is_utf8_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_atomic(path, "\u00e9\n")
    assert path.read_bytes() == b"\xc3\xa9\n"


def test_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "replaced") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode
