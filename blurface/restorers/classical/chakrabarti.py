"""Chakrabarti 2016: "A neural approach to blind motion deblurring".

1. For every 65x65 patch a network predicts the Fourier coefficients of a deconvolution filter. The
   middle 33x33 of the filtered patches, averaged with a Hanning window, are a first estimate x.
2. One kernel for the whole picture is found from y and x, on responses to oriented derivatives of
   Gaussians at the strongest edges of x, with a 1-norm on the kernel.
3. EPLL deconvolves y with that kernel.

The author's trained network is not public. The packaged one was trained by
``benchmarks/train_chakrabarti.py`` and is narrower (see docs/baselines-beyond-reference.md), so its
figures are not the author's.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import InputError, WeightsError
from ...files import replacing
from .core import (
    ValidConvolution,
    edgetaper,
    from_frequency,
    grey,
    inner,
    otf_to_psf,
    psf_to_otf,
    to_frequency,
)
from .epll import EndsInEpll, EpllSettings, restore_with_epll
from .kernel_fit import clean_kernels, oriented_responses

PATCH = 65
OUTPUT = 33
MARGIN = (PATCH - OUTPUT) // 2
_PACKAGED = Path(__file__).with_name("chakrabarti.safetensors")
# Half of the plane without the constant: 32 columns of 65, and half of the first column.
_FREQUENCIES = (PATCH**2 - 1) // 2
# Side of the middle part, and the range of max(|fx|, |fy|) that a band takes from it.
_BANDS = ((PATCH, 0, 4), (PATCH, 5, 8), (33, 5, 8), (17, 5, 8))

# Network --------------------------------------------------------------------------------------


def _band_index(side: int, low: int, high: int) -> Tensor:
    """Flat positions of a band in the half plane of a side x side transform."""
    rows = torch.fft.fftfreq(side, 1 / side).round().to(torch.int64)
    columns = torch.arange(side // 2 + 1)
    radius = torch.maximum(rows.abs()[:, None], columns[None])
    first_column = (columns[None] > 0) | (rows[:, None] >= 0)
    inside = (radius >= low) & (radius <= high) & first_column
    index: Tensor = inside.flatten().nonzero()[:, 0]
    return index


def bands(patches: Tensor) -> list[Tensor]:
    """Fourier coefficients of four bands as real vectors.

    Parameters
    ----------
    patches : Tensor
        (n, 65, 65), 0.5 subtracted.

    Returns
    -------
    list of Tensor
        (n, 81), (n, 208), (n, 208), (n, 208): low frequencies of the patch, and its middle octaves
        taken from parts of 65, 33 and 17 pixels.
    """
    found = []
    for side, low, high in _BANDS:
        margin = (PATCH - side) // 2
        part = patches[:, margin : margin + side, margin : margin + side]
        half = to_frequency(part).flatten(1)[:, _band_index(side, low, high)] / side
        real, imaginary = half.real, half.imag
        # The constant has no imaginary part.
        found.append(torch.cat((real, imaginary[:, 1:] if low == 0 else imaginary), 1))
    return found


class ChakrabartiNetwork(nn.Module):
    """From a blurry patch to the deconvolution filter's Fourier coefficients.

    Neighbouring bands meet first, then neighbouring pairs of those, then all: fully connected
    layers with ReLU.

    Parameters
    ----------
    first, second : int
        Outputs of each of the three layers on pairs of bands and of the two on pairs of those (the
        paper: 1024, 2048).
    joint : tuple of int
        Outputs of the layers on everything (the paper: 4096 five times).
    """

    def __init__(
        self, first: int = 1024, second: int = 2048, joint: tuple[int, ...] = (4096, 4096, 4096, 4096, 4096)
    ) -> None:
        super().__init__()
        self.widths: dict[str, Any] = {"first": first, "second": second, "joint": list(joint)}
        sizes = [81, 208, 208, 208]
        for index, size in enumerate(sizes):
            self.register_buffer(f"scale{index}", torch.ones(size))
            self.register_buffer(f"mean{index}", torch.zeros(size))
            self.register_buffer(f"whitening{index}", torch.eye(size))
        self.pairs = nn.ModuleList(nn.Linear(sizes[i] + sizes[i + 1], first) for i in range(3))
        self.fours = nn.ModuleList(nn.Linear(2 * first, second) for _ in range(2))
        layers, size = [], 2 * second
        for width in joint:
            layers.append(nn.Linear(size, width))
            size = width
        self.joint = nn.ModuleList(layers)
        self.out = nn.Linear(size, 2 * _FREQUENCIES)

    @torch.no_grad()
    def set_whitening(self, patches: Tensor, floor: float = 1e-3) -> None:
        """Take means, scales and covariances of the bands from blurry patches (n, 65, 65)."""
        for index, band in enumerate(bands(patches - 0.5)):
            scale, mean = torch.std_mean(band.double(), 0)
            scale = scale.clamp_min(1e-6)
            standard = (band.double() - mean) / scale
            values, vectors = torch.linalg.eigh(standard.T @ standard / len(band))
            getattr(self, f"scale{index}").copy_(scale)
            getattr(self, f"mean{index}").copy_(mean)
            getattr(self, f"whitening{index}").copy_(vectors / values.clamp_min(floor).sqrt())

    def forward(self, patches: Tensor) -> Tensor:
        """(n, 65, 65) blurry patches in [0, 1] -> (n, 65, 33) complex filters, 1 at the constant."""
        white = [
            ((band - getattr(self, f"mean{i}")) / getattr(self, f"scale{i}")) @ getattr(self, f"whitening{i}")
            for i, band in enumerate(bands(patches - 0.5))
        ]
        twos = [functional.relu(layer(torch.cat(white[i : i + 2], 1))) for i, layer in enumerate(self.pairs)]
        fours = [functional.relu(layer(torch.cat(twos[i : i + 2], 1))) for i, layer in enumerate(self.fours)]
        hidden = torch.cat(fours, 1)
        for layer in self.joint:
            hidden = functional.relu(layer(hidden))
        real, imaginary = self.out(hidden).view(-1, 2, _FREQUENCIES).unbind(1)
        coefficients = torch.complex(real, imaginary)
        half = coefficients[:, : PATCH * (PATCH // 2)].view(-1, PATCH, PATCH // 2)
        column = coefficients[:, PATCH * (PATCH // 2) :]
        one = torch.ones_like(column[:, :1])
        first = torch.cat((one, column, column.flip(1).conj()), 1)
        return torch.cat((first[:, :, None], half), 2)

    def restore(self, patches: Tensor) -> Tensor:
        """(n, 65, 65) blurry patches -> (n, 33, 33): the middle of the filtered patches."""
        mean = patches.mean((1, 2), keepdim=True)
        spectrum = to_frequency(patches - mean) * self(patches)
        middle = from_frequency(spectrum, (PATCH, PATCH))[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
        return middle + mean


def save_network(network: ChakrabartiNetwork, path: Path, note: dict[str, Any]) -> None:
    """Write a network as safetensors: layers float16, whitening float32; atomic."""
    from safetensors.torch import save_file

    state = {
        name: (value.to(torch.float16) if name.split(".")[0] in ("pairs", "fours", "joint", "out") else value)
        .contiguous()
        .clone()
        for name, value in network.state_dict().items()
    }
    metadata = {"widths": json.dumps(network.widths), "note": json.dumps(note)}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata=metadata)


@lru_cache(maxsize=4)
def load_network(path: str = "") -> ChakrabartiNetwork:
    """Read a network; the packaged one without a path.

    Raises
    ------
    WeightsError
        If the file is missing, corrupt or holds another network.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path or _PACKAGED)
    hint = "Train one with: python benchmarks/train_chakrabarti.py"
    try:
        with safe_open(file, framework="pt") as handle:
            widths = json.loads((handle.metadata() or {}).get("widths", "{}"))
            state = {name: handle.get_tensor(name).to(torch.float32) for name in handle.keys()}  # noqa: SIM118
        network = ChakrabartiNetwork(**{**widths, "joint": tuple(widths["joint"])})
        network.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{file} does not hold this method's network: {error}.", hint) from error
    return network.eval().requires_grad_(False)


