"""``blurface data | doctor | restorers | verifiers | kernels | protocols``, and other packages' entries."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from click.testing import CliRunner, Result
from PIL import Image
from runner_support import draw_crops, random_mobilefacenet

from blurface import assets, cli
from blurface.assets import Asset
from blurface.errors import BlurfaceError
from blurface.registry import Registry
from blurface.training.sources import read_faces
from protocols.commands import data, doctor, listings, rows
from protocols.datasets.pairs import read_pairs
from verification.align import TEMPLATES
from verification.detect import Detector

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tests/example_plugin"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BLURFACE_DATA", raising=False)
    return tmp_path / "cache"


def run(*arguments: object, code: int = 0, given: str | None = None) -> Result:
    result = CliRunner().invoke(cli.main, [str(a) for a in arguments], input=given)
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def lfw_root(tmp_path: Path) -> Path:
    """Two people with two pictures each."""
    root = tmp_path / "root"
    for person in ("A_B", "C_D"):
        for number in (1, 2):
            path = root / f"lfw/lfw_funneled/{person}/{person}_{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((10, 10, 3), 9 * number, np.uint8)).save(path)
    (root / "lfw/pairs.txt").write_text("1\t1\nA_B\t1\t2\nA_B\t1\tC_D\t2\n")
    return root


# --------------------------------------------------------------------------------------- data


def test_list_in_three_formats(lfw_root: Path) -> None:
    table = run("data", "list", "--data-root", lfw_root).stdout
    assert "levin-kernels" in table
    found = json.loads(run("data", "list", "--data-root", lfw_root, "--format", "json").stdout)
    by_name = {row["name"]: row for row in found}
    assert list(by_name) == list(assets.ASSETS)
    assert by_name["lfw"]["found"] == str(lfw_root / "lfw/lfw_funneled")
    assert by_name["mobilefacenet"]["found"] == ""
    assert "weights/mobilefacenet-casia-112x96.ckpt" in by_name["mobilefacenet"]["mend"]
    assert by_name["lfw-pairs"]["sha256"] == [assets.ASSETS["lfw-pairs"].checksum]
    assert by_name["facenet-vggface2"]["checksum"] == "unpublished"
    text = run("data", "list", "--kind", "weights", "--format", "csv").stdout
    assert {row["kind"] for row in csv.DictReader(io.StringIO(text))} == {"weights"}


def test_path(lfw_root: Path) -> None:
    result = run("data", "path", "lfw-pairs", "--data-root", lfw_root)
    assert result.stdout == f"{lfw_root / 'lfw/pairs.txt'}\n"
    missing = run("data", "path", "levin-kernels", "--data-root", lfw_root, code=1)
    assert missing.stdout == ""
    assert "kernels/Levin09.mat" in missing.stderr
    assert "Did you mean lfw" in run("data", "path", "lwf", code=2).stderr


def test_get_prefers_what_is_there(lfw_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def fetch(name: str, progress: bool) -> Path:
        fetched.append(name)
        return Path("/fetched") / name

    monkeypatch.setattr(assets, "fetch", fetch)
    result = run("data", "get", "lfw", "--data-root", lfw_root)
    assert result.stdout == f"{lfw_root / 'lfw/lfw_funneled'}\n"
    assert fetched == []
    result = run("data", "get", "lfw", "levin-kernels", "--force", "--data-root", lfw_root)
    assert result.stdout.split() == ["/fetched/lfw", "/fetched/levin-kernels"]
    assert "trusting the first download" in result.stderr
    run("data", "get", "lfw", "lwf", code=2)
    assert fetched == ["lfw", "levin-kernels"]


def test_get_goes_on_after_a_failure(lfw_root: Path) -> None:
    result = run("data", "get", "celeba", "lfw", "--data-root", lfw_root, code=1)
    assert result.stdout == f"{lfw_root / 'lfw/lfw_funneled'}\n"
    assert "celeba/img_align_celeba" in result.stderr
    assert "1 of 2 were not got" in result.stderr


def details(*arguments: object, code: int = 0) -> str:
    """The details of what ``data check`` lists, one a line."""
    result = run("data", "check", *arguments, "--format", "json", code=code)
    return "\n".join(row["detail"] for row in json.loads(result.stdout))


def test_check_compares_pictures_with_the_pair_list(lfw_root: Path) -> None:
    (lfw_root / "lfw/people.txt").write_text("x")
    out = json.loads(
        run("data", "check", "lfw", "lfw-people", "--data-root", lfw_root, "--format", "json").stdout
    )
    assert [(row["name"], row["status"]) for row in out] == [("lfw", "ok"), ("lfw-people", "unverified")]
    assert "2 pairs in 1 folds, 3 pictures present" in out[0]["detail"]
    # Its checksum is another than that of the official list.
    assert "damaged" in run("data", "check", "lfw-pairs", "--data-root", lfw_root, code=1).stdout
    picture = lfw_root / "lfw/lfw_funneled/C_D/C_D_0002.jpg"
    picture.write_bytes(b"")
    assert "C_D_0002.jpg is empty" in details("lfw", "--data-root", lfw_root, code=1)
    picture.write_bytes(b"no picture")
    run("data", "check", "lfw", "--data-root", lfw_root)
    assert "C_D_0002.jpg" in details("lfw", "--decode", "--data-root", lfw_root, code=1)
    picture.unlink()
    assert "line 3" in details("lfw", "--data-root", lfw_root, code=1)


def test_check_without_names_is_about_what_is_there(lfw_root: Path) -> None:
    (lfw_root / "lfw/pairs.txt").rename(lfw_root / "lfw/lfw_funneled/pairs.txt")
    out = json.loads(run("data", "check", "--data-root", lfw_root, "--format", "json").stdout)
    assert [row["name"] for row in out] == ["lfw", "lfw-funneled"]
    run("data", "check", "celeba", "--data-root", lfw_root, code=1)


def test_check_of_facescrub_reads_its_lists(tmp_path: Path) -> None:
    for person in ("Al_B", "Cy_D"):
        (tmp_path / "facescrub/actors" / person).mkdir(parents=True)
        for i in range(80):
            (tmp_path / f"facescrub/actors/{person}/{person}_{i}_{i}.jpg").write_bytes(b"x")
    row = "Al B\t3\t3\thttp://example.invalid/a.jpg\t1,2,3,4\t" + "0" * 64
    (tmp_path / "facescrub/facescrub_actors.txt").write_text(f"{row}\nAl B\t4")
    out = details("facescrub", "--data-root", tmp_path)
    assert "1 of 1 listed faces, 159 unlisted" in out
    assert "line 2: 'Al B" in out


def test_pairs_are_written_and_used(lfw_root: Path) -> None:
    pictures, out = lfw_root / "lfw/lfw_funneled", lfw_root / "drawn.txt"
    result = run("data", "pairs", f"folder:{pictures}", "--out", out, "--folds", 1, "--per-fold", 2)
    assert "4 pairs in 1 folds, seed 0" in result.stdout
    lines, folds = read_pairs(out)
    assert (len(lines), folds) == (4, 1)
    first = out.read_bytes()
    run("data", "pairs", f"folder:{pictures}", "--out", out, "--folds", 1, "--per-fold", 2)
    assert out.read_bytes() == first
    run("data", "pairs", "lfw", "--out", out, code=1)
    assert (
        "at most" in run("data", "pairs", f"folder:{pictures}", "--out", out, "--per-fold", 9, code=1).stderr
    )


def test_pictures_that_a_pair_list_cannot_carry_are_told(lfw_root: Path) -> None:
    pictures = lfw_root / "lfw/lfw_funneled"
    (pictures / "A_B/A_B_0002.jpg").rename(pictures / "A_B/#2.jpg")
    (pictures / "C_D").rename(pictures / 'C "D"')
    told = run("data", "pairs", f"folder:{pictures}", "--out", lfw_root / "drawn.txt", code=1).stderr
    first, second = told.splitlines()
    assert "3 pictures are left out" in first
    assert "not enough for pairs" in second
    (pictures / 'C "D"').rename(pictures / "C_D")
    (pictures / "A_B/#2.jpg").rename(pictures / "A_B/2.jpg")
    assert run("data", "pairs", f"folder:{pictures}", "--out", lfw_root / "drawn.txt").stderr == ""


def test_a_data_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Else the data of BLURFACE_DATA would be used without a word."""
    for command in (("data", "path", "lfw"), ("verify",), ("doctor",), ("kernels",)):
        assert "does not exist" in run(*command, "--data-root", tmp_path / "no", code=2).stderr


