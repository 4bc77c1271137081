"""Two textbook deconvolutions that are told the true kernel: rows for orientation, not competitors.

A blind restorer that comes near them has all but found the kernel. Both are scikit-image's, channel
by channel; what is added here is the border. Deconvolution sees only pixels that the photograph holds,
while the blurred ones near its border mix in pixels from beyond. Repeating the edge for a kernel's width,
and, for the filter that takes the picture for periodic, blending that frame with the periodically blurred
picture (edge tapering), keeps most of the mismatch outside; the frame is cut off afterwards.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .base import Restorer

_TAPERS = 3
_HALF_LEVEL = 1 / 510


def edge_taper(channel: NDArray[np.float32], psf: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blend a picture near its border with its periodically blurred self.

    Parameters
    ----------
    channel : ndarray
        (H, W), at least as large as the kernel.
    psf : ndarray
        (K, K), unit sum.

    Returns
    -------
    ndarray
        (H, W): the weight of the picture is one minus the normalised autocorrelation of the kernel's
        projections, so it is 0 at the border and 1 further inside than the kernel reaches.

    References
    ----------
    Reeves, "Fast image restoration without boundary artifacts", IEEE Trans. Image Processing 14(10),
    2005, section I (edge tapering).
    """
    shape = channel.shape
    half = psf.shape[0] // 2
    embedded = np.zeros(shape, np.float32)
    embedded[: psf.shape[0], : psf.shape[1]] = psf
    transfer = np.fft.rfft2(np.roll(embedded, (-half, -half), (0, 1)))
    blurred = np.fft.irfft2(np.fft.rfft2(channel) * transfer, s=shape)
    rows, columns = (_border_weight(psf.sum(1 - axis), shape[axis]) for axis in (0, 1))
    weight = rows[:, None] * columns[None, :]
    return (weight * channel + (1 - weight) * blurred).astype(np.float32)


def _border_weight(projection: NDArray[np.float32], length: int) -> NDArray[np.float64]:
    correlation = np.fft.irfft(np.abs(np.fft.rfft(projection, length)) ** 2, length)
    return np.asarray(1 - correlation / correlation.max())


class _Oracle(Restorer):
    """Runs a method for one channel over a batch, with extended borders."""

    blind: ClassVar[bool] = False
    distributions: ClassVar[tuple[str, ...]] = ("scikit-image", "scipy")
    batch_size = 32

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        if kernels is None:  # restore() has checked; this is for the type checker
            raise InputError(f"{self.name!r} needs the true kernels.", "Pass kernels=(N, K, K).")
        if kernels.ndim != 3 or kernels.shape[0] not in (1, batch.shape[0]):
            raise InputError(
                f"Kernels {tuple(kernels.shape)} do not fit a batch of {batch.shape[0]}.",
                "Pass (N, K, K) or (1, K, K).",
            )
        images = batch.cpu().numpy()
        psfs = np.broadcast_to(kernels.cpu().numpy(), (images.shape[0], *kernels.shape[1:]))
        restored = np.stack([self._face(image, psf) for image, psf in zip(images, psfs, strict=True)])
        return torch.from_numpy(restored).to(batch.device), kernels.expand(images.shape[0], -1, -1)

    def _face(self, image: NDArray[np.float32], psf: NDArray[np.float32]) -> NDArray[np.float32]:
        pad = self._pad(psf.shape[0])
        height, width = image.shape[1:]
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
        channels = [self._channel(channel, psf)[pad : pad + height, pad : pad + width] for channel in padded]
        return np.stack(channels).astype(np.float32)

    def _pad(self, size: int) -> int:
        return size

    def _channel(self, channel: NDArray[np.float32], psf: NDArray[np.float32]) -> NDArray[np.float32]:
        raise TypeError(f"{type(self).__name__} does not implement _channel.")


class Wiener(_Oracle):
    """Wiener-Hunt deconvolution with the true kernel.

    Parameters
    ----------
    balance : float
        Weight of the Laplacian smoothness term against the data. The default gives the best PSNR on
        sharp training faces blurred with random trajectories and rounded to 8 bits.
    device : str or torch.device
        Taken for uniformity; the computation is NumPy's.

    References
    ----------
    Hunt, "A matrix theory proof of the discrete convolution theorem", IEEE Trans. Audio and
    Electroacoustics 19(4), 1971; ``skimage.restoration.wiener``.
    """

    name = "wiener"

    def __init__(self, balance: float = 3e-3, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        if not balance > 0:
            raise InputError(
                f"Balance {balance} is not positive.", "Use 0.003, or more where there is noise."
            )
        self.balance = float(balance)

    def options(self) -> dict[str, Any]:
        """The balance."""
        return {"balance": self.balance}

    def _channel(self, channel: NDArray[np.float32], psf: NDArray[np.float32]) -> NDArray[np.float32]:
        from skimage.restoration import wiener

        for _ in range(_TAPERS):
            channel = edge_taper(channel, psf)
        restored: NDArray[np.float32] = wiener(  # type: ignore[no-untyped-call]
            channel, psf, self.balance
        )
        return restored


class RichardsonLucy(_Oracle):
    """Richardson-Lucy deconvolution with the true kernel.

    Parameters
    ----------
    iterations : int
        More sharpen further and amplify noise and border artefacts.
    device : str or torch.device
        Taken for uniformity; the computation is NumPy's.

    References
    ----------
    Richardson, J. Opt. Soc. Am. 62(1), 1972; Lucy, Astron. J. 79, 1974;
    ``skimage.restoration.richardson_lucy``.
    """

    name = "richardson-lucy"

    def __init__(self, iterations: int = 30, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        if iterations < 1:
            raise InputError(f"{iterations} iterations are none.", "Use 10 to 100.")
        self.iterations = int(iterations)

    def options(self) -> dict[str, Any]:
        """The number of iterations."""
        return {"iterations": self.iterations}

    def _pad(self, size: int) -> int:
        # scikit-image convolves with zeros beyond the array; that error walks inwards with the iterations.
        return max(2 * size, 32)

    def _channel(self, channel: NDArray[np.float32], psf: NDArray[np.float32]) -> NDArray[np.float32]:
        from skimage.restoration import richardson_lucy

        # Without a floor the ratio of two rounding errors of the transform grows without bound. Zeros
        # stay zero for ever in a multiplicative update; half a grey level frees them.
        restored: NDArray[np.float32] = richardson_lucy(  # type: ignore[no-untyped-call]
            np.maximum(channel, _HALF_LEVEL), psf, self.iterations, filter_epsilon=_HALF_LEVEL / 10
        )
        return np.nan_to_num(restored)
