"""What a blur kernel and a set of kernels are; checks, centring, size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import KernelError

Centre = Literal["mass", "published"]
Psf = NDArray[np.float32]

MAX_SIZE = 1023
"""Largest kernel: far beyond any face, and small enough never to fill memory."""


def check_psf(array: ArrayLike, name: str = "kernel") -> Psf:
    """Check a kernel and bring it to unit sum.

    Parameters
    ----------
    array : array_like
        (K, K), K odd and at most :data:`MAX_SIZE`, values finite and not negative, sum positive.
    name : str
        Used in messages: a file or the kernel's name.

    Returns
    -------
    ndarray
        (K, K) float32 of unit sum.

    Raises
    ------
    KernelError
        If it is anything else.
    """
    psf = np.asarray(array, dtype=np.float64)
    if psf.ndim != 2 or psf.shape[0] != psf.shape[1]:
        raise KernelError(f"{name}: a blur kernel is a square array, not {psf.shape}.", "Pad it with zeros.")
    check_size(psf.shape[0], name)
    if psf.shape[0] % 2 == 0:
        raise KernelError(f"{name}: its size {psf.shape[0]} is even.", "Pad it to an odd size with zeros.")
    if not np.isfinite(psf).all():
        raise KernelError(f"{name}: it holds NaN or infinite values.", "Check the file it came from.")
    if (psf < 0).any():
        raise KernelError(
            f"{name}: it holds negative values.", "A blur kernel is non-negative: clip it first."
        )
    with np.errstate(over="ignore"):
        total = psf.sum()
    if not np.isfinite(total):  # values near the largest that there are
        psf = psf / psf.max()
        total = psf.sum()
    if not total > 0:
        raise KernelError(f"{name}: its sum is zero.", "A blur kernel needs at least one positive value.")
    unit: Psf = (psf / total).astype(np.float32)
    return unit


def check_size(size: float, name: str) -> None:
    """Refuse a kernel of more than :data:`MAX_SIZE` pixels a side before it is made.

    Raises
    ------
    KernelError
        If it is larger.
    """
    if size > MAX_SIZE:
        raise KernelError(
            f"{name}: a kernel of {size:,.0f} pixels a side is too large.",
            f"At most {MAX_SIZE} are possible.",
        )


def odd_square(array: ArrayLike) -> NDArray[np.float64]:
    """Pad an image of a kernel with zeros, at the end, to the next odd square."""
    psf = np.asarray(array, dtype=np.float64)
    size = max(psf.shape)
    size += 1 - size % 2
    return np.pad(psf, ((0, size - psf.shape[0]), (0, size - psf.shape[1])))


def centre_of_mass(psf: ArrayLike) -> tuple[float, float]:
    """Offset (rows, columns) in pixels of the centre of mass from the middle element."""
    weights = np.asarray(psf, dtype=np.float64)
    middle = weights.shape[0] // 2
    axis = np.arange(weights.shape[0]) - middle
    total = weights.sum()
    return float(weights.sum(1) @ axis / total), float(weights.sum(0) @ axis / total)


def rms_radius(psf: ArrayLike) -> float:
    """Root mean square distance in pixels of the mass from its centre."""
    weights = np.asarray(psf, dtype=np.float64)
    rows, columns = centre_of_mass(weights)
    axis = np.arange(weights.shape[0]) - weights.shape[0] // 2
    squares = ((axis - rows) ** 2)[:, None] + ((axis - columns) ** 2)[None, :]
    return float(np.sqrt((weights * squares).sum() / weights.sum()))


def centre_by_mass(psf: ArrayLike) -> Psf:
    """Move a kernel by whole pixels so that its centre of mass is within half a pixel of the middle.

    The array grows where mass would otherwise leave it. This is how the paper centres its training
    kernels (section 4.1); an uncentred kernel shifts the blurred face besides blurring it.
    """
    weights = check_psf(psf)
    shift = [-round(offset) for offset in centre_of_mass(weights)]
    reach = max(abs(s) for s in shift)
    moved = np.roll(np.pad(weights, reach), shift, axis=(0, 1))
    return trim(moved, at_least=weights.shape[0])


def trim(psf: Psf, at_least: int = 1) -> Psf:
    """Cut zero borders symmetrically, leaving an odd size of ``at_least`` or more."""
    middle = psf.shape[0] // 2
    rows, columns = np.nonzero(psf)
    half = int(max(np.abs(rows - middle).max(), np.abs(columns - middle).max(), at_least // 2))
    return np.ascontiguousarray(psf[middle - half : middle + half + 1, middle - half : middle + half + 1])


@dataclass(frozen=True)
class Kernel:
    """A named blur kernel.

    Attributes
    ----------
    name : str
        What tables call it (``"1"`` to ``"8"`` for Levin's).
    psf : ndarray
        (K, K) float32, odd, non-negative, unit sum; convolution convention.
    """

    name: str
    psf: Psf

    def __post_init__(self) -> None:
        object.__setattr__(self, "psf", check_psf(self.psf, self.name))

    @property
    def size(self) -> int:
        """K."""
        return int(self.psf.shape[0])


@dataclass(frozen=True)
class KernelSet:
    """Kernels that a protocol runs over, in order.

    Attributes
    ----------
    name : str
        Registered name with its argument, e.g. ``"linear:15,45"``.
    kernels : tuple of Kernel
    source : str
        Where they come from.
    centre : {"mass", "published"}
        Whether they were moved to their centre of mass.
    """

    name: str
    kernels: tuple[Kernel, ...]
    source: str = ""
    centre: Centre = "published"

    def centred(self, centre: Centre) -> KernelSet:
        """The set with every kernel centred by mass (to whole pixels), or as published."""
        if centre == "published" or self.centre == "mass":
            return self
        moved = tuple(Kernel(kernel.name, centre_by_mass(kernel.psf)) for kernel in self.kernels)
        return KernelSet(self.name, moved, self.source, "mass")

    @property
    def half_width(self) -> int:
        """Largest K // 2: the margin that a valid convolution needs."""
        return max(kernel.size // 2 for kernel in self.kernels)

    def fingerprint(self) -> str:
        """SHA-256 over names and values."""
        digest = hashlib.sha256()
        for kernel in self.kernels:
            digest.update(f"{kernel.name}:{kernel.size};".encode())
            digest.update(np.ascontiguousarray(kernel.psf, dtype="<f4").tobytes())
        return digest.hexdigest()
