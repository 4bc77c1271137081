"""What a backend is: an array of blurry faces in, restored faces and kernels out."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..restorers.base import Restorer
from ..tiles import restore_in_tiles

Array = NDArray[np.float32]


class Backend(Protocol):
    """Runs one network. :meth:`run` may be called from several threads."""

    name: ClassVar[str]

    def run(self, batch: Array) -> tuple[Array, Array | None]:
        """Restore a batch.

        Parameters
        ----------
        batch : ndarray
            (N, 3, H, W) float32 RGB in [0, 1], any N, H and W.

        Returns
        -------
        restored : ndarray
            Same shape, in [0, 1].
        kernels : ndarray or None
            (N, K, K) unit-sum kernel estimates, where the network makes any.
        """
        ...


class BackendRestorer(Restorer):
    """A network run by a backend, behind the restorer protocol; computes on the CPU.

    Parameters
    ----------
    name : str
        Of the restorer whose network it is.
    backend : Backend
    digest : str
        SHA-256 of the exported file or of the weights.
    batch_size : int
    """

    def __init__(self, name: str, backend: Backend, digest: str, batch_size: int = 32) -> None:
        super().__init__("cpu")
        # The class variable of other restorers; here one class serves every network.
        vars(self)["name"] = name
        self.backend = backend
        self.digest = digest
        self.batch_size = batch_size

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        return restore_in_tiles(batch.detach(), self._run)

    def _run(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        restored, estimate = self.backend.run(batch.contiguous().numpy())
        return torch.from_numpy(restored), None if estimate is None else torch.from_numpy(estimate)

    def fingerprint(self) -> dict[str, object]:
        """Name, backend and digest of the network."""
        return {**super().fingerprint(), "backend": self.backend.name, "weights": self.digest}
