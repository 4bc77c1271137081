"""Errors that a user can act on.

Every error that blurface raises on purpose derives from :class:`BlurfaceError` and carries two
sentences: what is wrong (naming the file or the value) and the mend. The command line prints
them without a traceback and exits with :attr:`BlurfaceError.exit_code`.
"""

from __future__ import annotations


class BlurfaceError(Exception):
    """Base of all errors that blurface raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong; names the file or value.
    hint : str, optional
        What to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[BlurfaceError], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)


class InputError(BlurfaceError, ValueError):
    """An image, array, kernel or list that cannot be used as given."""


class ImageError(InputError):
    """A picture file or array that cannot be decoded or has an unusable shape or range."""


class NoKernelError(InputError):
    """A restorer that makes no kernel estimate was asked for one."""


class KernelError(InputError):
    """A blur kernel that is not a square, odd, non-negative array of positive sum."""


class PairsError(InputError):
    """A pair list that is malformed or names what the data set lacks."""


class DataError(BlurfaceError):
    """A data set or weight file that is missing, incomplete or has the wrong checksum."""


class WeightsError(DataError):
    """A checkpoint that is corrupt, has other keys than the network, or would execute code."""


class UnknownNameError(BlurfaceError, KeyError):
    """A name that no registry entry carries."""

    exit_code = 2


class MissingDependencyError(BlurfaceError, ImportError):
    """An optional dependency that is not installed, or two that do not fit together."""
