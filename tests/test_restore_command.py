"""``blurface restore``: files in, files out, whatever they are; what fails is told and the rest done."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from blurface.cli import main
from blurface.collection import Job, Options, by_stage, collect, restore_jobs, restore_stream, side_by_side
from blurface.errors import ImageError, InputError, UnknownNameError
from blurface.gate import Gate
from blurface.images import read_rgb
from blurface.restorers import restorers
from blurface.restorers.base import Restorer
from blurface.stage import DeblurStage

GATE = Gate(0.5, 1)


class Invert(Restorer):
    """x -> 1 - x; a kernel as wide as the picture is bright, so that dark pictures count as sharp."""

    name = "invert-test"
    batch_size = 4

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        estimate = torch.zeros(batch.shape[0], 5, 5)
        estimate[:, 2, 2] = 1
        estimate[batch.mean((1, 2, 3)) > 0.25] = 1 / 25
        return 1 - batch, estimate

    def calibrated_gate(self) -> Gate:
        return GATE


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restorers, "_entries", dict(restorers._entries))
    restorers.register("invert-test", Invert)


def bright(height: int = 20, width: int = 16, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(100, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def restore(*arguments: str | Path, input: bytes | None = None) -> Result:
    command = ["restore", *map(str, arguments), "--model", "invert-test", "--device", "cpu"]
    return CliRunner().invoke(main, command, input=input)


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_folder_gives_a_folder_with_the_same_names(tmp_path: Path) -> None:
    for i, name in enumerate(["a.png", "sub/b.png", "sub/deeper/c.bmp", "ünï 顔.png", "new\nline.png"]):
        save(tmp_path / "in" / name, bright(20 + i, seed=i))
    save(tmp_path / "in" / "d.jpg", np.full((32, 24, 3), 200, np.uint8))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    result = restore(tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "6 restored of 6" in result.stderr
    assert result.stdout == ""
    sources = {p.relative_to(tmp_path / "in") for p in (tmp_path / "in").rglob("*") if p.is_file()}
    written = {p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written == sources - {Path("notes.txt")}
    for name in written - {Path("d.jpg")}:
        np.testing.assert_array_equal(
            read_rgb(tmp_path / "out" / name), 255 - read_rgb(tmp_path / "in" / name)
        )
    jpeg = Image.open(tmp_path / "out" / "d.jpg")
    assert (jpeg.format, jpeg.size) == ("JPEG", (24, 32))
    assert abs(float(np.asarray(jpeg).mean()) - 55) < 1


def test_beside_the_source_into_a_file_and_by_pattern(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name, bright())
    assert restore(tmp_path / "a.png").exit_code == 0
    assert (tmp_path / "a-restored.png").is_file()
    assert restore(tmp_path / "a.png", "--out", tmp_path / "x.jpg").exit_code == 0
    assert Image.open(tmp_path / "x.jpg").format == "JPEG"
    assert restore(tmp_path / "[ab].png", "--out", tmp_path / "new", "--suffix", "_s").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a_s.png", "b_s.png"]


def test_sharp_pictures_are_copied_byte_for_byte(tmp_path: Path) -> None:
    dark = save(tmp_path / "in" / "dark.jpg", np.full((16, 16, 3), 20, np.uint8), quality=31)
    save(tmp_path / "in" / "bright.png", bright())
    result = restore(tmp_path / "in", "--out", tmp_path / "out", "--json")
    assert {Path(row["source"]).name: row["status"] for row in lines(result)} == {
        "bright.png": "restored",
        "dark.jpg": "passed",
    }
    assert (tmp_path / "out" / "dark.jpg").read_bytes() == dark.read_bytes()
    result = restore(tmp_path / "in", "--out", tmp_path / "all", "--no-gate")
    assert "2 restored" in result.stderr


def test_profile_orientation_alpha_grey_and_depth_are_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = tmp_path / "in"
    save(source / "turned.png", bright(), exif=exif, icc_profile=b"a profile")
    save(source / "turned.jpg", bright(32, 24), exif=exif, icc_profile=b"a profile")
    alpha = np.dstack([bright(), np.arange(320, dtype=np.uint16).reshape(20, 16).astype(np.uint8)])
    save(source / "alpha.png", alpha)
    save(source / "grey.png", bright()[..., 0])
    save(source / "deep.png", bright()[..., 0].astype(np.uint16) * 257)
    Image.fromarray(bright()).convert("CMYK").save(source / "cmyk.jpg")
    assert restore(source, "--out", tmp_path / "out", "--no-gate").exit_code == 0
    for name in ("turned.png", "turned.jpg"):
        back, before = Image.open(tmp_path / "out" / name), Image.open(source / name)
        assert back.getexif()[0x0112] == 6
        assert back.info["icc_profile"] == b"a profile"
        assert back.size == before.size
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "turned.png")), 255 - bright())
    back = np.asarray(Image.open(tmp_path / "out" / "alpha.png"))
    np.testing.assert_array_equal(back, np.dstack([255 - alpha[..., :3], alpha[..., 3]]))
    assert Image.open(tmp_path / "out" / "grey.png").mode == "L"
    deep = np.asarray(Image.open(tmp_path / "out" / "deep.png"))
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(deep, 65535 - bright()[..., 0].astype(np.uint16) * 257)
    assert Image.open(tmp_path / "out" / "cmyk.jpg").mode == "CMYK"


def test_compare_and_animation(tmp_path: Path) -> None:
    save(tmp_path / "a.png", bright())
    assert restore(tmp_path / "a.png", "--compare").exit_code == 0
    sheet = read_rgb(tmp_path / "a-restored-compare.png")
    np.testing.assert_array_equal(sheet[:, :16], bright())
    np.testing.assert_array_equal(sheet[:, 20:], 255 - bright())
    frames = [Image.fromarray(bright(seed=i)) for i in range(2)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    result = restore(tmp_path / "b.gif")
    assert result.exit_code == 0
    assert "first of 2 frames" in result.stderr


def test_rotation_survives_a_format_without_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = save(tmp_path / "a.png", bright(), exif=exif)
    for name in ("x.bmp", "x.tif", "x.ppm", "x.png", "x.webp"):
        assert restore(source, "--out", tmp_path / name).exit_code == 0
        back = read_rgb(tmp_path / name)
        assert back.shape == (16, 20, 3)
        if name != "x.webp":
            np.testing.assert_array_equal(back, 255 - read_rgb(source))


def test_sheets_have_names_of_their_own_and_are_made_up_for(tmp_path: Path) -> None:
    for name in ("a.png", "a-compare.png"):
        save(tmp_path / "in" / name, bright())
    result = restore(tmp_path / "in", "--out", tmp_path / "out", "--compare")
    assert result.exit_code == 1
    assert "both be written" in result.stderr
    (tmp_path / "in" / "a-compare.png").unlink()
    assert restore(tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    for told in ("1 restored", "1 skipped"):
        assert told in restore(tmp_path / "in", "--out", tmp_path / "out", "--compare").stderr
        assert (tmp_path / "out" / "a-compare.png").is_file()


def test_sheet_of_a_deep_picture_is_scaled() -> None:
    deep = Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))
    assert set(np.unique(np.asarray(side_by_side(deep, deep)))) == {128, 255}


def test_a_folder_of_the_targets_name_is_told(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", bright())
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    result = restore(tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "a.png is a folder" in result.stderr


def test_a_pattern_does_not_find_results(tmp_path: Path) -> None:
    save(tmp_path / "w" / "a.png", bright())
    for told in ("1 restored of 1", "1 skipped of 1"):
        assert told in restore(tmp_path / "w" / "**" / "*.png", "--out", tmp_path / "w" / "out").stderr
    result = restore(tmp_path / "w" / "*.png", "--out", tmp_path / "w")
    assert "would be replaced" in result.stderr


def test_bad_pictures_are_told_and_the_rest_is_done(tmp_path: Path) -> None:
    source = tmp_path / "in"
    save(source / "good.png", bright())
    save(source / "tiny.png", bright(1, 1))
    save(source / "long.png", bright(1, 30000))
    (source / "empty.png").write_bytes(b"")
    (source / "text.jpg").write_text("no picture")
    (source / "cut.png").write_bytes((source / "good.png").read_bytes()[:200])
    (source / "link.png").symlink_to(tmp_path / "nowhere")
    (source / "odd\nname.png").write_bytes(b"x")
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(source / "nan.tiff")
    bad = {"empty.png", "text.jpg", "cut.png", "link.png", "odd\nname.png", "nan.tiff"}
    result = restore(source, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"good.png", "tiny.png", "long.png"}
    assert {Path(r["source"]).name for r in lines(result) if r["status"] == "failed"} == bad
    assert "3 restored, 6 failed of 9" in result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("blurface: ")]
    assert len(told) == 6
    for name in bad:
        assert sum(name.replace("\n", "\\n") in line for line in told) == 1, name
    quiet = restore(source, "--out", tmp_path / "out", "--quiet")
    assert len(quiet.stderr.splitlines()) == 6


def test_strange_metadata_and_pages_cost_no_other_picture(tmp_path: Path) -> None:
    source = tmp_path / "in"
    text = PngInfo()
    text.add_text("dpi", "300")
    text.add_text("transparency", "x")
    save(source / "a.png", bright())
    save(source / "b.png", bright(seed=1), pnginfo=text)
    save(source / "c.avif", bright(seed=2))
    save(source / "d.jfif", bright(seed=3), format="JPEG")
    result = restore(source, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.png", "b.png", "c.avif", "d.jfif"}
    np.testing.assert_array_equal(read_rgb(tmp_path / "out" / "b.png"), 255 - bright(seed=1))
    # What a file is called is what it is.
    assert restore(source / "a.png", "--out", tmp_path / "x.avif").exit_code == 0
    assert Image.open(tmp_path / "x.avif").format == "AVIF"
    wrong = restore(source / "a.png", "--out", tmp_path / "x.parquet")
    assert wrong.exit_code == 1
    assert "cannot be written as" in wrong.stderr


def test_no_error_of_one_picture_ends_the_run(tmp_path: Path) -> None:
    jobs = [Job(save(tmp_path / f"{i}.png", bright(seed=i)), tmp_path / "out" / f"{i}.png") for i in range(3)]
    mend = by_stage(DeblurStage(Invert()))

    def narrow(pictures: list[Image.Image]) -> Any:
        for picture in pictures:
            if np.array_equal(np.asarray(picture), bright(seed=0)):
                raise MemoryError
            if np.array_equal(np.asarray(picture), bright(seed=1)):
                raise TypeError("no such thing")
        return mend(pictures)

    first, second, third = restore_jobs(jobs, narrow, Options())
    assert first.status == second.status == "failed"
    assert "0.png: The picture does not fit in memory" in first.message
    assert "1.png: The picture cannot be restored (TypeError: no such thing)" in second.message
    assert third.status == "restored"
    with pytest.raises(ImageError, match="does not fit in memory"):
        restore_stream(encoded(bright()), narrow)


def test_resume_skips_what_is_finished(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, bright())
    assert restore(tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    first = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    (tmp_path / "out" / "b.png").unlink()
    result = restore(tmp_path / "in", "--out", tmp_path / "out")
    assert "1 restored, 1 skipped of 2" in result.stderr
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == first
    later = time.time() + 10
    os.utime(tmp_path / "in" / "a.png", (later, later))
    assert "1 restored, 1 skipped" in restore(tmp_path / "in", "--out", tmp_path / "out").stderr
    assert "2 restored" in restore(tmp_path / "in", "--out", tmp_path / "out", "--overwrite").stderr


def test_standard_input_and_output(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(bright()).save(stream, format="png")
    result = restore("-", input=stream.getvalue())
    assert result.exit_code == 0
    np.testing.assert_array_equal(read_rgb(io.BytesIO(result.stdout_bytes)), 255 - bright())
    result = restore("-", "--out", tmp_path / "a.png", "--json", input=stream.getvalue())
    (line,) = lines(result)
    assert (line["source"], line["status"], line["action"]) == ("-", "restored", "restore")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), 255 - bright())
    for data in (b"", b"no picture", stream.getvalue()[:90]):
        result = restore("-", input=data)
        assert result.exit_code == 1
        assert "<stdin>" in result.stderr
        assert result.stdout_bytes == b""
    assert restore("-", "--out", tmp_path / "a.jpg", input=stream.getvalue()).exit_code == 0
    assert Image.open(tmp_path / "a.jpg").format == "JPEG"
    dark = save(tmp_path / "dark.jpg", np.full((16, 16, 3), 20, np.uint8)).read_bytes()
    assert restore("-", "--out", tmp_path / "dark.png", input=dark).exit_code == 0
    assert Image.open(tmp_path / "dark.png").format == "PNG"
    assert restore(tmp_path / "dark.jpg", "--out", "-").stdout_bytes == dark
    assert restore(tmp_path / "dark.jpg", tmp_path / "a.png", "--out", "-").exit_code == 2
    assert restore(tmp_path, "--out", "-").exit_code == 1
    assert restore("-", tmp_path / "a.png").exit_code == 2
    assert restore("-", "--json", input=b"").exit_code == 2
    # Another format's suffix is followed or refused, and what is lost is told.
    strange = restore("-", "--out", tmp_path / "a.xyz", input=stream.getvalue())
    assert strange.exit_code == 1
    assert ".xyz" in strange.stderr
    moving = io.BytesIO()
    more = [Image.fromarray(bright(seed=1))]
    Image.fromarray(bright()).save(moving, format="GIF", save_all=True, append_images=more)
    first = restore("-", "--out", tmp_path / "a.gif", "--json", input=moving.getvalue())
    assert lines(first)[0]["message"] == "only the first of 2 frames"
    assert "only the first of 2 frames" in first.stderr


def test_wrong_usage_is_told(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", bright())
    save(tmp_path / "other" / "a.png", bright())
    (tmp_path / "empty").mkdir()
    cases: list[tuple[list[str | Path], str]] = [
        ([tmp_path / "none.png"], "does not exist"),
        ([tmp_path / "*.xyz"], "Nothing matches"),
        ([tmp_path / "empty"], "No pictures"),
        ([tmp_path / "in", "--out", tmp_path / "in"], "would be replaced"),
        ([tmp_path / "in/a.png", tmp_path / "other/a.png", "--out", tmp_path / "out"], "both be written"),
        ([tmp_path / "in", "--suffix", "/x"], "file name"),
        ([tmp_path / "in", "--out", tmp_path / "in" / "a.png"], "replaced"),
    ]
    for arguments, words in cases:
        result = restore(*arguments)
        assert result.exit_code == 1, arguments
        assert words in result.stderr
        assert "Traceback" not in result.stderr
    assert CliRunner().invoke(main, ["restore"]).exit_code == 2
    assert CliRunner().invoke(main, ["restore", str(tmp_path / "in"), "--model", "fats"]).exit_code == 2


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", bright())
    (tmp_path / "out").write_text("a file")
    result = restore(tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "out" in result.stderr
    assert "Traceback" not in result.stderr


def test_results_beside_their_sources_are_no_sources(tmp_path: Path) -> None:
    save(tmp_path / "a.png", bright())
    for _ in range(3):
        assert restore(tmp_path, "--compare", "--overwrite").exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-restored-compare.png", "a-restored.png", "a.png"]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", bright())
    os.mkfifo(tmp_path / "in" / "pipe.png")
    result = restore(tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "pipe.png is no regular file" in result.stderr
    assert "1 restored, 1 failed of 2" in result.stderr


def test_output_folder_inside_the_input_is_no_input(tmp_path: Path) -> None:
    save(tmp_path / "a.png", bright())
    for _ in range(2):
        assert restore(tmp_path, "--out", tmp_path / "out", "--overwrite").exit_code == 0
    assert [p.name for p in (tmp_path / "out").rglob("*.png")] == ["a.png"]


def test_a_killed_run_leaves_no_half_pictures_and_goes_on(tmp_path: Path) -> None:
    for i in range(30):
        save(tmp_path / "in" / f"{i:02}.png", bright(200, 200, seed=i))
    arguments = ["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--model", "none"]
    code = f"from blurface.cli import main; main({[*arguments, '--batch-size', '1']!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((tmp_path / "out").glob("*.png"))) < 5:
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished = sorted((tmp_path / "out").glob("*.png"))
    assert finished
    for path in finished:
        np.testing.assert_array_equal(read_rgb(path), read_rgb(tmp_path / "in" / path.name))
    result = CliRunner().invoke(main, arguments)
    assert f"{len(finished)} skipped of 30" in result.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 30


# ------------------------------------------------------------------------------------- parquet


def encoded(array: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="png")
    return stream.getvalue()


def test_parquet_columns_stay_and_pictures_are_restored(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [encoded(bright(seed=i)) for i in range(3)] + [b"broken", None, encoded(bright() // 10)]
    structs = pa.array([{"bytes": row, "path": f"{i}.png"} for i, row in enumerate(rows)])
    source = tmp_path / "in"
    source.mkdir()
    pq.write_table(pa.table({"id": range(6), "image": rows}), source / "plain.parquet")
    pq.write_table(pa.table({"image": structs[:3], "id": [0, 1, 2]}), source / "struct.parquet")
    (source / "bad.parquet").write_bytes(b"no parquet")
    result = restore(source, "--out", tmp_path / "out", "--batch-size", "2")
    assert result.exit_code == 1
    assert "1 restored, 2 failed of 3" in result.stderr
    table = pq.read_table(tmp_path / "out" / "plain.parquet")
    assert table.column_names == ["id", "image", "blur_score", "blur_action", "blur_error"]
    assert table["id"].to_pylist() == list(range(6))
    assert table["blur_action"].to_pylist() == ["restore"] * 3 + [None, None, "pass"]
    images = table["image"].to_pylist()
    np.testing.assert_array_equal(read_rgb(io.BytesIO(images[1])), 255 - bright(seed=1))
    assert images[3:] == rows[3:]
    assert "picture" in table["blur_error"][3].as_py()
    nested = pq.read_table(tmp_path / "out" / "struct.parquet")["image"].to_pylist()
    assert [row["path"] for row in nested] == ["0.png", "1.png", "2.png"]
    np.testing.assert_array_equal(read_rgb(io.BytesIO(nested[0]["bytes"])), 255 - bright())
    result = restore(source / "plain.parquet", "--out", tmp_path / "new", "--column", "picture")
    assert "no column 'picture'" in result.stderr
    assert not (tmp_path / "new").exists()


def test_parquet_is_restored_in_batches_and_keeps_its_layout(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [encoded(bright(seed=i)) for i in range(5)]
    table = pa.table({"id": range(5), "image": [{"bytes": row} for row in rows]})
    source = tmp_path / "a.parquet"
    pq.write_table(table, source, row_group_size=3, compression={"id": "NONE", "image.bytes": "ZSTD"})
    counts: list[int] = []
    mend = by_stage(DeblurStage(Invert()))

    def counted(pictures: list[Image.Image]) -> Any:
        counts.append(len(pictures))
        return mend(pictures)

    jobs = [Job(source, tmp_path / "b.parquet")]
    assert [outcome.status for outcome in restore_jobs(jobs, counted, batch_size=2)] == ["restored"]
    assert counts == [2, 1, 2]
    after = pq.ParquetFile(tmp_path / "b.parquet").metadata
    groups = [after.row_group(i) for i in range(after.num_row_groups)]
    assert [group.num_rows for group in groups] == [3, 2]
    codecs = {c.path_in_schema: c.compression for c in (groups[0].column(i) for i in range(5))}
    assert codecs["id"] == "UNCOMPRESSED"
    assert codecs["image.bytes"] == codecs["blur_score"] == "ZSTD"
    result = restore(source, "--compare")
    assert result.exit_code == 2
    assert "Parquet" in result.stderr


# --------------------------------------------------------------------------------------- pieces


def test_parquet_that_failed_is_not_finished(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = [encoded(bright()), b"no picture"]
    source, out = tmp_path / "in" / "s.parquet", tmp_path / "out"
    source.parent.mkdir()
    pq.write_table(pa.table({"image": data, "path": ["a", "b"]}), source)
    wrong = restore(source.parent, "--out", out, "--column", "path")
    assert wrong.exit_code == 1
    assert "the column 'path' is of string" in wrong.stderr
    assert not (out / "s.parquet").exists()
    for again in (False, True):
        result = restore(source.parent, "--out", out)
        assert result.exit_code == 1
        assert ("1 failed in an earlier run" in result.stderr) == again
        assert "blur_error" in result.stderr
    assert pq.read_table(out / "s.parquet")["blur_action"].to_pylist() == ["restore", None]
    pq.write_table(pa.table({"image": data[:1]}), source)
    assert "1 restored" in restore(source.parent, "--out", out, "--overwrite").stderr
    skipped = restore(source.parent, "--out", out)
    assert skipped.exit_code == 0
    assert "1 skipped" in skipped.stderr


def test_collect_names_every_result_once(tmp_path: Path) -> None:
    save(tmp_path / "a.png", bright())
    assert collect([str(tmp_path), str(tmp_path / "a.png")], str(tmp_path / "out")) == [
        Job(tmp_path / "a.png", tmp_path / "out" / "a.png")
    ]
    with pytest.raises(InputError):
        collect([str(tmp_path)], None, "")


def test_one_bad_picture_in_a_batch_does_not_spoil_it(tmp_path: Path) -> None:
    jobs = []
    for i in range(5):
        jobs.append(Job(save(tmp_path / f"{i}.png", bright(seed=i)), tmp_path / "out" / f"{i}.png"))
    mend = by_stage(DeblurStage(Invert()))

    def picky(pictures: list[Image.Image]) -> Any:
        if any(np.array_equal(np.asarray(picture), bright(seed=2)) for picture in pictures):
            raise InputError("No.", "Never.")
        return mend(pictures)

    statuses = [outcome.status for outcome in restore_jobs(jobs, picky, Options())]
    assert statuses == ["restored", "restored", "failed", "restored", "restored"]
    data, decision, _ = restore_stream(encoded(bright()), mend)
    np.testing.assert_array_equal(read_rgb(io.BytesIO(data)), 255 - bright())
    assert decision.action == "restore"


# ------------------------------------------------------------------------------------------ ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray cluster that the commands find running."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
    try:
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # of no narrower type
        # Ray gives its own processes 15 s to start, which a very busy machine exceeds.
        pytest.skip(f"Ray could start no local cluster: {str(error).strip().splitlines()[0]}")
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_ray_gives_what_the_local_engine_gives_and_goes_on_after_a_break(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = tmp_path / "in"
    for i in range(4):
        save(source / f"{i}.png", bright(seed=i))
    (source / "broken.png").write_bytes(b"x")
    (source / "3.png").rename(source / os.fsdecode(b"\xff3.png"))  # no valid UTF-8
    pq.write_table(
        pa.table({"id": [5, 6, 7], "image": [encoded(bright(seed=i)) for i in range(2)] + [b"x"]}),
        source / "shard.parquet",
    )
    arguments = ["restore", str(source), "--model", "none", "--device", "cpu", "--json"]
    engine = ["--engine", "ray", "--batch-size", "3", "--actors", "1"]
    here = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "here")])
    there = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "there"), *engine])
    assert here.exit_code == there.exit_code == 1
    assert "4 restored, 2 failed of 6" in there.stderr
    assert "shard.parquet: 2 restored, 1 failed" in there.stderr
    assert len(lines(there)) == 6
    written = {path.name for path in (tmp_path / "here").iterdir()}
    assert {path.name for path in (tmp_path / "there").iterdir()} == written
    assert len(written) == 5
    for name in written - {"shard.parquet"}:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    tables = [pq.read_table(tmp_path / folder / "shard.parquet") for folder in ("here", "there")]
    assert tables[0].equals(tables[1])
    assert tables[1].column("id").to_pylist() == [5, 6, 7]
    assert tables[1].column("blur_action").to_pylist() == ["restore", "restore", None]

    # A run that was cut off: what is there stays as it is, what is missing is made.
    kept = tmp_path / "there" / "0.png"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "there" / "1.png").unlink()
    (source / "broken.png").unlink()
    again = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "there"), *engine])
    assert again.exit_code == 1
    assert "1 restored, 3 skipped, 1 failed of 5" in again.stderr  # the table's picture is told again
    assert kept.stat().st_mtime_ns == stamp
    assert (tmp_path / "there" / "1.png").read_bytes() == (tmp_path / "here" / "1.png").read_bytes()


@pytest.mark.parametrize(
    ("model", "code"),
    [("nonsense", 2), ("levin:abc", 1), ("exported:none.onnx", 1), ("fast:none.safetensors", 1)],
)
def test_what_cannot_be_built_is_told_before_a_cluster_starts(
    model: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blurface.ray_engine.restore_with_ray", lambda *_, **options: pytest.fail("started"))
    command = ["restore", str(save(tmp_path / "a.png", bright())), "--model", model]
    here, there = (CliRunner().invoke(main, [*command, *engine]) for engine in ([], ["--engine", "ray"]))
    assert there.exit_code == here.exit_code == code
    assert there.stderr == here.stderr
    assert len(there.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "gpus"),
    [
        ([], None),
        (["--backend", "auto"], None),
        (["--backend", "onnxruntime", "--model", "fast", "--precision", "int8"], 0),
        (["--backend", "auto", "--model", "fast", "--precision", "int8"], 0),
        (["--device", "cpu"], 0),
        (["--device", "cuda:1"], 1),  # which this machine need not have
    ],
)
def test_actors_take_a_gpu_where_they_compute_on_one(
    arguments: list[str], gpus: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--precision" in arguments:
        pytest.importorskip("onnxruntime")
    asked = []

    def engine(*args: Any, **options: Any) -> Iterator[Any]:
        asked.append(options["gpus"])
        return iter(())

    monkeypatch.setattr("blurface.ray_engine.restore_with_ray", engine)
    command = ["restore", str(save(tmp_path / "a.png", bright())), "--model", "invert-test", *arguments]
    result = CliRunner().invoke(main, [*command, "--engine", "ray"])
    assert result.exit_code == 0, result.stderr
    assert asked == [gpus]


@pytest.mark.usefixtures("cluster")
def test_an_actors_error_comes_back_as_it_was_and_by_default_an_actor_has_the_cluster_s_gpu(
    tmp_path: Path,
) -> None:
    from blurface.ray_engine import restore_with_ray

    def build() -> Any:
        import ray

        raise UnknownNameError(f"GPU {ray.get_runtime_context().get_accelerator_ids()['GPU']}", "the mend")

    with pytest.raises(UnknownNameError) as caught:
        list(restore_with_ray([Job(tmp_path / "a.png", tmp_path / "b.png")], build, gpus=None))
    assert str(caught.value) == "GPU ['0'] the mend"


def test_eight_bits_run_where_a_runtime_is_chosen(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    command = ["restore", str(save(tmp_path / "a.png", bright())), "--precision", "int8", "--backend"]
    assert CliRunner().invoke(main, [*command, "auto"]).exit_code == 0
    assert Image.open(tmp_path / "a-restored.png").size == (16, 20)
    refused = CliRunner().invoke(main, [*command, "torch"])
    assert refused.exit_code == 2
    assert "auto" in refused.stderr
