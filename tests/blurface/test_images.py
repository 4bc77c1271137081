"""Every kind of picture in, the very same kind out; what cannot be used is refused by name."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from blurface.errors import ImageError
from blurface.files import replacing
from blurface.images import (
    MAX_PIXELS,
    encode_image,
    frames_of,
    keeps_orientation,
    open_image,
    picture_suffixes,
    read_rgb,
    upright,
    write_image,
)
from blurface.packets import unpack

WIDTH, HEIGHT = 10, 14


def picture(height: int = HEIGHT, width: int = WIDTH, channels: int = 3, seed: int = 0) -> Any:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def through(x: Any, change: Callable[[Tensor], Tensor] | None = None, batch: int = 3, **options: Any) -> Any:
    packet = unpack(x, **options)
    for chunk in packet.chunks(batch):
        rgb = chunk.load()
        assert rgb.dtype == torch.float32
        assert rgb.ndim == 4
        assert rgb.shape[1] == 3
        assert 0 <= float(rgb.detach().min()) <= float(rgb.detach().max()) <= 1
        chunk.store(change(rgb) if change else rgb)
    return packet.result()


# ------------------------------------------------------------------------------------ round trip

_sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
_channels = st.sampled_from([None, 1, 3, 4])


@st.composite
def arrays(draw: st.DrawFn, values: Any = None) -> np.ndarray[Any, Any]:
    height, width = draw(_sizes)
    channels = draw(_channels)
    shape: tuple[int, ...] = (height, width) if channels is None else (height, width, channels)
    if channels is not None and draw(st.booleans()):
        shape = (draw(st.integers(1, 3)), *shape)
    dtype = draw(st.sampled_from(["u1", "u2", ">u2", "f2", "f4", "f8"]))
    elements = {"min_value": 0, "max_value": 1} if dtype.startswith("f") else None
    return draw(hnp.arrays(np.dtype(dtype), shape, elements=elements))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    height, width = draw(_sizes)
    shape = [[height, width], [draw(st.sampled_from([1, 3, 4])), height, width]][draw(st.integers(0, 1))]
    if len(shape) == 3 and draw(st.booleans()):
        shape = [draw(st.integers(0, 3)), *shape]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    dtype = draw(
        st.sampled_from(
            [torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64]
        )
    )
    span = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    return (torch.rand(shape, generator=generator) * span).to(dtype)


@st.composite
def pil_images(draw: st.DrawFn) -> Image.Image:
    height, width = draw(_sizes)
    mode = draw(st.sampled_from(["RGB", "RGBA", "L", "LA", "1", "I;16", "I", "F", "CMYK"]))
    seed = draw(st.integers(0, 99))
    if mode == "I;16":
        return Image.fromarray(picture(height, width, 1, seed).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(picture(height, width, 1, seed).astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(np.random.default_rng(seed).random((height, width), np.float32))
    channels = {"RGBA": 4, "LA": 2, "L": 1, "1": 1}.get(mode, 3)
    image = Image.fromarray(picture(height, width, channels, seed))
    # CMYK as converters write it, with K in use, would not survive RGB; that is stated, not tested.
    return image if image.mode == mode else image.convert(mode)


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, Image.Image):
        assert (a.mode, a.size) == (b.mode, b.size)
        np.testing.assert_allclose(
            np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), atol=1e-7
        )
    elif isinstance(a, Tensor):
        assert (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device)
        torch.testing.assert_close(a.double(), b.double(), atol=1e-7, rtol=0)
    else:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), atol=1e-7)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(arrays(), tensors(), pil_images()), max_size=4), st.integers(1, 5), st.booleans())
def test_every_kind_comes_back_as_it_was(items: list[Any], batch: int, bgr: bool) -> None:
    order: Any = "bgr" if bgr else "rgb"
    back = through(items, batch=batch, channel_order=order)
    assert isinstance(back, list)
    for item, restored in zip(items, back, strict=True):
        same(item, restored)
    for item in items[:1]:
        same(item, through(item, batch=batch, channel_order=order))
    assert isinstance(through(tuple(items)), tuple)


@settings(max_examples=60, deadline=None)
@given(st.one_of(arrays(), tensors(), pil_images()))
def test_kept_pictures_are_equal_bit_for_bit_and_own_their_memory(item: Any) -> None:
    packet = unpack(item)
    for chunk in packet.chunks(2):
        chunk.store(1 - chunk.load(), torch.ones(len(chunk.indices), dtype=torch.bool))
    back = packet.result()
    if isinstance(item, Image.Image):
        assert back.tobytes() == item.tobytes()
        assert back is not item
    elif isinstance(item, Tensor):
        assert torch.equal(back.double(), item.double())
        assert item.numel() == 0 or back.data_ptr() != item.data_ptr()
    else:
        np.testing.assert_array_equal(back, item)
        assert not np.shares_memory(back, item)


def test_only_some_of_a_batch_kept() -> None:
    x = torch.rand(4, 3, 5, 6)
    packet = unpack(x)
    for chunk in packet.chunks(3):
        chunk.store(1 - chunk.load(), torch.tensor([i % 2 == 0 for i in chunk.indices]))
    back = packet.result()
    assert torch.equal(back[::2], x[::2])
    torch.testing.assert_close(back[1::2], 1 - x[1::2])


def test_float_ranges_and_channel_order_mean_what_they_say() -> None:
    """Inverting black and white in RGB [0, 1] is 255 - x, -x, and per channel low + high - x."""
    x = picture().astype(np.float32)
    np.testing.assert_allclose(through(x, lambda p: 1 - p, value_range=(0, 255)), 255 - x, atol=1e-3)
    y = x / 127.5 - 1
    np.testing.assert_allclose(through(y, lambda p: 1 - p, value_range=(-1, 1)), -y, atol=1e-5)
    low, high = np.array([-2.1, -2.0, -1.8]), np.array([2.2, 2.4, 2.6])
    z = low + x / 255 * (high - low)
    np.testing.assert_allclose(
        through(z, lambda p: 1 - p, value_range=(tuple(low), tuple(high))), low + high - z, atol=1e-5
    )
    # Blackening RGB's red touches the last of BGR's channels.
    no_red = torch.tensor([0.0, 1.0, 1.0])[:, None, None]
    bgr = through(picture(), lambda p: p * no_red, channel_order="bgr")
    np.testing.assert_array_equal(bgr[..., :2], picture()[..., :2])
    assert not bgr[..., 2].any()


def test_inverted_range_is_allowed() -> None:
    """white = 0 and black = 1: the network still sees an upright picture."""
    x = np.zeros((2, 2, 3), np.float32)
    packet = unpack(x, value_range=(1, 0))
    assert float(next(iter(packet.chunks(1))).load().min()) == 1


def test_alpha_is_kept_and_grey_stays_grey() -> None:
    rgba = picture(channels=4)
    back = through(Image.fromarray(rgba), lambda p: 1 - p)
    np.testing.assert_array_equal(np.asarray(back)[..., :3], 255 - rgba[..., :3])
    np.testing.assert_array_equal(np.asarray(back)[..., 3], rgba[..., 3])
    grey = picture(channels=1)
    tint = torch.tensor([0.0, 0.3, 0.6])[:, None, None]
    back = through(Image.fromarray(grey), lambda p: (p + tint).clamp(0, 1) / 2)
    assert back.mode == "L"


def test_palette_comes_back_as_colours_and_info_is_kept() -> None:
    image = Image.fromarray(picture()).convert("P")
    image.info["icc_profile"] = b"profile"
    back = through(image)
    assert back.mode == "RGB"
    assert back.info["icc_profile"] == b"profile"
    np.testing.assert_array_equal(np.asarray(back), np.asarray(image.convert("RGB")))


def test_order_sizes_and_memory_bound() -> None:
    items = [picture(h, w, seed=h * w) for h, w in [(4, 5), (6, 5), (4, 5), (6, 5), (4, 5)]]
    packet = unpack(items)
    assert len(packet) == 5
    chunks = list(packet.chunks(2))
    assert sorted(i for chunk in chunks for i in chunk.indices) == list(range(5))
    assert [chunk.size for chunk in chunks] == [(4, 5), (4, 5), (6, 5)]
    assert all(len(chunk.indices) == 1 for chunk in packet.chunks(8, max_pixels=10))
    for item, back in zip(items, through(items)):
        np.testing.assert_array_equal(item, back)


def test_gradients_flow_through_the_round_trip() -> None:
    x = torch.rand(3, 3, 4, 5, dtype=torch.float64).requires_grad_()
    back = through(x, lambda p: p * 0.5)
    back.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.5))


def test_empty_batch_and_empty_list() -> None:
    assert through([]) == []
    assert through(()) == ()
    assert through(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    assert through(np.zeros((0, 4, 4, 3), np.uint8)).shape == (0, 4, 4, 3)


def test_interpolation_overshoot_is_clipped() -> None:
    back = through(torch.tensor([[1.03, -0.02], [0.5, 1.0]]))
    torch.testing.assert_close(back, torch.tensor([[1.0, 0.0], [0.5, 1.0]]))


@pytest.mark.parametrize(
    ("x", "names", "mend"),
    [
        (np.full((4, 4, 3), 200.0), "4.4|200", "divide by 255"),
        (np.full((4, 4, 3), -0.5), "-0.5", "-1, 1"),
        (np.full((4, 4, 3), 1e6), "1e", "black, white"),
        (np.full((4, 4, 3), np.nan), "NaN", "Replace"),
        (torch.full((3, 4, 4), float("inf")), "infinite", "Replace"),
        (np.zeros((3, 14, 10)), "3, 14, 10", "moveaxis"),
        (torch.zeros(14, 10, 3), "14, 10, 3", "movedim"),
        (np.zeros((4, 4, 5)), "4, 4, 5", "channels"),
        (np.zeros((4, 4, 2), np.uint8), "4, 4, 2", "channels"),
        (torch.zeros(4), r"\(4,\)", "channels|C, H, W"),
        (np.zeros((4, 4, 3), np.int64), "int64", "uint8"),
        (np.zeros((4, 4, 3), bool), "bool", "uint8"),
        (np.zeros((4, 4), complex), "complex", "uint8"),
        (np.zeros((4, 4), object), "object", "uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32", "uint8"),
        (torch.zeros(3, 4, 4).to_sparse(), "sparse", "dense"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels", "empty"),
        (torch.zeros(2, 3, 0, 5), "no pixels", "empty"),
        ("face.png", "str", "read_rgb"),
        (Path("face.png"), "Path", "read_rgb"),
        (None, "NoneType", "PIL"),
        (Image.new("LAB", (2, 2)), "LAB", "convert"),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), "70000", "16 bits"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_mend(x: Any, names: str, mend: str) -> None:
    with pytest.raises(ImageError, match=names) as caught:
        unpack(x)
    assert re.search(mend, caught.value.hint or "")
    with pytest.raises(ImageError, match="Picture 1"):
        unpack([picture(), x])


@pytest.mark.parametrize(
    "value_range", [(0, 0), (0,), (0, float("nan")), ((0, 0), (1, 1)), "x", (1, (2, 3, 4)), 5]
)
def test_impossible_ranges(value_range: Any) -> None:
    with pytest.raises(ImageError, match="value_range"):
        unpack(picture(), value_range=value_range)


def test_unknown_channel_order() -> None:
    with pytest.raises(ImageError, match="rbg"):
        unpack(picture(), channel_order="rbg")  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- files


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg"])
def test_reads_usual_formats(tmp_path: Path, suffix: str) -> None:
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(picture()), **options)
    back = read_rgb(path)
    assert back.dtype == np.uint8
    assert back.flags.writeable
    if suffix == "jpg":
        assert back.shape == picture().shape
    else:
        np.testing.assert_array_equal(back, picture())
    with path.open("rb") as stream:
        np.testing.assert_array_equal(read_rgb(stream), back)


def test_reads_odd_modes(tmp_path: Path) -> None:
    grey = picture(channels=1)
    np.testing.assert_array_equal(
        read_rgb(save(tmp_path / "l.png", Image.fromarray(grey))), np.dstack([grey] * 3)
    )
    deep = save(tmp_path / "d.png", Image.fromarray(grey.astype(np.uint16) * 257))
    np.testing.assert_array_equal(read_rgb(deep), np.dstack([grey] * 3))
    palette = Image.fromarray(picture()).convert("P")
    np.testing.assert_array_equal(
        read_rgb(save(tmp_path / "p.png", palette)), np.asarray(palette.convert("RGB"))
    )
    cmyk = Image.fromarray(picture()).convert("CMYK")
    assert read_rgb(save(tmp_path / "c.tiff", cmyk)).shape == picture().shape
    bilevel = Image.fromarray(grey > 127)
    assert set(np.unique(read_rgb(save(tmp_path / "b.png", bilevel)))) == {0, 255}


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((3, 4, 4), np.uint8)
    rgba[0, :, 3] = 255
    rgba[1, :, 3] = 51  # a fifth of black over white: 204
    back = read_rgb(save(tmp_path / "a.png", Image.fromarray(rgba)))
    assert back[:, 0, 0].tolist() == [0, 204, 255]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_rgb(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_undone(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", Image.fromarray(picture()), exif=exif)
    stored = open_image(path)
    turned, undo = upright(stored)
    np.testing.assert_array_equal(read_rgb(path), np.asarray(ImageOps.exif_transpose(stored)))
    np.testing.assert_array_equal(np.asarray(turned), read_rgb(path))
    np.testing.assert_array_equal(np.asarray(undo(turned)), picture())


def corpus(folder: Path) -> dict[str, Path]:
    """Files that no picture can be had from, by what is wrong with them."""
    image = Image.fromarray(picture(60, 50))
    made: dict[str, Path] = {}
    for suffix in ("png", "jpg", "webp"):
        data = io.BytesIO()
        image.save(data, format={"jpg": "jpeg"}.get(suffix, suffix))
        made[f"truncated {suffix}"] = folder / f"truncated.{suffix}"
        made[f"truncated {suffix}"].write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    made["empty"] = folder / "empty.png"
    made["empty"].write_bytes(b"")
    made["text"] = folder / "text.jpg"
    made["text"].write_text("not a picture")
    made["program"] = folder / "program.png"  # Pillow would have Ghostscript run this
    made["program"].write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    made["folder"] = folder / "folder.png"
    made["folder"].mkdir()
    made["missing"] = folder / "missing.png"
    made["broken link"] = folder / "link.png"
    made["broken link"].symlink_to(folder / "nowhere")

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    made["bomb"] = folder / "bomb.png"
    made["bomb"].write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    return made


def test_unusable_files_are_refused_by_name(tmp_path: Path) -> None:
    for what, path in corpus(tmp_path).items():
        with pytest.raises(ImageError) as caught:
            read_rgb(path)
        assert path.name in caught.value.message, what
        assert caught.value.hint, what


def test_reasons_are_told(tmp_path: Path) -> None:
    files = corpus(tmp_path)
    for what, words in {
        "empty": "is empty",
        "folder": "is a folder",
        "missing": "does not exist",
        "broken link": "link to nothing",
        "bomb": "pixels",
        "truncated png": "truncated",
        "text": "not a picture",
        "program": "not a picture",
    }.items():
        with pytest.raises(ImageError, match=words):
            read_rgb(files[what])
    with pytest.raises(ImageError, match="<stream> is empty"):
        read_rgb(io.BytesIO())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(picture()))
    path.chmod(0)
    with pytest.raises(ImageError, match="may not be read"):
        read_rgb(path)


def test_wrong_suffix_is_no_matter_and_odd_names_are_escaped(tmp_path: Path) -> None:
    for name in ("a.jpg", "Großmütter 顔.png", "line\nbreak.png"):
        path = tmp_path / name
        Image.fromarray(picture()).save(path, format="png")
        np.testing.assert_array_equal(read_rgb(path), picture())
    path.write_bytes(b"x")
    with pytest.raises(ImageError, match=r"line\\nbreak"):
        read_rgb(path)


def test_extreme_sizes(tmp_path: Path) -> None:
    for size in ((1, 1), (30000, 1), (1, 30000)):
        path = save(tmp_path / "a.png", Image.new("RGB", size, "red"))
        assert read_rgb(path).shape == (size[1], size[0], 3)
    with pytest.raises(ImageError, match="30000"):
        read_rgb(path, max_pixels=29999)
    assert MAX_PIXELS > 48_000_000  # today's cameras


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["png", "jpeg", "webp", "gif", "tiff", "bmp"]), st.data())
def test_flipped_bits_give_a_picture_or_an_image_error(format: str, data: st.DataObject) -> None:
    stream = io.BytesIO()
    Image.fromarray(picture(20, 16)).save(stream, format=format)
    body = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        array = read_rgb(io.BytesIO(bytes(body)), max_pixels=10**6)
    except ImageError:
        return
    assert array.dtype == np.uint8
    assert array.shape[2] == 3


# --------------------------------------------------------------------------------------- writing


def test_writes_atomically_and_with_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, picture())
    np.testing.assert_array_equal(read_rgb(path), picture())
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    before = path.read_bytes()
    with pytest.raises(ImageError):
        write_image(path, Image.new("LAB", (2, 2)), format="PNG")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_format_profile_orientation_and_resolution_are_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    for suffix in ("jpg", "png", "tiff", "webp"):
        options = {"exif": exif, "icc_profile": b"profile of some kind", "dpi": (300, 300)}
        like = open_image(save(tmp_path / f"in.{suffix}", Image.fromarray(picture()), **options))
        write_image(tmp_path / f"out.{suffix}", picture(), like=like)
        back = open_image(tmp_path / f"out.{suffix}")
        assert back.format == like.format
        assert back.info["icc_profile"] == b"profile of some kind"
        if suffix != "tiff":  # TIFF's is applied by Pillow while it decodes
            assert back.getexif()[0x0112] == 6
            assert back.size == like.size
        if suffix == "jpg":
            assert back.getexif()[0x010F] == "Maker"
            assert back.info["dpi"] == (300, 300)


def test_jpeg_is_good_and_holds_what_it_can(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64 * 48, dtype=np.uint8).reshape(64, 48)
    write_image(tmp_path / "a.jpg", np.dstack([smooth] * 3))
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int)[..., 0] - smooth).mean() < 1.5
    write_image(tmp_path / "b.jpg", Image.fromarray(picture(channels=4)))
    assert open_image(tmp_path / "b.jpg").mode == "RGB"
    write_image(tmp_path / "c.jpg", Image.fromarray(picture(channels=1)).convert("1"))
    assert open_image(tmp_path / "c.jpg").mode == "L"


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_pictures_are_scaled_where_a_format_holds_eight_bits(format: str, mode: str) -> None:
    smooth = np.linspace(0, 255, 64 * 48, dtype=np.uint8).reshape(64, 48)
    deep: dict[str, Any] = {
        "I;16": smooth.astype(np.uint16) * 257,
        "I": smooth.astype(np.int32) * 257,
        "F": smooth.astype(np.float32) / 255,
    }
    back = read_rgb(io.BytesIO(encode_image(Image.fromarray(deep[mode]), format)))
    assert np.abs(back[..., 0].astype(int) - smooth).mean() < 3


def test_a_transparent_colour_becomes_alpha() -> None:
    for channels, key in ((3, (1, 2, 3)), (1, 7)):
        pixels = picture(channels=channels) // 2 + 20  # the key is none of its colours
        pixels[:2] = key
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="png", transparency=key)
        back = through(open_image(stream), lambda rgb: 1 - rgb)
        assert back.mode == {3: "RGBA", 1: "LA"}[channels]
        again = open_image(io.BytesIO(encode_image(back, "PNG")))
        assert (np.asarray(again)[:2, :, -1] == 0).all()
        assert (np.asarray(again)[2:, :, -1] == 255).all()
        np.testing.assert_array_equal(np.asarray(again)[..., :-1].reshape(pixels.shape), 255 - pixels)
        if channels == 1:  # grey with alpha is laid over white where a format has neither
            assert (read_rgb(io.BytesIO(encode_image(back, "PPM")))[:2] == 255).all()


def test_lazy_pictures_that_break_and_premultiplied_grey(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(picture(60, 50)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match="Picture 1 is truncated"):
        unpack([picture(), Image.open(path)])
    assert through(Image.new("La", (3, 2))).mode == "LA"


def test_advice_helps_and_messages_name_the_target(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="TIFF"):
        encode_image(Image.new("F", (2, 2)), "PNG")
    for path, kind in ((tmp_path, IsADirectoryError), (tmp_path / "no" / "a.png", FileNotFoundError)):
        with pytest.raises(kind) as caught, replacing(path):
            pass
        assert caught.value.filename == str(path)


def test_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="xyz"):
        write_image(tmp_path / "a.xyz", picture())


def test_text_in_the_place_of_metadata_means_nothing() -> None:
    """A PNG's text chunk lands in Pillow's ``info`` under whatever name it has."""
    text = PngInfo()
    for key in ("dpi", "icc_profile", "transparency", "exif"):
        text.add_text(key, "300")
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, format="PNG", pnginfo=text)
    like = open_image(stream)
    np.testing.assert_array_equal(read_rgb(stream), picture())
    for format in ("PNG", "JPEG", "TIFF", "WEBP"):
        encoded = encode_image(through(like), format, like=like)
        assert open_image(io.BytesIO(encoded)).size == (WIDTH, HEIGHT)
    # Of a picture that a caller has opened himself as well.
    np.testing.assert_array_equal(np.asarray(through(Image.open(stream))), picture())


def _strange_exif(orientation: int) -> bytes:
    """Little-endian TIFF: the orientation, and an XResolution of text, which Pillow cannot write again."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation) + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_strange_exif_blocks_turn_pictures_all_the_same(orientation: int) -> None:
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, format="JPEG", exif=_strange_exif(orientation), quality=95)
    plain = io.BytesIO()
    Image.fromarray(picture()).save(plain, format="JPEG", quality=95)
    with Image.open(plain) as image:
        image.getexif()[0x0112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_rgb(stream), expected)
    turned, undo = upright(open_image(stream))
    assert turned.getexif().get(0x0112, 1) == 1  # nobody turns it again
    assert undo(turned).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("target", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_another_format_shows_the_same_way_up(source: str, target: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    halves = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    halves[: HEIGHT // 2, :, 0] = halves[:, : WIDTH // 2, 1] = 255
    stream = io.BytesIO()
    Image.fromarray(halves).save(stream, format=source, exif=exif)
    like = open_image(stream)
    picture_, undo = upright(like)
    after = undo(picture_) if keeps_orientation(target, like) else picture_
    encoded = io.BytesIO(encode_image(after, target, like=like))
    difference = read_rgb(encoded).astype(int) - read_rgb(stream)
    assert np.abs(difference).mean() < 30  # turned wrongly, a quarter at least is 255 off
    assert open_image(encoded).getexif()[0x010F] == "Maker"


def test_pictures_become_what_a_format_can_hold() -> None:
    deep = np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(HEIGHT, WIDTH) * 400
    back = open_image(io.BytesIO(encode_image(Image.fromarray(deep), "PNG")))
    np.testing.assert_array_equal(np.asarray(back).astype(np.int32), deep)
    smooth = np.dstack([np.add.outer(np.arange(HEIGHT) * k, np.arange(WIDTH) * 8) for k in (2, 5, 8)])
    printed = Image.fromarray(smooth.astype(np.uint8)).convert("CMYK")
    for format in ("PNG", "BMP", "PPM", "GIF", "WEBP"):
        shown = read_rgb(io.BytesIO(encode_image(printed, format)))
        assert np.abs(shown.astype(int) - smooth).mean() < (8 if format in ("GIF", "WEBP") else 1)
    clear = picture(channels=4)
    clear[..., 3] = 255
    clear[:4, :, 3] = 0
    grey = Image.fromarray(np.dstack([clear[..., 0], clear[..., 3]]))
    gif = open_image(io.BytesIO(encode_image(grey, "GIF"))).convert("RGBA")
    assert (np.asarray(gif)[:4, :, 3] == 0).all()
    assert (np.asarray(gif)[4:, :, 3] == 255).all()
    for format in ("BMP", "PPM", "JPEG"):  # no transparency: white, not the colours that it hid
        shown = read_rgb(io.BytesIO(encode_image(Image.fromarray(clear), format)))
        assert shown[:3].min() >= (240 if format == "JPEG" else 255)


def test_a_page_that_cannot_be_read_does_not_count() -> None:
    stream = io.BytesIO()
    second = Image.fromarray(picture(seed=1))
    Image.fromarray(picture()).save(stream, format="TIFF", save_all=True, append_images=[second])
    assert frames_of(open_image(stream)) == 2
    data = bytearray(stream.getvalue())
    # Of the second page: photometric interpretation and the samples' type to what nobody knows.
    page = struct.unpack_from("<I", data, 4)[0]
    page = struct.unpack_from("<I", data, page + 2 + 12 * struct.unpack_from("<H", data, page)[0])[0]
    for entry in range(struct.unpack_from("<H", data, page)[0]):
        at = page + 2 + 12 * entry
        if struct.unpack_from("<H", data, at)[0] == 262:
            struct.pack_into("<H", data, at + 8, 77)
    broken = open_image(io.BytesIO(bytes(data)))
    assert frames_of(broken) == 1
    np.testing.assert_array_equal(np.asarray(broken), picture())


def test_suffixes_are_those_of_the_formats_that_are_read() -> None:
    assert {
        ".png",
        ".jpg",
        ".jpeg",
        ".jfif",
        ".webp",
        ".tif",
        ".bmp",
        ".gif",
        ".pgm",
        ".jp2",
    } <= picture_suffixes()
    assert not {".eps", ".pdf", ".svg", ".txt", ".parquet"} & picture_suffixes()


def test_a_range_for_each_channel_needs_channels() -> None:
    limits = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for grey in (np.zeros((4, 4), np.float32), torch.zeros(1, 1, 4, 4), Image.new("F", (4, 4))):
        with pytest.raises(ImageError, match="is grey, and value_range has values for three channels"):
            unpack(grey, value_range=limits)
