"""Defocus: a disc of constant weight."""

from __future__ import annotations

import numpy as np

from ..errors import KernelError
from .base import Kernel, KernelSet, Psf, check_size


def defocus_psf(radius: float, oversampling: int = 16) -> Psf:
    """Disc of ``radius`` pixels; each pixel's weight is the share of it that the disc covers.

    Parameters
    ----------
    radius : float
        Pixels, positive.
    oversampling : int
        Points a pixel and direction that measure the share.

    Returns
    -------
    ndarray
        (K, K) float32 of unit sum.

    Raises
    ------
    KernelError
        If the radius is not positive or too large.
    """
    if not (np.isfinite(radius) and radius > 0):
        raise KernelError(f"A disc of radius {radius} is no kernel.", "The radius is a positive number.")
    check_size(2 * radius, f"defocus:{radius:g}")
    half = int(np.ceil(max(radius - 0.5, 0)))
    size = 2 * half + 1
    axis = (np.arange(size * oversampling) + 0.5) / oversampling - size / 2
    inside = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(np.float64)
    share = inside.reshape(size, oversampling, size, oversampling).mean((1, 3))
    if share.sum() == 0:  # a disc smaller than the sampling: no blur
        share[half, half] = 1
    unit: Psf = (share / share.sum()).astype(np.float32)
    return unit


def defocus_set(argument: str = "") -> KernelSet:
    """``defocus`` (radius 4) or ``defocus:RADIUS[,RADIUS...]``.

    Raises
    ------
    KernelError
        If a radius is not a positive number.
    """
    try:
        radii = [float(part) for part in (argument or "4").split(",")]
    except ValueError:
        raise KernelError(f"defocus:{argument} is not understood.", "Write defocus:RADIUS.") from None
    kernels = tuple(Kernel(f"R{radius:g}", defocus_psf(radius)) for radius in radii)
    return KernelSet(f"defocus:{argument or '4'}", kernels, "disc")
