"""Restorer around a classical method: settings as options, bad input, colour, kernels."""

from __future__ import annotations

import inspect
from dataclasses import asdict, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import InputError
from ...threads import one_thread
from ..base import Restorer
from .core import delta_kernels


class ClassicalRestorer(Restorer):
    """Base of the classical restorers.

    A subclass names its :attr:`Settings` (a frozen dataclass) and implements :meth:`_estimate`.
    The fields of the dataclass are keyword options of the constructor.

    Parameters
    ----------
    kernel_size : int
        Side of the kernel to estimate, odd. Faces of 112 x 96 carry blurs up to about 27; the
        published programs ask for a size somewhat larger than the blur. Blind methods only.
    device : str or torch.device
        Where tensors are computed.
    **settings
        Fields of the method's settings.

    Raises
    ------
    InputError
        If the size is even or below 3, an option is unknown or a value out of range.
    """

    Settings: ClassVar[type[Any]]
    #: Options beside the settings, with their defaults.
    extra_options: ClassVar[dict[str, Any]] = {}
    #: The methods cut a batch as suits each level of their pyramids.
    batch_size = 16

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Settings" not in cls.__dict__:
            return
        # The options as the registry and help() show them.
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("device", keyword, default="cpu", annotation="str | torch.device")]
        if cls.blind:
            anywhere = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters.insert(0, inspect.Parameter("kernel_size", anywhere, default=27, annotation="int"))
        parameters += [
            inspect.Parameter(name, keyword, default=value, annotation=type(value).__name__)
            for name, value in cls.extra_options.items()
        ]
        parameters += [
            inspect.Parameter(field.name, keyword, default=field.default, annotation=field.type)
            for field in fields(cls.Settings)
        ]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __init__(self, kernel_size: int = 27, *, device: str | torch.device = "cpu", **settings: Any) -> None:
        super().__init__(device)
        known = [*self.extra_options, *(field.name for field in fields(self.Settings))]
        for option in settings:
            if option not in known:
                raise InputError(
                    f"{self.name!r} has no option {option!r}.", f"Its options are {', '.join(known)}."
                )
        self.kernel_size = check_kernel_size(kernel_size)
        self.extras = {name: settings.pop(name, value) for name, value in self.extra_options.items()}
        self.settings = self.Settings(**settings)

    def options(self) -> dict[str, Any]:
        """The settings, and the kernel size of a blind method."""
        settings: dict[str, Any] = {**self.extras, **asdict(self.settings)}
        return {"kernel_size": self.kernel_size, **settings} if self.blind else settings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Restore (N, 3, H, W) float64 pictures; returns them and the kernels (N, K, K)."""
        raise TypeError(f"{type(self).__name__} does not implement _estimate.")

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        height, width = batch.shape[-2:]
        if kernels is not None:
            kernels = check_kernels(kernels, len(batch)).to(self.device, torch.float64)
        size = self.kernel_size if self.blind or kernels is None else kernels.shape[-1]
        if size > min(height, width):
            raise InputError(
                f"A kernel of {size}x{size} is larger than the picture of {height}x{width}.",
                "Choose a smaller kernel_size or larger pictures.",
            )
        if self.blind and 2 * size > min(height, width):
            # At the coarsest level of the pyramids too little would remain.
            raise InputError(
                f"A picture of {height}x{width} is too small to estimate a kernel of {size}x{size}.",
                "Its sides should be at least twice the kernel_size.",
            )
        pictures = batch.to(torch.float64)
        restored, estimates = pictures.clone(), []
        with one_thread():
            for start in range(0, len(batch), self.batch_size):
                part = slice(start, start + self.batch_size)
                given = None if kernels is None else kernels[part] if len(kernels) > 1 else kernels
                found, estimate = self._part(pictures[part], given)
                restored[part] = found
                if estimate is not None:
                    estimates.append(estimate)
        return restored.to(batch.dtype), torch.cat(estimates).to(batch.dtype) if estimates else None

    def _part(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Restore what has structure; a flat picture is its own best estimate."""
        flat = (pictures.amax((2, 3)) - pictures.amin((2, 3)) < 1e-6).all(1)
        restored = pictures.clone()
        size = self.kernel_size if self.blind else 1
        estimate = delta_kernels(len(pictures), size, pictures)
        alive = ~flat
        if alive.any():
            given = kernels if kernels is None or len(kernels) == 1 else kernels[alive]
            found, kernel = self._estimate(pictures[alive], given)
            sound = torch.isfinite(found).flatten(1).all(1)
            if kernel is not None:
                sound &= torch.isfinite(kernel).flatten(1).all(1)
            which = alive.nonzero()[:, 0][sound]
            restored[which] = found[sound]
            if kernel is not None:
                estimate[which] = kernel[sound]
        return restored, estimate if self.blind else None


def check_kernel_size(size: int) -> int:
    """An odd size of at least 3.

    Raises
    ------
    InputError
        If it is anything else.
    """
    if int(size) != size or size < 3 or size % 2 == 0:
        raise InputError(f"A kernel_size of {size} cannot be used.", "Give an odd number, 3 or more.")
    return int(size)


def check_kernels(kernels: Tensor, count: int) -> Tensor:
    """Check the true kernels that a non-blind method is given and bring them to unit sum.

    Parameters
    ----------
    kernels : Tensor
        (K, K), (1, K, K) or (count, K, K).
    count : int
        Pictures in the batch.

    Returns
    -------
    Tensor
        (1 or count, K, K) float64.

    Raises
    ------
    InputError
        If shape or values are not those of odd, square, non-negative kernels.
    """
    kernels = kernels[None] if kernels.ndim == 2 else kernels
    if kernels.ndim != 3 or kernels.shape[1] != kernels.shape[2] or kernels.shape[1] % 2 == 0:
        raise InputError(f"Kernels must be (N, K, K) with odd K, not {tuple(kernels.shape)}.")
    if len(kernels) not in (1, count):
        raise InputError(
            f"{len(kernels)} kernels do not fit {count} pictures.", "Give one, or one a picture."
        )
    kernels = kernels.to(torch.float64)
    total = kernels.sum((1, 2), keepdim=True)
    if not torch.isfinite(kernels).all() or (kernels < 0).any() or (total <= 0).any():
        raise InputError("A kernel holds negative or non-finite values, or sums to zero.")
    return kernels / total
