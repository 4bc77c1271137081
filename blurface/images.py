"""Picture files: read, opened, encoded and written, whatever their kind.

:func:`read_rgb` gives upright 8-bit RGB, transparent pictures laid over white; :func:`open_image`
the picture as it is. What a caller already holds is the business of :mod:`blurface.packets`.
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .errors import ImageError
from .files import replacing
from .packets import has_alpha, is_deep, rgb_of

PathOrFile = str | os.PathLike[str] | IO[bytes]

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded (Pillow's limit for an error); guards against decompression bombs."""

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
"""What is decoded. Pillow knows more, some of which run other programs (EPS) or are seldom tested."""

_EIGHT_BITS = ("JPEG", "WEBP", "AVIF", "BMP", "DIB", "GIF")
"""Formats that hold 8 bits a channel, as Pillow writes them."""

_WITH_EXIF = ("JPEG", "PNG", "WEBP", "AVIF")

_OPAQUE = ("JPEG", "BMP", "DIB", "PPM")
"""Formats without transparency, as Pillow reads them back."""

_ORIENTATION = 0x0112
# What an EXIF orientation asks for, and what undoes it.
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_LEFT_RIGHT),
    3: (Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_180),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_TOP_BOTTOM),
    5: (Image.Transpose.TRANSPOSE, Image.Transpose.TRANSPOSE),
    6: (Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_90),
    7: (Image.Transpose.TRANSVERSE, Image.Transpose.TRANSVERSE),
    8: (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270),
}
_TELL_ORIENTATION = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
_EXIF_HEADER = b"Exif\0\0"
"""What JPEG's readers expect before an EXIF block, and other formats leave out."""


def name_of(source: PathOrFile) -> str:
    """Name a path or stream for a message; control characters are escaped."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
    else:
        given = getattr(source, "name", None)
        name = given if isinstance(given, str) else "<stream>"
    return name if name.isprintable() else repr(name)[1:-1]


def open_image(source: PathOrFile, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture completely, as it is stored.

    Parameters
    ----------
    source : path or binary file
        In one of :data:`FORMATS`, whatever the suffix; of an animation the first frame.
    max_pixels : int
        Refuse larger pictures before they are decoded.

    Returns
    -------
    PIL.Image.Image
        Loaded, not yet turned upright (:func:`upright` does that), with ``format`` and ``info``.

    Raises
    ------
    ImageError
        If the file is missing, unreadable, empty, truncated, corrupt, no picture or too large.
    """
    name = name_of(source)
    if isinstance(source, (str, os.PathLike)) and _is_pipe(source):
        raise ImageError(f"{name} is no regular file.", "Save the picture to a file first.")
    try:
        image = Image.open(source, formats=known_formats())
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"{name}: {width} x {height} pixels are more than the {max_pixels} that are decoded.",
                "Reduce the picture, or crop the face from it.",
            )
        image.load()
        _drop_malformed(image.info)
    except ImageError:
        raise
    except FileNotFoundError as error:
        broken = isinstance(source, (str, os.PathLike)) and os.path.islink(source)
        what = "is a link to nothing" if broken else "does not exist"
        raise ImageError(f"{name} {what}.", "Check the path.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name} is a folder.", "Name a picture in it.") from error
    except PermissionError as error:
        raise ImageError(f"{name} may not be read.", "Check its permissions.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: more pixels than the {max_pixels} that are decoded.",
            "Reduce the picture, or crop the face from it.",
        ) from error
    except UnidentifiedImageError as error:
        what = "is empty" if _is_empty(source) else "is not a picture in a known format"
        raise ImageError(f"{name} {what}.", "Save it again as PNG or JPEG.") from error
    except MemoryError as error:
        raise ImageError(f"{name} does not fit in memory.", "Reduce the picture.") from error
    except Exception as error:  # decoders raise many kinds on corrupt data
        raise ImageError(
            f"{name} is truncated or corrupt ({type(error).__name__}: {error}).",
            "Fetch or save the picture again.",
        ) from error
    return image


