"""Large pictures in overlapping tiles, so that memory and cost grow with the area alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE = 384
"""Pictures with a longer side are cut into tiles of at most this many pixels a side."""

OVERLAP = 64
"""Pixels that neighbouring tiles share at least; they are blended there."""

Run = Callable[[Tensor], "tuple[Tensor, Tensor | None]"]


def restore_in_tiles(
    batch: Tensor, run: Run, *, tile: int = TILE, overlap: int = OVERLAP
) -> tuple[Tensor, Tensor | None]:
    """Restore pictures of any size tile by tile.

    Parameters
    ----------
    batch : Tensor
        (N, 3, H, W) in [0, 1].
    run : callable
        Restores a batch of one tile's size; returns it with its kernel estimates or None.
    tile, overlap : int
        In pixels.

    Returns
    -------
    restored : Tensor
        (N, 3, H, W) in [0, 1]. Where tiles overlap, they are weighted by their distance to their
        own border.
    kernels : Tensor or None
        (N, K, K): of each picture the estimate of its tile with the most detail, by the mean difference of
        neighbours; a kernel cannot be seen in a flat one.
    """
    height, width = batch.shape[-2:]
    if max(height, width) <= tile:
        return run(batch)
    total = torch.zeros_like(batch)
    weight = batch.new_zeros(1, 1, height, width)
    kernels: Tensor | None = None
    most = batch.new_full((len(batch),), -1.0)
    for top in starts(height, tile, overlap):
        for left in starts(width, tile, overlap):
            window = (..., slice(top, top + tile), slice(left, left + tile))
            part = batch[window]
            restored, estimate = run(part)
            ramp = _ramp(part.shape[-2], overlap, batch)[:, None] * _ramp(part.shape[-1], overlap, batch)
            total[window] += restored.clamp(0, 1) * ramp
            weight[window] += ramp
            if estimate is not None:
                detail = sum(part.detach().diff(dim=dim).abs().mean((1, 2, 3)) for dim in (-2, -1))
                more = detail > most
                most = torch.where(more, detail, most)
                kernels = estimate if kernels is None else torch.where(more[:, None, None], estimate, kernels)
    return total / weight, kernels


def starts(length: int, tile: int = TILE, overlap: int = OVERLAP) -> list[int]:
    """Where the tiles of a side begin: evenly spread, the first at 0, the last ending at the end."""
    if length <= tile:
        return [0]
    last = length - tile
    count = -(-last // (tile - overlap))
    return [round(index * last / count) for index in range(count + 1)]


def _ramp(length: int, overlap: int, like: Tensor) -> Tensor:
    distance = torch.arange(length, device=like.device, dtype=like.dtype)
    return (torch.minimum(distance, distance.flip(0)) + 1).clamp(max=overlap / 2)
