"""Faces in a common frame: five landmarks to a template by a least-squares similarity transform.

The transform is that of Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two
Point Patterns", TPAMI 1991, without reflection. A crop may carry a margin of real pixels around the
face, so that blurring it is a valid convolution (section 3.1, eq. 1) with no invented border; where
the photograph itself ends, its edge is repeated, and the crop says how much of it is invented.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from blurface.errors import InputError

_ARCFACE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

TEMPLATES: dict[str, NDArray[np.float64]] = {
    "112x96": _ARCFACE - [8.0, 0.0],
    "112x112": _ARCFACE,
}
"""(5, 2) x, y of eyes, nose and corners of the mouth in each frame, the picture's left first."""

CENTRE_POINTS: NDArray[np.float64] = np.array(
    [[0.415, 0.454], [0.585, 0.454], [0.500, 0.553], [0.426, 0.637], [0.574, 0.637]]
)
"""Where the fallback takes the landmarks to be: x, y as shares of the middle square of the photograph."""

_MAX_REDUCTION = 64
_CUBIC_REACH = 3


@dataclass(frozen=True)
class AlignedFace:
    """A face in a frame.

    Attributes
    ----------
    pixels : ndarray
        (H + 2 margin, W + 2 margin, 3) uint8 RGB.
    matrix : ndarray
        (2, 3) float64: maps (x, y, 1) of the photograph to the frame (without margin).
    invented : float
        Share of ``pixels`` that lies outside of the photograph, where its edge is repeated; [0, 1].
    fallback : bool
        No landmarks were given: the crop is the centre of the photograph.
    """

    pixels: NDArray[np.uint8]
    matrix: NDArray[np.float64]
    invented: float
    fallback: bool


def frame_size(frame: str) -> tuple[int, int]:
    """Height and width of a frame in pixels.

    Raises
    ------
    InputError
        If there is no such frame.
    """
    if frame not in TEMPLATES:
        raise InputError(f"There is no frame {frame!r}.", f"Frames: {', '.join(TEMPLATES)}.")
    height, _, width = frame.partition("x")
    return int(height), int(width)


def similarity(points: ArrayLike, template: ArrayLike) -> NDArray[np.float64]:
    """The similarity transform that brings points nearest to a template.

    Rotation, one scale and a shift, without reflection, that minimise the sum of squared
    distances (Umeyama 1991, eq. 40 to 43, in two dimensions and closed form).

    Parameters
    ----------
    points, template : array_like
        (K, 2) x, y; K >= 2.

    Returns
    -------
    ndarray
        (2, 3) float64 M; ``M @ (x, y, 1)`` lies near the template.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite, or all points coincide.
    """
    source = np.asarray(points, np.float64)
    target = np.asarray(template, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2 or len(source) < 2:
        raise InputError(f"Landmarks must be (K, 2) with K >= 2, not {source.shape} to {target.shape}.")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise InputError("The landmarks hold NaN or infinite values.")
    centre, aim = source.mean(axis=0), target.mean(axis=0)
    # As complex numbers the transform is z -> a z + b, and a the regression coefficient.
    z = (source - centre) @ [1, 1j]
    w = (target - aim) @ [1, 1j]
    spread = float(np.vdot(z, z).real)
    if spread <= 1e-12 * max(1.0, float(np.abs(source).max())) ** 2:
        raise InputError("All landmarks coincide.", "Check the detector's output.")
    a = np.vdot(z, w) / spread
    linear = np.array([[a.real, -a.imag], [a.imag, a.real]])
    return np.column_stack([linear, aim - linear @ centre])


def centre_points(height: int, width: int) -> NDArray[np.float64]:
    """Landmarks that the fallback assumes: a face in the middle, sized as in LFW.

    The median landmarks of LFW's deep-funneled photographs (250x250), made symmetric, relative to
    the middle square of the photograph, whose side is the photograph's shorter one.

    Returns
    -------
    ndarray
        (5, 2) x, y in pixels.
    """
    side = min(height, width)
    return CENTRE_POINTS * side + [(width - side) / 2 - 0.5, (height - side) / 2 - 0.5]


def align(
    image: NDArray[np.uint8], points: ArrayLike | None, frame: str = "112x96", margin: int = 0
) -> AlignedFace:
    """Bring a face to a frame.

    A reduction by a factor f of 2 or more averages blocks of floor(f) x floor(f) pixels first. What
    remains is cubic interpolation; where it still reduces, on a grid twice as fine that is then
    averaged. The result is rounded to 8 bits.

    On LFW (f = 1.19 in the median), MobileFaceNet's accuracy is 99.13%; without the finer grid
    99.07%, with bilinear interpolation 99.08%.

    Parameters
    ----------
    image : ndarray
        (H, W, 3) uint8 RGB photograph.
    points : array_like or None
        (5, 2) landmarks x, y, (0, 0) the centre of the first pixel. None: no face was found; the
        crop shows the middle of the photograph, as :func:`centre_points`.
    frame : str
        A key of :data:`TEMPLATES`.
    margin : int
        Pixels of the photograph kept around the frame on each side, at the frame's scale.

    Returns
    -------
    AlignedFace

    Raises
    ------
    InputError
        If the image is not (H, W, 3) uint8, the frame is unknown, the margin is negative or the
        landmarks are unusable.
    """
    height, width = frame_size(frame)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"A photograph must be (H, W, 3) uint8, not {image.shape} {image.dtype}.")
    if margin < 0:
        raise InputError(f"A margin of {margin} pixels is not possible.", "Use 0 or more.")
    used = centre_points(*image.shape[:2]) if points is None else points
    matrix = similarity(used, TEMPLATES[frame])
    shape = (height + 2 * margin, width + 2 * margin)
    shifted = matrix + np.array([0.0, 0.0, margin])
    pixels, invented = _warp(image, shifted, shape)
    return AlignedFace(pixels, matrix, invented, points is None)


