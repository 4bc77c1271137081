"""Bad and odd input through every public entry: told by name with the mend, the rest done, counts right."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from reliability_support import (
    bad_pictures,
    bad_values,
    encoded,
    odd_pictures,
    picture,
    public_folder,
    run,
    told,
    without_rights,
)
from runner_support import draw_crops
from safetensors.torch import save_file

import blurface
from blurface.errors import ImageError, WeightsError
from blurface.images import name_of, read_rgb
from blurface.kernels import create_kernel_set
from blurface.stage import DeblurStage
from blurface.training.sources import read_faces
from blurface.weights import load_model

__all__ = ["public_folder"]  # a fixture

pytestmark = pytest.mark.usefixtures("toys")


def test_reasons_stand_in_the_error(tmp_path: Path) -> None:
    every = {**bad_pictures(tmp_path / "a"), **bad_values(tmp_path / "b")}
    for path in sorted([*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()]):
        if path.parent.name == "b":
            with pytest.raises(ImageError, match=every[path.name]) as caught:
                DeblurStage.from_pretrained("invert-toy")(Image.open(path))
        else:
            with pytest.raises(ImageError, match=every[path.name]) as caught:
                read_rgb(path)
            assert name_of(path) in caught.value.message
        assert caught.value.hint


# ------------------------------------------------------------------------------------------ API


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (np.full((9, 8, 3), np.nan, np.float32), "NaN"),
        (torch.full((3, 9, 8), torch.inf), "infinite"),
        (np.full((9, 8, 3), -0.5), "range"),
        (np.full((9, 8, 3), 128.0, np.float32), "value_range"),
        (np.zeros((9, 8, 2), np.uint8), "shape"),
        (torch.zeros(5, 9, 8), "shape"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.zeros((9, 8, 3), np.int64), "int64"),
        (np.zeros((9, 8, 3), complex), "complex"),
        (torch.zeros(3, 9, 8, dtype=torch.bool), "bool"),
        ("face.png", "str"),
        (None, "NoneType"),
        (Image.new("LAB", (8, 9)), "LAB"),
    ],
)
def test_the_stage_names_the_one_bad_picture_of_a_list(bad: Any, word: str) -> None:
    stage = DeblurStage.from_pretrained("invert-toy")
    with pytest.raises(ImageError, match=word) as caught:
        stage([picture(), picture(), bad])
    assert "Picture 2" in caught.value.message
    assert caught.value.hint


def test_nothing_in_nothing_out() -> None:
    stage = DeblurStage.from_pretrained("invert-toy")
    assert stage([]) == []
    assert stage(()) == ()
    assert stage(torch.zeros(0, 3, 9, 8)).shape == (0, 3, 9, 8)
    assert stage(np.zeros((0, 9, 8, 3), np.uint8)).shape == (0, 9, 8, 3)
    assert stage([], return_info=True) == ([], [])


# -------------------------------------------------------------------------------------- restore


def test_restore_does_what_can_be_done_and_counts_right(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    bad = {*bad_pictures(source), *bad_values(source)}
    odd = odd_pictures(source)
    result = run("restore", source, "--out", out, "--model", "invert-toy", "--json")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert {path.name for path in out.iterdir()} == odd
    assert f"{len(odd)} restored, {len(bad)} failed of {len(odd) + len(bad)}." in result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {Path(row["source"]).name for row in rows if row["status"] == "failed"} == bad
    lines = told(result)
    assert len(lines) == len(bad)
    for name in bad:
        (line,) = [line for line in lines if f"/{name_of(name)}" in line]
        assert line.rstrip().endswith("."), line  # the mend is a sentence too
    for name in odd - {"cmyk.jpg", "palette.png", "animated.gif", "bilevel.png", "rgba.png"}:
        before, after = read_rgb(source / name).astype(int), read_rgb(out / name).astype(int)
        assert before.shape == after.shape, name
        if name.endswith("png") and "alpha" not in name:
            np.testing.assert_array_equal(after, 255 - before, err_msg=name)
        elif name.startswith("exif"):
            assert np.abs(after - (255 - before)).mean() < 6, name


def test_whole_photographs_without_a_face_pass(tmp_path: Path) -> None:
    for name, size in (("a.png", (1, 1)), ("b.png", (3, 700)), ("c.png", (64, 64))):
        Image.fromarray(picture(*size)).save(tmp_path / name)
    result = run("restore", tmp_path, "--out", tmp_path / "out", "--model", "invert-toy", "--faces")
    assert result.exit_code == 0, result.output
    assert "3 passed of 3" in result.stderr
    assert result.stderr.count("no face found") == 3
    assert (tmp_path / "out" / "c.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_unreadable_file_and_folder(public_folder: Path) -> None:
    source = public_folder / "in"
    (source / "locked").mkdir(parents=True)
    for name in ("a.png", "b.png", "locked/c.png"):
        (source / name).write_bytes(encoded("PNG"))
    # Once as ourselves, so that everything is imported and the cache is there.
    assert run("restore", source, "--out", public_folder / "first", "--model", "invert-toy").exit_code == 0
    (source / "b.png").chmod(0)
    (source / "locked").chmod(0)
    with without_rights():
        result = run("restore", source, "--out", public_folder / "out", "--model", "invert-toy")
    assert result.exit_code == 1
    assert "1 restored, 2 failed of 3" in result.stderr
    picture, folder = told(result)
    assert "b.png may not be read" in picture
    assert "locked may not be read" in folder
    with without_rights():
        result = run("restore", source / "locked", "--out", public_folder / "x", "--model", "invert-toy")
    assert result.exit_code == 1
    assert "locked may not be read" in told(result)[0]


def test_read_only_output(public_folder: Path) -> None:
    (public_folder / "in").mkdir()
    (public_folder / "in" / "a.png").write_bytes(encoded("PNG"))
    out = public_folder / "out"
    out.mkdir(mode=0o755)
    with without_rights():
        out.chmod(0o555) if os.geteuid() == out.stat().st_uid else None
        result = run("restore", public_folder / "in", "--out", out, "--model", "invert-toy")
        below = run("restore", public_folder / "in", "--out", out / "new", "--model", "invert-toy")
    for each in (result, below):
        assert each.exit_code == 1
        (line,) = told(each)
        assert "Permission denied" in line
        assert str(out) in line


# --------------------------------------------------------------------------------------- verify


def verify_arguments(root: Path, out: Path, *more: object) -> list[object]:
    fixed = ["verify", "--pairs", f"folder-aligned:{root}", "--verifier", "thumbnails", "--out", out]
    return [*fixed, "--restorer", "none", "--kernels", "linear:5,0", "--jobs", 1, *more]


def test_verify_counts_bad_pictures_as_failures_to_enrol(tmp_path: Path) -> None:
    root = draw_crops(tmp_path / "crops", people=8, pictures=3)
    clean = run(*verify_arguments(root, tmp_path / "clean"))
    assert clean.exit_code == 0, clean.output
    bad_pictures(tmp_path / "bad")
    usable = [p for p in sorted((tmp_path / "bad").iterdir()) if p.is_file() and "\n" not in p.name]
    people = sorted(root.iterdir())
    spoilt = []
    for path, person in zip(usable, people):
        target = person / f"{person.name}_0001.png"
        target.write_bytes(path.read_bytes())
        spoilt.append(f"{person.name}/{person.name}_0001")
    result = run(*verify_arguments(root, tmp_path / "out"))
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    (line,) = [text for text in told(result) if "could not be read" in text]
    assert f"{len(spoilt)} pictures could not be read and count as non-matches" in line
    assert spoilt[0] in line
    scores = pd.read_parquet(tmp_path / "out" / "scores" / "thumbnails.parquet")
    touched = scores.reference.isin(spoilt) | scores.probe.isin(spoilt)
    assert (scores.failed == touched).all()
    assert 0 < touched.sum() < len(scores)
    assert not scores[touched].decision.any()
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    fte = table[(table.metric == "fte") & (table.kernel != "mean")].value
    np.testing.assert_allclose(fte, touched.mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\t1\nPerson_0\t1\t2\nNobody\t1\tPerson_1\t1\n", "line 3: .*no person Nobody"),
        ("1\t1\nPerson_0\t1\t9\nPerson_0\t1\tPerson_1\t1\n", "line 2: .*no picture Person_0, 9"),
        ("2\t1\nPerson_0\t1\t2\nPerson_0\t1\tPerson_1\t1\n", "header promises 2 x 2 x 1"),
        ("1\t1\nPerson_0\t1\t2\nPerson_0\t2\t1\n", "the pair of line 2 again|impostor"),
        ("1\t1\nPerson_0\t1\t../../../etc/passwd\nPerson_0\t1\tPerson_1\t1\n", "line 2: .*is no name"),
        ("", "is empty"),
        ("\x00\x01", "no header"),
    ],
)
def test_broken_pair_lists_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    root = draw_crops(tmp_path / "crops", people=3, pictures=2)
    (root / "pairs.txt").write_text(text)
    result = run(*verify_arguments(root, tmp_path / "out"))
    assert result.exit_code == 1
    (line,) = told(result)
    assert "pairs.txt" in line
    assert re.search(message, line)


def test_windows_line_ends_and_spaces_are_read(tmp_path: Path) -> None:
    root = draw_crops(tmp_path / "crops", people=4, pictures=2)
    rows = ["2 1", "Person_0 1 2", "Person_0 1 Person_1 1", "Person_2 1 2", "Person_2 1 Person_3 1"]
    (root / "pairs.txt").write_bytes("\r\n".join(rows).encode() + b"\r\n\r\n")
    result = run(*verify_arguments(root, tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "4 pairs" in result.stdout


def broken_kernels(folder: Path) -> dict[str, str]:
    """Kernel files that cannot be used: name -> a word of the reason."""
    folder.mkdir()
    line = np.eye(5)
    cases: dict[str, tuple[Any, str]] = {
        "negative.npy": (line - 0.5, "negative"),
        "zero.npy": (np.zeros((5, 5)), "sum is zero"),
        "nan.npy": (np.where(line > 0, np.nan, 0), "NaN"),
        "inf.npy": (np.where(line > 0, np.inf, 0), "NaN or infinite"),
        "flat.npy": (np.ones(9), "two-dimensional"),
        "deep.npy": (np.ones((1, 1, 5, 5)), "two-dimensional"),
        "complex.npy": (line * 1j, "real numbers"),
        "text.npy": (np.full((3, 3), "x"), "real numbers"),
        "huge.npy": (np.ones((1, 2000)), "too large"),
        "nothing.npy": (np.zeros((0, 5)), "sum is zero"),
    }
    for name, (array, _) in cases.items():
        np.save(folder / name, array)
    np.savez_compressed(folder / "bomb.npz", k1=np.zeros((6000, 6000)))
    files: dict[str, tuple[bytes, str]] = {
        "cut.npy": ((folder / "zero.npy").read_bytes()[:100], "cannot be read"),
        "empty.npz": (b"", "cannot be read"),
        "text.mat": (b"MATLAB 5.0 MAT-file, not really" + b" " * 200, "cannot be read"),
        "cut.mat": (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "cannot be read"),
        "black.png": (encoded("PNG", Image.new("L", (5, 5))), "sum is zero"),
        "wide.png": (encoded("PNG", Image.new("L", (30000, 1), 9)), "too large"),
        "vast.png": (encoded("PNG", Image.new("L", (3000, 3000), 9)), "pixels"),
        "text.png": (b"no picture", "not a picture"),
        "kernel.txt": (b"1 2 3", "no kernel file"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    reasons = {name: reason for name, (_, reason) in {**cases, **files}.items()}
    return reasons | {"bomb.npz": "too many"}


def test_broken_kernels_are_refused_by_file(tmp_path: Path) -> None:
    root = draw_crops(tmp_path / "crops", people=3, pictures=2)
    for name, reason in broken_kernels(tmp_path / "kernels").items():
        path = tmp_path / "kernels" / name
        result = run(*verify_arguments(root, tmp_path / "out", "--kernels", f"file:{path}"))
        assert result.exit_code == 1, name
        (line,) = told(result)
        assert name in line
        assert re.search(reason, line), (name, line)


def test_even_and_oblong_kernel_files_are_padded_as_documented(tmp_path: Path) -> None:
    np.save(tmp_path / "even.npy", np.ones((4, 2)))
    (kernel,) = create_kernel_set(f"file:{tmp_path / 'even.npy'}").kernels
    expected = np.zeros((5, 5))
    expected[:4, :2] = 1 / 8
    np.testing.assert_allclose(kernel.psf, expected)


@pytest.mark.parametrize("name", ["linear:1e9,0", "linear:nan,0", "defocus:1e9", "gp:100000000", "gp:8,-1"])
def test_kernels_beyond_reason_are_refused_before_memory_is_filled(name: str) -> None:
    result = run("verify", "--kernels", name, "--restorer", "none")
    assert result.exit_code == 1
    assert len(told(result)) == 1


def test_numbers_near_the_largest_still_make_a_kernel() -> None:
    psf = blurface.kernels.check_psf(np.full((3, 3), 1e308))
    np.testing.assert_allclose(psf, 1 / 9, rtol=1e-6)


# ---------------------------------------------------------------------------------- checkpoints


class Payload:
    """What a pickle would execute."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def broken_models(folder: Path) -> dict[str, Path]:
    good = next(blurface.weights.FOLDER.glob("*.safetensors")).read_bytes()
    folder.mkdir()
    made = {name: folder / f"{name}.safetensors" for name in ("cut", "flipped", "empty", "text", "header")}
    flipped = bytearray(good)
    flipped[40] ^= 0xFF
    made["cut"].write_bytes(good[: len(good) // 2])
    made["flipped"].write_bytes(flipped)
    made["empty"].write_bytes(b"")
    made["text"].write_text("no weights")
    made["header"].write_bytes((2**62).to_bytes(8, "little") + b"{}")
    for name, metadata in {
        "nameless": {},
        "unknown": {"network": "os.system"},
        "options": {"network": "plain", "options": '{"width": -1}'},
        "notjson": {"network": "plain", "options": "{"},
        "note": {"network": "plain", "note": "{"},
        "keys": {"network": "plain"},
    }.items():
        made[name] = folder / f"{name}.safetensors"
        save_file({"w": torch.zeros(1)}, made[name], metadata)
    made["pickle"] = folder / "pickle.safetensors"
    torch.save({"w": Payload(folder / "executed")}, made["pickle"])
    return made


def test_broken_models_are_refused_and_execute_nothing(tmp_path: Path) -> None:
    for name, path in broken_models(tmp_path / "models").items():
        with pytest.raises(WeightsError, match=re.escape(path.name)) as caught:
            load_model(path)
        assert caught.value.hint, name
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    result = run("restore", tmp_path / "a.png", "--model", tmp_path / "models" / "cut.safetensors")
    assert result.exit_code in (1, 2)
    assert len(told(result)) == 1
    assert not (tmp_path / "models" / "executed").exists()


# ------------------------------------------------------------------------------ train, data pack


CONFIG = """name = "t"
network = "plain"
data = []
held_out = 2
validate_every = 2
checkpoint_every = 2
sample_every = 100
[network_options]
width = 8
deep = 8
blocks = [1, 1, 1]
[schedule]
steps = 2
batch_size = 4
warmup = 1
decay = 1
"""


def draw_faces(root: Path, people: int = 4) -> Path:
    for number in range(2 * people):
        folder = root / f"p{number // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encoded("PNG", Image.fromarray(picture(156, 140, number))))
    return root


def train_arguments(folder: Path, *more: object) -> list[object]:
    (folder / "c.toml").write_text(CONFIG)
    return ["train", "--config", folder / "c.toml", "--out", folder / "run", *more]


def test_train_names_a_bad_picture_before_the_first_step(tmp_path: Path) -> None:
    faces = draw_faces(tmp_path / "faces")
    reasons = bad_pictures(tmp_path / "bad")
    for name in ("truncated.jpg", "empty.png", "bomb.png", "text.jpg", "program.png"):
        target = faces / "p0" / name
        target.write_bytes((tmp_path / "bad" / name).read_bytes())
        result = run(*train_arguments(tmp_path, "--data", faces))
        target.unlink()
        assert result.exit_code == 1
        (line,) = told(result)
        assert name in line
        assert re.search(reasons[name], line)
    (faces / "p0" / "small.png").write_bytes(encoded("PNG", Image.fromarray(picture(50, 50))))
    (line,) = told(run(*train_arguments(tmp_path, "--data", faces)))
    assert "small.png is 50x50" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("schedule.steps=many", "whole number"),
        ("schedule.steps=0", "1 or more"),
        ("seed=-1", "0 or more"),
        ("seed.x=1", "seed"),
        ("schedule=3", "table"),
        ("network=nope", "No network"),
        ("network_options.width=-3", "cannot be built"),
        ("network_options.widht=3", "Its options: "),
        ("schedule.optimiser=sgd", "muon"),
        ("loss.pixel=l3", "charbonnier"),
        ("schedule.loops=[3]", "step, value"),
        ("schedule.facial=[[1]]", "step, value"),
        ("degradation.valid_size=[9]", "least, greatest"),
        ("degradation.linear=5", r"\[0, 1\]"),
        ("schedule.lr=1e999", "finite"),
        ("schedule.ema=true", "number"),
        ("held_out=1000", "leave 0 for training"),
        ("name=../../evil", "plain file name"),
        ("name=''", "plain file name"),
        ("data=[1]", "list of files"),
        ("nothing", "schedule.steps=1000"),
    ],
)
def test_train_refuses_settings_that_mean_nothing(tmp_path: Path, setting: str, word: str) -> None:
    faces = draw_faces(tmp_path / "faces", people=2)
    result = run(*train_arguments(tmp_path, "--data", faces, "--set", setting))
    assert result.exit_code in (1, 2)
    (line,) = told(result)
    assert re.search(word, line)
    assert not (tmp_path / "run").exists()


