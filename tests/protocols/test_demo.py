from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from blurface.cli import main
from blurface.kernels import KernelSet, create_kernel_set
from blurface.restorers import create_restorer
from protocols.commands import demo
from protocols.commands.demo import Demonstration, demo_table, demonstrate, draw


@pytest.fixture(scope="module")
def shown() -> Demonstration:
    pytest.importorskip("dlib", reason="the dlib extra is not installed")
    kernels = create_kernel_set("gp:8,0").centred("mass")
    return demonstrate(
        KernelSet(kernels.name, kernels.kernels[::4]), create_restorer("wiener"), demo.demo_verifier()
    )


def test_pipeline_gets_nearer_to_the_sharp_face(shown: Demonstration) -> None:
    assert shown.sharp.shape == (112, 112, 3)
    assert shown.blurry.shape == shown.restored.shape == (2, 112, 112, 3)
    assert (shown.quality["restored"] > shown.quality["blurry"]).all()
    assert shown.distance is not None
    assert (shown.distance["restored"] < shown.distance["blurry"]).all()
    assert (shown.distance["restored"] < demo.THRESHOLD).all()


def test_table_and_picture(shown: Demonstration, tmp_path: Path) -> None:
    table = demo_table(shown)
    assert len(table.rows) == 3
    assert table.rows[-1][2] == pytest.approx(shown.quality["blurry"][:, 0].mean())
    assert "0.6" in table.notes[0]
    draw(shown, tmp_path / "new" / "picture.png")
    picture = np.asarray(Image.open(tmp_path / "new" / "picture.png"))
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 30


def test_without_dlib_there_is_no_distance(shown: Demonstration, tmp_path: Path) -> None:
    bare = Demonstration(**{**vars(shown), "distance": None})
    assert demo_table(bare).cells()[0][-2:] == ["–", "–"]
    draw(bare, tmp_path / "picture.png")


def test_command_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing on the machine: no data, no weights, no dlib."""
    monkeypatch.delenv("BLURFACE_DATA", raising=False)
    monkeypatch.setattr(demo, "demo_verifier", lambda: None)
    out = tmp_path / "demo.png"
    result = CliRunner().invoke(main, ["demo", "--restorer", "none", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "not a benchmark" in result.output
    assert "gp:8,0" in result.output
    assert f"Picture: {out}" in result.output
    assert out.is_file()


def test_make_verify_s_own_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fresh machine without LFW is given, with the arguments of the Makefile."""
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text()
    (arguments,) = re.findall(r"blurface (demo .*?);", makefile)
    monkeypatch.delenv("BLURFACE_DATA", raising=False)
    monkeypatch.setattr(demo, "demo_verifier", lambda: None)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*arguments.split(), "--restorer", "none"])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "runs").glob("*.png"))) == 1


def test_a_picture_without_a_format_is_refused_before_the_work(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 2
    assert "Use .png or .jpg" in result.stderr
    assert "not a benchmark" not in result.stdout


def test_unknown_restorer_is_an_error_and_missing_weights_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = CliRunner().invoke(main, ["demo", "--restorer", "fats", "--out", str(tmp_path / "x.png")])
    assert result.exit_code == 2
    assert "Did you mean fast" in result.output
    monkeypatch.setattr("blurface.weights.FOLDER", tmp_path)
    assert demo.demo_restorer("fast").name == "wiener"
    assert "nobody knows in practice" in capsys.readouterr().out
