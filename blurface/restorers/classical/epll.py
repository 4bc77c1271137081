"""Zoran and Weiss 2011: "From learning models of natural image patches to whole image restoration".

Expected patch log likelihood (EPLL): with P_i x the i-th overlapping 8x8 patch of x and p a mixture
of zero-mean Gaussians on patches whose mean is removed,

    min (lambda / 2) ||(x * k)_valid - y||^2 - sum_i log p(P_i x),      lambda = 64 / sigma^2,

by half-quadratic splitting: for a growing beta, every patch is restored under its most likely
component (a Wiener filter for noise of variance 1 / beta), then x solves a linear system.

Notes
-----
The most likely component is found exactly, but not by evaluating all of them: the leading
eigenvectors of every component bound its likelihood from both sides, and only the components whose
upper bound reaches the best lower bound are evaluated in full. The linear system is solved by
conjugate gradients with a circulant preconditioner to the authors' tolerance.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...errors import DataError, InputError
from ...files import replacing
from .base import ClassicalRestorer
from .core import ValidConvolution, crop, edgetaper, from_frequency, grey, inner, pad_edge, to_frequency

PATCH = 8
_PACKAGED = Path(__file__).with_name("epll_prior.npz")

# The patch mixture ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PatchMixture:
    """A mixture of zero-mean Gaussians on 8x8 patches, column-major, the patch mean removed.

    Attributes
    ----------
    log_weights : Tensor
        (J,) float64: log of the mixing weights.
    variances : Tensor
        (J, 64) float64: eigenvalues of the covariances, largest first, for values in [0, 1].
    directions : Tensor
        (J, 64, 64) float64: eigenvectors as columns, in the order of the eigenvalues.
    """

    log_weights: Tensor
    variances: Tensor
    directions: Tensor

    @classmethod
    def from_covariances(cls, weights: Any, covariances: Any) -> PatchMixture:
        """Mixture of weights (J,) and covariances (J, 64, 64).

        Raises
        ------
        InputError
            If shapes do not fit, a weight is not positive or a covariance not positive semidefinite.
        """
        w = torch.as_tensor(np.asarray(weights, dtype=np.float64)).flatten()
        cov = torch.as_tensor(np.asarray(covariances, dtype=np.float64))
        if cov.shape != (len(w), PATCH**2, PATCH**2):
            raise InputError(f"Covariances must be ({len(w)}, 64, 64), not {tuple(cov.shape)}.")
        values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
        scale = values.amax(1, keepdim=True)
        if not (w > 0).all() or not torch.isfinite(values).all() or (values < -1e-5 * scale).any():
            raise InputError("The mixture has a weight that is not positive or an indefinite covariance.")
        return cls((w / w.sum()).log(), values.flip(1).clamp_min(0), vectors.flip(2))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PatchMixture:
        """Read an npz file.

        Either ``weights`` (J,), ``variances`` (J, D) and ``directions`` (J, 64, D), as :meth:`save`
        writes them, or ``w`` (J,) and ``cov`` (J, 64, 64).

        Raises
        ------
        DataError
            If the file is missing, unreadable or holds something else.
        """
        hint = "Fit one with: python benchmarks/fit_epll_prior.py"
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read as a patch mixture: {error}.", hint) from error
        if {"w", "cov"} <= arrays.keys():
            return cls.from_covariances(arrays["w"], arrays["cov"])
        if not {"weights", "variances", "directions"} <= arrays.keys():
            raise DataError(f"{path} holds {sorted(arrays)}, not a patch mixture.", hint)
        weights = torch.as_tensor(arrays["weights"].astype(np.float64))
        variances = torch.as_tensor(arrays["variances"].astype(np.float64))
        stored = torch.as_tensor(arrays["directions"].astype(np.float64))
        count, kept = (*variances.shape, 0)[:2]
        if variances.ndim != 2 or stored.shape != (count, PATCH**2, kept) or weights.shape != (count,):
            raise DataError(f"{path} holds arrays of unequal size.", hint)
        # float16 directions are orthonormal to three digits: make them so to sixteen. QR keeps the
        # span of the leading ones, whose variances matter most, and completes the basis.
        full, triangle = torch.linalg.qr(stored, mode="complete")
        signs = torch.ones(count, PATCH**2, dtype=torch.float64)
        signs[:, :kept] = triangle.diagonal(dim1=1, dim2=2).sign()
        variances = functional.pad(variances, (0, PATCH**2 - kept))
        return cls((weights / weights.sum()).log(), variances, full * signs[:, None])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mixture as npz: weights and variances float32, 63 directions float16.

        The 64th direction is the constant patch, which has no variance once the mean is removed.
        """
        # An open file, since NumPy would append .npz to the temporary's name.
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                weights=self.log_weights.exp().numpy().astype(np.float32),
                variances=self.variances[:, :-1].numpy().astype(np.float32),
                directions=self.directions[:, :, :-1].numpy().astype(np.float16),
            )

    @cached_property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the values."""
        sha = hashlib.sha256()
        for tensor in (self.log_weights, self.variances, self.directions):
            sha.update(tensor.numpy().tobytes())
        return sha.hexdigest()[:16]

    def covariances(self) -> Tensor:
        """(J, 64, 64) float64."""
        return (self.directions * self.variances[:, None]) @ self.directions.mT

    def assign(self, patches: Tensor, beta: float, *, leading: int | None = None) -> Tensor:
        """Most likely component of noisy patches.

        Parameters
        ----------
        patches : Tensor
            (n, 64) float32, the mean of each removed.
        beta : float
            Inverse variance of the noise.
        leading : int, optional
            Eigenvectors in the first, bounding pass; sets the speed, not the result.

        Returns
        -------
        Tensor
            (n,) int64: argmax_j log weight_j + log N(patch; 0, Sigma_j + I / beta).
        """
        if leading is None:
            leading = 8 if beta < 1000 else 12
        count, n = len(self.log_weights), len(patches)
        # log N = constant - (beta / 2) |p|^2 + sum_d gain_d (v_d . p)^2; the middle term is common.
        gain = 0.5 * beta * self.variances / (self.variances + 1 / beta)
        constant = self.log_weights - 0.5 * torch.log(self.variances + 1 / beta).sum(1)
        scaled = (gain.sqrt()[:, None] * self.directions).mT.to(patches)
        first = scaled[:, :leading].reshape(-1, PATCH**2)
        rest = gain[:, leading].to(patches)[:, None]
        # rest x (energy outside the leading directions) bounds what the other directions add.
        share = (gain[:, leading, None] / gain[:, :leading].clamp_min(1e-30)).to(patches)[:, None]
        offset = constant.to(patches)[:, None]
        lower = patches.new_empty(count, n)
        open_ = torch.empty(count, n, dtype=torch.bool, device=patches.device)
        for start in range(0, n, 1024):
            part = patches[start : start + 1024]
            squares = (first @ part.T).square_().view(count, leading, -1)
            low = squares.sum(1).add_(offset)
            left = (rest * part.square().sum(1) - torch.bmm(share, squares)[:, 0]).clamp_(min=0)
            lower[:, start : start + 1024] = low
            torch.ge(left.add_(low), low.amax(0), out=open_[:, start : start + 1024])
        component, item = open_.nonzero().unbind(1)
        value = lower[component, item]
        position = 0
        for j, size in enumerate(torch.bincount(component, minlength=count).tolist()):
            if size:
                which = slice(position, position + size)
                value[which] += (patches[item[which]] @ scaled[j, leading:].T).square_().sum(1)
                position += size
        lower.fill_(-torch.inf)
        lower[component, item] = value
        return lower.argmax(0)

    def restore(self, patches: Tensor, beta: float) -> Tensor:
        """Wiener estimates (Sigma_j + I / beta)^-1 Sigma_j p under each patch's component.

        Parameters
        ----------
        patches : Tensor
            (n, 64) float32, the mean of each removed.
        beta : float
            Inverse variance of the noise.

        Returns
        -------
        Tensor
            (n, 64) float32.
        """
        component = self.assign(patches, beta)
        keep = self.variances / (self.variances + 1 / beta)
        filters = ((self.directions * keep[:, None]) @ self.directions.mT).to(patches)
        order = component.argsort(stable=True)
        out = torch.empty_like(patches)
        position = 0
        for j, size in enumerate(torch.bincount(component, minlength=len(filters)).tolist()):
            if size:
                which = order[position : position + size]
                out[which] = patches[which] @ filters[j]  # symmetric
                position += size
        return out


@lru_cache(maxsize=4)
def load_mixture(path: str = "") -> PatchMixture:
    """The mixture at ``path``; the packaged one without a path (see :meth:`PatchMixture.load`)."""
    return PatchMixture.load(path or _PACKAGED)


def _to_patches(picture: Tensor) -> Tensor:
    """All overlapping patches of (H, W), column-major: (n, 64)."""
    windows = picture.unfold(0, PATCH, 1).unfold(1, PATCH, 1)
    return windows.permute(0, 1, 3, 2).reshape(-1, PATCH**2)


def _from_patches(patches: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sum of the patches put back: the adjoint of :func:`_to_patches`."""
    square = patches.T.reshape(PATCH, PATCH, -1).transpose(0, 1).reshape(1, PATCH**2, -1)
    folded: Tensor = functional.fold(square, shape, PATCH)
    return folded[0, 0]