def test_train_refuses_foreign_checkpoints_without_executing_them(tmp_path: Path) -> None:
    faces = draw_faces(tmp_path / "faces", people=3)
    torch.save({"network": Payload(tmp_path / "executed")}, tmp_path / "evil.pt")
    torch.save({"network": {}, "average": {}}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "text.safetensors").write_text("no weights")
    names = ("evil.pt", "other.pt", "text.pt", "text.safetensors", "missing.safetensors", "missing.pt")
    for name in names:
        result = run(*train_arguments(tmp_path, "--data", faces, "--init", tmp_path / name))
        assert result.exit_code == 1
        (line,) = told(result)
        assert name in line
        assert "weights_only" not in line  # torch advises to execute the file
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "text", ["name = \n", "\xff", "name = 3\nnetwork = 'plain'\ndata = []\n", "schedule = 1\n"]
)
def test_train_refuses_broken_configurations(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_bytes(text.encode("latin-1"))
    result = run("train", "--config", tmp_path / "c.toml")
    assert result.exit_code == 1
    (line,) = told(result)
    assert "c.toml" in line


def test_pack_leaves_out_what_cannot_be_used_and_counts_it(tmp_path: Path) -> None:
    faces = draw_faces(tmp_path / "faces")
    bad = bad_pictures(faces / "p9")
    (faces / "p8").mkdir()
    (faces / "p8" / "small.png").write_bytes(encoded("PNG", Image.fromarray(picture(60, 60))))
    odd = os.fsdecode(b"caf\xe9.png")
    (faces / "p8" / odd).write_bytes(encoded("PNG", Image.fromarray(picture(156, 140))))
    packed = tmp_path / "faces.parquet"
    result = run("data", "pack", faces, "--out", packed, "--drop-near", "none", "--corner", 20, 20)
    assert result.exit_code == 1
    assert "9 faces of 5 people" in result.stdout
    lines = told(result)
    assert f"{len(bad) + 1} of {len(bad) + 10} pictures were left out." in lines[-1]
    for name in [*bad, "small.png"]:
        assert sum(f"/{name_of(name)}" in line for line in lines) == 1, name
    read = read_faces([packed])
    assert len(read) == 9
    assert name_of(odd) in read.names
    assert read.note["faces.parquet"]["unusable"] == len(bad) + 1
    assert run("data", "pack", faces / "p9", "--out", packed, "--drop-near", "none").exit_code == 1
    assert run("data", "pack", faces, "--out", packed, "--corner", -1, 0).exit_code == 2
    (faces / "identities.txt").write_bytes(b"\xff\xfe")
    (line,) = told(run("data", "pack", faces, "--out", packed, "--drop-near", "none"))
    assert "identities.txt cannot be read" in line
