"""Linear motion: a straight line of given length and angle (section 4.5, table 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import KernelError
from .base import Kernel, KernelSet, Psf, check_size


def _clip(
    polygon: list[tuple[float, float]], axis: int, bound: float, sign: float
) -> list[tuple[float, float]]:
    """Part of a convex polygon where sign * coordinate <= sign * bound (Sutherland-Hodgman)."""
    kept: list[tuple[float, float]] = []
    for start, end in zip(polygon, polygon[1:] + polygon[:1]):
        inside, outside = (sign * (bound - p[axis]) for p in (start, end))
        if inside >= 0:
            kept.append(start)
        if inside * outside < 0:
            t = inside / (inside - outside)
            kept.append((start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])))
    return kept


def _area(polygon: list[tuple[float, float]]) -> float:
    if len(polygon) < 3:
        return 0.0
    points: NDArray[np.float64] = np.asarray(polygon)
    following = np.roll(points, -1, axis=0)
    return 0.5 * abs(float(np.sum(points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1])))


def linear_psf(length: float, angle: float) -> Psf:
    """Exact kernel of a uniform motion along a straight line.

    A rectangle of ``length`` by one pixel, centred on the middle pixel; each pixel's weight is the
    area that it shares with the rectangle. With ``angle`` = 0 and an odd length this is a row of
    ``length`` equal values.

    Parameters
    ----------
    length : float
        Pixels, at least 1.
    angle : float
        Degrees, counter-clockwise from the horizontal (rows count downwards).

    Returns
    -------
    ndarray
        (K, K) float32 of unit sum.

    Raises
    ------
    KernelError
        If the length is below one pixel, too large or not finite.
    """
    if not (np.isfinite(length) and np.isfinite(angle) and length >= 1):
        raise KernelError(
            f"A motion of length {length} at {angle} degrees is no kernel.", "Length is 1 or more."
        )
    check_size(length, f"linear:{length:g},{angle:g}")
    turn = np.deg2rad(angle)
    along = np.array([np.cos(turn), -np.sin(turn)])
    across = np.array([np.sin(turn), np.cos(turn)])
    corners = [a * length / 2 * along + b * 0.5 * across for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    rectangle = [(float(x), float(y)) for x, y in corners]
    reach = max(max(abs(x), abs(y)) for x, y in rectangle)
    half = max(0, int(np.ceil(reach - 0.5 - 1e-9)))
    psf = np.zeros((2 * half + 1, 2 * half + 1))
    for row in range(-half, half + 1):
        band = _clip(_clip(rectangle, 1, row - 0.5, -1), 1, row + 0.5, 1)
        if not band:
            continue
        for column in range(-half, half + 1):
            psf[row + half, column + half] = _area(
                _clip(_clip(band, 0, column - 0.5, -1), 0, column + 0.5, 1)
            )
    unit: Psf = (psf / psf.sum()).astype(np.float32)
    return unit


def linear_set(argument: str = "") -> KernelSet:
    """``linear`` (length 15 at 45 degrees, the paper's) or ``linear:LENGTH,ANGLE[;LENGTH,ANGLE...]``.

    Raises
    ------
    KernelError
        If the argument is not understood.
    """
    kernels = []
    for part in (argument or "15,45").split(";"):
        try:
            length, angle = (float(number) for number in part.split(","))
        except ValueError:
            raise KernelError(f"linear:{argument} is not understood.", "Write linear:LENGTH,ANGLE.") from None
        kernels.append(Kernel(f"L{length:g}@{angle:g}", linear_psf(length, angle)))
    return KernelSet(f"linear:{argument or '15,45'}", tuple(kernels), "section 4.5, table 4")