def _coverage(shape: tuple[int, int]) -> Tensor:
    """Number of patches over each pixel, 1 to 64."""
    counts = []
    for length in shape:
        position = torch.arange(length)
        first = (position - PATCH + 1).clamp_min(0)
        last = torch.minimum(position, torch.tensor(length - PATCH))
        counts.append((last - first + 1).to(torch.float64))
    return counts[0][:, None] * counts[1]


def patch_sum(pictures: Tensor, mixture: PatchMixture, beta: float) -> Tensor:
    """Restore every overlapping patch and add them up where they lay.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) float64.
    mixture : PatchMixture
    beta : float
        Inverse variance of the noise.

    Returns
    -------
    Tensor
        (N, H, W) float64; divide by the number of patches over a pixel for the mean.
    """
    sums = torch.empty_like(pictures)
    # One picture at a time: nothing of a picture's result may depend on its neighbours' patches.
    for picture, out in zip(pictures, sums, strict=True):
        patches = _to_patches(picture.to(torch.float32))
        mean = patches.mean(1, keepdim=True)
        restored = mixture.restore(patches - mean, beta) + mean
        out.copy_(_from_patches(restored, (picture.shape[0], picture.shape[1])))
    return sums


# Deconvolution --------------------------------------------------------------------------------


@dataclass(frozen=True)
class EpllSettings:
    """Settings of :func:`epll`; defaults as in the authors' deblurring demonstration.

    Attributes
    ----------
    noise : float
        Standard deviation sigma of the noise; the data weight is 64 / sigma^2 (0.01).
    beta : float
        First penalty weight (50).
    rounds : int
        beta doubles in each of them (7: 50 to 3200).
    tolerance : float
        Relative residual of the linear systems (1e-6).
    iterations : int
        Limit of conjugate-gradient iterations a round (2500).
    taper : int
        Applications of edge tapering to the padded picture (4).
    colour : bool
        Restore R, G and B each (True); False: the grey picture, on all three channels.
    prior : str
        Path of a mixture for :meth:`PatchMixture.load`; empty: the packaged one.
    """

    noise: float = 0.01
    beta: float = 50.0
    rounds: int = 7
    tolerance: float = 1e-6
    iterations: int = 2500
    taper: int = 4
    colour: bool = True
    prior: str = ""

    def __post_init__(self) -> None:
        if not (
            self.noise > 0
            and self.beta > 0
            and 1 <= self.rounds <= 30
            and self.tolerance > 0
            and self.iterations >= 1
            and self.taper >= 0
        ):
            raise InputError(
                f"Settings out of range: {self}.",
                "noise, beta and tolerance are positive, iterations at least 1, rounds 1 to 30.",
            )


