"""Pan, Hu, Su and Yang 2014: "Deblurring text images via L0-regularized intensity and gradient prior".

    min ||x * k - y||^2 + gamma ||k||^2 + lambda_p ||x||_0 + lambda_g ||grad x||_0,

coarse to fine, alternating between x (half-quadratic splitting) and k (conjugate gradients on
selected edges), then total-variation deconvolution of R, G and B with an optional suppression of
ringing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ...errors import InputError
from .base import ClassicalRestorer
from .core import (
    centre_shifts,
    chunks,
    conjugate_gradients,
    derivatives,
    difference_power,
    edge_threshold,
    from_frequency,
    grey,
    otf_to_psf,
    pad_circular,
    pad_edge,
    project_kernels,
    psf_to_otf,
    pyramid_sizes,
    pyramid_step,
    remove_small_components,
    resize_kernels,
    select_edges,
    shift,
    smooth_length,
    to_frequency,
    two_pixel_kernels,
)


@dataclass(frozen=True)
class PanSettings:
    """Settings of Pan et al. 2014; defaults as in the authors' demonstration on Levin-type blur.

    Attributes
    ----------
    intensity, gradient : float
        lambda_p and lambda_g at the start (4e-3 both).
    kernel_weight : float
        gamma (2).
    alternations : int
        Between x and k at every level (5).
    kernel_threshold : float
        Values below this part of the final kernel's peak are set to 0 (1/20).
    tv : float
        lambda_tv of the last step (1e-3; the authors vary it between 1e-4 and 1e-2).
    l0 : float
        lambda_l0 of the picture that shows where the last step rings (2e-3).
    ring_weight : float
        Share of the ringing that is taken away: 0 or 1 (0).
    """

    intensity: float = 4e-3
    gradient: float = 4e-3
    kernel_weight: float = 2.0
    alternations: int = 5
    kernel_threshold: float = 0.05
    tv: float = 1e-3
    l0: float = 2e-3
    ring_weight: float = 0.0

    def __post_init__(self) -> None:
        positive = (self.intensity, self.gradient, self.kernel_weight, self.tv, self.l0)
        # Below 1e-9 the doublings of the penalty would not end soon.
        if (
            min(positive) < 1e-9
            or self.alternations < 1
            or not 0 <= self.kernel_threshold < 1
            or self.ring_weight < 0
        ):
            raise InputError(
                f"Settings out of range: {self}.", "Weights are at least 1e-9, counts at least 1."
            )


@dataclass(frozen=True)
class PanLevel:
    """State after a pyramid level.

    Attributes
    ----------
    kernels : Tensor
        (N, K, K).
    latent : Tensor
        (N, H, W): the intermediate sharp pictures.
    weights : Tensor
        (N, 3): lambda_p, lambda_g and the edge threshold for what follows.
    """

    kernels: Tensor
    latent: Tensor
    weights: Tensor


def _padded_shape(shape: tuple[int, int], kernel_size: int) -> tuple[int, int]:
    return smooth_length(shape[0] + kernel_size - 1), smooth_length(shape[1] + kernel_size - 1)


class _Splitting:
    """Half-quadratic solver on pictures that are periodic: data term and circular differences.

    Holds buffers that every round uses again; the rounds are where the method spends its time.

    Parameters
    ----------
    y : Tensor
        (N, C, H, W).
    kernels : Tensor
        (N, K, K).
    """

    def __init__(self, y: Tensor, kernels: Tensor) -> None:
        # A real transform is faster along an even axis.
        self.turned = y.shape[-1] % 2 == 1 and y.shape[-2] % 2 == 0
        self.y = self.turn(y).contiguous()
        self.shape = (self.y.shape[-2], self.y.shape[-1])
        otf = psf_to_otf(self.turn(kernels).contiguous(), self.shape)[:, None]
        # Spectra as pairs of reals: with real factors that is faster than complex arithmetic.
        self.data = torch.view_as_real(otf.conj() * to_frequency(self.y))
        self.power = _twice(otf.abs() ** 2)
        self.smooth = _twice(difference_power(self.shape, y))
        self.x, self.back = self.y.clone(), torch.empty_like(self.y)
        self.slopes = y.new_empty((2, *self.y.shape))
        self.scale = torch.empty_like(self.power)
        across, down = self.slopes
        x, back = self.x, self.back
        # Views of the buffers: inner part and wrapped edge of each difference and of its adjoint.
        self.forward_views = (
            (x[..., 1:], x[..., :-1], across[..., :-1]),
            (x[..., 0], x[..., -1], across[..., -1]),
            (x[..., 1:, :], x[..., :-1, :], down[..., :-1, :]),
            (x[..., 0, :], x[..., -1, :], down[..., -1, :]),
        )
        self.adjoint_views = (
            (back[..., 1:], across[..., :-1]),
            (back[..., 0], across[..., -1]),
            (back[..., 1:, :], down[..., :-1, :]),
            (back[..., 0, :], down[..., -1, :]),
        )

    def turn(self, images: Tensor) -> Tensor:
        return images.mT if self.turned else images

    def differences(self) -> Tensor:
        """Circular forward differences of x across and down, (2, N, C, H, W), always in one buffer."""
        for after, before, difference in self.forward_views:
            torch.sub(after, before, out=difference)
        return self.slopes

    def solve(self, empty: bool, weight: Tensor, data: Tensor, denominator: Tensor) -> Tensor:
        """F^-1[(data + weight F(D^T slopes)) / (denominator + weight |D|^2)], the new x.

        ``weight`` is (N, 1, 1, 1, 1); ``empty`` slopes count as zeros.
        """
        scale = torch.addcmul(denominator, self.smooth, weight, out=self.scale)
        if empty:
            pairs = data / scale
        else:
            # The negative of D^T, which saves turning the sign.
            torch.add(self.slopes[0], self.slopes[1], out=self.back)
            for target, slope in self.adjoint_views:
                target.sub_(slope)
            pairs = torch.view_as_real(to_frequency(self.back))
            torch.addcmul(data, pairs, weight, value=-1, out=pairs).div_(scale)
        return from_frequency(torch.view_as_complex(pairs), self.shape)

    def sparse_gradient(self, gradient: Tensor, rounds: list[int], data: Tensor, denominator: Tensor) -> None:
        """Rounds over beta = 2 gradient x (1, 2, 4, ...): keep slopes of at least gradient / beta.

        Every picture takes as many rounds as its own weight asks for.
        """
        empty = True
        for turn in range(max(rounds)):
            across, down = slopes = self.differences()
            size = torch.mul(across, across, out=self.back).addcmul_(down, down)
            if size.shape[1] > 1:
                size = size.sum(1, keepdim=True)
            # In the first rounds nothing may be kept; once something is, it hardly goes again.
            kept = torch.ge(size, 0.5 ** (turn + 1), out=size)
            empty = empty and not bool(kept.any())
            if not empty:
                slopes.mul_(kept)
            x = self.solve(empty, gradient * 2.0 ** (turn + 1), data, denominator)
            if turn < min(rounds):
                self.x.copy_(x)
            else:
                going = [index for index, count in enumerate(rounds) if turn < count]
                self.x[going] = x[going]


def _twice(values: Tensor) -> Tensor:
    """(..., H, W) -> (..., H, W, 2), contiguous: one factor for a real and an imaginary part."""
    return torch.stack((values, values), -1)


def _doublings(weight: float, limit: float) -> int:
    """How often beta = 2 weight, doubled every time, is below the limit."""
    beta, count = 2 * weight, 0
    while beta < limit:
        beta, count = 2 * beta, count + 1
    return count


def latent_pictures(
    pictures: Tensor, kernels: Tensor, intensity: Tensor | float, gradient: Tensor | float
) -> Tensor:
    """The x-step: L0 of intensity and gradient with a known kernel.

    Parameters
    ----------
    pictures : Tensor
        (N, C, H, W) float64; the gradient's L0 norm counts pixels over all channels jointly.
    kernels : Tensor
        (N, K, K).
    intensity, gradient : Tensor or float
        lambda_p (0 for all leaves the intensity term out) and lambda_g, one or (N,).

    Returns
    -------
    Tensor
        (N, C, H, W).
    """
    count, height, width = len(pictures), pictures.shape[-2], pictures.shape[-1]
    pixel = torch.as_tensor(intensity).to(pictures).expand(count)
    slope = torch.as_tensor(gradient).to(pictures).expand(count)
    # Pictures that need like numbers of rounds go together.
    outer = [_doublings(weight, 8.0) if weight else 0 for weight in pixel.tolist()]
    inner = [_doublings(weight, 1e5) for weight in slope.tolist()]
    order = sorted(range(count), key=lambda index: (outer[index], inner[index]))
    shape = _padded_shape((height, width), kernels.shape[-1])
    found = torch.empty_like(pictures)
    # Twice the pixels: the solver holds many buffers.
    for chunk in chunks(count, 2 * shape[0] * shape[1] * pictures.shape[1]):
        part = order[chunk]
        solver = _Splitting(pad_circular(pictures[part], shape), kernels[part])
        rounds = [(outer[index], inner[index]) for index in part]
        found[part] = _l0_rounds(solver, pixel[part], slope[part], rounds)[..., :height, :width]
    return found


def _l0_rounds(
    solver: _Splitting, intensity: Tensor, gradient: Tensor, rounds: list[tuple[int, int]]
) -> Tensor:
    slope, pixel = gradient.view(-1, 1, 1, 1, 1), intensity.view(-1, 1, 1, 1, 1)
    if not any(outer for outer, _ in rounds):
        solver.sparse_gradient(slope, [inner for _, inner in rounds], solver.data, solver.power)
    for turn in range(max(outer for outer, _ in rounds)):
        weight = pixel * 2.0 ** (turn + 1)
        kept = torch.where(solver.x.square() < 0.5 ** (turn + 1), 0.0, solver.x)
        data = torch.view_as_real(to_frequency(kept)).mul_(weight).add_(solver.data)
        going = [inner if turn < outer else 0 for outer, inner in rounds]
        solver.sparse_gradient(slope, going, data, solver.power + weight)
    return solver.turn(solver.x)


def solve_kernels(x: Tensor, y: Tensor, size: int, weight: float, iterations: int = 20) -> Tensor:
    """The k-step: least squares between periodic derivative images, by conjugate gradients.

    min sum_d ||x_d * k - y_d||^2 + weight ||k||^2 from a flat kernel; values below 5% of the peak
    are set to 0.

    Parameters
    ----------
    x, y : Tensor
        (N, 2, H, W).
    size : int
        K.
    weight : float
        gamma.
    iterations : int
        Upper limit (20; also ends at a residual norm of 1e-5).

    Returns
    -------
    Tensor
        (N, K, K), unit sum.
    """
    shape = (x.shape[-2], x.shape[-1])
    spectrum = to_frequency(x)
    right = otf_to_psf((spectrum.conj() * to_frequency(y)).sum(1), size, shape)
    # Between kernels of K x K only lags up to K - 1 of the autocorrelation of x count, so the
    # normal matrix acts as a convolution on a small grid.
    lags = from_frequency((spectrum.abs() ** 2).sum(1).to(spectrum.dtype), shape)
    reach = torch.arange(1 - size, size, device=x.device)
    lags = lags[:, (reach % shape[0])[:, None], (reach % shape[1])[None, :]]
    side = next_fast_len(3 * size - 2, real=True)
    otf = to_frequency(lags, (side, side))

    def apply(k: Tensor) -> Tensor:
        image = from_frequency(otf * to_frequency(k, (side, side)), (side, side))
        return image[:, size - 1 : 2 * size - 1, size - 1 : 2 * size - 1] + weight * k

    start = torch.full_like(right, 1 / size**2)
    return project_kernels(conjugate_gradients(apply, right, start, iterations, 1e-10), 0.05)


def estimate_kernels(
    pictures: Tensor,
    kernel_size: int,
    settings: PanSettings | None = None,
    trace: list[PanLevel] | None = None,
) -> Tensor:
    """Estimate the kernels of grey pictures.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) float64 in [0, 1], rounded to 8 bits as the authors do.
    kernel_size : int
        K, odd.
    settings : PanSettings, optional
    trace : list, optional
        Receives the state after every level.

    Returns
    -------
    Tensor
        (N, K, K), non-negative, unit sum, centred by mass to whole pixels.
    """
    settings = settings or PanSettings()
    intensity = pictures.new_full((len(pictures),), settings.intensity)
    gradient = pictures.new_full((len(pictures),), settings.gradient)
    kernels = first_threshold = None
    for size, ratio in pyramid_sizes(kernel_size):
        y = pyramid_step(pictures, ratio)
        slopes = derivatives(y)
        if kernels is None or first_threshold is None:
            kernels = two_pixel_kernels(len(y), size, y)
            first_threshold = edge_threshold(slopes, size)
            lower = (first_threshold > 0) & (first_threshold < gradient / 10)
            intensity = torch.where(lower, first_threshold, intensity)
            gradient = torch.where(lower, first_threshold, gradient)
        else:
            kernels = resize_kernels(kernels, 2**0.5, size)
        threshold, latent = first_threshold, y
        for _ in range(settings.alternations):
            latent = latent_pictures(y[:, None], kernels, intensity, gradient)[:, 0]
            edges, threshold = select_edges(derivatives(latent), threshold)
            kernels = solve_kernels(edges, slopes, size, settings.kernel_weight)
            kernels = project_kernels(remove_small_components(kernels))
            intensity = (intensity / 1.1).clamp_min(1e-4)
            gradient = (gradient / 1.1).clamp_min(1e-4)
        kernels = project_kernels(shift(kernels, centre_shifts(kernels)))
        if trace is not None:
            trace.append(PanLevel(kernels, latent, torch.stack((intensity, gradient, threshold), 1)))
    assert kernels is not None
    return project_kernels(kernels, settings.kernel_threshold)


# Last step ------------------------------------------------------------------------------------

# Linear sRGB to XYZ for a D50 white (Bradford adaptation), and that white.
_XYZ = (
    (0.4360747, 0.3850649, 0.1430804),
    (0.2225045, 0.7168786, 0.0606169),
    (0.0139322, 0.0971045, 0.7141733),
)
_WHITE = (0.96422, 1.0, 0.82521)


def _lab(rgb: Tensor) -> Tensor:
    """CIE L*a*b* (D50) of (N, 3, H, W) sRGB, clipped to [0, 1] first."""
    rgb = rgb.clamp(0, 1)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,njhw->nihw", rgb.new_tensor(_XYZ), linear) / rgb.new_tensor(_WHITE)[:, None, None]
    cube = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-9) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = cube.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)


def _bilateral(pictures: Tensor, sigma: float = 3.0, radius: int = 9, spread: float = 10.0) -> Tensor:
    """Bilateral filter whose range term is the distance in Lab."""
    height, width = pictures.shape[-2:]
    lab = _lab(pictures)
    padded, padded_lab = pad_edge(pictures, radius), pad_edge(lab, radius)
    total, weights = torch.zeros_like(pictures), torch.zeros_like(pictures[:, :1])
    for row in range(-radius, radius + 1):
        for column in range(-radius, radius + 1):
            window = (
                ...,
                slice(radius + row, radius + row + height),
                slice(radius + column, radius + column + width),
            )
            distance = (padded_lab[window] - lab).square_().sum(1, keepdim=True) / spread**2
            weight = torch.exp(-0.5 * (distance + (row**2 + column**2) / sigma**2))
            total += weight * padded[window]
            weights += weight
    return total / weights


def restore(rgb: Tensor, kernels: Tensor, settings: PanSettings | None = None) -> Tensor:
    """The last step: total variation (anisotropic) on R, G and B, less the ringing.

    Parameters
    ----------
    rgb : Tensor
        (N, 3, H, W) float64 in [0, 1].
    kernels : Tensor
        (N, K, K).
    settings : PanSettings, optional

    Returns
    -------
    Tensor
        (N, 3, H, W), not clipped.
    """
    settings = settings or PanSettings()
    height, width = rgb.shape[-2:]
    shape = _padded_shape((height, width), kernels.shape[-1])
    parts = chunks(len(rgb), 3 * shape[0] * shape[1])
    return torch.cat([_restore(rgb[part], kernels[part], shape, settings) for part in parts])


def _restore(rgb: Tensor, kernels: Tensor, shape: tuple[int, int], settings: PanSettings) -> Tensor:
    height, width = rgb.shape[-2:]
    y = pad_circular(rgb, shape)
    solver = _Splitting(y, kernels)
    beta = 1 / settings.tv
    while beta > 1e-3:
        slopes = solver.differences()
        limit = beta * settings.tv
        slopes.sub_(slopes.clamp(-limit, limit))
        weight = y.new_full((len(y), 1, 1, 1, 1), 1 / (2 * beta))
        solver.x.copy_(solver.solve(False, weight, solver.data, solver.power))
        beta /= 2
    x = solver.turn(solver.x)
    smooth = x[..., :height, :width]
    if settings.ring_weight == 0:
        return smooth
    sharp = latent_pictures(y, kernels, 0.0, settings.l0)[..., :height, :width]
    return smooth - settings.ring_weight * _bilateral(smooth - sharp)


def pan(rgb: Tensor, kernel_size: int, settings: PanSettings | None = None) -> tuple[Tensor, Tensor]:
    """Blind deblurring of a batch: (N, 3, H, W) float64 RGB -> the restored pictures and kernels."""
    kernels = estimate_kernels(grey(rgb, eight_bit=True), kernel_size, settings)
    return restore(rgb, kernels, settings), kernels


class Pan(ClassicalRestorer):
    """L0 intensity and gradient prior (Pan, Hu, Su and Yang 2014).

    The kernel comes from the grey picture and is centred by its mass; R, G and B are restored.
    """

    name = "pan"
    Settings = PanSettings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return pan(pictures, self.kernel_size, self.settings)
