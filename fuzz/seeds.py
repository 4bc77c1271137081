"""Write small valid inputs for every target: what the fuzzer starts from.

python fuzz/seeds.py FOLDER        # FOLDER/pairs, FOLDER/kernels, FOLDER/images
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

PAIRS = (
    "1\t1\nA\t1\t2\nA\t1\tB\t1\n",
    "2\t1\r\nA 1 2\r\nA 1 B 1\r\n# remark\r\nC\t1\t3\r\nC\t2\tA\t4\r\n",
    "\ufeff2\nÄnne\ta\tb.jpg\nÄnne\t2\t1\nÄnne\ta\tB\t1\nB\t01\tÄnne\t3\n",
)
EXIF_TURNED = 6


def kernels() -> dict[str, bytes]:
    """One file of each kind; the byte in front is its place in ``SUFFIXES``."""
    psf = np.zeros((3, 5))
    psf[1] = [1, 2, 3, 2, 1]
    made: dict[str, bytes] = {}
    old = io.BytesIO()
    savemat(old, {"k": psf})
    made["mat5"] = b"\0" + old.getvalue()
    packed = io.BytesIO()
    savemat(packed, {"k": psf}, do_compression=True)
    made["mat5-packed"] = b"\0" + packed.getvalue()
    new = io.BytesIO()
    with h5py.File(new, "w", libver="latest") as file:
        file["k"] = psf.astype("f4")
    made["mat7"] = b"\0" + new.getvalue()
    archive = io.BytesIO()
    np.savez(archive, k1=psf, k2=psf.T)
    made["npz"] = b"\1" + archive.getvalue()
    for name, array in (("npy", psf), ("npy3", np.ones((2, 3, 3), np.float32))):
        single = io.BytesIO()
        np.save(single, array)
        made[name] = b"\2" + single.getvalue()
    grey = (psf * 80).astype(np.uint8)
    for name, kind, picture in (
        ("png", 3, Image.fromarray(grey)),
        ("png16", 3, Image.fromarray(grey.astype(np.uint16) * 257)),
        ("tiff", 4, Image.fromarray(psf.astype(np.float32))),
    ):
        stream = io.BytesIO()
        picture.save(stream, "TIFF" if kind == 4 else "PNG")
        made[name] = bytes([kind]) + stream.getvalue()
    return made


def images() -> dict[str, bytes]:
    """One small picture of every format that is decoded, and the odd modes."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = EXIF_TURNED
    made: dict[str, bytes] = {}

    def add(name: str, picture: Image.Image, format: str, **options: object) -> None:
        stream = io.BytesIO()
        picture.save(stream, format, **options)
        made[name] = stream.getvalue()

    for format in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "MPO", "DIB"):
        try:
            add(format.lower(), rgb, format)
        except (KeyError, OSError):
            continue  # this Pillow was built without it
    add("jpeg-exif", rgb, "JPEG", exif=exif)
    add("png-exif", rgb, "PNG", exif=exif)
    add("webp-exif", rgb, "WEBP", exif=exif)
    add("cmyk", rgb.convert("CMYK"), "JPEG")
    add("palette", rgb.convert("P"), "PNG", transparency=3)
    add("grey16", Image.fromarray(rng.integers(0, 65536, (5, 7), dtype=np.uint16)), "PNG")
    add("float", Image.fromarray(rng.random((4, 4), dtype=np.float32)), "TIFF")
    add("lzw", rgb, "TIFF", compression="tiff_lzw")
    add("rgba", rgb.convert("RGBA"), "PNG")
    add("bilevel", rgb.convert("1"), "TIFF", compression="group4")
    add("animated", rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])
    add("lab", rgb.convert("LAB"), "TIFF")
    return made


def every() -> dict[str, dict[str, bytes]]:
    """All seeds: target -> name -> content."""
    return {
        "pairs": {f"list{number}": text.encode() for number, text in enumerate(PAIRS)},
        "kernels": kernels(),
        "images": images(),
    }


def write(folder: Path) -> None:
    """Write all seeds below a folder."""
    for target, inputs in every().items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / target / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
