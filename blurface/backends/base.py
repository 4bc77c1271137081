"""What a backend is: an array of blurry faces in, restored faces and kernels out."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Backend(Protocol):
    """Runs one exported network. :meth:`run` may be called from several threads.

    Attributes
    ----------
    name : str
    card : dict
        What ``blurface export`` wrote into the file: ``blurface_model``, ``blurface_gate`` and others.
    estimates_kernel : bool
        Whether :meth:`run` gives kernels.
    """

    name: ClassVar[str]
    card: dict[str, str]
    estimates_kernel: bool

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