def epll(
    pictures: Tensor,
    kernels: Tensor,
    settings: EpllSettings | None = None,
    *,
    mixture: PatchMixture | None = None,
    noise: Tensor | None = None,
    taper_kernels: Tensor | None = None,
) -> Tensor:
    """Deconvolve grey pictures with the patch prior.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) float64 in [0, 1].
    kernels : Tensor
        (N, K, K) or (1, K, K), odd K, unit sum, convolution convention.
    settings : EpllSettings, optional
    mixture : PatchMixture, optional
        Instead of ``settings.prior``.
    noise : Tensor, optional
        (N,) standard deviations, instead of ``settings.noise``.
    taper_kernels : Tensor, optional
        (1 or N, L, L): taper with these instead of ``kernels``.

    Returns
    -------
    Tensor
        (N, H, W) in [0, 1].

    Raises
    ------
    InputError
        If the padded picture is smaller than a patch or the kernel.
    """
    settings = settings or EpllSettings()
    mixture = mixture or load_mixture(settings.prior)
    half = kernels.shape[-1] // 2
    y = pad_edge(pictures, half)
    shape = (y.shape[-2], y.shape[-1])
    if min(shape) < PATCH:
        raise InputError(f"EPLL needs pictures of at least {PATCH}x{PATCH} pixels.")
    y = edgetaper(y, kernels if taper_kernels is None else taper_kernels, settings.taper)
    operator = ValidConvolution(kernels, shape)
    sigma = pictures.new_full((len(pictures),), settings.noise) if noise is None else noise.to(pictures)
    fidelity = (PATCH**2 / sigma**2)[:, None, None]
    data = fidelity * operator.adjoint(crop(y, half))
    power = operator.otf.abs() ** 2
    coverage = _coverage(shape).to(y)
    x = y
    for turn in range(settings.rounds):
        beta = settings.beta * 2**turn
        right = data + beta * patch_sum(x, mixture, beta)

        def apply(v: Tensor, beta: float = beta) -> Tensor:
            return fidelity * operator.normal(v) + beta * coverage * v

        def precondition(v: Tensor, spectrum: Tensor = fidelity * power + PATCH**2 * beta) -> Tensor:
            full = from_frequency(to_frequency(v, operator.fft) / spectrum, operator.fft)
            return full[..., : shape[0], : shape[1]]

        x = _solve(apply, precondition, right, x, settings)
    return crop(x, half).clamp(0, 1)


