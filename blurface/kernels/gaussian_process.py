"""Motion kernels from random trajectories (section 3.1, eq. 4).

Both coordinates of a trajectory are samples of a Gaussian process with the Matern-5/2 covariance
of eq. 4; sigma_f = 1/4 and l = 0.3 are those of Schuler et al. 2016, whom the paper follows.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import KernelError
from .base import Kernel, KernelSet

MAX_COUNT = 10_000
"""Kernels of a set."""

STEP = 0.01
"""Sampling step of the trajectory (the paper's "sampling margin")."""

LENGTH_SCALE = 0.3
SIGMA = 0.25

TREMOR_SCALE = 0.06
"""Length scale of a hand's tremor, a fifth of the trajectory's."""


def matern52(
    lag: NDArray[np.float64], length_scale: float = LENGTH_SCALE, sigma: float = SIGMA
) -> NDArray[np.float64]:
    """Matern-5/2 covariance of eq. 4 at time lags |t1 - t2|."""
    scaled = np.sqrt(5.0) * np.abs(lag) / length_scale
    covariance: NDArray[np.float64] = sigma**2 * (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    return covariance


@lru_cache(maxsize=4)
def _factor(samples: int, length_scale: float) -> NDArray[np.float64]:
    times = np.arange(samples) * STEP
    covariance = matern52(times[:, None] - times[None, :], length_scale)
    # The covariance of a smooth process is singular to rounding; the jitter is far below a pixel.
    return np.asarray(np.linalg.cholesky(covariance + 1e-10 * np.eye(samples)), np.float64)


def trajectories(
    count: int, rng: np.random.Generator, *, samples: int = 101, length_scale: float = LENGTH_SCALE
) -> NDArray[np.float64]:
    """Sample trajectories.

    Returns
    -------
    ndarray
        (count, samples, 2): rows and columns over time, arbitrary scale.
    """
    noise = rng.standard_normal((samples, 2 * count))
    paths = _factor(samples, length_scale) @ noise
    return paths.T.reshape(count, 2, samples).transpose(0, 2, 1)


def render(paths: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Draw trajectories as kernels, with sub-pixel accuracy.

    Every point spreads its mass over the four pixels around it (bilinear weights), which keeps
    the centre of mass exactly; equal times carry equal mass, so a slow part is bright.

    Parameters
    ----------
    paths : ndarray
        (N, T, 2) rows and columns in pixels relative to the middle of the kernel.
    size : int
        Odd K; must hold the paths: abs(paths) <= K // 2.

    Returns
    -------
    ndarray
        (N, K, K) float32 of unit sum.

    Raises
    ------
    KernelError
        If a path leaves the array.
    """
    half = size // 2
    if paths.size and np.abs(paths).max() > half:
        raise KernelError(f"A trajectory leaves a kernel of size {size}.", "Choose a larger array size.")
    count, steps, _ = paths.shape
    if size == 1:  # no neighbour to share with
        return np.ones((count, 1, 1), np.float32)
    # Points at most a quarter pixel apart, so that the line has no gaps.
    longest = np.abs(np.diff(paths, axis=1)).max() if steps > 1 else 0.0
    fine = max(1, int(np.ceil(longest / 0.25)))
    where = np.linspace(0, steps - 1, (steps - 1) * fine + 1)
    left = np.minimum(where.astype(int), max(steps - 2, 0))
    right = np.minimum(left + 1, steps - 1)
    share = (where - left)[None, :, None]
    points = paths[:, left] * (1 - share) + paths[:, right] * share + half
    base = np.clip(np.floor(points).astype(np.int64), 0, max(size - 2, 0))
    part = points - base
    owner = np.arange(count)[:, None] * size * size
    # The trapezoidal rule: the two ends stand for half a step of time each.
    ends = np.ones(len(where))
    ends[[0, -1]] = 0.5
    kernels = np.zeros(count * size * size)
    for down in (0, 1):
        for across in (0, 1):
            row = part[..., 0] if down else 1 - part[..., 0]
            column = part[..., 1] if across else 1 - part[..., 1]
            weight = ends * row * column
            index = owner + (base[..., 0] + down) * size + base[..., 1] + across
            kernels += np.bincount(index.ravel(), weight.ravel(), minlength=kernels.size)
    kernels = kernels.reshape(count, size, size)
    kernels /= kernels.sum((1, 2), keepdims=True)
    return kernels.astype(np.float32)


def sample_paths(
    count: int,
    rng: np.random.Generator,
    *,
    valid_size: tuple[float, float] = (8, 20),
    duration: tuple[float, float] = (0.3, 1.0),
) -> NDArray[np.float64]:
    """Trajectories in pixels, centred by mass, with a random extent.

    Parameters
    ----------
    count : int
    rng : numpy.random.Generator
    valid_size : (float, float)
        Range of the larger side of the kernel's bounding box in pixels, uniform (paper: 8 to 20).
    duration : (float, float)
        Range of the trajectory's length in process time; short ones are nearly straight.

    Returns
    -------
    ndarray
        (count, 101, 2); the mean of each trajectory is zero.
    """
    samples = 101
    paths = trajectories(count, rng, samples=samples)
    # A trajectory of any duration, resampled to the same number of equal time steps.
    spans = rng.uniform(*duration, size=count) * (samples - 1)
    where = np.linspace(0, 1, samples)[None, :] * spans[:, None]
    left = np.minimum(where.astype(int), samples - 2)
    share = (where - left)[..., None]
    rows = np.arange(count)[:, None]
    paths = paths[rows, left] * (1 - share) + paths[rows, left + 1] * share
    extent = np.ptp(paths, axis=1).max(1)
    wanted = rng.uniform(*valid_size, size=count)
    # A pixel of the bounding box is the pixel itself: a single point has size 1.
    paths *= (np.maximum(wanted - 1, 0) / np.maximum(extent, 1e-9))[:, None, None]
    return _centred(paths)


def add_tremor(
    paths: NDArray[np.float64], amplitudes: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Trajectories with a fast small movement on top, as a hand's tremor draws them.

    A sample of the same process with a fifth of the length scale; measured camera shake is jagged
    where single samples of eq. 4 are smooth.

    Parameters
    ----------
    paths : ndarray
        (N, T, 2) in pixels.
    amplitudes : ndarray
        (N,) standard deviation of the tremor in pixels.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray
        (N, T, 2); the mean of each trajectory is zero.
    """
    count, samples, _ = paths.shape
    shaking = trajectories(count, rng, samples=samples, length_scale=TREMOR_SCALE) / SIGMA
    return _centred(paths + amplitudes[:, None, None] * shaking)


def _centred(paths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Paths moved so that their kernels' centres of mass are in the middle."""
    # Equal times carry equal mass; the ends of the polyline count half.
    weights = np.ones(paths.shape[1])
    weights[[0, -1]] = 0.5
    centred: NDArray[np.float64] = paths - (weights @ paths / weights.sum())[:, None, :]
    return centred


def sample_kernels(
    count: int,
    rng: np.random.Generator,
    *,
    valid_size: tuple[float, float] = (8, 20),
    size: int | None = None,
) -> NDArray[np.float32]:
    """Random motion kernels, centred by mass.

    Returns
    -------
    ndarray
        (count, K, K) float32 of unit sum; K is ``size`` or the smallest odd size that holds all.
    """
    paths = sample_paths(count, rng, valid_size=valid_size)
    if size is None:
        size = 2 * int(np.ceil(np.abs(paths).max(initial=0.0))) + 1
    return render(paths, size)


def gp_set(
    argument: str = "", *, n: int = 8, seed: int = 0, min_size: float = 8, max_size: float = 20
) -> KernelSet:
    """``gp`` or ``gp:N,SEED``: N kernels of the paper's training distribution, sizes spread evenly.

    Raises
    ------
    KernelError
        If the argument is not one or two whole numbers.
    """
    if argument:
        try:
            numbers = [int(part) for part in argument.split(",")]
        except ValueError:
            numbers = []
        if not 1 <= len(numbers) <= 2:
            raise KernelError(f"gp:{argument} is not understood.", "Write gp:N or gp:N,SEED.")
        n, seed = numbers[0], (numbers[1] if len(numbers) > 1 else seed)
    if not 1 <= n <= MAX_COUNT:
        raise KernelError(f"A set of {n} kernels cannot be made.", f"Ask for 1 to {MAX_COUNT}.")
    if seed < 0:
        raise KernelError(f"gp:{n},{seed}: the seed is negative.", "Seeds are 0 or more.")
    kernels = []
    for index, extent in enumerate(np.linspace(min_size, max_size, n)):
        rng = np.random.default_rng([seed, index])
        kernels.append(Kernel(f"gp{index + 1}", sample_kernels(1, rng, valid_size=(extent, extent))[0]))
    return KernelSet(f"gp:{n},{seed}", tuple(kernels), "section 3.1, eq. 4")