def test_clear_asks_and_leaves_what_is_not_ours(cache: Path) -> None:
    for part in ("cells", "data", "mine"):
        (cache / part).mkdir(parents=True)
        (cache / part / "file").write_bytes(b"1234")
    asked = run("data", "clear", given="n\n", code=1)
    assert "face embeddings" in asked.stderr
    assert "4 bytes" in asked.stderr
    assert (cache / "cells").is_dir()
    assert run("data", "clear", "--yes").stdout == f"{cache / 'cells'}\n"
    assert sorted(p.name for p in cache.iterdir()) == ["data", "mine"]
    assert "Nothing to remove" in run("data", "clear").stderr
    run("data", "clear", "--all", given="y\n")
    assert [p.name for p in cache.iterdir()] == ["mine"]


def test_clear_of_a_download(cache: Path) -> None:
    kept = cache / "data/lfw/pairs.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("x")
    assert run("data", "clear", "lfw-pairs", "--yes").stdout == f"{kept}\n"
    assert not kept.exists()
    run("data", "clear", "nothing", "--yes", code=2)


def test_pack_is_attached_without_being_imported() -> None:
    code = "import sys; from protocols.commands import data; print('protocols.commands.pack' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "False"
    assert "pack" in data.data.list_commands(None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- doctor


def test_doctor_says_what_is_found_where_and_what_to_do(lfw_root: Path) -> None:
    found = json.loads(run("doctor", "--data-root", lfw_root, "--format", "json").stdout)
    assert found["python"] == sys.version.split()[0]
    assert found["packages"]["torch"]
    assert found["devices"][0].startswith("cpu")
    assert found["cpu"]["cores"] >= 1
    assert found["data_roots"][0] == str(lfw_root)
    assert found["problems"] == []
    text = run("doctor", "--data-root", lfw_root).stdout
    assert str(lfw_root / "lfw/lfw_funneled") in text
    assert "blurface data get levin-kernels" in text
    assert "place weights/mobilefacenet-casia-112x96.ckpt under a data root" in text
    assert "No problems." in text


def test_doctor_names_problems_and_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "file/cache"))
    monkeypatch.setenv("BLURFACE_DATA", str(tmp_path / "no"))
    text = run("doctor").stdout
    assert f"The data root {tmp_path / 'no'} does not exist" in text
    assert "cannot be written to" in text
    assert "BLURFACE_CACHE" in text
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), "torchvision was built for another torch"),
        (RuntimeError("something else\nlong"), "something else."),
        (ImportError("libcudart.so.13: cannot open"), "cannot be imported: libcudart"),
    ],
)
def test_a_torchvision_that_does_not_fit(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        if name.startswith("torchvision"):
            raise error

    monkeypatch.setattr("protocols.commands.doctor.importlib.import_module", fail)
    problem = doctor.torchvision_problem()
    assert problem is not None
    assert message in problem[0]
    assert "pip uninstall -y torch torchvision && pip install torch torchvision" in problem[1]


def test_missing_packages_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda name: None if name in ("timm", "openvino") else "1.0")
    found = doctor.examine(None)
    assert [p["problem"] for p in found["problems"]] == ["timm is not installed."]
    assert "without openvino: pip install 'blurface[openvino]'" in doctor.report(found)


