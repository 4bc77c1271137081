"""Krishnan, Tay and Fergus 2011: "Blind deconvolution using a normalized sparsity measure".

On the derivative images x = (x_1, x_2) of the sharp picture and y of the blurry one:

    min (lambda / 2) sum_d ||x_d * k - y_d||^2 + sum_d ||x_d||_1 / ||x_d||_2 + psi ||k||_1,
    k >= 0, sum k = 1,

coarse to fine, alternating between x (iterative shrinkage with the denominator held) and k (one
exact steepest-descent step), then total-variation deconvolution of the luma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ...errors import InputError
from .base import ClassicalRestorer
from .core import (
    centre_shifts,
    chunks,
    crop,
    derivatives,
    from_frequency,
    grey,
    inner,
    otf_to_psf,
    project_kernels,
    psf_to_otf,
    resize,
    rgb_to_ycbcr,
    shift,
    to_frequency,
    two_pixel_kernels,
    ycbcr_to_rgb,
)
from .nonblind import total_variation


@dataclass(frozen=True)
class KrishnanSettings:
    """Settings of Krishnan et al. 2011; defaults as in the authors' demonstration.

    A later state of their program has ``psi=1, fidelity=200, coarsest=5``.

    Attributes
    ----------
    fidelity : float
        lambda; the authors vary it per picture between 60 and 250 (100).
    psi : float
        Weight of the kernel's 1-norm (0).
    step : float
        delta, step of the shrinkage iteration (0.001).
    inner, outer : int
        Shrinkage steps for one denominator, and denominators for one kernel (2, 2).
    alternations : int
        Between x and k at every level (21).
    coarsest : int
        Smallest kernel side (3).
    kernel_threshold : float
        Values below this part of the final kernel's peak are set to 0 (0).
    final_fidelity : float
        lambda of the last step (3000).
    luma : bool
        Restore the luma and keep the blurry chroma; False restores R, G and B (True).
    """

    fidelity: float = 100.0
    psi: float = 0.0
    step: float = 0.001
    inner: int = 2
    outer: int = 2
    alternations: int = 21
    coarsest: int = 3
    kernel_threshold: float = 0.0
    final_fidelity: float = 3000.0
    luma: bool = True

    def __post_init__(self) -> None:
        if not (
            self.fidelity > 0
            and self.psi >= 0
            and self.step > 0
            and min(self.inner, self.outer, self.alternations) >= 1
            and self.coarsest >= 3
            and self.coarsest % 2
            and 0 <= self.kernel_threshold < 1
            and self.final_fidelity > 0
        ):
            raise InputError(
                f"Settings out of range: {self}.",
                "Weights and steps are positive, counts at least 1, coarsest odd and at least 3.",
            )


@dataclass(frozen=True)
class KrishnanLevel:
    """State after a pyramid level: kernels (N, K, K) and derivative images (N, 2, H - 1, W - 1)."""

    kernels: Tensor
    x: Tensor


def kernel_sizes(kernel_size: int, coarsest: int = 3) -> list[int]:
    """Kernel side of every level, coarsest first: factors of about sqrt(2)."""
    sizes = [min(max(coarsest, 2 * ((kernel_size - 1) // 16) + 1), kernel_size)]
    while sizes[-1] < kernel_size:
        size = math.ceil(sizes[-1] * math.sqrt(2))
        sizes.append(min(size + 1 - size % 2, kernel_size))
    return sizes


def estimate_kernels(
    pictures: Tensor,
    kernel_size: int,
    settings: KrishnanSettings | None = None,
    trace: list[KrishnanLevel] | None = None,
) -> Tensor:
    """Estimate the kernels of grey pictures.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) float64 in [0, 1].
    kernel_size : int
        K, odd.
    settings : KrishnanSettings, optional
    trace : list, optional
        Receives the state after every level.

    Returns
    -------
    Tensor
        (N, K, K), non-negative, unit sum, centred by mass to whole pixels.
    """
    settings = settings or KrishnanSettings()
    height, width = pictures.shape[-2:]
    kernels = x = None
    for size in kernel_sizes(kernel_size, settings.coarsest):
        shape = (height * size // kernel_size, width * size // kernel_size)
        level = pictures if size == kernel_size else resize(pictures, size=shape, method="bilinear")
        y = _to_norm(derivatives(level))
        if kernels is None or x is None:
            kernels, x = two_pixel_kernels(len(pictures), size, pictures), y
        else:
            kernels = project_kernels(resize(kernels, size=(size, size), method="bilinear"))
            x = resize(x, size=(y.shape[-2], y.shape[-1]), method="bilinear")
        x = _to_norm(x)
        for part in chunks(len(y), 2 * (y.shape[-2] + size // 2) * (y.shape[-1] + size // 2)):
            kernels[part], x[part] = Alternation(y[part], size, settings).run(kernels[part], x[part])
        moves = centre_shifts(kernels)
        # A kernel that would lose all its mass by the move is left where it is.
        moved = shift(kernels, moves)
        kernels, x = moved, shift(x, -moves)
        if trace is not None:
            trace.append(KrishnanLevel(kernels.clone(), x.clone()))
    assert kernels is not None
    return project_kernels(kernels, settings.kernel_threshold)


def _to_norm(fields: Tensor, norm: float = 6.0) -> Tensor:
    """Scale every derivative image to an L2 norm of 6; an image of zeros stays."""
    length = fields.square().sum((-2, -1), keepdim=True).sqrt()
    return fields * torch.where(length > 0, norm / torch.where(length > 0, length, 1.0), 0.0)


class Alternation:
    """The alternation at one level of the pyramid."""

    def __init__(self, y: Tensor, size: int, settings: KrishnanSettings) -> None:
        self.y, self.size, self.settings = y, size, settings
        self.half = size // 2
        self.rows, self.columns = y.shape[-2:]
        # Zeros outside: K // 2 of them keep a circular convolution from wrapping into the picture.
        self.fft = (
            next_fast_len(self.rows + self.half, real=True),
            next_fast_len(self.columns + self.half, real=True),
        )

    def same(self, spectrum: Tensor) -> Tensor:
        """Picture of the size of y from a spectrum of the padded size."""
        return from_frequency(spectrum, self.fft)[..., : self.rows, : self.columns]

    def shrink(
        self, x: Tensor, spectrum: Tensor, y: Tensor, otf: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One x-step: iterative shrinkage, the denominator ||x_d||_2 held over the inner steps."""
        conjugate = otf.conj()
        for _ in range(self.settings.outer):
            beta = self.settings.fidelity * x.square().sum((-2, -1), keepdim=True).sqrt() * step
            for _ in range(self.settings.inner):
                residual = y - self.same(spectrum * otf)
                v = self.same(to_frequency(residual, self.fft) * conjugate).mul_(beta).add_(x)
                x = v - torch.clamp(v, min=-step, max=step)
                spectrum = to_frequency(x, self.fft)
        return x, spectrum

    def cost(self, x: Tensor, residual: Tensor) -> Tensor:
        """(lambda / 2) ||residual||^2 + sum_d ||x_d||_1 / ||x_d||_2, (N, 1, 1, 1)."""
        length = x.square().sum((-2, -1), keepdim=True).sqrt()
        sparsity = x.abs().sum((-2, -1), keepdim=True) / torch.where(length > 0, length, 1.0)
        data = 0.5 * self.settings.fidelity * inner(residual, residual)
        return (data + sparsity).sum(1, keepdim=True)

    def run(self, kernels: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """All alternations of the level: the new kernels and derivative images."""
        y = self.y
        step = x.new_full((len(x), 1, 1, 1), self.settings.step)
        spectrum = to_frequency(x, self.fft)
        otf = psf_to_otf(kernels, self.fft)[:, None]
        residual = y - self.same(spectrum * otf)
        before = self.cost(x, residual)
        for _ in range(self.settings.alternations):
            # The x-step, repeated with half the step where it raised the cost to more than three
            # times what it was. A step, once small, skips further x-steps of the level.
            trying = (step > 1e-4)[:, 0, 0, 0].nonzero()[:, 0]
            new_residual = y - self.same(spectrum * otf)
            while len(trying):
                everything = len(trying) == len(x)
                state = (x, spectrum, y, otf, step)
                part = state if everything else tuple(item[trying] for item in state)
                new_x, new_spectrum = self.shrink(*part)
                found = part[2] - self.same(new_spectrum * part[3])
                after = self.cost(new_x, found)
                good = (after <= 3 * before[trying])[:, 0, 0, 0]
                if everything and good.all():
                    x, spectrum, new_residual, before = new_x, new_spectrum, found, after
                    break
                done = trying[good]
                x, spectrum, before = x.clone(), spectrum.clone(), before.clone()
                new_residual = new_residual.clone()
                x[done], spectrum[done] = new_x[good], new_spectrum[good]
                new_residual[done], before[done] = found[good], after[good]
                trying = trying[~good]
                step = step.clone()
                step[trying] /= 2
                trying = trying[step[trying, 0, 0, 0] > 1e-4]
            kernels = self.descend(kernels, spectrum, new_residual)
            otf = psf_to_otf(kernels, self.fft)[:, None]
        return kernels, x

    def descend(self, kernels: Tensor, spectrum: Tensor, residual: Tensor) -> Tensor:
        """The k-step: one exact steepest-descent step on the 'valid' residual, then projection."""
        half, psi = self.half, self.settings.psi
        weight = psi / kernels.abs().clamp_min(1e-4)
        inside = torch.zeros_like(residual)
        crop(inside, half).copy_(crop(residual, half))
        product = (to_frequency(inside, self.fft) * spectrum.conj()).sum(1)
        gradient = otf_to_psf(product, self.size, self.fft) - weight * kernels
        image = crop(self.same(spectrum * psf_to_otf(gradient, self.fft)[:, None]), half)
        curvature = inner(image, image).sum(1) + inner(gradient, weight * gradient)
        usable = curvature > 0
        length = torch.where(usable, inner(gradient, gradient) / torch.where(usable, curvature, 1.0), 0.0)
        return project_kernels(kernels + length * gradient)


def restore(rgb: Tensor, kernels: Tensor, settings: KrishnanSettings | None = None) -> Tensor:
    """The last step: total-variation deconvolution of the luma (or of R, G, B).

    Parameters
    ----------
    rgb : Tensor
        (N, 3, H, W) float64 in [0, 1].
    kernels : Tensor
        (N, K, K).
    settings : KrishnanSettings, optional

    Returns
    -------
    Tensor
        (N, 3, H, W) in [0, 1].
    """
    settings = settings or KrishnanSettings()
    if not settings.luma:
        return total_variation(rgb, kernels, fidelity=settings.final_fidelity).clamp(0, 1)
    ycbcr = rgb_to_ycbcr(rgb)
    ycbcr[:, 0] = total_variation(ycbcr[:, 0], kernels, fidelity=settings.final_fidelity)
    return ycbcr_to_rgb(ycbcr)


def krishnan(
    rgb: Tensor, kernel_size: int, settings: KrishnanSettings | None = None
) -> tuple[Tensor, Tensor]:
    """Blind deblurring of a batch: (N, 3, H, W) float64 RGB -> the restored pictures and kernels."""
    kernels = estimate_kernels(grey(rgb), kernel_size, settings)
    return restore(rgb, kernels, settings), kernels


class Krishnan(ClassicalRestorer):
    """Normalised sparsity (Krishnan, Tay and Fergus 2011).

    The kernel comes from the grey picture and is centred by its mass; the luma is restored.
    """

    name = "krishnan"
    Settings = KrishnanSettings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return krishnan(pictures, self.kernel_size, self.settings)
