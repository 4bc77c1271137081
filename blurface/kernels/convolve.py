"""Uniform blur: y = x * k (eq. 1 without its noise)."""

from __future__ import annotations

from typing import Literal

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from ..errors import InputError

Border = Literal["valid", "replicate", "reflect", "zero"]


def blur(batch: Tensor, psf: Tensor, *, margin: int = 0, border: Border = "valid") -> Tensor:
    """Convolve every image with its kernel and cut the margin off.

    Parameters
    ----------
    batch : Tensor
        (N, C, H + 2 margin, W + 2 margin): images with ``margin`` real pixels on every side.
    psf : Tensor
        (K, K), one kernel for all, or (N, K, K), one an image; odd K.
    margin : int
        Pixels of context on each side.
    border : {"valid", "replicate", "reflect", "zero"}
        What lies beyond the pixels that are given, where K // 2 exceeds the margin. ``"valid"``
        invents nothing and raises instead.

    Returns
    -------
    Tensor
        (N, C, H, W), same dtype: y(i, j) = sum_{a, b} k(a, b) x(i - a + h, j - b + h), h = K // 2.

    Raises
    ------
    InputError
        If ``border`` is ``"valid"`` and the margin is smaller than K // 2, or shapes do not fit.
    """
    if psf.ndim == 2:
        psf = psf[None]
    if batch.ndim != 4 or psf.ndim != 3 or psf.shape[0] not in (1, batch.shape[0]):
        raise InputError(f"Images {tuple(batch.shape)} and kernels {tuple(psf.shape)} do not fit together.")
    half = psf.shape[-1] // 2
    if margin < half:
        if border == "valid":
            raise InputError(
                f"A {psf.shape[-1]}x{psf.shape[-1]} kernel needs a margin of {half} pixels, not {margin}.",
                "Crop with a larger margin or choose border='replicate'.",
            )
        mode = "constant" if border == "zero" else border
        batch = functional.pad(batch, [half - margin] * 4, mode=mode)
    elif margin > half:
        cut = margin - half
        batch = batch[..., cut:-cut, cut:-cut]
    height, width = batch.shape[-2:]
    # A circular convolution of the padded size is right on the valid part; a size with small
    # factors only makes it faster.
    size = (next_fast_len(height, real=True), next_fast_len(width, real=True))
    transfer = torch.fft.rfft2(psf.to(batch.dtype), s=size)[:, None]
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(batch, s=size) * transfer, s=size)
    return blurred[..., 2 * half : height, 2 * half : width].contiguous()