# ----------------------------------------------------------------------------------- listings


def test_kernels_and_protocols_are_listed_with_reasons(lfw_root: Path) -> None:
    kernels = json.loads(run("kernels", "--format", "json", "--data-root", lfw_root).stdout)
    by_name = {row["name"]: row for row in kernels}
    assert by_name["linear"]["kernels"] == 1
    assert "Levin09.mat" in by_name["levin8"]["note"]
    assert by_name["file"]["note"] == "takes an argument: file:..."
    protocols = json.loads(run("protocols", "--format", "json", "--data-root", lfw_root).stdout)
    lfw = next(row for row in protocols if row["name"] == "lfw")
    assert (lfw["pairs"], lfw["genuine"], lfw["folds"], lfw["images"]) == (2, 1, 1, 3)
    text = run("protocols", "--format", "csv", "--data-root", lfw_root).stdout
    assert next(csv.DictReader(io.StringIO(text)))["pictures"] == "photographs"


def test_brief_listings_create_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Registry, "create", never)
    for command in ("restorers", "verifiers", "kernels", "protocols"):
        listed = json.loads(run(command, "--brief", "--format", "json").stdout)
        assert all(row["name"] and row["summary"] and row["source"] for row in listed)
        assert all(row["note"] == "" for row in listed)