# Method ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChakrabartiSettings:
    """Settings of Chakrabarti 2016; defaults are the author's.

    Attributes
    ----------
    stride : int
        Distance between the patches of the first step (1: all of them).
    edges : float
        Part of the pixels at which the estimate's derivatives count (0.02).
    reference_pixels : int
        The kernel's 1-norm has weights of 2^6 to 2^8, which belong to large photographs. Where there
        are fewer pixels than this, they shrink in proportion, as the data term does: no kernel of a
        face would survive them otherwise (20,000). 0: never. Ours, not the author's.
    noise : float
        Smallest standard deviation of the noise in the last step (0.01).
    colour : bool
        Apply the last step to R, G and B; False: to the grey picture (as the author does).
    network : str
        Path of other weights; empty: the packaged ones.
    prior : str
        Path of another patch mixture; empty: the packaged one.
    """

    stride: int = 1
    edges: float = 0.02
    reference_pixels: int = 20_000
    noise: float = 0.01
    colour: bool = False
    network: str = ""
    prior: str = ""

    def __post_init__(self) -> None:
        if not (self.stride >= 1 and 0 < self.edges <= 1 and self.reference_pixels >= 0 and self.noise > 0):
            raise InputError(
                f"Settings out of range: {self}.", "stride >= 1, 0 < edges <= 1, noise is positive."
            )


