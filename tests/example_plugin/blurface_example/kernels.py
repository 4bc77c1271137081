"""A kernel set in one function."""

from __future__ import annotations

import numpy as np

from blurface.kernels import Kernel, KernelSet


def box_set(argument: str = "5") -> KernelSet:
    """Square boxes: box:SIZE[,SIZE...]."""
    sizes = [int(size) for size in argument.split(",")]
    return KernelSet(
        f"box:{argument}", tuple(Kernel(f"box{k}", np.ones((k, k), np.float32)) for k in sizes), "an example"
    )
