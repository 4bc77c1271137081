"""What a restorer is: a batch of blurry faces in, a batch of restored faces out."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError, NoKernelError
from ..fingerprints import code_and_versions
from ..gate import Gate

_FOLLOWED = ("blurface.restorers", "blurface.tiles", "blurface.gate")
"""Whose code is part of a fingerprint, as far as a restorer's module takes something from it."""


class Restorer:
    """Base of all restorers.

    A subclass sets :attr:`name` and implements :meth:`_restore`; :meth:`restore` checks what goes
    in. Instances hold no state that a call changes, so one may be used from several threads.

    Attributes
    ----------
    name : str
        Registered name.
    blind : bool
        False where the true kernel has to be given (``kernels=``): an oracle, for orientation.
    estimates_kernel : bool
        Whether the kernel comes with the restored picture at no further cost.
    distributions : tuple of str
        Packages beside PyTorch and NumPy whose version determines the result.
    device : torch.device
        Where :meth:`restore` computes; inputs may lie anywhere, outputs come back to the input's.
    batch_size : int
        Batch that suits the method; callers with many faces cut their work to it.
    """

    name: ClassVar[str] = ""
    blind: ClassVar[bool] = True
    estimates_kernel: ClassVar[bool] = False
    distributions: ClassVar[tuple[str, ...]] = ()
    batch_size: int = 32

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def restore(
        self,
        batch: Tensor,
        *,
        kernels: Tensor | None = None,
        return_kernel: bool = False,
        sharp_below: float | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Restore a batch.

        Parameters
        ----------
        batch : Tensor
            (N, 3, H, W) float32 RGB in [0, 1], any H and W.
        kernels : Tensor, optional
            (N, K, K) or (1, K, K): the true blur kernels, for restorers with ``blind = False``.
        return_kernel : bool
            Also return the estimated kernels (N, K, K), unit sum, convolution convention.
        sharp_below : float, optional
            A picture whose kernel by an early estimate spreads no more than so many pixels
            (:func:`blurface.gate.kernel_spread`) may come back as it came, with that estimate. What has no
            early estimate restores every picture.

        Returns
        -------
        Tensor or (Tensor, Tensor)
            Same shape and device as ``batch``, in [0, 1].

        Raises
        ------
        InputError
            If the shape is not NCHW RGB, a value is not finite, the kernels are missing, or the
            method makes no kernel estimate.
        """
        if batch.ndim != 4 or batch.shape[1] != 3:
            raise InputError(f"A batch must be (N, 3, H, W), not {tuple(batch.shape)}.")
        if not torch.isfinite(batch).all():
            raise InputError("The batch holds NaN or infinite values.", "Replace them before restoring.")
        if not self.blind and kernels is None:
            raise InputError(f"{self.name!r} needs the true kernels.", "Pass kernels=(N, K, K).")
        if batch.shape[0] == 0:
            empty = batch.new_zeros((0, 1, 1))
            return (batch, empty) if return_kernel else batch
        taken = batch.to(self.device, torch.float32)
        # A method computes in the precision that it chooses, not in the caller's.
        with torch.autocast(self.device.type, enabled=False):
            if sharp_below is None:
                restored, estimate = self._restore(taken, kernels, return_kernel)
            else:
                restored, estimate = self._restore_blurred(taken, kernels, return_kernel, sharp_below)
        restored = restored.clamp(0, 1).to(batch.device)
        if not return_kernel:
            return restored
        if estimate is None:
            raise NoKernelError(f"{self.name!r} makes no kernel estimate.", "Call it without return_kernel.")
        estimate = estimate.to(batch.device)
        if estimate.is_inference() and not torch.is_inference_mode_enabled():
            estimate = estimate.clone()  # for use in training
        return restored, estimate

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        raise TypeError(f"{type(self).__name__} does not implement _restore.")

    def _restore_blurred(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool, sharp_below: float
    ) -> tuple[Tensor, Tensor | None]:
        """As :meth:`_restore`, for methods with an early estimate without what it finds sharp."""
        return self._restore(batch, kernels, return_kernel)

    def calibrated_gate(self) -> Gate | None:
        """The thresholds calibrated for the very weights that are used; None where there are none."""
        return None

    def options(self) -> dict[str, Any]:
        """The options that determine the result, as JSON values (part of a cell's key)."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the result: name, options, a digest of the code, versions.

        Networks add their own code and the SHA-256 of their weights.
        """
        return {
            "name": self.name,
            "options": self.options(),
            **code_and_versions(type(self), self.distributions, *_FOLLOWED),
        }

    def gflop(self, height: int = 112, width: int = 96) -> float | None:
        """GFLOP (two per multiply-add) for one image of this size; None where it is not fixed."""
        return None

    def parameters(self) -> int | None:
        """Trainable parameters; None for a method that is not learned."""
        return None
