"""Bad and odd files that the tests build, and faults: a full disk, a reader without rights, kill -9."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blurface.cli import main
from blurface.restorers.base import Restorer


class Invert(Restorer):
    """x -> 1 - x: what was restored, and how often, can be read from the result."""

    name = "invert-toy"
    batch_size = 4

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        estimate = torch.zeros(batch.shape[0], 3, 3)
        estimate[:, 1, 1] = 1
        return 1 - batch, estimate


def run(*arguments: object, **options: Any) -> Result:
    """A command in this process; it must end by an exit code, never by an exception."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def told(result: Result) -> list[str]:
    """The errors of a command, a line each."""
    return [line for line in result.stderr.splitlines() if line.startswith("blurface: ")]


# ------------------------------------------------------------------------------------- pictures


def picture(height: int = 20, width: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    """Noise: no two are alike."""
    return np.random.default_rng(seed).integers(30, 226, (height, width, 3), dtype=np.uint8)


def encoded(format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """A small picture in a format."""
    stream = io.BytesIO()
    (image or Image.fromarray(picture(60, 50))).save(stream, format, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb() -> bytes:
    """A few bytes that say 60000 x 60000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    parts = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def png_text_bomb() -> bytes:
    """A picture with a text that unpacks to 80 MB."""
    data = encoded("PNG")
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 80_000_000, 9))
    return data[:33] + text + data[33:]


def bad_pictures(folder: Path) -> dict[str, str]:
    """Files that no picture can be had from: name -> a word of the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    png, jpg, webp, tiff = (encoded(format) for format in ("PNG", "JPEG", "WEBP", "TIFF"))
    flipped = bytearray(png)
    flipped[20] ^= 0x40  # the width: the checksum of the header no longer fits
    contents = {
        "truncated.png": (png[: len(png) // 2], "corrupt"),
        "truncated.jpg": (jpg[: len(jpg) // 2], "corrupt"),
        "truncated.webp": (webp[: len(webp) // 2], "not a picture|corrupt"),
        "truncated.tif": (tiff[: len(tiff) // 2], "not a picture|corrupt"),
        "flipped.png": (bytes(flipped), "not a picture|corrupt"),
        "empty.png": (b"", "is empty"),
        "text.jpg": (b"no picture", "not a picture"),
        "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not a picture"),
        "bomb.png": (png_bomb(), "pixels"),
        "text bomb.png": (png_text_bomb(), "corrupt"),
        "odd\nna\x1bme.png": (b"x", "not a picture"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    (folder / "link.png").symlink_to(folder / "nowhere")
    loop = folder / "loop.png"
    loop.symlink_to(loop)
    reasons = {name: reason for name, (_, reason) in contents.items()}
    return reasons | {"link.png": "link to nothing", "loop.png": "links|symbolic"}


def bad_values(folder: Path) -> dict[str, str]:
    """Files that decode, to values that no picture has: name -> a word of the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (
        ("nan.tiff", np.nan),
        ("inf.tiff", np.inf),
        ("negative.tiff", -1.0),
        ("255.tiff", 255.0),
    ):
        Image.fromarray(np.full((130, 120), value, np.float32)).save(folder / name)
    Image.fromarray(np.full((130, 120), 70_000, np.int32)).save(folder / "deep.tiff")
    words = {"nan.tiff": "NaN", "inf.tiff": "infinite", "deep.tiff": "32-bit values"}
    return words | dict.fromkeys(("negative.tiff", "255.tiff"), "values|range")


def odd_pictures(folder: Path) -> set[str]:
    """Files that are unusual and must work."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture())
    rgba = Image.fromarray(np.dstack([picture(), picture(seed=1)[..., 0]]))
    made: dict[str, bytes] = {
        "pixel.png": encoded("PNG", Image.fromarray(picture(1, 1))),
        "wide.png": encoded("PNG", Image.fromarray(picture(1, 30000))),
        "tall.png": encoded("PNG", Image.fromarray(picture(30000, 1))),
        "cmyk.jpg": encoded("JPEG", image.convert("CMYK")),
        "palette.png": encoded("PNG", image.convert("P"), transparency=3),
        "grey16.png": encoded("PNG", Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)),
        "rgba.png": encoded("PNG", rgba),
        "grey-alpha.png": encoded("PNG", rgba.convert("LA")),
        "bilevel.png": encoded("PNG", image.convert("1")),
        "wrong.jpg": encoded("PNG", image),
        "Großmütter 顔 😀.png": encoded("PNG", image),
        "new\nline.png": encoded("PNG", image),
        "-dash.png": encoded("PNG", image),
        "[ab]*.png": encoded("PNG", image),
        "%s{0}$HOME;`id`.png": encoded("PNG", image),
        "n" * 200 + ".png": encoded("PNG", image),
    }
    for format, suffix in (("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp")):
        made[f"animated.{suffix}"] = encoded(format, image, save_all=True, append_images=[image.rotate(180)])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        made[f"exif{orientation}.jpg"] = encoded("JPEG", image, exif=exif, quality=100, subsampling=0)
    for name, data in made.items():
        (folder / name).write_bytes(data)
    raw = os.fsencode(folder) + b"/caf\xe9.png"  # a name that is no UTF-8
    Path(os.fsdecode(raw)).write_bytes(made["wrong.jpg"])
    return {*made, os.fsdecode(b"caf\xe9.png")}


# --------------------------------------------------------------------------------------- faults


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """As an ordinary user, for whom permission bits count: root passes them by."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def public_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user may enter (pytest's own are for their owner alone)."""
    folder = Path(tempfile.mkdtemp(prefix="blurface-test-"))
    folder.chmod(0o777)
    monkeypatch.setenv("BLURFACE_CACHE", str(folder / "cache"))
    try:
        yield folder
    finally:
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o777)
        shutil.rmtree(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def killed(work: Callable[[], object], after: float) -> bool:
    """Do work in a forked process and kill -9 it after some seconds; whether it was still at work."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(work,))
    process.start()
    process.join(after)
    alive = process.exitcode is None
    if alive:
        process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return alive


def _alone(work: Callable[[], object]) -> None:
    torch.set_num_threads(1)  # threads of the parent are not there after a fork
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    work()


def killed_at_write(work: Callable[[], object], number: int) -> bool:
    """The same, killed in front of the n-th renaming: every file is there under its temporary name."""

    def counted() -> None:
        left = [number]
        real = os.replace

        def replace(*arguments: Any, **options: Any) -> None:
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments, **options)

        os.replace = replace  # type: ignore[assignment]
        work()

    process = multiprocessing.get_context("fork").Process(target=_alone, args=(counted,))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