def _solve(apply: Any, precondition: Any, right: Tensor, x: Tensor, settings: EpllSettings) -> Tensor:
    """Preconditioned conjugate gradients, each picture to its own relative residual."""
    residual = right - apply(x)
    limit = settings.tolerance**2 * inner(right, right)
    image = precondition(residual)
    direction = image
    energy = inner(residual, image)
    for _ in range(settings.iterations):
        active = inner(residual, residual) > limit
        if not active.any():
            break
        applied = apply(direction)
        curvature = inner(direction, applied)
        active &= (curvature > 0) & (energy > 0)
        if not active.any():
            break
        step = torch.where(active, energy / torch.where(active, curvature, 1.0), 0.0)
        x = x + step * direction
        residual = residual - step * applied
        image = precondition(residual)
        new = inner(residual, image)
        direction = image + torch.where(active, new / torch.where(active, energy, 1.0), 0.0) * direction
        energy = new
    return x


def restore_with_epll(
    rgb: Tensor,
    kernels: Tensor,
    settings: EpllSettings,
    *,
    mixture: PatchMixture | None = None,
    noise: Tensor | None = None,
    taper_kernels: Tensor | None = None,
) -> Tensor:
    """:func:`epll` on (N, 3, H, W) RGB: each channel, or the grey picture on all three."""
    if not settings.colour:
        plane = epll(grey(rgb), kernels, settings, mixture=mixture, noise=noise, taper_kernels=taper_kernels)
        return plane[:, None].expand(-1, 3, -1, -1).clone()

    def thrice(values: Tensor | None) -> Tensor | None:
        return values if values is None or len(values) == 1 else values.repeat_interleave(3, 0)

    wide = thrice(kernels)
    assert wide is not None
    planes = epll(
        rgb.flatten(0, 1),
        wide,
        settings,
        mixture=mixture,
        noise=None if noise is None else noise.repeat_interleave(3, 0),
        taper_kernels=thrice(taper_kernels),
    )
    return planes.view_as(rgb)


class Epll(ClassicalRestorer):
    """Patch mixture prior with the true kernel, each channel (Zoran and Weiss 2011).

    The authors' mixture is not part of this package: the one that is was fitted to face photographs
    by ``benchmarks/fit_epll_prior.py``.
    """

    name = "epll"
    blind = False
    Settings = EpllSettings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert kernels is not None
        return restore_with_epll(pictures, kernels, self.settings), None

    def fingerprint(self) -> dict[str, Any]:
        """As of every restorer, and a digest of the mixture."""
        return {**super().fingerprint(), "prior": load_mixture(self.settings.prior).digest}


class EndsInEpll(ClassicalRestorer):
    """Base of the blind methods whose last step is EPLL: Sun, Michaeli and Chakrabarti."""

    def fingerprint(self) -> dict[str, Any]:
        """As of every restorer, and a digest of the last step's mixture."""
        return {**super().fingerprint(), "prior": load_mixture(self.settings.prior).digest}
