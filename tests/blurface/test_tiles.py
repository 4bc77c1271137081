"""Tiles cover a picture, agree with the whole, and name the kernel that most can be seen of."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor

from blurface.tiles import restore_in_tiles, starts


@given(st.integers(1, 3000), st.integers(65, 500))
def test_tiles_cover_a_side_with_their_overlap(length: int, tile: int) -> None:
    at = starts(length, tile, 64)
    assert at[0] == 0
    assert at[-1] == max(0, length - tile)
    assert all(0 < b - a <= tile - 64 for a, b in itertools.pairwise(at))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90))
def test_a_pointwise_restoration_is_the_same_in_tiles(height: int, width: int) -> None:
    batch = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height))
    seen: list[tuple[int, ...]] = []

    def run(part: Tensor) -> tuple[Tensor, Tensor | None]:
        seen.append(tuple(part.shape))
        return 1 - part, part.mean((1, 2, 3))[:, None, None]

    restored, kernels = restore_in_tiles(batch, run, tile=32, overlap=8)
    torch.testing.assert_close(restored, 1 - batch)
    assert max(max(shape[2:]) for shape in seen) <= 32
    assert kernels is not None
    assert kernels.shape == (2, 1, 1)


def test_the_kernel_is_that_of_the_tile_with_most_detail_whatever_its_place() -> None:
    batch = torch.full((2, 3, 96, 60), 0.5)
    # A little everywhere; in the first picture most below on the right, in the second above on the left.
    batch += 0.01 * torch.rand(batch.shape, generator=torch.Generator().manual_seed(0))
    batch[0, :, 70:90:2, 40:55] = 0.9
    batch[1, :, 5:20:2, 5:20] = 0.8

    def run(part: Tensor) -> tuple[Tensor, Tensor]:
        return part, part.amax((1, 2, 3))[:, None, None] * torch.ones(1, 3, 3)

    kernels = restore_in_tiles(batch, run, tile=32, overlap=8)[1]
    assert kernels is not None
    torch.testing.assert_close(kernels[:, 0, 0], torch.tensor([0.9, 0.8]))