class Broken:
    """Fails in its own way."""

    def __init__(self) -> None:
        raise ZeroDivisionError("no use")


def test_a_broken_entry_does_not_hide_the_rest() -> None:
    registry: Registry[Any] = Registry("thing", "blurface.nothing")
    registry.register("broken", Broken)
    registry.register("absent", "no_such_module:thing", extra="onnx")
    registry.register("good", dict, summary="fine")
    listed = listings._rows(registry, lambda name: {"value": registry.create(name)}, False)
    assert listed[0]["note"] == "ZeroDivisionError: no use"
    assert "pip install 'blurface[onnx]'" in listed[1]["note"]
    assert listed[2] == {**listed[2], "name": "good", "summary": "fine", "note": "", "value": {}}


def test_gflop_counts_two_per_multiply_add() -> None:
    import torch

    layer = torch.nn.Conv2d(3, 4, 3, padding=1)
    assert listings.count_gflop(layer, "112x96") == pytest.approx(2 * 9 * 3 * 4 * 112 * 96 / 1e9)


def test_rows_are_text_not_markup() -> None:
    hostile = [
        {"name": "[red]x[/red]", "value": "a\x1b[31mb\nc", "number": 1234567, "ratio": 0.123456, "yes": True}
    ]
    columns = ("name", "value", "number", "ratio", "yes", "absent")
    table = rows.render(hostile, columns, "table")
    assert "[red]x[/red]" in table
    assert "\x1b" not in table
    assert r"a\x1b[31mb\nc" in table
    assert "1,234,567" in table
    assert "0.123" in table
    assert "absent" not in table
    assert json.loads(rows.render(hostile, columns, "json")) == hostile
    assert rows.render([], ("a", "b"), "csv") == "a,b"
    assert "a" in rows.render([], ("a", "b"), "table")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0 bytes"),
        (999, "999 bytes"),
        (32_224, "32.2 kB"),
        (180_566_744, "181 MB"),
        (2 * 10**13, "20 TB"),
    ],
)
def test_sizes_in_words(count: int | None, text: str) -> None:
    assert rows.size_text(count) == text


# ------------------------------------------------------------------------------ other packages


@pytest.fixture(scope="module")
def installed_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package's metadata, as pip would write it, on a path of its own."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"blurface_example-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines: list[str] = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