def first_estimate(pictures: Tensor, network: ChakrabartiNetwork, stride: int = 1) -> Tensor:
    """Average of the network's restored patches.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) in [0, 1], sides of at least 65.
    network : ChakrabartiNetwork
    stride : int
        Distance between patches; the last row and column of patches are always taken.

    Returns
    -------
    Tensor
        (N, H - 32, W - 32) in [0, 1], of the type of ``pictures``.

    Raises
    ------
    InputError
        If a side is shorter than a patch.
    """
    height, width = pictures.shape[-2:]
    if min(height, width) < PATCH:
        raise InputError(
            f"A picture of {height}x{width} is smaller than the network's patches of {PATCH}x{PATCH}.",
            "Restore larger pictures, or use another method.",
        )
    taper = torch.hann_window(OUTPUT + 2, periodic=False)[1:-1]
    window = taper[:, None] * taper
    rows = sorted({*range(0, height - PATCH + 1, stride), height - PATCH})
    columns = sorted({*range(0, width - PATCH + 1, stride), width - PATCH})
    estimates = []
    for picture in pictures.to("cpu", torch.float32):
        total = picture.new_zeros(height - PATCH + OUTPUT, width - PATCH + OUTPUT)
        weight = torch.zeros_like(total)
        for i in rows:
            patches = torch.stack([picture[i : i + PATCH, j : j + PATCH] for j in columns])
            restored = network.restore(patches).clamp(0, 1) * window
            for j, patch in zip(columns, restored, strict=True):
                total[i : i + OUTPUT, j : j + OUTPUT] += patch
                weight[i : i + OUTPUT, j : j + OUTPUT] += window
        estimates.append(total / weight)
    return torch.stack(estimates).to(pictures)


def _gaussian(size: int, sigma: float, like: Tensor) -> Tensor:
    t = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    g = torch.exp(-0.5 * (t / sigma) ** 2)
    kernel = g[:, None] * g
    return (kernel / kernel.sum())[None]


def strongest(energy: Tensor, part: float) -> Tensor:
    """Mask of the ``part`` of the pixels with the largest value, per picture of (N, H, W)."""
    flat = energy.flatten(1)
    count = max(round(part * flat.shape[1]), 1)
    least = flat.topk(count, dim=1).values[:, -1]
    return energy >= least[:, None, None]