def _drop_malformed(info: dict[Any, Any]) -> None:
    """Drop what is not of its kind, as a PNG's text of that name: Pillow would trust it in what it writes."""
    kinds: dict[str, tuple[type, ...]] = {
        "icc_profile": (bytes,),
        "exif": (bytes,),
        "transparency": (int, bytes, tuple),
    }
    for key, kind in kinds.items():
        if not isinstance(info.get(key, b""), kind):
            del info[key]
    try:
        across, down = info.get("dpi", (1, 1))
        usable = 0 < across < math.inf and 0 < down < math.inf
    except (TypeError, ValueError):
        usable = False
    if not usable:
        del info["dpi"]


def frames_of(image: Image.Image) -> int:
    """Number of frames or pages; 1 where those behind the first cannot be read."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # as decoders do
        return 1


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes by which pictures in a folder are known: those of :func:`known_formats`, in lower case."""
    known = known_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


@functools.cache
def known_formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether opening it might wait for somebody: a pipe, a socket, a device."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _is_empty(source: PathOrFile) -> bool:
    if isinstance(source, (str, os.PathLike)):
        try:
            return os.path.getsize(source) == 0
        except OSError:
            return False
    try:
        return source.seek(0, os.SEEK_END) == 0
    except (OSError, ValueError, AttributeError):
        return False


def upright(image: Image.Image) -> tuple[Image.Image, Callable[[Image.Image], Image.Image]]:
    """Turn a picture as its EXIF orientation says.

    Returns
    -------
    turned : PIL.Image.Image
        The upright picture.
    undo : callable
        Turns an upright picture back to how the file stores it, for saving under the same tag.
    """
    turns = _TURNS.get(_orientation(image))
    if turns is None:
        return image, lambda turned: turned
    turn, back = turns
    turned = image.transpose(turn)  # ImageOps.exif_transpose rewrites the block, and fails on a strange one
    for key in _TELL_ORIENTATION:
        turned.info.pop(key, None)
    return turned, lambda picture: picture.transpose(back)


def keeps_orientation(format: str, like: Image.Image) -> bool:
    """Whether :func:`encode_image` writes ``like``'s orientation into a file of this format.

    If so, what :func:`upright` did is undone before; if not, the upright picture is written.
    """
    if _written_as(format) not in _WITH_EXIF:
        return False
    exif = Image.Exif()
    try:
        exif.load(like.info.get("exif", b""))
        written = int(exif.get(_ORIENTATION, 1))
    except Exception:  # as in _orientation
        written = 1
    return written == _orientation(like)  # which may be told elsewhere, as in XMP


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a corrupt EXIF block means no orientation, not a lost picture
        return 1


def read_rgb(source: PathOrFile, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a picture file as upright 8-bit RGB.

    The EXIF orientation is applied; transparent pictures are laid over white; grey, palette and
    CMYK become RGB; 16 bits are scaled to 8; of an animation the first frame is taken. Colour
    profiles are not applied (values are taken as sRGB).

    Parameters
    ----------
    source : path or binary file
    max_pixels : int
        Refuse larger pictures before they are decoded.

    Returns
    -------
    ndarray
        (H, W, 3) uint8, C-contiguous, writable.

    Raises
    ------
    ImageError
        If the file is missing, unreadable, empty, truncated, corrupt, no picture or too large.
    """
    image, _ = upright(open_image(source, max_pixels=max_pixels))
    if has_alpha(image):
        return np.array(on_white(image))
    if image.mode in ("RGB", "L"):
        return np.array(image.convert("RGB"))
    return rgb_of(image, name_of(source))


def encode_image(
    image: Image.Image | NDArray[Any],
    format: str,
    *,
    like: Image.Image | None = None,
    quality: int = 95,
) -> bytes:
    """Encode a picture.

    Parameters
    ----------
    image : PIL.Image.Image or ndarray
        (H, W) or (H, W, 3 or 4) uint8, or any PIL image.
    format : str
        Pillow's name (``"PNG"``).
    like : PIL.Image.Image, optional
        Take EXIF block (orientation included), colour profile and resolution from it.
    quality : int
        For JPEG and lossy WebP. JPEG is encoded without chroma subsampling.

    Raises
    ------
    ImageError
        If the format is unknown or cannot hold the picture.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    Image.init()
    format = _written_as(format)
    if format not in Image.SAVE:
        raise ImageError(f"Pillow cannot write the format {format}.", "Write the picture as PNG.")
    options = _save_options(format, like, quality)
    encoded = io.BytesIO()
    try:
        picture = _fitting(picture, format)
        picture.save(encoded, format=format, **options)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("The picture does not fit in memory.", "Reduce it.") from error
    except Exception as error:  # encoders raise many kinds, on modes and on what else they write
        raise ImageError(
            f"{format} cannot hold this picture ({error}).", _mend_for(format, picture.mode)
        ) from error
    return encoded.getvalue()


def _written_as(format: str) -> str:
    format = format.upper()
    # What many phones call a JPEG with a second picture behind it.
    return "JPEG" if format == "MPO" else format


def _mend_for(format: str, mode: str) -> str:
    """What to do about a format that does not hold a mode."""
    if format != "PNG" and mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        return "Write it as PNG."
    if (format != "TIFF" and mode in ("I", "F", "CMYK", "YCbCr", "LAB")) or mode.startswith("I;16"):
        return "Write it as TIFF."
    return 'Convert it: image.convert("RGB").'


def write_image(
    path: str | os.PathLike[str],
    image: Image.Image | NDArray[Any],
    *,
    like: Image.Image | None = None,
    format: str | None = None,
    quality: int = 95,
) -> None:
    """Write a picture to a temporary file beside ``path`` and rename it: never half a picture.

    Parameters
    ----------
    path : path
        Where; its folder must exist.
    image : PIL.Image.Image or ndarray
        (H, W) or (H, W, 3 or 4) uint8, or any PIL image.
    like : PIL.Image.Image, optional
        Take format, EXIF block, colour profile and resolution from it.
    format : str, optional
        Pillow's name (``"PNG"``); without it ``like``'s format, else the suffix decides.
    quality : int
        For JPEG and lossy WebP.

    Raises
    ------
    ImageError
        If no format is known for the suffix or the format cannot hold the picture.
    OSError
        If the folder is missing, read-only or full.
    """
    path = Path(path)
    format = format or (like.format if like is not None else None) or format_of(path)
    try:
        encoded = encode_image(image, format, like=like, quality=quality)
    except ImageError as error:
        raise ImageError(f"{name_of(path)}: {error.message}", error.hint) from error
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)