def test_another_packages_entries_are_listed_and_work(installed_plugin: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((112, 112, 3), 99, np.uint8)).save(tmp_path / f"{name}.png")
    code = f"""
import json, torch
from click.testing import CliRunner
from blurface import create_restorer
from blurface.cli import main
from blurface.kernels import create_kernel_set, kernel_sets
from blurface.restorers import restorers
from protocols.commands import listings
from protocols.datasets import create_protocol, protocols
from verification import create_embedder, embedders

out = {{}}
for command in ("restorers", "verifiers", "kernels", "protocols"):
    listed = json.loads(CliRunner().invoke(main, [command, "--brief", "--format", "json"]).stdout)
    out[command] = [row["name"] for row in listed if row["provider"] == "blurface-example"]
out["rows"] = [
    listings._row(restorers.entry("unsharp"), listings._restorer, False),
    listings._row(embedders.entry("thumbnail"), lambda n: listings._verifier(n, None), False),
    listings._row(kernel_sets.entry("box"), lambda n: listings._kernels(n, None), False),
    listings._row(protocols.entry("two-faces"), lambda n: listings._protocol(n, None), False),
]
face = torch.rand(2, 3, 112, 112)
out["restored"] = list(create_restorer("unsharp", amount=0.5).restore(face).shape)
out["embedded"] = list(create_embedder("thumbnail").embed(face).shape)
out["sizes"] = [k.size for k in create_kernel_set("box:3,7").kernels]
out["pixel"] = int(create_protocol("two-faces:{tmp_path}").read("a")[0, 0, 0])
print(json.dumps(out))
"""
    path = os.pathsep.join((str(installed_plugin), str(PLUGIN), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["restorers"] == ["unsharp"]
    assert out["verifiers"] == ["thumbnail"]
    assert out["kernels"] == ["box"]
    assert out["protocols"] == ["two-faces"]
    restorer, verifier, kernels, protocol = out["rows"]
    assert [row["note"] for row in out["rows"]] == [""] * 4
    assert restorer["summary"] == "Unsharp mask: adds back what a box filter takes away."
    assert restorer["gflop"] == pytest.approx(28 * 3 * 112 * 96 / 1e9)
    assert (verifier["frame"], verifier["dimension"]) == ("112x112", 192)
    assert (kernels["kernels"], kernels["sizes"]) == (1, "5")
    assert (protocol["pairs"], protocol["pictures"]) == (2, "aligned 112x112")
    assert out["restored"] == [2, 3, 112, 112]
    assert out["embedded"] == [2, 192]
    assert out["sizes"] == [3, 7]
    assert out["pixel"] == 99


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(BlurfaceError, match="No data set or weight file"):
        assets.get_asset("qqq")
    assert isinstance(assets.get_asset("lfw"), Asset)


def test_pack_drops_who_is_named_in_the_pair_list_or_looks_like_them(tmp_path: Path) -> None:
    root, faces, packed = tmp_path / "data", tmp_path / "faces", tmp_path / "faces.parquet"
    draw_crops(root, people=4, pictures=2)
    pairs = "1\t2\nPerson_0\t1\t2\nPerson_1\t1\t2\nPerson_0\t1\tPerson_2\t1\nPerson_1\t1\tPerson_3\t1\n"
    (root / "pairs.txt").write_text(pairs)
    random_mobilefacenet(root / "mobilefacenet-casia-112x96.ckpt")
    rng = np.random.default_rng(5)
    for person in ("Person_0", "somebody"):
        (faces / person).mkdir(parents=True)
        noise = rng.integers(0, 256, (112, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(faces / person / "1.png")
    # A face of the benchmark under another name.
    same = np.array(Image.open(sorted(root.rglob("Person_1/*.png"))[0]))[:, 8:104]
    (faces / "alias").mkdir()
    Image.fromarray(same).save(faces / "alias" / "1.png")
    told = run("data", "pack", faces, "--out", packed, "--data-root", root, "--threshold", 0.99)
    assert "1 faces of 1 people" in told.stdout
    assert "dropped 1: named in the pair list" in told.stderr
    assert "dropped 1: within 0.99 of a face" in told.stderr
    read = read_faces([packed])
    assert read.identities == ["somebody"]
    dropped = read.note["faces.parquet"]["dropped"]
    assert dropped == {"named in the pair list": 1, "within 0.99 of a face of the pair list": 1}
    run("data", "pack", faces / "alias", "--out", packed, "--data-root", root, "--threshold", -1.0, code=1)


def test_pack_detects_and_aligns_photographs(tmp_path: Path) -> None:
    portrait = np.ascontiguousarray(skimage.data.astronaut()[:256, 96:352])
    photographs, packed = tmp_path / "photographs", tmp_path / "faces.parquet"
    (photographs / "Eileen").mkdir(parents=True)
    Image.fromarray(portrait).save(photographs / "Eileen" / "1.png")
    Image.fromarray(np.full((90, 120, 3), 130, np.uint8)).save(photographs / "Eileen" / "wall.png")
    (photographs / "Eileen" / "2.jpg").write_bytes(b"\xff\xd8\xff")
    told = run(
        "data", "pack", photographs, "--detect", "--drop-near", "none", "--jobs", 1, "--out", packed, code=1
    )
    assert "1 faces of 1 people" in told.stdout
    assert "wall.png: no face was found" in told.stderr
    assert "2.jpg" in told.stderr
    assert "2 of 3 pictures were left out" in told.stderr
    faces = read_faces([packed])
    assert faces.pictures.shape == (1, 156, 140, 3)
    assert faces.corner == (22, 22)
    # The eyes lie on the verifiers' template (a wide smile takes the mouth's corners off it).
    found = Detector().detect([faces.pictures[0]])[0]
    assert found is not None
    assert np.abs(found.points - 22 - TEMPLATES["112x96"])[:2].max() < 3
    told = run("data", "pack", photographs, "--detect", "--corner", 1, 1, "--out", packed, code=2)
    assert "--corner is for aligned pictures" in told.stderr