def estimate_kernels(
    blurry: Tensor, estimates: Tensor, kernel_size: int, settings: ChakrabartiSettings | None = None
) -> Tensor:
    """One kernel a picture from blurry pictures and estimates of the sharp ones.

    min sum_i ||k * x_i - y_i||^2 + reg ||k||_1 over responses to oriented filters, for nine values of
    reg; the kernel that explains y best is kept.

    Parameters
    ----------
    blurry, estimates : Tensor
        (N, H, W) float64 in [0, 1], the same part of the scene.
    kernel_size : int
        K, odd, at most H - 10 and W - 10.
    settings : ChakrabartiSettings, optional

    Returns
    -------
    Tensor
        (N, K, K), unit sum. A delta where no kernel survives the 1-norm.
    """
    settings = settings or ChakrabartiSettings()
    y, x = oriented_responses(blurry), oriented_responses(estimates)
    shape = (y.shape[-2], y.shape[-1])
    x = x * strongest(x.square().sum(1), settings.edges)[:, None]
    window = _gaussian(25, 25 / 6, y)[:, None]
    y, x = (edgetaper(fields, window) for fields in (y, x))
    y_f, x_f = to_frequency(y), to_frequency(x)
    cross, power = (y_f * x_f.conj()).sum(1)[:, None], x_f.abs().square().sum(1)[:, None]
    scale = shape[0] * shape[1] / settings.reference_pixels if settings.reference_pixels else 1.0
    reg = 2.0 ** torch.linspace(6, 8, 9, dtype=y.dtype)[None, :, None, None] * min(scale, 1.0)
    tiny = torch.finfo(y.dtype).tiny
    kernels = otf_to_psf(cross / power.clamp_min(tiny), kernel_size, shape).expand(-1, 9, -1, -1)
    for exponent in range(-64, 513):
        beta = 2.0 ** (exponent / 16)
        split = (cross + beta * psf_to_otf(kernels, shape)) / (power + beta)
        kernels = otf_to_psf(split, kernel_size, shape)
        kernels = kernels - kernels.clamp(min=-reg / beta, max=reg / beta)
    flat = kernels.flatten(0, 1)
    alive = flat.amax((1, 2)) > 0
    flat = clean_kernels(flat, 1e-3)
    kernels = flat.view_as(kernels)
    residual = (psf_to_otf(kernels, shape)[:, :, None] * x_f[:, None] - y_f[:, None]).abs().square()
    cost = residual.sum((2, 3, 4)).masked_fill(~alive.view(kernels.shape[:2]), torch.inf)
    best = cost.argmin(1)
    return kernels[torch.arange(len(kernels)), best]


def chakrabarti(
    rgb: Tensor,
    kernel_size: int = 51,
    settings: ChakrabartiSettings | None = None,
    *,
    network: ChakrabartiNetwork | None = None,
) -> tuple[Tensor, Tensor]:
    """Blind deblurring of a batch.

    Parameters
    ----------
    rgb : Tensor
        (N, 3, H, W) float64 in [0, 1].
    kernel_size : int
        K, odd; the author's is 51.
    settings : ChakrabartiSettings, optional
    network : ChakrabartiNetwork, optional
        Instead of ``settings.network``.

    Returns
    -------
    (Tensor, Tensor)
        Restored pictures (N, 3, H, W) in [0, 1] and kernels (N, K, K).

    Raises
    ------
    InputError
        If a side is shorter than 65, or than kernel_size + 42.
    """
    settings = settings or ChakrabartiSettings()
    network = network or load_network(settings.network)
    height, width = rgb.shape[-2:]
    least = max(PATCH, kernel_size + 2 * MARGIN + 10)
    if min(height, width) < least:
        raise InputError(
            f"A picture of {height}x{width} is too small: this method and a kernel of "
            f"{kernel_size}x{kernel_size} need sides of {least}.",
            "Choose a smaller kernel_size or larger pictures.",
        )
    y = grey(rgb)
    x = first_estimate(y, network, settings.stride)
    inside = y[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    kernels = estimate_kernels(inside, x, kernel_size, settings)
    half = kernel_size // 2
    misfit = _valid(x, kernels) - inside[..., half : x.shape[-2] - half, half : x.shape[-1] - half]
    count = misfit.shape[-2] * misfit.shape[-1]
    noise = (inner(misfit, misfit).flatten() / count).sqrt().clamp_min(settings.noise)
    final = EpllSettings(colour=settings.colour, prior=settings.prior)
    taper = _gaussian(kernel_size, kernel_size / 2, y)
    return restore_with_epll(rgb, kernels, final, noise=noise, taper_kernels=taper), kernels


def _valid(pictures: Tensor, kernels: Tensor) -> Tensor:
    return ValidConvolution(kernels, (pictures.shape[-2], pictures.shape[-1])).forward(pictures)


class Chakrabarti(EndsInEpll):
    """Neural blind deconvolution (Chakrabarti 2016), with a narrower network of our own training."""

    name = "chakrabarti"
    Settings = ChakrabartiSettings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return chakrabarti(pictures, self.kernel_size, self.settings)

    def parameters(self) -> int:
        """Of the network, whitening included."""
        return sum(tensor.numel() for tensor in load_network(self.settings.network).state_dict().values())

    def fingerprint(self) -> dict[str, Any]:
        """As of every method that ends in EPLL, with the weights."""
        load_network(self.settings.network)  # says what is wrong with a file that is not one
        weights = Path(self.settings.network or _PACKAGED).read_bytes()
        return {**super().fingerprint(), "weights": hashlib.sha256(weights).hexdigest()[:16]}