def crop_prealigned(image: NDArray[np.uint8], frame: str = "112x96", margin: int = 0) -> NDArray[np.uint8]:
    """Cut a frame out of a crop that is aligned to the 112x112 template already.

    Parameters
    ----------
    image : ndarray
        (112, 112, 3) uint8.
    frame : str
        ``"112x96"``: columns 8 to 103; ``"112x112"``: all.
    margin : int
        Pixels around the frame; from the crop where it has them, beyond it its edge repeated.

    Returns
    -------
    ndarray
        (H + 2 margin, W + 2 margin, 3) uint8.

    Raises
    ------
    InputError
        If the image is not (112, 112, 3) uint8, the frame is unknown or the margin is negative.
    """
    height, width = frame_size(frame)
    if image.shape != (112, 112, 3) or image.dtype != np.uint8:
        raise InputError(
            f"An aligned crop must be (112, 112, 3) uint8, not {image.shape} {image.dtype}.",
            "Give crops aligned to the ArcFace template, or photographs.",
        )
    if margin < 0:
        raise InputError(f"A margin of {margin} pixels is not possible.", "Use 0 or more.")
    top, left = (112 - height) // 2, (112 - width) // 2
    return _window(image, top - margin, left - margin, height + 2 * margin, width + 2 * margin)


def _window(image: NDArray[np.uint8], top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
    """A window that may reach beyond the image, whose edge is then repeated."""
    rows = np.arange(top, top + height).clip(0, image.shape[0] - 1)
    columns = np.arange(left, left + width).clip(0, image.shape[1] - 1)
    window: NDArray[np.uint8] = image[rows[:, None], columns]
    return window


def _warp(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], float]:
    """Resample: (H, W, 3) of ``shape``, and the share of it that lies outside of the image."""
    height, width = shape
    inverse = np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))[:2]
    reduction = math.hypot(inverse[0, 0], inverse[1, 0])
    if reduction > _MAX_REDUCTION:
        raise InputError(
            f"The landmarks would reduce the photograph {reduction:.0f} times.",
            "Check the detector's output.",
        )
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    at_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    at_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    outside = (at_x < -0.5) | (at_x > image.shape[1] - 0.5) | (at_y < -0.5) | (at_y > image.shape[0] - 0.5)

    block = max(1, int(reduction))
    reach = _CUBIC_REACH * block
    left, top = math.floor(at_x.min()) - reach, math.floor(at_y.min()) - reach
    columns = math.ceil((math.ceil(at_x.max()) + reach - left + 1) / block) * block
    rows = math.ceil((math.ceil(at_y.max()) + reach - top + 1) / block) * block
    window = _window(image, top, left, rows, columns)
    fine = 2 if reduction / block > 1.0 + 1e-6 else 1
    # PIL maps pixel corners: (u, v) of the output's grid to (x, y) of the source's, both with the
    # corner of the first pixel at 0. Ours have its centre there, hence the halves.
    a, b = inverse[:, 0] / (fine * block), inverse[:, 1] / (fine * block)
    offset = (inverse[:, 2] - [left, top] + 0.5 - (inverse[:, 0] + inverse[:, 1]) / 2) / block
    coefficients = (a[0], b[0], offset[0], a[1], b[1], offset[1])
    size = (width * fine, height * fine)
    pixels = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        # In float: on bytes PIL's interpolation cuts off decimals, which darkens by half a level.
        source = Image.fromarray(window[..., channel].astype(np.float32)).reduce(block)
        warped = source.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
        pixels[..., channel] = np.asarray(warped.reduce(fine)).round().clip(0, 255)
    return pixels, float(outside.mean())
