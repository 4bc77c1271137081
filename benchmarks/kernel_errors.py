"""Where what ``fast`` does not restore is lost: faces by how well their kernels are estimated.

    python benchmarks/kernel_errors.py --data training/celeba.parquet [--out FILE.csv]

The faces that ``blurface train`` holds out, each under three trajectories of 5 to 31 pixels, real margins, no
noise, restored with the kernel that the network estimates and once more given the true one. A kernel is
judged by its correlation with the true one, both smoothed by one pixel and laid where they agree best, since
a blurry picture does not say where its kernel lies. ``turned`` counts estimates that agree better with the
true kernel turned by 180 degrees; ``far`` those restored faces whose embedding has a cosine below 0.5 to the
sharp face's.
"""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import torch
from held_out import PLAIN, held_out_pairs, inside_fast
from torch import Tensor
from torch.nn import functional

from blurface.networks.fast import WINDOW
from blurface.training.loop import central_face
from protocols.degradation import to_bytes
from protocols.quality import psnr
from verification.embedders import create_embedder
from verification.scoring import cosine_scores

DRAWS = 3
BOUNDS = (0.0, 0.8, 0.9, 0.95, 1.0)
"""Of the correlation: a row of the table between each two."""

FAR = 0.5


def main() -> None:
    given, network, config, faces = inside_fast(__doc__)
    embedder = create_embedder("mobilefacenet")
    parts = []
    for draw in range(DRAWS):
        for pairs in held_out_pairs(faces, PLAIN, config.seed + draw):
            with torch.inference_mode():
                own = network.estimate(pairs.blurry)
                told = network.estimate(pairs.blurry, pairs.kernels, torch.ones(len(pairs.kernels), 1, 1, 1))
            found = own.kernels[-1]
            columns = {
                "correlation": correlation(found, pairs.kernels),
                "turned": correlation(found, pairs.kernels.flip(2, 3)),
            }
            sharp, target = to_bytes(pairs.sharp), embedder.embed(central_face(pairs.sharp))
            images = {"blurry": pairs.blurry, "restored": own.images[-1], "true_kernel": told.images[-1]}
            for name, image in images.items():
                columns[f"psnr_{name}"] = psnr(to_bytes(image), sharp)
                embedding = embedder.embed(central_face(image.clamp(0, 1)))
                columns[f"cosine_{name}"] = torch.from_numpy(cosine_scores(embedding, target))
            parts.append(pd.DataFrame({name: column.double().numpy() for name, column in columns.items()}))
    table = pd.concat(parts, ignore_index=True)
    table["turned"] = table.turned > table.correlation
    table["far"] = table.cosine_restored < FAR
    labels = [f"{low:g} to {high:g}" for low, high in pairwise(BOUNDS)]
    bands = table.groupby(pd.cut(table.correlation, BOUNDS, labels=labels), observed=False)
    counts = bands[["turned", "far"]].sum().assign(faces=bands.size())
    means = bands[[name for name in table if str(name).startswith(("psnr", "cosine"))]].mean()
    rows = counts.join(means).round(4)
    print(rows.to_string())
    if given.out is not None:
        rows.to_csv(given.out)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Of kernels (N, 1, 44, 44), smoothed and moved to where it is largest: (N,) in [0, 1]."""
    line = torch.exp(-torch.arange(-4, 5).square() / 2)
    spot = (line[:, None] * line)[None, None] / line.sum().square()
    smooth = [functional.conv2d(kernel, spot, padding=4) for kernel in (first, second)]
    size = (2 * WINDOW, 2 * WINDOW)
    ahead, behind = (torch.fft.rfft2(kernel, s=size) for kernel in smooth)
    largest: Tensor = torch.fft.irfft2(ahead * behind.conj(), s=size).amax((1, 2, 3))
    first, second = (kernel.flatten(1).norm(dim=1) for kernel in smooth)
    return largest / (first * second)


if __name__ == "__main__":
    main()