def format_of(path: Path) -> str:
    """Pillow's name of the format that a suffix stands for.

    Raises
    ------
    ImageError
        If none is known.
    """
    format = Image.registered_extensions().get(path.suffix.lower())
    if format is None:
        raise ImageError(
            f"{name_of(path)}: no picture format is known for {path.suffix or 'no suffix'!r}.",
            "Use .png or .jpg.",
        )
    return format


def _save_options(format: str, like: Image.Image | None, quality: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if format == "JPEG":
        options.update(quality=quality, subsampling=0, optimize=True)
    elif format == "WEBP":
        options.update(quality=quality)
    if like is None:
        return options
    for key in ("icc_profile", "dpi"):
        if like.info.get(key):
            options[key] = like.info[key]
    if format == "TIFF":  # Pillow has applied and dropped its orientation while decoding
        if like.info.get("compression") in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
            options["compression"] = like.info["compression"]
    elif exif := like.info.get("exif"):
        headed = format != "JPEG" or exif.startswith(_EXIF_HEADER)
        options["exif"] = exif if headed else _EXIF_HEADER + exif
    return options


def eight_bits(picture: Image.Image) -> Image.Image:
    """Scale a picture of 16 bits or floats to 8 bits (grey); others stay as they are.

    Raises
    ------
    ImageError
        If it holds NaN or values outside its range.
    """
    return Image.fromarray(rgb_of(picture, "The picture")[..., 0]) if is_deep(picture) else picture


def on_white(picture: Image.Image) -> Image.Image:
    """A transparent picture laid over white, as RGB."""
    layered = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def _fitting(picture: Image.Image, format: str) -> Image.Image:
    """The picture in a mode that the format holds, where nothing is lost that the format could keep."""
    if format in _EIGHT_BITS:
        picture = eight_bits(picture)
    if format in _OPAQUE and has_alpha(picture):
        picture = on_white(picture)
    if format == "PNG" and picture.mode == "I":
        return picture.convert("I;16")
    if format == "GIF" and picture.mode == "LA":
        return picture.convert("RGBA")
    if picture.mode in ("CMYK", "YCbCr", "HSV") and format not in ("JPEG", "TIFF"):
        return picture.convert("RGB")
    if format == "JPEG" and picture.mode not in ("L", "RGB", "CMYK"):
        return picture.convert("L" if picture.mode == "1" else "RGB")
    return picture
